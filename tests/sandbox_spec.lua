-- The sandbox over HTTP, against the reference: shapes, refusals, lifecycles, restarts.
local answers = require "obatch.sandbox.answers"
local fs = require "obatch.fs"
local json = require "obatch.json"
local sandbox_client = require "sandbox_client"
local support = require "support"

local CHAT = "/v1/chat/completions"
local connect, with, model_file = sandbox_client.connect, sandbox_client.with, sandbox_client.model_file
local line, lines = sandbox_client.line, sandbox_client.lines
local count, counts, ledger = sandbox_client.count, sandbox_client.counts, sandbox_client.ledger

describe("the shapes of answers", function()
  local request = { custom_id = "a", url = CHAT, body = { model = "m", messages = json.array {} } }

  local function shaped(url, answer)
    local result = answers.line({ custom_id = "a", url = url, body = { model = "m", input = "text" } }, answer, 7)
    local decoded = json.decode(result.text)
    return decoded.response ~= json.null and decoded.response.body, decoded, result
  end

  it("keeps content null, refusals and finish reasons as chat has them", function()
    local result = answers.line(request, { refusal = "no", finish_reason = "stop" }, 7)
    local choice = json.decode(result.text).response.body.choices[1]
    assert.equal(json.null, choice.message.content)
    assert.equal("no", choice.message.refusal)
    choice = json.decode(answers.line(request, { content = "", incomplete = "max_output_tokens" }, 7).text)
      .response.body.choices[1]
    assert.equal("length", choice.finish_reason)
    choice = json.decode(answers.line(request, { content = json.array { { type = "text", text = "x" } } }, 7).text)
      .response.body.choices[1]
    assert.equal("x", choice.message.content[1].text)
  end)

  it("puts a responses answer behind its reasoning item", function()
    local body = shaped("/v1/responses", { content = "hello", reasoning_tokens = 30 })
    assert.equal("reasoning", body.output[1].type)
    assert.equal("hello", body.output[2].content[1].text)
    assert.equal("output_text", body.output[2].content[1].type)
    assert.equal(30, body.usage.output_tokens_details.reasoning_tokens)
    assert.is_nil(body.output_text)
  end)

  it("has incomplete and failed responses with status 200", function()
    local body, decoded = shaped("/v1/responses", { finish_reason = "length" })
    assert.equal("incomplete", body.status)
    assert.equal("max_output_tokens", body.incomplete_details.reason)
    assert.equal(200, decoded.response.status_code)
    body, decoded = shaped("/v1/responses", { failed = { code = "server_error", message = "x" } })
    assert.equal("failed", body.status)
    assert.equal("server_error", body.error.code)
    assert.equal(200, decoded.response.status_code)
  end)

  it("gives an embedding for every input, the same each time", function()
    local body = shaped("/v1/embeddings", {})
    local again = shaped("/v1/embeddings", {})
    assert.equal("embedding", body.data[1].object)
    assert.same(body.data, again.data)
  end)

  it("has the three shapes of error lines, and status 0", function()
    local body, decoded, result = shaped(CHAT, { status = 400, body_error = { message = "m", code = "c" } })
    assert.equal("c", body.error.code)
    assert.equal(json.null, decoded.error)
    assert.equal("error", result.to)
    body, decoded, result = shaped(CHAT, { error = { code = "request_timeout", message = "m" } })
    assert.is_false(body)
    assert.equal("request_timeout", decoded.error.code)
    assert.equal("error", result.to)
    body, decoded, result = shaped(CHAT, { status = 0, empty_body = true, to = "output" })
    assert.same({}, body)
    assert.equal(0, decoded.response.status_code)
    assert.equal("output", result.to)
  end)
end)

