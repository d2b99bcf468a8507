--- Copies the requests whose custom_ids are named in a file, one a line, byte for byte.
--
--    obatch run tests/bench/index.lua REQUESTS IDS OUT

local jsonl = require "obatch.jsonl"

local requests, ids, out_path = ...
local index <close> = assert(jsonl.index(requests, "/custom_id"))
local out <close> = assert(jsonl.create(out_path))
for id in io.lines(ids) do assert(out:raw(assert(index:line(id)))) end
assert(out:commit())
