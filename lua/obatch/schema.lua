--- JSON Schema for judging answers: the assertions that draft 7 and draft 2020-12 share.
--
--   local fits = assert(schema.compile(fs.read("page.schema.json")))
--   local ok, why = fits(json.decode(answer))   -- nil, "at /pages/0/date: expected string, got number"
--
-- A keyword that would assert something and is not supported is an error of compile(), never ignored.
-- Beside a $ref other keywords count too (2020-12; draft 7 would ignore them). `format` and the like
-- are annotations. References lead to places in the same document ("#", "#/$defs/page").

local json = require "obatch.json"

local schema = {}

--- Keywords that say something about a schema without asserting anything.
local ANNOTATIONS = {}
for name in ([[ $schema $comment $vocabulary title description default examples deprecated readOnly writeOnly
    format contentEncoding contentMediaType contentSchema ]]):gmatch("%S+") do
  ANNOTATIONS[name] = true
end

-- ---- values and words ----

local function kind(value)
  if value == json.null then return "null" end
  local name = type(value)
  if name == "table" then return json.is_array(value) and "array" or "object" end
  return name
end

local function is_integer(value)
  return math.type(value) == "integer"
    or math.type(value) == "float" and value % 1 == 0 -- 1.0 is an integer; inf % 1 and nan are not 0
end

local function equal(a, b)
  if a == b then return true end
  if type(a) ~= "table" or type(b) ~= "table" or kind(a) ~= kind(b) then return false end
  for key, value in pairs(a) do
    if b[key] == nil or not equal(value, b[key]) then return false end
  end
  for key in pairs(b) do
    if a[key] == nil then return false end
  end
  return true
end

local function show(value)
  local text = json.encode(value)
  if #text <= 80 then return text end
  return text:sub(1, utf8.offset(text, 0, 77) - 1) .. "..."
end

local PLURAL = { character = "characters", item = "items", property = "properties" }

local function count(number, noun)
  return ("%d %s"):format(number, number == 1 and noun or PLURAL[noun])
end

--- Enough of a list to understand it.
local function some(list, separator)
  if #list <= 8 then return table.concat(list, separator) end
  return table.concat(list, separator, 1, 8) .. separator .. "..."
end

local function at(pointer)
  return pointer == "" and "at the top" or "at " .. pointer
end

--- One step of an RFC 6901 pointer.
local function step(key)
  return "/" .. key:gsub("~", "~0"):gsub("/", "~1")
end

