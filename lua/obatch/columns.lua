--- Tables for people: columns as wide as what is in them, cut to the screen. No borders, so that a line can be
--- picked apart by other tools.

local text = require "obatch.text"

local columns = {}

--- A column of a table. Cells of a `keep` column are never cut (ids, which people copy), nor are those on the
--- right (numbers). On a narrow screen the columns with a number in `drop` are left out, the smallest first.
---@class obatch.columns.Column
---@field [1] string the title
---@field align? "left"|"right"
---@field keep? boolean
---@field drop? integer

--- Between two columns.
local GAP = 2

--- A column is not cut to fewer places as long as another one can be left out instead; and never to fewer than the
--- second: on a screen that is narrower still, lines run over.
local NARROW, NARROWEST = 16, 8

-- ---------------------------------------------------------------- places on the screen

--- Characters that take two places (East Asian Wide and the emoji), and those that take none (what is put on
--- the one before, and joiners): first and last, in order. After Unicode's EastAsianWidth.txt, by blocks.
local WIDE = { 0x1100, 0x115F, 0x2E80, 0x303E, 0x3041, 0x4DBF, 0x4E00, 0xA4CF, 0xA960, 0xA97C, 0xAC00, 0xD7A3,
  0xF900, 0xFAFF, 0xFE30, 0xFE6F, 0xFF01, 0xFF60, 0xFFE0, 0xFFE6, 0x1F300, 0x1F64F, 0x1F680, 0x1F6FF,
  0x1F900, 0x1F9FF, 0x20000, 0x3FFFD }
local NONE = { 0x300, 0x36F, 0x483, 0x489, 0x591, 0x5BD, 0x610, 0x61A, 0x64B, 0x65F, 0x1AB0, 0x1AFF,
  0x1DC0, 0x1DFF, 0x200B, 0x200D, 0x20D0, 0x20FF, 0xFE00, 0xFE0F, 0xFE20, 0xFE2F, 0xFEFF, 0xFEFF }

local function is_in(ranges, code)
  for i = 1, #ranges, 2 do
    if code < ranges[i] then return false end
    if code <= ranges[i + 1] then return true end
  end
  return false
end

local function places_of(code)
  if code < 0x300 then return 1 end
  return is_in(NONE, code) and 0 or is_in(WIDE, code) and 2 or 1
end

--- How many places a text takes on a terminal. It has to be UTF-8 without control characters, as text.shown
--- gives it.
---@param shown string
---@return integer places
function columns.places(shown)
  if not shown:find("[\x80-\xFF]") then return #shown end
  local sum = 0
  for _, code in utf8.codes(shown, true) do sum = sum + places_of(code) end
  return sum
end

--- A text cut to so many places, the last of them "…" where something is missing.
---@param shown string as for places()
---@param places integer at least 1
---@return string cut
function columns.cut(shown, places)
  if columns.places(shown) <= places then return shown end
  local sum = 0
  for position, code in utf8.codes(shown, true) do
    sum = sum + places_of(code)
    if sum > places - 1 then return shown:sub(1, position - 1) .. "…" end
  end
end

--- A cell, or any words of others, as they are shown (see text.shown). Nothing for nil.
---@param cell any
---@return string shown
function columns.shown(cell)
  if cell == nil then return "" end
  return text.shown(tostring(cell))
end

-- ---------------------------------------------------------------- the table

local function may_cut(column) return not column.keep and column.align ~= "right" end

--- Which columns are left when some are dropped for the screen: a list of numbers in order.
local function kept_columns(list, widths, width)
  local left = {}
  for i in ipairs(list) do left[i] = i end
  --- What the columns need together, when everything is cut that may be.
  local function need()
    local sum = -GAP
    for _, i in ipairs(left) do
      sum = sum + GAP + (may_cut(list[i]) and math.min(widths[i], NARROW) or widths[i])
    end
    return sum
  end
  while width and need() > width do
    local first
    for place, i in ipairs(left) do
      local drop = list[i].drop
      if drop and (not first or drop < list[left[first]].drop) then first = place end
    end
    if not first then break end
    table.remove(left, first)
  end
  return left
end

--- Takes places off the widest column that may be cut, until the rest fits.
local function narrow(list, left, widths, width)
  local total = -GAP
  for _, i in ipairs(left) do total = total + widths[i] + GAP end
  while total > width do
    local widest
    for _, i in ipairs(left) do
      if may_cut(list[i]) and widths[i] > NARROWEST and (not widest or widths[i] > widths[widest]) then widest = i end
    end
    if not widest then return end
    widths[widest], total = widths[widest] - 1, total - 1
  end
end

--- A table as text: a line of titles, then one for each row. Rows are lists of cells, any text or number, also of
--- a service or a model (shown safely), nil for an empty one.
---@param rows any[][] each a list of cells, one for each column
---@param list obatch.columns.Column[]
---@param width? integer places on the screen; nil where there is no limit, as in a pipe: then nothing is cut
---@param layout? table keeps the columns as they are for more rows of the same table: give the same table, {} at
---first, with each call, and only the first writes titles
---@return string text every line ends with a line break
function columns.format(rows, list, width, layout)
  local cells, widths, left = {}, {}, layout and layout.left
  for i, column in ipairs(list) do widths[i] = left and layout.widths[i] or columns.places(column[1]) end
  for number, row in ipairs(rows) do
    local line = {}
    for i in ipairs(list) do
      line[i] = columns.shown(row[i])
      -- Rows that come later do not move the columns; what may not be cut runs over.
      if not left then widths[i] = math.max(widths[i], columns.places(line[i])) end
    end
    cells[number] = line
  end
  local titles = not left
  if titles then
    left = kept_columns(list, widths, width)
    if width then narrow(list, left, widths, width) end
    if layout then layout.left, layout.widths = left, widths end
  end

  local out = {}
  local function add(line)
    local row = {}
    for place, i in ipairs(left) do
      local cell = line[i]
      if width and may_cut(list[i]) then cell = columns.cut(cell, widths[i]) end
      local pad = (" "):rep(widths[i] - columns.places(cell))
      if list[i].align == "right" then
        cell = pad .. cell
      elseif place < #left then
        cell = cell .. pad
      end
      row[place] = cell
    end
    out[#out + 1] = (table.concat(row, (" "):rep(GAP)):gsub(" +$", ""))
  end
  if titles then
    local line = {}
    for i, column in ipairs(list) do line[i] = column[1] end
    add(line)
  end
  for _, line in ipairs(cells) do add(line) end
  out[#out + 1] = ""
  return table.concat(out, "\n")
end

return columns
