--- Mending: labelled texts on their way through the correction loop, and how they come back.
--
--   JOB_DIR/attempts.jsonl   every text that came back not good: path, sha256 of the text, run, class, reason
--   JOB_DIR/lock             one process at a time
--   JOB_DIR/run_NNN/...      the errand of each run (see obatch.errand)
--
-- A text that came back good is put in its place in this order: IMAGE.txt is written, all that was
-- written is made durable, IMAGE.txt.api is renamed to IMAGE.txt.before. A run that is stopped anywhere
-- in between does the rest when it is taken up again.

local errand = require "obatch.errand"
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local journal = require "obatch.journal"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"
local texts = require "obatch.texts"

local mending = {}

---@class obatch.mending.Job
---@field dir string
local Job = {}
Job.__index = Job

--- The classes in which an answer was received, paid for, and not good: those count as attempts.
local ANSWERED = { invalid = true, refused = true, truncated = true }

-- ---------------------------------------------------------------- beside the image

--- Whether a text may be written beside an image: its folder is the one that its path names. (The image
--- itself may be gone; its text is still there.) `folders` keeps what is known. true | nil, message, CODE.
local function may_write(folders, path, image_dir)
  if not folders[image_dir] then
    local folder, message, code = sidecar.folder(image_dir)
    if not folder then return nil, message, code end
    folders[image_dir] = folder
  end
  local ok, message, code = folders[image_dir]:check(path)
  if ok or code == "ENOENT" then return true end
  return nil, message, code
end

--- The labelled text of an image, for which there is room when it comes back.
---@param image string
---@param image_dir string  the folder that it is below
---@param folders table     keeps what is known of folders, {} at first
---@return string|nil content
---@return string|nil message  why there is no room, or why it cannot be read
---@return string|nil code     "ENOENT": it is gone
function mending.read(image, image_dir, folders)
  local ok, message = may_write(folders, image, image_dir)
  if not ok then return nil, message end
  local own, before = sidecar.text_path(image), sidecar.before_path(image)
  local there = fs.lstat(own)
  if there and not (there.type == "file" and sidecar.is_blank(image)) then
    return nil, text.printable(own) .. " is there, too: remove one of the two"
  elseif fs.lstat(before) then
    return nil, text.printable(before) .. " is in the way: see to it, or run with --purge"
  end
  return texts.read(sidecar.label_path(image))
end

--- Removes the kept originals (IMAGE.txt.before) below a folder whose mended text is there: without it,
--- the original is the only text there is.
---@param image_dir string
---@param tell fun(sentence: string)  hears of the others
---@return integer removed
---@return integer faults   files or folders
function mending.purge(image_dir, tell)
  local removed, faults = 0, 0
  for path, is_there, problem in fs.walk(image_dir, { ext = { [".txt.before"] = true }, stat = false }) do
    local own = path:gsub("%.before$", "")
    local _, kind = sidecar.parse(own)
    local stat = fs.lstat(path) or {}
    if kind == "text" and stat.type == "link" then
      tell(text.printable(path) .. " is a link, not a file: left alone")
    elseif kind == "text" and is_there and not fs.lstat(own) then
      tell(text.printable(path) .. " is kept: the text that replaced it is gone")
    elseif kind == "text" and is_there then
      local ok
      ok, problem = fs.remove(path)
      if ok then removed = removed + 1 else faults = faults + 1 end
    elseif not is_there and stat.type ~= "link" then
      faults = faults + 1
    else
      problem = nil
    end
    if problem then tell(problem) end
  end
  return removed, faults
end

-- ---------------------------------------------------------------- what a reader has decided

--- Why the label cannot be put on ("api") the text of an image, or be taken off ("text"); nil when it can.
local function obstacle(image, kind, image_dir, folders)
  local ok, message = may_write(folders, image, image_dir)
  if not ok then return message end
  local target, before = sidecar.text_path(image), sidecar.before_path(image)
  local there = fs.lstat(target)
  if kind == "text" and there and not (there.type == "file" and sidecar.is_blank(image)) then
    return text.printable(target) .. " is there, too: remove one of the two"
  elseif kind == "api" and fs.lstat(sidecar.label_path(image)) then
    return text.printable(sidecar.label_path(image)) .. " is there, too: remove one of the two"
  elseif kind == "api" and fs.lstat(before) then
    return text.printable(before) .. " is in the way: see to it, or run with --purge"
  end
