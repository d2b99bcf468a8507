-- json.pretty: the same text on many lines.
local fs = require "obatch.fs"
local json = require "obatch.json"
local random_json = require "random_json"
local support = require "support"

local fixtures = support.home .. "/tests/fixtures/json"

--- The text without the space between its tokens.
local function compact(text)
  local pieces, at = {}, 1
  while at <= #text do
    local from = text:find('"', at, true) or #text + 1
    pieces[#pieces + 1] = text:sub(at, from - 1):gsub("[ \t\r\n]", "")
    local to = from
    repeat
      to = text:find('["\\]', to + 1) or #text + 1
      local escape = text:sub(to, to) == "\\"
      if escape then to = to + 1 end
    until not escape
    pieces[#pieces + 1] = text:sub(from, to)
    at = to + 1
  end
  return table.concat(pieces)
end

--- What a text means, as a text that tells 1 from 1.0 and [] from {}; or why it cannot be said.
local function meaning(text)
  local value, problem = json.decode(text)
  if value == nil then return problem end
  return json.encode(value)
end

describe("json.pretty", function()
  it("puts every member and element on a line of its own, two spaces a level", function()
    assert.equal([[
{
  "a": [
    1,
    [],
    {},
    [
      {}
    ]
  ],
  "b": {
    "c": null
  }
}]], json.pretty ' {"a":[1,[ ],{\n},[{}]],"b":{"c" :null}}\n')
    for _, scalar in ipairs { "1", '"[1,2]"', "null", "[]", "{}" } do
      assert.equal(scalar, json.pretty(" " .. scalar .. "\n"))
    end
  end)

  it("keeps the bytes of every scalar and key, their order, and duplicates", function()
    assert.equal([[
{
  "z": 1.0,
  "a\/\u00e9": 12345678901234567890123,
  "z": -0,
  "é": "\ud800\u0041, {\"x\": []}",
  "": 1E400
}]], json.pretty [[{"z":1.0,"a\/\u00e9":12345678901234567890123,"z":-0,"é":"\ud800\u0041, {\"x\": []}","":1E400}]])
  end)

  it("changes neither a token nor the meaning, in random documents", function()
    math.randomseed(20240605)
    for _ = 1, 3000 do
      local text = random_json.document()
      local pretty = assert(json.pretty(text))
      assert(compact(pretty) == compact(text), text)
      assert(meaning(pretty) == meaning(text), text)
      assert(json.pretty(pretty) == pretty, text)
    end
  end)

  it("lays out as Python's json does with indent=2", function()
    math.randomseed(20240606)
    local dir <close> = support.tmpdir()
    local texts = {}
    for i = 1, 500 do texts[i] = json.encode((random_json.document())) end -- each as a string on a line
    support.write(dir.path .. "/texts", table.concat(texts, "\n"))
    support.write(dir.path .. "/layout.py", [[
import json, sys
for line in open(sys.argv[1], encoding="utf-8", newline="\n"):
    value = json.loads(json.loads(line))
    plain = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    print(json.dumps([plain, json.dumps(value, ensure_ascii=False, indent=2)]))
]])
    local code, out, complaint = support.shell(("python3 %s/layout.py %s/texts"):format(dir.path, dir.path))
    assert(code == 0, complaint)
    local count = 0
    for line in out:gmatch("[^\n]+") do
      local plain, laid_out = table.unpack(json.decode(line))
      assert.equal(laid_out, json.pretty(plain))
      count = count + 1
    end
    assert.equal(#texts, count)
  end)

  it("refuses what json.check refuses, with the same words and place", function()
    local refused = 0
    for _, name in ipairs(assert(fs.list(fixtures))) do
      local text = support.read(fixtures .. "/" .. name)
      local _, message, position = json.check(text)
      local pretty, complaint, place = json.pretty(text)
      assert((pretty == nil) == (message ~= nil), name)
      assert.same({ message, position }, { complaint, place })
      if not pretty then refused = refused + 1 end
    end
    assert.is_true(refused > 50)
    assert.has_error(function() json.pretty(nil) end)
  end)

  it("goes as deep as the scanner", function()
    local pretty = assert(json.pretty(("["):rep(1024) .. ("]"):rep(1024)))
    assert.truthy(pretty:find("\n" .. (" "):rep(2046) .. "[]\n" .. (" "):rep(2044) .. "]\n", 1, true))
    assert.equal("nested too deep", select(2, json.pretty(("["):rep(1025) .. ("]"):rep(1025))))
  end)

  it("takes texts of 64 MB", function()
    local word = '"' .. ("é"):rep(1000) .. '"'
    local text = "[" .. (word .. ","):rep(32000) .. word .. "]"
    assert.is_true(#text > 64000000)
    local pretty = assert(json.pretty(text))
    assert.equal(#text + 32001 * 3 + 1, #pretty)
    assert.is_true(compact(pretty) == text)
  end)
end)
