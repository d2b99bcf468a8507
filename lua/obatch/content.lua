--- The bytes of a file at the service, brought to this disk complete or not at all. A transfer that breaks is
--- gone on with where the service has proved that it can: the broken answer carried "Accept-Ranges: bytes"
--- and a strong ETag (RFC 9110, 8.8.3, 13.1.5 and 14.3). Large results are where connections break.
--
-- What is known about an unfinished file is kept in the client, so that a later download of the same file to the
-- same place goes on, too:
--   api.unfinished[path] = { id =, etag =, size = bytes on disk, total = promised bytes or nil }
--   api.unfinished[path] = { id =, distrusted = true }    a range was answered wrongly, and none is asked for again

local fs = require "obatch.fs"
local term = require "obatch.term"

local content = {}

--- What a complete or broken answer of 200 proves: { etag, total }; nil when it proves nothing.
local function proof_of(transfer)
  local headers = transfer.headers
  if transfer.status ~= 200 or (headers["accept-ranges"] or ""):lower() ~= "bytes" then return nil end
  local etag = (headers.etag or ""):match('^"[!#-~\x80-\xFF]*"$') -- no W/, nothing that is not to be in a header
  return etag and { etag = etag, total = math.tointeger(tonumber(headers["content-length"])) }
end

--- Where a file can be gone on with: its entry in api.unfinished; nil when it has to begin anew.
local function rest_of(api, id, path)
  local rest = api.unfinished[path]
  if not rest or rest.id ~= id then
    api.unfinished[path] = nil
    return nil
  end
  if rest.distrusted then return nil end
  local stat = fs.lstat(path)
  if stat and stat.type == "file" and stat.size == rest.size then return rest end
  api.unfinished[path] = nil
end

--- Why an answer of 206 is not the rest that was asked for; nil when it is. `promised` may be nil.
local function complaint_about(transfer, rest, promised)
  local range = transfer.headers["content-range"] or ""
  local first, last, total = range:match("^bytes (%d+)%-(%d+)/(%d+)$")
  first, last, total = math.tointeger(tonumber(first)), math.tointeger(tonumber(last)), math.tointeger(tonumber(total))
  if transfer.headers.etag ~= rest.etag then return "it is of another version" end
  if not total or first ~= rest.size or last ~= total - 1 then return "its range is '" .. range .. "'" end
  if total ~= (rest.total or total) or total ~= (promised or total) then
    return ("it is of %d bytes, not of %d"):format(total, rest.total or promised)
  end
  if not transfer.code and transfer.bytes ~= total - first then
    return ("it has %d bytes, not %d"):format(transfer.bytes, total - first)
  end
end

--- What is on disk after a transfer has broken: an entry for api.unfinished, or nil when that is of no use.
local function left_by(transfer, rest, id, path)
  local begun = transfer.status == 206 and rest and rest.size or 0
  if transfer.bytes == 0 or transfer.status < 200 or transfer.status > 299 then return rest end -- it is untouched
  local proof = transfer.status == 206 and rest or proof_of(transfer)
  local stat = proof and fs.lstat(path)
  if not stat or stat.type ~= "file" or stat.size ~= begun + transfer.bytes then return nil end
  return { id = id, etag = proof.etag, total = proof.total, size = stat.size }
end

--- Downloads the content of a file to a path where nobody else's file may be. After a failure there is a file there
--- only when a later call may go on with it. What is at `path` is not durable yet.
---@param api table         a client of obatch.openai
---@param what string       for messages
---@param url_path string
---@param id string         of the file
---@param path string
---@param promised? integer the bytes that the file object names
---@return integer|nil bytes  which is what the answers promised
---@return string|nil message
---@return string|nil code
function content.fetch(api, what, url_path, id, path, promised)
  local deadline, k = term.clock() + api.patience, 0
  local function failed(message, code, rest)
    api.unfinished[path] = rest
    if not rest or rest.distrusted then fs.remove(path) end
    return nil, message, code
  end

  while true do
    local rest = rest_of(api, id, path)
    local call = { path = url_path, to_file = path }
    if rest then
      call.resume_at = rest.size
      call.headers = { Range = ("bytes=%d-"):format(rest.size), ["If-Range"] = rest.etag }
      api.log(("%s: going on at byte %d"):format(what, rest.size))
    end
    local transfer, fault = api:send(what, call)
    local status = transfer and transfer.status
    local complaint
    if rest and status == 416 then
      complaint = "the service refuses the range"
    elseif rest and status == 206 then
      complaint = complaint_about(transfer, rest, promised)
    elseif status == 206 then
      return failed(what .. ": a part came, the whole was asked for", "PROTOCOL")
    end

    if complaint then
      api.log(api:clean(("%s: the rest cannot be used: %s; starting again"):format(what, complaint)))
      api.unfinished[path] = { id = id, distrusted = true }
    elseif not fault then
      api.unfinished[path] = nil
      return transfer.bytes + (status == 206 and rest.size or 0)
    else
      local known = api.unfinished[path]
      if not (known and known.distrusted) then
        known = transfer and fault.again and left_by(transfer, rest, id, path) or nil
        api.unfinished[path] = known
      end
      if not fault.again then return failed(fault.message, fault.code) end
      -- Bytes that stay are progress: a slow line may break more often than patience lasts.
      if known and known.size and known.size > (rest and rest.size or 0) then
        deadline, k = term.clock() + api.patience, 0
      end
      k = k + 1
      local ok, message, code = api:back_off(k, fault, deadline)
      if not ok then return failed(message, code, code ~= "INTERRUPTED" and known or nil) end
    end
  end
end

--- Forgets what is unfinished, and removes its files: what another process needs is not among them.
---@param api table
function content.forget(api)
  for path, rest in pairs(api.unfinished) do
    local stat = rest.size and fs.lstat(path)
    if stat and stat.type == "file" and stat.size == rest.size then fs.remove(path) end
  end
  api.unfinished = {}
end

return content
