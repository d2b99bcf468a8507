--- A Batch API on loopback to rehearse against: Files, Batches and Uploads, free of charge.
--
-- It answers as the service does (shapes, errors, lifecycles), its "model" is a Lua function
-- (obatch.sandbox.answers tells what that gets and gives), and it misbehaves where it is told to
-- (obatch.sandbox.faults). One loop: take the next request, answer it, work on the batches for a
-- moment. State is plain files:
--
--   DIR/files/<id> and <id>.json, DIR/uploads/..., DIR/batches/<id>.json
--   DIR/ledger.jsonl       one line for every request the model was asked: what would have been paid
--   DIR/requests.jsonl     one line for every HTTP request: time, method, path, status (0: no answer), fault

local batches = require "obatch.sandbox.batches"
local files = require "obatch.sandbox.files"
local fs = require "obatch.fs"
local httpd = require "obatch.httpd"
local json = require "obatch.json"
local term = require "obatch.term"
local text = require "obatch.text"

-- Seconds of work on the batches between two looks at the clients.
local WORK = 0.02

local Sandbox = {}
Sandbox.__index = Sandbox

local sandbox = {}

local error_types = {
  [429] = "requests", [500] = "server_error", [502] = "server_error", [503] = "server_error",
  [504] = "server_error",
}

-- A reply with the error envelope; `problem` as in obatch.sandbox.files, with `headers` where it has some.
local function refusal(problem)
  local function or_null(value) return value == nil and json.null or value end
  return {
    status = problem.status, headers = problem.headers,
    value = {
      error = {
        message = problem.message, type = problem.type or error_types[problem.status] or "invalid_request_error",
        param = or_null(problem.param), code = or_null(problem.code),
      },
      detail = problem.detail,
    },
  }
end

local function not_found(message, param) return refusal { status = 404, message = message, param = param } end

-- What a handler got from obatch.sandbox.files: the record to show, or the problem.
local function shown(record, problem)
  if not record then return refusal(problem) end
  return { value = record.object }
end

-- The JSON body of a request | nil, reply.
local function json_body(req)
  local content = req:text()
  if content == "" then return {} end
  local body = content and json.decode(content)
  if type(body) ~= "table" or json.is_array(body) then
    return nil, refusal { status = 400, message = "The body of the request is not a JSON object." }
  end
  return body
end

