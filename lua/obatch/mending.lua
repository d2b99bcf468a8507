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
local journal = require "obatch.journal"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local records = require "obatch.records"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"
local texts = require "obatch.texts"

local mending = {}
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

--- The labelled text of an image below image_dir, for which there is room when it comes back: nil and why
--- there is none, or why it cannot be read (ENOENT as a third value: it is gone).
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
--- the original is the only text there is. tell(sentence) hears of the others. Returns how many were
--- removed, and how many files or folders were at fault.
function mending.purge(image_dir, tell)
  local removed, faults = 0, 0
  for path, size, problem in fs.walk(image_dir, { ext = { [".txt.before"] = true } }) do
    local own = path:gsub("%.before$", "")
    local _, kind = sidecar.parse(own)
    local stat = fs.lstat(path) or {}
    if kind == "text" and stat.type == "link" then
      tell(text.printable(path) .. " is a link, not a file: left alone")
    elseif kind == "text" and size and not fs.lstat(own) then
      tell(text.printable(path) .. " is kept: the text that replaced it is gone")
    elseif kind == "text" and size then
      local ok
      ok, problem = fs.remove(path)
      if ok then removed = removed + 1 else faults = faults + 1 end
    elseif not size and stat.type ~= "link" then
      faults = faults + 1
    else
      problem = nil
    end
    if problem then tell(problem) end
  end
  return removed, faults
end

-- ---------------------------------------------------------------- the job

--- The labelled text of an image, by whatever way its folder was named.
local function real_label(image) return text.to_utf8(records.real_path(sidecar.label_path(image))) end

--- Opens a job directory, which is made where it is not there. nil, message, CODE.
function mending.open(dir)
  local ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  local lock
  lock, message, code = fs.lock(dir .. "/lock")
  if not lock then return nil, ("%s is in use: %s"):format(dir, message), code end
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
function Job:remember(attempt)
  local key = attempt.path .. "\0" .. attempt.sha256
  local past = self.past[key] or { count = 0, runs = {} }
  self.past[key] = past
  if not past.runs[attempt.run] then past.count = past.count + 1 end
  past.runs[attempt.run], past.reason = true, attempt.reason
end

--- How many answers about the labelled text of an image were not good, and what was wrong with the last
--- one. Another text begins anew.
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

--- The run that was begun and is not at its end. nil when there is none; nil, message, CODE.
function Job:unfinished()
  local run, message, code = errand.unfinished(self.dir, "run")
  if not run then return nil, message, code end
  return with_ids(run)
end

--- Begins a run. compose(writer) puts its requests into a jsonl writer and returns their items: tables
--- with .custom_id, .path (of the image), .image_dir, .sha256 (of the labelled text), .texts and .median
--- (as in texts.survey); or nil, message, CODE. Returns the run, nil when there are no requests, or nil,
--- message, CODE. Nothing is on its way before the run is returned.
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

--- Puts what the loop has brought in its place. mend(answer) -> the text to be written. Returns a list of
--- { item=, good = true } or { item=, reason=, counted= } (counted: an answer was received and is not
--- good), one for each item; or nil, message, CODE: the same call does the rest.
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

--- Ends a run whose `ends` (of store) are all in their place, and counts the attempts. true | nil, message,
--- CODE.
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
