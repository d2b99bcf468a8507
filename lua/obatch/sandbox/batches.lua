--- The sandbox's batches: creation, the life of each one, and its results.
--
-- The life of a batch is one coroutine that reads like the status machine. It yields whenever it has
-- done a little (the server then looks after its clients) or has to wait; what it has paid is in the
-- ledger, so that a restarted sandbox runs it again from its status without paying twice.

local answers = require "obatch.sandbox.answers"
local files = require "obatch.sandbox.files"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local ledger = require "obatch.sandbox.ledger"
local store = require "obatch.sandbox.store"
local term = require "obatch.term"
local validation = require "obatch.sandbox.validation"

local WINDOW = 86400

-- How many batches may wait for the model's answer at a time: each one holds a request, which may be
-- tens of megabytes of image.
local MOST_ASKING = 2

-- How much of --batch-seconds a batch spends in each status.
local shares = { validating = 0.2, in_progress = 0.6, finalizing = 0.2, cancelling = 0.2 }

local terminal = { completed = true, failed = true, expired = true, cancelled = true }

local Batches = {}
Batches.__index = Batches

local batches = {}

---@class obatch.sandbox.BatchOptions
---@field model function
---@field batch_seconds number
---@field null_ids? "null"|"empty"|"absent"
---@field max_errors? integer
---@field models? table<string, boolean>  nil: any
---@field skip_blank? boolean
---@field no_cancelled_lines? boolean

---@param dir string
---@param file_store table
---@param faults table
---@param options obatch.sandbox.BatchOptions
---@return table batches
function batches.open(dir, file_store, faults, options)
  local self = setmetatable({
    files = file_store, faults = faults, options = options, tasks = {}, store = store.open(dir .. "/batches"),
    asking = 0,
  }, Batches)
  self.ledger = ledger.open(dir .. "/ledger.jsonl", function(id)
    local record = self.store:get(id)
    return record ~= nil and not terminal[record.object.status]
  end)
  for _, record in ipairs(self.store.order) do
    if not terminal[record.object.status] then self:start(record) end
  end
  return self
end

--- What the API shows of a batch.
---@param record table
---@return table object
function Batches:view(record)
  local object = {}
  for name, value in pairs(record.object) do object[name] = value end
  local kind = record.fault["empty-ids"] and "empty" or self.options.null_ids
  for _, name in ipairs { "output_file_id", "error_file_id" } do
    if object[name] == json.null and kind ~= "null" then object[name] = kind == "empty" and "" or nil end
  end
  return object
end

local function no_usage()
  return {
    input_tokens = 0, input_tokens_details = { cached_tokens = 0 }, output_tokens = 0,
    output_tokens_details = { reasoning_tokens = 0 }, total_tokens = 0,
  }
end

-- When a batch was created.
local function born(record) return record.born or record.object.created_at end

