--- The OpenAI API as this project uses it: files and batches. Nothing else talks HTTP.
--
-- THE retry policy lives here. What only reads is sent again after a fault that may pass. What
-- creates something never is: POST /files and POST /batches are not idempotent, and a reply that was
-- lost may stand for a batch that is running and will be billed. Such a doubt is settled by looking
-- for the thing (see `settle`), and only what is not there is created once more.
--
-- Failures are nil, message, CODE: the codes of obatch.http, and
--   AUTH 401, 403 · NOT_FOUND 404 · CONFLICT 409 · RATE_LIMIT 429 · QUOTA the account cannot pay ·
--   NO_FILE 400 for a file that is not visible yet · SERVER 5xx · REFUSED any other status >= 400 ·
--   PROTOCOL a reply that is not what it should be

local cjson = require "cjson.safe"
local fs = require "obatch.fs"
local http = require "obatch.http"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local tasks = require "obatch.tasks"
local term = require "obatch.term"
local text = require "obatch.text"

local openai = {}
local Api = {}
Api.__index = Api

--- Seconds. A wait is drawn evenly from 0 to min(CAP, BASE * 2^k) (full jitter), or is what the
--- server asks for.
local BASE, CAP = 1, 60

--- Transport faults that may pass by waiting; a disk that is full does not.
local PASSING = { DNS = true, CONNECT = true, TIMEOUT = true, CLOSED = true, PROTOCOL = true }

--- Transport faults after which the service may have seen the whole request.
local DOUBTFUL = { TIMEOUT = true, CLOSED = true, PROTOCOL = true, REDIRECT = true, TOO_BIG = true }

--- The longest message, in bytes.
local MAX_MESSAGE = 1000

--- Any real key is longer; a shorter one is a stand-in for a local server and may be an honest word.
local SHORTEST_KEY = 8

--- JSON null and the empty string (seen as the file id of a clean batch) both mean "absent".
local function present(value)
  if value == nil or value == cjson.null or value == "" then return nil end
  return value
end
openai.present = present

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
  return seconds and seconds > 0 and seconds or nil
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

local CODES = { [401] = "AUTH", [403] = "AUTH", [404] = "NOT_FOUND", [409] = "CONFLICT", [429] = "RATE_LIMIT" }

local REMEDIES = {
  AUTH = "check the API key (OPENAI_API_KEY or --api-key-file), the organization and the project",
  QUOTA = "the account cannot pay for more: add credit or raise its limit, then run again",
}

--- Judges a finished transfer: nil when it is a success, else { message, code, again, status }, where
--- `again` says whether the same request may succeed later.
local function fault_of(transfer, what)
  if transfer.code then
    return { message = ("%s: %s"):format(what, transfer.error), code = transfer.code, again = PASSING[transfer.code] }
  end
  local status = transfer.status
  if status >= 200 and status < 300 then return nil end
  local failure = error_of(transfer.body)
  local code = CODES[status] or (status >= 500 and "SERVER") or "REFUSED"
  local again = status == 408 or status == 409 or status == 429 or status >= 500
  local wish = transfer.headers["x-should-retry"]
  if wish == "true" then again = true elseif wish == "false" then again = false end
  if outcome.is_quota(failure) then code, again = "QUOTA", false end
  if status == 400 and failure.param == "file_id" then code = "NO_FILE" end
  local message = ("%s: status %d%s%s"):format(what, status,
    failure.message and ": " .. tostring(failure.message) or "",
    transfer.headers["x-request-id"] and (" (request %s)"):format(transfer.headers["x-request-id"]) or "")
  if REMEDIES[code] then message = message .. ". Remedy: " .. REMEDIES[code] end
  return { message = message, code = code, again = again, status = status }
end

-- ---------------------------------------------------------------- one call

--- A client of the API.
---   key, base_url, organization, project    strings; base_url without a slash at its end
---   allow_plain_http                        http:// to other hosts than this machine
---   settle_seconds, patience                see obatch.policy
---   log(line)                               hears of every retry
function openai.new(options)
  local headers = { ["Authorization"] = "Bearer " .. options.key, ["Accept"] = "application/json" }
  headers["OpenAI-Organization"] = options.organization
  headers["OpenAI-Project"] = options.project
  local client, message, code = http.client { user_agent = "obatch", allow_plain_http = options.allow_plain_http }
  if not client then return nil, message, code end
  return setmetatable({
    client = client, key = options.key, headers = headers, base_url = options.base_url,
    settle_seconds = options.settle_seconds or 15, patience = options.patience or 600,
    log = options.log or function() end,
  }, Api)
