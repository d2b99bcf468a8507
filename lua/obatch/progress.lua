--- What a running command tells: lines that stay, and one status that is renewed in place on a
--- terminal (a line a minute elsewhere). All of it goes to stderr; stdout is for results.

local term = require "obatch.term"

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

--- A line that stays.
function Progress:say(line)
  clear(self)
  io.stderr:write(os.date("%H:%M:%S "), line, "\n")
end

--- What is going on right now.
function Progress:status(line)
  if self.on_terminal then
    clear(self)
    local columns = term.size()
    io.stderr:write(line:sub(1, columns - 1))
    self.shown = true
  elseif term.clock() - self.last >= QUIET_INTERVAL then
    self.last = term.clock()
    self:say(line)
  end
end

function Progress:close() clear(self) end
Progress.__close = clear

return progress
