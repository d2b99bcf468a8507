-- SIGKILL, hundreds of times: at every event of a journal, at every naming of a file, at every call that
-- changes a file, and at any moment. The same command goes on, and what comes out is what comes out of a
-- run that nothing disturbs, byte for byte, paid once.
local loop = require "loop"
local strike = require "strike"
local support = require "support"

local undisturbed = strike.undisturbed()

local every_cell = loop.group {}

--- How many processes were killed, as their exit codes say.
local function kills(self)
  local count = 0
  for code in support.read(self.path .. "/codes"):gmatch("%d+") do
    assert(code == "137" or tonumber(code) == strike.subjects[self.subject].code, "exit code " .. code)
    if code == "137" then count = count + 1 end
  end
  return count
end

--- A job whose runs are killed as the shell text says, which writes each exit code to the file "codes"; at
--- least `least` of them must have been killed.
local function cell(subject, name, least, steps)
  local self = strike.subjects[subject].new()
  self.subject, self.steps = subject, steps(self)
  every_cell[#every_cell + 1] = self
  it(subject .. " " .. name, function()
    assert.is_true(kills(self) >= least, "too few were killed")
    strike.check(self, strike.subjects[subject], undisturbed[subject])
  end)
end

local EXIT = ">first.out 2>first.err; echo $? >>codes"

--- One run that is killed at the at-th event (when: "before" or "after" it) of one of its processes.
local function at_event(process, when, at)
  return function()
    return ("(export ONLY=%s AT=%d WHEN=%s SIGNAL=KILL; run) %s"):format(process.command, at, when, EXIT)
  end
end

--- One run that is killed before one of its processes gives the at-th file its final name.
local function at_rename(process, at)
  return function(self)
    return ("(export ONLY=%s; %s run) %s"):format(process.command,
      strike.export(self.base, { calls = "rename", with = "KILL", at = at }), EXIT)
  end
end

--- Runs of which each is killed before, and then after, the first event that it records.
local function each_event(whole)
  local count = 0
  for _, process in ipairs(whole.processes) do count = count + process.events end
  return 2 * count, function()
    return ([[for at in $(seq %d); do for when in before after; do
      (export AT=1 WHEN=$when SIGNAL=KILL; run) %s
    done; done]]):format(count, EXIT)
  end
end

--- Runs that are killed at their first, second, third ... call that changes a file, until one ends before.
local function ever_later(self)
  return ([[at=0
    while at=$((at + 1)); do
      (%s export STRIKE_AT=$at; run) >first.out 2>first.err; code=$?
      echo $code >>codes; [ $code = 137 ] || break
    done]]):format(strike.export(self.base, { with = "KILL" }))
end

--- Runs that are killed after some time, wherever they are by then.
local function at_any_moment(seed)
  return function(self)
    math.randomseed(seed)
    local pauses = {}
    for i = 1, 8 do pauses[i] = ("%.3f"):format(0.05 + 0.9 * math.random() ^ 2) end
    support.write(self.path .. "/again.sh", self:command '"$1"' .. "\n")
    return ([[
      for pause in %s; do
        setsid sh again.sh "$url/v1" >first.out 2>first.err & session=$!
        sleep $pause; pkill -KILL -s $session obatch; wait $session; echo $? >>codes
      done 2>/dev/null]]):format(table.concat(pauses, " "))
  end
end

describe("a kill leaves nothing lost and nothing paid twice:", function()
  lazy_setup(function() loop.pool(every_cell, 12) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  for _, subject in ipairs { "correction_loop", "pipeline", "deep_clean" } do
    local whole = undisturbed[subject]
    for _, process in ipairs(whole.processes) do
      local function killed(where, at, steps)
        cell(subject, ("killed once, %s %d of %s"):format(where, at, process.command), 1, steps)
      end
      for at = 1, process.events do
        killed("before event", at, at_event(process, "before", at))
        if subject == "correction_loop" then killed("after event", at, at_event(process, "after", at)) end
      end
      for at = 1, process.renames do killed("before it names file", at, at_rename(process, at)) end
    end
    local least, steps = each_event(whole)
    cell(subject, "killed before and after each event, in one job", least, steps)
    cell(subject, "killed at ever later calls, in one job", 30, ever_later)
    for seed = 1, 3 do cell(subject, "killed at any moment, round " .. seed, 0, at_any_moment(seed)) end
  end

  it("that were at least 300 kills", function()
    local count = 0
    for _, self in ipairs(every_cell) do count = count + kills(self) end
    print("# " .. count .. " kills")
    assert.is_true(count >= 300, ("only %d kills"):format(count))
  end)
end)
