--- Brings parts (see obatch.part) through the service: uploads them, creates their batches, waits for
--- every one of them however long it takes, and downloads what they produced.
--
-- Whose parts they are is the store's business: an iteration of a job (Job:round), or the batch folder
-- of an image project (obatch.records). A store has
--   parts, title, rest                 the parts, what people call them together, and in words what becomes of
--                                      the lines of a refused batch that were not at fault
--   record(part, event)                makes an event durable, then applies it
--   request_path(part)                 its request file; nil when that is not kept
--   upload_name(part), tag(part)       how a file and a batch are found again whose reply was lost
--   created(part, batch)               its batch exists
--   reject(part, faults)               its batch failed validation for some lines
--   download_path(part, kind)          where its "output" or "error" file goes
--   kept_results(part)                 optional: files to go on with when the service has forgotten the batch
--   withdraw(part)                     optional: takes back a part that the service has refused. A store that
--                                      can do so composes its requests anew; it never gives a batch up by itself
-- and each method's failure is nil, message, CODE.

local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local openai = require "obatch.openai"
local outcome = require "obatch.outcome"
local tasks = require "obatch.tasks"
local term = require "obatch.term"

local submission = {}
local Submission = {}
Submission.__index = Submission

--- Uploads or downloads that run at once.
local AT_ONCE = 4

--- The first look at new batches comes after this many seconds; the pause grows by half each time,
--- up to --poll-wait.
local FIRST_PAUSE = 2

--- Looks at which a batch or file may be unknown to the service before it is believed to be gone,
--- times that a download may come out wrong before it is taken as it comes, and looks at a completed
--- batch that names no output file for its answers.
local MAX_LOOKS = 10

--- Nor is it believed to be gone before it was unknown for so many seconds, however short the pauses
--- between the looks: its requests would be paid again.
local GONE_AFTER = 300

--- How many of a failed batch's errors are told: it may have one for every line.
local MAX_REASONS = 10

--- "Cannot find file" is answered for files that exist (seen in 2024 and 2026): this many times the
--- same file is tried, then it is uploaded again.
local SAME_FILE_TRIES = 4

--- How often one run creates a batch again after a fault of the service that should have passed. An
--- enqueued-token limit is no fault and is waited for without limit.
local MAX_REQUEUES = 12

--- The longest pause before a queued part is tried again, in seconds.
local MAX_QUEUE_PAUSE = 900

local TERMINAL = { completed = true, failed = true, expired = true, cancelled = true }

--- No new submissions from here on; what is in flight is still harvested, unless `at_once`.
function Submission:stop(message, code, at_once)
  if not self.stopped then self.stopped = { message = message, code = code } end
  self.stopped.at_once = self.stopped.at_once or at_once
  return false
end

--- An event for a part. A journal that cannot be written ends the run: what is not recorded would be
--- paid again.
function Submission:record(part, event)
  local ok, message, code = self.store:record(part, event)
  return ok or self:stop(message, code, true)
end

-- ---------------------------------------------------------------- submitting

