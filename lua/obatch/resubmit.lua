--- Sending images again that came back without a text: exactly those, through the correction loop, as an
--- errand (see obatch.errand) in BATCH_DIR/resubmit_NNN.
--
-- A request is composed as its batch's record says, from the image as it is now.

local errand = require "obatch.errand"
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local part_names = require "obatch.part"
local progress = require "obatch.progress"
local prompt = require "obatch.prompt"
local request = require "obatch.request"
local text = require "obatch.text"

local resubmit = {}

--- The errand that is on its way; nil alone when there is none.
---@param batch_dir string
---@return obatch.Errand|nil errand
---@return string|nil message
---@return string|nil code
function resubmit.unfinished(batch_dir) return errand.unfinished(batch_dir, "resubmit") end

--- The images that are on their way: a set of their real paths, and of the custom_ids in records of earlier
--- scripts. The facts: how many of them are in requests that are not submitted, and a batch of which nobody knows
--- the images.
---@param shelf obatch.Shelf
---@param api table
---@return table<string, true>|nil held
---@return { unsubmitted: integer, unknown?: string }|string facts  else the message
---@return string|nil code
function resubmit.on_their_way(shelf, api)
  local held, facts = {}, { unsubmitted = 0, unknown = nil }
  for _, part in ipairs(shelf.parts) do
    local ok, message, code = shelf:load(part, api)
    if not ok then return nil, message, code end
    local items = part.record.items
    if not items then facts.unknown = part.batch_id end
    for _, item in ipairs(items or {}) do
      held[image_record.real_path(item.path)] = true
      if part.legacy then held[item.custom_id] = true end
    end
    if not part.batch_id then facts.unsubmitted = facts.unsubmitted + #items end
    part.record = nil
  end
  local again, message, code = resubmit.unfinished(shelf.batch_dir)
  if code then return nil, message, code end
  for _, item in ipairs(again and again.items or {}) do held[image_record.real_path(item.path)] = true end
  return held, facts
end

-- ---------------------------------------------------------------- composing

--- What was submitted with a batch: a function(custom_id) that gives the item, with its .image_dir, and
--- the request's settings; or nil and why nobody knows.
local function submitted_with(batch_id, batch_dir, completed_dir)
  local items = {}
  local record
  if batch_id:find("^resubmit_%d+$") then
    record = errand.completed(batch_dir, batch_id)
  else
    local content = fs.read(("%s/%s.txt"):format(completed_dir, part_names.file_name(batch_id)))
    record = content and json.decode(content)
  end
  if type(record) ~= "table" or type(record.items) ~= "table" then
    return function() return nil, ("there is no record of batch %s any more"):format(batch_id) end
  end
  image_record.restore_paths(record)
  for _, item in ipairs(record.items) do items[item.custom_id] = item end
  return function(custom_id)
    local item = items[custom_id]
    local origin = item and item.origin or batch_id
    local settings = record.request or record.requests and record.requests[origin]
    if not item or not settings then
      return nil, "an earlier script sent it, and kept no prompt: upload it again"
    end
    return item, settings, origin, item.image_dir or record.image_dir
  end
end

--- Bytes of an image whose request the correction loop still reads as one line (64 MB).
local MAX_IMAGE = 45 * 1000 * 1000

