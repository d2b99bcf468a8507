-- What models wrap around an answer, and how much of it comes off.
local json = require "obatch.json"
local support = require "support"
local text = require "obatch.text"

--- find_json's answer; fails the test when there is none.
local function found(answer, mend)
  local value, steps = text.find_json(answer, mend)
  assert.is_string(value, steps)
  assert.is_true(json.check(value, "decodable"))
  return value, steps
end

local function refused(answer, mend)
  local value, reason = text.find_json(answer, mend)
  assert.is_nil(value, value)
  assert.is_nil(reason:find("\n", 1, true), reason)
  return reason
end

--- Pairs of a name and a value, in the order in which they are written.
local function cases(list)
  local i = -1
  return function()
    i = i + 2
    return list[i], list[i + 1]
  end
end

--- Runs `action` and returns the bytes that were given to json.check and the VM instructions run.
local function work_of(action)
  local check, bytes, instructions = json.check, 0, 0
  json.check = function(candidate, ...)
    bytes = bytes + #candidate
    return check(candidate, ...)
  end
  debug.sethook(function() instructions = instructions + 1000 end, "", 1000)
  action()
  debug.sethook()
  json.check = check
  return bytes, instructions
end

describe("JSON in an answer", function()
  for name, answer in cases {
    "bare", '{"a": [1, 2]}',
    "white space around it", ' \r\n\t{"a": [1, 2]}\n\n ',
    "a fence", '```json\n{"a": [1, 2]}\n```',
    "a fence without a language", '```\n{"a": [1, 2]}\n```\n',
    "a fence of four backticks", '````json\n{"a": [1, 2]}\n````',
    "a fence with more than a language", '``` json title="page 1"\n{"a": [1, 2]}\n```',
    "CRLF fences", '```json\r\n{"a": [1, 2]}\r\n```\r\n',
    "indented fences", '1. This page:\n\n   ```json  \n   {"a": [1, 2]}\n\t```  \n',
    "a sentence before the fence", 'Here is the page:\n```json\n{"a": [1, 2]}\n```',
    "a sentence after the fence", '```json\n{"a": [1, 2]}\n```\nThe [2] is hard to read.',
    "a fence that is never closed", '```json\n{"a": [1, 2]}\n',
    "a sentence before it", 'Here is the "page":\n\n  {"a": [1, 2]} \n',
    "a note before it that begins a line", '[1] marks what I could not read\n{"a": [1, 2]}',
    "prose that ends in a quoted word", 'Here is the JSON for the page, the "page":\n{"a": [1, 2]}',
    "many lines before it that begin with a bracket", ("[?] unclear\n"):rep(10) .. '{"a": [1, 2]}',
  } do
    it("is found in: " .. name, function()
      assert.equal('{"a": [1, 2]}', (found(answer)))
    end)
  end

  it("may be any value that stands alone or in a fence", function()
    for _, value in ipairs { "42", '"word"', "null", "[]", "{}", "-0.5e3", "true" } do
      assert.equal(value, (found(value)))
      assert.equal(value, (found("```json\n" .. value .. "\n```")))
    end
  end)

  it("comes with the steps that were taken", function()
    assert.same({}, select(2, found '{"a":1}'))
    assert.same({}, select(2, found '\n{"a":1}\n'))
    assert.same({ "fence removed" }, select(2, found '```\n{"a":1}\n```'))
    assert.same({ "fence removed" }, select(2, found '```\n{"a":1}'))
    assert.same({ "text before it removed" }, select(2, found 'Look:\n{"a":1}'))
    assert.same({ "fence removed", "control characters escaped", "trailing commas removed" },
      select(2, found('```\n{"a":"\t",}\n```', true)))
  end)

  it("keeps the bytes of the value as they are", function()
    local value = '{ "n": 12345678901234567890, "e":1E+05,\t"s":"\\/\\u00e9\\uD83D\\uDE00 é" }'
    assert.equal(value, (found(value)))
    assert.equal(value, (found("```\n" .. value .. "\n```")))
    assert.equal(value, (found("So:\n" .. value)))
  end)

  it("may hold a fence of its own inside a string", function()
    assert.equal('{"a":"```json\\n1\\n```"}', (found '```json\n{"a":"```json\\n1\\n```"}\n```'))
  end)
end)

describe("no JSON is found in", function()
  for name, answer in cases {
    "a sentence that ends in brackets", "The date is illegible, see note [3]",
    "a sentence", "I cannot read this page.",
    "nothing", "",
    "white space", " \n\t ",
    "two fences", '```json\n{"a":1}\n```\nor perhaps\n```json\n{"a":2}\n```',
    "two fences, the second not closed", '```json\n{"a":1}\n```\nor\n```json\n{"a":2}',
    "text behind the value", '{"a":1}\nThat is all.',
    "two values", '{"a":1}\n{"a":2}',
    "values in a row", '{"a":1}\n\n{"a":2}\n{"a":3}',
    "values in a row after a sentence", 'The rows:\n[1]\n[2]',
    "a value that does not begin its line", 'Answer: {"a":1}',
    "a fence within a line", 'The answer is ```{"a":1}``` as asked',
    "an empty fence", "```json\n```",
    "a fence that holds something else", "```\nnothing\n```",
    "rows that were cut off", '{"rows": [\n{"id": 1},\n{"id": 2}',
    "rows that were cut off, behind a sentence", 'The rows: {"rows": [\n[1, 2],\n[3, 4]',
    "the first row of rows that were cut off", 'Rows: [\n{"id": 1}',
    "a broken object's last member", '{"title": "the "old" house",\n"rows":\n[1, 2]',
    "a cut row in a fence that is never closed", '```json\n{"rows":[\n{"id": 1},\n{"id": 2}',
    "a string with a lone surrogate", '{"a":"\\ud83d"}',
    "invalid UTF-8", '{"a":"\xE9"}',
    "NaN", '{"a": NaN}',
  } do
    it(name, function() refused(answer) end)
  end

  it("anything broken, and the reason names the byte", function()
    assert.equal("not JSON: expected ',' or '}' at byte 9", refused '{"a": 1 "b": 2}')
    assert.matches("at byte 7 of the fenced block$", refused 'See:\n```json\n{"a": x}\n```')
  end)
end)