-- A list reply; `list(limit, after)` gives the page and whether there is more.
local function page(req, default, most, list)
  local limit = default
  if req.query.limit then
    limit = math.tointeger(tonumber(req.query.limit))
    if not limit or limit < 1 or limit > most then
      return refusal { status = 400, param = "limit", code = "invalid_value",
        message = ("Invalid 'limit': expected an integer from 1 to %d."):format(most) }
    end
  end
  local after = req.query.after
  if after == "" then after = nil end
  local objects, more = list(limit, after)
  if not objects then return not_found(("No such object: %s"):format(after), "after") end
  return { value = {
    object = "list", data = json.array(objects), has_more = more,
    first_id = objects[1] and objects[1].id or json.null,
    last_id = objects[1] and objects[#objects].id or json.null,
  } }
end

local handlers = {}

function handlers.upload(self, req) return shown(self.files:create(req)) end

function handlers.list_files(self, req)
  local order = req.query.order or "desc"
  if order ~= "asc" and order ~= "desc" then
    return refusal { status = 400, param = "order", code = "invalid_value",
      message = "Invalid value for 'order'. Supported values are: 'asc' and 'desc'." }
  end
  return page(req, 10000, 10000, function(limit, after)
    local records, more = self.files:list(limit, after, order == "asc", req.query.purpose)
    if not records then return nil end
    for i, record in ipairs(records) do records[i] = record.object end
    return records, more
  end)
end

-- Handlers of /files/{id}...: the file is there.
local function with_file(handler)
  return function(self, req, id, fault)
    local record = self.files:find(id)
    if not record then return not_found("No such File object: " .. id, "id") end
    return handler(self, req, record, fault)
  end
end

handlers.file = with_file(function(_, _, record) return shown(record) end)

handlers.delete_file = with_file(function(self, _, record)
  local id = record.object.id
  self.files:delete(id, self.batches:uses(id))
  return { value = { id = id, object = "file", deleted = true } }
end)

-- First and last byte that a Range header asks of `size` bytes; nil: the whole; false: none of them.
local function byte_range(header, size)
  local first, last = header:match("^bytes=(%d*)%-(%d*)$")
  if not first or first == "" and last == "" then return nil end
  if first == "" then
    first, last = math.max(0, size - tonumber(last)), size - 1
  else
    first, last = tonumber(first), math.min(tonumber(last) or size - 1, size - 1)
  end
  if first > last then return false end
  return first, last
end

handlers.content = with_file(function(self, req, record, fault)
  local size = record.object.bytes
  local reply = {
    file = self.files:path(record.object.id), offset = 0, length = size,
    headers = { ["Content-Type"] = "application/octet-stream" },
  }
  if not self.options.range then return reply end
  local etag = ('"%s"'):format(record.object.id)
  if fault.etag == "changing" then etag = ('"%s"'):format(fs.random(8)) end
  if fault.etag == "weak" then etag = "W/" .. etag end
  reply.headers["Accept-Ranges"], reply.headers.ETag = "bytes", fault.etag ~= "none" and etag or nil
  local condition = req.headers["if-range"]
  -- A weak tag proves nothing about bytes (RFC 9110, 13.1.5).
  if not req.headers.range or condition and (condition ~= etag or fault.etag) then return reply end
  local first, last = byte_range(req.headers.range, size)
  if first and fault.range then first = math.max(0, first - 1) end
  if first then
    reply.status, reply.offset, reply.length = 206, first, last - first + 1
    reply.headers["Content-Range"] = ("bytes %d-%d/%d"):format(first, last, size)
  elseif first == false then
    reply = refusal { status = 416, message = "The requested range is not satisfiable." }
    reply.headers = { ["Content-Range"] = ("bytes */%d"):format(size) }
  end
  return reply
end)

function handlers.create_batch(self, req)
  local body, reply = json_body(req)
  if not body then return reply end
  local record, problem = self.batches:create(body)
  if not record then return refusal(problem) end
  return { value = self.batches:view(record) }
end

function handlers.list_batches(self, req)
  return page(req, 20, 100, function(limit, after)
    local records, more = self.batches:list(limit, after)
    if not records then return nil end
    for i, record in ipairs(records) do records[i] = self.batches:view(record) end
    return records, more
  end)
end

local function with_batch(handler)
  return function(self, req, id)
    local record = self.batches:find(id)
    if not record then return not_found(("No batch found with id '%s'."):format(id)) end
    return handler(self, req, record)
  end
end

handlers.batch = with_batch(function(self, _, record) return { value = self.batches:view(record) } end)

handlers.cancel = with_batch(function(self, _, record)
  local good, problem = self.batches:cancel(record)
  if not good then return refusal(problem) end
  return { value = self.batches:view(record) }
end)

function handlers.create_upload(self, req)
  local body, reply = json_body(req)
  if not body then return reply end
  return shown(self.files:create_upload(body))
end

function handlers.add_part(self, req, id) return shown(self.files:add_part(id, req)) end

function handlers.complete_upload(self, req, id)
  local body, reply = json_body(req)
  if not body then return reply end
  return shown(self.files:complete_upload(id, body))
end

function handlers.cancel_upload(self, _, id) return shown(self.files:cancel_upload(id)) end

-- Paths without the optional /v1. The names are those of obatch.sandbox.faults.
local routes = {
  { "POST", "^/files$", "upload" }, { "GET", "^/files$", "list_files" },
  { "GET", "^/files/([^/]+)$", "file" }, { "DELETE", "^/files/([^/]+)$", "delete_file" },
  { "GET", "^/files/([^/]+)/content$", "content" },
  { "POST", "^/batches$", "create_batch" }, { "GET", "^/batches$", "list_batches" },
  { "GET", "^/batches/([^/]+)$", "batch" }, { "POST", "^/batches/([^/]+)/cancel$", "cancel" },
  { "POST", "^/uploads$", "create_upload" }, { "POST", "^/uploads/([^/]+)/parts$", "add_part" },
  { "POST", "^/uploads/([^/]+)/complete$", "complete_upload" },
  { "POST", "^/uploads/([^/]+)/cancel$", "cancel_upload" },
}

local function find_route(req)
  local path = req.path:gsub("^/v1/", "/")
  for _, route in ipairs(routes) do
    local id = path:match(route[2])
    if id and route[1] == req.method then return route[3], id end
  end
end

local fault_messages = {
  [404] = "The resource was not found.",
  [429] = "Rate limit reached for requests. Please try again later.",
  [503] = "That model is currently overloaded with other requests.",
}
local QUOTA = "You exceeded your current quota, please check your plan and billing details."

-- The reply of a fault with a status.
local function fault_reply(fault)
  local status = fault.quota and 429 or fault.status
  local code = fault.code or fault.quota and "insufficient_quota" or status == 429 and "rate_limit_exceeded" or nil
  local reply = refusal {
    status = status, code = code, type = fault.quota and "insufficient_quota" or nil,
    message = fault.quota and QUOTA or fault_messages[status] or ("The sandbox was told to answer %d."):format(status),
  }
  reply.headers = {
    ["Retry-After"] = fault["retry-after"] and ("%d"):format(math.ceil(fault["retry-after"])),
    ["retry-after-ms"] = fault["retry-after-ms"] and ("%.14g"):format(fault["retry-after-ms"]),
    ["x-should-retry"] = fault["should-retry"],
  }
  if fault.body then
    reply.value = nil
    reply.body = fault.body == "html" and ("<html><head><title>%d</title></head><body><center><h1>%d</h1></center>"
      .. "</body></html>\n"):format(status, status) or ""
    reply.headers["Content-Type"] = "text/html"
  end
  return reply
end

-- Gives a reply another body than it should have: shorter, longer, or with a count that is wrong.
local function distort(reply, fault)
  local value = reply.value
  if fault.count and value and math.type(value.bytes) == "integer" then
    reply.value = {}
    for name, field in pairs(value) do reply.value[name] = field end
    reply.value.bytes = value.bytes + fault.count
  end
  if not (fault.truncate or fault.longer) then return end
  if reply.file and fault.truncate then
    reply.length = math.min(reply.length, fault.truncate)
    return
  end
  local whole = reply.body or reply.value and json.encode(reply.value)
    or assert(fs.read(reply.file, reply.offset + reply.length)):sub(reply.offset + 1, reply.offset + reply.length)
  reply.body, reply.value, reply.file, reply.offset, reply.length =
    whole:sub(1, fault.truncate) .. ("x"):rep(fault.longer or 0), nil, nil, nil, nil
end

-- Whether all that a client may name is Unicode text, as everything must be that goes into a reply or a record.
local function is_text(req)
  local function all(map)
    for name, value in pairs(map or {}) do
      if not utf8.len(name) then return false end
      if type(value) == "string" and not utf8.len(value) then return false end
      if type(value) == "table" and not (utf8.len(value.filename or "") and utf8.len(value.type or "")) then
        return false
      end
    end
    return true
  end
  return utf8.len(req.path) and utf8.len(req.method) and all(req.query) and all(req.form)
end

-- The reply to a request, before its headers are completed, and the fault it met (or nil).
local function answer(self, req)
  if not (req.headers.authorization or ""):find("^[Bb]earer%s+%S") then
    return refusal { status = 401, code = "invalid_api_key",
      message = "There is no API key: send one as 'Authorization: Bearer KEY'." }
  end
  if not is_text(req) then return refusal { status = 400, message = "The request is not UTF-8 text." } end
  local endpoint, id = find_route(req)
  if not endpoint then
    return not_found(("Invalid URL (%s %s)"):format(req.method, req.path))
  end
  local fault = self.faults:request(endpoint)
  local replaced = fault.status or fault.quota or fault.drop or fault.stall
  local reply
  if not replaced or fault.late then reply = handlers[endpoint](self, req, id, fault) end
  if replaced then reply = (fault.status or fault.quota) and fault_reply(fault) or { value = {} } end
  distort(reply, fault)
  reply.drop, reply.stall = fault.drop, fault.stall
  reply.cut, reply.rate, reply.delay = fault.cut, fault.rate, fault.delay
  return reply, fault
end

-- The words of the rule that a request met, for the log.
local function describe(fault)
  local words = {}
  for _, name in ipairs { "status", "quota", "drop", "stall", "late", "cut", "rate", "delay", "truncate", "longer",
    "count", "etag", "range" } do
    local value = fault[name]
    if value then words[#words + 1] = value == true and name or ("%s=%s"):format(name, value) end
  end
  return table.concat(words, " ")
end

local function serve(self, req)
  local reply, fault = answer(self, req)
  reply.status = reply.status or 200
  reply.headers = reply.headers or {}
  reply.headers["x-request-id"] = "req_" .. fs.random(16)
  if reply.value then
    reply.body, reply.value = json.encode(reply.value), nil
    reply.headers["Content-Type"] = "application/json"
  end
  local answered = not (reply.drop or reply.stall)
  assert(self.log:write(json.encode {
    time = term.time(), method = text.printable(req.method), path = text.printable(req.path),
    status = answered and reply.status or 0, fault = fault and describe(fault) or "",
  }, "\n"))
  self.log:flush()
  local good, message, code = req:reply(reply)
  if not good and code ~= "CLOSED" then error(message) end -- CLOSED: the client has left
  req:close()
end

---@class obatch.sandbox.Options: obatch.sandbox.BatchOptions
---@field dir string      where the state is kept; going on from what is there
---@field port integer    0: a free one
---@field host? string    the address to listen on; nil: this machine only
---@field faults table    from obatch.sandbox.faults
---@field seed integer    of everything random
---@field range? boolean  file content can be had in ranges

--- Starts listening. Takes the options of obatch.sandbox.files, too.
---@param options obatch.sandbox.Options
---@return table|nil sandbox  with .port
---@return string|nil message
---@return string|nil code
function sandbox.open(options)
  math.randomseed(options.seed)
  local self = setmetatable({ options = options, faults = options.faults }, Sandbox)
  local spool = options.dir .. "/spool"
  local good, message, code = fs.mkdir(spool)
  if not good then return nil, message, code end
  self.lock, message, code = fs.lock(options.dir .. "/lock")
  if not self.lock then return nil, message, code end
  for _, name in ipairs(assert(fs.list(spool))) do assert(fs.remove(spool .. "/" .. name)) end
  self.server, message, code = httpd.listen {
    host = options.host, port = options.port, spool = spool, max_body = files.max_body,
  }
  if not self.server then return nil, message, code end
  self.port = self.server.port
  self.log = assert(io.open(options.dir .. "/requests.jsonl", "ab"))
  self.files = files.open(options.dir, options.faults, options)
  self.batches = batches.open(options.dir, self.files, options.faults, options)
  return self
end

--- Serves until a signal asks to stop.
function Sandbox:run()
  local idle
  repeat
    -- Even when there is work, clients get a moment each time: that is when replies are sent.
    local req, message, code = self.server:next(math.min(idle or 60, 60))
    if req then
      serve(self, req)
    elseif code ~= "TIMEOUT" and code ~= "INTERRUPTED" then
      error(message)
    end
    idle = self.batches:tick(WORK)
    if idle then idle = math.max(idle, 0.002) end
  until code == "INTERRUPTED"
end

function Sandbox:close()
  if self.batches then self.batches:close() end
  self.server:close()
  self.log:close()
  self.lock:close()
end

Sandbox.__close = Sandbox.close

return sandbox
