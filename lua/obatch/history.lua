--- What has become of the requests of a job, from its files alone: finished, under way, an errand's, or that of an
-- earlier script. Reads only; beside a run, too.
--
-- Verdicts are those that the run wrote (unresolved_iteration_N.jsonl follows from its rules); only what has none
-- is judged here. What is kept of each request are three integers; lines stay in the files.

local attempts = require "obatch.attempts"
local batches = require "obatch.history.batches"
local files = require "obatch.history.files"
local fs = require "obatch.fs"
local ids = require "obatch.history.ids"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local lines = require "obatch.history.lines"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local replay = require "obatch.fsck.replay"
local report = require "obatch.fsck.report"
local results = require "obatch.results"
local story = require "obatch.history.story"
local text = require "obatch.text"
local usage = require "obatch.history.usage"

local history = {}

--- One iteration. `state` is "merged" when all of it is judged; until then "planned" (nothing is sent), "in flight"
--- or "downloaded".
---@class obatch.history.Iteration
---@field n integer
---@field state "planned"|"in flight"|"downloaded"|"merged"
---@field cut string?  why requests were kept out of it: "SPENT" or "OVER" (a budget)
---@field submitted integer  requests in it
---@field classes table<string, integer>  of those that have an outcome
---@field judged_by "run"|"rules"|nil  whose verdicts these are
---@field batches obatch.history.Batch[]
---@field waiting { parts: integer, requests: integer }  planned, without a batch

--- A request and what has become of it. `class` and `reason` are those of its last outcome, nil where there is none
--- yet; `iteration` is that in which it is in flight, else that of the outcome.
---@class obatch.history.Item
---@field custom_id string
---@field class string?
---@field reason string?
---@field action "keep"|"resend"|"give_up"|"in flight"|"not sent"
---@field attempts integer  answers that it has had, or was owed
---@field iteration integer?

--- `left` may still be sent; valid + given_up + left + in_flight = requests.
---@class obatch.History
---@field dir string
---@field run string?
---@field original string?  path of the request file
---@field holder string?  who holds the lock
---@field totals { requests: integer, valid: integer, given_up: integer, left: integer, in_flight: integer }
---@field iterations obatch.history.Iteration[]
---@field is_damaged boolean  the journal is: obatch fsck says what is wrong with it
---@field notes string[]  what a reader should know, printable: damaged lines, missing files
---@field rules table  by which was judged what the run has not judged
local History = {}
History.__index = History

local CLASSES, NUMBER = outcome.CLASSES, attempts.NUMBER
local VALID <const> = NUMBER.valid

local ACTIONS = { "keep", "resend", "give_up" }
local KEEP <const>, RESEND <const>, GIVE_UP <const> = 1, 2, 3
local ACTION_NUMBER = { keep = KEEP, resend = RESEND, give_up = GIVE_UP }

--- The last outcome of a request in one integer: class, action, iteration.
local function pack(class, action, n) return class | action << 4 | n << 8 end
local function class_of(state) return state & 15 end
local function action_of(state) return state >> 4 & 15 end
local function iteration_of(state) return state >> 8 end

