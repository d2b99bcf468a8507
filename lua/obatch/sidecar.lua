--- Sidecars: the files beside an image that hold its text, and where results may be written at all.
--
--   IMAGE.txt           the text of the image; an empty one is a blank page
--   IMAGE.txt.api       a text that a program cannot mend: labelled for deep_clean
--   IMAGE.txt.before    what a text was before deep_clean replaced it
--   provenance.jsonl    one in each folder: where each text came from
--
-- Other .txt files belong to the user. Paths are raw bytes, as fs.walk gives them.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local text = require "obatch.text"

local sidecar = {}

--- Extensions of images, in lower case: what an upload takes, and what a sidecar's name must show.
sidecar.EXTENSIONS = { [".jpg"] = true, [".jpeg"] = true, [".png"] = true, [".webp"] = true, [".gif"] = true }

--- The longest name of a file in bytes, on every file system in common use.
local NAME_MAX = 255

--- The longest name of an image that leaves room for that of its text.
sidecar.LONGEST_NAME = NAME_MAX - #".txt"

--- Where an id is too long for a file name, its pieces are at most this long.
local PIECE = 200

-- ---------------------------------------------------------------- names

---@param image string
---@return string path
function sidecar.text_path(image) return image .. ".txt" end

---@param image string
---@return string path
function sidecar.label_path(image) return image .. ".txt.api" end

---@param image string
---@return string path
function sidecar.before_path(image) return image .. ".txt.before" end