--- Puts a part back into the queue: until another batch of ours has ended, or, when none is in
--- flight (the limit is shared with the user's other work), for a pause that grows.
function Submission:queue(part, why)
  local pause = math.min(MAX_QUEUE_PAUSE, math.max(1, self.poll_wait) * 2 ^ math.min(part.requeued or 0, 16))
  part.queued = { after_end = self.ended_count, at = term.clock() + pause }
  self.log(("part %d waits to be submitted again: %s"):format(part.part, why))
end

function Submission:ready(part)
  if part.done or part.batch_id or self.stopped then return false end
  local queued = part.queued
  if not queued or self.ended_count > queued.after_end then return true end
  return self.in_flight == 0 and term.clock() >= queued.at
end

--- A file or batch could not be created: no new submissions. Where that is certain, the intent is
--- closed, so that the next run need not look for what cannot be there.
function Submission:not_created(part, what, message, code, certain)
  if certain and not self:record(part, { event = "refused", what = what, reason = message }) then return false end
  if certain and code == "REFUSED" and self.store.withdraw then
    local ok, problem, reason = self.store:withdraw(part)
    if not ok then return self:stop(problem, reason, true) end
    message = message .. ". Its images are free to be sent again, by other options"
  end
  return self:stop(message, code)
end

function Submission:upload(part)
  local doubt = part.upload_doubt
  if not self:record(part, { event = "intent", what = "upload" }) then return false end
  local file, message, code, certain = self.api:upload(self.store:request_path(part), self.store:upload_name(part),
    doubt)
  if not file then return self:not_created(part, "upload", message, code, certain) end
  self.log(("part %d: %d requests, %d bytes, uploaded as %s"):format(part.part, part.lines, part.bytes, file.id))
  return self:record(part, { event = "uploaded", file_id = file.id })
end

function Submission:submit(part)
  if self.stopped then return false end
  if not part.file_id and not self:upload(part) then return false end
  if self.stopped then return false end
  local doubt = part.create_doubt
  if not self:record(part, { event = "intent", what = "create" }) then return false end
  local batch, message, code, certain = self.api:create_batch(part.file_id, part.endpoint, self.store:tag(part),
    doubt)
  if not batch then
    if code == "NO_FILE" then return self:requeue(part, message, true) end
    return self:not_created(part, "create", message, code, certain)
  end
  part.queued = nil
  self.log(("part %d: batch %s"):format(part.part, batch.id))
  local ok, problem, reason = self.store:created(part, batch)
  return ok or self:stop(problem, reason, true)
end

-- ---------------------------------------------------------------- failed validation

--- A string from a reply; nil for anything else, and for the empty one.
local function word(value) return type(value) == "string" and value ~= "" and value or nil end

--- The errors of a failed batch: a list of { code=, message=, param=, line= }.
function Submission:errors_of(batch)
  local errors = type(batch.errors) == "table" and batch.errors or {}
  local list = openai.present(errors.data) or errors -- some services send the bare list
  local found = {}
  for _, entry in ipairs(type(list) == "table" and list or {}) do
    if type(entry) == "table" then
      found[#found + 1] = { code = word(entry.code), param = word(entry.param),
        message = self.api:clean(word(entry.message) or "no message"), line = math.tointeger(entry.line) }
    end
  end
  return found
end

--- An error in words.
local function describe(entry)
  local place = entry.line and ("line %d, "):format(entry.line) or ""
  return ("%s%s: %s"):format(place, entry.code or "no code", entry.message)
end

--- The first errors of a list in words.
local function describe_all(errors)
  local words = {}
  for i = 1, math.min(#errors, MAX_REASONS) do words[i] = describe(errors[i]) end
  if #errors > MAX_REASONS then words[#words + 1] = ("and %d more"):format(#errors - MAX_REASONS) end
  return #words > 0 and table.concat(words, "; ") or "the service gives no reason"
end

local function cannot_find_file(entry)
  return entry.code == "file_not_found" or (entry.code == "invalid_request" and entry.param == "file_id")
    or entry.message:find("^Cannot find file") ~= nil
end

--- Creates the batch again later, from the same file; after `SAME_FILE_TRIES` from a fresh upload
--- where the service claims not to know the file.
function Submission:requeue(part, why, file_unknown, without_limit)
  if not self:record(part, { event = "requeued", batch_id = part.batch_id, reason = why }) then return false end
  if not without_limit then
    part.faults = (part.faults or 0) + 1
    local is_kept = self.store:request_path(part) ~= nil
    if part.faults > MAX_REQUEUES and file_unknown and not is_kept then
      return self:give_up_batch(part, ("part %d: %s"):format(part.part, why))
    elseif part.faults > MAX_REQUEUES then
      return self:stop(("part %d: still failing after %d tries: %s"):format(part.part, part.faults, why), "SERVER")
    end
    if file_unknown and is_kept and part.faults % SAME_FILE_TRIES == 0 then part.file_id = nil end
  end
  self:queue(part, why)
  return true
end

--- What becomes of a part whose batch failed validation. Nothing of it has run.
function Submission:failed(part, batch)
  local errors, lines, id = self:errors_of(batch), {}, part.batch_id
  for _, entry in ipairs(errors) do
    if outcome.is_quota(entry) then
      return self:record(part, { event = "requeued", batch_id = id, reason = describe(entry) })
        and self:stop(("batch %s: %s"):format(id, describe(entry)), "QUOTA")
    elseif entry.code == "token_limit_exceeded" then
      return self:requeue(part, describe(entry), false, true)
    elseif entry.code == "server_error" or cannot_find_file(entry) then
      return self:requeue(part, describe(entry), cannot_find_file(entry))
    end
    local fault = { code = entry.code, message = entry.message }
    -- A number that no line of the part has (0, say) names none: nothing may be given up for it.
    local line = entry.line and entry.line >= 1 and entry.line <= part.lines and entry.line
    if line then lines[line] = fault end
    -- A part has one model. When the lines that are left are refused for it too, all are.
    if entry.code == "model_not_found" and (part.model_refused or not line) then lines[0] = fault end
  end
  local why = describe_all(errors)
  if not next(lines) and self.store.withdraw then
    self:stop(("batch %s failed validation: %s"):format(id, why), "REFUSED")
  elseif not next(lines) then
    -- On the next run the batch is created again, after the user has seen to the cause.
    return self:record(part, { event = "requeued", batch_id = id, reason = why })
      and self:stop(("batch %s failed validation: %s"):format(id, why), "REFUSED")
  end
  self.log(("batch %s failed validation: %s; %s"):format(id, why, self.store.rest))
  local ok, message, code = self.store:reject(part, lines)
  return ok or self:stop(message, code, true)
end

-- ---------------------------------------------------------------- looking and harvesting

--- A batch whose results cannot be had any more: its requests count as missing.
function Submission:give_up_batch(part, message)
  self.log(("%s. It is gone for good; its requests count as missing"):format(message))
  return self:record(part, { event = "downloaded", batch_id = part.batch_id, files = json.array {} })
end

--- A fault while looking or downloading. Most pass: the next look tries again.
function Submission:trouble(part, message, code)
  if code == "AUTH" or code == "QUOTA" or code == "INTERRUPTED" then return self:stop(message, code, true) end
  if code:find("^E%u") then return self:stop(message, code, true) end -- the disk, not the network
  -- An outage lasts for many looks; each reason is told once, whatever the request's number or time.
  local reason = message:gsub(" %(request [^)]*%)", ""):gsub("%d+ ms", "")
  if part.trouble ~= reason then self.log(message .. "; looking again later") end
  part.trouble = reason
  return false
end

--- `what` of a part (its batch, a file) is not known to the service. Counts the looks; true when it is
--- believed to be gone.
local function gone(part, what)
  part.unknown = part.unknown or {}
  local unknown = part.unknown[what] or { looks = 0, since = term.clock() }
  part.unknown[what], unknown.looks = unknown, unknown.looks + 1
  return unknown.looks >= MAX_LOOKS and term.clock() - unknown.since >= GONE_AFTER
end

--- Whether a completed batch counts answers but names no output file yet. The counts are not to be
--- trusted, so that is waited for only so long; but answers that are paid for are worth some looks.
function Submission:output_is_late(part, batch)
  local answered = part.counts and math.tointeger(part.counts.completed) or 0
  if answered == 0 or word(batch.output_file_id) then return false end
  part.late_looks = (part.late_looks or 0) + 1
  if part.late_looks == 1 then
    self.log(("batch %s: completed, but it names no output file yet; looking again"):format(part.batch_id))
  end
  return part.late_looks < MAX_LOOKS
end

function Submission:look(part)
  local batch, message, code = self.api:batch(part.batch_id, true)
  if not batch and code == "NOT_FOUND" then
    local files = self.store.kept_results and self.store:kept_results(part)
    if files then return self:record(part, { event = "downloaded", batch_id = part.batch_id, files = files }) end
    local is_gone = gone(part, "batch")
    if is_gone and self.store.withdraw then
      part.lost = true
      return self:stop(message .. ". Is this the key, the project and the address it was sent with? When it is really "
        .. "gone, move its record to the completed ones: its images are then free to be sent again", code)
    elseif is_gone then
      return self:give_up_batch(part, message)
    end
  end
  if batch and type(batch.status) ~= "string" then
    batch, message, code = nil, ("batch %s: the reply holds no status"):format(part.batch_id), "PROTOCOL"
  end
  if not batch then return self:trouble(part, message, code) end
  local status = batch.status:lower()
  part.unknown, part.trouble, part.status, part.seen = nil, nil, self.api:clean(status), batch
  part.counts = type(batch.request_counts) == "table" and batch.request_counts or nil
  if not TERMINAL[status] then return true end

  if status == "completed" and self:output_is_late(part, batch) then return true end
  self.log(("batch %s: %s"):format(part.batch_id, status))
  if status == "failed" and not part.adopted then return self:failed(part, batch) end
  if status == "failed" then
    local why = describe_all(self:errors_of(batch))
    return self:give_up_batch(part, ("batch %s failed validation: %s"):format(part.batch_id, why))
  end
  -- What failed validation makes no room: counting it, queued parts would wake each other for ever.
  self.ended_count = self.ended_count + 1
  return self:record(part, { event = "terminal", batch_id = part.batch_id, status = status,
    output_file_id = word(batch.output_file_id), error_file_id = word(batch.error_file_id) })
end

--- Whether a downloaded file ends with a whole line.
local function ends_whole(path)
  local file <close> = io.open(path, "rb")
  if not file or file:seek("end") == 0 then return true end
  file:seek("end", -1)
  if file:read(1) == "\n" then return true end
  local last
  for record in assert(jsonl.scan(path, {})) do last = record end
  return not (last and last.error)
end

--- What a result line says, in either file, when the account cannot pay: then nothing new is sent.
local function quota_complaint(path)
  for record in assert(jsonl.scan(path, { failure = "/error", body_error = "/response/body/error" })) do
    for _, failure in pairs { a = record.failure, b = record.body_error } do
      if type(failure) == "table" and outcome.is_quota(failure) then return tostring(failure.message) end
    end
  end
end

--- Downloads a batch's output or error file. Returns its name; false when it is gone for good; nil
--- when the next look tries again.
function Submission:fetch(part, kind, id)
  local path = self.store:download_path(part, kind)
  part.tries = part.tries or {}
  local tries = (part.tries[kind] or 0) + 1
  local last = tries >= MAX_LOOKS -- what the service sends again and again is what it has
  local bytes, message, code = self.api:download(id, path, last)
  if bytes and not last and not ends_whole(path) then
    bytes, message, code = nil, ("content of file %s: the last line is cut off"):format(id), "CLOSED"
  end
  if bytes then
    self.log(("batch %s: %d bytes of %s"):format(part.batch_id, bytes, kind))
    local complaint = quota_complaint(path)
    if complaint then self:stop(("batch %s: %s"):format(part.batch_id, complaint), "QUOTA") end
    return path:match("[^/]*$")
  end
  if code == "CLOSED" then part.tries[kind] = tries end
  local kept = code == "NOT_FOUND" and kind == "output" and self.store.kept_results and self.store:kept_results(part)
  if kept then return kept[1] end
  if code == "NOT_FOUND" and gone(part, kind) then
    self.log(("%s. It is gone for good; requests that only it answers count as missing"):format(message))
    return false
  end
  self:trouble(part, message, code)
end

function Submission:download(part)
  local files = json.array {}
  for _, kind in ipairs { "output", "error" } do
    local id = part.ended[kind .. "_file_id"]
    local name = part.fetched and part.fetched[kind]
    if id and name == nil then
      name = self:fetch(part, kind, id)
      if name == nil then return false end
      -- Where another file is to come, this one is not fetched again whatever happens to that.
      if kind == "output" and part.ended.error_file_id
        and not self:record(part, { event = "fetched", kind = kind, file = name }) then return false end
    end
    if name then files[#files + 1] = name end
  end
  return self:record(part, { event = "downloaded", batch_id = part.batch_id, files = files })
end

function Submission:harvest(part)
  if not part.ended and not self:look(part) then return end
  if part.ended and not part.done then self:download(part) end
end

-- ---------------------------------------------------------------- the loop

function Submission:each(choose, act)
  local list = {}
  for _, part in ipairs(self.store.parts) do
    if choose(part) then list[#list + 1] = function() act(self, part) end end
  end
  tasks.run(self.api.client, list, AT_ONCE)
end

local function flying(part) return part.batch_id ~= nil and not part.done and not part.lost end

function Submission:count_in_flight()
  local flight, left = 0, 0
  for _, part in ipairs(self.store.parts) do
    if flying(part) then flight = flight + 1 end
    if not part.done then left = left + 1 end
  end
  self.in_flight = flight
  return flight, left
end

function Submission:tell_status()
  local total, completed, failed, states = 0, 0, 0, {}
  for _, part in ipairs(self.store.parts) do
    if flying(part) then
      local counts = part.counts or {}
      total = total + (math.tointeger(counts.total) or 0)
      completed = completed + (math.tointeger(counts.completed) or 0)
      failed = failed + (math.tointeger(counts.failed) or 0)
      local status = part.trouble and "out of reach" or part.status or "submitted"
      states[status] = (states[status] or 0) + 1
    end
  end
  local words = {}
  for status, count in pairs(states) do words[#words + 1] = ("%d %s"):format(count, status) end
  table.sort(words)
  local line = ("%s: in flight: %s"):format(self.store.title, #words > 0 and table.concat(words, ", ") or "none")
  if total > 0 then line = line .. ("; %d of %d requests done, %d failed"):format(completed, total, failed) end
  self.progress:status(line)
end

local function new(store, api, settings)
  return setmetatable({ store = store, api = api, poll_wait = settings.poll_wait or 0, log = settings.log,
    progress = settings.progress, on_done = settings.on_done, ended_count = 0, in_flight = 0 }, Submission)
end

--- Hands each part that is done to `on_done`, once; what that returns but true ends the run.
function Submission:deliver()
  if not self.on_done then return true end
  for _, part in ipairs(table.move(self.store.parts, 1, #self.store.parts, 1, {})) do
    if part.done and not part.delivered then
      local ok, message, code = self.on_done(part)
      if not ok then return nil, message, code end
      part.delivered = true
    end
  end
  return true
end

--- Uploads and creates what is not at the service yet, and waits for nothing: what the service cannot take
--- at the moment is left for the next run. true; or nil, message, CODE when submitting had to stop.
function submission.submit(store, api, settings)
  local self = new(store, api, settings)
  self:each(function(part) return self:ready(part) end, self.submit)
  if self.stopped then return nil, self.stopped.message, self.stopped.code end
  return true
end

--- Brings every part of a store to the point where it is done: true, or true and { message=, code= }
--- when nothing more may be submitted after it. nil, message, CODE when submitting had to stop before
--- (what was in flight has been harvested all the same, except after INTERRUPTED, AUTH and faults of
--- the disk). Settings:
---   poll_wait      seconds at most between two looks
---   log(line), progress
---   on_done(part)  hears of each part as it is done, and of those that were; true, or nil, message, CODE
---   once           one look at every batch, no waiting
function submission.run(store, api, settings)
  local self = new(store, api, settings)
  local pause = math.min(FIRST_PAUSE, self.poll_wait)
  while true do
    self:count_in_flight()
    self:each(function(part) return self:ready(part) end, self.submit)
    if not (self.stopped and self.stopped.at_once) then self:each(flying, self.harvest) end
    local delivered, complaint, reason = self:deliver()
    if not delivered then return nil, complaint, reason end
    local flight, left = self:count_in_flight()
    if left == 0 then return true, self.stopped end
    if term.interrupted() then return nil, "interrupted", "INTERRUPTED" end
    if self.stopped and (self.stopped.at_once or flight == 0 or settings.once) then
      return nil, self.stopped.message, self.stopped.code
    end
    self:tell_status()
    if settings.once then return true end
    local ok, message, code = term.sleep(math.max(0.1, pause))
    if not ok then return nil, message, code end
    pause = math.min(pause * 1.5, self.poll_wait)
  end
end

return submission
