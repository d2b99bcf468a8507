-- The batch folder of an image project: what becomes of batches that the service refuses, holds back or
-- forgets, and of records that are not ours.
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local loop = require "loop"
local pipeline = require "pipeline"
local records = require "obatch.records"
local support = require "support"

local says = loop.says

--- The entries of unresolved.jsonl, as "custom_id class action".
local function unresolved(project)
  local list = {}
  for line in support.read(project.base .. "/batch/unresolved.jsonl"):gmatch("[^\n]+") do
    local entry = assert(json.decode(line))
    list[#list + 1] = ("%s %s %s"):format(entry.custom_id, entry.class, entry.action)
  end
  table.sort(list)
  return list
end

describe("the batch folder", function()
  it("queues batches over the enqueued-token limit, and uploads none of them twice", function()
    local project <close> = pipeline.project { images = 6, upload = { "--max-images-per-batch", "2" } }
    -- Two pages are about 530 tokens. A refusal is heard of long before the first batch ends, however slow the machine.
    local box <close> = project:sandbox { "--faults", "limits: tokens=800", "--batch-seconds", "2" }
    project:run("upload", box)
    project:run("download", box)
    pipeline.check(project)
    local files, batches = project:created()
    assert.equal("3 3", files .. " " .. batches)
    assert.truthy(support.read(project.base .. "/batch/journal.jsonl"):find('"requeued"', 1, true),
      "the limit was never met")
  end)

  it("counts a batch whose record a person has put away as no longer enqueued", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox { "--batch-seconds", "60" }
    assert.equal(0, (project:run("upload", box)))
    local dir = project.base .. "/batch"
    local function enqueued()
      local shelf <close> = assert(records.open { batch_dir = dir, completed_dir = dir .. "/completed",
        log = function() end })
      return shelf.meter:enqueued "gpt-4o"
    end
    assert.truthy(enqueued() > 0)
    local name
    for _, each in ipairs(fs.list(dir)) do
      if each:find("^batch_.*%.txt$") then name = each end
    end
    assert(fs.mkdir(dir .. "/completed"))
    assert(fs.rename(dir .. "/" .. name, dir .. "/completed/" .. name))
    assert.equal(0, enqueued()) -- here the run finds out
    assert.equal(0, enqueued()) -- and this one hears it from the journal
  end)

  it("gives up images whose model does not exist, once, and says why", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox { "--models", "gpt-other" }
    project:run("upload", box)
    assert.equal(3, (project:run("download", box)), project.err)
    says(project, "model_not_found")
    assert.same({ "data|a|p-2.png permanent give_up", "data|b c|p-1.png permanent give_up" }, unresolved(project))
    assert.equal(0, #project:batch_records("batch"))
    project:run("upload", box)
    says(project, "skipped: 2 were given up")
    assert.same({}, project:paid())
  end)

  it("gives up what the service names in a batch that fails validation, and frees the rest", function()
    local project <close> = pipeline.project { images = 3 }
    local box <close> = project:sandbox { "--faults", "batches: fail=invalid_url line=1 first=1" }
    project:run("upload", box)
    assert.equal(3, (project:run("download", box)), project.err)
    assert.same({ "data|a|p-2.png permanent give_up", "data|b c|p-1.png cancelled resend",
      "data|b c|p-3.png cancelled resend" }, unresolved(project))
    project:run("upload", box)
    says(project, "skipped: 1 were given up")
    project:run("download", box)
    assert.truthy(project:text("b c/p-1.png") and project:text("b c/p-3.png"))
    assert.equal(loop.text { ["data|b c|p-1.png"] = 1, ["data|b c|p-3.png"] = 1 }, loop.text(project:paid()))
  end)

  it("frees the images of a batch that the service has lost", function()
    local project <close> = pipeline.project { images = 2 }
    local shelf_of
    do
      local box <close> = project:sandbox()
      project:run("upload", box)
      shelf_of = project:batch_records("batch")[1].batch.id
    end
    -- What an earlier download has brought is all there is: the service knows nothing any more.
    assert(fs.mkdir(project.base .. "/batch_return"))
    support.write(("%s/batch_return/%s.jsonl"):format(project.base, shelf_of), json.encode {
      custom_id = "data|a|p-2.png", error = json.null, response = { status_code = 200, body = { choices = json.array {
        { finish_reason = "stop", message = { content = "The text of data|a|p-2.png." } } } } } } .. "\n")
    support.shell("rm -rf " .. support.quote(project.box))
    local box <close> = project:sandbox()
    assert.equal(3, (project:run("download", box)), project.err)
    assert.equal("The text of data|a|p-2.png.", project:text("a/p-2.png"))
    assert.same({ "data|b c|p-1.png missing resend" }, unresolved(project))
    project:run("upload", box)
    says(project, "skipped: 1 have a text")
    says(project, "1 sent")
  end)

  it("leaves a batch alone whose record a person has moved away", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    project:run("upload", box)
    support.shell(("cd %s/batch && mv batch_*.txt completed/"):format(project.base))
    assert.equal(0, (project:run("download", box)), project.err)
    assert.falsy(project:text("a/p-2.png"))
    project:run("upload", box)
    says(project, "2 sent")
  end)

  it("stops at a damaged journal, and names the line", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    project:run("upload", box)
    local path = project.base .. "/batch/journal.jsonl"
    support.write(path, (support.read(path):gsub("\n", "\nbroken\n", 1)))
    assert.equal(1, (project:run("upload", box)))
    says(project, "batch/journal.jsonl:2: ")
  end)

  it("holds paths that are no UTF-8, and entries that follow a torn one", function()
    local dir <close> = support.tmpdir()
    local shelf <close> = assert(records.open { batch_dir = dir.path .. "/batch", completed_dir = dir.path .. "/done",
      log = print })
    support.write(dir.path .. "/batch/unresolved.jsonl", '{"batch":"b-0","path":"x')
    local first = { batch = "b-1", custom_id = "1", path = "data/\xE9\n.png", class = "missing" }
    local second = { batch = "b-1", custom_id = "2", path = "data/2.png", class = "missing" }
    assert(shelf:note_unresolved { first })
    assert(shelf:note_unresolved { first, second }) -- the rest of what a kill has cut off
    local found = {}
    for entry in shelf:unresolved() do found[#found + 1] = entry end
    assert.same({ first, second }, found)
  end)

  it("takes images from a folder whose name is no UTF-8", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    assert(fs.rename(project.base .. "/data", project.base .. "/d\xFF"))
    assert.equal(0, (project:run("upload", box, { "--image-dir", "d\xFF" })), project.err)
    assert.equal(0, (project:run("download", box)), project.err)
    assert.equal("The text of d%FF|a|p-2.png.", fs.read(project.base .. "/d\xFF/a/p-2.png.txt"))
  end)

  it("goes on with what was downloaded when the service keeps a batch, but not its results", function()
    local project <close> = pipeline.project { images = 1 }
    local box <close> = project:sandbox()
    project:run("upload", box)
    project:run("download", box)
    -- As a download that was killed before it stored anything, a month ago.
    local output = project:batch_records("batch/completed")[1].batch.output_file_id
    support.shell(("cd %s && mv batch/completed/* batch/ && rm data/*/*.txt batch/journal.jsonl"):format(
      support.quote(project.base)))
    assert.equal(0, (support.shell(("curl -sf -X DELETE -H 'Authorization: Bearer x' %s/files/%s"):format(box.url,
      output))))
    assert.equal(0, (project:run("download", box)), project.err)
    assert.equal("The text of data|b c|p-1.png.", project:text("b c/p-1.png"))
  end)

  it("frees the images of requests or batches that the service refuses, for other options", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox { "--faults",
      "upload: status=400 first=1; batches: fail=odd_code first=1" }
    assert.equal(1, (project:run("upload", box)))
    says(project, "Its images are free to be sent again")
    project:run("upload", box) -- and this batch fails validation for a reason that nobody knows
    says(project, "2 sent")
    assert.equal(3, (project:run("download", box)), project.err)
    says(project, "odd_code")
    project:run("upload", box)
    says(project, "2 sent")
    assert.equal(0, (project:run("download", box)), project.err .. project.out)
    pipeline.check_clean(project)
    assert.equal("The text of data|a|p-2.png.", project:text("a/p-2.png"))
  end)

  it("leaves alone what is no record in its folder, and other programs' .part files", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    assert(fs.mkdir(project.base .. "/batch"))
    for _, name in ipairs { "read me.txt", "notes.txt", "batch_x (copy).txt", "film.part" } do
      support.write(project.base .. "/batch/" .. name, "mine")
    end
    assert.equal(0, (project:run("upload", box)), project.err)
    assert.equal(0, (project:run("download", box)), project.err)
    for _, name in ipairs { "read me.txt", "notes.txt", "batch_x (copy).txt", "film.part" } do
      assert.equal("mine", support.read(project.base .. "/batch/" .. name))
    end
  end)

  it("takes a record for what it is, whatever JSON it holds", function()
    for _, content in ipairs { '{"items":[5]}', '["x"]', '[{}]', '{"items":{}}', "\0",
      '{"items":[{"custom_id":"a","path":5}],"image_dir":""}',
      '{"items":[{"custom_id":"a","path":{}}],"image_dir":""}' } do
      local project <close> = pipeline.project { images = 1 }
      local box <close> = project:sandbox()
      assert(fs.mkdir(project.base .. "/batch"))
      support.write(project.base .. "/batch/batch_x.txt", content)
      assert.equal(2, (project:run("upload", box)), content .. project.err)
      says(project, "nobody knows which images batch batch_x holds")
    end
  end)

  it("writes beside the images that were sent, also when it is used from another folder", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    project:run("upload", box)
    -- The same relative path names another image here.
    local base = project.base
    assert(fs.mkdir(base .. "/other/data/a"))
    support.write(base .. "/other/data/a/p-2.png", "another image")
    project.base = base .. "/other"
    assert.equal(0, (project:run("download", box, { "--batch-dir", "../batch" })), project.err)
    assert.falsy(project:text("a/p-2.png"))
    project.base = base
    assert.equal("The text of data|a|p-2.png.", project:text("a/p-2.png"))
    -- A copy of the whole project is one of its own.
    support.shell(("cd %s && rm data/a/p-2.png.txt && mv batch/completed/*.txt batch/ && rm batch/journal.jsonl "
      .. "&& mkdir copy && cp -R data batch copy"):format(support.quote(base)))
    project.base = base .. "/copy"
    project:run("download", box)
    assert.equal("The text of data|a|p-2.png.", project:text("a/p-2.png"))
    project.base = base
    assert.falsy(project:text("a/p-2.png"))
  end)

  it("fetches again what was downloaded, not stored, and is gone", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox()
    project:run("upload", box)
    assert(fs.rename(project.base .. "/data", project.base .. "/away"))
    assert.equal(1, (project:run("download", box)))
    support.shell("rm -r " .. support.quote(project.base .. "/batch_return"))
    assert(fs.rename(project.base .. "/away", project.base .. "/data"))
    project:run("download", box)
    pipeline.check(project)
  end)

  it("replaces the text for which an image was sent again, and forgets that an image was given up", function()
    local project <close> = pipeline.project { images = 1, model = [[
      if asked == 1 then return { refusal = "no" } end
      return "text " .. asked]] }
    local box <close> = project:sandbox()
    project:run("upload", box)
    project:run("download", box)
    project:run("upload", box, { "--redo-failed" })
    assert.equal(0, (project:run("download", box)), project.out)
    assert.equal("text 2", project:text("b c/p-1.png"))
    project:run("upload", box, { "--redo" })
    assert.equal(0, (project:run("download", box)), project.out)
    assert.equal("text 3", project:text("b c/p-1.png"))
    assert.equal("text 2", support.read(project.base .. "/data/b c/p-1.png.txt.before"))
    -- What validate --delete does: the next upload takes the image.
    assert(fs.remove(project.base .. "/data/b c/p-1.png.txt"))
    project:run("upload", box)
    says(project, "1 sent")
    -- A text that somebody wrote meanwhile stays.
    support.write(project.base .. "/data/b c/p-1.png.txt", "by hand")
    project:run("download", box)
    says(project, "another text is there and stays")
    assert.equal("by hand", project:text("b c/p-1.png"))
  end)

  it("gives no two images one custom_id", function()
    local taken, ids = {}, {}
    for i, path in ipairs { "a/b", "a|b", "a\\b", "a|b~2", "n\xE9", "n%E9" } do
      ids[i] = image_record.custom_id(path, taken)
    end
    assert.same({ "a|b", "a|b~2", "a|b~3", "a|b~2~2", "n%E9", "n%E9~2" }, ids)
  end)
end)
