-- The correction loop and its job folder: whatever stops a run, the same command goes on, and nothing is
-- paid, sent or fetched twice. (Kills are in kill_spec, faults of the disk in disk_spec.)
local fs = require "obatch.fs"
local loop = require "loop"
local support = require "support"

local says = loop.says

--- Lets a run send itself $SIGNAL at the $AT-th place where something is made durable.
local SIGNAL_AT = ("dofile %q"):format(support.home .. "/tests/signal_at.lua")

local every_cell = loop.group {}

local function cell(name, steps, faults, also)
  local self = loop.job { args = { "--max-requests", "3" }, policy = SIGNAL_AT }
  self.steps, self.faults = steps, faults
  every_cell[#every_cell + 1] = self
  it(name, function()
    loop.check(self, loop.usual(6))
    if also then also(self) end
  end)
  return self
end

local function first_code(self) return tonumber(support.read(self.path .. "/first.code")) end

describe("a run that", function()
  lazy_setup(function() loop.pool(every_cell, 12) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  for _, at in ipairs { 1, 3, 5, 8, 10, 11 } do
    cell("gets Ctrl-C after event " .. at, ("(export AT=%d WHEN=later SIGNAL=INT; run) >first.out 2>first.err; "
      .. "echo $? >first.code"):format(at), "batches: in_progress=1; upload: delay=0.15; create_batch: delay=0.15",
      function(self)
        assert.equal(130, first_code(self))
        assert.truthy(support.read(self.path .. "/first.err"):find("interrupted", 1, true))
        local files, batches = self:created()
        assert.equal("3 3", files .. " " .. batches)
      end)
  end

  -- ulimit -f stands for a full disk: blocks of 512 bytes; each size strikes another file.
  for _, blocks in ipairs { 0, 1, 2, 3, 4, 5, 6, 7, 8 } do
    cell(("may write no file above %d blocks"):format(blocks),
      ("{ (trap '' XFSZ; ulimit -f %d; run); echo $?; } 2>&1 | cat >first.err"):format(blocks), nil, function(self)
        local complaint = support.read(self.path .. "/first.err")
        assert.truthy(complaint:find("\n1\n$"), complaint)
        assert.truthy(complaint:find(self.base, 1, true), complaint)
        assert.truthy(complaint:find("File too large", 1, true), complaint)
        assert.falsy(complaint:find("traceback", 1, true), complaint)
        local files, batches = self:created()
        assert.equal("3 3", files .. " " .. batches)
      end)
  end
end)

describe("the job folder", function()
  it("cannot be made: exit 1 with its path, and nothing is sent", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job.base = "/proc/no-such-place/base"
    job:run(box)
    assert.equal(1, job.code)
    says(job, "/proc/no-such-place")
    job.base = job.requests .. "/base"
    job:run(box)
    assert.equal(1, job.code)
    says(job, job.requests)
    assert.same({}, job:asked())
  end)

  it("is used by one process at a time", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    assert(fs.mkdir(job.base))
    do
      local lock <close> = assert(fs.lock(job.base .. "/lock"))
      assert.truthy(lock)
      job:run(box)
      assert.equal(1, job.code)
      says(job, job.base .. " is in use")
      says(job, "\nobatch: wait for that, or stop it with Ctrl-C, then run the same command again to go on")
      assert.same({}, job:asked())
    end
    job:run(box)
    loop.check(job, loop.usual(6))
  end)

  it("belongs to one request file: a changed one is refused (2), the old one goes on", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    local old, asked = support.read(job.requests), #job:asked()
    support.write(job.requests, (old:gsub("Transcribe r%-1", "transcribe r-1")))
    job:run(box)
    assert.equal(2, job.code)
    says(job, job.requests .. " is not the file this job was started with")
    assert.equal(asked, #job:asked())
    support.write(job.requests, old)
    job:run(box)
    loop.check(job, loop.usual(6))
  end)

  for moment, hook in pairs { ["while it waits"] = "model", ["while it judges"] = "accept",
    ["while it decides what comes next"] = "action" } do
    it("stops with what is to be done when its request file is written over " .. moment, function()
      for _, change in ipairs { "(text:gsub('r%-', 'R-'))", "text:match('[^\\n]*\\n')", "''" } do
        -- The only one is good: nothing more is to be sent. Its file is written as it was once, which is no better:
        -- what was looked up while it was half-written has found nothing.
        local count = hook == "accept" and 1 or 6
        local job <close> = loop.job { requests = loop.lines(count) }
        local old = support.read(job.requests)
        local overwrite = ("local text = %q\nlocal file = io.open(%q, 'w')\nfile:write(%s)\nfile:close()\n"):format(
          old, job.requests, change)
        if hook == "model" then
          job:set_model("if request.custom_id == 'r-1' and asked == 1 then\n" .. overwrite .. "end\n" .. loop.MODEL)
        else
          job:set_policy(("local before = policy.%s\nfunction policy.%s(...)\n%s\n"
            .. "if before then return before(...) end\nreturn true\nend"):format(hook, hook, overwrite))
        end
        local box <close> = job:sandbox()
        job:run(box)
        assert.equal(2, job.code, job.err)
        says(job, "obatch: " .. job.requests .. " was changed or touched while the job was running. ")
        says(job, "if not, put its old content back first")
        loop.check_clean(job)
        assert.falsy(fs.stat(job.base .. "/final_results.jsonl"))
        support.write(job.requests, old)
        job:set_policy ""
        job:run(box)
        loop.check(job, loop.usual(count))
      end
    end)
  end

  it("goes on when its request file is only touched: while it waits, or with the same command", function()
    local job <close> = loop.job {}
    local touch = ("os.execute('touch -d @1700000000 %s')\n"):format(job.requests)
    job:set_model("if request.custom_id == 'r-1' and asked == 1 then\n" .. touch .. "end\n" .. loop.MODEL)
    do
      local box <close> = job:sandbox()
      job:run(box)
      loop.check(job, loop.usual(6))
    end
    local other <close> = loop.job {}
    local box <close> = other:sandbox()
    other:set_policy(([[local ledger = require "obatch.ledger"
      local new = ledger.new
      function ledger.new(...) os.execute("touch -d @1700000000 %s") return new(...) end]]):format(other.requests))
    other:run(box)
    assert.equal(2, other.code, other.err)
    says(other, other.requests .. " was changed or touched while the job was running. If its content is the same, run")
    other:set_policy ""
    other:run(box)
    loop.check(other, loop.usual(6))
  end)

  it("shows a fault of the policy though its request file was changed meanwhile, too", function()
    local job <close> = loop.job { requests = loop.lines(1) }
    job:set_policy(("function policy.accept() io.open(%q, 'w'):close() return nil + 1 end"):format(job.requests))
    local box <close> = job:sandbox()
    job:run(box)
    assert.equal(1, job.code, job.err)
    says(job, "attempt to perform arithmetic on a nil value")
    assert.is_nil(job.err:find("was changed or touched", 1, true), job.err)
  end)

  -- What was read is sent from the file that was opened: a job that were bound to the one at its path would pay twice.
  for moment, hook in pairs { ["it is checked"] = "requests.read", ["a part is planned"] = "ledger.new" } do
    it("is not bound to a request file replaced while " .. moment, function()
      for _, other in ipairs { "b-", "longer-" } do
        local function lines(prefix)
          local list = {}
          for i = 1, 6 do list[i] = loop.line(prefix .. i, nil, { model = i % 2 == 0 and "gpt-a" or "gpt-b" }) end
          return list
        end
        local job <close> = loop.job { requests = lines "a-", model = "return '{}'" }
        support.write(job.path .. "/new", table.concat(lines(other), "\n") .. "\n")
        local old = support.read(job.requests)
        job:set_policy(([[local %s = require "obatch.%s"
          local before = %s
          %s = function(...)
            local results = table.pack(before(...))
            os.rename(%q, %q)
            return table.unpack(results, 1, results.n)
          end]]):format(hook:match "%a+", hook:match "%a+", hook, hook, job.path .. "/new", job.requests))
        local box <close> = job:sandbox()
        job:run(box)
        assert.equal(2, job.code, job.err)
        says(job, "obatch: " .. job.requests .. " was replaced, changed or touched while it was read. Nothing was")
        loop.check_clean(job)
        assert.same({}, job:asked())
        support.write(job.requests, old)
        job:set_policy ""
        job:run(box)
        assert.equal(0, job.code, job.err)
        local paid = {}
        for i = 1, 6 do paid["a-" .. i] = 1 end
        assert.equal(loop.text(paid), loop.text(job:paid()))
        assert.equal(6, #job:decoded "final_results.jsonl")
      end
    end)
  end

  it("survives a journal whose last line is torn", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    support.write(job.base .. "/journal.jsonl", job:read("journal.jsonl") .. '{"event":"plan')
    for _ = 1, 2 do -- what follows the torn line must be readable, too
      job:run(box)
      loop.check(job, loop.usual(6))
    end
  end)

  it("is not sent again when the end of the journal is lost, but batches are known to have run", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    local journal, paid = job:read("journal.jsonl"), loop.text(job:paid())
    local planned = journal:match("^.-\n.-\n") -- "started" and "planned"
    assert.truthy(planned:find('"planned"', 1, true))
    support.write(job.base .. "/journal.jsonl", planned)
    job:run(box)
    assert.equal(1, job.code)
    says(job, "submitted_batch_ids_iteration_1.txt names batches that the journal does not know")
    assert.equal(paid, loop.text(job:paid()))
    support.write(job.base .. "/journal.jsonl", journal)
    job:run(box)
    loop.check(job, loop.usual(6))
  end)

  it("is not touched when a line of the journal is damaged: exit 1 with its number", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    local journal, asked = job:read("journal.jsonl"), #job:asked()
    local damaged = journal:gsub('"event":"uploaded"', '"event":uploaded', 1)
    support.write(job.base .. "/journal.jsonl", damaged)
    job:run(box)
    assert.equal(1, job.code)
    says(job, "journal.jsonl:4: byte ")
    assert.equal(damaged, job:read("journal.jsonl"))
    assert.equal(asked, #job:asked())
    support.write(job.base .. "/journal.jsonl", journal)
    job:run(box)
    loop.check(job, loop.usual(6))
  end)

  it("lacks a file it needs: exit 1 with its path, no traceback", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    local path = job.base .. "/iteration_1/merged_results_iteration_1.jsonl"
    local merged = support.read(path)
    assert(fs.remove(path))
    job:run(box)
    assert.equal(1, job.code)
    says(job, path)
    assert.falsy(job.err:find("traceback", 1, true), job.err)
    support.write(path, merged)
    job:run(box)
    loop.check(job, loop.usual(6))
  end)

  it("goes on against a sandbox that was restarted while batches ran", function()
    local job <close> = loop.job { policy = SIGNAL_AT, args = { "--max-requests", "3" } }
    local port
    do
      local box <close> = job:sandbox { "--batch-seconds", "2" }
      port = box.port
      local code = support.shell("export AT=10 WHEN=after SIGNAL=KILL; " .. job:command(box.url))
      assert.equal(137, code)
    end
    local box <close> = job:sandbox(nil, port)
    job:run(box)
    loop.check(job, loop.usual(6))
  end)
end)

it("a request file may have a name that is not UTF-8, and folders may have spaces", function()
  local job <close> = loop.job {}
  local odd = job.path .. "/requests \xff.jsonl"
  assert(os.rename(job.requests, odd))
  job.requests, job.base = odd, job.path .. "/base \xff folder"
  local box <close> = job:sandbox()
  job:run(box)
  loop.check(job, loop.usual(6))
  assert.truthy(job:decoded("journal.jsonl")[1].original.path:find("/requests %FF.jsonl", 1, true))
end)

it("a changed rule is in the final files before the next iteration is waited for", function()
  local job <close> = loop.job { requests = loop.lines(2), model = "return json.encode { id = request.custom_id }" }
  do
    local box <close> = job:sandbox()
    local _, fresh = job:run(box, { "--dry-run" })
    assert.is_nil(fresh:find("obatch status", 1, true), fresh)
    assert.equal(0, (job:run(box)))
    local _, again = job:run(box, { "--dry-run" }) -- the figures are of the file, not of what is left
    assert.truthy(again:find("what is left of the job: obatch status " .. job.base, 1, true), again)
  end
  job:set_policy [[policy.patience = 0.1
    policy.accept = function(_, item) return item.custom_id ~= "r-1", "not that one" end]]
  assert.equal(1, (job:run()), job.err) -- nobody answers
  local final = job:decoded("final_results.jsonl")
  assert.equal("1 r-2", #final .. " " .. final[1].custom_id)
end)

it("Ctrl-C while the request file is read is no fault of the file", function()
  local job <close> = loop.job { policy = [[io.popen("kill -INT $PPID"):close()]] }
  assert.equal(130, (job:run()), job.err)
  assert.is_nil(job.err:find("cannot be sent", 1, true), job.err)
end)
