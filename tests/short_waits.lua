-- Lets a run lose patience soon: after $PATIENCE seconds with a call, after 2 with a service that is silent. The
-- pauses between its tries are short, and no dice are thrown for them.
-- Used by policies of the specs (dofile), and as a command:
--   obatch run tests/short_waits.lua SCRIPT [ARGUMENTS]
local http, policy, tasks = require "obatch.http", require "obatch.policy", require "obatch.tasks"
policy.settle_seconds = 0.3
policy.patience = tonumber(os.getenv("PATIENCE")) or policy.patience
local client, request, random = http.client, tasks.request, math.random
-- luacheck: ignore 122
function math.random(...) return select("#", ...) > 0 and random(...) or 0.1 end
function http.client(options)
  options.stall_timeout = 2
  return client(options)
end
function tasks.request(own, fields)
  fields.answer_timeout = 2
  return request(own, fields)
end

local script = ...
if script then return assert(loadfile(script))(select(2, ...)) end
