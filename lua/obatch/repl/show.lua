--- How a session prints values: readable, cut to the screen, and never as control characters, whoever wrote them.

local columns = require "obatch.columns"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"

local show = {}

--- Entries of a table, one a line, where nobody says how many lines there are.
local MAX_ENTRIES = 40

--- Keys of a table that are put in order; of a larger one, these are the first that come.
local MAX_SORTED = 10000

--- The longest line that is looked into for a request or a result, in bytes.
local MAX_LINE = 20 * 1000 * 1000

--- An object says how it is shown by a function `__display(object, width, rows)` in its metatable, which returns
--- text, lines of at most `width` places; elsewhere than at the prompt it is shown by its __tostring.

-- ---------------------------------------------------------------- strings

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function escape_bytes(bytes)
  return (bytes:gsub(".", function(byte) return ("\\x%02x"):format(byte:byte()) end))
end

--- What turns the direction of what follows, or breaks the line, is escaped like a control character.
local function escape_marks(shown)
  return (shown:gsub("\xC2[\x80-\x9F]", escape_bytes):gsub("\xE2\x80[\x8E\x8F\xA8-\xAE]", escape_bytes)
    :gsub("\xE2\x81[\xA6-\xA9]", escape_bytes))
end

--- `words` with `escape` called for each run of bytes that are not UTF-8.
local function only_utf8(words, of_good)
  local parts, from = {}, 1
  while from <= #words do
    local _, bad = utf8.len(words, from)
    local good = words:sub(from, (bad or #words + 1) - 1)
    parts[#parts + 1] = escape_marks((good:gsub("[%c\\\"]", of_good)))
    if bad then parts[#parts + 1] = escape_bytes(words:sub(bad, bad)) end
    from = bad and bad + 1 or #words + 1
  end
  return table.concat(parts)
end

--- A string as Lua would write it, fit for a terminal.
---@param words string
---@return string
function show.quote(words)
  return '"' .. only_utf8(words, function(char) return ESCAPES[char] or escape_bytes(char) end) .. '"'
end

local function keep_layout(char)
  if char:find('[\n\t\\"]') then return char end
  return ESCAPES[char] or escape_bytes(char)
end

--- A text as it is, line breaks and tabs included, but for what a terminal would obey.
---@param words string
---@return string
function show.safe(words)
  return only_utf8(words, keep_layout)
end

--- The first words of a text of any length, on one line of at most so many places.
---@param words string
---@param places integer
---@return string quoted
function show.words(words, places)
  local head = #words > 4 * places and words:sub(1, 4 * places) or words
  local whole = #head == #words
  if not whole then head = head:gsub("[\xC0-\xFF][\x80-\xBF]*$", "") end -- no character is cut in two
  local quoted = show.quote(head)
  if whole and columns.places(quoted) <= places then return quoted end
  return columns.cut(quoted, math.max(places - 1, 2)):gsub('"?…?$', "") .. '…"'
end

local function show_string(words, width)
  local quoted = show.words(words, width)
  if not quoted:find('…"$') then return quoted end
  local size = (" (%d bytes)"):format(#words)
  return show.words(words, math.max(width - #size, 8)) .. size
end

-- ---------------------------------------------------------------- lines of requests and results

--- The rules by which result lines are judged that are only looked at: those of the folder that is open.
show.rules = policy

--- The words of a request: the text of its last message, or its input.
---@param line string
---@return string?
function show.asked(line)
  local input = json.get(line, "/body/input")
  local content = input
  for n = 0, 1000 do
    local pointer = ("/body/%s/%d"):format(type(input) == "table" and "input" or "messages", n)
    if not json.raw(line, pointer) then break end
    content = json.get(line, pointer .. "/content")
  end
  if type(content) == "string" then return content end
  local parts = {}
  for _, part in ipairs(type(content) == "table" and content or {}) do
    if type(part) == "table" and type(part.text) == "string" then parts[#parts + 1] = part.text end
  end
  return parts[1] and table.concat(parts, "\n")
end

--- A batch's line in a few words: "result", custom_id, class, status, tokens, the first words of the answer; or
--- "request", custom_id, model, endpoint, the first words. nil for any other text.
---@param line string
---@param width integer
---@return string?
function show.line(line, width)
  if #line > MAX_LINE or not line:find('^%s*{.*}%s*$') or not line:find('"custom_id"', 1, true) then return nil end
  local record, size = outcome.record(line), (" (%d bytes)"):format(#line)
  local id = record and record.custom_id
  if type(id) ~= "string" then return nil end
  local head, words
  if json.raw(line, "/response") or json.raw(line, "/error") then
    local judged, status = outcome.judge(record, show.rules), record.status
    head = ("result %s: %s (%s), %d + %d tokens"):format(show.quote(id):sub(2, -2), judged.class,
      math.type(status) and ("%.0f"):format(status) or "no answer", judged.tokens_in, judged.tokens_out)
    words = outcome.text(record)
    if judged.class ~= "valid" then words = judged.reason .. (words and ": " .. words or "") end
  elseif json.raw(line, "/body") then
    local asked = json.find(line, { model = "/body/model", url = "/url" })
    head = ("request %s: %s, %s"):format(show.quote(id):sub(2, -2), show.quote(tostring(asked.model)):sub(2, -2),
      show.quote(tostring(asked.url)):sub(2, -2))
    words = show.asked(line)
  else
    return nil
  end
  local room = width - columns.places(head) - #size - 2
  if words and room >= 12 then head = head .. ", " .. show.words(words, room) end
  return columns.cut(head, math.max(width - #size, 12)) .. size
end

-- ---------------------------------------------------------------- tables

local function show_key(key)
  if type(key) == "string" then return key:find("^[%a_][%w_]*$") and key or "[" .. show_string(key, 60) .. "]" end
  return "[" .. tostring(key) .. "]"
end

--- Numbers in order, then strings in order, then the rest; and how many entries there are in all.
local function sorted_keys(object)
  local rank = { number = 1, string = 2 }
  local keys, count = {}, 0
  for key in next, object do
    count = count + 1
    if count <= MAX_SORTED then keys[count] = key end
  end
  table.sort(keys, function(a, b)
    local x, y = rank[type(a)] or 3, rank[type(b)] or 3
    if x ~= y then return x < y end
    if x == 3 then return tostring(a) < tostring(b) end
    return a < b
  end)
  return keys, count
end

local show_value

--- The first entries of a table as text, the list part without keys; and how many entries there are in all.
local function show_entries(object, width, levels, most)
  local entries, length = {}, rawlen(object)
  local keys, count = sorted_keys(object)
  for i, key in ipairs(keys) do
    if i > most then break end
    local name = math.type(key) == "integer" and key >= 1 and key <= length and "" or show_key(key) .. " = "
    entries[i] = name .. show_value(rawget(object, key), math.max(width - columns.places(name), 20), levels)
  end
  return entries, count
end

--- A value on one line; tables down to `levels` of them.
function show_value(value, width, levels)
  if value == json.null then return "null" end
  if type(value) == "string" then return show.line(value, width) or show_string(value, width) end
  local meta = debug.getmetatable(value)
  if type(value) ~= "table" or type(meta) == "table" and rawget(meta, "__tostring") then
    return (show.quote(tostring(value)):sub(2, -2))
  end
  if next(value) == nil then return json.is_array(value) and "json.array{}" or "{}" end
  if levels == 0 then
    local _, count = sorted_keys(value)
    return ("{… %d}"):format(count)
  end
  local entries, count = show_entries(value, width, levels - 1, MAX_ENTRIES)
  if count > #entries then entries[#entries + 1] = ("… %d more"):format(count - #entries) end
  return "{ " .. table.concat(entries, ", ") .. " }"
end

--- What a session prints for a value.
---@param value any
---@param width integer places on a line
---@param rows integer? lines on the screen
---@return string text lines of at most `width` places
function show.value(value, width, rows)
  local meta = debug.getmetatable(value)
  local display = type(meta) == "table" and rawget(meta, "__display")
  if display then return (display(value, width, rows or MAX_ENTRIES):gsub("\n+$", "")) end
  local line = show_value(value, width, 2)
  if columns.places(line) <= width then return line end
  if line:sub(1, 2) ~= "{ " then return columns.cut(line, width) end
  local lines = { "{" }
  local entries, count = show_entries(value, width - 3, 1, math.max((rows or MAX_ENTRIES + 4) - 4, 4))
  for _, entry in ipairs(entries) do lines[#lines + 1] = "  " .. columns.cut(entry, width - 3) .. "," end
  if count > #entries then lines[#lines + 1] = ("  … %d more"):format(count - #entries) end
  lines[#lines + 1] = "}"
  return table.concat(lines, "\n")
end

return show
