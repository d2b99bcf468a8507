local columns = require "obatch.columns"
local fs = require "obatch.fs"
local json = require "obatch.json"
local show = require "obatch.repl.show"
local support = require "support"
local term = require "obatch.term"
local terminal = require "terminal"

describe("what a session prints", function()
  for name, case in pairs {
    ["numbers keep what they are"] = { { 1, 1.0, -0.5 }, "{ 1, 1.0, -0.5 }" },
    ["null and empty containers are told apart"] = {
      { json.null, {}, json.array {}, json.array { 1 } }, "{ null, {}, json.array{}, { 1 } }" },
    ["keys are sorted, numbers first, odd ones quoted"] = {
      { b = 1, a = 2, ["x y"] = 3, [10] = 4, "first" }, '{ "first", [10] = 4, a = 2, b = 1, ["x y"] = 3 }' },
    ["a third level is only counted"] = { { a = { b = { 1, 2 } } }, "{ a = { b = {… 2} } }" },
    ["controls and bytes that are no UTF-8 never reach the terminal raw"] = {
      'a\n\t\\"\27[2J\127\xff\u{e9}\u{9b}', [["a\n\t\\\"\x1b[2J\x7f\xff]] .. "\u{e9}" .. [[\xc2\x9b"]] },
    ["a long string is cut between characters and says its length"] = {
      ("\u{e9}"):rep(3000), '"' .. ("\u{e9}"):rep(44) .. '…" (6000 bytes)' },
    ["an object shows itself, on one line"] = {
      setmetatable({}, { __tostring = function() return "batch\n1" end }), "batch\\n1" },
  } do
    it(name, function() assert.equal(case[2], show.value(case[1], 60)) end)
  end

  it("a table that is too wide gets a line per entry, each cut to the width", function()
    local shown = show.value({ short = 1, text = ("x"):rep(100), list = { ("y"):rep(100) }, [("k"):rep(90)] = 1 }, 40)
    for line in shown:gmatch("[^\n]+") do assert.is_true(columns.places(line) <= 40, line) end
    assert.matches("^{\n  kkkk", shown)
    assert.matches("\n  short = 1,\n", shown)
    assert.matches('text = "xxx+…" %(100 bytes%),\n}$', shown)
  end)

  it("a long table ends with how many entries are left", function()
    local list = {}
    for i = 1, 1000 do list[i] = i end
    assert.matches("\n  40,\n  … 960 more\n}$", show.value(list, 60))
  end)

  it("a list is cut to the rows of the screen, and says how much is left", function()
    local list = {}
    for i = 1, 100 do list[i] = ("word "):rep(5) .. i end
    local shown = show.value(list, 60, 12)
    assert.equal(11, select(2, shown:gsub("\n", "\n")) + 1)
    assert.matches("\n  … 92 more\n}$", shown)
  end)

  it("no __index, __pairs or __len of an object is called", function()
    local function trap() error("called") end
    local object = setmetatable({ 1, a = 2 }, { __index = trap, __pairs = trap, __len = trap, __eq = trap })
    assert.equal("{ 1, a = 2 }", show.value(object, 60))
  end)

  it("what turns the direction of a line never reaches the terminal raw", function()
    assert.equal([["a\xe2\x80\xaeb\xe2\x81\xa6c"]], show.value("a\u{202e}b\u{2066}c", 60))
    assert.equal("a\n\tb \"\\ \\x1b[2J", show.safe('a\n\tb "\\ \27[2J'))
  end)

  local result = json.encode { custom_id = "page-1\27", error = json.null, response = { status_code = 200, body = {
    choices = json.array { { finish_reason = "length", message = { content = "The text \27[31m of it" } } },
    usage = { prompt_tokens = 12, completion_tokens = 34 } } } }

  it("a result line is a summary: id, class, status, tokens, reason, the answer's first words", function()
    local shown = show.value(result, 140)
    assert.equal(([[result page-1\x1b: truncated (200), 12 + 34 tokens, "cut off after 34 tokens: The text ]]
      .. [[\x1b[31m of it" (%d bytes)]]):format(#result), shown)
    for width = 30, 100 do assert.is_true(columns.places(show.value(result, width)) <= width, width) end
    assert.matches("{ result page%-1", show.value({ result }, 200))
  end)

  it("a request line is one, too, and other JSON with a custom_id is a string", function()
    local line = json.encode { custom_id = "a", method = "POST", url = "/v1/responses", body = { model = "m",
      input = json.array { { role = "user", content = json.array { { type = "input_text", text = "Read it" } } } } } }
    assert.equal(([[request a: m, /v1/responses, "Read it" (%d bytes)]]):format(#line), show.value(line, 100))
    assert.equal([["{\"custom_id\":\"a\"}"]], show.value('{"custom_id":"a"}', 60))
  end)

  it("a table that holds itself comes to an end", function()
    local loop = {}
    loop.loop = loop
    assert.equal("{ loop = { loop = {… 1} } }", show.value(loop, 60))
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

  it("an unknown variable is an error that names what is near, a new one is not", function()
    local code, _, err = support.obatch("repl", "-e", "x = 1; print(x + nope)")
    assert.equal(1, code)
    assert.equal("obatch: -e:1: undefined variable 'nope'\n  -e:1: in the code given\n", err)
    code, _, err = support.obatch("repl", "-e", "page_one = 1; print(page_ona)")
    assert.equal(1, code)
    assert.matches("undefined variable 'page_ona'; near it: page_one", err, 1, true)
  end)

  it("a failure is one line, without a traceback", function()
    local code, out, err = support.obatch("repl", "-e", "results 'none.jsonl'")
    assert.same({ 1, "", "obatch: there is no none.jsonl\n" }, { code, out, err })
    code, out = support.obatch("repl", "-e", "fs.read 'none.jsonl'")
    assert.same({ 0, "nil: cannot open none.jsonl: No such file or directory (ENOENT)\n" }, { code, out })
  end)

  it("needs no API key but for the service, and says then that there is none", function()
    local code, out, err = support.obatch({ OPENAI_API_KEY = "" }, "repl", "-e", "print(1) batches()")
    assert.equal(1, code)
    assert.equal("1\n", out)
    assert.matches("no API key: set OPENAI_API_KEY", err, 1, true)
  end)

  it("ends when nobody reads on", function()
    local _, out, err = support.shell(("%s repl -e 'while true do print(1) end' | head -1"):format(
      support.quote(support.binary)))
    assert.same({ "1\n", "" }, { out, err })
  end)

  it("-e may be given again, runs in order and ends at the first that fails", function()
    local code, out, err = support.obatch("repl", "-e", "x = 1 return x", "-e", "=x + 2")
    assert.same({ 0, "1\n3\n", "" }, { code, out, err })
    code, out, err = support.obatch("repl", "-e", "1", "-e", "y", "-e", "3")
    assert.same({ 1, "1\n", "obatch: -e:1: undefined variable 'y'\n  -e:1: in the code given\n" },
      { code, out, err })
  end)

  it("a file for DIR is told what opens it", function()
    support.write(dir.path .. "/mine.lua", "")
    local code, out, err = support.obatch("repl", dir.path .. "/mine.lua")
    assert.same({ 2, "", ("obatch: %s/mine.lua is no folder; a script runs by: obatch run %s/mine.lua\n"):format(
      dir.path, dir.path) }, { code, out, err })
    support.write(dir.path .. "/input", "")
    code, out, err = support.obatch("repl", dir.path .. "/input")
    assert.same({ 2, "" }, { code, out })
    assert.matches(("obatch repl -e 'results \"%s/input\"'"):format(dir.path), err, 1, true)
  end)

  it("a script on stdin runs as a whole", function()
    assert.equal("2\n", select(2, pipe("#!/usr/bin/env -S obatch repl\nprint(2)\n")))
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

  it("knows what hands type: = before a value, help without marks, ?, exit and quit", function()
    ask("=1 + 1", "2\r")
    ask("?", "Commands: correction_loop")
    ask("help", "Commands: correction_loop")
    ask("help json.get", "obatch.json:\r\njson.get")
    ask("exit = 5")
    ask("exit", "5\r") -- a variable of that name is one
    t:type("quit()\r")
    assert.equal(0, t:code())
  end)

  it("says where a local has gone, which method was meant, and what a function is", function()
    ask("local first, second = 1, 2")
    ask("second", "repl:1: undefined variable 'second': a local lasts for its line only; leave out the word local\r")
    ask("thing = {}")
    ask("thing:cancle()", "repl:1: attempt to call a nil value (method 'cancle'); near it: b:cancel()\r")
    ask("thing:nothing()", "repl:1: attempt to call a nil value (method 'nothing')\r")
    ask("json.get", "function json.get; help(_) tells more\r")
    ask("help(_)", "obatch.json:\r\njson.get")
    ask("function mine() end")
    t:type("mine\r")
    t:expect("function: 0x")
    t:expect("\n> ")
  end)

  it("says once that the history cannot be kept", function()
    local lost <close> = terminal.start({ XDG_STATE_HOME = "/proc/none" }, "repl")
    lost:expect("the history is not kept: ")
    lost:expect("> ")
    assert(os.execute("mkdir -p " .. support.quote(dir.path .. "/s/obatch/history")))
    local refused <close> = terminal.start({ XDG_STATE_HOME = dir.path .. "/s" }, "repl")
    refused:expect("> ")
    refused:type("1\r")
    refused:expect("the history is not kept: cannot write ")
    refused:expect("> ")
    refused:type("2\r")
    assert.falsy(refused:expect("\n2\r\n> "):find("not kept", 1, true))
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
      "print('on') coroutine.wrap(function() while true do end end)()",
      "print('on') while true do pcall(function() while true do end end) end",
    } do
      t:type(endless .. "\r")
      t:expect("\non\r\n")
      t:type("\3")
      t:expect("interrupted\r\n> ")
      ask("term.interrupted()", "false\r")
    end
  end)

  it("Ctrl-C again and again does not end the session, whatever takes its time to stop", function()
    t:type("print('on') local _ = ('a'):rep(60):find(('a-'):rep(4) .. 'b') while true do end\r")
    t:expect("\non\r\n")
    for _ = 1, 3 do
      t:type("\3")
      term.sleep(0.15)
    end
    t:expect("interrupted\r\n> ")
    ask("'still ' .. 'there'", '"still there"\r')
  end)

  -- the error that stops a loop comes so many instructions after the signal, wherever that is
  it("the error of a Ctrl-C that finds nothing left to stop does not end the session", function()
    ask("pid = fs.read('/proc/self/stat'):match('%d+')")
    ask("function kill() local p <close> = io.popen('kill -INT ' .. pid) end")
    for count = 9930, 10000 do
      t:type(("kill() for i = 1, %d do end\r"):format(count))
      t:expect("\ninterrupted\r\n> ")
    end
  end)

  it("Ctrl-C stops Tab, and drops the line", function()
    ask("many = {} for i = 1, 300000 do many['key_' .. i] = i end")
    t:type("many.k\t\t")
    term.sleep(0.2)
    t:type("\3")
    t:expect("\n> ")
    ask("1 + 1", "2\r")
  end)

  it("what lasts shows how far it is, and leaves nothing of that behind", function()
    -- where it is is looked at each 64 KiB
    support.write(dir.path .. "/slow.jsonl", (('{"a":"%s"}\n'):format(("x"):rep(100000))):rep(10))
    ask("r = results '" .. dir.path .. "/slow.jsonl'")
    t:type("r:where(function() return term.sleep(0.2) end):count()\r")
    t:expect("reading slow.jsonl")
    t:expect("\27[J10\r\n") -- erased to the end of the screen
    t:expect("> ")
  end)

  it("Tab completes methods and paths, and lists at the second press", function()
    support.write(dir.path .. "/answers.jsonl", "")
    ask("thing = { value_a = 1, value_b = 2, visit = print }")
    t:type("thing.va\tb\r")
    t:expect("\n2\r\n")
    t:expect("> ")
    t:type("thing.v\t\t")
    t:expect("value_a  value_b  visit\r\n")
    t:expect("> ")
    t:expect("thing.v")
    t:type("\3")
    t:expect("\n> ")
    t:type(("fs.stat('%s/an\t).type\r"):format(dir.path))
    t:expect('\n"file"\r\n')
  end)

  it("takes what is pasted as a whole, tabs and lines and all, and runs it at Enter", function()
    t:type("\27[200~for i = 1, 2 do\r\tprint(i * 11)\rend\r\27[201~\r")
    t:expect("\n11\r\n22\r\n")
    t:expect("> ")
    ask("'\u{e4}\u{6f22}'", '"\u{e4}\u{6f22}"\r')
  end)

  it("the keys of vi in ~/.editrc work, Escape and Tab among them", function()
    support.write(dir.path .. "/.editrc", "bind -v\n")
    local vi <close> = terminal.start({ XDG_STATE_HOME = dir.path, HOME = dir.path }, "repl")
    vi:expect("> ")
    vi:type("x = 4\27")
    term.sleep(0.1)
    vi:type("A2\r")
    vi:expect("\n> ")
    vi:type("math.fl\t(x)\r")
    vi:expect("\n42\r\n")
  end)

  it("prints no control character of anybody's text", function()
    t:type("print('a\\27[31mb')\r")
    t:expect("\na\\x1b[31mb\r\n")
    t:expect("> ")
    t:type("error('x\\27[2J')\r")
    t:expect("repl:1: x\\x1b[2J\r\n")
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
