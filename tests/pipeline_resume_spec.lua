-- Upload and download: whatever stops one of them, the same commands go on, and no image is paid twice.
local fs = require "obatch.fs"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

--- 6 images in batches of 3: so many events does each command write, and files does it name.
local UPLOAD_EVENTS, UPLOAD_FILES, DOWNLOAD_EVENTS, DOWNLOAD_FILES = 11, 4, 6, 16

local every_cell = loop.group {}

local function cell(name, steps, faults, also)
  local self = pipeline.project { images = 6, upload = { "--max-images-per-batch", "3" } }
  self.steps, self.faults = steps, faults
  every_cell[#every_cell + 1] = self
  it(name, function()
    pipeline.check(self)
    local files, batches = self:created()
    assert.equal("2 2", files .. " " .. batches)
    if also then also(self) end
  end)
  return self
end

local function events(self)
  local count = 0
  for _ in support.read(self.base .. "/batch/journal.jsonl"):gmatch("\n") do count = count + 1 end
  return count
end

describe("an image project", function()
  lazy_setup(function() loop.pool(every_cell, 12) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  local undisturbed = cell("that nothing disturbs", nil, nil, function(self)
    assert.equal(UPLOAD_EVENTS + DOWNLOAD_EVENTS, events(self), "the cells below should reach every event")
  end)

  local function killed(name, command, when, at)
    cell(name, ("(export ONLY=%s AT=%d WHEN=%s SIGNAL=KILL; run) >first.out 2>first.err; echo $? >first.code"):format(
      command, at, when), nil, function(self)
        assert.equal(137, tonumber(support.read(self.path .. "/first.code")), "nothing was killed")
        for _, folder in ipairs { "data", "data/a", "data/b c" } do
          assert.same(undisturbed:names(folder), self:names(folder))
        end
        for _, folder in ipairs { "data/a", "data/b c" } do
          local _, lines = support.read(self.base .. "/" .. folder .. "/provenance.jsonl"):gsub("\n", "")
          assert.equal(3, lines, "a text's provenance was lost or told twice")
        end
      end)
  end
  for at = 1, UPLOAD_EVENTS do
    killed("whose upload is killed before event " .. at, "upload", "before", at)
    killed("whose upload is killed after event " .. at, "upload", "after", at)
  end
  for at = 1, UPLOAD_FILES do killed("whose upload is killed before it names file " .. at, "upload", "file", at) end
  for at = 1, DOWNLOAD_EVENTS do
    killed("whose download is killed before event " .. at, "download", "before", at)
    killed("whose download is killed after event " .. at, "download", "after", at)
  end
  for at = 1, DOWNLOAD_FILES do
    killed("whose download is killed before it names file " .. at, "download", "file", at)
  end

  -- At moments that no list of places has.
  for i = 1, 8 do
    cell("that is killed at random moments, round " .. i, ([[
      for pause in %.2f %.2f %.2f %.2f; do
        setsid sh both.sh "$url/v1" >first.out 2>first.err & session=$!
        sleep $pause; pkill -KILL -s $session; wait $session
      done 2>/dev/null]]):format(0.1 * i, 0.15 * i, 0.05 * i, 0.2 * i))
  end

  cell("that is killed over and over", ([[
    for at in 2 3 2 4 3 5 2 3 4; do (export AT=$at WHEN=after SIGNAL=KILL; run) >first.out 2>first.err; done]]))

  cell("whose uploads and batches lose their replies", nil,
    "upload: drop late first=1; create_batch: drop late first=1")
  cell("whose first batch is created, but unknown after a kill",
    "(export ONLY=upload AT=5 WHEN=later SIGNAL=KILL; run) >first.out 2>first.err",
    "create_batch: drop late first=1")

  it("is left to one process at a time", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    assert(fs.mkdir(project.base .. "/batch"))
    support.write(project.base .. "/batch/batch_1.txt", "of an earlier script")
    local _ <close> = assert(fs.lock(project.base .. "/batch/lock"))
    assert.equal(1, (project:run("upload", box)))
    assert.truthy(project.err:find("batch is in use", 1, true))
    assert.equal(1, (project:run("download", box)))
    assert.truthy(project.err:find("batch is in use", 1, true))
  end)
end)
