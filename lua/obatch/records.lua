--- The batch folder of an image project: a record for each batch, and the journal of what was sent.
--
--   BATCH_DIR/<batch id>.txt            record of a batch whose answers are not next to their images yet
--   BATCH_DIR/completed/<batch id>.txt  the same, when they are
--   BATCH_DIR/<base>_NNNN.jsonl         requests whose batch does not exist yet, and
--   BATCH_DIR/<base>_NNNN.record        the record in the making: written when the requests are whole
--   BATCH_DIR/journal.jsonl             events, see obatch.part
--   BATCH_DIR/unresolved.jsonl          every image that came back without a text, and why
--   BATCH_DIR/lock                      one process at a time
--   OUTPUT_DIR/<batch id>.jsonl         what a batch gave back, and <batch id>_errors.jsonl
--
-- An image that is in a record here (see obatch.image_record) is on its way and must not be sent again.

local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local journal = require "obatch.journal"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local meter = require "obatch.meter"
local openai = require "obatch.openai"
local part_events = require "obatch.part"
local text = require "obatch.text"

local records = {}

---@class obatch.Shelf
---@field parts table[]  those not completed yet, oldest first
local Shelf = {}
Shelf.__index = Shelf

-- ---------------------------------------------------------------- events

local apply = {}

function apply.started(self, event) self.run = event.run end

