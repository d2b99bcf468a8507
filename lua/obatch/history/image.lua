--- The story of one image of a project: the batches that held it, what came back, what was sent again, and what
-- deep_clean made of its text. Reads only.

local decisions = require "obatch.decisions"
local folders = require "obatch.history.folders"
local fs = require "obatch.fs"
local history = require "obatch.history"
local ids = require "obatch.history.ids"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local part_events = require "obatch.part"
local policy = require "obatch.policy"
local project = require "obatch.report.project"
local records = require "obatch.records"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"

local image = {}

--- What an image's answer must be: download has it so, unless a --policy says more.
local RULES = setmetatable({ expect = "text", allow_blank = true }, { __index = policy })

--- One batch that held an image.
---@class obatch.history.Sending
---@field name string  "batch_...", "resubmit_001", "deep_clean run_002", ...
---@field custom_id string
---@field is_under_way boolean
---@field batch obatch.history.Batch?
---@field request table?  the settings: { endpoint=, model=, detail=, max_tokens=, prompt= }
---@field record_path string?
---@field lines { path: string, number: integer, class: string?, reason: string?, text: string?, result: string,
---  tokens_in: integer?, tokens_out: integer? }[]  what came back from a batch
---@field outcome table?  what download noted: { class=, reason=, action=, attempts= }
---@field story obatch.history.Story?  of an errand

---@class obatch.history.ImageStory
---@field path string
---@field custom_id string
---@field state "text"|"blank"|"label"|"none"  what is beside the image
---@field text_path string?
---@field text string?  the beginning of it
---@field bytes integer?
---@field is_gone boolean?  the image itself is not there
---@field before_path string?  what the text was before deep_clean
---@field decision obatch.Decision?
---@field sent obatch.history.Sending[]
---@field attempts table[]  answers of deep_clean that were not good: { run=, class=, reason=, time= }

--- Of a text beside an image, that much is looked at.
local MAX_TEXT = 1 << 20

--- What stands beside an image now.
local function look_beside(story)
  local path = story.path
  for _, kind in ipairs { { "text", sidecar.text_path(path) }, { "label", sidecar.label_path(path) } } do
    local stat = story.state == "none" and fs.lstat(kind[2])
    if stat and stat.type == "file" then
      story.state, story.text_path, story.bytes = kind[1], kind[2], stat.size
      story.text = fs.read(kind[2], MAX_TEXT)
      if kind[1] == "text" and story.text and text.is_blank(story.text) then story.state = "blank" end
    end
  end
  if fs.lstat(sidecar.before_path(path)) then story.before_path = sidecar.before_path(path) end
  story.is_gone = not fs.stat(path) or nil
  if story.text and #story.text < MAX_TEXT then
    story.decision = decisions.beside():about(story.text_path, story.text)
  end
end

--- What a batch has brought for an image.
local function lines_of(output_dir, batch_id, custom_id)
  local found = json.array {}
  for _, ending in ipairs { "", "_errors", "_rejected" } do
    local path = ("%s/%s%s.jsonl"):format(output_dir, part_events.file_name(batch_id), ending)
    for record in fs.stat(path) and jsonl.scan(path, outcome.FIELDS) or function() end do
      if record.custom_id == custom_id then
        local judged = outcome.judge(record, RULES)
        found[#found + 1] = { path = path, number = record.number, result = record.text, class = judged.class,
          reason = judged.reason, tokens_in = judged.tokens_in, tokens_out = judged.tokens_out,
          text = outcome.text(record) }
      end
    end
  end
  return found
end

