--- What has become of every request of a job: all iterations, judged by the policy as it is now.
--
-- Requests are known by their ordinal in the original file, and what is kept of each is a few
-- integers: the lines stay in the files. Every number here can be had again by judging the merged
-- results again, which is what a restart does.

local attempts = require "obatch.attempts"
local decisions = require "obatch.decisions"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local request = require "obatch.request"
local results = require "obatch.results"
local text = require "obatch.text"

local ledger = {}

---@class obatch.Ledger
---@field job table                    the job: .dir, .iterations, and methods that give paths
---@field index obatch.jsonl.Index     its requests
---@field iterations table<integer, table<string, integer>>  of each: submitted, tokens_in, tokens_out, and each class
local Ledger = {}
Ledger.__index = Ledger

local CLASSES, NUMBER = outcome.CLASSES, attempts.NUMBER
local VALID = NUMBER.valid

--- Where a result line stands: the iteration in whose merged file, and the offset there.
local place, split_place = results.place, results.split_place

--- A ledger for the requests of a job, whose index (by custom_id) the caller closes. A reader's decisions that the
--- job keeps (see obatch.decisions) stand above the policy.
---@param job table        see obatch.job
---@param index obatch.jsonl.Index  of its request file
---@param policy table     see obatch.policy
---@param log fun(line: string)
---@return obatch.Ledger|nil ledger
---@return string|nil message
---@return string|nil code
function ledger.new(job, index, policy, log)
  local decided, message, code = decisions.of_job(job.dir, index)
  if not decided then return nil, message, code end
  local self = setmetatable({
    job = job, policy = policy, log = log, index = index,
    decided = decided, -- a reader's decisions about a request
    told = {},      -- what a reader said about the last text, { reason=, at= its line }: the model is told at once
    asked = {},     -- the decision for which a person waits: there was no attempt since then
    was_good = {},  -- true: the last answer is good by the policy, and a reader has rejected it
    last = {},      -- class number of the last outcome; VALID is final
    counts = {},    -- outcomes per class, see obatch.attempts
    places = {},    -- the line of the good answer, or of the last bad one
    is_bare = {},   -- true: the text of the good answer is the JSON asked for, with nothing but space around it
    reasons = {},   -- of the last outcome that was not valid
    complaints = {}, -- what was wrong with the last answer, where it was invalid
    limits = {},    -- token limit for the next try, where it was raised
    capped = {},    -- true: truncated before the answer began, and the limit cannot be raised
    iterations = {},
  }, Ledger)
  for ordinal = 1, index.count do self.counts[ordinal] = 0 end
  return self
end

--- The custom_id of a request. Raises when the original file was changed meanwhile; so does line.
---@param ordinal integer
---@return string custom_id
function Ledger:id(ordinal) return assert(self.index:id(ordinal)) end

---@param ordinal integer
---@return string line
function Ledger:line(ordinal) return assert(self.index:line(ordinal)) end

-- ---------------------------------------------------------------- taking in results

--- Calls visit(ordinal) for the requests of a request file.
---@param path string
---@param visit fun(ordinal: integer)
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Ledger:each_request(path, visit)
  local records, message, code = jsonl.scan(path, { id = "/custom_id" })
  if not records then return nil, message, code end
  for record in progress.over(records, "reading", path) do
    local ordinal = type(record.id) == "string" and self.index:find(record.id)
    if ordinal then visit(ordinal) end
  end
  return true
end

--- The ordinals that iteration n submitted. What was sent is what the request files say; batches that were submitted
--- elsewhere and left no such files hold all that was not valid by then. (What a reader has decided since was not
--- known to who sent them.)
---@param n integer
---@param round table  see add
---@return table<integer, true>|nil set
---@return string|nil message
---@return string|nil code
function Ledger:members(n, round)
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
      if self.decided[ordinal] and round.class[ordinal]
        or self.last[ordinal] ~= VALID and not self.was_good[ordinal] then set[ordinal] = true end
    end
  end
  return set
end

