-- The HTTP client against tests/misbehave.py: transfers, and every way in which one can fail.
local fs = require "obatch.fs"
local http = require "obatch.http"
local misbehave = require "misbehave"
local support = require "support"

local MEGABYTE = 1024 * 1024
local url, seen, failure, child = misbehave.url, misbehave.seen, misbehave.failure, misbehave.child

local folder

setup(function() folder = misbehave.start() end)
teardown(misbehave.stop)

describe("an answer", function()
  it("is a result with any status, lower-case header names and the caller's tag", function()
    local client <close> = http.client { user_agent = "spec/1" }
    local t = assert(client:request { url = url "html", tag = { 1 } })
    assert.same({ 502, "text/html", 106 }, { t.status, t.headers["content-type"], t.bytes })
    assert.equal("<html>", t.body:sub(1, 6))
    assert.same({ 1 }, t.tag)
    assert.is_nil(t.error)
    assert.is_nil(t.code)
    local asked = seen()[1].headers
    assert.equal("spec/1", asked["user-agent"])
    assert.is_nil(asked["accept-encoding"])
  end)

  it("takes no header from interim answers and trailers, and the last of two", function()
    local client <close> = http.client()
    local t = assert(client:request { url = url "interim" })
    assert.same({ 200, "hello", "two" }, { t.status, t.body, t.headers["x-twice"] })
    assert.is_nil(t.headers["x-trap"])
  end)

  it("ends where it promised to end", function()
    local client <close> = http.client()
    assert.equal("hello", assert(client:request { url = url "long" }).body)
    assert.equal("hello", assert(client:request { url = url "ok" }).body)
  end)

  it("to HEAD has no body", function()
    local client <close> = http.client()
    local t = assert(client:request { method = "HEAD", url = url "ok" })
    assert.same({ 200, "", "5" }, { t.status, t.body, t.headers["content-length"] })
  end)

  it("over 64 MiB is refused in memory", function()
    local client <close> = http.client()
    assert.equal("TOO_BIG", (failure(client, { url = url("big?size=" .. 65 * MEGABYTE) })))
  end)
end)

