local fs = require "obatch.fs"
local support = require "support"

--- Runs Lua code in an obatch of its own, with `limits` (shell commands) before it.
local function run(dir, code, limits)
  support.write(dir .. "/script.lua", 'local fs, dir = require "obatch.fs", ...\n' .. code)
  return support.shell(("%s\n%s run %s %s"):format(limits or "", support.quote(support.binary),
    support.quote(dir .. "/script.lua"), support.quote(dir)))
end

--- The paths of a walk, relative to the folder; what could not be read as "path: CODE".
local function walk(folder, options)
  local paths = {}
  for path, size, _, code in fs.walk(folder, options) do
    paths[#paths + 1] = path:sub(#folder + 2) .. (size and "" or ": " .. code)
  end
  return paths
end

describe("fs", function()
  local dir

  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  describe("stat", function()
    it("tells files, folders and links apart, with size, time and permissions", function()
      support.write(dir.path .. "/f", "12345")
      os.execute(("cd %s && chmod 640 f && touch -d @1700000000.25 f && ln -s f l"):format(dir.path))
      assert.same({ type = "file", size = 5, mtime = 1700000000.25, mode = tonumber("640", 8) },
        fs.stat(dir.path .. "/f"))
      assert.equal("file", fs.stat(dir.path .. "/l").type)
      assert.equal("link", fs.lstat(dir.path .. "/l").type)
      assert.equal("dir", fs.stat(dir.path).type)
      assert.equal("other", fs.stat("/dev/null").type)
    end)

    it("has a word for the state of a file, another one for each that it was in", function()
      local seen, path = {}, dir.path .. "/state"
      for _, command in ipairs { "echo a >F", "echo b >F", "echo bb >F", "cp -p F G; mv G F",
        "cp -p F G; echo cc >F; touch -r G F" } do
        os.execute("sleep 0.02; " .. command:gsub("[FG]", { F = path, G = path .. "2" }))
        local state = assert(fs.state(path))
        assert.is_nil(seen[state], command)
        assert.equal(state, fs.state(path))
        seen[state] = true
      end
      assert.equal("ENOENT", select(3, fs.state(dir.path .. "/none")))
    end)

    it("names the missing path and gives the errno name", function()
      local stat, message, code = fs.stat(dir.path .. "/none")
      assert.is_nil(stat)
      assert.equal(("cannot look at %s/none: No such file or directory"):format(dir.path), message)
      assert.equal("ENOENT", code)
    end)

    it("refuses a path with a NUL byte instead of looking at half of it", function()
      assert.has_error(function() fs.stat(dir.path .. "\0x") end)
    end)
  end)

  describe("mkdir", function()
    it("makes parents, with doubled and final slashes, and is content with what exists", function()
      assert.is_true(fs.mkdir(dir.path .. "/a//b/c/"))
      assert.is_true(fs.mkdir(dir.path .. "/a/b/c"))
      assert.equal("dir", fs.stat(dir.path .. "/a/b/c").type)
      assert.is_true(fs.mkdir("/"))
    end)

    it("fails where a file is in the way", function()
      support.write(dir.path .. "/f", "")
      for _, path in ipairs { "/f", "/f/g" } do
        local ok, message, code = fs.mkdir(dir.path .. path)
        assert.is_nil(ok)
        assert.equal(("cannot make folder %s%s: Not a directory"):format(dir.path, path), message)
        assert.equal("ENOTDIR", code)
      end
    end)
  end)

  describe("list", function()
    it("sorts bytewise and passes every byte of a name through", function()
      for _, name in ipairs { "b", "B", "\xff\xfe", "new\nline", ".hidden", "ä" } do
        support.write(dir.path .. "/" .. name, "")
      end
      assert.same({ ".hidden", "B", "b", "new\nline", "ä", "\xff\xfe" }, fs.list(dir.path))
    end)

    it("fails for a file", function()
      support.write(dir.path .. "/f", "")
      assert.equal("ENOTDIR", select(3, fs.list(dir.path .. "/f")))
    end)
  end)

  describe("walk", function()
    it("delivers whole paths in bytewise order, with size and time", function()
      assert(fs.mkdir(dir.path .. "/a/z"))
      assert(fs.mkdir(dir.path .. "/empty"))
      for _, name in ipairs { "a/2", "a/z/3", "a.jpg", "a0", "B" } do
        support.write(dir.path .. "/" .. name, name)
      end
      assert.same({ "B", "a.jpg", "a/2", "a/z/3", "a0" }, walk(dir.path))
      local step, state = fs.walk(dir.path)
      local path, size, mtime = step(state)
      assert.equal(dir.path .. "/B", path)
      assert.equal(1, size)
      assert.equal(fs.stat(path).mtime, mtime)
    end)

    it("joins a folder given with a slash without doubling it", function()
      support.write(dir.path .. "/f", "")
      local step, state = fs.walk(dir.path .. "/")
      assert.equal(dir.path .. "/f", (step(state)))
    end)

    it("keeps the wanted extensions in any case, and no file that is only an extension", function()
      for _, name in ipairs { "a.JPG", "b.jpeg", "c.png", ".jpg", "jpg", "d.jpg.txt", "e.Jpg" } do
        support.write(dir.path .. "/" .. name, "")
      end
      assert.same({ "a.JPG", "b.jpeg", "e.Jpg" },
        walk(dir.path, { ext = { [".jpg"] = true, [".JPEG"] = true } }))
      assert.same({ "c.png" }, walk(dir.path, { ext = { [".png"] = true, [".jpg"] = false } }))
      assert.same({}, walk(dir.path, { ext = {} }))
    end)

    it("follows links to files, not to folders, and ends in a loop of links", function()
      assert(fs.mkdir(dir.path .. "/sub"))
      support.write(dir.path .. "/f", "123")
      os.execute(("cd %s && ln -s .. sub/up && ln -s ../f sub/link && ln -s self self && mkfifo pipe"):format(
        dir.path))
      assert.same({ "f", "self: ELOOP", "sub/link" }, walk(dir.path))
    end)

    it("delivers names that are not UTF-8 or hold a newline", function()
      assert(fs.mkdir(dir.path .. "/\xe9t\xe9"))
      support.write(dir.path .. "/\xe9t\xe9/a\nb.jpg", "")
      assert.same({ "\xe9t\xe9/a\nb.jpg" }, walk(dir.path))
    end)

    it("without stat looks only at links, and gives true for what is there", function()
      assert(fs.mkdir(dir.path .. "/sub"))
      support.write(dir.path .. "/f", "123")
      os.execute(("cd %s && ln -s .. sub/up && ln -s ../f sub/link && ln -s self self && mkfifo pipe"):format(
        dir.path))
      local found = {}
      for path, ok, message, code in fs.walk(dir.path, { stat = false }) do
        found[#found + 1] = { path:sub(#dir.path + 2), ok, code or message }
      end
      assert.same({ { "f", true }, { "self", nil, "ELOOP" }, { "sub/link", true } }, found)
      assert.has_error(function() fs.walk(dir.path, { stat = 0 }) end)
      assert.has_error(function() fs.walk(dir.path, { sta = false }) end)
    end)

    it("gives the same in the same order, however many threads read a large tree", function()
      -- More than is read in one go, at three depths; and what fails has its place, too.
      local expected = {}
      for i = 1, 12 do
        for _, below in ipairs { "", "/x", "/x/y" } do
          local folder = ("/box-%02d%s"):format(i, below)
          assert(fs.mkdir(dir.path .. folder))
          for j = 1, 70 do
            support.write(("%s%s/%03d.jpg"):format(dir.path, folder, j), "")
            expected[#expected + 1] = ("%s/%03d.jpg"):format(folder, j)
            support.write(("%s%s/%03d.txt"):format(dir.path, folder, j), "")
          end
          os.execute(("ln -s nowhere %s%s/050x.jpg"):format(dir.path, folder))
          expected[#expected + 1] = folder .. "/050x.jpg ENOENT"
        end
      end
      table.sort(expected)
      support.write(dir.path .. "/walk.lua", [[
        local dir = ...
        for path, ok, _, code in require "obatch.fs".walk(dir, { ext = { [".jpg"] = true } }) do
          print(path:sub(#dir + 1) .. (ok and "" or " " .. code))
        end]])
      for threads = 1, 4 do
        local code, out, err = support.shell(("OBATCH_THREADS=%d %s run %s/walk.lua %s"):format(threads,
          support.quote(support.binary), dir.path, dir.path))
        assert.same({ 0, "" }, { code, err })
        assert.is_true(out == table.concat(expected, "\n") .. "\n")
      end
    end)

    it("can be left while other threads are reading", function()
      for i = 1, 30 do
        assert(fs.mkdir(("%s/%02d"):format(dir.path, i)))
        for j = 1, 100 do support.write(("%s/%02d/%03d"):format(dir.path, i, j), "") end
      end
      support.write(dir.path .. "/walk.lua", [[
        local fs, dir = require "obatch.fs", ...
        for stop = 1, 3000, 111 do
          local count = 0
          for _ in fs.walk(dir) do
            count = count + 1
            if count == stop then break end
          end
        end
        for _ = 1, 10 do -- not closed, but collected
          local step, state = fs.walk(dir)
          step(state)
        end
        print "done"]])
      local code, out, err = support.shell(("OBATCH_THREADS=4 %s run %s/walk.lua %s"):format(
        support.quote(support.binary), dir.path, dir.path))
      assert.same({ 0, "done\n", "" }, { code, out, err })
    end)

    it("reports a folder that cannot be read and goes on behind it", function()
      for _, name in ipairs { "a", "b", "c" } do
        assert(fs.mkdir(dir.path .. "/" .. name))
        support.write(dir.path .. "/" .. name .. "/f", "")
      end
      os.execute(("chmod 000 %s/b"):format(dir.path))
      support.write(dir.path .. "/walk.lua", [[
        for path, size, message, code in require "obatch.fs".walk((...)) do
          print(path:match("[^/]*/[^/]*$"), not size and message:match(": (.*)") or "ok", not size and code)
        end]])
      -- root reads everything, unless it gives that capability away
      local code, out, err = support.shell(("%s %s run %s/walk.lua %s"):format(
        "[ $(id -u) = 0 ] && set -- setpriv --bounding-set=-dac_override,-dac_read_search; \"$@\"",
        support.quote(support.binary), dir.path, dir.path))
      os.execute(("chmod 700 %s/b"):format(dir.path))
      assert.equal("", err)
      assert.equal(0, code)
      assert.matches("a/f\tok", out)
      assert.matches("/b\tPermission denied\tEACCES", out)
      assert.matches("c/f\tok", out)
    end)

    it("reports a missing folder as its only entry", function()
      local step, state = fs.walk(dir.path .. "/none")
      local path, size, message, code = step(state)
      assert.equal(dir.path .. "/none", path)
      assert.is_nil(size)
      assert.matches("none: No such file", message)
      assert.equal("ENOENT", code)
      assert.is_nil((step(state)))
    end)

    it("ends cleanly when the loop is left, and stays ended", function()
      support.write(dir.path .. "/f", "")
      support.write(dir.path .. "/g", "")
      local step, state, _, closing = fs.walk(dir.path)
      assert.equal(dir.path .. "/f", (step(state)))
      getmetatable(closing).__close(closing)
      assert.is_nil((step(state)))
    end)

    it("survives folders nested beyond what a path can name", function()
      local deep = ("/" .. ("d"):rep(200)):rep(15)
      assert(fs.mkdir(dir.path .. "/a" .. deep))
      assert(fs.mkdir(dir.path .. "/b" .. deep))
      assert(fs.rename(dir.path .. "/b", dir.path .. "/a" .. deep .. "/b"))
      local found = walk(dir.path)
      os.execute(("rm -rf %s/a"):format(dir.path))
      assert.equal(1, #found)
      assert.matches(": ENAMETOOLONG$", found[1])
    end)
  end)

  describe("read and write", function()
    it("round-trip every byte, also of an empty file", function()
      local bytes = {}
      for i = 0, 255 do bytes[#bytes + 1] = string.char(i) end
      for _, text in ipairs { "", "x", table.concat(bytes):rep(3000) } do
        assert.is_true(fs.write(dir.path .. "/f", text))
        assert.equal(text, fs.read(dir.path .. "/f"))
      end
      assert.same({ "f" }, fs.list(dir.path))
    end)

    it("read stops after max bytes, and reads what has no size", function()
      support.write(dir.path .. "/f", "12345")
      assert.equal("123", fs.read(dir.path .. "/f", 3))
      assert.equal("12345", fs.read(dir.path .. "/f", 5))
      assert.equal("12345", fs.read(dir.path .. "/f", 99))
      assert.equal("", fs.read(dir.path .. "/f", 0))
      assert.matches("^Name:", fs.read("/proc/self/status"))
    end)

    it("read names the path it cannot read", function()
      local text, message, code = fs.read(dir.path)
      assert.is_nil(text)
      assert.equal("cannot read " .. dir.path .. ": Is a directory", message)
      assert.equal("EISDIR", code)
    end)

    it("a write that fails half-way leaves the old file and no .part", function()
      support.write(dir.path .. "/f", "old")
      local code, out, err = run(dir.path, 'print(fs.write(dir .. "/f", ("x"):rep(100000)))', "ulimit -f 8")
      assert.equal(0, code)
      assert.equal("", err)
      assert.equal(("nil\tcannot write %s/f: File too large\tEFBIG\n"):format(dir.path), out)
      assert.equal("old", fs.read(dir.path .. "/f"))
      assert.same({ "f", "script.lua" }, fs.list(dir.path))
    end)

    it("a write whose name is taken by a folder leaves no .part", function()
      assert(fs.mkdir(dir.path .. "/f"))
      assert.equal("EISDIR", select(3, fs.write(dir.path .. "/f", "x")))
      assert.same({ "f" }, fs.list(dir.path))
    end)

    it("a write into a missing folder names the file", function()
      local ok, message, code = fs.write(dir.path .. "/none/f", "x")
      assert.is_nil(ok)
      assert.equal(("cannot write %s/none/f: No such file or directory"):format(dir.path), message)
      assert.equal("ENOENT", code)
    end)

    it("a stale .part of an earlier run does not get into the new file", function()
      support.write(dir.path .. "/f.part", ("stale"):rep(100))
      assert.is_true(fs.write(dir.path .. "/f", "new"))
      assert.equal("new", fs.read(dir.path .. "/f"))
      assert.same({ "f" }, fs.list(dir.path))
    end)

    it("a write goes through no link that lies in its way, whether it is symbolic or hard", function()
      for _, link in ipairs { "ln -s", "ln" } do
        for _, name in ipairs { "f", "f.part" } do
          for _, when in ipairs { "", "later" } do
            support.write(dir.path .. "/victim", "precious")
            os.execute(("cd %s && rm -f f f.part && %s victim %s"):format(dir.path, link, name))
            assert.is_true(fs.write(dir.path .. "/f", "new", when))
            assert.equal("precious", fs.read(dir.path .. "/victim"))
            assert.equal("new", fs.read(dir.path .. "/f"))
            assert.equal("file", fs.lstat(dir.path .. "/f").type)
            assert.same({ "f", "victim" }, fs.list(dir.path))
          end
        end
      end
    end)

    it("a write says what is in the way of its .part", function()
      assert(fs.mkdir(dir.path .. "/f.part"))
      assert.same({ n = 3, nil, ("cannot write %s/f.part: File exists"):format(dir.path), "EEXIST" },
        table.pack(fs.write(dir.path .. "/f", "x")))
    end)

    it("a write to the longest name works, and cuts no character of it for the .part", function()
      local longest = {
        [("x"):rep(255)] = ("x"):rep(250),
        [("x"):rep(251)] = ("x"):rep(250),
        [("x"):rep(250)] = ("x"):rep(250),
        [("x"):rep(249)] = ("x"):rep(249),
        [("é"):rep(127)] = ("é"):rep(125),
        ["x" .. ("é"):rep(127)] = "x" .. ("é"):rep(124),
        [("x"):rep(247) .. "😀yyyy"] = ("x"):rep(247),
        [("\x80"):rep(255)] = ("\x80"):rep(247),
      }
      for name, kept in pairs(longest) do
        local path = dir.path .. "/" .. name
        assert(fs.mkdir(dir.path .. "/" .. kept .. ".part")) -- so that the message names it
        local _, message = fs.write(path, "x")
        assert.equal(("cannot write %s/%s.part: File exists"):format(dir.path, kept), message)
        assert(fs.remove(dir.path .. "/" .. kept .. ".part"))
        assert.is_true(fs.write(path, name))
        assert.is_true(fs.write(path, name .. "!"))
        assert.equal(name .. "!", fs.read(path))
        assert.same({ name }, fs.list(dir.path))
        assert(fs.remove(path))
      end
      assert.equal("ENAMETOOLONG", select(3, fs.write(dir.path .. "/" .. ("x"):rep(256), "")))
      assert.same({}, fs.list(dir.path))
    end)

    it("a write that may be durable later is as atomic, and no other word is taken for it", function()
      assert.is_true(fs.write(dir.path .. "/f", "old", "later"))
      assert.equal("old", fs.read(dir.path .. "/f"))
      local code, out = run(dir.path, 'print(fs.write(dir .. "/f", ("x"):rep(100000), "later"))', "ulimit -f 8")
      assert.equal(0, code)
      assert.equal(("nil\tcannot write %s/f: File too large\tEFBIG\n"):format(dir.path), out)
      assert.equal("old", fs.read(dir.path .. "/f"))
      assert.has_error(function() fs.write(dir.path .. "/f", "new", "latr") end)
      assert.equal("old", fs.read(dir.path .. "/f"))
      assert.same({ "f", "script.lua" }, fs.list(dir.path))
    end)
  end)

  describe("files", function()
    --- Runs Lua code with `files`, by so many threads.
    local function with(threads, code, limits)
      return run(dir.path, "local files <close> = fs.files()\n" .. code,
        (limits or "") .. "\nexport OBATCH_THREADS=" .. threads)
    end

    it("are written whatever has the name, and of two for one path the second stays", function()
      for threads = 1, 4 do
        support.write(dir.path .. "/victim", "precious")
        os.execute(("cd %s && ln -s victim link && ln victim hard && echo old > old"):format(dir.path))
        local code, out, err = with(threads, [[
          assert(fs.mkdir(dir .. "/sub/x"))
          for i = 1, 500 do
            local path = ("%s/%s/%d"):format(dir, i % 7 == 0 and "sub/x" or "sub", i)
            assert(files:write(path, ("text %d\n"):format(i):rep(i)))
          end
          for _, name in ipairs { "link", "hard", "old", "sub/1", "sub/500" } do
            assert(files:write(dir .. "/" .. name, "new " .. name))
          end
          assert(files:write(dir .. "/empty", ""))
          assert(files:write(dir .. "/long", ("x"):rep(2000000)))
          for i = 1, 300 do assert(files:write(dir .. "/again", tostring(i))) end
          assert(files:finish())
          assert(files:write(dir .. "/after", "after"))
          assert(files:finish())
          assert(files:finish())]])
        assert.same({ 0, "", "" }, { code, out, err })
        for i = 2, 499 do
          local path = ("%s/%s/%d"):format(dir.path, i % 7 == 0 and "sub/x" or "sub", i)
          assert.is_true(support.read(path) == ("text %d\n"):format(i):rep(i))
        end
        for _, name in ipairs { "link", "hard", "old", "sub/1", "sub/500" } do
          assert.equal("new " .. name, support.read(dir.path .. "/" .. name))
          assert.equal("file", fs.lstat(dir.path .. "/" .. name).type)
        end
        assert.equal("precious", support.read(dir.path .. "/victim"))
        assert.equal("", support.read(dir.path .. "/empty"))
        assert.equal(2000000, fs.stat(dir.path .. "/long").size)
        assert.equal("300", support.read(dir.path .. "/again"))
        assert.equal("after", support.read(dir.path .. "/after"))
        assert.same({ "after", "again", "empty", "hard", "link", "long", "old", "script.lua", "sub", "victim" },
          fs.list(dir.path))
        os.execute(("cd %s && rm -r *"):format(dir.path))
      end
    end)

    it("tell each failure once, in their order, and write the others", function()
      for threads = 1, 4 do
        local code, out, err = with(threads, [[
          assert(fs.mkdir(dir .. "/folder"))
          local function failed(message, code, path)
            print(path:sub(#dir + 2), code, message:match(dir:gsub("%W", "%%%0") .. "/(.*)"))
          end
          for i = 1, 400 do
            local path = dir .. "/" .. (i == 5 and "folder" or i % 100 == 0 and "none/" .. i or i)
            repeat
              local ok, message, code, of = files:write(path, tostring(i))
              if not ok then failed(message, code, of) end
            until ok
          end
          repeat
            local ok, message, code, of = files:finish()
            if not ok then failed(message, code, of) end
          until ok
          assert(files:finish())]])
        assert.same({ 0, "" }, { code, err })
        local expected = { "folder\tEISDIR\tfolder: Is a directory" }
        for i = 100, 400, 100 do
          expected[#expected + 1] = ("none/%d\tENOENT\tnone/%d: No such file or directory"):format(i, i)
        end
        assert.equal(table.concat(expected, "\n") .. "\n", out)
        assert.equal(400 - 5 + 2, #fs.list(dir.path)) -- and the folder and the script
        os.execute(("cd %s && rm -r *"):format(dir.path))
      end
    end)

    it("that do not fit leave nothing under their names, and no .part", function()
      local code, out, err = with(2, [[
        for i = 1, 3 do assert(files:write(dir .. "/" .. i, ("x"):rep(i == 2 and 100000 or 10))) end
        print(files:finish())
        print(files:finish())]], "ulimit -f 8")
      assert.same({ 0, "" }, { code, err })
      assert.equal(("nil\tcannot write %s/2: File too large\tEFBIG\t%s/2\ntrue\n"):format(dir.path, dir.path), out)
      assert.same({ "1", "3", "script.lua" }, fs.list(dir.path))
    end)

    it("whose long names differ at the end only do not meet before they have them", function()
      local code, out, err = with(3, [[
        local stem = dir .. "/" .. ("n"):rep(250)
        for round = 1, 10 do
          for i = 10, 80 do assert(files:write(stem .. i, (i .. "." .. round):rep(900))) end
          while true do
            local ok, message = files:finish()
            if ok then break end
            error(message)
          end
          for i = 10, 80 do assert(fs.read(stem .. i) == (i .. "." .. round):rep(900)) end
        end]])
      assert.same({ 0, "", "" }, { code, out, err })
    end)

    it("can be left unfinished, and take nothing when closed", function()
      local code, out, err = with(4, [[
        for i = 1, 1000 do assert(files:write(dir .. "/" .. i, "text")) end
        for i = 1, 10 do fs.files():write(dir .. "/more" .. i, "text") end
        files:close()
        files:close()
        print(pcall(files.write, files, dir .. "/x", "") or pcall(files.finish, files))]])
      assert.same({ 0, "" }, { code, err })
      assert.matches("^false\n", out)
      for _, name in ipairs(fs.list(dir.path)) do
        assert.is_true(name == "script.lua" or support.read(dir.path .. "/" .. name) == "text")
      end
    end)
  end)

  describe("rename and remove", function()
    it("rename replaces a file, also across folders", function()
      assert(fs.mkdir(dir.path .. "/sub"))
      support.write(dir.path .. "/a", "new")
      support.write(dir.path .. "/sub/b", "old")
      assert.is_true(fs.rename(dir.path .. "/a", dir.path .. "/sub/b"))
      assert.equal("new", fs.read(dir.path .. "/sub/b"))
      local ok, message, code = fs.rename(dir.path .. "/a", dir.path .. "/b")
      assert.is_nil(ok)
      assert.equal(("cannot rename %s/a to %s/b: No such file or directory"):format(dir.path, dir.path),
        message)
      assert.equal("ENOENT", code)
    end)

    it("remove takes a file, a link or an empty folder, and not what a link points to", function()
      assert(fs.mkdir(dir.path .. "/sub"))
      support.write(dir.path .. "/f", "")
      os.execute(("ln -s f %s/l"):format(dir.path))
      for _, name in ipairs { "l", "sub", "missing", "missing" } do
        assert.is_true(fs.remove(dir.path .. "/" .. name))
      end
      assert.same({ "f" }, fs.list(dir.path))
      assert.equal("ENOTEMPTY", select(3, fs.remove(dir.path)))
    end)
  end)

  describe("append", function()
    it("adds to what is there and closes more than once", function()
      support.write(dir.path .. "/j", "one\n")
      do
        local file <close> = assert(fs.append(dir.path .. "/j"))
        assert.is_true(file:write("two\n"))
        assert.is_true(file:write(""))
        assert.is_true(file:write("three\n"))
      end
      assert.equal("one\ntwo\nthree\n", fs.read(dir.path .. "/j"))
      local file = assert(fs.append(dir.path .. "/new"))
      assert.is_true(file:close())
      assert.is_true(file:close())
      assert.has_error(function() file:write("x") end)
      assert.equal("", fs.read(dir.path .. "/new"))
    end)

    it("takes a line back that did not fit, and goes on when there is room again", function()
      local code, out, err = run(dir.path, [[
        local file <close> = assert(fs.append(dir .. "/j"))
        print(file:write(("x"):rep(4000) .. "\n"))
        print(file:write(("y"):rep(4000) .. "\n"))
        print(fs.stat(dir .. "/j").size)
        print(file:write("z\n"))]], "ulimit -f 8")
      assert.equal("", err)
      assert.equal(0, code)
      assert.equal(("true\nnil\tcannot append to %s/j: File too large\tEFBIG\n4001\ntrue\n"):format(dir.path),
        out)
      assert.equal(("x"):rep(4000) .. "\nz\n", fs.read(dir.path .. "/j"))
    end)

    it("reports a full disk with its name", function()
      local file <close> = assert(fs.append("/dev/full"))
      local ok, message, code = file:write("x")
      assert.is_nil(ok)
      assert.equal("cannot append to /dev/full: No space left on device", message)
      assert.equal("ENOSPC", code)
    end)

    it("goes through no symbolic link, with or without a target", function()
      support.write(dir.path .. "/victim", "precious")
      os.execute(("cd %s && ln -s victim l && ln -s nowhere m"):format(dir.path))
      for _, name in ipairs { "l", "m" } do
        for _, when in ipairs { "", "later" } do
          local file, message, code = fs.append(dir.path .. "/" .. name, when)
          assert.same({ nil, "ELOOP" }, { file, code })
          assert.matches("cannot append to " .. dir.path .. "/" .. name .. ": ", message, 1, true)
        end
      end
      assert.equal("precious", fs.read(dir.path .. "/victim"))
      assert.same({ "l", "m", "victim" }, fs.list(dir.path))
    end)

    it("a file whose folder is missing is a failure, not a file elsewhere", function()
      assert.equal("ENOENT", select(3, fs.append(dir.path .. "/none/j")))
    end)
  end)

  describe("create", function()
    it("gathers texts and other files, and says what they are together", function()
      local long = ("long"):rep(50000)
      support.write(dir.path .. "/whole", "one\ntwo\n")
      support.write(dir.path .. "/cut", long .. "\nthree")
      support.write(dir.path .. "/empty", "")
      local file <close> = assert(fs.create(dir.path .. "/f", { sha256 = true }))
      assert.is_true(file:write("a", "", 1, "\n"))
      assert.same({ 8, true }, { file:copy(dir.path .. "/whole") })
      assert.same({ 0, true }, { file:copy(dir.path .. "/empty") })
      assert.same({ #long + 6, false }, { file:copy(dir.path .. "/cut") })
      assert.is_true(file:write(long))
      assert.is_nil(fs.stat(dir.path .. "/f"))
      local content = "a1\none\ntwo\n" .. long .. "\nthree" .. long
      assert.same({ bytes = #content, sha256 = fs.sha256_text(content) }, file:commit())
      local known <close> = assert(fs.create(dir.path .. "/known", { fingerprint = true }))
      assert(known:write(content))
      assert.same({ bytes = #content, fingerprint = fs.fingerprint(dir.path .. "/f") }, known:commit())
      fs.remove(dir.path .. "/known")
      assert.is_true(fs.read(dir.path .. "/f") == content)
      assert.same({ "cut", "empty", "f", "whole" }, fs.list(dir.path))
      assert.has_error(function() file:write("x") end)
      assert.is_true(file:close())
    end)

    it("leaves nothing when it is closed before it was whole, and the old file as it was", function()
      support.write(dir.path .. "/f", "old")
      do
        local file <close> = assert(fs.create(dir.path .. "/f"))
        assert.is_true(file:write("new"))
        assert.same({ "f", "f.part" }, fs.list(dir.path))
      end
      assert.same({ "f" }, fs.list(dir.path))
      assert.equal("old", fs.read(dir.path .. "/f"))
    end)

    it("goes through no link that lies in its way", function()
      for _, name in ipairs { "f", "f.part" } do
        support.write(dir.path .. "/victim", "precious")
        os.execute(("cd %s && rm -f f && ln -s victim %s"):format(dir.path, name))
        local file <close> = assert(fs.create(dir.path .. "/f"))
        assert.is_true(file:write("new"))
        assert.equal(3, file:commit().bytes)
        assert.equal("precious", fs.read(dir.path .. "/victim"))
        assert.equal("file", fs.lstat(dir.path .. "/f").type)
      end
    end)

    it("a file that could not be written to its end never gets its name", function()
      local code, out, err = run(dir.path, [[
        local file <close> = assert(fs.create(dir .. "/f"))
        print(file:write(("x"):rep(100000)))
        print(file:write("y"))
        print(file:copy(dir .. "/script.lua"))
        print(file:commit())]], "ulimit -f 8")
      assert.equal("", err)
      assert.equal(0, code)
      assert.equal(("nil\tcannot write %s/f: File too large\tEFBIG\n"):format(dir.path):rep(4), out)
      assert.same({ "script.lua" }, fs.list(dir.path))
    end)

    it("what cannot be read is named, and spoils what it was to be part of", function()
      local file <close> = assert(fs.create(dir.path .. "/f"))
      assert.same({ n = 3, nil, ("cannot open %s/none: No such file or directory"):format(dir.path), "ENOENT" },
        table.pack(file:copy(dir.path .. "/none")))
      assert.same({ n = 3, nil, ("cannot read %s: Is a directory"):format(dir.path), "EISDIR" },
        table.pack(file:copy(dir.path)))
      assert.equal("EISDIR", select(3, file:commit()))
      assert.same({}, fs.list(dir.path))
      assert.equal("ENOENT", select(3, fs.create(dir.path .. "/none/f")))
    end)
  end)

  it("last_byte tells a file that was cut off", function()
    for content, last in pairs { [""] = "", ["a\n"] = "\n", ["a"] = "a", ["a\0"] = "\0" } do
      support.write(dir.path .. "/f", content)
      assert.equal(last, fs.last_byte(dir.path .. "/f"))
    end
    assert.equal("ENOENT", select(3, fs.last_byte(dir.path .. "/none")))
  end)

  describe("lock", function()
    it("is not taken through a symbolic link", function()
      support.write(dir.path .. "/victim", "precious")
      os.execute(("ln -s victim %s/lock"):format(dir.path))
      assert.equal("ELOOP", select(3, fs.lock(dir.path .. "/lock")))
      assert.equal("precious", fs.read(dir.path .. "/victim"))
    end)

    it("has a holder that can be asked for, which changes nothing", function()
      local path = dir.path .. "/lock"
      assert.same({ n = 1 }, table.pack(fs.holder(path)))
      assert.is_nil(fs.stat(path))
      do
        local lock <close> = assert(fs.lock(path))
        assert.truthy(lock)
        local host, pid = fs.read(path):match("^(%S+) (%d+)\n$")
        assert.equal(("pid %s on host %s"):format(pid, host), fs.holder(path))
      end
      assert.same({ n = 1 }, table.pack(fs.holder(path)))
    end)

    it("that a dead process has left is nobody's", function()
      support.write(dir.path .. "/lock", "somehost 999999999\n")
      assert.is_nil(fs.holder(dir.path .. "/lock"))
      local lock <close> = assert(fs.lock(dir.path .. "/lock"))
      assert.truthy(lock)
      assert.is_falsy(fs.read(dir.path .. "/lock"):find("999999999", 1, true))
    end)

    it("excludes a second holder in the same process until it is closed", function()
      local path = dir.path .. "/lock"
      local first = assert(fs.lock(path))
      local second, message, code = fs.lock(path)
      assert.is_nil(second)
      assert.equal("LOCKED", code)
      local host, pid = fs.read(path):match("^(%S+) (%d+)\n$")
      assert.equal(("%s is held by pid %s on host %s"):format(path, pid, host), message)
      assert.is_true(first:close())
      assert.is_true(first:close())
      local third <close> = assert(fs.lock(path))
      assert.truthy(third)
    end)

    it("ends with a scope", function()
      do
        local lock <close> = assert(fs.lock(dir.path .. "/lock"))
        assert.truthy(lock)
      end
      assert(fs.lock(dir.path .. "/lock")):close()
    end)

    it("is seen by another process, with the holder's pid, and is free once the holder is killed", function()
      local path = dir.path .. "/lock"
      support.write(dir.path .. "/hold.lua", [[
        local fs, path = require "obatch.fs", ...
        local lock = assert(fs.lock(path))
        assert(fs.write(path .. ".held", fs.read("/proc/self/stat"):match("%d+")))
        while lock do require "obatch.term".sleep(1) end]])
      os.execute(("%s run %s/hold.lua %s &"):format(support.quote(support.binary), dir.path, path))
      repeat until fs.stat(path .. ".held")
      local holder = fs.read(path .. ".held")
      local lock, message, code = fs.lock(path)
      assert.is_nil(lock)
      assert.equal("LOCKED", code)
      assert.matches("is held by pid " .. holder .. " on host ", message, 1, true)
      os.execute(("kill -9 %s; while kill -0 %s 2>/dev/null; do :; done"):format(holder, holder))
      assert(fs.lock(path)):close()
    end)

    it("is not kept by a program that the holder started", function()
      local lock = assert(fs.lock(dir.path .. "/lock"))
      local child <close> = assert(io.popen("echo up; exec sleep 600 & echo $!; wait", "r"))
      assert.equal("up", child:read("l"))
      local pid = child:read("l")
      lock:close()
      local again = fs.lock(dir.path .. "/lock")
      os.execute("kill " .. pid)
      assert.truthy(again)
      again:close()
    end)

    it("names the path that cannot hold a lock", function()
      local lock, message, code = fs.lock(dir.path)
      assert.is_nil(lock)
      assert.equal("cannot lock " .. dir.path .. ": Is a directory", message)
      assert.equal("EISDIR", code)
    end)
  end)

  describe("digests, chance, sync and absolute", function()
    it("SHA-256 of a file and of a text agree with FIPS 180-4's examples", function()
      local abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
      support.write(dir.path .. "/f", "abc")
      assert.same({ abc, 3 }, { fs.sha256(dir.path .. "/f") })
      support.write(dir.path .. "/f", "12abc45")
      assert.same({ abc, 3 }, { fs.sha256(dir.path .. "/f", 2, 3) })
      assert.same({ fs.sha256_text "45", 2 }, { fs.sha256(dir.path .. "/f", 5, 3) })
      assert.same({ fs.sha256_text "", 0 }, { fs.sha256(dir.path .. "/f", 9) })
      assert.equal(abc, fs.sha256_text("abc"))
      assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", fs.sha256_text(""))
      support.write(dir.path .. "/f", ("a"):rep(1000000))
      assert.same({ "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0", 1000000 },
        { fs.sha256(dir.path .. "/f") })
      assert.equal("ENOENT", select(3, fs.sha256(dir.path .. "/none")))
    end)

    it("a fingerprint is the same for the same bytes for ever, and another for others", function()
      local path, seen = dir.path .. "/f", {}
      local function of(bytes, ...)
        support.write(path, bytes)
        return { fs.fingerprint(path, ...) }
      end
      assert.same({ "9c969465aaec7ef4788c3de312aaf310", 3 }, of "abc") -- journals hold such
      assert.same({ "9c969465aaec7ef4788c3de312aaf310", 3 }, of("12abc45", 2, 3))
      assert.same({ "e6a3e5dec470b8053c33ba579b65d223", 0 }, of "")
      assert.same({ "008461450fd97dc0d8146ba520913bc3", 1000000 }, of(("a"):rep(1000000)))
      local bytes = ("The quick brown fox. "):rep(4000)
      for i = 0, 400 do
        local at = i * 209 % #bytes + 1
        local changed = bytes:sub(1, at - 1) .. string.char(bytes:byte(at) ~ 1 << i % 8) .. bytes:sub(at + 1)
        for _, other in ipairs { changed, bytes:sub(1, at), ("\0"):rep(at) } do
          local fingerprint = of(other)[1]
          assert.is_true(not seen[fingerprint] or seen[fingerprint] == other)
          seen[fingerprint] = other
        end
      end
      assert.equal("ENOENT", select(3, fs.fingerprint(dir.path .. "/none")))
    end)

    it("random gives as many digits as asked, and others each time", function()
      assert.matches("^%x+$", fs.random(16))
      assert.equal(32, #fs.random(16))
      assert.equal(512, #fs.random(256))
      assert.not_equal(fs.random(16), fs.random(16))
      for _, n in ipairs { 0, -1, 257 } do assert.has_error(function() fs.random(n) end) end
    end)

    it("sync and absolute say what is missing", function()
      assert.is_true(fs.sync(dir.path))
      assert.equal("ENOENT", select(3, fs.sync(dir.path .. "/none")))
      assert(fs.mkdir(dir.path .. "/sub"))
      assert.equal(fs.absolute(dir.path), fs.absolute(dir.path .. "/sub/../."))
      local path, message, code = fs.absolute(dir.path .. "/none")
      assert.is_nil(path)
      assert.equal(("cannot find %s/none: No such file or directory"):format(dir.path), message)
      assert.equal("ENOENT", code)
    end)
  end)
end)
