--- Judges the results of a batch as the correction loop does: lines with a good answer to one file, all
-- others to another.
--
--    obatch run tests/bench/judge.lua RESULTS GOOD BAD [POLICY]

local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"

local results, good_path, bad_path, policy_path = ...
local rules = assert(policy.load(policy_path))
local good, bad = assert(io.open(good_path, "wb")), assert(io.open(bad_path, "wb"))
good:setvbuf("full", 1 << 18)
bad:setvbuf("full", 1 << 18)
for record in assert(outcome.scan(results, rules)) do
  local is_good = outcome.class(record, rules) == "valid" -- which a line that is no JSON never is
  assert(jsonl.write(is_good and good or bad, record))
end
assert(good:close())
assert(bad:close())