describe("in flight", function()
  it("many transfers share a client, and a fast one overtakes slow ones", function()
    local client <close> = http.client()
    for i = 1, 40 do assert(client:start { url = url "slow", tag = i }) end
    assert(client:start { url = url "ok", tag = "fast" })
    local first = assert(client:wait())
    assert.equal("fast", first.tag)
    local done, count = {}, 0
    repeat
      local t, _, code = client:wait()
      if t then
        assert.is_nil(t.error)
        assert.equal(40, #t.body)
        assert.is_nil(done[t.tag])
        done[t.tag], count = true, count + 1
      end
    until code == "IDLE"
    assert.equal(40, count)
  end)

  it("request() keeps what finished meanwhile for wait()", function()
    local client <close> = http.client()
    assert(client:start { url = url "ok", tag = "early" })
    assert.equal("late", assert(client:request { url = url "slow", tag = "late" }).tag)
    assert.equal("early", assert(client:wait(0)).tag)
    assert.equal("IDLE", (select(3, client:wait(0))))
  end)

  it("a transfer knows no status before it is handed out", function()
    local client <close> = http.client()
    local t = assert(client:start { url = url "stall" })
    assert.equal("TIMEOUT", (select(3, client:wait(0.2))))
    assert.is_nil(t.status)
    assert.is_nil(t.code)
  end)

  it("a cancelled transfer is over, and a closed client cancels the rest", function()
    local client = http.client()
    local one, two = client:start { url = url "stall" }, client:start { url = url "stall" }
    client:wait(0.1)
    one:cancel()
    one:cancel()
    assert.same({ "CANCELLED", 0 }, { one.code, one.status })
    assert.equal("TIMEOUT", (select(3, client:wait(0.1))))
    client:close()
    client:close()
    assert.equal("CANCELLED", two.code)
    assert.has_error(function() client:wait(0) end, "this http client is closed")
  end)

  it("progress is what has moved so far", function()
    local client <close> = http.client()
    local t = assert(client:start { url = url "stall-body" })
    repeat client:wait(0.05) until select(2, t:progress()) > 0
    assert.same({ 0, 10 }, { t:progress() })
  end)

  it("a signal wakes wait() and request(), which drops its own transfer", function()
    local script = folder.path .. "/signal.lua"
    support.write(script, ([[
      local client <close> = require "obatch.http".client()
      client:start { url = "%s" }
      client:wait(0.2)
      io.open("%s/ready", "w"):close()
      local _, _, first = client:wait()
      local _, _, second = client:request { url = "%s" }
      local late -- what request() started is no transfer that wait() could return
      for _ = 1, 20 do
        late = late or client:wait(0)
        os.execute("sleep 0.01")
      end
      print(first, second, late)]]):format(url "stall", folder.path, url "ok"))
    local code, out, complaint = support.shell(([[
      %s run %s & pid=$!
      while ! [ -e %s/ready ]; do sleep 0.02; done
      kill -TERM $pid; wait $pid]]):format(support.quote(support.binary), script, folder.path))
    assert.same({ 130, "INTERRUPTED\tINTERRUPTED\tnil\n" }, { code, out }, complaint)
  end)

  it("whatever is cancelled, closed, failed or forgotten leaks nothing", function()
    child({}, [[
      local base = "http://127.0.0.1:" .. ports.plain
      local file = folder .. "/small"
      do local f <close> = io.open(file, "w") f:write("content") end
      for round = 1, 3 do
        local client = http.client { stall_timeout = 0.2 }
        local kept = {}
        for _, path in ipairs { "/ok", "/stall", "/slow", "/short", "/stall-body", "/hop?to=/hop?to=/stall" } do
          kept[#kept + 1] = assert(client:start { url = base .. path, to_file = folder .. "/leak" .. path:sub(2, 4) })
          assert(client:start { url = base .. path, headers = { ["X-A"] = "b" } })
        end
        kept[#kept + 1] = client:start { method = "POST", url = base .. "/deaf", body_file = file }
        kept[#kept + 1] = client:start { method = "POST", url = base .. "/stall", form = {
          { name = "a", value = "b" }, { name = "file", file = file } } }
        client:start { method = "POST", url = base .. "/ok", form = { { name = "file", file = file .. "no" } } }
        client:wait(0.1)
        kept[2]:cancel()
        client:wait(0.1)
        if round == 1 then client:close() end
        if round == 2 then client, kept = nil, nil collectgarbage() end
      end
      return true]])
  end)
end)

describe("a connection that breaks", function()
  local broken = {
    { "reset", "CLOSED" }, { "half", "CLOSED" }, { "silent", "CLOSED" }, { "short", "CLOSED" },
    { "short-head", "CLOSED" }, { "short-chunked", "CLOSED" }, { "bad-chunk", "PROTOCOL" },
    { "garbage", "PROTOCOL" }, { "bad-length", "PROTOCOL" },
  }
  for _, case in ipairs(broken) do
    local path, expected = table.unpack(case)
    it(("after the request was sent is %s: %s"):format(expected, path), function()
      local client <close> = http.client()
      seen()
      assert.equal(expected, (failure(client, { url = url(path) })))
      assert.equal(expected, (failure(client, { url = url(path), method = "POST", body = "x" })))
      assert.equal(expected, (failure(client, { url = url(path), to_file = folder.path .. "/broken" })))
      assert.equal(3, #seen()) -- each once
    end)
  end

  it("by a reset at once is CLOSED, or CONNECT when the request was not even begun", function()
    local client <close> = http.client()
    local code = failure(client, { url = url("ok", "slam") })
    assert(code == "CLOSED" or code == "CONNECT", code)
  end)

  it("in the middle of a body leaves the status and the part that came beside the code", function()
    local client <close> = http.client()
    assert(client:start { url = url "short" })
    local t = assert(client:wait())
    assert.same({ "CLOSED", 200, 100, 100 }, { t.code, t.status, t.bytes, #t.body })
  end)

  it("with an error answer before the upload is complete still gives that answer", function()
    local client <close> = http.client()
    support.write(folder.path .. "/large", ("x"):rep(8 * MEGABYTE))
    local t = assert(client:request { method = "POST", url = url "deny", body_file = folder.path .. "/large" })
    assert.same({ 413, "too large" }, { t.status, t.body })
  end)
end)

describe("never sent means it", function()
  local function never(expected, request, options)
    local client <close> = http.client(options)
    seen()
    request.method = "POST"
    assert.equal(expected, (failure(client, request)))
    assert.same({}, seen())
  end

  it("a name that does not resolve is DNS", function()
    assert.equal("DNS", (child({ no_proxy = "*" }, [[
      local client <close> = http.client()
      local _, _, code = client:request { method = "POST", url = "https://nowhere.invalid/" }
      return code]])))
  end)

  it("a refused connection is CONNECT", function()
    never("CONNECT", { url = "http://127.0.0.1:1/" })
  end)

  it("a connection that nobody accepts in time is CONNECT", function()
    never("CONNECT", { url = url("ok", "full"), timeout = 10 }, { connect_timeout = 0.3 })
  end)

  it("certificates are checked: an untrusted one is TLS, and says what to do", function()
    never("TLS", { url = url("ok", "tls", "https", "localhost") })
    local client <close> = http.client()
    local _, message = failure(client, { url = url("ok", "tls", "https", "localhost") })
    assert.match("certificate", message)
    assert.match("CURL_CA_BUNDLE", message)
  end)

  it("a handshake that is cut, or is none, is TLS", function()
    never("TLS", { url = url("ok", "cut", "https") })
    never("TLS", { url = url("ok", "notls", "https") })
  end)
end)

describe("time", function()
  it("without a byte ends in a stall: before, in and instead of an answer", function()
    local client <close> = http.client { stall_timeout = 0.3 }
    support.write(folder.path .. "/large", ("x"):rep(16 * MEGABYTE))
    assert.equal("TIMEOUT", (failure(client, { url = url "stall" })))
    assert.equal("TIMEOUT", (failure(client, { url = url "stall-body" })))
    assert.equal("TIMEOUT", (failure(client, {
      url = url "deaf", method = "POST", body_file = folder.path .. "/large" })))
  end)

  it("with a few bytes now and then is no stall", function()
    local client <close> = http.client { stall_timeout = 1.5 }
    assert.equal(40, #assert(client:request { url = url "slow" }).body) -- 2 seconds
  end)

  it("may be longer for the answer to a whole request, and only for that", function()
    support.write(folder.path .. "/large", ("x"):rep(16 * MEGABYTE))
    local form = { { name = "file", file = folder.path .. "/large" } }
    local client <close> = http.client { stall_timeout = 0.3 }
    local asked = { method = "POST", url = url "mull?gate=answer", answer_timeout = 60, form = form }
    assert(client:start(asked))
    assert.equal("TIMEOUT", (select(3, client:wait(2)))) -- still in flight
    assert(http.client():request { url = url "wake?gate=answer" })
    assert.equal(200, assert(client:wait()).status)
    assert.equal("TIMEOUT", (failure(client, { method = "POST", url = url "deaf", form = form, answer_timeout = 60 })))
    local _, message = failure(http.client(), { method = "POST", url = url "stall", body = "x", answer_timeout = 0.3 })
    assert.match("no answer within the answer timeout", message)
    failure(client, { url = url "stall-body", answer_timeout = 60 }) -- the answer has begun
  end)

  it("in which the process was stopped is not held against the connection", function()
    local script, pid_file = folder.path .. "/stopped.lua", folder.path .. "/pid"
    support.write(script, ([[
      local client <close> = require "obatch.http".client { stall_timeout = 2 }
      client:start { url = "%s" }
      client:wait(0.2)
      local fs = require "obatch.fs"
      fs.write("%s", fs.read("/proc/self/stat"):match("%%d+"))
      local t = client:wait()
      print(t.code, t.status)]]):format(url "mull?gate=stopped", pid_file))
    local program <close> = assert(io.popen(("%s run %s"):format(support.quote(support.binary), script)))
    while not fs.stat(pid_file) do os.execute("sleep 0.05") end
    assert(os.execute(("kill -STOP %s && sleep 4 && kill -CONT %s"):format(support.read(pid_file),
      support.read(pid_file))))
    assert(http.client():request { url = url "wake?gate=stopped" })
    assert.equal("nil\t200\n", program:read("a"))
  end)

  it("for the whole transfer can be limited", function()
    local client <close> = http.client()
    assert.equal("TIMEOUT", (failure(client, { url = url "slow", timeout = 0.3 })))
  end)
end)

describe("an upload", function()
  it("sends exactly the bytes of a string, and no type that nobody asked for", function()
    local client <close> = http.client()
    local bytes = {}
    for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
    local body = table.concat(bytes):rep(5000) -- over 1 MB, where libcurl would wait for "100 Continue"
    seen()
    assert.equal(body, assert(client:request { method = "POST", url = url "echo", body = body }).body)
    local asked = seen()[1]
    assert.is_nil(asked.headers["content-type"])
    assert.is_nil(asked.headers.expect)
  end)

  it("says its length also when there is none, with every method that has a body", function()
    local client <close> = http.client()
    seen()
    for _, method in ipairs { "POST", "PUT", "PATCH" } do
      assert(client:request { method = method, url = url "ok" })
    end
    assert(client:request { method = "DELETE", url = url "ok" })
    assert(client:request { method = "POST", url = url "ok", body = "{}", headers = {
      ["Content-Type"] = "application/json", ["X-Empty"] = "" } })
    local asked = seen()
    assert.same({ "POST", "0", "PUT", "0", "PATCH", "0", "DELETE" }, {
      asked[1].method, asked[1].headers["content-length"], asked[2].method, asked[2].headers["content-length"],
      asked[3].method, asked[3].headers["content-length"], asked[4].method })
    assert.same({ "application/json", "", 2 },
      { asked[5].headers["content-type"], asked[5].headers["x-empty"], asked[5].size })
  end)

  it("of a form sends the parts in order, with names, types and the file's bytes", function()
    local client <close> = http.client()
    local content = "a\r\n--boundary\0\255" .. ("z"):rep(100000)
    support.write(folder.path .. "/part.jsonl", content)
    local t = assert(client:request { method = "POST", url = url "echo", form = {
      { name = "purpose", value = "batch" },
      { name = "expires_after[anchor]", value = "created_at" },
      { name = "file", file = folder.path .. "/part.jsonl", filename = "p-1.jsonl", type = "application/jsonl" },
      { name = "again", file = folder.path .. "/part.jsonl" },
    } })
    local boundary = seen()[1].headers["content-type"]:match("^multipart/form%-data; boundary=(.+)$")
    local parts = {}
    for part in ("\r\n" .. t.body):gmatch("\r\n%-%-" .. boundary:gsub("%p", "%%%0") .. "(\r\n[^\0]-\r\n\r\n)") do
      parts[#parts + 1] = part
    end
    assert.match('name="purpose"', parts[1])
    assert.match('name="expires_after%[anchor%]"', parts[2])
    assert.match('name="file"; filename="p%-1%.jsonl"\r\nContent%-Type: application/jsonl', parts[3])
    assert.match('name="again"; filename="part%.jsonl"', parts[4])
    assert.match("\r\n\r\nbatch\r\n%-%-", t.body)
    local first = t.body:find("\r\n\r\n" .. content .. "\r\n--" .. boundary .. "\r\n", 1, true)
    assert(first and t.body:find("\r\n\r\n" .. content .. "\r\n--" .. boundary .. "--\r\n", first + 1, true))
  end)

  it("of a file that is missing, or none, fails with its name before anything is sent", function()
    local client <close> = http.client()
    local missing = folder.path .. "/missing"
    seen()
    local code, message = failure(client, { method = "POST", url = url "ok", body_file = missing })
    assert.equal("ENOENT", code)
    assert.equal(missing .. ": No such file or directory", message)
    assert.equal("EISDIR", (failure(client, { method = "POST", url = url "ok", form = {
      { name = "file", file = folder.path } } })))
    assert.same({}, seen())
  end)

  it("of a file that shrinks meanwhile is an error, not a short body", function()
    local client <close> = http.client()
    local path = folder.path .. "/shrinking"
    for gate, body in ipairs { { body_file = path }, { form = { { name = "file", file = path } } } } do
      support.write(path, ("x"):rep(32 * MEGABYTE))
      local t = assert(client:start { method = "POST", url = url("deaf?gate=" .. gate),
        body_file = body.body_file, form = body.form })
      repeat client:wait(0.02) until t:progress() > 0
      support.write(path, "")
      assert(http.client():request { url = url("wake?gate=" .. gate) })
      assert.equal("EIO", assert(client:wait()).code)
      assert.equal(path .. ": became shorter while it was being sent", t.error)
    end
  end)
end)

describe("to_file", function()
  it("takes a 2xx body, replacing what was there", function()
    local client <close> = http.client()
    local path = folder.path .. "/taken"
    support.write(path, "something older and longer")
    local t = assert(client:request { url = url "ok", to_file = path })
    assert.same({ "", 5 }, { t.body, t.bytes })
    assert.equal("hello", support.read(path))
    assert(client:request { url = url "empty", to_file = path })
    assert.equal("", support.read(path))
  end)

  it("leaves the file alone when there is no 2xx answer, and keeps 1 MiB of it", function()
    local client <close> = http.client()
    local path = folder.path .. "/kept"
    support.write(path, "kept")
    local t = assert(client:request { url = url "html?size=3000000", to_file = path })
    assert.same({ 502, MEGABYTE, 3000006 }, { t.status, #t.body, t.bytes })
    failure(client, { url = url "silent", to_file = path })
    failure(client, { url = "http://127.0.0.1:1/", to_file = path })
    assert.equal("kept", support.read(path))
  end)

  it("goes through no link, whether it is symbolic or hard", function()
    local client <close> = http.client()
    local path, victim = folder.path .. "/linked", folder.path .. "/victim"
    support.write(victim, "precious")
    for _, link in ipairs { "ln -s", "ln" } do
      assert(os.execute(("rm -f %s && %s %s %s"):format(path, link, victim, path)))
      assert(client:request { url = url "ok", to_file = path })
      assert.equal("hello", support.read(path))
      assert.equal("precious", support.read(victim))
    end
  end)

  it("with resume_at takes a 206 behind what is there, and any other 2xx from the start", function()
    local client <close> = http.client()
    local path = folder.path .. "/resumed"
    support.write(path, "hello ")
    local t = assert(client:request { url = url "part", to_file = path, resume_at = 6 })
    assert.same({ 206, 5, "bytes 6-10/11" }, { t.status, t.bytes, t.headers["content-range"] })
    assert.equal("hello world", support.read(path))
    assert(client:request { url = url "ok", to_file = path, resume_at = 11 })
    assert.equal("hello", support.read(path))
    assert.equal(502, assert(client:request { url = url "html", to_file = path, resume_at = 5 }).status)
    assert.equal("hello", support.read(path))
    assert(client:request { url = url "part", to_file = path })
    assert.equal("world", support.read(path))
  end)

  it("with resume_at keeps the part of a part that came, and tells what the answer said", function()
    local client <close> = http.client()
    local path = folder.path .. "/resumed"
    support.write(path, "hello ")
    local none, _, code, t = client:request { url = url "short-part", to_file = path, resume_at = 6 }
    assert.same({ nil, "CLOSED", 206, 2 }, { none, code, t.status, t.bytes })
    assert.equal("bytes 6-10/11", t.headers["content-range"])
    assert.equal("hello wo", support.read(path))
  end)

  it("with resume_at adds nothing to what is not the file that was begun", function()
    local client <close> = http.client()
    local path, victim = folder.path .. "/resumed", folder.path .. "/victim"
    support.write(victim, "hello ")
    for code, command in pairs { ELOOP = "ln -s VICTIM PATH", ENOENT = "true", EISDIR = "mkdir PATH" } do
      assert(os.execute(("rm -rf PATH && " .. command):gsub("%u%u%u%u+", { PATH = path, VICTIM = victim })))
      assert.equal(code, (failure(client, { url = url "part", to_file = path, resume_at = 6 })))
    end
    for _, command in ipairs { "ln VICTIM PATH", "printf hello >PATH", "printf 'hello, w' >PATH", "mkfifo PATH" } do
      assert(os.execute(("rm -rf PATH && " .. command):gsub("%u%u%u%u+", { PATH = path, VICTIM = victim })))
      local code, message = failure(client, { url = url "part", to_file = path, resume_at = 6 })
      assert.is_true(code == "ESTALE" or code == "ENXIO", code)
      assert.matches(path, message, 1, true)
    end
    assert.equal("hello ", support.read(victim))
  end)

  it("fails with the file's name and the system's code when it cannot be written", function()
    local client <close> = http.client()
    local code, message = failure(client, { url = url "ok", to_file = "/dev/full" })
    assert.equal("ENOSPC", code)
    assert.match("^/dev/full: ", message)
    assert.equal("EISDIR", (failure(client, { url = url "ok", to_file = folder.path })))
    assert.equal("ENOENT", (failure(client, { url = url "ok", to_file = folder.path .. "/no/such" })))
    assert.equal("ENOENT", (failure(client, { url = url "empty", to_file = folder.path .. "/no/such" })))
  end)
end)

describe("memory", function()
  it("stays constant while 200 MB come down and go up, as a body and in a form", function()
    local grown, sum, sizes = child({}, [[
      local function peak()
        local status <close> = io.open("/proc/self/status")
        return tonumber(status:read("a"):match("VmHWM:%s+(%d+)"))
      end
      local client <close> = http.client()
      local base, path = "http://127.0.0.1:" .. ports.plain, folder .. "/200mb"
      assert(client:request { url = base .. "/big?size=1000000", to_file = path })
      assert(client:request { method = "POST", url = base .. "/ok", body_file = path })
      local before = peak()
      assert(client:request { url = base .. "/big?size=200000000", to_file = path })
      assert(client:request { method = "POST", url = base .. "/ok", body_file = path })
      assert(client:request { method = "POST", url = base .. "/ok", form = { { name = "file", file = path } } })
      return peak() - before, require "obatch.fs".sha256(path), 0]])
    assert(sizes and grown < 16 * 1024, ("resident size grew by %d kB"):format(grown))
    local asked = seen()
    local upload, form = asked[#asked - 1], asked[#asked]
    assert.same({ 200000000, sum }, { upload.size, upload.sha256 })
    assert(form.size > 200000000 and form.size < 200001000)
    fs.remove(folder.path .. "/200mb")
  end)
end)

describe("a request on a connection that the server has just closed", function()
  local function after_once(request)
    local client <close> = http.client()
    seen()
    assert(client:request { url = url "once" })
    request.url = url "ok"
    local t, _, code = client:request(request)
    return t and t.status or code, #seen() - 1
  end

  it("is repeated by libcurl when it is a GET: the trap is real, and harmless here", function()
    assert.same({ 200, 2 }, { after_once {} })
    assert.same({ 200, 2 }, { after_once { method = "PUT", body = "x" } })
  end)

  it("is sent once when it is a POST or PATCH, or fresh", function()
    assert.same({ 200, 1 }, { after_once { method = "POST", body = "x" } })
    assert.same({ 200, 1 }, { after_once { method = "PATCH", body = "x" } })
    assert.same({ 200, 1 }, { after_once { fresh = true } })
  end)

  it("is repeated when the caller says that this POST may be", function()
    support.write(folder.path .. "/again", "content")
    assert.same({ 200, 2 }, { after_once { method = "POST", body = "x", fresh = false } })
    assert.same({ 200, 2 }, { after_once { method = "POST", body_file = folder.path .. "/again", fresh = false } })
    assert.same({ 200, 2 }, { after_once { method = "POST", fresh = false,
      form = { { name = "file", file = folder.path .. "/again" } } } })
  end)
end)

describe("misuse", function()
  it("raises, and nothing is sent", function()
    local client <close> = http.client()
    local base = url "ok"
    seen()
    for _, request in ipairs {
      {}, { url = 1 }, { url = base, methode = "GET" }, { url = base, method = "get" },
      { url = base .. "\0" }, { url = base, body = "x" }, { url = base, method = "POST", body = 1 },
      { url = base, method = "POST", body = "x", body_file = "y" }, { url = base, method = "POST", form = {} },
      { url = base, method = "POST", form = { { name = "x" } } },
      { url = base, method = "POST", form = { { name = "x", value = "y", file = "z" } } },
      { url = base, method = "POST", form = { { value = "y" } } },
      { url = base, method = "POST", form = { { name = "a", value = "y" } }, headers = { ["content-type"] = "x" } },
      { url = base, headers = { A = "b\r\nC: d" } }, { url = base, headers = { A = "b\nC: d" } },
      { url = base, headers = { ["A: b\r\nC"] = "d" } }, { url = base, headers = { A = "b\0" } },
      { url = base, headers = { [""] = "d" } }, { url = base, headers = { "A: b" } },
      { url = base, headers = { ["Content-Length"] = "3" } }, { url = base, headers = { expect = "100-continue" } },
      { url = base, headers = { host = "x" } },
      { url = base, follow = -1 }, { url = base, follow = "far" }, { url = base, follow = 0.5 },
      { url = base, method = "POST", follow = 1 }, { url = base, timeout = 0 },
      { url = base, timeout = 0 / 0 }, { url = base, fresh = 1 }, { url = base, to_file = 1 },
      { url = base, resume_at = 1 }, { url = base, to_file = "x", resume_at = -1 }, { url = base, answer_timeout = 0 },
    } do
      assert.has_error(function() client:start(request) end)
    end
    for _, options in ipairs { { connect_timeout = 0 }, { stall_timeout = -1 }, { user_agent = "a\r\nb" },
      { allow_plain_http = "no" }, { verify = false } } do
      assert.has_error(function() http.client(options) end)
    end
    local t = assert(client:request { url = base })
    assert.has_error(function() t.status = 1 end)
    t.tag = "set"
    assert.equal("set", t.tag)
    assert.equal(1, #seen())
  end)
end)
