-- The correction loop takes over batches that another tool submitted: with --initial-ids, or because the
-- job's folder names them.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local openai = require "obatch.openai"
local support = require "support"
local term = require "obatch.term"

local says = loop.says

--- Submits lines as that tool would; returns the batch id.
local function submit(job, box, lines)
  local api <close> = assert(openai.new { key = "sk-other", base_url = box.url })
  local path = job.path .. "/elsewhere.jsonl"
  support.write(path, table.concat(lines, "\n") .. "\n")
  local file = assert(api:upload(path, "elsewhere.jsonl"))
  return assert(api:create_batch(file.id, "/v1/chat/completions", {})).id
end

describe("batches that another tool submitted", function()
  local function two_batches(job, box)
    local lines = loop.lines(6)
    return submit(job, box, table.move(lines, 1, 4, 1, {})), submit(job, box, table.move(lines, 5, 6, 1, {}))
  end

  it("are iteration 1 with --initial-ids: harvested, not sent again; blank lines and CRLF do not matter", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local a, b = two_batches(job, box)
    support.write(job.path .. "/ids.txt", ("%s\r\n\r\n  %s  \r\n%s"):format(a, b, a))
    job:run(box, { "--initial-ids", job.path .. "/ids.txt" })
    local rows = loop.check(job, loop.usual(6))
    assert.same({ 6, 4 }, { rows[1].submitted, rows[1].valid })
    assert.equal(("%s\n%s\n"):format(a, b), job:read("iteration_1/submitted_batch_ids_iteration_1.txt"))
    assert.equal("adopted", job:events()[2])
    says(job, "iteration 2: 2 requests in 1 part\n")
    local uploads = 0
    for _, request in ipairs(job:asked()) do uploads = uploads + (request == "POST /v1/files" and 1 or 0) end
    assert.equal(3, uploads) -- two elsewhere, and iteration 2
  end)

  it("are not bound to a request file that was replaced before they are taken over", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local a, b = two_batches(job, box)
    support.write(job.path .. "/ids.txt", a .. "\n" .. b .. "\n")
    local old = support.read(job.requests)
    support.write(job.path .. "/new", (old:gsub("Transcribe", "transcribe")))
    job:set_policy(([[local ledger = require "obatch.ledger"
      local new = ledger.new
      function ledger.new(...) os.rename(%q, %q) return new(...) end]]):format(job.path .. "/new", job.requests))
    job:run(box, { "--initial-ids", job.path .. "/ids.txt" })
    assert.equal(2, job.code, job.err)
    says(job, job.requests .. " was replaced, changed or touched while it was read")
    assert.equal("started", table.concat(job:events(), " "))
    support.write(job.requests, old)
    job:set_policy ""
    job:run(box, { "--initial-ids", job.path .. "/ids.txt" })
    loop.check(job, loop.usual(6))
  end)

  it("are found in an ids file that is already there, for several iterations", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local a, b = two_batches(job, box)
    local lines = loop.lines(6)
    assert(fs.mkdir(job.base .. "/iteration_1"))
    assert(fs.mkdir(job.base .. "/iteration_2"))
    support.write(job.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt", a .. "\n" .. b .. "\n")
    support.write(job.base .. "/iteration_2/submitted_batch_ids_iteration_2.txt",
      submit(job, box, { lines[3], lines[6] }) .. "\n")
    job:run(box)
    local rows = loop.check(job, loop.usual(6))
    assert.same({ 6, 4, 2, 2 }, { rows[1].submitted, rows[1].valid, rows[2].submitted, rows[2].valid })
    says(job, "iteration 1: going on with 2 batches from ")
    says(job, "iteration 2: going on with 1 batch from ")
    assert.equal("adopted adopted", table.concat(job:events(), " ", 2, 3))
    local code, out = support.obatch("fsck", job.base)
    assert.equal(0, code, out)
    assert.truthy(out:find("all adds up", 1, true), out)
  end)

  it("that are unknown to the service end with 2 and the id; the right ids can follow", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local a, b = two_batches(job, box)
    local ids = job.path .. "/ids.txt"
    support.write(ids, a .. "\nbatch_typo\n")
    job:run(box, { "--initial-ids", ids })
    assert.equal(2, job.code)
    says(job, ids)
    says(job, "batch_typo")
    support.write(ids, "")
    job:run(box, { "--initial-ids", ids })
    assert.equal(2, job.code)
    says(job, "holds no batch ids")
    job:run(box, { "--initial-ids", job.path .. "/not-there.txt" })
    assert.equal(2, job.code)
    says(job, "not-there.txt")
    support.write(ids, a .. "\n" .. b .. "\n")
    job:run(box, { "--initial-ids", ids })
    loop.check(job, loop.usual(6))
  end)

  it("that answer the same requests: the first good answer of each counts", function()
    local job <close> = loop.job { requests = loop.lines(3) }
    local box <close> = job:sandbox()
    local a = submit(job, box, loop.lines(3))
    local api <close> = assert(openai.new { key = "sk-other", base_url = box.url })
    repeat term.sleep(0.05) until api:batch(a).status == "completed"
    local b = submit(job, box, loop.lines(3))
    support.write(job.path .. "/ids.txt", a .. "\n" .. b .. "\n")
    job:run(box, { "--initial-ids", job.path .. "/ids.txt" })
    local rows = loop.check(job, { ["r-1"] = 2, ["r-2"] = 2, ["r-3"] = 2 })
    assert.same({ 3, 3 }, { rows[1].submitted, rows[1].valid })
    local answers = json.decode(job:read("corrected_results.json"))
    assert.same({ 1, 1, 2 }, { answers["r-1"].asked, answers["r-2"].asked, answers["r-3"].asked })
    says(job, "answered twice")
  end)

  it("that failed or were cancelled leave their requests to be sent", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox { "--faults", "batches: fail=strange first=1; batches: cancel=0 first=1" }
    local a, b = two_batches(job, box)
    support.write(job.path .. "/ids.txt", a .. "\n" .. b .. "\n")
    job:run(box, { "--initial-ids", job.path .. "/ids.txt" })
    local rows = loop.check(job, loop.usual(6))
    assert.same({ 6, 0, 6 }, { rows[1].submitted, rows[1].valid, rows[2].submitted })
  end)

  it("keep what that tool had merged, under another name", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local a, b = two_batches(job, box)
    assert(fs.mkdir(job.base .. "/iteration_1"))
    support.write(job.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt", a .. "\n" .. b .. "\n")
    support.write(job.base .. "/iteration_1/merged_results_iteration_1.jsonl", "their work\n")
    job:run(box)
    loop.check(job, loop.usual(6))
    assert.equal("their work\n", job:read("iteration_1/merged_results_iteration_1.jsonl.before"))
    assert.truthy(json.check(job:read("corrected_results.json")))
  end)
end)

describe("--initial-ids", function()
  it("for a job that has begun without those batches is refused; the same ids may come again", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local ids = job.path .. "/ids.txt"
    support.write(ids, submit(job, box, loop.lines(6)) .. "\n")
    job:run(box, { "--initial-ids", ids, "--max-iterations", "1" })
    assert.equal(3, job.code)
    support.write(ids, "batch_other\n")
    job:run(box, { "--initial-ids", ids })
    assert.equal(2, job.code)
    assert.truthy(job.err:find("batch_other", 1, true), job.err)
    support.write(ids, job:read("iteration_1/submitted_batch_ids_iteration_1.txt"))
    job:run(box, { "--initial-ids", ids })
    loop.check(job, loop.usual(6))
  end)

  it("does not make the job forget batches that its folder names", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local lines = loop.lines(6)
    local a = submit(job, box, table.move(lines, 1, 3, 1, {}))
    local b = submit(job, box, table.move(lines, 4, 6, 1, {}))
    local ids, list = job.path .. "/ids.txt", job.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt"
    assert(fs.mkdir(job.base .. "/iteration_1"))
    support.write(ids, a .. "\n")
    support.write(list, a .. "\n" .. b .. "\n")
    job:run(box, { "--initial-ids", ids })
    assert.equal(2, job.code)
    assert.truthy(job.err:find(b, 1, true), job.err)
    assert.equal(a .. "\n" .. b .. "\n", support.read(list))
    support.write(ids, b .. "\n" .. a .. "\n")
    job:run(box, { "--initial-ids", ids })
    loop.check(job, loop.usual(6))
  end)

  it("can be interrupted while it asks for the batches (130)", function()
    local job <close> = loop.job { policy =
      "os.execute('[ -z \"$STOP\" ] || { run=$PPID; (sleep 0.7; kill -INT $run) >/dev/null 2>&1 & }')" }
    local box <close> = job:sandbox { "--faults", "batch: delay=3 first=1" }
    local ids = job.path .. "/ids.txt"
    support.write(ids, submit(job, box, loop.lines(6)) .. "\n")
    local code, _, complaint = support.shell("export STOP=1; " .. job:command(box.url, { "--initial-ids", ids }))
    assert.equal(130, code)
    assert.truthy(complaint:find("run the same command again", 1, true), complaint)
    job:run(box, { "--initial-ids", ids })
    loop.check(job, loop.usual(6))
  end)
end)
