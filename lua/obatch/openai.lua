--- The OpenAI API as this project uses it: files and batches. Nothing else talks HTTP.
--
-- THE retry policy lives here. What only reads is sent again after a fault that may pass. What
-- creates something never is: POST /files and POST /batches are not idempotent, and a reply that was
-- lost may stand for a batch that is running and will be billed. Such a doubt is settled by looking
-- for the thing (see `settle`), and only what is not there is created once more.
--
-- Failures are nil, message, CODE: the codes of obatch.http, and
--   AUTH 401, 403 · NOT_FOUND 404 · CONFLICT 409 · RATE_LIMIT 429 · QUOTA the account cannot pay ·
--   STORAGE an upload has no room · NO_FILE a batch's file is not visible yet · SERVER 408, 5xx ·
--   REFUSED any other status >= 400 · PROTOCOL a reply that is not what it should be

local cjson = require "cjson.safe"
local content = require "obatch.content"
local faults = require "obatch.fault"
local fs = require "obatch.fs"
local json = require "obatch.json"
local key = require "obatch.key"
local tasks = require "obatch.tasks"
local term = require "obatch.term"
local text = require "obatch.text"

local openai = {}

local Api = {}
Api.__index = Api

--- Seconds. A wait is drawn evenly from 0 to min(CAP, BASE * 2^k) (full jitter), or is what the
--- server asks for.
local BASE, CAP = 1, 60

--- Transport faults after which the service may have seen the whole request.
local DOUBTFUL = { TIMEOUT = true, CLOSED = true, PROTOCOL = true, REDIRECT = true, TOO_BIG = true, ENOMEM = true }

--- Seconds for which the answer to a whole request that creates something is waited for: a service may take
--- minutes to digest 200 MB, and the last megabytes may still be in this machine's buffers; who gives up
--- earlier has a doubt to settle. It is the timeout of the official SDKs. Where patience ends before, the wait
--- does, too, but not before that for a silent connection.
local ANSWER_TIMEOUT, STALL_TIMEOUT = 600, 60

--- The longest message, in bytes.
local MAX_MESSAGE = 1000

local present = faults.present
openai.present = present

--- What nobody who looks at a client shall see: { headers =, key = an obatch.Secret } for each.
local SECRETS = setmetatable({}, { __mode = "k" })

-- ---------------------------------------------------------------- one call

--- What a client is made of.
---@class obatch.openai.Options
---@field key string
---@field base_url string without a slash at its end
---@field organization? string
---@field project? string
---@field allow_plain_http? boolean let http:// go to other hosts than this machine
---@field settle_seconds? number see obatch.policy
---@field patience? number see obatch.policy
---@field log? fun(line: string) hears of every retry

--- A client of the API.
---@class obatch.openai.Api
---@field reached boolean whether the service has answered anything at all
---@field known table<string, true> ids with which no doubt is settled; callers may add some

---@param options obatch.openai.Options
---@return obatch.openai.Api? api
---@return string? message
---@return string? code
function openai.new(options)
  local headers = { ["Authorization"] = "Bearer " .. options.key, ["Accept"] = "application/json" }
  headers["OpenAI-Organization"] = options.organization
  headers["OpenAI-Project"] = options.project
  -- Required here: libcurl takes longer to load than most commands, of which many never connect.
  local client, message, code = require "obatch.http".client { user_agent = "obatch", stall_timeout = STALL_TIMEOUT,
    allow_plain_http = options.allow_plain_http }
  if not client then return nil, message, code end
  local api = setmetatable({
    client = client, base_url = options.base_url, reached = false,
    settle_seconds = options.settle_seconds or 15, patience = options.patience or 600,
    log = options.log or function() end,
    known = {},       -- ids of files and batches that are somebody's already: those that this client has handed
                      -- out, and what a caller adds; a doubt is never settled with one of them
    unfinished = {},  -- see obatch.content
  }, Api)
  SECRETS[api] = { headers = headers, key = key.secret(options.key) }
  return api
