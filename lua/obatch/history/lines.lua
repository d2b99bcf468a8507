--- Lines in the files of a job, each by one integer: which file, and where in it. The lines themselves stay there.

local jsonl = require "obatch.jsonl"
local progress = require "obatch.progress"
local results = require "obatch.results"

---@class obatch.history.Lines
local Lines = {}
Lines.__index = Lines

local lines = {}

--- Files that are open at the same time: a job may have thousands.
local MAX_OPEN = 24

---@return obatch.history.Lines
function lines.new()
  return setmetatable({ files = {}, numbers = {}, readers = {}, open = {} }, Lines)
end

--- The number of a file. `about` is kept with it: what the file is.
---@param path string
---@param about table?
---@return integer
function Lines:add(path, about)
  local number = self.numbers[path]
  if not number then
    number = #self.files + 1
    self.files[number], self.numbers[path] = { path = path, about = about }, number
  end
  return number
end

--- The file of a place: { path=, about= }.
---@param place integer
---@return table
function Lines:file(place) return self.files[(results.split_place(place))] end

--- The line at a place.
---@param place integer
---@return string? text  nil when it cannot be read any more
---@return string? message
function Lines:text(place)
  local number, offset = results.split_place(place)
  local reader = self.readers[number]
  if not reader then
    local message
    reader, message = jsonl.open(self.files[number].path)
    if not reader then return nil, message end
    if #self.open == MAX_OPEN then
      local oldest = table.remove(self.open, 1)
      self.readers[oldest]:close()
      self.readers[oldest] = nil
    end
    self.readers[number] = reader
    table.insert(self.open, number)
  end
  return reader:at(offset)
end

--- Where the lines of several files are, by request. `paths` is a list of { path=, ... }, which Lines:file() has as
--- .about; `ids` knows the requests. What cannot be read is left out and told.
---@param paths { path: string }[]
---@param ids obatch.history.Ids
---@param tell fun(sentence: string)
---@param only? integer  the ordinal of the one request that is asked about: faster
---@return { at: table<integer, integer>, number: table<integer, integer>, more: table<integer, integer[][]> } map
---  of ordinals to the place and the number of the first line, and to { place, number } of the others
function Lines:map(paths, ids, tell, only)
  local map = { at = {}, number = {}, more = {} }
  local wanted = only and ids:id(only)
  for _, entry in ipairs(paths) do
    local file = self:add(entry.path, entry)
    local records, message = jsonl.scan(entry.path, { id = "/custom_id" })
    if not records then tell(message) end
    for record in records and progress.over(records, "reading", entry.path) or function() end do
      local id = record.id
      local ordinal = not wanted and type(id) == "string" and ids:find(id) or wanted and id == wanted and only
      if ordinal then
        local place = results.place(file, record.offset)
        if not map.at[ordinal] then
          map.at[ordinal], map.number[ordinal] = place, record.number
        else
          map.more[ordinal] = map.more[ordinal] or {}
          table.insert(map.more[ordinal], { place, record.number })
        end
      end
    end
  end
  return map
end

function Lines:close()
  for _, reader in pairs(self.readers) do reader:close() end
  self.readers, self.open = {}, {}
end

return lines