local function sorted_keys(object)
  local keys = {}
  for key in pairs(object) do keys[#keys + 1] = key end
  table.sort(keys)
  return keys
end

-- ---- compiling ----
--
-- A schema becomes a node whose check(value) returns nothing when the value fits, else a message and
-- the pointer from the value to what does not fit. node.same lists the nodes that look at the same
-- value, for finding schemas that refer to nothing but themselves.

local Compiler = {}
Compiler.__index = Compiler

--- Ends the compilation; compile() turns it into nil, message.
local function refuse(place, format, ...)
  error({ refused = ("%s: %s"):format(at(place), format:format(...)) }, 0)
end

local function expect_kind(argument, wanted, place)
  local is = kind(argument)
  if is == "object" and wanted == "array" and next(argument) == nil then return end -- a Lua {}
  if is ~= wanted then refuse(place, "expected %s, got %s", wanted, is) end
end

local function expect_count(argument, place)
  if not is_integer(argument) or argument < 0 then
    refuse(place, "expected a whole number, got %s", show(argument))
  end
  return argument // 1
end

local function expect_names(argument, place)
  expect_kind(argument, "array", place)
  for i, name in ipairs(argument) do expect_kind(name, "string", place .. "/" .. i - 1) end
  return argument
end

local FALSE = { check = function() return "nothing is allowed here", "" end, same = {} }
local TRUE = { check = function() end, same = {} }

local keywords, ORDER -- below

---@param source any    a schema
---@param place string  where it stands
---@return table node
function Compiler:node(source, place)
  if source == true then return TRUE end
  if source == false then return FALSE end
  expect_kind(source, "object", place)
  local node = self.nodes[source]
  if node then return node end
  node = { same = {}, place = place }
  self.nodes[source] = node
  self.all[#self.all + 1] = node

  for _, key in ipairs(sorted_keys(source)) do
    if key == "$id" and place ~= "" then
      refuse(place .. "/$id", "an $id below the top is not supported: it changes what references mean")
    elseif not keywords[key] and not ANNOTATIONS[key] and key ~= "$id" and key:sub(1, 2) ~= "x-" then
      refuse(place, "the keyword %q is unknown or not supported", key)
    end
  end
  local checks = {}
  for _, key in ipairs(ORDER) do
    if source[key] ~= nil then
      checks[#checks + 1] = keywords[key](self, source[key], place .. step(key), source, node)
    end
  end
  function node.check(value)
    for i = 1, #checks do
      local message, pointer = checks[i](value)
      if message then return message, pointer or "" end
    end
  end
  return node
end

--- A node for the same value as `node` looks at.
---@param node table
---@param source any
---@param place string
---@return table node
function Compiler:same(node, source, place)
  local other = self:node(source, place)
  node.same[#node.same + 1] = other
  return other
end

---@param sources any[]
---@param place string
---@param node? table
---@return table[] nodes
function Compiler:list(sources, place, node)
  expect_kind(sources, "array", place)
  local nodes = {}
  for i, source in ipairs(sources) do
    local where = place .. "/" .. i - 1
    nodes[i] = node and self:same(node, source, where) or self:node(source, where)
  end
  return nodes
end

---@param sources table<string, any>
---@param place string
---@return table<string, table> nodes
function Compiler:map(sources, place)
  expect_kind(sources, "object", place)
  local nodes = {}
  for _, key in ipairs(sorted_keys(sources)) do nodes[key] = self:node(sources[key], place .. step(key)) end
  return nodes
end

--- The schema that "#..." refers to, and its place.
---@param reference string
---@param place string
---@return any schema
---@return string place
function Compiler:resolve(reference, place)
  local pointer = reference:match("^#(.*)$")
  if not pointer or (pointer ~= "" and pointer:sub(1, 1) ~= "/") then
    refuse(place, "only references within the schema (\"#/...\") are supported, got %q", reference)
  end
  pointer = pointer:gsub("%%(%x%x)", function(digits) return string.char(tonumber(digits, 16)) end)
  local target = self.root
  for key in pointer:gmatch("/([^/]*)") do
    key = key:gsub("~1", "/"):gsub("~0", "~")
    if type(target) == "table" and json.is_array(target) then
      key = key:match("^%d+$") and tonumber(key) + 1
    end
    target = type(target) == "table" and key and target[key]
    if target == nil then break end
  end
  if target == nil or (type(target) ~= "table" and type(target) ~= "boolean") then
    refuse(place, "there is no schema at %q", reference)
  end
  return target, pointer
end

--- match(text) -> whether the ECMA-262 pattern occurs in text | nil, message
local function compile_pattern(pattern, place)
  expect_kind(pattern, "string", place)
  local found, rex = pcall(require, "rex_pcre2")
  if not found then
    refuse(place, "patterns need PCRE2 for Lua: install the package lua-rex-pcre2")
  end
  local flags = rex.flags()
  local ok, regex = pcall(rex.new, pattern,
    flags.UTF | flags.DOLLAR_ENDONLY | flags.ALT_BSUX | flags.ALLOW_EMPTY_CLASS)
  if not ok then
    refuse(place, "%s", (tostring(regex):gsub(" %(pattern offset: (%d+)%)", " at character %1")))
  end
  return function(text)
    local done, first = pcall(regex.find, regex, text)
    if not done then return nil, "the pattern " .. pattern .. " takes too long" end
    return first ~= nil
  end
end

-- ---- the keywords: (compiler, argument, place, schema, node) -> check or nil ----

local TYPES = { null = true, boolean = true, object = true, array = true, number = true, string = true,
  integer = true }

local function number_limit(fits, words)
  return function(_, limit, place)
    expect_kind(limit, "number", place)
    return function(value)
      if type(value) == "number" and not fits(value, limit) then
        return ("expected %s %s, got %s"):format(words, show(limit), show(value))
      end
    end
  end
end

--- A limit on how many there are in a value of the kind `of`.
local function size_limit(of, noun, measure, at_least)
  return function(_, argument, place)
    local limit = expect_count(argument, place)
    return function(value)
      if kind(value) ~= of then return end
      local size = measure(value)
      if at_least and size < limit then
        return ("expected at least %s, got %d"):format(count(limit, noun), size)
      elseif not at_least and size > limit then
        return ("expected at most %s, got %d"):format(count(limit, noun), size)
      end
    end
  end
end

local function characters(text) return utf8.len(text, 1, -1, true) or #text end
local function items(array) return #array end
local function properties(object)
  local n = 0
  for _ in pairs(object) do n = n + 1 end
  return n
end

local function reason(message, pointer)
  return pointer == "" and message or at(pointer) .. ": " .. message
end

local function fits_none(reasons)
  return "fits no alternative (" .. some(reasons, "; ") .. ")"
end

local function is_multiple(value, unit)
  if math.type(value) == "integer" and math.type(unit) == "integer" then return value % unit == 0 end
  local quotient = value / unit
  local whole = math.floor(quotient + 0.5)
  -- 0.0075 is a multiple of 0.0001: one rounding of each number is forgiven
  return math.abs(quotient - whole) <= math.abs(quotient) * 2 ^ -51
end

keywords = {
  ["$defs"] = function(self, argument, place) self:map(argument, place) end,
  definitions = function(self, argument, place) self:map(argument, place) end,

  ["$ref"] = function(self, argument, place, _, node)
    expect_kind(argument, "string", place)
    local target = self:same(node, self:resolve(argument, place))
    return function(value) return target.check(value) end
  end,

  type = function(_, argument, place)
    local names = type(argument) == "string" and { argument } or expect_names(argument, place)
    local wanted = {}
    for _, name in ipairs(names) do
      if not TYPES[name] then refuse(place, "there is no type %q", name) end
      wanted[name] = true
    end
    local expected = "expected " .. table.concat(names, " or ") .. ", got "
    return function(value)
      local is = kind(value)
      if wanted[is] or (wanted.integer and is_integer(value)) then return end
      return expected .. (is == "number" and wanted.integer and show(value) or is)
    end
  end,

  enum = function(_, argument, place)
    expect_kind(argument, "array", place)
    local shown = {}
    for i, choice in ipairs(argument) do shown[i] = show(choice) end
    local expected = "expected " .. (#shown > 1 and "one of " or "") .. some(shown, ", ") .. ", got "
    return function(value)
      for _, choice in ipairs(argument) do
        if equal(value, choice) then return end
      end
      return expected .. show(value)
    end
  end,

  const = function(_, argument)
    return function(value)
      if not equal(value, argument) then return ("expected %s, got %s"):format(show(argument), show(value)) end
    end
  end,

  minimum = number_limit(function(value, limit) return value >= limit end, "at least"),
  maximum = number_limit(function(value, limit) return value <= limit end, "at most"),
  exclusiveMinimum = number_limit(function(value, limit) return value > limit end, "more than"),
  exclusiveMaximum = number_limit(function(value, limit) return value < limit end, "less than"),
  multipleOf = function(_, unit, place)
    expect_kind(unit, "number", place)
    if unit <= 0 then refuse(place, "expected a number above 0, got %s", show(unit)) end
    return function(value)
      if type(value) == "number" and not is_multiple(value, unit) then
        return ("expected a multiple of %s, got %s"):format(show(unit), show(value))
      end
    end
  end,

  minLength = size_limit("string", "character", characters, true),
  maxLength = size_limit("string", "character", characters, false),
  pattern = function(_, argument, place)
    local match = compile_pattern(argument, place)
    return function(value)
      if type(value) ~= "string" then return end
      local matches, trouble = match(value)
      if not matches then return trouble or ("%s does not match the pattern %s"):format(show(value), argument) end
    end
  end,

  required = function(_, argument, place)
    expect_names(argument, place)
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(argument) do
        if value[name] == nil then return ("the property %s is missing"):format(show(name)) end
      end
    end
  end,
  dependentRequired = function(_, argument, place)
    expect_kind(argument, "object", place)
    local names = sorted_keys(argument)
    for _, name in ipairs(names) do expect_names(argument[name], place .. step(name)) end
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(names) do
        for _, other in ipairs(value[name] ~= nil and argument[name] or {}) do
          if value[other] == nil then
            return ("the property %s is missing, which %s needs"):format(show(other), show(name))
          end
        end
      end
    end
  end,
  minProperties = size_limit("object", "property", properties, true),
  maxProperties = size_limit("object", "property", properties, false),
  propertyNames = function(self, argument, place)
    local names = self:node(argument, place)
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(sorted_keys(value)) do
        local message = names.check(name)
        if message then return ("the property name %s: %s"):format(show(name), message) end
      end
    end
  end,
  properties = function(self, argument, place)
    local nodes = self:map(argument, place)
    local names = sorted_keys(nodes)
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(names) do
        if value[name] ~= nil then
          local message, pointer = nodes[name].check(value[name])
          if message then return message, step(name) .. pointer end
        end
      end
    end
  end,
  patternProperties = function(self, argument, place)
    local nodes = self:map(argument, place)
    local patterns = sorted_keys(nodes)
    local match = {}
    for _, pattern in ipairs(patterns) do match[pattern] = compile_pattern(pattern, place .. step(pattern)) end
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(sorted_keys(value)) do
        for _, pattern in ipairs(patterns) do
          local matches, trouble = match[pattern](name)
          if trouble then return trouble, step(name) end
          if matches then
            local message, pointer = nodes[pattern].check(value[name])
            if message then return message, step(name) .. pointer end
          end
        end
      end
    end
  end,
  additionalProperties = function(self, argument, place, source)
    local rest = self:node(argument, place)
    local known = source.properties or {}
    local match = {}
    for pattern in pairs(source.patternProperties or {}) do
      match[#match + 1] = compile_pattern(pattern, place)
    end
    local function is_known(name)
      if known[name] ~= nil then return true end
      for _, matches in ipairs(match) do
        if matches(name) then return true end
      end
    end
    return function(value)
      if kind(value) ~= "object" then return end
      for _, name in ipairs(sorted_keys(value)) do
        if not is_known(name) then
          if rest == FALSE then return ("the property %s is not allowed"):format(show(name)) end
          local message, pointer = rest.check(value[name])
          if message then return message, step(name) .. pointer end
        end
      end
    end
  end,

  minItems = size_limit("array", "item", items, true),
  maxItems = size_limit("array", "item", items, false),
  uniqueItems = function(_, argument, place)
    expect_kind(argument, "boolean", place)
    return argument and function(value)
      if kind(value) ~= "array" then return end
      local seen, tables = {}, {}
      for i, item in ipairs(value) do
        local same = seen[item]
        if type(item) == "table" then
          for _, j in ipairs(tables) do
            if equal(item, value[j]) then same = j end
          end
          tables[#tables + 1] = i
        end
        if same then return ("the items %d and %d are equal"):format(same - 1, i - 1) end
        seen[item] = i
      end
    end or nil
  end,
  contains = function(self, argument, place)
    local wanted = self:node(argument, place)
    return function(value)
      if kind(value) ~= "array" then return end
      local first = "the array is empty"
      for i, item in ipairs(value) do
        local message = wanted.check(item)
        if not message then return end
        if i == 1 then first = "item 0: " .. message end
      end
      return ("no item is what \"contains\" asks for (%s)"):format(first)
    end
  end,

  allOf = function(self, argument, place, _, node)
    local nodes = self:list(argument, place, node)
    return function(value)
      for _, part in ipairs(nodes) do
        local message, pointer = part.check(value)
        if message then return message, pointer end
      end
    end
  end,
  anyOf = function(self, argument, place, _, node)
    local nodes = self:list(argument, place, node)
    return function(value)
      local reasons = {}
      for i, part in ipairs(nodes) do
        local message, pointer = part.check(value)
        if not message then return end
        reasons[i] = reason(message, pointer)
      end
      return fits_none(reasons)
    end
  end,
  oneOf = function(self, argument, place, _, node)
    local nodes = self:list(argument, place, node)
    return function(value)
      local reasons, fitting = {}, nil
      for i, part in ipairs(nodes) do
        local message, pointer = part.check(value)
        if message then
          reasons[#reasons + 1] = reason(message, pointer)
        elseif fitting then
          return ("fits two alternatives of \"oneOf\", %d and %d"):format(fitting - 1, i - 1)
        else
          fitting = i
        end
      end
      if not fitting then return fits_none(reasons) end
    end
  end,
  ["not"] = function(self, argument, place, _, node)
    local unwanted = self:same(node, argument, place)
    return function(value)
      if not unwanted.check(value) then return ("%s is what \"not\" forbids"):format(show(value)) end
    end
  end,
}

--- The first items of an array, each with a schema of its own, and the rest with another.
local function check_items(first, rest)
  return function(value)
    if kind(value) ~= "array" then return end
    for i, item in ipairs(value) do
      local node = first[i] or rest
      if node == FALSE then return ("expected at most %s, got %d"):format(count(i - 1, "item"), #value) end
      local message, pointer = node.check(item)
      if message then return message, "/" .. i - 1 .. pointer end
    end
  end
end

--- `items` with a list is draft 7's name for prefixItems; what follows is additionalItems there.
function keywords.items(self, argument, place, source)
  if kind(argument) ~= "array" then
    local first = {}
    for i in ipairs(source.prefixItems or {}) do first[i] = TRUE end -- prefixItems itself judges these
    return check_items(first, self:node(argument, place))
  end
  if source.prefixItems then refuse(place, "a list beside prefixItems") end
  local rest = source.additionalItems
  return check_items(self:list(argument, place), rest == nil and TRUE or self:node(rest, place))
end

function keywords.additionalItems(self, argument, place)
  self:node(argument, place) -- `items` uses it; without a list there it asserts nothing
end

function keywords.prefixItems(self, argument, place)
  return check_items(self:list(argument, place), TRUE)
end

keywords["if"] = function(self, argument, place, source, node)
  local condition = self:same(node, argument, place)
  local parent = place:sub(1, -4)
  local yes = source["then"] == nil and TRUE or self:same(node, source["then"], parent .. "/then")
  local no = source["else"] == nil and TRUE or self:same(node, source["else"], parent .. "/else")
  return function(value) return (condition.check(value) and no or yes).check(value) end
end

keywords["then"] = function(self, argument, place) self:node(argument, place) end
keywords["else"] = keywords["then"]

-- What a value is comes first, then what it lacks, then what is in it.
ORDER = {}
for name in ([[ type enum const $ref $defs definitions minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
    minLength maxLength pattern required dependentRequired minProperties maxProperties propertyNames properties
    patternProperties additionalProperties minItems maxItems prefixItems items additionalItems uniqueItems contains
    allOf anyOf oneOf not if then else ]]):gmatch("%S+") do
  assert(keywords[name], name)
  ORDER[#ORDER + 1] = name
end

--- A schema that is applied to its own value for ever ({"$ref": "#"}) would never give an answer.
local function refuse_loops(nodes)
  local state = {}
  local function visit(node)
    if state[node] == "open" then refuse(node.place, "the schema refers to itself without end") end
    if state[node] then return end
    state[node] = "open"
    for _, other in ipairs(node.same) do visit(other) end
    state[node] = "done"
  end
  for _, node in ipairs(nodes) do visit(node) end
end

--- Compiles a JSON Schema to a function that takes a value as obatch.json.decode gives it, and returns true, or nil and
--- "at /place/in/value: what is wrong with it".
---@param source string|table|boolean  JSON text, or a table (an unmarked list is an array), or a boolean
---@return (fun(value: any): true?, string?)|nil validator
---@return string|nil message  "at /place/in/schema: what is wrong with it"
function schema.compile(source)
  if type(source) ~= "string" then source = json.encode(source) end -- marks the arrays, copies
  local root, message, position = json.decode(source)
  if message then return nil, ("not JSON: byte %d: %s"):format(position, message) end
  local self = setmetatable({ root = root, nodes = {}, all = {} }, Compiler)
  local ok, result = pcall(function()
    local node = self:node(root, "")
    refuse_loops(self.all)
    return node
  end)
  if not ok then
    if type(result) ~= "table" then error(result, 0) end
    return nil, result.refused
  end
  return function(value)
    if value == nil then error("a decoded JSON value expected, got nil", 2) end
    local complaint, pointer = result.check(value)
    if complaint then return nil, at(pointer) .. ": " .. complaint end
    return true
  end
end

return schema
