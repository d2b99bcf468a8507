--- What Tab does: the names that could stand where the cursor is. It only ever looks into tables: no function of
--- anybody is called for it, no __index or __pairs.

local columns = require "obatch.columns"
local fs = require "obatch.fs"

local complete = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then
  true until while]]):gmatch("%a+") do KEYWORDS[word] = true end

--- Tables behind one another (__index) that are looked into; a ring of them comes to an end.
local MAX_DEPTH = 10

-- ---------------------------------------------------------------- values

--- The value's own table of fields, and those behind it that its __index names.
local function tables_of(value)
  local found, depth = {}, 0
  if type(value) == "table" then found[1] = value end
  local meta = debug.getmetatable(value)
  while type(meta) == "table" and depth < MAX_DEPTH do
    local index = rawget(meta, "__index")
    if type(index) ~= "table" then break end
    found[#found + 1] = index
    meta, depth = debug.getmetatable(index), depth + 1
  end
  return found
end

local function field(value, key)
  for _, object in ipairs(tables_of(value)) do
    local found = rawget(object, key)
    if found ~= nil then return found end
  end
end

local function can_be_called(value)
  if type(value) == "function" then return true end
  local meta = debug.getmetatable(value)
  return type(meta) == "table" and rawget(meta, "__call") ~= nil
end

--- Adds the names that begin with `word` to a set. Names that begin with "_" are shown to who asks for them.
local function add_names(names, object, word, only_calls)
  for key, value in next, object do
    if type(key) == "string" and key:sub(1, #word) == word and key:find("^[%a_][%w_]*$") and not KEYWORDS[key]
      and (word ~= "" or key:sub(1, 1) ~= "_") and (not only_calls or can_be_called(value)) then
      names[key] = true
    end
  end
end

--- The value that an expression of names, fields and constant indices has; nil when it is anything else, or has
--- none. Nothing is called for it.
local function evaluate(code, scopes)
  local rest, name = code:match("^(.*)%.%s*([%a_][%w_]*)%s*$")
  if rest and not rest:find("%.$") then
    local value = evaluate(rest, scopes)
    return value ~= nil and field(value, name) or nil
  end
  local key
  rest, key = code:match("^(.*)%[%s*(%d+)%s*%]%s*$")
  if not rest then rest, name = code:match("^(.*)%[%s*[\"']([^\"'\\]*)[\"']%s*%]%s*$") end
  if rest then
    local value = evaluate(rest, scopes)
    return value ~= nil and field(value, key and math.tointeger(tonumber(key)) or name) or nil
  end
  local before
  before, name = code:match("^(.-)([%a_][%w_]*)%s*$")
  if not name or before:find("[.:]%s*$") and not before:find("%.%.%s*$") then return nil end
  for _, scope in ipairs(scopes) do
    local value = rawget(scope, name)
    if value ~= nil then return value end
  end
end

-- ---------------------------------------------------------------- where the cursor is

--- What a piece of code ends in: "code"; "string" with what is in it so far and its quote; or nil where there is
--- nothing to complete (a comment, a long string).
local function place_of(code)
  local at = 1
  while true do
    local from, _, mark = code:find("([\"'%-%[])", at)
    if not from then return "code" end
    if mark == '"' or mark == "'" then
      local stop = from + 1
      while true do
        local found, _, char = code:find("([\\" .. mark .. "])", stop)
        if not found then return "string", code:sub(from + 1), mark end
        if char == mark then
          at = found + 1
          break
        end
        stop = found + 2
      end
    else
      local long = code:match("^%-%-%[(=*)%[", from) or code:match("^%[(=*)%[", from)
      if long then
        local _, stop = code:find("]" .. long .. "]", from, true)
        if not stop then return nil end
        at = stop + 1
      elseif code:sub(from, from + 1) == "--" then
        local newline = code:find("\n", from, true)
        if not newline then return nil end
        at = newline + 1
      else
        at = from + 1
      end
    end
  end
end

--- A file name as it is written between quotes: what is not printable, or no UTF-8, by its number.
local function as_lua(name, mark)
  local escaped = name:gsub("[%c\\" .. mark .. "]", function(char)
    return char:find("%c") and ("\\x%02x"):format(char:byte()) or "\\" .. char
  end)
  if utf8.len(escaped) then return escaped end
  return (escaped:gsub("[\x80-\xFF]", function(byte) return ("\\x%02x"):format(byte:byte()) end))
end

--- The files whose path goes on from `typed`, as they are written between quotes.
local function paths(typed, mark)
  local folder, base = typed:match("^(.*/)([^/]*)$")
  folder, base = folder or "", base or typed
  if base:find("\\", 1, true) then return base, {} end
  local names = {}
  local real = folder:gsub("\\(.)", "%1")
  for _, name in ipairs(fs.list(real == "" and "." or real) or {}) do
    if name:sub(1, #base) == base and (base ~= "" or name:sub(1, 1) ~= ".") then
      local stat = fs.stat(real .. name)
      local is_folder = stat and stat.type == "dir"
      names[#names + 1] = as_lua(name, mark) .. (is_folder and "/" or "")
    end
  end
  return base, names
end

--- What could stand at the end of a piece of code.
---@param code string what is before the cursor
---@param scopes table[] where globals are, the first one first
---@param words string[]? other things that a string may be, such as ids
---@return string word the part that is there already
---@return string[] names whole ones, in order, each beginning with `word`
---@return string? mark the quote that ends them, in a string
function complete.find(code, scopes, words)
  local place, inside, mark = place_of(code)
  if place == "string" then
    local word, names = paths(inside, mark)
    for _, other in ipairs(words or {}) do
      if inside ~= "" and other:sub(1, #inside) == inside then word, names[#names + 1] = inside, other end
    end
    table.sort(names)
    return word, names, mark
  elseif not place then
    return "", {}
  end

  local names = {}
  local before, word = code:match("^(.-)([%a_][%w_]*)$")
  before, word = before or code, word or ""
  local object, mark_of_field = before:match("^(.*[^.:%s])%s*([.:])%s*$")
  if object then
    local value = evaluate(object, scopes)
    if value ~= nil then
      for _, each in ipairs(tables_of(value)) do add_names(names, each, word, mark_of_field == ":") end
    end
  elseif not before:find("[.:]%s*$") or before:find("%.%.%s*$") then
    if before:find("%d$") then return "", {} end -- 0x1f, 1e
    for _, scope in ipairs(scopes) do add_names(names, scope, word) end
    for keyword in pairs(KEYWORDS) do
      if word ~= "" and keyword:sub(1, #word) == word then names[keyword] = true end
    end
  end
  local list = {}
  for name in pairs(names) do list[#list + 1] = name end
  table.sort(list)
  return word, list
end

-- ---------------------------------------------------------------- what Tab shows

--- The longest beginning that all have in common, never ending inside a character.
local function common(names)
  local first, last = names[1], names[#names]
  local length = 0
  while length < math.min(#first, #last) and first:byte(length + 1) == last:byte(length + 1) do length = length + 1 end
  while length > 0 and first:find("^[\x80-\xBF]", length + 1) do length = length - 1 end
  return first:sub(1, length)
end

--- Names in columns, down the first, then down the next; cut to the screen.
---@param names string[]
---@param width integer
---@param rows integer
---@return string
function complete.list(names, width, rows)
  local widest = 0
  for _, name in ipairs(names) do widest = math.max(widest, columns.places(name)) end
  widest = math.min(widest, width)
  local across = math.max(1, (width + 2) // (widest + 2))
  local most = math.max(rows - 4, 3)
  local down = math.min(math.ceil(#names / across), most)
  local lines = {}
  for row = 1, down do
    local cells = {}
    for column = 1, across do
      local name = names[(column - 1) * down + row]
      if not name then break end
      name = columns.cut(name, widest)
      local pad = column < across and names[column * down + row] and widest + 2 - columns.places(name) or 0
      cells[column] = name .. (" "):rep(pad)
    end
    lines[row] = table.concat(cells)
  end
  if #names > down * across then lines[#lines + 1] = ("… %d more"):format(#names - down * across) end
  return table.concat(lines, "\n")
end

--- What Tab does at the end of a piece of code: text to insert (nil: none), and a list to show (nil: none), which
--- is for the second Tab in a row.
---@param code string
---@param scopes table[]
---@param again boolean whether Tab was pressed before, at the same place
---@param width integer of the screen
---@param rows integer of the screen
---@param words string[]? see find
---@return string? insertion
---@return string? list
function complete.answer(code, scopes, again, width, rows, words)
  if not code:find("[^\n]*%S[^\n]*$") then return "  " end -- at the beginning of a line it indents
  local word, names, mark = complete.find(code, scopes, words)
  if #names == 0 then return nil end
  local insertion = common(names):sub(#word + 1)
  if #names == 1 and mark and insertion:sub(-1) ~= "/" and names[1]:sub(-1) ~= "/" then
    insertion = insertion .. mark
  end
  if insertion ~= "" then return insertion end
  return nil, again and #names > 1 and complete.list(names, width, rows) or nil
end

return complete
