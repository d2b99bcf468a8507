--- What a running command tells: lines that stay, and one status that is renewed in place on a
--- terminal (a line a minute elsewhere). All of it goes to stderr; stdout is for results.

local term = require "obatch.term"
local text = require "obatch.text"

local Progress = {}
Progress.__index = Progress

--- Seconds between two status lines where there is no terminal.
local QUIET_INTERVAL = 60

local progress = {}

function progress.new()
  return setmetatable({ on_terminal = term.isatty(2), shown = false, last = -math.huge }, Progress)
end

local function clear(self)
  if self.shown then io.stderr:write("\r\27[K") end
  self.shown = false
end

--- A line that stays. It may hold words of the service: no control character of theirs reaches the terminal.
function Progress:say(line)
  clear(self)
  io.stderr:write(os.date("%H:%M:%S "), text.shown(line), "\n")
end

--- What is going on right now.
function Progress:status(line)
  if self.on_terminal then
    clear(self)
    local columns = term.size()
    io.stderr:write((text.shown(line):sub(1, columns - 1)))
    self.shown = true
  elseif term.clock() - self.last >= QUIET_INTERVAL then
    self.last = term.clock()
    self:say(line)
  end
end

function Progress:close() clear(self) end
Progress.__close = clear

--- How many odd things of one kind are told one by one.
local MAX_NOTES = 10

--- Tells of odd things: the first few of each kind, then how many more there were. Returns
--- note(kind, format, ...) and finish().
function progress.notes(log)
  local counts = {}
  return function(kind, format, ...)
    counts[kind] = (counts[kind] or 0) + 1
    if counts[kind] <= MAX_NOTES then log(format:format(...)) end
  end, function()
    for kind, count in pairs(counts) do
      if count > MAX_NOTES then log(("... and %d more %s"):format(count - MAX_NOTES, kind)) end
    end
  end
end

return progress
