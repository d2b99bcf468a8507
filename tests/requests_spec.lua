-- A file of requests is checked whole before anything is spent, in the pass that says where each of them stands.
local jsonl = require "obatch.jsonl"
local requests = require "obatch.requests"
local support = require "support"

local MAX_REQUESTS, MAX_BYTES = 50000, 200 * 1000 * 1000
local CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

--- A request line whose body holds `more` behind the model.
local function line(id, more, url)
  return ('{"custom_id":"%s","method":"POST","url":"%s","body":{"model":"m"%s}}'):format(id, url or CHAT, more or "")
end

--- What requests.read makes of a file with these bytes, closed; messages speak of it as "FILE".
local function check(content, max_requests, max_bytes)
  local dir <close> = support.tmpdir()
  local path = dir.path .. "/requests.jsonl"
  support.write(path, content)
  local file <close>, faults = requests.read(path, max_requests or MAX_REQUESTS, max_bytes or MAX_BYTES)
  for i, fault in ipairs(faults or {}) do faults[i] = fault:gsub(path:gsub("%p", "%%%0"), "FILE") end
  return file, faults
end

--- The only fault of a file whose second line is `bad`, without the file, the line and the id.
local function fault_of(bad, ...)
  local file, faults = check(line "first" .. "\n" .. bad .. "\n" .. line "last" .. "\n", ...)
  assert.is_nil(file)
  assert.equal(1, #faults, table.concat(faults, "\n"))
  local sentence = faults[1]:match "^FILE:2: (.*)"
  return (sentence:gsub("^custom_id '%w*': ", ""))
end

describe("a file of requests", function()
  it("is counted by model and endpoint, in batches as the limits cut them", function()
    local one = line "1"
    local size = #one + 1
    local lines = { one, line "2", line("3", "", RESPONSES), line "4", line "5", line "6", "" }
    local content = table.concat(lines, "\n")
    local file = assert(check(content, 2, MAX_BYTES))
    local chat, responses = table.unpack(file.groups)
    assert.same({ CHAT, "m", 5, 5 * size, 3 }, { chat.url, chat.model, chat.requests, chat.bytes, chat.batches })
    assert.same({ RESPONSES, 1, 1 }, { responses.url, responses.requests, responses.batches })
    assert.equal(2, check(content, MAX_REQUESTS, 3 * size).groups[1].batches)
    assert.equal(3, check(content, MAX_REQUESTS, 3 * size - 1).groups[1].batches)
    assert.equal(1, check(content, 5, 5 * size).groups[1].batches)
  end)

  it("knows of each request what it takes, by its place in the file", function()
    local file = assert(check(table.concat({ line("a", ',"max_tokens":70'), line("b", "", RESPONSES),
      line("c", ',"user":"' .. ("x"):rep(400) .. '"') }, "\n")))
    local url, model, tokens_in, tokens_out = file:takes_of(1)
    assert.same({ CHAT, "m", 70 }, { url, model, tokens_out })
    url, model = file:takes_of(2)
    assert.same({ RESPONSES, "m" }, { url, model })
    assert.is_nil(select(4, file:takes_of(2)))
    assert.is_true(tokens_in > 10 and select(3, file:takes_of(3)) > tokens_in + 90)
  end)

  it("may end without a newline, use CRLF and odd white space", function()
    local odd = ' { "custom_id" : "a", "method":"POST",\t"url":"/v1/responses","body":{"model":"m"} } \r\n'
    local file = assert(check(odd .. line "b"))
    assert.equal(2, file.groups[1].requests + file.groups[2].requests)
  end)

  it("may name a deployment's url and other keys", function()
    assert.truthy(check((line("a", "", "/chat/completions"):gsub('^{', '{"note":null,'))))
  end)

  it("with a byte order mark is told what to remove, once", function()
    local file, faults = check("\xEF\xBB\xBF" .. line "a" .. "\n" .. line "b" .. "\n")
    assert.is_nil(file)
    assert.equal(1, #faults)
    assert.matches("^FILE:1: the file begins with a byte order mark.*remove its first three bytes$", faults[1])
  end)

  it("with a blank line is refused at that line", function()
    for _, blank in ipairs { "", " \t", "\r" } do assert.equal("empty line", fault_of(blank)) end
  end)

  it("without a request is refused", function()
    assert.same({ nil, { "FILE: the file holds no requests" } }, { check "" })
  end)

  it("that does not exist is named", function()
    local dir <close> = support.tmpdir()
    local file, faults = requests.read(dir.path .. "/nowhere", 1, 1)
    assert.is_nil(file)
    assert.matches(dir.path .. "/nowhere", faults[1], 1, true)
  end)

  it("with lines that are not strict JSON is refused at their bytes", function()
    assert.matches("^byte 10: ", fault_of '{"a": 1, }')
    assert.matches("^byte ", fault_of(line "a" .. line "b"))
    assert.matches("^byte ", fault_of(line "caf\xE9"))
    assert.matches("^byte ", fault_of(line("a", ',"temperature":NaN')))
  end)

  it("with an id used twice names both lines, each time", function()
    local file, faults = check(table.concat({ line "a", line "b", line "a", line "\\u0061", line "b" }, "\n"))
    assert.is_nil(file)
    assert.same({ "FILE:3: custom_id 'a' is already that of line 1", "FILE:4: custom_id 'a' is already that of line 1",
      "FILE:5: custom_id 'b' is already that of line 2" }, faults)
  end)

  for words, bad in pairs {
    ["custom_id is missing or not a string"] = { (line "a":gsub('"custom_id":"a",', "")), line "",
      (line "a":gsub('"a"', "7")), (line "a":gsub('"a"', "null")) },
    ['method must be "POST"'] = { (line "a":gsub("POST", "GET")), (line "a":gsub("POST", "post")),
      (line "a":gsub('"method":"POST",', "")) },
    ["url is missing or not a string"] = { (line "a":gsub('"url":"[^"]*",', "")), (line "a":gsub('"/v1[^"]*"', "[]")) },
    ["body is missing or not an object"] = { (line "a":gsub(',"body":{.*', "}")), (line "a":gsub("{[^{]*}}$", "null}")),
      (line "a":gsub("{[^{]*}}$", '"text"}')), (line "a":gsub("{[^{]*}}$", '["model"]}')) },
    ["body.model is missing or not a string"] = { (line "a":gsub('"model":"m"', "")), (line "a":gsub('"m"', '""')),
      (line "a":gsub('"m"', "4")) },
    ["body.stream: the Batch API does not stream"] = { line("a", ',"stream":true') },
    ["url '/v1/embeddings': only /v1/chat/completions and /v1/responses answers can be judged"] =
      { line("a", "", "/v1/embeddings") },
  } do
    it("is refused where " .. words, function()
      for _, each in ipairs(bad) do assert.equal(words, fault_of(each)) end
    end)
  end

  it("is refused where the custom_id cannot be decoded", function()
    assert.matches("^custom_id: .*surrogate", fault_of(line "\\ud800"))
  end)

  it("may say that it does not stream, and hold half a surrogate in its texts", function()
    assert.truthy(check(line("a", ',"stream":false,"messages":[{"role":"user","content":"\\ud800"}]')))
  end)

  it("is refused where one request is larger than a batch may be, by exact bytes", function()
    local long = line("long", ',"user":"' .. ("x"):rep(200) .. '"')
    assert.truthy(check(long, 1, #long + 1))
    local words = "the request has %d bytes, more than --max-bytes (%d) allows for a whole batch"
    assert.equal(words:format(#long + 1, #long), fault_of(long, 1, #long))
  end)

  it("that was mended while it was read is counted once", function()
    local dir <close> = support.tmpdir()
    local path, scan = dir.path .. "/requests.jsonl", jsonl.scan
    support.write(path, line "a" .. "\n" .. line("b", ',"max_tokens":70') .. "\n" .. line "a" .. "\n")
    local passes = 0
    function jsonl.scan(...)
      passes = passes + 1
      if passes == 2 then support.write(path, line("b", "", RESPONSES) .. "\n") end -- who wrote it noticed, too
      return scan(...)
    end
    local ok, file = pcall(requests.read, path, MAX_REQUESTS, MAX_BYTES)
    jsonl.scan = scan
    assert(ok, file)
    assert.same({ 2, 1, 1, RESPONSES }, { passes, #file.groups, file.groups[1].requests, (file:takes_of(1)) })
    assert.is_nil(select(4, file:takes_of(1)))
    assert.same({ 1, 0 }, { #file.takes, #file.limits })
    file:close()
  end)

  it("is told all its faults in one go", function()
    local _, faults = check(table.concat({ line "a", "", '{"custom_id":7,"method":"PUT"}', line "a", "no" }, "\n"))
    local numbers = {}
    for i, fault in ipairs(faults) do numbers[i] = fault:match "^FILE:(%d+): " end
    assert.same({ "2", "3", "3", "3", "3", "4", "5" }, numbers)
  end)
end)