describe("the API", function()
  local box, client
  setup(function()
    box = support.sandbox { "--batch-seconds", "0.2", "--models", "gpt-test,other" }
    client = connect(box)
  end)
  teardown(function() getmetatable(box).__close(box) end)

  it("wants a bearer, any bearer, and gives every reply an id", function()
    local t, reply = client:call("GET", "/files", { headers = {} })
    assert.equal(401, t.status)
    assert.equal("invalid_request_error", reply.error.type)
    assert.truthy(t.headers["x-request-id"]:find("^req_"))
    assert.equal(401, (client:call("GET", "/files", { headers = { Authorization = "Bearer " } })).status)
    assert.equal(200, (client:call("GET", "/files", { headers = { Authorization = "Bearer x" } })).status)
  end)

  it("serves /files as well as /v1/files, and nothing it does not know", function()
    local t = assert(client.http:request {
      url = box.url:gsub("/v1$", "") .. "/files", headers = { Authorization = "Bearer x" } })
    assert.equal(200, t.status)
    for _, path in ipairs { "/nope", "/files/a/b", "/batches/x/y", "/" } do
      local t2, reply = client:call("GET", path)
      assert.equal(404, t2.status)
      for _, key in ipairs { "message", "type", "param", "code" } do assert.is_not_nil(reply.error[key]) end
    end
    assert.equal(404, (client:call("POST", "/batches/x")).status)
  end)

  it("refuses what is no text, wherever it stands, and goes on", function()
    local function status(path, form)
      local reply, decoded = client:call(form and "POST" or "GET", path, { form = form })
      return { reply.status, decoded and decoded.error.message }
    end
    local refused = { 400, "The request is not UTF-8 text." }
    local content = { name = "file", value = "{}", filename = "a.jsonl" }
    assert.same(refused, status("/files/%ff"))
    assert.same(refused, status("/files?purpose=%ff"))
    assert.same(refused, status("/files?%ff=1"))
    assert.same(refused, status("/files", { { name = "purpose", value = "\xff" }, content }))
    assert.same(refused, status("/files", { { name = "\xff", value = "x" }, content }))
    content.filename = "\xff.jsonl"
    assert.same(refused, status("/files", { { name = "purpose", value = "batch" }, content }))
    assert.equal(200, (client:call("GET", "/files")).status)
    assert.truthy(support.read(box.dir .. "/requests.jsonl"):find("/v1/files/%FF", 1, true))
  end)

  it("answers an upload with the whole file object", function()
    local id, file = client:upload(lines(1, 1))
    assert.truthy(id:find("^file%-"))
    assert.same({ "batch", "processed", "requests.jsonl", json.null, 2592000 },
      { file.purpose, file.status, file.filename, file.status_details, file.expires_at - file.created_at })
    assert.equal(#line("id-1") + 1, file.bytes)
    local _, again = client:call("GET", "/files/" .. id)
    assert.same(file, again)
    assert.equal(line("id-1") .. "\n", client:content(id))
  end)

  it("refuses bad uploads as the service does", function()
    local _, reply = client:upload(lines(1, 1), "requests.txt")
    assert.equal("Invalid file format for Batch API. Must be .jsonl", reply.error.message)
    assert.equal(reply.error.message, reply.detail.message)
    assert.equal(json.null, reply.error.code)
    for _, content in ipairs { "", "not json\n", "\n" } do
      _, reply = client:upload(content)
      assert.truthy(reply.error.message:find("Invalid file format", 1, true))
    end
    support.write(box.dir .. "/to-upload", line("a") .. "\n")
    local file = { name = "file", file = box.dir .. "/to-upload", filename = "a.jsonl" }
    for _, case in ipairs {
      { { file }, "purpose" },
      { { { name = "purpose", value = "batch" } }, "file" },
      { { { name = "purpose", value = "batch" }, { name = "file", value = "x" } }, "file" },
      { { { name = "purpose", value = "nonsense" }, file }, "purpose" },
      { { { name = "purpose", value = "batch" }, { name = "expires_after[anchor]", value = "created_at" }, file },
        "expires_after.seconds" },
      { { { name = "purpose", value = "batch" }, { name = "expires_after[anchor]", value = "now" },
        { name = "expires_after[seconds]", value = "4000" }, file }, "expires_after.anchor" },
      { { { name = "purpose", value = "batch" }, { name = "expires_after[anchor]", value = "created_at" },
        { name = "expires_after[seconds]", value = "3599" }, file }, "expires_after.seconds" },
    } do
      local t, answer = client:upload_form(case[1])
      assert.equal(400, t.status)
      assert.equal(case[2], answer.error.param)
    end
    assert.equal(400, (client:call("POST", "/files", { json = { purpose = "batch" } })).status)
  end)

  it("pages lists by the last id, in both orders, also after a deletion", function()
    local ids = {}
    for i = 1, 5 do ids[i] = client:upload(lines(i, i), "page.jsonl") end
    local function walk(query)
      local seen, after = {}, nil
      repeat
        local from = after and "&after=" .. after or ""
        local _, page = client:call("GET", "/files?purpose=batch&limit=2" .. query .. from)
        for _, file in ipairs(page.data) do
          if file.filename == "page.jsonl" then seen[#seen + 1] = file.id end
        end
        if #page.data > 0 then
          assert.equal(page.data[1].id, page.first_id)
          assert.equal(page.data[#page.data].id, page.last_id)
        end
        after = page.last_id
      until not page.has_more
      return seen
    end
    assert.same(ids, walk("&order=asc"))
    local down = {}
    for i = 1, 5 do down[i] = ids[6 - i] end
    assert.same(down, walk(""))
    client:call("DELETE", "/files/" .. ids[3])
    local _, page = client:call("GET", "/files?order=asc&limit=1&after=" .. ids[3])
    assert.equal(ids[4], page.data[1].id)
    assert.equal(404, (client:call("GET", "/files?after=file-none")).status)
    for _, query in ipairs { "limit=0", "limit=10001", "limit=x", "order=up" } do
      assert.equal(400, (client:call("GET", "/files?" .. query)).status, query)
    end
    assert.equal(400, (client:call("GET", "/batches?limit=101")).status)
  end)

  it("forgets a deleted file", function()
    local id = client:upload(lines(1, 1))
    local _, reply = client:call("DELETE", "/files/" .. id)
    assert.same({ id = id, object = "file", deleted = true }, reply)
    for _, path in ipairs { "", "/content" } do
      local t, answer = client:call("GET", "/files/" .. id .. path)
      assert.equal(404, t.status)
      assert.equal("No such File object: " .. id, answer.error.message)
      assert.equal("id", answer.error.param)
    end
    assert.is_nil(fs.stat(box.dir .. "/files/" .. id))
  end)

  it("refuses to create a batch at once for what it can see at once", function()
    local long, many = { k = ("x"):rep(513) }, {}
    for i = 1, 17 do many["k" .. i] = "v" end
    for _, case in ipairs {
      { { input_file_id = false }, "missing_required_parameter", "input_file_id" },
      { { endpoint = false }, "missing_required_parameter", "endpoint" },
      { { completion_window = false }, "missing_required_parameter", "completion_window" },
      { { endpoint = "/v1/nope" }, "invalid_value", "endpoint" },
      { { completion_window = "1h" }, "invalid_value", "completion_window" },
      { { metadata = { k = json.array { "v" } } }, "invalid_type", "metadata.k" },
      { { metadata = long }, "string_above_max_length", "metadata.k" },
      { { metadata = many }, "object_above_max_properties", "metadata" },
      { { metadata = { [("k"):rep(65)] = "v" } }, "invalid_value", "metadata" },
      { { output_expires_after = { anchor = "created_at", seconds = 1 } }, "invalid_value",
        "output_expires_after.seconds" },
    } do
      local reply, t = client:create("file-x", case[1])
      assert.equal(400, t.status)
      assert.equal(case[2], reply.error.code)
      assert.equal(case[3], reply.error.param)
    end
    local reply = client:create("file-x", { metadata = { k = json.array {} } })
    assert.equal("Invalid type for 'metadata.k': expected a string, but got an array instead.", reply.error.message)
    assert.equal(400, (client:call("POST", "/batches", { body = "{not json" })).status)
  end)

  it("finds out later that there is no such input file", function()
    local made, t = client:create("file-none")
    assert.equal(200, t.status)
    assert.equal("validating", made.status)
    local batch = client:ended(made.id)
    assert.equal("failed", batch.status)
    local entry = batch.errors.data[1]
    assert.same({ "invalid_request", "file_id", json.null }, { entry.code, entry.param, entry.line })
    assert.truthy(entry.message:find("Cannot find file file-none", 1, true))
  end)

  it("fails the batch whose input is deleted while it is validated", function()
    local file = client:upload(lines(1, 3))
    local made = client:create(file)
    client:call("DELETE", "/files/" .. file)
    local batch = client:ended(made.id)
    assert.equal("failed", batch.status)
    assert.equal("file_id", batch.errors.data[1].param)
  end)

  -- The second line of the file is the bad one.
  for name, case in pairs {
    ["broken JSON"] = { '{"custom_id":"x"', "invalid_json_line", json.null },
    ["a line that is no object"] = { "[1]", "invalid_json_line", json.null },
    ["a blank line"] = { "", "invalid_json_line", json.null },
    ["no custom_id"] = { line("x", { custom_id = false }), "missing_required_parameter", "custom_id" },
    ["null custom_id"] = { line("x", { custom_id = json.null }), "missing_required_parameter", "custom_id" },
    ["no method"] = { line("x", { method = false }), "missing_required_parameter", "method" },
    ["no url"] = { line("x", { url = false }), "missing_required_parameter", "url" },
    ["no body"] = { line("x", { body = false }), "missing_required_parameter", "body" },
    ["a body that is no object"] = { line("x", { body = "text" }), "invalid_request", "body" },
    ["another url"] = { line("x", { url = "/v1/responses" }), "invalid_url", "url" },
    ["another method"] = { line("x", { method = "GET" }), "invalid_request", "method" },
    ["no model"] = { line("x", nil, { model = false }), "invalid_request", "body.model" },
    ["no messages"] = { line("x", nil, { messages = false }), "invalid_request", "body.messages" },
    ["an unknown model"] = { line("x", nil, { model = "gpt-none" }), "model_not_found", "body.model" },
    ["another model"] = { line("x", nil, { model = "other" }), "mismatched_model", "body.model" },
    ["streaming"] = { line("x", nil, { stream = true }), "streaming_unsupported", "body.stream" },
    ["a custom_id again"] = { line("id-1"), "duplicate_custom_id", "custom_id" },
  } do
    it("fails a batch that has " .. name, function()
      local batch = client:run { line("id-1"), case[1], line("id-3") }
      assert.equal("failed", batch.status)
      assert.equal(1, #batch.errors.data)
      local entry = batch.errors.data[1]
      assert.same({ case[2], case[3], 2 }, { entry.code, entry.param, entry.line })
      assert.equal("0 0 0", counts(batch))
      assert.equal(json.null, batch.output_file_id)
      assert.is_number(batch.failed_at)
    end)
  end

  it("names every bad line", function()
    local batch = client:run { line("a"), "{", "[", line("a") }
    local named = {}
    for i, entry in ipairs(batch.errors.data) do named[i] = entry.line end
    assert.same({ 2, 3, 4 }, named)
  end)

  it("accepts messages whose first one has no role, and any number of them", function()
    local batch = client:run { line("a", nil, { messages = json.array {} }) }
    assert.equal("completed", batch.status)
  end)

  it("calls a byte order mark an invalid line 1, after a good upload", function()
    local batch = client:run("\xEF\xBB\xBF" .. line("a") .. "\n")
    assert.same({ "invalid_json_line", 1 }, { batch.errors.data[1].code, batch.errors.data[1].line })
  end)

  it("goes through its statuses, counts nothing while validating, and answers each request once", function()
    local ids = lines(1, 60)
    local made = client:create(assert(client:upload(ids)), { metadata = { tag = "x" } })
    assert.equal("validating", made.status)
    assert.equal(0, made.request_counts.total)
    local batch, seen = client:ended(made.id)
    local order = { validating = 1, in_progress = 2, finalizing = 3, completed = 4 }
    for i = 2, #seen do assert.is_true(order[seen[i]] > order[seen[i - 1]]) end
    assert.equal("completed", batch.status)
    assert.equal("60 60 0", counts(batch))
    for _, name in ipairs { "in_progress_at", "finalizing_at", "completed_at" } do assert.is_number(batch[name]) end
    for _, name in ipairs { "failed_at", "expired_at", "cancelling_at", "cancelled_at", "errors", "error_file_id" } do
      assert.equal(json.null, batch[name])
    end
    assert.same({ tag = "x" }, batch.metadata)
    assert.equal("gpt-test", batch.model)

    local list, by_id = client:results(batch.output_file_id)
    assert.equal(60, #list)
    assert.equal(60, count(by_id))
    local sorted, total = true, 0
    for i, result in ipairs(list) do
      sorted = sorted and result.custom_id == "id-" .. i
      assert.equal("say " .. result.custom_id, result.response.body.choices[1].message.content)
      total = total + result.response.body.usage.total_tokens
    end
    assert.is_false(sorted)
    assert.equal(total, batch.usage.total_tokens)
    local _, file = client:call("GET", "/files/" .. batch.output_file_id)
    assert.equal("batch_output", file.purpose)
    assert.equal("batch_" .. batch.id:sub(7) .. "_output.jsonl", file.filename)
    assert.equal(#client:content(batch.output_file_id), file.bytes)
  end)

  it("answers the other endpoints too", function()
    local body = { model = "gpt-test", input = "hello" }
    for endpoint, path in pairs {
      ["/v1/responses"] = "/response/body/output/0/content/0/text",
      ["/v1/embeddings"] = "/response/body/data/0/embedding/0",
      ["/v1/completions"] = "/response/body/choices/0/text",
      ["/v1/moderations"] = "/response/body/results/0/flagged",
    } do
      local batch = client:run({ line("a", { url = endpoint, body = body }) }, { endpoint = endpoint })
      assert.equal("completed", batch.status, endpoint)
      assert.is_not_nil(json.get(client:content(batch.output_file_id), path), endpoint)
    end
    local batch = client:run({ line("a", { url = "/v1/videos", body = body }) }, { endpoint = "/v1/videos" })
    assert.equal("1 0 1", counts(batch))
  end)

  it("answers a request that is not Unicode text with 400, alone", function()
    local batch = client:run { line("a"), (line("b"):gsub("say b", "\\ud800")) }
    assert.equal("2 1 1", counts(batch))
    local _, by_id = client:results(batch.error_file_id)
    assert.equal(400, by_id.b.response.status_code)
  end)

  it("refuses to cancel what has ended", function()
    local batch = client:run(lines(1, 1))
    local t, reply = client:call("POST", "/batches/" .. batch.id .. "/cancel")
    assert.equal(409, t.status)
    assert.equal("Cannot cancel a batch with status 'completed'.", reply.error.message)
    t, reply = client:call("POST", "/batches/batch_none/cancel")
    assert.equal(404, t.status)
    assert.equal("No batch found with id 'batch_none'.", reply.error.message)
  end)

  it("makes a file of parts, in the order of completion, if they add up", function()
    local text = table.concat(lines(1, 3), "\n") .. "\n"
    local function part(upload, piece)
      support.write(box.dir .. "/to-upload", piece)
      local _, made = client:call("POST", "/uploads/" .. upload .. "/parts",
        { form = { { name = "data", file = box.dir .. "/to-upload", filename = "blob" } } })
      return made.id
    end
    local _, upload = client:call("POST", "/uploads", { json = {
      filename = "a.jsonl", purpose = "batch", bytes = #text, mime_type = "application/jsonl" } })
    assert.equal("pending", upload.status)
    local cut = #line("id-1") + 1 -- so that the first part is a good file of its own
    local second, first = part(upload.id, text:sub(cut + 1)), part(upload.id, text:sub(1, cut))
    local path = "/uploads/" .. upload.id .. "/complete"
    local _, reply = client:call("POST", path, { json = { part_ids = json.array { first } } })
    assert.truthy(reply.error.message:find("was created for " .. #text, 1, true))
    local _, done = client:call("POST", path, { json = { part_ids = json.array { first, second } } })
    assert.equal("completed", done.status, json.encode(done))
    assert.equal(text, client:content(done.file.id))
    assert.equal(400, (client:call("POST", path, { json = { part_ids = json.array { first } } })).status)
  end)
end)

describe("how a batch ends", function()
  it("with no output file when every request failed", function()
    local dir <close> = support.tmpdir()
    local model = model_file(dir, "return { status = 400, body_error = { message = 'no', code = 'c' } }")
    with({ "--model", model }, function(client)
      local batch = client:run(lines(1, 3))
      assert.same({ "completed", json.null, 3 }, { batch.status, batch.output_file_id, batch.request_counts.failed })
      assert.equal(0, batch.usage.total_tokens)
      local _, by_id = client:results(batch.error_file_id)
      assert.equal("c", by_id["id-2"].response.body.error.code)
    end)
  end)

  it("well, when a model writes its line over several", function()
    local dir <close> = support.tmpdir()
    local model = model_file(dir, [[return { raw = '{"custom_id":\n"' .. request.custom_id .. '"\r\n}\n' }]])
    with({ "--model", model }, function(client)
      local list, by_id = client:results(client:run(lines(1, 2)).output_file_id)
      assert.same({ 2, "id-2" }, { #list, by_id["id-2"].custom_id })
    end)
  end)

  it("expired half-way, with lines for what was not run and counts below the total", function()
    with({ "--faults", "batches: expire=0.5" }, function(client, box)
      local batch = client:run(lines(1, 10))
      assert.equal("expired", batch.status)
      assert.equal("10 5 0", counts(batch))
      assert.equal(5, #client:results(batch.output_file_id))
      for _, result in ipairs((client:results(batch.error_file_id))) do
        assert.equal(json.null, result.response)
        assert.equal("batch_expired", result.error.code)
      end
      assert.equal(5, count(ledger(box)))
      local t = client:call("POST", "/batches/" .. batch.id .. "/cancel")
      assert.equal(409, t.status)
    end)
  end)

  it("cancelled, keeping what was done; cancelling twice is allowed", function()
    with({ "--faults", "batches: in_progress=20" }, function(client, box)
      local made = client:create(assert(client:upload(lines(1, 40))))
      client:watch(made.id, function(batch) return batch.request_counts.completed >= 2 end)
      local t, batch = client:call("POST", "/batches/" .. made.id .. "/cancel")
      assert.same({ 200, "cancelling" }, { t.status, batch.status })
      batch = client:ended(made.id)
      assert.equal("cancelled", batch.status)
      assert.is_number(batch.cancelling_at)
      local done, undone = #client:results(batch.output_file_id), #client:results(batch.error_file_id)
      assert.equal(40, done + undone)
      assert.equal(done, count(ledger(box)))
      assert.equal(done, batch.request_counts.completed)
      t, batch = client:call("POST", "/batches/" .. made.id .. "/cancel")
      assert.same({ 200, "cancelled" }, { t.status, batch.status })
    end)
  end)

  it("cancelled by itself, without lines for the rest when told so", function()
    with({ "--no-cancelled-lines", "--faults", "batches: cancel=0.25" }, function(client)
      local batch = client:run(lines(1, 8))
      assert.same({ "cancelled", json.null }, { batch.status, batch.error_file_id })
      assert.equal(2, #client:results(batch.output_file_id))
    end)
  end)

  it("cancelled before anything ran, without files", function()
    with({ "--faults", "batches: validating=20" }, function(client)
      local made = client:create(assert(client:upload(lines(1, 4))))
      client:call("POST", "/batches/" .. made.id .. "/cancel")
      local batch = client:ended(made.id)
      assert.same({ "cancelled", json.null, json.null }, { batch.status, batch.output_file_id, batch.error_file_id })
    end)
  end)

  it("well, when its input is deleted while it runs; the bytes go afterwards", function()
    with({ "--faults", "batches: in_progress=0.3" }, function(client, box)
      local file = client:upload(lines(1, 30))
      local made = client:create(file)
      client:watch(made.id, function(batch) return batch.status == "in_progress" end)
      client:call("DELETE", "/files/" .. file)
      local batch = client:ended(made.id)
      assert.equal("30 30 0", counts(batch))
      assert.is_nil(fs.stat(box.dir .. "/files/" .. file))
    end)
  end)

  it("after many looks, when its statuses are long", function()
    with({ "--faults", "batches: in_progress=0.4 finalizing=0.4" }, function(client)
      local _, seen = client:run(lines(1, 2))
      assert.equal("in_progress finalizing completed", table.concat(seen, " "):match("in_progress.*"))
    end)
  end)
end)

describe("a sandbox that is killed", function()
  it("goes on from its folder, pays nothing twice and remembers who was asked", function()
    local dir <close> = support.tmpdir()
    local model = model_file(dir, "return { content = request.custom_id .. ' ' .. asked, reasoning_tokens = 7 }")
    local state = dir.path .. "/state"
    local ids = lines(1, 30)
    local made
    do
      local box <close> = support.sandbox { dir = state, "--model", model, "--batch-seconds", "0.1",
        "--faults", "batches: after=1 in_progress=3" }
      local client = connect(box)
      local first = client:run { ids[1], ids[2] }
      assert.equal("completed", first.status)
      made = client:create(assert(client:upload(ids)))
      client:watch(made.id, function(batch) return batch.request_counts.completed >= 5 end)
      os.execute("kill -9 " .. box.pid)
    end
    local before = count(ledger { dir = state })
    assert.is_true(before >= 2)
    support.write(state .. "/ledger.jsonl", support.read(state .. "/ledger.jsonl") .. '{"asked":1,"cust')

    local box <close> = support.sandbox { dir = state, "--model", model, "--batch-seconds", "0.1" }
    local client = connect(box)
    local batch = client:ended(made.id)
    assert.same({ "completed", 30 }, { batch.status, batch.request_counts.completed })
    local list, by_id = client:results(batch.output_file_id)
    assert.equal(30, #list)
    for i = 1, 30 do
      local id = "id-" .. i
      assert.equal(("%s %d"):format(id, i <= 2 and 2 or 1), by_id[id].response.body.choices[1].message.content)
    end
    assert.equal(7 * 30, batch.usage.output_tokens_details.reasoning_tokens)
    local whole, torn = support.read(state .. "/ledger.jsonl"):gsub('{"asked":1,"cust\n', "")
    assert.equal(1, torn)
    support.write(state .. "/ledger.jsonl", whole)
    local paid = ledger(box)
    assert.same({ 30, 2, 1 }, { count(paid), paid["id-1"], paid["id-3"] })
    local _, listed = client:call("GET", "/files?limit=100")
    local inputs = 0
    for _, file in ipairs(listed.data) do inputs = inputs + (file.purpose == "batch" and 1 or 0) end
    assert.equal(2, inputs)
  end)

  it("counts the tokens of a finished batch once", function()
    local dir <close> = support.tmpdir()
    local made
    do
      local box <close> = support.sandbox { dir = dir.path, "--faults", "batches: finalizing=1" }
      local client = connect(box)
      made = client:create(assert(client:upload(lines(1, 3))))
      client:watch(made.id, function(batch) return batch.status == "finalizing" end)
      os.execute("kill -9 " .. box.pid)
    end
    local box <close> = support.sandbox { dir = dir.path }
    local client = connect(box)
    local batch = client:ended(made.id)
    local total = 0
    for _, result in ipairs((client:results(batch.output_file_id))) do
      total = total + result.response.body.usage.total_tokens
    end
    assert.equal("3 3 0", counts(batch))
    assert.equal(total, batch.usage.total_tokens)
  end)

  it("is the only one in its folder, and at its port", function()
    local box <close> = support.sandbox {}
    local code, _, complaint = support.obatch("sandbox", "--port", "0", "--dir", box.dir)
    assert.equal(1, code)
    assert.truthy(complaint:find("held by pid", 1, true))
    code, _, complaint = support.obatch("sandbox", "--port", tostring(box.port))
    assert.equal(1, code)
    assert.truthy(complaint:find("in use: take another --port (0: a free one)", 1, true))
  end)
end)

describe("the models that come along", function()
  local function model(name) return assert(loadfile(("%s/scripts/models/%s.lua"):format(support.home, name)))() end

  it("echo the last text, as JSON when JSON is asked for", function()
    local echo = model("echo")
    local parts = json.array { { type = "text", text = "hi" }, { type = "image_url", image_url = { url = "data:x" } } }
    local messages = json.array { { role = "system", content = "be" }, { role = "user", content = parts } }
    assert.equal("hi", echo { body = { messages = messages } })
    assert.equal("yo", echo { body = { input = "yo" } })
    assert.equal("", echo { body = { input = json.array { 1, 2 } } })
    assert.equal("yo", echo { body = { input = json.array { { role = "user", content = "yo" } } } })
    assert.equal('{"echo":"hi"}',
      echo { body = { messages = messages, response_format = { type = "json_object" } } })
  end)

  it("have in demo every habit once in twenty, and two that never answer well", function()
    local demo = model("demo")
    local never, at_once, later = {}, 0, 0
    for n = 0, 19 do
      local request = { custom_id = ("page-%04d"):format(n), body = { max_completion_tokens = 1000 } }
      local good
      for asked = 1, 4 do
        local answer = demo(request, asked)
        if type(answer) ~= "table" then answer = { content = answer } end
        if answer.finish_reason == "length" then request.body.max_completion_tokens = 2000 end
        local text = (answer.status or 200) == 200 and answer.content
        text = text and (text:match("```json\n(.*)\n```") or text)
        if text and json.check(text) then good = asked break end
      end
      if not good then never[#never + 1] = n
      elseif good == 1 then at_once = at_once + 1
      else later = later + 1 end
    end
    assert.same({ 17, 19 }, never)
    assert.same({ 10, 8 }, { at_once, later })
  end)
end)

describe("the command", function()
  it("refuses wrong usage with exit code 2 and says why", function()
    for _, case in ipairs {
      { { "--faults", "nope: drop" }, "known place" },
      { { "--model", "no-such-model" }, "no%-such%-model" },
      { { "--port", "many" }, "whole number" },
      { { "--null-ids", "never" }, "must be one of" },
    } do
      local code, _, complaint = support.obatch("sandbox", table.unpack(case[1]))
      assert.equal(2, code)
      assert.truthy(complaint:find(case[2]), complaint)
    end
  end)

  it("removes its temporary folder", function()
    local dir <close> = support.tmpdir()
    local _, out = support.shell(("TMPDIR=%s timeout -s INT 2 %s sandbox --port 0"):format(
      support.quote(dir.path), support.quote(support.binary)))
    assert.truthy(out:find("^listening on http://127%.0%.0%.1:%d+\n"))
    assert.same({}, fs.list(dir.path))
  end)
end)
