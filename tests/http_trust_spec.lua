-- Whom the HTTP client trusts, and with what: certificates, addresses, redirects, proxies, and who gets to
-- see the key.
local http = require "obatch.http"
local misbehave = require "misbehave"
local support = require "support"

local KEY = misbehave.KEY
local url, seen, failure, child = misbehave.url, misbehave.seen, misbehave.failure, misbehave.child

local folder

setup(function() folder = misbehave.start() end)
teardown(misbehave.stop)

describe("TLS", function()
  for _, name in ipairs { "CURL_CA_BUNDLE", "SSL_CERT_FILE" } do
    it("trusts what " .. name .. " names, for the right host only", function()
      local environment = { CURL_CA_BUNDLE = "", [name] = folder.path .. "/bundle.pem" }
      local ok, wrong_code, message = child(environment, [[
        local client <close> = http.client()
        local t = assert(client:request { url = ("https://localhost:%d/ok"):format(ports.tls) })
        local _, message, code = client:request { url = ("https://localhost:%d/ok"):format(ports.wronghost) }
        return t.body, code, message]])
      assert.same({ "hello", "TLS" }, { ok, wrong_code })
      assert.match("host name", message)
    end)
  end

  it("names a bundle that cannot be read", function()
    local code, message = child({ CURL_CA_BUNDLE = "/nowhere.pem" }, [[
      local client <close> = http.client()
      local _, message, code = client:request { url = ("https://localhost:%d/ok"):format(ports.tls) }
      return message, code]])
    assert.match("/nowhere.pem", code)
    assert.equal("TLS", message)
  end)

  it("trouble after the request was sent is CLOSED, for the server may have acted on it", function()
    seen()
    assert.equal("CLOSED", (child({ CURL_CA_BUNDLE = folder.path .. "/bundle.pem" }, [[
      local client <close> = http.client()
      local _, _, code = client:request { url = ("https://localhost:%d/tls-garbage"):format(ports.tls) }
      return code]])))
    assert.equal("/tls-garbage", seen()[1].target)
  end)
end)

describe("an address", function()
  it("of plain http is for this machine only", function()
    local client <close> = http.client()
    for _, host in ipairs { "example.com", "127.0.0.1.example.com", "localhost.example.com", "128.0.0.1",
      "10.0.0.1", "0.0.0.0", "[::2]", "[::ffff:1.2.3.4]", "127.0.0.1@example.com", "[::]" } do
      assert.equal("URL", (failure(client, { url = "http://" .. host .. ":1/" })), host)
    end
    for _, host in ipairs { "127.0.0.1", "127.9.8.7", "localhost", "LocalHost", "[::1]", "127.1" } do
      assert.equal("CONNECT", (failure(client, { url = "http://" .. host .. ":1/" })), host)
    end
  end)

  it("is http or https, well-formed, and holds no password", function()
    local client <close> = http.client()
    for _, bad in ipairs { "", "example.com", "ftp://example.com/", "file:///etc/passwd", "https://",
      "https://a b/", "https://example.com/\n", "https://user:" .. KEY .. "@example.com/" } do
      assert.equal("URL", (failure(client, { url = bad })), bad)
    end
  end)
end)

