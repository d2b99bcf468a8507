-- One iteration's batches against a service in memory: odd replies, files that never come, and what must
-- not be lost, paid again or waited for without end because of them.
local cjson = require "cjson.safe"
local fs = require "obatch.fs"
local job = require "obatch.job"
local json = require "obatch.json"
local loop = require "loop"
local submission = require "obatch.submission"
local support = require "support"
local term = require "obatch.term"

--- A service in memory. `replies` maps a batch id ("batch-1", "batch-2", ... in the order of creation) to
--- a function(look) that returns what Api:batch does; without one a batch is completed at once and has
--- an output file. `files` maps a file id to a function(path, check) in place of a download.
local function service(replies, files)
  local api = { uploads = 0, creates = 0, looks = {}, downloads = {}, known = {} }
  function api.clean(_, message) return message end
  function api:upload()
    self.uploads = self.uploads + 1
    return { id = "file-" .. self.uploads }
  end
  function api:create_batch()
    self.creates = self.creates + 1
    return { id = "batch-" .. self.creates }
  end
  function api:batch(id)
    self.looks[id] = (self.looks[id] or 0) + 1
    if replies and replies[id] then return replies[id](self.looks[id]) end
    return { status = "completed", output_file_id = "output" }
  end
  function api.batches() return {} end
  function api:file(id)
    if self.knows_files then return { id = id } end
    return nil, "No such File object", "NOT_FOUND"
  end
  function api:download(id, path, check)
    self.downloads[id] = (self.downloads[id] or 0) + 1
    if files and files[id] then return files[id](path, check) end
    support.write(path, '{"custom_id":"r-1"}\n')
    return 20
  end
  return api
end

--- Plans the first iteration of a job in a folder, with n requests in batches of `max`.
local function plan(dir, n, max)
  support.write(dir.path .. "/requests.jsonl", table.concat(loop.lines(n), "\n") .. "\n")
  local the_job = assert(job.open(dir.path .. "/base", dir.path .. "/requests.jsonl"))
  local i = 0
  assert(the_job:plan(1, function()
    i = i + 1
    if i <= n then return loop.line("r-" .. i), "/v1/chat/completions", "gpt-test" end
  end, max or n, 1000000))
  return the_job
end

--- A folder with such a job.
local function planned(n, max)
  local dir = support.tmpdir()
  plan(dir, n, max):close()
  return dir
end

