--- What the report shows of a correction loop's job: the run at a glance, every request without a good answer
--- with all its attempts, and a sample of those that have one.

local answer = require "obatch.report.answer"
local decisions = require "obatch.decisions"
local excerpt = require "obatch.report.excerpt"
local fs = require "obatch.fs"
local history = require "obatch.history"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local tokens = require "obatch.tokens"
local units = require "obatch.units"

local job = {}

--- The sample is the same each time, so that two readers look at the same items.
local SEED = 20240229

--- Says yes for `wanted` of `all` asked, each as likely as the others.
local function sampler(wanted, all)
  local state = SEED
  return function()
    state = state * 6364136223846793005 + 1442695040888963407 -- Knuth's MMIX
    local share = (state >> 11) / (1 << 53)
    all = all - 1
    if share * (all + 1) >= wanted then return false end
    wanted = wanted - 1
    return true
  end
end

--- The rows of usage with what they cost, nil where no price is known; for head.usage.
---@param rows { model: string?, class: string, requests: integer, tokens_in: integer, tokens_out: integer }[]
---@param prices table As obatch.prices.
---@return table
function job.with_costs(rows, prices)
  local list = json.array {}
  for i, row in ipairs(rows) do
    list[i] = { model = excerpt.unicode(row.model), class = row.class, requests = row.requests,
      tokens_in = row.tokens_in, tokens_out = row.tokens_out,
      cost = row.model and (tokens.cost(prices, row.model, row.tokens_in, row.tokens_out)) or nil }
  end
  return list
end

--- The batches of a history, for head.batches.
---@param batches table[]
---@param into table
function job.add_batches(batches, into)
  for _, batch in ipairs(batches) do
    local copy = {}
    for _, key in ipairs { "id", "iteration", "part", "model", "endpoint", "status", "requests", "bytes",
      "created_at", "ended_at", "reason" } do
      local value = batch[key]
      copy[key] = type(value) == "string" and excerpt.unicode(value) or value
    end
    into[#into + 1] = copy
  end
end

--- One attempt; `before` is the one before it.
local function show_attempt(attempt, before, rules)
  local shown = { iteration = attempt.iteration, part = attempt.part, batch = excerpt.unicode(attempt.batch_id),
    class = attempt.class, reason = excerpt.unicode(attempt.reason), action = attempt.action,
    tokens_in = attempt.tokens_in, tokens_out = attempt.tokens_out, submitted_at = attempt.submitted_at,
    ended_at = attempt.ended_at, path = attempt.result_path and excerpt.unicode(attempt.result_line
      and ("%s:%d"):format(attempt.result_path, attempt.result_line) or attempt.result_path) }
  if attempt.text then
    local places = answer.places(attempt.text, attempt.class, attempt.reason, rules)
    for key, value in pairs(excerpt.of(attempt.text, places)) do shown[key] = value end
  end
  if attempt.result and not (attempt.text and attempt.text:find("%S")) then
    shown.result = excerpt.line(attempt.result)
  end
  if attempt.request and not (before and before.request == attempt.request) then
    shown.request, shown.images = excerpt.line(attempt.request)
  end
  return shown
end

--- An item with its attempts, as the page has it.
local function show_item(item, story, answer_line, rules)
  local shown = { id = excerpt.unicode(item.custom_id), class = item.class, reason = excerpt.unicode(item.reason),
    action = item.action, iteration = item.iteration, attempts = json.array {} }
  if item.class ~= "valid" then
    shown.group = excerpt.unicode(answer.group(item.reason or item.action or ""))
  end
  local counts = answer_line and outcome.text(answer_line)
  for i, attempt in ipairs(story and story.attempts or {}) do
    shown.attempts[i] = show_attempt(attempt, story.attempts[i - 1], rules)
    local is_it = attempt.text and (not counts or attempt.text == counts)
    if is_it and not (counts and shown.sha256) then
      shown.answer, shown.sha256 = i - 1, fs.sha256_text(attempt.text)
    end
  end
  return shown
end

--- What readers have decided about the answers of a job: by custom_id and hash.
local function known_decisions(dir)
  local known = {}
  for _, decision in ipairs(fs.stat(dir .. "/decisions.jsonl") and decisions.read(dir .. "/decisions.jsonl") or {}) do
    if decision.custom_id and decision.sha256 then
      known[decision.custom_id .. "\0" .. decision.sha256] = { decision = decision.decision,
        note = excerpt.unicode(decision.note) }
    end
  end
  return known
end

--- Writes the items of a job into a page, one at a time.
---@param dir string
---@param options table rules (nil: the default ones), prices, original, valid (how many good answers are shown),
--- interrupted().
---@param page table Of obatch.report.page.
---@return table? head What the page tells of all of it, but .title and .dir.
---@return string? message
---@return string? code
function job.write(dir, options, page)
  local h <close>, message, code = history.open(dir, { rules = options.rules, original = options.original })
  if not h then return nil, message, code end
  local totals, known = h.totals, known_decisions(dir)
  local stage = progress.stage("writing", { total = totals.requests, unit = "requests" })
  local is_chosen = sampler(options.valid, totals.valid)
  local hidden, unseen, shown_valid, seen = 0, 0, 0, 0
  for item in h:items() do
    seen = seen + 1
    local is_valid = item.class == "valid"
    if is_valid and not is_chosen() then
      hidden = hidden + 1
    elseif not is_valid and (item.attempts or 0) == 0 and (item.action == "in flight" or item.action == "not sent") then
      unseen = unseen + 1
    else
      shown_valid = shown_valid + (is_valid and 1 or 0)
      local story = h:story(item.custom_id)
      local shown = show_item(item, story, is_valid and h:answer_line(item.custom_id), h.rules)
      shown.decision = shown.sha256 and known[item.custom_id .. "\0" .. shown.sha256]
      local ok
      ok, message, code = page:item(shown)
      if not ok then return nil, message, code end
    end
    stage:update(seen)
    if options.interrupted() then return nil, "interrupted", "INTERRUPTED" end
  end

  local head = { kind = "job", totals = { requests = totals.requests, valid = totals.valid, given_up = totals.given_up,
    left = totals.left, in_flight = totals.in_flight }, iterations = json.array {}, batches = json.array {},
    usage = job.with_costs(h:usage(), options.prices), hidden = hidden, notes = json.array {}, original = h.original }
  for n, iteration in ipairs(h.iterations) do
    head.iterations[n] = { n = iteration.n or n, state = iteration.state, submitted = iteration.submitted,
      classes = iteration.classes }
    job.add_batches(iteration.batches or {}, head.batches)
  end
  if hidden > 0 then
    head.sample = ("%s of %s valid ones, picked at random"):format(units.number(shown_valid),
      units.number(totals.valid))
  end
  local function note(format, ...) head.notes[#head.notes + 1] = excerpt.unicode(format:format(...)) end
  if unseen > 0 then
    note("%s requests are in flight, or not sent yet, and have no answer to show.", units.number(unseen))
  end
  for _, sentence in ipairs(h.notes or {}) do note("%s", sentence) end
  if h.holder then note("A run was going on when this page was written (%s).", h.holder) end
  return head
end

return job
