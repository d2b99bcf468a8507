--- `obatch repl`: Lua with the project's modules at hand, for looking at batches, files and result
--- lines. On a terminal it is a session; `-e CODE` and a script on stdin run and end.

local cli = require "obatch.cli"
local fs = require "obatch.fs"
local json = require "obatch.json"
local term = require "obatch.term"

local repl = {}

local MODULES = { "json", "jsonl", "http", "fs", "term", "openai" }
local MAX_ENTRIES = 40 -- of a table, one per line
local MAX_FRAMES = 6 -- of a traceback

-- ---- showing values ----

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function escape_bytes(bytes)
  return (bytes:gsub(".", function(byte) return ("\\x%02x"):format(byte:byte()) end))
end

--- Text as a Lua string that a terminal can show: no control characters, no bytes that are not UTF-8.
local function quote(text)
  local parts, from = {}, 1
  while from <= #text do
    local _, bad = utf8.len(text, from)
    local good = text:sub(from, (bad or #text + 1) - 1)
    parts[#parts + 1] = good:gsub('[%c\\"]', function(char) return ESCAPES[char] or escape_bytes(char) end)
      :gsub("\xc2[\x80-\x9f]", escape_bytes) -- C1: terminals obey them too
    if bad then parts[#parts + 1] = escape_bytes(text:sub(bad, bad)) end
    from = bad and bad + 1 or #text + 1
  end
  return '"' .. table.concat(parts) .. '"'
end

--- The first `width` characters of shown text, the last three being dots when there were more.
local function cut(text, width)
  if utf8.len(text) <= width then return text end
  return text:sub(1, utf8.offset(text, math.max(width - 2, 1)) - 1) .. "..."
end

local function show_string(text, width)
  local quoted = quote(#text > 4 * width and text:sub(1, 4 * width) or text)
  if #text <= 4 * width and utf8.len(quoted) <= width then return quoted end
  local size = (" (%d bytes)"):format(#text)
  return cut(quoted, math.max(width - #size, 8)) .. size
end

local function show_key(key)
  if type(key) == "string" then return key:find("^[%a_][%w_]*$") and key or "[" .. quote(key) .. "]" end
  return "[" .. tostring(key) .. "]"
end

--- Numbers in order, then strings in order, then the rest.
local function sorted_keys(object)
  local rank = { number = 1, string = 2 }
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b)
    local x, y = rank[type(a)] or 3, rank[type(b)] or 3
    if x ~= y then return x < y end
    if x == 3 then return tostring(a) < tostring(b) end
    return a < b
  end)
  return keys
end

local show

--- The entries of a table as text, the list part without keys.
local function show_entries(object, width, levels)
  local entries, length = {}, #object
  for _, key in ipairs(sorted_keys(object)) do
    local name = math.type(key) == "integer" and key >= 1 and key <= length and "" or show_key(key) .. " = "
    entries[#entries + 1] = name .. show(object[key], math.max(width - #name, 20), levels)
    if #entries > MAX_ENTRIES then break end
  end
  return entries
end

local function size_of(object)
  local size = 0
  for _ in pairs(object) do size = size + 1 end
  return size
end

--- A value on one line; tables down to `levels` of them.
function show(value, width, levels)
  if value == json.null then return "null" end
  if type(value) == "string" then return show_string(value, width) end
  local meta = getmetatable(value)
  if type(value) ~= "table" or type(meta) == "table" and meta.__tostring then
    return (quote(tostring(value)):sub(2, -2))
  end
  if next(value) == nil then return json.is_array(value) and "json.array{}" or "{}" end
  if levels == 0 then return ("{... %d}"):format(size_of(value)) end
  return "{ " .. table.concat(show_entries(value, width, levels - 1), ", ") .. " }"
end

--- What the session prints for a value: lines of at most `width` characters.
function repl.show(value, width)
  local line = show(value, width, 2)
  if utf8.len(line) <= width or line:sub(1, 2) ~= "{ " then return line end
  local lines = { "{" }
  for i, entry in ipairs(show_entries(value, width - 3, 1)) do
    if i > MAX_ENTRIES then
      lines[#lines + 1] = ("  ... %d more"):format(size_of(value) - MAX_ENTRIES)
    else
      lines[#lines + 1] = "  " .. cut(entry, width - 3) .. ","
    end
  end
  lines[#lines + 1] = "}"
  return table.concat(lines, "\n")
end

-- ---- running code ----

--- What a session sees: its own globals, the modules, and everything Lua has.
local function new_session()
  local session = setmetatable({}, { __index = _G })
  for _, name in ipairs(MODULES) do
    local found, module = pcall(require, "obatch." .. name)
    if found then session[name] = module end
  end
  session._ = json.null
  return session
end

--- The chunk of an expression or of statements | nil, message, whether more lines could complete it.
local function compile(code, name, session)
  local chunk, as_value = load("return " .. code, name, "t", session)
  if chunk then return chunk end
  local as_statement
  chunk, as_statement = load(code, name, "t", session)
  if chunk then return chunk end
  local incomplete = (as_value .. as_statement):find("near <eof>", 1, true) ~= nil
  return nil, as_statement, incomplete
end

--- The message and the frames that belong to the user, without the ones that are always there.
local function traceback(message)
  message = type(message) == "string" and message or show(message, 200, 1)
  local frames = debug.traceback("", 2):gsub("\n[^\n]*obatch/repl%.lua:.*$", "")
  local lines = {}
  for frame in frames:gmatch("\n\t([^\n]+)") do
    lines[#lines + 1] = "  " .. frame:gsub(" in upvalue 'chunk'$", " in the code given")
  end
  if #lines > MAX_FRAMES then lines[MAX_FRAMES + 1] = "  ..." end
  table.insert(lines, 1, message)
  return table.concat(lines, "\n", 1, math.min(#lines, MAX_FRAMES + 2))
end

--- Runs a chunk and prints its values; the first of them becomes `_`. true | nil, message.
local function run(chunk, session)
  local ok, message = xpcall(function()
    local values = table.pack(chunk())
    if values.n == 0 or term.interrupted() then return end
    session._ = values[1]
    local width = term.size()
    for i = 1, values.n do print(repl.show(values[i], width)) end
  end, traceback)
  io.stdout:flush()
  if ok then return true end
  return nil, message
end

--- Runs code that comes as a whole; returns the exit code.
local function run_once(code, name)
  local session = new_session()
  local chunk, message = compile(code, name, session)
  local ok = chunk
  if chunk then ok, message = run(chunk, session) end
  if term.interrupted() then error("interrupted", 0) end
  if ok then return 0 end
  return cli.fail(1, "%s", message)
end

-- ---- the session ----

--- $XDG_STATE_HOME/obatch/history, whose folder it makes; nil when there is no place for it.
local function history_path()
  local state, home = os.getenv("XDG_STATE_HOME"), os.getenv("HOME")
  if not state or state:sub(1, 1) ~= "/" then
    if not home then return nil end
    state = home .. "/.local/state"
  end
  local folder = state .. "/obatch"
  return fs.mkdir(folder) and folder .. "/history" or nil
end

--- Lines until they are a whole chunk: code, chunk | code, nil, message | nil at the end of input.
--- Raises, or returns nil, "interrupted", at Ctrl-C.
local function read_chunk(editor, session)
  local code
  while true do
    local line, stopped = editor:line(code and ".. " or "> ")
    if not line then return nil, stopped end
    code = code and code .. "\n" .. line or line
    local chunk, message, incomplete = compile(code, "=repl", session)
    if not incomplete then return code, chunk, message end
  end
end

--- Whether the session may go on after a Ctrl-C; SIGTERM and SIGHUP end it.
local function go_on(words)
  print(words)
  return term.resume()
end

local function interact()
  local session = new_session()
  local editor <close> = term.editor { history = history_path() }
  print(("obatch %s. Ready: %s; _ is the last value. Ctrl-C stops what runs, Ctrl-D ends."):format(cli.version,
    table.concat(MODULES, ", ")))
  while true do
    local ok, code, chunk, message = pcall(read_chunk, editor, session)
    if term.interrupted() then
      if not go_on("") then return 130 end
    elseif not ok then
      error(code, 0)
    elseif not code then
      print()
      return 0
    elseif code:find("%S") then
      editor:add(code)
      if chunk then ok, message = run(chunk, session) end
      if term.interrupted() then
        if not go_on("interrupted") then return 130 end
      elseif not (chunk and ok) then
        print(message)
      end
    end
  end
end

--- `obatch repl [-e CODE]`; returns the exit code.
function repl.main(arguments)
  local parser = cli.parser("repl", "Lua with " .. table.concat(MODULES, ", ") ..
    " at hand: a session on a terminal, else the script on standard input.")
  parser:option("-e --execute", "Run this code, print its values, and end."):argname("CODE")
  local options = parser:parse(arguments)
  if options.execute then return run_once(options.execute, "=-e") end
  if term.isatty(0) and term.isatty(1) then return interact() end
  return run_once(io.read("a"), "=stdin")
end

return repl
