-- The limits of the service and those that the user sets: what is beyond one waits, nothing is lost, uploaded
-- again, or paid again because of it.
local fs = require "obatch.fs"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

--- A model that uses as many tokens as are estimated.
local THIRSTY = [[return { content = json.encode { id = request.custom_id, asked = asked },
  usage = { prompt = 37, completion = 1000 } }]]

local MODEL = "return json.encode { id = request.custom_id, asked = asked }"

--- A policy in which hours pass in a second, for what waits that long.
local HURRY = [[local term = require "obatch.term"
local clock = term.clock
term.clock = function() return clock() * 3000 end]]

local function once(n)
  local paid = {}
  for i = 1, n do paid["r-" .. i] = 1 end
  return paid
end

--- The tokens that the sandbox enqueues for n usual requests.
local function tokens_of(n)
  local bytes = 0
  for _, line in ipairs(loop.lines(n)) do bytes = bytes + #line + 1 end
  return bytes // 4
end

local function count(list, value)
  local n = 0
  for _, entry in ipairs(list) do n = n + (entry == value and 1 or 0) end
  return n
end

--- How many batches the sandbox has refused.
local function refused(self)
  local n = 0
  for _, batch in ipairs(self:records "batches") do n = n + (batch.status == "failed" and 1 or 0) end
  return n
end