end

function Api:close() self.client:close() end
Api.__close = Api.close

--- A message that may hold words of the service: one line, not endless, and without the key, which
--- some services repeat.
function Api:clean(message)
  if #self.key >= SHORTEST_KEY then message = message:gsub(self.key:gsub("%p", "%%%0"), "***") end
  return text.cut(message:gsub("[\0-\31\127]+", " "), MAX_MESSAGE)
end

--- One transfer, no retry. Returns the transfer and its fault (nil for a success).
function Api:send(what, call)
  local headers = {}
  for name, value in pairs(self.headers) do headers[name] = value end
  local body = call.json and json.encode(call.json)
  if body then headers["Content-Type"] = "application/json" end
  local transfer, message, code = tasks.request(self.client, {
    method = call.method or "GET", url = self.base_url .. call.path, headers = headers,
    body = body or call.body, form = call.form, to_file = call.to_file, fresh = call.creates,
  })
  local fault
  if transfer then
    fault = fault_of(transfer, what)
  else
    fault = { message = ("%s: %s"):format(what, message), code = code, again = PASSING[code] }
  end
  if fault then fault.message = self:clean(fault.message) end
  return transfer, fault
end

--- Waits after the k-th try (k = 1, 2, ...) ended with `fault`: true; or nil, message, CODE when the
--- next one would begin after `deadline`, or when interrupted.
function Api:back_off(k, transfer, fault, deadline)
  local pause = transfer and asked_wait(transfer.headers) or math.random() * math.min(CAP, BASE * 2 ^ (k - 1))
  if term.clock() + pause > deadline then
    local message = ("%s; given up after %d tries, the next would be %.0f s away"):format(fault.message, k, pause)
    return nil, message, fault.code
  end
  self.log(("%s; again in %.1f s"):format(fault.message, pause))
  return tasks.sleep(pause)
end

--- A call that changes nothing, or nothing that matters if repeated. Returns the transfer, or
--- nil, message, CODE.
function Api:call(what, call)
  local deadline, k = term.clock() + self.patience, 0
  while true do
    local transfer, fault = self:send(what, call)
    if not fault then return transfer end
    if not fault.again or call.once then return nil, fault.message, fault.code end
    k = k + 1
    local ok, message, code = self:back_off(k, transfer, fault, deadline)
    if not ok then return nil, message, code end
  end
end

--- The text of each reply that is still held: what is kept of a reply is its own bytes.
local TEXTS = setmetatable({}, { __mode = "k" })

--- The JSON text of an object that a method of the client returned, as the service sent it; nil for
--- another table.
function openai.raw(object) return TEXTS[object] end

--- The reply's JSON object, or nil, message, CODE.
function Api:object_of(what, transfer)
  local reply = cjson.decode(transfer.body)
  if type(reply) ~= "table" then
    local words = text.cut(self:clean(transfer.body), 80)
    return nil, ("%s: the reply is no JSON object: '%s'"):format(what, words), "PROTOCOL"
  end
  TEXTS[reply] = transfer.body
  return reply
end

function Api:get_object(what, call)
  local transfer, message, code = self:call(what, call)
  if not transfer then return nil, message, code end
  return self:object_of(what, transfer)
end

