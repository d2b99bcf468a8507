-- What the sandbox does wrong on purpose: the grammar of the faults, and each of them over HTTP.
local faults = require "obatch.sandbox.faults"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local sandbox_client = require "sandbox_client"
local support = require "support"

local line, lines, with = sandbox_client.line, sandbox_client.lines, sandbox_client.with
local count, counts, ledger = sandbox_client.count, sandbox_client.counts, sandbox_client.ledger

describe("the fault grammar", function()
  local function fired(spec, times)
    local rules = assert(faults.parse(spec))
    local list = {}
    for i = 1, times do list[i] = rules:request("upload").status or 0 end
    return table.concat(list, " ")
  end

  it("counts what reaches a rule, so that rules make a sequence", function()
    assert.equal("500 500 502 0 0", fired("upload: status=500 first=2; upload: status=502 first=1", 5))
    assert.equal("0 0 503 503 0", fired("upload: status=503 after=2 first=2", 5))
    assert.equal("0 500 0 500 0 0", fired("upload: status=500 every=2 first=2", 6))
    assert.equal("0 0", fired("upload: status=500 chance=0", 2))
    assert.equal("500 500", fired("upload: status=500 chance=1", 2))
    assert.equal("500", fired("*: status=500", 1))
    assert.equal("0", fired("content: status=500", 1))
  end)

  it("lets a rule fire as long as there is a file", function()
    local dir <close> = support.tmpdir()
    local rules = assert(faults.parse(("upload: status=500 while=%s/on first=2"):format(dir.path)))
    local function status() return rules:request("upload").status end
    assert.is_nil(status())
    support.write(dir.path .. "/on", "")
    assert.equal(500, status())
    os.remove(dir.path .. "/on")
    assert.is_nil(status())
    support.write(dir.path .. "/on", "")
    assert.same({ 500 }, { status(), status() }) -- what passed did not count
  end)

  it("names what it does not understand", function()
    for spec, complaint in pairs {
      ["uploads: status=500"] = "known place",
      ["no colon"] = "known place",
      ["upload: explode"] = 'no word "explode"',
      ["upload: status=many"] = "status",
      ["upload: status=0"] = "status",
      ["upload: drop=1"] = "flag",
      ["batches: expire=2"] = "share",
      ["results: to=elsewhere"] = "output or error",
      ["limits: tokens=5 first=1"] = 'no word "first"',
      ["file: count=some"] = "offset",
      ["content: etag=strong"] = "weak or changing or none",
    } do
      local rules, message = faults.parse(spec)
      assert.is_nil(rules, spec)
      assert.truthy(message:find(complaint, 1, true), message)
    end
  end)

  it("documents every place and word it accepts", function()
    for _, name in ipairs { "should-retry", "metadata", "unlisted", "truncated", "tokens=N", "hidden=S", "while=FILE",
      "longer=BYTES", "count=BYTES", "etag=weak", "range=wrong", "long=BYTES", "taken=M", "creations=N", "per=S",
      "storage=BYTES" } do
      assert.truthy(faults.help:find(name, 1, true), name)
    end
  end)
end)

