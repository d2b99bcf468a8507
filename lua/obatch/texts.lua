--- The texts beside the images of a folder: which there are, and what is usual for their folder.

local cleaning = require "obatch.cleaning"
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"

local texts = {}

--- A file of more bytes is not read: it cannot be the text of a page.
texts.MAX_BYTES = 8 * 1000 * 1000

--- The content of a sidecar, "" for an empty one.
---@param path string
---@return string|nil content
---@return string|nil message
---@return string|nil code  "LINK": no regular file; "TOO_BIG": more than MAX_BYTES; or an errno name
function texts.read(path)
  local stat, message, code = fs.lstat(path)
  if not stat then return nil, message, code end
  local name = text.printable(path)
  if stat.type ~= "file" then return nil, name .. " is a link, not a file: left alone", "LINK" end
  if stat.size > texts.MAX_BYTES then
    return nil, ("%s has %d bytes: no page has so many"):format(name, stat.size), "TOO_BIG"
  end
  return fs.read(path)
end

local function folder_of(path) return path:match("^(.*)/[^/]*$") or "." end

local function median(sorted)
  local middle = #sorted // 2
  return #sorted % 2 == 1 and sorted[middle + 1] or (sorted[middle] + sorted[middle + 1]) / 2
end

---@class obatch.texts.Item
---@field path string
---@field image string
---@field kind "text"|"api"
---@field message? string  it could not be read
---@field code? string

---@class obatch.texts.Survey
---@field items obatch.texts.Item[]  in the order of their paths
---@field faults string[]            about folders that could not be read
local Survey = {}
Survey.__index = Survey

--- What the detectors need to know about the folder of a text.
---@param path string
---@return { json?: boolean, texts: integer, median?: number } context
function Survey:context(path)
  local folder = self.folders[folder_of(path)] or {}
  if #folder > 0 and not folder.median then
    table.sort(folder)
    folder.median = median(folder)
  end
  return { json = self.as_json, texts = #folder, median = folder.median }
end

--- Finds all sidecars below a folder and measures them as they are after cleaning, labelled or not, so
--- that what clean and deep_clean do does not change what is usual. One text at a time is held in memory.
---@param image_dir string
---@param as_json? boolean  they are to be JSON
---@param interrupted fun(): boolean
---@return obatch.texts.Survey|nil survey
---@return string|nil message
---@return string|nil code  "INTERRUPTED"
function texts.survey(image_dir, as_json, interrupted)
  local survey = setmetatable({ items = {}, faults = {}, folders = {}, as_json = as_json }, Survey)
  for path, ok, problem in fs.walk(image_dir, { ext = { [".txt"] = true, [".txt.api"] = true }, stat = false }) do
    if interrupted() then return nil, "interrupted", "INTERRUPTED" end
    local image, kind = sidecar.parse(path)
    if image then
      local item = { path = path, image = image, kind = kind }
      local content, message, code = texts.read(path)
      if not content then
        item.message, item.code = message, code
      elseif not text.is_blank(content) then
        local folder = survey.folders[folder_of(path)] or {}
        survey.folders[folder_of(path)] = folder
        folder[#folder + 1] = detectors.length((cleaning.clean(content, as_json)))
      end
      survey.items[#survey.items + 1] = item
    elseif not ok and (fs.lstat(path) or {}).type ~= "link" then
      survey.faults[#survey.faults + 1] = problem
    end
  end
  return survey
end

return texts
