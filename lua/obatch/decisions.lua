--- A reader's decisions: JSONL, one object a line, as the report page exports it.
--
--   {"custom_id": "page-7", "decision": "accept"|"reject", "note": "...", "sha256": "...", "path": "scans/page-7.png"}
--
-- `sha256` says which text was looked at, so that a decision never applies to another one: that of an answer's
-- text in a job (absent or null for a request that came back without any), that of the bytes of the sidecar
-- beside an image. `path` is there for images only.
--
-- What was taken up is kept where it applies: in BASE/decisions.jsonl of a job, in decisions.jsonl of each folder of
-- images. Deleting a line there undoes the decision.

local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local job = require "obatch.job"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local text = require "obatch.text"

local decisions = {}

--- The longest note in bytes: it becomes part of a request.
decisions.MAX_NOTE = 10000

--- A longer line is none of a decision.
local MAX_LINE = 1000 * 1000

--- How many faults of one file are told.
local MAX_FAULTS = 20

---@class obatch.Decision
---@field custom_id? string
---@field path? string         of the image, as bytes
---@field decision "accept"|"reject"
---@field note string          "" where there is none
---@field sha256? string       of the text that was looked at, hex digits; nil: there was none
---@field where string         file and line
---@field iteration? integer   of a job's own file: the last iteration whose answers were there when it was taken up;
---                             nil: there was none yet, or the line was put there by hand
---@field attempts? integer    of a folder's own file: answers about this text that were not good by then

local FIELDS = { custom_id = "/custom_id", decision = "/decision", note = "/note", sha256 = "/sha256", path = "/path",
  iteration = "/iteration", attempts = "/attempts" }

--- A value of a record; nil for null, too.
local function given(value)
  if value ~= json.null then return value end
end

local function is_path(value)
  if type(value) == "table" then -- see image_record.encode_path
    return type(value.hex) == "string" and value.hex:find("^%x+$") and #value.hex % 2 == 0
  end
  return type(value) == "string" and value ~= ""
end

