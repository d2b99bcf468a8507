-- obatch batches, against a sandbox that holds more batches than a page: lists, shows, waits, cancels.
local api_server = require "api_server"
local fs = require "obatch.fs"
local json = require "obatch.json"
local sandbox_client = require "sandbox_client"
local service = require "obatch.service"
local support = require "support"
local term = require "obatch.term"
local terminal = require "terminal"

local KEY = "sk-a-key-that-nobody-shall-see"
local OLD = 250 -- batches of days ago

local dir, box, client, environment

--- A batch as the sandbox keeps it, the number-th that was made.
local function write_batch(number, fields)
  local created = math.floor(term.time()) - 100000 + number
  local object = {
    id = ("batch_%032x"):format(number * 1000003), object = "batch", endpoint = "/v1/chat/completions",
    errors = json.null, input_file_id = "file-old", completion_window = "24h", status = "completed",
    output_file_id = json.null, error_file_id = json.null, created_at = created, expires_at = created + 86400,
    in_progress_at = created + 3, finalizing_at = created + 65, completed_at = created + 3700,
    request_counts = { total = 1200, completed = 1199, failed = 1 },
    usage = { input_tokens = 48213, output_tokens = 900, output_tokens_details = { reasoning_tokens = 300 } },
    metadata = { obatch_run = "00aa11bb22cc", obatch_iteration = "2", obatch_part = "7" },
  }
  for name, value in pairs(fields or {}) do object[name] = value end
  support.write(("%s/box/batches/%s.json"):format(dir.path, object.id),
    json.encode { object = object, seq = number, fault = {} })
  return object.id
end

local completed, failed, hostile

setup(function()
  dir = support.tmpdir()
  assert(fs.mkdir(dir.path .. "/box/batches"))
  for number = 1, OLD - 3 do completed = write_batch(number) end
  local errors = {}
  for line = 1, 30 do
    errors[line] = { code = "invalid_json_line", message = "This line is not parseable.", line = line }
  end
  failed = write_batch(OLD - 2, { status = "failed", completed_at = json.null, output_file_id = "",
    request_counts = { total = 0, completed = 0, failed = 0 },
    errors = { object = "list", data = json.array(errors) } })
  write_batch(OLD - 1, { status = "expired", completed_at = json.null })
  hostile = write_batch(OLD, { endpoint = "/v1/\27]0;owned\7", stages = "x", model = "a\nb", errors = "no",
    created_at = "2026-11-20T10:00:00Z", request_counts = json.null, usage = "none",
    metadata = { ["\27[2J"] = "\u{202E}x" } })
  box = support.sandbox { dir = dir.path .. "/box", "--faults", "batches: in_progress=600" }
  client = sandbox_client.connect(box)
  environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = box.url }
end)

teardown(function()
  client.http:close()
  getmetatable(box).__close(box)
  getmetatable(dir).__close(dir)
end)

local function obatch(...)
  local code, out, err = support.obatch(environment, "batches", ...)
  assert.falsy((out .. err):find("Sanitizer", 1, true) or (out .. err):find("stack traceback", 1, true), out .. err)
  assert.falsy((out .. err):find(KEY, 1, true), "the key is shown")
  assert.falsy((out .. err):gsub("\n", ""):find("%c"), out .. err)
  return code, out, err
end

--- The same in a shell, in the folder of this spec: `o` is obatch.
local function shell(command)
  return support.shell(("cd %s; o() { OPENAI_API_KEY=%s OPENAI_BASE_URL=%s exec timeout -k 5 100 %s \"$@\"; }; %s")
    :format(dir.path, KEY, box.url, support.quote(support.binary), command))
end

--- A batch that goes on for ten minutes.
local function start_batch()
  local id = client:create(assert(client:upload(sandbox_client.line "id-1" .. "\n"))).id
  client:watch(id, function(batch) return batch.status == "in_progress" end)
  return id
end

local function count(text, pattern)
  local n = 0
  for _ in text:gmatch(pattern) do n = n + 1 end
  return n
end

