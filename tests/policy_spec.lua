-- The policy file: what may be changed, and what every mistake in it is answered with.
local support = require "support"

local dir

setup(function() dir = support.tmpdir() end)
teardown(function() getmetatable(dir).__close(dir) end)

--- The default rules, untouched by other tests.
local function fresh()
  package.loaded["obatch.policy"] = nil
  return require "obatch.policy"
end

--- Loads a policy file that changes the default rules by `code`.
local function load_policy(code)
  local policy = fresh()
  local path = dir.path .. "/my_policy.lua"
  support.write(path, 'local policy = require "obatch.policy"\n' .. code .. "\nreturn policy\n")
  return policy.load(path)
end

local function complaint(code)
  local rules, message = load_policy(code)
  assert.is_nil(rules)
  return message
end

local function item(class, counts)
  return { custom_id = "a", class = class, reason = "r", counts = counts, attempts = 1 }
end

describe("the default rules", function()
  it("are those of the design", function()
    local rules = assert(fresh().load())
    assert.same({ invalid = 4, truncated = 4, refused = 1, transient = 6, permanent = 1, missing = 6 }, rules.attempts)
    assert.same({ factor = 2, floor = 4096, cap = 32768 }, rules.token_limit)
    assert.same({ "json", false, 3, 15 }, { rules.expect, rules.repair, rules.feedback_from, rules.settle_seconds })
    assert.is_nil(rules.accept)
    assert.is_nil(rules.validator)
    assert.is_nil(rules.refused_model)
  end)

  it("give up when a class has had its attempts, and not one before", function()
    local rules = fresh()
    for class, limit in pairs(rules.attempts) do
      assert.equal("give_up", rules.action(item(class, { [class] = limit })))
      assert.equal("give_up", rules.action(item(class, { [class] = limit + 1 })))
      if limit > 1 then assert.equal("resend", rules.action(item(class, { [class] = limit - 1 }))) end
    end
  end)

  it("count each class by itself", function()
    local rules = fresh()
    assert.equal("resend", rules.action(item("invalid", { invalid = 3, transient = 5, missing = 5 })))
  end)

  it("never give up what the service did not get to", function()
    local rules = fresh()
    assert.equal("resend", rules.action(item("expired", { expired = 60 })))
    assert.equal("resend", rules.action(item("cancelled", { cancelled = 60 })))
  end)

  it("ask another model once for what one refused, where one is named", function()
    local rules = assert(load_policy 'policy.refused_model = "gpt-other"')
    assert.equal("resend", rules.action(item("refused", { refused = 1 })))
    assert.equal("give_up", rules.action(item("refused", { refused = 2 })))
  end)

  it("tell the model what was wrong and what is wanted", function()
    local rules = fresh()
    local prompt = rules.feedback { reason = "not JSON: 100%s at byte 3" }
    assert.matches("could not be used: not JSON: 100%s at byte 3.", prompt, 1, true)
    assert.matches("valid JSON", prompt, 1, true)
    rules.expect = "text"
    assert.is_nil(rules.feedback({ reason = "blank" }):find("JSON", 1, true))
  end)
end)