describe("enqueued tokens:", function()
  local cells = loop.group {}
  lazy_setup(function() loop.pool(cells, 8) end)
  lazy_teardown(function() getmetatable(cells).__close() end)

  local function cell(name, self, faults, check)
    self.faults = faults
    cells[#cells + 1] = self
    it(name, function() check(self) end)
  end

  cell("a job of which 40 % fit at a time ends, with each file uploaded once and few refusals",
    loop.job { requests = loop.lines(10), model = MODEL, args = { "--max-requests", "1" } },
    ("limits: tokens=%d; batches: in_progress=3"):format(tokens_of(10) * 4 // 10), function(self)
      loop.check(self, once(10))
      local files, batches = self:created()
      assert.equal("10 10", files .. " " .. batches)
      -- The first eight are tried before anything is known; later ones are held back.
      assert.truthy(refused(self) >= 1 and refused(self) <= 8, refused(self) .. " batches were refused")
    end)

  cell("a batch that can never fit becomes several that do, and the limit is remembered for the next iteration",
    loop.job { requests = loop.lines(10), model = [[if asked == 1 then return "no JSON" end
      return json.encode { id = request.custom_id, asked = asked }]] },
    ("limits: tokens=%d"):format(tokens_of(10) * 4 // 10), function(self)
      local twice = {}
      for id in pairs(once(10)) do twice[id] = 2 end
      loop.check(self, twice)
      assert.equal(1, count(self:events(), "split"))
      local planned = {}
      for _, event in ipairs(self:decoded "journal.jsonl") do
        if event.event == "planned" then planned[event.iteration] = #event.parts end
      end
      assert.equal(1, planned[1])
      assert.truthy(planned[2] > 1, "the second iteration was planned as if there were no limit")
    end)

  cell("a single request that can never fit is given up with the service's words, the others are not",
    loop.job { requests = { loop.line("r-1"), loop.line("r-2", nil, { user = ("x"):rep(4000) }), loop.line("r-3") },
      model = MODEL, policy = HURRY }, "limits: tokens=300", function(self)
      assert.equal(3, self.code)
      local given_up = self:decoded "given_up.jsonl"
      assert.equal(1, #given_up)
      assert.equal("r-2 permanent", given_up[1].custom_id .. " " .. given_up[1].class)
      assert.truthy(given_up[1].reason:find("Enqueued token limit reached", 1, true), given_up[1].reason)
      assert.same({ ["r-1"] = 1, ["r-3"] = 1 }, self:paid())
      loop.check_table(self.out)
    end)

  cell("a limit that other work of the user has filled is waited for: nothing is split or uploaded again",
    loop.job { requests = loop.lines(6), model = MODEL },
    ("limits: tokens=%d taken=%d for=3"):format(tokens_of(6) * 2, tokens_of(6) * 2), function(self)
      loop.check(self, once(6))
      assert.equal(1, (self:created()))
      assert.truthy(refused(self) > 0)
      assert.equal(0, count(self:events(), "split"))
    end)

  cell("a batch of images that can never fit becomes several, and no image is paid twice",
    pipeline.project { images = 6 }, "limits: tokens=1000", function(self)
      pipeline.check(self)
      assert.truthy(support.read(self.base .. "/batch/journal.jsonl"):find('"split"', 1, true))
    end)
end)

describe("requests to the service:", function()
  it("many batches cost one listing a look, and a look of their own when they have ended", function()
    local job <close> = loop.job { requests = loop.lines(8), model = MODEL, args = { "--max-requests", "1" } }
    local box <close> = job:sandbox { "--batch-seconds", "2" }
    job:run(box)
    loop.check(job, once(8))
    local lists, looks = 0, 0
    for _, asked in ipairs(job:asked()) do
      if asked == "GET /v1/batches" then lists = lists + 1 end
      if asked:find("^GET /v1/batches/") then looks = looks + 1 end
    end
    assert.truthy(lists > 1, "the listing was asked " .. lists .. " times")
    assert.truthy(looks <= 8, looks .. " batches were asked for one by one")
  end)

  it("a listing that fails does not keep batches from being harvested", function()
    local job <close> = loop.job { requests = loop.lines(4), model = MODEL, args = { "--max-requests", "1" } }
    local box <close> = job:sandbox { "--faults", "list_batches: status=500" }
    job:run(box)
    loop.check(job, once(4))
  end)

  it("a network that is gone for a while, and a process that sleeps, end nothing", function()
    local job <close> = loop.job { requests = loop.lines(4), model = MODEL, args = { "--max-requests", "2" },
      policy = "policy.patience = 0.3" }
    job.faults = "batches: in_progress=1.5"
    job.steps = [[
      run >first.out 2>first.err & session=$!
      until grep -q '"created"' base/journal.jsonl 2>/dev/null; do sleep 0.05; done
      port=${url##*:}; kill $box; wait $box; sleep 1
      pkill -STOP -P $session; sleep 1; pkill -CONT -P $session
      serve $port >box2.out 2>box.err & box=$!
      wait $session; echo $? >first.code]]
    loop.pool({ job }, 1)
    assert.equal("0\n", support.read(job.path .. "/first.code"), support.read(job.path .. "/first.err"))
    loop.check(job, once(4))
    local files, batches = job:created()
    assert.equal("2 2", files .. " " .. batches)
  end)

  it("a service that fails for longer than patience is asked again later, by a run that it had answered", function()
    local job <close> = loop.job { requests = loop.lines(4), model = MODEL, args = { "--max-requests", "2" },
      policy = "policy.patience = 0.1" }
    local box <close> = job:sandbox { "--faults",
      "create_batch: status=503 after=1 first=3; upload: drop after=1 first=2" }
    job:run(box)
    loop.check(job, once(4))
    loop.says(job, "waits to be submitted again")
    local files, batches = job:created()
    assert.equal("2 2", files .. " " .. batches)
  end)

  it("2,000 batches an hour: the time that the service asks for is waited", function()
    local job <close> = loop.job { requests = loop.lines(4), model = MODEL, args = { "--max-requests", "1" },
      policy = "policy.patience = 0.1" }
    local box <close> = job:sandbox { "--faults", "limits: creations=2 per=2" }
    job:run(box)
    loop.check(job, once(4))
    assert.equal(4, (job:created()))
  end)
end)

describe("files at the service", function()
  it("are deleted with --delete-remote-files once their results are here, and only then", function()
    local job <close> = loop.job { args = { "--max-requests", "3", "--delete-remote-files" } }
    local box <close> = job:sandbox { "--faults", "content: status=404 first=2" }
    job:run(box)
    loop.check(job, loop.usual(6))
    assert.same({}, job:records "files")
    assert.equal(3, count(job:events(), "deleted"))

    local project <close> = pipeline.project { images = 4, download = { "--delete-remote-files" } }
    local other <close> = project:sandbox()
    project:run("upload", other)
    assert.truthy(#project:records "files" > 0)
    project:run("download", other)
    pipeline.check(project)
    assert.same({}, project:records "files")
  end)

  it("that could not be deleted are deleted by the next run", function()
    local job <close> = loop.job { policy = "policy.patience = 0.1" }
    local box <close> = job:sandbox { "--faults", "delete_file: status=400 first=1" }
    job:run(box, { "--delete-remote-files", "--max-iterations", "1" })
    loop.says(job, "the next run tries again")
    assert.truthy(#job:records "files" > 0)
    job:run(box, { "--delete-remote-files" })
    loop.check(job, loop.usual(6))
    assert.same({}, job:records "files")
  end)

  it("that fill the storage stop the run, and --delete-remote-files makes room", function()
    local lines = loop.lines(8)
    local size = #table.concat(lines, "\n") + 1
    local job <close> = loop.job { requests = lines, model = MODEL, args = { "--max-requests", "2" } }
    local box <close> = job:sandbox { "--faults", ("limits: storage=%d"):format(size // 2) }
    job:run(box)
    assert.equal(1, job.code)
    loop.says(job, "--delete-remote-files")
    for _ = 1, 4 do
      if job.code ~= 0 then job:run(box, { "--delete-remote-files" }) end
    end
    loop.check(job, once(8))
    assert.equal(4, count(job:events(), "created"))
  end)

  it("expire as --output-expires-after asks", function()
    local job <close> = loop.job { args = { "--output-expires-after", "7200" } }
    local box <close> = job:sandbox()
    job:run(box)
    loop.check(job, loop.usual(6))
    for _, file in ipairs(job:records "files") do
      if file.purpose == "batch_output" then assert.equal(7200, file.expires_at - file.created_at) end
    end
    job:run(box, { "--output-expires-after", "60" })
    assert.equal(2, job.code)
    loop.says(job, "from 3600")
  end)
end)

describe("a budget", function()
  it("of requests ends a run, whose results are there, and the same command goes on", function()
    local job <close> = loop.job { requests = loop.lines(10), model = MODEL }
    local box <close> = job:sandbox()
    for round, total in ipairs { 4, 8 } do
      job:run(box, { "--budget-requests", "4" })
      assert.equal(1, job.code, job.err)
      loop.says(job, "--budget-requests 4: 4 requests of this run are submitted; 0 left")
      loop.says(job, ("%d left"):format(10 - total))
      local _, lines = job:read("final_results.jsonl"):gsub("\n", "")
      assert.equal(total, lines, "round " .. round)
      loop.check_table(job.out)
    end
    job:run(box, { "--budget-requests", "4" })
    loop.check(job, once(10))
  end)

  it("does not count iterations that it has cut short for --max-iterations", function()
    local job <close> = loop.job { requests = loop.lines(4), model = MODEL }
    local box <close> = job:sandbox()
    for _ = 1, 4 do job:run(box, { "--budget-requests", "1", "--max-iterations", "1" }) end
    loop.check(job, once(4))
  end)

  it("for a day is what is left of it after the runs of today", function()
    local job <close> = loop.job { requests = loop.lines(6), model = MODEL }
    local box <close> = job:sandbox()
    job:run(box, { "--budget-requests", "4", "--budget-per-day" })
    assert.equal(1, job.code)
    job:run(box, { "--budget-requests", "5", "--budget-per-day" })
    assert.equal(1, job.code)
    loop.says(job, "of today are submitted")
    local paid = 0
    for _, times in pairs(job:paid()) do paid = paid + times end
    assert.equal(5, paid)
    job:run(box, { "--budget-requests", "6", "--budget-per-day" })
    loop.check(job, once(6))
  end)

  it("that is smaller than that of a run which was stopped takes back what was not sent", function()
    local job <close> = loop.job { requests = loop.lines(8), model = MODEL, args = { "--max-requests", "2" } }
    local box <close> = job:sandbox { "--faults", "upload: quota after=1 first=3" }
    job:run(box, { "--budget-requests", "8" })
    assert.equal(1, job.code)
    assert.same(2, (function()
      local paid = 0
      for _, times in pairs(job:paid()) do paid = paid + times end
      return paid
    end)())
    job:run(box, { "--budget-requests", "3" })
    assert.equal(1, job.code, job.err)
    assert.equal(2, count(job:events(), "dropped"))
    loop.says(job, "--budget-requests 3")
    loop.says(job, "3 left")
    job:run(box, { "--budget-requests", "3" })
    loop.check(job, once(8))
    assert.falsy(job:read("journal.jsonl"):find('"event":"split"', 1, true))
  end)

  it("is not overdrawn by one request that is above it, which holds up nothing else", function()
    local lines = { loop.line("r-1"), loop.line("r-2", nil, { user = ("x"):rep(12000) }), loop.line("r-3") }
    local job <close> = loop.job { requests = lines, model = [[if asked == 1 and request.custom_id == "r-1" then
      return { content = "no JSON", usage = { prompt = 37, completion = 1000 } } end ]] .. THIRSTY }
    local box <close> = job:sandbox()
    job:run(box, { "--budget-tokens", "2500", "--max-iterations", "1" })
    assert.equal(3, job.code, job.err) -- the iteration counts: --max-iterations holds
    job:run(box, { "--budget-tokens", "2500" })
    assert.equal(1, job.code, job.err)
    loop.says(job, "No run can send it")
    assert.same({ ["r-1"] = 2, ["r-3"] = 1 }, job:paid())
    job:run(box)
    assert.equal(0, job.code, job.err)
  end)

  it("counts nothing of a batch with failures to learn from", function()
    local job <close> = loop.job { requests = loop.lines(10), model = THIRSTY }
    local box <close> = job:sandbox { "--faults", "results: status=500 asked=1 first=9" }
    job:run(box, { "--max-iterations", "1" })
    job:run(box, { "--budget-tokens", "3000" })
    local paid = 0
    for _, times in pairs(job:paid()) do paid = paid + times end
    assert.equal(12, paid) -- at 1,037 tokens each, two of nine fit
  end)

  it("that ends --resubmit leaves no paid answer behind, and the same command goes on", function()
    local project <close> = pipeline.project { images = 4 }
    local box <close> = project:sandbox { "--faults", "results: status=500 asked=1" }
    assert.equal(0, (project:run("upload", box)))
    assert.equal(3, (project:run("download", box)))
    for texts = 2, 4, 2 do
      assert.equal(texts == 4 and 0 or 1, (project:run("download", box, { "--resubmit", "--budget-requests", "2" })))
      local found = 0
      for name in pairs(project.images) do found = found + (project:text(name) and 1 or 0) end
      assert.equal(texts, found, project.err)
    end
    for _, times in pairs(project:paid()) do assert.equal(2, times) end
  end)

  it("in USD needs a price for the model: exit 2 and nothing is sent", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--budget", "1" })
    assert.equal(2, job.code)
    loop.says(job, "no price is known for gpt-test")
    assert.same({}, fs.stat(job.box .. "/requests.jsonl") and job:asked() or {})
  end)
end)
