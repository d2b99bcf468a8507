-- The correction loop, rule by rule: what is sent, what becomes of each kind of answer, when it ends.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

--- The class of every request in the unresolved list of iteration n: "id=class ...", sorted.
local function unresolved(job, n, field)
  local map = {}
  for _, item in ipairs(job:decoded(("iteration_%d/unresolved_iteration_%d.jsonl"):format(n, n))) do
    map[item.custom_id] = item[field or "class"]
  end
  return loop.text(map)
end

local function given_up(job)
  local map = {}
  for _, item in ipairs(job:decoded("given_up.jsonl")) do map[item.custom_id] = item.class end
  return loop.text(map)
end

--- The request files of iteration n: a list of lists of lines.
local function sent(job, n)
  local files = {}
  for _, name in ipairs(fs.list(("%s/iteration_%d"):format(job.base, n))) do
    if name:find("^batch_requests_iteration_") then
      local lines = {}
      for line in job:read(("iteration_%d/%s"):format(n, name)):gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
      files[#files + 1] = lines
    end
  end
  return files
end

--- The one line of iteration n.
local function only_line(job, n)
  local files = sent(job, n)
  assert.equal("1 1", ("%d %d"):format(#files, #files[1]))
  return files[1][1]
end

--- The model that never needs a second try.
local AT_ONCE = "return json.encode { id = request.custom_id, asked = asked }"

--- Runs a job to its end beside a sandbox of its own.
local function finish(job, code, sandbox_words, words)
  local box <close> = job:sandbox(sandbox_words)
  job:run(box, words)
  assert.equal(code, job.code, job.out .. job.err)
  loop.check_clean(job)
  return loop.check_table(job.out)
end

local says = loop.says

describe("what is sent", function()
  it("splits by --max-requests, and each part becomes one batch with its own file and tag", function()
    local job <close> = loop.job { requests = loop.lines(7), args = { "--max-requests", "3" } }
    finish(job, 0)
    loop.check(job, loop.usual(7))
    local sizes = {}
    for i, lines in ipairs(sent(job, 1)) do sizes[i] = #lines end
    assert.same({ 3, 3, 1 }, sizes)
    local tags = {}
    for _, batch in ipairs(job:records("batches")) do
      tags[batch.metadata.obatch_iteration .. "-" .. batch.metadata.obatch_part] = batch.metadata.obatch_run
    end
    assert.same({ "1-1", "1-2", "1-3", "2-1" }, (function(keys)
      for key in pairs(tags) do keys[#keys + 1] = key end
      table.sort(keys)
      return keys
    end) {})
    local ids = {}
    for id in job:read("iteration_1/submitted_batch_ids_iteration_1.txt"):gmatch("[^\n]+") do ids[#ids + 1] = id end
    assert.equal(3, #ids)
  end)

  it("splits by --max-bytes to the byte", function()
    local lines = loop.lines(6)
    local size = #lines[1] + 1
    for _, try in ipairs { { 2 * size, { 2, 2, 2 } }, { 2 * size - 1, { 1, 1, 1, 1, 1, 1 } }, { 6 * size, { 6 } },
      { 6 * size - 1, { 5, 1 } } } do
      local job <close> = loop.job { requests = lines, args = { "--max-bytes", try[1] },
        model = AT_ONCE }
      finish(job, 0)
      local sizes = {}
      for i, part in ipairs(sent(job, 1)) do sizes[i] = #part end
      assert.same(try[2], sizes)
    end
  end)

  it("keeps models and endpoints apart", function()
    local lines = {}
    for i = 1, 8 do
      local responses = i > 4
      lines[i] = loop.line("r-" .. i, { url = responses and "/v1/responses" or nil },
        { model = i % 2 == 0 and "gpt-even" or "gpt-odd", input = responses and "Transcribe" or nil })
    end
    local job <close> = loop.job { requests = lines }
    finish(job, 0)
    loop.check(job, loop.usual(8))
    for _, part in ipairs(sent(job, 1)) do
      local kinds = {}
      for _, line in ipairs(part) do kinds[json.get(line, "/url") .. json.get(line, "/body/model")] = true end
      assert.is_nil(next(kinds, next(kinds)))
      assert.equal(2, #part)
    end
    assert.equal(4, #sent(job, 1))
  end)

  it("sends the user's own bytes, whatever they look like", function()
    local odd = {
      '{ "custom_id":"r-1" ,"method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-test","messages":'
        .. '[{"role":"user","content":"\\u00e9\\/ \\ud83d\\ude00 é"}],"seed":12345678901234567890,"temperature":1.0,'
        .. '"stop":[ ],"n":1e0}}',
      '{"body":{"messages":[{"content":[{"type":"text","text":"x"}],"role":"user"}],"model":"gpt-test"},"url":'
        .. '"/v1/chat/completions","extra":{"a":null},"method":"POST","custom_id":"r-2"}  ',
    }
    local job <close> = loop.job { requests = odd, model = [[
      if asked == 1 then return "no JSON" end
      return json.encode { id = request.custom_id, asked = asked }]] }
    finish(job, 0)
    assert.same({ odd }, sent(job, 1))
    assert.same({ odd }, sent(job, 2))
    -- and that is what the service got
    local uploads = {}
    for _, file in ipairs(job:records("files")) do
      if file.purpose == "batch" then uploads[#uploads + 1] = support.read(job.box .. "/files/" .. file.id) end
    end
    assert.same({ table.concat(odd, "\n") .. "\n", table.concat(odd, "\n") .. "\n" }, uploads)
  end)

  it("adds the bad answer and the reason from the third attempt on, and changes nothing else", function()
    local job <close> = loop.job { requests = loop.lines(1), model = [[
      if asked < 4 then return "bad answer number " .. asked end
      return json.encode { id = request.custom_id, asked = asked }]] }
    finish(job, 0)
    loop.check(job, { ["r-1"] = 4 })
    local original = loop.lines(1)[1]
    assert.equal(original, only_line(job, 1))
    assert.equal(original, only_line(job, 2))
    for n = 3, 4 do
      local line = only_line(job, n)
      local messages = json.get(line, "/body/messages")
      assert.same({ "user", "assistant", "user" }, { messages[1].role, messages[2].role, messages[3].role })
      assert.equal("bad answer number " .. n - 1, messages[2].content)
      assert.truthy(messages[3].content:find("could not be used", 1, true))
      -- What was added is all that differs.
      assert.equal(original, json.set(line, "/body/messages", json.raw(original, "/body/messages")))
    end
  end)

  it("lets a policy change the prompt, and from which attempt it is added", function()
    local job <close> = loop.job { requests = loop.lines(1), policy = [[
      policy.feedback_from = 2
      function policy.feedback(item) return "Again, " .. item.custom_id .. "! " .. item.attempts end]], model = [[
      if asked == 1 then return "bad" end
      return json.encode { id = request.custom_id, asked = asked, heard = request.body.messages[3].content }]] }
    finish(job, 0)
    assert.equal("Again, r-1! 1", json.decode(job:read("corrected_results.json"))["r-1"].heard)
  end)

  it("raises the token limit of what was cut off, in place, or adds one", function()
    local requests = {
      loop.line("chat-max_tokens", nil, { max_tokens = 100 }),
      loop.line("chat-max_completion_tokens", nil, { max_completion_tokens = 100 }),
      loop.line("chat-none"),
      loop.line("responses-max_output_tokens", { url = "/v1/responses" }, { max_output_tokens = 100, input = "x" }),
      loop.line("responses-none", { url = "/v1/responses" }, { input = "x" }),
    }
    local job <close> = loop.job { requests = requests, model = [[
      local body = request.body
      local limit = body.max_tokens or body.max_completion_tokens or body.max_output_tokens or 3000
      if limit < 400 or limit == 3000 then
        return { content = "", finish_reason = "length", usage = { prompt = 1, completion = limit } }
      end
      return json.encode { id = request.custom_id, asked = asked, limit = limit }]] }
    finish(job, 0)
    local answers = json.decode(job:read("corrected_results.json"))
    local limits = {}
    for id, answer in pairs(answers) do limits[id] = answer.limit end
    assert.equal("chat-max_completion_tokens=400 chat-max_tokens=400 chat-none=6000 "
      .. "responses-max_output_tokens=400 responses-none=6000", loop.text(limits))
    for _, part in ipairs(sent(job, 3)) do
      for _, line in ipairs(part) do
        local id = json.get(line, "/custom_id")
        local name = id:match("max_.*")
        assert.equal(400, json.get(line, "/body/" .. name))
        local original
        for _, request in ipairs(requests) do
          if json.get(request, "/custom_id") == id then original = request end
        end
        assert.equal(original, json.set(line, "/body/" .. name, "100"))
      end
    end
  end)

  it("gives up at the policy's cap on what never begins to answer, and tries again what broke off", function()
    local requests = { loop.line("r-1", nil, { max_tokens = 20000 }), loop.line("r-2", nil, { max_tokens = 20000 }) }
    local job <close> = loop.job { requests = requests,
      model = 'return { content = request.custom_id == "r-1" and "" or "{", finish_reason = "length" }' }
    finish(job, 3)
    local limits = {}
    for _, line in ipairs(sent(job, 2)[1]) do
      limits[json.get(line, "/custom_id")] = json.get(line, "/body/max_tokens")
    end
    assert.same({ ["r-1"] = 32768, ["r-2"] = 32768 }, limits)
    assert.equal("r-1=truncated r-2=truncated", given_up(job))
    assert.equal("r-1=2 r-2=4", loop.text(job:paid()))
  end)
end)

describe("what becomes of answers", function()
  it("puts each kind in its class, gives up when its attempts are used, and lists why (exit 3)", function()
    local kinds = {
      fenced = 'return "```json\\n{\\"a\\":1}\\n```"',
      sentence = 'return "Here it is:\\n\\n```json\\n[1]\\n```\\nBye."',
      prose = 'return "I cannot read this."',
      control = 'return "{\\"a\\": \\"x\\ny\\"}"',
      broken = 'return "{\\"a\\": "',
      empty = 'return ""',
      null = "return {}",
      refused = 'return { refusal = "No." }',
      filtered = 'return { content = "{}", finish_reason = "content_filter" }',
      cut = 'return { content = "{}", finish_reason = "length" }',
      bad_request = 'return { status = 400, body_error = { message = "Image too large", code = "bad_image" } }',
      gone = 'return { status = 404 }',
      limited = 'return { status = 429 }',
      server = 'return { status = 500 }',
      no_status = 'return { status = 0, empty_body = true }',
      timeout = 'return { error = { code = "request_timeout", message = "slow" } }',
      absent = "return { missing = true }",
      garbage = 'return { raw = "{\\"custom_id\\": \\"garbage\\"" }',
      parts = 'return { content = json.array { { type = "text", text = "{}" } } }',
    }
    local requests, model = {}, {}
    for id, body in pairs(kinds) do
      requests[#requests + 1] = loop.line(id)
      model[#model + 1] = ("if request.custom_id == %q then %s end"):format(id, body)
    end
    table.sort(requests)
    local job <close> = loop.job { requests = requests, model = table.concat(model, "\n") }
    local rows = finish(job, 3)
    assert.equal("absent=missing bad_request=permanent broken=invalid control=invalid cut=truncated empty=invalid "
      .. "filtered=refused garbage=missing gone=permanent limited=transient no_status=transient null=invalid "
      .. "prose=invalid refused=refused server=transient timeout=transient", given_up(job))
    assert.equal("absent=6 bad_request=1 broken=4 control=4 cut=4 empty=4 fenced=1 filtered=1 garbage=6 gone=1 "
      .. "limited=6 no_status=6 null=4 parts=1 prose=4 refused=1 sentence=1 server=6 timeout=6", loop.text(job:paid()))
    assert.equal(6, #rows)
    assert.same({ 19, 3, 5, 1, 2, 4, 2 }, { rows[1].submitted, rows[1].valid, rows[1].invalid, rows[1].truncated,
      rows[1].refused, rows[1].transient, rows[1].permanent })
    local reasons = {}
    for _, item in ipairs(job:decoded("given_up.jsonl")) do reasons[item.custom_id] = item.reason end
    assert.truthy(reasons.bad_request:find("Image too large", 1, true))
    assert.truthy(reasons.refused:find("No.", 1, true))
    local answers = json.decode(job:read("corrected_results.json"))
    assert.same({ a = 1 }, answers.fenced)
    assert.same({ 1 }, { table.unpack(answers.sentence) })
    says(job, "19 requests: 3 have a good answer, 16 given up, 0 left")
  end)

  it("keeps an answer that is bare JSON byte for byte, without the space around it", function()
    local job <close> = loop.job { requests = loop.lines(4), model = [[
      local n = tonumber(request.custom_id:match "%d+$")
      if n == 1 then return ' \n[1, "\\u00e9\\/",\n 2.50 ]\r\n' end
      if n == 2 then return { content = '{"parts": 1}\t', finish_reason = "other" } end
      if n == 3 then return '\n```json\n{"b":  3}\n```' end
      return '{"n":' .. asked .. ' }' ]] }
    finish(job, 0)
    assert.equal('{\n"r-1": [1, "\\u00e9\\/",\n 2.50 ],\n"r-2": {"parts": 1},\n"r-3": {"b":  3},\n"r-4": {"n":1 }\n}\n',
      job:read "corrected_results.json")
    assert.equal(1, #job:decoded "corrected_results_steps.jsonl") -- of the fence
  end)

  it("asks another model when the policy names one for what was refused", function()
    local job <close> = loop.job { requests = loop.lines(2), policy = 'policy.refused_model = "gpt-other"', model = [[
      if request.body.model == "gpt-test" and request.custom_id == "r-2" then return { refusal = "No." } end
      return json.encode { id = request.custom_id, asked = asked }]] }
    finish(job, 0)
    loop.check(job, { ["r-1"] = 1, ["r-2"] = 2 })
    assert.equal("gpt-other", json.get(only_line(job, 2), "/body/model"))
  end)

  it("judges by the policy's schema, accept() and expectation", function()
    local job <close> = loop.job { requests = loop.lines(3), model = [[
      if asked > 1 then return '{"n": 3}' end
      return request.custom_id == "r-1" and '{"n": "x"}' or request.custom_id == "r-2" and '{"n": 2}' or '{"n": 3}']],
      policy = [[
      policy.schema = { type = "object", properties = { n = { type = "integer" } } }
      function policy.accept(answer, item)
        if answer.n % 2 == 0 then return false, item.custom_id .. " is even" end
        return true
      end]] }
    finish(job, 0)
    assert.equal("r-1=2 r-2=2 r-3=1", loop.text(job:paid()))
    local reasons = unresolved(job, 1, "reason")
    assert.truthy(reasons:find("not of the schema", 1, true), reasons)
    assert.truthy(reasons:find("r-2 is even", 1, true), reasons)

    local plain <close> = loop.job { requests = loop.lines(1), model = 'return "just text"',
      policy = 'policy.expect = "text"' }
    finish(plain, 0)
    assert.equal("just text", json.decode(plain:read("corrected_results.json"))["r-1"])
  end)

  it("takes the first good answer of a duplicate, and notes it", function()
    local job <close> = loop.job { requests = loop.lines(2), model = [[
      local good = json.encode { id = request.custom_id, asked = asked }
      return { content = good, duplicate = true }]] }
    local rows = finish(job, 0)
    loop.check(job, { ["r-1"] = 1, ["r-2"] = 1 })
    assert.equal(2, rows[1].valid)
    says(job, "answered twice")
  end)

  it("harvests a batch that expires or is cancelled half-way: what ran is kept, the rest is sent again", function()
    for _, how in ipairs { "expire", "cancel" } do
      local job <close> = loop.job { requests = loop.lines(8),
        model = AT_ONCE }
      local rows = finish(job, 0, { "--faults", ("batches: %s=0.5 first=1"):format(how) })
      local once = {}
      for i = 1, 8 do once["r-" .. i] = 1 end
      loop.check(job, once) -- nothing of what ran is paid again
      local class = how == "expire" and "expired" or "cancelled"
      assert.same({ 8, 4, 4 }, { rows[1].submitted, rows[1].valid, rows[1][class] })
      assert.same({ 4, 4 }, { rows[2].submitted, rows[2].valid })
    end
  end)

  it("counts what a cancelled batch has no line for as cancelled", function()
    local job <close> = loop.job { requests = loop.lines(8),
      model = AT_ONCE }
    local rows = finish(job, 0, { "--no-cancelled-lines", "--faults", "batches: cancel=0.5 first=1" })
    assert.same({ 4, 4 }, { rows[1].valid, rows[1].cancelled })
    assert.truthy(unresolved(job, 1, "reason"):find("=its batch was cancelled before the request ran", 1, true))
  end)

  it("takes a last line that stays cut off for missing, and sends that request again", function()
    local job <close> = loop.job { requests = loop.lines(3),
      model = AT_ONCE }
    local rows = finish(job, 0, { "--faults", "batches: truncated first=1" })
    assert.same({ 2, 1, 1 }, { rows[1].valid, rows[1].missing, rows[2].valid })
    assert.truthy(unresolved(job, 1, "reason"):find("=in neither the output nor the error file", 1, true))
    local fetched = 0
    for _, request in ipairs(job:asked()) do fetched = fetched + (request:find("/content$") and 1 or 0) end
    assert.truthy(fetched > 5, "a cut file should be fetched again before it is believed")
    assert.equal(3, #job:decoded("final_results.jsonl"))
  end)
end)

describe("a batch that fails validation", function()
  it("for named lines: those are given up with the service's words, the rest is sent once", function()
    local lines = loop.lines(4)
    lines[2] = loop.line("r-2", nil, { messages = json.null })
    local job <close> = loop.job { requests = lines, model = AT_ONCE }
    finish(job, 3)
    assert.equal("r-2=permanent", given_up(job))
    assert.truthy(job:decoded("given_up.jsonl")[1].reason:find("Messages parameter is required", 1, true))
    assert.equal("r-1=1 r-3=1 r-4=1", loop.text(job:paid()))
  end)

  it("for a model that does not exist: all its requests are given up, those of other models are not", function()
    local lines = loop.lines(3)
    lines[2] = loop.line("r-2", nil, { model = "gpt-nope" })
    local job <close> = loop.job { requests = lines, model = AT_ONCE }
    finish(job, 3, { "--models", "gpt-test" })
    assert.equal("r-2=permanent", given_up(job))
    assert.equal("r-1=1 r-3=1", loop.text(job:paid()))
  end)

  it("when the service lists only some of the bad lines at a time", function()
    local lines = {}
    for i = 1, 6 do lines[i] = loop.line("r-" .. i, nil, i % 2 == 0 and { messages = json.null } or nil) end
    local job <close> = loop.job { requests = lines, model = AT_ONCE }
    finish(job, 3, { "--max-errors", "1" })
    assert.equal("r-2=permanent r-4=permanent r-6=permanent", given_up(job))
    assert.equal("r-1=1 r-3=1 r-5=1", loop.text(job:paid()))
  end)

  it("for a limit it has not heard of: exit 1, resumable", function()
    local job <close> = loop.job {}
    do
      local box <close> = job:sandbox { "--faults", "limits: requests=3" }
      job:run(box)
      assert.equal(1, job.code)
      says(job, "maximum_requests_exceeded")
    end
    finish(job, 0)
    loop.check(job, loop.usual(6))
  end)
end)

describe("the end", function()
  it("at --max-iterations is exit 3 and resumable with a higher number", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    assert.equal(3, job.code, job.err)
    says(job, "6 requests: 4 have a good answer, 0 given up, 2 left")
    says(job, "a higher --max-iterations goes on")
    -- Complete, so that it can be copied.
    local again = job.err:match("next: obatch (correction_loop [^\n]*%-%-max%-iterations 11)\n")
    assert.is_truthy(again, job.err)
    local _, options = again:gsub("%-%-max%-iterations", "")
    assert.equal(1, options)
    assert.is_truthy(again:find(job.requests, 1, true), again)
    says(job, "\nnext: obatch report " .. job.base .. "\n")
    assert.equal("r-3=invalid r-6=invalid", unresolved(job, 1))
    assert.equal(4, #job:decoded("final_results.jsonl"))
    job:run(box, { "--max-iterations", "1" })
    assert.equal(3, job.code)
    job:run(box, { "--max-iterations", "2" })
    loop.check(job, loop.usual(6))
  end)

  it("leaves a finished job finished: a second run sends nothing and writes the same files", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box)
    loop.check(job, loop.usual(6))
    local asked, final, answers = #job:asked(), job:read("final_results.jsonl"), job:read("corrected_results.json")
    job:run(box)
    loop.check(job, loop.usual(6))
    assert.equal(asked, #job:asked())
    assert.equal(final, job:read("final_results.jsonl"))
    assert.equal(answers, job:read("corrected_results.json"))
  end)

  it("comes later when the policy is stricter: exactly what it rejects is sent again", function()
    local job <close> = loop.job { model = [[
      return json.encode { id = request.custom_id, asked = asked }]] }
    local box <close> = job:sandbox()
    job:run(box)
    loop.check(job, { ["r-1"] = 1, ["r-2"] = 1, ["r-3"] = 1, ["r-4"] = 1, ["r-5"] = 1, ["r-6"] = 1 })
    job:set_policy [[
      function policy.accept(answer)
        if answer.asked == 1 and (answer.id == "r-2" or answer.id == "r-5") then return false, "no" end
        return true
      end]]
    job:run(box)
    loop.check(job, { ["r-1"] = 1, ["r-2"] = 2, ["r-3"] = 1, ["r-4"] = 1, ["r-5"] = 2, ["r-6"] = 1 })
  end)

  it("comes at once when the policy is laxer: nothing is sent", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    job:run(box, { "--max-iterations", "1" })
    assert.equal(3, job.code)
    local asked = #job:asked()
    job:set_policy 'policy.expect = "text"'
    job:run(box)
    assert.equal(0, job.code, job.err)
    assert.equal(asked, #job:asked())
    assert.equal(6, #job:decoded("final_results.jsonl"))
  end)
end)

describe("before anything is spent", function()
  it("reports every fault of the file with its line, exit 2, and asks the service nothing", function()
    local lines = loop.lines(9)
    lines[2] = "{not json"
    lines[3] = loop.line("r-4")
    lines[4] = (loop.line("r-4"):gsub('"method":"POST",', ""))
    lines[5] = loop.line("r-5", { url = "/v1/embeddings" })
    lines[6] = (loop.line("r-6"):gsub(',"model":"gpt%-test"', ""))
    lines[7] = ""
    lines[8] = '{"custom_id":8,"method":"POST","url":"/v1/responses","body":{"model":"m","stream":true}}'
    lines[9] = loop.line("r-9", nil, { messages = string.rep("x", 3000) })
    local job <close> = loop.job { requests = lines }
    support.write(job.requests, "\xEF\xBB\xBF" .. support.read(job.requests))
    local box <close> = job:sandbox()
    job:run(box, { "--max-bytes", "2000" })
    assert.equal(2, job.code)
    for _, words in ipairs { ":1: the file begins with a byte order mark", ":2: byte",
      ":4: custom_id 'r-4' is already that of line 3", "method must be", ":5: ", "/v1/embeddings", ":6: ", "body.model",
      ":7: ", ":8: custom_id is missing", ":8: body.stream", ":9: ", "--max-bytes (2000)", "nothing was submitted" } do
      says(job, words)
    end
    assert.is_nil(fs.stat(job.base))
    assert.same({}, job:asked())
  end)

  it("--dry-run says what would be sent, and sends nothing", function()
    local job <close> = loop.job { requests = loop.lines(5), args = { "--max-requests", "2" } }
    local box <close> = job:sandbox()
    job:run(box, { "--dry-run" })
    assert.equal(0, job.code, job.err)
    says(job, "5 requests")
    says(job, "in 3 batches")
    assert.same({}, job:asked())
    assert.is_nil(fs.stat(job.base))
  end)

  it("refuses a policy that cannot be what was meant, with its line or rule", function()
    for body, words in pairs {
      ["policy.atempts = {}"] = "there is no rule 'atempts'",
      ["policy.attempts.invalid = 0"] = "policy.attempts.invalid",
      ["local x = = 1"] = "policy.lua:3",
      ["error 'boom'"] = "boom",
      ["policy.expect = 'xml'"] = "policy.expect",
      ["undefined_name = 1"] = "undefined_name",
      ["policy.schema = { type = 'objekt' }"] = "policy.schema",
    } do
      local job <close> = loop.job { policy = body }
      job:run()
      assert.equal(2, job.code, body)
      says(job, words)
    end
  end)

  it("wants a key, and one that can be one", function()
    local job <close> = loop.job {}
    for key, words in pairs { [""] = "no API key", ["two words"] = "does not hold an API key" } do
      local code, _, err = support.obatch({ OPENAI_API_KEY = key }, "correction_loop", "--base-dir", job.base,
        "--original-requests", job.requests)
      assert.equal(2, code)
      assert.truthy(err:find(words, 1, true), err)
      assert.falsy(err:find("two words", 1, true), "the key is in the message")
    end
  end)
end)

-- 45 real OCR answers (fences, bare JSON, a sentence before the fence, raw control characters, broken) as
-- the first attempts, and real vision requests of ~600 KB. Elsewhere: the same kinds, made here.
describe("real answers", function()
  local folder = os.getenv("OBATCH_REAL_DATA")

  local function fixture(dir)
    local page = '{\\n    \\"ocr_text\\": \\"Feb. 11, 1910\\",\\n    \\"is_legible\\": true\\n}'
    local fence = "```json\\n" .. page .. "\\n```"
    local answers = { fence, page, "Here is the JSON:\\n\\n" .. fence, (page:gsub("1910", "1910\\n")),
      (page:gsub("true", "")), "```\\n" .. page .. "\\n```\\n" }
    local results, requests = {}, {}
    for i, answer in ipairs(answers) do
      results[i] = ('{"id": "b%d", "custom_id": "|data|images|%d.jpg", "response": {"status_code": 200, "request_id": '
        .. '"x", "body": {"choices": [{"index": 0, "message": {"role": "assistant", "content": "%s"}, '
        .. '"finish_reason": "stop"}]}}, "error": null}'):format(i, i, answer)
    end
    for i = 1, 3 do
      requests[i] = ('{"custom_id": "frame__%d", "method": "POST", "url": "/v1/chat/completions", "body": {"model": '
        .. '"gpt-4o", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": '
        .. '"data:image\\/jpeg;base64,%s"}}]}], "max_tokens": 300}}'):format(i, string.rep("QUJD", 20000))
    end
    support.write(dir .. "/ocr_results.jsonl", table.concat(results, "\n") .. "\n")
    support.write(dir .. "/vlm_requests.jsonl", table.concat(requests, "\n") .. "\n")
  end

  it("end in the right class, and what is sent again is the original, byte for byte", function()
    local dir <close> = support.tmpdir()
    if not folder then
      fixture(dir.path)
      folder = dir.path
    end
    local requests, first = {}, {}
    for line in support.read(folder .. "/vlm_requests.jsonl"):gmatch("[^\n]+") do requests[#requests + 1] = line end
    local vision = #requests
    for line in support.read(folder .. "/ocr_results.jsonl"):gmatch("[^\n]+") do
      local id, content = json.get(line, "/custom_id"), json.get(line, "/response/body/choices/0/message/content")
      first[id] = content
      requests[#requests + 1] = loop.line(id)
      -- A real vision request gets a real answer too.
      if #requests <= 2 * vision then first[json.get(requests[#requests - vision], "/custom_id")] = content end
    end
    support.write(dir.path .. "/first.json", json.encode(first))

    local job <close> = loop.job { requests = requests, model = ([[
      local fs = require "obatch.fs"
      local first = FIRST or json.decode(fs.read(%q))
      rawset(_G, "FIRST", first)
      if asked == 1 then return first[request.custom_id] end
      return json.encode { id = request.custom_id, asked = asked }]]):format(dir.path .. "/first.json"):gsub("FIRST or",
      "rawget(_G, 'FIRST') or") }
    finish(job, 0)

    -- The verdict, by another road: a strict decoder on the bare answer or the inside of its fence.
    local bad = {}
    for _, line in ipairs(requests) do
      local id = json.get(line, "/custom_id")
      local answer = first[id]
      local inside = answer:match("```%w*\n(.-)\n```") or answer
      if not json.check(inside) then bad[id] = line end
    end
    local again = {}
    for _, part in ipairs(sent(job, 2)) do
      for _, line in ipairs(part) do again[json.get(line, "/custom_id")] = line end
    end
    assert.truthy(next(bad))
    assert.same(bad, again)
    for _, line in ipairs(requests) do
      local id = json.get(line, "/custom_id")
      assert.equal(bad[id] and 2 or 1, job:paid()[id])
    end
    assert.equal(#requests, #job:decoded("final_results.jsonl"))
  end)
end)
