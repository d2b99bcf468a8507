--- A job directory: plain files, a lock, and a journal that says what has happened.
--
--   BASE/journal.jsonl                 events, see `apply` below
--   BASE/lock                          one process at a time
--   BASE/iteration_N/                  what was sent and what came back, see Job:file
--
-- The state in memory is nothing but the journal replayed: every change is an event that is first
-- made durable and then applied, by the same code that replays it after a restart.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local journal = require "obatch.journal"
local meter = require "obatch.meter"
local part_events = require "obatch.part"
local text = require "obatch.text"

local job = {}

--- The request file is known by the digests of its pieces, in their order. They are those of the first iteration's
--- parts where these hold the whole file, so that no byte of it is hashed twice.
---@class obatch.job.Piece
---@field bytes integer
---@field fingerprint? string
---@field sha256? string       in older journals

---@class obatch.Job
---@field dir string
---@field run string
---@field original { path: string, absolute?: string, bytes: integer, sha256?: string, pieces?: obatch.job.Piece[] }
---@field iterations table[]
---@field meter obatch.Meter
local Job = {}
Job.__index = Job

-- ---------------------------------------------------------------- names

--- A part of an iteration's requests becomes one batch. Parts are numbered from 1; where there is
--- only one, its file carries no number.
local function requests_name(iteration, part)
  return ("batch_requests_iteration_%d%s.jsonl"):format(iteration, part and ("_p%03d"):format(part) or "")
end

--- BASE/iteration_N/NAME, where each %d in NAME is N.
---@param iteration integer
---@param name string
---@return string path
function Job:path(iteration, name)
  return ("%s/iteration_%d/%s"):format(self.dir, iteration, (name:gsub("%%d", tostring(iteration))))
end

---@param iteration integer
---@return string path
function Job:ids_path(iteration) return self:path(iteration, "submitted_batch_ids_iteration_%d.txt") end

---@param iteration integer
---@return string path
function Job:merged_path(iteration) return self:path(iteration, "merged_results_iteration_%d.jsonl") end

-- ---------------------------------------------------------------- events

--- What each event changes: those of a job here, those of a part in obatch.part. An iteration is
--- { n=, parts={...}, merged=, cut= }. `cut` says why requests were kept out of it: "SPENT", the budget was, or
--- "OVER", they alone take more than the whole of it.
local apply = {}

function apply.started(self, event)
  self.run, self.original = event.run, event.original
end

function apply.planned(self, event)
  self.original.pieces = event.pieces or self.original.pieces
  self.iterations[event.iteration] = { n = event.iteration, parts = event.parts, cut = event.cut }
end

function apply.adopted(self, event)
  self.original.pieces = event.pieces or self.original.pieces
  local parts = {}
  for i, batch_id in ipairs(event.batch_ids) do parts[i] = { part = i, adopted = true, batch_id = batch_id } end
  self.iterations[event.iteration] = { n = event.iteration, parts = parts }
end

function apply.merged(self, event)
  self.iterations[event.iteration].merged = true
end

local function apply_event(self, event)
  if apply[event.event] then return apply[event.event](self, event) end
  local iteration = self.iterations[event.iteration]
  local part = iteration.parts[event.part]
  self.meter:apply(part, event)
  part_events.apply(part, event)
  for _, successor in ipairs(event.successors or { event.successor }) do table.insert(iteration.parts, successor) end
  if event.event == "dropped" then iteration.cut = "SPENT" end
end

--- Makes an event durable, then applies it. After a failure, what the event speaks of must not be built upon.
---@param event table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:record(event)
  local ok, message, code = self.journal:record(event)
  if not ok then return nil, message, code end
  apply_event(self, event)
  return true
end

-- ---------------------------------------------------------------- opening

--- Removes what a write that was cut off has left. The job's own folder may hold files of the user.
local function remove_parts(self)
  for _, name in ipairs { "journal.jsonl", "final_results.jsonl", "corrected_results.json",
    "corrected_results_steps.jsonl", "given_up.jsonl", "final_correction_log.txt", "decisions.jsonl" } do
    fs.remove(("%s/%s.part"):format(self.dir, name))
  end
  for n, iteration in ipairs(self.iterations) do
    local folder = self:path(n, "")
    for _, name in ipairs(fs.list(folder) or {}) do
      if name:find("%.part$") then fs.remove(folder .. name) end
    end
    for _, part in ipairs(iteration.parts) do
      if part.is_empty then fs.remove(folder .. part.file) end
    end
  end
end