describe("obatch batches", function()
  it("lists the newest first, twenty of them, and says that there are more", function()
    local code, out, err = obatch()
    assert.equal(0, code, err)
    assert.equal(20, count(out, "\nbatch_%x+ "))
    assert.truthy(out:find("^id +status +endpoint +completed +requests +failed +age +left +run +iteration, part\n"))
    assert.truthy(out:find(failed, 1, true) < out:find(completed, 1, true), out)
    assert.truthy(out:find(completed .. "  completed  /v1/chat/completions      1,199     1,200       1  %d[%d a-z]+ +"
      .. "00aa11bb22cc             2, 7\n"), out)
    assert.truthy(out:find("\n20 batches, 0 in flight; 21,600 requests: 21,582 completed, 18 failed\n", 1, true), out)
    assert.matches("there are more: obatch batches list --limit 200, or --all", err, 1, true)
  end)

  it("goes through as many pages as it takes, and holds none of them", function()
    local before = #support.read(box.dir .. "/requests.jsonl")
    local code, out = obatch("list", "--all")
    assert.equal(0, code)
    assert.equal(OLD, count(out, "\nbatch_%x+ "))
    assert.equal(1, count(out, "%f[%w]endpoint%f[%W]"))
    assert.equal(3, count(support.read(box.dir .. "/requests.jsonl"):sub(before + 1), '"/v1/batches'))
    local limited
    code, limited = obatch("list", "--limit", "150", "--json")
    assert.equal(0, code)
    assert.equal(150, count(limited, "\n"))
    local first = limited:match("^[^\n]*")
    assert.equal(hostile, json.decode(first).id)
  end)

  it("ends quietly when nobody reads it to the end", function()
    local code, out, err = shell("{ (o batches list --all); echo code $? >&2; } | head -1")
    assert.same({ 0, "code 0\n" }, { code, err })
    assert.equal(1, count(out, "\n"))
    code, out, err = shell("{ (o batches list --all --json); echo code $? >&2; } | head -1")
    assert.same({ 0, "code 0\n" }, { code, err })
    assert.equal(1, count(out, "\n"))
  end)

  it("shows everything about one, with the errors of its validation", function()
    local code, out, err = obatch("show", failed)
    assert.equal(0, code)
    assert.truthy(out:find("^" .. failed .. "\n  status        failed\n"), out)
    for _, words in ipairs { " ago\n", "in progress   ", "after 3 s", "48,213 in, 900 out (300 of reasoning)\n",
      "input file    file-old\n", "run 00aa11bb22cc, iteration 2, part 7\n",
      "   1  invalid_json_line         This line is not parseable.\n", "... and 10 more\n" } do
      assert.matches(words, out, 1, true)
    end
    assert.falsy(out:find("output file", 1, true), out)
    assert.matches("run 00aa11bb22cc) is not here", err, 1, true)
    code, out = obatch("show", completed)
    assert.equal(0, code)
    assert.matches("requests      1,200 of 1,200 requests done, 1 of them failed", out, 1, true)
    assert.matches("completed     ", out, 1, true)
  end)

  it("shows what a service writes in another way, and obeys nothing of it", function()
    local code, out = obatch("show", hostile)
    assert.equal(0, code)
    assert.matches("/v1/%1B]0;owned%07", out, 1, true)
    assert.matches("created +2026%-11%-%d%d ", out)
    assert.matches("metadata      %1B[2J = %E2%80%AEx\n", out, 1, true)
    assert.equal(1795255200, service.facts { created_at = "2026-11-21T10:00:00Z" }.created_at)
    assert.equal(951782400, service.facts { created_at = "2000-02-29T00:00:00+00:00" }.created_at)
    for _, batch in ipairs { {}, { status = 3, errors = { 1, { line = "x" } }, metadata = { 1 } } } do
      assert.is_string(service.describe(batch))
      assert.is_string(service.words(batch))
    end
  end)

  it("gives programs the object in the service's own bytes", function()
    local transfer = client:call("GET", "/batches/" .. failed)
    local code, out = obatch("show", failed, "--json")
    assert.same({ 0, transfer.body .. "\n" }, { code, out })
  end)

  it("names the folder of its job, when that is here, and what to do there", function()
    for folder, words in pairs { job = "its job: obatch status ", ["my images"] = "obatch download --batch-dir " } do
      assert(fs.mkdir(dir.path .. "/" .. folder))
      support.write(dir.path .. "/" .. folder .. "/journal.jsonl", json.encode { event = "started",
        run = "00aa11bb22cc", original = folder == "job" and { path = "x" } or nil } .. "\n")
      local code, _, err = shell("o batches show " .. completed)
      assert.equal(0, code)
      assert.matches(words .. (folder:find(" ") and "'" .. folder .. "'" or folder) .. "\n", err, 1, true)
      fs.remove(dir.path .. "/" .. folder .. "/journal.jsonl")
    end
  end)

  it("says what is near an id that there is not", function()
    local code, out, err = obatch("show", failed:sub(1, -2))
    assert.same({ 1, "" }, { code, out })
    assert.matches("Did you mean " .. failed .. "?", err, 1, true)
    local slip = failed:sub(1, 10) .. "f" .. failed:sub(12)
    assert.same({ failed }, service.near({ each = function(_, _, visit) visit { id = failed } end }, slip))
    code, out, err = obatch("show", "nothing-like-it")
    assert.same({ 1, "" }, { code, out })
    assert.matches("obatch batches list", err, 1, true)
    code, out, err = obatch("show", "file-1234")
    assert.same({ 1, "" }, { code, out })
    assert.matches("is a file, not a batch", err, 1, true)
  end)

  it("tells wrong usage from what has failed", function()
    for _, words in ipairs { { "shwo", failed }, { "show" }, { "show", failed, "--limit", "3" }, { "--yes" },
      { "--limit", "0" }, { "list", "--all", "--limit", "3" }, { "show", failed, "--jsno" }, { "cancel" } } do
      assert.equal(2, (obatch(table.unpack(words))))
    end
    assert.matches("Did you mean 'show'?", select(3, obatch("shwo")), 1, true)
    local code, _, err = support.obatch({ OPENAI_BASE_URL = box.url, OPENAI_API_KEY = "" }, "batches")
    assert.equal(2, code)
    assert.matches("no API key", err, 1, true)
    assert.matches("no connection\n.-is it right%? It is OPENAI_BASE_URL, or %-%-api%-url",
      service.explain({ reached = false }, "no connection", "CONNECT"))
    assert.equal("no connection", service.explain({ reached = true }, "no connection", "CONNECT"))
    code, _, err = support.obatch({ OPENAI_BASE_URL = box.url:gsub("v1$", "v2"), OPENAI_API_KEY = KEY }, "batches")
    assert.equal(1, code)
    assert.matches("This address has no such listing: is it right?", err, 1, true)
  end)

  it("cancels what is in flight, only after a yes", function()
    local id = start_batch()
    local code, out, err = obatch("cancel", id)
    assert.same({ 2, "" }, { code, out })
    assert.matches("Say --yes", err, 1, true)
    code, out, err = obatch("cancel", id, "batch_unknown", "--yes")
    assert.same({ 1, "" }, { code, out })
    assert.matches("No batch found", err, 1, true)
    do
      local t <close> = terminal.start(environment, "batches", "cancel", id)
      t:expect("cancel it? [y/N] ")
      t:type("\n")
      assert.equal(1, t:code())
    end
    do
      local t <close> = terminal.start(environment, "batches", "cancel", id)
      t:expect("cancel it? [y/N] ")
      t:kill("INT")
      assert.equal(130, t:code())
    end
    assert.equal("in_progress", json.decode(select(2, obatch("show", id, "--json"))).status)

    local t <close> = terminal.start(environment, "batches", "cancel", id)
    t:expect("cancel it? [y/N] ")
    t:type("y\n")
    t:expect(id .. " cancelling")
    t:expect("Cancelling takes up to 10 minutes")
    assert.equal(0, t:code())
    client:ended(id)
    code, out, err = obatch("cancel", id, "--yes")
    assert.same({ 0, "" }, { code, out })
    assert.matches("cancelled already", err, 1, true)
    code, out, err = obatch("cancel", completed, "--yes")
    assert.same({ 1, "" }, { code, out })
    assert.matches("has ended (completed: 1,200 of 1,200 requests done", err, 1, true)
  end)

  it("waits for all that are in flight: a line for each change, 3 when one was cancelled", function()
    local one, two = start_batch(), start_batch()
    local code, out = shell(([[
o batches watch --poll-wait 0.2 >out 2>err & pid=$!
o batches watch --poll-wait 0.2 --json %s %s >out.json 2>err.json & json=$!
until grep -q %s out && grep -q %s out.json; do sleep 0.1; kill -0 $pid || exit 9; done
(o batches cancel --yes %s %s) >/dev/null 2>&1
wait $pid; echo $?; wait $json; echo $?]]):format(one, two, two, two, one, two))
    assert.same({ 0, "3\n3\n" }, { code, out })
    local plain, err = support.read(dir.path .. "/out"), support.read(dir.path .. "/err")
    assert.matches("%d+:%d+:%d+ " .. one .. " in_progress: %d of 1 requests done.-of its window\n", plain)
    assert.matches(two .. " cancelled: ", plain, 1, true)
    assert.matches("\n2 batches: 2 cancelled; ", plain, 1, true)
    assert.matches("see why: obatch batches show " .. one, err, 1, true)
    local last
    for line in support.read(dir.path .. "/out.json"):gmatch("[^\n]+") do
      local change = assert(json.decode(line))
      assert.equal(change.id, change.batch.id)
      assert.equal(change.status, change.batch.status)
      last = change
    end
    assert.equal("cancelled", last.status)
    assert.truthy(last.previous == "cancelling" or last.previous == "in_progress")

    assert.equal(0, (obatch("watch", completed)))
    code, out = obatch("watch", completed, failed, completed)
    assert.equal(3, code)
    assert.matches("2 batches: 1 completed, 1 failed; 1,200 of 1,200 requests done, 1 of them failed", out, 1, true)
    local words
    code, out, words = obatch("watch")
    assert.same({ 0, "", "no batch is in flight\n" }, { code, out, words })
    code, out, words = obatch("watch", failed, "batch_unknown")
    assert.same({ 1, "" }, { code, out })
    assert.matches("No batch found", words, 1, true)
  end)

  it("shows how far all of them are on a terminal, and is stopped by Ctrl-C", function()
    local id = start_batch()
    local t <close> = terminal.start(environment, "batches", "watch", "--poll-wait", "0.2", id, completed)
    t:expect(completed .. " completed: 1,200 of 1,200 requests done")
    t:expect("waiting for 2 batches · 1,20")
    t:expect("1 completed, 1 in_progress")
    t:kill("INT")
    t:expect("interrupted")
    assert.equal(130, t:code())
    client:call("POST", "/batches/" .. id .. "/cancel")
  end)
end)

