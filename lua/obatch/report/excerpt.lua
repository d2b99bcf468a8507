--- A text as the report's page shows it: valid Unicode, not endless, with marks at the right characters.
--
-- Texts are bytes here, as a model wrote them; the page counts as JavaScript does, in UTF-16 code units.

local json = require "obatch.json"
local units = require "obatch.units"

local excerpt = {}

--- A text of more bytes is shown in pieces: its beginning, its end, and what is around the first marks.
local MAX_TEXT, BEGINNING, ENDING, AROUND = 24000, 12000, 4000, 800
local MAX_PIECES = 8

--- Of a request, which may hold whole images: a line, and all of it.
local MAX_LINE, MAX_REQUEST = 2000, 20000

-- ---------------------------------------------------------------- bytes and characters

local LENGTHS = { { 0xC2, 0xDF, 2 }, { 0xE0, 0xEF, 3 }, { 0xF0, 0xF4, 4 } }

--- The first byte of the character that byte `at` is a part of, and the byte after it; of bytes that are not
--- UTF-8 each counts as a character.
local function character_at(bytes, at)
  for first = at, math.max(1, at - 3), -1 do
    local byte = bytes:byte(first)
    if not byte or byte < 0x80 then break end
    for _, lead in ipairs(LENGTHS) do
      if byte >= lead[1] and byte <= lead[2] and first + lead[3] > at and utf8.len(bytes, first, first) then
        return first, first + lead[3]
      end
    end
    if byte >= 0xC0 then break end
  end
  return at, at + 1
end

