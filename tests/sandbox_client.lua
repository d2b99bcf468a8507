--- What the specs of the sandbox share: request lines, a client, and looks at what it kept.
local assert = require "luassert"
local http = require "obatch.http"
local json = require "obatch.json"
local support = require "support"
local term = require "obatch.term"

local sandbox_client = {}

local CHAT = "/v1/chat/completions"

--- One request line; `changes` sets keys of the line, `body` keys of its body (json.null stays null,
--- false removes).
function sandbox_client.line(id, changes, body)
  local request = {
    custom_id = id, method = "POST", url = CHAT,
    body = { model = "gpt-test", messages = json.array { { role = "user", content = "say " .. id } } },
  }
  for name, value in pairs(body or {}) do request.body[name] = value or nil end
  for name, value in pairs(changes or {}) do request[name] = value or nil end
  return json.encode(request)
end

function sandbox_client.lines(first, last)
  local list = {}
  for i = first, last do list[#list + 1] = sandbox_client.line("id-" .. i) end
  return list
end

--- What the tests say to a running sandbox.
local Client = {}
Client.__index = Client

function sandbox_client.connect(box)
  return setmetatable({ url = box.url, dir = box.dir, http = http.client {} }, Client)
end

--- The finished transfer and its decoded body; { code = } when no complete answer came.
function Client:call(method, path, fields)
  fields = fields or {}
  local headers = fields.headers or { Authorization = "Bearer sk-any" }
  local t, _, code = self.http:request {
    method = method, url = self.url .. path, headers = headers, form = fields.form,
    body = fields.json and json.encode(fields.json) or fields.body,
  }
  if not t then return { code = code } end
  return t, t.body and t.body ~= "" and json.decode(t.body) or nil
end

function Client:upload_form(form)
  return self:call("POST", "/files", { form = form })
end

--- Uploads a text or a list of lines; returns the file's id, or nil and the answer.
function Client:upload(content, name)
  if type(content) == "table" then content = table.concat(content, "\n") .. "\n" end
  local path = self.dir .. "/to-upload"
  support.write(path, content)
  local t, file = self:upload_form {
    { name = "purpose", value = "batch" },
    { name = "file", file = path, filename = name or "requests.jsonl" },
  }
  if t.status ~= 200 then return nil, file, t end
  return file.id, file
end

--- Creates a batch; returns what the service said, decoded, and the transfer.
function Client:create(file, fields)
  local body = { input_file_id = file, endpoint = CHAT, completion_window = "24h" }
  for name, value in pairs(fields or {}) do body[name] = value or nil end
  local t, batch = self:call("POST", "/batches", { json = body })
  return batch, t
end

--- Polls until `good(batch)`; the batch, and the list of statuses seen.
function Client:watch(id, good)
  local seen = {}
  local deadline = term.clock() + 60
  repeat
    local _, batch = self:call("GET", "/batches/" .. id)
    if seen[#seen] ~= batch.status then seen[#seen + 1] = batch.status end
    if good(batch) then return batch, seen end
    term.sleep(0.01)
  until term.clock() > deadline
  error("the batch does not get there: " .. table.concat(seen, " "))
end

local ends = { completed = true, failed = true, expired = true, cancelled = true }

function Client:ended(id)
  return self:watch(id, function(batch) return ends[batch.status] end)
end

--- The whole life: upload, create, wait.
function Client:run(content, fields)
  local batch = self:create(assert(self:upload(content)), fields)
  return self:ended(batch.id)
end

function Client:content(id)
  local t = self:call("GET", "/files/" .. id .. "/content")
  assert.equal(200, t.status)
  return t.body
end

--- The lines of a result file: a list of decoded lines (or the text that is none), and by custom_id.
function Client:results(id)
  local list, by_id = {}, {}
  for text in self:content(id):gmatch("[^\n]+") do
    local result = json.decode(text) or text
    list[#list + 1] = result
    if type(result) == "table" then by_id[result.custom_id] = result end
  end
  return list, by_id
end

function sandbox_client.ledger(box)
  local paid = {}
  for text in support.read(box.dir .. "/ledger.jsonl"):gmatch("[^\n]+") do
    local entry = assert(json.decode(text))
    paid[entry.custom_id] = (paid[entry.custom_id] or 0) + 1
    assert.equal(paid[entry.custom_id], entry.asked)
  end
  return paid
end

--- total, completed and failed of a batch, as one text.
function sandbox_client.counts(batch)
  local c = batch.request_counts
  return ("%d %d %d"):format(c.total, c.completed, c.failed)
end

function sandbox_client.count(map)
  local n = 0
  for _ in pairs(map) do n = n + 1 end
  return n
end

--- Runs `test(client, box)` against a sandbox started with these words.
function sandbox_client.with(words, test)
  words[#words + 1] = "--batch-seconds"
  words[#words + 1] = "0.2"
  local box <close> = support.sandbox(words)
  local client = sandbox_client.connect(box)
  test(client, box)
  client.http:close()
end

function sandbox_client.model_file(dir, text)
  local path = dir.path .. "/model.lua"
  support.write(path, "local json = require 'obatch.json'\nreturn function(request, asked)\n" .. text .. "\nend\n")
  return path
end

return sandbox_client
