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
