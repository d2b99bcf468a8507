--- Facts about images, from a table that people keep in a spreadsheet: CSV as RFC 4180 has it. Lines
-- may also end in LF alone, and a byte order mark may stand at the beginning.

local fs = require "obatch.fs"
local text = require "obatch.text"

local csv = {}

--- Where the quoted text that begins at `position` ends: at a quote that is not one of two.
local function closing_quote(content, position)
  while true do
    local quote = content:find('"', position, true)
    if not quote or content:sub(quote + 1, quote + 1) ~= '"' then return quote end
    position = quote + 2
  end
end

--- A list of records, each a list of cells with the `line` that it begins at. Or nil, line, reason.
local function parse(content)
  local records, line = {}, 1
  local position = content:find("^\xEF\xBB\xBF") and 4 or 1
  while position <= #content do
    local record = { line = line }
    local separator
    repeat
      local cell
      if content:find('^"', position) then
        local quote = closing_quote(content, position + 1)
        if not quote then return nil, line, "a quote is opened here and never closed" end
        cell = content:sub(position + 1, quote - 1):gsub('""', '"')
        line = line + select(2, cell:gsub("\n", ""))
        position = quote + 1
      else
        local stop = content:find('[,\r\n"]', position) or #content + 1
        cell = content:sub(position, stop - 1)
        position = stop
      end
      record[#record + 1] = cell
      separator = content:match("^,", position) or content:match("^\r?\n", position)
        or position > #content and ""
      if not separator then
        return nil, line, "a quote or a line break stands where none can: put the whole cell in quotes, "
          .. "and write a quote in it twice"
      end
      position = position + #separator
    until separator ~= ","
    line = line + 1
    if table.concat(record) ~= "" then records[#records + 1] = record end -- spreadsheets leave blank lines
  end
  return records
end

--- Reads a table whose first line names its columns. One of them is "path", the path of an image: as it is given to the
--- program, or from the image folder on. Every cell but a path must be UTF-8, and no path may be there twice.
---@param path string
---@return string[]|nil columns  the others
---@return table<string, table<string, string>>|string rows  path -> column -> cell; or the message
---@return string|nil code  "MALFORMED", or an errno name
function csv.read(path)
  local content, message, code = fs.read(path)
  if not content then return nil, text.printable(message), code end
  local function fault(line, reason, ...)
    return nil, ("%s:%d: %s"):format(text.printable(path), line, reason:format(...)), "MALFORMED"
  end

  local records, bad_line, reason = parse(content)
  if not records then return fault(bad_line, "%s", reason) end
  local header = table.remove(records, 1)
  if not header then return fault(1, "it is empty; its first line must name the columns, one of them path") end

  local columns, key, seen = {}, nil, {}
  for i, name in ipairs(header) do
    if name == "" or not utf8.len(name) then return fault(header.line, "column %d has no name in UTF-8", i) end
    if seen[name] then return fault(header.line, "there are two columns called %q", text.printable(name)) end
    seen[name] = true
    if name == "path" then key = i else columns[#columns + 1] = name end
  end
  if not key then
    return fault(header.line, "there is no column called path; the columns, between commas, are: %s",
      text.printable(table.concat(header, ", ")))
  end

  local rows, lines = {}, {}
  for _, record in ipairs(records) do
    if #record ~= #header then
      return fault(record.line, "%d cells, but there are %d columns", #record, #header)
    end
    local image_path = record[key]
    if image_path == "" then return fault(record.line, "the path is empty") end
    if rows[image_path] then
      return fault(record.line, "%s is in line %d, too", text.printable(image_path), lines[image_path])
    end
    local row = {}
    for i, cell in ipairs(record) do
      if i ~= key then
        if not utf8.len(cell) then
          return fault(record.line, "column %q is not UTF-8: save the file as UTF-8", text.printable(header[i]))
        end
        row[header[i]] = cell
      end
    end
    rows[image_path], lines[image_path] = row, record.line
  end
  return columns, rows
end

--- The row of an image: by its path as it is, or else by what follows `image_dir` in it.
---@param rows table<string, table<string, string>>
---@param path string
---@param image_dir string
---@return table<string, string>|nil row
function csv.lookup(rows, path, image_dir)
  local folder = image_dir:gsub("/+$", "") .. "/"
  local inside = path:sub(1, #folder) == folder and path:sub(#folder + 1):gsub("^/+", "")
  return rows[path] or inside and rows[inside] or nil
end

return csv
