-- Retries change what they must of a request, and no other byte.
local json = require "obatch.json"
local request = require "obatch.request"

local RULE = { factor = 2, floor = 4096, cap = 32768 }
local CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

--- A request line whose body holds `more` behind the model.
local function line(id, more, url)
  return ('{"custom_id":"%s","method":"POST","url":"%s","body":{"model":"m"%s}}'):format(id, url or CHAT, more or "")
end

describe("request.find_limit", function()
  it("finds the limit by each of its names, and wherever it stands", function()
    for _, name in ipairs { "max_tokens", "max_completion_tokens", "max_output_tokens" } do
      for _, body in ipairs { '{"%s":77,"a":1}', '{"a":"x" , "%s" : 77 }', '{"tool_tokens":1,"%s":77}',
        '{"a":"\\"%s\\":5,","%s":77}' } do
        assert.equal(77, request.find_limit((body:gsub("%%s", name))), body)
      end
    end
  end)

  it("takes nothing else for a limit", function()
    for _, body in ipairs { '{}', '{"max_tokens":null}', '{"max_tokens":"5"}', '{"max_tokens":5.5}',
      '{"prompt":"{\\"max_tokens\\":5}"}', '{"prompt":"\\"max_tokens","b":5}', '{"max_prompt_tokens":5}',
      '_tokens":5,', '"max_tokens"', '{"my_max_tokens":5}' } do
      assert.is_nil(request.find_limit(body), body)
    end
  end)
end)

describe("raising a token limit", function()
  it("doubles what the line names, under the name it has", function()
    for name, url in pairs { max_tokens = CHAT, max_completion_tokens = CHAT, max_output_tokens = RESPONSES } do
      local own = line("a", (',"%s":1000,"user":"u"'):format(name), url)
      assert.equal(2000, request.raised_limit(own, nil, 1000, RULE))
      assert.equal(line("a", (',"%s":2000,"user":"u"'):format(name), url), request.set_limit(own, 2000))
    end
  end)

  it("adds the endpoint's own name where the line names none", function()
    assert.equal(line("a", ',"max_completion_tokens":4096'), request.set_limit(line "a", 4096))
    assert.equal(line("a", ',"max_output_tokens":4096', RESPONSES), request.set_limit(line("a", "", RESPONSES), 4096))
    assert.equal(line("a", ',"max_completion_tokens":4096'),
      request.set_limit(line("a", ',"max_completion_tokens":null'), 4096))
  end)

  it("begins at the floor or twice what was used, where the line names none", function()
    assert.equal(4096, request.raised_limit(line "a", nil, 0, RULE))
    assert.equal(4096, request.raised_limit(line "a", nil, 2048, RULE))
    assert.equal(5000, request.raised_limit(line "a", nil, 2500, RULE))
  end)

  it("goes on from the last try's limit, not from the line's", function()
    assert.equal(8000, request.raised_limit(line("a", ',"max_tokens":1000'), 4000, 4000, RULE))
  end)

  it("stops at the cap, and ends there", function()
    assert.equal(32768, request.raised_limit(line "a", 20000, 20000, RULE))
    assert.is_nil(request.raised_limit(line "a", 32768, 32768, RULE))
    assert.equal(32768, request.raised_limit(line "a", nil, 20000, RULE))
  end)

  it("never lowers a limit that is above the cap", function()
    assert.is_nil(request.raised_limit(line("a", ',"max_tokens":100000'), nil, 100000, RULE))
  end)

  it("sets the cap where the request names no limit, whatever was used", function()
    assert.equal(32768, request.raised_limit(line "a", nil, 40000, RULE))
  end)

  it("stays a whole number with any factor and cap", function()
    local rule = { factor = 1.5, floor = 4096, cap = 9000 }
    for limit, raised in pairs { [1001] = 1501, [4096] = 6144, [8000] = 9000 } do
      local got = request.raised_limit(line "a", limit, limit, rule)
      assert.same({ raised, "integer" }, { got, math.type(got) })
    end
  end)
end)

