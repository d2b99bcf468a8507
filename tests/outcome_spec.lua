-- One result line, one class: the table of outcomes, for both endpoints.
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local support = require "support"

local JSON = { expect = "json" }
local TEXT = { expect = "text" }

--- Judges a result line as the loop does: read by jsonl.scan from a file. It must come to the same where the threads
--- that scan say nothing, so that nothing is cut short, and for a line that is no file's.
local function judge(line, policy)
  local dir <close> = support.tmpdir()
  local text = type(line) == "table" and json.encode(line) or line
  support.write(dir.path .. "/r.jsonl", text .. "\n")
  local results = {}
  for i, scan in ipairs { outcome.scan, jsonl.scan } do
    for record in scan(dir.path .. "/r.jsonl", i == 1 and (policy or JSON) or outcome.FIELDS) do
      assert.is_nil(record.error)
      results[i] = outcome.judge(record, policy or JSON)
    end
  end
  assert.same(results[2], results[1])
  assert.same(results[2], outcome.judge_line(text, policy or JSON))
  return results[1]
end

local function class(line, policy)
  local result = judge(line, policy)
  assert.equal(result.class == "valid", result.reason == nil)
  return result.class, result.reason
end

local function line(status, body, failure)
  return { id = "batch_req_1", custom_id = "page-1", error = failure or json.null,
    response = status and { status_code = status, request_id = "r", body = body } or json.null }
end

--- The line of a chat completion. Fields of `message` replace those of the answer, fields of
--- `choice` those around it.
local function chat(message, choice, usage)
  local whole = { role = "assistant", content = json.null, refusal = json.null }
  for key, value in pairs(type(message) == "table" and not json.is_array(message) and message
    or { content = message }) do whole[key] = value end
  local around = { index = 0, finish_reason = "stop", message = whole }
  for key, value in pairs(choice or {}) do around[key] = value end
  return line(200, { id = "c", object = "chat.completion", choices = json.array { around }, usage = usage })
end

--- The line of a response with these output items; fields of `more` replace those of the body.
local function response(output, more)
  local body = { id = "r", object = "response", status = "completed", error = json.null,
    incomplete_details = json.null, output = json.array(output) }
  for key, value in pairs(more or {}) do body[key] = value end
  return line(200, body)
end

local function message(...)
  local parts = json.array {}
  for i, text in ipairs { ... } do parts[i] = { type = "output_text", text = text } end
  return { type = "message", role = "assistant", content = parts }
end

local REASONING = { type = "reasoning", summary = json.array {},
  content = json.array { { type = "output_text", text = "Let me see." } } }

local function failed(failure)
  return response({}, { status = "failed", error = failure })
end

local function incomplete(reason, ...)
  return response({ REASONING, ... }, { status = "incomplete", incomplete_details = { reason = reason } })
end

describe("an answer is valid", function()
  it("when it is JSON, bare or in a fence, from both endpoints", function()
    for _, answer in ipairs { '{"a":1}', '```json\n{"a":1}\n```', "42" } do
      assert.equal("valid", (class(chat(answer))))
      assert.equal("valid", (class(response { message(answer) })))
    end
  end)

  it("when it is any text, where text is asked for", function()
    assert.equal("valid", (class(chat "page 3, no JSON", TEXT)))
    assert.equal("valid", (class(response { message "page 3, no JSON" }, TEXT)))
  end)

  it("when its parts are JSON together", function()
    local parts = json.array { { type = "text", text = '{"a":' }, { type = "image" }, { type = "text", text = "1}" } }
    assert.equal("valid", (class(chat(parts))))
    assert.equal("valid", (class(response { message('{"a":', "1}") })))
  end)

  it("wherever the message stands among the output items", function()
    local call = { type = "function_call", name = "f", arguments = "{}" }
    assert.equal("valid", (class(response { REASONING, message '{"a":1}', call })))
    assert.equal("valid", (class(response { REASONING, message '{"a":', call, message "1}" })))
  end)

  it("with an empty refusal, as some services send", function()
    assert.equal("valid", (class(chat { content = "{}", refusal = "" })))
  end)

  it("with a finish reason that nobody has heard of", function()
    assert.equal("valid", (class(chat("{}", { finish_reason = "eos" }))))
    assert.equal("valid", (class(chat("{}", { finish_reason = json.null }))))
  end)

  it("with keys of the line in any order, and the last of two", function()
    assert.equal("valid", (class('{"error":null,"response":{"body":{"choices":[{"message":{"content":"{}"}}]},'
      .. '"status_code":200},"custom_id":"a"}')))
    assert.equal("permanent", (class('{"custom_id":"a","error":null,"response":{"status_code":200,"status_code":400,'
      .. '"body":{"choices":[{"message":{"content":"{}"}}]}}}')))
  end)
end)

