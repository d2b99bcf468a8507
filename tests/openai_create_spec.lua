-- The API layer against tests/scripted_api.py: nothing is ever created twice. A request whose reply was
-- lost is in doubt, and looked for before it is repeated.
local api_server = require "api_server"
local json = require "obatch.json"
local support = require "support"
local tasks = require "obatch.tasks"

local GET, BATCH, clock, log = api_server.GET, api_server.BATCH, api_server.clock, api_server.log
local new_api, script, seen, asked = api_server.new_api, api_server.script, api_server.seen, api_server.asked
local object, failure, page, fails = api_server.object, api_server.failure, api_server.page, api_server.fails
local count = api_server.count

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

describe("creating a batch", function()
  local POST, LIST = "POST /v1/batches", "GET /v1/batches?limit=100"
  local TAG = { obatch_run = "r1", obatch_iteration = "1", obatch_part = "2" }
  local NONE = page(false)
  local CREATED = object { id = "batch_1", status = "validating" }

  local function create(options, in_doubt)
    local api <close> = new_api(options)
    return api:create_batch("file-1", "/v1/responses", TAG, in_doubt)
  end

  --- The list with one batch that has these fields.
  local function listed(fields)
    local batch = { id = "batch_1", status = "validating", input_file_id = "other", metadata = json.null }
    for key, value in pairs(fields) do batch[key] = value end
    local another = { id = "batch_9", status = "completed", input_file_id = "file-9", metadata = { job = "x" } }
    return page(false, another, batch)
  end
  local OURS = listed { metadata = { obatch_run = "r1", obatch_iteration = "1", obatch_part = "2", more = "x" } }

  it("is one POST with the tag, on a connection of its own", function()
    local api <close> = new_api()
    script { [POST] = CREATED, [GET] = BATCH }
    assert(api:batch "b")
    assert.equal("batch_1", assert(api:create_batch("file-1", "/v1/responses", TAG)).id)
    assert(api:batch "b")
    local before, post, after = table.unpack(seen())
    assert.equal('{"completion_window":"24h","endpoint":"/v1/responses","input_file_id":"file-1","metadata":'
      .. '{"obatch_iteration":"1","obatch_part":"2","obatch_run":"r1"}}', post.body)
    assert.equal("application/json", post.headers["content-type"])
    assert.is_nil(post.headers["idempotency-key"])
    assert.not_equal(before.connection, post.connection)
    assert.not_equal(after.connection, post.connection)
  end)

  for name, reply in pairs {
    ["a lost reply"] = { drop = true }, ["a cut reply"] = { body = CREATED.body, cut = 8 },
    ["status 500"] = failure(500), ["status 502 with HTML"] = { status = 502, body = "<html>" },
    ["status 503"] = failure(503), ["status 408"] = failure(408), ["status 409"] = failure(409),
    ["a reply that is no JSON"] = { body = "created!" }, ["a reply without an id"] = { body = '{"object":"batch"}' },
    ["a reply with an empty id"] = { body = '{"id":""}' }, ["an empty reply"] = { body = "" },
  } do
    it("is in doubt after " .. name .. ": found by its tag, it is not created again", function()
      script { [POST] = { reply }, [LIST] = OURS }
      assert.equal("batch_1", assert(create()).id)
      assert.same({ POST, LIST }, asked())
      assert.matches("may have been created already", log[2], 1, true)
      assert.matches("it had been created", log[3], 1, true)
    end)

    it("is in doubt after " .. name .. ": not found, it is created once more", function()
      script { [POST] = { reply, CREATED }, [LIST] = NONE }
      assert.equal("batch_1", assert(create()).id)
      assert.equal(2, count(POST))
      local order = asked()
      assert.same({ POST, LIST, POST }, { order[1], order[2], order[#order] })
    end)
  end

  it("finds a batch whose tag the service dropped by its input file", function()
    for _, metadata in ipairs { json.null, {}, { obatch_run = "r1" }, "odd" } do
      script { [POST] = { failure(500) }, [LIST] = listed { input_file_id = "file-1", metadata = metadata } }
      assert.equal("batch_1", assert(create()).id)
      assert.equal(1, count(POST))
    end
  end)

  it("finds it on a later page", function()
    script { [POST] = { failure(500) }, [LIST] = page(true, { id = "batch_7" }), [LIST .. "&after=batch_7"] = OURS }
    assert.equal("batch_1", assert(create()).id)
    assert.equal(1, count(POST))
  end)

  it("finds it when the listing is late", function()
    script { [POST] = { { drop = true } }, [LIST] = { NONE, NONE, NONE, OURS } }
    assert.equal("batch_1", assert(create()).id)
    assert.same({ POST, LIST, LIST, LIST, LIST }, asked())
  end)

  it("looks until settle_seconds have passed before it creates once more", function()
    for _, seconds in ipairs { 15, 40, 0 } do
      clock.now, clock.waits = 1000, {}
      script { [POST] = { { drop = true }, CREATED }, [LIST] = NONE }
      assert.equal("batch_1", assert(create { settle_seconds = seconds }).id)
      local backing_off = table.remove(clock.waits, 1)
      assert.equal(0.5, backing_off)
      assert.equal(1000 + backing_off + seconds, clock.now)
      assert.equal(#clock.waits + 1, count(LIST))
    end
  end)

  it("takes no other batch for its own", function()
    for _, fields in ipairs {
      { status = "failed", input_file_id = "file-1", metadata = TAG },
      { metadata = { obatch_run = "r1", obatch_iteration = "1", obatch_part = "3" } },
      { metadata = { obatch_run = "r2", obatch_iteration = "1", obatch_part = "2" } },
      { metadata = { obatch_run = "r1" } },
      { status = "Failed", input_file_id = "file-1" },
      { id = json.null, input_file_id = "file-1" }, { id = "", metadata = TAG },
      -- Another part has been created from this very file.
      { input_file_id = "file-1", metadata = { obatch_run = "r1", obatch_iteration = "1", obatch_part = "3" } },
    } do
      script { [POST] = { failure(500), object { id = "batch_2" } }, [LIST] = listed(fields) }
      assert.equal("batch_2", assert(create()).id)
    end
  end)

  it("takes no batch for the new one that it has created before: a listing may be late with its failure", function()
    local api <close> = new_api()
    local late = listed { input_file_id = "file-1", metadata = TAG }
    script { [POST] = { CREATED, { drop = true }, object { id = "batch_2" } }, [LIST] = late }
    assert.equal("batch_1", assert(api:create_batch("file-1", "/v1/responses", TAG)).id)
    assert.equal("batch_2", assert(api:create_batch("file-1", "/v1/responses", TAG)).id)
    api.known.batch_3 = true -- what a caller knows from its journal
    late = listed { id = "batch_3", metadata = TAG }
    script { [POST] = { { drop = true }, object { id = "batch_4" } }, [LIST] = late }
    assert.equal("batch_4", assert(api:create_batch("file-1", "/v1/responses", TAG)).id)
  end)

  it("asks for the expiry of its results when told to", function()
    local api <close> = new_api()
    script { [POST] = CREATED }
    assert(api:create_batch("file-1", "/v1/responses", TAG, false, 86400))
    assert.same({ anchor = "created_at", seconds = 86400 }, json.decode(seen()[1].body).output_expires_after)
  end)

  it("says with a failure whether it is certain, and how long the service wants to wait", function()
    local api <close> = new_api()
    local function outcome_of(reply)
      script { [POST] = reply, [LIST] = NONE }
      local _, _, code, certain, wait = api:create_batch("file-1", "/v1/responses", TAG)
      return { code, certain, wait }
    end
    assert.same({ "RATE_LIMIT", true, 3600 }, outcome_of(failure(429, {}, { ["Retry-After"] = "3600" })))
    assert.same({ "SERVER", false, 900 }, outcome_of(failure(503, {}, { ["Retry-After"] = "900" })))
    assert.same({ "REFUSED", true, nil }, outcome_of(failure(400)))
    assert.same({ "RATE_LIMIT", true, nil }, outcome_of(failure(429, {}, { ["Retry-After"] = "1e999" })))
  end)

  it("is not in doubt after a definite refusal", function()
    for status, code in pairs { [400] = "REFUSED", [401] = "AUTH", [403] = "AUTH", [404] = "NOT_FOUND",
      [413] = "REFUSED", [422] = "REFUSED" } do
      script { [POST] = failure(status), [LIST] = OURS }
      assert.equal(code, select(2, fails(create())))
      assert.same({ POST }, asked())
    end
    assert.same({}, clock.waits)
  end)

  it("is tried again without a doubt when it came too fast", function()
    script { [POST] = { failure(429, { code = "rate_limit_exceeded" }, { ["Retry-After"] = "3" }), CREATED } }
    assert.equal("batch_1", assert(create()).id)
    assert.same({ POST, POST }, asked())
    assert.same({ 3 }, clock.waits)
  end)

  it("is not tried again when the account cannot pay", function()
    script { [POST] = failure(429, { code = "insufficient_quota" }) }
    assert.equal("QUOTA", select(2, fails(create())))
    assert.same({ POST }, asked())
  end)

  it("tells a file that is not visible yet from other refusals", function()
    local words = "Cannot find file file-1, or project p does not have access to it."
    for _, reply in ipairs { failure(400, { param = "file_id" }), failure(400, { message = words }),
      failure(404, { param = "file_id" }), failure(404, { message = words }), failure(400, { code = "file_not_found" }),
      failure(404, { param = "input_file_id" }), failure(404, { message = "No such File object: file-1" }),
      failure(404, { message = "The file 'file-1' does not exist" }) } do
      script { [POST] = reply, [LIST] = OURS }
      assert.equal("NO_FILE", select(2, fails(create())))
      assert.same({ POST }, asked())
    end
    for _, reply in ipairs { failure(400, { param = "input_file_id", code = "invalid_value" }),
      failure(404, { message = "The URL does not exist" }), failure(400, { message = "file-1 holds no request" }) } do
      script { [POST] = reply }
      assert.not_equal("NO_FILE", select(2, fails(create())))
    end
    local api <close> = new_api()
    script { [GET] = failure(400, { param = "file_id" }) }
    assert.equal("REFUSED", select(2, fails(api:batch "b")))
  end)

  it("is not in doubt when the request was never sent", function()
    assert.equal("CONNECT", select(2, fails(create { base_url = "http://127.0.0.1:1/v1" })))
    assert.is_true(#log > 20)
    for _, line in ipairs(log) do assert.is_nil(line:find("looking for it", 1, true)) end
  end)

  for code, doubt in pairs { DNS = false, CONNECT = false, TLS = false, URL = false, ENOENT = false, TIMEOUT = true,
    CLOSED = true, PROTOCOL = true, REDIRECT = true, TOO_BIG = true, ENOMEM = true } do
    it(("is %s doubt after %s"):format(doubt and "in" or "without a", code), function()
      local request, posts = tasks.request, 0
      finally(function() tasks.request = request end)
      tasks.request = function(client, call)
        if call.method ~= "POST" then return request(client, call) end
        posts = posts + 1
        return nil, "a fault", code
      end
      script { [LIST] = OURS }
      local batch, message, got = create()
      if doubt then
        assert.same({ "batch_1", 1 }, { batch.id, posts })
      else
        assert.equal(code, select(2, fails(batch, message, got)))
        assert.equal(0, count(LIST))
        assert.equal(code == "DNS" or code == "CONNECT", posts > 1)
      end
    end)
  end

  it("after a crash is looked for first", function()
    script { [LIST] = OURS }
    assert.equal("batch_1", assert(create({}, true)).id)
    assert.same({ LIST }, asked())
    script { [POST] = CREATED, [LIST] = NONE }
    assert.equal("batch_1", assert(create({}, true)).id)
    assert.is_true(count(LIST) > 1)
    assert.equal(1, count(POST))
    assert.equal(1015, clock.now)
  end)

  it("is never repeated while the doubt cannot be settled", function()
    for code, reply in pairs { AUTH = failure(401), PROTOCOL = { body = "{}" }, SERVER = failure(503) } do
      clock.now = 1000
      script { [POST] = failure(500), [LIST] = reply }
      assert.equal(code, select(2, fails(create())))
      assert.equal(1, count(POST))
    end
  end)

  it("is settled and not repeated when the service forbids to try again", function()
    local forbidden = failure(503, {}, { ["x-should-retry"] = "false" })
    script { [POST] = forbidden, [LIST] = NONE }
    assert.equal("SERVER", select(2, fails(create())))
    assert.equal(1, count(POST))
    script { [POST] = forbidden, [LIST] = OURS }
    assert.equal("batch_1", assert(create()).id)
  end)

  it("settles every single doubt, and gives up after ten minutes", function()
    script { [POST] = failure(500), [LIST] = NONE }
    assert.equal("SERVER", select(2, fails(create())))
    assert.is_true(clock.now - 1000 <= 600 + 15)
    local last
    for _, each in ipairs(asked()) do
      assert.is_false(each == POST and last == POST)
      last = each
    end
    assert.is_true(count(POST) > 3)
  end)

  it("looks once more for what the last try may have created, before it gives up", function()
    local api <close> = new_api()
    api.patience = 0
    script { [POST] = { { drop = true } }, [LIST] = { NONE, OURS } }
    assert.equal("batch_1", assert(api:create_batch("file-1", "/v1/responses", TAG)).id)
    assert.same({ POST, LIST, LIST }, asked())
    for _, reply in ipairs { NONE, failure(503) } do
      script { [POST] = failure(502), [LIST] = reply }
      local _, _, code, certain = api:create_batch("file-1", "/v1/responses", TAG)
      assert.same({ "SERVER", false, 1 }, { code, certain, count(POST) })
      if reply ~= NONE then assert.same({ POST, LIST }, asked()) end
    end
  end)

  it("ends in the middle of a doubt when the program is interrupted", function()
    script { [POST] = failure(500), [LIST] = NONE }
    local naps = 0
    tasks.sleep = function()
      naps = naps + 1
      if naps == 2 then return nil, "interrupted", "INTERRUPTED" end
      return true
    end
    assert.equal("INTERRUPTED", select(2, fails(create())))
    assert.same({ POST, LIST }, asked())
  end)
end)

describe("uploading", function()
  local POST, LIST = "POST /v1/files", "GET /v1/files?purpose=batch&limit=1000"
  local NAME = "run-1-1-abc.jsonl"

  local function upload(in_doubt)
    local api <close> = new_api()
    support.write(dir.path .. "/requests.jsonl", '{"a":1}\n')
    return api:upload(dir.path .. "/requests.jsonl", NAME, in_doubt)
  end

  local function listed(fields)
    local file = { id = "file-1", filename = NAME, bytes = 8, status = "processed" }
    for key, value in pairs(fields or {}) do file[key] = value end
    return page(false, { id = "file-0", filename = "other.jsonl", bytes = 8 }, file)
  end

  it("is one form with the purpose before the file, on a connection of its own", function()
    local api <close> = new_api()
    support.write(dir.path .. "/requests.jsonl", '{"a":1}\n')
    script { [POST] = object { id = "file-1", bytes = 8 }, [GET] = BATCH }
    assert(api:batch "b")
    assert.equal("file-1", assert(api:upload(dir.path .. "/requests.jsonl", NAME)).id)
    local before, post = table.unpack(seen())
    assert.not_equal(before.connection, post.connection)
    assert.matches("^multipart/form%-data; boundary=", post.headers["content-type"])
    assert.matches('name="purpose"\r\n\r\nbatch\r\n.*name="file"; filename="run%-1%-1%-abc%.jsonl"\r\n'
      .. 'Content%-Type: application/jsonl\r\n\r\n{"a":1}\n\r\n', post.body)
  end)

  it("is in doubt when the reply is lost: found by name and size, it is not repeated", function()
    for _, status in ipairs { "processed", "uploaded", json.null } do
      script { [POST] = { { drop = true } }, [LIST] = { page(false), listed { status = status } } }
      assert.equal("file-1", assert(upload()).id)
      assert.same({ POST, LIST, LIST }, asked())
    end
  end)

  it("is in doubt after 5xx, and repeated when nothing of that name and size is there", function()
    for _, fields in ipairs { { filename = "run-1-1-abd.jsonl" }, { bytes = 7 }, { status = "error" },
      { status = "Error" }, { status = "deleted" }, { status = "expired" }, { deleted = true }, { expires_at = 1000 },
      { id = json.null } } do
      script { [POST] = { failure(502), object { id = "file-2" } }, [LIST] = listed(fields) }
      assert.equal("file-2", assert(upload()).id)
      assert.equal(2, count(POST))
    end
  end)

  it("finds a file that has not expired, and none that it has uploaded before", function()
    local api <close> = new_api()
    support.write(dir.path .. "/requests.jsonl", '{"a":1}\n')
    script { [POST] = { { drop = true }, { drop = true }, object { id = "file-2" } },
      [LIST] = listed { expires_at = os.time() + 3600 } }
    assert.equal("file-1", assert(api:upload(dir.path .. "/requests.jsonl", NAME)).id)
    assert.equal("file-2", assert(api:upload(dir.path .. "/requests.jsonl", NAME)).id)
  end)

  it("that finds no room is told from everything else, and certain", function()
    local full = "the storage limit of the project is exceeded"
    for code, replies in pairs {
      STORAGE = {
        failure(400, { message = "You have exceeded your file STORAGE quota." }), failure(413, { message = full }),
        failure(429, { code = "storage_limit_exceeded" }), failure(507, { message = "Storage is full" }),
        failure(403, { code = "project_storage_quota_exceeded", type = "insufficient_quota" }),
        failure(429, { type = "insufficient_quota", message = full }),
      },
      QUOTA = { failure(429, { code = "insufficient_quota", message = full }) },
      RATE_LIMIT = { failure(429, { code = "rate_limit_exceeded", message = full }),
        failure(429, { message = "storage limit, slow down" }, { ["Retry-After"] = "3600" }), failure(429) },
      REFUSED = { failure(413, { message = "too large" }), failure(400, { message = "no such storage" }) },
      AUTH = { failure(401, { message = full }) },
    } do
      for _, reply in ipairs(replies) do
        local api <close> = new_api()
        support.write(dir.path .. "/requests.jsonl", '{"a":1}\n')
        script { [POST] = reply }
        local _, message, got, certain = api:upload(dir.path .. "/requests.jsonl", NAME)
        assert.same({ code, true }, { got, certain }, message)
        assert.equal(code == "STORAGE", message:find("--delete-remote-files", 1, true) ~= nil)
        assert.equal(0, count(LIST))
      end
    end
    local api <close> = new_api()
    script { [GET] = failure(400, { message = full }) }
    assert.equal("REFUSED", select(2, fails(api:batch "b")))
  end)

  it("waits minutes for the answer to what was sent", function()
    local api <close> = new_api()
    support.write(dir.path .. "/requests.jsonl", '{"a":1}\n')
    local request, waits = tasks.request, {}
    finally(function() tasks.request = request end)
    tasks.request = function(client, call)
      waits[call.method] = call.answer_timeout or "the stall timeout"
      return request(client, call)
    end
    script { [POST] = object { id = "file-1" }, [GET] = BATCH }
    assert(api:upload(dir.path .. "/requests.jsonl", NAME))
    assert(api:batch "b")
    assert.same({ POST = 600, GET = "the stall timeout" }, waits)
    for patience, timeout in pairs { [0] = 60, [100] = 100, [3600] = 600 } do
      api.patience = patience
      script { [POST] = object { id = "file-1" } }
      assert(api:upload(dir.path .. "/requests.jsonl", NAME))
      assert.equal(timeout, waits.POST)
    end
  end)

  it("after a crash is looked for first", function()
    script { [LIST] = listed() }
    assert.equal("file-1", assert(upload(true)).id)
    assert.same({ LIST }, asked())
  end)

  it("is not in doubt after a definite refusal", function()
    script { [POST] = failure(400, { message = "Invalid file format" }), [LIST] = listed() }
    local message, code = fails(upload())
    assert.equal("REFUSED", code)
    assert.matches("uploading run-1-1-abc.jsonl: status 400: Invalid file format", message, 1, true)
    assert.same({ POST }, asked())
  end)

  it("of a file that is not there, or cannot be read, sends nothing", function()
    local api <close> = new_api()
    script {}
    assert.equal("ENOENT", select(2, fails(api:upload(dir.path .. "/nowhere", NAME))))
    assert.equal("EISDIR", select(2, fails(api:upload(dir.path, NAME))))
    assert.same({ {}, {} }, { asked(), clock.waits })
  end)
end)
