--- A journal read without touching anything, and the state it speaks of. Where obatch.journal and
-- obatch.job stop at the first fault, this goes on and reports it.

local fs = require "obatch.fs"
local json = require "obatch.json"
local part_events = require "obatch.part"
local report = require "obatch.fsck.report"

local replay = {}
local name = report.name

-- ---------------------------------------------------------------- the journal's lines

--- The events of a journal. What is wrong is told `found`: .torn, when the last line is cut off; .damaged, how many
--- earlier lines are no events.
---@param path string
---@param found obatch.fsck.Report
---@return table|nil events  a list of { number=, event= }; .torn, .damaged
---@return string|nil message
---@return string|nil code
function replay.read(path, found)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local events, position, number = { damaged = 0, bytes = #content }, 1, 0
  while position <= #content do
    local stop = content:find("\n", position, true)
    number = number + 1
    if not stop then
      events.torn = number
      break
    end
    local line = content:sub(position, stop - 1)
    local event, problem, at = json.decode(line)
    if stop == #content and line:find("\0", 1, true) then -- torn by a power cut, see obatch.journal
      events.torn = number
    elseif type(event) == "table" and type(event.event) == "string" then
      events[#events + 1] = { number = number, event = event }
    else
      events.damaged = events.damaged + 1
      found:fault("damaged journal lines", ("%s:%d: byte %d"):format(path, number, position - 1 + (at or 1)),
        problem or "not an event", "No command goes on with this journal: restore it from a copy, or delete this "
        .. "line if you know that what it said is not needed")
    end
    position = stop + 1
  end
  if events.torn then
    found:note("torn journal lines", ("%s:%d"):format(path, events.torn), "the last line is cut off: what it was to "
      .. "say had not happened yet", "The next run drops it")
  end
  return events
end

-- ---------------------------------------------------------------- the state of a job

local State = {}
State.__index = State

--- BASE/iteration_N/NAME, where each %d in NAME is N; as in obatch.job.
---@param iteration integer
---@param file string
---@return string path
function State:path(iteration, file)
  return ("%s/iteration_%d/%s"):format(self.dir, iteration, (file:gsub("%%d", tostring(iteration))))
end

---@param iteration integer
---@return string path
function State:ids_path(iteration) return self:path(iteration, "submitted_batch_ids_iteration_%d.txt") end

---@param iteration integer
---@return string path
function State:merged_path(iteration) return self:path(iteration, "merged_results_iteration_%d.jsonl") end

--- Whether a name from a journal names a file in its folder, and nothing else.
local function is_file_name(value)
  return type(value) == "string" and value ~= "" and value ~= "." and value ~= ".." and not value:find("[/\0]")
end

local function is_batch_id(value) return type(value) == "string" and value ~= "" end

local function are_file_names(list)
  for _, file in ipairs(type(list) == "table" and list or {}) do
    if not is_file_name(file) then return false end
  end
  return type(list) == "table"
end

local function is_count(value) return value == nil or math.type(value) == "integer" end

--- Whether a value from a journal is a part as it is planned (see obatch.part).
---@param part any
---@return boolean|nil
function replay.is_part(part)
  return type(part) == "table" and math.type(part.part) == "integer" and is_file_name(part.file)
    and is_count(part.lines) and is_count(part.bytes) and is_count(part.requeued) and part.batch_id == nil
    and (part.previous_id == nil or is_batch_id(part.previous_id))
end

--- Events of a job by their names: function(state, event) -> what is wrong with it, nil for nothing.
local apply = {}

function apply.started(state, event)
  if state.run then return "a second 'started'" end
  if type(event.run) ~= "string" or type(event.original) ~= "table" or type(event.original.path) ~= "string" then
    return "'started' does not name the run and the request file"
  end
  state.run, state.original = event.run, event.original
end

--- Takes in what the request file is known by, where an event says so.
local function note_pieces(state, pieces)
  if type(pieces) ~= "table" then return pieces == nil end
  for _, piece in ipairs(pieces) do
    local sound = type(piece) == "table" and math.type(piece.bytes) == "integer"
      and type(part_events.digest_of(piece)) == "string"
    if not sound then return false end
  end
  if state.original then state.original.pieces = pieces end
  return true
end

--- Whether iteration n may be planned now, or be taken over, which several may before the first of them is merged.
local function is_next(state, n, is_adopted)
  local last = state.iterations[#state.iterations]
  if math.type(n) ~= "integer" then return false end
  if n == #state.iterations + 1 then return is_adopted or not last or last.merged end
  if not last or n ~= last.n or last.merged then return false end
  for _, part in ipairs(last.parts) do -- planned anew, where nothing of it has left the machine
    if part.file_id or part.batch_id or part.upload_doubt or part.requeued or part.done and not part.is_empty then
      return false
    end
  end
  return true
end

function apply.planned(state, event)
  if not is_next(state, event.iteration) then
    return ("iteration %s is planned out of turn"):format(name(event.iteration))
  end
  local parts, sound = {}, type(event.parts) == "table"
  for i, part in ipairs(sound and event.parts or {}) do
    sound = sound and replay.is_part(part)
    parts[i] = part
  end
  if not sound then return "'planned' does not name its parts" end
  if not note_pieces(state, event.pieces) then return "'planned' does not name the pieces of the request file" end
  state.iterations[event.iteration] = { n = event.iteration, parts = parts, cut = event.cut }
end

function apply.adopted(state, event)
  if not is_next(state, event.iteration, true) then
    return ("iteration %s begins out of turn"):format(name(event.iteration))
  end
  if type(event.batch_ids) ~= "table" then return "'adopted' does not name its batches" end
  if not note_pieces(state, event.pieces) then return "'adopted' does not name the pieces of the request file" end
  local parts = {}
  for i, id in ipairs(event.batch_ids) do
    if not is_batch_id(id) then return "'adopted' does not name its batches" end
    parts[i] = { part = i, adopted = true, batch_id = id }
    state.batches[id] = { iteration = event.iteration, part = i }
  end
  state.iterations[event.iteration] = { n = event.iteration, parts = parts, adopted = true }
end

function apply.merged(state, event)
  local iteration = state.iterations[event.iteration]
  if not iteration then return ("there is no iteration %s"):format(name(event.iteration)) end
  local wrong = iteration.merged and "it was merged before" or nil
  for _, part in ipairs(iteration.parts) do
    if not part.done then wrong = ("part %d was not done"):format(part.part) end
  end
  iteration.merged, iteration.merged_as = true, part_events.digest_of(event) and event
  return wrong and ("'merged' of iteration %d, but %s"):format(event.iteration, wrong)
end

--- What an event needs of its part before it: function(part, event) -> what is wrong.
local before = {}

function before.refused(part, event)
  local doubt = event.what == "upload" and "upload_doubt" or "create_doubt"
  if not part[doubt] then return "without an intent" end
end

function before.uploaded(part, event)
  if not part.upload_doubt then return "without an intent" end
  if type(event.file_id) ~= "string" then return "without a file id" end
end

function before.created(part, event)
  if not is_batch_id(event.batch_id) then return "without a batch id" end
  if part.batch_id then return ("though its batch %s exists"):format(name(part.batch_id)) end
  if not part.create_doubt then return "without an intent" end
end

local function of_its_batch(part, event)
  if event.batch_id ~= nil and event.batch_id ~= part.batch_id then
    return ("for batch %s, which is not its batch %s"):format(name(event.batch_id), name(part.batch_id))
  end
end

before.terminal, before.requeued = of_its_batch, of_its_batch

function before.fetched(_, event)
  if type(event.kind) ~= "string" or event.file ~= false and not is_file_name(event.file) then
    return "names no file in its folder"
  end
end

function before.downloaded(part, event)
  if not are_file_names(event.files) then return "names no files in its folder" end
  return of_its_batch(part, event)
end

function before.lost(part, event)
  if not part.done then return "though nothing of it was downloaded" end
  if not is_file_name(event.file) then return "names no file in its folder" end
  return of_its_batch(part, event)
end

function before.rejected(part, event)
  if not is_file_name(event.file) or event.successor ~= nil and not replay.is_part(event.successor) then
    return "names no file in its folder"
  end
  return of_its_batch(part, event)
end

function before.split(_, event)
  for _, successor in ipairs(type(event.successors) == "table" and event.successors or { false }) do
    if not replay.is_part(successor) then return "names no file in its folder" end
  end
end

before.intent, before.dropped, before.deleted = function() end, function() end, function() end

--- Applies an event to its part, in the journal of a job or of a batch folder.
---@param part table
---@param event table
---@return string|nil problem      what is wrong with it
---@return table[]|nil successors  the parts that have its requests now, which are new
function replay.apply(part, event)
  local check = before[event.event]
  if not check then return ("unknown event '%s' (of a newer obatch?)"):format(name(event.event)) end
  local wrong = check(part, event)
  if wrong then return ("'%s' of part %d %s"):format(event.event, part.part, wrong) end
  part_events.apply(part, event)
  return nil, event.event == "split" and event.successors or event.event == "rejected" and { event.successor } or {}
end

local function find_part(iteration, number)
  for _, part in ipairs(iteration.parts) do
    if part.part == number then return part end
  end
end

--- Applies an event of a part; returns what is wrong with it.
local function apply_to_part(state, event)
  local iteration = state.iterations[event.iteration]
  local part = iteration and find_part(iteration, event.part)
  if not part then
    return ("'%s' for part %s of iteration %s, which is not planned"):format(name(event.event), name(event.part),
      name(event.iteration))
  end
  if part.done and event.event ~= "deleted" and event.event ~= "lost" then
    return ("'%s' of part %d though it was done"):format(event.event, part.part)
  end
  local wrong, successors = replay.apply(part, event)
  if wrong then return wrong end
  if event.event == "created" then state.batches[event.batch_id] = event end
  if event.event == "dropped" then part.is_dropped, iteration.cut = true, "SPENT" end
  for _, successor in ipairs(successors) do
    successor.of, iteration.parts[#iteration.parts + 1] = part.part, successor
  end
end

--- The state of a job by its journal, without its lock: .dir, .run, .original, .iterations, .batches (every batch id
--- there ever was), .events, with the paths of obatch.job.
---@param dir string
---@param found obatch.fsck.Report
---@return table|nil state
---@return string|nil message
---@return string|nil code
function replay.job(dir, found)
  local path = dir .. "/journal.jsonl"
  local events, message, code = replay.read(path, found)
  if not events then return nil, message, code end
  local state = setmetatable({ dir = dir, iterations = {}, batches = {}, events = events }, State)
  for _, entry in ipairs(events) do
    local event, wrong = entry.event, nil
    if apply[event.event] then
      wrong = apply[event.event](state, event)
    elseif before[event.event] then
      wrong = apply_to_part(state, event)
    else
      state.unknown = true
      found:fault("unknown events", ("%s:%d"):format(path, entry.number), ("unknown event '%s' (of a newer obatch?)")
        :format(name(event.event)), "Use the obatch that wrote it")
    end
    if wrong then
      state.odd = true
      found:fault("events that make no sense", ("%s:%d"):format(path, entry.number), wrong,
        "Were lines deleted, or two journals mixed? Restore the journal from a copy")
    end
  end
  if not state.run and #events > 0 then
    state.odd = true
    found:fault("events that make no sense", path .. ":1", "the journal does not begin with 'started'",
      "Restore it from a copy")
  end
  return state
end

--- The state of a job that an earlier script made, from its files: each iteration that has a list of batch
--- ids, request files or merged results.
---@param dir string
---@return table|nil state
function replay.files(dir)
  local state = setmetatable({ dir = dir, iterations = {}, batches = {}, events = { damaged = 0 }, is_foreign = true },
    State)
  while true do
    local n = #state.iterations + 1
    local iteration, is_there = { n = n, parts = {}, adopted = true }, false
    for id in (fs.read(state:ids_path(n)) or ""):gmatch("[^%s]+") do
      iteration.parts[#iteration.parts + 1] = { part = #iteration.parts + 1, adopted = true, batch_id = id }
    end
    for _, file in ipairs(fs.list(state:path(n, "")) or {}) do
      is_there = is_there or file:find("_iteration_" .. n, 1, true) ~= nil
    end
    iteration.merged = fs.stat(state:merged_path(n)) ~= nil
    if not is_there then return state end
    state.iterations[n] = iteration
  end
end

return replay
