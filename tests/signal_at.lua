-- Lets a run send itself $SIGNAL at the $AT-th place where something is made durable: before or after
-- ($WHEN) that journal event, or before that file gets its final name. "later" comes in the middle of
-- what follows. Used by policies of the specs (dofile), and as a command:
--   obatch run tests/signal_at.lua SCRIPT [ARGUMENTS]
local at, when, signal = tonumber(os.getenv("AT")), os.getenv("WHEN"), os.getenv("SIGNAL")
local fs, journal = require "obatch.fs", require "obatch.journal"
local function fire()
  if when == "later" then
    os.execute("run=$PPID; (sleep 0.2; kill -" .. signal .. " $run) >/dev/null 2>&1 &")
  else
    os.execute("kill -" .. signal .. " $PPID")
  end
end
local count = 0
local function wrap(act, here)
  return function(...)
    count = count + 1
    if count == at and here == "before" then fire() end
    local results = table.pack(act(...))
    if count == at and here ~= "before" then fire() end
    return table.unpack(results, 1, results.n)
  end
end
if when == "file" then
  fs.write, fs.rename = wrap(fs.write, "before"), wrap(fs.rename, "before")
elseif at then
  local open, is_wrapped = journal.open, false
  function journal.open(path)
    local opened, events = open(path)
    if opened and not is_wrapped then
      getmetatable(opened).record, is_wrapped = wrap(getmetatable(opened).record, when), true
    end
    return opened, events
  end
end

local script = ...
if script then
  require "obatch.policy".settle_seconds = 0.3
  return assert(loadfile(script))(select(2, ...))
end
