-- obatch files, against a sandbox: what is listed, what is deleted, and above all what is not.
local api_server = require "api_server"
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local sandbox_client = require "sandbox_client"
local service = require "obatch.service"
local support = require "support"
local term = require "obatch.term"
local terminal = require "terminal"

local KEY = "sk-a-key-that-nobody-shall-see"
local DAY = 86400

local client, environment

local function obatch(...)
  local code, out, err = support.obatch(environment, "files", ...)
  assert.falsy((out .. err):find("Sanitizer", 1, true) or (out .. err):find("stack traceback", 1, true), out .. err)
  assert.falsy((out .. err):find(KEY, 1, true), "the key is shown")
  assert.falsy((out .. err):gsub("\n", ""):find("%c"), out .. err)
  return code, out, err
end

--- The names of the files that are at the service, as a set, and their ids by name.
local function at_service()
  local _, page = client:call("GET", "/files")
  local names, ids = {}, {}
  for _, file in ipairs(page.data) do names[file.filename], ids[file.filename] = true, file.id end
  return names, ids
end

local function use(a_box)
  client = sandbox_client.connect(a_box)
  environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = a_box.url }
end

local LINES = sandbox_client.line "id-1" .. "\n"

--- A file that obatch might have uploaded.
local function name_of(part) return ("00aa11bb22cc-1-%d-0123456789ab.jsonl"):format(part) end

--- A batch over a new file of this name; it is at its end unless it `stays`.
local function batch_of(name, tag, stays)
  local batch = client:create(assert(client:upload(LINES, name)), { metadata = tag })
  if not stays then batch = client:ended(batch.id) end
  return batch
end