-- What the limit of creations says now: nil, or a problem.
local function too_many(self)
  local most, rule = self.faults:limit("creations")
  if not most then return nil end
  local now, seconds = term.time(), rule.per or 3600
  local nth = self.store.order[#self.store.order + 1 - most] -- when that one is out of the window, there is room
  local wait = most == 0 and seconds or nth and born(nth) + seconds - now or 0
  if wait <= 0 then return nil end
  return { status = 429, code = "rate_limit_exceeded", headers = { ["Retry-After"] = ("%d"):format(math.ceil(wait)) },
    message = ("Rate limit reached for batch creations: limit %d. Please try again in %ds."):format(
      most, math.ceil(wait)) }
end

--- POST /batches
---@param body table
---@return table|nil record
---@return table|nil problem
function Batches:create(body)
  local keep, problem = validation.creation(body)
  if keep == nil then return nil, problem end
  problem = too_many(self)
  if problem then return nil, problem end
  local input = self.files:find(body.input_file_id)
  if not input and self.options.missing_input == "400" then
    return nil, { status = 400, param = "file_id", message = validation.file_not_found(body.input_file_id).message }
  end
  if input and input.object.purpose ~= "batch" then -- (the words are a guess)
    return nil, { status = 400, param = "input_file_id", code = "invalid_value",
      message = ("Invalid value: file %s has the purpose '%s', expected 'batch'.")
        :format(body.input_file_id, input.object.purpose) }
  end
  local now = term.time()
  local created = math.floor(now)
  local fault = self.faults:batch()
  local record = self.store:add {
    born = now, entered = now, fault = fault, input_seen = input ~= nil, keep = keep or nil,
    unlisted_until = fault.unlisted and now + fault.unlisted,
    object = {
      id = "batch_" .. fs.random(16), object = "batch", endpoint = body.endpoint, errors = json.null,
      input_file_id = body.input_file_id, completion_window = body.completion_window, status = "validating",
      output_file_id = json.null, error_file_id = json.null, created_at = created, expires_at = created + WINDOW,
      in_progress_at = json.null, finalizing_at = json.null, completed_at = json.null, failed_at = json.null,
      expired_at = json.null, cancelling_at = json.null, cancelled_at = json.null,
      request_counts = { total = 0, completed = 0, failed = 0 },
      usage = no_usage(),
      metadata = not fault["no-metadata"] and body.metadata or json.null,
    },
  }
  self:start(record)
  return record
end

---@param id string
---@return table|nil record
function Batches:find(id) return self.store:get(id) end

---@param limit integer
---@param after? string  an id
---@return table[]|nil page
---@return boolean|nil more
function Batches:list(limit, after)
  local now = term.time()
  return self.store:page(limit, after, false, function(record) return (record.unlisted_until or 0) <= now end)
end

--- POST /batches/{id}/cancel
---@param record table
---@return table|nil record
---@return table|nil problem
function Batches:cancel(record)
  local status = record.object.status
  if status == "completed" or status == "failed" or status == "expired" then
    return nil, { status = 409, message = ("Cannot cancel a batch with status '%s'."):format(status) }
  end
  if status ~= "cancelled" and status ~= "cancelling" then
    self:enter(record, "cancelling")
    self.tasks[record].due = 0
  end
  return record
end

--- Whether an unfinished batch still needs the bytes of this input file.
---@param file_id string
---@return boolean
function Batches:uses(file_id)
  for record in pairs(self.tasks) do
    if record.object.input_file_id == file_id and record.object.status ~= "validating" then return true end
  end
  return false
end

-- The life of a batch ------------------------------------------------------------------------

---@param record table
function Batches:start(record)
  self.tasks[record] = { due = 0, thread = coroutine.create(function() self:live(record) end) }
end

--- Works on the batches for a while.
---@param budget number  about so many seconds
---@return number|nil seconds  for which nothing is left to do; 0: there is more work, nil: every batch has ended
function Batches:tick(budget)
  local stop = term.clock() + budget
  local next_due
  repeat
    local worked = false
    next_due = nil
    for record, task in pairs(self.tasks) do
      if task.due <= term.time() then
        local good, due = coroutine.resume(task.thread)
        if not good then error(debug.traceback(task.thread, due), 0) end
        task.due, worked = due or 0, true
        if coroutine.status(task.thread) == "dead" then
          self.tasks[record] = nil
          self.files:release(record.object.input_file_id)
        end
        if term.clock() > stop then break end
      end
    end
    for _, task in pairs(self.tasks) do next_due = math.min(next_due or task.due, task.due) end
  until not worked or term.clock() > stop
  self.ledger:flush()
  return next_due and math.max(0, next_due - term.time())
end

--- Moves a batch to a status, as of now, for good.
---@param record table
---@param status string
function Batches:enter(record, status)
  record.entered = term.time()
  record.object.status = status
  record.object[status .. "_at"] = math.floor(record.entered)
  self.store:save(record)
end

-- Seconds a batch spends in a status.
local function stay(self, record, status)
  return record.fault[status] or self.options.batch_seconds * shares[status]
end

-- Waits until the batch has been in `status` for as long as it should, or has left it.
local function rest(self, record, status)
  local until_time = record.entered + stay(self, record, status)
  while record.object.status == status and term.time() < until_time do coroutine.yield(until_time) end
end

local function fail(self, record, entries)
  record.object.errors = { object = "list", data = json.array(entries) }
  self:enter(record, "failed")
end

-- The tokens that other batches with this model have enqueued; those of other people's work, too.
local function enqueued(self, model)
  local _, rule = self.faults:limit("tokens")
  local tokens = 0
  if rule and rule.taken then
    local first = self.store.order[1]
    if term.time() < born(first) + (rule["for"] or math.huge) then tokens = rule.taken end
  end
  for other in pairs(self.tasks) do
    if other.object.model == model then tokens = tokens + other.tokens end
  end
  return tokens
end

-- From validating to in_progress or failed. false when the batch ends here.
local function validate(self, record)
  local object, fault, options = record.object, record.fault, self.options
  local entries, found = {}, nil
  local input = record.input_seen and self.files:find(object.input_file_id)
  if input then
    entries, found = validation.input(self.files:path(object.input_file_id), input.object.bytes, object.endpoint, {
      bytes = self.files:max_input(), requests = self.faults:limit("requests"), errors = options.max_errors,
      models = options.models, skip_blank = options.skip_blank,
    }, coroutine.yield)
  end
  rest(self, record, "validating")
  if object.status ~= "validating" then return true end

  if not input or fault["no-file"] or not self.files:find(object.input_file_id) then
    entries = { validation.file_not_found(object.input_file_id) }
  elseif fault.fail then
    entries = { validation.entry(fault.fail, "The sandbox was told to fail this batch.", fault.param, fault.line) }
  end
  local limit = self.faults:limit("tokens")
  if #entries == 0 and limit and enqueued(self, found.model) + found.tokens > limit then
    entries = { validation.entry("token_limit_exceeded", ("Enqueued token limit reached for %s in organization "
      .. "org-sandbox. Limit: %d enqueued tokens. Please try again once some in_progress batches have been "
      .. "completed."):format(found.model, limit)) }
  end
  if #entries > 0 then
    fail(self, record, entries)
    return false
  end
  object.model, object.request_counts.total, record.tokens = found.model, found.requests, found.tokens
  self:enter(record, "in_progress")
  return true
end

-- The two result files of a batch while they are written; each one is created by its first line.
local Results = {}
Results.__index = Results

-- Makes sure of the file `name`.
local function begin(self, name)
  if not self.writers[name] then
    self.ids[name] = files.new_id()
    self.writers[name] = assert(jsonl.create(self.files:path(self.ids[name]),
      { max_lines = math.maxinteger, max_bytes = math.maxinteger }))
  end
end

---@param name string
---@param line string
function Results:put(name, line)
  begin(self, name)
  assert(self.writers[name]:raw((line:gsub("[\r\n]+", " ")))) -- a model's own line may be written over several
end

--- A line of so many bytes. It takes no room on the disk: what it holds was never written.
---@param name string
---@param custom_id string
---@param bytes integer
function Results:put_long(name, custom_id, bytes)
  begin(self, name)
  self.long[#self.long + 1] = { name = name, head = ('{"custom_id":%s,"pad":"'):format(json.encode(custom_id)),
    bytes = bytes }
end

-- Writes the long lines of a file of `size` bytes behind what it has; returns the size it then has.
local function add_long(self, name, size)
  local file <close> = assert(io.open(self.files:path(self.ids[name]), "r+b"))
  for _, line in ipairs(self.long) do
    if line.name == name then
      assert(file:seek("set", size))
      assert(file:write(line.head))
      size = size + math.max(line.bytes, #line.head + 3)
      assert(file:seek("set", size - 3))
      assert(file:write('"}\n'))
    end
  end
  return size
end

--- Makes files of what was written.
---@param record table
---@return any output_id  json.null for none
---@return any error_id
function Results:publish(record)
  for name, writer in pairs(self.writers) do
    local size = add_long(self, name, assert(writer:commit()).bytes)
    -- A file ends where its record says, whatever is on the disk: here, within its last line.
    if record.fault.truncated and name == "output" then size = size - 20 end
    self.files:add_result(self.ids[name], ("%s_%s.jsonl"):format(record.object.id, name), size, record.keep)
  end
  return self.ids.output or json.null, self.ids.error or json.null
end

function Results:__close()
  for _, writer in pairs(self.writers) do writer:close() end
end

-- What an answer becomes under a rule for results.
local function spoil(answer, fault)
  if fault.status or fault.error then
    answer = { status = fault.status, empty_body = fault.body == "empty" or fault.status == 0 or nil }
    if fault.error then answer.error = { code = fault.error, message = "The request ended with " .. fault.error } end
  end
  answer.to = fault.to or answer.to
  answer.missing = fault.missing or answer.missing
  answer.duplicate = fault.duplicate or answer.duplicate
  return answer
end

-- What a model waits with. (A cancellation wakes the batch before its time.)
local function wait(seconds)
  local due = term.time() + seconds
  while term.time() < due do coroutine.yield(due) end
end

-- Asks the model one request, and writes what becomes of its answer.
local function run_request(self, record, results, line, custom_id)
  local object = record.object
  local asked = self.ledger:ask(object.id, custom_id)
  local fault = self.faults:result(custom_id, asked)
  local decoded = json.decode(line)
  local request = { custom_id = custom_id, method = "POST", url = object.endpoint, raw = line }
  local answer
  if decoded then
    request.body = decoded.body
    self.asking = self.asking + 1
    answer = self.options.model(request, asked, wait)
    self.asking = self.asking - 1
    if type(answer) ~= "table" then answer = { content = answer } end
  else -- legal JSON that cannot be decoded: a lone surrogate
    answer = { status = 400, body_error = { message = "The request has a string that is not Unicode text." } }
  end
  local result = answers.line(request, spoil(answer, fault), asked, self.options.seed)

  local counts, usage, used = object.request_counts, object.usage, result.usage
  local counted = result.to == "output" and "completed" or "failed"
  counts[counted] = counts[counted] + 1
  if used then
    usage.input_tokens, usage.output_tokens = usage.input_tokens + used.prompt, usage.output_tokens + used.completion
    usage.total_tokens = usage.total_tokens + used.total
    local details = usage.output_tokens_details
    details.reasoning_tokens = details.reasoning_tokens + used.reasoning
  end
  local text = result.text
  if not text then return end
  if fault.long then return results:put_long(result.to, custom_id, fault.long) end
  if fault.garbage then text = text:sub(1, #text // 2) end
  if fault["no-id"] then text = assert(json.set(text, "/custom_id", '""')) end
  results:put(result.to, text)
  if result.twice then results:put(result.to, text) end
  if fault.unknown then
    results:put(result.to, assert(json.set(text, "/custom_id", json.encode("nobody-" .. fs.random(4)))))
  end
end

-- The order in which requests run, which is the order of the results. What was paid before a
-- restart comes first, so that a batch that is being cancelled has its part done again.
local function running_order(record, index, paid)
  local order, first = {}, 0
  for i = 1, #index do order[i] = i end
  if not record.fault.ordered then
    for i = #order, 2, -1 do
      local k = math.random(i)
      order[i], order[k] = order[k], order[i]
    end
  end
  if next(paid) then
    for i = 1, #order do
      if paid[index:id(order[i])] then
        first = first + 1
        order[first], order[i] = order[i], order[first]
      end
    end
  end
  return order, first
end

-- Runs the requests, evenly over the time of in_progress. Returns the ordinals that were not run.
local function run_requests(self, record, index, results)
  local object, fault = record.object, record.fault
  local order, paid = running_order(record, index, self.ledger:paid_by(object.id))
  local began, seconds = record.entered, stay(self, record, "in_progress")
  local expire, cancel = (fault.expire or 2) * #order, (fault.cancel or 2) * #order
  object.request_counts, object.usage = { total = #order, completed = 0, failed = 0 }, no_usage()
  for done = 0, #order - 1 do
    local due = done < paid and 0 or began + seconds * done / #order
    while object.status == "in_progress" and term.time() < due do coroutine.yield(due) end
    while self.asking == MOST_ASKING do wait(0.01) end
    if done >= paid then
      if done >= cancel and object.status == "in_progress" then self:enter(record, "cancelling") end
      if object.status == "cancelling" or done >= expire then
        return table.move(order, done + 1, #order, 1, {})
      end
    end
    run_request(self, record, results, assert(index:line(order[done + 1])), index:id(order[done + 1]))
    coroutine.yield()
  end
  return {}
end

---@param record table
function Batches:live(record)
  local object, fault = record.object, record.fault
  if object.status == "validating" and not validate(self, record) then return end
  if object.status == "cancelling" and object.in_progress_at == json.null then
    rest(self, record, "cancelling") -- nothing had been run
    self:enter(record, "cancelled")
    return
  end

  local results <close> = setmetatable({ files = self.files, writers = {}, ids = {}, long = {} }, Results)
  local index <close> = assert(jsonl.index(self.files:path(object.input_file_id), "/custom_id"))
  local left = run_requests(self, record, index, results)
  local expired = fault.expire ~= nil and object.status ~= "cancelling"
  if expired or not self.options.no_cancelled_lines then
    for _, ordinal in ipairs(left) do
      results:put("error", answers.not_run(index:id(ordinal), expired and "batch_expired" or "batch_cancelled",
        self.options.seed))
      coroutine.yield()
    end
  end
  rest(self, record, "in_progress")
  if object.status == "in_progress" then self:enter(record, "finalizing") end
  rest(self, record, "finalizing")
  rest(self, record, "cancelling")

  self.ledger:settle(object.id)
  local output, errors = results:publish(record)
  if not fault["null-output"] then object.output_file_id = output end
  object.error_file_id = errors
  self:enter(record, object.status == "cancelling" and "cancelled" or expired and "expired" or "completed")
end

--- Stops where it is; opening the same folder goes on from here.
function Batches:close()
  for _, task in pairs(self.tasks) do coroutine.close(task.thread) end
  self.ledger:close()
end

return batches