describe("an answer is invalid", function()
  for name, answer in pairs {
    ["empty"] = chat "", ["blank"] = chat " \n", ["null content"] = chat(json.null),
    ["no parts"] = chat(json.array {}), ["parts without text"] = chat(json.array { { type = "image" }, json.null, 3 }),
    ["no message"] = chat(nil, { message = json.null }), ["no choices"] = line(200, { choices = json.array {} }),
    ["an empty body"] = line(200, {}), ["no body"] = line(200, json.null), ["a body of text"] = line(200, "<html>"),
    ["tool calls only"] = chat({ tool_calls = json.array { { type = "function" } } }, { finish_reason = "tool_calls" }),
    ["an empty response"] = response {}, ["a response that only thought"] = response { REASONING },
    ["a response with an empty message"] = response { message() },
    ["a response with blank text"] = response { message("", " ") },
    ["output that is no list"] = response({}, { output = "text" }),
    ["content that is an object"] = chat { content = { text = "{}" } },
  } do
    it("when there is no text: " .. name, function()
      local got, reason = class(answer)
      assert.same({ "invalid", "the answer holds no text" }, { got, reason })
      assert.equal("invalid", (class(answer, TEXT)))
    end)
  end

  it("when it is not JSON, and the reason says where", function()
    local got, reason = class(chat "I cannot read this.")
    assert.equal("invalid", got)
    assert.matches("^not JSON: .* at byte 1$", reason)
    assert.equal("invalid", (class(response { message "I cannot read this." })))
  end)

  it("when only mending would make it JSON and mending is off", function()
    assert.equal("invalid", (class(chat '{"a":1,}')))
    assert.equal("valid", (class(chat '{"a":1,}', { expect = "json", repair = true })))
  end)

  it("when its text holds half a surrogate pair, whose line is fine otherwise", function()
    for _, spoiled in ipairs {
      '{"custom_id":"a","response":{"status_code":200,"body":{"choices":[{"message":{"content":"\\ud83d"}}]}}}',
      '{"custom_id":"a","response":{"status_code":200,"body":{"status":"completed","output":[{"type":"message",'
        .. '"content":[{"type":"output_text","text":"{} \\udc00"}]}]}}}',
    } do
      for _, policy in ipairs { JSON, TEXT } do
        local got, reason = class(spoiled, policy)
        assert.equal("invalid", got)
        assert.matches("^the text cannot be decoded: ", reason)
      end
    end
  end)

  it("when the text holds an escaped half surrogate inside its JSON", function()
    assert.equal("invalid", (class(chat '{"a":"\\ud83d"}')))
  end)

  it("when it is not of the schema, with the schema's reason", function()
    local seen
    local policy = { expect = "json", validator = function(value)
      seen = value
      return nil, "at /a: expected string"
    end }
    local got, reason = class(chat '```\n{"a":[]}\n```', policy)
    assert.same({ "invalid", "not of the schema: at /a: expected string" }, { got, reason })
    assert.is_true(json.is_array(seen.a))
  end)

  it("when accept() says so, with its reason or without", function()
    local function refuse(reason) return function() return false, reason end end
    assert.same({ "invalid", "too short" }, { class(chat "{}", { expect = "json", accept = refuse "too short" }) })
    assert.same({ "invalid", "refused by the policy's accept()" },
      { class(chat "x", { expect = "text", accept = refuse() }) })
  end)
end)

