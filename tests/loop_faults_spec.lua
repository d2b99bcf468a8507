-- The correction loop against the faults of the sandbox that matrix_spec.lua has not: storms, and what goes wrong
-- with batches and results. Each request ends with its answer, and is paid exactly as often as its answers require.
local loop = require "loop"
local support = require "support"

--- Children that run at once. They wait most of the time.
local AT_ONCE = 12

local every_cell = loop.group {}
local section = ""

--- A test of its own: 6 requests in batches of 3, so that two are in flight. `more` may hold
---   paid_as     what each request is paid then (as in a run without faults)
---   also        a function(cell) that looks further
---   policy, box_words, steps   see loop.pool
local function cell(name, faults, more)
  more = more or {}
  local self = loop.job { args = { "--max-requests", "3" }, policy = more.policy }
  self.faults, self.box_words, self.steps = faults, more.box_words, more.steps
  every_cell[#every_cell + 1] = self
  it(section .. name, function()
    loop.check(self, more.paid_as or loop.usual(6))
    if more.also then more.also(self) end
  end)
end

describe("the loop and", function()

  -- All cells run when the first test does: most of their time is waiting.
  lazy_setup(function() loop.pool(every_cell, AT_ONCE) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  do
    --- Nothing is uploaded twice or created twice, however its reply was lost.
    local function created_once(self)
      local files, batches = self:created()
      assert.equal("3 files, 3 batches", ("%d files, %d batches"):format(files, batches))
    end

    for seed = 1, 6 do
      cell("a storm, seed " .. seed, "*: drop late chance=0.1; *: status=500 retry-after-ms=10 chance=0.1; "
        .. "*: status=503 late retry-after-ms=10 chance=0.1; *: cut=9 chance=0.1",
        { box_words = { "--seed", seed }, also = created_once })
    end
  end

  do
    section = "things that are not there yet: "
    cell("a batch that is not found at first", "batch: status=404 first=4")
    cell("a file object that is not found", "file: status=404 first=1")
    cell("content that is not found at first", "content: status=404 first=3")
    cell("an uploaded file that batches cannot see at once", "files: hidden=0.5")
    cell("the same, refused with 400", "files: hidden=0.5", { box_words = { "--missing-input", "400" } })
    cell("an uploaded file that is gone before its batch is made", "files: expire=0 first=1")
    cell("a batch whose creation is lost and that is late in the listing",
      "create_batch: drop late first=2; batches: unlisted=0.6", { policy = "policy.settle_seconds = 2" })
    cell("a batch whose creation is lost and that has no metadata",
      "create_batch: drop late first=2; batches: no-metadata")
  end

  local all_twice = {}
  for id in pairs(loop.usual(6)) do all_twice[id] = 2 end -- the first answer is spoiled, good or not

  do
    section = "batches that go wrong: "
    cell("several polls", "batches: validating=0.3 in_progress=0.5 finalizing=0.3")
    cell("results in the order of the requests", "batches: ordered")
    cell("empty strings for absent file ids", "batches: empty-ids")
    cell("absent file ids", nil, { box_words = { "--null-ids", "absent" } })
    cell("expired before anything ran", "batches: expire=0 first=2")
    cell("cancelled before anything ran", "batches: cancel=0 first=2")
    cell("an output file that is not there", "batches: null-output first=2", { paid_as = all_twice })
    cell("validation fails with server_error", "batches: fail=server_error first=3")
    cell("validation fails with 'Cannot find file' again and again", "batches: no-file first=9", { also = function(self)
      assert.truthy(self:created() > 3, "the file should have been uploaded again")
    end })
    cell("room for one batch at a time", "limits: tokens=130; batches: in_progress=0.5", { also = function(self)
      assert.truthy(self.err:find("Enqueued token limit reached", 1, true), self.err)
    end })
  end

  do
    section = "results that go wrong: "
    for _, words in ipairs { "status=500", "status=429", "status=0", "status=503 body=empty", "status=200 body=empty",
      "error=request_timeout", "error=server_error", "error=batch_expired", "error=batch_cancelled", "missing",
      "garbage", "no-id", "status=408 to=output" } do
      cell(words, "results: asked=1 " .. words, { paid_as = all_twice })
    end
    for _, words in ipairs { "duplicate", "unknown", "to=error" } do cell(words, "results: " .. words) end
    cell("one of each", "results: id=r-1 asked=1 missing; results: id=r-2 asked=1 garbage; "
      .. "results: id=r-4 asked=1 status=0; results: id=r-5 unknown; results: id=r-6 duplicate",
      { paid_as = { ["r-1"] = 2, ["r-2"] = 2, ["r-3"] = 2, ["r-4"] = 2, ["r-5"] = 1, ["r-6"] = 2 } })
  end

  -- Exit 1 with the reason, and the same command goes on later.
  do
    section = "a stop that can be resumed, after "
    local function stops(name, faults, ...)
      local said = { "run the same command again to go on", ... }
      cell(name, faults, { steps = "run >first.out 2>first.err; echo $? >first.code", also = function(self)
        assert.equal("1\n", support.read(self.path .. "/first.code"))
        local complaint = support.read(self.path .. "/first.err")
        for _, words in ipairs(said) do assert.truthy(complaint:find(words, 1, true), complaint) end
      end })
    end
    stops("an account that cannot pay, in validation", "batches: fail=insufficient_quota first=1", "insufficient_quota")
    stops("a refusal with an unknown code", "create_batch: status=400 code=strange first=1", "status 400")
    stops("a batch that fails validation with an unknown code", "batches: fail=strange first=2",
      "strange", "failed validation")
  end
end)
