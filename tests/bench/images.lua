--- Writes a request for every image below a folder, into PREFIX1.jsonl, PREFIX2.jsonl, ... that are within
-- the limits of a batch.
--
--    obatch run tests/bench/images.lua IMAGES PREFIX

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local sidecar = require "obatch.sidecar"

local images, prefix = ...
local part, out = 0, nil

local function next_file()
  if out then assert(out:commit()) end
  part = part + 1
  out = assert(jsonl.create(prefix .. part .. ".jsonl", { max_lines = 50000, max_bytes = 200000000 }))
end

local prompt = 'Transcribe the page.\nAnswer with "strict" JSON – nothing else.'
next_file()
for path in fs.walk(images, { ext = sidecar.EXTENSIONS, stat = false }) do
  local request = {
    custom_id = path, method = "POST", url = "/v1/chat/completions",
    body = { model = "gpt-4o-mini", messages = json.array { {
      role = "user",
      content = json.array { { type = "text", text = prompt },
        { type = "image_url", image_url = { url = assert(jsonl.image(path)) } } },
    } } },
  }
  local ok, message, code = out:put(request)
  if code == "FULL" then
    next_file()
    ok, message = out:put(request)
  end
  assert(ok, message)
end
assert(out:commit())
