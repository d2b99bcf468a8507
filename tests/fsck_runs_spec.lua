-- fsck beside the life of jobs and projects: after every event that a run was killed at, within the limits of the
-- service and of the user, and for the folders of images and of deep_clean.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

local quote = support.quote

local function says(out, words)
  assert(out:find(words, 1, true), ("not said: %s\n%s"):format(words, out))
end

--- fsck of a folder below `base`: exit code, what was printed. Nothing may be touched.
local function check(base, folder)
  local state = ("cd %s && find . -printf '%%p %%T@ %%s %%i %%m\\n' | sort"):format(quote(base))
  local _, before = support.shell(state)
  local code, out, err = support.shell(("cd %s && %s fsck %s"):format(quote(base), quote(support.binary), folder))
  assert(not (out .. err):find("stack traceback", 1, true) and not err:find("Sanitizer", 1, true), out .. err)
  assert.equal(before, select(2, support.shell(state)), "fsck has written something")
  return code, out .. err
end

local function count_events(path, name)
  local count = 0
  for line in support.read(path):gmatch("[^\n]+") do
    if not name or json.decode(line).event == name then count = count + 1 end
  end
  return count
end

-- ---------------------------------------------------------------- killed, and held up

describe("a job adds up", function()
  local every_cell = loop.group {}
  lazy_setup(function() loop.pool(every_cell, 4) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  --- Runs of `self`, as the shell text `steps` says, and a last one; `check` in it is fsck of the folder `dir`. All
  --- that fsck says must be that it adds up.
  local function cell(name, self, dir, steps, test)
    self.steps = ([[check() { (cd %s && %s fsck %s) >>fsck.out 2>&1; echo $? >>fsck.codes; }
      %s]]):format(quote(self.base), quote(support.binary), dir, steps)
    every_cell[#every_cell + 1] = self
    it(name, function()
      local said = support.read(self.path .. "/fsck.out")
      assert(not support.read(self.path .. "/fsck.codes"):find("[^0\n]"), said)
      local code, out = check(self.base, dir)
      assert.equal(0, code, out .. self.err)
      test(self, said, out)
    end)
  end

  local KILL = [[(export AT=%s WHEN=%s SIGNAL=KILL; run) >first.out 2>first.err; code=$?
    [ $code = 137 ] || break; echo >>kills; check]]
  -- At the first and the second event in turn: one that is always killed after its intent would never end, and so
  -- would one of several parts. These jobs have fewer than 60 events.
  local EACH = "for n in $(seq 60); do " .. KILL:format("$((2 - n % 2))", "after") .. "; done"
  local EVER_LATER = "for n in $(seq 60); do " .. KILL:format("$n", "file") .. "; done"

  local function job(options)
    options.policy = ("dofile %q"):format(support.home .. "/tests/signal_at.lua")
    return loop.job(options)
  end
  local function kills(self) return #support.read(self.path .. "/kills") end

  local function was_killed_at_each(self, journal)
    assert.equal(0, self.code, self.err)
    local events = count_events(self.base .. "/" .. journal)
    assert(2 * kills(self) >= events - 1, ("%d kills, %d events"):format(kills(self), events))
  end

  cell("after each event that its run was killed at", job {}, ".", EACH,
    function(self, said)
      was_killed_at_each(self, "journal.jsonl")
      for _, words in ipairs { "it is not sent yet", "its file may have been uploaded",
        "it is uploaded, and has no batch yet", "its batch may have been created", " is in flight",
        "its results are to be downloaded", "the final files are not written yet" } do says(said, words) end
    end)
  cell("when its run was killed before it named a file", job { args = { "--max-requests", "3" } }, ".", EVER_LATER,
    function(self)
      assert.equal(0, self.code, self.err)
      assert(kills(self) >= 4, kills(self) .. " kills only")
    end)

  local LABELLED = ("The same line again and again.\n"):rep(30)
  local function labelled(model)
    local self = pipeline.project { images = 3, commands = { "deep_clean" }, model = model }
    for name in pairs(self.images) do
      support.write(("%s/data/%s.txt.api"):format(self.base, name), LABELLED .. name .. "\n")
    end
    return self
  end
  cell("of deep_clean, after each event that its run was killed at",
    labelled [[return "The text of " .. request.custom_id .. "."]], "deep_clean", EACH, function(self, said)
      was_killed_at_each(self, "deep_clean/run_001/journal.jsonl")
      says(said, " is in flight")
    end)

  local ONCE = "return json.encode { id = request.custom_id, asked = asked }"
  local RUN = "run %s >first.out 2>first.err; check;"

  local dropped = job { requests = loop.lines(8), model = ONCE, args = { "--max-requests", "2" } }
  dropped.faults = "upload: quota after=1 first=3"
  cell("when parts were taken back for a smaller budget", dropped, ".",
    RUN:format("--budget-requests 8") .. RUN:format("--budget-requests 3"), function(self)
      assert.equal(0, self.code, self.err)
      assert(count_events(self.base .. "/journal.jsonl", "dropped") > 0)
    end)
  cell("when a budget leaves nothing for an iteration", job { requests = loop.lines(6), model = ONCE }, ".",
    RUN:format("--budget-tokens 1") .. RUN:format("--budget-requests 4 --budget-per-day"):rep(2), function(self, said)
      assert.equal(0, self.code, self.err)
      says(said, "0 have a good answer, 0 given up, 6 left")
      says(said, "4 have a good answer, 0 given up, 2 left")
      says(support.read(self.base .. "/journal.jsonl"), '"parts":[]')
    end)
  local tokens = 0
  for _, line in ipairs(loop.lines(10)) do tokens = tokens + #line + 1 end
  local split = job { requests = loop.lines(10) }
  split.faults = ("limits: tokens=%d"):format(tokens // 4 * 4 // 10)
  cell("when a part was split", split, ".", RUN:format(""), function(self)
    assert.equal(0, self.code, self.err)
    assert.equal(1, count_events(self.base .. "/journal.jsonl", "split"))
  end)
  cell("when its files at the service were deleted", job { args = { "--delete-remote-files" } }, ".", EACH,
    function(self)
      assert.equal(0, self.code, self.err)
      assert.equal(2, count_events(self.base .. "/journal.jsonl", "deleted"))
    end)
  local images = pipeline.project { images = 6, download = { "--delete-remote-files" } }
  images.faults = "limits: tokens=1000"
  cell("of images, when a batch was split and its files were deleted", images, "batch", RUN:format(""),
    function(self, _, out)
    assert.equal(0, self.code, self.err)
    says(out, "6 have a text")
    local path = self.base .. "/batch/journal.jsonl"
    assert(count_events(path, "split") > 0 and count_events(path, "deleted") > 0)
  end)
end)

-- ---------------------------------------------------------------- image projects

describe("fsck of an image project", function()
  local project

  --- Changes a file of a copy by a function.
  local function edit(self, name, change)
    local path = self.base .. "/" .. name
    support.write(path, (change(support.read(path))))
  end

  --- A copy of the project's folder, and a function that checks it.
  local function copied()
    local dir = support.tmpdir()
    assert(support.shell(("cp -a %s %s"):format(quote(project.base), quote(dir.path))) == 0)
    local self = setmetatable({ base = dir.path .. "/work" },
      { __close = function() getmetatable(dir).__close(dir) end })
    function self.check() return check(self.base, "batch") end
    function self.first(folder)
      for _, name in ipairs(fs.list(self.base .. "/" .. folder)) do
        if name:find("^batch_") then return folder .. "/" .. name end
      end
    end
    return self
  end

  lazy_setup(function()
    project = pipeline.project { images = 4, upload = { "--max-images-per-batch", "2" },
      model = 'if request.custom_id:find("p%-3") then return { refusal = "No." } end\n' .. pipeline.MODEL }
    local box <close> = project:sandbox()
    project:run("upload", box)
    assert(project.code == 0, project.err)
    local flying = copied()
    project.flying = flying
    project:run("download", box)
    assert(project.code == 3, project.err)
    project:run("download", box, { "--resubmit" })
    assert(project.code == 3, project.err)
  end)
  lazy_teardown(function()
    getmetatable(project.flying).__close(project.flying)
    getmetatable(project).__close(project)
  end)

  it("adds up while batches are in flight, and when they are stored", function()
    local code, out = project.flying.check()
    assert.equal(0, code, out)
    says(out, "4 images in 2 records: 0 have a text, 0 a labelled one, 0 unresolved, 4 under way, 0 gone, 0 lost")
    says(out, " is in flight")
    local self <close> = copied()
    code, out = self.check()
    assert.equal(0, code, out)
    says(out, "4 images in 2 records: 3 have a text, 0 a labelled one, 1 unresolved, 0 under way, 0 gone, 0 lost")
  end)

  local function damaged(name, damage, words)
    it("tells " .. name, function()
      local self <close> = copied()
      damage(self)
      local code, out = self.check()
      assert.equal(1, code, out)
      says(out, words)
    end)
  end
  damaged("an image without a text", function(self) fs.remove(self.base .. "/data/b c/p-1.png.txt") end,
    "data/b c/p-1.png (custom_id 'data|b c|p-1.png') has no text, and nothing says why")
  damaged("an image of which nothing says why it has none",
    function(self) support.write(self.base .. "/batch/unresolved.jsonl", "") end, "p-3.png")
  damaged("a record that is missing", function(self) fs.remove(self.base .. "/" .. self.first("batch/completed")) end,
    "the record of batch batch_")
  damaged("a journal that is empty", function(self) support.write(self.base .. "/batch/journal.jsonl", "") end,
    "journal.jsonl: it is empty, and there are records beside it. Restore it from a copy")
  damaged("a record that is damaged",
    function(self) edit(self, self.first("batch/completed"), function(text) return text:sub(1, 100) end) end,
    "It says which images its batch holds")
  damaged("a record under way that is missing", function(self)
    fs.rename(self.base .. "/batch", self.base .. "/batch_done")
    support.shell(("cp -a %s/batch %s/batch"):format(quote(project.flying.base), quote(self.base)))
    fs.remove(self.base .. "/" .. self.first("batch"))
  end, "Without it download stores nothing, and its images are sent again")
  damaged("results that are missing", function(self) fs.remove(self.base .. "/" .. self.first("batch_return")) end,
    "Its texts were taken from it when it was stored. Restore it from a copy")
  damaged("results that cannot be read", function(self)
    local path = self.base .. "/" .. self.first("batch_return")
    fs.remove(path)
    assert(fs.mkdir(path))
  end, "Is a directory")
  damaged("a second answer", function(self)
    edit(self, self.first("batch_return"), function(text) return text .. text:match("^[^\n]*\n") end)
  end, "is answered twice")
  damaged("a damaged line among what is unresolved",
    function(self) edit(self, "batch/unresolved.jsonl", function(text) return text .. "{\n" end) end,
    "unresolved.jsonl:3: byte ")
  damaged("a job of --resubmit that lacks an answer", function(self)
    for _, name in ipairs { "given_up.jsonl", "iteration_1/unresolved_iteration_1.jsonl" } do
      edit(self, "batch/resubmit_001/" .. name, function() return "" end)
    end
  end,
    "resubmit_001/final_results.jsonl: custom_id 'data|b c|p-3.png' has no answer here")
  damaged("a job of --resubmit with damaged results", function(self)
    edit(self, "batch/resubmit_001/iteration_1/merged_results_iteration_1.jsonl",
      function(text) return text .. "x\n" end)
  end, "--repair makes it anew")
  damaged("a batch created without an intent", function(self)
    edit(self, "batch/journal.jsonl", function(text)
      return text:gsub('[^\n]*"intent"[^\n]*"create"[^\n]*\n', "", 1)
    end)
  end, "'created' of part 1 without an intent")
end)

-- ---------------------------------------------------------------- deep_clean

describe("fsck of a folder of deep_clean", function()
  local project

  lazy_setup(function()
    project = pipeline.project { images = 2, commands = { "deep_clean" }, model = [[
      if request.custom_id:find("p%-2") then return "I'm sorry, but I can't assist with that." end
      ]] .. pipeline.MODEL }
    for name in pairs(project.images) do
      support.write(("%s/data/%s.txt.api"):format(project.base, name), ("The same line again.\n"):rep(30))
    end
    local box <close> = project:sandbox()
    project:run("deep_clean", box)
    assert(project.code == 3, project.err)
  end)
  lazy_teardown(function() getmetatable(project).__close(project) end)

  it("adds up with a text that stays labelled, and its attempt", function()
    local code, out = check(project.base, "deep_clean")
    assert.equal(0, code, out)
    says(out, "deep_clean/run_001:")
    says(out, "its requests were removed when it was completed")
  end)

  local function damaged(name, file, change, words)
    it("tells " .. name, function()
      local path = project.base .. "/deep_clean/" .. file
      local content = support.read(path)
      local _ <close> = setmetatable({}, { __close = function() support.write(path, content) end })
      support.write(path, change(content))
      local code, out = check(project.base, "deep_clean")
      assert.equal(1, code, out)
      says(out, words)
    end)
  end
  damaged("a damaged line among the attempts", "attempts.jsonl", function(text) return "{\n" .. text end,
    "attempts.jsonl:1: byte ")
  damaged("an attempt at nothing", "attempts.jsonl", function(text) return (text:gsub('"path"', '"pith"', 1)) end,
    "attempts.jsonl:1: an attempt without its 'path'")
  damaged("a run that lacks an answer", "run_001/final_results.jsonl", function() return "" end,
    "custom_id 'data|b c|p-1.png' has no answer here")
  damaged("a record that is cut off", "run_001/completed.json", function(text) return text:sub(1, 50) end,
    "completed.json: byte ")
end)
