--- Brings parts (see obatch.part) through the service: uploads them, creates their batches, waits for
--- every one of them however long it takes, and downloads what they produced.
--
-- Whose parts they are is the store's business: an iteration of a job (Job:round), or the batch folder
-- of an image project (obatch.records). A store has
--   parts, title, rest                 the parts, what people call them together, and in words what becomes of
--                                      the lines of a refused batch that were not at fault
--   meter                              an obatch.meter of all that the store has sent
--   record(part, event)                makes an event durable, then applies it
--   request_path(part)                 its request file; nil when that is not kept
--   upload_name(part), tag(part)       how a file and a batch are found again whose reply was lost
--   created(part, batch)               its batch exists
--   reject(part, faults)               its batch failed validation for some lines
--   split(part, pieces, api)           its requests become so many parts
--   download_path(part, kind)          where its "output" or "error" file goes
--   kept_results(part)                 optional: files to go on with when the service has forgotten the batch
--   take_back(part)                    its requests are composed, or planned, anew
--   withdraw(part)                     optional: takes back a part that the service has refused. A store that
--                                      can do so composes its requests anew; it never gives a batch up by itself
-- and each method's failure is nil, message, CODE.

local cli = require "obatch.cli"
local downloads = require "obatch.downloads"
local failed_batch = require "obatch.failed_batch"
local flight = require "obatch.flight"
local fs = require "obatch.fs"
local json = require "obatch.json"
local part_events = require "obatch.part"
local progress = require "obatch.progress"
local queue = require "obatch.queue"
local tasks = require "obatch.tasks"
local term = require "obatch.term"

local submission = {}
local Submission = {}
Submission.__index = Submission

--- Uploads or downloads that run at once.
local AT_ONCE = 4

--- Parts that are submitted between two looks: what has failed, or ended, is not to wait until the last of a
--- thousand files is uploaded.
local AT_A_TIME = 8

--- The first look at new batches comes after this many seconds; the pause grows by half each time,
--- up to --poll-wait.
local FIRST_PAUSE = 2

--- Looks at which a batch or file may be unknown to the service before it is believed to be gone, and looks at a
--- completed batch that names no output file for its answers.
local MAX_LOOKS = 10

--- Nor is it believed to be gone before it was unknown for so many seconds, however short the pauses
--- between the looks: its requests would be paid again.
local GONE_AFTER = 300

--- Faults after which the same submission may succeed later: those of the network, and those that the
--- service itself answers.
local OF_NETWORK = { DNS = true, CONNECT = true, TIMEOUT = true, CLOSED = true, RATE_LIMIT = true }
local OF_SERVICE = { SERVER = true, PROTOCOL = true, CONFLICT = true }

local is_flying = queue.is_flying

local TERMINAL = { completed = true, failed = true, expired = true, cancelled = true }

--- No new submissions from here on; what is in flight is still harvested, unless `at_once`.
---@param message string
---@param code string
---@param at_once? boolean
---@return false
function Submission:stop(message, code, at_once)
  if not self.stopped then self.stopped = { message = message, code = code } end
  self.stopped.at_once = self.stopped.at_once or at_once
  return false
end

--- An event for a part. A journal that cannot be written ends the run: what is not recorded would be
--- paid again.
---@param part table
---@param event table
---@return boolean ok
function Submission:record(part, event)
  local ok, message, code = self.store:record(part, event)
  return ok or self:stop(message, code, true)
end

-- ---------------------------------------------------------------- submitting

--- A file or batch could not be created. Where that is certain, the intent is closed, so that nobody need look
--- for what cannot be there. In a run that waits anyway, what may pass is tried again later, if the service
--- has answered before (so the address is right); else there are no new submissions.
---@param part table
---@param what string
---@param message string
---@param code string
---@param certain? boolean
---@param wait? number  seconds that the service asks for
---@return any goes_on
function Submission:not_created(part, what, message, code, certain, wait)
  if certain and not self:record(part, { event = "refused", what = what, reason = message }) then return false end
  local passes = self.waits and self.api.reached
  if passes and OF_SERVICE[code] then
    part.faults = (part.faults or 0) + 1
    passes = part.faults <= failed_batch.MAX_TRIES
  end
  if passes and (OF_SERVICE[code] or OF_NETWORK[code]) then
    part.outages = (part.outages or 0) + 1
    return self.queue:put_back(part, message, wait or self.queue:pause_before(part.outages))
  elseif code == "STORAGE" and self.delete_remote and self.waits and self.in_flight > 0 then
    return self.queue:put_back(part, message, self.queue:pause_before(1), true)
  elseif certain and code == "REFUSED" and self.store.withdraw then
    self:delete_input(part.file_id)
    local ok, problem, reason = self.store:withdraw(part)
    if not ok then return self:stop(problem, reason, true) end
    message = message .. ". Its images are free to be sent again, by other options"
  end
  return self:stop(message, code)
