--- What has become of every request of a job: all iterations, judged by the policy as it is now.
--
-- Requests are known by their ordinal in the original file, and what is kept of each is a few
-- integers: the lines stay in the files. Every number here can be had again by judging the merged
-- results again, which is what a restart does.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local request = require "obatch.request"
local text = require "obatch.text"

local ledger = {}
local Ledger = {}
Ledger.__index = Ledger

local CLASSES = outcome.CLASSES
local NUMBER = {}
for number, class in ipairs(CLASSES) do NUMBER[class] = number end
local VALID = NUMBER.valid

--- Outcomes that the service owes no answer for: they are no attempts.
local NOT_COUNTED = { expired = true, cancelled = true }

--- The counts of a request per class share one integer, 6 bits each (63 means "63 or more").
local function counted(counts, number)
  local shift = 6 * (number - 1)
  return (counts >> shift & 63) < 63 and counts + (1 << shift) or counts
end

--- Where a result line stands: iteration and byte offset in its merged file, in one integer.
local function place(iteration, offset) return iteration << 48 | offset end
local function iteration_of(at) return at >> 48 end
local function offset_of(at) return at & (1 << 48) - 1 end

--- A ledger for the requests of the file `original`, results in `job`.
function ledger.new(job, original, policy, log)
  local index, message, code = jsonl.index(original, "/custom_id")
  if not index then return nil, message, code end
  local self = setmetatable({
    job = job, policy = policy, log = log, index = index,
    last = {},      -- class number of the last outcome; VALID is final
    counts = {},    -- outcomes per class
    places = {},    -- the line of the good answer, or of the last bad one
    reasons = {},   -- of the last outcome that was not valid
    complaints = {}, -- what was wrong with the last answer, where it was invalid
    limits = {},    -- token limit for the next try, where it was raised
    capped = {},    -- true: truncated before the answer began, and the limit cannot be raised
    iterations = {},
  }, Ledger)
  for ordinal = 1, index.count do self.counts[ordinal] = 0 end
  return self
end

function Ledger:close() self.index:close() end
Ledger.__close = Ledger.close

--- The custom_id and the line of a request. Raises when the original file was changed meanwhile.
function Ledger:id(ordinal) return assert(self.index:id(ordinal)) end
function Ledger:line(ordinal) return assert(self.index:line(ordinal)) end

-- ---------------------------------------------------------------- taking in results

--- Calls visit(ordinal) for the requests of a request file. true | nil, message, CODE.
function Ledger:each_request(path, visit)
  local records, message, code = jsonl.scan(path, { id = "/custom_id" })
  if not records then return nil, message, code end
  for record in records do
    local ordinal = type(record.id) == "string" and self.index:find(record.id)
    if ordinal then visit(ordinal) end
  end
  return true
end

--- The ordinals that iteration n submitted, as a set. What was sent is what the request files say;
--- batches that were submitted elsewhere and left no such files hold all that was not valid by then.
--- nil, message, CODE when a file cannot be read.
function Ledger:members(n)
  local set, found = {}, false
  local folder = self.job:path(n, "")
  local is_all = n == 1 and not self.job.iterations[n].cut -- the files need not be read
  for _, name in ipairs(not is_all and fs.list(folder) or {}) do
    if name:find("^batch_requests_iteration_.*%.jsonl$") then
      found = true
      local ok, message, code = self:each_request(folder .. name, function(ordinal) set[ordinal] = true end)
      if not ok then return nil, message, code end
    end
  end
  if not found then
    for ordinal = 1, self.index.count do
      if self.last[ordinal] ~= VALID then set[ordinal] = true end
    end
  end
  return set
end

--- Judges every line of a results file into `round`. `at(offset)` says where the line stands.
--- true | nil, message, CODE.
function Ledger:judge(path, round, at)
  local records, message, code = jsonl.scan(path, outcome.FIELDS)
  if not records then return nil, message, code end
  local note, finish = progress.notes(self.log)
  local name = text.printable(path)
  for record in records do
    local id = record.custom_id
    local ordinal = type(id) == "string" and self.index:find(id) or nil
    if record.error then
      note("lines that are not JSON", "%s; the line is left out", text.printable(record.error))
    elseif type(id) ~= "string" then
      note("lines without a custom_id", "%s:%d: there is no custom_id; the line is left out", name, record.number)
    elseif not ordinal then
      note("lines for unknown custom_ids", "%s:%d: custom_id '%s' was never submitted; the line is left out",
        name, record.number, text.printable(text.cut(id, 300)))
    else
      local result = outcome.judge(record, self.policy)
      round.tokens_in = round.tokens_in + result.tokens_in
      round.tokens_out = round.tokens_out + result.tokens_out
      local before = round.class[ordinal]
      if before then
        note("second answers", "%s:%d: custom_id '%s' is answered twice; the first good answer counts",
          name, record.number, text.printable(text.cut(id, 300)))
      end
      if not before or (before ~= VALID and result.class == "valid") then
        round.class[ordinal] = NUMBER[result.class]
        round.reasons[ordinal] = result.reason
        round.places[ordinal] = at(record.offset)
        if result.class == "truncated" then
          round.used[ordinal], round.blank[ordinal] = result.tokens_out, result.blank
        end
      end
    end
  end
  finish()
  return true
