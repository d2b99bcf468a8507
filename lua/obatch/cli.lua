--- The command line: `obatch run FILE`, `obatch repl`, `obatch NAME`. Also what the scripts share
--- about it: where the program lives, and an argument parser with the project's exit codes.
--
-- Exit codes: 0 all good; 1 failed; 2 usage; 3 finished, but some requests were given up;
-- 130 interrupted and resumable.

-- The rest is required where it is used: "run" needs little, and is to begin at once.
local fs = require "obatch.fs"
local term = require "obatch.term"

---@class obatch.cli
---@field home string the folder that holds lua/, scripts/ and README.md
---@field version string such as "0.1.0"
---@field commit string what it was built from, such as "9ded594a0b" or "9ded594a0b-dirty"; "" when nobody knows
---@field libraries { lua: string, nettle: string } versions of what the program itself is linked with
local cli = { home = nil, version = nil, commit = nil, libraries = nil }

local USAGE = [[
Usage: obatch NAME [ARGUMENTS]       "obatch NAME --help" has an example
       obatch run FILE [ARGUMENTS]   a Lua script of your own
       obatch --help | --version

%s]]

--- The commands as --help groups them. What is in none of the groups is the user's own.
local GROUPS = {
  { "jobs", "correction_loop" },
  { "pages", "upload", "download", "clean", "deep_clean", "validate" },
  { "looking", "status", "why", "collect", "report", "fsck", "repl" },
  { "service", "batches", "files" },
  { "tools", "sandbox", "run", "scripts", "completion" },
}

--- The commands that are no scripts, and what they do.
cli.BUILT_IN = {
  repl = "Looks at jobs, files and batches interactively.",
  run = "Runs a Lua script.",
}

--- As much of a description as fits: its first clauses, or else its first words.
local function shortened(description, places)
  local columns, text = require "obatch.columns", require "obatch.text"
  local short = text.printable(description):gsub("%.$", "")
  if columns.places(short) <= places then return short end
  local best
  for clause in short:gmatch("()[,:;.] ") do
    if columns.places(short:sub(1, clause - 1)) <= places then best = short:sub(1, clause - 1) end
  end
  return best or columns.cut(short, places)
end