describe("accept()", function()
  local seen
  local function accept(value, item)
    seen = { value = value, item = item }
    return true
  end

  it("sees the decoded JSON, the whole text and the custom_id", function()
    assert.equal("valid", (class(chat 'So:\n{"n": 12345678901234567}', { expect = "json", accept = accept })))
    assert.same({ value = { n = 12345678901234567 },
      item = { custom_id = "page-1", text = 'So:\n{"n": 12345678901234567}' } }, seen)
  end)

  it("sees the text, where text is asked for", function()
    assert.equal("valid", (class(chat "{}", { expect = "text", accept = accept })))
    assert.equal("{}", seen.value)
  end)

  it("is not asked about what the schema refused", function()
    seen = nil
    class(chat "{}", { expect = "json", accept = accept, validator = function() return nil, "no" end })
    assert.is_nil(seen)
  end)
end)

describe("an answer is truncated", function()
  it("when it ran into its token limit, even where what there is looks whole", function()
    assert.equal("truncated", (class(chat('{"a":1}', { finish_reason = "length" }))))
    assert.equal("truncated", (class(incomplete("max_output_tokens", message '{"a":1}'))))
    assert.equal("truncated", (class(incomplete(json.null))))
  end)

  it("when all tokens went into reasoning, and the reason says so", function()
    for _, nothing in ipairs { "", json.null } do
      local got, reason = class(chat(nothing, { finish_reason = "length" }, { completion_tokens = 4096 }))
      assert.equal("truncated", got)
      assert.equal("cut off after 4096 tokens, all of them spent before the answer began", reason)
    end
    assert.matches("before the answer began$", (select(2, class(incomplete "max_output_tokens"))))
    assert.equal("cut off after 7 tokens",
      (select(2, class(chat("{", { finish_reason = "length" }, { completion_tokens = 7 })))))
  end)

  it("when its cut text ends in half a surrogate pair", function()
    assert.equal("truncated", (class('{"custom_id":"a","response":{"status_code":200,"body":{"choices":['
      .. '{"finish_reason":"length","message":{"content":"\\ud83d"}}]}}}')))
  end)
end)

describe("an answer is refused", function()
  it("when the model says so, in every place where it can", function()
    for _, refusal in ipairs {
      chat { refusal = "I can't help." }, chat { content = "{}", refusal = "I can't help." },
      chat(json.array { { type = "refusal", refusal = "I can't help." } }),
      response { { type = "message", content = json.array { { type = "refusal", refusal = "I can't help." } } } },
    } do
      assert.same({ "refused", "the model refused: I can't help." }, { class(refusal) })
      assert.equal("refused", (class(refusal, TEXT)))
    end
  end)

  it("when the refusal holds half a surrogate pair", function()
    assert.equal("refused", (class('{"custom_id":"a","response":{"status_code":200,"body":{"choices":['
      .. '{"message":{"content":null,"refusal":"no \\ud83d"}}]}}}')))
  end)

  it("when the content filter stopped it", function()
    assert.equal("refused", (class(chat("{}", { finish_reason = "content_filter" }))))
    assert.equal("refused", (class(incomplete("content_filter", message "{}"))))
  end)

  it("before it is truncated", function()
    assert.equal("refused", (class(chat({ refusal = "no" }, { finish_reason = "length" }))))
  end)
end)

