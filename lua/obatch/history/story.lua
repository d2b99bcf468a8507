--- The story of one request of a job: every attempt, what was sent, what came back, what followed.

local decisions = require "obatch.decisions"
local fs = require "obatch.fs"
local json = require "obatch.json"
local outcome = require "obatch.outcome"

local story = {}

--- One line that was received, or is still owed. Lines are as they were sent and received. `duplicate`: another
--- line of the same iteration counts.
---@class obatch.history.Attempt
---@field iteration integer
---@field part integer?
---@field batch_id string?
---@field batch_status string?
---@field class string?  nil: no outcome yet
---@field reason string?
---@field action "keep"|"resend"|"give_up"|"in flight"|"not sent"|nil
---@field duplicate boolean?
---@field request string?
---@field request_path string?
---@field request_line integer?
---@field result string?
---@field result_path string?
---@field result_line integer?
---@field text string?  of the answer
---@field tokens_in integer?
---@field tokens_out integer?
---@field submitted_at integer?
---@field ended_at integer?
---@field decision obatch.Decision?  a reader's, about this very text

---@class obatch.history.Story
---@field custom_id string
---@field class string?
---@field reason string?
---@field action string
---@field number integer  which of the job's requests it is, from 1
---@field requests integer  that the job has
---@field dir string  of the job
---@field expect string?  by which rules it was judged here: "json" or "text"
---@field repair boolean?
---@field attempts obatch.history.Attempt[]

--- What the run wrote of a request in iteration n: { class=, reason=, action= }; nil where nothing.
local function verdict(self, n, ordinal)
  local map = self:map("verdicts", n, ordinal)
  local line = map.at[ordinal] and self.lines:text(map.at[ordinal])
  local entry = line and json.decode(line)
  if type(entry) ~= "table" then return nil end
  local function word(key) return type(entry[key]) == "string" and entry[key] or nil end
  return { class = word "class", reason = word "reason", action = word "action" }
end

local function batch_of(self, n, part)
  for _, batch in ipairs(self.iterations[n].batches) do
    if part and batch.id == part.batch_id then return batch end
  end
  return {}
end

--- The only part of an iteration that can have held a request, where no file says which.
local function only_part(iteration)
  local only
  for _, part in ipairs(iteration.parts) do
    if not part.is_empty then
      if only then return nil end
      only = part
    end
  end
  return only
end

--- What readers have decided about a request: a list.
local function decided(self, ordinal)
  if not self.decisions then
    local by_ordinal, message = decisions.of_job(self.dir, self.ids)
    if not by_ordinal then self:note(message) end
    self.decisions = by_ordinal or {}
  end
  return self.decisions[ordinal] or {}
end

--- The decision about the text of an attempt, or about an answer without any.
local function decision_about(list, answer)
  local sha256 = answer and fs.sha256_text(answer)
  for _, decision in ipairs(list) do
    if decision.sha256 == sha256 then return decision end
  end
end

--- What has become of a request that no line is about, though its batch has ended: "expired", "cancelled" or
--- "missing". `part` is its part; nil where nobody knows.
---@param iteration table  of fsck.replay
---@param part table?
---@return string class
function story.absence(iteration, part)
  part = part or only_part(iteration)
  local status = part and part.ended and part.ended.status
  return (status == "expired" or status == "cancelled") and status or "missing"
end

--- Tells the story of a request by its ordinal.
---@param self obatch.History
---@param ordinal integer
---@return obatch.history.Story
function story.tell(self, ordinal)
  local item = self:item(ordinal)
  local told = { custom_id = item.custom_id, class = item.class, reason = item.reason, action = item.action,
    number = ordinal, requests = self.ids.count, dir = self.dir, expect = self.rules.expect,
    repair = self.rules.repair, attempts = json.array {} }
  for n, iteration in ipairs(self.state.iterations) do
    local requests = self:map("requests", n, ordinal)
    local at = requests.at[ordinal]
    local others = requests.more[ordinal]
    local number = requests.number[ordinal]
    if others then at, number = others[#others][1], others[#others][2] end -- a part's successor has it now
    local results = self:result_places(n, ordinal)
    local said = verdict(self, n, ordinal)
    if at or #results > 0 or self:was_in(n, ordinal) then
      local request = {}
      if at then
        local file = self.lines:file(at)
        request = { line = self.lines:text(at), path = file.path, number = number, part = file.about.part }
      elseif n == 1 and self.original then
        request = { line = self.ids:line(ordinal), path = self.original }
      end
      local by_run = self.iterations[n].judged_by == "run"
      for i, place in ipairs(results) do
        local file, line = self.lines:file(place[1]), self.lines:text(place[1])
        local record = line and outcome.record(line)
        local judged = record and outcome.judge(record, self.rules) or {}
        local part = file.about.part.part and file.about.part or request.part or only_part(iteration)
        local batch = batch_of(self, n, part)
        local attempt = { iteration = n, part = part and part.part, batch_id = part and part.batch_id,
          batch_status = batch.status, submitted_at = batch.created_at, ended_at = batch.ended_at,
          request = request.line, request_path = request.path, request_line = request.number,
          result = line, result_path = file.path, result_line = place[2], text = record and outcome.text(record),
          tokens_in = judged.tokens_in, tokens_out = judged.tokens_out, class = judged.class, reason = judged.reason,
          duplicate = i > 1 or nil }
        if i == 1 and by_run then
          attempt.class, attempt.reason, attempt.action = "valid", nil, "keep"
          if said then attempt.class, attempt.reason, attempt.action = said.class, said.reason, said.action end
        elseif by_run and said and attempt.class == "valid" then
          attempt.class, attempt.reason = "invalid", "not good by the rules of the run"
        end
        told.attempts[#told.attempts + 1] = attempt
      end
      if #results == 0 then
        local part = request.part and request.part.part and request.part or only_part(iteration)
        local batch = batch_of(self, n, part)
        local attempt = { iteration = n, part = part and part.part, batch_id = part and part.batch_id,
          batch_status = batch.status, submitted_at = batch.created_at, ended_at = batch.ended_at,
          request = request.line, request_path = request.path, request_line = request.number }
        if by_run and said then
          attempt.class, attempt.reason, attempt.action = said.class, said.reason, said.action
        elseif self.flying[ordinal] == n then
          attempt.action = "in flight"
        elseif iteration.merged or part and part.done then
          attempt.class = story.absence(iteration, part)
          attempt.reason = outcome.absence(attempt.class)
        else
          attempt.action = "not sent"
        end
        told.attempts[#told.attempts + 1] = attempt
      end
      local last = told.attempts[#told.attempts - math.max(#results - 1, 0)]
      if item.class == "valid" and n > item.iteration then
        last.duplicate, last.action = true, nil -- the first good answer counts
      elseif not last.action then
        last.action = item.iteration == n and item.action or last.class and "resend"
      end
    end
  end
  local list = decided(self, ordinal)
  for _, attempt in ipairs(#list > 0 and told.attempts or {}) do
    if attempt.result then attempt.decision = decision_about(list, attempt.text) end
  end
  return told
end

return story