--- The image that a path is a sidecar of; nil for any other file.
---@param path string
---@return string|nil image
---@return "text"|"api"|nil kind
function sidecar.parse(path)
  for suffix, kind in pairs { [".txt"] = "text", [".txt.api"] = "api" } do
    local image = path:sub(-#suffix) == suffix and path:sub(1, -#suffix - 1)
    local extension = image and image:match("[^/](%.[^./]*)$")
    if extension and sidecar.EXTENSIONS[extension:lower()] then return image, kind end
  end
end

--- Whether an image has a text: a sidecar or a labelled one.
---@param image string
---@return boolean
function sidecar.exists(image)
  if image:find("\0", 1, true) then return false end
  return (fs.lstat(sidecar.text_path(image)) or fs.lstat(sidecar.label_path(image))) ~= nil
end

--- Whether the sidecar of an image is there and holds nothing: a blank page.
---@param image string
---@return boolean
function sidecar.is_blank(image)
  local path = sidecar.text_path(image)
  local stat = fs.lstat(path)
  local content = stat and stat.type == "file" and fs.read(path)
  return content and text.is_blank(content) or false
end

--- Where the JSON result for a custom_id is kept, relative to the folder of its batch: CUSTOM_ID.json.
--- An id that is too long for that is cut into pieces of at most 200 bytes, all but the last being
--- folders whose names end in "~": the pieces without "~" and ".json" are the id again.
---@param custom_id string
---@return string|nil name
---@return string|nil message
---@return string|nil code  "NAME": the id cannot be a file name
function sidecar.file_name(custom_id)
  if custom_id == "" or custom_id:find("[/\0]") then
    return nil, ("custom_id '%s' cannot be a file name"):format(text.printable(custom_id)), "NAME"
  end
  local folders, rest = "", custom_id
  while #rest + #".json" > NAME_MAX do
    local piece = text.cut(rest, PIECE)
    if piece == "" then piece = rest:sub(1, PIECE) end -- not UTF-8
    folders, rest = folders .. piece .. "~/", rest:sub(#piece + 1)
  end
  return folders .. rest .. ".json"
end

-- ---------------------------------------------------------------- writing beside images

---@class obatch.sidecar.Folder
---@field root string  the real path
local Folder = {}
Folder.__index = Folder

--- A folder of images, beside which texts may be written.
---@param image_dir string  the one that upload was given, or "" for the current folder and paths that do not name it
---@return obatch.sidecar.Folder|nil folder
---@return string|nil message
---@return string|nil code
function sidecar.folder(image_dir)
  local dir = image_dir == "" and "." or image_dir
  local root, message, code = fs.absolute(dir)
  if not root then return nil, message, code end
  local prefix = image_dir:find("[^/]$") and image_dir .. "/" or image_dir
  return setmetatable({ dir = dir, prefix = prefix, root = root, checked = {} }, Folder)
end

--- Whether a text may be written beside an image: it is there (or a link to a file, as fs.walk gives
--- it), and its folder is really the one its path names, below the folder of images, with no link to
--- elsewhere in between.
---@param image string
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "ENOENT": the image is gone; "OUTSIDE"; or what the system says
function Folder:check(image)
  local function outside()
    return nil, ("%s: not in the folder %s, or by way of a link"):format(text.printable(image),
      text.printable(self.dir)), "OUTSIDE"
  end
  if image:sub(1, #self.prefix) ~= self.prefix or image:find("\0", 1, true) then return outside() end
  local below = image:sub(#self.prefix + 1):match("^(.*)/[^/]*$")
  if not self.checked[below or ""] then
    local real, message, code = fs.absolute(below and self.prefix .. below or self.dir)
    if not real then return nil, message, code end
    if real ~= (below and self.root:gsub("/$", "") .. "/" .. below or self.root) then return outside() end
    self.checked[below or ""] = true
  end
  local stat, message, code = fs.stat(image)
  if not stat then return nil, message, code end
  if stat.type ~= "file" then return outside() end
  return true
end

--- What stands in a sidecar: its text; nil when there is none; false for what is no regular file (a
--- link is not read). nil, message, CODE when it cannot be read.
local function read(path)
  local stat, message, code = fs.lstat(path)
  if not stat then
    if code == "ENOENT" or code == "ENAMETOOLONG" then return nil end -- none, or there can be none
    return nil, message, code
  end
  if stat.type ~= "file" then return false end
  return fs.read(path)
end

--- Writes the text of an image beside it. What is there and says something else stays; what is there and blank is
--- replaced. A labelled text counts as one that is there. The file is complete or not there at all, and on disk with
--- the next fs.sync.
---@param image string
---@param content string
---@param overwrite? boolean  replace what is there, and take the label away
---@param write_new? fun(path: string, content: string): true|nil, string|nil, string|nil  writes where nothing is,
---   now or later, in the place of fs.write
---@return "written"|"same"|"kept"|nil result  "same": it is there already; "kept": another one is
---@return string|nil message
---@return string|nil code  those of `check`, ENAMETOOLONG, or what the system says
function Folder:write(image, content, overwrite, write_new)
  local ok, message, code = self:check(image)
  if not ok then return nil, message, code end
  local path, label = sidecar.text_path(image), sidecar.label_path(image)
  local own, labelled
  own, message, code = read(path)
  if message then return nil, message, code end
  labelled, message, code = read(label)
  if message then return nil, message, code end

  local blank = text.is_blank(content)
  local function same(there) return there and (there == content or blank and text.is_blank(there)) end
  local function differs(there) return there ~= nil and not (there and (same(there) or text.is_blank(there))) end
  if not overwrite and (differs(own) or differs(labelled)) then return "kept" end
  if not overwrite and (same(own) or same(labelled)) then return "same" end

  local result = "same"
  if not same(own) then
    if write_new and own == nil and labelled == nil then
      ok, message, code = write_new(path, content)
    else
      ok, message, code = fs.write(path, content, "later")
    end
    if not ok then return nil, message, code end
    result = "written"
  end
  if labelled ~= nil then
    ok, message, code = fs.remove(label)
    if not ok then return nil, message, code end
  end
  return result
end

-- ---------------------------------------------------------------- provenance

--- Adds entries to the provenance.jsonl of a folder, one for each custom_id and batch. An entry that
--- is there already is replaced, but not by one that says "not written": a second harvest of the same
--- batch finds the text there, perhaps cleaned by now. Lines of other origin stay as they are.
---@param folder string  its path with a "/" at the end
---@param entries { custom_id: string, batch: string, written: boolean }[]  written: the sidecar holds this text
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function sidecar.add_provenance(folder, entries)
  local path = folder .. "provenance.jsonl"
  local by_key = {}
  local function key(entry) return entry.batch .. "\0" .. entry.custom_id end
  for _, entry in ipairs(entries) do by_key[key(entry)] = entry end

  local writer <close>, message, code = jsonl.create(path)
  if not writer then return nil, message, code end
  local changed, ok = false, true
  local stat = fs.lstat(path)
  if stat and stat.type == "file" then
    local records
    records, message, code = jsonl.scan(path,
      { custom_id = "/custom_id", batch = "/batch", written = "/written" })
    if not records then return nil, message, code end
    for record in records do
      local known = type(record.custom_id) == "string" and type(record.batch) == "string" and key(record)
      local entry = known and by_key[known]
      local line = record.text
      if entry then
        by_key[known] = nil
        if entry.written or not record.written then line = json.encode(entry) end
      end
      changed = changed or line ~= record.text
      if ok and line then ok, message, code = writer:raw(line) end
    end
  end
  for _, entry in ipairs(entries) do
    if ok and by_key[key(entry)] then
      changed = true
      ok, message, code = writer:raw(json.encode(entry))
    end
  end
  if not ok then return nil, message, code end
  if not changed then return true end
  local facts
  facts, message, code = writer:commit()
  if not facts then return nil, message, code end
  return true
end

return sidecar
