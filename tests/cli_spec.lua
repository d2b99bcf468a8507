-- The command line as people meet it: what is printed where, exit codes, signals, where scripts are found.
local fs = require "obatch.fs"
local support = require "support"
local term = require "obatch.term"

--- Runs a script given as text; further words are its arguments. Its path is `script.path`.
local function run(text, ...)
  local dir <close> = support.tmpdir()
  support.write(dir.path .. "/script.lua", text)
  return support.obatch("run", dir.path .. "/script.lua", ...)
end

local function has(text, words) assert.truthy(text:find(words, 1, true), text) end

describe("obatch", function()
  it("--help lists every command with what it does, in groups, on one screen, exit 0", function()
    for _, flag in ipairs { "--help", "-h" } do
      local code, out, err = support.obatch({ OBATCH_SCRIPTS = "", XDG_CONFIG_HOME = "/nowhere" }, flag)
      assert.equal(0, code)
      assert.equal("", err)
      has(out, "obatch run FILE")
      assert.truthy(out:find("\njobs +correction_loop +%u"), out)
      assert.truthy(out:find("\npages +upload +%u"), out)
      assert.truthy(out:find("\ntools +sandbox +%u"), out)
      assert.falsy(out:find("yours", 1, true), out) -- a new script belongs into one of the groups of cli.lua
      local lines = 0
      for line in out:gmatch("([^\n]*)\n") do
        lines = lines + 1
        assert.truthy(utf8.len(line) < 80, line)
      end
      assert.truthy(lines <= 24, "lines: " .. lines)
    end
  end)

  it("--version tells the commit and the libraries", function()
    local code, out, err = support.obatch("--version")
    assert.equal(0, code)
    assert.equal("", err)
    assert.truthy(out:find("^obatch %d+%.%d+%.%d+ %([^()\n]+%)\n"), out)
    local _, head = support.shell("git -C " .. support.quote(support.home) .. " describe --tags --always --abbrev=10")
    if head ~= "" then has(out, "(" .. head:match("%S+")) else has(out, "commit unknown") end
    for _, library in ipairs { "Lua 5%.4%.%d", "libcurl %d+%.%d+%.%d+ with %u%w+/%d", "libmicrohttpd %d+%.",
      "Nettle %d+%.", "lua%-cjson %d+%.", "lua%-argparse %d+%.", "Lrexlib .*PCRE2 %d+%." } do
      assert.truthy(out:find("\n" .. library), out)
    end
  end)

  it("fails when not all of its output could be written, unless nobody reads it", function()
    local binary = support.quote(support.binary)
    for _, words in ipairs { "--help", "--version", "run a.lua" } do
      local dir <close> = support.tmpdir()
      support.write(dir.path .. "/a.lua", "io.write 'buffered'")
      local code, _, err = support.shell(("cd %s && %s %s >/dev/full"):format(dir.path, binary, words))
      assert.same({ 1, "obatch: not all of the output could be written\n" }, { code, err }, words)
      code, _, err = support.shell(("cd %s && { sleep 0.2; %s %s; echo $? >&2; } | true; sleep 2"):format(dir.path,
        binary, words))
      assert.same({ 0, "0\n" }, { code, err }, words)
    end
  end)

  it("loads the large libraries only when they are used", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/maps.lua", [[
      for _, module in ipairs(arg) do require(module) end
      local term = require "obatch.term"
      if arg[1] == "obatch.term" then term.editor {} end
      assert(not os.getenv "GNUTLS_NO_IMPLICIT_INIT") -- set while libcurl is loaded, for nobody else
      for line in io.lines("/proc/self/maps") do print(line:match("/lib([%w-]+)[^/]*$")) end]])
    local LARGE = { "curl", "microhttpd", "edit", "crypto", "ssl" }
    local function loaded(...)
      local code, out, err = support.obatch("run", dir.path .. "/maps.lua", ...)
      assert.equal(0, code, err)
      local found = {}
      for _, library in ipairs(LARGE) do
        if ("\n" .. out):find("\n" .. library .. "\n", 1, true) then found[#found + 1] = library end
      end
      return table.concat(found, " ")
    end
    assert.equal("", loaded())
    assert.equal("", loaded("obatch.fs", "obatch.json", "obatch.jsonl"))
    assert.equal("edit", loaded("obatch.term"))
    assert.truthy(loaded("obatch.http"):find("^curl"))
    assert.truthy(loaded("obatch.httpd"):find("^microhttpd"))
  end)

  it("without arguments is wrong usage: 2, help on stderr", function()
    local code, out, err = support.obatch()
    assert.equal(2, code)
    assert.equal("", out)
    has(err, "Usage: obatch NAME")
  end)

  it("names a script that does not exist, and where it looked", function()
    for _, name in ipairs { "corection_loop", "../scripts/sandbox", "" } do
      local code, out, err = support.obatch(name)
      assert.equal(2, code)
      assert.equal("", out)
      has(err, ("no script called '%s'"):format(name))
      has(err, support.home .. "/scripts")
    end
  end)

  it("run wants a file that exists", function()
    local code, _, err = support.obatch("run")
    assert.equal(2, code)
    has(err, "which file?")
    code, _, err = support.obatch("run", "/no/such/file.lua")
    assert.equal(2, code)
    has(err, "/no/such/file.lua")
  end)