--- Adds what a reader should know of, printable.
---@param sentence string
function History:note(sentence) self.notes[#self.notes + 1] = text.shown(sentence) end

-- ---------------------------------------------------------------- who is in an iteration

--- Whether the parts of an iteration that hold requests are all in one state, and which: "in flight", "waiting" or
--- "done"; false for a mixture.
local function common_state(iteration)
  local common
  for _, part in ipairs(iteration.parts) do
    if not part.is_empty then
      local state = part.done and (part.rejected and "rejected" or "done")
        or (part.batch_id or part.create_doubt) and "in flight" or "waiting"
      if part.fetched and next(part.fetched) and not part.done then state = false end
      if common == nil then common = state elseif common ~= state then return false end
    end
  end
  return common
end

--- Whether an iteration was planned and has no requests: a budget kept all of them out.
local function is_planned_empty(iteration)
  for _, part in ipairs(iteration.parts) do
    if not part.is_empty then return false end
  end
  return not iteration.adopted and not iteration.merged
end

--- The last iteration of which is known who was in it, without looking into its files.
local MOST_KNOWN <const> = 62

--- Adds the requests that a file names to `members`, if is_one(ordinal, record) says so where it is given.
local function add_named(self, members, file, fields, is_one)
  local records, message = jsonl.scan(file.path, fields)
  if not records then self:note(message) end
  for record in records and progress.over(records, "reading", file.path) or function() end do
    local ordinal = type(record.id) == "string" and self.ids:find(record.id)
    if ordinal and (not is_one or is_one(ordinal, record)) then members[ordinal] = file.part end
  end
end

--- Those that have an answer in iteration n, or count one attempt more since then: where no request files are left.
local function members_by_results(self, n)
  local members, path = {}, files.unresolved(self, n)
  for _, file in ipairs(files.results(self, n)) do
    add_named(self, members, { path = file.path, part = true }, { id = "/custom_id" })
  end
  if path then
    add_named(self, members, { path = path, part = true }, { id = "/custom_id", attempts = "/attempts" },
      function(ordinal, record)
        return not self.last[ordinal] or record.attempts ~= attempts.sum(self.counts[ordinal])
      end)
  end
  return members
end

--- The requests of iteration n: ordinal -> its part, or true where nobody needs to know, or knows.
local function members_of(self, n)
  local iteration, members = self.state.iterations[n], {}
  if is_planned_empty(iteration) then return members end
  local list = files.requests(self, n)
  -- An earlier script that kept no requests sent what it got an answer for, as far as anybody knows; so did an errand
  -- whose requests are removed, where a budget kept some of them out.
  if #list == 0 and (n > 1 and self.state.is_foreign or iteration.cut) and #files.results(self, n) > 0 then
    return members_by_results(self, n)
  end
  local is_all = n == 1 and not iteration.cut
    and (not iteration.adopted or iteration.merged and not self.state.is_foreign) -- the run takes all as sent, too
  local is_simple = iteration.merged and files.unresolved(self, n) or common_state(iteration)
  if is_all and is_simple or #list == 0 then
    for ordinal = 1, self.ids.count do
      local state = self.last[ordinal]
      -- Without request files: batches that were submitted elsewhere hold all that was not valid by then.
      local is_one = n == 1 or not state
        or (iteration.adopted and class_of(state) ~= VALID or action_of(state) == RESEND)
      if is_one then members[ordinal] = true end
    end
    return members
  end
  for _, file in ipairs(list) do add_named(self, members, file, { id = "/custom_id" }) end
  return members
end

-- ---------------------------------------------------------------- taking in an iteration

local function settle(self, n, ordinal, class, action, place)
  local classes = self.iterations[n].classes
  classes[CLASSES[class]] = classes[CLASSES[class]] + 1
  if self.last[ordinal] and class_of(self.last[ordinal]) == VALID then return end -- the first good answer counts
  self.counts[ordinal] = attempts.add(self.counts[ordinal], class)
  self.last[ordinal] = pack(class, action, n)
  self.places[ordinal] = place
end

--- What the run has written of iteration n: true, or false where that is damaged and must not be believed.
local function read_verdicts(self, n, members, path)
  local file, found = self.lines:add(path), {}
  local fields = { id = "/custom_id", class = "/class", action = "/action" }
  for record in jsonl.scan(path, fields) or function() end do
    local ordinal = type(record.id) == "string" and self.ids:find(record.id)
    local class, action = NUMBER[record.class], ACTION_NUMBER[record.action]
    if record.error or ordinal and not (class and action) then
      self:note(("%s:%d is damaged: the answers of iteration %d are judged again"):format(path, record.number, n))
      return false
    end
    if ordinal and members[ordinal] then
      found[ordinal] = pack(class, action, 0)
      self.places[ordinal] = results.place(file, record.offset)
    end
  end
  for ordinal in pairs(members) do
    local state = found[ordinal]
    local class = state and class_of(state) or VALID
    settle(self, n, ordinal, class, state and action_of(state) or KEEP, self.places[ordinal])
  end
  return true
end

--- "resend" or "give_up", by the rules, for a request whose outcome in this iteration is `class`.
local function action_for(self, ordinal, class, reason)
  local counts = attempts.add(self.counts[ordinal], class)
  local item = { custom_id = self.ids:id(ordinal), class = CLASSES[class], reason = reason, complaint = reason,
    counts = attempts.by_class(counts), attempts = attempts.sum(counts) }
  return self.rules.action(item) == "give_up" and GIVE_UP or RESEND
end

--- Judges what is there of iteration n by the rules.
local function judge(self, n, members)
  local iteration, classes, places, reasons = self.state.iterations[n], {}, {}, {}
  for _, entry in ipairs(files.results(self, n)) do
    local file = self.lines:add(entry.path, entry)
    local records, message = outcome.scan(entry.path, self.rules)
    if not records then self:note(message) end
    for record in records and progress.over(records, "judging", entry.path) or function() end do
      local id = record.custom_id
      local ordinal = not record.error and type(id) == "string" and self.ids:find(id)
      if ordinal and members[ordinal] and classes[ordinal] ~= VALID then
        local result = outcome.judge(record, self.rules)
        local class = NUMBER[result.class]
        if not classes[ordinal] or class == VALID then
          classes[ordinal], reasons[ordinal] = class, result.reason
          places[ordinal] = results.place(file, record.offset)
        end
      end
    end
  end
  local is_judged = next(classes) ~= nil or iteration.merged
  local common = common_state(iteration)
  for ordinal, part in pairs(members) do
    local class = classes[ordinal]
    local is_done
    if part == true then is_done = common == "done" or iteration.merged else is_done = part.done or iteration.merged end
    if not class and is_done then class = NUMBER[story.absence(iteration, part ~= true and part or nil)] end
    if class then
      is_judged = true
      settle(self, n, ordinal, class, class == VALID and KEEP or action_for(self, ordinal, class, reasons[ordinal]),
        places[ordinal])
    else
      local is_flying
      if part == true then is_flying = common ~= "waiting" else is_flying = part.batch_id or part.create_doubt end
      if is_flying then self.flying[ordinal] = n end
    end
  end
  if is_judged then self.iterations[n].judged_by = "rules" end
end

--- Takes in iteration n, after those before it.
local function add_iteration(self, n)
  local iteration = self.state.iterations[n]
  local members, submitted = members_of(self, n), 0
  for ordinal in pairs(members) do
    submitted = submitted + 1
    if n <= MOST_KNOWN then self.sent[ordinal] = (self.sent[ordinal] or 0) | 1 << n end
  end
  local classes = {}
  for _, class in ipairs(CLASSES) do classes[class] = 0 end
  local state, is_open = "merged", false
  if not iteration.merged then
    state = "planned"
    for _, part in ipairs(iteration.parts) do
      if part.batch_id or part.create_doubt then state = "in flight" end
      is_open = is_open or not part.done
    end
    if not is_open and not is_planned_empty(iteration) then state = "downloaded" end
  end
  local known = self.iterations[n]
  known.state, known.cut, known.submitted, known.classes = state, iteration.cut, submitted, classes
  local path = files.unresolved(self, n)
  if path and read_verdicts(self, n, members, path) then
    known.judged_by = "run"
  else
    judge(self, n, members)
  end
end

-- ---------------------------------------------------------------- opening

--- What is to happen to a request, or happens now.
local function current_action(self, ordinal)
  if self.flying[ordinal] then return "in flight" end
  local state = self.last[ordinal]
  return state and ACTIONS[action_of(state)] or "not sent"
end

--- Iterations whose events a damaged journal has lost: their folders are there.
local function add_lost_iterations(self)
  local state = self.state
  if state.is_foreign or state.events.damaged == 0 and #state.events > 0 then return end
  local seen = replay.files(self.dir)
  for n = #state.iterations + 1, #seen.iterations do
    seen.iterations[n].lost = true
    state.iterations[n] = seen.iterations[n]
    self.is_damaged = true
    self:note(("iteration %d is not in the journal: it is read from its files"):format(n))
  end
end

--- The rules for what nobody has judged: those of the caller; for an errand, whose answers are texts, rules for texts.
local function default_rules(dir)
  if not fs.stat(dir .. "/record.json") and not fs.stat(dir .. "/completed.json") then return policy end
  return setmetatable({ expect = "text", allow_blank = true }, { __index = policy })
end

--- The batches of all iterations, and the parts that have none yet.
local function list_batches(self)
  local parts = {}
  local function key(n, number) return tostring(n) .. "\0" .. tostring(number) end
  for n, iteration in ipairs(self.state.iterations) do
    self.iterations[n] = { n = n, batches = {}, waiting = { parts = 0, requests = 0 } }
    for _, part in ipairs(iteration.parts) do
      parts[key(n, part.part)] = { part = part, iteration = n }
      if not part.batch_id and not part.done then
        local waiting = self.iterations[n].waiting
        waiting.parts, waiting.requests = waiting.parts + 1, waiting.requests + (part.lines or 0)
      end
    end
  end
  local list = batches.list(self.state.events, function(event) return parts[key(event.iteration, event.part)] end)
  local known = {}
  for _, batch in ipairs(list) do
    known[batch.id] = true
    table.insert(self.iterations[batch.iteration].batches, batch)
  end
  for n, iteration in ipairs(self.state.iterations) do -- those of an earlier script are in no journal
    for _, part in ipairs(iteration.parts) do
      if part.batch_id and not known[part.batch_id] then
        table.insert(self.iterations[n].batches, { id = part.batch_id, iteration = n, part = part.part,
          status = iteration.merged and "completed" or "in flight" })
      end
    end
  end
end

--- Reads what has become of the job in `dir`.
---@param dir string
---@param options { rules: table?, original: string? }?  a policy for what the run has not judged (default:
---  obatch.policy as it stands); the request file, where it is not where the journal says
---@return obatch.History? job  to be closed
---@return string? message
---@return string? code  "USAGE" where it is no job
function history.open(dir, options)
  options = options or {}
  local found = report.new()
  local state, message, code
  if fs.stat(dir .. "/journal.jsonl") then
    state, message, code = replay.job(dir, found)
    if not state then return nil, message, code end
  else
    state = replay.files(dir)
    if #state.iterations == 0 and not fs.stat(dir .. "/record.json") then
      return nil, dir .. " is not a job: it holds no journal.jsonl and no iteration_1", "USAGE"
    end
  end
  local self = setmetatable({ dir = dir, run = state.run, state = state, holder = fs.holder(dir .. "/lock"),
    notes = {}, iterations = {}, is_damaged = found.faults > 0, lines = lines.new(),
    rules = options.rules or default_rules(dir),
    last = {},    -- the last outcome of each request, packed
    places = {},  -- where that is told: a line of unresolved_iteration_N or a result line
    counts = {},  -- outcomes per class
    sent = {},    -- a bit for each iteration that it was in
    flying = {},  -- ordinal -> the iteration in which it is in flight now
    maps = {},
  }, History)
  if found.faults > 0 or state.events.torn then
    for _, line in ipairs(found:lines()) do self.notes[#self.notes + 1] = line end
  end
  add_lost_iterations(self)
  local path, note
  self.ids, path, note = ids.open(state, options.original)
  if not self.ids then return nil, path, note end
  self.original = path
  if note then self:note(note) end
  for ordinal = 1, self.ids.count do self.counts[ordinal] = 0 end
  list_batches(self)
  for n in ipairs(state.iterations) do add_iteration(self, n) end

  local totals = { requests = self.ids.count, valid = 0, given_up = 0, left = 0, in_flight = 0 }
  for ordinal = 1, self.ids.count do
    local action = current_action(self, ordinal)
    local what = action == "keep" and "valid" or action == "give_up" and "given_up"
      or action == "in flight" and "in_flight" or "left"
    totals[what] = totals[what] + 1
  end
  self.totals = totals
  return self
end

--- Closes the files.
function History:close()
  self.lines:close()
  self.ids:close()
end
History.__close = History.close

-- ---------------------------------------------------------------- what became of a request

--- The reason of the last outcome, where it was not a good answer.
local function reason_of(self, ordinal)
  local state, place = self.last[ordinal], self.places[ordinal]
  local class = state and class_of(state)
  if not state or class == VALID then return nil end
  if not place then return outcome.absence(CLASSES[class]) end
  local line, message = self.lines:text(place)
  if not line then return message end
  if not self.lines:file(place).about then -- the run's own words
    local reason = json.get(line, "/reason")
    return type(reason) == "string" and reason or nil
  end
  local result = outcome.judge_line(line, self.rules)
  return result and result.reason
end

--- A request by its ordinal.
---@param ordinal integer
---@return obatch.history.Item
function History:item(ordinal)
  local state = self.last[ordinal]
  return { custom_id = self.ids:id(ordinal), class = state and CLASSES[class_of(state)],
    reason = reason_of(self, ordinal), action = current_action(self, ordinal),
    attempts = attempts.sum(self.counts[ordinal]),
    iteration = self.flying[ordinal] or state and iteration_of(state) or nil }
end

--- Goes through the requests, in the order of the request file: for item in h:items() do ... end.
---@param which string?  only those of this class, or with this action ("in flight", "give_up", ...)
---@return fun(): obatch.history.Item?
function History:items(which)
  local ordinal = 0
  return function()
    while ordinal < self.ids.count do
      ordinal = ordinal + 1
      local state = self.last[ordinal]
      if not which or state and CLASSES[class_of(state)] == which or current_action(self, ordinal) == which then
        return self:item(ordinal)
      end
    end
  end
end

--- Where the lines of requests are in one kind of files of iteration n, as Lines:map has it. That of all requests is
--- kept; where only one request is asked about, there is no need to make it.
---@param kind "requests"|"results"|"verdicts"|"final"  see obatch.history.files
---@param n integer
---@param ordinal integer
---@return { at: table, number: table, more: table } map
function History:map(kind, n, ordinal)
  local key = ("%s\0%d"):format(kind, n)
  local map = self.maps[key]
  if not map then
    local only = self.asked == ordinal and ordinal or nil
    map = self.lines:map(files[kind](self, n), self.ids, function(sentence) self:note(sentence) end, only)
    if not only then self.maps[key] = map end
  end
  return map
end

--- Whether a request was in iteration n, as far as that is known without its files.
---@param n integer
---@param ordinal integer
---@return boolean
function History:was_in(n, ordinal) return n <= MOST_KNOWN and (self.sent[ordinal] or 0) >> n & 1 == 1 end

--- Which of several lines of a request in iteration n counts: the index in `list` of { place, number }. Where a run
--- has judged them, that is its line; the rules here may be others.
local function which_counts(self, n, ordinal, list)
  local state = self.last[ordinal]
  local is_by_run = self.iterations[n].judged_by == "run"
  local is_good = state and class_of(state) == VALID and iteration_of(state) == n
  if is_by_run and not is_good then return 1 end
  local map = is_by_run and self:map("final", 0, ordinal)
  local final = map and map.at[ordinal] and self.lines:text(map.at[ordinal])
  local good
  for i, entry in ipairs(list) do
    local line = self.lines:text(entry[1])
    if final and line == final then return i end
    local judged = not good and outcome.judge_line(line or "", self.rules)
    if judged and judged.class == "valid" then good = i end
  end
  return good or 1
end

--- The places of all lines that iteration n has brought for a request: { place, number }, the one that counts first.
---@param n integer
---@param ordinal integer
---@return integer[][]
function History:result_places(n, ordinal)
  local map = self:map("results", n, ordinal)
  if not map.at[ordinal] then return {} end
  local list = { { map.at[ordinal], map.number[ordinal] }, table.unpack(map.more[ordinal] or {}) }
  if #list > 1 then table.insert(list, 1, table.remove(list, which_counts(self, n, ordinal, list))) end
  return list
end

--- The ordinal of a request that is asked about. The first one is found by reading through the files; from the second
--- one on, what is in them is remembered.
local function ask(self, custom_id)
  local ordinal = self.ids:find(custom_id)
  if self.asked == nil then self.asked = ordinal elseif self.asked ~= ordinal then self.asked = false end
  return ordinal
end

--- The result line that counts for a request, as it was received: that of its good answer, else of the last bad one.
---@param custom_id string
---@return string? line  nil when there is none
---@return string? path
function History:answer_line(custom_id)
  local ordinal = ask(self, custom_id)
  local state = ordinal and self.last[ordinal]
  for n = state and iteration_of(state) or 0, 1, -1 do
    local first = self:result_places(n, ordinal)[1]
    if first then return (self.lines:text(first[1])), self.lines:file(first[1]).path end
  end
end

--- The whole story of a request: every attempt, oldest first, with what was sent and what came back.
---@param custom_id string
---@return obatch.history.Story?
---@return string? message  names near ids, and for a number the request that has it
---@return string? code  "NOT_FOUND"
function History:story(custom_id)
  local ordinal = ask(self, custom_id)
  if ordinal then return story.tell(self, ordinal) end
  local near = ids.near(self.ids, custom_id)
  for i, id in ipairs(near) do near[i] = text.shown(id) end
  local number = math.tointeger(tonumber(custom_id:match("^%d+$")))
  local numbered = number and number > 0 and number <= self.ids.count and self.ids:id(number)
  return nil, ("%s: there is no request '%s'%s%s"):format(self.dir, text.shown(custom_id),
    numbered and ("; the one with this number is %s"):format(text.shown(numbered)) or "",
    #near > 0 and "; near it: " .. table.concat(near, ", ") or ""), "NOT_FOUND"
end

--- Tokens by model and by what became of the line that they were paid for. Reads all results.
---@return { model: string, class: string, requests: integer, tokens_in: integer, tokens_out: integer }[]
function History:usage() return usage.count(self) end

return history
