--- What models wrap around the text that was asked for, and how to get it off again.
--
-- Seen in 91 real OCR answers: 80 in a Markdown fence, 7 bare JSON, 4 not JSON (two of them a
-- sentence before a fenced block).

local json = require "obatch.json"

local text = {}

--- A long broken answer may have thousands of lines that begin with a bracket, and each trial reads
--- to the first error; an honest answer begins within the first few.
local MAX_STARTS = 16

--- The line that opens a Markdown fence, with the line break before it; one that closes it; and one that could
--- be either.
local OPENING, CLOSING, ANY = "^\n[ \t]*```+[^`\n]*\n", "^\n[ \t]*```+[ \t]*\r?\n", "^\n[ \t]*```"

--- Where the first line that a pattern describes begins and ends, from a byte on. Looking for the backticks first
--- takes a small part of the time that the pattern takes to fail at every byte.
local function find_fence(lines, pattern, from)
  local at = lines:find("```", from, true)
  while at do
    local start = at - 1
    while lines:find("^[ \t]", start) do start = start - 1 end
    local first, last = lines:find(pattern, start)
    if first then return first, last end
    at = lines:find("```", at + 1, true)
  end
end

--- The content of the only Markdown fence in `answer`; nil when there is none, false when there is
--- more than one. A fence that is never closed runs to the end.
local function fenced(answer)
  if not answer:find("```", 1, true) then return nil end
  local lines = "\n" .. answer .. "\n"
  local _, open = find_fence(lines, OPENING, 1)
  if not open then return nil end
  local close, after = find_fence(lines, CLOSING, open)
  if not close then return lines:sub(open + 1) end
  if find_fence(lines, ANY, after) then return false end
  return lines:sub(open + 1, close)
end

--- A string without the white space around it.
---@param string string
---@return string
function text.trim(string)
  local first = string:find("%S")
  if not first then return "" end
  local last = #string
  while string:find("^%s", last) do last = last - 1 end
  return first == 1 and last == #string and string or string:sub(first, last)
end

--- An object or array that begins a line and runs to the end of the answer, so that the "[3]" of
--- "see note [3]" is no answer. Nor is the last row of something longer that is broken, cut off or a
--- list without brackets: what stands before that is a comma, a bracket or a key. nil when nothing
--- like that is JSON.
local function trailing(answer)
  local lines, newline, trials = "\n" .. answer, 1, 0
  while newline and trials < MAX_STARTS do
    local start = lines:match("^[ \t]*()[{%[]", newline + 1)
    if start then
      trials = trials + 1
      local candidate = lines:sub(start)
      if json.check(candidate, "decodable") then
        local before = text.trim(lines:sub(1, newline))
        local is_piece = before:find("^[,%[%]{}]", -1) or before:find('[{,]%s*"[^"]*"%s*:$')
        return not is_piece and candidate or nil
      end
    end
    newline = lines:find("\n", newline + 1, true)
  end
end

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\b"] = "\\b", ["\f"] = "\\f" }

