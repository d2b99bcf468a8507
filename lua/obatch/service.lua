--- What is at the service, for people: recent batches and files, what is known of one, what it has come to.
--
-- Everything here only reads. What a service leaves out, sends as null or writes in another way (times as text,
-- errors as a bare list) is taken as it comes; what it says is shown safely.

local cjson = require "cjson.safe"
local columns = require "obatch.columns"
local failed_batch = require "obatch.failed_batch"
local fs = require "obatch.fs"
local json = require "obatch.json"
local nearest = require "obatch.nearest"
local openai = require "obatch.openai"
local part_events = require "obatch.part"
local progress = require "obatch.progress"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

local service = {}
local present = openai.present

--- The most items that one page of the listing of batches, and of that of files, is asked for.
local BATCHES_A_PAGE, FILES_A_PAGE = 100, 1000

local TERMINAL = { completed = true, failed = true, expired = true, cancelled = true, canceled = true, gone = true }

-- ---------------------------------------------------------------- one batch

--- A string from a reply; nil for anything else, and for the empty one.
local function word(value) return type(value) == "string" and value ~= "" and value or nil end

local function count(value) return type(value) == "number" and math.tointeger(value) or nil end

--- A time in Unix seconds, also of services that write it as text ("2026-11-22T08:00:00Z").
local function time_of(value)
  if type(value) == "number" then return math.tointeger(value // 1) end
  if type(value) ~= "string" then return nil end
  local year, month, day, hour, minute, second = value:match("^(%d%d%d%d)-(%d%d)-(%d%d)[T ](%d%d):(%d%d):(%d%d)")
  if not year then return nil end
  -- Days since 1970 by the civil calendar: os.time would read local time.
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  if month <= 2 then year, month = year - 1, month + 12 end
  local days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 719469
  return math.tointeger(days * 86400 + tonumber(hour) * 3600 + tonumber(minute) * 60 + tonumber(second))
end

--- What is known of a batch, in plain values; nil where the service does not say. Strings are as the service sent
--- them: show them with columns.shown.
---@class obatch.service.Facts
---@field id string
---@field status string in lower case; "gone" after the service has forgotten it
---@field is_over boolean
---@field endpoint? string
---@field model? string
---@field created_at? integer Unix seconds, as all times
---@field expires_at? integer when its completion window closes
---@field ended_at? integer
---@field stages { [1]: string, [2]: integer }[] the statuses that it has been in, and since when, in order
---@field total? integer requests
---@field completed? integer
---@field failed? integer
---@field input_file_id? string
---@field output_file_id? string
---@field error_file_id? string
---@field tokens_in? integer
---@field tokens_out? integer
---@field tokens_cached? integer of tokens_in
---@field tokens_reasoning? integer of tokens_out
---@field errors { code: string?, message: string, param: string?, line: integer? }[] of its validation
---@field metadata { [1]: string, [2]: string }[] sorted by key
---@field run? string of the job that has sent it, where its metadata tells
---@field iteration? integer
---@field part? integer

--- What tells facts from the objects of the service, whatever fields these have.
local Facts = {}

local function facts_of(batch) return getmetatable(batch) == Facts and batch or service.facts(batch) end

local STAGES = { "in_progress", "finalizing", "cancelling", "completed", "failed", "expired", "cancelled" }

--- What is known of a batch.
---@param batch table a batch object, as the methods of an API client return it
---@return obatch.service.Facts
function service.facts(batch)
  local counts = type(batch.request_counts) == "table" and batch.request_counts or {}
  local usage = type(batch.usage) == "table" and batch.usage or {}
  local function detail(name, field)
    local details = usage[name]
    return type(details) == "table" and count(details[field]) or nil
  end
  local status = type(batch.status) == "string" and batch.status:lower() or "unknown"
  local facts = setmetatable({
    id = type(batch.id) == "string" and batch.id or "", status = status, is_over = TERMINAL[status] or false,
    endpoint = word(batch.endpoint), model = word(batch.model),
    created_at = time_of(batch.created_at), expires_at = time_of(batch.expires_at), stages = {},
    total = count(counts.total), completed = count(counts.completed), failed = count(counts.failed),
    input_file_id = word(batch.input_file_id), output_file_id = word(batch.output_file_id),
    error_file_id = word(batch.error_file_id),
    tokens_in = count(usage.input_tokens), tokens_out = count(usage.output_tokens),
    tokens_cached = detail("input_tokens_details", "cached_tokens"),
    tokens_reasoning = detail("output_tokens_details", "reasoning_tokens"),
    errors = failed_batch.list(batch, text.to_utf8), metadata = {},
  }, Facts)
  for _, stage in ipairs(STAGES) do
    local since = time_of(batch[stage .. "_at"])
    if since then
      facts.stages[#facts.stages + 1] = { stage, since }
      if TERMINAL[stage] then facts.ended_at = since end
    end
  end
  for key, value in pairs(type(batch.metadata) == "table" and batch.metadata or {}) do
    if type(key) == "string" and present(value) ~= nil then
      table.insert(facts.metadata, { key, tostring(value) })
    end
  end
  table.sort(facts.metadata, function(a, b) return a[1] < b[1] end)
  local tag = {}
  for _, pair in ipairs(facts.metadata) do tag[pair[1]] = pair[2] end
  facts.run, facts.iteration, facts.part = tag.obatch_run, math.tointeger(tag.obatch_iteration),
    math.tointeger(tag.obatch_part)
  return facts
end

--- "iteration 2, part 1"; "part 1"; nil when the batch has no tag of ours.
local function place_of(facts)
  if not facts.run then return nil end
  local words = {}
  if facts.iteration then words[1] = "iteration " .. facts.iteration end
  if facts.part then words[#words + 1] = "part " .. facts.part end
  return #words > 0 and table.concat(words, ", ") or nil
end

--- "12 of 400 requests done, 3 failed"; nil as long as nothing is counted.
local function counts_of(facts)
  if not facts.total or facts.total == 0 then return nil end
  local done = (facts.completed or 0) + (facts.failed or 0)
  local words = ("%s of %s requests done"):format(units.number(done), units.number(facts.total))
  if (facts.failed or 0) > 0 then words = ("%s, %s of them failed"):format(words, units.number(facts.failed)) end
  return words
end

--- A batch in one line: "in_progress: 12 of 400 requests done, 3 of them failed, 21 h 03 min left of its window".
---@param batch table|obatch.service.Facts a batch object, or what facts() made of one
---@param now? number Unix seconds; default: now
---@return string words fit for a terminal
function service.words(batch, now)
  local facts = facts_of(batch)
  local words = { counts_of(facts) }
  now = now or term.time()
  if facts.is_over then
    if facts.ended_at then words[#words + 1] = "ended " .. units.ago(facts.ended_at, now) end
  elseif facts.expires_at then
    words[#words + 1] = facts.expires_at > now and units.left(facts.expires_at, now) .. " of its window"
      or "its window is over"
  end
  local first = facts.errors[1]
  if first then words[#words + 1] = ("%s: %s"):format(first.code or "no code", first.message) end
  return columns.shown(facts.status .. (#words > 0 and ": " .. table.concat(words, ", ") or ""))
end

--- The words of a batch's line in a table, and its columns.
local BATCH_COLUMNS = {
  { "id", keep = true }, { "status" }, { "endpoint", drop = 2 }, { "completed", align = "right", drop = 8 },
  { "requests", align = "right", drop = 7 }, { "failed", align = "right", drop = 6 },
  { "age", align = "right", drop = 4 }, { "left", align = "right", drop = 5 }, { "run", drop = 1 },
  { "iteration, part", align = "right", drop = 3 },
}

local function number_of(value) return value and units.number(value) or nil end

--- Batches as a table: id, status, endpoint, requests, age, what is left of the completion window, and of which
--- job they are.
---@param list table[] batch objects, or what facts() made of them
---@param width? integer of the screen; nil: nothing is cut or left out
---@param layout? table see columns.format
---@return string text
function service.table(list, width, layout)
  local now, rows = term.time(), {}
  for i, batch in ipairs(list) do
    local facts = facts_of(batch)
    local is_open = not facts.is_over and facts.expires_at
    rows[i] = { facts.id, facts.status, facts.endpoint, number_of(facts.completed), number_of(facts.total),
      number_of(facts.failed), facts.created_at and units.duration(now - facts.created_at),
      is_open and (is_open > now and units.duration(is_open - now) or "over") or nil, facts.run,
      facts.run and facts.part and (facts.iteration and facts.iteration .. ", " or "") .. facts.part or nil }
  end
  return columns.format(rows, BATCH_COLUMNS, width, layout)
end

--- The most errors of its validation that are told of a batch.
local MAX_ERRORS = 20

--- Everything about a batch, for people: a line for each thing that is known.
---@param batch table a batch object
---@param width? integer of the screen
---@return string text
function service.describe(batch, width)
  local facts, now, out = service.facts(batch), term.time(), {}
  local function add(name, format, ...)
    for i = 1, select("#", ...) do
      if select(i, ...) == nil then return end
    end
    out[#out + 1] = ("  %-13s %s"):format(name, columns.shown(format:format(...)))
  end
  out[1] = columns.shown(facts.id)
  add("status", "%s", facts.status)
  add("requests", "%s", counts_of(facts))
  add("endpoint", "%s", facts.endpoint)
  add("model", "%s", facts.model)
  if facts.created_at then
    add("created", "%s, %s", units.time(facts.created_at, now), units.ago(facts.created_at, now))
    for _, stage in ipairs(facts.stages) do
      add((stage[1]:gsub("_", " ")), "%s, after %s", units.time(stage[2], now),
        units.duration(stage[2] - facts.created_at))
    end
  end
  if facts.expires_at and not facts.is_over then
    add("window closes", "%s, %s", units.time(facts.expires_at, now), units.left(facts.expires_at, now))
  end
  local function part_of(tokens, what)
    return (tokens or 0) > 0 and (" (%s %s)"):format(units.number(tokens), what) or ""
  end
  if facts.tokens_in and facts.tokens_out then
    add("tokens", "%s in%s, %s out%s", units.number(facts.tokens_in), part_of(facts.tokens_cached, "cached"),
      units.number(facts.tokens_out), part_of(facts.tokens_reasoning, "of reasoning"))
  end
  add("input file", "%s", facts.input_file_id)
  add("output file", "%s", facts.output_file_id)
  add("error file", "%s", facts.error_file_id)
  if facts.run then add("job", "run %s%s", facts.run, place_of(facts) and ", " .. place_of(facts) or "") end
  for _, pair in ipairs(facts.metadata) do
    if not pair[1]:find("^obatch_") then add("metadata", "%s = %s", pair[1], pair[2]) end
  end
  out[#out + 1] = ""
  if #facts.errors > 0 then
    local rows = {}
    for i = 1, math.min(#facts.errors, MAX_ERRORS) do
      local entry = facts.errors[i]
      rows[i] = { entry.line, entry.code, entry.param, entry.message }
    end
    out[#out + 1] = columns.format(rows, { { "line", align = "right" }, { "code", keep = true }, { "param", drop = 1 },
      { "error" } }, width)
    if #facts.errors > MAX_ERRORS then
      out[#out] = out[#out] .. ("... and %s more\n"):format(units.number(#facts.errors - MAX_ERRORS))
    end
  end
  return table.concat(out, "\n")
end

-- ---------------------------------------------------------------- listings

--- A number of items of a listing, and where to go on: one more is asked for to know whether there are more.
local function first_of(api, path, page, limit, after)
  local list, more = {}, nil
  local found, message, code = api:each(("%slimit=%d"):format(path, math.min(page, limit + 1)), function(item)
    if #list == limit then return true end
    openai.raw(item) -- the page need not be kept
    list[#list + 1] = item
  end, { after = after })
  if message then return nil, message, code end
  if found and #list > 0 then more = present(list[#list].id) end
  return list, more
end

--- The newest batches.
---@param api obatch.openai.Api
---@param limit integer the most to return, at least 1
---@param after? string the id of the batch behind which to begin
---@return table[]? batches batch objects, newest first
---@return string? more the id to go on after, nil when there are no more; or the message
---@return string? code
function service.recent(api, limit, after)
  return first_of(api, "/batches?", BATCHES_A_PAGE, limit, after)
end

--- The newest files.
---@param api obatch.openai.Api
---@param options { limit: integer, after: string?, purpose: string? }
---@return table[]? files file objects, newest first
---@return string? more the id to go on after; or the message
---@return string? code
function service.files(api, options)
  return first_of(api, options.purpose and "/files?purpose=" .. options.purpose .. "&" or "/files?", FILES_A_PAGE,
    options.limit, options.after)
end

local FILE_COLUMNS = {
  { "id", keep = true }, { "purpose", drop = 4 }, { "size", align = "right" }, { "age", align = "right", drop = 3 },
  { "expires in", align = "right", drop = 2 }, { "name" }, { "batch", drop = 1 },
}

--- Files as a table.
---@param list table[] file objects
---@param width? integer of the screen; nil: nothing is cut or left out
---@param layout? table see columns.format
---@param used_by? table<string, string> file id -> the batch that it is a file of, where that is known
---@return string text
function service.file_table(list, width, layout, used_by)
  local now, rows = term.time(), {}
  for i, file in ipairs(list) do
    local created, expires, bytes = time_of(file.created_at), time_of(file.expires_at), count(file.bytes)
    rows[i] = { word(file.id), word(file.purpose), bytes and units.bytes(bytes),
      created and units.duration(now - created), expires and (expires > now and units.duration(expires - now)
      or "over") or nil, word(file.filename), (used_by or {})[file.id] }
  end
  return columns.format(rows, FILE_COLUMNS, width, layout)
end

--- When a file was made, in Unix seconds; nil where the service does not say.
---@param file table a file object
---@return integer?
function service.created_at(file) return time_of(file.created_at) end

-- ---------------------------------------------------------------- names that are not quite right

--- How many of the newest ids are looked through for one that is near.
local NEAR_LOOKS, MAX_NEAR = 500, 3

--- Whether somebody who wrote `id` may have meant `other`: the beginning or a piece of it, or a slip of the hand.
local function is_near(id, other)
  if id == "" or other == id then return false end
  local bare = id:lower():gsub("^batch_", ""):gsub("^file[-_]", "")
  return #bare >= 4 and other:lower():find(bare, 1, true) ~= nil or nearest.distance(id, other, 3) <= 3
    or #id > #other and id:find(other, 1, true) ~= nil
end

--- Ids of recent batches, or files, that look like one that the service does not know.
---@param api obatch.openai.Api
---@param id string
---@param kind? "batches"|"files" default: batches
---@return string[] ids at most three; none when there are none, or the service could not be asked
function service.near(api, id, kind)
  local found, looked = {}, 0
  api:each(kind == "files" and "/files?limit=500" or "/batches?limit=100", function(item)
    looked = looked + 1
    if type(item.id) == "string" and is_near(id, item.id) then found[#found + 1] = item.id end
    return looked >= NEAR_LOOKS or #found >= MAX_NEAR
  end, { once = true })
  return found
end

--- Why a batch, a file or a listing could not be had, and what helps: the address that never answered, an id that
--- is another thing's or nearly one that exists.
---@param api obatch.openai.Api
---@param message string as the client's method gave it
---@param code string
---@param id? string that was asked for
---@param kind? "batches"|"files" what it should be one of; default: batches
---@return string words
function service.explain(api, message, code, id, kind)
  if not api.reached and (code == "CONNECT" or code == "DNS" or code == "TIMEOUT") then
    return message .. "\nNothing has answered at this address: is it right? It is OPENAI_BASE_URL, or --api-url"
  elseif code == "NOT_FOUND" and not id then
    return message .. "\nThis address has no such listing: is it right? It is OPENAI_BASE_URL, or --api-url"
  elseif code ~= "NOT_FOUND" or not id then
    return message
  elseif kind == "files" and id:find("^batch_") then
    return ("%s is a batch, not a file. See it: obatch batches show %s"):format(id, id)
  elseif kind ~= "files" and id:find("^file[-_]") then
    return ("%s is a file, not a batch. See what there is: obatch batches list"):format(id)
  end
  local near = service.near(api, id, kind)
  if #near > 0 then return ("%s\nDid you mean %s?"):format(message, table.concat(near, " or ")) end
  return ("%s\nSee what there is: obatch %s list. A key of another project does not see it"):format(message,
    kind or "batches")
end

--- For what is no JSON though the client could read it.
local lenient = cjson.new()
lenient.encode_invalid_numbers("null")

--- An object as the service sent it, in one line of valid JSON: JSON text has line breaks only between its tokens.
--- Where the service has sent what other programs cannot read (NaN, bytes that are no UTF-8), that is put right.
---@param object table a batch or file object that a method of the client returned
---@return string line without a line break
function service.raw_line(object)
  local raw = openai.raw(object)
  if not raw or not json.decode(raw) then raw = text.to_utf8(lenient.encode(object) or "null") end
  return (raw:gsub("[\r\n]+[ \t]*", ""))
end

-- ---------------------------------------------------------------- the files of a batch

local ID_FIELDS = { input = "input_file_id", output = "output_file_id", errors = "error_file_id" }

--- Brings a file of a batch here, whole or not at all: <id>_input.jsonl, <id>_output.jsonl or <id>_errors.jsonl. One
--- that is there with the size that the service names is not fetched again; another one is not replaced.
---@param api obatch.openai.Api
---@param batch table a batch object
---@param kind "input"|"output"|"errors"
---@param dir? string where to; default: the current folder
---@return string? path
---@return integer|string|nil bytes or the message
---@return string? code ABSENT when the batch has no such file, EXISTS when another file has the name
function service.download(api, batch, kind, dir)
  local field = assert(ID_FIELDS[kind], "the kind of a batch's file is 'input', 'output' or 'errors'")
  local facts = service.facts(batch)
  local file_id = facts[field]
  if not file_id then
    return nil, ("batch %s (%s) has no %s file%s"):format(facts.id, facts.status, kind == "errors" and "error" or kind,
      facts.is_over and "" or ": it has not ended"), "ABSENT"
  end
  local path = ("%s%s_%s.jsonl"):format(dir and dir .. "/" or "", part_events.file_name(facts.id), kind)
  local stat = fs.stat(path)
  if stat then
    local object, message, code = api:file(file_id)
    if not object then return nil, message, code end
    local bytes = count(object.bytes)
    if stat.size == bytes then return path, bytes end
    return nil, ("%s is there, and is not file %s of the service (%d bytes, not %s): move it away, or name another "
      .. "folder"):format(path, file_id, stat.size, bytes or "unknown"), "EXISTS"
  end
  local bytes, message, code = api:download(file_id, path)
  if not bytes then return nil, message, code end
  return path, bytes
end

-- ---------------------------------------------------------------- waiting

--- The first look comes after so many seconds; the pause grows by half each time.
local FIRST_PAUSE = 2

--- Looks at which a batch that was there may be unknown before it counts as gone.
local MAX_UNKNOWN = 10

--- A fault that no later look can mend.
local FINAL = { AUTH = true, QUOTA = true, REFUSED = true, INTERRUPTED = true, URL = true, TLS = true }

--- Every batch as it is now: id -> batch object. Few requests: what the listing does not show, or shows as ended, is
--- asked for by itself. missing: id -> message of those that the service does not know. Or nil, message, CODE.
local function look(api, ids, no_listing)
  local seen = {}
  if #ids > 1 and not no_listing.is_so then
    local listed, message, code = api:batches(ids)
    -- Some compatible servers have no listing.
    no_listing.is_so = code == "NOT_FOUND" or code == "REFUSED" or code == "PROTOCOL"
    if not listed and not no_listing.is_so then return nil, message, code end
    seen = listed or seen
  end
  local missing = {}
  for _, id in ipairs(ids) do
    if not seen[id] or service.facts(seen[id]).is_over then
      local batch, message, code = api:batch(id, true)
      if batch then
        seen[id] = batch
      elseif code == "NOT_FOUND" then
        seen[id], missing[id] = nil, message
      else
        return nil, message, code
      end
    end
  end
  return seen, missing
end

--- What watch() does.
---@class obatch.service.WatchOptions
---@field poll_wait number seconds at most between two looks
---@field on_change fun(facts: obatch.service.Facts, batch: table?, previous: string?): boolean? hears of every change
---of a batch's status or counts, first of what they are when the watch begins; the batch is nil when it is gone. true
---ends the watch
---@field on_look fun(list: obatch.service.Facts[], trouble: string?) hears, after each look, of all of them in the
---order of ids, and of what is wrong (nil: nothing)

--- Looks at batches again and again until all have ended. An outage does not end it, once the service has answered.
---@param api obatch.openai.Api
---@param ids string[]
---@param options obatch.service.WatchOptions
---@return obatch.service.Facts[]? list as they have ended, in the order of ids
---@return string? message
---@return string? code NOT_FOUND for an id that the service does not know, STOPPED by on_change, INTERRUPTED, AUTH, ...
---@return string? id the one that is not known
function service.watch(api, ids, options)
  local states, unknown, no_listing, pause = {}, {}, {}, FIRST_PAUSE
  while true do
    local open = {}
    for _, id in ipairs(ids) do
      if not (states[id] and states[id].is_over) then open[#open + 1] = id end
    end
    local seen, missing, code = look(api, open, no_listing)
    local trouble
    if not seen then
      trouble = missing
      -- An address that answers nonsense before it has named a batch is another one's.
      if FINAL[code] or not api.reached or code == "PROTOCOL" and not next(states) then return nil, trouble, code end
    else
      for _, id in ipairs(open) do
        if missing[id] and not states[id] then return nil, missing[id], "NOT_FOUND", id end
      end
      for _, id in ipairs(open) do
        local before = states[id]
        unknown[id] = missing[id] and (unknown[id] or 0) + 1 or nil
        trouble = missing[id] or trouble
        local batch, facts = seen[id], nil
        if batch then
          facts = service.facts(batch)
          facts.id = id
        elseif unknown[id] >= MAX_UNKNOWN then
          facts = service.facts { id = id, status = "gone" }
        end
        if facts and not (before and before.status == facts.status and before.completed == facts.completed
          and before.failed == facts.failed and before.total == facts.total) then
          if options.on_change(facts, batch, before and before.status) then return nil, "stopped", "STOPPED" end
        end
        states[id] = facts or before
      end
    end
    local list, is_over = {}, true
    for _, id in ipairs(ids) do
      if states[id] then list[#list + 1] = states[id] end
      is_over = is_over and states[id] ~= nil and states[id].is_over
    end
    options.on_look(list, trouble)
    if is_over then return list end
    local ok, message, reason = progress.sleep(math.min(pause, options.poll_wait))
    if not ok then return nil, message, reason end
    pause = pause * 1.5
  end
end

return service
