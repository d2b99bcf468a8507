--- What is known of the images of a project besides their texts: the batches that held them, what came back, and
--- what deep_clean was answered. From files alone, read only.

local errand = require "obatch.errand"
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local part_names = require "obatch.part"
local records = require "obatch.records"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"

local project = {}
local Project = {}
Project.__index = Project

--- Files of results that are open at once; images come in the order in which they were sent, nearly.
local MAX_OPEN = 16

-- ---------------------------------------------------------------- what came back

--- The index of a file of results by custom_id, nil where it cannot be read.
local function index_of(self, path)
  local open = self.open
  for i, entry in ipairs(open) do
    if entry.path == path then
      table.insert(open, table.remove(open, i))
      return entry.index
    end
  end
  local index = fs.stat(path) and jsonl.index(path, "/custom_id") or nil
  open[#open + 1] = { path = path, index = index }
  if #open > MAX_OPEN then
    local oldest = table.remove(open, 1)
    if oldest.index then oldest.index:close() end
  end
  return index
end

--- Where the answers of a batch, or of an errand, may be.
local function result_files(self, source)
  if not source.folder then
    local name = self.output_dir .. "/" .. part_names.file_name(source.id)
    return { name .. ".jsonl" }
  end
  local paths = { source.folder .. "/final_results.jsonl" }
  for n = source.iterations, 1, -1 do
    paths[#paths + 1] = ("%s/iteration_%d/invalid_results_iteration_%d.jsonl"):format(source.folder, n, n)
  end
  return paths
end

--- The text that came back for an image; nil when none did, or nobody has it any more.
local function text_from(self, source, custom_id)
  source.files = source.files or result_files(self, source)
  for _, path in ipairs(source.files) do
    local index = index_of(self, path)
    local line = index and index:line(custom_id)
    if line then return outcome.text(line) end
  end
  local name = not source.folder and sidecar.file_name(custom_id)
  local path = name and ("%s/%s/%s"):format(self.json_dir, part_names.file_name(source.id), name)
  local stat = path and fs.lstat(path)
  return stat and stat.type == "file" and outcome.text(fs.read(path) or "") or nil
end

--- Where an image was sent, oldest first.
local function sendings(known)
  local sorted = table.move(known.sent, 1, #known.sent, 1, {})
  for i, sent in ipairs(sorted) do sent.place = i end
  table.sort(sorted, function(a, b)
    if a.source.time ~= b.source.time then return a.source.time < b.source.time end
    return a.place < b.place -- errands are in their order
  end)
  return sorted
end

--- What came back for an image, oldest first: { name=, text= }.
---@param known table? Of Project:about.
---@return { name: string, text: string }[]
function Project:answers(known)
  local list = {}
  for _, sent in ipairs(known and sendings(known) or {}) do
    local answered = not sent.is_under_way and text_from(self, sent.source, sent.custom_id)
    if answered then list[#list + 1] = { name = "returned by " .. sent.source.name, text = answered } end
  end
  return list
end

-- ---------------------------------------------------------------- what was sent

--- What is known of an image: { custom_id=, sent= { { source=, custom_id=, is_under_way= }, ... }, entry= (of
--- unresolved.jsonl) }; nil for one that was never sent.
---@param path string
---@return table?
function Project:about(path) return self.images[image_record.real_path(path)] end

--- A path of an image as it is found from here: the command that wrote it may have run in another folder.
local function found_from_here(self, path)
  local there = self.base and path:find("^[^/]") and self.base .. path
  return there and not fs.stat(path) and fs.stat(there) and there or path
end

local function add_items(self, items, source, is_under_way)
  for _, item in ipairs(items) do
    local path = found_from_here(self, item.path)
    local real = image_record.real_path(path)
    local known = self.images[real]
    if not known then
      known = { custom_id = item.custom_id, path = path, sent = {} }
      self.images[real] = known
    end
    known.sent[#known.sent + 1] = { source = source, custom_id = item.custom_id, is_under_way = is_under_way }
    source.images[item.custom_id] = known
  end
end

local ENDS = { "completed_at", "failed_at", "expired_at", "cancelled_at" }

--- A batch as head.batches has it, from the batch object that a record holds.
local function batch_of(record, id)
  local object = type(record.batch) == "table" and record.batch or {}
  local function of_kind(value, kind) return type(value) == kind and value or nil end
  local batch = { id = of_kind(object.id, "string") or id, status = of_kind(object.status, "string"),
    endpoint = of_kind(object.endpoint, "string"), requests = record.items and #record.items,
    model = record.request and of_kind(record.request.model, "string"),
    created_at = math.tointeger(tonumber(object.created_at)) }
  for _, key in ipairs(ENDS) do batch.ended_at = batch.ended_at or math.tointeger(tonumber(object[key])) end
  return batch
end

--- The records of a folder. Those that earlier scripts wrote say nothing about images.
local function read_records(self, folder, is_completed)
  for _, name in ipairs(fs.list(folder) or {}) do
    local in_the_making = not is_completed and name:find("%.record$")
    if records.is_name(name) or in_the_making then
      local path = folder .. "/" .. name
      local record, message = image_record.read(path, self.base)
      local id = name:gsub("%.%w+$", "")
      if not record then
        self.notes[#self.notes + 1] = message
      elseif not record.items then
        self.unnamed = self.unnamed + 1
      end
      if record then
        local batch = batch_of(record, not in_the_making and id or nil)
        self.batches[#self.batches + 1] = batch
        if record.items then
          local source = { id = id, time = batch.created_at or 0, images = {},
            name = in_the_making and "requests without a batch yet" or id }
          self.sources[batch] = source
          add_items(self, record.items, source, not is_completed)
          self.dirs[record.image_dir] = true
        end
      end
    end
  end
end

--- The errands of a folder: those of `download --resubmit`, or the runs of deep_clean.
local function read_errands(self, dir, name, what)
  for _, file in ipairs(fs.list(dir) or {}) do
    if file:find("^" .. name .. "_%d+$") then
      local record, message, code = errand.completed(dir, file)
      local is_under_way = not record
      if code == "ENOENT" then
        local unfinished
        unfinished, message, code = errand.unfinished(dir, name)
        record = unfinished and unfinished.name == file and unfinished.record
      end
      if code then self.notes[#self.notes + 1] = message end
      if record then
        local folder, iterations = dir .. "/" .. file, 0
        while fs.stat(("%s/iteration_%d"):format(folder, iterations + 1)) do iterations = iterations + 1 end
        local source = { id = file, time = math.huge, name = what .. file, folder = folder, images = {},
          iterations = iterations }
        self.errands[#self.errands + 1] = source
        add_items(self, record.items, source, is_under_way)
      end
    end
  end
end

--- The answers about labelled texts that were not good, as deep_clean has counted them (see obatch.mending).
local function read_attempts(self, job_dir)
  local path = job_dir .. "/attempts.jsonl"
  local fields = { path = "/path", sha256 = "/sha256", class = "/class", reason = "/reason" }
  for line in fs.stat(path) and jsonl.scan(path, fields) or function() end do
    if type(line.path) == "string" and type(line.sha256) == "string" then
      local key = line.path:match("[^/]*$") .. "\0" .. line.sha256
      local past = self.mending[key] or { count = 0 }
      self.mending[key] = past
      past.count, past.class = past.count + 1, type(line.class) == "string" and line.class or nil
      past.reason = type(line.reason) == "string" and line.reason or nil
    end
  end
end

--- What deep_clean was answered about a labelled text: { count=, class=, reason= } of the answers that were not
--- good, the last one; nil where there is none.
---@param label string Path of IMAGE.txt.api.
---@param sha256 string
---@return table?
function Project:attempts(label, sha256) return self.mending[text.to_utf8(label:match("[^/]*$")) .. "\0" .. sha256] end

--- The folder above one, with a "/" at its end; nil for that in which the command runs.
local function folder_above(dir)
  if dir == "." then return "../" end
  if dir:match("[^/]*$"):find("^%.%.?$") then return dir .. "/../" end
  return dir:match("^(.*/)[^/]+$") -- `dir` may be a link, and ".." elsewhere
end

--- Reads what a batch folder says of its images.
---@param dir string? nil: there is none, and nothing is known.
---@param options { output_dir: string, job_dir: string? }
---@return table project With :about(path), :answers(known), :close(); .image_dirs, .images (by their real paths),
--- .is_known (whether there is a batch folder), .batches, .errands (their sources; .folder is a job), .notes,
--- .output_dir.
function project.read(dir, options)
  local self = setmetatable({ images = {}, batches = json.array {}, errands = {}, notes = {}, mending = {}, dirs = {},
    image_dirs = {}, open = {}, sources = {}, unnamed = 0, is_known = dir ~= nil,
    base = dir and folder_above(dir), output_dir = options.output_dir, json_dir = "batch_json_results" }, Project)
  if not dir then return self end
  local beside = self.base or ""
  if not fs.stat(self.output_dir) then self.output_dir = beside .. self.output_dir:match("[^/]*$") end
  if not fs.stat(self.json_dir) then self.json_dir = beside .. self.json_dir end
  read_records(self, dir .. "/completed", true)
  read_records(self, dir, false)
  read_errands(self, dir, "resubmit", "")
  local job_dir = options.job_dir or beside .. "deep_clean"
  read_errands(self, job_dir, "run", "deep_clean ")
  read_attempts(self, job_dir)
  for entry in records.unresolved(dir) do
    local path = type(entry.path) == "string" and found_from_here(self, entry.path)
    local known = path and self.images[image_record.real_path(path)]
    if known then known.entry = entry.action ~= "done" and entry or nil end
  end
  if self.unnamed > 0 then
    self.notes[#self.notes + 1] = ("%d records of earlier scripts do not say which images they hold."):format(
      self.unnamed)
  end

  -- A folder within another one is shown with that.
  local roots = {}
  for path in pairs(self.dirs) do
    local is_named = path ~= "" and path ~= self.base -- records of earlier scripts name none
    local real = is_named and fs.absolute(path)
    if real then roots[#roots + 1] = { path = path, real = real:gsub("/$", "") .. "/" } end
  end
  table.sort(roots, function(a, b) return a.real < b.real or a.real == b.real and a.path < b.path end)
  local outer
  for _, root in ipairs(roots) do
    if not outer or root.real:sub(1, #outer) ~= outer then
      self.image_dirs[#self.image_dirs + 1] = root.path
      outer = root.real
    end
  end
  return self
end

--- What a good answer of a source has come to: "valid" where its image has a text and nothing was asked since, or
--- why not: "sent again", "labelled", "without a text".
---@param source table? A batch or an errand; nil where it is not known what it held.
---@param custom_id string
---@param states table What there is of an image now, by what Project:about gives: "text", "api", "missing", ...
---@return string
function project.fate(source, custom_id, states)
  local known = source and source.images[custom_id]
  if not known then return "valid" end
  local sent = sendings(known)
  if sent[#sent].source ~= source then return "sent again" end
  local now = states[known]
  return (not now or now == "text") and "valid" or now == "api" and "labelled" or "without a text"
end

--- Calls visit(line, source) for each result line that the batches gave back: what outcome.FIELDS names, .model.
---@param visit fun(line: table, source: table?)
function Project:each_result(visit)
  local fields = { model = "/response/body/model" }
  for name, pointer in pairs(outcome.FIELDS) do fields[name] = pointer end
  for _, batch in ipairs(self.batches) do
    for _, ending in ipairs { "", "_errors", "_rejected" } do
      local path = batch.id and ("%s/%s%s.jsonl"):format(self.output_dir, part_names.file_name(batch.id), ending)
      for line in path and fs.stat(path) and jsonl.scan(path, fields) or function() end do
        if not line.error and type(line.custom_id) == "string" then
          line.model = type(line.model) == "string" and line.model or batch.model
          visit(line, self.sources[batch])
        end
      end
    end
  end
end

function Project:close()
  for _, entry in ipairs(self.open) do
    if entry.index then entry.index:close() end
  end
end
Project.__close = Project.close

return project
