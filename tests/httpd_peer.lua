--- What the specs of obatch.httpd share: a server with real clients (curl, and Python where bytes or
--- moments matter), and what it costs.
local fs = require "obatch.fs"
local httpd = require "obatch.httpd"
local support = require "support"
local term = require "obatch.term"

local peer = {}

--- Python that every raw client begins with: connect(), ask(text), answer(socket) -> head, body.
local PYTHON = [[
import os, socket, sys, time
port, folder = int(sys.argv[1]), sys.argv[2]
def connect():
    return socket.create_connection(("127.0.0.1", port), 60)
def ask(text, s=None):
    s = s or connect()
    s.sendall(text if isinstance(text, bytes) else text.encode())
    return s
def answer(s, head_only=False):
    data = b""
    while b"\r\n\r\n" not in data:
        got = s.recv(65536)
        if not got: return data.decode(), None
        data += got
    head, body = data.split(b"\r\n\r\n", 1)
    sizes = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    size = int(sizes[0]) if sizes and not head_only else 0
    while len(body) < size:
        got = s.recv(65536)
        if not got: break
        body += got
    return head.decode(), body
GET = "GET /%s HTTP/1.1\r\nHost: h\r\n\r\n"
def post(body, more=""):
    return b"POST / HTTP/1.1\r\nHost: h\r\n" + more.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body
]]

--- A server with a folder of its own for everything: .dir, .spool, :start(command) a client in the
--- background, :python(code) one in Python, :serve(clients, handler) until they all have ended.
function peer.setup(options)
  local dir = support.tmpdir()
  local spool = dir.path .. "/spool"
  assert(fs.mkdir(spool))
  options = options or {}
  options.spool = spool
  local server = assert(httpd.listen(options))
  local world = { dir = dir.path, spool = spool, server = server, url = "http://127.0.0.1:" .. server.port, count = 0 }

  function world:start(command)
    self.count = self.count + 1
    local base = ("%s/client%d"):format(self.dir, self.count)
    support.write(base .. ".sh", command)
    assert(os.execute(("{ timeout 90 sh %s.sh >%s.out 2>%s.err </dev/null; echo $? >%s.tmp; mv %s.tmp %s.code; } &")
      :gsub("%%s", base)))
    local client = {}
    function client.running() return not fs.stat(base .. ".code") end
    --- Its exit code and what it printed; only once it has ended.
    function client.result()
      return tonumber(support.read(base .. ".code")), support.read(base .. ".out"), support.read(base .. ".err")
    end
    return client
  end

  function world:curl(arguments) return self:start("curl -sS --max-time 60 " .. arguments) end

  function world:python(code)
    local path = ("%s/client%d.py"):format(self.dir, self.count + 1)
    support.write(path, PYTHON .. code)
    return self:start(("python3 %s %d %s"):format(path, server.port, self.dir))
  end

  --- Runs the server until done() says so (clients: until they have all ended), giving every request
  --- to handler. Nothing here depends on how long anything takes; a minute without an end is a fault.
  function world:serve(done, handler)
    local clients = type(done) == "table" and done
    local limit = term.clock() + 60
    repeat
      local ended = true
      if clients then
        for _, client in ipairs(clients) do ended = ended and not client.running() end
      else
        ended = done()
      end
      local request = self.server:next(ended and 0 or 0.02)
      if request then handler(request) end
      assert(term.clock() < limit, "the clients did not come to an end")
    until ended and not request
  end

  --- One client, one answer: exit code, stdout, stderr of it.
  function world:run(client, handler)
    self:serve({ client }, handler)
    return client.result()
  end

  return setmetatable(world, {
    __close = function()
      server:close() -- which ends the clients that are still there; they write into the folder
      for i = 1, world.count do
        while not fs.stat(("%s/client%d.code"):format(dir.path, i)) do term.sleep(0.01) end
      end
      getmetatable(dir).__close(dir)
    end,
  })
end

--- How many descriptors this process has open.
function peer.descriptors()
  collectgarbage()
  collectgarbage()
  return #fs.list("/proc/self/fd")
end

--- The most memory this process ever had, in bytes.
function peer.peak_memory()
  return tonumber(support.read("/proc/self/status"):match("VmHWM:%s*(%d+)")) * 1024
end

return peer
