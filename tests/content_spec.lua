-- Downloads that break: gone on with where the service proves that it can, begun anew where it does not, and
-- never anything but the whole file under the final name. Against tests/scripted_api.py, which tells what was
-- asked for, and once against the sandbox.
local api_server = require "api_server"
local fs = require "obatch.fs"
local openai = require "obatch.openai"
local support = require "support"
local tasks = require "obatch.tasks"

local clock, log = api_server.clock, api_server.log
local new_api, script, seen, object, failure = api_server.new_api, api_server.script, api_server.seen,
  api_server.object, api_server.failure
local fails = api_server.fails

local FILE, CONTENT = "GET /v1/files/f", "GET /v1/files/f/content"
local BODY = "0123456789abcdef"
local PROOF = { ["Accept-Ranges"] = "bytes", ETag = '"v1"' }

local dir, out

setup(api_server.start)
teardown(api_server.stop)

before_each(function()
  api_server.stop_time()
  dir = support.tmpdir()
  out = dir.path .. "/out.jsonl"
end)

after_each(function()
  api_server.resume_time()
  getmetatable(dir).__close(dir)
end)

--- The whole body, of which `cut` bytes come, with these headers besides the proof.
local function whole(cut, headers)
  local reply = { body = BODY, cut = cut, headers = {} }
  for name, value in pairs(PROOF) do reply.headers[name] = value end
  for name, value in pairs(headers or {}) do reply.headers[name] = value or nil end
  return reply
end