end)

describe("a script's options", function()
  local function wrong(message, ...)
    local code, out, err = support.obatch({ OPENAI_API_KEY = "sk-x" }, "correction_loop", ...)
    assert.equal(2, code)
    assert.equal("", out)
    has(err, message)
    has(err, "Usage: obatch correction_loop")
    assert.falsy(err:find("traceback", 1, true), err)
  end

  it("are described by --help, with an example and the exit codes", function()
    local code, out = support.obatch("correction_loop", "--help")
    assert.equal(0, code)
    for _, words in ipairs { "--base-dir", "--original-requests", "--initial-ids", "--poll-wait", "--policy",
      "--max-iterations", "--max-requests", "--max-bytes", "--dry-run", "--api-key-file", "Example:", "Exit codes:" } do
      has(out, words)
    end
  end)

  it("that are misspelt, missing or of the wrong kind end with 2 and say which", function()
    wrong("--base-dirr", "--base-dirr", "x", "--original-requests", "y")
    wrong("--original-requests", "--base-dir", "x")
    wrong("--base-dir", "--original-requests", "y")
    local function also(message, ...) wrong(message, "--base-dir", "x", "--original-requests", "y", ...) end
    also("'zero' is not a whole number above 0", "--max-requests", "zero")
    also("'0' is not", "--max-bytes", "0")
    also("'-1' is not a number of seconds", "--poll-wait=-1")
    also("too many arguments", "extra")
  end)

  it("are wrong when a file they name is not there", function()
    local dir <close> = support.tmpdir()
    local code, _, err = support.obatch("correction_loop", "--base-dir", dir.path .. "/b", "--original-requests",
      dir.path .. "/none.jsonl")
    assert.equal(2, code)
    has(err, dir.path .. "/none.jsonl")
    assert.is_nil(fs.stat(dir.path .. "/b"))
  end)
end)

describe("a script", function()
  it("that does not compile ends with 1 and names the line", function()
    local code, _, err = run("local x = 1\nlocal y = = 2\n")
    assert.equal(1, code)
    has(err, "script.lua:2:")
  end)

  it("that raises ends with 1 and a traceback through its lines", function()
    local code, _, err = run("local function deep()\n  error('boom')\nend\n\ndeep()\nreturn 0\n")
    assert.equal(1, code)
    has(err, "script.lua:2: boom")
    has(err, "stack traceback:")
    has(err, "script.lua:5:")
  end)

  it("that raises something else than a string still says what", function()
    for value, words in pairs { ["setmetatable({}, { __tostring = function() return 'my error' end })"] = "my error",
      ["nil"] = "nil", ["42"] = "42" } do
      local code, _, err = run("error(" .. value .. ")")
      assert.equal(1, code)
      has(err, words)
      has(err, "script.lua:1:")
    end
  end)

  it("that reads or sets an undefined global ends with 1 and names it", function()
    local code, _, err = run("local count = 1\nprint(conut)\n")
    assert.equal(1, code)
    has(err, "script.lua:2: undefined variable 'conut'")
    code, _, err = run("count = 1\n")
    assert.equal(1, code)
    has(err, "script.lua:1: undeclared variable 'count'")
  end)

  it("that needs a module which is not there says so", function()
    local code, _, err = run("require 'obatch.nothing'")
    assert.equal(1, code)
    has(err, "obatch.nothing")
  end)

  it("gives its exit code; none means 0", function()
    for text, wanted in pairs { ["return 0"] = 0, ["return 3"] = 3, ["return 42"] = 42, [""] = 0, ["return nil"] = 0,
      ["os.exit(7, true)"] = 7 } do
      assert.equal(wanted, (run(text)))
    end
  end)

  it("gets its arguments as lua(1) gives them", function()
    local code, out = run("print(#arg, arg[0]:match('[^/]*$'), arg[1], arg[2], select('#', ...), (...))", "a b", "--c")
    assert.equal(0, code)
    assert.equal("2\tscript.lua\ta b\t--c\t2\ta b\n", out)
  end)

  it("that raises what it has caught with a traceback has that one told, and no other", function()
    local code, _, err = run([[
      local function inner() error "broken" end
      local _, caught = xpcall(inner, debug.traceback)
      error(caught, 0)]])
    assert.equal(1, code)
    assert.matches("^obatch: [^\n]*script%.lua:1: broken\nstack traceback:\n.*script%.lua:2: in local 'chunk'", err)
    assert.equal(1, select(2, err:gsub("stack traceback:", "")))
  end)

  it("in ./scripts comes before an installed one of the same name", function()
    local dir <close> = support.tmpdir()
    assert(fs.mkdir(dir.path .. "/scripts"))
    support.write(dir.path .. "/scripts/sandbox.lua", "--- My own.\nprint 'mine'\nreturn 5\n")
    local code, out = support.shell(("cd %s && %s sandbox"):format(dir.path, support.quote(support.binary)))
    assert.equal(5, code)
    assert.equal("mine\n", out)
    code, out = support.shell(("cd %s && %s --help"):format(dir.path, support.quote(support.binary)))
    assert.equal(0, code)
    has(out, "My own")
    has(out, "correction_loop")
  end)
end)

