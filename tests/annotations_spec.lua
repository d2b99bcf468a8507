-- LuaLS annotations: every public function says the names of its parameters and that it returns something, and the
-- definition files of the C modules tell exactly what those have. An editor would be told wrong otherwise.
local fs = require "obatch.fs"
local support = require "support"

local ROOT = support.home .. "/lua/obatch/"

-- ---------------------------------------------------------------- what a source says

--- Source with the contents of strings and comments blanked out, line breaks kept.
local function code_of(source)
  local out, position = {}, 1
  local function blank(text) return (text:gsub("[^\n]", " ")) end
  while position <= #source do
    local start = source:find("[-\"'%[]", position) or #source + 1
    out[#out + 1] = source:sub(position, start - 1)
    local _, open, level = source:find("^%-?%-?%[(=*)%[", start)
    local is_comment = source:find("^%-%-", start)
    local stop
    if level and (is_comment or source:find("^%[", start)) then
      stop = select(2, source:find("]" .. level .. "]", open, true)) or #source
    elseif is_comment then
      stop = (source:find("\n", start, true) or #source + 1) - 1
    elseif source:find("^[\"']", start) then
      local quote = source:sub(start, start)
      stop = start + 1
      while stop <= #source and source:sub(stop, stop) ~= quote do
        stop = stop + (source:sub(stop, stop) == "\\" and 2 or 1)
      end
    end
    if stop then
      local text = source:sub(start, stop)
      out[#out + 1] = is_comment and blank(text) or '"' .. blank(text:sub(3)) .. '"'
      position = stop + 1
    else
      out[#out + 1] = source:sub(start, start)
      position = start + 1
    end
  end
  return table.concat(out)
end

local OPENS = { ["function"] = true, ["if"] = true, ["do"] = true, ["repeat"] = true }
local CLOSES = { ["end"] = true, ["until"] = true }
local NOTHING = { ["end"] = true, ["else"] = true, ["elseif"] = true, ["until"] = true }

--- Whether a function of its own (not one inside it) returns something. `code` begins with its "function".
local function returns_something(code)
  local stack = {}
  for position, word in code:gmatch("()%f[%w_]([%a_][%w_]*)") do
    if word == "return" and #stack > 0 then
      local inside = false
      for i = 2, #stack do inside = inside or stack[i] == "function" end
      local follows = code:match("^return%s*([%a_]*)", position)
      if not inside and not NOTHING[follows] and not code:find("^return%s*;", position) then return true end
    elseif OPENS[word] then
      stack[#stack + 1] = word
    elseif CLOSES[word] then
      stack[#stack] = nil
      if #stack == 0 then return false end
    end
  end
  return false
end

--- The public functions of a source: those of the table it returns, and methods of its classes (a capital letter).
--- A list of { name=, line=, params= list, returns=, documented= list, has_return= }.
local function functions_of(source)
  local code = code_of(source)
  local lines, starts, position = {}, {}, 1
  for line in (source .. "\n"):gmatch("([^\n]*)\n") do
    lines[#lines + 1], starts[#starts + 1] = line, position
    position = position + #line + 1
  end
  local module, list = code:match("return ([%a_][%w_]*)%s*$"), {}
  for i, start in ipairs(starts) do
    local class, mark, name, parameters = code:match("^function ([%a_][%w_]*)([.:])([%a_][%w_]*)(%b())", start)
    if name and (class == module or class:find("^%u")) and not name:find("^__") then
      local one = { name = class .. mark .. name, line = i, params = {}, documented = {},
        returns = returns_something(code:sub(start)) }
      for parameter in parameters:gmatch("[%a_][%w_]*%.?%.?%.?") do one.params[#one.params + 1] = parameter end
      if parameters:find("...", 1, true) then one.params[#one.params + 1] = "..." end
      local at = i - 1
      while at > 0 and lines[at]:find("^%-%-%-") do at = at - 1 end
      for j = at + 1, i - 1 do
        local parameter = lines[j]:match("^%-%-%-@param ([%w_.]+)")
        if parameter then one.documented[#one.documented + 1] = parameter end
        one.has_return = one.has_return or lines[j]:find("^%-%-%-@return ") ~= nil
      end
      list[#list + 1] = one
    end
  end
  return list
end

--- What is wrong with the annotations of a source: sentences.
local function faults_of(name, source)
  local faults = {}
  for _, one in ipairs(functions_of(source)) do
    local where = ("%s:%d: %s"):format(name, one.line, one.name)
    local wanted, found = table.concat(one.params, ", "), table.concat(one.documented, ", ")
    if wanted ~= found then
      faults[#faults + 1] = ("%s has the parameters (%s), annotated are (%s)"):format(where, wanted, found)
    end
    if one.returns ~= (one.has_return or false) then
      faults[#faults + 1] = where .. (one.returns and " returns something, and there is no @return"
        or " returns nothing, and there is a @return")
    end
  end
  return faults
end

--- The modules in Lua: name below lua/obatch -> source.
local function sources()
  local found = {}
  for path in fs.walk(ROOT:gsub("/$", ""), { ext = { [".lua"] = true } }) do
    local name = path:sub(#ROOT + 1)
    if not name:find("^meta/") then found[name] = support.read(path) end
  end
  return found
end

describe("the annotations", function()
  it("are read as they are meant: the check itself finds what is wrong", function()
    local faults = faults_of("x", [=[
local x = {}
local Class = {}
--- Good.
---@param a string  it
---@param b? integer
---@return string
function x.good(a, b) if a then return b end end
---@param self any
---@param ... string
function x.many(self, ...) local f = function() return self end; print("return 1", f) --[[ return 2 ]] end
function Class:bad(a) return [[
return]] end
---@param b string
---@return string
function Class.worse(a) return end
local inner = {}
function inner.private(a) return a end
function Class.__index(a) return a end
return x
]=])
    assert.same({ "x:11: Class:bad has the parameters (a), annotated are ()",
      "x:11: Class:bad returns something, and there is no @return",
      "x:15: Class.worse has the parameters (a), annotated are (b)",
      "x:15: Class.worse returns nothing, and there is a @return" }, faults)
  end)

  it("name the parameters and results of every public function", function()
    local all = {}
    for name, source in pairs(sources()) do
      local faults = faults_of(name, source)
      table.move(faults, 1, #faults, #all + 1, all)
    end
    table.sort(all)
    assert.equal("", table.concat(all, "\n"))
  end)

  it("tell of the C modules what they have, and nothing else", function()
    --- Names of the classes in the definition files for the types of C.
    local TYPES = { ["obatch.fs.lock"] = "Lock", ["obatch.fs.append"] = "Appender", ["obatch.fs.create"] = "File",
      ["obatch.fs.files"] = "Files",
      ["obatch.http.client"] = "Client", ["obatch.http.transfer"] = "Transfer", ["obatch.httpd.server"] = "Server",
      ["obatch.httpd.request"] = "Request", ["obatch.jsonl.reader"] = "Reader", ["obatch.jsonl.scanner"] = "Scanner",
      ["obatch.jsonl.index"] = "Index", ["obatch.jsonl.writer"] = "Writer", ["obatch.jsonl.image"] = "Image",
      ["obatch.term.editor"] = "Editor", ["obatch.term.session"] = "Session" }
    local has, told = {}, {}
    for _, module in ipairs { "json", "jsonl", "http", "httpd", "fs", "term" } do
      for name, value in pairs(require("obatch." .. module)) do
        if type(value) == "function" then has[#has + 1] = ("%s: %s.%s"):format(module, module, name) end
      end
      local path = ("%smeta/%s.lua"):format(ROOT, module)
      local source = support.read(path)
      assert.is_truthy(source:find("---@meta obatch." .. module .. "\n", 1, true), path)
      assert.is_truthy(load(source, "=" .. path, "t"))
      for _, one in ipairs(functions_of(source)) do
        told[#told + 1] = ("%s: %s"):format(module, one.name)
        local wanted, found = table.concat(one.params, ", "), table.concat(one.documented, ", ")
        assert.equal(wanted, found, one.name)
      end
    end
    require "obatch.term".editor():close() -- an editor's type is there when one was made
    local with_methods = 0
    for key, metatable in pairs(debug.getregistry()) do
      local module = type(key) == "string" and key:match("^obatch%.(%l+)%.%l+$")
      local methods = module and {} or nil
      local index = methods and rawget(metatable, "__index")
      if type(index) == "function" then index = select(2, debug.getupvalue(index, 1)) end
      for _, set in ipairs(methods and { metatable, index or nil } or {}) do
        for name, value in pairs(type(set) == "table" and set or {}) do
          if type(value) == "function" and not name:find("^__") then methods[name] = true end
        end
      end
      for name in pairs(methods or {}) do
        has[#has + 1] = ("%s: %s:%s"):format(module, TYPES[key] or key, name)
        with_methods = with_methods + 1
      end
    end
    assert.is_true(with_methods > 30)
    table.sort(has)
    table.sort(told)
    assert.equal(table.concat(has, "\n"), table.concat(told, "\n"))
  end)
end)