--- Runs iteration 1: what submission.run returned, the log, and the parts.
local function go_on(the_job, api, prepare, alter)
  local log = {}
  local parts = the_job.iterations[1].parts
  if prepare then prepare(parts) end
  local round = the_job:round(1)
  if alter then alter(round) end
  local done, message, code = submission.run(round, api, { poll_wait = 0.1,
    log = function(line) log[#log + 1] = line end })
  return { done = done, message = message, code = code, log = table.concat(log, "\n"), parts = parts }
end

--- The same as a new process would.
local function run(dir, api, prepare, alter)
  local the_job <close> = assert(job.open(dir.path .. "/base", dir.path .. "/requests.jsonl"))
  return go_on(the_job, api, prepare, alter)
end

local function failed(...)
  local errors = ...
  return function() return { status = "failed", errors = errors } end
end

--- Lets an hour pass at every look at the clock until the test ends.
local function hurry()
  local clock, hours = term.clock, 0
  finally(function() term.clock = clock end)
  term.clock = function()
    hours = hours + 1
    return clock() + 3600 * hours
  end
end

local function count(text, words) return select(2, text:gsub(words, "")) end

describe("results of a batch", function()
  local function both() return { status = "completed", output_file_id = "output", error_file_id = "error" } end

  it("that came are kept when its other file is gone for good", function()
    hurry()
    local dir <close> = planned(2)
    local api = service({ ["batch-1"] = both }, { error = function() return nil, "no such file", "NOT_FOUND" end })
    local result = run(dir, api)
    assert.is_true(result.done)
    assert.same({ "batch-1_output.jsonl" }, result.parts[1].files)
    assert.equal(1, api.downloads.output)
  end)

  it("are not fetched again after a stop between its two files", function()
    local dir <close> = planned(2)
    local api = service({ ["batch-1"] = both }, { error = function() return nil, "the disk is full", "ENOSPC" end })
    assert.equal("ENOSPC", run(dir, api).code)
    local later = service()
    local result = run(dir, later)
    assert.same({ "batch-1_output.jsonl", "batch-1_error.jsonl" }, result.parts[1].files)
    assert.same({ error = 1 }, later.downloads)
  end)

  --- What a service answers that always sends `content`, and with `complaint` about its count.
  local function sends(content, complaint)
    return function(path, check)
      support.write(path, content)
      local taken, why_not = check(path, complaint)
      if taken then return #content end
      assert(os.remove(path))
      return nil, why_not, "CLOSED"
    end
  end
  local RESULT = '{"custom_id":"r-1"}\n'

  it("that never have the promised size, and are whole, are taken as they come in the end", function()
    local dir <close> = planned(2)
    local api = service(nil, { output = sends(RESULT, "20 bytes came, the file object promises 21") })
    local result = run(dir, api)
    assert.same({ "batch-1_output.jsonl" }, result.parts[1].files)
    assert.equal(10, api.downloads.output)
  end)

  it("that never end with a whole line, and have the promised size, are taken in the end", function()
    local dir <close> = planned(2)
    local api = service(nil, { output = sends(RESULT .. '{"custom_id":"r-', nil) })
    assert.same({ "batch-1_output.jsonl" }, run(dir, api).parts[1].files)
    assert.equal(10, api.downloads.output)
  end)

  it("that are nothing, where nobody promises that, are not believed at once", function()
    local dir <close> = planned(2)
    local looks = 0
    local api = service(nil, { output = function(...)
      looks = looks + 1
      return sends(looks < 3 and "" or RESULT, nil)(...)
    end })
    assert.is_true(run(dir, api).done)
    assert.equal(3, looks)
    assert.equal(RESULT, support.read(dir.path .. "/base/iteration_1/batch-1_output.jsonl"))
  end)

  it("that are none, or half of them, are never taken: what the service has would be paid again", function()
    for content, complaint in pairs { ["<html>Bad Gateway</html>\n"] = false, [""] = "0 bytes came",
      [RESULT .. '{"custom_id":"r'] = "36 bytes came" } do
      local dir <close> = planned(2)
      local api
      api = service(nil, { output = function(path, check)
        if api.downloads.output > 15 then return nil, "the disk is full", "ENOSPC" end
        return sends(content, complaint or nil)(path, check)
      end })
      local result = run(dir, api)
      assert.equal("ENOSPC", result.code)
      assert.is_nil(fs.stat(dir.path .. "/base/iteration_1/batch-1_output.jsonl"))
    end
  end)

  it("that are counted before their file is named are waited for, not paid again", function()
    local counts = { total = 1.0, completed = 1.0, failed = 0.0 }
    for _, status in ipairs { "completed", "expired", "cancelled" } do
      local own_dir <close> = planned(1)
      local api = service { ["batch-1"] = function(look)
        return { status = status, request_counts = counts, output_file_id = look > 2 and "output" or nil }
      end }
      local result = run(own_dir, api)
      assert.is_true(result.done)
      assert.same({ "batch-1_output.jsonl" }, result.parts[1].files)
    end
  end)

  it("that never get a file are given up in the end: counts are not to be trusted", function()
    local dir <close> = planned(1)
    local api = service { ["batch-1"] = function()
      return { status = "completed", request_counts = { total = 1.0, completed = 1.0, failed = 0.0 } }
    end }
    local result = run(dir, api)
    assert.is_true(result.done)
    assert.equal(10, api.looks["batch-1"])
    assert.same({}, result.parts[1].files)
  end)

  it("have no file where the service names something that is no id", function()
    for _, odd in ipairs { 5, true, {}, cjson.null, "" } do
      local dir <close> = planned(2)
      local api = service { ["batch-1"] = function()
        return { status = "completed", output_file_id = odd, error_file_id = odd }
      end }
      assert.is_true(run(dir, api).done)
      assert.same({}, api.downloads)
    end
  end)

  it("that cannot be read stop the merge", function()
    local dir <close> = planned(2)
    run(dir, service())
    local the_job <close> = assert(job.open(dir.path .. "/base", dir.path .. "/requests.jsonl"))
    local path = the_job:path(1, "batch-1_output.jsonl")
    assert(fs.remove(path))
    assert(fs.mkdir(path)) -- opens, and fails to read
    local ok, _, code = the_job:merge(1)
    assert.is_nil(ok)
    assert.equal("EISDIR", code)
    assert.falsy(the_job.iterations[1].merged)
  end)
end)

describe("what changed on this disk", function()
  local function path(dir, name) return dir.path .. "/base/iteration_1/" .. name end

  it("a request file that is not what was planned is not uploaded: its requests are planned anew", function()
    for _, spoil in ipairs { fs.remove, function(name) support.write(name, loop.line("r-9") .. "\n") end } do
      local dir <close> = planned(2, 1)
      spoil(path(dir, "batch_requests_iteration_1_p002.jsonl"))
      local api = service()
      local result = run(dir, api)
      assert.is_true(result.done)
      assert.equal(1, api.uploads)
      assert.is_true(result.parts[2].is_empty)
      assert.is_nil(fs.stat(path(dir, "batch_requests_iteration_1_p002.jsonl")))
    end
  end)

  --- The journal as an older obatch wrote it, with SHA-256 where there are fingerprints now.
  local function make_older(dir)
    local journal, lines = dir.path .. "/base/journal.jsonl", {}
    for line in support.read(journal):gmatch "[^\n]+" do
      local event = json.decode(line)
      for _, part in ipairs(event.parts or {}) do
        part.fingerprint, part.sha256 = nil, fs.sha256(path(dir, part.file))
      end
      for name, digest in pairs(event.digests or {}) do
        digest.fingerprint, digest.sha256 = nil, fs.sha256(path(dir, name))
      end
      lines[#lines + 1] = json.encode(event) .. "\n"
    end
    support.write(journal, table.concat(lines))
    assert.is_nil(support.read(journal):match "iteration_1[^\n]*fingerprint[^\n]*lines")
  end

  it("and what an older journal knows by SHA-256 is checked by that", function()
    for _, spoil in ipairs { "", "echo >>F" } do
      local dir <close> = planned(2, 1)
      make_older(dir)
      os.execute((spoil:gsub("F", path(dir, "batch_requests_iteration_1_p002.jsonl"))))
      local api = service()
      assert.is_true(run(dir, api).done)
      assert.equal(spoil == "" and 2 or 1, api.uploads)

      make_older(dir)
      api = service()
      os.execute((spoil:gsub("F", path(dir, "batch-1_output.jsonl"))))
      assert.is_true(run(dir, api).done)
      assert.same(spoil == "" and {} or { output = 1 }, api.downloads)
    end
  end)

  it("nor by the run that has planned it, however alike the file looks", function()
    for _, spoil in ipairs { "", "rm F", "cp F F2; mv F2 F; echo >>F", "sed -i s/Transcribe/transcribe/ F",
      "cp -p F F2; printf '[' | dd of=F conv=notrunc 2>/dev/null; touch -r F2 F" } do
      local dir <close> = support.tmpdir()
      local the_job <close> = plan(dir, 2, 1)
      os.execute("sleep 0.02;" .. spoil:gsub("F", path(dir, "batch_requests_iteration_1_p002.jsonl")))
      local api = service()
      assert.is_true(go_on(the_job, api).done)
      assert.equal(spoil == "" and 2 or 1, api.uploads, spoil)
    end
  end)

  it("a result that is not as it was downloaded is downloaded again, and nothing of it is thrown away", function()
    for _, spoil in ipairs { fs.remove, function(name) support.write(name, '{"custom_id":"r-2"}\n') end } do
      local dir <close> = planned(2)
      assert.is_true(run(dir, service()).done)
      spoil(path(dir, "batch-1_output.jsonl"))
      local api = service()
      local result = run(dir, api)
      assert.is_true(result.done)
      assert.same({ output = 1 }, api.downloads)
      assert.equal(0, api.creates)
      assert.equal('{"custom_id":"r-1"}\n', support.read(path(dir, "batch-1_output.jsonl")))
      assert.equal(spoil ~= fs.remove, fs.stat(path(dir, "batch-1_output.jsonl.before")) ~= nil)
    end
  end)

  it("a result that cannot be read stops the run, and is not fetched again: it may be as it came", function()
    local function without_digests(parts) parts[1].digests = nil end
    local function deleted(parts) parts[1].deleted = true end
    for _, case in ipairs { { "EISDIR" }, { "EISDIR", deleted }, { "ELOOP" }, { "ELOOP", without_digests } } do
      local dir <close> = planned(2)
      assert.is_true(run(dir, service()).done)
      local output, safe = path(dir, "batch-1_output.jsonl"), path(dir, "safe")
      local journal = support.read(dir.path .. "/base/journal.jsonl")
      assert(fs.rename(output, safe))
      if case[1] == "EISDIR" then assert(fs.mkdir(output)) -- opens, and fails to read
      else support.shell(("ln -s batch-1_output.jsonl %s"):format(support.quote(output))) end -- to itself
      local api = service()
      local result = run(dir, api, case[2])
      assert.equal(case[1], result.code)
      assert.truthy(result.message:find(output, 1, true))
      assert.same({}, api.downloads)
      assert.is_nil(fs.lstat(output .. ".before"))
      assert.equal(journal, support.read(dir.path .. "/base/journal.jsonl"))
      -- When it can be read again, the next run has nothing to do.
      assert(fs.remove(output))
      assert(fs.rename(safe, output))
      assert.is_true(run(dir, api).done)
      assert.same({}, api.downloads)
    end
  end)

  it("a result that is deleted at the service, too, stops the run with its name", function()
    local dir <close> = planned(2)
    assert.is_true(run(dir, service()).done)
    assert(fs.remove(path(dir, "batch-1_output.jsonl")))
    local result = run(dir, service(), function(parts) parts[1].deleted = true end)
    assert.equal("USAGE", result.code)
    assert.truthy(result.message:find("batch-1_output.jsonl", 1, true))
  end)
end)

describe("a batch that fails validation", function()
  it("for lines that it does not have: nothing is given up, nothing sent again", function()
    for _, line in ipairs { 0, -1, 3, 1e15 } do
      local dir <close> = planned(2)
      local api = service { ["batch-1"] = failed { data = { { code = "strange", message = "bad", line = line } } } }
      local result = run(dir, api)
      assert.equal("REFUSED", result.code)
      assert.equal(1, api.creates)
      assert.equal(1, #result.parts)
      assert.falsy(result.parts[1].rejected)
    end
  end)

  it("for such a line and a real one: only the real one is given up", function()
    local dir <close> = planned(3)
    local api = service { ["batch-1"] = failed { data = {
      { code = "strange", message = "bad", line = 0 }, { code = "strange", message = "bad", line = 2 } } } }
    local result = run(dir, api)
    assert.is_true(result.done)
    local rejected = support.read(dir.path .. "/base/iteration_1/" .. result.parts[1].rejected)
    assert.equal("r-2", json.get(rejected, "/custom_id"))
    assert.equal(1, count(rejected, "\n"))
    assert.equal(2, result.parts[2].lines)
  end)

  it("stops the run with what there is to say, whatever the shape of its errors", function()
    for _, errors in ipairs { 7, "text", true, cjson.null, {}, { data = 5 }, { data = true }, { data = "text" },
      { data = cjson.null }, { data = { 1, cjson.null, "text" } }, { { code = 5.5, message = {}, line = {} } },
      { data = { { code = {}, param = {}, message = cjson.null, line = "x" } } } } do
      local dir <close> = planned(2)
      local result = run(dir, service { ["batch-1"] = failed(errors) })
      assert.equal("REFUSED", result.code)
      assert.truthy(result.message:find("batch-1 failed validation", 1, true), result.message)
    end
  end)

  it("for every line of a long file says so in a few words", function()
    local dir <close> = planned(50)
    local list = {}
    for i = 1, 50 do list[i] = { code = "strange", message = "this line is bad", line = i } end
    local result = run(dir, service { ["batch-1"] = failed { data = list } })
    assert.is_true(result.done)
    assert.equal(10, count(result.log, "this line is bad"))
    assert.truthy(result.log:find("and 40 more", 1, true))
    assert.equal(50, count(support.read(dir.path .. "/base/iteration_1/" .. result.parts[1].rejected), "\n"))
  end)

  it("for the token limit does not wake the others that wait for it", function()
    local dir <close> = planned(3, 1)
    local limit = failed { data = { { code = "token_limit_exceeded", message = "Enqueued token limit reached" } } }
    local api
    local creates_then
    api = service { ["batch-1"] = limit, ["batch-2"] = limit, ["batch-3"] = function(look)
      if look < 10 then return { status = "in_progress" } end
      creates_then = creates_then or api.creates
      return { status = "completed", output_file_id = "output" }
    end }
    assert.is_true(run(dir, api).done)
    assert.equal(3, creates_then)
    assert.equal(5, api.creates)
    assert.equal(3, api.uploads)
  end)

  it("for a fault that passes is tried again, however long it had waited for the token limit", function()
    local dir <close> = planned(2, 1)
    local api = service { ["batch-1"] = failed { data = { { code = "server_error", message = "sorry" } } },
      ["batch-2"] = function(look)
        return { status = look < 3 and "in_progress" or "completed", output_file_id = "output" }
      end }
    local result = run(dir, api, function(parts) parts[1].requeued = 40 end)
    assert.is_true(result.done)
    assert.equal(3, api.creates)
  end)

  it("whose request file cannot be read is an error of the disk", function()
    local dir <close> = planned(2)
    local reply = failed { data = { { code = "strange", message = "bad", line = 1 } } }
    local api = service { ["batch-1"] = function(...)
      assert(fs.remove(dir.path .. "/base/iteration_1/batch_requests_iteration_1.jsonl"))
      return reply(...)
    end }
    assert.equal("ENOENT", run(dir, api).code)
  end)
end)

describe("while a batch is waited for", function()
  local function unknown(looks)
    return service { ["batch-1"] = function(look)
      if look <= looks then return nil, "No batch found", "NOT_FOUND" end
      return { status = "completed", output_file_id = "output" }
    end }
  end

  it("short pauses do not make it lost any sooner", function()
    local dir <close> = planned(2)
    local result = run(dir, unknown(15))
    assert.is_true(result.done)
    assert.same({ "batch-1_output.jsonl" }, result.parts[1].files)
  end)

  it("it is lost when it stays unknown: its requests count as missing", function()
    hurry()
    local dir <close> = planned(2)
    local api = unknown(99)
    api.knows_files = true
    local result = run(dir, api)
    assert.is_true(result.done)
    assert.same({}, result.parts[1].files)
    assert.equal(10, api.looks["batch-1"])
    assert.truthy(result.log:find("gone for good", 1, true))
  end)

  it("it is not given up where only the user knows whether the key is right", function()
    hurry()
    local dir <close> = planned(2)
    local result = run(dir, unknown(99), nil, function(round) round.withdraw = function() error "not this" end end)
    assert.is_nil(result.done)
    assert.equal("NOT_FOUND", result.code)
    assert.truthy(result.message:find("Is this the key, the project and the address", 1, true))
    assert.falsy(result.parts[1].done)
  end)

  it("a reply without a status is trouble, told once, and ends nothing", function()
    local dir <close> = planned(2)
    local result = run(dir, service { ["batch-1"] = function(look)
      if look < 5 then return { error = { message = "gone fishing" } } end
      return { status = "completed", output_file_id = "output" }
    end })
    assert.is_true(result.done)
    assert.equal(1, count(result.log, "holds no status"))
  end)

  it("an outage is told once, though each request has its own id", function()
    local dir <close> = planned(1)
    local result = run(dir, service { ["batch-1"] = function(look)
      if look < 5 then return nil, ("batch batch-1: status 500 (request req_%d)"):format(look), "SERVER" end
      return { status = "completed", output_file_id = "output" }
    end })
    assert.is_true(result.done)
    assert.equal(1, count(result.log, "looking again later"))
    assert.equal(0, count(result.log, "1 requests"))
    assert.equal(1, count(result.log, "batch%-1: within reach again"))
  end)

  it("counts that are no numbers do not matter", function()
    local dir <close> = planned(2)
    local result = run(dir, service { ["batch-1"] = function(look)
      return { status = look < 3 and "in_progress" or "completed", output_file_id = "output",
        request_counts = ({ cjson.null, { total = cjson.null, completed = "x", failed = {} } })[look] }
    end })
    assert.is_true(result.done)
  end)
end)

it("a refused key stops the uploads that are still to come", function()
  local dir <close> = planned(9, 1)
  local api = service()
  function api:upload()
    self.uploads = self.uploads + 1
    return nil, "status 401", "AUTH"
  end
  assert.equal("AUTH", run(dir, api).code)
  assert.equal(1, api.uploads)
end)

it("files of the user in the job's folder stay, whatever their name", function()
  local dir <close> = planned(2)
  support.write(dir.path .. "/base/film.part", "x")
  support.write(dir.path .. "/base/final_results.jsonl.part", "x")
  run(dir, service())
  assert.equal("x", support.read(dir.path .. "/base/film.part"))
  assert.is_nil(fs.stat(dir.path .. "/base/final_results.jsonl.part"))
end)
