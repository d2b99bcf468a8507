--- Records of one kind (files, batches, uploads): each one a small JSON file, all of them in memory.
--
-- A record is a table with `object` (what the API shows) and whatever else the sandbox has to
-- remember; `seq` counts creations, because created_at has only seconds.

local fs = require "obatch.fs"
local json = require "obatch.json"

local Store = {}
Store.__index = Store

local store = {}

--- Opens the records kept in `dir`, and forgets what a stopped process left half-written there.
---@param dir string
---@return table store
function store.open(dir)
  local self = setmetatable({ dir = dir, by_id = {}, order = {}, seq = 0, removed = {} }, Store)
  assert(fs.mkdir(dir))
  for _, name in ipairs(assert(fs.list(dir))) do
    local path = dir .. "/" .. name
    if name:find("%.part$") then
      assert(fs.remove(path))
    elseif name:find("%.json$") then
      local record = assert(json.decode(assert(fs.read(path))))
      self.by_id[record.object.id] = record
      self.order[#self.order + 1] = record
      self.seq = math.max(self.seq, record.seq)
    end
  end
  table.sort(self.order, function(a, b) return a.seq < b.seq end)
  return self
end

---@param id string
---@return string path
function Store:path(id) return self.dir .. "/" .. id end

---@param record table
function Store:save(record)
  assert(fs.write(self:path(record.object.id) .. ".json", json.encode(record)))
end

--- Takes a new record in.
---@param record { object: { id: string } }
---@return table record
function Store:add(record)
  self.seq = self.seq + 1
  record.seq = self.seq
  self:save(record)
  self.by_id[record.object.id] = record
  self.order[#self.order + 1] = record
  return record
end

---@param id string
---@return table|nil record
function Store:get(id) return self.by_id[id] end

---@param id string
function Store:remove(id)
  local record = self.by_id[id]
  assert(fs.remove(self:path(id) .. ".json"))
  self.by_id[id] = nil
  self.removed[id] = record.seq -- who deletes while paging names a deleted id as `after`
  for i, other in ipairs(self.order) do
    if other == record then table.remove(self.order, i) break end
  end
end

--- One page of a list, newest first unless `ascending`; nil when `after` names nothing.
---@param limit integer
---@param after? string  an id
---@param ascending? boolean
---@param visible fun(record: table): any
---@return table[]|nil page
---@return boolean|nil more
function Store:page(limit, after, ascending, visible)
  local from
  if after then
    from = self.by_id[after] and self.by_id[after].seq or self.removed[after]
    if not from then return nil end
  end
  local page, more = {}, false
  local first, last, step = #self.order, 1, -1
  if ascending then first, last, step = 1, #self.order, 1 end
  for i = first, last, step do
    local record = self.order[i]
    if (not from or (record.seq - from) * step > 0) and visible(record) then
      if #page == limit then more = true break end
      page[#page + 1] = record
    end
  end
  return page, more
end

return store