--- The outcome of a line of a request about which a reader has decided; that of the policy where nothing was said
--- about this text. Also the decision that rejects it, and whether there is a text.
---@param about obatch.decisions.OfRequest
---@param result obatch.Outcome
---@param line string
---@param is_settled boolean  an earlier answer counts already
local function overrule(about, result, line, is_settled)
  local answer = outcome.text(line)
  local sha256, said = answer and fs.sha256_text(answer), nil
  for _, decision in ipairs(sha256 and about or {}) do
    if decision.sha256 == sha256 then said = decision end
  end
  local is_rejected = said and said.decision == "reject"
  local is_good = said and not is_rejected or not said and result.class == "valid"
  local reason = is_rejected and decisions.reason(said)
    or is_good and not is_settled and about.accepted and about.accepted ~= said
    and "a reader has accepted another answer" or nil
  if said or reason then
    result = { class = reason and "invalid" or "valid", reason = reason, was_good = is_rejected and
      result.class == "valid", was_cut = result.class == "truncated", blank = result.blank,
      tokens_in = result.tokens_in, tokens_out = result.tokens_out }
  end
  return result, is_rejected and said or nil, answer ~= nil
end

--- Judges every line of a results file into `round`.
---@param path string
---@param round table                       see add
---@param at fun(offset: integer): integer?  where the line stands
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Ledger:judge(path, round, at)
  local records, message, code = outcome.scan(path, self.policy)
  if not records then return nil, message, code end
  local note, finish = progress.notes(self.log)
  local name = text.printable(path)
  local lines <close> = next(self.decided) and assert(jsonl.open(path)) or nil
  for record in progress.over(records, "judging", path) do
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
      local result, decided, rejection, has_text = outcome.judge(record, self.policy), self.decided[ordinal], nil, nil
      if decided then
        result, rejection, has_text = overrule(decided, result, assert(lines:at(record.offset)),
          self.last[ordinal] == VALID)
      end
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
        round.is_bare[ordinal] = not decided and record.is_usual and record.is_json and result.class == "valid" or nil
        round.rejected[ordinal], round.has_text[ordinal], round.was_good[ordinal] = rejection, has_text, result.was_good
        if result.class == "truncated" or result.was_cut then
          round.used[ordinal], round.blank[ordinal] = result.tokens_out, result.blank
        end
      end
    end
  end
  finish()
  return true
end

--- The class of a request that is in no result file: that of its batch, where the batch ended early
--- and ran only some of its requests, else "missing".
---@param n integer
---@param round table
---@return (fun(ordinal: integer): string)|nil class_of
---@return string|nil message
---@return string|nil code
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

--- Takes in iteration n, which is merged. Afterwards .iterations[n] is there; its classes add up to what was submitted.
---@param n integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Ledger:add(n)
  local round = { n = n, class = {}, reasons = {}, places = {}, is_bare = {}, used = {}, blank = {}, rejected = {},
    has_text = {}, was_good = {}, tokens_in = 0, tokens_out = 0 }
  local ok, message, code = self:judge(self.job:merged_path(n), round, function(offset) return place(n, offset) end)
  for _, part in ipairs(self.job.iterations[n].parts) do
    if ok and part.rejected then
      ok, message, code = self:judge(self.job:path(n, part.rejected), round, function() return nil end)
    end
  end
  if not ok then return nil, message, code end

  local members, absent
  members, message, code = self:members(n, round)
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
        round.reasons[ordinal] = outcome.absence(class)
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

--- What a reader said about this outcome of a request, or about the last text before it.
---@param ordinal integer
---@param round table
function Ledger:hear(ordinal, round)
  local decision, has_text = round.rejected[ordinal], round.has_text[ordinal]
  for _, other in ipairs(not decision and not has_text and self.decided[ordinal] or {}) do -- about no text
    if not other.sha256 and other.iteration and round.n <= other.iteration then decision = other end
  end
  if decision then
    self.told[ordinal] = { reason = decisions.reason(decision), at = round.places[ordinal] }
    self.asked[ordinal] = decision.iteration and decision or nil
  elseif has_text then
    self.told[ordinal] = nil
  end
  local asked = self.asked[ordinal]
  if asked and (has_text and not decision or round.n > asked.iteration) then self.asked[ordinal] = nil end
end