--- Bytes as valid UTF-8 without NUL.
local function unicode(bytes)
  if not utf8.len(bytes) then
    local out, position = {}, 1
    while position <= #bytes do
      local valid, bad = utf8.len(bytes, position)
      out[#out + 1] = bytes:sub(position, valid and #bytes or bad - 1)
      if valid then break end
      out[#out + 1] = "\u{FFFD}"
      position = bad + 1
    end
    bytes = table.concat(out)
  end
  return (bytes:gsub("%z", "\u{2400}"))
end

--- Any string as the page can hold it: bytes that are not UTF-8 as U+FFFD, NUL as U+2400.
---@param bytes string?
---@return string?
function excerpt.unicode(bytes) return bytes and unicode(bytes) end

--- UTF-16 code units of valid UTF-8.
local function count_units(text)
  local _, astral = text:gsub("[\xF0-\xF4]", "")
  return utf8.len(text) + astral
end

-- ---------------------------------------------------------------- a text and its marks

--- The ranges of bytes that are shown, in order: { first, stop }, stop being the byte after it.
local function shown_ranges(bytes, places)
  if #bytes <= MAX_TEXT then return { { 1, #bytes + 1 } } end
  local wanted = { { 1, BEGINNING }, { #bytes - ENDING + 1, #bytes + 1 } }
  for i = 1, math.min(#places, MAX_PIECES) do
    local at = places[i].first
    wanted[#wanted + 1] = { math.max(1, at - AROUND), math.min(#bytes + 1, at + AROUND) }
  end
  table.sort(wanted, function(a, b) return a[1] < b[1] end)
  local ranges = {}
  for _, range in ipairs(wanted) do
    local first, stop = character_at(bytes, range[1]), character_at(bytes, range[2])
    local before = ranges[#ranges]
    if before and first <= before[2] then before[2] = math.max(before[2], stop)
    else ranges[#ranges + 1] = { first, stop } end
  end
  return ranges
end

---@class obatch.report.Place
---@field first integer The first byte.
---@field last integer The last byte; first - 1 for a place between two characters.
---@field kind string What kind of thing is marked.
---@field words string Why.

--- A text as the page shows it.
---@param bytes string
---@param places obatch.report.Place[]
---@return table shown { text=, gaps= { { at=, left_out= }, ... }, marks= { { from=, to=, kind=, words= }, ... } };
--- at, from and to count UTF-16 code units of .text, `to` is exclusive; left_out counts characters.
function excerpt.of(bytes, places)
  local ranges, edges, bounds = shown_ranges(bytes, places), {}, {}
  for i, place in ipairs(places) do
    local first = character_at(bytes, math.min(place.first, #bytes + 1))
    local stop = first
    if place.last >= place.first then
      local _, after = character_at(bytes, math.min(place.last, #bytes))
      stop = math.min(math.max(first, after), #bytes + 1)
    end
    bounds[i] = { first, stop }
    edges[#edges + 1], edges[#edges + 2] = first, stop
  end
  table.sort(edges)

  -- From edge to edge through what is shown: offsets[byte] is where that byte is in the text of the page.
  local out, offsets, gaps, offset, edge, position = {}, {}, json.array {}, 0, 1, 1
  for _, range in ipairs(ranges) do
    if range[1] > position then
      gaps[#gaps + 1] = { at = offset, left_out = utf8.len(unicode(bytes:sub(position, range[1] - 1))) }
      while edges[edge] and edges[edge] < range[1] do
        offsets[edges[edge]], edge = offset, edge + 1
      end
    end
    position = range[1]
    repeat
      local next_edge = edges[edge]
      local stop = next_edge and next_edge < range[2] and next_edge or range[2]
      local piece = unicode(bytes:sub(position, stop - 1))
      out[#out + 1], offset, position = piece, offset + count_units(piece), stop
      while edges[edge] == stop do
        offsets[stop], edge = offset, edge + 1
      end
    until stop == range[2]
  end

  local function is_shown(first, stop)
    for _, range in ipairs(ranges) do
      if first <= range[2] and stop >= range[1] then return true end
    end
  end
  local marks = json.array {}
  for i, place in ipairs(places) do
    if is_shown(bounds[i][1], bounds[i][2]) then
      marks[#marks + 1] = { from = offsets[bounds[i][1]], to = offsets[bounds[i][2]], kind = unicode(place.kind),
        words = unicode(place.words) }
    end
  end
  table.sort(marks, function(a, b) return a.from < b.from or a.from == b.from and a.to < b.to end)
  return { text = table.concat(out), gaps = #gaps > 0 and gaps or nil, marks = #marks > 0 and marks or nil }
end

-- ---------------------------------------------------------------- requests and result lines

--- The beginning and the end of a string, with how much is missing between them.
local function shorten(string, most)
  if #string <= most then return string end
  local first, last = character_at(string, most * 3 // 4), character_at(string, #string - most // 8)
  local left_out = utf8.len(unicode(string:sub(first, last - 1)))
  return ("%s … [%s characters left out] … %s"):format(string:sub(1, first - 1), units.number(left_out),
    string:sub(last))
end

--- A line of JSON, to be read: laid out, embedded files as "[image/jpeg, 612 kB]", long strings and what is
--- beyond some pages left out.
---@param line string JSON text, of any length.
---@return string text
---@return table files { { kind=, bytes= }, ... }: what was embedded.
function excerpt.line(line)
  local files, pieces, from, position = json.array {}, {}, 1, 1
  while true do
    local first, last = line:find(";base64,", position, true)
    if not first then break end
    position = last + 1
    local start, kind = line:sub(math.max(from, first - 100), first - 1):match('()data:([%w\\/+.-]+)$')
    local stop = start and line:find('["\\]', position)
    -- Some encoders write "\/".
    while stop and line:sub(stop, stop + 1) == "\\/" do stop = line:find('["\\]', stop + 2) end
    if stop then
      local digits = line:sub(position, stop - 1):gsub("[\\=]", "")
      local file = { kind = kind:gsub("\\", ""), bytes = #digits * 3 // 4 }
      files[#files + 1] = file
      pieces[#pieces + 1] = line:sub(from, math.max(from, first - 100) + start - 2)
      pieces[#pieces + 1] = ("[%s, %s]"):format(file.kind, units.bytes(file.bytes))
      from, position = stop, stop
    end
  end
  pieces[#pieces + 1] = line:sub(from)
  local text = table.concat(pieces)
  if json.check(text) then text = json.pretty(text) end
  local lines = {}
  for part in text:gmatch("[^\n]+") do lines[#lines + 1] = shorten(part, MAX_LINE) end
  return unicode(shorten(table.concat(lines, "\n"), MAX_REQUEST)), files
end

return excerpt