--- Adds one image to the requests. Returns its item and its settings; nil and what is wrong with it; or
--- nil, message, CODE when nothing more can be written.
local function compose(writer, entry, find, taken)
  local sent, settings, origin, image_dir = find(entry.custom_id)
  if not sent then return nil, settings end
  local picture, fault = jsonl.image(entry.path)
  if not picture then return nil, fault end
  if picture:bytes() > MAX_IMAGE then return nil, "too large for the correction loop: upload it again" end
  local columns = {}
  for name in pairs(sent.fields or {}) do columns[#columns + 1] = name end
  local fill, question
  fill, fault = prompt.compile(settings.prompt, columns)
  if fill then question, fault = fill(entry.path, sent.fields) end
  if not question then return nil, fault end
  local id = image_record.custom_id(entry.custom_id, taken)
  local ok, message, code = writer:put(request.compose { custom_id = id, endpoint = settings.endpoint,
    model = settings.model, prompt = question, image = picture, detail = settings.detail,
    max_tokens = settings.max_tokens })
  if not ok and message:sub(1, #entry.path) == entry.path then return nil, message end -- the image, not our disk
  if not ok then return nil, message, code end
  return { custom_id = id, path = entry.path, image_dir = image_dir, origin = origin, bytes = picture:bytes(),
    sha256 = picture:sha256(), prompt_sha256 = fs.sha256_text(question), attempt = (entry.attempts or 0) + 1,
    fields = sent.fields }, settings
end

--- Begins the errand of some images. The record's .requests has the settings of each batch that an item's .origin
--- names.
---@param batch_dir string
---@param completed_dir string
---@param entries table[]  of unresolved.jsonl, one for each image
---@return obatch.Errand|nil errand  nil when none can be sent
---@return { entry: table, reason: string }[]|string left_out  those that cannot; else the message
---@return string|nil code
function resubmit.begin(batch_dir, completed_dir, entries)
  local left_out = {}
  local again, message, code = errand.begin(batch_dir, "resubmit", function(writer)
    local record, taken = { requests = {}, items = {} }, {}
    local find, batch
    local stage = progress.stage("writing the requests of images", { total = #entries, unit = "images" })
    for i, entry in ipairs(entries) do
      stage:update(i - 1)
      if entry.batch ~= batch then
        batch = entry.batch
        find = submitted_with(batch, batch_dir, completed_dir)
      end
      local item, settings, errno = compose(writer, entry, find, taken)
      if errno then return nil, settings, errno end
      if item then
        record.items[#record.items + 1] = item
        record.requests[item.origin] = settings
      else
        left_out[#left_out + 1] = { entry = entry, reason = text.printable(settings) }
      end
    end
    return record
  end, true)
  if code then return nil, message, code end
  return again, left_out
end

-- ---------------------------------------------------------------- what came of it

--- custom_id -> { class=, reason=, action=, attempts= } of what the loop left without a good answer;
--- attempts are all that the image has had.
local function failures_of(self, iterations)
  local found, before = {}, {}
  for _, item in ipairs(self.items) do before[item.custom_id] = item.attempt - 1 end
  local function add(name, action)
    local lines = jsonl.scan(self.dir .. "/" .. name,
      { custom_id = "/custom_id", class = "/class", reason = "/reason", attempts = "/attempts" })
    for line in lines or function() end do
      if line.custom_id then
        found[line.custom_id] = { class = line.class, reason = line.reason, action = action,
          attempts = before[line.custom_id] + line.attempts }
      end
    end
  end
  add(("iteration_%d/unresolved_iteration_%d.jsonl"):format(iterations, iterations), "resend")
  add("given_up.jsonl", "give_up")
  return found
end

--- What the loop has brought, as a part that can be harvested (see obatch.harvest).
---@param self obatch.Errand
---@param iterations integer
---@param never_sent? string  why requests were left out for good, where some were
---@return table part
function resubmit.part(self, iterations, never_sent)
  local files = { self.dir .. "/final_results.jsonl" }
  -- The lines without a good answer are kept as JSON, too, and a page may be blank.
  for n = iterations, 1, -1 do
    local path = ("%s/iteration_%d/invalid_results_iteration_%d.jsonl"):format(self.dir, n, n)
    if fs.stat(path) then files[#files + 1] = path end
  end
  local failures = failures_of(self, iterations)
  for _, item in ipairs(never_sent and self.items or {}) do
    failures[item.custom_id] = failures[item.custom_id] or { class = "cancelled", reason = never_sent,
      action = "resend", attempts = item.attempt - 1 }
  end
  return { batch_id = self.name, files = files, failures = failures, record = { items = self.items } }
end

--- The same for those alone that have a good answer already, while the others are on their way.
---@param self obatch.Errand
---@return table part
function resubmit.answered(self)
  local path, is_there, items = self.dir .. "/final_results.jsonl", {}, {}
  for line in jsonl.scan(path, { id = "/custom_id" }) or function() end do is_there[line.id or 0] = true end
  for _, item in ipairs(self.items) do
    if is_there[item.custom_id] then items[#items + 1] = item end
  end
  return { batch_id = self.name, files = { path }, failures = {}, record = { items = items } }
end

return resubmit
