--- Where an answer breaks: places in its text, from the class and the reason that it was judged by.

local detectors = require "obatch.detectors"
local json = require "obatch.json"
local text = require "obatch.text"

local answer = {}

--- Bytes of the value at a pointer; nil where there is none. What is spliced in there differs from its first
--- byte on.
local function value_at(content, pointer)
  local raw = json.raw(content, pointer)
  if not raw then return nil end
  local spliced = json.set(content, pointer, raw:sub(1, 1) == "1" and "2" or "1")
  if not spliced then return nil end
  local low, high = 0, math.min(#content, #spliced) -- so many first bytes are the same; so many are not
  while high - low > 1 do
    local middle = (low + high) // 2
    if content:sub(1, middle) == spliced:sub(1, middle) then low = middle else high = middle end
  end
  return low + 1, low + #raw
end

--- The value that a schema's complaint is about: "at /a/b: words". A key may hold ": " itself.
local function schema_place(content, complaint, rules)
  local found = text.find_json(content, rules.repair)
  if not found or complaint:find("^at the top: ") then return nil end
  local offset = content:find(found, 1, true)
  local at = 1
  while offset do
    at = complaint:find(": ", at, true)
    if not at then return nil end
    local first, last = value_at(found, complaint:sub(#"at " + 1, at - 1))
    if first then
      -- Of a list or an object its beginning.
      if found:find("^[%[{]", first) then last = first end
      return { first = offset + first - 1, last = offset + last - 1, kind = "schema", words = complaint }
    end
    at = at + 1
  end
end

--- What was mended in a valid answer before it was JSON.
local function repairs(content, rules)
  local found, steps = text.find_json(content, rules.repair)
  local places, is_fenced, is_mended = {}, false, false
  for _, step in ipairs(found and steps or {}) do
    if step == "fence removed" then is_fenced = true else is_mended = is_mended or step ~= "text before it removed" end
  end
  if not is_mended then return places end
  local at, mended = text.start_of_json(content, is_fenced), 1
  while mended <= #found and at <= #content do
    local is, should = content:byte(at), found:byte(mended)
    if is ~= should then
      local is_control = is < 0x20
      places[#places + 1] = { first = at, last = at, kind = "repair",
        words = is_control and "a control character, escaped" or "a trailing comma, removed" }
      if is_control then mended = mended + (found:sub(mended + 1, mended + 1) == "u" and 6 or 2) end
    else
      mended = mended + 1
    end
    at = at + 1
  end
  return places
end

--- The findings of the detectors as places of an excerpt.
---@param findings obatch.Finding[]
---@return obatch.report.Place[]
function answer.places_of(findings)
  local places = {}
  for _, finding in ipairs(findings) do
    for _, place in ipairs(finding.places) do
      places[#places + 1] = { first = place.first, last = place.last, kind = finding.name, words = finding.reason }
    end
  end
  return places
end

--- Where an answer breaks, or was mended.
---@param content string The answer's text.
---@param class string? What it was judged to be.
---@param reason string? And why.
---@param rules table As obatch.policy has them.
---@return obatch.report.Place[]
function answer.places(content, class, reason, rules)
  reason = reason or ""
  if class == "truncated" then
    return { { first = #content + 1, last = #content, kind = "truncated", words = reason } }
  elseif class == "valid" and rules.expect == "json" then
    return repairs(content, rules)
  elseif class ~= "invalid" then
    return {}
  end
  local message, at = reason:match("^not JSON: (.*) at byte (%d+)")
  if at then
    local start = text.start_of_json(content, reason:find("of the fenced block$") ~= nil)
    local byte = start + math.tointeger(tonumber(at)) - 1
    local is_end = message:find("unexpected end", 1, true) or not content:find("%S", byte)
    return { { first = byte, last = is_end and byte - 1 or byte, kind = "json", words = message } }
  end
  local complaint = reason:match("^not of the schema: (at .*)$")
  if complaint then return { schema_place(content, complaint, rules) } end
  if rules.expect == "text" then return answer.places_of(detectors.findings(content, {})) end
  return {}
end

--- A reason without what is different in each: numbers, ids, quoted words. So thousands of failures are a
--- dozen groups.
---@param reason string
---@return string
function answer.group(reason)
  local status, words = reason:match("^(status %d+)(.*)")
  words = (" " .. (words or reason)):gsub('"[^"]*"', '"…"'):gsub("([^%w'])'[^'\n][^'\n]+'", "%1'…'")
    :gsub("`[^`]+`", "`…`"):gsub("%w[%w_.|/-]*", function(word) return word:find("%d") and "N" or nil end)
    :gsub("[ \t\r\n]+", " ")
  return text.cut((status or "") .. words:sub(2), 160)
end

return answer
