local fs = require "obatch.fs"
local json = require "obatch.json"
local schema = require "obatch.schema"

local SUITE = "/usr/share/json-schema-test-suite/tests/draft7" -- Debian: json-schema-test-suite

--- What is not run, and why.
local LEFT_OUT = {
  ["dependencies.json"] = "not supported: 2020-12 has dependentRequired for it",
  ["definitions.json"] = "a reference to another document (the meta-schema)",
  ["refRemote.json"] = "references to other documents",
  ["optional"] = "not asserted: format, content; bignum needs more than int64 and double",
  ["ref.json: ref overrides any sibling keywords"] = "2020-12: the siblings count too",
  ["ref.json: remote ref, containing refs itself"] = "a reference to another document",
  ["ref.json: Recursive references between schemas"] = "references by $id",
  ["ref.json: escaped pointer ref"] = "the schemas are under keywords that do not exist; $defs is tested below",
}

describe("schema: the JSON-Schema-Test-Suite", function()
  local left_out = {}
  for name in pairs(LEFT_OUT) do left_out[name] = true end

  for _, file in ipairs(assert(fs.list(SUITE))) do
    if LEFT_OUT[file] then
      left_out[file] = nil
    else
      for _, group in ipairs(assert(json.decode(assert(fs.read(SUITE .. "/" .. file))))) do
        local name = file .. ": " .. group.description
        if LEFT_OUT[name] then
          left_out[name] = nil
        else
          it(name, function()
            local validate = assert(schema.compile(json.encode(group.schema)))
            for _, case in ipairs(group.tests) do
              local ok, message = validate(case.data)
              if case.valid then
                assert.is_nil(message, case.description)
                assert.is_true(ok, case.description)
              else
                assert.is_nil(ok, case.description)
                assert.matches("^at ", message, 1, false)
              end
            end
          end)
        end
      end
    end
  end

  it("leaves out nothing that is not there", function()
    assert.same({}, left_out)
  end)
end)

