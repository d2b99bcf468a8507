--- What the specs of obatch.http share: tests/misbehave.py, a server that breaks HTTP on purpose.
local assert = require "luassert"
local http = require "obatch.http"
local json = require "obatch.json"
local support = require "support"

local misbehave = {}

--- The key of the tests; `failure` looks for it.
misbehave.KEY = "sk-0123456789abcdefTESTKEY"

local folder, server, ports

--- For setup() and teardown(): the server runs while the file's tests do. Returns a folder for files,
--- in which the server has put bundle.pem.
function misbehave.start()
  folder = support.tmpdir()
  server = assert(io.popen(("exec python3 %s %s"):format(
    support.quote(support.home .. "/tests/misbehave.py"), support.quote(folder.path))))
  ports = { line = assert(server:read("l"), "tests/misbehave.py did not start") }
  for name, port in ports.line:gmatch("(%w+)=(%d+)") do ports[name] = math.tointeger(port) end
  return folder
end

function misbehave.stop()
  local client <close> = http.client()
  client:request { url = misbehave.url "quit" }
  server:close()
  getmetatable(folder).__close(folder)
end

function misbehave.url(path, port, scheme, host)
  return ("%s://%s:%d/%s"):format(scheme or "http", host or "127.0.0.1", ports[port or "plain"], path)
end

--- What the server has been asked since the last look: a list of requests.
function misbehave.seen()
  local client <close> = http.client()
  return assert(json.decode(assert(client:request { url = misbehave.url "log" }).body))
end

--- Runs a request that must fail, with the key in a header; returns the code and the message, which
--- must not hold the key.
function misbehave.failure(client, request)
  request.headers = request.headers or { Authorization = "Bearer " .. misbehave.KEY }
  local t, message, code = client:request(request)
  assert.is_nil(t)
  assert.is_nil(message:find(misbehave.KEY, 1, true), message)
  assert.is_nil(message:find("%c"), message)
  return code, message
end

--- Runs Lua code in an obatch of its own, which sees `ports` and `folder`; returns what it returns,
--- decoded. Under the sanitizers, a leak in it is an exit code.
function misbehave.child(environment, code)
  local script = folder.path .. "/child.lua"
  support.write(script, ([[
    local http, json, ports, folder = require "obatch.http", require "obatch.json", {}, %q
    for name, port in (%q):gmatch("(%%w+)=(%%d+)") do ports[name] = math.tointeger(port) end
    local function main() %s end
    io.write(json.encode(json.array{ main() }))]]):format(folder.path, ports.line, code))
  local status, out, complaint = support.obatch(environment, "run", script)
  assert.equal(0, status, complaint)
  return table.unpack(assert(json.decode(out)))
end

return misbehave
