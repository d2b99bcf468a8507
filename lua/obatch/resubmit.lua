--- Sending images again that came back without a text: exactly those, through the correction loop.
--
--   BATCH_DIR/resubmit_NNN/original_requests.jsonl   their requests, composed anew
--   BATCH_DIR/resubmit_NNN/record.json               what each one is about; once it is there, they are
--                                                    on their way
--   BATCH_DIR/resubmit_NNN/completed.json            the same, when their texts are stored
--   BATCH_DIR/resubmit_NNN/...                       the correction loop's job
--
-- A request is composed as its batch's record says, from the image as it is now.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local loop = require "obatch.loop"
local part_names = require "obatch.part"
local prompt = require "obatch.prompt"
local records = require "obatch.records"
local request = require "obatch.request"
local text = require "obatch.text"

local resubmit = {}
local Resubmission = {}
Resubmission.__index = Resubmission

-- ---------------------------------------------------------------- records on disk

--- { requests = { [batch id] = settings }, items = { { custom_id, path, image_dir, origin, ... }, ... } },
--- where origin is the batch whose settings an item has. nil, message, CODE.
local function read_record(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local record, problem = json.decode(content)
  if type(record) ~= "table" then return nil, ("%s: %s"):format(path, problem or "not a record"), "DAMAGED" end
  for _, item in ipairs(record.items) do records.restore_paths(item) end
  return record
end

local function write_record(path, record)
  local items = json.array {}
  for i, item in ipairs(record.items) do items[i] = records.with_paths(item) end
  return fs.write(path, json.encode { requests = record.requests, items = items } .. "\n")
end

--- The name of resubmission n.
local function name_of(n) return ("resubmit_%03d"):format(n) end

--- The number of the last resubmission, 0 when there was none.
local function last_number(batch_dir)
  local last = 0
  for _, name in ipairs(fs.list(batch_dir) or {}) do
    last = math.max(last, math.tointeger(tonumber(name:match("^resubmit_(%d+)$"))) or 0)
  end
  return last
end

local function new(batch_dir, name, record)
  return setmetatable({ name = name, dir = ("%s/%s"):format(batch_dir, name), items = record.items }, Resubmission)
end

--- The resubmission that is on its way: .items are its images, each with its .path. nil when there is
--- none; nil, message, CODE when its record cannot be read.
function resubmit.unfinished(batch_dir)
  local name = name_of(last_number(batch_dir)) -- none begins before the one before it has ended
  local record, message, code = read_record(("%s/%s/record.json"):format(batch_dir, name))
  if record then return new(batch_dir, name, record) end
  if code == "ENOENT" then return nil end
  return nil, message, code
end

-- ---------------------------------------------------------------- composing

--- What was submitted with a batch: a function(custom_id) that gives the item, with its .image_dir, and
--- the request's settings; or nil and why nobody knows.
local function submitted_with(batch_id, batch_dir, completed_dir)
  local items = {}
  local record
  if batch_id:find("^resubmit_%d+$") then
    record = read_record(("%s/%s/completed.json"):format(batch_dir, batch_id))
  else
    local content = fs.read(("%s/%s.txt"):format(completed_dir, part_names.file_name(batch_id)))
    record = content and json.decode(content)
  end
  if type(record) ~= "table" or type(record.items) ~= "table" then
    return function() return nil, ("there is no record of batch %s any more"):format(batch_id) end
  end
  records.restore_paths(record)
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
  local id = records.custom_id(entry.custom_id, taken)
  local ok, message, code = writer:put(request.compose { custom_id = id, endpoint = settings.endpoint,
    model = settings.model, prompt = question, image = picture, detail = settings.detail,
    max_tokens = settings.max_tokens })
  if not ok and message:sub(1, #entry.path) == entry.path then return nil, message end -- the image, not our disk
  if not ok then return nil, message, code end
  return { custom_id = id, path = entry.path, image_dir = image_dir, origin = origin, bytes = picture:bytes(),
    sha256 = picture:sha256(), prompt_sha256 = fs.sha256_text(question), attempt = (entry.attempts or 0) + 1,
    fields = sent.fields }, settings
end

--- Prepares the requests of `entries` (of unresolved.jsonl, one for each image). Returns the resubmission,
--- and a list of { entry=, reason= } of those that cannot be sent; nil and that list when none can; or
--- nil, message, CODE.
function resubmit.prepare(batch_dir, completed_dir, entries)
  local last, left_out = last_number(batch_dir), {}
  -- One that was stopped before its record was there has sent nothing: its folder is used again.
  local is_new = last == 0 or fs.stat(("%s/%s/completed.json"):format(batch_dir, name_of(last))) ~= nil
  local name = name_of(is_new and last + 1 or last)
  local dir = ("%s/%s"):format(batch_dir, name)
  local ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  local writer <close>, problem, reason = jsonl.create(dir .. "/original_requests.jsonl")
  if not writer then return nil, problem, reason end

  local record, taken = { requests = {}, items = {} }, {}
  local find, batch
  for _, entry in ipairs(entries) do
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
  if #record.items == 0 then
    writer:close()
    fs.remove(dir)
    return nil, left_out
  end
  local facts
  facts, message, code = writer:commit()
  if not facts then return nil, message, code end
  ok, message, code = write_record(dir .. "/record.json", record)
  if not ok then return nil, message, code end
  return new(batch_dir, name, record), left_out
end

-- ---------------------------------------------------------------- the loop, and what came of it

--- Brings the requests to their end by loop.run, with its options but base_dir and original. Its result.
function Resubmission:run(options)
  options.base_dir, options.original = self.dir, self.dir .. "/original_requests.jsonl"
  return loop.run(options)
end

--- custom_id -> { class=, reason=, action=, attempts= } of what the loop left without a good answer;
--- attempts are all that the image has had.
function Resubmission:failures(iterations)
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
function Resubmission:part(iterations)
  local files = { self.dir .. "/final_results.jsonl" }
  -- The lines without a good answer are kept as JSON, too, and a page may be blank.
  for n = iterations, 1, -1 do
    local path = ("%s/iteration_%d/invalid_results_iteration_%d.jsonl"):format(self.dir, n, n)
    if fs.stat(path) then files[#files + 1] = path end
  end
  return { batch_id = self.name, files = files, failures = self:failures(iterations),
    record = { items = self.items } }
end

--- The texts are stored: nothing of this is on its way any more. The requests, which hold the images once
--- more, go.
function Resubmission:complete()
  local ok, message, code = fs.rename(self.dir .. "/record.json", self.dir .. "/completed.json")
  if not ok then return nil, message, code end
  for path in fs.walk(self.dir, { ext = { [".jsonl"] = true } }) do
    local name = path:match("[^/]*$")
    if name == "original_requests.jsonl" or name:find("^batch_requests_iteration_") then
      ok, message, code = fs.remove(path)
      if not ok then return nil, message, code end
    end
  end
  return true
end

return resubmit
