local fs = require "obatch.fs"
local json = require "obatch.json"
local repl = require "obatch.repl"
local support = require "support"
local terminal = require "terminal"

describe("repl.show", function()
  for name, case in pairs {
    ["numbers keep what they are"] = { { 1, 1.0, -0.5 }, "{ 1, 1.0, -0.5 }" },
    ["null and empty containers are told apart"] = {
      { json.null, {}, json.array {}, json.array { 1 } }, "{ null, {}, json.array{}, { 1 } }" },
    ["keys are sorted, numbers first, odd ones quoted"] = {
      { b = 1, a = 2, ["x y"] = 3, [10] = 4, "first" }, '{ "first", [10] = 4, a = 2, b = 1, ["x y"] = 3 }' },
    ["a third level is only counted"] = { { a = { b = { 1, 2 } } }, "{ a = { b = {... 2} } }" },
    ["controls and bytes that are no UTF-8 never reach the terminal raw"] = {
      'a\n\t\\"\27[2J\127\xff\u{e9}\u{9b}', [["a\n\t\\\"\x1b[2J\x7f\xff]] .. "\u{e9}" .. [[\xc2\x9b"]] },
    ["a long string is cut between characters and says its length"] = {
      ("\u{e9}"):rep(3000), '"' .. ("\u{e9}"):rep(43) .. "... (6000 bytes)" },
    ["an object shows itself, on one line"] = {
      setmetatable({}, { __tostring = function() return "batch\n1" end }), "batch\\n1" },
  } do
    it(name, function() assert.equal(case[2], repl.show(case[1], 60)) end)
  end

  it("a table that is too wide gets a line per entry, each cut to the width", function()
    local shown = repl.show({ short = 1, text = ("x"):rep(100), list = { ("y"):rep(100) }, [("k"):rep(90)] = 1 }, 40)
    for line in shown:gmatch("[^\n]+") do assert.is_true(#line <= 40, line) end
    assert.matches("^{\n  kkkk", shown)
    assert.matches("\n  short = 1,\n", shown)
    assert.matches('text = "xxx+%.%.%. %(100 bytes%),\n}$', shown)
  end)

  it("a long table ends with how many entries are left", function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    assert.matches("\n  40,\n  %.%.%. 960 more\n}$", repl.show(list, 60))
  end)

  it("a table that holds itself comes to an end", function()
    local loop = {}
    loop.loop = loop
    assert.equal("{ loop = { loop = {... 1} } }", repl.show(loop, 60))
  end)
end)

describe("repl without a terminal", function()
  local dir
  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  local function pipe(script)
    support.write(dir.path .. "/input", script)
    return support.shell(("%s repl <%s/input"):format(support.quote(support.binary), dir.path))
  end

  it("-e prints the values of an expression", function()
    local code, out, err = support.obatch("repl", "-e", "1 + 1, nil, 'a'")
    assert.same({ 0, '2\nnil\n"a"\n', "" }, { code, out, err })
  end)

  it("-e runs statements, with the modules as globals", function()
    local code, out = support.obatch("repl", "-e", "for _, m in ipairs{json, jsonl, http, fs, term, openai} do "
      .. "io.write(type(m), ' ') end")
    assert.same({ 0, "table table table table table table " }, { code, out })
  end)

  it("-e ends with 1, the message and where it came from", function()
    local code, out, err = support.obatch("repl", "-e", "local function f() error('boom') end\nf()")
    assert.equal(1, code)
    assert.equal("", out)
    assert.equal("obatch: -e:1: boom\n  [C]: in function 'error'\n  -e:1: in local 'f'\n"
      .. "  -e:2: in the code given\n", err)
  end)

  it("an unfinished chunk is an error, not a wait", function()
    local code, out, err = support.obatch("repl", "-e", "for i = 1, 3 do")
    assert.same({ 1, "", "obatch: -e:1: 'end' expected near <eof>\n" }, { code, out, err })
  end)

  it("an unknown variable is an error, a new one is not", function()
    local code, _, err = support.obatch("repl", "-e", "x = 1; print(x + nope)")
    assert.equal(1, code)
    assert.matches("-e:1: undefined variable 'nope'", err, 1, true)
  end)

  it("a script on stdin runs as a whole", function()
    local code, out, err = pipe("local x = 5\nprint(x)\n\nreturn x + 1\n")
    assert.same({ 0, "5\n6\n", "" }, { code, out, err })
  end)

  it("a script on stdin that fails names its line", function()
    local code, out, err = pipe("print(1)\nerror { code = 'X' }\n")
    assert.equal(1, code)
    assert.equal("1\n", out)
    assert.matches("^obatch: { code = \"X\" }\n", err)
    assert.matches("stdin:2: in the code given", err, 1, true)
  end)

  it("a stop ends with 130", function()
    local code, _, err = support.obatch("repl", "-e",
      "os.execute('kill -TERM ' .. fs.read('/proc/self/stat'):match('%d+'))")
    assert.equal(130, code)
    assert.equal("obatch: interrupted\n", err)
  end)

  it("an unknown option is a usage error", function()
    assert.equal(2, (support.obatch("repl", "--nope")))
  end)
end)

describe("repl on a terminal", function()
  local dir, t
  before_each(function()
    dir = support.tmpdir()
    t = terminal.start({ XDG_STATE_HOME = dir.path }, "repl")
    t:expect("Ctrl-D ends.")
    t:expect("> ")
  end)
  after_each(function()
    getmetatable(t).__close(t)
    getmetatable(dir).__close(dir)
  end)

  --- Types a line and waits for `shown` (nil: nothing) and the next prompt.
  local function ask(line, shown)
    t:type(line .. "\r")
    if shown then t:expect("\n" .. shown) end
    t:expect("\n> ")
  end

  it("shows values, keeps globals, and _ is the last value", function()
    ask("x = 20")
    ask("x + 1, 'more'", '21\r\n"more"\r')
    ask("_ * 2", "42\r")
    ask("print(_)", "42\r")
    ask("_", "42\r")
    t:type("\4")
    assert.equal(0, t:code())
  end)

  it("goes on reading while a chunk is incomplete, statement or expression", function()
    t:type("for i = 1, 2 do\r")
    t:expect(".. ")
    t:type("print(i * 11)\r")
    t:expect(".. ")
    ask("end", "11\r\n22\r")
    t:type("{ 7,\r")
    t:expect(".. ")
    ask("8 }", "{ 7, 8 }\r")
  end)

  it("prints errors with the line and goes on", function()
    ask("error('boom')", "repl:1: boom\r\n  [C]: in function 'error'\r\n  repl:1: in the code given\r")
    ask("1 = 2", "repl:1: unexpected symbol near '1'\r")
    ask("nope", "repl:1: undefined variable 'nope'\r")
    ask("1", "1\r")
  end)

  it("Ctrl-C drops the line, stops a loop, a sleep and a pcall that wants to go on, every time", function()
    t:type("half a li\3")
    t:expect("\n> ")
    t:type("for i = 1, 2 do\r")
    t:expect(".. ")
    t:type("\3")
    t:expect("\n> ")
    for _, endless in ipairs {
      "print('on') while true do end",
      "print('on') term.sleep(1e9)",
      "print('on') pcall(function() while true do end end)",
      "print('on') coroutine.wrap(function() term.sleep(1e9) end)()",
    } do
      t:type(endless .. "\r")
      t:expect("\non\r\n")
      t:type("\3")
      t:expect("interrupted\r\n> ")
      ask("term.interrupted()", "false\r")
    end
  end)

  it("SIGTERM ends it, whatever it is doing", function()
    t:type("print('on') term.sleep(1e9)\r")
    t:expect("\non\r\n")
    t:kill("TERM")
    assert.equal(130, t:code())
  end)

  it("remembers chunks in a file of its own, for the next session", function()
    t:type("for i = 1, 1 do\r")
    t:expect(".. ")
    ask("end")
    ask("6 * 7", "42\r")
    t:type("\4")
    assert.equal(0, t:code())
    local history = dir.path .. "/obatch/history"
    assert.equal("for i = 1, 1 do\\nend\n6 * 7\n", fs.read(history))
    assert.equal(tonumber("600", 8), fs.stat(history).mode)
    local again <close> = terminal.start({ XDG_STATE_HOME = dir.path }, "repl")
    again:expect("> ")
    again:type("\16\r")
    again:expect("\n42\r")
  end)
end)
