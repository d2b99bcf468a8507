--- Writes the text of every answer to FOLDER/<custom_id>.txt.
--
--    obatch run tests/bench/sidecars.lua RESULTS FOLDER

local fs = require "obatch.fs"
local jsonl = require "obatch.jsonl"

local results, top = ...
local made, files <close> = {}, fs.files()
local fields = { custom_id = "/custom_id", content = "/response/body/choices/0/message/content" }
for record in assert(jsonl.scan(results, fields)) do
  if not record.error and type(record.content) == "string" then
    local path = top .. "/" .. record.custom_id .. ".txt"
    local folder = path:match "^(.*)/"
    if not made[folder] then made[folder] = assert(fs.mkdir(folder)) end
    assert(files:write(path, record.content))
  end
end
assert(files:finish())