--- The body from byte `first` on, as a range.
local function part(first, cut, headers)
  local reply = whole(cut, { ["Content-Range"] = ("bytes %d-%d/%d"):format(first, #BODY - 1, #BODY) })
  reply.status, reply.body = 206, BODY:sub(first + 1)
  for name, value in pairs(headers or {}) do reply.headers[name] = value end
  return reply
end

--- What was asked of the content: for each request its range, "whole" where it had none.
local function ranges()
  local list = {}
  for _, request in ipairs(seen()) do
    if request.target:find "/content$" then
      list[#list + 1] = request.headers.range or "whole"
      assert.equal(request.headers.range and '"v1"', request.headers["if-range"])
    end
  end
  return list
end

--- Downloads f with these answers for its content; the count that the file object names may be given.
local function download(replies, bytes)
  local api <close> = new_api()
  script { [FILE] = object { id = "f", bytes = bytes or #BODY }, [CONTENT] = replies }
  return api:download("f", out)
end

local function arrives(replies)
  assert.equal(#BODY, assert(download(replies)))
  assert.equal(BODY, support.read(out))
  assert.same({ "out.jsonl" }, fs.list(dir.path))
end

describe("a download that breaks", function()
  it("fetches only the rest, as often as it takes", function()
    arrives { whole(5), part(5, 3), { drop = true }, failure(503, { message = "busy" }), part(8, 0), part(8, 7),
      part(15) }
    assert.same({ "whole", "bytes=5-", "bytes=8-", "bytes=8-", "bytes=8-", "bytes=8-", "bytes=15-" }, ranges())
    assert.matches("content of file f: going on at byte 15", log[#log], 1, true)
  end)

  it("does so in a coroutine, too", function()
    local api <close> = new_api()
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5), part(5) } }
    local bytes
    tasks.run(api.client, { function()
      tasks.sleep = function() return true end
      bytes = api:download("f", out)
    end }, 1)
    assert.equal(#BODY, bytes)
    assert.same({ "whole", "bytes=5-" }, ranges())
    assert.equal(BODY, support.read(out))
  end)

  for name, headers in pairs {
    ["a weak ETag"] = { ETag = 'W/"v1"' }, ["no ETag"] = { ETag = false }, ["an ETag that is none"] = { ETag = "v1" },
    ["no Accept-Ranges"] = { ["Accept-Ranges"] = false }, ["other ranges"] = { ["Accept-Ranges"] = "none" },
    ["an ETag that holds a quote"] = { ETag = '"v"1"' },
  } do
    it("begins anew where there is no proof: " .. name, function()
      arrives { whole(5, headers), whole() }
      assert.same({ "whole", "whole" }, ranges())
    end)
  end

  it("begins anew when the answer to the range is the whole", function()
    arrives { whole(5), whole(nil, { ETag = '"v2"' }) }
    assert.same({ "whole", "bytes=5-" }, ranges())
  end)

  it("goes on with the new version when that breaks", function()
    script { [FILE] = object { id = "f", bytes = #BODY },
      [CONTENT] = { whole(5, { ETag = '"v0"' }), whole(9, { ETag = '"v1"' }), part(9) } }
    local api <close> = new_api()
    assert.equal(#BODY, assert(api:download("f", out)))
    assert.equal(BODY, support.read(out))
    local asked = seen()
    assert.same({ "bytes=5-", '"v0"' }, { asked[3].headers.range, asked[3].headers["if-range"] })
    assert.same({ "bytes=9-", '"v1"' }, { asked[4].headers.range, asked[4].headers["if-range"] })
  end)

  local wrong = {
    ["the range is refused"] = { status = 416, body = "", headers = { ["Content-Range"] = "bytes */16" } },
    ["the part is of another version"] = part(5, nil, { ETag = '"v2"' }),
    ["the part tells no version"] = part(5, nil, { ETag = "" }),
    ["the part begins elsewhere"] = part(4),
    ["the part ends elsewhere"] = part(5, nil, { ["Content-Range"] = "bytes 5-9/16" }),
    ["the part tells no total"] = part(5, nil, { ["Content-Range"] = "bytes 5-15/*" }),
    ["the part is of another size"] = part(5, nil, { ["Content-Range"] = "bytes 5-16/17" }),
    ["the part tells no range"] = part(5, nil, { ["Content-Range"] = "" }),
    ["the part is longer than it says"] = { status = 206, body = BODY, headers = part(5).headers },
    ["the part is wrong, and cut"] = part(5, 2, { ETag = '"v2"' }),
  }
  for name, reply in pairs(wrong) do
    it("begins anew, and asks for no range again, when " .. name, function()
      arrives { whole(5), reply, whole(7), whole() }
      assert.same({ "whole", "bytes=5-", "whole", "whole" }, ranges())
    end)
  end

  it("does not go on when the file object promises another size than the part", function()
    local message, code = fails(download({ whole(5), part(5), whole() }, #BODY + 1))
    assert.same({ "CLOSED", { "whole", "bytes=5-", "whole" } }, { code, ranges() })
    assert.matches("16 bytes came, the file object promises 17", message, 1, true)
    assert.same({}, fs.list(dir.path))
  end)

  it("does not go on with a part of another size where no file object tells the size", function()
    local api <close> = new_api()
    local other = part(5, nil, { ["Content-Range"] = "bytes 5-16/17" })
    other.body = other.body .. "x"
    script { [FILE] = failure(404), [CONTENT] = { whole(5), other, whole() } }
    assert.equal(#BODY, assert(api:download("f", out)))
    assert.same({ "whole", "bytes=5-", "whole" }, ranges())
  end)

  it("adds nothing to a file that has become another one meanwhile", function()
    local api <close> = new_api()
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5), whole() } }
    local victim = dir.path .. "/victim"
    tasks.sleep = function()
      support.write(victim, "12345")
      assert(os.execute(("ln -sf %s %s.part"):format(victim, out)))
      return true
    end
    assert(api:download("f", out))
    assert.same({ "whole", "whole" }, ranges())
    assert.same({ BODY, "12345" }, { support.read(out), support.read(victim) })
  end)

  it("is patient for as long as bytes come", function()
    local replies = { whole(1) }
    for i = 1, 14 do replies[#replies + 1] = part(i, 1) end
    replies[#replies + 1] = part(15)
    local request = tasks.request
    finally(function() tasks.request = request end)
    tasks.request = function(...)
      clock.now = clock.now + 590
      return request(...)
    end
    arrives(replies)
  end)

  it("takes no part that nobody asked for", function()
    assert.equal("PROTOCOL", select(2, fails(download { part(5) })))
    assert.same({}, fs.list(dir.path))
  end)
end)

describe("a download that was given up", function()
  it("is gone on with by a later call in the same process, and by no other", function()
    local api <close> = new_api()
    api.patience = 0
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5), part(5, 3), part(8) } }
    assert.equal("CLOSED", select(2, fails(api:download("f", out))))
    assert.equal("01234", support.read(out .. ".part"))
    assert.equal("CLOSED", select(2, fails(api:download("f", out))))
    assert.equal(#BODY, assert(api:download("f", out)))
    assert.same({ "whole", "bytes=5-", "bytes=8-" }, ranges())
    assert.same({ "out.jsonl" }, fs.list(dir.path))

    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5), whole(5), whole() } }
    fails(api:download("f", out))
    do
      local other <close> = new_api()
      other.patience = 0
      fails(other:download("f", out))
    end
    assert.same({ "out.jsonl" }, fs.list(dir.path)) -- the client that ends takes it along
    assert(api:download("f", out))
    assert.same({ "whole", "whole", "whole" }, ranges())
  end)

  it("begins anew for another file at the same place", function()
    local api <close> = new_api()
    api.patience = 0
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5) },
      ["GET /v1/files/g"] = object { id = "g", bytes = 3 }, ["GET /v1/files/g/content"] = { body = "new" } }
    fails(api:download("f", out))
    assert.equal(3, assert(api:download("g", out)))
    assert.same({ "whole", "whole" }, ranges())
    assert.equal("new", support.read(out))
  end)

  it("leaves nothing where it cannot be gone on with", function()
    for code, replies in pairs {
      CLOSED = { whole(5, { ETag = 'W/"v1"' }) }, NOT_FOUND = { whole(5), failure(404) },
      AUTH = { whole(5), failure(401) },
    } do
      local api <close> = new_api()
      api.patience = code == "CLOSED" and 0 or 600
      script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = replies }
      assert.equal(code, select(2, fails(api:download("f", out))))
      assert.same({}, fs.list(dir.path))
    end
  end)

  it("leaves nothing when the program is interrupted", function()
    tasks.sleep = function() return nil, "interrupted", "INTERRUPTED" end
    local api <close> = new_api()
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { whole(5) } }
    assert.equal("INTERRUPTED", select(2, fails(api:download("f", out))))
    assert.same({}, fs.list(dir.path))
  end)
end)

it("a file at the sandbox that breaks three times comes whole, each byte once", function()
  api_server.resume_time()
  local sandbox <close> = support.sandbox { "--range", "--faults", "content: cut=300000 first=3" }
  local lines = {}
  for i = 1, 20000 do lines[i] = ('{"custom_id":"%d","text":"%s"}\n'):format(i, ("x"):rep(i % 40)) end
  support.write(dir.path .. "/in.jsonl", table.concat(lines))
  local heard = {}
  local api <close> = assert(openai.new { key = "sk-any", base_url = sandbox.url,
    log = function(line) heard[#heard + 1] = line:match("going on at byte %d+") end })
  local file = assert(api:upload(dir.path .. "/in.jsonl", "in.jsonl"))
  assert.equal(fs.stat(dir.path .. "/in.jsonl").size, assert(api:download(file.id, out)))
  assert.equal(fs.sha256(dir.path .. "/in.jsonl"), fs.sha256(out))
  assert.same({ "going on at byte 300000", "going on at byte 600000", "going on at byte 900000" }, heard)
end)
