-- obatch.httpd: clients that keep the server waiting, and those that only seem to.
local fs = require "obatch.fs"
local peer = require "httpd_peer"
local support = require "support"
local term = require "obatch.term"

local MB = 1000 * 1000

local function ok(request) request:reply { body = "ok" } end

describe("a client that keeps the server waiting", function()
  --- Runs a Python client that must be cut off, and says so; then the server serves another, and has kept
  --- nothing of the first.
  local function is_cut_off(options, code, handler)
    options.patience = 0.5
    local w <close> = peer.setup(options)
    local before = peer.descriptors()
    local status, out, complaint = w:run(w:python([[
def gone(s):
    try:
        while s.recv(65536): pass
    except OSError: pass
    print("cut off")
def until_it_fails(step):
    try:
        for i in range(100000): step()
    except OSError: print("cut off")
]] .. code), handler or function() error "this was no complete request" end)
    assert.same({ 0, "cut off\n" }, { status, out }, complaint)
    local _, answer = w:run(w:curl(w.url), ok)
    assert.equal("ok", answer)
    w:serve(function() return peer.descriptors() == before and #fs.list(w.spool) == 0 end, ok)
  end

  it("with the head of its request is cut off, however regularly a byte comes", function()
    is_cut_off({}, [[
s = ask("GET / HTTP/1.1\r\nX: ")
def step():
    s.sendall(b"x")
    time.sleep(0.02)
until_it_fails(step)
]])
  end)

  it("with the body is cut off, of a form and of any other", function()
    for _, head in ipairs { "", "Content-Type: multipart/form-data; boundary=b\r\n" } do
      is_cut_off({}, ([[
s = ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n%s\r\n--b\r\n"
  "Content-Disposition: form-data; name=f; filename=f\r\n\r\n")
def step():
    s.sendall(b"x")
    time.sleep(0.02)
until_it_fails(step)
]]):format(head:gsub("[\r\n]", { ["\r"] = "\\r", ["\n"] = "\\n" })))
    end
  end)

  it("with the end of a body that is too large already is cut off, however fast it sends", function()
    is_cut_off({ max_body = 1000 }, [[
s = ask("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
def step():
    s.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
    time.sleep(0.001)
until_it_fails(step)
]])
  end)

  it("with its first request, or the next one, is cut off", function()
    is_cut_off({}, "gone(connect())")
    is_cut_off({}, "s = ask(GET % '')\nassert answer(s)[1] == b'ok'\ngone(s)", ok)
  end)

  it("with fetching its reply is cut off", function()
    local w <close> = peer.setup { patience = 0.5 }
    local before = peer.descriptors()
    support.write(w.dir .. "/file", ("x"):rep(50 * MB))
    local client = w:python [[
s = ask(GET % "")
while not os.path.exists(folder + "/stop"): time.sleep(0.01)
]]
    local asked = false
    w:serve(function() return asked and peer.descriptors() == before end, function(request)
      asked = true
      request:reply { file = w.dir .. "/file" }
    end)
    assert.is_true(client.running())
    support.write(w.dir .. "/stop", "")
  end)
end)

describe("a client that only seems to keep the server waiting", function()
  it("is served: when its reply is late or slow, and when it was the caller who was away", function()
    local w <close> = peer.setup { patience = 0.3 }
    local slow = w:python [[
s = ask("POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
open(folder + "/half", "w").close()
while not os.path.exists(folder + "/go"): time.sleep(0.01)
print(answer(ask("def", s))[1])
]]
    w:serve(function() return fs.stat(w.dir .. "/half") end, ok)
    term.sleep(0.6) -- the server is not looked after
    support.write(w.dir .. "/go", "")
    local _, out = w:run(slow, ok)
    assert.equal("b'ok'\n", out)

    _, out = w:run(w:curl(w.url), function(request) request:reply { body = "late", delay = 0.8 } end)
    assert.equal("late", out)
    _, out = w:run(w:curl(w.url), function(request) request:reply { body = "slow", rate = 5 } end)
    assert.equal("slow", out)
  end)

  it("is served: when it sends or fetches steadily for longer than that", function()
    local w <close> = peer.setup { patience = 2 }
    support.write(w.dir .. "/file", ("x"):rep(30 * MB))
    local sends = w:python [[
s = ask("POST /send HTTP/1.1\r\nHost: h\r\nContent-Length: 120000\r\n\r\n")
for i in range(30):
    s.sendall(b"x" * 4000)
    time.sleep(0.1)
print(answer(s)[1])
]]
    local fetches = w:python [[
s, size = ask(GET % "file"), 0
while size < 30000000:
    got = s.recv(1000000)
    if not got: break
    size += len(got)
    if size // 1000000 > (size - len(got)) // 1000000: time.sleep(0.1)
print(size >= 30000000)
]]
    w:serve({ sends, fetches }, function(request)
      if request.path == "/send" then return ok(request) end
      request:reply { file = w.dir .. "/file" }
    end)
    assert.same({ 0, "b'ok'\n", "" }, { sends.result() })
    assert.same({ 0, "True\n", "" }, { fetches.result() })
  end)
end)

describe("the sandbox", function()
  it("listens to this machine only unless it is told otherwise, and then says what that means", function()
    for _, case in ipairs { { "0100007F", {} }, { "00000000", { "--host", "0.0.0.0" } } } do
      local box <close> = support.sandbox(case[2])
      local place = (" %s:%04X 00000000:0000 0A "):format(case[1], box.port)
      assert.truthy(support.read("/proc/net/tcp"):find(place, 1, true), place)
      local warned = support.read(box.log .. "/err"):find("whoever reaches it", 1, true) ~= nil
      assert.equal(#case[2] > 0, warned)
    end
    local code, _, complaint = support.obatch("sandbox", "--host", "example.org")
    assert.equal(2, code)
    assert.truthy(complaint:find("is no IP address", 1, true), complaint)
  end)
end)