describe("obatch files", function()
  local OURS = { obatch_run = "00aa11bb22cc", obatch_iteration = "1", obatch_part = "1" }

  --- A service with files of all kinds. Batches: "done" is ours and has ended, "open" is ours and in flight, "failed"
  --- is ours and failed, "theirs" is another tool's and has ended.
  local function fill()
    local batches = { failed = batch_of(name_of(1), OURS), done = batch_of(name_of(2), OURS) }
    batches.theirs = batch_of("theirs.jsonl", { project = "theirs" })
    batches.open = batch_of(name_of(3), OURS, true)
    assert(client:upload(LINES, name_of(4))) -- of which no batch is known
    assert(client:upload(LINES, "00aa11bb22cc-5-0123456789ab.jsonl")) -- of images
    assert(client:upload(LINES, "aaaaaaaaaaaa-1-1-xyz.jsonl"))
    return batches
  end

  local FAULTS = { "--faults", "batches: fail=token_limit_exceeded first=1; batches: in_progress=600 after=2",
    "--batch-seconds", "0.1" }

  it("lists, deletes what is named, prunes what no batch needs, and nothing else", function()
    local a_box <close> = support.sandbox(FAULTS)
    use(a_box)
    local batches = fill()
    local _, ids = at_service()
    local outputs = { done = batches.done.id .. "_output.jsonl", theirs = batches.theirs.id .. "_output.jsonl" }

    -- listing
    local code, out, err = obatch()
    assert.same({ 0, "" }, { code, err })
    assert.truthy(out:find("^id +purpose +size +age +expires in +name +batch\n"), out)
    assert.matches(("%s  batch  .- %s  +%s\n"):format(ids[name_of(2)]:gsub("%-", "%%-"), name_of(2):gsub("%-", "%%-"),
      batches.done.id), out)
    assert.matches("\n\n9 files, %d+%.%d+ kB\n", out)
    code, out, err = obatch("list", "--limit", "2", "--purpose", "batch_output")
    assert.same({ 0, "" }, { code, err })
    assert.matches(outputs.done, out, 1, true)
    assert.falsy(out:find(name_of(2), 1, true), out)
    code, out, err = obatch("list", "--limit", "3", "--json")
    assert.same({ 0, "" }, { code, err })
    assert.equal(name_of(4), assert(json.decode(out:match("([^\n]+)\n$"))).filename)
    assert.equal(3, select(2, out:gsub("\n", "")))
    assert.matches("there are more", select(3, obatch("list", "--limit", "3")), 1, true)

    -- named ones
    local before = at_service()
    code, _, err = obatch("rm", ids["aaaaaaaaaaaa-1-1-xyz.jsonl"], "file-unknown", "--yes")
    assert.equal(1, code)
    assert.matches("nothing was deleted", err, 1, true)
    code, _, err = obatch("rm", ids[name_of(3)], "--yes")
    assert.equal(1, code)
    assert.matches("is in flight", err, 1, true)
    assert.matches("obatch batches cancel " .. batches.open.id, err, 1, true)
    code, _, err = obatch("rm", ids[name_of(2)]:sub(1, -2))
    assert.equal(1, code)
    assert.matches("Did you mean " .. ids[name_of(2)] .. "?", err, 1, true)
    assert.equal(1, (obatch("rm", batches.done.id, "--yes")))
    assert.equal(2, (obatch("rm", ids["aaaaaaaaaaaa-1-1-xyz.jsonl"])))
    do
      local t <close> = terminal.start(environment, "files", "rm", ids["aaaaaaaaaaaa-1-1-xyz.jsonl"])
      t:expect("delete it? [y/N] ")
      t:type("n\n")
      assert.equal(1, t:code())
    end
    assert.same(before, at_service())
    code, out = obatch("rm", ids["aaaaaaaaaaaa-1-1-xyz.jsonl"], ids["aaaaaaaaaaaa-1-1-xyz.jsonl"], "--yes")
    assert.equal(0, code)
    assert.matches("deleted: 1 file, ", out, 1, true)
    before["aaaaaaaaaaaa-1-1-xyz.jsonl"] = nil
    assert.same(before, at_service())

    -- those that no batch needs
    code, out, err = obatch("prune", "--dry-run", "--json")
    assert.equal(0, code, err)
    assert.same({ id = ids[name_of(2)], filename = name_of(2), bytes = #LINES, purpose = "batch",
      batch_id = batches.done.id, deleted = false }, json.decode(out))
    assert.matches("left alone: 1 needed by a batch in flight", err, 1, true)
    assert.matches("left alone: 3 whose batch failed or is not known", err, 1, true)
    code, out = obatch("prune", "--older-than", "0.5", "--yes")
    assert.same({ 0, "" }, { code, out })
    assert.equal(2, (obatch("prune")))
    assert.same(before, at_service())
    code, out = obatch("prune", "--yes")
    assert.same({ 0, ("deleted: 1 file, %d bytes\n"):format(#LINES) }, { code, out })
    before[name_of(2)] = nil
    assert.same(before, at_service())
    code, out, err = obatch("prune", "--outputs", "--yes") -- a run may be about to fetch them
    assert.same({ 0, "" }, { code, out })
    assert.matches("results that are not a week old", err, 1, true)
    code, out = obatch("prune", "--outputs", "--older-than", "0", "--yes", "--json")
    assert.equal(0, code)
    assert.same({ outputs.done, true }, { json.decode(out).filename, json.decode(out).deleted })
    before[outputs.done] = nil
    assert.same(before, at_service())
    code, out, err = obatch("prune", "--outputs", "--older-than", "0", "--yes")
    assert.same({ 0, "" }, { code, out })
    assert.matches("there is nothing to delete\n$", err)
    client.http:close()
  end)

  it("prunes inputs whose batch failed, or is not known, when they are a week old", function()
    local dir <close> = support.tmpdir()
    local state = dir.path .. "/box"
    do
      local a_box <close> = support.sandbox { dir = state, table.unpack(FAULTS) }
      use(a_box)
      fill()
      client.http:close()
    end
    for _, name in ipairs(fs.list(state .. "/files")) do
      if name:find("%.json$") then
        local record = json.decode(support.read(state .. "/files/" .. name))
        record.object.created_at = math.floor(term.time()) - 8 * DAY
        support.write(state .. "/files/" .. name, json.encode(record))
      end
    end
    local a_box <close> = support.sandbox { dir = state }
    use(a_box)
    local code, out = obatch("prune", "--older-than", "7.5", "--yes")
    assert.equal(0, code)
    assert.matches("deleted: 4 files, ", out, 1, true)
    local names = at_service()
    assert.same({ true, true, true }, { names[name_of(3)], names["theirs.jsonl"], names["aaaaaaaaaaaa-1-1-xyz.jsonl"] })
    client.http:close()
  end)

  it("deletes nothing when it cannot see all batches", function()
    local a_box <close> = support.sandbox { "--batch-seconds", "0.1", "--faults", "list_batches: status=400" }
    use(a_box)
    batch_of(name_of(1), OURS)
    local before, ids = at_service()
    for _, words in ipairs { { "prune", "--yes" }, { "rm", ids[name_of(1)], "--yes" } } do
      local code, out, err = obatch(table.unpack(words))
      assert.same({ 1, "" }, { code, out })
      assert.matches("listing /batches: status 400", err, 1, true)
    end
    assert.same(before, at_service())
    assert.equal(0, (obatch("list"))) -- which batch a file is of is then not told
    client.http:close()
  end)

  it("prunes what a job has safe in its folder, results too, and no more than that", function()
    local job <close> = loop.job { args = { "--max-requests", "2" } }
    local a_box <close> = job:sandbox()
    use(a_box)
    local batch_id = batch_of(name_of(9), OURS).id -- of another job
    assert.equal(0, (job:run(a_box)), job.err)
    local first = support.read(job.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt"):match("^%S+")
    local all = at_service()
    -- A result that is not as it was downloaded is one that may be wanted again.
    local path = ("%s/iteration_1/%s_output.jsonl"):format(job.base, first)
    local safe = support.read(path)
    support.write(path, "x" .. safe)
    local code, out, err = obatch("prune", "--job", job.base, "--yes")
    assert.equal(0, code, err)
    local left = at_service()
    assert.truthy(left[first .. "_output.jsonl"], out)
    assert.truthy(left[name_of(9)])
    support.write(path, safe)
    -- One that cannot be read may be any of these.
    fs.remove(path)
    assert(fs.mkdir(path))
    code, out, err = obatch("prune", "--job", job.base, "--yes")
    assert.equal(1, code, out)
    assert.truthy(err:find(path .. ": Is a directory", 1, true), err)
    assert.same(left, at_service())
    assert(fs.remove(path))
    support.write(path, safe)
    -- Nor is one of which an old journal does not say how it was.
    local journal = support.read(job.base .. "/journal.jsonl")
    support.write(job.base .. "/journal.jsonl", (journal:gsub('"digests":', '"x":')))
    code, out = obatch("prune", "--job", job.base, "--yes")
    assert.same({ 0, "" }, { code, out })
    support.write(job.base .. "/journal.jsonl", journal)
    code, out, err = obatch("prune", "--job", job.base, "--yes")
    assert.equal(0, code, err)
    assert.matches("deleted: 2 files, ", out, 1, true)
    left = at_service()
    local count, of_others = 0, 0
    for name in pairs(all) do
      count = count + 1
      if left[name] then of_others = of_others + 1 end
    end
    assert.same({ 2, true }, { of_others, left[name_of(9)] })
    assert.truthy(count >= 10)
    assert.equal(0, (job:run(a_box))) -- nothing of it was needed

    -- Of a folder of images, the parts whose texts are stored.
    local ids = select(2, at_service())
    local stored, waiting = ids[name_of(9)], assert(client:upload(LINES, "x.jsonl"))
    local events = { '{"event":"started","run":"00aa11bb22cc"}' }
    for part, file_id in ipairs { stored, waiting } do
      for _, event in ipairs { { event = "planned", planned = { part = part } },
        { event = "uploaded", file_id = file_id }, { event = "created", batch_id = batch_id },
        { event = "terminal", status = "completed" }, { event = "downloaded", files = json.array {} },
        part == 1 and { event = "completed" } or nil } do
        event.part = part
        events[#events + 1] = json.encode(event)
      end
    end
    assert(fs.mkdir(job.path .. "/images"))
    support.write(job.path .. "/images/journal.jsonl", table.concat(events, "\n") .. "\n")
    code, out = obatch("prune", "--job", job.path .. "/images", "--dry-run", "--json")
    assert.equal(0, code)
    assert.equal(stored, assert(json.decode(out)).id)
    client.http:close()

    for _, folder in ipairs { job.path, job.path .. "/nowhere" } do
      code, _, err = obatch("prune", "--job", folder, "--yes")
      assert.equal(2, code)
      assert.matches("is no folder of a job", err, 1, true)
    end
    assert.equal(2, (obatch("prune", "--job", job.base, "--outputs")))
    assert.equal(2, (obatch("list", "--yes")))
    assert.equal(2, (obatch("--purpose", "a&b")))
  end)
end)

describe("obatch files, where the service is not what it should be,", function()
  setup(api_server.start)
  teardown(api_server.stop)

  local BATCHES, FILES = "GET /v1/batches?limit=100", "GET /v1/files?limit=1000"
  local page, object, script = api_server.page, api_server.object, api_server.script

  local function run(...)
    environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = api_server.origin() .. "/v1" }
    return obatch(...)
  end

  local function file(id, name, purpose)
    return { id = id, filename = name, purpose = purpose or "batch", bytes = 1,
      created_at = math.floor(term.time()) - DAY }
  end

  --- How many files were asked to be deleted.
  local function deletions()
    local count = 0
    for _, call in ipairs(api_server.asked()) do count = count + (call:find("^DELETE") and 1 or 0) end
    return count
  end

  it("deletes nothing that a batch needs which was created meanwhile", function()
    local done = { id = "b1", status = "completed", input_file_id = "f1" }
    local more = { id = "b2", status = "completed", input_file_id = "f2" }
    local new = { id = "b3", status = "validating", input_file_id = "f1" }
    for _, words in ipairs { { "prune", "--yes" }, { "rm", "f1", "f2", "--yes" } } do
      script { [BATCHES] = { page(false, more, done), page(true, new, more, done) },
        [FILES] = page(false, file("f1", name_of(1)), file("f2", name_of(2))),
        ["GET /v1/files/f1"] = object(file("f1", name_of(1))), ["GET /v1/files/f2"] = object(file("f2", name_of(2))),
        ["DELETE /v1/files/f2"] = object { id = "f2", deleted = true } }
      local code, out, err = run(table.unpack(words))
      assert.same({ 0, "deleted: 1 file, 1 byte\n" }, { code, out })
      assert.matches("file f1 stays: batch b3 needs it now", err, 1, true)
      assert.equal(1, deletions())
    end
  end)

  it("deletes no file that another id names", function()
    script { ["GET /v1/files/F1"] = object(file("f1", name_of(1))), [BATCHES] = page(false) }
    local code, _, err = run("rm", "F1", "--yes")
    assert.equal(1, code)
    assert.matches("not about this file", err, 1, true)
    script { ["GET /v1/files/."] = page(false), [BATCHES] = page(false) }
    assert.equal(1, (run("rm", ".", "--yes")))
    assert.equal(0, deletions())
  end)

  it("stops at a fault that the other files would meet too, and takes no lie for a deletion", function()
    local list = {}
    for i = 1, 30 do list[i] = file("f" .. i, name_of(i)) end
    local batches = {}
    for i = 1, 30 do batches[i] = { id = "b" .. i, status = "completed", input_file_id = "f" .. i } end
    local replies = { [BATCHES] = page(false, table.unpack(batches)), [FILES] = page(false, table.unpack(list)) }
    for i = 1, 30 do replies[("DELETE /v1/files/f%d"):format(i)] = object({ error = { message = "no" } }, 403) end
    script(replies)
    local code, out, err = run("prune", "--yes")
    assert.same({ 1, "deleted: 0 files, 0 bytes\n" }, { code, out })
    assert.matches("30 are left", err, 1, true)
    assert.truthy(deletions() <= 4)
    for i = 1, 30 do replies[("DELETE /v1/files/f%d"):format(i)] = object { deleted = i ~= 7 } end
    script(replies)
    code, out, err = run("prune", "--yes")
    assert.same({ 1, "deleted: 29 files, 29 bytes\n" }, { code, out })
    assert.matches("file f7: the service says that it is not deleted", err, 1, true)
  end)

  it("takes no file of others whose id a job once had", function()
    local dir <close> = support.tmpdir()
    local events = { { event = "started", run = "00aa11bb22cc" }, { event = "planned", planned = { part = 1 } },
      { event = "uploaded", part = 1, file_id = "file-1" }, { event = "created", part = 1, batch_id = "batch-1" },
      { event = "terminal", part = 1, status = "completed", output_file_id = "file-2" },
      { event = "downloaded", part = 1, files = json.array {} }, { event = "completed", part = 1 } }
    for i, event in ipairs(events) do events[i] = json.encode(event) end
    support.write(dir.path .. "/journal.jsonl", table.concat(events, "\n") .. "\n")
    local other = { id = "batch-7", status = "completed", output_file_id = "file-2" }
    script { [BATCHES] = page(false, other),
      [FILES] = page(false, file("file-1", "theirs.jsonl"), file("file-2", "x", "batch_output")) }
    local code, out, err = run("prune", "--job", dir.path, "--yes")
    assert.same({ 0, "" }, { code, out })
    assert.matches("left alone: 2 not of this job", err, 1, true)
    other.id = "batch-1"
    script { [BATCHES] = page(false, other),
      [FILES] = page(false, file("file-1", name_of(1)), file("file-2", "x", "batch_output")) }
    code, out = run("prune", "--job", dir.path, "--dry-run", "--json")
    assert.same({ 0, 2 }, { code, select(2, out:gsub("\n", "")) })
    support.write(dir.path .. "/journal.jsonl", "{}\n{}\n")
    assert.equal(1, (run("prune", "--job", dir.path, "--yes"))) -- damaged, which is no wrong usage
    assert.equal(0, deletions())
  end)
end)

describe("the files of a batch", function()
  it("come here whole, once, and replace nobody's file", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/b_input.jsonl", "12345")
    local fetched = {}
    local api = {
      file = function(_, id) return { id = id, bytes = 5 } end,
      download = function(_, id, path)
        fetched[#fetched + 1] = id
        support.write(path, "abcdef")
        return 6
      end,
    }
    local batch = { id = "b", status = "completed", input_file_id = "i", output_file_id = "o", error_file_id = "" }
    assert.same({ dir.path .. "/b_input.jsonl", 5 }, { service.download(api, batch, "input", dir.path) })
    assert.same({ dir.path .. "/b_output.jsonl", 6 }, { service.download(api, batch, "output", dir.path) })
    local path, message, code = service.download(api, batch, "output", dir.path)
    assert.same({ nil, "EXISTS" }, { path, code })
    assert.matches("is not file o of the service (6 bytes, not 5)", message, 1, true)
    path, message, code = service.download(api, batch, "errors", dir.path)
    assert.same({ nil, "batch b (completed) has no error file", "ABSENT" }, { path, message, code })
    assert.same({ "o" }, fetched)
    batch.id = "../../b"
    assert.falsy(assert(service.download(api, batch, "output", dir.path)):sub(#dir.path + 2):find("/", 1, true))
  end)
end)