describe("schema", function()
  --- What the validator of `source` says about the JSON text: "fits", or the message.
  local function judge(source, text)
    local ok, message = assert(schema.compile(source))(assert(json.decode(text)))
    return ok and "fits" or message
  end

  for _, case in ipairs {
    { '{"type": "string"}', "1", "at the top: expected string, got number" },
    { '{"type": ["string", "null"]}', "[]", "at the top: expected string or null, got array" },
    { '{"type": "integer"}', "1.5", "at the top: expected integer, got 1.5" },
    { '{"type": "integer"}', "1.0", "fits" },
    { '{"type": "integer"}', "1e300", "fits" },
    { '{"type": "object"}', "null", "at the top: expected object, got null" },
    { '{"enum": ["a", 1, null]}', '"b"', 'at the top: expected one of "a", 1, null, got "b"' },
    { '{"enum": [1, 2, 3, 4, 5, 6, 7, 8, 9]}', "0",
      "at the top: expected one of 1, 2, 3, 4, 5, 6, 7, 8, ..., got 0" },
    { '{"const": {"a": []}}', '{"a": {}}', 'at the top: expected {"a":[]}, got {"a":{}}' },
    { '{"const": 1}', "1.0", "fits" },
    { '{"const": false}', "0", "at the top: expected false, got 0" },
    { '{"minimum": 2}', "1", "at the top: expected at least 2, got 1" },
    { '{"exclusiveMaximum": 2.5}', "2.5", "at the top: expected less than 2.5, got 2.5" },
    { '{"multipleOf": 0.1}', "0.35", "at the top: expected a multiple of 0.1, got 0.35" },
    { '{"multipleOf": 0.1}', "0.3", "fits" },
    { '{"minLength": 2}', '"\u{1F600}"', 'at the top: expected at least 2 characters, got 1' },
    { '{"maxLength": 1}', '"\u{1F600}"', "fits" },
    { '{"pattern": "^\\\\d{4}$"}', '"1901\\n"', 'at the top: "1901\\n" does not match the pattern ^\\d{4}$' },
    { '{"pattern": "^\\\\u00e9.$"}', '"\u{e9}\u{1F600}"', "fits" },
    { '{"required": ["a", "b"]}', '{"a": 1}', 'at the top: the property "b" is missing' },
    { '{"dependentRequired": {"a": ["b"]}}', '{"a": 1}',
      'at the top: the property "b" is missing, which "a" needs' },
    { '{"dependentRequired": {"a": ["b"]}}', '{"c": 1}', "fits" },
    { '{"minProperties": 1}', "{}", "at the top: expected at least 1 property, got 0" },
    { '{"maxItems": 2}', "[1, 2, 3]", "at the top: expected at most 2 items, got 3" },
    { '{"additionalProperties": false, "properties": {"a": {}}}', '{"a": 1, "b": 2}',
      'at the top: the property "b" is not allowed' },
    { '{"additionalProperties": {"type": "null"}}', '{"a/b~": 1}', "at /a~1b~0: expected null, got number" },
    { '{"patternProperties": {"^d": {"type": "string"}}}', '{"date": 1}', "at /date: expected string, got number" },
    { '{"propertyNames": {"maxLength": 3}}', '{"date": 1}',
      'at the top: the property name "date": expected at most 3 characters, got 4' },
    { '{"items": {"type": "string"}}', '["a", 1]', "at /1: expected string, got number" },
    { '{"prefixItems": [{"type": "string"}], "items": false}', '["a", 1]',
      "at the top: expected at most 1 item, got 2" },
    { '{"prefixItems": [{"type": "string"}]}', "[1]", "at /0: expected string, got number" },
    { '{"uniqueItems": true}', '[1, {"a": 1}, {"a": 1.0}]', "at the top: the items 1 and 2 are equal" },
    { '{"contains": {"const": 1}}', "[2, 3]",
      'at the top: no item is what "contains" asks for (item 0: expected 1, got 2)' },
    { '{"anyOf": [{"type": "null"}, {"items": {"type": "null"}}]}', "[1]",
      "at the top: fits no alternative (expected null, got array; at /0: expected null, got number)" },
    { '{"oneOf": [{"minimum": 1}, {"minimum": 2}]}', "2",
      'at the top: fits two alternatives of "oneOf", 0 and 1' },
    { '{"not": {"type": "null"}}', "null", 'at the top: null is what "not" forbids' },
    { '{"if": {"required": ["a"]}, "then": {"required": ["b"]}}', '{"a": 1}',
      'at the top: the property "b" is missing' },
    { '{"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "number"}}}', "2",
      "at the top: expected at least 3, got 2" },
    { '{"properties": {"pages": {"items": {"$ref": "#/definitions/page"}}}, "definitions": {"page": {"properties": '
      .. '{"date": {"type": "string"}}}}}', '{"pages": [{"date": 3}]}',
      "at /pages/0/date: expected string, got number" },
    { '{"items": {"$ref": "#"}, "type": ["array", "null"]}', "[[[null, 1]]]",
      "at /0/0/1: expected array or null, got number" },
    { '{"$ref": "#/allOf/1/properties/a~1b%25", "allOf": [{}, {"properties": {"a/b%": {"type": "null"}}}]}', "1",
      "at the top: expected null, got number" },
    { '{"title": "a", "format": "date", "x-note": 1, "$schema": "any", "$id": "any"}', '"b"', "fits" },
    { "false", "1", "at the top: nothing is allowed here" },
  } do
    it(("%s says of %s: %s"):format(table.unpack(case)), function()
      assert.equal(case[3], judge(case[1], case[2]))
    end)
  end

  for _, case in ipairs {
    { '{"properties": {"a": {"unevaluatedProperties": false}}}',
      'at /properties/a: the keyword "unevaluatedProperties" is unknown or not supported' },
    { '{"$defs": {"unused": {"requried": ["a"]}}}',
      'at /$defs/unused: the keyword "requried" is unknown or not supported' },
    { '{"dependencies": {}}', 'at the top: the keyword "dependencies" is unknown or not supported' },
    { '{"type": "strnig"}', 'at /type: there is no type "strnig"' },
    { '{"required": "a"}', "at /required: expected array, got string" },
    { '{"minLength": -1}', "at /minLength: expected a whole number, got -1" },
    { '{"minimum": "1"}', "at /minimum: expected number, got string" },
    { '{"multipleOf": 0}', "at /multipleOf: expected a number above 0, got 0" },
    { '{"items": 1}', "at /items: expected object, got number" },
    { '{"pattern": "a("}', "at /pattern: missing closing parenthesis at character 3" },
    { '{"$ref": "other.json"}',
      'at /$ref: only references within the schema ("#/...") are supported, got "other.json"' },
    { '{"$ref": "#/$defs/none"}', 'at /$ref: there is no schema at "#/$defs/none"' },
    { '{"properties": {"a": {"$id": "b"}}}',
      "at /properties/a/$id: an $id below the top is not supported: it changes what references mean" },
    { '{"$ref": "#"}', "at the top: the schema refers to itself without end" },
    { '{"allOf": [{"anyOf": [{"$ref": "#/allOf/0"}]}]}',
      "at /allOf/0: the schema refers to itself without end" },
    { '{"type": "object",}', "not JSON: byte 19: " },
    { "1", "at the top: expected object, got number" },
  } do
    it("compile refuses " .. case[1], function()
      local validate, message = schema.compile(case[1])
      assert.is_nil(validate)
      assert.equal(case[2], message:sub(1, #case[2]))
      if case[2]:sub(-1) ~= " " then assert.equal(case[2], message) end
    end)
  end

  it("takes a Lua table, whose lists need no mark", function()
    local validate = assert(schema.compile {
      type = "object", required = { "a" }, properties = { a = { enum = { "x" } } },
    })
    assert.is_true(validate { a = "x" })
    assert.same({ nil, 'at /a: expected "x", got "y"' }, { validate { a = "y" } })
  end)

  it("cuts long values in messages between characters", function()
    local message = select(2, assert(schema.compile { const = 1 })(("\u{e9}"):rep(1000)))
    assert.is_true(#message < 120)
    assert.truthy(utf8.len(message))
  end)

  it("calling a validator without a value is misuse", function()
    assert.has_error(function() assert(schema.compile(true))(nil) end, "a decoded JSON value expected, got nil")
  end)

  it("a pattern that would take for ever is given up, with its name", function()
    local validate = assert(schema.compile { pattern = "^(a+)+$" })
    local ok, message = validate(("a"):rep(60) .. "b")
    assert.is_nil(ok)
    assert.matches("pattern", message)
  end)
end)
