local fs = require "obatch.fs"
local json = require "obatch.json"
local random_json = require "random_json"
local support = require "support"

local fixtures = support.home .. "/tests/fixtures/json"

local function hex(text) return (text:gsub(".", function(c) return ("%02x"):format(c:byte()) end)) end

--- The form of tests/second_parser.js.
local function canonical(value)
  if value == json.null or type(value) == "boolean" then return tostring(value) end
  if type(value) == "string" then return "s" .. hex(value) end
  if type(value) == "number" then return hex(string.pack(">d", value)) end
  local parts = {}
  if json.is_array(value) then
    for i, item in ipairs(value) do parts[i] = canonical(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for key, item in pairs(value) do parts[#parts + 1] = hex(key) .. ":" .. canonical(item) end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

--- Equal to the last bit: 1 is not 1.0, an empty array is no empty object.
local function same(a, b)
  if type(a) ~= type(b) or math.type(a) ~= math.type(b) then return false end
  if type(a) == "number" then return string.pack("n", a) == string.pack("n", b) and (a ~= 0 or 1 / a == 1 / b) end
  if type(a) ~= "table" then return a == b end
  if json.is_array(a) ~= json.is_array(b) then return false end
  for key, value in pairs(a) do if not same(value, b[key]) then return false end end
  for key in pairs(b) do if a[key] == nil then return false end end
  return true
end

describe("json.check", function()
  it("gives every fixture the verdict of its name", function()
    local seen = 0
    for _, name in ipairs(assert(fs.list(fixtures))) do
      local good, message, position = json.check(support.read(fixtures .. "/" .. name))
      assert(good == (name:match("^y_") and true or nil), name .. ": " .. tostring(message))
      assert(good or math.type(position) == "integer", name)
      seen = seen + 1
    end
    assert.is_true(seen > 100)
  end)

  it("counts positions from 1, in bytes", function()
    assert.same({ n = 3, nil, "expected ',' or '}'", 10 }, table.pack(json.check('{"é": 1 "b": 2}')))
    assert.same({ n = 3, nil, "unexpected end of the text", 1 }, table.pack(json.check("")))
  end)

  it("refuses lone surrogates only when asked", function()
    assert.is_true(json.check '"\\ud800"')
    assert.same({ n = 3, nil, "lone surrogate", 3 }, table.pack(json.check('{"\\ud800": 1}', "decodable")))
    assert.is_true(json.check('"\\ud83d\\ude00"', "decodable"))
  end)

  it("raises on an option it does not know", function()
    assert.has_error(function() json.check("1", "decodeable") end)
    assert.has_error(function() json.check(nil) end)
  end)
end)

describe("the scanner and a second parser", function()
  it("agree on every verdict and every value", function()
    math.randomseed(20240601)
    local texts = {}
    for _, name in ipairs(assert(fs.list(fixtures))) do texts[#texts + 1] = support.read(fixtures .. "/" .. name) end
    for _ = 1, 1500 do
      local text = random_json.document()
      texts[#texts + 1] = text
      for _ = 1, 3 do texts[#texts + 1] = random_json.damage(text) end
    end
    local lines = {}
    for i, text in ipairs(texts) do lines[i] = hex(text) .. "\n" end
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/texts", table.concat(lines))
    local code, out, complaint = support.shell(("node %s %s"):format(
      support.quote(support.home .. "/tests/second_parser.js"), support.quote(dir.path .. "/texts")))
    assert(code == 0, complaint)

    local i, accepted, refused = 0, 0, 0
    for verdict in out:gmatch("[^\n]+") do
      i = i + 1
      local text = texts[i]
      local good, message = json.check(text)
      assert((good or false) == (verdict ~= "refused"),
        ("%q: the second parser says %s, the scanner %s"):format(text, verdict, message))
      if not good then
        refused = refused + 1
      else
        accepted = accepted + 1
        local value, problem = json.decode(text)
        if problem == "lone surrogate" then
          assert.is_nil(json.check(text, "decodable"))
        else
          local ours = problem == "number too large" and "spoiled" or canonical(value)
          assert(ours == verdict, ("%q: the second parser has %s, decode %s"):format(text, verdict, ours))
        end
      end
    end
    assert.equal(#texts, i)
    assert.is_true(accepted > 1500 and refused > 1500)
  end)
end)

describe("json.decode", function()
  it("gives every number as strtod does, to the last bit", function()
    math.randomseed(11)
    local function digits(n)
      local list = {}
      for i = 1, n do list[i] = math.random(0, 9) end
      return table.concat(list)
    end
    local texts = { "9007199254740992", "9007199254740993", "9007199254740993.0", "900719925474099.3", "0.1", "-0.0",
      "9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809", "5e-324", "2e-324",
      "1.7976931348623157e308", "0.0000000000000000001", "0.00000000000000000001", "1e22",
      "18446744073709551616", "184467440737095516160", "1844674407370955161.6", "0.5000000000000000000000000001" }
    for i = 1, 20000 do
      local whole = math.random(3) == 1 and "0" or math.random(9) .. digits(math.random(0, 20))
      texts[#texts + 1] = (i % 2 == 0 and "-" or "") .. whole .. "." .. digits(math.random(1, 20))
      local odd = (1 << 53) + 2 * math.random(0, 1 << 50) + 1 -- half way between two doubles
      texts[#texts + 1] = ("%d.%s"):format(odd, i % 3 == 0 and "0" or digits(3))
      texts[#texts + 1] = ("%s.%se%d"):format(math.random(0, 9), digits(math.random(1, 18)), math.random(-330, 300))
    end
    local values = assert(json.decode("[" .. table.concat(texts, ", ") .. "]"))
    for i, text in ipairs(texts) do
      assert(same(values[i], tonumber(text)), text)
      assert(same(values[i], json.get(text .. " ", "")), text)
    end
    assert.same({ n = 3, nil, "number too large", 5 }, table.pack(json.decode('[1, 1.7976931348623159e308]')))
  end)

  it("tells keys apart that look alike at both ends", function()
    local names, parts = {}, {}
    for i = 1, 300 do names[i] = ("k%dy"):format(i) end
    for i, name in ipairs(names) do parts[i] = ('"%s": %d'):format(name, i) end
    local text = "{" .. table.concat(parts, ", ") .. ', "k7y": "last", "": "", "\\u006b8y": "escaped"}'
    for _, value in ipairs(json.decode("[" .. text .. "," .. text .. "]")) do
      for i, name in ipairs(names) do
        assert.equal(i == 7 and "last" or i == 8 and "escaped" or i, value[name])
      end
      assert.equal("", value[""])
    end
  end)

  it("may be used by a finalizer that runs while it makes values", function()
    local text = '[{"a": "x\\ny", "b": [1, 2.5, {"c": null}]}'
      .. (', {"a": "longer\\n", "b": [-7, "\\u00e9"]}'):rep(500) .. "]"
    local meta, runs, stop = {}, 0, false
    function meta.__gc()
      if stop then return end
      runs = runs + 1
      assert(json.decode('{"a": "\\t\\t", "zz": [' .. ("[1.5, {}],"):rep(50) .. "3]}"))
      setmetatable({}, meta)
    end
    setmetatable({}, meta)
    local expected = json.encode(json.decode(text))
    for _ = 1, 30 do assert.equal(expected, json.encode(json.decode(text))) end
    stop = true
    assert.is_true(runs > 0)
  end)
end)

describe("json.find, json.get and json.raw", function()
  local line = '{"response": {"body": {"choices": [{"n": 1.0, "text": "a\\nb"}]}}, "error": null, "ids": [],'
    .. ' "bad": "\\ud800", "big": 1e999}'

  it("find scalars, containers and nothing", function()
    assert.equal("a\nb", json.get(line, "/response/body/choices/0/text"))
    assert.equal('"a\\nb"', json.raw(line, "/response/body/choices/0/text"))
    assert.equal("float", math.type(json.get(line, "/response/body/choices/0/n")))
    assert.equal(json.null, json.get(line, "/error"))
    assert.is_true(json.is_array(json.get(line, "/ids")))
    assert.same({ n = 1 }, table.pack(json.get(line, "/response/body/choices/1")))
    assert.same({ n = 1 }, table.pack(json.raw(line, "/error/code")))
    assert.equal(line, json.raw(" " .. line .. "\n", ""))
  end)

  it("find what the text's own layout says, in random documents", function()
    math.randomseed(7)
    for _ = 1, 1500 do
      local text, places = random_json.document()
      local fields = {}
      for _, place in ipairs(places) do
        assert.equal(text:sub(place.from, place.to), json.raw(text, place.pointer))
        local alone = json.decode(text:sub(place.from, place.to))
        assert.is_true(same(alone, json.get(text, place.pointer)))
        fields[place.pointer] = place.pointer
      end
      local values = json.find(text, fields)
      for _, place in ipairs(places) do
        assert.is_true(same(json.get(text, place.pointer), values[place.pointer]))
      end
    end
  end)

  it("tell a string that cannot be decoded from one that is absent", function()
    assert.same({ n = 3, nil, "lone surrogate", (line:find("\\ud800", 1, true)) }, table.pack(json.get(line, "/bad")))
    assert.equal('"\\ud800"', json.raw(line, "/bad"))
    assert.same({ n = 3, nil, "number too large", (line:find("1e999", 1, true)) }, table.pack(json.get(line, "/big")))
    assert.equal("a\nb", json.get(line, "/response/body/choices/0/text"))
  end)

  it("find several values at once, each under its name, and say which cannot be decoded", function()
    local fields = { text = "/response/body/choices/0/text", again = "/response/body/choices/0/text", none = "/none",
      all = "/response", gone = "/error", bad = "/bad", big = "/big" }
    local found = json.find(line, fields)
    assert.same({ bad = ("byte %d: lone surrogate"):format((line:find("\\ud800", 1, true))),
      big = ("byte %d: number too large"):format((line:find("1e999", 1, true))) }, found.spoiled)
    found.spoiled = nil
    assert.same({ text = "a\nb", again = "a\nb", gone = json.null,
      all = { body = { choices = { { n = 1.0, text = "a\nb" } } } } }, found)
    assert.same({}, json.find("[]", { none = "/error" }))
    assert.same({ whole = 5 }, json.find("5", { whole = "" }))
    assert.same({}, json.find("5", {}))
  end)

  it("refuse a malformed text even when the value comes before the fault", function()
    assert.same({ n = 3, nil, "expected ',' or '}'", 9 }, table.pack(json.get('{"a": 1 x}', "/a")))
    assert.same({ n = 3, nil, "expected ',' or '}'", 9 }, table.pack(json.raw('{"a": 1 x}', "/a")))
    assert.same({ n = 3, nil, "expected ',' or '}'", 9 }, table.pack(json.find('{"a": 1 x}', { a = "/a" })))
  end)

  it("raise on what is no pointer", function()
    assert.has_error(function() json.get("{}", "a") end)
    assert.has_error(function() json.raw("{}", "/~") end)
    for _, fields in ipairs { { a = "a" }, { a = 1 }, { "/a" }, { spoiled = "/a" } } do
      assert.has_error(function() json.find("{}", fields) end)
    end
    assert.has_error(function() json.find("{}", "/a") end)
  end)
end)

describe("json.set", function()
  it("replaces the last of duplicate keys, and only that", function()
    assert.equal('{"a": 1 ,"a" :  true }', json.set('{"a": 1 ,"a" :  [2] }', "/a", "true"))
  end)

  it("appends with '-' and adds a key at the end", function()
    assert.equal("[1]", json.set("[]", "/-", "1"))
    assert.equal("[1 ]", json.set("[ ]", "/-", "1"))
    assert.equal('{"m": [1, 2,3\n] }', json.set('{"m": [1, 2\n] }', "/m/-", "3"))
    assert.equal('{"a": 1,"b":2 }', json.set('{"a": 1 }', "/b", "2"))
    assert.equal('{"a/b~\\n\\"é":2}', json.set("{}", '/a~1b~0\n"é', "2"))
    assert.equal('{"-":2}', json.set("{}", "/-", "2"))
    assert.equal('{"a\\u0000b":0}', json.set("{}", "/a\0b", "0"))
  end)

  it("replaces the whole text but not the space around it", function()
    assert.equal(" [1]\n", json.set(" {}\n", "", "[1]"))
  end)

  it("leaves the space around the new value out", function()
    assert.equal("[2]", json.set("[1]", "/0", " 2\n"))
  end)

  it("fails where there is nothing to put it into", function()
    for _, case in ipairs { { "{}", "/a/b" }, { "[1]", "/1" }, { "[1]", "/x" }, { "[[]]", "/0/0" }, { "1", "/a" },
      { '{"a": "b"}', "/a/-" } } do
      local text, message = json.set(case[1], case[2], "0")
      assert.is_nil(text)
      assert.truthy(message:find(case[2], 1, true))
    end
    assert.same({ n = 3, nil, "unexpected end of the text", 2 }, table.pack(json.set("{", "/a", "0")))
  end)

  it("raises when the new value is not strict JSON", function()
    for _, raw in ipairs { "", "NaN", "[1,]", "'x'", "1 2", '"\xff"' } do
      assert.has_error(function() json.set("{}", "/a", raw) end)
    end
    assert.has_error(function() json.set("{}", "/\xff", "1") end)
  end)

  it("never makes a text that is nested too deep to be read", function()
    local deep = ("["):rep(1000) .. "0" .. ("]"):rep(1000)
    local pointer = ("/0"):rep(1000)
    local function nested(n) return ("["):rep(n) .. ("]"):rep(n) end
    assert.is_true(json.check(json.set(deep, pointer, nested(24))))
    assert.is_nil((json.set(deep, pointer, nested(25))))
  end)

  it("changes no byte outside the value, in random documents", function()
    math.randomseed(99)
    local set, added = 0, 0
    for _ = 1, 1500 do
      local text, places = random_json.document()
      local place = places[math.random(#places)]
      local raw = json.raw(random_json.document(), "")
      local expected = text:sub(1, place.from - 1) .. raw .. text:sub(place.to + 1)
      assert.equal(expected, json.set(text, place.pointer, raw))
      assert.equal(raw, json.raw(expected, place.pointer))
      assert.equal(text, json.set(expected, place.pointer, text:sub(place.from, place.to)))
      set = set + 1

      local name = random_json.string()
      local key = place.type == "array" and "-" or name:gsub("~", "~0"):gsub("/", "~1")
      if place.type == "array" or place.type == "object" and not place.keys[name] then
        local longer = json.set(text, place.pointer .. "/" .. key, raw)
        -- Only something that goes in before the closing bracket; taking it out gives the text back.
        local inserted = #longer - #text
        local close = place.to + inserted
        assert.equal(text:sub(place.to), longer:sub(close))
        local space = #text:sub(place.from, place.to - 1):match("[ \t\r\n]*$")
        local from = place.to - space
        assert.equal(text, longer:sub(1, from - 1) .. longer:sub(from + inserted))
        assert.is_true(json.check(longer))
        if place.type == "object" then assert.equal(raw, json.raw(longer, place.pointer .. "/" .. key)) end
        added = added + 1
      end
    end
    assert.is_true(set == 1500 and added > 200)
  end)
end)

describe("json.decode and json.encode", function()
  it("are a lossless pair on random values", function()
    math.randomseed(3)
    for _ = 1, 3000 do
      local value = random_json.value(json)
      local text = json.encode(value)
      assert.is_true(json.check(text, "decodable"))
      local back = json.decode(text)
      assert(same(value, back), text)
      assert.equal(text, json.encode(back))
    end
  end)

  it("keep what a text means, in random documents", function()
    math.randomseed(4)
    for _ = 1, 1500 do
      local value = json.decode(random_json.document())
      assert.is_true(same(value, json.decode(json.encode(value))))
    end
  end)

  it("keep what lua-cjson loses", function()
    for _, text in ipairs { "[]", "{}", '{"a":[]}', "12345678901234567", "48213", "1.0", "-0.0", '"a/b"',
      "0.30000000000000004", "9223372036854775807", "-9223372036854775808", "1e+100", "5e-324", "[null]" } do
      assert.equal(text, json.encode(json.decode(text)))
    end
  end)

  it("tell integers from floats", function()
    assert.equal("integer", math.type(json.decode "9223372036854775807"))
    assert.equal(2.0 ^ 63, json.decode "9223372036854775808")
    assert.equal("float", math.type(json.decode "9223372036854775808"))
    assert.equal("float", math.type(json.decode "1e2"))
    assert.equal(-math.huge, 1 / json.decode "-0")
  end)

  it("let the last of duplicate keys win", function()
    assert.same({ a = 2 }, json.decode '{"a": 1, "a": 2}')
  end)

  it("sort keys by their bytes", function()
    assert.equal('{"":0,"A":1,"B":2,"a":3,"aa":4,"b":5,"é":6}',
      json.encode { b = 5, aa = 4, a = 3, ["é"] = 6, B = 2, A = 1, [""] = 0 })
  end)

  it("escape what must be escaped and nothing else", function()
    assert.equal('"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/\127é\u{2028}😀"',
      json.encode "\0\b\t\n\f\r\x1f\"\\/\127é\u{2028}😀")
  end)

  it("take an unmarked table for what it looks like", function()
    assert.equal("{}", json.encode {})
    assert.equal("[1,2]", json.encode { 1, 2 })
    assert.equal("[]", json.encode(json.array {}))
    assert.equal('[{},"x"]', json.encode(json.array { {}, "x" }))
  end)

  it("name the culprit when there is no JSON for a value", function()
    local loop = {}
    loop.again = loop
    local cases = {
      { { body = { messages = { 1, 0 / 0 } } }, "/body/messages/1" },
      { { ["a/b"] = { ["c~d"] = math.huge } }, "/a~1b/c~0d" },
      { { text = "\xff" }, "/text" },
      { { outer = { ["\xff"] = 1 } }, "/outer" },
      { { mixed = { 1, 2, name = 3 } }, "/mixed" },
      { { holes = { [1] = 1, [3] = 3 } }, "/holes" },
      { { holes = { 1, nil, 3 } }, 'holes at "/holes"' },
      { { half = { [0.5] = 1 } }, "/half" },
      { { list = json.array { name = 1 } }, "/list" },
      { { call = print }, "/call" },
      { { file = io.stdout }, "/file" },
      { loop, "cycle" },
    }
    for _, case in ipairs(cases) do
      local good, message = pcall(json.encode, case[1])
      assert.is_false(good)
      assert(message:find(case[2], 1, true), message)
    end
    assert.has_error(function() json.encode(nil) end)
    assert.has_error(function() json.encode() end)
  end)

  it("go as deep as the scanner", function()
    local value = 0
    for _ = 1, 1024 do value = { value } end
    assert.is_true(json.check(json.encode(value)))
    assert.equal(json.encode(value), json.encode(json.decode(json.encode(value))))
    assert.has_error(function() json.encode { value } end)
    assert.is_nil((json.decode(("["):rep(1025) .. ("]"):rep(1025))))
  end)

  it("say where a text is broken", function()
    assert.same({ n = 3, nil, "expected a value", 4 }, table.pack(json.decode "[1,]"))
    assert.same({ n = 3, nil, "lone surrogate", 4 }, table.pack(json.decode '["a\\udc00"]'))
  end)
end)

describe("json.null and json.array", function()
  it("are one value and a mark", function()
    assert.equal("null", tostring(json.null))
    assert.equal(json.null, require "cjson".null)
    local list = { 1 }
    assert.equal(list, json.array(list))
    assert.is_true(json.is_array(list))
    assert.is_false(json.is_array {})
    assert.is_false(json.is_array(io.stdout))
    assert.has_error(function() json.array(setmetatable({}, {})) end)
    assert.has_error(function() json.array() end)
  end)
end)
