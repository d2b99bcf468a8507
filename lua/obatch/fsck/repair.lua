--- Rebuilds what follows from what was downloaded. Needs the job's lock. Every file is whole or not there, and
-- what is replaced is copied aside first: a repair that is killed anywhere can be run again.

local fs = require "obatch.fs"
local journal = require "obatch.journal"
local jsonl = require "obatch.jsonl"
local ledger = require "obatch.ledger"
local merged = require "obatch.fsck.merged"

local repair = {}

--- Copies a file to NAME.before-fsck, or NAME.before-fsck-2 ..., unless such a copy of it is there already.
--- Its path, false when there is nothing to copy; nil, message, CODE.
local function keep(path)
  local stat = fs.lstat(path)
  if not stat or stat.type ~= "file" or stat.size == 0 then return false end
  local sha256, message, code = fs.sha256(path)
  if not sha256 then return nil, message, code end
  local copy, n = path .. ".before-fsck", 1
  while fs.lstat(copy) do
    if fs.sha256(copy) == sha256 then return copy end
    n = n + 1
    copy = ("%s.before-fsck-%d"):format(path, n)
  end
  local out <close>, problem, reason = fs.create(copy)
  if not out then return nil, problem, reason end
  local bytes, why, what = out:copy(path)
  if not bytes then return nil, why, what end
  local facts
  facts, message, code = out:commit()
  if not facts then return nil, message, code end
  return copy
end

local function told(log, path, copy)
  log(copy and ("%s is made anew; what was there is kept as %s"):format(path, copy) or path .. " is made anew")
end

--- Does one thing: act() -> true or the like; or nil (or false), message. What cannot be done is told, put on the
--- list `failures` as { path=, message= }, and the rest goes on. Returns whether it was done.
local function try(failures, log, path, act)
  local ok, message = act()
  if ok then return true end
  log(("%s cannot be repaired: %s"):format(path, message))
  failures[#failures + 1] = { path = path, message = message }
  return false
end

--- Makes a file anew: keeps what was there where `is_kept`, makes the folder where it is gone, and calls write().
local function replace(failures, log, path, is_kept, write)
  return try(failures, log, path, function()
    local copy, message = false, nil
    if is_kept then copy, message = keep(path) end
    local ok = copy ~= nil
    if ok then ok, message = fs.mkdir((path:gsub("/[^/]*$", ""))) end
    if ok then ok, message = write() end
    if ok then told(log, path, copy) end
    return ok, message
  end)
end

--- Everything but what follows from judging: the journal's torn line, leftovers, lists, merged results.
---@param check table  a job.check
---@param log fun(line: string)
---@param failures { path: string, message: string }[]  what could not be done is added to it
---@return boolean is_done  whether anything was
function repair.files(check, log, failures)
  local plan, is_done = check.repairs, false
  if plan.torn then
    is_done = try(failures, log, plan.torn, function()
      local file, message = journal.open(plan.torn)
      if not file then return nil, message end
      file:close()
      log(plan.torn .. ": the torn last line is dropped")
      return true
    end)
  end
  for _, path in ipairs(plan.leftovers) do
    is_done = try(failures, log, path, function()
      local ok, message = fs.remove(path)
      if ok then log(path .. " is removed") end
      return ok, message
    end) or is_done
  end
  for _, list in ipairs(plan.lists) do
    is_done = replace(failures, log, list.path, list.keep, function()
      return fs.write(list.path, table.concat(list.ids, "\n") .. "\n")
    end) or is_done
  end
  for _, one in ipairs(plan.merged) do
    is_done = replace(failures, log, one.path, one.keep, function() return merged.write(one.path, one.files) end)
      or is_done
  end
  return is_done
end

--- What follows from judging the merged results again. As above.
---@param check table
---@param log fun(line: string)
---@param failures table[]
---@return boolean is_done
function repair.derived(check, log, failures)
  local plan, is_done = check.repairs, false
  if not next(plan.iterations) and #plan.final == 0 then return false end
  local index <close>, why, code = jsonl.index(check.original, "/custom_id")
  if not index then return try(failures, log, check.original, function() return nil, why, code end) end
  local book, message = ledger.new(check.state, index, check.rules, function() end)
  if not book then return try(failures, log, check.original, function() return nil, message end) end

  --- Makes the files of one iteration, or the final ones, anew.
  local function make(paths, write)
    is_done = try(failures, log, paths[1], function()
      for _, path in ipairs(paths) do
        local copy, problem = keep(path)
        if copy == nil then return nil, problem end
        told(log, path, copy)
      end
      return write()
    end) or is_done
  end
  for n = 1, check.last_judged do
    local path = check.state:path(n, "")
    if not try(failures, log, path, function() return book:add(n) end) then return is_done end
    if plan.iterations[n] then make(plan.iterations[n], function() return book:write_iteration(n) end) end
  end
  if #plan.final > 0 then make(plan.final, function() return book:write_final() end) end
  return is_done
end

return repair