describe("a request is transient", function()
  for _, status in ipairs { 0, 408, 409, 429, 500, 502, 503, 504, 529, 302, 100 } do
    it("with status " .. status, function()
      assert.equal("transient", (class(line(status, { error = { code = "x", message = "m" } }))))
      assert.equal("transient", (class(line(status, json.null))))
      assert.equal("transient", (class(line(status, ""))))
      assert.equal("transient", (class(line(status))))
    end)
  end

  it("even where it carries an answer that looks good", function()
    local odd = chat "{}"
    odd.response.status_code = 500
    assert.equal("transient", (class(odd)))
    local with_error = chat "{}"
    with_error.error = { code = "server_error", message = "m" }
    assert.equal("transient", (class(with_error)))
    with_error.error = { code = "some_new_code" }
    assert.equal("transient", (class(with_error)))
    assert.equal("transient", (class(line(400, json.null, { code = "server_error" }))))
    with_error.error = "out of order"
    assert.equal("transient", (class(with_error)))
  end)

  it("but not where the error is there and empty", function()
    local good = chat "{}"
    for _, nothing in ipairs { "", false, {}, json.array {} } do
      good.error = nothing
      assert.equal("valid", (class(good)))
    end
    assert.equal("transient", (class(line(0, {}, {}))))
  end)

  it("when it got no HTTP answer", function()
    assert.same({ "transient", "the request got no HTTP answer" }, { class(line()) })
    assert.same({ "transient", "the request got no HTTP answer" }, { class(line(0, {})) })
    assert.same({ "transient", "request_timeout: timed out" },
      { class(line(nil, nil, { code = "request_timeout", message = "timed out" })) })
    assert.same({ "transient", "server_error" }, { class(line(nil, nil, { code = "server_error" })) })
    assert.same({ "transient", "the request got no HTTP answer" }, { class(line(nil, nil, {})) })
    assert.equal("transient", (class '{"custom_id":"a"}'))
  end)

  it("when the error object cannot be decoded: it is an error all the same", function()
    assert.equal("transient", (class('{"custom_id":"a","error":{"code":"x","message":"\\ud83d"},"response":'
      .. '{"status_code":200,"body":{"choices":[{"message":{"content":"{}"}}]}}}')))
  end)

  it("when the response failed for a reason that passes", function()
    for _, code in ipairs { "server_error", "rate_limit_exceeded", "vector_store_timeout" } do
      assert.same({ "transient", "the response failed: " .. code .. ": m" },
        { class(failed { code = code, message = "m" }) })
    end
    assert.equal("transient", (class(failed(json.null))))
  end)

  it("when the response had not even ended", function()
    for _, state in ipairs { "queued", "in_progress", "cancelled" } do
      assert.equal("transient", (class(response({ message "{}" }, { status = state }))))
    end
  end)

  it("when the account cannot pay, whatever the status: credit can be added", function()
    for _, failure in ipairs {
      { code = "insufficient_quota" }, { code = "credit_balance_exhausted" }, { type = "insufficient_quota" },
      { code = "billing_hard_limit_reached" }, { code = "project_spend_limit_exceeded" },
    } do
      failure.message = "m"
      assert.equal("transient", (class(line(429, { error = failure }))))
      assert.equal("transient", (class(line(400, { error = failure }))))
      assert.equal("transient", (class(line(403, { error = failure }))))
      assert.equal("transient", (class(line(nil, nil, failure))))
      assert.equal("transient", (class(failed(failure))))
    end
  end)
end)

describe("a request is permanent", function()
  for _, status in ipairs { 400, 401, 403, 404, 413, 422 } do
    it("with status " .. status .. ", with the service's words", function()
      assert.same({ "permanent", ("status %d: context_length_exceeded: too long"):format(status) },
        { class(line(status, { error = { code = "context_length_exceeded", message = "too long" } })) })
      assert.same({ "permanent", ("status %d: no reason given"):format(status) }, { class(line(status, json.null)) })
    end)
  end

  it("when the details stand beside the response", function()
    assert.same({ "permanent", "status 400: invalid: bad" },
      { class(line(400, json.null, { code = "invalid", message = "bad" })) })
  end)

  it("when the response failed for the request's own fault", function()
    for _, code in ipairs { "invalid_prompt", "image_parse_error", "a_code_of_tomorrow" } do
      assert.same({ "permanent", "the response failed: " .. code .. ": m" },
        { class(failed { code = code, message = "m" }) })
    end
  end)

  it("when the error's words cannot be decoded", function()
    assert.equal("permanent", (class('{"custom_id":"a","error":null,"response":{"status_code":400,"body":{"error":'
      .. '{"message":"\\ud83d"}}}}')))
  end)
end)

it("a request that its batch did not reach is expired or cancelled", function()
  for _, name in ipairs { "expired", "cancelled" } do
    assert.same({ name, "batch_" .. name .. ": not run" },
      { class(line(nil, nil, { code = "batch_" .. name, message = "not run" })) })
  end
end)