end

--- Deletes an uploaded file that no batch will use, where deleting is asked for. If that fails, it expires.
---@param id string
function Submission:delete_input(id)
  if self.delete_remote and id then self.api:delete_file(id) end
end

--- Whether a part's request file is what was planned. Where it is not, nothing of it has left this machine, and
--- its requests are taken back.
---@param part table
---@return boolean
function Submission:is_as_planned(part)
  local path = self.store:request_path(part)
  local is_it, message, code = nil, nil, "ENOENT"
  if path and part.written and fs.state(path) == part.written then return true end
  if path then is_it, message, code = part_events.is_known(path, part) end
  if is_it then return true end
  if is_it == nil and code ~= "ENOENT" then return self:stop(message, code, true) end
  local what = ("part %d: %s is %s"):format(part.part, path or part.file,
    is_it == false and "not what was planned" or "gone")
  if part.upload_doubt then
    return self:stop(what .. ", and may have been uploaded before it changed: put it back as it was", "CHANGED", true)
  end
  self.log(what .. "; its requests are written anew")
  local ok, problem, reason = self.store:take_back(part)
  if not ok then self:stop(problem, reason, true) end
  return false
end

---@param part table
---@return any goes_on
function Submission:upload(part)
  if not self:is_as_planned(part) then return false end
  local doubt = part.upload_doubt
  if not self:record(part, { event = "intent", what = "upload" }) then return false end
  local file, message, code, certain, wait = self.flight:upload(part, function()
    return self.api:upload(self.store:request_path(part), self.store:upload_name(part), doubt)
  end)
  if not file then return self:not_created(part, "upload", message, code, certain, wait) end
  self.log(("part %d: %d request%s, %d bytes, uploaded as %s"):format(part.part, part.lines,
    part.lines == 1 and "" or "s", part.bytes, file.id))
  return self:record(part, { event = "uploaded", file_id = file.id })
end

---@param part table
---@return any goes_on
function Submission:create(part)
  local doubt = part.create_doubt
  if not self:record(part, { event = "intent", what = "create" }) then return false end
  local batch, message, code, certain, wait = self.api:create_batch(part.file_id, part.endpoint, self.store:tag(part),
    doubt, self.output_expires_after)
  if not batch then
    if code == "NO_FILE" then return failed_batch.requeue(self, part, message, "file") end
    return self:not_created(part, "create", message, code, certain, wait)
  end
  part.queued, part.status, part.outages = nil, nil, nil
  self.log(("part %d: batch %s"):format(part.part, self.api:clean(batch.id)))
  local ok, problem, reason = self.store:created(part, batch)
  return ok or self:stop(problem, reason, true)
end

---@param part table
---@return boolean
function Submission:is_due(part) return not self.stopped and self.queue:is_due(part) end

---@param part table
---@return any goes_on
function Submission:submit(part)
  if self.stopped or not part.file_id and not self:upload(part) then return false end
  -- While this one was uploaded, others may have taken the room.
  if not self:is_due(part) then return false end
  return self.queue:create(part, function() return self:create(part) end)
end

-- ---------------------------------------------------------------- looking and harvesting

--- A batch whose results cannot be had any more: its requests count as missing.
---@param part table
---@param message string
---@return any goes_on
function Submission:give_up_batch(part, message)
  self.log(("%s. It is gone for good; its requests count as missing"):format(message))
  return self:record(part, { event = "downloaded", batch_id = part.batch_id, files = json.array {}, incomplete = true })
end

--- A fault while looking or downloading. Most pass: the next look tries again.
---@param part table
---@param message string
---@param code string
---@param is_told? boolean  by another part
---@return any goes_on
function Submission:trouble(part, message, code, is_told)
  if code == "AUTH" or code == "QUOTA" or code == "INTERRUPTED" then return self:stop(message, code, true) end
  if code:find("^E%u") then return self:stop(message, code, true) end -- the disk, not the network
  if code == "REFUSED" then -- asking again can never help; the other batches are harvested first
    part.lost = true
    return self:stop(message, code)
  end
  -- An outage lasts for many looks; each reason is told once, whatever the request's number or time.
  local reason = message:gsub(" %(request [^)]*%)", ""):gsub("%d+ ms", "")
  if part.trouble ~= reason and not is_told then
    self.log(message .. "; looking again later")
    part.trouble_told = true
  end
  part.trouble = reason
  return false
