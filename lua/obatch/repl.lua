--- `obatch repl`: Lua with the project's modules and ready-made objects at hand, for looking at batches, jobs and
--- result lines. On a terminal it is a session; `-e CODE` and a script on stdin run and end.

local cli = require "obatch.cli"
local complete = require "obatch.repl.complete"
local fs = require "obatch.fs"
local help = require "obatch.repl.help"
local json = require "obatch.json"
local nearest = require "obatch.nearest"
local objects = require "obatch.repl.objects"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local show = require "obatch.repl.show"
local stream = require "obatch.repl.stream"
local term = require "obatch.term"
local text = require "obatch.text"

local repl = {}

local MODULES = { "json", "jsonl", "http", "fs", "term", "openai" }
local OBJECTS = { "batches", "batch", "job", "results", "requests" }
local MAX_FRAMES = 6 -- of a traceback

-- ---------------------------------------------------------------- what a session has

--- print(), but that a terminal gets nothing to obey, and that it raises when nobody reads on.
local function safe_print(...)
  local words = table.pack(...)
  for i = 1, words.n do words[i] = tostring(words[i]) end
  local line = table.concat(words, "\t")
  if term.isatty(1) then line = show.safe(line) end
  progress.hide()
  local ok, message, number = io.stdout:write(line, "\n")
  if not ok then stream.check(nil, "stdout: " .. message, number == 32 and "EPIPE" or "EIO") end
end

--- Functions of Lua's own that catch errors: after Ctrl-C they pass it on, so that no loop around them goes on.
local function passing_on(catch)
  local function pass_on(...)
    if term.interrupted() then error("interrupted", 0) end
    return ...
  end
  return function(...) return pass_on(catch(...)) end
end

--- Instructions of a coroutine between two looks at whether to stop: Ctrl-C reaches the main thread only.
local COROUTINE_STEPS = 10000

local function stop_if_interrupted()
  if term.interrupted() then error("interrupted", 0) end
end

local function new_coroutines()
  local own = {}
  for name, value in pairs(coroutine) do own[name] = value end
  function own.create(fn)
    local thread = coroutine.create(fn)
    debug.sethook(thread, stop_if_interrupted, "", COROUTINE_STEPS)
    return thread
  end
  function own.wrap(fn)
    local thread = own.create(fn)
    local function pass_on(ok, ...)
      if ok then return ... end
      coroutine.close(thread)
      error((...), 0)
    end
    return function(...) return pass_on(coroutine.resume(thread, ...)) end
  end
  return own
end

--- Names of the locals of earlier lines, which are gone.
local gone = {}

local function note_locals(code)
  for names in ("\n" .. code):gmatch("[\n;]%s*local%s+([%a_][%w_,%s]*)") do
    for name in names:gmatch("[%a_][%w_]*") do gone[name] = true end
  end
end

