--- A batch that failed validation: what the service says of it, and what becomes of its part. Nothing of it has
--- run.

local openai = require "obatch.openai"
local outcome = require "obatch.outcome"

local failed_batch = {}

--- "Cannot find file" is answered for files that exist (seen in 2024 and 2026): this many times the
--- same file is tried, then it is uploaded again.
local SAME_FILE_TRIES = 4

--- How often one run submits a part again after a fault of the service that should have passed. What is no
--- fault of the service (an enqueued-token limit, a network that is down) is waited for without limit.
failed_batch.MAX_TRIES = 12

--- How many errors are told: a batch may have one for every line.
local MAX_TOLD = 10

--- A string from a reply; nil for anything else, and for the empty one.
local function word(value) return type(value) == "string" and value ~= "" and value or nil end

--- "Cannot find file" is said of files that exist (seen in 2024 and 2026).
local function cannot_find_file(entry)
  return entry.code == "file_not_found" or (entry.code == "invalid_request" and entry.param == "file_id")
    or entry.message:find("^Cannot find file") ~= nil
end

--- The enqueued-token limit that a refusal names; nil when it names none.
local function token_limit(message)
  local digits = message:match("[Ll]imit: *([%d,]+) enqueued") or message:match("[Ll]imit: *([%d,]+)")
  local limit = digits and math.tointeger(tonumber((digits:gsub(",", ""))))
  return limit and limit > 0 and limit or nil
end

local function kind_of(entry)
  if outcome.is_quota(entry) then return "quota" end
  if entry.code == "token_limit_exceeded" then return "queued" end
  if entry.code == "server_error" then return "passing" end
  if cannot_find_file(entry) then return "file" end
end

--- The errors of a failed batch. `kind` says what to do when it is not the requests that are at fault: "quota",
--- "queued" (the enqueued tokens are at `limit`), "passing" or "file" (the service does not see the input file).
---@param batch table  the batch object
---@param clean fun(message: string): string  makes a message fit to be shown
---@return { code?: string, message: string, param?: string, line?: integer, kind?: string, limit?: integer }[] errors
function failed_batch.list(batch, clean)
  local errors = type(batch.errors) == "table" and batch.errors or {}
  local list = openai.present(errors.data) or errors -- some services send the bare list
  local found = {}
  for _, given in ipairs(type(list) == "table" and list or {}) do
    if type(given) == "table" then
      local entry = { code = word(given.code) and clean(given.code), param = word(given.param),
        message = clean(word(given.message) or "no message"), line = math.tointeger(given.line) }
      entry.kind = kind_of(entry)
      entry.limit = entry.kind == "queued" and token_limit(entry.message) or nil
      found[#found + 1] = entry
    end
  end
  return found
end

--- The first of them that is not about the requests; nil when all are.
local function cause_of(errors)
  for _, entry in ipairs(errors) do
    if entry.kind then return entry end
  end
end

--- An error in words.
local function describe(entry)
  local place = entry.line and ("line %d, "):format(entry.line) or ""
  return ("%s%s: %s"):format(place, entry.code or "no code", entry.message)
end

--- The first errors of a list in words.
---@param errors table[]
---@return string words
function failed_batch.describe_all(errors)
  local words = {}
  for i = 1, math.min(#errors, MAX_TOLD) do words[i] = describe(errors[i]) end
  if #errors > MAX_TOLD then words[#words + 1] = ("and %d more"):format(#errors - MAX_TOLD) end
  return #words > 0 and table.concat(words, "; ") or "the service gives no reason"
end

-- ---------------------------------------------------------------- what becomes of the part

--- Creates the batch of a part again later, from the same file; after SAME_FILE_TRIES from a fresh upload
--- where the service claims not to know the file.
---@param run table   see obatch.submission
---@param part table
---@param why string
---@param kind string  as above
---@return boolean|nil goes_on
function failed_batch.requeue(run, part, why, kind)
  if not run:record(part, { event = "requeued", batch_id = part.batch_id, reason = why }) then return false end
  part.faults = (part.faults or 0) + 1
  local is_kept = run.store:request_path(part) ~= nil
  if part.faults > failed_batch.MAX_TRIES and kind == "file" and not is_kept then
    return run:give_up_batch(part, ("part %d: %s"):format(part.part, why))
  elseif part.faults > failed_batch.MAX_TRIES then
    return run:stop(("part %d: still failing after %d tries: %s"):format(part.part, part.faults, why), "SERVER")
  end
  if kind == "file" and is_kept and part.faults % SAME_FILE_TRIES == 0 then
    run:delete_input(part.file_id)
    part.file_id = nil
  end
  return run.queue:put_back(part, why, run.queue:pause_before(part.faults))
end

local function rejected(run, part, lines)
  local ok, message, code = run.store:reject(part, lines)
  return ok or run:stop(message, code, true)
end

--- The service had no room for a batch's tokens: it waits, with the file that is there. Only a batch that can
--- never fit is split, or given up where it is a single request.
local function wait_for_room(run, part, entry)
  local why = describe(entry)
  if not run:record(part, { event = "requeued", batch_id = part.batch_id, reason = why, limit = entry.limit }) then
    return false
  end
  local pieces = run.queue:no_room(part, why)
  if not pieces then return true end
  if pieces == 1 then
    local message = ("%s (This request alone is above it, at about %d tokens.)"):format(entry.message,
      run.store.meter:tokens_of(part) // 1)
    return rejected(run, part, { { code = entry.code, message = message } })
  end
  run.log(("part %d: its %d requests can never be enqueued together; they become %d parts: %s"):format(part.part,
    part.lines, pieces, why))
  local file_id = part.file_id
  local ok, message, code = run.store:split(part, pieces, run.api)
  if ok then run:delete_input(file_id) end
  return ok or run:trouble(part, message, code)
end

--- What becomes of a part whose batch failed validation. Nothing of it has run.
---@param run table
---@param part table
---@param batch table
---@return boolean|nil goes_on
function failed_batch.settle(run, part, batch)
  local errors = failed_batch.list(batch, function(message) return run.api:clean(message) end)
  local id, why = run.api:clean(part.batch_id), failed_batch.describe_all(errors)
  local cause = cause_of(errors)
  if cause and cause.kind == "quota" then
    return run:record(part, { event = "requeued", batch_id = part.batch_id, reason = describe(cause) })
      and run:stop(("batch %s: %s"):format(id, describe(cause)), "QUOTA")
  elseif cause and cause.kind == "queued" then
    return wait_for_room(run, part, cause)
  elseif cause then
    return failed_batch.requeue(run, part, describe(cause), cause.kind)
  end
  local lines = {}
  for _, entry in ipairs(errors) do
    local fault = { code = entry.code, message = entry.message }
    -- A number that no line of the part has (0, say) names none: nothing may be given up for it.
    local line = entry.line and entry.line >= 1 and entry.line <= part.lines and entry.line
    if line then lines[line] = fault end
    -- A part has one model. When the lines that are left are refused for it too, all are.
    if entry.code == "model_not_found" and (part.model_refused or not line) then lines[0] = fault end
  end
  if not next(lines) and run.store.withdraw then
    run:stop(("batch %s failed validation: %s"):format(id, why), "REFUSED") -- and its images are free again
  elseif not next(lines) then
    -- On the next run the batch is created again, after the user has seen to the cause.
    return run:record(part, { event = "requeued", batch_id = part.batch_id, reason = why })
      and run:stop(("batch %s failed validation: %s"):format(id, why), "REFUSED")
  end
  run.log(("batch %s failed validation: %s; %s"):format(id, why, run.store.rest))
  return rejected(run, part, lines)
end

return failed_batch