describe("a redirect", function()
  local headers = { Authorization = "Bearer " .. KEY, ["OpenAI-Organization"] = "org-1", ["X-Mine"] = "1" }

  local function hop(to, status)
    return "hop?status=" .. (status or 302) .. "&to=" .. to:gsub("[^%w]", function(c)
      return ("%%%02X"):format(c:byte())
    end)
  end

  it("within the same origin keeps the headers", function()
    local client <close> = http.client()
    seen()
    for _, status in ipairs { 301, 302, 303, 307, 308 } do
      local t = assert(client:request { url = url(hop("/ok", status)), headers = headers })
      assert.same({ 200, "hello", 5 }, { t.status, t.body, t.bytes })
    end
    assert.equal("Bearer " .. KEY, seen()[2].headers.authorization)
  end)

  it("to another port or host, and back from there, loses every header of the caller's", function()
    local client <close> = http.client()
    for _, to in ipairs { url("ok", "other"), url("ok", "plain", "http", "localhost"),
      url(hop(url "ok"), "other") } do
      seen()
      assert.equal(200, assert(client:request { url = url(hop(to)), headers = headers }).status)
      local asked = seen()
      assert.equal("Bearer " .. KEY, asked[1].headers.authorization)
      for i = 2, #asked do
        assert.is_nil(asked[i].headers.authorization)
        assert.is_nil(asked[i].headers["openai-organization"])
        assert.is_nil(asked[i].headers["x-mine"])
      end
    end
  end)

  it("to https loses them too, and from https to http is refused and not asked", function()
    local status, code, message = child({ CURL_CA_BUNDLE = folder.path .. "/bundle.pem" }, ([[
      local client <close> = http.client()
      local headers = { Authorization = "Bearer %s" }
      local t = assert(client:request { url = %q, headers = headers })
      local _, message, code = client:request { url = %q, headers = headers }
      return t.status, code, message]]):format(KEY,
      url(hop(url("ok", "tls", "https", "localhost")), "plain", "http", "localhost"),
      url(hop(url("ok", "plain", "http", "localhost")), "tls", "https", "localhost")))
    assert.same({ 200, "REDIRECT" }, { status, code })
    assert.match("plain http", message)
    local asked = seen()
    assert.same({ "plain", "tls", "tls" }, { asked[1].port, asked[2].port, asked[3].port })
    assert.is_nil(asked[4])
    assert.is_nil(asked[2].headers.authorization)
  end)

  it("to plain http elsewhere, to another scheme, or to a name with a password is refused", function()
    local client <close> = http.client()
    for _, to in ipairs { "http://example.com/", "file:///etc/passwd", "ftp://127.0.0.1/", "http://",
      "http://user:" .. KEY .. "@127.0.0.1:1/" } do
      assert.equal("REDIRECT", (failure(client, { url = url(hop(to)) })))
    end
  end)

  it("is followed five times, or as often as asked", function()
    local client <close> = http.client()
    local path = "ok"
    for _ = 1, 5 do path = hop("/" .. path) end
    assert.equal("hello", assert(client:request { url = url(path) }).body)
    assert.equal("REDIRECT", (failure(client, { url = url(hop("/" .. path)) })))
    assert.equal("REDIRECT", (failure(client, { url = url(path), follow = 4 })))
    local t = assert(client:request { url = url(path), follow = 0 })
    assert.same({ 302, "over there" }, { t.status, t.body })
  end)

  it("leaves only the last body in the file", function()
    local client <close> = http.client()
    assert(client:request { url = url(hop "/ok"), to_file = folder.path .. "/hopped" })
    assert.equal("hello", support.read(folder.path .. "/hopped"))
  end)

  it("of a POST is an answer like any other", function()
    local client <close> = http.client()
    seen()
    assert.equal(307, assert(client:request { method = "POST", url = url(hop("/ok", 307)), body = "x" }).status)
    assert.equal(1, #seen())
  end)

  it("to a host that is made of the key shows it nowhere", function()
    local client <close> = http.client()
    failure(client, { url = url "hop?to=https://KEY.invalid/" })
    assert.equal("REDIRECT", (failure(client, { url = url "hop?to=ftp://KEY.invalid/" })))
  end)
end)

describe("a proxy", function()
  it("sees nothing that goes to this machine, whatever the environment says", function()
    local proxy = url("", "proxy")
    seen()
    local environment = { http_proxy = proxy, https_proxy = proxy, all_proxy = proxy, HTTPS_PROXY = proxy,
      ALL_PROXY = proxy, no_proxy = "", CURL_CA_BUNDLE = folder.path .. "/bundle.pem" }
    assert.equal("hellohellohello", (child(environment, [[
      local client <close> = http.client()
      local text = ""
      for _, url in ipairs { "http://127.0.0.1:" .. ports.plain, "http://localhost:" .. ports.plain,
        "https://localhost:" .. ports.tls } do
        text = text .. assert(client:request { url = url .. "/ok" }).body
      end
      return text]])))
    for _, request in ipairs(seen()) do assert.not_equal("proxy", request.port) end
  end)

  it("is used for the rest of the world, and a CONNECT gets no header of the caller's", function()
    local proxy = url("", "proxy")
    seen()
    local plain, secure, trap, code, message = child({ http_proxy = proxy, https_proxy = proxy, no_proxy = "",
      CURL_CA_BUNDLE = folder.path .. "/bundle.pem" }, ([[
      local client <close> = http.client { allow_plain_http = true }
      local headers = { Authorization = "Bearer %s" }
      local plain = assert(client:request { url = "http://plain.example/x", headers = headers })
      local secure = assert(client:request { url = "https://tunnel.example/ok", headers = headers })
      local _, message, code = client:request { method = "POST", url = "https://refused.example/", headers = headers }
      return plain.body, secure.body, secure.headers["x-trap"] or false, code, message]]):format(KEY))
    assert.same({ "by proxy", "hello", false, "CONNECT" }, { plain, secure, trap, code })
    assert.match("407", message)
    local asked = seen()
    assert.same({ "http://plain.example/x", "tunnel.example:443", "/ok", "refused.example:443" },
      { asked[1].target, asked[2].target, asked[3].target, asked[4].target })
    assert.is_nil(asked[2].headers.authorization)
    assert.equal("Bearer " .. KEY, asked[3].headers.authorization)
    assert.is_nil(asked[4].headers.authorization)
  end)
end)