describe("tokens", function()
  local function counted(result) return { result.tokens_in, result.tokens_out } end

  it("are read under the names of both endpoints, whatever the class", function()
    assert.same({ 20, 9 }, counted(judge(chat("{}", nil, { prompt_tokens = 20, completion_tokens = 9 }))))
    assert.same({ 20, 40 }, counted(judge(response({}, { usage = { input_tokens = 20, output_tokens = 40 } }))))
    assert.same({ 20, 40 }, counted(judge(response({ message "{}" },
      { status = "failed", usage = { input_tokens = 20, output_tokens = 40 } }))))
  end)

  it("are 0 where the service did not count them", function()
    for _, usage in ipairs { json.null, {}, { prompt_tokens = json.null }, { prompt_tokens = "many" },
      { completion_tokens = 1.5 } } do
      assert.same({ 0, 0 }, counted(judge(chat("{}", nil, usage))))
    end
    assert.same({ 0, 0 }, counted(judge(chat "{}")))
    assert.same({ 0, 0 }, counted(judge(line())))
  end)
end)

describe("a stored line", function()
  it("gives back the text that was judged", function()
    for expected, stored in pairs {
      ["one"] = chat "one", ["two"] = response { REASONING, message("t", "w"), message "o" },
      ["three"] = chat(json.array { { type = "text", text = "three" } }), [""] = chat "",
    } do
      assert.equal(expected, outcome.text(json.encode(stored)))
    end
    for _, stored in ipairs { chat(json.null), response { REASONING }, line(400, json.null), line() } do
      assert.is_nil(outcome.text(json.encode(stored)))
    end
    assert.is_nil(outcome.text '{"response":{"body":{"choices":[{"message":{"content":"\\ud83d"}}]}}}')
  end)

  it("gives its answer, and what unwrapping did", function()
    local stored = json.encode(chat '```json\n{"a": "b\tc"}\n```')
    assert.same({ '{"a": "b\\tc"}', { "fence removed", "control characters escaped" } },
      { outcome.answer(stored, { expect = "json", repair = true }) })
    assert.same({ '```json\n{"a": "b\tc"}\n```', {} }, { outcome.answer(stored, TEXT) })
  end)
end)

it("every class that is ever given is in the list of classes", function()
  assert.same({ "valid", "invalid", "truncated", "refused", "transient", "permanent", "expired", "cancelled",
    "missing" }, outcome.CLASSES)
end)