end

--- Idempotent. Downloads that could have been gone on with are over.
function Api:close()
  content.forget(self)
  self.client:close()
end
Api.__close = Api.close

--- A message that may hold words of the service: one line, not endless, and without the key, which
--- some services repeat.
---@param message string
---@return string cleaned
function Api:clean(message)
  return text.cut(SECRETS[self].key:hide(message):gsub("[\0-\31\127]+", " "), MAX_MESSAGE)
end

--- One transfer, no retry.
---@param what string  for messages
---@param call table   the request, see obatch.http, with `path` below base_url
---@return obatch.http.Transfer|nil transfer
---@return obatch.Fault|nil fault  nil for a success
function Api:send(what, call)
  local headers = {}
  for name, value in pairs(SECRETS[self].headers) do headers[name] = value end
  for name, value in pairs(call.headers or {}) do headers[name] = value end
  local body = call.json and json.encode(call.json)
  if body then headers["Content-Type"] = "application/json" end
  local transfer, message, code, broken = tasks.request(self.client, {
    method = call.method or "GET", url = self.base_url .. call.path, headers = headers,
    body = body or call.body, form = call.form, to_file = call.to_file, resume_at = call.resume_at,
    fresh = call.creates,
    answer_timeout = call.creates and math.max(STALL_TIMEOUT, math.min(ANSWER_TIMEOUT, self.patience)) or nil,
  })
  transfer = transfer or broken
  local fault
  if transfer then
    if transfer.status > 0 then self.reached = true end
    fault = faults.of(transfer, what, call)
  else
    fault = { message = ("%s: %s"):format(what, message), code = code, again = faults.PASSING[code] }
  end
  if fault then fault.message = self:clean(fault.message) end
  return transfer, fault
end

--- Waits after the k-th try (k = 1, 2, ...) ended with a fault; fails when the
--- next one would begin after `deadline`, or when interrupted.
---@param k integer
---@param fault obatch.Fault
---@param deadline number  of term.clock
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Api:back_off(k, fault, deadline)
  local pause = fault.wait or math.random() * math.min(CAP, BASE * 2 ^ (k - 1))
  if term.clock() + pause > deadline then
    local message = ("%s; given up after %d tries, the next would be %.0f s away"):format(fault.message, k, pause)
    return nil, message, fault.code
  end
  self.log(("%s; again in %.1f s"):format(fault.message, pause))
  return tasks.sleep(pause)
end

--- A call that changes nothing, or nothing that matters if repeated.
---@param what string
---@param call table
---@return obatch.http.Transfer|nil transfer
---@return string|nil message
---@return string|nil code
function Api:call(what, call)
  local deadline, k = term.clock() + self.patience, 0
  while true do
    local transfer, fault = self:send(what, call)
    if not fault then return transfer end
    if not fault.again or call.once or call.once_in_conflict and fault.code == "CONFLICT" then
      return nil, fault.message, fault.code
    end
    k = k + 1
    local ok, message, code = self:back_off(k, fault, deadline)
    if not ok then return nil, message, code end
  end
end

--- The text of each reply that is still held: what is kept of a reply is its own bytes. Of an item of a
--- listing it is { page = text, at = pointer } until somebody asks.
local TEXTS = setmetatable({}, { __mode = "k" })

--- The JSON text of an object that a method of the client returned, as the service sent it; nil for
--- another table.
---@param object table
---@return string? json
function openai.raw(object)
  local found = TEXTS[object]
  if type(found) == "table" then
    found = json.raw(found.page, found.at)
    TEXTS[object] = found
  end
  return found
end