describe("feedback", function()
  local MESSAGES = ',"messages":[{"role":"user","content":"Read: \\u00e9 \\/ 12345678901234567890 "}  ]'

  it("continues a chat with the bad answer and the prompt", function()
    local asked = line("a", MESSAGES)
    local edited = request.add_feedback(asked, "I can't \"read\" it\n", "Only JSON, é!", 1000)
    assert.equal(line("a", ',"messages":[{"role":"user","content":"Read: \\u00e9 \\/ 12345678901234567890 "},'
      .. '{"role":"assistant","content":"I can\'t \\"read\\" it\\n"},'
      .. '{"role":"user","content":"Only JSON, é!"}  ]'), edited)
  end)

  it("continues a response whose input is a list", function()
    local asked = line("a", ',"input":[{"role":"user","content":"Hi"}]', RESPONSES)
    assert.equal(line("a", ',"input":[{"role":"user","content":"Hi"},{"role":"assistant","content":"x"},'
      .. '{"role":"user","content":"Again"}]', RESPONSES), request.add_feedback(asked, "x", "Again", 1000))
  end)

  it("makes a list of a response's input that is a bare string, byte for byte", function()
    local asked = line("a", ',"input": "Hi \\ud83d \\/ \\u00e9" ,"user":"u"', RESPONSES)
    assert.equal(line("a", ',"input": [{"role":"user","content":"Hi \\ud83d \\/ \\u00e9"},'
      .. '{"role":"assistant","content":"x"},{"role":"user","content":"Again"}] ,"user":"u"', RESPONSES),
      request.add_feedback(asked, "x", "Again", 1000))
  end)

  it("begins a list where a stored prompt stands for the input", function()
    for _, more in ipairs { ',"prompt":{"id":"pmpt_1"}', ',"prompt":{"id":"pmpt_1"},"input":null' } do
      local edited = request.add_feedback(line("a", more, RESPONSES), "x", "Again", 1000)
      assert.equal('[{"role":"assistant","content":"x"},{"role":"user","content":"Again"}]',
        json.raw(edited, "/body/input"))
      assert.equal("pmpt_1", json.get(edited, "/body/prompt/id"))
    end
  end)

  it("says nothing for the model where it said nothing", function()
    for _, nothing in pairs { "", " \n", false } do
      local edited = request.add_feedback(line("a", ',"messages":[]'), nothing or nil, "Again", 1000)
      assert.equal(line("a", ',"messages":[{"role":"user","content":"Again"}]'), edited)
    end
  end)

  it("cuts a long answer at a character's edge", function()
    local edited = request.add_feedback(line("a", ',"messages":[]'), "aé€", "Again", 4)
    assert.equal("aé", json.get(edited, "/body/messages/0/content"))
    assert.is_true(json.check(edited))
  end)

  it("that is no string is the policy's mistake, and said so", function()
    assert.has_error(function() request.add_feedback(line("a", ',"messages":[]'), "x", nil, 4) end,
      "policy.feedback must return a string")
  end)
end)

describe("an edit changes no byte outside itself", function()
  local ODD = ' {"body" :\t{"seed":12345678901234567890,"x":1.50E+2, "n":-0,"user":"\\/\\u00e9\\ud800", '
    .. '"model" : "m" ,\r'
    .. '"max_tokens"  :  1000 ,"messages":[ {"content":"\\u0041\\"}]","role":"user"} ],"model2":[]},"url":"'
    .. '/v1/chat/completions","custom_id":"\\u0061","method":"POST","extra":{"a":[ ]}} '

  it("however the line is written", function()
    local function expect(change, with, edited)
      local first, last = ODD:find(change, 1, true)
      assert.is_number(first)
      assert.equal(ODD:sub(1, first - 1) .. with .. ODD:sub(last + 1), edited)
    end
    expect('"max_tokens"  :  1000', '"max_tokens"  :  2000', request.set_limit(ODD, 2000))
    expect('"model" : "m"', '"model" : "gpt \\"x\\" é"', request.set_model(ODD, 'gpt "x" é'))
    expect('"role":"user"} ]', '"role":"user"},{"role":"assistant","content":"1"},{"role":"user","content":"2"} ]',
      request.add_feedback(ODD, "1", "2", 10))
    assert.same({ CHAT, "m" }, { request.group(ODD) })
  end)

  it("and all edits together are the sum of each", function()
    local edited = request.add_feedback(request.set_model(request.set_limit(ODD, 2000), "other"), "1", "2", 10)
    local undone = edited:gsub("2000", "1000", 1):gsub('"other"', '"m"', 1)
      :gsub(',{"role":"assistant","content":"1"},{"role":"user","content":"2"}', "", 1)
    assert.equal(ODD, undone)
  end)
end)