end

--- `what` of a part (its batch, a file) is not known to the service. Counts the looks; true when it is
--- believed to be gone.
---@param part table
---@param what string
---@return boolean
function Submission:is_gone(part, what) -- luacheck: ignore 212/self
  part.unknown = part.unknown or {}
  local unknown = part.unknown[what] or { looks = 0, since = term.clock() }
  part.unknown[what], unknown.looks = unknown, unknown.looks + 1
  return unknown.looks >= MAX_LOOKS and term.clock() - unknown.since >= GONE_AFTER
end

--- A string from a reply; nil for anything else, and for the empty one.
local function word(value) return type(value) == "string" and value ~= "" and value or nil end

--- The tokens that the service has counted for a batch; nil where it does not say.
local function usage_of(batch)
  local usage = type(batch.usage) == "table" and batch.usage or {}
  local function count(value) return math.type(value) and math.tointeger(value) end
  local tokens_in, tokens_out = count(usage.input_tokens), count(usage.output_tokens)
  return tokens_in and tokens_out and { input_tokens = tokens_in, output_tokens = tokens_out } or nil
end

--- Whether a batch that has ended counts answers but names no output file yet. The counts are not to be
--- trusted, so that is waited for only so long; but answers that are paid for are worth some looks.
---@param part table
---@param batch table
---@return boolean
function Submission:output_is_late(part, batch)
  local answered = part.counts and math.tointeger(part.counts.completed) or 0
  if answered == 0 or word(batch.output_file_id) then return false end
  part.late_looks = (part.late_looks or 0) + 1
  if part.late_looks == 1 then
    self.log(("batch %s: %s, but it names no output file yet; looking again"):format(part.batch_id, part.status))
  end
  return part.late_looks < MAX_LOOKS
end

--- A batch that the service does not know. A key of another project looks the same, and giving the batch up
--- then would be paying twice: it counts as gone only when the service knows something else of ours.
---@param part table
---@param message string
---@param code string
---@return any goes_on
function Submission:not_found(part, message, code)
  local files = self.store.kept_results and self.store:kept_results(part)
  if files then return self:record(part, { event = "downloaded", batch_id = part.batch_id, files = files }) end
  if not self:is_gone(part, "batch") then return self:trouble(part, message, code) end
  local is_ours = self.knows_us or part.file_id and self.api:file(part.file_id) ~= nil
  if not self.store.withdraw and (is_ours or self.gone_batches == "resend") then
    return self:give_up_batch(part, message)
  end
  part.lost = true
  local remedy = self.store.withdraw
    and "move its record to the completed ones: its images are then free to be sent again"
    or 'the rule policy.gone_batches = "resend" gives it up'
  return self:stop(("%s. Is this the key, the project and the address it was sent with? When it is really gone, %s")
    :format(message, remedy), code)
end