--- What is wrong with a record of a file of decisions; nil when nothing is.
local function fault_of(record)
  local id, path, note, sha256 = given(record.custom_id), given(record.path), given(record.note), given(record.sha256)
  local spoiled, why = next(record.spoiled or {})
  if spoiled then return ('"%s": %s'):format(spoiled, why) end
  if id ~= nil and (type(id) ~= "string" or id == "") then return '"custom_id" must be a string' end
  if path ~= nil and not is_path(path) then return '"path" must be a string' end
  if id == nil and path == nil then return 'there is no "custom_id"' end
  if record.decision ~= "accept" and record.decision ~= "reject" then
    return ('"decision" must be "accept" or "reject"%s'):format(type(record.decision) == "string"
      and (", not '%s'"):format(text.printable(text.cut(record.decision, 100))) or "")
  end
  if note ~= nil and type(note) ~= "string" then return '"note" must be a string' end
  if note and #note > decisions.MAX_NOTE then
    return ("the note has %d bytes, and %d are the most"):format(#note, decisions.MAX_NOTE)
  end
  if sha256 ~= nil and (type(sha256) ~= "string" or #sha256 ~= 64 or sha256:find("%X")) then
    return '"sha256" must be 64 hexadecimal digits'
  end
end

--- What two decisions about the same text have in common. Decisions about two texts of one item are both kept: the
--- one answer was rejected, and another one came.
local function key_of(decision)
  return (decision.path or decision.custom_id) .. "\0" .. (decision.sha256 or "")
end

--- The last decision about each text, in their order.
local function last_of_each(list)
  local last, found = {}, {}
  for i, decision in ipairs(list) do last[key_of(decision)] = i end
  for i, decision in ipairs(list) do
    if last[key_of(decision)] == i then found[#found + 1] = decision end
  end
  return found
end

--- Reads a file of decisions. Of two about the same text of the same item, the later one counts.
---@param path string
---@return obatch.Decision[]? list  in the order of the file
---@return string[]|nil faults      what is wrong, each with file and line: nothing of the file may be followed then
---@return string|nil code          where the file cannot be read at all
function decisions.read(path)
  local found, message, code = jsonl.scan(path, FIELDS, { max_line = MAX_LINE })
  if not found then return nil, { text.printable(message) }, code end
  local list, faults, more = {}, {}, 0
  local function fault(sentence)
    if #faults < MAX_FAULTS then faults[#faults + 1] = sentence else more = more + 1 end
  end
  for record in found do
    local where = ("%s:%d"):format(text.printable(path), record.number)
    local problem = not record.error and fault_of(record)
    if record.error and not record.blank then
      fault(text.printable(record.error))
    elseif problem then
      fault(("%s: %s"):format(where, problem))
    elseif not record.error then
      local image, sha256 = given(record.path), given(record.sha256)
      list[#list + 1] = { custom_id = given(record.custom_id), path = image and image_record.decode_path(image),
        decision = record.decision, note = given(record.note) or "", sha256 = sha256 and sha256:lower(), where = where,
        iteration = math.tointeger(tonumber(record.iteration)), attempts = math.tointeger(tonumber(record.attempts)) }
    end
  end
  if more > 0 then faults[#faults + 1] = ("%s: %d more lines are wrong"):format(text.printable(path), more) end
  if #faults > 0 then return nil, faults end
  return last_of_each(list)
end

--- Writes decisions, whole or not at all, durable. true | nil, message, CODE.
local function write(path, list)
  local writer <close>, message, code = jsonl.create(path)
  if not writer then return nil, message, code end
  for _, decision in ipairs(list) do
    local ok
    ok, message, code = writer:put { custom_id = decision.custom_id, decision = decision.decision,
      note = decision.note ~= "" and decision.note or nil, sha256 = decision.sha256,
      path = decision.path and image_record.encode_path(decision.path), iteration = decision.iteration,
      attempts = decision.attempts }
    if not ok then return nil, message, code end
  end
  local facts
  facts, message, code = writer:commit()
  if not facts then return nil, message, code end
  return true
end

--- The decisions that are kept in a file; none where it is not there. nil, message, CODE: it is damaged, no file, or
--- cannot be looked at. (What was accepted would be paid again, were it taken for missing then.)
local function read_kept(path)
  local stat, problem, errno = fs.lstat(path)
  if not stat and errno ~= "ENOENT" then return nil, text.printable(problem), errno end
  if not stat then return {} end
  if stat.type ~= "file" then
    return nil, ("%s is a %s, and obatch's own name: remove it"):format(text.printable(path),
      stat.type == "dir" and "folder" or stat.type == "link" and "link" or "special file"), "LINK"
  end
  local list, faults, code = decisions.read(path)
  if list then return list end
  return nil, faults[1] .. (code and "" or ". Restore it from a copy, or delete this line: that undoes the decision"),
    code or "DAMAGED"
end

--- Whether what is kept about a text says the same as a decision that comes now. An exported file may have been put
--- there by hand: such a line was never taken up.
local function says_the_same(old, new)
  return old and (old.iteration or old.attempts) and old.decision == new.decision and old.note == new.note
end

--- Adds decisions to those that are kept, behind them, in place of earlier ones about the same text. What says the
--- same again stays as it was taken up. Returns the list, and whether it is another one.
local function merge(kept, new)
  local before, list = {}, table.move(kept, 1, #kept, 1, {})
  for _, decision in ipairs(kept) do before[key_of(decision)] = decision end
  for _, decision in ipairs(new) do
    local old = before[key_of(decision)]
    list[#list + 1] = says_the_same(old, decision) and old or decision
  end
  list = last_of_each(list)
  local is_changed = #list ~= #kept
  for i, decision in ipairs(list) do is_changed = is_changed or decision ~= kept[i] end
  return list, is_changed
end

--- Why an answer or a text that a reader rejected is not good.
---@param decision obatch.Decision
---@return string reason
function decisions.reason(decision)
  return decision.note == "" and "rejected by a reader" or "rejected by a reader: " .. decision.note
end

-- ---------------------------------------------------------------- of a job

local function job_path(dir) return dir .. "/decisions.jsonl" end

--- The decisions about one request. `accepted` is the last one that accepts an answer that came: that answer counts,
--- also where another one is good by the policy or was accepted before.
---@class obatch.decisions.OfRequest
---@field [integer] obatch.Decision
---@field accepted? obatch.Decision

--- The decisions that a job keeps.
---@param dir string             its folder
---@param index obatch.jsonl.Index   its requests
---@return table<integer, obatch.decisions.OfRequest>? by_ordinal
---@return string|nil message
---@return string|nil code
function decisions.of_job(dir, index)
  local list, message, code = read_kept(job_path(dir))
  if not list then return nil, message, code end
  local by_ordinal = {}
  for _, decision in ipairs(list) do
    local ordinal = decision.custom_id and index:find(decision.custom_id)
    if ordinal then
      local about = by_ordinal[ordinal] or {}
      by_ordinal[ordinal] = about
      about[#about + 1] = decision
      if decision.decision == "accept" and decision.iteration then about.accepted = decision end
    end
  end
  return by_ordinal
end

--- The files of an iteration that hold answers, merged or not.
local function answer_files(the_job, n)
  local iteration = the_job.iterations[n]
  if iteration.merged then return { the_job:merged_path(n) } end
  local paths = {}
  for _, part in ipairs(iteration.parts) do
    for _, name in pairs(part.files or part.fetched or {}) do
      if name and fs.stat(the_job:path(n, name)) then paths[#paths + 1] = the_job:path(n, name) end
    end
  end
  return paths
end

--- Looks for the texts that decisions are about. wanted: ordinal -> list of decisions. Each one whose text is there
--- gets .iteration; one about a request without a text where its last line has none. true | nil, message, CODE.
local function find_texts(the_job, index, wanted)
  local last, has_text = 0, {}
  for n, iteration in ipairs(the_job.iterations) do
    if iteration.merged then last = n end
    for _, path in ipairs(answer_files(the_job, n)) do
      local found, message, code = jsonl.scan(path, { id = "/custom_id" })
      if not found then return nil, message, code end
      local lines <close>, problem, reason = jsonl.open(path)
      if not lines then return nil, problem, reason end
      for record in progress.over(found, "decisions", path) do
        local ordinal = type(record.id) == "string" and index:find(record.id)
        if ordinal and wanted[ordinal] then
          local answer = outcome.text(lines:at(record.offset))
          local sha256 = answer and fs.sha256_text(answer)
          has_text[ordinal] = answer ~= nil
          for _, decision in ipairs(wanted[ordinal]) do
            if sha256 and decision.sha256 == sha256 then decision.iteration = n end
          end
        end
      end
    end
  end
  for ordinal, list in pairs(wanted) do
    for _, decision in ipairs(list) do
      if decision.iteration then
        decision.iteration = math.max(decision.iteration, last)
      elseif not decision.sha256 and not has_text[ordinal] and last > 0 then
        decision.iteration = last
      end
    end
  end
  return true
end

---@class obatch.decisions.Taking
---@field dir string                the folder of the job
---@field original string           its request file
---@field list obatch.Decision[]
---@field log fun(line: string)     hears of those that are left out
---@field is_dry? boolean           write nothing, take no lock

--- Makes a reader's decisions those of a job, so that they apply at its next run, whether that names them or not. A
--- decision about an unknown request, or about another text than those that came back, is told and left out. Those
--- about a job that has not begun wait for the text: the batches of another tool, which it is to take over, bring it.
---@param options obatch.decisions.Taking
---@return { accept: integer, reject: integer, waiting: integer, left_out: integer }? counts  those that apply, by kind
---@return string|nil message
---@return string|nil code     those of job.open, DAMAGED, or what the disk says
function decisions.take(options)
  local the_job, message, code
  if not options.is_dry then
    the_job, message, code = job.open(options.dir, options.original)
    if not the_job then return nil, message, code end
  else
    the_job, message, code = job.read(options.dir)
    if not the_job and code ~= "ENOENT" then return nil, message, code end
    the_job = the_job or { dir = options.dir, iterations = {} }
  end
  local _ <close> = setmetatable({}, { __close = function() if the_job.lock then the_job:close() end end })
  local index <close>, problem, reason = jsonl.index(options.original, "/custom_id")
  if not index then return nil, problem, reason end

  local counts, wanted, followed = { accept = 0, reject = 0, waiting = 0, left_out = 0 }, {}, {}
  local note, finish = progress.notes(options.log)
  local function leave_out(decision, why)
    counts.left_out = counts.left_out + 1
    note("decisions that are not followed", "%s: custom_id '%s': %s; not followed", decision.where,
      text.printable(text.cut(decision.custom_id or decision.path, 300)), why)
  end
  local function list_of(decision)
    local ordinal = decision.custom_id and index:find(decision.custom_id)
    return ordinal, ordinal and wanted[ordinal]
  end
  for _, decision in ipairs(options.list) do
    local ordinal, list = list_of(decision)
    decision.iteration = nil
    if ordinal then
      wanted[ordinal] = list or {}
      table.insert(wanted[ordinal], decision)
    end
  end
  local ok
  ok, message, code = find_texts(the_job, index, wanted)
  if not ok then return nil, message, code end
  for _, decision in ipairs(options.list) do
    if not list_of(decision) then
      leave_out(decision, "it is none of the requests")
    elseif #the_job.iterations == 0 and decision.sha256 then
      counts.waiting, followed[#followed + 1] = counts.waiting + 1, decision
    elseif not decision.iteration then
      leave_out(decision, #the_job.iterations == 0 and "there is no answer yet" or decision.sha256
        and "the decision is about another text than those that came back"
        or "the decision is about no text (it has no sha256), and there is one")
    elseif decision.decision == "accept" and not decision.sha256 then
      leave_out(decision, "there is no text to accept")
    else
      counts[decision.decision], followed[#followed + 1] = counts[decision.decision] + 1, decision
    end
  end
  finish()

  local kept
  kept, message, code = read_kept(job_path(options.dir))
  if not kept then return nil, message, code end
  local list, is_changed = merge(kept, followed)
  if is_changed and not options.is_dry then
    ok, message, code = write(job_path(options.dir), list)
    if not ok then return nil, message, code end
  end
  return counts
end

-- ---------------------------------------------------------------- beside images

--- What readers have decided about the texts beside images, folder by folder.
---@class obatch.decisions.Beside
local Beside = {}
Beside.__index = Beside

---@return obatch.decisions.Beside kept  reads each folder's file when it is first asked about
function decisions.beside() return setmetatable({ folders = {} }, Beside) end

--- The decisions kept in the folder of an image.
---@param image string
---@return { path: string, list: obatch.Decision[], new: obatch.Decision[], by_key: table<string, obatch.Decision>,
--- names: table<string, true> }|nil folder
---@return string|nil message
---@return string|nil code
function Beside:folder(image)
  local dir = image:match("^(.*/)[^/]*$") or ""
  local folder = self.folders[dir]
  if not folder then
    local list, message, code = read_kept(dir .. "decisions.jsonl")
    if not list then return nil, message, code end
    folder = { path = dir .. "decisions.jsonl", list = list, new = {}, by_key = {}, names = {} }
    for _, decision in ipairs(list) do
      folder.by_key[key_of(decision)], folder.names[decision.path or ""] = decision, true
    end
    self.folders[dir] = folder
  end
  return folder
end

local function name_of(image) return image:match("[^/]*$") end

--- Whether there are any decisions about an image's texts, so that it is worth to read them.
---@param image string
---@return boolean? known
---@return string|nil message
---@return string|nil code
function Beside:knows(image)
  local folder, message, code = self:folder(image)
  if not folder then return nil, message, code end
  return folder.names[name_of(image)] or false
end

--- What was decided about a text of an image.
---@param image string
---@param content string  the bytes of its sidecar
---@return obatch.Decision|nil decision
---@return string|nil message  the folder's file cannot be read
---@return string|nil code
function Beside:about(image, content)
  local known, message, code = self:knows(image)
  if not known then return nil, message, code end
  return self:folder(image).by_key[key_of { path = name_of(image), sha256 = fs.sha256_text(content) }]
end

--- Adds a decision about a text of an image; it is on disk after `save`.
---@param image string
---@param decision obatch.Decision
---@param attempts integer  answers about this text that were not good so far
---@return boolean? ok
---@return string|nil message
---@return string|nil code
function Beside:add(image, decision, attempts)
  local folder, message, code = self:folder(image)
  if not folder then return nil, message, code end
  local own = { custom_id = decision.custom_id, path = name_of(image), decision = decision.decision,
    note = decision.note, sha256 = decision.sha256, attempts = attempts }
  if not says_the_same(folder.by_key[key_of(own)], own) then
    folder.new[#folder.new + 1] = own
    folder.by_key[key_of(own)], folder.names[own.path] = own, true
  end
  return true
end

--- Writes what was added: a decisions.jsonl in each folder that it concerns.
---@return boolean? ok
---@return string|nil message
---@return string|nil code
function Beside:save()
  for _, folder in pairs(self.folders) do
    if #folder.new > 0 then
      folder.list, folder.new = merge(folder.list, folder.new), {}
      local ok, message, code = write(folder.path, folder.list)
      if not ok then return nil, message, code end
    end
  end
  return true
end

return decisions