--- Books one outcome of one request.
---@param ordinal integer
---@param number integer  of the class
---@param round table
function Ledger:settle(ordinal, number, round)
  self.last[ordinal] = number
  self.counts[ordinal] = attempts.add(self.counts[ordinal], number)
  self.reasons[ordinal] = number ~= VALID and round.reasons[ordinal] or nil
  if not attempts.is_counted(number) then return end -- the last answer stands
  if self.decided[ordinal] then self:hear(ordinal, round) end
  local told = self.told[ordinal]
  self.complaints[ordinal] = told and told.reason or number == NUMBER.invalid and round.reasons[ordinal] or nil
  self.places[ordinal], self.was_good[ordinal] = round.places[ordinal], round.was_good[ordinal] or nil
  self.is_bare[ordinal] = round.is_bare[ordinal]
  self.capped[ordinal] = nil
  local used = round.used[ordinal]
  if used and number ~= VALID then
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
---@param ordinal integer
---@return obatch.policy.Item item
function Ledger:item(ordinal)
  local counts = self.counts[ordinal]
  return { custom_id = self:id(ordinal), class = CLASSES[self.last[ordinal]],
    reason = self.reasons[ordinal], complaint = self.complaints[ordinal],
    counts = attempts.by_class(counts), attempts = attempts.sum(counts) }
end

--- What becomes of a request without a good answer, and the item it was decided for.
---@param ordinal integer
---@return "resend"|"give_up" action
---@return obatch.policy.Item item
function Ledger:action(ordinal)
  local item = self:item(ordinal)
  if self.asked[ordinal] then return "resend", item end -- even where its attempts are used up
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

--- The requests to send next, in the order of the original file.
---@return integer[] ordinals
function Ledger:to_send()
  local list = {}
  for ordinal = 1, self.index.count do
    if self.last[ordinal] ~= VALID and (not self.last[ordinal] or self:action(ordinal) == "resend") then
      list[#list + 1] = ordinal
    end
  end
  return list
end

--- The line to send for a request, where the policy changes it; nil: the user's own bytes.
---@param ordinal integer
---@param max_bytes integer  of a batch
---@return string|nil line
function Ledger:next_request(ordinal, max_bytes)
  if not self.last[ordinal] then return nil end
  local policy, item = self.policy, self:item(ordinal)
  local line
  local function edit(change, ...) line = change(line or self:line(ordinal), ...) end
  if self.limits[ordinal] then edit(request.set_limit, self.limits[ordinal]) end
  if policy.refused_model and item.counts.refused > 0 then edit(request.set_model, policy.refused_model) end
  local told = self.told[ordinal]
  if item.complaint and (told or item.attempts + 1 >= policy.feedback_from) then
    local answered = self:line_at(told and told.at or self.places[ordinal])
    local answer = answered and outcome.text(answered)
    item.reason = item.complaint
    edit(request.add_feedback, answer, policy.feedback(item), policy.feedback_answer_bytes)
  end
  -- A request that no longer fits into a batch is sent as it was.
  return line and #line + 1 <= max_bytes and line or nil
end

--- The result line that counts for a request, nil when there is none.
---@param ordinal integer
---@return string|nil line
function Ledger:result_line(ordinal) return self:line_at(self.places[ordinal]) end

--- The result line at a place (see above), nil for nil.
---@param at integer|nil
---@return string|nil line
function Ledger:line_at(at)
  if not at then return nil end
  local n, offset = split_place(at)
  self.readers = self.readers or {}
  if not self.readers[n] then self.readers[n] = assert(jsonl.open(self.job:merged_path(n))) end
  return assert(self.readers[n]:at(offset))
end

-- ---------------------------------------------------------------- the files people read

--- The answer in a result line that counts, as JSON text, and what was done to it. One that a reader has accepted
--- need not be JSON: it is a string then.
local function final_answer(self, line, ordinal)
  local answer, steps
  if self.is_bare[ordinal] then
    answer, steps = text.trim(json.get(line, outcome.FIELDS.content)), {}
  else
    answer, steps = outcome.answer(line, self.policy)
  end
  if not answer then return json.encode(outcome.text(line)), { "not JSON: accepted by a reader, taken as it is" } end
  return self.policy.expect == "text" and json.encode(answer) or answer, steps
end

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
    if at and split_place(at) == n and not put(self:result_line(ordinal) .. "\n", ordinal) then return end
  end
end

--- Those of the files that have a piece for each good answer, in the order of the original file, in one go:
---   puts.line      the good line
---   puts.answer    one object, custom_id -> answer
---   puts.steps     what unwrapping and repairing did to which answer
--- where there is such a function. Ends when one of them returns false.
local function good_pieces(self, puts)
  local separator = "{\n"
  for ordinal = 1, self.index.count do
    if self.last[ordinal] == VALID then
      local line = self:result_line(ordinal)
      if puts.line and not puts.line(line .. "\n", ordinal) then return end
      local answer, steps
      if puts.answer or puts.steps then answer, steps = final_answer(self, line, ordinal) end
      if puts.answer then
        if not puts.answer(separator .. json.encode(self:id(ordinal)) .. ": " .. answer, ordinal) then return end
        separator = ",\n"
      end
      if puts.steps and #steps > 0 and not put_line(puts.steps, ordinal,
        { custom_id = self:id(ordinal), steps = json.array(steps) }) then return end
    end
  end
  if puts.answer then puts.answer(separator == "{\n" and "{}\n" or "\n}\n") end