local function new(dir)
  local self = setmetatable({ dir = dir, iterations = {} }, Job)
  self.meter = meter.new(function()
    local last = self.iterations[#self.iterations]
    return last and last.parts or {}
  end)
  return self
end

--- A job as its journal tells it, to be looked at only: no lock, and nothing is written.
---@param dir string
---@return obatch.Job|nil job
---@return string|nil message
---@return string|nil code
function job.read(dir)
  local events, message, code = journal.read(dir .. "/journal.jsonl")
  if not events then return nil, message, code end
  local self = new(dir)
  for _, event in ipairs(events) do apply_event(self, event) end
  return self
end

--- Whether a file is the request file that a job knows: by its pieces, or by the digest of the whole that older
--- journals have. Before anything was planned there is none: then the size decides.
---@param path string
---@param known { bytes: integer, sha256?: string, pieces?: obatch.job.Piece[] }  Job.original
---@return boolean|nil is_it
---@return string|nil message
---@return string|nil code
function job.is_original(path, known)
  if known.sha256 then return part_events.is_known(path, known) end
  local offset = 0
  for _, piece in ipairs(known.pieces or {}) do
    local is_it, message, code = part_events.is_known(path, piece, offset, piece.bytes)
    if not is_it then return is_it, message, code end
    offset = offset + piece.bytes
  end
  local stat, message, code = fs.stat(path)
  if not stat then return nil, message, code end
  return stat.size == (known.pieces and offset or known.bytes)
end

--- Whether the request file is still the one that was read. Else the job would be bound to another one than it sends.
local function is_in_place(original, index)
  local ok, message, code = index:check_path()
  if code == "CHANGED" then
    message = ("%s was replaced, changed or touched while it was read. Nothing was sent since then, and nothing is "
      .. "lost: see that it is the right file, and run the same command again"):format(original)
  end
  return ok, message, code
end

--- Opens, and creates where it is missing, a job. It knows its request file and refuses another one.
---@param dir string
---@param original string  the request file
---@param index? obatch.jsonl.Index  of it, where it was read before: refused when it was replaced meanwhile
---@return obatch.Job|nil job
---@return string|nil message
---@return string|nil code  "LOCKED", "CHANGED", or what the disk says
function job.open(dir, original, index)
  local ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  local lock
  lock, message, code = fs.lock(dir .. "/lock")
  if code == "LOCKED" then message = ("%s is in use: %s"):format(dir, message) end
  if not lock then return nil, message, code end

  local self = new(dir)
  self.lock = lock
  local events
  self.journal, events, code = journal.open(dir .. "/journal.jsonl")
  if not self.journal then
    self:close()
    return nil, events, code
  end
  for _, event in ipairs(events) do apply_event(self, event) end
  for n in ipairs(self.iterations) do
    ok, message, code = self:make_folder(n)
    if not ok then
      self:close()
      return nil, message, code
    end
  end
  remove_parts(self)
  -- The last run may have stopped between a batch's event and its line in the list for people.
  if #self.iterations > 0 then
    ok, message, code = self:list_batches(#self.iterations)
    if not ok then
      self:close()
      return nil, message, code
    end
  end

  local stat, is_original
  stat, message, code = fs.stat(original)
  ok = stat ~= nil
  self.original_path = original
  if ok and self.run then
    is_original, message, code = job.is_original(original, self.original)
    ok = is_original
    if is_original == false then
      message = ("%s is not the file this job was started with (its content has changed since). "
        .. "Put the old content back to go on, or give the new file a --base-dir of its own"):format(original)
      code = "CHANGED"
    end
  end
  if ok and index then ok, message, code = is_in_place(original, index) end
  if ok and not self.run then
    ok, message, code = self:record { event = "started", run = fs.random(6),
      original = { path = text.printable(original), absolute = text.printable(fs.absolute(original) or original),
        bytes = stat.size } }
  end
  if not ok then
    self:close()
    return nil, message, code
  end
  return self
end

--- Whether the request file is what was indexed. One that was only touched is: its content is compared with what the
--- job knows it by, where it knows that. For before it is read: what was read already may have been something else.
---@param index obatch.jsonl.Index
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "CHANGED", or what the disk says
function Job:check(index)
  local ok, message, code = index:check()
  local path, known = self.original_path, self.original
  if code ~= "CHANGED" or not path or not (known.pieces or known.sha256) then return ok, message, code end
  return index:renew(function() return job.is_original(path, known) end)
end

function Job:close()
  if self.journal then self.journal:close() end
  self.lock:close()
end
Job.__close = Job.close

-- ---------------------------------------------------------------- what is sent

--- Makes the folder of iteration n, and makes sure that it is one: a link would lead out of the job.
---@param n integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:make_folder(n)
  local folder = self:path(n, ""):gsub("/$", "")
  local stat = fs.lstat(folder)
  if stat and stat.type == "link" then
    return nil, ("%s is a link, and a job's folders are its own: remove it"):format(folder), "LINK"
  end
  return fs.mkdir(folder)
end

--- The pieces of the request file, to be known by, where they are not known yet: the parts of its first iteration, if
--- these are the file from its beginning to its end, else all of it.
---@param copied { from: integer?, to: integer?, fingerprint: string }[]  which bytes of it each part is; nil: none
---@param index? obatch.jsonl.Index  of it, as it was read
---@return true|nil ok
---@return obatch.job.Piece[]|string|nil pieces  nil when they are known; after a failure, the message
---@return string|nil code
function Job:pieces(copied, index)
  local original, pieces, at = self.original, json.array {}, 0
  if original.sha256 or original.pieces then return true end
  for i, piece in ipairs(copied) do
    if piece.from ~= at then break end
    pieces[i], at = { bytes = piece.to - at, fingerprint = piece.fingerprint }, piece.to
  end
  if #pieces == #copied and #pieces > 0 and at == original.bytes then return true, pieces end
  local fingerprint, bytes, code = fs.fingerprint(self.original_path)
  if not fingerprint then return nil, bytes, code end
  if index then
    local ok, message, reason = is_in_place(self.original_path, index)
    if not ok then return nil, message, reason end
  end
  return true, json.array { { bytes = bytes, fingerprint = fingerprint } }
end

--- Takes over batches that were submitted elsewhere as iteration n.
---@param n integer
---@param batch_ids string[]
---@param index? obatch.jsonl.Index  of the original file
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:adopt(n, batch_ids, index)
  local ok, message, code = self:make_folder(n)
  if not ok then return nil, message, code end
  local pieces
  ok, pieces, code = self:pieces({}, index)
  if not ok then return nil, pieces, code end
  -- What another tool merged may be all that is left of results the service no longer has.
  local merged = self:merged_path(n)
  if fs.stat(merged) then
    ok, message, code = fs.rename(merged, merged .. ".before")
    if not ok then return nil, message, code end
  end
  ok, message, code = fs.write(self:ids_path(n), table.concat(batch_ids, "\n") .. "\n")
  if not ok then return nil, message, code end
  return self:record { event = "adopted", iteration = n, batch_ids = json.array(batch_ids), pieces = pieces }
end

--- Whether nothing of iteration n has reached the service, so that it may as well be planned anew.
---@param n integer
---@return boolean
function Job:is_untouched(n)
  for _, part in ipairs(self.iterations[n].parts) do
    if not part_events.is_untouched(part) then return false end
  end
  return true
end

--- Takes a part of iteration n back whose batch was never created: its requests are planned again in a later
--- iteration.
---@param n integer
---@param part table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:drop(n, part)
  local ok, message, code = self:record { event = "dropped", iteration = n, part = part.part }
  if not ok then return nil, message, code end
  return fs.remove(self:path(n, part.file))
end

--- Writes the request files of iteration n: each model and endpoint gets files of its own, cut at `max_requests` lines
--- and `max_bytes` bytes, and where more tokens could never be enqueued. `requests` yields what is to be sent (a line,
--- or the ordinal of one in `index` that is sent as it stands), its url, model, and estimates of the tokens in and out.
---@param n integer
---@param requests fun(): string|integer|nil, string?, string?, integer?, integer?
---@param max_requests integer
---@param max_bytes integer
---@param index? obatch.jsonl.Index  of the original file
---@param why_cut? fun(): string?  whether a budget has kept requests out: "SPENT" or "OVER"
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:plan(n, requests, max_requests, max_bytes, index, why_cut)
  local folder = self:path(n, "")
  local ok, message, code = self:make_folder(n)
  if not ok then return nil, message, code end
  for _, name in ipairs(fs.list(folder) or {}) do
    if name:find("^batch_requests_iteration_") then fs.remove(folder .. name) end
  end

  local parts, open, copied = json.array {}, {}, {}
  local _ <close> = setmetatable({}, { __close = function()
    for _, group in pairs(open) do group.writer:close() end
  end })
  local function begin(url, model)
    local part = { part = #parts + 1, file = requests_name(n, #parts + 1), endpoint = url, model = model,
      tokens_in = 0, tokens_out = 0 }
    parts[#parts + 1] = part
    local limits = { max_lines = max_requests, max_bytes = max_bytes, fingerprint = true }
    local writer, problem, reason = jsonl.create(folder .. part.file, limits)
    if not writer then return nil, problem, reason end
    return { part = part, writer = writer, copied = {} }
  end
  local function finish(group)
    local facts, problem, reason = group.writer:commit()
    if not facts then return nil, problem, reason end
    group.part.lines, group.part.bytes, group.part.fingerprint = facts.lines, facts.bytes, facts.fingerprint
    copied[group.part.part], group.copied.fingerprint = group.copied, facts.fingerprint
    return true
  end

  local function is_enough(part, tokens)
    local limit = self.meter.limits[part.model]
    return limit and part.tokens_in > 0 and (part.tokens_in + tokens) * self.meter:enqueuing_factor(part.model) > limit
  end

  -- Lines that stand one after the other in the original file, each with a newline, are the same bytes in the part.
  local function add(group, what)
    local writer, span, from, length = group.writer, group.copied, nil, 0
    if type(what) == "number" then from, length = index:at(what) end
    local is_next = writer.lines == 0 or from and span.to == from
    local done, problem, reason
    if from then done, problem, reason = writer:copy(index, what) else done, problem, reason = writer:raw(what) end
    if not done then return nil, problem, reason end
    if writer.lines == 1 then span.from = from elseif not is_next then span.from = nil end
    span.to = from and from + length + 1
    return true
  end

  for what, url, model, tokens_in, tokens_out in requests do
    local key = url .. "\0" .. model
    local group = open[key]
    if group and not is_enough(group.part, tokens_in or 0) then
      ok, message, code = add(group, what)
    else
      ok, code = false, "FULL"
    end
    if code == "FULL" then
      if group then ok, message, code = finish(group) end
      if group and not ok then return nil, message, code end
      group, message, code = begin(url, model)
      open[key] = group
      if not group then return nil, message, code end
      ok, message, code = add(group, what)
    end
    if not ok then return nil, message, code end
    group.part.tokens_in = group.part.tokens_in + (tokens_in or 0)
    group.part.tokens_out = group.part.tokens_out + (tokens_out or 0)
  end
  if index then ok, message, code = index:check() end -- a line that the policy has changed is no copy, but from there
  if not ok then return nil, message, code end
  for key, group in pairs(open) do
    ok, message, code = finish(group)
    if not ok then return nil, message, code end
    open[key] = nil
  end

  if #parts == 1 then
    local name = requests_name(n)
    ok, message, code = fs.rename(folder .. parts[1].file, folder .. name)
    if not ok then return nil, message, code end
    parts[1].file = name
  end
  local pieces
  ok, pieces, code = self:pieces(copied, index)
  if not ok then return nil, pieces, code end
  ok, message, code = self:record { event = "planned", iteration = n, parts = parts, pieces = pieces,
    cut = why_cut and why_cut() or nil }
  if not ok then return nil, message, code end
  for _, part in ipairs(parts) do part.written = fs.state(folder .. part.file) end
  return true
end

--- Writes the ids of iteration n's batches where people, and other tools, look for them.
---@param n integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:list_batches(n)
  local ids = {}
  for _, part in ipairs(self.iterations[n].parts) do ids[#ids + 1] = part.batch_id end
  if #ids == 0 then return true end
  return fs.write(self:ids_path(n), table.concat(ids, "\n") .. "\n")
end

-- ---------------------------------------------------------------- one iteration, as obatch.submission sees it

local Round = {}
Round.__index = Round

--- Iteration n as a set of parts to bring through the service.
---@param n integer
---@return table round  a store for obatch.submission
function Job:round(n)
  return setmetatable({ job = self, n = n, parts = self.iterations[n].parts, meter = self.meter,
    title = "iteration " .. n, rest = "what it does not name is sent again" }, Round)
end

--- Makes an event of a part durable, then applies it.
---@param part table
---@param event table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Round:record(part, event)
  event.iteration, event.part = self.n, part.part
  return self.job:record(event)
end

---@param part table
---@return string path
function Round:request_path(part) return self.job:path(self.n, part.file) end

---@param part table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Round:take_back(part) return self.job:drop(self.n, part) end

--- A part's requests become new parts of the same iteration.
---@param part table
---@param pieces integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Round:split(part, pieces)
  local path = self:request_path(part)
  local successors, message, code = part_events.split_file(path, part, pieces, function(number)
    return self.job:path(self.n, requests_name(self.n, #self.parts + number)), #self.parts + number
  end)
  if not successors then return nil, message, code end
  local ok
  ok, message, code = self:record(part, { event = "split", batch_id = part.batch_id, successors = successors })
  if not ok then return nil, message, code end
  return fs.remove(path)
end

--- The name of the part's file at the service. It is unique to the content: it is how the file is
--- found again when the reply is lost.
---@param part table
---@return string name
function Round:upload_name(part)
  return ("%s-%d-%d-%s.jsonl"):format(self.job.run, self.n, part.part, part_events.short_digest(part))
end

--- The metadata of the part's batch, by which it is found again.
---@param part table
---@return table<string, string> tag
function Round:tag(part)
  return { obatch_run = self.job.run, obatch_iteration = tostring(self.n), obatch_part = tostring(part.part) }
end

--- Notes that a part's batch exists.
---@param part table
---@param batch table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Round:created(part, batch)
  local ok, message, code = self:record(part, { event = "created", batch_id = batch.id })
  if not ok then return nil, message, code end
  return self.job:list_batches(self.n)
end

--- Where the lines of a batch's output or error file are kept as they came.
---@param part table
---@param kind "output"|"error"
---@return string path
function Round:download_path(part, kind)
  return self.job:path(self.n, part_events.file_name(part.batch_id) .. "_" .. kind .. ".jsonl")
end

--- A part whose batch failed validation for some lines: those become result-like lines that say so, the rest is
--- a new part of the same iteration.
---@param part table
---@param faults table<integer, { code?: string, message: string }>  by line number; key 0 stands for all lines
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Round:reject(part, faults)
  local n, model_refused = self.n, nil
  local name = ("rejected_iteration_%d_p%03d.jsonl"):format(n, part.part)
  local number = #self.parts + 1
  local file = requests_name(n, number)
  local records, message, code = jsonl.scan(self.job:path(n, part.file), { custom_id = "/custom_id" })
  if not records then return nil, message, code end
  local rejected <close>, trouble, errno = jsonl.create(self.job:path(n, name),
    { max_lines = part.lines, max_bytes = math.maxinteger })
  if not rejected then return nil, trouble, errno end
  local kept <close>, problem, reason = jsonl.create(self.job:path(n, file),
    { max_lines = part.lines, max_bytes = part.bytes, fingerprint = true })
  if not kept then return nil, problem, reason end

  for record in records do
    local fault, ok = faults[record.number] or faults[0]
    if fault then
      model_refused = model_refused or fault.code == "model_not_found" or nil
      ok, problem, reason = rejected:put { custom_id = record.custom_id, error = json.null,
        response = { status_code = 400, body = { error = fault } } }
    else
      ok, problem, reason = kept:raw(record.text)
    end
    if not ok then return nil, problem, reason end
  end
  local facts, successor
  facts, problem, reason = rejected:commit()
  if not facts then return nil, problem, reason end
  if kept.lines > 0 then
    facts, problem, reason = kept:commit()
    if not facts then return nil, problem, reason end
    successor = part_events.successor(part, number, file, facts)
    successor.model_refused = model_refused
  end
  return self:record(part, { event = "rejected", batch_id = part.batch_id, file = name, successor = successor })
end

-- ---------------------------------------------------------------- what came back

--- Puts all that was downloaded in iteration n into merged_results, every line as it was received.
---@param n integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:merge(n)
  local out <close>, message, code = fs.create(self:merged_path(n), { fingerprint = true })
  if not out then return nil, message, code end
  for _, part in ipairs(self.iterations[n].parts) do
    for _, name in ipairs(part.files or {}) do
      local bytes, whole, errno = out:copy(self:path(n, name))
      local ok, trouble = bytes, whole
      if bytes and not whole then ok, trouble, errno = out:write("\n") end
      if not ok then return nil, trouble, errno end
    end
  end
  local facts
  facts, message, code = out:commit()
  if not facts then return nil, message, code end
  return self:record { event = "merged", iteration = n, bytes = facts.bytes,
    fingerprint = facts.fingerprint }
end

--- Adds a line to the log of iteration n.
---@param n integer
---@param line string
function Job:log(n, line)
  local file <close> = fs.append(self:path(n, "correction_log.txt"), "later")
  if file then file:write(os.date("%Y-%m-%d %H:%M:%S ") .. text.shown(line) .. "\n") end
end

return job
