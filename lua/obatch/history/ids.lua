--- The custom_ids of a job's requests, in their order: by the request file where it is there, else as far as the
--- files of the job name them.

local errand = require "obatch.errand"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local part_events = require "obatch.part"

local ids = {}

--- Requests by their ordinals, from 1.
---@class obatch.history.Ids
---@field count integer
---@field find fun(self: obatch.history.Ids, id: string): integer?
---@field id fun(self: obatch.history.Ids, ordinal: integer): string
---@field line fun(self: obatch.history.Ids, ordinal: integer): string?
local List = {}
List.__index = List

---@param id string
---@return integer?
function List:find(id) return self.by_id[id] end
---@param ordinal integer
---@return string
function List:id(ordinal) return self[ordinal] end
--- There are no lines.
---@return nil
function List.line() return nil end
--- As an index has it.
function List.close() end

local function add(list, id)
  if type(id) ~= "string" or list.by_id[id] then return end
  list.count = list.count + 1
  list[list.count], list.by_id[id] = id, list.count
end

local function new_list() return setmetatable({ count = 0, by_id = {} }, List) end

-- ---------------------------------------------------------------- the request file

--- Where the request file of a job is: by its absolute path, as it was typed (from the folder of the caller, or
--- where the job is now), beside the journal. The first that is there and that `is_it(path, known)` takes, with true
--- as a second value; else the first that is there; nil. `state` is of fsck.replay.
---@param state table
---@param is_it fun(path: string, known: table): boolean
---@return string? path
---@return boolean? is_right
function ids.find_original(state, is_it)
  local known, dir, first = state.original, state.dir, nil
  if not known then return nil end
  local candidates = { known.path, dir .. "/" .. known.path:match("[^/]*$") }
  if type(known.absolute) == "string" then table.insert(candidates, 1, known.absolute) end
  if known.path:sub(1, 1) ~= "/" then
    table.move({ dir .. "/../" .. known.path, dir .. "/" .. known.path }, 1, 2, #candidates + 1, candidates)
  end
  for _, path in ipairs(candidates) do
    local stat = fs.stat(path)
    if stat and stat.type == "file" then
      if is_it(path, known) then return path, true end
      first = first or path
    end
  end
  return first, false
end

--- A copy of all requests, in their order, where iteration 1 has sent them in one file; nil where it has not.
---@param state table
---@return string?
function ids.copy_of_original(state)
  local first = state.iterations[1]
  local part = first and not first.cut and not first.adopted and #first.parts == 1 and first.parts[1]
  local path = part and part.file and state:path(1, part.file)
  local stat = path and fs.stat(path)
  local has_size = stat and part.bytes == stat.size and part_events.digest_of(part)
  if has_size and part_events.is_known(path, part) then return path end
end

--- By its size only: reading gigabytes to look at a job is too much.
local function has_size(path, known)
  return math.type(known.bytes) ~= "integer" or fs.stat(path).size == known.bytes
end

-- ---------------------------------------------------------------- where there is none

--- What the requests of an errand are about (see obatch.errand), by its record; nothing where there is none, or none
--- that can be read.
---@param dir string
---@return table[] items
function ids.items(dir)
  local record = errand.record(json.decode(fs.read(dir .. "/completed.json") or fs.read(dir .. "/record.json") or ""))
  return record and record.items or {}
end

--- The ids of all files of a job that may name some.
local function collect(state)
  local list = new_list()
  for _, item in ipairs(ids.items(state.dir)) do add(list, item.custom_id) end
  for n in ipairs(state.iterations) do
    local names = {}
    for _, name in ipairs(fs.list(state:path(n, "")) or {}) do
      if name:find("^batch_requests_iteration_.*%.jsonl$") then table.insert(names, 1, name) end
      if name:find("^merged_results_iteration_%d+%.jsonl$") or name:find("_output%.jsonl$")
        or name:find("_error%.jsonl$") or name:find("^rejected_iteration_") then names[#names + 1] = name end
    end
    for _, name in ipairs(names) do
      for line in jsonl.scan(state:path(n, name), { id = "/custom_id" }) or function() end do add(list, line.id) end
    end
  end
  return list
end

--- The requests of a job: by the file `named`, by that of the journal, or by what else there is. Returns them, the
--- path of the request file (nil where there is none), and a sentence where it is not what it should be; or nil,
--- message, CODE.
---@param state table  of fsck.replay
---@param named string?
---@return obatch.history.Ids? ids
---@return string? path
---@return string? note
function ids.open(state, named)
  local path, note = named, nil
  if named and not fs.stat(named) then return nil, named .. ": there is no such file", "USAGE" end
  if not path then
    local is_right
    path, is_right = ids.find_original(state, has_size)
    if path and not is_right then
      note = path .. " is not the request file of the job any more: its content has changed"
      path = nil
    elseif not path and state.original then
      note = ("the request file %s is not there: --original-requests names it"):format(state.original.path)
    end
    local own = state.dir .. "/original_requests.jsonl"
    if not path and fs.stat(own) then path = own end
    path = path or ids.copy_of_original(state)
    local sent = not path and state:path(1, "batch_requests_iteration_1.jsonl")
    -- An earlier script that kept its requests sent all of them in its first iteration.
    if sent and not state.original and fs.stat(sent) then path = sent end
  end
  if fs.stat(state.dir .. "/completed.json") then note = nil end -- its requests were removed, as they should be
  if not path then return collect(state), nil, note end
  local index, message, code = jsonl.index(path, "/custom_id")
  if not index then return nil, message, code end
  return index, path, note
end

-- ---------------------------------------------------------------- near ones

--- How unlike two ids are, cheaply: the bytes between what they share at both ends.
local function difference(a, b)
  local most, first, last = math.min(#a, #b), 0, 0
  while first < most and a:byte(first + 1) == b:byte(first + 1) do first = first + 1 end
  while last < most - first and a:byte(-last - 1) == b:byte(-last - 1) do last = last + 1 end
  return math.max(#a, #b) - first - last
end

--- Up to three of the ids that look like `id`, the nearest first.
---@param all obatch.history.Ids
---@param id string
---@return string[]
function ids.near(all, id)
  local best, wanted = {}, id:lower()
  local most = math.min(math.max(2, #id // 4), #id - 1) -- one that shares nothing with it is not near
  for ordinal = 1, all.count do
    local other = all:id(ordinal)
    local lower = other and other:lower()
    local away = lower and (lower == wanted and 0
      or math.min(difference(lower, wanted), difference(lower:match("[^/|]*$"), wanted))) -- or the name of an image
    local holds = away and wanted ~= "" and lower:find(wanted, 1, true)
    if holds then away = math.min(away, #lower - #wanted) - 0.5 -- before those that are as unlike it
    elseif away and away > most then away = nil end
    if away and (#best < 3 or away < best[3].away) then
      table.insert(best, { id = other, away = away })
      table.sort(best, function(a, b) return a.away < b.away end)
      best[4] = nil
    end
  end
  for i, entry in ipairs(best) do best[i] = entry.id end
  return best
end

return ids