end

--- Which of them is in which file.
local OF_GOOD = { ["final_results.jsonl"] = "line", ["corrected_results.json"] = "answer",
  ["corrected_results_steps.jsonl"] = "steps" }
for name, what in pairs(OF_GOOD) do
  pieces[name] = function(self, put) good_pieces(self, { [what] = put }) end
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

--- Goes through the pieces of one of these files. Writes nothing.
---@param name string  as in OF_ITERATION and FINAL
---@param put fun(text: string, ordinal?: integer): any  is called until it returns false
---@param n? integer   the iteration, which was added last
function Ledger:pieces(name, put, n) pieces[name](self, put, n) end

--- Writes files, whole or not at all: make(puts) calls puts[what] for the pieces of each, until that returns false.
---@param targets { what: string, path: string }[]
---@param name string  what people call them together
---@param index obatch.jsonl.Index  of the request file
---@param make fun(puts: table<string, fun(text: string): boolean>)
---@return true|nil ok
---@return string|nil message
---@return string|nil code
local function write_files(targets, name, index, make)
  local stage, bytes = progress.stage("writing " .. name, { unit = "bytes" }), 0
  local ok, message, code = true, nil, nil
  local files, puts = {}, {}
  local _ <close> = setmetatable({}, { __close = function()
    for _, file in ipairs(files) do file:close() end
  end })
  for i, target in ipairs(targets) do
    local file
    file, message, code = fs.create(target.path)
    if not file then return nil, message, code end
    files[i] = file
    puts[target.what] = function(piece)
      ok, message, code = file:write(piece)
      bytes = bytes + #piece
      stage:update(bytes)
      return ok
    end
  end
  make(puts)
  if ok then ok, message, code = index:check() end -- the ids in them are read from it
  for _, file in ipairs(files) do
    if ok then ok, message, code = file:commit() end
  end
  if not ok then return nil, message, code end
  return true
end

--- Writes one of the files, whole or not at all.
---@param path string
---@param name string
---@param n? integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Ledger:write_file(path, name, n)
  return write_files({ { what = "it", path = path } }, name, self.index,
    function(puts) self:pieces(name, puts.it, n) end)
end

--- Writes the files of iteration n, which was added last.
---@param n integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Ledger:write_iteration(n)
  for _, name in ipairs(ledger.OF_ITERATION) do
    local ok, message, code = self:write_file(self.job:path(n, name), name, n)
    if not ok then return nil, message, code end
  end
  return true
end

--- Writes the files of the job. `left` may still be sent.
---@return { valid: integer, given_up: integer, left: integer }|nil totals
---@return string|nil message
---@return string|nil code
function Ledger:write_final()
  local targets = {}
  for _, name in ipairs(ledger.FINAL) do
    if OF_GOOD[name] then targets[#targets + 1] = { what = OF_GOOD[name], path = self.job.dir .. "/" .. name } end
  end
  local ok, message, code = write_files(targets, "the results", self.index, function(puts) good_pieces(self, puts) end)
  if ok then ok, message, code = self:write_file(self.job.dir .. "/given_up.jsonl", "given_up.jsonl") end
  if not ok then return nil, message, code end
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
---@return string text
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
