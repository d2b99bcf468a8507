--- A Batch API that lies: "obatch run tests/liar.lua LIES.lua FOLDER" prints its port and serves until it
--- is stopped. Every service under http://127.0.0.1:PORT/NAME/v1 is one of its own; batches are completed
--- at once, and every answer is {"id": CUSTOM_ID}. LIES.lua returns a table, NAME -> what that one says
--- instead; all of it may be absent:
---   created(object), batch(object, n)  changes the object of a reply before it is sent, or returns another one; a
---                                      string is the whole body. n: how often it was asked for
---   listed(list)                       the same for the list of batches
---   batch_id(n), file_id(n)            the id of the n-th object
---   output(lines, ids)                 changes the lines of an output file, or returns the text of it, or
---                                      { file = path }
local fs = require "obatch.fs"
local httpd = require "obatch.httpd"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"

local lies_file, folder = ...
local lies = assert(loadfile(lies_file))()
local services = {}
assert(fs.mkdir(folder .. "/spool"))
local server <close> = assert(httpd.listen { spool = folder .. "/spool" })
print(server.port)
io.stdout:flush()

local function line_of(id)
  return json.encode { id = "batch_req_x", custom_id = id, error = json.null, response = { status_code = 200,
    request_id = "x", body = { id = "x", object = "chat.completion", model = "gpt-test",
      choices = json.array { { index = 0, finish_reason = "stop",
        message = { role = "assistant", content = json.encode { id = id }, refusal = json.null } } },
      usage = { prompt_tokens = 1, completion_tokens = 1, total_tokens = 2 } } } }
end

--- An object as this service says it.
local function told(service, how, object, n)
  local lie = service.lies[how]
  local copy = {}
  for key, value in pairs(object) do copy[key] = value end
  return lie and lie(copy, n) or copy
end

local function new_id(service, kind)
  local lie = service.lies[kind .. "_id"]
  service.count = service.count + 1
  return lie and lie(service.count) or ("%s-%d"):format(kind, service.count)
end

local function output_of(service, batch)
  local ids, lines = {}, {}
  for record in jsonl.scan(service.files[batch.input_file_id].path, { id = "/custom_id" }) do
    ids[#ids + 1], lines[#lines + 1] = record.id, line_of(record.id)
  end
  local output = service.lies.output and service.lies.output(lines, ids) or table.concat(lines, "\n") .. "\n"
  if type(output) == "table" then return output end
  return { body = output }
end

local function new_file(service, path, filename)
  local id = new_id(service, "file")
  service.files[id] = { path = path, object = { id = id, object = "file", bytes = fs.stat(path).size,
    created_at = os.time(), filename = filename, purpose = "batch", status = "processed" } }
  return service.files[id].object
end

local function reply_to(service, req, path)
  if req.method == "POST" and path == "/files" then
    local kept = ("%s/%s-%d"):format(folder, service.name, service.count)
    local filename = req.form.file.filename
    assert(req:keep(kept))
    return new_file(service, kept, filename)
  elseif req.method == "POST" and path == "/batches" then
    local asked = json.decode(req:text())
    local id = new_id(service, "batch")
    local batch = { id = id, object = "batch", status = "completed", input_file_id = asked.input_file_id,
      endpoint = asked.endpoint, metadata = asked.metadata, created_at = os.time(), errors = json.null,
      error_file_id = json.null, output_file_id = "out-" .. id, completion_window = "24h",
      request_counts = { total = 1, completed = 1, failed = 0 } }
    service.batches[#service.batches + 1] = batch
    return told(service, "created", batch)
  elseif path == "/batches" then
    local list = json.array {}
    for i = #service.batches, 1, -1 do list[#list + 1] = service.batches[i] end
    if service.lies.listed then list = service.lies.listed(list) end
    return { object = "list", data = list, has_more = false }
  elseif path == "/files" then
    local list = json.array {}
    for _, file in pairs(service.files) do list[#list + 1] = file.object end
    return { object = "list", data = list, has_more = false }
  end
  for _, batch in ipairs(service.batches) do
    if path == "/batches/" .. batch.id then
      service.looks[batch.id] = (service.looks[batch.id] or 0) + 1
      return told(service, "batch", batch, service.looks[batch.id])
    end
    if path == "/files/out-" .. batch.id .. "/content" then return output_of(service, batch) end
  end
  local file = service.files[path:match("^/files/(.+)$")]
  return file and file.object
end

while true do
  local req, _, code = server:next()
  if code == "INTERRUPTED" then return 0 end
  local name, path = req.path:match("^/([^/]+)/v1(/.*)$")
  services[name] = services[name]
    or { name = name, lies = lies[name] or {}, files = {}, batches = {}, looks = {}, count = 0 }
  local value = reply_to(services[name], req, path)
  local reply = value
  if type(value) == "string" then
    reply = { body = value }
  elseif not value then
    reply = { status = 404, body = '{"error":{"message":"there is no such thing"}}' }
  elseif type(value) ~= "table" or not value.body and not value.file then
    reply = { body = json.encode(value) }
  end
  req:reply(reply)
  req:close()
end
