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
-- A record says which images a batch holds: { batch =, image_dir =, root = (image_dir's real path), run =,
-- part =, request = { endpoint, model, detail, max_tokens, prompt }, items = { { custom_id, path, bytes,
-- sha256, prompt_sha256, attempt, fields, replaces }, ... } }, items in the order of the request lines. An
-- image that is in a record here is on its way and must not be sent again. Records of earlier scripts
-- hold something else; only their name counts.

local fs = require "obatch.fs"
local journal = require "obatch.journal"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local meter = require "obatch.meter"
local openai = require "obatch.openai"
local part_events = require "obatch.part"
local text = require "obatch.text"

local records = {}
local Shelf = {}
Shelf.__index = Shelf

-- ---------------------------------------------------------------- records on disk

--- A path as JSON can hold it: one that is not UTF-8 becomes { hex = its bytes in hexadecimal digits }.
function records.encode_path(path)
  if utf8.len(path) then return path end
  return { hex = (path:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)) }
end

function records.decode_path(value)
  if type(value) ~= "table" then return value end
  return (value.hex:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end))
end

local PATHS = { "path", "image_dir", "root" }

--- A copy of a table with its paths as JSON can hold them.
function records.with_paths(entry)
  local copy = {}
  for key, value in pairs(entry) do copy[key] = value end
  for _, key in ipairs(PATHS) do copy[key] = copy[key] and records.encode_path(copy[key]) end
  return copy
end

--- Back again, in place.
function records.restore_paths(entry)
  for _, key in ipairs(PATHS) do entry[key] = records.decode_path(entry[key]) end
  return entry
end