end

--- The class of a request that is in no result file: that of its batch, where the batch ended early
--- and ran only some of its requests, else "missing". Returns a function(ordinal), or nil, message,
--- CODE when a file cannot be read.
function Ledger:absentees(n, round)
  local iteration = self.job.iterations[n]
  local by_part, common = {}, nil
  for _, part in ipairs(iteration.parts) do
    local status = part.ended and part.ended.status
    if status ~= "expired" and status ~= "cancelled" then status = "missing" end
    if part.is_empty then status = common end -- others have its requests
    if common == nil then common = status elseif common ~= status then common = false end
    if part.file and not part.is_empty and status ~= "missing" then
      local ok, message, code = self:each_request(self.job:path(n, part.file), function(ordinal)
        if not round.class[ordinal] then by_part[ordinal] = status end
      end)
      if not ok then return nil, message, code end
    end
  end
  return function(ordinal) return by_part[ordinal] or common or "missing" end
end

--- Takes in iteration n, which is merged. Afterwards .iterations[n] has .submitted, a count for
--- each class, .tokens_in and .tokens_out; the classes add up to what was submitted.
--- true | nil, message, CODE: a file of the iteration cannot be read.
function Ledger:add(n)
  local round = { class = {}, reasons = {}, places = {}, used = {}, blank = {}, tokens_in = 0, tokens_out = 0 }
  local ok, message, code = self:judge(self.job:merged_path(n), round, function(offset) return place(n, offset) end)
  for _, part in ipairs(self.job.iterations[n].parts) do
    if ok and part.rejected then
      ok, message, code = self:judge(self.job:path(n, part.rejected), round, function() return nil end)
    end
  end
  if not ok then return nil, message, code end

  local members, absent
  members, message, code = self:members(n)
  if not members then return nil, message, code end
  absent, message, code = self:absentees(n, round)
  if not absent then return nil, message, code end
  local summary = { submitted = 0, tokens_in = round.tokens_in, tokens_out = round.tokens_out }
  for _, class in ipairs(CLASSES) do summary[class] = 0 end
  for ordinal = 1, self.index.count do
    if members[ordinal] then
      local number = round.class[ordinal]
      if not number then
        local class = absent(ordinal)
        number = NUMBER[class]
        round.reasons[ordinal] = class == "missing" and "in neither the output nor the error file"
          or ("its batch was %s before the request ran"):format(class)
      end
      summary.submitted = summary.submitted + 1
      summary[CLASSES[number]] = summary[CLASSES[number]] + 1
      if self.last[ordinal] ~= VALID then self:settle(ordinal, number, round) end
    end
  end
  self.iterations[n], self.last_members = summary, members

  local sum = 0
  for _, class in ipairs(CLASSES) do sum = sum + summary[class] end
  assert(sum == summary.submitted, "the classes of an iteration must add up to what was submitted")
  return true
end

--- Books one outcome of one request.
function Ledger:settle(ordinal, number, round)
  self.last[ordinal] = number
  self.counts[ordinal] = counted(self.counts[ordinal], number)
  self.reasons[ordinal] = number ~= VALID and round.reasons[ordinal] or nil
  if NOT_COUNTED[CLASSES[number]] then return end -- the last answer stands
  self.complaints[ordinal] = number == NUMBER.invalid and round.reasons[ordinal] or nil
  self.places[ordinal] = round.places[ordinal]
  self.capped[ordinal] = nil
  local used = round.used[ordinal]
  if used then
    local line, rule = self:line(ordinal), self.policy.token_limit
    local raised = request.raised_limit(line, self.limits[ordinal], used, rule)
    if raised then self.limits[ordinal] = raised end
    -- Where reasoning has spent the whole budget, the same bytes can never help. A text that ran on
    -- and on is a matter of chance: it is sent again.
    self.capped[ordinal] = not raised and round.blank[ordinal] or nil
  end