describe("faults on endpoints", function()
  it("answer with statuses, headers and bodies of their own", function()
    with({ "--faults", [[
      list_files: status=429 retry-after=3 first=1
      list_files: status=429 retry-after-ms=1.5 should-retry=false first=1
      list_files: quota first=1
      list_files: quota code=credit_balance_exhausted first=1
      list_files: status=502 body=html first=1
      list_files: status=504 body=empty first=1
      list_files: status=500 first=1]] }, function(client)
      local t, reply = client:call("GET", "/files")
      assert.same({ 429, "3", "rate_limit_exceeded" }, { t.status, t.headers["retry-after"], reply.error.code })
      t = client:call("GET", "/files")
      assert.same({ 429, "1.5", "false" }, { t.status, t.headers["retry-after-ms"], t.headers["x-should-retry"] })
      t, reply = client:call("GET", "/files")
      assert.same({ 429, "insufficient_quota", "insufficient_quota" }, { t.status, reply.error.type, reply.error.code })
      t, reply = client:call("GET", "/files")
      assert.same({ 429, "insufficient_quota" }, { t.status, reply.error.type })
      assert.equal("credit_balance_exhausted", reply.error.code)
      t = client:call("GET", "/files")
      assert.equal(502, t.status)
      assert.truthy(t.body:find("^<html>"))
      t = client:call("GET", "/files")
      assert.same({ 504, "" }, { t.status, t.body })
      t, reply = client:call("GET", "/files")
      assert.same({ 500, "server_error" }, { t.status, reply.error.type })
      assert.equal(200, (client:call("GET", "/files")).status)
    end)
  end)

  it("lose a request before, or only its answer after it was carried out", function()
    with({ "--faults", [[
      create_batch: drop first=1; create_batch: drop late first=1; create_batch: status=500 late first=1]],
    }, function(client, box)
      local file = client:upload(lines(1, 1))
      local function batches_listed() return #select(2, client:call("GET", "/batches")).data end
      local _, t = client:create(file)
      assert.equal("CLOSED", t.code)
      assert.equal(0, batches_listed())
      _, t = client:create(file)
      assert.equal("CLOSED", t.code)
      assert.equal(1, batches_listed())
      _, t = client:create(file)
      assert.equal(500, t.status)
      assert.equal(2, batches_listed())
      local log = support.read(box.dir .. "/requests.jsonl")
      assert.truthy(log:find('"fault":"drop late","method":"POST","path":"/v1/batches","status":0', 1, true))
    end)
  end)

  it("cut and slow down a download that promised its whole length", function()
    with({ "--faults", "content: cut=50 first=1; content: rate=100000 delay=0.05 first=1" }, function(client)
      local file = client:upload(lines(1, 50))
      local t = client:call("GET", "/files/" .. file .. "/content")
      assert.equal("CLOSED", t.code)
      assert.equal(table.concat(lines(1, 50), "\n") .. "\n", client:content(file))
    end)
  end)

  it("answer with less or more than there is, in good HTTP", function()
    with({ "--faults", [[
      file: truncate=9 first=1; file: longer=2 first=1; file: truncate=0 first=1; file: status=200 body=html first=1
      file: count=-3 first=1
      content: truncate=9 first=1; content: longer=2 first=1; content: status=200 body=empty first=1]] },
      function(client)
        local text = table.concat(lines(1, 2), "\n") .. "\n"
        local id = client:upload(text)
        local function get(path)
          local t = client:call("GET", "/files/" .. id .. path)
          assert.same({ 200 }, { t.status, t.code })
          assert.equal(#t.body, tonumber(t.headers["content-length"]))
          return t.body
        end
        local cut, long, empty, html, less, whole = get "", get "", get "", get "", get "", get ""
        assert.equal(whole:sub(1, 9), cut)
        assert.equal(whole .. "xx", long)
        assert.equal("", empty)
        assert.truthy(html:find("^<html>"))
        assert.same({ #text - 3, #text }, { json.get(less, "/bytes"), json.get(whole, "/bytes") })
        assert.equal(text:sub(1, 9), get "/content")
        assert.equal(text .. "xx", get "/content")
        assert.equal("", get "/content")
        assert.equal(text, get "/content")
      end)
  end)

  it("give parts of a content that nothing proves to be of one piece", function()
    with({ "--range", "--faults", [[
      content: etag=weak first=2; content: etag=changing first=2; content: etag=none first=1
      content: range=wrong first=1]] }, function(client)
      local text = table.concat(lines(1, 2), "\n") .. "\n"
      local path = "/files/" .. client:upload(text) .. "/content"
      local function get(headers)
        headers.Authorization = "Bearer x"
        return (client:call("GET", path, { headers = headers }))
      end
      local weak = get({}).headers.etag
      assert.truthy(weak:find('^W/"'))
      assert.equal(200, get({ Range = "bytes=5-", ["If-Range"] = weak }).status)
      local first = get({}).headers.etag
      local t = get { Range = "bytes=5-", ["If-Range"] = first }
      assert.equal(200, t.status)
      assert.is_not_equal(first, t.headers.etag)
      assert.is_nil(get({}).headers.etag)
      t = get { Range = "bytes=5-" }
      assert.same({ 206, text:sub(5), ("bytes 4-%d/%d"):format(#text - 1, #text) },
        { t.status, t.body, t.headers["content-range"] })
      assert.equal(text:sub(6), get({ Range = "bytes=5-" }).body)
    end)
  end)

  it("stall without holding up the others", function()
    with({ "--faults", "file: stall first=1" }, function(client)
      local file = client:upload(lines(1, 1))
      local hung = assert(client.http:start {
        url = client.url .. "/files/" .. file, headers = { Authorization = "Bearer x" }, timeout = 0.5 })
      assert.equal(200, (client:call("GET", "/files/" .. file)).status)
      assert.equal(hung, client.http:wait(5))
      assert.equal("TIMEOUT", hung.code)
    end)
  end)

  it("give content in ranges only when told so", function()
    with({ "--range" }, function(client)
      local text = table.concat(lines(1, 5), "\n") .. "\n"
      local path = "/files/" .. client:upload(text) .. "/content"
      local function get(headers)
        headers.Authorization = "Bearer x"
        return (client:call("GET", path, { headers = headers }))
      end
      local whole = get {}
      assert.same({ 200, "bytes", text }, { whole.status, whole.headers["accept-ranges"], whole.body })
      local t = get { Range = "bytes=10-19", ["If-Range"] = whole.headers.etag }
      assert.same({ 206, text:sub(11, 20) }, { t.status, t.body })
      assert.equal(("bytes 10-19/%d"):format(#text), t.headers["content-range"])
      assert.equal(text:sub(11), get { Range = "bytes=10-" }.body)
      assert.equal(text:sub(-7), get { Range = "bytes=-7" }.body)
      assert.equal(416, get { Range = "bytes=99999-" }.status)
      assert.equal(200, get { Range = "bytes=10-19", ["If-Range"] = '"other"' }.status)
    end)
    with({}, function(client)
      local t = client:call("GET", "/files/" .. client:upload(lines(1, 1)) .. "/content",
        { headers = { Authorization = "Bearer x", Range = "bytes=1-2" } })
      assert.same({ 200, nil }, { t.status, t.headers["accept-ranges"] })
    end)
  end)
end)

describe("faults on results", function()
  it("lose, double, damage and invent lines, and put errors where none belong", function()
    with({ "--faults", [[
      batches: ordered
      results: missing id=id-1
      results: duplicate id=id-2
      results: garbage id=id-3
      results: unknown id=id-4
      results: no-id id=id-5
      results: status=500 to=output id=id-6
      results: status=0 to=output id=id-7
      results: error=request_timeout id=id-8
      results: status=429 body=empty id=id-9
      results: status=503 asked=1 id=id-10 ]] }, function(client, box)
      local batch = client:run(lines(1, 11))
      local list, by_id = client:results(batch.output_file_id)
      assert.is_nil(by_id["id-1"])
      assert.same({ "id-2", "id-2" }, { list[1].custom_id, list[2].custom_id })
      assert.is_string(list[3])
      assert.equal("id-4", list[4].custom_id)
      assert.truthy(list[5].custom_id:find("^nobody%-"))
      assert.equal("", list[6].custom_id)
      assert.equal(500, by_id["id-6"].response.status_code)
      assert.equal(0, by_id["id-7"].response.status_code)
      assert.same({}, by_id["id-7"].response.body)
      assert.equal(200, by_id["id-11"].response.status_code)
      local _, failed = client:results(batch.error_file_id)
      assert.equal("request_timeout", failed["id-8"].error.code)
      assert.same({}, failed["id-9"].response.body)
      assert.equal(503, failed["id-10"].response.status_code)
      assert.equal(11, count(ledger(box)))
      local again = client:run { line("id-10") }
      assert.equal("1 1 0", counts(again))
    end)
  end)

  it("put a long line behind the others, which takes no room in the sandbox's folder", function()
    with({ "--faults", "results: long=3000000000 id=id-2; results: long=5 id=id-3" }, function(client, box)
      local batch = client:run(lines(1, 3))
      assert.equal("3 3 0", counts(batch))
      local path = box.dir .. "/files/" .. batch.output_file_id
      local sizes = {}
      for result in assert(jsonl.scan(path, { id = "/custom_id" })) do sizes[#sizes + 1] = result.length end
      assert.same({ 3, 2999999999 }, { #sizes, math.max(table.unpack(sizes)) })
      local _, file = client:call("GET", "/files/" .. batch.output_file_id)
      assert.is_true(file.bytes > 3000000000)
      local _, used = support.shell("du -k " .. support.quote(path))
      assert.is_true(tonumber(used:match("^%d+")) < 1000, used)
    end)
  end)

  it("end the output in the middle of a line", function()
    with({ "--faults", "batches: truncated" }, function(client)
      local batch = client:run(lines(1, 3))
      local text = client:content(batch.output_file_id)
      local _, file = client:call("GET", "/files/" .. batch.output_file_id)
      assert.equal(file.bytes, #text)
      assert.is_not_equal("\n", text:sub(-1))
      assert.is_string((client:results(batch.output_file_id))[3])
    end)
  end)

  it("keep the order of the requests when told so", function()
    with({ "--faults", "batches: ordered" }, function(client)
      local list = client:results(client:run(lines(1, 20)).output_file_id)
      for i, result in ipairs(list) do assert.equal("id-" .. i, result.custom_id) end
    end)
  end)
end)

describe("faults on batches and files", function()
  it("fail validation with any code", function()
    local spec = "batches: fail=strange_code line=2 param=body first=1; batches: no-file first=1"
    with({ "--faults", spec }, function(client)
      local batch = client:run(lines(1, 3))
      local entry = batch.errors.data[1]
      assert.same({ "failed", "strange_code", 2, "body" }, { batch.status, entry.code, entry.line, entry.param })
      batch = client:run(lines(1, 3))
      assert.same({ "failed", "file_id" }, { batch.status, batch.errors.data[1].param })
      assert.equal("completed", client:run(lines(1, 3)).status)
    end)
  end)

  it("hold back a batch until the tokens of others are free", function()
    local tokens = (#line("id-1") + 3) // 4 * 3
    with({ "--faults", "limits: tokens=" .. tokens .. "; batches: in_progress=0.5 first=1" }, function(client)
      local file = client:upload(lines(1, 2))
      local first = client:create(file)
      client:watch(first.id, function(batch) return batch.status == "in_progress" end)
      local batch = client:ended(client:create(file).id)
      assert.same({ "failed", "token_limit_exceeded" }, { batch.status, batch.errors.data[1].code })
      assert.equal("completed", client:ended(first.id).status)
      assert.equal("completed", client:ended(client:create(file).id).status)
    end)
  end)

  it("count requests, bytes and embedding inputs", function()
    with({ "--faults", "limits: requests=2 bytes=2000", "--lax-uploads" }, function(client)
      local function code(content) return client:run(content).errors.data[1].code end
      assert.equal("maximum_requests_exceeded", code(lines(1, 3)))
      assert.equal("maximum_input_file_size_exceeded", code({ line("a", nil, { note = ("x"):rep(2000) }) }))
      assert.equal("empty_file", code(""))
      assert.equal("completed", client:run(lines(1, 2)).status)
    end)
    with({}, function(client)
      local input = {}
      for i = 1, 50001 do input[i] = "a" end
      local batch = client:run({ line("a", { url = "/v1/embeddings" }, { input = json.array(input) }) },
        { endpoint = "/v1/embeddings" })
      assert.equal("maximum_embedding_inputs_exceeded", batch.errors.data[1].code)
    end)
  end)

  it("hide new files and new batches for a while", function()
    with({ "--faults", "files: hidden=1000 first=1; batches: unlisted=1000 first=1" }, function(client)
      local file = client:upload(lines(1, 1))
      assert.equal(404, (client:call("GET", "/files/" .. file)).status)
      assert.equal(0, #select(2, client:call("GET", "/files")).data)
      local batch = client:ended(client:create(file).id)
      assert.same({ "invalid_request", "file_id" }, { batch.errors.data[1].code, batch.errors.data[1].param })
      assert.equal(0, #select(2, client:call("GET", "/batches")).data)
      assert.equal(200, (client:call("GET", "/batches/" .. batch.id)).status)
    end)
  end)

  it("let a file expire", function()
    with({ "--faults", "files: expire=0" }, function(client)
      local file = client:upload(lines(1, 1))
      assert.equal(404, (client:call("GET", "/files/" .. file .. "/content")).status)
    end)
  end)

  it("forget metadata and output file", function()
    with({ "--faults", "batches: no-metadata null-output first=1; batches: empty-ids" }, function(client)
      local batch = client:run(lines(1, 1), { metadata = { a = "b" } })
      assert.same({ "completed", json.null, json.null }, { batch.status, batch.metadata, batch.output_file_id })
      batch = client:run(lines(1, 1), { metadata = { a = "b" } })
      assert.same({ a = "b" }, batch.metadata)
      assert.equal("", batch.error_file_id)
      assert.truthy(batch.output_file_id:find("^file%-"))
    end)
  end)

  it("switch what the service leaves open", function()
    with({ "--null-ids", "absent", "--missing-input", "400", "--blank-lines", "skip", "--max-errors", "2" },
      function(client)
        local reply, t = client:create("file-none")
        assert.same({ 400, "file_id" }, { t.status, reply.error.param })
        local batch = client:run { line("a"), "", line("b") }
        assert.same({ "completed", 2 }, { batch.status, batch.request_counts.total })
        assert.is_nil(batch.error_file_id)
        assert.equal(2, #client:run { line("a"), "{", "{", "{" }.errors.data)
      end)
    with({ "--large-files", "upload", "--faults", "limits: bytes=100" }, function(client)
      local _, reply = client:upload(lines(1, 3))
      assert.equal("File is too large.", reply.error.message)
    end)
  end)
end)

describe("limits of the service", function()
  it("refuse a batch for the tokens that other people's work has enqueued", function()
    local tokens = (#line("id-1") + 3) // 4 * 3
    with({ "--faults", ("limits: tokens=%d taken=%d for=1.5"):format(tokens, tokens - 1) }, function(client)
      local file = client:upload(lines(1, 2))
      local batch = client:ended(client:create(file).id)
      assert.equal("token_limit_exceeded", batch.errors.data[1].code)
      assert.truthy(batch.errors.data[1].message:find("Limit: " .. tokens .. " enqueued", 1, true))
      repeat batch = client:ended(client:create(file).id) until batch.status ~= "failed"
      assert.equal("completed", batch.status)
    end)
  end)

  it("let so many batches be created in a time", function()
    with({ "--faults", "limits: creations=2 per=1000" }, function(client, box)
      local file = client:upload(lines(1, 1))
      assert.equal("batch", client:create(file).object)
      client:create(file, { endpoint = "/v1/nonsense" }) -- refused before it counts
      assert.equal("batch", client:create(file).object)
      local reply, t = client:create(file)
      assert.same({ 429, "rate_limit_exceeded" }, { t.status, reply.error.code })
      local wait = tonumber(t.headers["retry-after"])
      assert.is_true(wait > 900 and wait <= 1000, wait)
      assert.equal(2, #select(2, client:call("GET", "/batches")).data)
      assert.equal(200, (client:call("GET", "/files/" .. file)).status)
      local log = support.read(box.dir .. "/requests.jsonl")
      assert.truthy(log:find('"status":429', 1, true))
    end)
    with({ "--faults", "limits: creations=1 per=0.3" }, function(client)
      local file = client:upload(lines(1, 1))
      client:create(file)
      local created
      repeat created = client:create(file).id until created
    end)
  end)

  it("refuse an upload beyond the storage quota until files are deleted", function()
    local size = #line("id-1") + 1
    with({ "--faults", "limits: storage=" .. 2 * size }, function(client)
      local first = client:upload(lines(1, 1))
      assert.truthy(client:upload(lines(2, 2)))
      local _, reply, t = client:upload(lines(3, 3))
      assert.equal(400, t.status)
      assert.truthy(reply.error.message:find("storage quota", 1, true))
      local _, upload = client:call("POST", "/uploads", { json = {
        filename = "a.jsonl", purpose = "batch", bytes = size, mime_type = "application/jsonl" } })
      local _, part = client:call("POST", "/uploads/" .. upload.id .. "/parts",
        { form = { { name = "data", value = line("id-1") .. "\n", filename = "blob" } } })
      _, reply = client:call("POST", "/uploads/" .. upload.id .. "/complete",
        { json = { part_ids = json.array { part.id } } })
      assert.truthy(reply.error.message:find("storage quota", 1, true))
      client:call("DELETE", "/files/" .. first)
      assert.truthy(client:upload(lines(3, 3)))
    end)
    with({ "--faults", ("limits: storage=%d; files: expire=0 first=1"):format(size) }, function(client)
      client:upload(lines(1, 1)) -- has expired
      assert.truthy(client:upload(lines(1, 1)))
    end)
  end)

  it("keep results for as long as the batch asked", function()
    with({}, function(client)
      local batch = client:run(lines(1, 1), { output_expires_after = { anchor = "created_at", seconds = 7200 } })
      local _, file = client:call("GET", "/files/" .. batch.output_file_id)
      assert.equal(7200, file.expires_at - file.created_at)
    end)
  end)
end)
