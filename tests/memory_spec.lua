-- The loop on files larger than memory should have to be: one of 1 GB and one of 20,000 requests; and an
-- upload of 2,000 images. The numbers are those of a release build, because a sanitizer keeps freed memory.
local image_bytes = require "image_bytes"
local json = require "obatch.json"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

local build = support.home .. "/build/release"
local obatch = build .. "/obatch"

--- Runs a script in the process that it then measures.
local MEASURE = [[
local cli = require "obatch.cli"
local code = assert(loadfile(cli.home .. "/scripts/SCRIPT.lua"))(...)
for line in io.lines "/proc/self/status" do
  if line:find "^VmHWM" then io.stderr:write(line, "\n") end
end
return code]]

--- Every 50th request needs three tries, so that the last one carries its bad answer.
local MODEL = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n % 50 == 0 and asked < 3 then return ("not JSON "):rep(400) end
return '{"asked":' .. asked .. '}']]

describe("memory", function()
  lazy_setup(function()
    local code, out, err = support.shell(("cmake -S %s -B %s -G Ninja && cmake --build %s"):format(
      support.quote(support.home), support.quote(build), support.quote(build)))
    assert(code == 0, out .. err)
  end)

  --- What MEASURE has printed, in MB.
  local function resident(err) return tonumber(err:match("VmHWM:%s*(%d+) kB")) / 1000 end

  --- Runs `count` requests of about `size` bytes; the most that was resident, in MB.
  local function peak(count, size)
    local job <close> = loop.job { requests = {}, model = MODEL }
    do
      local file <close> = assert(io.open(job.requests, "wb"))
      local text = ("0123456789"):rep(size // 10)
      for i = 1, count do
        file:write(('{"custom_id":"r-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":'
          .. '[{"role":"user","content":"'):format(i), text, '"}]}}\n')
      end
    end
    support.write(job.path .. "/measure.lua", (MEASURE:gsub("SCRIPT", "correction_loop")))
    local binary = support.binary
    support.binary = obatch -- of the sandbox, too: it has as much to read
    local box = job:sandbox { "--batch-seconds", "0" }
    local command = job:command(box.url):gsub("correction_loop", function()
      return "run " .. support.quote(job.path .. "/measure.lua")
    end, 1)
    local code, out, err = support.shell(command)
    getmetatable(box).__close(box)
    support.binary = binary

    assert.equal(0, code, out .. err)
    local rows = loop.check_table(out)
    assert.same({ count, count // 50, count // 50 }, { rows[1].submitted, rows[2].submitted, rows[3].submitted })
    local ids = 0
    for line in io.lines(job.base .. "/final_results.jsonl") do
      ids = ids + 1
      assert.equal("r-" .. ids, json.get(line, "/custom_id"))
    end
    assert.equal(count, ids)
    return resident(err)
  end

  it("stays under 100 MB for a file of 1 GB", function()
    local most = peak(34000, 30000)
    assert.truthy(most < 100, most .. " MB")
  end)

  it("stays under 50 MB for 20,000 requests of 5 KB", function()
    local most = peak(20000, 5000)
    assert.truthy(most < 50, most .. " MB")
  end)

  it("stays under 32 MB while 2,000 images of 200 KB are sent", function()
    local project <close> = pipeline.project { images = {} }
    project:add("first.png", image_bytes.png(9, 9, image_bytes.png_chunk("tEXt", ("x"):rep(200000))))
    assert(support.shell(("cd %s/data && for i in $(seq 1999); do ln first.png $i.png; done"):format(project.base)))
    support.write(project.path .. "/measure.lua", (MEASURE:gsub("SCRIPT", "upload")))
    local binary = support.binary
    support.binary = obatch
    local box = project:sandbox { "--batch-seconds", "3600" }
    local command = project:step("upload", box.url):gsub("run [^ ]*/signal_at.lua [^ ]*", function()
      return "run " .. support.quote(project.path .. "/measure.lua")
    end, 1)
    local code, out, err = support.shell(command)
    getmetatable(box).__close(box)
    support.binary = binary
    assert.equal(0, code, out .. err)
    assert.truthy(out:find("2,000 images: 2,000 sent in 5 batches", 1, true), out)
    local most = resident(err)
    assert.truthy(most < 32, most .. " MB")
  end)
end)