end

-- ---------------------------------------------------------------- what comes next

--- A request as policies see it.
function Ledger:item(ordinal)
  local counts, attempts = {}, 0
  for number, class in ipairs(CLASSES) do
    counts[class] = self.counts[ordinal] >> 6 * (number - 1) & 63
    if not NOT_COUNTED[class] then attempts = attempts + counts[class] end
  end
  return { custom_id = self:id(ordinal), class = CLASSES[self.last[ordinal]],
    reason = self.reasons[ordinal], complaint = self.complaints[ordinal], counts = counts, attempts = attempts }
end

--- "resend" or "give_up" for a request without a good answer, and the item it was decided for.
function Ledger:action(ordinal)
  local item = self:item(ordinal)
  if self.capped[ordinal] then
    item.reason = item.reason .. "; its token limit cannot be raised above the policy's cap"
    return "give_up", item
  end
  local action = self.policy.action(item)
  if action ~= "resend" and action ~= "give_up" then
    error(('policy.action must return "resend" or "give_up", not %s (custom_id %s)'):format(
      tostring(action), item.custom_id))
  end
  return action, item
end

--- The ordinals to send next, in the order of the original file.
function Ledger:to_send()
  local list = {}
  for ordinal = 1, self.index.count do
    if self.last[ordinal] ~= VALID and (not self.last[ordinal] or self:action(ordinal) == "resend") then
      list[#list + 1] = ordinal
    end
  end
  return list
end

--- The line to send for a request: the user's own bytes, changed only where the policy changes them.
function Ledger:next_request(ordinal, max_bytes)
  local line = self:line(ordinal)
  local last = self.last[ordinal]
  if not last then return line end
  local policy, item = self.policy, self:item(ordinal)
  local edited = line
  if self.limits[ordinal] then edited = request.set_limit(edited, self.limits[ordinal]) end
  if policy.refused_model and item.counts.refused > 0 then edited = request.set_model(edited, policy.refused_model) end
  if item.complaint and item.attempts + 1 >= policy.feedback_from then
    local answer = outcome.text(self:result_line(ordinal))
    item.reason = item.complaint
    edited = request.add_feedback(edited, answer, policy.feedback(item), policy.feedback_answer_bytes)
  end
  -- A request that no longer fits into a batch is sent as it was.
  return #edited + 1 <= max_bytes and edited or line
end

--- The result line that counts for a request, nil when there is none.
function Ledger:result_line(ordinal)
  local at = self.places[ordinal]
  if not at then return nil end
  local n = iteration_of(at)
  self.readers = self.readers or {}
  if not self.readers[n] then self.readers[n] = assert(jsonl.open(self.job:merged_path(n))) end
  return assert(self.readers[n]:at(offset_of(at)))
end

-- ---------------------------------------------------------------- the files people read

--- What the files of a job hold: each calls put(text, ordinal) for the pieces of its file, in order, until that
--- returns false; ordinal is the request that a piece is about. Those with a %d belong to iteration n, and are
--- right as long as that was added last.
local pieces = {}

local function put_line(put, ordinal, value) return put(json.encode(value) .. "\n", ordinal) end

--- Everything iteration n left without a good answer.
pieces["unresolved_iteration_%d.jsonl"] = function(self, put)
  for ordinal = 1, self.index.count do
    if self.last[ordinal] and self.last[ordinal] ~= VALID then
      local action, item = self:action(ordinal)
      local concerns = action == "resend" or self.last_members[ordinal]
      if concerns and not put_line(put, ordinal, { custom_id = item.custom_id, class = item.class, reason = item.reason,
        action = action, attempts = item.attempts }) then return end
    end
  end
end

--- The answers of iteration n that were not good.
pieces["invalid_results_iteration_%d.jsonl"] = function(self, put, n)
  for ordinal = 1, self.index.count do
    local at = self.last[ordinal] and self.last[ordinal] ~= VALID and self.places[ordinal]
    if at and iteration_of(at) == n and not put(self:result_line(ordinal) .. "\n", ordinal) then return end
  end
end

--- The good line of each request, in the order of the original file.
pieces["final_results.jsonl"] = function(self, put)
  for ordinal = 1, self.index.count do
    if self.last[ordinal] == VALID and not put(self:result_line(ordinal) .. "\n", ordinal) then return end
  end
end

--- One object, custom_id -> answer, in that order.
pieces["corrected_results.json"] = function(self, put)
  local separator = "{\n"
  for ordinal = 1, self.index.count do
    if self.last[ordinal] == VALID then
      local answer = outcome.answer(self:result_line(ordinal), self.policy)
      if self.policy.expect == "text" then answer = json.encode(answer) end
      if not put(separator .. json.encode(self:id(ordinal)) .. ": " .. answer, ordinal) then return end
      separator = ",\n"
    end
  end
  put(separator == "{\n" and "{}\n" or "\n}\n")
end

--- What unwrapping and repairing did to which answer.
pieces["corrected_results_steps.jsonl"] = function(self, put)
  for ordinal = 1, self.index.count do
    if self.last[ordinal] == VALID then
      local _, steps = outcome.answer(self:result_line(ordinal), self.policy)
      if #steps > 0 and not put_line(put, ordinal, { custom_id = self:id(ordinal), steps = json.array(steps) }) then
        return
      end
    end
  end
end

pieces["given_up.jsonl"] = function(self, put)
  for ordinal = 1, self.index.count do
    if self.last[ordinal] and self.last[ordinal] ~= VALID then
      local action, item = self:action(ordinal)
      if action == "give_up" and not put_line(put, ordinal, { custom_id = item.custom_id, class = item.class,
        reason = item.reason, attempts = item.attempts }) then return end
    end
  end
end

--- The files of an iteration, and those of the whole job.
ledger.OF_ITERATION = { "unresolved_iteration_%d.jsonl", "invalid_results_iteration_%d.jsonl" }
ledger.FINAL = { "final_results.jsonl", "corrected_results.json", "corrected_results_steps.jsonl", "given_up.jsonl" }

--- Calls put(text, ordinal) for the pieces of one of these files, until it returns false. Writes nothing.
function Ledger:pieces(name, put, n) pieces[name](self, put, n) end

--- Writes one of them, whole or not at all. true | nil, message, CODE.
function Ledger:write_file(path, name, n)
  local file <close>, message, code = fs.create(path)
  if not file then return nil, message, code end
  local ok = true
  self:pieces(name, function(piece)
    ok, message, code = file:write(piece)
    return ok
  end, n)
  if ok then ok, message, code = file:commit() end
  if not ok then return nil, message, code end
  return true
end

--- Writes the files of iteration n, which was added last. true | nil, message, CODE.
function Ledger:write_iteration(n)
  for _, name in ipairs(ledger.OF_ITERATION) do
    local ok, message, code = self:write_file(self.job:path(n, name), name, n)
    if not ok then return nil, message, code end
  end
  return true
end

--- Writes the files of the job. Returns { valid=, given_up=, left= }: left may still be sent; or nil, message,
--- CODE.
function Ledger:write_final()
  for _, name in ipairs(ledger.FINAL) do
    local ok, message, code = self:write_file(self.job.dir .. "/" .. name, name)
    if not ok then return nil, message, code end
  end
  local totals = { valid = 0, given_up = 0, left = 0 }
  for ordinal = 1, self.index.count do
    local what = "left"
    if self.last[ordinal] == VALID then
      what = "valid"
    elseif self.last[ordinal] and self:action(ordinal) == "give_up" then
      what = "given_up"
    end
    totals[what] = totals[what] + 1
  end
  return totals
end

--- The table of all iterations: one column each, one row for each count, without the classes that
--- never occurred.
function Ledger:table()
  local rows, widths = { { "iteration" } }, { 0 }
  for n in ipairs(self.iterations) do rows[1][n + 1] = tostring(n) end
  local function add(name, always)
    local row, sum = { (name:gsub("_", " ")) }, 0
    for n, summary in ipairs(self.iterations) do
      row[n + 1], sum = tostring(summary[name]), sum + summary[name]
    end
    if always or sum > 0 then rows[#rows + 1] = row end
  end
  add("submitted", true)
  for _, class in ipairs(CLASSES) do add(class, class == "valid") end
  add("tokens_in", true)
  add("tokens_out", true)

  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, #cell) end
  end
  local lines = {}
  for l, row in ipairs(rows) do
    for i, cell in ipairs(row) do
      local space = (" "):rep(widths[i] - #cell)
      row[i] = i == 1 and cell .. space or space .. cell
    end
    lines[l] = table.concat(row, "  ")
  end
  return table.concat(lines, "\n")
end

return ledger
