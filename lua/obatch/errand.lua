--- An errand: requests about files of the user, composed by a command, that go through the correction loop
--- in a folder of their own; their answers are then put where the files are.
--
--   DIR/NAME_NNN/original_requests.jsonl   the requests
--   DIR/NAME_NNN/record.json               what each one is about; once it is there, they are on their way
--   DIR/NAME_NNN/completed.json            the same, when the answers are in their place
--   DIR/NAME_NNN/...                       the correction loop's job
--
-- A record is { items = { { custom_id, path, image_dir, ... }, ... }, ... }. Of one name, an errand begins
-- when the one before it is completed.

local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local job = require "obatch.job"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local loop = require "obatch.loop"

local errand = {}

---@class obatch.Errand
---@field name string    "run_001"
---@field dir string
---@field record table
---@field items table[]
local Errand = {}
Errand.__index = Errand

--- A record by its JSON, with the paths of its items as they were; nil where it is none. That of an early obatch is the
--- bare list of its items.
---@param value any
---@return { items: table[] }|nil record
function errand.record(value)
  local record = json.is_array(value) and { items = value } or value
  if type(record) ~= "table" or not image_record.are_items(record.items) then return nil end
  for _, item in ipairs(record.items) do image_record.restore_paths(item) end
  return record
end

local function read_record(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local value, problem = json.decode(content)
  local record = errand.record(value)
  if not record then return nil, ("%s: %s"):format(path, problem or "not a record"), "DAMAGED" end
  return record
end

local function write_record(path, record)
  local copy = {}
  for key, value in pairs(record) do copy[key] = value end
  copy.items = json.array {}
  for i, item in ipairs(record.items) do copy.items[i] = image_record.with_paths(item) end
  return fs.write(path, json.encode(copy) .. "\n")
end

--- The number of the last errand of a name, 0 when there was none.
local function last_number(dir, name)
  local last = 0
  for _, entry in ipairs(fs.list(dir) or {}) do
    local number = entry:sub(1, #name + 1) == name .. "_" and entry:sub(#name + 2):match("^%d+$")
    last = math.max(last, math.tointeger(tonumber(number)) or 0)
  end
  return last
end

local function new(dir, name, record)
  return setmetatable({ name = name, dir = dir .. "/" .. name, record = record, items = record.items }, Errand)
end

--- Makes sure that the folder of an errand is one: a link would lead out of `dir`. true | nil, message, CODE.
local function check_folder(folder)
  local stat = fs.lstat(folder)
  if stat and stat.type == "link" then
    return nil, ("%s is a link, and the folders of runs are obatch's own: remove it"):format(folder), "LINK"
  end
  return true
end

--- The errand that is on its way; nil alone when there is none.
---@param dir string
---@param name string  "run"
---@return obatch.Errand|nil errand
---@return string|nil message
---@return string|nil code
function errand.unfinished(dir, name)
  local full = ("%s_%03d"):format(name, last_number(dir, name))
  local ok, problem, reason = check_folder(dir .. "/" .. full)
  if not ok then return nil, problem, reason end
  local record, message, code = read_record(("%s/%s/record.json"):format(dir, full))
  if record then return new(dir, full, record) end
  if code == "ENOENT" then return nil end
  return nil, message, code
end

--- The record of a completed errand.
---@param dir string
---@param full_name string  with the number
---@return table|nil record
---@return string|nil message
---@return string|nil code
function errand.completed(dir, full_name)
  return read_record(("%s/%s/completed.json"):format(dir, full_name))
end

--- Begins an errand. Nothing is on its way before it is returned; nil alone when the record has no items.
---@param dir string
---@param name string
---@param compose fun(writer: obatch.jsonl.Writer): table?, string?, string?  puts the requests in, returns the record
---@param sha256? boolean  the images that are put in are to know theirs: that takes hashing all that is written, too
---@return obatch.Errand|nil errand
---@return string|nil message
---@return string|nil code
function errand.begin(dir, name, compose, sha256)
  local last = last_number(dir, name)
  -- One that was stopped before its record was there has sent nothing: its folder is used again.
  local is_new = last == 0 or fs.stat(("%s/%s_%03d/completed.json"):format(dir, name, last)) ~= nil
  local full = ("%s_%03d"):format(name, is_new and last + 1 or last)
  local folder = dir .. "/" .. full
  local ok, message, code = check_folder(folder)
  if ok then ok, message, code = fs.mkdir(folder) end
  if not ok then return nil, message, code end
  local writer <close>, problem, reason = jsonl.create(folder .. "/original_requests.jsonl", { sha256 = sha256 })
  if not writer then return nil, problem, reason end
  local record
  record, message, code = compose(writer)
  if not record then return nil, message, code end
  if #record.items == 0 then
    writer:close()
    fs.remove(folder)
    return nil
  end
  local facts
  facts, message, code = writer:commit()
  if not facts then return nil, message, code end
  ok, message, code = write_record(folder .. "/record.json", record)
  if not ok then return nil, message, code end
  return new(dir, full, record)
end

--- Brings the requests to their end by loop.run, with its options but base_dir and original. A budget is for the
--- errands of this name that went before, too, and for .beside.
---@param options table
---@return table|nil result  that of loop.run
---@return string|nil message
---@return string|nil code
function Errand:run(options)
  options.base_dir, options.original = self.dir, self.dir .. "/original_requests.jsonl"
  local stem, number = self.dir:match("^(.*_)(%d+)$")
  options.beside = table.move(options.beside or {}, 1, #(options.beside or {}), 1, {})
  for n = 1, options.budget and options.budget.limited and tonumber(number) - 1 or 0 do
    local before = job.read(("%s%03d"):format(stem, n))
    if before then table.insert(options.beside, before.meter) end
  end
  return loop.run(options)
end

--- The answers are in their place: nothing of this is on its way any more. The requests, which may hold
--- whole images, go.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Errand:complete()
  local ok, message, code = fs.rename(self.dir .. "/record.json", self.dir .. "/completed.json")
  if not ok then return nil, message, code end
  for path in fs.walk(self.dir, { ext = { [".jsonl"] = true }, stat = false }) do
    local name = path:match("[^/]*$")
    if name == "original_requests.jsonl" or name:find("^batch_requests_iteration_") then
      ok, message, code = fs.remove(path)
      if not ok then return nil, message, code end
    end
  end
  return true
end

return errand
