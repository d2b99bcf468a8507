--- What an answer of the API says went wrong, and how long it wants to be left alone.

local cjson = require "cjson.safe"
local outcome = require "obatch.outcome"
local term = require "obatch.term"

local fault = {}

--- Transport faults that may pass by waiting; a disk that is full does not.
fault.PASSING = { DNS = true, CONNECT = true, TIMEOUT = true, CLOSED = true, PROTOCOL = true }

--- JSON null and the empty string (seen as the file id of a clean batch) both mean "absent".
---@param value any
---@return any value  nil for these
function fault.present(value)
  if value == nil or value == cjson.null or value == "" then return nil end
  return value
end
local present = fault.present

-- ---------------------------------------------------------------- how long to wait

local MONTHS = { Jan = 1, Feb = 2, Mar = 3, Apr = 4, May = 5, Jun = 6, Jul = 7, Aug = 8, Sep = 9,
  Oct = 10, Nov = 11, Dec = 12 }

--- An HTTP date ("Sun, 06 Nov 1994 08:49:37 GMT") in Unix seconds. RFC 9110, 5.6.7.
local function http_date(value)
  local day, month, year, hour, minute, second =
    (value or ""):match("(%d%d?) (%a+) (%d%d%d%d) (%d%d):(%d%d):(%d%d) GMT")
  if not MONTHS[month] then return nil end
  local fields = { year = year, month = MONTHS[month], day = day, hour = hour, min = minute, sec = second,
    isdst = false }
  -- os.time reads local time; the same reading of "now" in UTC gives the difference.
  return os.time(fields) + os.time() - os.time(os.date("!*t"))
end

--- What the server asks to wait, in seconds; nil when it does not say, or says "not at all". The
--- order is that of the official SDKs: retry-after-ms, then Retry-After as seconds or as a date.
local function asked_wait(headers)
  local milliseconds, value = tonumber(headers["retry-after-ms"]), headers["retry-after"]
  local seconds = milliseconds and milliseconds / 1000 or tonumber(value)
  if not seconds then
    local date = http_date(value)
    seconds = date and date - (http_date(headers.date) or term.time())
  end
  return seconds and seconds > 0 and seconds < math.huge and seconds or nil
end

-- ---------------------------------------------------------------- what a reply means

--- The "error" object of a reply, as plain Lua; {} when the body has none (a gateway's HTML).
local function error_of(body)
  local reply = cjson.decode(body)
  local failure = type(reply) == "table" and reply.error
  if type(failure) == "string" then return { message = failure } end
  if type(failure) ~= "table" then return {} end
  return { message = present(failure.message), code = present(failure.code), type = present(failure.type),
    param = present(failure.param) }
end

local CODES = { [401] = "AUTH", [403] = "AUTH", [404] = "NOT_FOUND", [408] = "SERVER", [409] = "CONFLICT",
  [429] = "RATE_LIMIT" }

local REMEDIES = {
  AUTH = "check the API key (OPENAI_API_KEY or --api-key-file), the organization and the project",
  QUOTA = "the account cannot pay for more: add credit or raise its limit, then run again",
  STORAGE = "delete files at the service (obatch files prune --dry-run shows which may go; --delete-remote-files does "
    .. "it for batches whose results are safe), then run again",
}

local function lower(value) return type(value) == "string" and value:lower() or "" end

--- Whether words, or a code, say that there is no room: "storage", and that it is used up.
local function names_storage(words)
  if not words:find("storage", 1, true) then return nil end
  return words:find("limit", 1, true) or words:find("quota", 1, true) or words:find("exceed", 1, true)
    or words:find("full", 1, true)
end

--- Whether an upload was refused because the service's storage is full. No code is documented, so a code is
--- believed before the message, and so is one that names another reason, and a time to `wait`.
local function is_storage(status, failure, wait)
  if status == 401 or status == 404 or status == 408 or status == 409 or status >= 500 and status ~= 507 then
    return false
  end
  if names_storage(lower(failure.code)) or names_storage(lower(failure.type)) then return true end
  if failure.code == "rate_limit_exceeded" or outcome.is_quota { code = failure.code } then return false end
  return not wait and names_storage(lower(failure.message)) ~= nil
end

--- Whether the refusal of a batch says that its input file is not there, which is said of new files, too: 400
--- with this param (seen in 2024), and what other services answer.
local function is_no_file(status, failure, file_id)
  if status ~= 400 and status ~= 404 then return false end
  local words = lower(failure.message)
  if failure.param == "file_id" or failure.code == "file_not_found" or words:find("^cannot find file")
    or words:find("^no such file") then return true end
  return status == 404 and (failure.param == "input_file_id" or words:find(file_id:lower(), 1, true) ~= nil)
end

---@class obatch.Fault
---@field message string
---@field code string
---@field again? boolean   the same request may succeed later
---@field status? integer  of the answer
---@field wait? number     seconds after which the service wants to be asked again

--- Judges a finished transfer: nil when it is a success.
---@param transfer obatch.http.Transfer
---@param what string  for the message
---@param call table   what Api:send got
---@return obatch.Fault|nil fault
function fault.of(transfer, what, call)
  if transfer.code then
    return { message = ("%s: %s"):format(what, transfer.error), code = transfer.code,
      again = fault.PASSING[transfer.code], wait = asked_wait(transfer.headers) }
  end
  local status = transfer.status
  if status >= 200 and status < 300 then return nil end
  local failure = error_of(transfer.body)
  local code = CODES[status] or (status >= 500 and "SERVER") or "REFUSED"
  local again = status == 408 or status == 409 or status == 429 or status >= 500
  local wish = transfer.headers["x-should-retry"]
  if wish == "true" then again = true elseif wish == "false" then again = false end
  if again and code == "REFUSED" then code = "SERVER" end
  local wait = asked_wait(transfer.headers)
  if call.stores and is_storage(status, failure, wait) then
    code, again = "STORAGE", false
  elseif outcome.is_quota(failure) then
    code, again = "QUOTA", false
  elseif call.input_file_id and is_no_file(status, failure, call.input_file_id) then
    code = "NO_FILE"
  end
  local message = ("%s: status %d%s%s"):format(what, status,
    failure.message and ": " .. tostring(failure.message) or "",
    transfer.headers["x-request-id"] and (" (request %s)"):format(transfer.headers["x-request-id"]) or "")
  if REMEDIES[code] then message = message .. ". Remedy: " .. REMEDIES[code] end
  return { message = message, code = code, again = again, status = status, wait = wait }
end

return fault
