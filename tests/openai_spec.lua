-- The API layer against tests/scripted_api.py: what is asked again and when, what is said of a failure,
-- what is sent, listings, downloads.
local api_server = require "api_server"
local fs = require "obatch.fs"
local json = require "obatch.json"
local openai = require "obatch.openai"
local support = require "support"
local tasks = require "obatch.tasks"

local KEY, GET, BATCH, clock, log = api_server.KEY, api_server.GET, api_server.BATCH, api_server.clock, api_server.log
local new_api, script, seen, asked = api_server.new_api, api_server.script, api_server.seen, api_server.asked
local object, failure, page, fails = api_server.object, api_server.failure, api_server.page, api_server.fails

local dir

setup(api_server.start)
teardown(api_server.stop)

before_each(function()
  api_server.stop_time()
  dir = support.tmpdir()
end)

after_each(function()
  api_server.resume_time()
  getmetatable(dir).__close(dir)
end)

describe("a call that only reads", function()
  for _, status in ipairs { 408, 409, 429, 500, 502, 503, 504, 529 } do
    it("is repeated after status " .. status, function()
      local api <close> = new_api()
      script { [GET] = { failure(status, { message = "busy" }), BATCH } }
      assert.equal("b", assert(api:batch "b").id)
      assert.same({ GET, GET }, asked())
      assert.same({ ("batch b: status %d: busy; again in 0.5 s"):format(status) }, log)
      assert.same({ 0.5 }, clock.waits)
    end)
  end

  for status, code in pairs { [400] = "REFUSED", [401] = "AUTH", [403] = "AUTH", [404] = "NOT_FOUND",
    [413] = "REFUSED", [418] = "REFUSED", [422] = "REFUSED" } do
    it(("is not repeated after status %d, which is %s"):format(status, code), function()
      local api <close> = new_api()
      script { [GET] = failure(status, { message = "No such batch" }) }
      local message, got = fails(api:batch "b")
      assert.equal(code, got)
      assert.equal(1, message:find(("batch b: status %d: No such batch"):format(status), 1, true))
      assert.equal(code == "AUTH", message:find("check the API key", 1, true) ~= nil)
      assert.same({ GET }, asked())
      assert.same({}, clock.waits)
    end)
  end

  it("is repeated after a lost, a cut and a garbled answer", function()
    local api <close> = new_api()
    script { [GET] = { { drop = true }, { body = BATCH.body, cut = 5 }, { drop = true }, BATCH } }
    assert.equal("b", assert(api:batch "b").id)
    assert.equal(3, #log)
  end)

  it("is repeated while nobody answers at all", function()
    local api <close> = new_api { base_url = "http://127.0.0.1:1/v1" }
    local message, code = fails(api:batch "b")
    assert.equal("CONNECT", code)
    assert.matches("given up after %d+ tries", message)
    assert.is_true(#clock.waits > 20)
  end)

  it("is not repeated when the caller would rather look again later", function()
    local api <close> = new_api()
    for status, expected in pairs { [408] = "SERVER", [409] = "CONFLICT", [429] = "RATE_LIMIT", [503] = "SERVER" } do
      script { [GET] = failure(status) }
      assert.equal(expected, select(2, fails(api:batch("b", true))))
      assert.same({ GET }, asked())
    end
  end)

  it("is repeated or not as x-should-retry says", function()
    local api <close> = new_api()
    script { [GET] = { failure(400, {}, { ["x-should-retry"] = "true" }), BATCH } }
    assert.truthy(api:batch "b")
    script { [GET] = failure(400, {}, { ["x-should-retry"] = "true", ["Retry-After"] = "3600" }) }
    assert.equal("SERVER", select(2, fails(api:batch "b"))) -- no refusal: it may pass
    script { [GET] = failure(503, {}, { ["x-should-retry"] = "false" }) }
    assert.equal("SERVER", select(2, fails(api:batch "b")))
    assert.same({ GET }, asked())
  end)

  for name, fields in pairs {
    ["the old code"] = { code = "insufficient_quota" }, ["the type"] = { type = "insufficient_quota" },
    ["the type beside a code"] = { type = "insufficient_quota", code = "rate_limit_exceeded" },
    ["credit"] = { code = "credit_balance_exhausted" }, ["a limit"] = { code = "project_spend_limit_exceeded" },
  } do
    it("is not repeated when the account cannot pay: " .. name, function()
      local api <close> = new_api()
      script { [GET] = failure(429, fields, { ["retry-after"] = "1" }) }
      local message, code = fails(api:batch "b")
      assert.equal("QUOTA", code)
      assert.matches("Remedy: the account cannot pay", message, 1, true)
      assert.same({ GET }, asked())
    end)
  end

  it("that is answered with something else than JSON is told apart", function()
    local api <close> = new_api()
    for _, body in ipairs { "<html>Welcome to the hotel</html>", "", '"text"', "{", ("x"):rep(70) .. KEY .. "\n" } do
      script { [GET] = { status = 200, body = body } }
      local message, code = fails(api:batch "b")
      assert.equal("PROTOCOL", code)
      assert.is_nil(message:find(KEY:sub(1, 8), 1, true))
    end
  end)
end)

describe("a wait", function()
  --- The clock.waits of a call that is answered with these headers once.
  local function waited(headers)
    local api <close> = new_api()
    script { [GET] = { failure(429, {}, headers), BATCH } }
    clock.waits = {}
    assert.truthy(api:batch "b")
    return clock.waits
  end

  it("is what the server asks for, in its three ways, the finest first", function()
    assert.same({ 7 }, waited { ["Retry-After"] = "7" })
    assert.same({ 1.5 }, waited { ["Retry-After"] = "1.5" })
    assert.same({ 0.25 }, waited { ["retry-after-ms"] = "250" })
    assert.same({ 0.25 }, waited { ["retry-after-ms"] = "250", ["Retry-After"] = "7" })
    assert.same({ 7 }, waited { ["retry-after-ms"] = "soon", ["Retry-After"] = "7" })
    local date, later = "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:51:07 GMT"
    assert.same({ 90 }, waited { ["Retry-After"] = later, Date = date })
  end)

  it("until a date is counted by our clock where the server tells no time", function()
    local date = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 100)
    local wait = waited { ["Retry-After"] = date }[1]
    assert.is_true(wait > 95 and wait <= 101, tostring(wait))
  end)

  it("is our own where the server's makes no sense", function()
    for _, value in ipairs { "soon", "", "0", "-5", "nan", "Sun, 06 Foo 1994 08:49:37 GMT",
      "Sun, 06 Nov 99999999999 08:49:37 GMT" } do
      assert.same({ 0.5 }, waited { ["Retry-After"] = value })
    end
    assert.same({ 0.5 }, waited { ["Retry-After"] = "Sun, 06 Nov 1994 08:49:37 GMT" })
  end)

  it("of our own is drawn evenly below a bound that doubles up to a minute", function()
    local api <close> = new_api()
    script { [GET] = { failure(503), failure(503), failure(503), failure(503), failure(503), failure(503), failure(503),
      failure(503), BATCH } }
    assert.truthy(api:batch "b")
    assert.same({ 0.5, 1, 2, 4, 8, 16, 30, 30 }, clock.waits)
  end)

  it("ends the call when it would go on for more than ten minutes", function()
    local api <close> = new_api()
    script { [GET] = failure(503, { message = "overloaded" }) }
    local message, code = fails(api:batch "b")
    assert.equal("SERVER", code)
    assert.matches("^batch b: status 503: overloaded; given up after %d+ tries", message)
    assert.is_true(clock.now - 1000 > 540 and clock.now - 1000 <= 600, tostring(clock.now - 1000))
    assert.equal(#asked(), #clock.waits + 1)
    assert.equal(#log, #clock.waits)
  end)

  it("that the server asks for and nobody has the patience for is not begun", function()
    local api <close> = new_api()
    script { [GET] = failure(429, {}, { ["Retry-After"] = "3600" }) }
    local message, code = fails(api:batch "b")
    assert.equal("RATE_LIMIT", code)
    assert.matches("the next would be 3600 s away", message, 1, true)
    assert.same({}, clock.waits)
  end)

  it("shares its ten minutes with the time that the requests themselves take", function()
    local api <close> = new_api()
    script { [GET] = failure(503, {}, { ["retry-after-ms"] = "1" }) }
    local request = tasks.request
    finally(function() tasks.request = request end)
    tasks.request = function(...)
      clock.now = clock.now + 100
      return request(...)
    end
    fails(api:batch "b")
    assert.equal(6, #asked())
  end)

  it("ends at once when the program is interrupted", function()
    local api <close> = new_api()
    script { [GET] = failure(503) }
    tasks.sleep = function() return nil, "interrupted", "INTERRUPTED" end
    assert.equal("INTERRUPTED", select(2, fails(api:batch "b")))
    assert.same({ GET }, asked())
  end)
end)

describe("a message", function()
  local function message_of(reply)
    local api <close> = new_api()
    script { [GET] = reply }
    return (fails(api:batch("b", true)))
  end

  it("names the request for those who will ask support", function()
    assert.equal("batch b: status 400: no (request req_1)",
      message_of(failure(400, { message = "no" }, { ["x-request-id"] = "req_1" })))
  end)

  it("is made of whatever error there is", function()
    assert.equal("batch b: status 400", message_of { status = 400, body = "<html>" })
    assert.equal("batch b: status 400", message_of { status = 400, body = "" })
    assert.equal("batch b: status 400", message_of { status = 400, body = '{"error":{"message":null}}' })
    assert.equal("batch b: status 400", message_of { status = 400, body = '{"error":[]}' })
    assert.equal("batch b: status 400", message_of { status = 400, body = "[1]" })
    assert.equal("batch b: status 400: plain words", message_of { status = 400, body = '{"error":"plain words"}' })
    assert.equal("batch b: status 400: true",
      message_of { status = 400, body = '{"error":{"message":true,"code":{}}}' })
  end)

  it("never holds the key, even where the service repeats it", function()
    local reply = failure(401, { message = "Incorrect API key: '" .. KEY .. "'" }, { ["x-request-id"] = KEY })
    assert.matches("Incorrect API key: '***' (request ***)", message_of(reply), 1, true)
    local api <close> = new_api()
    script { [GET] = { failure(503, { message = KEY }), BATCH } }
    assert.truthy(api:batch "b")
    assert.same({ "batch b: status 503: ***; again in 0.5 s" }, log)
  end)

  it("never holds the key in other letters", function()
    local forms = { "Bearer " .. KEY }
    for i, digits in ipairs { "%%%02X", "%%%02x" } do
      forms[i + 1] = KEY:gsub("[^%w._~-]", function(char) return digits:format(char:byte()) end)
    end
    for _, form in ipairs(forms) do
      local message = message_of { status = 200, body = "<a href='/login?key=" .. form .. "'>" }
      assert.is_nil(message:find("proj", 1, true), message)
      assert.matches("***", message, 1, true)
    end
    local key = 'sk-"a/b\\c"-0123456789'
    local api <close> = assert(openai.new { key = key, base_url = api_server.origin() .. "/v1" })
    for _, form in ipairs { json.encode(key), (json.encode(key):gsub("/", "\\/")), key } do
      script { [GET] = { body = form } }
      local _, message = api:batch "b"
      assert.is_nil(message:find("0123456789", 1, true), message)
    end
  end)

  it("is all that comes of a reply that repeats the key: its ids would go into journals", function()
    local escaped = KEY:gsub(".", function(char) return ("\\u%04x"):format(char:byte()) end)
    for _, body in ipairs { json.encode { id = "b" .. KEY }, json.encode { id = "b", metadata = { [KEY] = "x" } },
      '{"id":"b","errors":{"data":[{"message":"' .. escaped .. '"}]}}' } do
      assert.equal("batch b: the reply repeats the API key; it is not used", message_of { body = body })
    end
    local api <close> = assert(openai.new { key = "anything", base_url = api_server.origin() .. "/v1" })
    script { [GET] = { body = '{"id":"b","status":"anything"}' } }
    assert.equal("anything", assert(api:batch "b").status)
  end)

  it("is one line and not endless", function()
    local message = message_of(failure(400, { message = "one\r\n\27[31mtwo" .. ("é"):rep(100000) }))
    assert.is_true(#message <= 1000)
    assert.is_truthy(utf8.len(message))
  end)
end)

describe("what is sent", function()
  it("carries the key, and organization and project where they are set", function()
    script { [GET] = BATCH }
    do
      local api <close> = new_api { organization = "org-1", project = "proj-2" }
      assert(api:batch "b")
    end
    do
      local api <close> = new_api()
      assert(api:batch "b")
    end
    local full, bare = table.unpack(seen())
    assert.equal("Bearer " .. KEY, full.headers.authorization)
    assert.equal("org-1", full.headers["openai-organization"])
    assert.equal("proj-2", full.headers["openai-project"])
    assert.equal("application/json", full.headers.accept)
    assert.is_nil(bare.headers["openai-organization"])
    assert.is_nil(bare.headers["openai-project"])
  end)

  it("goes nowhere over plain http to another machine, and is not tried again", function()
    local api <close> = new_api { base_url = "http://api.example.com/v1" }
    assert.equal("URL", select(2, fails(api:batch "b")))
    assert.equal("URL", select(2, fails(api:create_batch("file-1", "/v1/responses", { run = "r" }))))
    assert.same({ {}, {} }, { clock.waits, log })
  end)

  it("names ids in paths as they are, whatever is in them", function()
    local api <close> = new_api()
    local target = "/v1/batches/a%2F..%3Fx%20%C3%A9~-_."
    script { ["GET " .. target] = object { id = "a/..?x é~-_.", status = "completed" } }
    assert.truthy(api:batch "a/..?x é~-_.")
    assert.same({ "GET " .. target }, asked())
  end)

  it("asks for nothing without an id: the path would be that of the listing", function()
    local api <close> = new_api()
    script {}
    for _, method in ipairs { "batch", "cancel_batch", "file", "delete_file", "download" } do
      assert.equal("NOT_FOUND", select(2, fails(api[method](api, "", "/dev/null"))))
    end
    assert.same({}, asked())
  end)

  it("believes no reply about another batch: who cancels one must not be shown another", function()
    local api <close> = new_api()
    script { [GET] = object { id = "B", status = "in_progress" }, ["POST /v1/batches/b/cancel"] = object { id = "b2" } }
    for _, method in ipairs { "batch", "cancel_batch" } do
      local message, code = fails(api[method](api, "b"))
      assert.equal("PROTOCOL", code)
      assert.matches("about another one", message, 1, true)
    end
    script { [GET] = object { status = "in_progress" } } -- says not which
    assert.truthy(api:batch "b")
  end)
end)

describe("a listing", function()
  local FIRST = "GET /v1/batches?limit=100"

  local function visit(path, stop_at)
    local api <close> = new_api()
    local visited = {}
    local found, message, code = api:each(path or "/batches?limit=100", function(item)
      visited[#visited + 1] = item.id
      return stop_at ~= nil and item.id == stop_at
    end)
    return visited, found, message, code
  end

  it("is read page by page to its end", function()
    script { [FIRST] = page(true, { id = "3" }, { id = "2/x" }), [FIRST .. "&after=2%2Fx"] = page(false, { id = "1" }) }
    assert.same({ "3", "2/x", "1" }, (visit()))
    assert.equal(2, #asked())
  end)

  it("without has_more ends at an empty page", function()
    script { ["GET /v1/files"] = page(nil, { id = "2" }), ["GET /v1/files?after=2"] = page(nil, { id = "1" }),
      ["GET /v1/files?after=1"] = page(nil) }
    assert.same({ "2", "1" }, (visit "/files"))
    script { [FIRST] = page(json.null, { id = "1" }), [FIRST .. "&after=1"] = page(true) }
    assert.same({ "1" }, (visit()))
  end)

  it("stops at what was looked for", function()
    script { [FIRST] = page(true, { id = "3" }, { id = "2" }, { id = "1" }) }
    local visited, found = visit(nil, "2")
    assert.same({ { "3", "2" }, "2" }, { visited, found.id })
    assert.equal(1, #asked())
  end)

  it("begins behind an item that is named", function()
    local api <close> = new_api()
    script { [FIRST .. "&after=5%2F"] = page(true, { id = "4" }), [FIRST .. "&after=4"] = page(false, { id = "3" }) }
    local visited = {}
    api:each("/batches?limit=100", function(item) visited[#visited + 1] = item.id end, { after = "5/" })
    assert.same({ "4", "3" }, visited)
  end)

  it("that repeats a page for ever is an error", function()
    script { [FIRST] = page(true, { id = "1" }), [FIRST .. "&after=1"] = page(true, { id = "1" }) }
    local _, found, message, code = visit()
    assert.equal("PROTOCOL", select(2, fails(found, message, code)))
    assert.matches("listing /batches: the service repeats the page after '1'", message, 1, true)
    script { [FIRST] = page(true, { id = "1" }), [FIRST .. "&after=1"] = page(true, { id = "2" }),
      [FIRST .. "&after=2"] = page(true, { id = "1" }) }
    _, found, message, code = visit()
    assert.equal("PROTOCOL", select(2, fails(found, message, code)))
    assert.matches("repeats the page after '1'", message, 1, true)
  end)

  it("that says there is more and sends nothing is an error: what was not seen may be there", function()
    script { [FIRST] = page(true, { id = "1" }), [FIRST .. "&after=1"] = page(true) }
    local _, found, message, code = visit()
    assert.equal("PROTOCOL", select(2, fails(found, message, code)))
    assert.matches("there is more, and sends nothing", message, 1, true)
  end)

  it("that holds no list is an error, and never an empty one", function()
    for _, body in ipairs { "{}", '{"data":null}', '{"error":{"message":"no"}}', '[{"id":"1"}]' } do
      script { [FIRST] = { body = body } }
      local _, found, message, code = visit()
      assert.equal("PROTOCOL", select(2, fails(found, message, code)))
    end
  end)

  it("that breaks off at a page is an error", function()
    script { [FIRST] = page(true, { id = "1" }), [FIRST .. "&after=1"] = failure(403) }
    local visited, found, message, code = visit()
    assert.same({ "1" }, visited)
    assert.equal("AUTH", select(2, fails(found, message, code)))
  end)

  it("may hold what is no object and has no id, except where the next page begins behind it", function()
    script { [FIRST] = page(false, 3, { id = "1" }, json.null, { status = "?" }) }
    assert.same({ { "1" } }, { visit() })
    for _, last in ipairs { { status = "?" }, { id = 7 }, { id = "" }, 3 } do
      script { [FIRST] = page(true, { id = "1" }, last) }
      local _, found, message, code = visit()
      assert.equal("PROTOCOL", select(2, fails(found, message, code)))
    end
  end)
end)

describe("batches that are listed", function()
  local LIST = "GET /v1/batches?limit=100"
  local function batch(id) return { id = id, status = "completed", odd = { 1.0 } } end

  local function batches(ids)
    local api <close> = new_api()
    local found, message, code = api:batches(ids)
    if not found then return found, message, code end
    local names = {}
    for id, each in pairs(found) do
      assert.same({ id, json.encode(batch(id)) }, { each.id, openai.raw(each) })
      names[#names + 1] = id
    end
    table.sort(names)
    return names
  end

  it("cost one request for a page, however many are asked for", function()
    script { [LIST] = page(true, batch "5", batch "4", 7, { status = "?" }, batch "3", batch "2") }
    assert.same({ "2", "4", "5" }, (batches { "2", "4", "5", "4" }))
    assert.same({ LIST }, asked())
  end)

  it("are looked for on half as many pages as there are batches, and at least on one", function()
    local next_page, last_page = LIST .. "&after=8", LIST .. "&after=7"
    local pages = { [LIST] = page(true, batch "8"), [next_page] = page(true, batch "7"),
      [last_page] = page(false, batch "1") }
    for _, case in ipairs { { { "1" }, {}, 1 }, { { "1", "8" }, { "8" }, 1 }, { { "1", "8", "2", "3" }, { "8" }, 2 },
      { { "1", "8", "2", "3", "4", "5" }, { "1", "8" }, 3 }, { {}, {}, 0 } } do
      script(pages)
      assert.same(case[2], (batches(case[1])))
      assert.equal(case[3], #asked())
    end
  end)

  it("are a failure when a page cannot be had, which is not waited out", function()
    script { [LIST] = failure(503) }
    assert.equal("SERVER", select(2, fails(batches { "1", "2" })))
    script { [LIST] = { body = "<html>" } }
    assert.equal("PROTOCOL", select(2, fails(batches { "1", "2" })))
    assert.same({ { LIST }, {} }, { asked(), clock.waits })
  end)
end)

describe("reached", function()
  it("is the service that has answered anything", function()
    local api <close> = new_api()
    script { [GET] = { { drop = true }, failure(503) } }
    api.patience = 0
    fails(api:batch "b")
    assert.is_false(api.reached)
    fails(api:batch "b")
    assert.is_true(api.reached)
  end)
end)

describe("a download", function()
  local FILE, CONTENT = "GET /v1/files/f", "GET /v1/files/f/content"
  local BODY = '{"custom_id":"a"}\n'

  --- Downloads f over whatever is at the place; returns what came of it.
  local function download()
    local api <close> = new_api()
    return api:download("f", dir.path .. "/out.jsonl")
  end

  local function nothing_left() assert.same({}, fs.list(dir.path)) end

  it("has the bytes that the file object promises", function()
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { body = BODY } }
    assert.equal(#BODY, assert(download()))
    assert.equal(BODY, support.read(dir.path .. "/out.jsonl"))
    assert.same({ "out.jsonl" }, fs.list(dir.path))
  end)

  it("with another number of bytes is not kept", function()
    for _, promised in ipairs { #BODY - 1, #BODY + 1, 0 } do
      script { [FILE] = object { bytes = promised }, [CONTENT] = { body = BODY } }
      local message, code = fails(download())
      assert.equal("CLOSED", code)
      assert.matches(("18 bytes came, the file object promises %d"):format(promised), message, 1, true)
      nothing_left()
    end
  end)

  it("is looked at before it gets its name, and taken or not", function()
    local api <close> = new_api()
    local heard
    local function takes(answer, why_not)
      return function(path, complaint)
        heard = complaint or "nothing"
        assert.equal(BODY, support.read(path))
        return answer, why_not
      end
    end
    local out = dir.path .. "/out.jsonl"
    script { [FILE] = object { id = "f", bytes = #BODY + 1 }, [CONTENT] = { body = BODY } }
    local message, code = fails(api:download("f", out, takes(nil, "it is no good")))
    assert.equal("CLOSED", code)
    assert.matches("content of file f: it is no good", message, 1, true)
    assert.equal("18 bytes came, the file object promises 19", heard)
    nothing_left()
    assert.equal(#BODY, assert(api:download("f", out, takes(true))))
    assert.matches("the file object promises 19; going on with what came", log[#log], 1, true)
    script { [FILE] = object { id = "f", bytes = #BODY }, [CONTENT] = { body = BODY } }
    assert(api:download("f", out, takes(true)))
    assert.equal("nothing", heard)
    assert.equal("CLOSED", select(2, fails(api:download("f", out, takes(nil, "it is no good")))))
  end)

  it("that is cut is repeated from the start", function()
    local tries = { { body = BODY, cut = 12 }, { drop = true }, { body = BODY } }
    script { [FILE] = object { bytes = #BODY }, [CONTENT] = tries }
    assert.equal(#BODY, assert(download()))
    assert.equal(BODY, support.read(dir.path .. "/out.jsonl"))
  end)

  it("may be empty", function()
    for _, status in ipairs { 200, 204 } do
      script { [FILE] = object { bytes = 0 }, [CONTENT] = { status = status, body = "" } }
      assert.equal(0, assert(download()))
      assert.equal("", support.read(dir.path .. "/out.jsonl"))
    end
  end)

  it("replaces what a run before it left, whole or in part", function()
    support.write(dir.path .. "/out.jsonl", "old")
    support.write(dir.path .. "/out.jsonl.part", ("x"):rep(100))
    script { [FILE] = object { bytes = #BODY }, [CONTENT] = { body = BODY } }
    assert(download())
    assert.equal(BODY, support.read(dir.path .. "/out.jsonl"))
    assert.same({ "out.jsonl" }, fs.list(dir.path))
  end)

  it("that fails leaves what was there before", function()
    support.write(dir.path .. "/out.jsonl", "old")
    script { [FILE] = object { bytes = 3 }, [CONTENT] = failure(404) }
    assert.equal("NOT_FOUND", select(2, fails(download())))
    assert.equal("old", support.read(dir.path .. "/out.jsonl"))
  end)

  it("is taken as it comes where the file object is unknown or tells no size", function()
    for _, reply in ipairs { failure(404), object {}, object { bytes = json.null } } do
      script { [FILE] = reply, [CONTENT] = { body = BODY } }
      assert.equal(#BODY, assert(download()))
    end
  end)

  it("is not begun when the file object cannot be had for another reason", function()
    script { [FILE] = failure(401), [CONTENT] = { body = BODY } }
    assert.equal("AUTH", select(2, fails(download())))
    assert.same({ FILE }, asked())
  end)

  it("onto a disk that cannot take it is not repeated", function()
    local api <close> = new_api()
    script { [FILE] = object { bytes = #BODY }, [CONTENT] = { body = BODY } }
    assert.equal("ENOENT", select(2, fails(api:download("f", dir.path .. "/nowhere/out.jsonl"))))
    assert.same({ { FILE, CONTENT }, {} }, { asked(), clock.waits })
  end)
end)

describe("cancelling and deleting", function()
  local CANCEL = "POST /v1/batches/b/cancel"

  it("ask once, with an empty body", function()
    local api <close> = new_api()
    script { [CANCEL] = object { id = "b", status = "cancelling" }, ["DELETE /v1/files/f"] = object { deleted = true } }
    assert.equal("cancelling", assert(api:cancel_batch "b").status)
    assert.is_true(assert(api:delete_file "f").deleted)
    assert.equal("", seen()[1].body)
  end)

  it("ask again after a lost reply: cancelling twice does no harm", function()
    local api <close> = new_api()
    script { [CANCEL] = { { drop = true }, failure(503), object { id = "b", status = "cancelling" } } }
    assert.equal("cancelling", assert(api:cancel_batch "b").status)
    assert.same({ CANCEL, CANCEL, CANCEL }, asked())
  end)

  it("of a batch that has ended is a conflict, not a reason to try again", function()
    local api <close> = new_api()
    script { [CANCEL] = failure(409, { message = "Cannot cancel a batch with status 'completed'." }) }
    assert.equal("CONFLICT", select(2, fails(api:cancel_batch "b")))
    assert.same({ CANCEL }, asked())
  end)
end)
