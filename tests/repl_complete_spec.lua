local complete = require "obatch.repl.complete"
local support = require "support"

--- Calls nobody may make while Tab is answered.
local function trap() error("code of the user was run") end

local Shape = { area = print, name = "shape" }
Shape.__index = Shape
local Base = setmetatable({ draw = print }, { __index = Shape })
Base.__index = Base

local GLOBALS = {
  shape = setmetatable({ width = 1, walk = print }, Base),
  list = { { first = 1 }, ["a key"] = { inside = 1 } },
  words = "text",
  trap = setmetatable({ own = 1 }, { __index = trap, __pairs = trap, __len = trap, __call = trap }),
  callable = setmetatable({}, { __call = trap }),
  file = io.stdout,
  ring = {},
  _hidden = 1,
}
setmetatable(GLOBALS.ring, GLOBALS.ring)
GLOBALS.ring.__index = GLOBALS.ring
local SCOPES = { GLOBALS, { shape = trap, sum = print, string = string } }

describe("completion", function()
  for code, names in pairs {
    ["sh"] = "shape",
    ["x = s"] = "shape string sum",
    ["print(wo"] = "words",
    ["loca"] = "local",
    ["_"] = "_hidden",
    ["a..wo"] = "words",
    ["shape."] = "area draw name walk width",
    ["shape:"] = "area draw walk",
    ["shape.w"] = "walk width",
    ["shape : w"] = "walk",
    ["list[1]."] = "first",
    ["list['a key'].in"] = "inside",
    ['y = 1 + list["a key"].'] = "inside",
    ["words:re"] = "rep reverse",
    ["file:se"] = "seek setvbuf",
    ["trap."] = "own",
    ["trap:"] = "",
    ["trap.gone."] = "",
    ["ring."] = "",
    ["nothing."] = "",
    ["words.len."] = "",
    ["f()."] = "",
    ["f().sh"] = "",
    ["1."] = "",
    ["0x1f"] = "",
    ["-- sh"] = "",
    ["--[[ \n sh"] = "",
    ["--[[ ' ]] sh"] = "shape",
    ["x = [[ sh"] = "",
    ["x = 'a\\'b' .. sh"] = "shape",
    ["_ENV.sh"] = "",
  } do
    it(("after %s: %s"):format(code:gsub("%s", " "), names), function()
      local _, found = complete.find(code, SCOPES)
      assert.equal(names, table.concat(found, " "))
    end)
  end

  it("an object that is called like a function is one after a colon", function()
    local _, found = complete.find("o:c", { { o = { call = GLOBALS.callable, count = 1 } } })
    assert.same({ "call" }, found)
  end)

  it("Tab inserts what all have in common, lists at the second press, and indents an empty line", function()
    assert.same({ "ape" }, { complete.answer("sh", SCOPES, false, 80, 24) })
    local scopes = { { value_a = 1, value_b = 2, visit = 3 } }
    assert.same({ "lue_" }, { complete.answer("va", scopes, false, 80, 24) })
    assert.same({}, { complete.answer("value_", scopes, false, 80, 24) })
    assert.same({ nil, "value_a  value_b" }, { complete.answer("value_", scopes, true, 80, 24) })
    assert.same({}, { complete.answer("zzz", scopes, true, 80, 24) })
    assert.same({ "  " }, { complete.answer("x = {\n ", scopes, true, 80, 24) })
  end)

  it("a list is cut to the screen", function()
    local names = {}
    for i = 1, 1000 do names[i] = ("name_%04d"):format(i) end
    local shown = complete.list(names, 40, 12)
    local lines = 0
    for line in shown:gmatch("[^\n]+") do
      lines = lines + 1
      assert.is_true(#line <= 40, line)
    end
    assert.equal(9, lines)
    assert.matches("^name_0001  name_0009  name_0017\n", shown)
    assert.matches("\n… 976 more$", shown)
    assert.is_true(#complete.list({ ("x"):rep(100) }, 20, 24) <= 22)
  end)

  describe("of paths", function()
    local dir
    before_each(function()
      dir = support.tmpdir()
      for _, name in ipairs { "Cleaned one.jsonl", "Cleaned/in.txt", ".hidden", 'quote".txt', "bad\xff.txt" } do
        os.execute("mkdir -p " .. support.quote(dir.path .. "/" .. (name:match("^(.*)/") or "")))
        support.write(dir.path .. "/" .. name, "")
      end
    end)
    after_each(function() getmetatable(dir).__close(dir) end)

    local function paths(code) return { select(2, complete.find(code:gsub("DIR", dir.path), SCOPES)) } end

    it("folders end with a slash, hidden files are shown to who asks, odd bytes are escaped", function()
      assert.same({ { "Cleaned one.jsonl", "Cleaned/" }, "'" }, paths "job 'DIR/Cl")
      assert.same({ { "Cleaned one.jsonl", "Cleaned/", "bad\\xff.txt", 'quote\\".txt' }, '"' }, paths 'results("DIR/')
      assert.same({ { ".hidden" }, '"' }, paths 'results "DIR/.h')
      assert.same({ { "in.txt" }, '"' }, paths 'f("x", "DIR/Cleaned/')
      assert.same({ {}, '"' }, paths 'f("DIR/none/')
    end)

    it("a file's quote is closed, a folder's is not", function()
      os.remove(dir.path .. "/Cleaned one.jsonl")
      assert.equal("ned/", (complete.answer(('f "%s/Clea'):format(dir.path), SCOPES, false, 80, 24)))
      assert.equal('xt"', (complete.answer(('f "%s/Cleaned/in.t'):format(dir.path), SCOPES, false, 80, 24)))
    end)

    it("ids that were seen complete, too", function()
      assert.equal('_1234"', (complete.answer('batch "batch', SCOPES, false, 80, 24, { "batch_1234" })))
    end)
  end)
end)