describe("the program finds its lua/ and scripts/", function()
  it("from any folder, and through a symbolic link", function()
    local dir <close> = support.tmpdir()
    assert(os.execute(("ln -s %s %s/linked"):format(support.quote(support.binary), dir.path)))
    local code, out = support.shell(("cd / && %s/linked correction_loop --help"):format(dir.path))
    assert.equal(0, code)
    has(out, "--base-dir")
  end)

  it("from a build folder outside the source tree", function()
    local dir <close> = support.tmpdir()
    local from = support.binary:match("^(.*)/")
    assert(os.execute(("cd %s && cp -r %s obatch.home modules %s"):format(support.quote(from),
      support.quote(support.binary), dir.path)))
    local code, out = support.shell(("cd / && %s/obatch sandbox --help"):format(dir.path))
    assert.equal(0, code)
    has(out, "--faults")
    assert(os.remove(dir.path .. "/modules/http.so"))
    local failed, _, err = support.shell(("cd / && %s/obatch --version"):format(dir.path))
    assert.equal(1, failed)
    has(err, "cannot load obatch.http: " .. dir.path .. "/modules/http.so: ")
  end)

  it("and leaves alone, when it loads a module, what was written to code that others loaded", function()
    local dir <close> = support.tmpdir()
    local code, out, err = support.shell(([[cat >%s/a.lua <<'EOF'
package.cpath = "%s/tests/?.so"
local is_there = require "written"
assert(is_there(), "written")
require "obatch.http"
assert(is_there(), "there no longer")
EOF
%s run %s/a.lua]]):format(dir.path, support.binary:match("^(.*)/"), support.quote(support.binary), dir.path))
    assert.same({ 0, "", "" }, { code, out, err })
  end)

  it("in OBATCH_HOME before anything else, and says so when nothing is there", function()
    local dir <close> = support.tmpdir()
    assert(os.execute(("cp -r %s/lua %s && mkdir %s/scripts"):format(support.quote(support.home), dir.path, dir.path)))
    support.write(dir.path .. "/scripts/hello.lua", "print 'from OBATCH_HOME'\n")
    local code, out = support.shell(("cd / && OBATCH_HOME=%s %s hello"):format(dir.path, support.quote(support.binary)))
    assert.equal(0, code)
    assert.equal("from OBATCH_HOME\n", out)
    local failed, _, err = support.obatch({ OBATCH_HOME = "/nowhere" }, "--version")
    assert.equal(1, failed)
    has(err, "OBATCH_HOME")
  end)
end)

describe("a variable that says how the work is done", function()
  it("that makes no sense is an error, with the remedy", function()
    local meant = "obatch: OBATCH_THREADS is \"%s\": set it to a whole number from 1 to 64, or unset it\n"
    for _, value in ipairs { "0", "-1", "+2", " 2", "2 ", "two", "1e9", "2.0", "0x2", "65", "18446744073709551618" } do
      assert.same({ 2, "", meant:format(value) }, { support.obatch({ OBATCH_THREADS = value }, "--help") })
    end
    for _, value in ipairs { "avx9", "0", "portable " } do
      local code, out, err = support.obatch({ OBATCH_SIMD = value }, "--help")
      assert.same({ 2, "" }, { code, out })
      has(err, ("obatch: OBATCH_SIMD is %q: set it to what this machine has ("):format(value))
      has(err, "portable), or unset it\n")
    end
  end)

  it("is taken where it does, and empty is as if it was not there", function()
    for _, environment in ipairs { { OBATCH_THREADS = "1" }, { OBATCH_THREADS = "64" }, { OBATCH_SIMD = "portable" },
      { OBATCH_THREADS = "", OBATCH_SIMD = "" } } do
      local code, _, err = support.obatch(environment, "--help")
      assert.same({ 0, "" }, { code, err })
    end
  end)
end)