describe("a policy file", function()
  it("changes single rules and leaves the others", function()
    local rules = assert(load_policy [[
      policy.attempts.invalid = 6
      policy.attempts.expired = 2
      policy.expect, policy.repair = "text", true
      policy.token_limit.cap, policy.token_limit.factor = 8192, 1.5
      policy.settle_seconds = 0.5
      function policy.accept(answer) return #answer > 3, "too short" end
      function policy.feedback(item) return "Again: " .. item.reason end
    ]])
    assert.same({ 6, 4 }, { rules.attempts.invalid, rules.attempts.truncated })
    assert.same({ "text", true, 0.5 }, { rules.expect, rules.repair, rules.settle_seconds })
    assert.equal("give_up", rules.action(item("expired", { expired = 2 })))
    assert.same({ false, "too short" }, { rules.accept "ab" })
    assert.equal("Again: r", rules.feedback { reason = "r" })
  end)

  it("may replace a table as a whole", function()
    local rules = assert(load_policy [[policy.attempts = { invalid = 1, truncated = 2, refused = 3, transient = 4,
      permanent = 5, missing = 6, cancelled = 7 }]])
    assert.equal("give_up", rules.action(item("invalid", { invalid = 1 })))
  end)

  for code, words in pairs {
    ["policy.acccept = print"] = "there is no rule 'acccept'",
    ["policy.attempts.invallid = 3"] = "there is no rule 'attempts.invallid'",
    ["policy.attempts[1] = 3"] = "there is no rule 'attempts.1'",
    ["policy.token_limit.ceiling = 3"] = "there is no rule 'token_limit.ceiling'",
    ["function policy.on_error() end"] = "there is no rule 'on_error'",
  } do
    it("with a typing error in a name is refused: " .. code, function()
      local message = complaint(code)
      assert.equal(dir.path .. "/my_policy.lua:2: policy: " .. words, message:match "^[^\n]*")
    end)
  end

  for code, words in pairs {
    ['policy.expect = "xml"'] = 'policy.expect must be "json" or "text"',
    ["policy.expect = nil"] = "policy.expect must be a string",
    ['policy.repair = "yes"'] = "policy.repair must be a boolean",
    ["policy.attempts = 3"] = "policy.attempts must be a table",
    ['policy.attempts.invalid = "6"'] = "policy.attempts.invalid must be a whole number above 0",
    ["policy.attempts.invalid = 0"] = "policy.attempts.invalid must be a whole number above 0",
    ["policy.attempts.invalid = 2.5"] = "policy.attempts.invalid must be a whole number above 0",
    ["policy.attempts.invalid = nil"] = "policy.attempts.invalid is missing",
    ["policy.attempts = { transient = 3 }"] = "is missing: change single entries",
    ["policy.token_limit = { cap = 9000 }"] = "is missing: change single entries",
    ['policy.token_limit.cap = "32k"'] = "policy.token_limit.cap must be a whole number above 0",
    ["policy.token_limit.cap = 32768.0"] = "policy.token_limit.cap must be a whole number above 0",
    ["policy.token_limit.factor = 1"] = "policy.token_limit.factor must be a number above 1",
    ["policy.token_limit.factor = 0/0"] = "policy.token_limit.factor must be a number above 1",
    ["policy.feedback_from = 2.5"] = "policy.feedback_from must be a whole number above 0",
    ["policy.feedback_answer_bytes = -1"] = "policy.feedback_answer_bytes must be a whole number above 0",
    ["policy.settle_seconds = -1"] = "policy.settle_seconds must be a number of seconds",
    ['policy.feedback = "Try again"'] = "policy.feedback must be a function",
    ["policy.action = nil"] = "policy.action must be a function",
    ["policy.accept = true"] = "policy.accept must be a function",
    ["policy.refused_model = {}"] = "policy.refused_model must be a string",
    ["policy.schema = 3"] = "policy.schema must be a table or string",
  } do
    it("with a wrong value is refused by the rule's name: " .. code, function()
      local message = complaint(code)
      assert.matches(words, message, 1, true)
      assert.matches("/my_policy.lua: ", message, 1, true)
    end)
  end

  it("that replaces a table may not misspell an entry that has no default", function()
    assert.matches("there is no rule 'attempts.expierd'", complaint [[policy.attempts = { invalid = 1, truncated = 2,
      refused = 3, transient = 4, permanent = 5, missing = 6, expierd = 7 }]], 1, true)
  end)

  it("that returns something else is told how a policy ends", function()
    for _, code in ipairs { "do return end", "do return {} end", "do return true end" } do
      assert.matches("my_policy.lua: a policy begins with .* and ends with return policy$", complaint(code))
    end
  end)

  it("that is not Lua is answered with file and line", function()
    assert.matches("my_policy.lua:3: syntax error near", complaint "\npolicy.attempts.invalid == 6", 1, true)
  end)

  it("that raises is answered with the line, and nothing of the program's own", function()
    assert.matches("my_policy.lua:3: no luck$", complaint "\nerror 'no luck'")
    assert.is_string(complaint "error {}")
    assert.is_string(complaint "error()")
  end)

  it("that does not exist is named", function()
    local rules, message = fresh().load(dir.path .. "/nowhere.lua")
    assert.is_nil(rules)
    assert.matches(dir.path .. "/nowhere.lua", message, 1, true)
  end)
end)

describe("a schema", function()
  local SCHEMA = '{"type":"object","required":["title"],"properties":{"pages":{"type":"array"}}}'

  local function check_it(rules)
    assert.is_true(rules.validator { title = "x" })
    assert.is_nil((rules.validator { pages = { 1 } }))
  end

  it("may be the path of a file", function()
    support.write(dir.path .. "/page.json", SCHEMA)
    check_it(assert(load_policy(("policy.schema = %q"):format(dir.path .. "/page.json"))))
  end)

  it("may be a table", function()
    check_it(assert(load_policy [[policy.schema = { type = "object", required = { "title" },
      properties = { pages = { type = "array" } } }]]))
  end)

  it("that cannot be read, is not JSON or no schema is named with what is wrong", function()
    local function at(name) return complaint(("policy.schema = %q"):format(dir.path .. name)) end
    assert.matches("^policy.schema: .*nowhere.json", at "/nowhere.json")
    assert.matches("^policy.schema: .*directory", at "")
    support.write(dir.path .. "/broken.json", '{"type": }')
    assert.matches("^policy.schema .*/broken.json: not JSON: byte 10", at "/broken.json")
    assert.matches("^policy.schema: .*type", complaint 'policy.schema = { type = "strnig" }')
  end)
end)