--- Ids come from the service and go into paths.
local function segment(id)
  return (id:gsub("[^%w_.~-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

-- ---------------------------------------------------------------- what creates something

--- Looks for something that may have been created, again and again over settle_seconds, because a
--- new batch can be late in the listing. Returns it; nil when it is not there; nil, message, CODE
--- when the service could not be asked.
function Api:settle(what, find)
  local deadline, pause = term.clock() + self.settle_seconds, 1
  while true do
    local last = term.clock() >= deadline
    local found, message, code = find()
    if found then
      self.log(what .. ": it had been created; going on with it")
      return found
    end
    if message then return nil, message, code end
    if last then return nil end
    local ok, problem, reason = tasks.sleep(math.min(pause, math.max(0, deadline - term.clock())))
    if not ok then return nil, problem, reason end
    pause = pause * 2
  end
end

--- Creates something exactly once. `find` looks for it; `in_doubt` says that an earlier attempt may
--- have succeeded. A definite refusal (4xx but 408 and 409) and a request that was never sent leave
--- no doubt; everything else does, 5xx and an unreadable reply included.
--- Failures have a fourth value: true when it is certain that nothing was created.
function Api:create(what, call, find, in_doubt)
  call.creates = true
  local deadline, k, fault = term.clock() + self.patience, 0, nil
  while true do
    if in_doubt then
      self.log(what .. ": it may have been created already; looking for it")
      local found, message, code = self:settle(what, find)
      if found or message then return found, message, code end
    end
    if fault and not fault.again then return nil, fault.message, fault.code end
    local transfer
    transfer, fault = self:send(what, call)
    if not fault then
      local reply = self:object_of(what, transfer)
      if reply and type(reply.id) == "string" and reply.id ~= "" then return reply end
      fault = { message = what .. ": the reply names no id", code = "PROTOCOL", again = true }
    end
    local status = fault.status
    in_doubt = DOUBTFUL[fault.code] or (status and (status >= 500 or status == 408 or status == 409))
    if not in_doubt and not fault.again then return nil, fault.message, fault.code, fault.code ~= "INTERRUPTED" end
    k = k + 1
    local ok, message, code = self:back_off(k, transfer, fault, deadline)
    if not ok then return nil, message, code, not in_doubt end
  end
end

-- ---------------------------------------------------------------- files

--- Uploads `path` under the name `filename`, which must be unique to its content (it is how a lost
--- reply is found again). Returns the file object.
function Api:upload(path, filename, in_doubt)
  local stat, message, code = fs.stat(path)
  if not stat then return nil, message, code end
  local function find()
    return self:each("/files?purpose=batch&limit=1000", function(file)
      return file.filename == filename and file.bytes == stat.size and present(file.status) ~= "error"
    end)
  end
  return self:create("uploading " .. filename, {
    method = "POST", path = "/files",
    form = {
      { name = "purpose", value = "batch" },
      { name = "file", file = path, filename = filename, type = "application/jsonl" },
    },
  }, find, in_doubt)
end

function Api:file(id)
  return self:get_object("file " .. id, { path = "/files/" .. segment(id) })
end

function Api:delete_file(id)
  return self:get_object("deleting file " .. id, { method = "DELETE", path = "/files/" .. segment(id) })
end

--- Downloads a file's bytes to `path`, complete or not at all: the count must be what the file object
--- says (where it says anything, and unless `as_it_comes`), and what is at `path` in the end is
--- durable. Returns the number of bytes.
function Api:download(id, path, as_it_comes)
  local what = "content of file " .. id
  local object, problem, reason = self:file(id)
  -- Some services know the content of a result file but not the object.
  if not object and reason ~= "NOT_FOUND" and reason ~= "REFUSED" then return nil, problem, reason end
  local promised = object and math.tointeger(present(object.bytes))
  local part = path .. ".part"
  local transfer, message, code = self:call(what, { path = "/files/" .. segment(id) .. "/content", to_file = part })
  if not transfer then
    fs.remove(part)
    return nil, message, code
  end
  if promised and promised ~= transfer.bytes then
    local complaint = ("%s: %d bytes came, the file object promises %d"):format(what, transfer.bytes, promised)
    if not as_it_comes then
      fs.remove(part)
      return nil, complaint, "CLOSED"
    end
    self.log(complaint .. "; going on with what came")
  end
  local ok, trouble, errno = fs.rename(part, path) -- which puts the content on disk first
  if not ok then
    fs.remove(part)
    return nil, trouble, errno
  end
  return transfer.bytes
end

-- ---------------------------------------------------------------- batches

local function same_tag(metadata, tag)
  if type(metadata) ~= "table" then return false end
  for key, value in pairs(tag) do
    if metadata[key] ~= value then return false end
  end
  return true
end

--- Creates a batch of 24 h over an uploaded file. `tag` is its metadata and, together with the file
--- id, how a batch is found whose reply was lost. Batches that failed validation do not count: they
--- ran nothing.
function Api:create_batch(input_file_id, endpoint, tag, in_doubt)
  local function find()
    return self:each("/batches?limit=100", function(batch)
      return batch.status ~= "failed"
        and (batch.input_file_id == input_file_id or same_tag(batch.metadata, tag))
    end)
  end
  return self:create("creating the batch of file " .. input_file_id, {
    method = "POST", path = "/batches",
    json = { input_file_id = input_file_id, endpoint = endpoint, completion_window = "24h", metadata = tag },
  }, find, in_doubt)
end

--- The batch object. With `once`, a fault is not waited out: the caller looks again later.
function Api:batch(id, once)
  return self:get_object("batch " .. id, { path = "/batches/" .. segment(id), once = once })
end

--- The batch object after the cancellation was asked for. A batch that has already ended is a
--- CONFLICT.
function Api:cancel_batch(id)
  return self:get_object("cancelling batch " .. id,
    { method = "POST", path = "/batches/" .. segment(id) .. "/cancel", body = "", once = true })
end

--- Goes through a listing, newest first, all pages, until visit(item) is true. Returns that item;
--- nil when there was none; nil, message, CODE when a page could not be had: that is no proof of
--- absence.
function Api:each(path, visit)
  local what, after = "listing " .. path:match("^[^?]*"), nil
  while true do
    local url = after and ("%s%safter=%s"):format(path, path:find("?", 1, true) and "&" or "?", segment(after)) or path
    local page, message, code = self:get_object(what, { path = url })
    if not page then return nil, message, code end
    local data = page.data
    if type(data) ~= "table" then return nil, what .. ": the reply holds no list", "PROTOCOL" end
    for i, item in ipairs(data) do
      if type(item) == "table" and visit(item) then
        TEXTS[item] = json.raw(TEXTS[page], "/data/" .. i - 1)
        return item
      end
    end
    local last = data[#data]
    if last == nil or page.has_more == false then return nil end
    local id = type(last) == "table" and present(last.id)
    if type(id) ~= "string" then return nil, what .. ": the last item has no id", "PROTOCOL" end
    if id == after then return nil, ("%s: the service repeats the page after '%s'"):format(what, id), "PROTOCOL" end
    after = id
  end
end

-- ---------------------------------------------------------------- options of commands

--- Adds the options by which a command finds the service.
function openai.options(parser)
  parser:option("--api-url", "Base URL of the API (default: $OPENAI_BASE_URL, else https://api.openai.com/v1).")
    :argname("URL")
  parser:option("--api-key-file", "File whose first line is the API key (default: $OPENAI_API_KEY)."):argname("FILE")
  parser:flag("--allow-plain-http", "Let http:// go to other hosts than this machine: the key travels in clear.")
end

local function read_key(path)
  if not path then
    local key = os.getenv("OPENAI_API_KEY")
    if not key or key == "" then
      return nil, "no API key: set OPENAI_API_KEY, or name a file with --api-key-file"
    end
    return key
  end
  local content, message = fs.read(path, 4096)
  if not content then return nil, message end
  return content:match("^%s*([^\r\n]*)"):match("^(.-)%s*$"), path
end

--- A client from the parsed options and the environment (OPENAI_API_KEY, OPENAI_BASE_URL,
--- OPENAI_ORG_ID, OPENAI_PROJECT_ID), or nil and what is missing. `rules` is a policy. The key is never in
--- a message.
function openai.from_options(options, rules, log)
  rules = rules or {}
  local key, origin = read_key(options.api_key_file)
  if not key then return nil, origin end
  if not key:find("^[\x21-\x7E]+$") then
    return nil, ("%s does not hold an API key: one word of printable characters"):format(origin or "OPENAI_API_KEY")
  end
  local function variable(name) return present(os.getenv(name)) end
  local base = options.api_url or variable("OPENAI_BASE_URL") or "https://api.openai.com/v1"
  local api, message, code = openai.new {
    key = key, base_url = base:gsub("/+$", ""), organization = variable("OPENAI_ORG_ID"),
    project = variable("OPENAI_PROJECT_ID"), allow_plain_http = options.allow_plain_http,
    settle_seconds = rules.settle_seconds, patience = rules.patience, log = log,
  }
  if not api then return nil, message, code end
  -- An address that nothing may be sent to is refused by start(), before any byte leaves.
  local probe
  probe, message, code = api.client:start { url = base }
  if not probe then
    api:close()
    return nil, (options.api_url and "--api-url: " or "OPENAI_BASE_URL: ") .. message:gsub("^GET: ", ""), code
  end
  probe:cancel()
  return api
end

return openai
