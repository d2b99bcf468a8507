--- What the specs of the API layer share: tests/scripted_api.py, what it shall answer and what it was
--- asked, an API object that talks to it, and a clock that only waiting moves.
local assert = require "luassert"
local http = require "obatch.http"
local json = require "obatch.json"
local openai = require "obatch.openai"
local support = require "support"
local tasks = require "obatch.tasks"
local term = require "obatch.term"

local api_server = {}

--- The key of every API object; it holds what is special in patterns, and `fails` looks for it.
api_server.KEY = "sk-proj-01%d.[Az]+-_key"

local server, port, control

--- For setup() and teardown(): the server runs while the file's tests do.
function api_server.start()
  server = assert(io.popen("exec python3 " .. support.quote(support.home .. "/tests/scripted_api.py")))
  port = assert(math.tointeger(server:read("n")), "tests/scripted_api.py did not start")
  control = http.client()
end

function api_server.stop()
  control:request { url = ("http://127.0.0.1:%d/quit"):format(port) }
  control:close()
  server:close()
end

--- The time, which begins at 1000, and every wait since; tests may set both.
local clock = { now = 1000, waits = {} }
api_server.clock = clock

--- What the API objects of this test have logged.
local log = {}
api_server.log = log

local real = { sleep = tasks.sleep, clock = term.clock, random = math.random }

--- For before_each() and after_each(): waits take no time, and are not drawn but half of their bound.
function api_server.stop_time()
  clock.now, clock.waits = 1000, {}
  for i = #log, 1, -1 do log[i] = nil end
  term.clock = function() return clock.now end
  tasks.sleep = function(seconds)
    clock.now, clock.waits[#clock.waits + 1] = clock.now + seconds, seconds
    return true
  end
  math.random = function() return 0.5 end -- luacheck: ignore 122
end

function api_server.resume_time()
  tasks.sleep, term.clock, math.random = real.sleep, real.clock, real.random -- luacheck: ignore 122
end

function api_server.origin() return ("http://127.0.0.1:%d"):format(port) end

function api_server.new_api(options)
  options = options or {}
  return assert(openai.new {
    key = api_server.KEY, base_url = options.base_url or api_server.origin() .. "/v1",
    organization = options.organization, project = options.project, settle_seconds = options.settle_seconds,
    log = function(line) log[#log + 1] = line end,
  })
end

--- A reply with a JSON body; `status` is 200 unless given.
function api_server.object(body, status) return { status = status or 200, body = json.encode(body) } end

function api_server.failure(status, fields, headers)
  return { status = status, body = json.encode { error = fields or {} }, headers = headers }
end

function api_server.page(has_more, ...)
  return api_server.object { object = "list", data = json.array { ... }, has_more = has_more }
end

--- A batch that has ended, and the request for it.
api_server.GET = "GET /v1/batches/b"
api_server.BATCH = api_server.object { id = "b", status = "completed" }

--- Tells the server what to answer. A target's replies are one reply, which stays, or a list of them.
function api_server.script(replies)
  local lists = {}
  for target, list in pairs(replies) do
    if #list == 0 then
      local always = { stays = true }
      for key, value in pairs(list) do always[key] = value end
      list = { always }
    end
    lists[target] = json.array(list)
  end
  assert(control:request { method = "POST", url = api_server.origin() .. "/script", body = json.encode(lists) })
end

--- All requests since script(): a list of { method=, target=, headers=, body=, connection=, in_flight= }.
function api_server.seen()
  return assert(json.decode(assert(control:request { url = api_server.origin() .. "/seen" }).body))
end

--- The same as text: { "GET /v1/files", ... }.
function api_server.asked()
  local list = {}
  for i, request in ipairs(api_server.seen()) do list[i] = request.method .. " " .. request.target end
  return list
end

function api_server.count(what)
  local n = 0
  for _, each in ipairs(api_server.asked()) do n = n + (each == what and 1 or 0) end
  return n
end

--- What a call that must fail says; neither that nor the log may hold the key.
function api_server.fails(value, message, code)
  assert.is_nil(value)
  assert.is_string(message)
  for _, line in ipairs { message, table.unpack(log) } do
    assert.is_nil(line:find(api_server.KEY, 1, true), line)
    assert.is_nil(line:find("%c"), line)
  end
  return message, code
end

return api_server
