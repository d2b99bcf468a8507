--- A record says which images a batch, or an errand, holds, and how they are named in files.
--
-- That of a batch is { batch =, image_dir =, root = (image_dir's real path), run =, part =, request = { endpoint,
-- model, detail, max_tokens, prompt }, items = { { custom_id, path, bytes, sha256, prompt_sha256, attempt, fields,
-- replaces }, ... } }, items in the order of the request lines. Records of earlier scripts hold something else; only
-- their name counts.

local fs = require "obatch.fs"
local json = require "obatch.json"
local text = require "obatch.text"

local image_record = {}

-- ---------------------------------------------------------------- names

--- The custom_id of an image: its path with "/" and "\" as "|", and bytes that are not UTF-8 as %XX.
--- Where that is taken (a name may hold a "|" of its own), "~2", "~3" ... follows.
---@param path string
---@param taken table<string, true>  custom_ids, to which this one is added
---@return string custom_id
function image_record.custom_id(path, taken)
  local id = text.to_utf8(path:gsub("[/\\]", "|"))
  local unique, n = id, 1
  while taken[unique] do
    n = n + 1
    unique = ("%s~%d"):format(id, n)
  end
  taken[unique] = true
  return unique
end

--- How many folders are kept in mind.
local MOST_FOLDERS = 1000

--- Folder -> its path from the root, of those that were asked for lately.
local reals, known = {}, 0

--- The path from the root, without links in its folders, by which an image is the same one whatever
--- way it was named; the path itself when its folder is gone.
---@param path string
---@return string path
function image_record.real_path(path)
  local folder, name = path:match("^(.*/)([^/]*)$")
  if not folder then folder, name = ".", path end
  local real = reals[folder]
  if real == nil then
    if known >= MOST_FOLDERS then reals, known = {}, 0 end
    real = fs.absolute(folder)
    real = real and real:gsub("/$", "") .. "/" or false
    reals[folder], known = real, known + 1
  end
  return real and real .. name or path
end

-- ---------------------------------------------------------------- paths

--- A path as JSON can hold it: one that is not UTF-8 becomes { hex = its bytes in hexadecimal digits }.
---@param path string
---@return string|{ hex: string } value
function image_record.encode_path(path)
  if utf8.len(path) then return path end
  return { hex = (path:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)) }
end

---@param value string|{ hex: string }
---@return string path
function image_record.decode_path(value)
  if type(value) ~= "table" then return value end
  return (value.hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local PATHS = { "path", "image_dir", "root" }

--- A copy of a table with its paths as JSON can hold them.
---@param entry table
---@return table copy
function image_record.with_paths(entry)
  local copy = {}
  for key, value in pairs(entry) do copy[key] = value end
  for _, key in ipairs(PATHS) do copy[key] = copy[key] and image_record.encode_path(copy[key]) end
  return copy
end

--- Back again, in place.
---@param entry table
---@return table entry  the same
function image_record.restore_paths(entry)
  for _, key in ipairs(PATHS) do entry[key] = image_record.decode_path(entry[key]) end
  return entry
end

-- ---------------------------------------------------------------- the file

--- The text of a record: what is short on lines of its own, an item a line.
---@param record table
---@param batch_text string? the batch object as the service gave it
---@return string text
function image_record.encode(record, batch_text)
  local lines = { "{" }
  if batch_text then lines[#lines + 1] = ('"batch": %s,'):format(batch_text) end
  local head = image_record.with_paths(record)
  for _, key in ipairs { "previous", "image_dir", "root", "run", "part", "request" } do
    if head[key] ~= nil then lines[#lines + 1] = ('"%s": %s,'):format(key, json.encode(head[key])) end
  end
  lines[#lines + 1] = '"items": ['
  for i, item in ipairs(record.items) do
    lines[#lines + 1] = json.encode(image_record.with_paths(item)) .. (i < #record.items and "," or "")
  end
  lines[#lines + 1] = "]}\n"
  return table.concat(lines, "\n")
end

--- Whether a value is a path, as encode_path makes it.
local function is_path(value)
  if type(value) == "table" then
    local digits = value.hex
    if type(digits) ~= "string" or digits:find("%X") or #digits % 2 == 1 then return false end
    value = image_record.decode_path(value)
  end
  return type(value) == "string" and not value:find("\0", 1, true)
end

--- What else an item may hold, and the type of that.
local OF_AN_ITEM = { bytes = "number", sha256 = "string", prompt_sha256 = "string", attempt = "number",
  replaces = "string", fields = "table", origin = "string", texts = "number", median = "number", shortest = "number" }

--- Whether a value from a file is a list of items: anybody may have written it.
---@param items any
---@return boolean
function image_record.are_items(items)
  if not json.is_array(items) then return false end
  for _, item in ipairs(items) do
    if type(item) ~= "table" or type(item.custom_id) ~= "string" or not is_path(item.path)
      or item.image_dir ~= nil and not is_path(item.image_dir) then return false end
    for key, kind in pairs(OF_AN_ITEM) do
      if item[key] ~= nil and type(item[key]) ~= kind then return false end
    end
  end
  return true
end

--- Whether a file's JSON is a record of ours.
local function is_record(record)
  return type(record) == "table" and is_path(record.image_dir) and (record.root == nil or is_path(record.root))
    and (record.request == nil or type(record.request) == "table") and image_record.are_items(record.items)
end

--- A record from a file, its paths as they were given. One that an earlier script wrote has no .items; .previous is
--- then its text.
---@param path string
---@return table? record
---@return string|nil message
---@return string|nil code
function image_record.load(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local record = json.decode(content)
  if not is_record(record) then return { previous = text.printable(content), image_dir = "" } end
  image_record.restore_paths(record)
  for _, item in ipairs(record.items) do image_record.restore_paths(item) end
  record.batch_text = json.raw(content, "/batch")
  return record
end

--- Lets the paths of a record's images begin with another folder than that of its .image_dir.
local function move_images(record, root)
  local dir = record.image_dir
  for _, item in ipairs(record.items) do
    if item.path:sub(1, #dir) == dir then item.path = root .. item.path:sub(#dir + 1) end
  end
  record.image_dir = root
end

--- Where upload was run from another folder, the paths as they were given name other images here, or
--- nothing: then they begin at the real path that the images' folder had.
---@param record table changed in place
function image_record.find_root(record)
  local root, dir, first = record.root, record.image_dir, record.items and record.items[1]
  if not root or root == dir or fs.absolute(dir) == root or not fs.stat(root) then return end
  if first and first.sha256 and fs.sha256(first.path) == first.sha256 then return end -- moved here, or copied
  move_images(record, root)
end

--- A record as it is on disk, the paths of its images as they are found from here. One that an earlier script
--- wrote has no .items.
---@param path string
---@param base string? Where they are looked for, too: the folder that upload may have been run from.
---@return table? record
---@return string|nil message
---@return string|nil code
function image_record.read(path, base)
  local record, message, code = image_record.load(path)
  if not record then return nil, message, code end
  local first = record.items and record.items[1]
  if first and base and first.path:find("^[^/]") and not fs.stat(first.path) and fs.stat(base .. first.path) then
    move_images(record, base .. record.image_dir)
  else
    image_record.find_root(record)
  end
  return record
end

return image_record