--- What --help says: the commands by group, one line each.
local function usage()
  local scripts = require "obatch.scripts"
  local found, own = {}, {}
  for name, description in pairs(cli.BUILT_IN) do found[name] = { description = description } end
  for _, script in ipairs(scripts.list(cli.home)) do found[script.name] = found[script.name] or script end
  local grouped, names = {}, {}
  for _, group in ipairs(GROUPS) do
    for i = 2, #group do grouped[group[i]] = true end
  end
  for name in pairs(found) do
    names[#names + 1] = name
    if not grouped[name] then own[#own + 1] = name end
  end
  table.sort(own)
  table.insert(own, 1, "yours")
  local width = 0
  for _, name in ipairs(names) do width = math.max(width, #name) end
  local lines = {}
  for _, group in ipairs { GROUPS[1], GROUPS[2], GROUPS[3], GROUPS[4], GROUPS[5], own } do
    local title = group[1]
    for i = 2, #group do
      local script = found[group[i]]
      if script then
        lines[#lines + 1] = ("%-9s%s  %s\n"):format(title, group[i] .. (" "):rep(width - #group[i]),
          shortened(script.description, 79 - 9 - width - 2))
        title = ""
      end
    end
  end
  return USAGE:format(table.concat(lines))
end

--- True while a parser is looked at and nothing is to be run.
local only_parser = false

--- An argparse parser for a script: wrong usage ends with exit code 2 and one line that
--- says what is wrong.
---@param name string
---@param description string
---@return table parser
function cli.parser(name, description)
  local parser = require "argparse"("obatch " .. name, description):help_max_width(80)
  function parser.error(self, message)
    io.stderr:write(("%s\n\nobatch %s: %s\n"):format(self:get_usage(), name, message))
    os.exit(2, true)
  end
  local parse = parser.parse
  function parser.parse(self, ...)
    if only_parser then error({ parser = self }, 0) end
    return parse(self, ...)
  end
  return parser
end

--- The parser that a command makes. The command runs as far as its parser:parse(), and no further: a script does
--- nothing before that. One that makes no parser by cli.parser() is not run at all.
---@param command string|fun() path of a script, or a function
---@return table? parser lua-argparse's
---@return string? message
function cli.parser_of(command)
  local chunk = command
  if type(command) == "string" then
    local source, message = fs.read(command)
    if not source then return nil, message end
    if not source:find("cli.parser(", 1, true) then return nil, command .. " makes no parser by cli.parser()" end
    chunk, message = load(source, "@" .. command, "t")
    if not chunk then return nil, message end
  end
  only_parser = true
  local ok, stop = pcall(chunk)
  only_parser = false
  if not ok and type(stop) == "table" and stop.parser then return stop.parser end
  return nil, ok and tostring(command) .. " ends before its parser:parse()" or tostring(stop)
end

--- For option values: `parser:option("--n"):convert(cli.positive_integer)`.
---@param word string
---@return integer|nil number
---@return string|nil message
function cli.positive_integer(word)
  local number = math.tointeger(tonumber(word))
  if not number or number < 1 then return nil, ("'%s' is not a whole number above 0"):format(word) end
  return number
end

---@param word string
---@return number|nil number
---@return string|nil message
function cli.positive_number(word)
  local number = tonumber(word)
  if not number or number ~= number or number <= 0 or number == math.huge then
    return nil, ("'%s' is not a number above 0"):format(word)
  end
  return number
end

---@param word string
---@return number|nil seconds
---@return string|nil message
function cli.seconds(word)
  local number = tonumber(word)
  if not number or number ~= number or number < 0 or number == math.huge then
    return nil, ("'%s' is not a number of seconds"):format(word)
  end
  return number
end

--- Says on stderr what is wrong, so that a script can
--- `return cli.fail(1, "...")`. No control character of anybody's words reaches the terminal.
---@param code integer
---@param format string
---@param ... any
---@return integer code  the exit code
function cli.fail(code, format, ...)
  local progress = package.loaded["obatch.progress"] -- what was never loaded shows nothing
  if progress then progress.hide() end
  local words = table.pack(...)
  for i = 1, words.n do
    if type(words[i]) == "string" then words[i] = words[i]:gsub("[^\n\t]+", require "obatch.text".shown) end
  end
  io.stdout:flush() -- what was put out before stays before this, also in one file
  io.stderr:write("obatch: ", format:format(table.unpack(words, 1, words.n)), "\n")
  return code
end

--- What is to be done before the same command can go on.
local FIRST = { ENOSPC = "free some space, then ", EDQUOT = "free some space, then ", EACCES = "mend that, then ",
  EPERM = "mend that, then ", EROFS = "mend that, then ", DAMAGED = "mend that, then ",
  LOCKED = "wait for that, or stop it with Ctrl-C, then " }

--- The exit code of a job that stopped before its end, said on stderr: something in the world is at
--- fault, or the user wants it. Nothing is lost: the journal knows where to go on.
---@param message string
---@param code? string
---@return integer code
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

--- The program's version with what it was built from: "0.1.0 (9ded594a0b)".
---@return string version
function cli.full_version()
  return ("%s (%s)"):format(cli.version, cli.commit ~= "" and cli.commit or "built outside git, commit unknown")
end

--- What --version prints: the program, and each library as it is now.
local function print_version()
  local rex = require "rex_pcre2"
  print("obatch " .. cli.full_version())
  print(cli.libraries.lua:match("Lua [%d.]+"))
  local curl, tls = require "obatch.http".version():match("^libcurl/(%S+)%s+(%S+)")
  print(("libcurl %s with %s"):format(curl, tls))
  print("libmicrohttpd " .. require "obatch.httpd".version())
  print("Nettle " .. cli.libraries.nettle)
  print("lua-cjson " .. require "cjson"._VERSION)
  print("lua-argparse " .. require "argparse".version)
  print(("%s, PCRE2 %s"):format(rex._VERSION, rex.version()))
end

--- Says when a script of the folder that one happens to be in is run instead of the installed one: that may be
--- what the user wants, or what came with somebody's files. The other folders are the user's own.
local function tell_of_shadow(script)
  if script.from == "here" and script.differs then
    io.stderr:write(("obatch: %s is ./%s here, not the installed one\n"):format(script.name, script.path))
  end
end

--- There is no such command: what may have been meant, and where it was looked for.
local function unknown(command)
  local nearest, scripts = require "obatch.nearest", require "obatch.scripts"
  local names, looked = {}, {}
  for name in pairs(cli.BUILT_IN) do names[#names + 1] = name end
  for _, script in ipairs(scripts.list(cli.home)) do names[#names + 1] = script.name end
  table.sort(names)
  for i, folder in ipairs(scripts.folders(cli.home)) do looked[i] = folder.path end
  if command:find("^%-") then names, looked = { "--help", "--version" }, nil end
  local meant = nearest.of(command, names)
  if not looked then
    return cli.fail(2, "no option '%s'%s", command, meant and (": did you mean '%s'?"):format(meant) or "")
  end
  return cli.fail(2, "no script called '%s'%s \"obatch --help\" lists what there is (looked in %s)", command,
    meant and (": did you mean '%s'?"):format(meant) or ".", table.concat(looked, ", "))
end

--- What the host calls.
---@param arg table  argv with .home, .version, .commit and .libraries
---@return integer code  the exit code
function cli.main(arg)
  cli.home, cli.version = fs.absolute(arg.home) or arg.home, arg.version
  cli.commit, cli.libraries = arg.commit, arg.libraries
  forbid_undefined_globals()
  local command = arg[1]
  local rest = table.move(arg, 2, #arg, 1, {})
  if command == "help" then command, rest = rest[1] or "--help", { "--help" } end

  if not command then
    io.stderr:write(usage())
    return 2
  elseif command == "--help" or command == "-h" then
    io.write(usage())
    return 0
  elseif command == "--version" then
    print_version()
    return 0
  elseif command == "repl" then
    return require "obatch.repl".main(rest)
  elseif command == "run" then
    if not rest[1] then return cli.fail(2, "which file? Usage: obatch run FILE [ARGUMENTS]") end
    if rest[1] == "--help" or rest[1] == "-h" then
      print("Usage: obatch run FILE [ARGUMENTS]\n\nRuns a Lua script with everything that obatch has: "
        .. "require \"obatch.json\" and so on.\n\nExample:\n  obatch run my_script.lua Cleaned_results")
      return 0
    end
    local path = table.remove(rest, 1)
    if not fs.stat(path) then return cli.fail(2, "%s: there is no such file", path) end
    return run_file(path, rest)
  end
  local script = require "obatch.scripts".find(cli.home, command)
  if not script then return unknown(command) end
  tell_of_shadow(script)
  return run_file(script.path, rest)
end

return cli