local function undefined(session, name)
  if gone[name] then
    error(("undefined variable '%s': a local lasts for its line only; leave out the word local"):format(name), 3)
  end
  local names = {}
  for _, scope in ipairs { session, _G } do
    for key in next, scope do
      if type(key) == "string" and key ~= "_" then names[#names + 1] = key end
    end
  end
  local meant = nearest.of(tostring(name), names)
  error(("undefined variable '%s'%s"):format(text.shown(tostring(name)), meant and "; near it: " .. meant or ""), 3)
end

--- What a session sees: its own globals, the modules and objects, and everything Lua has.
local function new_session(is_interactive)
  local session, named = {}, table.move(objects.NAMED, 1, #objects.NAMED, 1, {})
  for _, name in ipairs(MODULES) do session[name] = require("obatch." .. name) end
  for _, name in ipairs(OBJECTS) do
    session[name] = objects[name]
    named[#named + 1] = { name = name, value = objects[name], within = "obatch repl" }
  end
  function session.help(subject)
    local ok, words = pcall(help.text, subject, math.min((term.size()), 100), named)
    if not ok then stream.check(nil, words) end
    io.stdout:write(words)
  end
  session.print = safe_print
  for _, name in ipairs { "help", "print" } do named[#named + 1] = { name = name, value = session[name] } end
  if is_interactive then
    session.pcall, session.xpcall, session.coroutine = passing_on(pcall), passing_on(xpcall), new_coroutines()
  end
  session._ = json.null
  return setmetatable(session, { named = named, __index = function(_, name)
    local value = rawget(_G, name)
    if value == nil then undefined(session, name) end
    return value
  end })
end

-- ---------------------------------------------------------------- running code

--- The chunk of an expression or of statements | nil, message, whether more lines could complete it.
local function compile(code, name, session)
  code = code:gsub("^%s*=", "return ") -- as Lua 5.2 wants it, and many a hand
  local chunk, as_value = load("return " .. code, name, "t", session)
  if chunk then return chunk end
  local as_statement
  chunk, as_statement = load(code, name, "t", session)
  if chunk then return chunk end
  local incomplete = (as_value .. as_statement):find("near <eof>", 1, true) ~= nil
  return nil, as_statement, incomplete
end

--- The method that was meant by a misspelt one of an object of the session.
local function near_method(message)
  local typed = message:match("attempt to call a nil value %(method '([%w_]+)'%)$")
  if not typed then return "" end
  local names, whole = {}, {}
  for _, entry in ipairs(objects.NAMED) do
    for name, value in next, entry.value do
      if type(value) == "function" and not whole[name] and not name:find("^_") then
        names[#names + 1], whole[name] = name, entry.prefix .. name .. "()"
      end
    end
  end
  table.sort(names)
  local meant = nearest.of(typed, names)
  return meant and "; near it: " .. whole[meant] or ""
end

--- The message and the frames that belong to the user, without the ones that are always there. A failure of the
--- world needs no frames.
local function traceback(message)
  if term.interrupted() then return "interrupted" end
  if getmetatable(message) == stream.Failure then return message end
  message = type(message) == "string" and show.safe(message) .. near_method(message) or show.value(message, 200)
  local lines, is_user = {}, false
  for frame in debug.traceback("", 2):gmatch("\n\t([^\n]+)") do
    if frame:find("obatch/repl.lua:", 1, true) then
      if is_user then break end -- what called the chunk
      lines = {}                -- what looked up a name for it
    elseif not frame:find("obatch/repl/", 1, true) then
      is_user = is_user or not frame:find("^%[C%]")
      lines[#lines + 1] = "  " .. show.safe(frame):gsub(" in upvalue 'chunk'$", " in the code given")
    end
  end
  if #lines > MAX_FRAMES then lines[MAX_FRAMES + 1] = "  …" end
  table.insert(lines, 1, message)
  return table.concat(lines, "\n", 1, math.min(#lines, MAX_FRAMES + 2))
end

--- Places on a line of what no terminal shows.
local PIPE_WIDTH = 200

local function print_values(values, named)
  local width, rows = term.size()
  if not term.isatty(1) then width, rows = PIPE_WIDTH, nil end
  if values.n == 3 and values[1] == nil and type(values[2]) == "string" and type(values[3]) == "string"
    and values[3]:find("^[A-Z_%d]+$") then
    return safe_print(("nil: %s (%s)"):format(show.safe(values[2]), values[3]))
  end
  for i = 1, values.n do
    local name = i == 1 and type(values[1]) == "function" and help.name(values[1], named)
    safe_print(name and ("function %s; help(_) tells more"):format(name) or show.value(values[i], width, rows))
  end
end

--- Runs a chunk and prints its values; the first of them becomes `_`. true | nil, message, CODE.
local function run(chunk, session, is_quiet)
  local shown <close> = progress.new { quiet = is_quiet } -- luacheck: ignore
  local ok, message = xpcall(function()
    local values = table.pack(chunk())
    if values.n == 0 or term.interrupted() then return end
    session._ = values[1]
    print_values(values, getmetatable(session).named)
  end, traceback)
  io.stdout:flush()
  if ok then return true end
  return nil, tostring(message), type(message) == "table" and message.code or nil
end

--- Runs code that comes as a whole; returns the exit code.
local function run_once(session, code, name)
  local chunk, message = compile(code, name, session)
  local ok, reason = chunk, nil
  if chunk then ok, message, reason = run(chunk, session, true) end
  if term.interrupted() then error("interrupted", 0) end
  if ok then return 0 end
  return reason == "EPIPE" and 1 or cli.fail(1, "%s", message)
end

-- ---------------------------------------------------------------- the session

--- $XDG_STATE_HOME/obatch/history, whose folder it makes; nil, message when there is no place for it.
local function history_path()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if not state or state:sub(1, 1) ~= "/" then
    if not home then return nil, "there is no HOME" end
    state = home .. "/.local/state"
  end
  local folder = state .. "/obatch"
  local ok, message = fs.mkdir(folder)
  if not ok then return nil, message end
  return folder .. "/history"
end

--- A line, with Tab answered: text | nil | nil, "interrupted".
local function read_line(editor, prompt, session)
  local before
  while true do
    local line, typed, code = editor:line(prompt)
    if code ~= "TAB" then return line, typed end
    local width, rows = term.size()
    local ok, insertion, list = pcall(complete.answer, typed, { session, _G }, typed == before, width, rows,
      objects.known_words())
    if ok then
      if insertion then editor:insert(insertion) end
      if list then editor:list(list) end
      before = typed .. (insertion or "")
    elseif not term.interrupted() then -- else line() returns at once, and drops the line
      error(insertion, 0)
    end
  end
end

--- Lines until they are a whole chunk: code, chunk | code, nil, message | nil at the end of input.
--- Raises, or returns nil, "interrupted", at Ctrl-C.
local function read_chunk(editor, session)
  local code
  while true do
    local line, stopped = read_line(editor, code and ".. " or "> ", session)
    if not line then return nil, stopped end
    code = code and code .. "\n" .. line or line
    local chunk, message, incomplete = compile(code, "=repl", session)
    if not incomplete then return code, chunk, message end
  end
end

--- Whether the session may go on after a Ctrl-C; SIGTERM and SIGHUP end it.
local function go_on(words)
  local goes_on = term.resume()
  print(words)
  return goes_on
end

--- Lines that are no Lua, but that hands type who know other programs: whether to end, or what runs instead.
local function habit(code, session)
  local word = code:match("^%s*([%a?]+)%s*;?%s*$") or code:match("^%s*([%a]+)%s*%(%s*%)%s*$")
  if (word == "exit" or word == "quit") and rawget(session, word) == nil then return true end
  if word == "?" or word == "help" then return false, session.help end
  local subject = code:match("^%s*help%s+([%w_.:%-]+)%s*$")
  if subject then return false, function() session.help(subject) end end
end

--- Reads a chunk and runs it: nil, or the exit code when the session is over.
local function step(editor, session, notes)
  local code, chunk, message = read_chunk(editor, session)
  if term.interrupted() then return not go_on("") and 130 or nil end
  if not code then
    print()
    return 0
  end
  if not code:find("%S") then return nil end
  local ok, lost = editor:add(code)
  if not ok and not notes.history then
    notes.history = lost
    print("the history is not kept: " .. show.safe(lost))
  end
  local is_end, instead = habit(code, session)
  if is_end then return 0 end
  chunk, ok = instead or chunk, nil
  if chunk then ok, message = run(chunk, session) end
  if term.interrupted() then return not go_on("interrupted") and 130 or nil end
  if ok then note_locals(code) else print(show.safe(message)) end
end

local function interact(session, banner)
  local signals <close> = term.session() -- luacheck: ignore
  local path, lost = history_path()
  local editor <close> = term.editor { history = path }
  print(banner)
  if lost then print("the history is not kept: " .. show.safe(lost)) end
  local notes = {}
  while true do
    -- the error of a Ctrl-C can come at any instruction, as long as nobody has resumed
    local ok, code = pcall(step, editor, session, notes)
    if ok and code then return code end
    if not ok and not term.interrupted() then error(code, 0) end
    if not ok and not go_on("interrupted") then return 130 end
  end
end

--- Opens a folder: as `j` where it is a job. Returns what it is, in words; nil, exit code when it cannot be opened.
local function open_folder(dir, session, options)
  local kind, words = objects.describe(dir)
  if kind and kind ~= "job" then -- as download and deep_clean have it
    objects.set_up(options, setmetatable({ expect = "text", allow_blank = true }, { __index = policy }))
    return ("%s is %s."):format(text.shown(dir), words)
  end
  if (fs.stat(dir) or {}).type == "file" then
    local shown = text.shown(dir)
    return nil, cli.fail(2, dir:find("%.lua$") and "%s is no folder; a script runs by: obatch run %s"
      or "%s is no folder; in a session results or requests opens a file: obatch repl -e 'results %q'", shown, shown)
  end
  local ok, found = pcall(objects.job, dir)
  if not ok then return nil, cli.fail(2, "%s", tostring(found)) end
  objects.set_up(options, found.rules)
  session.j = found
  return "j is the " .. tostring(found) .. "."
end

--- `obatch repl [DIR] [-e CODE]`.
---@param arguments string[]
---@return integer code of the exit
function repl.main(arguments)
  local parser = cli.parser("repl", "Lua with the modules of obatch, and batches, jobs and files of results as "
    .. "objects: a session on a terminal, else the script on standard input.")
  parser:argument("dir", "Open this folder: a job is then the variable j."):argname("DIR"):args("?")
  parser:option("-e --execute", "Run this code, print its values, and end. May be given again."):argname("CODE")
    :count("*")
  openai.options(parser)
  parser:epilog [[
Example:
  obatch repl
  obatch repl Cleaned_results
  obatch repl Cleaned_results -e 'j:class "truncated"'
  obatch repl -e 'results "first_job/final_results.jsonl":count "class"'

In a session, help() tells more, Tab completes names and paths, Ctrl-C stops
what runs, and Ctrl-D ends.

Exit codes: 0 done; 1 the code failed; 2 wrong usage, or no such folder;
130 interrupted.]]
  local options = parser:parse(arguments)
  objects.set_up(options, policy)
  local is_interactive = #options.execute == 0 and term.isatty(0) and term.isatty(1)
  local session = new_session(is_interactive)
  local opened, code
  if options.dir then
    opened, code = open_folder(options.dir, session, options)
    if not opened then return code end
  end
  for i, words in ipairs(options.execute) do
    code = run_once(session, words, "=-e")
    if code ~= 0 or i == #options.execute then return code end
  end
  if not is_interactive then return run_once(session, io.read("a"):gsub("^#[^\n]*", ""), "=stdin") end
  local banner = "obatch %s. help() tells what there is, Tab completes, Ctrl-C stops what runs, Ctrl-D ends.%s"
  return interact(session, banner:format(cli.version, opened and "\n" .. opened or ""))
end

return repl
