--- Checks the batch folder of an image project (see obatch.records). Reads only.
--
-- Every image of every record has a text or a label beside it, an entry in unresolved.jsonl, or is on its way.

local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local part_events = require "obatch.part"
local progress = require "obatch.progress"
local records = require "obatch.records"
local replay = require "obatch.fsck.replay"
local report = require "obatch.fsck.report"
local sidecar = require "obatch.sidecar"

local images = {}
local Check = {}
Check.__index = Check
local name = report.name

local SAVE = "Restore it from a copy"

-- ---------------------------------------------------------------- the journal

local apply = {}

function apply.started(self, event)
  if self.run then return "a second 'started'" end
  self.run = event.run
end

function apply.planned(self, event)
  local part = event.planned
  if not replay.is_part(part) then return "'planned' does not name its part" end
  self.parts[part.part] = part
end

function apply.adopted(self, event)
  if math.type(event.part) ~= "integer" or type(event.batch_id) ~= "string" then return "'adopted' names no batch" end
  self.parts[event.part] = { part = event.part, batch_id = event.batch_id, adopted = true }
end

function apply.completed(self, event)
  local part = self.parts[event.part]
  if not part then return ("'completed' of part %s, which is not planned"):format(name(event.part)) end
  part.is_completed = true
end

local function apply_to_part(self, event)
  local part = self.parts[event.part]
  if not part then return ("'%s' of part %s, which is not planned"):format(name(event.event), name(event.part)) end
  local before = part.batch_id
  local wrong, successors = replay.apply(part, event)
  if wrong then return wrong end
  for _, successor in ipairs(successors) do self.parts[successor.part] = successor end
  if event.event == "requeued" then part.previous_id = before or part.previous_id end
  -- One that was given up may have no batch any more: its record has another name then, see obatch.records.
  if event.event == "downloaded" or event.event == "rejected" then
    part.batch_id = part.batch_id or part.previous_id or part.file:gsub("%.jsonl$", "")
  end
end

---@return boolean
function Check:has_records()
  for _, folder in ipairs { self.dir, self.dir .. "/completed" } do
    for _, file in ipairs(fs.list(folder) or {}) do
      if records.is_name(file) then return true end
    end
  end
  return false
end

---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Check:replay()
  local path = self.dir .. "/journal.jsonl"
  if not fs.stat(path) then
    self.found:note("journal", self.dir, "there is no journal.jsonl: these are records of an earlier script")
    return true
  end
  local events, message, code = replay.read(path, self.found)
  if not events then return nil, message, code end
  if #events == 0 and events.damaged == 0 and self:has_records() then
    self.found:fault("journal", path, "it is empty, and there are records beside it",
      "Restore it from a copy: upload and download go by it")
  end
  self.events = events
  for _, entry in ipairs(events) do
    local change = apply[entry.event.event] or apply_to_part
    local wrong = change(self, entry.event)
    if wrong then
      self.found:fault("events that make no sense", ("%s:%d"):format(path, entry.number), wrong,
        "Were lines deleted, or two journals mixed? Restore the journal from a copy")
    end
  end
  return true
end

-- ---------------------------------------------------------------- records

--- A record, with its paths.
---@param path string
---@param is_ours? boolean  it must be one of ours
---@return { items: table[], image_dir: string, root?: string }|nil record
function Check:read(path, is_ours)
  local content, message = fs.read(path)
  local record, problem, at
  if content then record, problem, at = json.decode(content) end
  local sound = type(record) == "table" and json.is_array(record.items) and record.image_dir ~= nil
  for _, item in ipairs(sound and record.items or {}) do
    sound = sound and type(item) == "table" and type(item.custom_id) == "string" and item.path ~= nil
    if sound then sound = pcall(image_record.restore_paths, item) and type(item.path) == "string" end
  end
  sound = sound and pcall(image_record.restore_paths, record) and type(record.image_dir) == "string"
  if sound then return record end
  if is_ours then
    self.found:fault("records", content and ("%s: byte %d"):format(path, at or 1) or path,
      message or problem or "it is not a record of obatch", "It says which images its batch holds. " .. SAVE)
  else
    self.found:note("records of earlier scripts", path, "it does not name its images: nothing can be checked")
  end
end