end

--- What a decision makes of a text: "api" or "text".
local function kind_after(decision) return decision.decision == "accept" and "text" or "api" end

--- The sidecars of a survey that each decision is about, by the path of the image, else by its custom_id:
--- decision -> list of items.
local function find_items(survey, list)
  local by_path, by_id, found, is_open = {}, {}, {}, false
  for _, decision in ipairs(list) do
    if decision.path then by_path[image_record.real_path(decision.path)] = {} end
  end
  for _, item in ipairs(next(by_path) and survey.items or {}) do
    local items = by_path[image_record.real_path(item.image)]
    if items then items[#items + 1] = item end
  end
  for _, decision in ipairs(list) do
    found[decision] = decision.path and by_path[image_record.real_path(decision.path)] or {}
    if #found[decision] == 0 and decision.custom_id then by_id[decision.custom_id], is_open = {}, true end
  end
  local taken, last, id = {}, nil, nil
  for _, item in ipairs(is_open and survey.items or {}) do
    if item.image ~= last then last, id = item.image, image_record.custom_id(item.image, taken) end
    if by_id[id] then table.insert(by_id[id], item) end
  end
  for _, decision in ipairs(list) do
    if #found[decision] == 0 then found[decision] = by_id[decision.custom_id] or {} end
  end
  return found
end

--- Takes up a reader's decisions about the texts of a folder: those about a text as it is now become part of `kept`
--- (obatch.decisions.beside), the others are told and left out. Writes nothing.
---@param survey table      of texts.survey
---@param list obatch.Decision[]
---@param kept obatch.decisions.Beside
---@param image_dir string
---@param attempts fun(image: string, sha256: string): integer  answers about a text that were not good so far
---@param log fun(line: string)
---@return { accept: integer, reject: integer, left_out: integer }? counts
---@return string|nil message
---@return string|nil code
function mending.decide(survey, list, kept, image_dir, attempts, log)
  local counts, folders, found = { accept = 0, reject = 0, left_out = 0 }, {}, find_items(survey, list)
  local note, finish = progress.notes(log)

  --- Why a decision is not followed; nil when it is.
  local function take(decision)
    if #found[decision] == 0 then return "no text of an image below " .. text.printable(image_dir) end
    if not decision.sha256 then return "it does not say about which text it is (sha256)" end
    for _, item in ipairs(found[decision]) do
      local content, message = texts.read(item.path)
      if not content then return message end
      if fs.sha256_text(content) == decision.sha256 then
        local kind = kind_after(decision)
        local problem = item.kind ~= kind and obstacle(item.image, kind, image_dir, folders)
        if problem then return problem end
        return nil, item.image
      end
    end
    return "the text is another one now"
  end

  for _, decision in ipairs(list) do
    local why, image = take(decision)
    if image then
      local ok, message, code = kept:add(image, decision, attempts(image, decision.sha256))
      if not ok then return nil, message, code end
      counts[decision.decision] = counts[decision.decision] + 1
    else
      counts.left_out = counts.left_out + 1
      note("decisions that are not followed", "%s: %s: %s; not followed", decision.where,
        text.printable(text.cut(decision.path or decision.custom_id, 300)), why)
    end
  end
  finish()
  return counts
end

--- Does what readers have decided about the texts of a folder, in this run or before: an accepted one loses its
--- label, a rejected one gets it. The items of the survey are then of that kind, also when `is_dry`, where nothing is
--- renamed. done(item) hears of each.
---@param survey table
---@param kept obatch.decisions.Beside
---@param image_dir string
---@param done fun(item: table)
---@param tell fun(sentence: string)  hears of what cannot be done
---@param is_dry? boolean
---@return boolean? ok
---@return string|nil message
---@return string|nil code
function mending.follow(survey, kept, image_dir, done, tell, is_dry)
  local folders = {}
  for _, item in ipairs(survey.items) do
    local is_known, message, code = kept:knows(item.image)
    if code then return nil, message, code end
    local content = is_known and texts.read(item.path)
    local decision = content and kept:about(item.image, content)
    local kind = decision and kind_after(decision)
    if kind and kind ~= item.kind then
      local problem = obstacle(item.image, kind, image_dir, folders)
      if problem then
        tell(("%s: %s"):format(text.printable(item.path), problem))
      else
        local from, to = sidecar.text_path(item.image), sidecar.label_path(item.image)
        if kind == "text" then from, to = to, from end
        local ok = true
        if not is_dry then ok, message, code = fs.rename(from, to) end
        if not ok then return nil, message, code end
        item.kind, item.path = kind, is_dry and from or to
        done(item)
      end
    end
  end
  return true
end

-- ---------------------------------------------------------------- the job

--- The labelled text of an image, by whatever way its folder was named.
local function real_label(image) return text.to_utf8(image_record.real_path(sidecar.label_path(image))) end

--- Opens a job directory, which is made where it is not there.
---@param dir string
---@return obatch.mending.Job|nil job
---@return string|nil message
---@return string|nil code
function mending.open(dir)
  local ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  local lock
  lock, message, code = fs.lock(dir .. "/lock")
  if code == "LOCKED" then message = ("%s is in use: %s"):format(dir, message) end
  if not lock then return nil, message, code end
  local attempts, events
  attempts, events, code = journal.open(dir .. "/attempts.jsonl")
  if not attempts then
    lock:close()
    return nil, events, code
  end
  local self = setmetatable({ dir = dir, lock = lock, journal = attempts, past = {} }, Job)
  for _, event in ipairs(events) do self:remember(event) end
  return self
end

function Job:close()
  self.journal:close()
  self.lock:close()
end
Job.__close = Job.close

--- Counts an attempt; a run that was stopped may have written its attempts twice.
---@param attempt { path: string, sha256: string, run: string, reason: string }
function Job:remember(attempt)
  local key = attempt.path .. "\0" .. attempt.sha256
  local past = self.past[key] or { count = 0, runs = {} }
  self.past[key] = past
  if not past.runs[attempt.run] then past.count = past.count + 1 end
  past.runs[attempt.run], past.reason = true, attempt.reason
end

--- How many answers about the labelled text of an image were not good, and what was wrong with the last
--- one. Another text begins anew.
---@param image string
---@param sha256 string
---@return integer count
---@return string|nil reason
function Job:attempts(image, sha256)
  local past = self.past[real_label(image) .. "\0" .. sha256]
  return past and past.count or 0, past and past.reason
end

--- An errand, with its items by their custom_id, too.
local function with_ids(run)
  run.by_id = {}
  for _, item in ipairs(run.items) do run.by_id[item.custom_id] = item end
  return run
end

--- The run that was begun and is not at its end; nil alone when there is none.
---@return obatch.Errand|nil run  with .by_id, custom_id -> item
---@return string|nil message
---@return string|nil code
function Job:unfinished()
  local run, message, code = errand.unfinished(self.dir, "run")
  if not run then return nil, message, code end
  return with_ids(run)
end

--- Begins a run. Nothing is on its way before it is returned; nil alone when there are no requests. The items that
--- compose returns have custom_id, path (of the image), image_dir, sha256 (of the labelled text), texts and median (as
--- in texts.survey).
---@param compose fun(writer: obatch.jsonl.Writer): table[]?, string?, string?  puts the requests into the writer
---@return obatch.Errand|nil run
---@return string|nil message
---@return string|nil code
function Job:begin(compose)
  local run, message, code = errand.begin(self.dir, "run", function(writer)
    local items, problem, reason = compose(writer)
    if not items then return nil, problem, reason end
    return { items = items }
  end)
  if not run then return nil, message, code end
  return with_ids(run)
end

-- ---------------------------------------------------------------- what came back

--- Writes the mended text of one item to IMAGE.txt. Returns "written"; "there" when the label is gone
--- already, by this run; nil and why the text is not put there; or nil, message, CODE: the disk.
local function place(item, mended, folders)
  local ok, message = may_write(folders, item.path, item.image_dir)
  if not ok then return nil, message end
  local own = sidecar.text_path(item.path)
  local sha256, code
  sha256, message, code = fs.sha256(sidecar.label_path(item.path))
  if not sha256 and code ~= "ENOENT" then return nil, message, code end
  if not sha256 then
    if fs.sha256(sidecar.before_path(item.path)) == item.sha256 then return "there" end
    return nil, "the labelled text is gone"
  elseif sha256 ~= item.sha256 then
    return nil, "the labelled text was changed after it was sent"
  end
  if fs.lstat(sidecar.before_path(item.path)) then
    return nil, text.printable(sidecar.before_path(item.path)) .. " is there already: see to it, or run with --purge"
  end
  local there
  there, message, code = texts.read(own)
  if code == "LINK" or code == "TOO_BIG" or there and not text.is_blank(there) and there ~= mended then
    return nil, text.printable(own) .. " is there already and is not overwritten"
  elseif not there and code ~= "ENOENT" then
    return nil, message, code
  end
  ok, message, code = fs.write(own, mended, "later")
  if not ok then return nil, message, code end
  return "written"
end

--- custom_id -> { class=, reason= } of what the loop has given up.
local function failures_in(dir)
  local found = {}
  local fields = { id = "/custom_id", class = "/class", reason = "/reason" }
  for line in assert(jsonl.scan(dir .. "/given_up.jsonl", fields)) do
    if line.id then found[line.id] = { class = line.class, reason = line.reason } end
  end
  return found
end

--- Puts what the loop has brought in its place. Each end has its item, and is good, or has a reason; counted: an answer
--- was received and is not good. After a failure the same call does the rest.
---@param run obatch.Errand
---@param mend fun(answer: string): string  the text to be written
---@return { item: table, good?: boolean, reason?: string, counted?: boolean, class?: string }[]|nil ends
---@return string|nil message
---@return string|nil code
function mending.store(run, mend)
  local answers <close>, message, code = jsonl.index(run.dir .. "/final_results.jsonl", "/custom_id")
  if not answers then return nil, message, code end
  local failures, folders, ends, written = failures_in(run.dir), {}, {}, {}
  for i, item in ipairs(run.items) do
    local line = answers:line(item.custom_id)
    local failure = failures[item.custom_id]
    if line then
      local result, why, what = place(item, mend(outcome.text(line)), folders)
      if what then return nil, why, what end
      ends[i] = { item = item, good = result ~= nil, reason = why }
      if result == "written" then written[#written + 1] = item end
    else
      ends[i] = { item = item, counted = failure ~= nil and ANSWERED[failure.class] or false,
        class = failure and failure.class, reason = failure and failure.reason or "there is no answer yet" }
    end
  end
  local synced = {}
  for _, item in ipairs(written) do
    local ok
    if not synced[item.image_dir] then
      ok, message, code = fs.sync(folders[item.image_dir].root)
      if not ok then return nil, message, code end
      synced[item.image_dir] = true
    end
    ok, message, code = fs.rename(sidecar.label_path(item.path), sidecar.before_path(item.path))
    if not ok then return nil, message, code end
  end
  return ends
end

--- Ends a run whose `ends` (of store) are all in their place, and counts the attempts.
---@param run obatch.Errand
---@param ends table[]
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Job:complete(run, ends)
  for _, one in ipairs(ends) do
    if one.counted then
      local attempt = { event = "attempt", path = real_label(one.item.path), sha256 = one.item.sha256,
        run = run.name, class = one.class, reason = one.reason }
      local ok, message, code = self.journal:record(attempt)
      if not ok then return nil, message, code end
      self:remember(attempt)
    end
  end
  return run:complete()
end

return mending
