--- The correction loop: requests are sent in batches, every answer is judged, and exactly what failed is
--- sent again.
--
-- The recipe: open the job directory, then iterate: write what has no good answer yet into request
-- files, bring them through the service, merge what came back, judge it. Whatever stops this, the same
-- call goes on where it was.

local fs = require "obatch.fs"
local job = require "obatch.job"
local ledger = require "obatch.ledger"
local prices = require "obatch.prices"
local progress = require "obatch.progress"
local request = require "obatch.request"
local requests = require "obatch.requests"
local submission = require "obatch.submission"
local tokens = require "obatch.tokens"
local units = require "obatch.units"

local loop = {}

-- ---------------------------------------------------------------- taking over what is already there

--- The batch ids in a file, one a line, each once; nil, message, CODE.
local function read_ids(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local ids, seen = {}, {}
  for id in content:gmatch("[^\r\n]+") do
    id = id:match("^%s*(.-)%s*$")
    if id ~= "" and not seen[id] then
      seen[id], ids[#ids + 1] = true, id
    end
  end
  if #ids == 0 then return nil, path .. " holds no batch ids", "USAGE" end
  return ids
end

--- An id of `ids` that is not in the list `known`; nil when all are.
local function stranger(ids, known)
  local set = {}
  for _, id in ipairs(known) do set[id] = true end
  for _, id in ipairs(ids) do
    if not set[id] then return id end
  end
end

--- Takes over batches that another tool submitted as iteration n, after asking the service for each.
local function adopt(the_job, n, path, index, api, log)
  local ids, message = read_ids(path)
  if not ids then return nil, message, "USAGE" end
  local list = the_job:ids_path(n)
  local forgotten = path ~= list and fs.stat(list) and stranger(read_ids(list) or {}, ids)
  if forgotten then
    return nil, ("%s names batch %s, which is not in %s: its answers would be lost. Name all batches in one of "
      .. "the files, and remove the other"):format(list, forgotten, path), "USAGE"
  end
  for _, id in ipairs(ids) do
    local batch, why, code = api:batch(id)
    if not batch and code == "NOT_FOUND" then
      return nil, ("%s names batch %s, which the service does not know: %s"):format(path, id, why), "USAGE"
    elseif not batch then
      return nil, why, code
    end
  end
  local ok, why, code = the_job:adopt(n, ids, index)
  if not ok then return nil, why, code end
  log(("iteration %d: going on with %s from %s"):format(n, units.count(#ids, "batch", "batches"), path))
  return true
end

--- A list of ids for an iteration that the journal does not know is another tool's work; so is the
--- file `initial_ids`, which is for the first iteration only.
local function adopt_all(the_job, initial_ids, index, api, log)
  -- The same command may come again; other batches cannot be taken over once the job has begun.
  if initial_ids and #the_job.iterations > 0 then
    local known = {}
    for _, iteration in ipairs(the_job.iterations) do
      for _, part in ipairs(iteration.parts) do known[#known + 1] = part.batch_id end
    end
    local new = stranger(read_ids(initial_ids) or {}, known)
    if new then
      return nil, ("%s names batch %s, but the job in %s has begun without it. Give --initial-ids at the first "
        .. "run of a job: here, with another --base-dir"):format(initial_ids, new, the_job.dir), "USAGE"
    end
  end
  while true do
    local n = #the_job.iterations + 1
    local path = n == 1 and initial_ids or the_job:ids_path(n)
    if path ~= initial_ids and not fs.stat(path) then return true end
    local ok, message, code = adopt(the_job, n, path, index, api, log)
    if not ok then return nil, message, code end
  end
end

-- ---------------------------------------------------------------- the loop

---@class obatch.loop.Options
---@field base_dir string           the job's folder
---@field original string           the request file, which is right
---@field requests? obatch.Requests  what is in it, where that was read
---@field rules table               a policy
---@field api table                 a client of the service
---@field log fun(line: string)     what people see, beside obatch.progress
---@field poll_wait number          seconds at most between two looks
---@field max_iterations integer    submit at most so often
---@field max_requests? integer     size of a batch (the API's limits)
---@field max_bytes? integer
---@field initial_ids? string       a file with the ids of batches that were submitted elsewhere
---@field budget? obatch.Budget     an iteration holds no more requests than it lets through
---@field beside? obatch.Meter[]    of other jobs that the budget is for, too
---@field delete_remote? boolean    see submission.run
---@field output_expires_after? integer

---@class obatch.loop.Result
---@field requests integer
---@field valid integer
---@field given_up integer
---@field left integer           may still be sent
---@field iterations integer
---@field stop_reason? string    why nothing more may be submitted now
---@field is_over? boolean       what is left takes more than the whole budget, each one alone: no run will send it
---@field table string           the text of the closing table

--- loop.run for what is in the request file. Raises where that is changed meanwhile and cannot be read as it was.
local function run(options, file, max_requests, max_bytes)
  local api, rules = options.api, options.rules
  local current
  local the_job <close>, message, code = job.open(options.base_dir, options.original, file.index)
  if not the_job then return nil, message, code end
  local function log(line)
    options.log(line)
    if current then the_job:log(current, line) end
  end
  api.log = log -- the retries of the client belong into the job's log, too

  local book, complaint, reason = ledger.new(the_job, file.index, rules, log)
  if not book then return nil, complaint, reason end
  local ok
  ok, message, code = adopt_all(the_job, options.initial_ids, file.index, api, log)
  if not ok then return nil, message, code end

  local settings = { poll_wait = options.poll_wait, log = log, gone_batches = rules.gone_batches,
    delete_remote = options.delete_remote, output_expires_after = options.output_expires_after }

  local function judge(n)
    local added, why, what = the_job:check(file.index) -- or else no answer finds its request
    if added then added, why, what = book:add(n) end
    if not added then return nil, why, what end
    return book:write_iteration(n)
  end

  the_job.meter.beside = options.beside
  local purse = options.budget and options.budget:purse(the_job.meter)
  local price_table = options.budget and options.budget.prices or prices
  local spent, why_cut -- why the budget lets no more requests through: words, and SPENT or OVER

  --- What to send next (see Job:plan), as far as the budget goes.
  local function next_requests(ordinals)
    local i = 0
    spent, why_cut = nil, nil
    if purse then purse:refresh() end
    local stage = progress.stage(("writing the requests of iteration %d"):format(current),
      { total = #ordinals, unit = "requests" })
    return function()
      while true do
        stage:update(i)
        i = i + 1
        if not ordinals[i] then return nil end
        local line = book:next_request(ordinals[i], max_bytes)
        local url, model, tokens_in, tokens_out
        if line then
          url, model = request.group(line)
          tokens_in, tokens_out = tokens.request(line, model)
        else
          url, model, tokens_in, tokens_out = file:takes_of(ordinals[i])
        end
        local fits, why, kind = true, nil, nil
        if purse then fits, why, kind = purse:take(model, tokens_in, tokens_out) end
        if fits then
          return line or ordinals[i], url, model, tokens_in, tokens_out or price_table.assumed_output_tokens
        end
        spent, why_cut = why, kind
        if kind ~= "OVER" then return nil end -- one that alone is too much must not hold up the others
      end
    end
  end

  local n = 0 -- iterations that are merged and judged
  local rounds = 0 -- those of them that a budget has not cut short: they count for max_iterations
  local function merged()
    n = n + 1
    rounds = rounds + (the_job.iterations[n].cut == "SPENT" and 0 or 1)
    return judge(n)
  end
  while n < #the_job.iterations and the_job.iterations[n + 1].merged do
    submission.delete_files(the_job:round(n + 1), api, settings)
    ok, message, code = merged()
    if not ok then return nil, message, code end
  end
  -- Rules and decisions may have changed since an earlier end: its files follow now, not when the next batch has ended.
  if n > 0 and fs.stat(options.base_dir .. "/final_results.jsonl") then
    ok, message, code = book:write_final()
    if not ok then return nil, message, code end
  end

  local stopped
  while not stopped do
    -- What has not left this machine yet is written anew: rules and limits may have changed.
    current = n + 1
    local is_new = n == #the_job.iterations
    if not is_new and the_job:is_untouched(n + 1) and fs.stat(the_job:ids_path(n + 1)) then
      return nil, ("%s names batches that the journal does not know: its end is missing, and sending again would be "
        .. "paid twice. Restore %s/journal.jsonl from a copy"):format(the_job:ids_path(n + 1), the_job.dir), "DAMAGED"
    elseif is_new or the_job:is_untouched(n + 1) then
      local ordinals = book:to_send()
      if #ordinals == 0 or rounds >= options.max_iterations then break end
      ok, message, code = the_job:plan(n + 1, next_requests(ordinals), max_requests, max_bytes, file.index,
        function() return why_cut end)
      if not ok then return nil, message, code end
      local parts, count = the_job.iterations[n + 1].parts, 0
      if #parts == 0 then
        stopped = { message = spent, is_over = why_cut == "OVER" }
        break
      end
      for _, part in ipairs(parts) do count = count + part.lines end
      log(("iteration %d: %s in %s"):format(n + 1, units.count(count, "request"), units.count(#parts, "part")))
    else
      log(("iteration %d: going on"):format(n + 1))
      if purse then
        local parts = the_job.iterations[n + 1].parts
        ok, message, code = purse:shed(parts, function(part) return the_job:drop(n + 1, part) end)
        if not ok then return nil, message, code end
      end
    end

    ok, message, code = submission.run(the_job:round(n + 1), api, settings)
    if not ok then return nil, message, code end
    stopped = message

    progress.stage(("merging the results of iteration %d"):format(n + 1))
    ok, message, code = the_job:merge(n + 1)
    if ok then ok, message, code = merged() end
    if not ok then return nil, message, code end
    log(("iteration %d: %d of %d valid"):format(n, book.iterations[n].valid, book.iterations[n].submitted))
  end

  local totals
  totals, message, code = book:write_final()
  if not totals then return nil, message, code end
  return { requests = book.index.count, valid = totals.valid, given_up = totals.given_up, left = totals.left,
    iterations = n, stop_reason = stopped and stopped.message, is_over = stopped and stopped.is_over,
    table = book:table() }
end

--- Brings the requests of a file to their end. base_dir then holds final_results.jsonl, corrected_results.json and
--- given_up.jsonl. After a failure the same call goes on; USAGE and CHANGED are the user's to correct first.
---@param options obatch.loop.Options
---@return obatch.loop.Result|nil result
---@return string|nil message
---@return string|nil code
function loop.run(options)
  local max_requests = options.max_requests or request.MAX_REQUESTS
  local max_bytes = options.max_bytes or request.MAX_BYTES
  local function read()
    if not options.requests then return requests.read(options.original, max_requests, max_bytes) end
  end
  local own <close>, faults, trouble = read()
  if faults then return nil, table.concat(faults, "\n"), trouble or "CHANGED" end
  local file = options.requests or own
  local function traced(raised) return debug.traceback(tostring(raised), 2) end
  local is_whole, result, message, code = xpcall(run, traced, options, file, max_requests, max_bytes)
  if result and is_whole then return result end
  -- Only what reading the file has found: a fault of the policy is to be seen though the file has changed, too.
  local said = is_whole and message or result
  if said and said:find(file.path .. " has changed since it was indexed", 1, true) then
    return nil, ("%s was changed or touched while the job was running. If its content is the same, run the same "
      .. "command again to go on; if not, put its old content back first: what is submitted goes on at the service, "
      .. "and nothing is lost"):format(options.original), "CHANGED"
  end
  if not is_whole then error(result, 0) end
  return nil, message, code
end

return loop