--- Mends the two faults that leave no doubt about what was meant: raw control characters inside
--- strings become escapes, commas before a closing bracket go. A backslash before a raw control character leaves
--- doubt, and stays.
---@param broken string
---@return string text
---@return string[] steps  what was done, in words
function text.repair(broken)
  local out, position, controls, commas = {}, 1, false, false
  while true do
    local quote = broken:find('"', position, true)
    local between = broken:sub(position, (quote or 0) - 1)
    local mended, count = between, 0
    if not between:find("[%[{]%s*,") then mended, count = between:gsub(",(%s*[%]}])", "%1") end
    commas = commas or count > 0
    out[#out + 1] = mended
    if not quote then break end
    local stop, doubtful = quote + 1, false
    while true do
      stop = broken:find('["\\]', stop)
      if not stop or broken:sub(stop, stop) == '"' then break end
      doubtful = doubtful or broken:find("^[\0-\31]", stop + 1) ~= nil
      stop = stop + 2
    end
    local string, changed = broken:sub(quote, stop or -1), 0
    if not doubtful then
      string, changed = string:gsub("[\0-\31]", function(control)
        return ESCAPES[control] or ("\\u%04x"):format(control:byte())
      end)
    end
    controls = controls or changed > 0
    out[#out + 1] = string
    if not stop then break end
    position = stop + 1
  end
  local steps = {}
  if controls then steps[#steps + 1] = "control characters escaped" end
  if commas then steps[#steps + 1] = "trailing commas removed" end
  return table.concat(out), steps
end

--- The JSON text inside a model's answer: the answer itself, or what its one Markdown fence holds,
--- or an object or array that begins a line and runs to the end.
---@param answer string
---@param mend? boolean  try text.repair where strict JSON is not found
---@return string|nil json
---@return string[]|string steps  what was taken off or repaired, none for a bare answer; or the reason, with the byte
--- where the likeliest part breaks
function text.find_json(answer, mend)
  local candidate, steps = text.trim(answer), {}
  local is_json, message, at = json.check(candidate, "decodable")
  if is_json then return candidate, steps end

  local inner = fenced(answer)
  if inner then
    candidate, steps = text.trim(inner), { "fence removed" }
    is_json, message, at = json.check(candidate, "decodable")
    if is_json then return candidate, steps end
  elseif inner == nil then
    local tail = trailing(answer)
    if tail then return text.trim(tail), { "text before it removed" } end
  end

  if mend then
    local mended, repairs = text.repair(candidate)
    if json.check(mended, "decodable") then
      return mended, table.move(repairs, 1, #repairs, #steps + 1, steps)
    end
  end
  return nil, ("not JSON: %s at byte %d%s"):format(message, at, inner and " of the fenced block" or "")
end

--- Where in an answer the JSON begins that find_json looked at last.
---@param answer string
---@param is_fenced boolean  whether that was in a fence, as its message or its steps say
---@return integer byte
function text.start_of_json(answer, is_fenced)
  local _, open = find_fence("\n" .. answer, OPENING, 1)
  return answer:find("%S", is_fenced and open or 1) or 1
end

--- Whether one of the Lua patterns is in a string.
---@param string string
---@param patterns string[]
---@param first? boolean  at its beginning
---@return boolean
function text.has_any(string, patterns, first)
  for _, pattern in ipairs(patterns) do
    if string:find((first and "^" or "") .. pattern) then return true end
  end
  return false
end

--- Whether there is nothing but white space in it.
---@param string string
---@return boolean
function text.is_blank(string)
  return not string:find("%S")
end

local function as_hex(bytes)
  return (bytes:gsub(".", function(byte) return ("%%%02X"):format(byte:byte()) end))
end

--- `string` with bytes that are not UTF-8 as %XX.
---@param string string
---@return string
function text.to_utf8(string)
  local out, position = {}, 1
  while position <= #string do
    local valid, bad = utf8.len(string, position)
    if valid and position == 1 then return string end
    local stop = valid and #string or bad - 1
    out[#out + 1] = string:sub(position, stop)
    if not valid then out[#out + 1] = as_hex(string:sub(bad, bad)) end
    position = valid and stop + 1 or bad + 1
  end
  return table.concat(out)
end

--- The same, and control characters too, with those that break a line or turn its direction (U+2028, U+202E):
--- for paths and custom_ids in messages, where a name may hold an escape sequence, or show as another one.
---@param string string
---@return string
function text.printable(string)
  return (text.to_utf8(string):gsub("[\0-\31\127]", as_hex):gsub("\xC2[\x80-\x9F]", as_hex)
    :gsub("\xE2\x80[\x8E\x8F\xA8-\xAE]", as_hex):gsub("\xE2\x81[\xA6-\xA9]", as_hex))
end

--- The beginning of `string`, never ending inside a UTF-8 character.
---@param string string
---@param bytes integer  at most
---@return string
function text.cut(string, bytes)
  if #string <= bytes then return string end
  local last = bytes
  while last > 0 and string:find("^[\x80-\xBF]", last + 1) do last = last - 1 end
  return string:sub(1, last)
end

--- The most of a message that is shown, in bytes. Ids come from the service, and may be of any length.
local MAX_SHOWN = 4000

--- A message that may hold words of the service, fit for a terminal and a log: no control characters, not endless.
---@param message string
---@return string
function text.shown(message) return text.printable(text.cut(message, MAX_SHOWN)) end

--- A word as a shell takes it: in quotes where the shell would read more into it. Its bytes stay what they are.
---@param word string
---@return string quoted
function text.shell_word(word)
  return word:find("^[%w%._/:=@%%+,-]+$") and word or "'" .. word:gsub("'", "'\\''") .. "'"
end

return text
