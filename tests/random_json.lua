--- Random JSON texts that know where their values are. Uses math.random: seed it first.
local random_json = {}

local function pick(list) return list[math.random(#list)] end

-- What a character is, and the ways to write it.
local characters = {
  { "a", "a", "\\u0061" }, { "b", "b" }, { "0", "0" }, { "1", "1", "\\u0031" }, { " ", " " },
  { "/", "/", "\\/", "\\u002f", "\\u002F" }, { "~", "~", "\\u007e" }, { '"', '\\"', "\\u0022" },
  { "\\", "\\\\", "\\u005c" }, { "\n", "\\n", "\\u000a" }, { "\0", "\\u0000" }, { "\t", "\\t" },
  { "{", "{" }, { "]", "]" }, { ",", "," }, { ":", ":" }, { "\127", "\127" },
  { "é", "é", "\\u00e9", "\\u00E9" }, { "中", "中", "\\u4e2d" }, { "\u{2028}", "\u{2028}" },
  { "😀", "😀", "\\ud83d\\ude00", "\\uD83D\\uDE00" },
}

--- A string and one of the ways to write it as JSON.
function random_json.string()
  local plain, written = {}, {}
  for i = 1, math.random(10) == 1 and math.random(60) or math.random(0, 6) do
    local character = pick(characters)
    plain[i], written[i] = character[1], character[math.random(2, #character)]
  end
  return table.concat(plain), '"' .. table.concat(written) .. '"'
end

local function digits(n)
  local list = {}
  for i = 1, n do list[i] = math.random(0, 9) end
  return table.concat(list)
end

local function number()
  local text = (math.random(3) == 1 and "-" or "")
    .. (math.random(4) == 1 and "0" or math.random(9) .. digits(math.random(0, math.random(8) == 1 and 20 or 4)))
  if math.random(3) == 1 then text = text .. "." .. digits(math.random(1, 6)) end
  if math.random(5) == 1 then text = text .. pick { "e", "E", "e-", "E+" } .. math.random(0, 40) end
  return text
end

local function space()
  return math.random(4) == 1 and pick { " ", "\n", "\t", "\r\n", "  \t " } or ""
end

--- A text, and its values: { pointer =, from =, to =, type = } with 1-based inclusive positions.
--- Values that a later duplicate of their key makes unreachable are not in the list.
function random_json.document()
  local pieces, length, places = {}, 0, {}

  local function add(text)
    pieces[#pieces + 1] = text
    length = length + #text
  end

  local function forget(pointer)
    local kept = {}
    for _, place in ipairs(places) do
      if place.pointer ~= pointer and place.pointer:sub(1, #pointer + 1) ~= pointer .. "/" then
        kept[#kept + 1] = place
      end
    end
    places = kept
  end

  local function value(pointer, depth)
    local place = { pointer = pointer, from = length + 1 }
    places[#places + 1] = place
    local kind = math.random(depth > 4 and 5 or 9)
    if kind == 1 then
      place.type = "word"
      add(pick { "true", "false", "null" })
    elseif kind <= 3 then
      place.type = "number"
      add(number())
    elseif kind <= 5 then
      place.type = "string"
      local _, written = random_json.string()
      add(written)
    elseif kind <= 7 then
      place.type = "array"
      add("[" .. space())
      for i = 0, math.random(0, 4) - 1 do
        add((i > 0 and "," or "") .. space())
        value(pointer .. "/" .. i, depth + 1)
        add(space())
      end
      add("]")
    else
      place.type = "object"
      place.keys = {}
      add("{" .. space())
      local last
      for i = 1, math.random(0, 5) do
        local plain, written = random_json.string()
        if last and math.random(4) == 1 then plain, written = last[1], last[2] end
        last = { plain, written }
        local below = pointer .. "/" .. plain:gsub("~", "~0"):gsub("/", "~1")
        forget(below)
        place.keys[plain] = true
        add((i > 1 and "," or "") .. space() .. written .. space() .. ":" .. space())
        value(below, depth + 1)
        add(space())
      end
      add("}")
    end
    place.to = length
  end

  add(space())
  value("", 1)
  add(space())
  return table.concat(pieces), places
end

local bits = { "{", "}", "[", "]", ",", ":", '"', "\\", "\\u", "\\ud800", "0", "1", "9", "-", "+", ".", "e", "E",
  "NaN", "Infinity", "true", "nul", " ", "\n", "\r", "\t", "\v", "\f", "\0", "\x1f", "\x7f", "\x80", "\xa0", "\xc0",
  "\xc3", "\xe2\x82", "\xed\xa0\x80", "\xf0\x9f\x98", "\xf5", "\xff", "\xef\xbb\xbf", "//", "'", "é" }

--- The same text with one or a few faults (which may leave it whole).
function random_json.damage(text)
  for _ = 1, math.random(10) == 1 and 3 or 1 do
    local at, how = math.random(0, #text), math.random(5)
    if how <= 2 then
      text = text:sub(1, at) .. pick(bits) .. text:sub(at + 1)
    elseif how == 3 then
      text = text:sub(1, at) .. text:sub(at + 2)
    elseif how == 4 then
      text = text:sub(1, at) .. pick(bits) .. text:sub(at + 2)
    else
      text = math.random(2) == 1 and text:sub(1, at) or text:sub(at + 1)
    end
  end
  return text
end

--- A random Lua value that has a JSON text, for encode and decode.
function random_json.value(json, depth)
  depth = depth or 1
  local kind = math.random(depth > 4 and 6 or 9)
  if kind == 1 then return pick { true, false, json.null } end
  if kind == 2 then return pick { 0, 1, -1, math.maxinteger, math.mininteger, 48213, 12345678901234567 } end
  if kind == 3 then return pick { 0.0, -0.0, 1.0, 0.1, 1e100, 5e-324, 1.7976931348623157e308, 2^53, 2^63, 1 / 3 } end
  if kind == 4 then return string.unpack("<d", string.pack("<I8", math.random(0) & ~(1 << 62))) end
  if kind <= 6 then return (random_json.string()) end
  local made = {}
  if kind == 7 then
    for i = 1, math.random(0, 5) do made[i] = random_json.value(json, depth + 1) end
    return json.array(made)
  end
  for _ = 1, math.random(0, 5) do made[random_json.string()] = random_json.value(json, depth + 1) end
  return made
end

return random_json
