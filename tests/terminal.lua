--- obatch on a pseudo-terminal (script(1)), for what only happens there: editing, history, Ctrl-C.
local support = require "support"
local term = require "obatch.term"

local terminal = {}
terminal.__index = terminal

--- Starts obatch with the given words; `environment` is a table of variables.
--- `local t <close> = terminal.start({ XDG_STATE_HOME = dir.path }, "repl")`
function terminal.start(environment, ...)
  local dir = support.tmpdir()
  -- sh(1) starts what ends in "&" with SIGINT ignored
  local words = { "env", "--default-signal=INT", "TERM=xterm", "LC_ALL=C.UTF-8" }
  for name, value in pairs(environment) do words[#words + 1] = name .. "=" .. support.quote(value) end
  words[#words + 1] = support.quote(support.binary)
  for _, word in ipairs { ... } do words[#words + 1] = support.quote(word) end
  local command = ("echo $$ >%s/pid; exec %s"):format(dir.path, table.concat(words, " "))
  assert(os.execute(("cd %s && mkfifo in && { { script -qefc %s log <in; echo $? >code; } >noise 2>&1 & }"):format(
    dir.path, support.quote(command))))
  local self = setmetatable({ dir = dir, seen = 0 }, terminal)
  self.keyboard = assert(io.open(dir.path .. "/in", "w"))
  self.keyboard:setvbuf("no")
  return self
end

--- All that has been shown so far.
function terminal:screen()
  local file = io.open(self.dir.path .. "/log", "rb")
  if not file then return "" end
  local text = file:read("a")
  file:close()
  return text
end

--- Waits until `text` shows up behind what earlier calls waited for, and returns what came before it.
function terminal:expect(text)
  local screen
  for _ = 1, 1000 do
    screen = self:screen()
    local first, last = screen:find(text, self.seen + 1, true)
    if first then
      local before = screen:sub(self.seen + 1, first - 1)
      self.seen = last
      return before
    end
    term.sleep(0.02)
  end
  error(("%q did not show up; shown was:\n%s"):format(text, screen:sub(self.seen + 1)), 2)
end

function terminal:type(text)
  assert(self.keyboard:write(text))
end

--- Sends a signal to the program.
function terminal:kill(signal)
  assert(os.execute(("kill -%s $(cat %s/pid)"):format(signal, self.dir.path)))
end

--- The exit code of the program, which must be about to end.
function terminal:code()
  for _ = 1, 1000 do
    local file <close> = io.open(self.dir.path .. "/code")
    local code = file and file:read("n")
    if code then return code end
    term.sleep(0.02)
  end
  error("the program does not end; shown was:\n" .. self:screen(), 2)
end

function terminal:__close()
  self.keyboard:close()
  os.execute(("kill -9 $(cat %s/pid) 2>/dev/null"):format(self.dir.path))
  getmetatable(self.dir).__close(self.dir)
end

return terminal