--- What one batch, or errand, was about an image.
local function sending(self, dir, one)
  local source = one.source
  local told = { name = source.name, custom_id = one.custom_id, is_under_way = one.is_under_way or false,
    lines = json.array {} }
  if source.folder then
    local job <close> = history.open(source.folder)
    told.story = job and job:story(one.custom_id)
    return told
  end
  for _, batch in ipairs(self.batches) do
    if batch.id == source.id then told.batch = batch end
  end
  for _, folder in ipairs { dir, dir .. "/completed" } do
    local path = ("%s/%s.txt"):format(folder, source.id)
    local record = fs.stat(path) and image_record.read(path)
    if record then told.record_path, told.request = path, record.request end
  end
  told.lines = lines_of(self.output_dir, source.id, one.custom_id)
  for entry in records.unresolved(dir) do
    if entry.batch == source.id and entry.custom_id == one.custom_id then told.outcome = entry end
  end
  return told
end

--- An image of a project by its custom_id, its path, or the path of a text beside it: what report.project knows.
local function find(self, name)
  local path = sidecar.parse((name:gsub("%.before$", ""))) or name
  local known = self:about(path)
  for _, other in pairs(known and {} or self.images) do
    if other.custom_id == name or other.path == path then return other end
    for _, one in ipairs(other.sent) do
      if one.custom_id == name then return other end
    end
  end
  return known
end

--- The ids and paths that are near a name, as words for a message.
local function near(names, name)
  local all = { count = #names, id = function(_, i) return names[i] end }
  local list = ids.near(all, name)
  for i, other in ipairs(list) do list[i] = text.shown(other) end
  return #list > 0 and "; near it: " .. table.concat(list, ", ") or ""
end

local function not_found(dir, names, name)
  return nil, ("%s: there is no image '%s'%s"):format(dir, text.shown(name), near(names, name)), "NOT_FOUND"
end

--- The story of an image of a batch folder.
---@param dir string
---@param name string  its custom_id or its path
---@param options { output_dir: string, job_dir: string? }
---@return obatch.history.ImageStory?
---@return string? message  names near ones
---@return string? code  "NOT_FOUND"
function image.of_project(dir, name, options)
  local self <close> = project.read(dir, options)
  local known = find(self, name)
  if not known then
    local names = {}
    for _, other in pairs(self.images) do
      names[#names + 1] = other.custom_id
      if other.path ~= other.custom_id then names[#names + 1] = other.path end
    end
    table.sort(names)
    return not_found(dir, names, name)
  end
  local story = { path = known.path, custom_id = known.custom_id, state = "none", sent = json.array {},
    attempts = json.array {} }
  look_beside(story)
  local sent = table.move(known.sent, 1, #known.sent, 1, {})
  for i, one in ipairs(sent) do one.place = i end
  table.sort(sent, function(a, b)
    if a.source.time ~= b.source.time then return a.source.time < b.source.time end
    return a.place < b.place
  end)
  for i, one in ipairs(sent) do story.sent[i] = sending(self, dir, one) end
  return story
end

--- The story of a labelled text, by the folder of deep_clean alone.
---@param dir string
---@param name string  its custom_id, or the path of the image or of a text beside it
---@return obatch.history.ImageStory?
---@return string? message
---@return string? code
function image.of_mending(dir, name)
  local mending, message, code = folders.mending(dir)
  if not mending then return nil, message, code end
  local path = sidecar.parse(name) or name
  local real, names, story = image_record.real_path(path), {}, nil
  for _, errand in ipairs(mending.errands) do
    for _, item in ipairs(errand.items) do
      names[#names + 1] = item.custom_id
      names[#names + 1] = item.path
      if item.custom_id == name or image_record.real_path(item.path) == real then
        story = story or { path = item.path, custom_id = item.custom_id, state = "none", sent = json.array {},
          attempts = json.array {} }
        local job <close> = folders.job(errand)
        table.insert(story.sent, { name = errand.name, custom_id = item.custom_id, lines = json.array {},
          is_under_way = errand.state ~= "completed", story = job and job:story(item.custom_id) })
      end
    end
  end
  if not story then return not_found(dir, names, name) end
  look_beside(story)
  local label = text.to_utf8(image_record.real_path(sidecar.label_path(story.path)))
  for _, attempt in ipairs(mending.attempts) do
    if attempt.path == label then table.insert(story.attempts, attempt) end
  end
  return story
end

return image