--- The reply's JSON object.
---@param what string
---@param transfer obatch.http.Transfer
---@return table|nil object
---@return string|nil message
---@return string|nil code
function Api:object_of(what, transfer)
  local reply = cjson.decode(transfer.body)
  if type(reply) ~= "table" then
    local words = text.cut(self:clean(transfer.body), 80)
    return nil, ("%s: the reply is no JSON object: '%s'"):format(what, words), "PROTOCOL"
  end
  local secret = SECRETS[self].key
  if secret:is_in(transfer.body) or secret:is_in(reply) then
    return nil, what .. ": the reply repeats the API key; it is not used", "PROTOCOL"
  end
  TEXTS[reply] = transfer.body
  return reply
end

---@param what string
---@param call table
---@return table|nil object
---@return string|nil message
---@return string|nil code
function Api:get_object(what, call)
  local transfer, message, code = self:call(what, call)
  if not transfer then return nil, message, code end
  return self:object_of(what, transfer)
end

--- Ids come from the service and go into paths.
local function segment(id)
  return (id:gsub("[^%w_.~-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

--- Calls for one thing of a kind ("files"). Without an id the path would be that of the listing.
local function call_for(self, what, kind, id, call)
  if id == "" then return nil, what .. ": the id is empty", "NOT_FOUND" end
  call.path = ("/%s/%s%s"):format(kind, segment(id), call.path or "")
  local object, message, code = self:get_object(what, call)
  -- Who asked for one batch must not be told of another one, and cancel that.
  if object and kind == "batches" and present(object.id) ~= nil and object.id ~= id then
    return nil, ("batch %s: the reply is about another one"):format(id), "PROTOCOL"
  end
  return object, message, code
end

-- ---------------------------------------------------------------- what creates something

--- Looks for something that may have been created, again and again over settle_seconds, because a
--- new batch can be late in the listing. nil alone when it is not there; a message when the service could not be asked.
---@param what string
---@param find fun(): table?, string?, string?
---@param limits? table  those of each()
---@return table|nil found
---@return string|nil message
---@return string|nil code
function Api:settle(what, find, limits)
  local deadline, pause = term.clock() + self.settle_seconds, 1
  while true do
    local last = term.clock() >= deadline
    local found, message, code = find(limits)
    if found then
      self.log(what .. ": it had been created; going on with it")
      self.known[found.id] = true
      return found
    end
    if message then return nil, message, code end
    if last then return nil end
    local ok, problem, reason = tasks.sleep(math.min(pause, math.max(0, deadline - term.clock())))
    if not ok then return nil, problem, reason end
    pause = pause * 2
  end
end

local function has_id(object) return type(object.id) == "string" and object.id ~= "" end

--- Creates something exactly once. A definite refusal (4xx but 408 and 409) and a request that was never sent leave
--- no doubt; everything else does, 5xx and an unreadable reply included.
---@param what string
---@param call table
---@param find function      looks for it
---@param in_doubt? boolean  an earlier attempt may have succeeded
---@return table|nil object
---@return string|nil message
---@return string|nil code
---@return boolean|nil certain  nothing was created
---@return number|nil wait      seconds after which the service wants to be asked again
function Api:create(what, call, find, in_doubt)
  call.creates = true
  local deadline, k, fault = term.clock() + self.patience, 0, nil
  while true do
    if in_doubt then
      self.log(what .. ": it may have been created already; looking for it")
      local found, message, code = self:settle(what, find)
      if found or message then return found, message, code end
    end
    if fault and not fault.again then return nil, fault.message, fault.code, false, fault.wait end
    local transfer
    transfer, fault = self:send(what, call)
    if not fault then
      local reply = self:object_of(what, transfer)
      if reply and has_id(reply) then
        self.known[reply.id] = true
        return reply
      end
      fault = { message = what .. ": the reply names no id", code = "PROTOCOL", again = true }
    end
    local status = fault.status
    in_doubt = DOUBTFUL[fault.code] or (status and (status >= 500 or status == 408 or status == 409))
    if fault.code == "STORAGE" then in_doubt = false end -- 507: there was no room for it
    if not in_doubt and not fault.again then
      return nil, fault.message, fault.code, fault.code ~= "INTERRUPTED", fault.wait
    end
    k = k + 1
    local ok, message, code = self:back_off(k, fault, deadline)
    if not ok then
      -- The last try may have succeeded; it is worth a look, but no more patience.
      local found = in_doubt and code ~= "INTERRUPTED" and self:settle(what, find, { once = true })
      if found then return found end
      return nil, message, code, not in_doubt, fault.wait
    end
  end
end

-- ---------------------------------------------------------------- files

--- An object's status in lower case ("" where it has none): some services write it with a capital.
local function status_of(object) return type(object.status) == "string" and object.status:lower() or "" end

--- Whether a listed file is the one that may have been uploaded, and can still be used. One that this client
--- knows already is another: nobody uploads a file anew that the service has shown to have.
---@param file table
---@param filename string
---@param size integer
---@return boolean
function Api:is_upload(file, filename, size)
  if file.filename ~= filename or file.bytes ~= size or not has_id(file) or self.known[file.id] then return false end
  local status, expires = status_of(file), tonumber(present(file.expires_at))
  return status ~= "error" and status ~= "deleted" and status ~= "expired" and file.deleted ~= true
    and not (expires and expires <= term.time())
end

--- Uploads `path` under the name `filename`, which must be unique to its content (it is how a lost
--- reply is found again).
---@param path string
---@param filename string
---@param in_doubt? boolean an earlier attempt may have succeeded
---@return table? file the file object
---@return string? message
---@return string? code
---@return boolean? certain that nothing was created
---@return number? wait the seconds that the service asked to wait
function Api:upload(path, filename, in_doubt)
  local stat, message, code = fs.stat(path)
  if not stat then return nil, message, code end
  local function find(limits)
    return self:each("/files?purpose=batch&limit=1000", function(file)
      return self:is_upload(file, filename, stat.size)
    end, limits)
  end
  return self:create("uploading " .. filename, {
    method = "POST", path = "/files", stores = true,
    form = {
      { name = "purpose", value = "batch" },
      { name = "file", file = path, filename = filename, type = "application/jsonl" },
    },
  }, find, in_doubt)
end

--- The file object.
---@param id string
---@return table? file
---@return string? message
---@return string? code
function Api:file(id)
  return call_for(self, "file " .. id, "files", id, {})
end

---@param id string
---@return table? reply
---@return string? message
---@return string? code NOT_FOUND when it is not there (any more)
function Api:delete_file(id)
  return call_for(self, "deleting file " .. id, "files", id, { method = "DELETE" })
end

--- Downloads a file's bytes to `path`, complete or not at all: the count must be what the file object
--- says (where it says anything), and what is at `path` in the end is durable. check(path, complaint, promised),
--- where it is given, looks at what came before it gets its name, at what is wrong with its count (nil: nothing)
--- and at the count that the file object names (nil: none); it returns true to take it, or nil and why not.
---@param id string
---@param path string
---@param check? fun(path: string, complaint: string?, promised: integer?): boolean?, string?
---@return integer? bytes
---@return string? message
---@return string? code CLOSED for a file that is not taken
function Api:download(id, path, check)
  local what = "content of file " .. id
  local object, problem, reason = self:file(id)
  -- Some services know the content of a result file but not the object.
  if not object and (id == "" or reason ~= "NOT_FOUND" and reason ~= "REFUSED") then return nil, problem, reason end
  local promised = object and math.tointeger(present(object.bytes))
  local part = path .. ".part"
  local bytes, message, code = content.fetch(self, what, "/files/" .. segment(id) .. "/content", id, part, promised)
  if not bytes then return nil, message, code end
  local complaint = promised and promised ~= bytes
    and ("%d bytes came, the file object promises %d"):format(bytes, promised) or nil
  local taken, why_not = not complaint, complaint
  if check then taken, why_not = check(part, complaint, promised) end
  if not taken then
    fs.remove(part)
    return nil, ("%s: %s"):format(what, why_not), "CLOSED"
  end
  if complaint then self.log(("%s: %s; going on with what came"):format(what, complaint)) end
  local ok, trouble, errno = fs.rename(part, path) -- which puts the content on disk first
  if not ok then
    fs.remove(part)
    return nil, trouble, errno
  end
  return bytes
end

-- ---------------------------------------------------------------- batches

--- Whether a listed batch is the one that may have been created: it has the tag; or it has the file, and no
--- value of the tag is another's (services drop metadata). One that failed validation ran nothing and does
--- not count; nor does one that this client knows already: a listing may show it as it was before it failed.
---@param batch table
---@param input_file_id string
---@param tag table<string, string>
---@return boolean
function Api:is_batch(batch, input_file_id, tag)
  if status_of(batch) == "failed" or not has_id(batch) or self.known[batch.id] then return false end
  local metadata = type(batch.metadata) == "table" and batch.metadata or {}
  local same, other = next(tag) ~= nil, false
  for name, value in pairs(tag) do
    same = same and metadata[name] == value
    other = other or present(metadata[name]) ~= nil and metadata[name] ~= value
  end
  return same or batch.input_file_id == input_file_id and not other
end

--- Creates a batch of 24 h over an uploaded file, exactly once.
---@param input_file_id string
---@param endpoint string "/v1/chat/completions"
---@param tag table<string, string> its metadata and, together with the file id, how a batch is found whose reply
---was lost
---@param in_doubt? boolean an earlier attempt may have succeeded
---@param output_expires_after? integer seconds after which the service may delete its results
---@return table? batch the batch object
---@return string? message
---@return string? code
---@return boolean? certain that nothing was created
---@return number? wait the seconds that the service asked to wait
function Api:create_batch(input_file_id, endpoint, tag, in_doubt, output_expires_after)
  local function find(limits)
    return self:each("/batches?limit=100", function(batch) return self:is_batch(batch, input_file_id, tag) end, limits)
  end
  return self:create("creating the batch of file " .. input_file_id, {
    method = "POST", path = "/batches", input_file_id = input_file_id,
    json = { input_file_id = input_file_id, endpoint = endpoint, completion_window = "24h", metadata = tag,
      output_expires_after = output_expires_after and { anchor = "created_at", seconds = output_expires_after } },
  }, find, in_doubt)
end

--- The batch object.
---@param id string
---@param once? boolean a fault is not waited out: the caller looks again later
---@return table? batch
---@return string? message
---@return string? code
function Api:batch(id, once)
  return call_for(self, "batch " .. id, "batches", id, { once = once })
end

--- The batch object after the cancellation was asked for: "cancelling", for up to 10 minutes. Asking twice does
--- no harm, so a reply that was lost is asked for again. A batch that has ended is a CONFLICT, at once.
---@param id string
---@return table? batch
---@return string? message
---@return string? code
function Api:cancel_batch(id)
  return call_for(self, "cancelling batch " .. id, "batches", id,
    { method = "POST", path = "/cancel", body = "", once_in_conflict = true })
end

--- The batches with these ids as the listing shows them. It is made of few requests: batches that others have
--- created since may push ours off the pages that are looked at, so an id that is not in it has to be asked for by
--- itself. A fault is not waited out.
---@param ids string[]
---@return table<string, table>? batches id -> batch object; nil when a page could not be had
---@return string? message
---@return string? code
function Api:batches(ids)
  local wanted, found, left = {}, {}, 0
  for _, id in ipairs(ids) do
    if not wanted[id] then wanted[id], left = true, left + 1 end
  end
  if left == 0 then return found end
  local _, message, code = self:each("/batches?limit=100", function(batch)
    if wanted[batch.id] then
      wanted[batch.id], found[batch.id], left = nil, batch, left - 1
      openai.raw(batch) -- the page need not be kept
    end
    return left == 0
  end, { once = true, pages = math.max(1, left // 2) })
  if message then return nil, message, code end
  return found
end

--- Goes through a listing, newest first, all pages, until visit(item) is true.
---@param path string "/batches?limit=100"
---@param visit fun(item: table): boolean?
---@param limits? { pages: integer?, once: boolean?, after: string? } so many pages at most; a fault is not waited
---out; the id of the item behind which to begin
---@return table? item the one; nil when there was none
---@return string? message when a page could not be had: that is no proof of absence
---@return string? code
function Api:each(path, visit, limits)
  limits = limits or {}
  local what, after, asked = "listing " .. path:match("^[^?]*"), limits.after, {}
  for _ = 1, limits.pages or math.maxinteger do
    local url = after and ("%s%safter=%s"):format(path, path:find("?", 1, true) and "&" or "?", segment(after)) or path
    local page, message, code = self:get_object(what, { path = url, once = limits.once })
    if not page then return nil, message, code end
    local data = page.data
    if type(data) ~= "table" then return nil, what .. ": the reply holds no list", "PROTOCOL" end
    for i, item in ipairs(data) do
      if type(item) == "table" then
        TEXTS[item] = { page = TEXTS[page], at = "/data/" .. i - 1 }
        if visit(item) then
          openai.raw(item)
          return item
        end
      end
    end
    local last = data[#data]
    if last == nil and page.has_more == true then
      return nil, what .. ": the service says that there is more, and sends nothing", "PROTOCOL"
    elseif last == nil or page.has_more == false then
      return nil
    end
    local id = type(last) == "table" and present(last.id)
    if type(id) ~= "string" then return nil, what .. ": the last item has no id", "PROTOCOL" end
    if after then asked[after] = true end
    if asked[id] then return nil, ("%s: the service repeats the page after '%s'"):format(what, id), "PROTOCOL" end
    after = id
  end
end

-- ---------------------------------------------------------------- options of commands

--- Adds the options by which a command finds the service.
---@param parser table of cli.parser
function openai.options(parser)
  parser:option("--api-url", "Base URL of the API (default: $OPENAI_BASE_URL, else https://api.openai.com/v1).")
    :argname("URL")
  parser:option("--api-key-file", "File whose first line is the API key (default: $OPENAI_API_KEY)."):argname("FILE")
  parser:flag("--allow-plain-http", "Let http:// go to other hosts than this machine: the key travels in clear.")
end

--- A client from the parsed options and the environment (OPENAI_API_KEY, OPENAI_BASE_URL,
--- OPENAI_ORG_ID, OPENAI_PROJECT_ID). The key is never in a message.
---@param options table parsed by a parser that has openai.options; {} for none
---@param rules? table a policy, of which settle_seconds and patience are used
---@param log? fun(line: string) hears of every retry
---@return obatch.openai.Api? api
---@return string? message what is missing
---@return string? code
function openai.from_options(options, rules, log)
  rules = rules or {}
  local word, missing = key.read(options.api_key_file)
  if not word then return nil, missing end
  local function variable(name) return present(os.getenv(name)) end
  local base = options.api_url or variable("OPENAI_BASE_URL") or "https://api.openai.com/v1"
  local api, message, code = openai.new {
    key = word, base_url = base:gsub("/+$", ""), organization = variable("OPENAI_ORG_ID"),
    project = variable("OPENAI_PROJECT_ID"), allow_plain_http = options.allow_plain_http,
    settle_seconds = rules.settle_seconds, patience = rules.patience, log = log,
  }
  if not api then return nil, message, code end
  -- An address that nothing may be sent to is refused by start(), before any byte leaves.
  local probe
  probe, message, code = api.client:start { url = base }
  if not probe then
    api:close()
    message = message:gsub("^GET: ", ""):gsub("allow plain http$", "say --allow-plain-http")
    return nil, (options.api_url and "--api-url: " or "OPENAI_BASE_URL: ") .. message, code
  end
  probe:cancel()
  return api
end

return openai
