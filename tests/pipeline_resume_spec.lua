-- Upload and download: whatever stops one of them, the same commands go on, and no image is paid twice.
-- (Kills are in kill_spec, faults of the disk in disk_spec.)
local fs = require "obatch.fs"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

local every_cell = loop.group {}

local function cell(name, steps, faults)
  local self = pipeline.project { images = 6, upload = { "--max-images-per-batch", "3" } }
  self.steps, self.faults = steps, faults
  every_cell[#every_cell + 1] = self
  it(name, function()
    pipeline.check(self)
    local files, batches = self:created()
    assert.equal("2 2", files .. " " .. batches)
  end)
end

describe("an image project", function()
  lazy_setup(function() loop.pool(every_cell, 12) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

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