describe("waiting for batches", function()
  local sleep = term.sleep
  local sleeps
  before_each(function()
    sleeps = {}
    term.sleep = function(seconds) -- luacheck: ignore 122
      sleeps[#sleeps + 1] = seconds
      return true
    end
  end)
  after_each(function() term.sleep = sleep end) -- luacheck: ignore 122

  --- Watches batches, of which an API with these answers tells: looks is a list of functions(id) -> batch, or nil,
  --- message, CODE; the last one stays. `reached`: the service has answered something before.
  local function watch(ids, looks, reached)
    local api, troubles, changes, look = { reached = reached or false }, {}, {}, 0
    function api.batches()
      return nil, "no listing", "NOT_FOUND"
    end
    function api.batch(self, id, once)
      assert.is_true(once)
      if id == ids[1] then look = look + 1 end
      local batch, message, code = looks[math.min(look, #looks)](id)
      if batch then self.reached = true end
      return batch, message, code
    end
    local list, message, code, id = service.watch(api, ids, { poll_wait = 60,
      on_change = function(facts) changes[#changes + 1] = facts.id .. " " .. facts.status end,
      on_look = function(_, trouble) troubles[#troubles + 1] = trouble or "none" end })
    return { list = list, message = message, code = code, id = id, troubles = troubles, changes = changes }
  end

  local function is(status) return function(id) return { id = id, status = status } end end
  local function fails(code) return function() return nil, "it is " .. code, code end end

  it("is not ended by an outage, and looks less and less often", function()
    local seen = watch({ "a", "b" }, { is "in_progress", fails "CONNECT", fails "SERVER", fails "PROTOCOL",
      is "Finalizing", is "completed" })
    assert.same({ "a in_progress", "b in_progress", "a finalizing", "b finalizing", "a completed", "b completed" },
      seen.changes)
    assert.same({ "none", "it is CONNECT", "it is SERVER", "it is PROTOCOL", "none", "none" }, seen.troubles)
    assert.same({ 2, 3, 4.5, 6.75, 10.125 }, sleeps)
    assert.same({ "completed", "completed" }, { seen.list[1].status, seen.list[2].status })
  end)

  it("is ended by what no waiting helps: an address that never answered, a key, an id nobody knows", function()
    assert.equal("CONNECT", watch({ "a" }, { fails "CONNECT" }).code)
    for _, code in ipairs { "AUTH", "REFUSED" } do
      assert.equal(code, watch({ "a" }, { is "in_progress", fails(code) }).code)
    end
    local seen = watch({ "a" }, { fails "NOT_FOUND" })
    assert.same({ "NOT_FOUND", "a" }, { seen.code, seen.id })
  end)

  it("takes a batch that has vanished for gone only after many looks", function()
    local seen = watch({ "a" }, { is "in_progress", fails "NOT_FOUND", is "in_progress", fails "NOT_FOUND" })
    assert.same({ "a in_progress", "a gone" }, seen.changes)
    assert.equal(13, #seen.troubles)
    assert.is_true(seen.list[1].is_over)
  end)

  it("does not wait at an address that answers nonsense before it has named a batch", function()
    local seen = watch({ "a" }, { fails "PROTOCOL", is "completed" }, true)
    assert.same({ "PROTOCOL", {} }, { seen.code, sleeps })
  end)

  it("ends when nobody listens any more", function()
    local api = { reached = true, batch = function(_, id) return { id = id, status = "in_progress" } end }
    local _, _, code = service.watch(api, { "a" }, { poll_wait = 1, on_change = function() return true end,
      on_look = error })
    assert.same({ "STOPPED", {} }, { code, sleeps })
  end)
end)

describe("obatch batches, where the service says odd things,", function()
  setup(api_server.start)
  teardown(api_server.stop)

  local function run(...)
    environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = api_server.origin() .. "/v1" }
    return obatch(...)
  end

  it("gives programs valid JSON even when the service does not", function()
    local body = '{"id":"b","status":"completed",\n "cost":NaN}'
    api_server.script { ["GET /v1/batches?limit=21"] = { body = ('{"data":[%s],"has_more":false}'):format(body) },
      ["GET /v1/batches/b"] = { body = body } }
    for _, words in ipairs { { "list", "--json" }, { "show", "b", "--json" } } do
      local code, out, err = run(table.unpack(words))
      assert.same({ 0, "" }, { code, err })
      assert.same({ id = "b", status = "completed", cost = json.null }, json.decode(out))
    end
    local line = service.raw_line { id = "\xFF", status = "completed" }
    assert.equal("completed", assert(json.decode(line)).status)
  end)

  it("finds what is in flight whatever this machine takes for the time", function()
    local created = math.floor(term.time()) - 20 * 86400
    local newest = { id = "a", status = "completed", created_at = created + 60 }
    local batch = { id = "b", status = "in_progress", created_at = created }
    api_server.script { ["GET /v1/batches?limit=100"] = api_server.page(false, newest, batch),
      ["GET /v1/batches/b"] = api_server.object { id = "b", status = "completed" } }
    local code, out = run("watch")
    assert.equal(0, code)
    assert.matches("1 batch: 1 completed", out, 1, true)
  end)

  it("cancels no other batch than the one that was named, and each once", function()
    api_server.script { ["GET /v1/batches/b"] = api_server.object { id = "b2", status = "in_progress" },
      ["GET /v1/batches/c"] = api_server.object { id = "c", status = "in_progress" },
      ["POST /v1/batches/c/cancel"] = api_server.object { id = "c", status = "cancelling" } }
    local code, out, err = run("cancel", "c", "b", "--yes")
    assert.same({ 1, "" }, { code, out })
    assert.matches("about another one\nnothing was cancelled", err, 1, true)
    assert.same({ "GET /v1/batches/c", "GET /v1/batches/b" }, api_server.asked())
    code, out = run("cancel", "c", "c", "--yes")
    assert.same({ 0, "c cancelling\n" }, { code, out })
    assert.equal(1, api_server.count "POST /v1/batches/c/cancel")
  end)

  it("ends a watch whose lines cannot be written", function()
    api_server.script { ["GET /v1/batches/c"] = api_server.object { id = "c", status = "in_progress" } }
    for _, option in ipairs { "", "--json" } do
      local command = "OPENAI_API_KEY=%s OPENAI_BASE_URL=%s/v1 exec timeout -k 5 100 %s batches watch c %s >/dev/full"
      assert.equal(1, (support.shell(command:format(KEY, api_server.origin(), support.quote(support.binary), option))))
    end
  end)
end)
