local fs = require "obatch.fs"
local support = require "support"
local term = require "obatch.term"
local terminal = require "terminal"

describe("term", function()
  local dir

  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  --- Runs Lua code in an obatch of its own; `self` is its pid.
  local function run(code, wrapper)
    support.write(dir.path .. "/script.lua", [[
      local fs, term = require "obatch.fs", require "obatch.term"
      local self = fs.read("/proc/self/stat"):match("%d+")
    ]] .. code)
    return support.shell(("timeout -k 1 60 %s %s run %s/script.lua"):format(wrapper or "",
      support.quote(support.binary), dir.path))
  end

  it("clock never goes back and time is the time of day", function()
    local before = term.clock()
    assert.is_true(term.sleep(0.001))
    assert.is_true(term.clock() >= before + 0.001)
    assert.is_true(math.abs(term.time() - os.time()) < 5)
  end)

  it("sleep takes 0, less than 0 and fractions, and refuses what is no number", function()
    assert.is_true(term.sleep(0))
    assert.is_true(term.sleep(-1))
    assert.is_true(term.sleep(0.01))
    assert.has_error(function() term.sleep("soon") end)
    assert.has_error(function() term.sleep(0 / 0) end)
  end)

  it("without a terminal nothing is one and the size is 80 x 24", function()
    local code, out = run [[
      print(term.isatty(0), term.isatty(1), term.isatty(99))
      print(term.size())]]
    assert.equal(0, code)
    assert.equal("false\tfalse\tfalse\n80\t24\n", out)
  end)

  for name in ("INT TERM HUP"):gmatch("%u+") do
    it("sleep ends when SIG" .. name .. " comes, and the next sleep does not even start", function()
      local code, out = run(([[
        local killer <close> = io.popen("sleep 0.2; kill -%s " .. self)
        io.write(tostring(term.interrupted()), " ")
        print(term.sleep(3600))
        print(term.interrupted(), term.sleep(3600))]]):format(name))
      assert.equal(130, code)
      assert.equal("false nil\tinterrupted\tINTERRUPTED\ntrue\tnil\tinterrupted\tINTERRUPTED\n", out)
    end)
  end

  it("no stop is slept through, at whatever instant it comes, and resume arms the next", function()
    local code, out = run [[
      local stopped = 0
      for round = 1, 200 do
        pcall(function() -- a stop between two calls is raised, one during a call is returned
          local killer <close> = io.popen("kill -INT " .. self)
          while not term.interrupted() do term.sleep(3600) end
        end)
        if term.interrupted() and term.resume() then stopped = stopped + 1 end
      end
      print(stopped, term.interrupted(), term.sleep(0))]]
    assert.equal(0, code)
    assert.equal("200\tfalse\ttrue\n", out)
  end)

  it("an ignored signal stays ignored, as nohup wants it", function()
    local code, out = run([[
      os.execute("kill -HUP " .. self)
      print(term.sleep(0))]], "nohup")
    assert.equal(0, code)
    assert.equal("true\n", out)
  end)

  it("resume does not swallow SIGTERM: a session that is told to end ends", function()
    local code, out = run [[
      print(pcall(function() os.execute("kill -TERM " .. self); return term.sleep(3600) end))
      print(term.resume(), term.interrupted())]]
    assert.equal(130, code)
    assert.matches("false\ttrue\n$", out)
  end)

  it("in a session Ctrl-C never kills, and what catches the first error meets another", function()
    local code, out = run [[
      local function sh(words) io.popen(words):close() end -- os.execute() would ignore the signal
      do
        local session <close> = term.session()
        print(pcall(term.session))
        for round = 1, 3 do
          local caught = 0
          sh("kill -INT " .. self .. "; sleep 0.15; kill -INT " .. self)
          while caught < 2 do
            if not pcall(function() while true do end end) then caught = caught + 1 end
          end
          print(term.interrupted(), term.resume(), term.interrupted())
        end
      end
      sh("kill -INT " .. self)
      print(term.sleep(10))
      sh("sleep 0.15; kill -INT " .. self)
      print "not reached"]]
    assert.equal("false\tthere is a session already\n" .. ("true\ttrue\tfalse\n"):rep(3)
      .. "nil\tinterrupted\tINTERRUPTED\n", out)
    assert.equal(130, code)
  end)

  describe("editor", function()
    it("without a terminal reads plain lines and shows no prompt", function()
      support.write(dir.path .. "/input", "one\n\n" .. ("long"):rep(1000) .. "\nb\xc3\xa4r")
      support.write(dir.path .. "/script.lua", [[
        local ed <close> = require "obatch.term".editor{}
        for line in function() return ed:line("> ") end do print("[" .. line .. "]") end
        assert(ed:close() and ed:close())
        print(pcall(ed.line, ed, "> "))]])
      local code, out = support.shell(("%s run %s/script.lua <%s/input"):format(support.quote(support.binary),
        dir.path, dir.path))
      assert.equal(0, code)
      assert.equal("[one]\n[]\n[" .. ("long"):rep(1000) .. "]\n[b\xc3\xa4r]\n" ..
        "false\tbad argument #1 to '?' (closed)\n", out)
    end)

    it("keeps its history in a file for the user's eyes only", function()
      local ed <close> = term.editor { history = dir.path .. "/history" }
      assert.is_true(ed:add("print(1)"))
      assert.is_true(ed:add("a\nb\\n"))
      assert.equal("print(1)\na\\nb\\\\n\n", fs.read(dir.path .. "/history"))
      assert.equal(tonumber("600", 8), fs.stat(dir.path .. "/history").mode)
      local lost <close> = term.editor { history = dir.path .. "/none/history" }
      local ok, message, code = lost:add("x")
      assert.is_nil(ok)
      assert.equal(("cannot write %s/none/history: No such file or directory"):format(dir.path), message)
      assert.equal("ENOENT", code)
    end)

    it("asks what to do at Tab: inserts at the cursor, lists below the line, and goes on", function()
      support.write(dir.path .. "/script.lua", [[
        local term = require "obatch.term"
        local ed <close> = term.editor{}
        print(pcall(ed.insert, ed, "x"))
        print(pcall(ed.list, ed, "x"))
        local line, before, code = ed:line "> "
        print(("\ngot %s %q %s;"):format(line, before, code))
        ed:list "one\ntwo"
        ed:insert "\u{e4}+"
        line, before, code = ed:line "> "
        ed:insert "!"
        ed:insert "?"
        line = ed:line "> "
        print(("got %q;"):format(line))
        print(("got %q;"):format(ed:line "> "))]])
      local t <close> = terminal.start({}, "run", dir.path .. "/script.lua")
      t:expect("Tab was not pressed)\r\nfalse\t")
      t:expect("> ")
      t:type("x\u{f6}yz\2\2\t") -- Ctrl-B: back
      t:expect('got nil "x\u{f6}" TAB;')
      t:expect("\none\r\ntwo\r\n> ")
      t:type("\5\t1\r") -- Ctrl-E: the end
      t:expect('got "x\u{f6}\u{e4}+yz!?1";')
      t:expect("> ")
      t:type("next\r")
      t:expect('got "next";')
      assert.equal(0, t:code())
    end)

    --- A program of its own on a terminal, in which `ed` is an editor and `dir` a folder.
    local function editing(code, environment)
      support.write(dir.path .. "/script.lua", [[
        local fs, term, dir = require "obatch.fs", require "obatch.term", ...
        local ed <close> = term.editor { history = dir .. "/history" }
      ]] .. code)
      return terminal.start(environment or {}, "run", dir.path .. "/script.lua", dir.path)
    end

    --- Waits for a file that the program writes, and gives what is in it.
    local function written(name)
      for _ = 1, 1000 do
        local bytes = fs.read(dir.path .. "/" .. name)
        if bytes and bytes ~= "" then return bytes end
        term.sleep(0.01)
      end
      error(name .. " was not written")
    end

    -- libedit keeps 1,024 characters of a line while another is looked at, and fills up with NUL
    it("ends a long line at Enter, and reads no byte beyond it, after a look at the history", function()
      local t <close> = editing [[
        ed:add "older"
        local line = ed:line "> "
        print(("got %d %s;"):format(#line, line:match "^x+" ~= nil))]]
      t:expect("> ")
      t:type(("x"):rep(3000))
      t:type("\16\14\r")
      t:expect("got 3000 true;")
    end)

    it("has its terminal again, and shows its line, after it was stopped and goes on", function()
      local t <close> = editing [[
        fs.write(dir .. "/pids", (fs.read("/proc/self/stat"):gsub("^(%d+) %b() %a (%d+).*", "%1 %2")))
        print(("got %q;"):format((ed:line("> "))))]]
      t:expect("> ")
      t:type("ab")
      t:expect("ab")
      t:kill("STOP")
      local pids = written "pids"
      local tty = "/proc/" .. pids:match "%d+" .. "/fd/0"
      assert(os.execute("stty -F " .. tty .. " sane")) -- as a shell does
      assert(os.execute("kill -CONT " .. pids)) -- script(1) stops itself with its child
      t:expect("> ab")
      assert.matches("-icanon", select(2, support.shell("stty -a -F " .. tty)), 1, true)
      t:type("\1x\r") -- Ctrl-A: the beginning
      t:expect('got "xab";')
    end)

    it("comes to an end when the terminal is gone before a line begins", function()
      local t <close> = editing [[
        ed:line "> "
        local stat = fs.read "/proc/self/stat"
        fs.write(dir .. "/parent", (stat:match "^%d+ %b() %a (%d+)"))
        while not fs.stat(dir .. "/gone") do os.execute "sleep 0.01" end
        local line = ed:line "> "
        fs.write(dir .. "/end", tostring(line))]]
      t:expect("> ")
      t:type("x\r")
      assert(os.execute("kill -KILL " .. written "parent"))
      support.write(dir.path .. "/gone", "")
      local ok, shown = pcall(written, "end")
      os.execute("kill -KILL $(cat " .. t.dir.path .. "/pid) 2>/dev/null")
      assert.is_true(ok, "it reads on for ever")
      assert.equal("nil", shown)
    end)

    it("takes UTF-8 where nobody has chosen a locale", function()
      local t <close> = editing([[print(("got %q;"):format((ed:line("> "))))]], { LC_ALL = "C" })
      t:expect("> ")
      t:type("\u{e4}\u{6f22}\r")
      t:expect('got "\u{e4}\u{6f22}";')
    end)

    it("keeps the prompt, which is shown again after Tab", function()
      local t <close> = editing [[
        collectgarbage()
        local before = collectgarbage "count"
        ed:line("> \0" .. ("-"):rep(1e6)) -- shown as far as the NUL
        collectgarbage()
        local kept = collectgarbage "count" - before > 900
        print(("got %q %s;"):format((ed:line("> ")), kept))]]
      t:expect("> ")
      t:type("a\t")
      t:type("b\r")
      t:expect('got "ab" true;')
    end)

    it("on a terminal edits, recalls entries of earlier sessions, and stops at Ctrl-C or Ctrl-D", function()
      support.write(dir.path .. "/history", "older\nwith\\nnewline and \\\\n\n")
      support.write(dir.path .. "/script.lua", [[
        local term, path = require "obatch.term", ...
        local ed <close> = term.editor{ history = path }
        for i = 1, 5 do
          local line, message, code = ed:line(i .. "? ")
          print(("got %d %q %s %s;"):format(i, line, message, code))
          if term.interrupted() then term.resume() end
        end]])
      local t <close> = terminal.start({}, "run", dir.path .. "/script.lua", dir.path .. "/history")
      t:expect("1? ")
      t:type("w\xc3\xb6rd!\b\r")
      t:expect('got 1 "w\xc3\xb6rd" nil nil;')
      t:expect("2? ")
      t:type("\x10\r") -- Ctrl-P
      t:expect('got 2 "with\\\r\nnewline and \\\\n" nil nil;')
      t:expect("3? ")
      t:type("\x10\x10\r")
      t:expect('got 3 "older" nil nil;')
      t:expect("4? ")
      t:type("half\x03")
      t:expect('got 4 nil interrupted INTERRUPTED;')
      t:expect("5? ")
      t:type("\x04")
      t:expect("got 5 nil nil nil;")
      assert.equal(0, t:code())
    end)
  end)
end)
