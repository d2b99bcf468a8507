--- What there is in the batch folder of an image project (obatch.records), and in the folder of deep_clean
-- (obatch.mending). Reads only, beside a run, too.

local batches = require "obatch.history.batches"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local history = require "obatch.history"
local ids = require "obatch.history.ids"
local images = require "obatch.fsck.images"
local image_record = require "obatch.image_record"
local records = require "obatch.records"
local replay = require "obatch.fsck.replay"
local report = require "obatch.fsck.report"
local reasons = require "obatch.history.reasons"
local sidecar = require "obatch.sidecar"

local folders = {}

--- An errand: requests about files, in a folder of their own.
---@class obatch.history.Errand
---@field name string  "resubmit_001", "run_002"
---@field dir string
---@field state "composed"|"under way"|"completed"  composed: nothing of it is sent yet
---@field items table[]  what each request is about, see obatch.errand
---@field holder string?

--- The errands of a folder, oldest first.
---@param dir string
---@param name "run"|"resubmit"
---@return obatch.history.Errand[]
function folders.errands(dir, name)
  local list = {}
  for i, path in ipairs(fsck.errands(dir, name)) do
    local is_completed = fs.stat(path .. "/completed.json") ~= nil
    list[i] = { name = path:match("[^/]*$"), dir = path, holder = fs.holder(path .. "/lock"),
      items = ids.items(path), state = is_completed and "completed"
        or fs.stat(path .. "/journal.jsonl") and "under way" or "composed" }
  end
  return list
end

--- The faults that were found in a folder's own files, as lines.
local function notes_of(found)
  return found.faults > 0 and found:lines() or {}
end

---@class obatch.history.Project
---@field dir string
---@field holder string?
---@field output_dir string  where the results of batches are kept as they came
---@field counts { batches: integer, images: integer, text: integer, label: integer, unresolved: integer,
---  under_way: integer, gone: integer, lost: integer }  images by what they have
---@field batches obatch.history.Batch[]
---@field waiting { parts: integer, requests: integer }  composed, without a batch
---@field unresolved obatch.history.Reasons  why images have no text
---@field errands obatch.history.Errand[]
---@field events { event: table }[]
---@field notes string[]

--- Reads the batch folder of an image project.
---@param dir string
---@param output_dir string  as given to download; looked for beside the folder, too
---@return obatch.history.Project?
---@return string? message
---@return string? code
function folders.images(dir, output_dir)
  local found = report.new()
  local check, message, code = images.check(dir, { found = found, output_dir = output_dir, is_quick = true })
  if not check then return nil, message, code end
  local self = { dir = dir, holder = fs.holder(dir .. "/lock"), counts = check.counts, events = check.events,
    output_dir = check.output_dir, notes = notes_of(found), waiting = { parts = 0, requests = 0 },
    errands = folders.errands(dir, "resubmit"), unresolved = reasons.new() }
  self.batches = batches.list(check.events, function(event)
    local part = check.parts[event.part]
    return part and { part = part }
  end)
  local known = {}
  for _, batch in ipairs(self.batches) do
    known[batch.id] = true
    local part = check.parts[batch.part]
    if batch.status == "in flight" and part and part.is_completed then batch.status = "completed" end
  end
  for _, part in pairs(check.parts) do
    if not part.batch_id and not part.done and not part.is_completed then
      self.waiting.parts = self.waiting.parts + 1
      self.waiting.requests = self.waiting.requests + (part.lines or 0)
    end
  end
  for _, folder in ipairs { dir, dir .. "/completed" } do -- those of an earlier script
    for _, file in ipairs(fs.list(folder) or {}) do
      local id = records.is_name(file) and file:gsub("%.txt$", "")
      if id and not known[id] then
        known[id] = true
        table.insert(self.batches, { id = id, status = folder == dir and "in flight" or "completed" })
      end
    end
  end
  local last = {} -- of each image, in the order in which they came
  for entry in records.unresolved(dir) do
    local key = type(entry.path) == "string" and entry.path or tostring(entry.custom_id)
    if not last[key] then last[#last + 1] = key end
    last[key] = entry
  end
  for _, key in ipairs(last) do
    local entry = last[key]
    local has_text = type(entry.path) == "string" and sidecar.exists(entry.path)
    if entry.action ~= "done" and not has_text then self.unresolved:add(entry.reason, key) end
  end
  return self
end

---@class obatch.history.Mending
---@field dir string
---@field holder string?
---@field errands obatch.history.Errand[]
---@field attempts { path: string, sha256: string, run: string, class: string?, reason: string?, time: integer? }[]
---@field texts integer  that were sent
---@field labelled integer  of those, that still have their label, as far as they are where they were
---@field reasons obatch.history.Reasons  why the last answer about those was not good
---@field notes string[]

--- Reads the folder of deep_clean.
---@param dir string
---@return obatch.history.Mending?
---@return string? message
---@return string? code
function folders.mending(dir)
  local found, attempts, last = report.new(), {}, {}
  if fs.stat(dir .. "/attempts.jsonl") then
    local events, message, code = replay.read(dir .. "/attempts.jsonl", found)
    if not events then return nil, message, code end
    for _, entry in ipairs(events) do
      local event = entry.event
      if type(event.path) == "string" then
        attempts[#attempts + 1], last[event.path] = event, event
      end
    end
  end
  local self = { dir = dir, holder = fs.holder(dir .. "/lock"), errands = folders.errands(dir, "run"),
    attempts = attempts, texts = 0, labelled = 0, reasons = reasons.new(), notes = notes_of(found) }
  local seen = {}
  for _, errand in ipairs(self.errands) do
    for _, item in ipairs(errand.items) do
      local label = sidecar.label_path(item.path)
      local real = image_record.real_path(label)
      if not seen[real] then
        seen[real], self.texts = true, self.texts + 1
        if fs.lstat(label) then
          self.labelled = self.labelled + 1
          local attempt = last[real]
          self.reasons:add(attempt and attempt.reason or "there is no answer yet", item.path)
        end
      end
    end
  end
  return self
end

--- The job of an errand, to be closed; nil where nothing of it is sent yet, or it cannot be read.
---@param errand obatch.history.Errand
---@return obatch.History?
---@return string? message
function folders.job(errand)
  if errand.state == "composed" then return nil end
  return history.open(errand.dir)
end

return folders