--- The text of a record: what is short on lines of its own, an item a line.
local function encode_record(record, batch_text)
  local lines = { "{" }
  if batch_text then lines[#lines + 1] = ('"batch": %s,'):format(batch_text) end
  local head = records.with_paths(record)
  for _, key in ipairs { "previous", "image_dir", "root", "run", "part", "request" } do
    if head[key] ~= nil then lines[#lines + 1] = ('"%s": %s,'):format(key, json.encode(head[key])) end
  end
  lines[#lines + 1] = '"items": ['
  for i, item in ipairs(record.items) do
    lines[#lines + 1] = json.encode(records.with_paths(item)) .. (i < #record.items and "," or "")
  end
  lines[#lines + 1] = "]}\n"
  return table.concat(lines, "\n")
end

--- Whether a value is a path, as encode_path makes it.
local function is_path(value)
  if type(value) == "table" then
    local digits = value.hex
    if type(digits) ~= "string" or digits:find("%X") or #digits % 2 == 1 then return false end
    value = records.decode_path(value)
  end
  return type(value) == "string" and not value:find("\0", 1, true)
end

--- What else an item may hold, and the type of that.
local OF_AN_ITEM = { bytes = "number", sha256 = "string", prompt_sha256 = "string", attempt = "number",
  replaces = "string", fields = "table", origin = "string", texts = "number", median = "number", shortest = "number" }

--- Whether a value from a file is a list of items: anybody may have written it.
function records.are_items(items)
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
    and (record.request == nil or type(record.request) == "table") and records.are_items(record.items)
end

--- A record from a file: a table with .items, or without when an earlier script wrote it (.previous
--- is then its text). nil, message, CODE.
local function read_record(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local record = json.decode(content)
  if not is_record(record) then return { previous = text.printable(content), image_dir = "" } end
  records.restore_paths(record)
  for _, item in ipairs(record.items) do records.restore_paths(item) end
  record.batch_text = json.raw(content, "/batch")
  return record
end

--- The custom_id of an image: its path with "/" and "\" as "|", and bytes that are not UTF-8 as %XX.
--- Where that is taken (a name may hold a "|" of its own), "~2", "~3" ... follows: `taken` is a set of
--- custom_ids, to which this one is added.
function records.custom_id(path, taken)
  local id = text.to_utf8(path:gsub("[/\\]", "|"))
  local unique, n = id, 1
  while taken[unique] do
    n = n + 1
    unique = ("%s~%d"):format(id, n)
  end
  taken[unique] = true
  return unique
end

local last_folder, last_real

--- The path from the root, without links in its folders, by which an image is the same one whatever
--- way it was named; the path itself when its folder is gone.
function records.real_path(path)
  local folder, name = path:match("^(.*/)([^/]*)$")
  if not folder then folder, name = ".", path end
  if folder ~= last_folder then
    last_folder, last_real = folder, fs.absolute(folder)
  end
  return last_real and last_real:gsub("/$", "") .. "/" .. name or path
end

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

--- Makes an event durable, then applies it. true | nil, message, CODE.
function Shelf:event(event)
  local ok, message, code = self.journal:record(event)
  if not ok then return nil, message, code end
  apply_event(self, event)
  return true
end

-- ---------------------------------------------------------------- opening

function Shelf:path(name) return self.batch_dir .. "/" .. name end
function Shelf:record_path(id) return self:path(part_events.file_name(id) .. ".txt") end
function Shelf:completed_path(id) return self.completed_dir .. "/" .. part_events.file_name(id) .. ".txt" end

--- Where a part's record is now; nil when nobody knows.
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

--- Opens a batch folder, and makes it where it is missing. Options: batch_dir, completed_dir, log(line);
--- output_dir, without which nothing can be harvested; description, for the metadata of new batches.
--- Returns the shelf, whose .parts are those not completed yet, oldest first; or nil, message, CODE
--- (LOCKED, DAMAGED, or what the disk says).
function records.open(options)
  for _, key in ipairs { "batch_dir", "completed_dir", "output_dir" } do
    local ok, message, code = true, nil, nil
    if options[key] then ok, message, code = fs.mkdir(options[key]) end
    if not ok then return nil, message, code end
  end
  local lock, message, code = fs.lock(options.batch_dir .. "/lock")
  if code == "LOCKED" then
    message = ("%s is in use: %s. Wait for that, or stop it with Ctrl-C: nothing is lost"):format(options.batch_dir,
      message)
  end
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
function Shelf:next_part(base)
  local number = (self.last_part or 0) + 1
  return number, self:path(("%s_%04d.jsonl"):format(base, number))
end

--- Takes in a request file that is whole: `facts` are those of its writer's commit(), `record` is as
--- above (.image_dir, .request, .items). Returns the part, which is then to be submitted.
function Shelf:plan(base, facts, record)
  local number, path = self:next_part(base)
  record.run, record.part = self.run, number
  local ok, message, code = fs.write(path:gsub("%.jsonl$", ".record"), encode_record(record))
  if not ok then return nil, message, code end
  ok, message, code = self:event { event = "planned", planned = { part = number, file = path:match("[^/]*$"),
    endpoint = record.request.endpoint, model = record.request.model, lines = facts.lines, bytes = facts.bytes,
    sha256 = facts.sha256, tokens_in = facts.tokens_in, tokens_out = facts.tokens_out } }
  if not ok then return nil, message, code end
  return find_part(self, number)
end

function Shelf:record(part, event)
  event.part = part.part
  return self:event(event)
end

--- The request file is deleted once its batch exists.
function Shelf:request_path(part)
  local path = part.file and self:path(part.file)
  return path and fs.stat(path) and path or nil
end

function Shelf:upload_name(part)
  return ("%s-%d-%s.jsonl"):format(self.run, part.part, part.sha256:sub(1, 12))
end

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
function Shelf:store_record(part, from, batch)
  local record, message, code = read_record(from)
  if not record then return nil, message, code end
  local target = self:record_path(part.batch_id)
  local batch_text = text_of(batch) or record.batch_text or json.encode { id = part.batch_id }
  local ok
  ok, message, code = fs.write(target, encode_record(record, batch_text))
  if not ok then return nil, message, code end
  return self:remove_leftovers(part)
end

--- Once a batch has its record, its requests go, and what the record was before.
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

--- A part's requests, and its images, become `pieces` new parts. Where its request file is not kept any more,
--- the service still has it. true | nil, message, CODE.
function Shelf:split(part, pieces, api)
  local path = self:path(part.file)
  local ok, message, code = true, nil, nil
  if not fs.stat(path) then ok, message, code = api:download(part.file_id, path) end
  if not ok then return nil, message, code end
  local record
  record, message, code = read_record(self:whereabouts(part))
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
    ok, message, code = fs.write(self:path(successor.file:gsub("%.jsonl$", ".record")), encode_record(piece))
    if not ok then return nil, message, code end
  end
  ok, message, code = self:event { event = "split", part = part.part, batch_id = part.batch_id,
    successors = successors }
  if not ok then return nil, message, code end
  return self:remove_leftovers(part)
end

--- Takes back a part of which the service has refused the requests or the batch: nothing of it is there,
--- and its images are free again.
function Shelf:withdraw(part)
  -- In this order: a part that is stopped in between is still there, and taken back again.
  local ok, message, code = self:remove_leftovers(part)
  if not ok then return nil, message, code end
  return self:event { event = "completed", part = part.part }
end

Shelf.take_back = Shelf.withdraw

--- Notes that a part's batch exists, and writes its record.
function Shelf:created(part, batch)
  local ok, message, code = self:event { event = "created", part = part.part, batch_id = batch.id }
  if not ok then return nil, message, code end
  return self:store_record(part, self:whereabouts(part), batch)
end

-- ---------------------------------------------------------------- what came back

function Shelf:download_path(part, kind)
  return ("%s/%s%s.jsonl"):format(self.output_dir, part_events.file_name(part.batch_id),
    kind == "error" and "_errors" or "")
end

--- What an earlier script has downloaded, of a batch that the service has forgotten since.
function Shelf:kept_results(part)
  local path = self:download_path(part, "output")
  return fs.stat(path) and json.array { path:match("[^/]*$") } or nil
end

--- A batch that failed validation for some lines: those become result-like lines that say so. Nothing of
--- it has run; the images of the other lines are free to be sent again.
function Shelf:reject(part, faults)
  local record, message, code = read_record(self:whereabouts(part))
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

--- Where upload was run from another folder, the paths as they were given name other images here, or
--- nothing: then they begin at the real path that the images' folder had.
local function find_root(record)
  local root, dir, first = record.root, record.image_dir, record.items and record.items[1]
  if not root or root == dir or fs.absolute(dir) == root or not fs.stat(root) then return end
  if first and first.sha256 and fs.sha256(first.path) == first.sha256 then return end -- moved here, or copied
  for _, item in ipairs(record.items) do
    if item.path:sub(1, #dir) == dir then item.path = root .. item.path:sub(#dir + 1) end
  end
  record.image_dir = root
end

--- Loads part.record. For the record of an earlier script that names no images, the service is asked
--- for them, once: .items stays nil where it no longer knows. true | nil, message, CODE.
function Shelf:load(part, api)
  local path = self:whereabouts(part)
  if not path then return nil, ("%s: the record is gone"):format(self:record_path(part.batch_id)), "ENOENT" end
  local record, message, code = read_record(path)
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
      ok, message, code = fs.write(path, encode_record(record, text_of(batch)))
      if not ok then return nil, message, code end
    end
  end
  find_root(record)
  part.record = record
  return true
end

--- Puts a part away whose answers are stored: its record, with the batch as it was last seen, moves
--- to the completed ones.
function Shelf:complete(part)
  local from = self:whereabouts(part)
  local record, message, code = read_record(from)
  if not record then return nil, message, code end
  local to = self:completed_path(part.batch_id or part.previous_id or part.file)
  local ok
  if record.items then
    ok, message, code = fs.write(to, encode_record(record, text_of(part.seen) or record.batch_text))
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

--- Goes through unresolved.jsonl: one entry for each image and batch that gave no text, oldest first:
--- { custom_id, path, batch, class, reason, action, attempts }.
function Shelf:unresolved()
  local path = self:path("unresolved.jsonl")
  if not fs.stat(path) then return function() end end
  local reader = assert(jsonl.open(path))
  local next_line, state = reader:lines()
  return function()
    while true do
      local line = next_line(state)
      if not line then return nil end
      local entry = line.text and json.decode(line.text)
      if type(entry) == "table" then return records.restore_paths(entry) end
    end
  end
end

--- Adds entries of one batch to unresolved.jsonl, durably; those that are there already are not doubled.
function Shelf:note_unresolved(entries)
  if #entries == 0 then return true end
  local known, lines = {}, {}
  local function key(entry) return ("%s\0%s\0%s"):format(entry.batch, entry.custom_id, entry.action) end
  for entry in self:unresolved() do
    if entry.batch == entries[1].batch then known[key(entry)] = true end
  end
  for _, entry in ipairs(entries) do
    if not known[key(entry)] then lines[#lines + 1] = json.encode(records.with_paths(entry)) .. "\n" end
  end
  if #lines == 0 then return true end
  local file <close>, message, code = fs.append(self:path("unresolved.jsonl"))
  if not file then return nil, message, code end
  -- A crash may have left half an entry: it must not spoil the next one.
  local is_torn = fs.last_byte(self:path("unresolved.jsonl")):find("[^\n]") ~= nil
  return file:write((is_torn and "\n" or "") .. table.concat(lines))
end

return records