--- Looks at all batches that are in flight with one request, where that is less than one for each. What the
--- listing does not show, or shows as ended, is then asked for by itself.
---@return boolean goes_on  false when the service is out of reach: then nobody need ask again
function Submission:look_at_all()
  local ids, parts = {}, {}
  for _, part in ipairs(self.store.parts) do
    if is_flying(part) and not part.ended then ids[#ids + 1], parts[#parts + 1] = part.batch_id, part end
  end
  self.seen = {}
  if #ids < 2 or self.no_listing then return true end
  local seen, message, code = self.api:batches(ids)
  if seen then
    self.seen = seen
    return true
  end
  -- Some compatible servers have no listing, and one may fail by itself: a single batch tells.
  self.no_listing = code == "NOT_FOUND" or code == "REFUSED" or code == "PROTOCOL"
  local final = code == "AUTH" or code == "QUOTA" or code == "INTERRUPTED"
  if self.no_listing or not final and self.api:batch(ids[1], true) then return true end
  for _, part in ipairs(parts) do self:trouble(part, message, code, part ~= parts[1]) end
  return false
end

--- The batch of a part as it is now.
---@param part table
---@return table|nil batch
---@return string|nil message
---@return string|nil code
function Submission:batch_of(part)
  local seen = self.seen[part.batch_id]
  if seen and type(seen.status) == "string" and not TERMINAL[seen.status:lower()] then return seen end
  return self.api:batch(part.batch_id, true)
end

---@param part table
---@return any goes_on
function Submission:look(part)
  local batch, message, code = self:batch_of(part)
  if not batch and code == "NOT_FOUND" then return self:not_found(part, message, code) end
  if batch and batch.id ~= nil and batch.id ~= part.batch_id then
    -- What another batch has come to is not ours: to believe it would be to pay for our requests again.
    batch, message, code = nil, ("batch %s: the reply is about another one"):format(part.batch_id), "PROTOCOL"
  elseif batch and type(batch.status) ~= "string" then
    batch, message, code = nil, ("batch %s: the reply holds no status"):format(part.batch_id), "PROTOCOL"
  end
  if not batch then return self:trouble(part, message, code) end
  local status = batch.status:lower()
  if part.trouble_told then self.log(("batch %s: within reach again"):format(part.batch_id)) end
  part.unknown, part.trouble, part.trouble_told = nil, nil, nil
  part.status, part.seen = self.api:clean(status), batch
  self.knows_us = true
  part.counts = type(batch.request_counts) == "table" and batch.request_counts or nil
  if not TERMINAL[status] then return true end

  if status ~= "failed" and self:output_is_late(part, batch) then return true end
  self.log(("batch %s: %s"):format(part.batch_id, status))
  if status == "failed" and not part.adopted then return failed_batch.settle(self, part, batch) end
  if status == "failed" then
    local why = failed_batch.describe_all(failed_batch.list(batch, function(words) return self.api:clean(words) end))
    return self:give_up_batch(part, ("batch %s failed validation: %s"):format(part.batch_id, why))
  end
  self.queue:batch_ended()
  return self:record(part, { event = "terminal", batch_id = part.batch_id, status = status, usage = usage_of(batch),
    failed = part.counts and math.tointeger(part.counts.failed) or nil,
    output_file_id = word(batch.output_file_id), error_file_id = word(batch.error_file_id) })
end

--- Deletes what a part that is done has at the service: the file that we have uploaded and those that its batch
--- produced. A result that may not be all there is stays.
---@param part table
---@return boolean ok
function Submission:delete_files(part)
  part.delete_tried = true
  local ended = part.ended or {}
  local ids = { not part.adopted and part.file_id or nil }
  ids[#ids + 1] = ended.output_file_id
  ids[#ids + 1] = ended.error_file_id
  for _, id in ipairs(part.incomplete and {} or ids) do
    local ok, message, code = self.api:delete_file(id)
    if not ok and code ~= "NOT_FOUND" then
      self.log(("%s; the next run tries again"):format(message))
      return false
    end
  end
  return self:record(part, { event = "deleted" })
end

---@param part table
function Submission:harvest(part)
  if not part.ended and not self:look(part) then return end
  if part.ended and not part.done then downloads.take(self, part) end
end

-- ---------------------------------------------------------------- the loop

--- Calls act(self, part) for the parts that `choose` picks, several at once.
---@param choose fun(part: table): any
---@param act fun(self: table, part: table)
---@param most? integer  the first ones
---@return integer count
function Submission:each(choose, act, most)
  local list = {}
  for _, part in ipairs(self.store.parts) do
    if #list < (most or math.huge) and choose(self, part) then list[#list + 1] = function() act(self, part) end end
  end
  tasks.run(self.api.client, list, AT_ONCE, function(...)
    self.flight:watch(...)
    self.stage:update()
  end)
  return #list
end

---@return integer in_flight
---@return integer left
function Submission:count_in_flight()
  local in_flight, left = 0, 0
  for _, part in ipairs(self.store.parts) do
    if is_flying(part) then in_flight = in_flight + 1 end
    if not part.done then left = left + 1 end
  end
  self.in_flight = in_flight
  return in_flight, left
end

local function new(store, api, settings)
  -- A listing may be late: a doubt must not be settled with a batch that has failed before.
  for _, part in ipairs(store.parts) do
    for _, id in ipairs(part.former_ids or {}) do api.known[id] = true end
  end
  local watched = flight.new(store)
  return setmetatable({ store = store, api = api, poll_wait = settings.poll_wait, log = settings.log,
    on_done = settings.on_done, gone_batches = settings.gone_batches,
    delete_remote = settings.delete_remote, output_expires_after = settings.output_expires_after,
    queue = queue.new(store, settings.poll_wait or 0, settings.log), in_flight = 0, seen = {}, flight = watched,
    stage = progress.stage(store.title, { unit = "requests", scope = store.title:find "^iteration"
      and " in this iteration", facts = function() return watched:facts() end }),
  }, Submission)
end

function Submission:delete_all_files()
  if not self.delete_remote or self.stopped and self.stopped.at_once then return end
  self:each(function(_, part) return part.done and not part.deleted and not part.delete_tried end, self.delete_files)
end

--- Deletes what the parts of a store that are done still have at the service, where settings.delete_remote asks for
--- that. What cannot be deleted now is left for the next run.
---@param store table
---@param api table
---@param settings obatch.submission.Settings
function submission.delete_files(store, api, settings) new(store, api, settings):delete_all_files() end

--- Hands each part that is done to `on_done`, once; what that returns but true ends the run.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Submission:deliver()
  self:delete_all_files()
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
--- at the moment is left for the next run.
---@param store table
---@param api table
---@param settings obatch.submission.Settings
---@return true|nil ok
---@return string|nil message  submitting had to stop
---@return string|nil code
function submission.submit(store, api, settings)
  local self = new(store, api, settings)
  self:each(self.is_due, self.submit)
  if self.stopped then return nil, self.stopped.message, self.stopped.code end
  return true
end

--- Looks at what is in flight, and takes in what has ended. Returns what deliver() does.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Submission:look_round()
  if not (self.stopped and self.stopped.at_once) and self:look_at_all() then
    self:each(function(_, part) return is_flying(part) end, self.harvest)
    self.flight.looked_at = term.clock()
  end
  return self:deliver()
end

---@class obatch.submission.Settings
---@field poll_wait number     seconds at most between two looks
---@field log fun(line: string)
---@field on_done? fun(part: table): true?, string?, string?  hears of each part that is done
---@field once? boolean        one look at every batch, no waiting
---@field gone_batches? "stop"|"resend"  see obatch.policy
---@field delete_remote? boolean   delete at the service what is here
---@field output_expires_after? integer  seconds after which the service deletes results

--- Brings every part of a store to the point where it is done. Fails when submitting had to stop before (what was in
--- flight has been harvested all the same, except after INTERRUPTED, AUTH and faults of the disk).
---@param store table
---@param api table
---@param settings obatch.submission.Settings
---@return true|nil ok
---@return { message: string, code: string }|string|nil stop  nothing more may be submitted after it; else the message
---@return string|nil code
function submission.run(store, api, settings)
  local self = new(store, api, settings)
  self.waits = not settings.once
  if not downloads.verify(self) then return nil, self.stopped.message, self.stopped.code end
  local pause, next_look = math.min(FIRST_PAUSE, self.poll_wait), 0
  while true do
    self:count_in_flight()
    local submitted = self:each(self.is_due, self.submit, AT_A_TIME)
    if submitted < AT_A_TIME or term.clock() >= next_look then
      local delivered, complaint, reason = self:look_round()
      if not delivered then return nil, complaint, reason end
      next_look = term.clock() + pause
    end
    local in_flight, left = self:count_in_flight()
    if left == 0 then return true, self.stopped end
    if term.interrupted() then return nil, "interrupted", "INTERRUPTED" end
    if self.stopped and (self.stopped.at_once or in_flight == 0 or settings.once) then
      return nil, self.stopped.message, self.stopped.code
    end
    self.stage:update()
    if submitted < AT_A_TIME then
      if settings.once then return true end
      local ok, message, code = progress.sleep(math.max(0.1, pause))
      if not ok then return nil, message, code end
      pause = math.min(pause * 1.5, self.poll_wait)
    end
  end
end

--- Adds the options of commands that submit.
---@param parser table
---@param harvests? boolean  those of commands that also fetch results, too
function submission.options(parser, harvests)
  parser:option("--output-expires-after", "Have the service delete results so many seconds after they are there.")
    :argname("SECONDS"):convert(function(text)
      local seconds, message = cli.positive_integer(text)
      if seconds and (seconds < 3600 or seconds > 2592000) then
        return nil, ("'%s' is not from 3600 (an hour) to 2592000 (30 days)"):format(text)
      end
      return seconds, message
    end)
  if harvests then
    parser:flag("--delete-remote-files", "Delete the files of a batch at the service once its results are safe here.")
  end
end

return submission