--- The journal holds what a part needs to be created; its items are in the record.
function apply.planned(self, event)
  self.last_part = event.planned.part
  self.parts[#self.parts + 1] = event.planned
end

function apply.adopted(self, event)
  self.last_part = event.part
  self.parts[#self.parts + 1] = { part = event.part, batch_id = event.batch_id, adopted = true, legacy = true }
end

local function find_part(self, number)
  for i, part in ipairs(self.parts) do
    if part.part == number then return part, i end
  end
end

function apply.completed(self, event)
  local part, i = find_part(self, event.part)
  if not i then return end
  -- A person may have put the record away while the batch was in flight: nobody will see its end.
  if part.batch_id then self.meter:apply(part, { event = "downloaded", batch_id = part.batch_id }) end
  table.remove(self.parts, i)
end

local function apply_event(self, event)
  if apply[event.event] then return apply[event.event](self, event) end
  local part, place = find_part(self, event.part)
  if not part then return end
  local before = part.batch_id
  self.meter:apply(part, event)
  part_events.apply(part, event)
  if event.event == "split" then
    table.remove(self.parts, place)
    for _, successor in ipairs(event.successors) do apply.planned(self, { planned = successor }) end
    return
  end
  -- The record stays under the old batch's name until the new batch has one.
  if event.event == "requeued" then part.previous_id = before or part.previous_id end
  if event.event == "downloaded" then
    -- One that was given up may have no batch any more, and what is told of it needs a name.
    part.batch_id = part.batch_id or part.previous_id or part.file:gsub("%.jsonl$", "")
    for i, name in ipairs(part.files) do part.files[i] = (self.output_dir or ".") .. "/" .. name end
  elseif event.event == "rejected" then
    part.batch_id = part.batch_id or part.previous_id or part.file:gsub("%.jsonl$", "")
    part.files, part.ended = { (self.output_dir or ".") .. "/" .. event.file }, { status = "failed" }
  end
end

--- Makes an event durable, then applies it.
---@param event table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:event(event)
  local ok, message, code = self.journal:record(event)
  if not ok then return nil, message, code end
  apply_event(self, event)
  return true
end

-- ---------------------------------------------------------------- opening

---@param name string
---@return string path
function Shelf:path(name) return self.batch_dir .. "/" .. name end

---@param id string  of a batch
---@return string path
function Shelf:record_path(id) return self:path(part_events.file_name(id) .. ".txt") end

---@param id string
---@return string path
function Shelf:completed_path(id) return self.completed_dir .. "/" .. part_events.file_name(id) .. ".txt" end

--- Where a part's record is now; nil when nobody knows.
---@param part table
---@return string|nil path
function Shelf:whereabouts(part)
  for _, path in ipairs { part.batch_id and self:record_path(part.batch_id) or false,
    part.file and self:path(part.file:gsub("%.jsonl$", ".record")) or false,
    part.previous_id and self:record_path(part.previous_id) or false } do
    if path and fs.stat(path) then return path end
  end
end

--- Puts right what a run that was cut off has left between an event and its files.
local function tidy(self)
  for _, part in ipairs(table.move(self.parts, 1, #self.parts, 1, {})) do
    local found = self:whereabouts(part)
    local ok, message, code = true, nil, nil
    if part_events.is_untouched(part) then
      -- Nothing of it has left this machine: its images are composed anew, by the options as they are then.
      ok, message, code = self:withdraw(part)
    elseif not found then
      -- Moved to the completed ones, by the last run or by a person: it is not ours to bring back.
      ok, message, code = self:event { event = "completed", part = part.part }
    elseif part.batch_id and found ~= self:record_path(part.batch_id) then
      ok, message, code = self:store_record(part, found)
    elseif part.batch_id then
      ok, message, code = self:remove_leftovers(part)
    end
    if not ok then return nil, message, code end
  end
  for _, name in ipairs(fs.list(self.batch_dir) or {}) do
    if name:find("%.txt%.part$") or name:find("%.record%.part$") or name:find("_%d%d%d%d+%.jsonl%.part$")
      or name:find("%.input%.part$") then fs.remove(self:path(name)) end
  end
  return true
end

--- Whether a file's name can be that of a batch's record, as all tools name them.
---@param name string
---@return boolean
function records.is_name(name) return name:find("^batch[_-][%w_-]+%.txt$") ~= nil end

--- Takes over the records that another tool has written.
local function adopt(self)
  local known = {}
  for _, part in ipairs(self.parts) do
    for _, id in ipairs { part.batch_id or false, part.previous_id or false } do
      if id then known[part_events.file_name(id) .. ".txt"] = true end
    end
  end
  for _, name in ipairs(fs.list(self.batch_dir) or {}) do
    local id, ok, message, code = name:match("^(.+)%.txt$"), true, nil, nil
    if not id or known[name] then -- no record, or one of ours
      ok = true
    elseif not records.is_name(name) then
      self.log(("%s is no record of a batch: left alone"):format(text.printable(self:path(name))))
    elseif fs.stat(self:completed_path(id)) then
      -- It was stored; the run ended before this copy was gone.
      ok, message, code = fs.remove(self:path(name))
    else
      self.log(("%s: a record that is new to this journal; going on with its batch"):format(self:path(name)))
      ok, message, code = self:event { event = "adopted", part = (self.last_part or 0) + 1, batch_id = id }
    end
    if not ok then return nil, message, code end
  end
  return true
end

---@class obatch.records.Options
---@field batch_dir string
---@field completed_dir string
---@field log fun(line: string)
---@field output_dir? string   without it nothing can be harvested
---@field description? string  for the metadata of new batches

--- Opens a batch folder, and makes it where it is missing.
---@param options obatch.records.Options
---@return obatch.Shelf|nil shelf
---@return string|nil message
---@return string|nil code  "LOCKED", "DAMAGED", or what the disk says
function records.open(options)
  for _, key in ipairs { "batch_dir", "completed_dir", "output_dir" } do
    local ok, message, code = true, nil, nil
    if options[key] then ok, message, code = fs.mkdir(options[key]) end
    if not ok then return nil, message, code end
  end
  local lock, message, code = fs.lock(options.batch_dir .. "/lock")
  if code == "LOCKED" then message = ("%s is in use: %s"):format(options.batch_dir, message) end
  if not lock then return nil, message, code end
  local self = setmetatable({ batch_dir = options.batch_dir, completed_dir = options.completed_dir,
    output_dir = options.output_dir, description = options.description, log = options.log, lock = lock, parts = {},
    title = "images", rest = "the other images are free to be sent again" }, Shelf)
  self.meter = meter.new(function() return self.parts end)
  local function give_up(problem, reason)
    self:close()
    return nil, problem, reason
  end

  local events
  self.journal, events, code = journal.open(self:path("journal.jsonl"))
  if not self.journal then return give_up(events, code) end
  for _, event in ipairs(events) do apply_event(self, event) end
  local ok = true
  if not self.run then ok, message, code = self:event { event = "started", run = fs.random(6) } end
  if ok then ok, message, code = tidy(self) end
  if ok then ok, message, code = adopt(self) end
  if not ok then return give_up(message, code) end
  return self
end

function Shelf:close()
  if self.journal then self.journal:close() end
  self.lock:close()
end
Shelf.__close = Shelf.close

-- ---------------------------------------------------------------- what is sent

--- The number that the next part will have, and the path of its request file.
---@param base string
---@return integer number
---@return string path
function Shelf:next_part(base)
  local number = (self.last_part or 0) + 1
  return number, self:path(("%s_%04d.jsonl"):format(base, number))
end

--- Takes in a request file that is whole.
---@param base string
---@param facts { lines: integer, bytes: integer, sha256: string }  those of its writer's commit()
---@param record table  as above (.image_dir, .request, .items)
---@return table|nil part  which is then to be submitted
---@return string|nil message
---@return string|nil code
function Shelf:plan(base, facts, record)
  local number, path = self:next_part(base)
  record.run, record.part = self.run, number
  local ok, message, code = fs.write(path:gsub("%.jsonl$", ".record"), image_record.encode(record))
  if not ok then return nil, message, code end
  ok, message, code = self:event { event = "planned", planned = { part = number, file = path:match("[^/]*$"),
    endpoint = record.request.endpoint, model = record.request.model, lines = facts.lines, bytes = facts.bytes,
    sha256 = facts.sha256, tokens_in = facts.tokens_in, tokens_out = facts.tokens_out } }
  if not ok then return nil, message, code end
  return find_part(self, number)
end

---@param part table
---@param event table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:record(part, event)
  event.part = part.part
  return self:event(event)
end

--- The request file is deleted once its batch exists.
---@param part table
---@return string path
function Shelf:request_path(part)
  local path = part.file and self:path(part.file)
  return path and fs.stat(path) and path or nil
end

---@param part table
---@return string name
function Shelf:upload_name(part)
  return ("%s-%d-%s.jsonl"):format(self.run, part.part, part_events.short_digest(part))
end

---@param part table
---@return table<string, string> tag
function Shelf:tag(part)
  local tag = { obatch_run = self.run, obatch_part = tostring(part.part) }
  if self.description then tag.description = self.description end
  return tag
end

--- A batch object as JSON, in the service's own bytes; nil where it cannot be had.
local function text_of(batch)
  local raw = batch and openai.raw(batch)
  return raw and json.check(raw) and raw or nil
end

--- Writes the record of a part under its batch's name, from where it was, and removes the old one. The
--- requests go with it.
---@param part table
---@param from string
---@param batch table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:store_record(part, from, batch)
  local record, message, code = image_record.load(from)
  if not record then return nil, message, code end
  local target = self:record_path(part.batch_id)
  local batch_text = text_of(batch) or record.batch_text or json.encode { id = part.batch_id }
  local ok
  ok, message, code = fs.write(target, image_record.encode(record, batch_text))
  if not ok then return nil, message, code end
  return self:remove_leftovers(part)
end

--- Once a batch has its record, its requests go, and what the record was before.
---@param part table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:remove_leftovers(part)
  local paths = {}
  if part.file then paths = { self:path(part.file), self:path(part.file:gsub("%.jsonl$", ".record")) } end
  if part.previous_id then paths[#paths + 1] = self:record_path(part.previous_id) end
  for _, path in ipairs(paths) do
    local ok, message, code = fs.remove(path)
    if not ok then return nil, message, code end
  end
  return true
end

--- A part's requests, and its images, become new parts. Where its request file is not kept any more,
--- the service still has it.
---@param part table
---@param pieces integer
---@param api table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:split(part, pieces, api)
  local path = self:path(part.file)
  local ok, message, code = true, nil, nil
  if not fs.stat(path) then ok, message, code = api:download(part.file_id, path) end
  if not ok then return nil, message, code end
  local record
  record, message, code = image_record.load(self:whereabouts(part))
  if not record then return nil, message, code end
  local base = part.file:match("^(.*)_%d+%.jsonl$")
  local successors
  successors, message, code = part_events.split_file(path, part, pieces, function(i)
    local number = self.last_part + i
    return self:path(("%s_%04d.jsonl"):format(base, number)), number
  end)
  if not successors then return nil, message, code end
  local taken = 0
  for _, successor in ipairs(successors) do
    local piece = { image_dir = record.image_dir, root = record.root, run = record.run, part = successor.part,
      request = record.request, items = table.move(record.items, taken + 1, taken + successor.lines, 1, {}) }
    taken = taken + successor.lines
    successor.previous_id = part.batch_id or part.previous_id -- whose record goes when there is a new one
    ok, message, code = fs.write(self:path(successor.file:gsub("%.jsonl$", ".record")), image_record.encode(piece))
    if not ok then return nil, message, code end
  end
  ok, message, code = self:event { event = "split", part = part.part, batch_id = part.batch_id,
    successors = successors }
  if not ok then return nil, message, code end
  return self:remove_leftovers(part)
end

--- Takes back a part of which the service has refused the requests or the batch: nothing of it is there,
--- and its images are free again.
---@param part table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:withdraw(part)
  -- In this order: a part that is stopped in between is still there, and taken back again.
  local ok, message, code = self:remove_leftovers(part)
  if not ok then return nil, message, code end
  return self:event { event = "completed", part = part.part }
end

Shelf.take_back = Shelf.withdraw

--- Notes that a part's batch exists, and writes its record.
---@param part table
---@param batch table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:created(part, batch)
  local ok, message, code = self:event { event = "created", part = part.part, batch_id = batch.id }
  if not ok then return nil, message, code end
  return self:store_record(part, self:whereabouts(part), batch)
end

-- ---------------------------------------------------------------- what came back

---@param part table
---@param kind "output"|"error"
---@return string path
function Shelf:download_path(part, kind)
  return ("%s/%s%s.jsonl"):format(self.output_dir, part_events.file_name(part.batch_id),
    kind == "error" and "_errors" or "")
end

--- What an earlier script has downloaded, of a batch that the service has forgotten since.
---@param part table
---@return string|nil path
function Shelf:kept_results(part)
  local path = self:download_path(part, "output")
  return fs.stat(path) and json.array { path:match("[^/]*$") } or nil
end

--- A batch that failed validation for some lines: those become result-like lines that say so. Nothing of
--- it has run; the images of the other lines are free to be sent again.
---@param part table
---@param faults table<integer, table>
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:reject(part, faults)
  local record, message, code = image_record.load(self:whereabouts(part))
  if not record then return nil, message, code end
  local name = part_events.file_name(part.batch_id or part.previous_id) .. "_rejected.jsonl"
  local writer <close>, problem, reason = jsonl.create(self.output_dir .. "/" .. name)
  if not writer then return nil, problem, reason end
  for number, item in ipairs(record.items) do
    local fault, ok = faults[number] or faults[0], true
    if fault then
      ok, problem, reason = writer:put { custom_id = item.custom_id, error = json.null,
        response = { status_code = 400, body = { error = fault } } }
    end
    if not ok then return nil, problem, reason end
  end
  local facts
  facts, problem, reason = writer:commit()
  if not facts then return nil, problem, reason end
  return self:record(part, { event = "rejected", batch_id = part.batch_id, file = name })
end

--- The items of a batch that an earlier script submitted, from the batch's input file at the service:
--- custom_ids only. false when the service no longer has it; nil, message, CODE.
local function fetch_items(self, part, api)
  local function unknown(message, code)
    if code == "NOT_FOUND" then return false end
    return nil, message, code
  end
  local batch, message, code = api:batch(part.batch_id)
  if not batch then return unknown(message, code) end
  local path = self:path(part_events.file_name(part.batch_id) .. ".input")
  local bytes
  bytes, message, code = api:download(openai.present(batch.input_file_id) or "", path)
  if not bytes then return unknown(message, code) end
  local items = json.array {}
  for line in assert(jsonl.scan(path, { id = "/custom_id" }, { max_line = 1 << 30 })) do
    if type(line.id) == "string" then items[#items + 1] = { custom_id = line.id, path = line.id:gsub("|", "/") } end
  end
  fs.remove(path)
  return items, batch
end

--- Loads part.record. For the record of an earlier script that names no images, the service is asked
--- for them, once: .items stays nil where it no longer knows.
---@param part table
---@param api table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:load(part, api)
  local path = self:whereabouts(part)
  if not path then return nil, ("%s: the record is gone"):format(self:record_path(part.batch_id)), "ENOENT" end
  local record, message, code = image_record.load(path)
  if not record then return nil, message, code end
  if not record.items then
    if not api then
      return nil, ("the images of batch %s can only be asked for at the service: set OPENAI_API_KEY"):format(
        part.batch_id), "USAGE"
    end
    local items, batch
    items, batch, code = fetch_items(self, part, api)
    if items == nil then return nil, batch, code end
    if items then
      record.items = items
      local ok
      ok, message, code = fs.write(path, image_record.encode(record, text_of(batch)))
      if not ok then return nil, message, code end
    end
  end
  image_record.find_root(record)
  part.record = record
  return true
end

--- Puts a part away whose answers are stored: its record, with the batch as it was last seen, moves
--- to the completed ones.
---@param part table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:complete(part)
  local from = self:whereabouts(part)
  local record, message, code = image_record.load(from)
  if not record then return nil, message, code end
  local to = self:completed_path(part.batch_id or part.previous_id or part.file)
  local ok
  if record.items then
    ok, message, code = fs.write(to, image_record.encode(record, text_of(part.seen) or record.batch_text))
  else
    ok, message, code = fs.write(to, assert(fs.read(from)))
  end
  if ok then ok, message, code = self:event { event = "completed", part = part.part } end
  if ok then ok, message, code = fs.remove(from) end
  part.record = nil
  if not ok then return nil, message, code end
  return self:remove_leftovers(part)
end

-- ---------------------------------------------------------------- what has no text

--- Goes through the unresolved.jsonl of a batch folder: one entry for each image and batch that gave no text,
--- oldest first: { custom_id, path, batch, class, reason, action, attempts }.
---@param batch_dir string
---@return fun(): table? next_entry
function records.unresolved(batch_dir)
  local path = batch_dir .. "/unresolved.jsonl"
  if not fs.stat(path) then return function() end end
  local reader = assert(jsonl.open(path))
  local next_line, state = reader:lines()
  return function()
    while true do
      local line = next_line(state)
      if not line then return nil end
      local entry = line.text and json.decode(line.text)
      if type(entry) == "table" then return image_record.restore_paths(entry) end
    end
  end
end

---@return any entries  see records.unresolved
---@return string|nil message
---@return string|nil code
function Shelf:unresolved() return records.unresolved(self.batch_dir) end

--- Adds entries of one batch to unresolved.jsonl, durably; those that are there already are not doubled.
---@param entries table[]
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Shelf:note_unresolved(entries)
  if #entries == 0 then return true end
  local known, lines = {}, {}
  local function key(entry) return ("%s\0%s\0%s"):format(entry.batch, entry.custom_id, entry.action) end
  for entry in self:unresolved() do
    if entry.batch == entries[1].batch then known[key(entry)] = true end
  end
  for _, entry in ipairs(entries) do
    if not known[key(entry)] then lines[#lines + 1] = json.encode(image_record.with_paths(entry)) .. "\n" end
  end
  if #lines == 0 then return true end
  local file <close>, message, code = fs.append(self:path("unresolved.jsonl"))
  if not file then return nil, message, code end
  -- A crash may have left half an entry: it must not spoil the next one.
  local is_torn = fs.last_byte(self:path("unresolved.jsonl")):find("[^\n]") ~= nil
  return file:write((is_torn and "\n" or "") .. table.concat(lines))
end

return records