describe("a signal", function()
  --- Runs a script that starts with a shell which sends its process these signals ("TERM TERM"), 0.3 s
  --- apart. Returns the exit code (128 + number when a signal killed it), stderr and the seconds it took. The suite may
  --- have been started by nohup or by "&" in a script: what it ignores then, this program does not.
  local function signalled(signals, text)
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/script.lua", ([[
      os.execute "run=$PPID; (for s in %s; do sleep 0.3; kill -$s $run; done) >/dev/null 2>&1 &"
      ]]):format(signals) .. text)
    local began = term.clock()
    local code, out, err = support.shell(("env --default-signal=HUP,INT,TERM %s run %s/script.lua"):format(
      support.quote(support.binary), dir.path))
    return code, out .. err, term.clock() - began
  end

  local PLACES = {
    ["a busy loop"] = "while true do end",
    ["a sleep"] = [[
      local _, why, code = require "obatch.term".sleep(60)
      print(why)
      return code == "INTERRUPTED" and 130]],
    ["a wait for HTTP"] = [[
      local server = assert(require 'obatch.httpd'.listen { spool = os.getenv("TMPDIR") or "/tmp" })
      local client = require 'obatch.http'.client {}
      assert(client:start { url = "http://127.0.0.1:" .. server.port .. "/" })
      local _, why, code = client:wait(60)
      print(why)
      return code == "INTERRUPTED" and 130]],
  }

  for _, name in ipairs { "INT", "TERM", "HUP" } do
    for place, text in pairs(PLACES) do
      it(("%s stops %s at once, with 130"):format(name, place), function()
        local code, said, seconds = signalled(name, text)
        assert.equal(130, code, said)
        has(said, "interrupted")
        assert.falsy(said:find("Sanitizer", 1, true), said)
        assert.truthy(seconds < 20, "it took " .. seconds .. " s")
      end)
    end
  end

  it("runs what scripts close as they leave", function()
    local code, said = signalled("INT", [[
      local guard <close> = setmetatable({}, { __close = function() print "closed" end })
      while true do end]])
    assert.equal(130, code)
    has(said, "closed")
  end)

  it("kills when it comes a second time, even a script that catches every error", function()
    local code, said = signalled("TERM TERM", "while true do pcall(function() while true do end end) end")
    assert.equal(143, code, said)
    code, said = signalled("TERM TERM", "coroutine.wrap(function() while true do end end)()")
    assert.equal(143, code, said)
  end)

  it("that was ignored before the program began stays ignored (nohup)", function()
    local code, out = support.shell(([[trap '' HUP; exec %s run /dev/stdin <<'E'
os.execute("kill -HUP $PPID")
print "still here"
E]]):format(support.quote(support.binary)))
    assert.equal(0, code)
    assert.equal("still here\n", out)
  end)

  it("is not what a reader that goes away sends: the script hears of a failed write", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/script.lua", [[
      for i = 1, 100000 do
        local ok, why = io.write("line ", i, "\n")
        if not ok then io.stderr:write("heard: ", why) return 9 end
      end]])
    local _, out, err = support.shell(("{ %s run %s/script.lua; echo $? >%s/code; } | head -1"):format(
      support.quote(support.binary), dir.path, dir.path))
    assert.equal("line 1\n", out)
    has(err, "heard: ")
    assert.equal("9\n", support.read(dir.path .. "/code"))
  end)
end)

describe("what people type for help", function()
  it("is help: help, help NAME, run --help", function()
    local _, usage = support.obatch("--help")
    local code, out = support.obatch("help")
    assert.same({ 0, usage }, { code, out })
    local _, of_status = support.obatch("status", "--help")
    code, out = support.obatch("help", "status")
    assert.same({ 0, of_status }, { code, out })
    code, out = support.obatch("run", "--help")
    assert.equal(0, code)
    assert.matches("^Usage: obatch run FILE", out)
  end)

  it("has a mistyped option named for what it is", function()
    local code, _, err = support.obatch("--verison")
    assert.equal("2 obatch: no option '--verison': did you mean '--version'?\n", code .. " " .. err)
  end)
end)