--- Where the images of a record are: as given, else by the real path of their folder.
local function find_images(record)
  local dir, root = record.image_dir, record.root
  if type(root) ~= "string" or fs.stat(dir == "" and "." or dir) then return end
  for _, item in ipairs(record.items) do
    if item.path:sub(1, #dir) == dir then item.path = root .. item.path:sub(#dir + 1) end
  end
end

local function record_name(id) return part_events.file_name(id) .. ".txt" end

--- The record that the journal says a part has: it must be there.
---@param part table
function Check:check_known_record(part)
  local id = part.batch_id or part.previous_id
  local here = id and ("%s/%s"):format(self.dir, record_name(id))
  local completed = id and ("%s/completed/%s"):format(self.dir, record_name(id))
  local composed = part.file and ("%s/%s"):format(self.dir, part.file:gsub("%.jsonl$", ".record"))
  if id then self.known[record_name(id)] = part end
  if part.is_completed then
    if part.done and id and not fs.stat(completed) and not fs.stat(here) then
      self.found:fault("records", completed, ("the record of batch %s is missing"):format(name(id)),
        "Which images it held is not known without it. " .. SAVE)
    end
  elseif here and fs.stat(here) or composed and fs.stat(composed) then
    self.found:note("parts under way", here and fs.stat(here) and here or composed, part.batch_id
      and ("batch %s is %s"):format(name(part.batch_id), part.done and "to be stored: run download" or "in flight")
      or "it has no batch yet: upload goes on with it")
  elseif completed and fs.stat(completed) then
    self.found:note("parts under way", completed, "it was stored; the next run notes that in the journal")
  elseif id or part.file_id or part.upload_doubt then
    self.found:fault("records", here or composed, ("the record of %s is missing"):format(id and "batch " .. name(id)
      or "part " .. part.part), "Without it download stores nothing, and its images are sent again. " .. SAVE)
  end
end

-- ---------------------------------------------------------------- images

--- "batch\0custom_id" -> class, and path -> true, of what has come back without a text.
function Check:read_unresolved()
  local path = self.dir .. "/unresolved.jsonl"
  if not fs.stat(path) then return end
  local fields = { batch = "/batch", id = "/custom_id", class = "/class", action = "/action" }
  for entry in jsonl.scan(path, fields) or function() end do
    if entry.error and not entry.blank then
      self.found:fault("damaged lines", ("%s:%d: byte %d"):format(path, entry.number, entry.error_at or 1),
        "the line is not JSON", "The image it named may be taken for one that was never sent; move the record of its "
        .. "batch from completed/ back, and run download again")
    elseif type(entry.batch) == "string" and type(entry.id) == "string" then
      self.unresolved[entry.batch .. "\0" .. entry.id] = entry.action ~= "done" and entry.class or nil
    end
  end
end

--- Counts the images of one record by what they have.
---@param path string
---@param record table
---@param id string
---@param is_completed boolean
function Check:count_items(path, record, id, is_completed)
  local counts = self.counts
  counts.batches = counts.batches + 1
  for _, item in ipairs(record.items) do
    counts.images = counts.images + 1
    local real = image_record.real_path(item.path)
    if not is_completed then
      counts.under_way, self.under_way[real] = counts.under_way + 1, true
    elseif item.path:find("\0", 1, true) then
      self.found:fault("records", path, ("the path of custom_id '%s' holds a NUL"):format(name(item.custom_id)), SAVE)
    elseif fs.lstat(sidecar.text_path(item.path)) then
      counts.text = counts.text + 1
    elseif fs.lstat(sidecar.label_path(item.path)) then
      counts.label = counts.label + 1
    elseif type(self.unresolved[id .. "\0" .. item.custom_id]) == "string" then
      counts.unresolved = counts.unresolved + 1
    elseif self.under_way[real] then
      counts.under_way = counts.under_way + 1
    elseif not fs.stat(item.path) then
      counts.gone = counts.gone + 1
      self.found:note("images that are gone", path, ("%s is not there any more, nor is a text"):format(item.path))
    else
      counts.lost = counts.lost + 1
      self.found:fault("images without an outcome", path, ("%s (custom_id '%s') has no text, and nothing says why")
        :format(item.path, name(item.custom_id)), "Move this record back to the batch folder and run download again: "
        .. "its text is in the results. Or let upload send it again")
    end
  end
end

function Check:check_records()
  for _, is_completed in ipairs { false, true } do -- those under way first: an image may be in both
    local folder = self.dir .. (is_completed and "/completed" or "")
    for _, file in ipairs(fs.list(folder) or {}) do
      if file:find("%.txt$") and (self.known[file] or records.is_name(file)) then
        local part = self.known[file]
        local path = ("%s/%s"):format(folder, file)
        local record = self:read(path, part and not part.adopted)
        if record then
          find_images(record)
          local id = part and (part.batch_id or part.previous_id) or file:gsub("%.txt$", "")
          self:count_items(path, record, id, is_completed)
          if part and part.done and not self.is_quick then self:check_results(part, record) end
        end
      end
    end
  end
end

--- What an unfinished errand holds is on its way.
function Check:read_errands()
  for _, file in ipairs(fs.list(self.dir) or {}) do
    local path = ("%s/%s/record.json"):format(self.dir, file)
    if file:find("^resubmit_%d+$") and fs.stat(path) then
      local record, problem, at = json.decode(fs.read(path) or "")
      if type(record) ~= "table" or not json.is_array(record.items) then
        self.found:fault("records", ("%s: byte %d"):format(path, at or 1), problem or "it is not a record", SAVE)
      else
        for _, item in ipairs(record.items) do
          local ok = type(item) == "table" and pcall(image_record.restore_paths, item)
          if ok and type(item.path) == "string" then self.under_way[image_record.real_path(item.path)] = true end
        end
      end
    end
  end
end

-- ---------------------------------------------------------------- results

--- The result files of a stored batch: there, as downloaded, and each line the answer to one image.
---@param part table
---@param record table
function Check:check_results(part, record)
  local found, asked, answered = self.found, {}, {}
  for _, item in ipairs(record.items) do asked[item.custom_id] = true end
  for _, file in ipairs(part.files or {}) do
    local path = ("%s/%s"):format(self.output_dir, file)
    local stat, digest = fs.stat(path), type(part.digests) == "table" and part.digests[file] or nil
    local again = part.is_completed and "Its texts were taken from it when it was stored. " .. SAVE
      or "Run download again: it downloads it again"
    progress.stage("checking " .. file)
    local lines, is_proven, message
    if stat then lines, message = jsonl.scan(path, { id = "/custom_id" }) end
    if lines and digest then
      is_proven = stat.size == digest.bytes
      if is_proven then is_proven, message = part_events.is_known(path, digest) end
    end
    if message then
      found:fault("unreadable files", path, message)
    elseif not stat then
      found:fault("downloaded files", path, "the downloaded file is missing (is it in another --output-dir?)", again)
    elseif digest and not is_proven then
      found:fault("downloaded files", path, ("%d bytes; it is not what was downloaded (%s bytes)"):format(stat.size,
        name(digest.bytes)), again)
    end
    local tell = is_proven and found.note or found.fault
    for line in not message and lines or function() end do
      local where = ("%s:%d"):format(path, line.number)
      if line.error and not line.blank then
        tell(found, "damaged lines", ("%s: byte %d"):format(where, line.error_at or 1), "the line is not JSON",
          "It is left out")
      elseif type(line.id) == "string" and not asked[line.id] then
        tell(found, "ids that nobody submitted", where, ("custom_id '%s' was not submitted with this batch"):format(
          name(line.id)), "Nothing is written for it")
      elseif type(line.id) == "string" and answered[line.id] then
        tell(found, "ids answered twice", where, ("custom_id '%s' is answered twice"):format(name(line.id)),
          "The first good answer counts")
      end
      if line.id then answered[line.id] = true end
    end
  end
end

--- Checks a batch folder: images = text + label + unresolved + under_way + gone + lost.
---@param dir string
---@param options { found: obatch.fsck.Report, output_dir: string, is_quick?: boolean }  quick: results unread
---@return { counts: table<string, integer>, parts: table, events: table }|nil result
---@return string|nil message
---@return string|nil code
function images.check(dir, options)
  local self = setmetatable({ dir = dir, found = options.found, output_dir = options.output_dir, parts = {}, known = {},
    is_quick = options.is_quick, events = {}, unresolved = {}, under_way = {},
    counts = { batches = 0, images = 0, text = 0, label = 0, unresolved = 0, under_way = 0, gone = 0, lost = 0 },
  }, Check)
  if not fs.stat(self.output_dir) and fs.stat(dir .. "/../" .. self.output_dir) then
    self.output_dir = dir .. "/../" .. self.output_dir
  end
  local ok, message, code = self:replay()
  if not ok then return nil, message, code end
  self:read_unresolved()
  self:read_errands()
  for _, part in pairs(self.parts) do
    if not part.is_empty then self:check_known_record(part) end -- of one that was split others have the images
  end
  self:check_records()
  return self
end

return images
