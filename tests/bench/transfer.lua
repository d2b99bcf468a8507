--- Sends a file to the service at OPENAI_BASE_URL, or fetches one.
--
--    obatch run tests/bench/transfer.lua upload FILE
--    obatch run tests/bench/transfer.lua download OUT

local openai = require "obatch.openai"

local what, path = ...
local api = openai.from_options {}
if what == "upload" then
  assert(api:upload(path, path:match "[^/]*$"))
else
  assert(api:download("file-1", path))
end