describe("mending", function()
  it("is off unless it is asked for", function()
    refused '{"a":1,}'
    refused '{"a":"one\ntwo"}'
  end)

  it("escapes raw control characters inside strings and nowhere else", function()
    local mended, steps = text.repair '{\n\t"a\tb": "1\n2\r3\b4\f5\0006\0317"\r\n}'
    assert.equal('{\n\t"a\\tb": "1\\n2\\r3\\b4\\f5\\u00006\\u001f7"\r\n}', mended)
    assert.same({ "control characters escaped" }, steps)
    assert.same({ ["a\tb"] = "1\n2\r3\b4\f5\0006\0317" }, json.decode(mended))
  end)

  it("removes one comma before a closing bracket, and none inside strings", function()
    local mended, steps = text.repair '{"a": [1, 2 , \n ], "b": ",]", "c": "\\",}",}'
    assert.equal('{"a": [1, 2  \n ], "b": ",]", "c": "\\",}"}', mended)
    assert.same({ "trailing commas removed" }, steps)
    refused('{"a": [1,,]}', true)
    refused('{"a": [,]}', true)
  end)

  it("changes nothing else, and says so", function()
    for _, value in ipairs { '{"a":1}', '{"a":"b\\\\"}', '"\\"', "", "[1,2", '{"a": "open', "{'a': 1}" } do
      assert.same({ value, {} }, { text.repair(value) })
    end
  end)

  it("leaves a backslash before a raw newline alone: nobody knows what was meant", function()
    local broken = '{"a":"one \\\ntwo\n", "b":"\n"}'
    assert.equal('{"a":"one \\\ntwo\n", "b":"\\n"}', (text.repair(broken)))
    refused(broken, true)
    assert.equal('{"a":"one \\\\\\ntwo"}', (found('{"a":"one \\\\\ntwo"}', true)))
  end)

  it("works inside a fence, and gives up on what is still broken", function()
    assert.equal('{"a":"1\\n2"}', (found('```json\n{"a":"1\n2",}\n```', true)))
    assert.matches("byte 7 of the fenced block", refused('```json\n{"a": x,}\n```', true))
  end)
end)

describe("a huge answer", function()
  local SIZE = 1 << 16

  for name, answer in cases {
    "of lines that begin with a bracket", ("[\n"):rep(SIZE // 2),
    "of rows without an end", "[" .. ("\n[1],"):rep(SIZE // 5),
    "of notes", ("[see 1]\n"):rep(SIZE // 8),
    "of open fences", ("```json x`\n"):rep(SIZE // 11),
    "of white space", "x" .. (" "):rep(SIZE) .. "x" .. (" \n"):rep(SIZE // 2),
    "of quotes", ('"'):rep(SIZE),
    "of backslashes", '{"a":"' .. ("\\"):rep(SIZE),
    "of commas", "[" .. (", "):rep(SIZE // 2),
  } do
    it(name .. " takes work that grows with its size only", function()
      local bytes, instructions = work_of(function() refused(answer, true) end)
      assert.is_true(bytes < 24 * #answer, bytes .. " bytes")
      assert.is_true(instructions < 64 * #answer, instructions .. " instructions")
    end)
  end
end)

describe("cutting", function()
  it("keeps what is short enough", function()
    assert.equal("añb", text.cut("añb", 4))
    assert.equal("añb", text.cut("añb", 9))
    assert.equal("", text.cut("", 0))
  end)

  it("never ends inside a UTF-8 character", function()
    local whole = "aé€😀z"
    local cuts = {}
    for bytes = 0, #whole do cuts[bytes] = text.cut(whole, bytes) end
    assert.same({ [0] = "", "a", "a", "aé", "aé", "aé", "aé€", "aé€", "aé€", "aé€", "aé€😀", whole }, cuts)
  end)
end)

it("blank is what holds white space only", function()
  for _, blank in ipairs { "", " ", "\r\n\t \f\v" } do assert.is_true(text.is_blank(blank)) end
  for _, not_blank in ipairs { ".", " \n0", "\u{A0}" } do assert.is_false(text.is_blank(not_blank)) end
end)

it("shows what would act on a terminal, or hide there, as its bytes", function()
  assert.equal("a%1B[2J%00", text.printable("a\27[2J\0"))
  assert.equal("gpj%E2%80%AEexe, %E2%81%A7, %E2%80%A8, %C2%9B",
    text.printable("gpj\u{202E}exe, \u{2067}, \u{2028}, \u{9B}"))
  assert.equal("é \u{2014} \u{202F} \u{2070} 😀", text.printable("é \u{2014} \u{202F} \u{2070} 😀"))
end)

it("gives a shell a word byte for byte, as short as it can be read", function()
  local words = { "plain/name_1.txt", "two words", "it's", "", "~", "$(id)", "\xFF\27[1m\xE2\x80\xAE", "a\nb" }
  local shown = {}
  for i, word in ipairs(words) do shown[i] = text.shell_word(word) end
  assert.equal("plain/name_1.txt", shown[1])
  local _, out = support.shell("printf '<%s>' " .. table.concat(shown, " "))
  assert.equal("<" .. table.concat(words, "><") .. ">", out)
end)
