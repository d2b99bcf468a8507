-- What the server of the sandbox sends, well or badly on purpose; and its life as a whole.
local fs = require "obatch.fs"
local httpd = require "obatch.httpd"
local peer = require "httpd_peer"
local support = require "support"
local term = require "obatch.term"

local MB = 1000 * 1000
local setup, descriptors, peak_memory = peer.setup, peer.descriptors, peer.peak_memory

local function ok(request) assert.is_true(request:reply { body = "ok" }) end

describe("a reply", function()
  it("has the status, the headers and the body it was given, and none where HTTP has none", function()
    local w <close> = setup()
    local _, out = w:run(w:python [[
for method in "GET", "HEAD":
    head, body = answer(ask(method + " / HTTP/1.1\r\nHost: h\r\n\r\n"), method == "HEAD")
    print(head.split("\r\n")[0], "X-Text: a b" in head, "Retry-After: 3" in head, "Content-Length: 6" in head, body)
]], function(request)
      request:reply { status = 429, headers = { ["X-Text"] = "a b", ["Retry-After"] = 3 }, body = "a\0b\r\nc" }
    end)
    assert.equal("HTTP/1.1 429 Too Many Requests True True True b'a\\x00b\\r\\nc'\n"
      .. "HTTP/1.1 429 Too Many Requests True True True b''\n", out)
  end)

  it("sends a file, or the part of it that was asked for", function()
    local w <close> = setup()
    local path = w.dir .. "/file"
    support.write(path, "0123456789")
    local function fetch(reply)
      reply.file = path
      local _, out = w:run(w:curl(w.url), function(request) assert(request:reply(reply)) end)
      return out
    end
    assert.equal("0123456789", fetch {})
    assert.equal("3456789", fetch { offset = 3 })
    assert.equal("34", fetch { offset = 3, length = 2 })
    assert.equal("", fetch { offset = 10 })
    assert.equal("345", fetch { offset = 3, length = 3, rate = 1000 })
    support.write(path, "")
    assert.equal("", fetch {})
  end)

  it("with a file that is not there can be given once more, differently", function()
    local w <close> = setup()
    support.write(w.dir .. "/file", "0123456789")
    local _, out = w:run(w:curl(w.url), function(request)
      local function fails(reply) return select(3, request:reply(reply)) end
      assert.equal("ENOENT", fails { file = w.dir .. "/missing" })
      assert.truthy(select(2, request:reply { file = w.dir .. "/missing" }):find("/missing", 1, true))
      assert.equal("EINVAL", fails { file = w.dir })
      assert.equal("ERANGE", fails { file = w.dir .. "/file", offset = 11 })
      assert.equal("ERANGE", fails { file = w.dir .. "/file", offset = 5, length = 6 })
      ok(request)
    end)
    assert.equal("ok", out)
  end)

  it("sends 200 MB of a file in constant memory", function()
    local w <close> = setup()
    local large = w.dir .. "/large"
    assert(os.execute(("head -c %d /dev/urandom >%s"):format(200 * MB, large)))
    local before = peak_memory()
    local code = w:run(w:curl(("-o %s/got %s"):format(w.dir, w.url)), function(request)
      request:reply { file = large }
    end)
    assert.equal(0, code)
    assert.is_true(os.execute(("cmp -s %s %s/got"):format(large, w.dir)))
    assert.is_true(peak_memory() - before < 16 * MB)
  end)

  it("from a file that shrinks meanwhile ends the connection", function()
    local w <close> = setup()
    support.write(w.dir .. "/file", ("x"):rep(1000))
    local code = w:run(w:curl(w.url), function(request)
      request:reply { file = w.dir .. "/file", delay = 0.05 }
      support.write(w.dir .. "/file", ("x"):rep(10))
    end)
    assert.equal(18, code) -- curl: transfer closed with bytes remaining
  end)

  it("that is delayed comes late and delays no other", function()
    local w <close> = setup()
    local never = w:curl(w.url .. "/never")
    local late = w:curl("-o /dev/null -w '%{time_starttransfer}' " .. w.url .. "/late")
    local delays, asked = { ["/never"] = 3600, ["/late"] = 0.3, ["/now"] = 0 }, 0
    local function handler(request)
      asked = asked + 1
      request:reply { body = "ok", delay = delays[request.path] }
    end
    w:serve(function() return asked == 2 end, handler)
    local _, out = w:run(w:curl(w.url .. "/now"), handler)
    assert.equal("ok", out)
    _, out = w:run(late, handler)
    assert.is_true(tonumber(out) >= 0.3)
    assert.is_true(never.running())
  end)

  it("with a rate takes its time, and others theirs", function()
    local w <close> = setup()
    support.write(w.dir .. "/file", ("x"):rep(3000))
    local crawling = w:curl(w.url .. "/crawl")
    local asked = 0
    local function handler(request)
      asked = asked + 1
      if request.path == "/crawl" then
        request:reply { body = ("x"):rep(1000), rate = 0.5 }
      else
        request:reply { file = w.dir .. "/file", rate = 10000 }
      end
    end
    w:serve(function() return asked == 1 end, handler)
    local _, out = w:run(w:curl("-w ' %{time_total}' " .. w.url .. "/walk"), handler)
    assert.equal(("x"):rep(3000), out:match("^x*"))
    assert.is_true(tonumber(out:match("%S+$")) >= 0.29)
    assert.is_true(crawling.running())
  end)

  it("that is dropped resets the connection, at once or late", function()
    local w <close> = setup()
    local _, out = w:run(w:python [[
for path in "now", "late":
    try: print(ask(GET % path).recv(1000))
    except ConnectionResetError: print("reset")
]], function(request) request:reply { drop = true, delay = request.path == "/late" and 0.05 or nil } end)
    assert.equal("reset\nreset\n", out)
  end)

  it("that is cut promises all, sends the bytes it was told to, and ends", function()
    local w <close> = setup()
    support.write(w.dir .. "/file", ("x"):rep(200000))
    local _, out = w:run(w:python [[
for path in "0", "1", "100000":
    head, body = answer(ask(GET % path))
    print("Content-Length: 200000" in head, len(body), set(body) <= {120})
]], function(request)
      local cut = math.tointeger(request.path:sub(2))
      request:reply { cut = cut, body = cut < 10 and ("x"):rep(200000) or nil,
        file = cut >= 10 and w.dir .. "/file" or nil }
    end)
    assert.equal("True 0 True\nTrue 1 True\nTrue 100000 True\n", out)
  end)

  it("that stalls holds the client until it leaves, then frees everything", function()
    local w <close> = setup()
    local before = descriptors()
    local code, out = w:run(w:curl("--max-time 0.3 " .. w.url), function(request) request:reply { stall = true } end)
    assert.same({ 28, "" }, { code, out }) -- curl: timed out
    w:serve(function() return descriptors() == before end, ok)
  end)

  it("whose client leaves in the middle frees everything", function()
    local w <close> = setup()
    support.write(w.dir .. "/file", ("x"):rep(30 * MB))
    local before = descriptors()
    w:run(w:python [[
form = post(b'--b\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\nx\r\n--b--',
            "Content-Type: multipart/form-data; boundary=b\r\n")
for path in "file", "body", "rate", "delay":
    s = ask(form.replace(b"POST /", b"POST /" + path.encode()))
    if path != "delay": s.recv(1000)
    s.close()
]], function(request)
      request:reply { file = request.path ~= "/body" and w.dir .. "/file" or nil,
        body = request.path == "/body" and ("x"):rep(30 * MB) or nil,
        rate = request.path == "/rate" and 0.01 or nil, delay = request.path == "/delay" and 3600 or nil }
    end)
    w:serve(function() return descriptors() == before and #fs.list(w.spool) == 0 end, ok)
  end)

  it("to a client that left while Lua was thinking does no harm", function()
    local w <close> = setup()
    local before = descriptors()
    local requests = {}
    w:run(w:python [[
for i in range(6): ask(post(b"x" * 100000)).close()
]], function(request) requests[#requests + 1] = request end)
    w:serve(function() return #requests == 6 end, function(request) requests[#requests + 1] = request end)
    for _ = 1, 3 do assert.is_nil(w.server:next(0.02)) end -- now it knows that they have left
    for i, request in ipairs(requests) do
      assert.equal(100000, #request:text())
      request:reply { body = "ok", delay = i > 2 and 3600 or 0, stall = i > 4 }
    end
    requests = nil
    w:serve(function() return descriptors() == before and #fs.list(w.spool) == 0 end, ok)
  end)

  it("that is never given resets the connection when the request is closed or forgotten", function()
    local w <close> = setup()
    local code, _, err = w:run(w:curl(w.url), function(request)
      request:close()
      request:close()
      assert.has_error(function() request:text() end, "the request is closed")
    end)
    assert.equal(56, code, err) -- curl: failure in receiving network data
    local client = w:curl(w.url)
    w:serve(function()
      collectgarbage()
      return not client.running()
    end, function() end)
    assert.equal(56, (client.result()))
  end)
end)

describe("the server", function()
  it("serves all of more clients than it has descriptors for, and many at once", function()
    local w <close> = setup()
    support.write(w.dir .. "/server.lua", [[
local httpd = require "obatch.httpd"
local clients, together = tonumber(arg[1]), tonumber(arg[2])
local server <close> = assert(httpd.listen { spool = arg[3] })
local file <close> = assert(io.open(arg[3] .. "/port.tmp", "w"))
file:write(server.port):close()
os.rename(arg[3] .. "/port.tmp", arg[3] .. "/port")
local waiting, served = {}, 0
while served < clients do
  waiting[#waiting + 1] = assert(server:next(60))
  if #waiting >= together then
    for _, request in ipairs(waiting) do request:reply { body = request:text():sub(1, 5) } end
    served, waiting = served + #waiting, {}
  end
end
while not io.open(arg[3] .. "/end") do server:next(0.02) end
]])
    support.write(w.dir .. "/clients.py", [[
import os, socket, sys, time
while not os.path.exists(sys.argv[2] + "/port"): time.sleep(0.01)
port, padding = int(open(sys.argv[2] + "/port").read()), int(sys.argv[3])
def client(i):
    s = socket.create_connection(("127.0.0.1", port), 60)
    s.sendall(b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (5 + padding))
    s.sendall(b"%05d" % i + b"x" * padding)
    return s
sockets = [client(i) for i in range(int(sys.argv[1]))]
def rest(s):
    data = b""
    while True:
        got = s.recv(65536)
        if not got: return data
        data += got
print(sum(rest(s).endswith(b"\r\n\r\n%05d" % i) for i, s in enumerate(sockets)))
open(sys.argv[2] + "/end", "w")
]])
    -- 1,300 at once are more than select() could watch. 300 do not fit into 200 descriptors, of which
    -- every large body takes one more while it comes.
    for _, case in ipairs { { 3000, 1300, 1300, 0 }, { 200, 300, 1, 100000 } } do
      local limit, clients, together, padding = table.unpack(case)
      local dir = ("%s/%d"):format(w.dir, limit)
      assert(fs.mkdir(dir))
      local server = w:start(("ulimit -n %d && %s run %s/server.lua %d %d %s"):format(limit, support.binary, w.dir,
        clients, together, dir))
      local client = w:start(("ulimit -n 3000 && python3 %s/clients.py %d %s %d"):format(w.dir, clients, dir, padding))
      w:serve({ server, client }, ok)
      assert.same({ 0, clients .. "\n", "" }, { client.result() })
      assert.same({ 0, "", "" }, { server.result() })
    end
  end)

  it("that is closed ends all that is pending, and what is left of the requests is harmless", function()
    local w <close> = setup()
    support.write(w.dir .. "/body", ("x"):rep(100000))
    local clients, requests = {}, {}
    for _, path in ipairs { "late", "stall", "slow", "thinking" } do
      clients[#clients + 1] = w:curl(("--data-binary @%s/body %s/%s"):format(w.dir, w.url, path))
    end
    clients[#clients + 1] = w:python [[
s = ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 200000\r\n\r\n" + "x" * 100000)
open(folder + "/half", "w")
print(s.recv(9))
]]
    w:serve(function() return #requests == 4 and fs.stat(w.dir .. "/half") end, function(request)
      requests[#requests + 1] = request
      if request.path == "/late" then request:reply { body = "late", delay = 3600 } end
      if request.path == "/stall" then request:reply { stall = true } end
      if request.path == "/slow" then request:reply { body = ("x"):rep(1000), rate = 1 } end
    end)
    local untaken = w:curl("--data-binary @" .. w.dir .. "/body " .. w.url)
    w.server:close()
    w.server:close()
    for _, client in ipairs(clients) do
      while client.running() do term.sleep(0.01) end
    end
    while untaken.running() do term.sleep(0.01) end
    for _, request in ipairs(requests) do
      if request.path == "/thinking" then
        assert.equal(100000, #request:text())
        assert.equal("CLOSED", select(3, request:reply { body = "too late" }))
        assert(request:keep(w.dir .. "/kept"))
      else
        assert.equal("ENODATA", select(3, request:text()))
        assert.equal("ENODATA", select(3, request:keep(w.dir .. "/kept")))
      end
      request:close()
    end
    assert.same({}, fs.list(w.spool))
    assert.has_error(function() w.server:next(0) end, "the server is closed")
  end)

  it("gives up waiting when its time is over or a signal comes", function()
    local w <close> = setup()
    assert.equal("TIMEOUT", select(3, w.server:next(0)))
    assert.equal("TIMEOUT", select(3, w.server:next(0.01)))
    -- In a coroutine, which the interrupt of the main program's Lua code does not reach.
    support.write(w.dir .. "/server.lua", [[
local httpd = require "obatch.httpd"
coroutine.wrap(function()
  local server <close> = assert(httpd.listen { spool = arg[1] })
  print "waiting"
  io.flush()
  print(server:next())
  print(server:next(1000))
end)()
]])
    local code, out = w:run(w:start(([[
cd %s
%s run server.lua spool >out &
while ! grep -q waiting out; do sleep 0.01; done
kill -TERM $!; wait $!; cat out]]):format(w.dir, support.binary)), ok)
    assert.same({ 0, "waiting\n" .. ("nil\tinterrupted\tINTERRUPTED\n"):rep(2) }, { code, out })
  end)

  it("says why it cannot listen", function()
    local w <close> = setup()
    local server, message, why = httpd.listen { spool = w.spool, port = w.server.port }
    assert.same({ nil, ("127.0.0.1 port %d: Address already in use"):format(w.server.port), "EADDRINUSE" },
      { server, message, why })
    server, message, why = httpd.listen { spool = w.dir .. "/missing" }
    assert.same({ nil, w.dir .. "/missing: No such file or directory", "ENOENT" }, { server, message, why })
  end)

  it("refuses what it does not understand", function()
    local w <close> = setup()
    local function refused(text, call, ...)
      local done, message = pcall(call, ...)
      assert.is_false(done)
      assert.truthy(message:find(text, 1, true), message)
    end
    refused("unknown option 'spol'", httpd.listen, { spol = w.spool })
    refused("spool: a folder expected", httpd.listen, {})
    refused("spool: a string expected", httpd.listen, { spool = 1 })
    refused("host: an IP address expected", httpd.listen, { spool = w.spool, host = "example.org" })
    refused("port: an integer from 0 to 65535", httpd.listen, { spool = w.spool, port = 65536 })
    refused("must not be negative", w.server.next, w.server, -1)
    local _, out = w:run(w:curl(w.url), function(request)
      refused("unknown option 'stauts'", request.reply, request, { stauts = 200 })
      refused("status: an integer from 200 to 599", request.reply, request, { status = 100 })
      refused("delay: a number >= 0", request.reply, request, { delay = -1 })
      refused("rate: a number >= 0", request.reply, request, { rate = 0 / 0 })
      refused("cut: an integer", request.reply, request, { cut = 1.5 })
      refused("exclude each other", request.reply, request, { body = "", file = "x" })
      refused("need a file", request.reply, request, { offset = 1 })
      refused("not a header name", request.reply, request, { headers = { ["a b"] = "c" } })
      refused("not a header name", request.reply, request, { headers = { "c" } })
      refused("X: not a header value", request.reply, request, { headers = { X = "a\r\nB: c" } })
      refused("X: not a header value", request.reply, request, { headers = { X = "a\0b" } })
      refused("the length is the server's", request.reply, request, { headers = { ["content-length"] = "1" } })
      ok(request)
      refused("answered before", request.reply, request, { body = "again" })
    end)
    assert.equal("ok", out)
  end)
end)
