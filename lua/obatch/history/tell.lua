--- What has become of a job, and of one of its requests, in words for people: for `obatch status`, `obatch why` and
-- the REPL. All of it is printable, whatever the files hold.

local answer = require "obatch.report.answer"
local columns = require "obatch.columns"
local excerpt = require "obatch.report.excerpt"
local fs = require "obatch.fs"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local reasons = require "obatch.history.reasons"
local text = require "obatch.text"
local units = require "obatch.units"

local tell = {}

local shown, number = text.shown, units.number

--- Seconds after which the service ends a batch.
tell.WINDOW = 24 * 3600

--- Reasons, and batches in flight, that are told; lines of a request and of an answer.
local MOST_REASONS, MOST_BATCHES, MOST_LINES = 5, 20, 16

--- Bytes from which on a request is not shown as a whole, and its size is told.
local LONG_REQUEST = 2000

--- Characters around the place where an answer breaks.
local AROUND = 36

--- What JSON for other programs may hold: bytes that are not UTF-8 become %XX.
---@param value any
---@return any
function tell.encodable(value)
  if type(value) == "string" then return text.to_utf8(value) end
  if type(value) ~= "table" then return value end
  local copy = setmetatable({}, getmetatable(value))
  for key, entry in pairs(value) do copy[tell.encodable(key)] = tell.encodable(entry) end
  return copy
end

