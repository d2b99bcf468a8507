--- The files that batches produced: brought here, and whether they still are what came.

local fs = require "obatch.fs"
local json = require "obatch.json"
local part_events = require "obatch.part"
local results = require "obatch.results"

local downloads = {}

--- Times that a download may come out wrong before it is taken as it comes.
local MAX_TRIES = 10

--- Downloads a batch's output or error file.
---@param run table   see obatch.submission
---@param part table
---@param kind "output"|"error"
---@param id string
---@return string|false|nil name  false when it is gone for good; nil when the next look tries again
local function fetch(run, part, kind, id)
  local path = run.store:download_path(part, kind)
  part.tries = part.tries or {}
  local tries = (part.tries[kind] or 0) + 1
  -- What the service sends again and again is what it has, if its count is the one that the file object names,
  -- or if only that count is wrong. But a page of a gateway is no result, and neither is half a file.
  local last = tries >= MAX_TRIES
  part.incomplete = part.incomplete or last or nil
  local function check(came, complaint, promised)
    if complaint and not (last and results.are_all(came)) then return nil, complaint end
    if last and promised or promised == 0 then return true end
    if not results.are_some(came) then return nil, "there is no result in it" end
    return last or results.end_whole(came), "the last line is cut off"
  end
  local bytes, message, code = run.flight:download(function() return run.api:download(id, path, check) end)
  if bytes then
    run.log(("batch %s: %d bytes of %s"):format(part.batch_id, bytes, kind))
    local complaint = results.quota_complaint(path)
    if complaint then run:stop(("batch %s: %s"):format(part.batch_id, complaint), "QUOTA") end
    return path:match("[^/]*$")
  end
  if code == "CLOSED" then part.tries[kind] = tries end
  local kept = code == "NOT_FOUND" and kind == "output" and run.store.kept_results and run.store:kept_results(part)
  if kept then return kept[1] end
  if code == "NOT_FOUND" and run:is_gone(part, kind) then
    run.log(("%s. It is gone for good; requests that only it answers count as missing"):format(message))
    part.incomplete = true
    return false
  end
  run:trouble(part, message, code)
end

--- Downloads what the batch of a part that has ended produced. What does not come now is left for the next look.
---@param run table   see obatch.submission
---@param part table
---@return any goes_on
function downloads.take(run, part)
  local files = json.array {}
  for _, kind in ipairs { "output", "error" } do
    local id = part.ended[kind .. "_file_id"]
    local name = part.fetched and part.fetched[kind]
    if id and name == nil then
      name = fetch(run, part, kind, id)
      if name == nil then return false end
      -- Where another file is to come, this one is not fetched again whatever happens to that.
      if kind == "output" and part.ended.error_file_id
        and not run:record(part, { event = "fetched", kind = kind, file = name, incomplete = part.incomplete }) then
        return false
      end
    end
    if name then files[#files + 1] = name end
  end
  local digests = {}
  for _, kind in ipairs { "output", "error" } do
    local path = run.store:download_path(part, kind)
    local fingerprint, bytes = fs.fingerprint(path)
    for _, name in ipairs(files) do
      if fingerprint and path:match("[^/]*$") == name then
        digests[name] = { bytes = bytes, fingerprint = fingerprint }
      end
    end
  end
  return run:record(part, { event = "downloaded", batch_id = part.batch_id, files = files, digests = digests,
    incomplete = part.incomplete })
end

--- What was downloaded, and is not there any more as it came, is downloaded again: that costs nothing. A file that
--- cannot be read stops the run: the service may have dropped its own since, and then it would be paid again.
---@param run table   see obatch.submission
---@return boolean ok
function downloads.verify(run)
  for _, part in ipairs(run.store.parts) do
    local path, message, code
    if part.done and part.batch_id then
      path, message, code = part_events.damaged_file(part, run.store:download_path(part, "output"):match("^(.*/)"))
    end
    if code then return run:stop(message, code, true) end
    if path and part.deleted then
      return run:stop(("%s is not what was downloaded, and is deleted at the service: bring it back"):format(path),
        "USAGE", true)
    elseif path then
      run.log(("%s is not what was downloaded; downloading it again"):format(path))
      local ok = true
      if fs.stat(path) then ok, message, code = fs.rename(path, path .. ".before") end
      if not ok then return run:stop(message, code, true) end
      if not run:record(part, { event = "lost", batch_id = part.batch_id, file = path:match("[^/]*$") }) then
        return false
      end
    end
  end
  return true
end

return downloads
