--- Checks what a run has left, and repairs what follows from the rest: a job of the correction loop, the batch
-- folder of an image project, or the folder of deep_clean.
--
-- Checking reads only: beside a run, on a read-only disk. What is wrong is told in a report.

local fs = require "obatch.fs"
local images = require "obatch.fsck.images"
local job = require "obatch.fsck.job"
local json = require "obatch.json"
local records = require "obatch.records"
local repair = require "obatch.fsck.repair"
local replay = require "obatch.fsck.replay"
local report = require "obatch.fsck.report"

local fsck = {}

--- How often a job is looked at again whose run has gone on meanwhile.
local MAX_LOOKS = 3

--- The errands in a folder: NAME_001, ... that are jobs.
---@param dir string
---@param name "run"|"resubmit"
---@return string[] folders  in order
function fsck.errands(dir, name)
  local list = {}
  for _, file in ipairs(fs.list(dir) or {}) do
    local folder = dir .. "/" .. file
    if file:find("^" .. name .. "_%d+$") and (fs.stat(folder .. "/journal.jsonl") or fs.stat(folder .. "/record.json"))
      then list[#list + 1] = folder end
  end
  table.sort(list)
  return list
end

--- What a folder is; nil for something else.
---@param dir string
---@return "job"|"images"|"errands"|nil kind  errands: of deep_clean
function fsck.kind(dir)
  if fs.stat(dir .. "/attempts.jsonl") or #fsck.errands(dir, "run") > 0 then return "errands" end
  local beginning = fs.read(dir .. "/journal.jsonl", 1 << 16)
  local first = beginning and json.decode(beginning:match("^[^\n]*"))
  if type(first) == "table" and first.event == "started" then return first.original and "job" or "images" end
  for _, folder in ipairs { dir, dir .. "/completed" } do
    for _, file in ipairs(fs.list(folder) or {}) do
      if records.is_name(file) then return "images" end
    end
  end
  if beginning or fs.stat(dir .. "/iteration_1") then return "job" end
  if #fsck.errands(dir, "resubmit") > 0 then return "images" end
end

--- What a folder is that somebody has named.
---@param dir string
---@return "job"|"images"|"errands"|nil kind
---@return string|nil message  why there is nothing to look at
---@return "NO_FOLDER"|"UNKNOWN"|nil code
function fsck.identify(dir)
  local stat = fs.stat(dir)
  if not stat then return nil, dir .. ": there is no such folder", "NO_FOLDER" end
  if stat.type ~= "dir" then return nil, dir .. " is not a folder", "NO_FOLDER" end
  local kind = fsck.kind(dir)
  if kind then return kind end
  return nil, dir .. " is not a job or a batch folder: it holds no journal.jsonl, no iteration_1 and no records",
    "UNKNOWN"
end

--- Adds what every command takes that looks at such a folder: DIR, and what DIR may not say itself.
---@param parser table
---@param words? { dir?: string, original?: string, policy?: string }  descriptions, where the usual ones do not fit
function fsck.options(parser, words)
  words = words or {}
  parser:argument("dir", words.dir or "The folder of a job (correction_loop), of batches (upload and download), or of "
    .. "deep_clean."):argname("DIR")
  parser:option("--original-requests", words.original or "The requests, where they are not where the journal says.")
    :argname("FILE")
  parser:option("--policy", words.policy or "The rules that the job was run with, where they are not the default ones.")
    :argname("FILE")
  parser:option("--output-dir", "Where download keeps the results of batches as they came.")
    :argname("DIR"):default("batch_return")
end

local function size_of(path) return (fs.stat(path) or { size = 0 }).size end

--- Checks the list of attempts of deep_clean (see obatch.mending), as job.check does a job.
local function check_attempts(dir, options)
  local path, found = dir .. "/attempts.jsonl", options.found
  if not fs.stat(path) then return {} end
  local events, message, code = replay.read(path, found)
  if not events then return nil, message, code end
  for _, entry in ipairs(events) do
    for _, field in ipairs { "path", "sha256", "run" } do
      if type(entry.event[field]) ~= "string" then
        found:fault("events that make no sense", ("%s:%d"):format(path, entry.number), ("an attempt without its '%s'")
          :format(field), "Restore it from a copy, or delete this line: then the attempt does not count")
      end
    end
  end
  return {}
end

--- Checks one folder with `check` (that above, job.check or images.check), again when its run has gone on meanwhile.
local function look(check, dir, options)
  local result, message, code
  for i = 1, MAX_LOOKS do
    local who, before = fs.holder(dir .. "/lock"), size_of(dir .. "/journal.jsonl")
    options.found = report.new()
    result, message, code = check(dir, options)
    who = fs.holder(dir .. "/lock") or who
    if not result then return nil, message, code end
    if who and not options.has_lock then
      options.found:note("locks", dir, ("a run holds the lock (%s): what is in flight may have changed while this was "
        .. "read"):format(who), "This was read only")
      result.is_held = true
    end
    if size_of(dir .. "/journal.jsonl") == before or i == MAX_LOOKS then break end
  end
  result.found, result.dir = options.found, dir
  return result
end

--- Checks a job, repairs it, and checks it again after each step that has changed something. What could not be
--- repaired is a fault.
local function mend(dir, options, log)
  local lock <close>, message, code = fs.lock(dir .. "/lock")
  if not lock then return nil, message, code end
  options.has_lock = true
  local failures = {}
  local result
  result, message, code = look(job.check, dir, options)
  for _, step in ipairs { repair.files, repair.derived } do
    if not result then break end
    if result.repairs.is_unsafe then
      log(dir .. " is not repaired: see to its journal, its request file or its links first")
      break
    end
    if step(result, log, failures) then result, message, code = look(job.check, dir, options) end
  end
  options.has_lock = nil
  for _, failure in ipairs(result and failures or {}) do
    result.found:fault("repairs", failure.path, "it cannot be repaired: " .. failure.message,
      "See to that and run --repair again")
  end
  return result, message, code
end

---@class obatch.fsck.Options
---@field rules table
---@field original? string     where the folder does not say
---@field output_dir? string
---@field repair? boolean
---@field log fun(line: string)  hears of repairs

---@class obatch.fsck.Result
---@field dir string
---@field kind string
---@field found obatch.fsck.Report
---@field table? string   of the iterations
---@field totals? table<string, integer>
---@field counts? table<string, integer>

--- Checks a folder: the result has an entry for each job or batch folder in it.
---@param dir string
---@param options obatch.fsck.Options
---@return obatch.fsck.Result[]|nil results
---@return string|nil message
---@return string|nil code  "USAGE": there is nothing to check
function fsck.run(dir, options)
  local kind, problem = fsck.identify(dir)
  if not kind then return nil, problem, "USAGE" end
  local list, jobs = {}, { dir }
  if kind ~= "job" then
    local result, message, code = look(kind == "images" and images.check or check_attempts, dir, options)
    if not result then return nil, message, code end
    result.kind, list[1] = kind, result
  end
  if kind ~= "job" then jobs = fsck.errands(dir, kind == "images" and "resubmit" or "run") end
  for _, folder in ipairs(jobs) do
    local result, message, code
    if not fs.stat(folder .. "/journal.jsonl") and folder ~= dir then
      result = { dir = folder, found = report.new() }
      result.found:note("parts under way", folder, "it is written, and nothing of it is sent yet")
    elseif options.repair then
      result, message, code = mend(folder, options, options.log)
    else
      result, message, code = look(job.check, folder, options)
    end
    if not result then return nil, message, code end
    result.kind, list[#list + 1] = "job", result
  end
  return list
end

return fsck