--- Lines that are added one by one.
local function new_lines(width)
  local list = {}
  local function say(format, ...) list[#list + 1] = format:format(...) end
  --- A line that is cut to the screen.
  local function say_cut(line)
    line = shown(line)
    list[#list + 1] = width and columns.cut(line, width) or line
  end
  return list, say, say_cut
end

-- ---------------------------------------------------------------- what all folders have

--- Who is working in a folder.
---@param holder string?
---@return string
function tell.holder(holder)
  return holder and "a run is working on it: " .. shown(holder) or "no run is working on it"
end

--- What a journal has heard of last; nil where that is nothing.
---@param events { event: table }[]
---@return string?
function tell.last_event(events)
  local last = events[#events] and events[#events].event
  if not last or math.type(last.time) ~= "integer" then return nil end
  return ("last heard of %s: %s%s"):format(units.ago(last.time), shown(tostring(last.event)),
    type(last.batch_id) == "string" and ", " .. shown(last.batch_id) or "")
end

--- A table of the batches that have not ended; nil where all have.
---@param batches obatch.history.Batch[]
---@param width integer?
---@return string?
function tell.in_flight(batches, width)
  local flying, rows, now = {}, {}, os.time()
  for _, batch in ipairs(batches) do
    if batch.status == "in flight" then flying[#flying + 1] = batch end
  end
  if #flying == 0 then return nil end
  table.sort(flying, function(a, b)
    local first, second = a.created_at or math.maxinteger, b.created_at or math.maxinteger
    if first ~= second then return first < second end
    return a.id < b.id
  end)
  for i = 1, math.min(#flying, MOST_BATCHES) do
    local batch = flying[i]
    local expires_at = batch.created_at and batch.created_at + tell.WINDOW
    rows[i] = { batch.id, batch.iteration, math.type(batch.requests) and number(batch.requests) or "?",
      math.type(batch.bytes) and units.bytes(batch.bytes) or "?",
      batch.created_at and units.ago(batch.created_at, now) or "?",
      expires_at and (now < expires_at and units.left(expires_at, now) or "over 24 h old") or "?" }
  end
  local told = columns.format(rows, { { "in flight", keep = true }, { "iteration", align = "right", drop = 2 },
    { "requests", align = "right" }, { "size", align = "right", drop = 1 }, { "created", drop = 3 },
    { "of its 24 h" } }, width)
  if #flying > #rows then told = told .. ("... and %d more\n"):format(#flying - #rows) end
  return (told:gsub("\n$", ""))
end

--- The most frequent reasons, one line each; nil where there is none.
---@param title string
---@param counted obatch.history.Reasons
---@param width integer?
---@return string?
function tell.reasons(title, counted, width)
  local top, others = counted:top(MOST_REASONS)
  if #top == 0 then return nil end
  local list, say, say_cut = new_lines(width)
  say("%s:", title)
  for _, entry in ipairs(top) do
    say_cut(("%9s  %s (%s)"):format(number(entry.count), entry.reason, entry.example))
  end
  if others > 0 then say("%9s  for other reasons", number(others)) end
  return table.concat(list, "\n")
end

-- ---------------------------------------------------------------- a job

--- The table of all iterations: one column each, as the correction loop ends with.
local function iterations_of(all, width)
  local list, rows, iterations = { { "iteration" } }, {}, {}
  for _, iteration in ipairs(all) do
    if iteration.submitted > 0 or iteration.state ~= "planned" then iterations[#iterations + 1] = iteration end
  end
  if #iterations == 0 then return nil end
  for i, iteration in ipairs(iterations) do list[i + 1] = { tostring(iteration.n), align = "right" } end
  local function add(title, value, always)
    local row, is_there = { title }, always
    for i, iteration in ipairs(iterations) do
      local cell = value(iteration)
      row[i + 1] = type(cell) == "number" and number(cell) or cell
      is_there = is_there or cell and cell ~= 0
    end
    if is_there then rows[#rows + 1] = row end
  end
  add("submitted", function(iteration) return iteration.submitted end, true)
  for _, class in ipairs(outcome.CLASSES) do
    add(class, function(iteration) return iteration.classes[class] end, class == "valid")
  end
  add("no outcome yet", function(iteration)
    local left = iteration.submitted
    for _, count in pairs(iteration.classes) do left = left - count end
    return left
  end)
  add("state", function(iteration) return iteration.state ~= "merged" and iteration.state or nil end)
  return (columns.format(rows, list, width):gsub("\n$", ""))
end

--- The tokens that a job has taken so far: by what the service said of whole batches; where it said nothing of one, by
--- all result lines.
---@param h obatch.History
---@return { tokens_in: integer, tokens_out: integer }
function tell.tokens(h)
  local sum = { tokens_in = 0, tokens_out = 0 }
  local function add(tokens_in, tokens_out)
    sum.tokens_in, sum.tokens_out = sum.tokens_in + tokens_in, sum.tokens_out + tokens_out
  end
  local NOTHING = { ["in flight"] = true, failed = true, lost = true }
  for _, iteration in ipairs(h.iterations) do
    for _, batch in ipairs(iteration.batches) do
      if batch.usage then
        add(batch.usage.input_tokens, batch.usage.output_tokens)
      elseif not NOTHING[batch.status] then
        sum.tokens_in, sum.tokens_out = 0, 0
        for _, entry in ipairs(h:usage()) do add(entry.tokens_in, entry.tokens_out) end
        return sum
      end
    end
  end
  return sum
end

--- Why requests have no good answer: those given up, and those that are to be sent again.
---@param h obatch.History
---@return obatch.history.Reasons given_up
---@return obatch.history.Reasons left
function tell.reasons_of(h)
  local given_up, left = reasons.new(), reasons.new()
  for item in h:items("give_up") do given_up:add(item.reason, item.custom_id) end
  for item in h:items("resend") do left:add(item.reason, item.custom_id) end
  return given_up, left
end

--- The files of results that a job has, with their sizes and what they are.
---@param h obatch.History
---@return { path: string, size: integer, what: string }[]
function tell.results(h)
  local list = {}
  for _, file in ipairs { { "final_results.jsonl", "one good result line per request, as received" },
    { "corrected_results.json", "custom_id -> answer" }, { "given_up.jsonl", "what was given up, and why" } } do
    local path = ("%s/%s"):format(h.dir, file[1])
    local stat = fs.stat(path)
    if stat then list[#list + 1] = { path = path, size = stat.size, what = file[2] } end
  end
  return list
end

--- What has become of a job.
---@param h obatch.History
---@param width integer?  places on the screen; nil: nothing is cut
---@return string text  lines, without a newline at the end
function tell.status(h, width)
  local list, say = new_lines(width)
  local function add(block)
    if block then list[#list + 1] = "\n" .. block end
  end
  local totals = h.totals
  say("%s: a job of %s%s", shown(h.dir), units.count(totals.requests, "request"),
    h.original and (" (%s)"):format(shown(h.original)) or "")
  say("%s", tell.holder(h.holder))
  list[#list + 1] = tell.last_event(h.state.events)
  for _, note in ipairs(h.notes) do say("%s", shown(note)) end

  add(iterations_of(h.iterations, width))
  local batches, waiting, is_judged_here = {}, 0, false
  for _, iteration in ipairs(h.iterations) do
    table.move(iteration.batches, 1, #iteration.batches, #batches + 1, batches)
    waiting = waiting + iteration.waiting.requests
    is_judged_here = is_judged_here or iteration.judged_by == "rules"
  end
  if is_judged_here then say("what no run has judged yet is judged here (a job of other rules: --policy)") end
  add(tell.in_flight(batches, width))
  local last = h.iterations[#h.iterations]
  if last and last.cut and totals.left > 0 then
    say("a budget keeps requests from being sent: %s", last.cut == "OVER"
      and "each of those left takes more than the whole of it" or "it is spent")
  end
  if waiting > 0 then say("%s in parts that have no batch yet", units.count(waiting, "request")) end

  add(("%s: %s have a good answer, %s given up, %s left, %s in flight"):format(units.count(totals.requests, "request"),
    number(totals.valid), number(totals.given_up), number(totals.left), number(totals.in_flight)))
  local tokens = tell.tokens(h)
  if tokens.tokens_in + tokens.tokens_out > 0 then
    say("tokens so far: %s in, %s out", number(tokens.tokens_in), number(tokens.tokens_out))
  end
  local given_up, left = tell.reasons_of(h)
  add(tell.reasons("given up", given_up, width))
  add(tell.reasons("left, to be sent again", left, width))
  if totals.left > left.count then say("%s not sent yet", units.count(totals.left - left.count, "request")) end

  local rows = {}
  for i, file in ipairs(tell.results(h)) do rows[i] = { file.path, units.bytes(file.size), file.what } end
  if #rows > 0 then
    add((columns.format(rows, { { "results", keep = true }, { "size", align = "right" }, { "", drop = 1 } }, width)
      :gsub("\n$", "")))
  end
  return table.concat(list, "\n")
end

-- ---------------------------------------------------------------- one request

--- The lines of a text, not many more than MOST_LINES of them on a screen, indented.
local function add_lines(list, content, width)
  local lines, rest = {}, 0
  for line in (content:gsub("\n$", "") .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  local most = width and #lines > MOST_LINES + 4 and MOST_LINES or #lines
  for i, line in ipairs(lines) do
    if i > most then
      rest = rest + #line + 1
    else
      -- As much as can be shown, before it is made printable: a line may be a whole book.
      local cut = text.cut(line, width and 4 * width or 4000)
      local printable = text.shown((cut:gsub("\t", "  ")))
      local fitting = width and columns.cut(printable, math.max(width - 6, 20)) or printable
      local left_out = #cut < #line and ("  [%s more]"):format(units.bytes(#line - #cut)) or ""
      list[#list + 1] = "      " .. fitting .. left_out
    end
  end
  if rest > 0 then
    list[#list + 1] = ("      ... %s more in %s"):format(units.bytes(rest), units.count(#lines - most, "line"))
  end
end

--- The place where an answer breaks: a few characters around it, and a caret below.
local function add_place(list, content, place)
  local first = math.min(place.first, #content + 1)
  local before = content:sub(math.max(1, first - AROUND), first - 1):gsub("^[\x80-\xBF]+", "")
  local is_cut = first - AROUND > 1 and not before:find("\n", 1, true)
  before = before:match("[^\n]*$")
  local after = text.cut(content:sub(first, first + AROUND - 1), AROUND):match("^[^\n]*")
  if after == "" and first <= #content then after = "(end of the line)" end
  if first > #content then after = "(end of the text)" end
  local head = (is_cut and "..." or "") .. text.shown((before:gsub("\t", " ")))
  list[#list + 1] = "      " .. head .. text.shown((after:gsub("\t", " ")))
  list[#list + 1] = "      " .. (" "):rep(columns.places(head)) .. ("^ byte %s"):format(number(place.first))
end

--- What is different in a request that was sent again: lines.
local function changes(before, after)
  local list, keys, seen = {}, {}, {}
  local old, new = json.decode(before), json.decode(after)
  old, new = type(old) == "table" and old.body, type(new) == "table" and new.body
  if type(old) ~= "table" or type(new) ~= "table" then return { "another line" } end
  for _, body in ipairs { old, new } do
    for key in pairs(body) do
      if not seen[key] then seen[key], keys[#keys + 1] = true, key end
    end
  end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(keys) do
    local a, b = old[key], new[key]
    local function word(value) return value == nil and "none" or json.encode(value) end
    if type(a) == "table" and type(b) == "table" then
      local is_more = json.is_array(a) and json.is_array(b) and #b > #a
      for i = 1, is_more and #a or 0 do is_more = is_more and word(a[i]) == word(b[i]) end
      if is_more then
        for i = #a + 1, #b do
          local is_message = type(b[i]) == "table" and type(b[i].role) == "string" and type(b[i].content) == "string"
          list[#list + 1] = ("%s: one more: %s"):format(tostring(key), is_message
            and ("%s: %s"):format(b[i].role, b[i].content) or word(b[i]))
        end
      elseif word(a) ~= word(b) then
        list[#list + 1] = ("%s is another one"):format(tostring(key))
      end
    elseif word(a) ~= word(b) then
      list[#list + 1] = ("%s: %s, before that %s"):format(tostring(key), text.cut(word(b), 200), text.cut(word(a), 200))
    end
  end
  return #list > 0 and list or { "another line" }
end

local FOLLOWED = { keep = "kept: this is its answer", resend = "sent again", give_up = "given up" }

--- What an attempt came to, in a few words.
local function verdict_of(attempt)
  if attempt.class then
    return attempt.reason and ("%s: %s"):format(attempt.class, attempt.reason) or attempt.class
  elseif attempt.action == "in flight" then
    return attempt.submitted_at and ("in flight since %s (%s); it ends at the latest %s"):format(
      units.time(attempt.submitted_at), units.ago(attempt.submitted_at), units.time(attempt.submitted_at + tell.WINDOW))
      or "in flight"
  end
  return "planned, not sent yet"
end

local function add_attempt(list, ordinal, attempt, before, told, width, is_last)
  local function cut(line)
    line = shown(line)
    return width and columns.cut(line, width) or line
  end
  list[#list + 1] = ""
  local head = ("%d. %siteration %d%s"):format(ordinal, attempt.duplicate and "another line of " or "",
    attempt.iteration, attempt.part and (", part %d"):format(attempt.part) or "")
  if attempt.batch_id then
    head = head .. (", %s"):format(attempt.batch_id)
    if attempt.batch_status and attempt.batch_status ~= "in flight" then
      head = ("%s (%s)"):format(head, attempt.batch_status)
    end
  end
  list[#list + 1] = shown(head)
  if attempt.submitted_at then
    list[#list + 1] = ("   submitted %s%s"):format(units.time(attempt.submitted_at), attempt.ended_at
      and (", ended after %s"):format(units.duration(attempt.ended_at - attempt.submitted_at)) or "")
  end
  local function place(path, line) return shown(line and ("%s:%d"):format(path, line) or path) end
  if attempt.request and not attempt.duplicate then
    local is_same = before and before.request == attempt.request
    local size = #attempt.request
    list[#list + 1] = ("   request %s%s"):format(place(attempt.request_path, attempt.request_line),
      is_same and " (the same as before)" or size > LONG_REQUEST and (" (%s)"):format(units.bytes(size)) or "")
    if not before or not before.request then
      add_lines(list, (excerpt.line(attempt.request)), width) -- long strings are cut in it
    elseif not is_same then
      for _, line in ipairs(changes(before.request, attempt.request)) do list[#list + 1] = cut("      " .. line) end
    end
  elseif not attempt.request then
    list[#list + 1] = "   request not kept"
  end
  if attempt.result then
    list[#list + 1] = ("   answer  %s%s"):format(place(attempt.result_path, attempt.result_line),
      attempt.tokens_in and (" (%s tokens in, %s out)"):format(number(attempt.tokens_in), number(attempt.tokens_out))
        or "")
    if attempt.text and attempt.text:find("%S") then
      add_lines(list, attempt.text, width)
    elseif attempt.class ~= "valid" then
      add_lines(list, (excerpt.line(attempt.result)), width)
    else
      list[#list + 1] = "      (blank)"
    end
  elseif attempt.class then
    list[#list + 1] = "   answer  none"
  end
  list[#list + 1] = shown("   " .. verdict_of(attempt))
  if attempt.text and attempt.text:find("%S") and attempt.class and attempt.class ~= "valid" then
    for _, one in ipairs(answer.places(attempt.text, attempt.class, attempt.reason, told)) do
      if one.kind == "json" or one.kind == "schema" or one.kind == "truncated" then
        add_place(list, attempt.text, one)
      end
    end
  end
  if attempt.decision then
    list[#list + 1] = cut(("   a reader's decision: %s%s (%s)"):format(attempt.decision.decision,
      attempt.decision.note ~= "" and ", " .. attempt.decision.note or "", attempt.decision.where))
  end
  if attempt.duplicate then
    list[#list + 1] = "   not used: the first good answer counts"
  elseif is_last and attempt.action == "resend" then
    list[#list + 1] = "   then: to be sent again"
  elseif FOLLOWED[attempt.action] then
    list[#list + 1] = "   then: " .. FOLLOWED[attempt.action]
  end
end

--- The whole story of a request.
---@param story obatch.history.Story
---@param width integer?  places on the screen; nil: nothing is cut to it
---@return string text  lines, without a newline at the end
function tell.story(story, width)
  local list, answers = {}, 0
  for _, attempt in ipairs(story.attempts) do answers = answers + (attempt.result and 1 or 0) end
  local where = { keep = "has a good answer", resend = "has no good answer yet, and is to be sent again",
    give_up = "was given up", ["in flight"] = "is in flight", ["not sent"] = "was not sent yet" }
  list[1] = shown(("%s in %s, request %s of %s, %s (%s)"):format(story.custom_id, story.dir, number(story.number),
    number(story.requests), where[story.action], units.count(answers, "answer")))
  if story.reason then list[2] = shown(("%s: %s"):format(story.class, story.reason)) end
  local before, last
  for i, attempt in ipairs(story.attempts) do last = attempt.duplicate and last or i end
  for i, attempt in ipairs(story.attempts) do
    add_attempt(list, i, attempt, before, story, width, i == last)
    if not attempt.duplicate then before = attempt end
  end
  return table.concat(list, "\n")
end

-- ---------------------------------------------------------------- one image

local BESIDE = { text = "has a text", blank = "is a blank page", label = "has a labelled text", none = "has no text" }

local function add_sending(list, ordinal, sending, beside, width)
  list[#list + 1] = ""
  local batch = sending.batch or {}
  list[#list + 1] = shown(("%d. %s%s%s"):format(ordinal, sending.name, batch.status and (" (%s)"):format(batch.status)
    or "", sending.is_under_way and ", under way" or ""))
  if batch.created_at then
    list[#list + 1] = ("   created %s%s"):format(units.time(batch.created_at), batch.ended_at
      and (", ended after %s"):format(units.duration(batch.ended_at - batch.created_at)) or "")
  end
  if sending.record_path then list[#list + 1] = "   record  " .. shown(sending.record_path) end
  local request = sending.request
  if type(request) == "table" then
    local words = {}
    for _, key in ipairs { "model", "endpoint", "detail", "max_tokens" } do
      if request[key] ~= nil then words[#words + 1] = tostring(request[key]) end
    end
    list[#list + 1] = "   request " .. shown(table.concat(words, ", "))
    if type(request.prompt) == "string" then add_lines(list, request.prompt, width) end
  end
  for _, line in ipairs(sending.lines) do
    list[#list + 1] = ("   answer  %s"):format(shown(("%s:%d"):format(line.path, line.number)))
    if line.text and line.text == beside then
      list[#list + 1] = "      (the text that is beside the image)"
    elseif line.text and line.text:find("%S") then
      add_lines(list, line.text, width)
    elseif line.class ~= "valid" then
      add_lines(list, (excerpt.line(line.result)), width)
    end
    list[#list + 1] = shown(("   %s%s"):format(line.class or "not JSON", line.reason and ": " .. line.reason or ""))
  end
  if sending.outcome then
    list[#list + 1] = shown(("   unresolved: %s: %s (%s)"):format(tostring(sending.outcome.class),
      tostring(sending.outcome.reason), tostring(sending.outcome.action)))
  end
  if sending.story then
    for line in (tell.story(sending.story, width and math.max(width - 3, 20)) .. "\n"):gmatch("([^\n]*)\n") do
      list[#list + 1] = line == "" and "" or "   " .. line
    end
  end
end

--- The whole story of an image.
---@param story obatch.history.ImageStory
---@param width integer?
---@return string text  lines, without a newline at the end
function tell.image(story, width)
  local list = {}
  list[1] = shown(("%s (custom_id %s) %s%s"):format(story.path, story.custom_id, BESIDE[story.state],
    story.is_gone and "; the image itself is gone" or ""))
  if story.text_path then
    list[#list + 1] = shown(("%s, %s"):format(story.text_path, units.bytes(story.bytes)))
    if story.text then add_lines(list, story.text, width) end
  end
  if story.before_path then list[#list + 1] = shown(story.before_path .. " is what it was before deep_clean") end
  if story.decision then
    list[#list + 1] = shown(("a reader's decision: %s%s (%s)"):format(story.decision.decision,
      story.decision.note ~= "" and ", " .. story.decision.note or "", story.decision.where))
  end
  for i, sending in ipairs(story.sent) do add_sending(list, i, sending, story.text, width) end
  if #story.attempts > 0 then list[#list + 1] = "" end
  for _, attempt in ipairs(story.attempts) do
    list[#list + 1] = shown(("%s: %s: %s"):format(tostring(attempt.run), tostring(attempt.class),
      tostring(attempt.reason)))
  end
  return table.concat(list, "\n")
end

return tell
