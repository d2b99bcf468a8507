-- What the server of the sandbox receives: requests, their bodies and forms.
local fs = require "obatch.fs"
local peer = require "httpd_peer"
local support = require "support"

local MB = 1000 * 1000
local setup, descriptors, peak_memory = peer.setup, peer.descriptors, peer.peak_memory

local function ok(request) assert.is_true(request:reply { body = "ok" }) end

describe("a request", function()
  it("has a decoded path and query, lower-case headers, and its body", function()
    local w <close> = setup()
    local seen
    local code, out = w:run(w:curl(("-H 'X-Mixed-Case: Some Value' --data-binary 'one two' "
      .. "'%s/v1/a%%20b%%C3%%A9?plain=1&space=a+b%%20c&utf8=%%C3%%A9&empty=&bare&amp=%%26%%3D'"):format(w.url)),
      function(request)
        seen = { method = request.method, path = request.path, query = request.query, size = request.size,
          text = request:text(), mixed = request.headers["x-mixed-case"], form = request.form }
        ok(request)
      end)
    assert.same({ 0, "ok" }, { code, out })
    assert.same({ method = "POST", path = "/v1/a bé", size = 7, text = "one two", mixed = "Some Value",
      query = { plain = "1", space = "a b c", utf8 = "é", empty = "", bare = "", amp = "&=" } }, seen)
  end)

  it("that came on a kept connection is answered on it, also when two are sent at once", function()
    local w <close> = setup()
    local code, out = w:run(w:python [[
s = connect()
for i in range(3):
    print(answer(ask(GET % i, s))[1].decode())
ask(GET % "first" + GET % "second", s)
data = b""
while data.count(b"HTTP/1.1 200") < 2 or not data.endswith(b"second"): data += s.recv(65536)
print(data.index(b"/first") < data.index(b"/second"))
]], function(request) request:reply { body = request.path } end)
    assert.same({ 0, "/0\n/1\n/2\nTrue\n" }, { code, out })
  end)

  it("is given out only when it is complete, however slowly it comes, and holds up nobody", function()
    local w <close> = setup()
    local slow = w:python [[
s = ask("POST /slow HTTP/1.1\r\nHost: h\r\nContent-")
while not os.path.exists(folder + "/go1"): time.sleep(0.01)
ask("Length: 6\r\n\r\nabc", s)
while not os.path.exists(folder + "/go2"): time.sleep(0.01)
print(answer(ask("def", s))[1])
]]
    for _, mark in ipairs { "/go1", "/go2" } do
      local code, out = w:run(w:curl(w.url .. "/quick"), function(request)
        assert.equal("/quick", request.path)
        ok(request)
      end)
      assert.same({ 0, "ok" }, { code, out })
      support.write(w.dir .. mark, "")
    end
    local _, out = w:run(slow, function(request)
      assert.equal("abcdef", request:text())
      ok(request)
    end)
    assert.equal("b'ok'\n", out)
  end)

  it("may come in chunks, small and large", function()
    local w <close> = setup()
    assert(os.execute(("head -c 300000 /dev/urandom >%s/large"):format(w.dir)))
    for _, body in ipairs { "'tiny'", "@" .. w.dir .. "/large" } do
      local code = w:run(w:curl(("-H 'Transfer-Encoding: chunked' --data-binary %s %s"):format(body, w.url)),
        function(request)
          assert.equal("chunked", request.headers["transfer-encoding"])
          assert.equal(body == "'tiny'" and "tiny" or support.read(w.dir .. "/large"), request:text())
          ok(request)
        end)
      assert.equal(0, code)
    end
  end)

  it("whose client asks for permission gets 100 Continue before the body is there", function()
    local w <close> = setup()
    local code, out = w:run(w:python [[
s = ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
print(s.recv(65536).decode().strip())
print(answer(ask("body", s))[1])
]], ok)
    assert.same({ 0, "HTTP/1.1 100 Continue\nb'ok'\n" }, { code, out })
  end)

  it("of 200 MB goes to the spool folder in constant memory and leaves nothing behind", function()
    local w <close> = setup()
    local large = w.dir .. "/large"
    assert(os.execute(("head -c %d /dev/urandom >%s"):format(200 * MB, large)))
    local before = peak_memory()
    for _, how in ipairs { "-T %s", "-F purpose=batch -F file=@%s", "-H 'Transfer-Encoding: chunked' -T %s" } do
      local code = w:run(w:curl(how:format(large) .. " " .. w.url), function(request)
        assert.is_nil(request.form_error)
        assert.is_true((request.form and request.form.file or request).size == 200 * MB)
        assert.same({ nil, request.form and "MULTIPART" or "TOO_BIG" }, { (function()
          local text, _, why = request:text()
          return text, why
        end)() })
        assert.equal(1, #fs.list(w.spool))
        assert(request:keep(w.dir .. "/kept"))
        ok(request)
      end)
      assert.equal(0, code)
      assert.is_true(os.execute(("cmp -s %s %s/kept"):format(large, w.dir)))
      assert.same({}, fs.list(w.spool))
    end
    assert.is_true(peak_memory() - before < 32 * MB)
  end)

  it("that is too large is answered with 413 on a closed connection and never given out", function()
    local w <close> = setup { max_body = 100000 }
    assert(os.execute(("head -c 100000 /dev/zero >%s/fits; head -c 100001 /dev/zero >%s/large"):format(w.dir, w.dir)))
    local function status(how, file)
      local given = 0
      local _, out = w:run(w:curl(("-o /dev/null -D - -w '%%{http_code}' %s --data-binary @%s/%s %s"):format(how, w.dir,
        file, w.url)), function(request)
          given = given + 1
          ok(request)
        end)
      return out:match("%d+$"), out:find("Connection: close", 1, true) ~= nil, given
    end
    local chunked = "-H 'Transfer-Encoding: chunked'"
    assert.same({ "200", false, 1 }, { status("-H Expect:", "fits") })
    assert.same({ "413", true, 0 }, { status("-H Expect:", "large") })
    assert.same({ "413", true, 0 }, { status("-H 'Expect: 100-continue'", "large") })
    assert.same({ "200", false, 1 }, { status(chunked, "fits") })
    assert.same({ "413", true, 0 }, { status(chunked, "large") })
    -- Whoever asks first need not send it.
    local _, first = w:run(w:python [[
s = ask("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n")
print(answer(s)[0].split("\r\n")[0], s.recv(1))
]], ok)
    assert.truthy(first:find("^HTTP/1.1 413 .* b''\n$"))
    local code, out = w:run(w:curl(("-F file=@%s/large %s"):format(w.dir, w.url)), ok)
    assert.same({ 0, "the body is larger than 100000 bytes\n" }, { code, out })
    assert.same({}, fs.list(w.spool))
  end)

  it("with too much in its head is refused, and the server goes on", function()
    local w <close> = setup()
    local _, out = w:run(w:python [[
print(answer(ask("GET / HTTP/1.1\r\nHost: h\r\nX: " + "x" * 300000 + "\r\n\r\n"))[0].split()[1])
print(answer(ask("GET /" + "x" * 300000 + " HTTP/1.1\r\nHost: h\r\n\r\n"))[0].split()[1])
print(answer(ask("GET / HTTP/1.1\r\nHost: h\r\nX: " + "x" * 30000 + "\r\n\r\n"))[0].split()[1])
]], ok)
    assert.equal("431\n414\n200\n", out)
  end)

  it("that cannot be spooled is answered with 500 and the reason", function()
    local w <close> = setup()
    fs.remove(w.spool)
    assert(os.execute(("head -c 100000 /dev/zero >%s/large"):format(w.dir)))
    for _, how in ipairs { "--data-binary @", "-F file=@" } do
      local _, out = w:run(w:curl(("-w ' %%{http_code}' %s%s/large %s"):format(how, w.dir, w.url)), ok)
      assert.equal("cannot spool the body: No such file or directory\n 500", out)
    end
  end)

  it("may be kept: a small body, a large one, and once only", function()
    local w <close> = setup()
    for _, size in ipairs { 0, 5, 200000 } do
      assert(os.execute(("head -c %d /dev/urandom >%s/body"):format(size, w.dir)))
      local code = w:run(w:curl(("--data-binary @%s/body %s"):format(w.dir, w.url)), function(request)
        local moved, message, why = request:keep(w.dir .. "/no/such/folder")
        assert.same({ nil, "ENOENT" }, { moved, why })
        assert.truthy(message:find("/no/such/folder", 1, true))
        assert(request:keep(w.dir .. "/kept"))
        if size > 0 then
          assert.equal("ENODATA", select(3, request:keep(w.dir .. "/again")))
          assert.equal("ENODATA", select(3, request:text()))
        end
        ok(request)
      end)
      assert.equal(0, code)
      assert.equal(support.read(w.dir .. "/body"), support.read(w.dir .. "/kept"))
    end
  end)

  it("that is cut off by its client is never given out and frees everything", function()
    local w <close> = setup()
    local before = descriptors()
    w:run(w:python [[
head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n"
form = "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
part = "--b\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n"
chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n"
for text in ("GET / HTT", head, head + "\r\n", head + "\r\n" + "x" * 500000,
             head + form + part + "x" * 500000, chunked + "x" * 90000):
    ask(text).close()
]], function() error("half a request was given out") end)
    w:serve(function() return descriptors() == before and #fs.list(w.spool) == 0 end,
      function() error("half a request was given out") end)
  end)
end)

describe("a form", function()
  it("gives bracketed fields and a file whose name has quotes, spaces and UTF-8", function()
    local w <close> = setup()
    local content = "--x\r\n\0 binary \r\n--\r\n"
    support.write(w.dir .. "/source", content)
    for _, escape in ipairs { "", "--form-escape " } do
      local seen
      local code = w:run(w:curl(escape .. "-F purpose=batch -F 'expires_after[anchor]=created_at' -F 'empty=' "
        .. ([[-F 'file=@%s/source;filename="a \"b\" é;c=d.jsonl";type=application/jsonl' %s]]):format(w.dir, w.url)),
        function(request)
          seen = request.form
          seen.file.text = support.read(seen.file.path)
          ok(request)
        end)
      assert.equal(0, code)
      assert.truthy(seen.file.path:find(w.spool, 1, true))
      seen.file.path = nil
      assert.same({ purpose = "batch", ["expires_after[anchor]"] = "created_at", empty = "",
        file = { filename = 'a "b" é;c=d.jsonl', type = "application/jsonl", size = #content, text = content } }, seen)
    end
    assert.same({}, fs.list(w.spool))
  end)

  it("is read the same whatever the pieces it comes in", function()
    local w <close> = setup()
    local code, out = w:run(w:python [[
body = ("preamble\r\n--x'y\r\ncontent-disposition:form-data;filename=bare.jsonl;name=file\r\nX: y\r\n\r\n" +
        "\r\n--x'\r\n--x\r\r\n-\r\n" +
        "\r\n--x'y \t\r\nContent-Disposition: form-data; name=\"e\"; filename=\"\"\r\n" +
        "Content-Type: text/plain\r\n\r\n" +
        "\r\n--x'y\r\nContent-Disposition: form-data; name=\"e\"\r\n\r\nsecond of its name" +
        "\r\n--x'y--\r\nepilogue\r\n--x'y\r\n").encode()
text = post(body, "Content-Type: Multipart/Form-Data; charset=utf-8; boundary=\"x'y\"\r\n")
for size in 1, 2, 3, 7, 1000:
    s = connect()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(0, len(text), size):
        s.send(text[i:i + size])
        if size < 7: time.sleep(0.0002)
    print(answer(s)[1].decode())
]], function(request)
      local form = assert(request.form, request.form_error)
      request:reply { body = ("%s %q %s %d %s"):format(form.file.filename, support.read(form.file.path),
        form.e.type, form.e.size, form.e.filename):gsub("\n", "n"):gsub("\r", "r") }
    end)
    local line = ("bare.jsonl %q text/plain 0 \n"):format("\r\n--x'\r\n--x\r\r\n-\r\n"):gsub("\n", "n"):gsub("\r", "r")
    assert.same({ 0, line:gsub("n$", "\n"):rep(5) }, { code, out })
  end)

  it("that is malformed is told so, and the connection goes on", function()
    local w <close> = setup()
    local part = "--b\\r\\nContent-Disposition: form-data; name=\"f\"\\r\\n\\r\\n"
    local cases = {
      { "multipart/form-data", part .. "x\\r\\n--b--", "the Content-Type names no boundary" },
      { "multipart/form-data; boundary=" .. ("b"):rep(201), "", "the boundary is too long" },
      { nil, "", "the boundary of the Content-Type does not occur" },
      { nil, "--c\\r\\n", "the boundary of the Content-Type does not occur" },
      { nil, part .. "x", "the body ends before its closing boundary" },
      { nil, part .. "x\\r\\n--b-", "the body ends before its closing boundary" },
      { nil, part .. "x\\r\\n--bc--", "a boundary is followed by neither a line end nor --" },
      { nil, "--b\\r\\n\\r\\nx\\r\\n--b--", "a part has no name (Content-Disposition: form-data; name=\"...\")" },
      { nil, "--b\\r\\nContent-Disposition: form-data; name=\"f\\r\\n\\r\\nx\\r\\n--b--",
        "a part has no name (Content-Disposition: form-data; name=\"...\")" },
      { nil, "--b\\r\\nnonsense\\r\\n\\r\\nx\\r\\n--b--", "a header line of a part has no colon" },
      { nil, "--b\\r\\nX: \\0\\r\\n\\r\\nx\\r\\n--b--", "a header line of a part holds a NUL" },
      { nil, "--b\\r\\nX: " .. ("x"):rep(20000) .. "\\r\\n\\r\\nx\\r\\n--b--", "a header line of a part is too long" },
      { nil, part .. ("x"):rep(1100000) .. "\\r\\n--b--", "a field without a file name is larger than 1 MiB" },
      { nil, part:rep(1, "") .. ("\\r\\n" .. part):rep(1000) .. "\\r\\n--b--", "more than 1000 parts" },
    }
    local script, expected = { "s = connect()" }, {}
    for i, case in ipairs(cases) do
      script[#script + 1] = ("print(answer(ask(post(b'%s', 'Content-Type: %s\\r\\n'), s))[1].decode())"):format(case[2],
        case[1] or "multipart/form-data; boundary=b")
      expected[i] = "nil " .. case[3] .. "\n"
    end
    local code, out, err = w:run(w:python(table.concat(script, "\n")), function(request)
      request:reply { body = tostring(request.form) .. " " .. tostring(request.form_error) }
    end)
    assert.same({ 0, "", table.concat(expected) }, { code, err, out })
    assert.same({}, fs.list(w.spool))
  end)

  it("without a file has nothing to keep", function()
    local w <close> = setup()
    w:run(w:curl("-F a=b " .. w.url), function(request)
      assert.equal("ENODATA", select(3, request:keep(w.dir .. "/kept")))
      ok(request)
    end)
  end)
end)
