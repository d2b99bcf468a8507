--- The command line: `obatch run FILE`, `obatch repl`, `obatch NAME`. Also what the scripts share
--- about it: where the program lives, and an argument parser with the project's exit codes.
--
-- Exit codes: 0 all good; 1 failed; 2 usage; 3 finished, but some requests were given up;
-- 130 interrupted and resumable.

local argparse = require "argparse"
local fs = require "obatch.fs"
local term = require "obatch.term"
local text = require "obatch.text"

local cli = { home = nil, version = nil }

local USAGE = [[
Usage: obatch run FILE [ARGUMENTS]     run a Lua script
       obatch NAME [ARGUMENTS]         run NAME.lua from ./scripts or from the installed scripts
       obatch repl [-e CODE]           look at files, batches and result lines interactively
       obatch --help | --version

Scripts:
%s
"obatch NAME --help" tells what a script does and takes.
]]

--- The folders in which a bare NAME is looked up, first one wins.
local function script_folders()
  return { "scripts", cli.home .. "/scripts" }
end

--- The path of the script NAME, or nil.
local function find_script(name)
  if not name:find("^[%w_-]+$") then return nil end
  for _, folder in ipairs(script_folders()) do
    local path = ("%s/%s.lua"):format(folder, name)
    if fs.stat(path) then return path end
  end
end

--- One line per script: its name and the first line of its head comment.
local function list_scripts()
  local lines, seen = {}, {}
  for _, folder in ipairs(script_folders()) do
    for _, file in ipairs(fs.list(folder) or {}) do
      local name = file:match("^(.*)%.lua$")
      if name and not seen[name] then
        seen[name] = true
        local script = fs.read(folder .. "/" .. file, 4096) or ""
        lines[#lines + 1] = ("  %-18s %s"):format(name, script:match("^%-%-%-? *([^\n]*)") or "")
      end
    end
  end
  table.sort(lines)
  return table.concat(lines, "\n") .. "\n"
end

--- An argparse parser for the script `name`: wrong usage ends with exit code 2 and one line that
--- says what is wrong.
function cli.parser(name, description)
  local parser = argparse("obatch " .. name, description):help_max_width(80)
  function parser.error(self, message)
    io.stderr:write(("%s\n\nobatch %s: %s\n"):format(self:get_usage(), name, message))
    os.exit(2, true)
  end
  return parser
end

--- For option values: `parser:option("--n"):convert(cli.positive_integer)`.
function cli.positive_integer(word)
  local number = math.tointeger(tonumber(word))
  if not number or number < 1 then return nil, ("'%s' is not a whole number above 0"):format(word) end
  return number
end

function cli.positive_number(word)
  local number = tonumber(word)
  if not number or number ~= number or number <= 0 or number == math.huge then
    return nil, ("'%s' is not a number above 0"):format(word)
  end
  return number
end

function cli.seconds(word)
  local number = tonumber(word)
  if not number or number ~= number or number < 0 or number == math.huge then
    return nil, ("'%s' is not a number of seconds"):format(word)
  end
  return number
end

--- Says on stderr what is wrong and returns the exit code, so that a script can
--- `return cli.fail(1, "...")`. No control character of anybody's words reaches the terminal.
function cli.fail(code, format, ...)
  local words = table.pack(...)
  for i = 1, words.n do
    if type(words[i]) == "string" then words[i] = words[i]:gsub("[^\n\t]+", text.shown) end
  end
  io.stderr:write("obatch: ", format:format(table.unpack(words, 1, words.n)), "\n")
  return code
end

--- What is to be done before the same command can go on.
local FIRST = { ENOSPC = "free some space, then ", EDQUOT = "free some space, then ", EACCES = "mend that, then ",
  EPERM = "mend that, then ", EROFS = "mend that, then ", DAMAGED = "mend that, then " }

--- The exit code of a job that stopped before its end, said on stderr: something in the world is at
--- fault, or the user wants it. Nothing is lost: the journal knows where to go on.
function cli.stopped(message, code)
  if code == "INTERRUPTED" then return cli.fail(130, "interrupted: run the same command again to go on") end
  if code == "USAGE" or code == "CHANGED" then return cli.fail(2, "%s", message) end
  return cli.fail(1, "stopped: %s\nobatch: %srun the same command again to go on", message, FIRST[code] or "")
end

--- Reading or setting a global that nobody declared is a typing error, not nil.
local function forbid_undefined_globals()
  setmetatable(_G, {
    __index = function(_, name) error(("undefined variable '%s'"):format(tostring(name)), 2) end,
    __newindex = function(_, name)
      error(("undeclared variable '%s': write 'local' before it"):format(tostring(name)), 2)
    end,
  })
end

--- Runs a script with `...` and the global `arg` as lua(1) gives them. A script returns its exit
--- code (nothing means 0, or 130 when it was interrupted).
local function run_file(path, arguments)
  local chunk, message = loadfile(path, "t")
  if not chunk then return cli.fail(1, "%s", message) end
  arguments[0] = path
  rawset(_G, "arg", arguments)
  local code = chunk(table.unpack(arguments))
  if math.type(code) == "integer" then return code end
  return term.interrupted() and 130 or 0
end

--- What the host calls: `arg` is argv with .home and .version.
function cli.main(arg)
  cli.home, cli.version = arg.home, arg.version
  forbid_undefined_globals()
  local command = arg[1]
  local rest = table.move(arg, 2, #arg, 1, {})

  if not command then
    io.stderr:write(USAGE:format(list_scripts()))
    return 2
  elseif command == "--help" or command == "-h" then
    io.write(USAGE:format(list_scripts()))
    return 0
  elseif command == "--version" then
    print("obatch " .. cli.version)
    return 0
  elseif command == "repl" then
    return require "obatch.repl".main(rest)
  elseif command == "run" then
    if not rest[1] then return cli.fail(2, "which file? Usage: obatch run FILE [ARGUMENTS]") end
    local path = table.remove(rest, 1)
    if not fs.stat(path) then return cli.fail(2, "%s: there is no such file", path) end
    return run_file(path, rest)
  end
  local path = find_script(command)
  if not path then
    return cli.fail(2, "no script called '%s' in %s. \"obatch --help\" lists what there is",
      command, table.concat(script_folders(), " or "))
  end
  return run_file(path, rest)
end

return cli