describe("the short way of judging", function()
  it("comes to the same as the long one for whatever may be in a field", function()
    local values = { "null", "false", "true", "0", "200", "200.0", "2e2", "-1", '""', '"stop"', '"st\\u006fp"',
      '"length"', '"content_filter"', '"failed"', '"completed"', '"incomplete"', '"in_progress"', '"{}"', '"1"',
      '" \\n[1]\\t "', '"\\u000b{}\\f"', '"\\u00a0{}"', '"```json\\n{}\\n```"', '"[1"', '"\\ud800"', '"1e999"', "1e999",
      '"{\\"a\\": \\"\\\\ud800\\"}"', "{}", "[]", "[1]", '{"code": "batch_expired"}', '{"code": "\\udc00"}',
      '[{"type": "text", "text": "{}"}]', '[{"type": "refusal", "refusal": "no"}]',
      '[{"type": "message", "content": [{"type": "output_text", "text": "{}"}]}]' }
    local usual = { failure = "null", status = "200", finish_reason = '"stop"', refusal = "null", content = '"{}"' }
    local places = { "failure", "status", "body_error", "finish_reason", "refusal", "content", "state", "incomplete",
      "output" }
    local form = '{"custom_id": "a", "error": %s, "response": {"status_code": %s, "body": {"error": %s, "choices": '
      .. '[{"finish_reason": %s, "message": {"refusal": %s, "content": %s}}], "status": %s, '
      .. '"incomplete_details": {"reason": %s}, "output": %s}}}'
    local lines, without = {}, form:gsub('"error": %%s, "choices', '"choices'):gsub(', "status": .*}}}', '}}}')
    for i, place in ipairs(places) do
      for _, value in ipairs(values) do
        local all, few = {}, {}
        for j, name in ipairs(places) do
          all[j] = name == place and value or usual[name] or "null"
          if usual[name] then few[#few + 1] = all[j] end
        end
        lines[#lines + 1] = form:format(table.unpack(all))
        if usual[place] then lines[#lines + 1] = without:format(table.unpack(few)) end
        -- The same with another field that is not as usual.
        local other = i % #places + 1
        all[other] = values[#lines % #values + 1]
        lines[#lines + 1] = form:format(table.unpack(all))
      end
    end
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/r.jsonl", table.concat(lines, "\n"))
    local policies = { { expect = "json" }, { expect = "text" }, { expect = "json", repair = true },
      { expect = "text", allow_blank = true }, { expect = "json", accept = function(value) return value == 1 end },
      { expect = "json", validator = function(value) return type(value) == "table", "no table" end } }
    local valid = 0
    for _, policy in ipairs(policies) do
      local long = assert(jsonl.scan(dir.path .. "/r.jsonl", outcome.FIELDS))
      for record in outcome.scan(dir.path .. "/r.jsonl", policy) do
        local expected = outcome.judge(long(), policy)
        assert.same(expected, outcome.judge(record, policy), lines[record.number])
        assert.equal(expected.class, (outcome.class(record, policy)))
        if expected.class == "valid" then valid = valid + 1 end
      end
    end
    assert.truthy(valid > 100 and valid < #policies * #lines)
  end)

  it("refuses what JSON can say and a policy cannot be shown", function()
    local accepts = { expect = "json", accept = function() return true end }
    assert.same({ "valid" }, { class(chat " [1e300] ", accepts) })
    assert.same({ "invalid", "the answer cannot be decoded: number too large at byte 2" },
      { class(chat " [1e999]", accepts) })
    assert.equal("valid", (class(chat "```json\n[1]\n```", accepts)))
    assert.equal("invalid", (class(chat "[1", accepts)))
  end)

  it("shows accept() the item when it can see it", function()
    local dir <close> = support.tmpdir()
    local answer, seen
    local function keep(value, item) seen = { value, item } return true end
    local accepts = {
      keep,
      function(...) return keep(...) end,
      function(value) return keep(value, { custom_id = "page|1", text = answer }) end,
      coroutine.wrap(function(...)
        local value, item = ...
        while true do value, item = coroutine.yield(keep(value, item)) end
      end),
    }
    for i = 1, 2 * #accepts do
      local accept = accepts[(i + 1) // 2]
      answer = '{"a": "\\u00e9", "b": [1, 2.5]}'
      if i % 2 == 0 then answer = "```json\n" .. answer .. "\n```" end
      local asked = chat(answer)
      asked.custom_id = "page|1"
      support.write(dir.path .. "/r.jsonl", json.encode(asked) .. "\n")
      for _, scan in ipairs { outcome.scan, jsonl.scan } do
        local policy = { expect = "json", accept = accept }
        seen = nil
        local record = assert(scan(dir.path .. "/r.jsonl", scan == jsonl.scan and outcome.FIELDS or policy))()
        assert.equal("valid", outcome.class(record, policy), i)
        assert.same({ { a = "é", b = { 1, 2.5 } }, { custom_id = "page|1", text = answer } }, seen)
        assert.is_true(json.is_array(seen[1].b))
      end
    end
  end)

  it("is taken for the answers that most are", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/r.jsonl", json.encode(chat '{"a": 1}') .. "\n" .. json.encode(chat "text") .. "\n")
    local records = assert(outcome.scan(dir.path .. "/r.jsonl", JSON))
    local good, bad = records(), records()
    assert.is_true(good.is_usual and good.is_json)
    assert.is_true(bad.is_usual)
    assert.is_nil(bad.is_json)
    -- Where the policy looks at what the text means, decoding it is the check: it is not made twice.
    local checking = { expect = "json", accept = function() return true end }
    local record = assert(outcome.scan(dir.path .. "/r.jsonl", checking))()
    assert.is_true(record.is_usual)
    assert.is_nil(record.is_json)
  end)
end)
