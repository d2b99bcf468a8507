-- Writing JSON Lines: what a file may hold, when it gets its name, and images that are written as data URLs.
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local jsonl_files = require "jsonl_files"
local strike = require "strike"
local support = require "support"

local BLOCK, file_with, in_own_process = jsonl_files.BLOCK, jsonl_files.file_with, jsonl_files.in_own_process

describe("jsonl.create", function()
  local function refusal(_, _, code) return code end

  it("gives the file its name only when it is whole", function()
    local dir <close> = file_with("the old file\n")
    local writer <close> = assert(jsonl.create(dir.file, { sha256 = true }))
    assert.is_true(writer:raw '{"a": 1.0}')
    assert.is_true(writer:raw '{"b": 2}\n')
    assert.is_true(writer:put { c = json.array {}, a = 3 })
    assert.same({ 3, 35 }, { writer.lines, writer.bytes })
    assert.equal("the old file\n", support.read(dir.file))
    local result = assert(writer:commit())
    assert.equal('{"a": 1.0}\n{"b": 2}\n{"a":3,"c":[]}\n', support.read(dir.file))
    assert.same({ lines = 3, bytes = writer.bytes, sha256 = fs.sha256(dir.file) }, result)
    assert.same({ "lines.jsonl" }, fs.list(dir.path))
    assert.has_error(function() writer:commit() end)
    assert.has_error(function() writer:raw "x" end)
  end)

  it("composes one line at a time, whatever runs meanwhile", function()
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/out"))
    local calls = { put = function() writer:put { n = 1 } end, raw = function() writer:raw "1" end,
      commit = function() writer:commit() end, close = function() writer:close() end }
    for name, call in pairs(calls) do
      local value = { a = ("x"):rep(100), z = setmetatable({ b = 1 }, { __pairs = function() call() end }) }
      local ok, message = pcall(writer.put, writer, value)
      assert.same({ name, false }, { name, ok })
      assert.matches("the writer is composing a line", message, 1, true)
    end
    assert.is_false(pcall(writer.put, writer, { a = print }))
    assert.is_true(writer:put { n = 2 })
    assert.same({ lines = 1, bytes = 8 }, writer:commit())
    assert.equal('{"n":2}\n', support.read(dir.path .. "/out"))
  end)

  it("counts every byte up to max_bytes, newlines too", function()
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { max_bytes = 20 }))
    assert.equal("TOO_BIG", refusal(writer:raw(("x"):rep(20))))
    assert.is_true(writer:raw(("x"):rep(9)))
    assert.equal("FULL", refusal(writer:raw(("x"):rep(10))))
    assert.equal("TOO_BIG", refusal(writer:raw(("x"):rep(20))))
    assert.equal("FULL", refusal(writer:put "12345678"))
    assert.is_true(writer:put "1234567")
    assert.equal("FULL", refusal(writer:raw ""))
    assert.equal(20, assert(writer:commit()).bytes)
    assert.equal("xxxxxxxxx\n\"1234567\"\n", support.read(dir.path .. "/a"))

    local exact <close> = assert(jsonl.create(dir.path .. "/b", { max_bytes = 20 }))
    assert.is_true(exact:raw(("x"):rep(19)))
    assert.equal(20, exact.bytes)
  end)

  it("counts lines up to max_lines", function()
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { max_lines = 2 }))
    assert.is_true(writer:raw "1" and writer:raw "2")
    local good, message, code = writer:raw "3"
    assert.is_nil(good)
    assert.equal(dir.path .. "/a is full: 2 lines, 4 bytes", message)
    assert.equal("FULL", code)
    assert.equal(2, writer.lines)
  end)

  it("copies lines of an indexed file as they stand there", function()
    local dir <close> = support.tmpdir()
    local lines, source = {}, dir.path .. "/source"
    for i = 1, 9 do lines[i] = ('{ "id" : "%d", "x":"%s"}'):format(i, ("x"):rep(i * BLOCK // 4)) end
    support.write(source, table.concat(lines, "\r\n"))
    local index <close> = assert(jsonl.index(source, "/id"))
    local writer <close> = assert(jsonl.create(dir.path .. "/a",
      { max_lines = 5, max_bytes = 4 * BLOCK, sha256 = true }))
    for _, ordinal in ipairs { 9, 1, 2 } do assert.is_true(writer:copy(index, ordinal)) end
    assert.equal("FULL", refusal(writer:copy(index, 9)))
    assert.is_true(writer:raw "{}" and writer:copy(index, 1))
    assert.equal("FULL", refusal(writer:copy(index, 1)))
    local facts = assert(writer:commit())
    local expected = table.concat({ lines[9], lines[1], lines[2], "{}", lines[1], "" }, "\n")
    assert.is_true(support.read(dir.path .. "/a") == expected)
    assert.same({ lines = 5, bytes = #expected, sha256 = fs.sha256_text(expected) }, facts)
    assert.has_error(function() writer:copy(index, 1) end)
  end)

  it("copies nothing of a file that has changed since it was indexed", function()
    for _, change in ipairs { '{"id":"1"}\n{"id":"3"}', '{"id":"1"}', "" } do
      local dir <close> = file_with '{"id":"1"}\n{"id":"2"}'
      local index <close> = assert(jsonl.index(dir.file, "/id"))
      local writer <close> = assert(jsonl.create(dir.path .. "/a"))
      assert.has_error(function() writer:copy(index, 3) end)
      assert.is_true(writer:copy(index, 2))
      local before = fs.state(dir.file)
      repeat
        local file <close> = assert(io.open(dir.file, "r+"))
        file:write(change)
        file:flush()
        if change == "" then file:write "\n" end
      until fs.state(dir.file) ~= before -- the clock of the file system goes in steps
      local ok, message, code = writer:copy(index, 1)
      assert.same({ nil, dir.file .. " has changed since it was indexed", "CHANGED" }, { ok, message, code })
    end
  end)

  it("writes lines of every size", function()
    math.randomseed(5)
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { sha256 = true }))
    local expected = {}
    for i, length in ipairs { 0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5, BLOCK - 6, 3 * BLOCK, 0, 100, BLOCK - 102, 7 } do
      expected[i] = string.char(64 + i):rep(length) .. "\n"
      assert.is_true(writer:raw(expected[i]))
    end
    local result = assert(writer:commit())
    assert.equal(table.concat(expected), support.read(dir.path .. "/a"))
    assert.equal(fs.sha256(dir.path .. "/a"), result.sha256)
  end)

  it("takes one line at a time", function()
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/a"))
    assert.has_error(function() writer:raw "a\nb" end)
    assert.has_error(function() writer:raw "a\n\n" end)
    assert.has_error(function() writer:put { 0 / 0 } end)
    assert.is_true(writer:raw "\n")
    assert.is_true(writer:put(json.null))
    assert(writer:commit())
    assert.equal("\nnull\n", support.read(dir.path .. "/a"))
  end)

  it("leaves nothing behind without commit", function()
    local dir <close> = support.tmpdir()
    do
      local writer <close> = assert(jsonl.create(dir.path .. "/a"))
      writer:raw "x"
      assert.same({ "a.part" }, fs.list(dir.path))
    end
    assert.same({}, fs.list(dir.path))
    assert(jsonl.create(dir.path .. "/a"))
    collectgarbage()
    assert.same({}, fs.list(dir.path))
    local writer = assert(jsonl.create(dir.path .. "/a"))
    assert(writer:commit())
    writer:close()
    writer:close()
    assert.same({ "a" }, fs.list(dir.path))
  end)

  it("writes nothing behind a block that could not be written, and gives the file no name", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/write.lua", [[
      local path = ...
      local jsonl = require "obatch.jsonl"
      local writer <close> = assert(jsonl.create(path, { sha256 = true }))
      local line, code, lines = ("x"):rep(99999), nil, 0
      while not code and lines < 60 do
        code = select(3, writer:raw(line))
        lines = lines + 1
      end
      print(code or "-", lines < 60 and select(3, writer:raw(line)), (select(3, writer:commit())))]])
    for i, with in ipairs { "EIO", "ENOSPC", "SHORT" } do
      local name = with == "SHORT" and "ENOSPC" or with
      for threads = 1, 3 do
        local log = ("%s/%d-%d"):format(dir.path, i, threads)
        local code, out, err = support.shell(strike.export(dir.path, { calls = "write", name = "/out.part", at = 4,
          with = with, log = log }) .. ("OBATCH_THREADS=%d %s run %s/write.lua %s/out"):format(threads,
          support.quote(support.binary), dir.path, dir.path))
        assert.same({ 0, "" }, { code, err })
        assert.equal(("%s\t%s\t%s\n"):format(name, name, name), out)
        local _, writes = support.read(log):gsub("\n", "")
        assert.equal(with == "SHORT" and 5 or 4, writes)
        assert.is_nil(fs.stat(dir.path .. "/out") or fs.stat(dir.path .. "/out.part"))
      end
    end
  end)

  it("says that there is no room, and gives no file a name", function()
    for _, length in ipairs { 50000, 3 * BLOCK } do -- what is buffered fails with commit
      for _, method in ipairs { "raw", "put" } do
        local dir <close> = support.tmpdir()
        support.write(dir.path .. "/script.lua", [[
          local folder, method, length = ...
          require "obatch.fs" -- SIGXFSZ no longer kills
          local writer = assert(require "obatch.jsonl".create(folder .. "/a"))
          print(writer[method](writer, ("x"):rep(tonumber(length))))
          print(writer:raw "after")
          print(writer.lines, writer:commit())
          writer:close()
        ]])
        local code, out, complaint = support.shell(("ulimit -f 8; %s run %s %s %s %d"):format(
          support.quote(support.binary), dir.path .. "/script.lua", dir.path, method, length))
        assert.same({ 0, "" }, { code, complaint })
        local at_once = ("nil\t%s/a.part: File too large\tEFBIG\n"):format(dir.path)
        local in_the_end = ("nil\t%s/a: File too large\tEFBIG\n"):format(dir.path)
        assert.equal(length > BLOCK and at_once .. at_once .. "0\t" .. in_the_end
          or "true\ntrue\n2\t" .. in_the_end, out)
        assert.same({ "script.lua" }, fs.list(dir.path))
      end
    end
  end)

  it("goes through no link that lies in its way, whether it is symbolic or hard", function()
    for _, link in ipairs { "ln -s", "ln" } do
      for _, name in ipairs { "a", "a.part" } do
        local dir <close> = support.tmpdir()
        support.write(dir.path .. "/victim", "precious")
        assert(os.execute(("cd %s && %s victim %s"):format(dir.path, link, name)))
        local writer <close> = assert(jsonl.create(dir.path .. "/a"))
        assert.is_true(writer:raw "new")
        assert(writer:commit())
        assert.equal("precious", support.read(dir.path .. "/victim"))
        assert.equal("new\n", support.read(dir.path .. "/a"))
        assert.equal("file", fs.lstat(dir.path .. "/a").type)
      end
    end
  end)

  it("can give a file the longest name there is, and cuts no character of it before", function()
    local dir <close> = support.tmpdir()
    local name = "x" .. ("é"):rep(127)
    local writer <close> = assert(jsonl.create(dir.path .. "/" .. name, { max_lines = 1 }))
    assert.same({ "x" .. ("é"):rep(124) .. ".part" }, fs.list(dir.path))
    assert.is_true(writer:raw "1")
    assert.equal(dir.path .. "/" .. name .. " is full: 1 lines, 2 bytes", select(2, writer:raw "2"))
    assert(writer:commit())
    assert.same({ name }, fs.list(dir.path))
    assert.equal("1\n", support.read(dir.path .. "/" .. name))
    assert.equal("ENAMETOOLONG", refusal(jsonl.create(dir.path .. "/" .. name .. "x"))) -- now, not with commit
  end)

  it("says what cannot be created or renamed", function()
    local dir <close> = support.tmpdir()
    assert.same({ n = 3, nil, dir.path .. "/no/a.part: No such file or directory", "ENOENT" },
      table.pack(jsonl.create(dir.path .. "/no/a")))
    assert(fs.mkdir(dir.path .. "/a"))
    local writer = assert(jsonl.create(dir.path .. "/a"))
    local good, message = writer:commit()
    assert.is_nil(good)
    assert.truthy(message:find(dir.path .. "/a: ", 1, true))
    writer:close()
    assert.same({ "a" }, fs.list(dir.path))
    assert.has_error(function() jsonl.create(dir.path .. "/b", { max_lines = 0 }) end)
    assert.has_error(function() jsonl.create(dir.path .. "/b", { max_bytes = 1.5 }) end)
    assert.has_error(function() jsonl.create(dir.path .. "/b", { max_byte = 1 }) end) -- misspelt
  end)

  it("refuses a path with a NUL byte, which would make it write to (and remove) another file", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/a", "precious")
    assert.has_error(function() jsonl.create(dir.path .. "/a\0b"):close() end)
    assert.equal("precious", support.read(dir.path .. "/a"))
    assert.has_error(function() jsonl.open(dir.path .. "/a\0b") end)
    assert.has_error(function() jsonl.scan(dir.path .. "/a\0b", {}) end)
    assert.has_error(function() jsonl.index(dir.path .. "/a\0b", "") end)
    assert.has_error(function() jsonl.image(dir.path .. "/a\0b") end)
  end)
end)

describe("jsonl.image", function()
  local png <const> = "\x89PNG\r\n\x1a\n"

  local function bytes(n)
    local list = {}
    for i = 1, n do list[i] = string.char((i * 131 + i // 251) % 256) end
    return table.concat(list)
  end

  --- The data: URL that coreutils' base64 makes of a file.
  local function reference(path, mime)
    local code, out = support.shell("base64 -w0 " .. support.quote(path))
    assert.equal(0, code)
    return "data:" .. mime .. ";base64," .. out
  end

  it("is told by its first bytes, not by its name", function()
    for head, mime in pairs { [png] = "image/png", ["\xff\xd8\xff\xe0"] = "image/jpeg", ["GIF87a"] = "image/gif",
      ["GIF89a"] = "image/gif", ["RIFF\1\2\3\4WEBP"] = "image/webp" } do
      local dir <close> = file_with(head .. "rest")
      local writer <close> = assert(jsonl.create(dir.path .. "/a"))
      assert.is_true(writer:put(assert(jsonl.image(dir.file))))
      assert(writer:commit())
      assert.equal(json.encode(reference(dir.file, mime)) .. "\n", support.read(dir.path .. "/a"))
    end
    for _, text in ipairs { "", "GIF", "GIF88a", "%PDF-1.7", "RIFF1234WAVE", "\xff\xd8", "xRIFF123WEBP", "<svg/>" } do
      local dir <close> = file_with(text)
      local image, message, code = jsonl.image(dir.file)
      assert.is_nil(image)
      assert.truthy(message:find(dir.file, 1, true))
      assert.equal("NOT_IMAGE", code)
    end
    local dir <close> = support.tmpdir()
    assert.equal("ENOENT", select(3, jsonl.image(dir.path .. "/no")))
    assert.equal("EISDIR", select(3, jsonl.image(dir.path)))
    assert(os.execute("mkfifo " .. dir.path .. "/fifo")) -- and nobody hangs
    assert.equal("NOT_IMAGE", select(3, jsonl.image(dir.path .. "/fifo")))
  end)

  it("streams as the reference base64 does, at every length", function()
    local dir <close> = support.tmpdir()
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { sha256 = true }))
    local expected = {}
    for i, length in ipairs { 0, 1, 2, 3, 24576 - 9, 24576 - 8, 24576 - 7, 2 * 24576 - 8, BLOCK, 500000 } do
      local path = dir.path .. "/" .. i
      support.write(path, png .. bytes(length))
      local image = assert(jsonl.image(path))
      assert.is_true(writer:put { model = "m", content = { { url = image }, "é", { image, image } } })
      local url = reference(path, "image/png")
      expected[i] = json.encode { model = "m", content = { { url = url }, "é", { url, url } } } .. "\n"
    end
    local result = assert(writer:commit())
    assert.equal(table.concat(expected), support.read(dir.path .. "/a"))
    assert.equal(fs.sha256(dir.path .. "/a"), result.sha256)
    assert.equal(#table.concat(expected), result.bytes)
  end)

  it("counts with its encoded size, to the byte", function()
    local dir <close> = file_with(png .. bytes(1000))
    local image = assert(jsonl.image(dir.file))
    local size = #json.encode(reference(dir.file, "image/png")) + 1
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { max_bytes = size }))
    assert.is_true(writer:put(image))
    assert.equal(size, writer.bytes)
    assert.equal("FULL", select(3, writer:put(image)))
    local tight <close> = assert(jsonl.create(dir.path .. "/b", { max_bytes = size - 1 }))
    assert.equal("TOO_BIG", select(3, tight:put(image)))
  end)

  it("takes back a line whose image has changed or gone, and the file goes on", function()
    for i, damage in ipairs { png .. bytes(900000), png .. bytes(900000), png .. bytes(400000), png, "", false } do
      local dir <close> = file_with(png .. bytes(500000))
      local image = assert(jsonl.image(dir.file))
      local digest = i == 1 and "fingerprint" or "sha256"
      local writer <close> = assert(jsonl.create(dir.path .. "/a", { [digest] = true }))
      assert.is_true(writer:raw "before")
      if damage then support.write(dir.file, damage) else os.remove(dir.file) end
      local good, message, code = writer:put { image }
      assert.is_nil(good)
      assert.truthy(message:find(dir.file, 1, true))
      assert.equal(damage and "CHANGED" or "ENOENT", code)
      assert.is_true(writer:raw "after")
      local result = assert(writer:commit())
      assert.equal("before\nafter\n", support.read(dir.path .. "/a"))
      assert.same({ lines = 2, bytes = 13, [digest] = fs[digest](dir.path .. "/a") }, result)
    end
  end)

  it("has changed when it is another file or was written again, though its size is the same", function()
    for _, damage in ipairs { "touch -d @1700000000.000000001 i", "cp -p i new && mv new i", "rm i && ln -s new i" } do
      local dir <close> = support.tmpdir()
      support.write(dir.path .. "/i", png .. bytes(500000))
      assert(os.execute(("cd %s && touch -d @1700000000 i && cp -p i new"):format(dir.path)))
      local image = assert(jsonl.image(dir.path .. "/i"))
      local writer <close> = assert(jsonl.create(dir.path .. "/a", { sha256 = true }))
      assert(os.execute(("cd %s && %s"):format(dir.path, damage)))
      assert.same({ n = 3, nil, dir.path .. "/i has changed while it was used", "CHANGED" },
        table.pack(writer:put { image }))
      assert.is_nil(image:sha256())
      assert.is_true(writer:put { assert(jsonl.image(dir.path .. "/i")) })
    end
  end)

  it("has changed when its name is now that of something that is no file", function()
    for _, damage in ipairs { "mkdir i", "mkfifo i" } do
      local dir <close> = support.tmpdir()
      support.write(dir.path .. "/i", png)
      local image = assert(jsonl.image(dir.path .. "/i"))
      local writer <close> = assert(jsonl.create(dir.path .. "/a"))
      assert(os.execute(("cd %s && rm i && %s"):format(dir.path, damage)))
      assert.equal("CHANGED", select(3, writer:put { image }))
    end
  end)

  it("has changed when that happens while it is streamed", function()
    for _, damage in ipairs { "touch -d @1 i", "mv new i" } do
      local dir <close> = support.tmpdir()
      local caught = false
      for _ = 1, 20 do -- the other process may be too late, or (see above) in time for the size alone
        assert(os.execute(([[cd %s && { printf '\211PNG\r\n\032\n'; head -c 30000000 /dev/zero; } >i &&
          touch -d @1700000000 i && cp -p i new]]):format(dir.path)))
        local image = assert(jsonl.image(dir.path .. "/i"))
        local writer <close> = assert(jsonl.create(dir.path .. "/a"))
        local other = assert(io.popen(([[cd %s && echo up
          while [ $(stat -c %%s a.part) -lt 1000000 ]; do :; done; %s]]):format(dir.path, damage)))
        assert.equal("up", other:read("l"))
        local good, _, code = writer:put { image }
        other:close() -- a line that was taken back may have hidden what it waits for
        if not good then
          assert.equal("CHANGED", code)
          caught = true
          break
        end
      end
      assert.is_true(caught)
    end
  end)

  it("knows its size and type, and the digest of what was written of it", function()
    local dir <close> = support.tmpdir()
    local first, second = png .. bytes(100000), "\xff\xd8\xff" .. bytes(7)
    support.write(dir.path .. "/1", first)
    support.write(dir.path .. "/2", second)
    local one, two = assert(jsonl.image(dir.path .. "/1")), assert(jsonl.image(dir.path .. "/2"))
    assert.same({ #first, "image/png", #second, "image/jpeg" }, { one:bytes(), one:mime(), two:bytes(), two:mime() })
    local digests = { fs.sha256_text(first), fs.sha256_text(second) }

    local full <close> = assert(jsonl.create(dir.path .. "/full", { max_lines = 1 }))
    assert.is_true(full:raw "1")
    assert.equal("FULL", select(3, full:put { one, two }))
    assert.is_nil(one:sha256())
    local writer <close> = assert(jsonl.create(dir.path .. "/a", { sha256 = true }))
    assert.is_true(writer:put { two, one, two })
    assert.same(digests, { one:sha256(), two:sha256() })

    -- One that changes takes the line with it, but not what is known of the lines before.
    local again = assert(jsonl.image(dir.path .. "/1"))
    support.write(dir.path .. "/2", second .. "!")
    assert.equal("CHANGED", select(3, writer:put { again, two }))
    assert.is_nil(again:sha256())
    assert.same(digests, { one:sha256(), two:sha256() })
  end)

  it("gives the same bytes and digests with any number of threads, also behind a line that was taken back", function()
    local dir <close> = support.tmpdir()
    for i, size in ipairs { 100, 250000, 700000, 400000 } do
      support.write(("%s/%d"):format(dir.path, i), png .. bytes(size))
    end
    support.write(dir.path .. "/write.lua", [[
      local dir = ...
      local fs, jsonl = require "obatch.fs", require "obatch.jsonl"
      local images = {}
      for i = 1, 4 do images[i] = assert(jsonl.image(dir .. "/" .. i)) end
      local stale = {}
      for i, size in ipairs { 10, 900000 } do
        local path = ("%s/stale%d"):format(dir, i)
        fs.write(path, "\xff\xd8\xff" .. ("x"):rep(size))
        stale[i] = assert(jsonl.image(path))
        fs.write(path, "\xff\xd8\xff" .. ("y"):rep(size))
      end
      local writer <close> = assert(jsonl.create(dir .. "/out", { sha256 = true }))
      for i = 0, 39 do
        if i % 5 == 0 then assert(writer:raw(("line "):rep(i * 1000))) end
        if i % 3 == 0 then
          local ok, _, code = writer:put { images[i % 4 + 1], images[(i + 1) % 4 + 1], stale[i % 2 + 1] }
          assert(not ok and code == "CHANGED")
        end
        if i % 7 ~= 6 then assert(writer:put { i, images[i % 4 + 1], "text", images[(i + 2) % 4 + 1] }) end
      end
      local facts = assert(writer:commit())
      assert(facts.sha256 == fs.sha256(dir .. "/out") and facts.bytes == fs.stat(dir .. "/out").size)
      for i = 1, 4 do assert(images[i]:sha256() == fs.sha256(dir .. "/" .. i)) end
      local plain <close> = assert(jsonl.create(dir .. "/plain"))
      local image = assert(jsonl.image(dir .. "/4"))
      assert(plain:put { image })
      assert(not image:sha256() and not plain:commit().sha256)
      print(facts.lines, facts.sha256)]])
    local first
    for threads = 1, 4 do
      local code, out, err = support.shell(("OBATCH_THREADS=%d %s run %s/write.lua %s"):format(threads,
        support.quote(support.binary), dir.path, dir.path))
      assert.same({ 0, "" }, { code, err })
      first = first or out
      assert.equal(first, out)
      assert.matches("^43\t", out)
    end
  end)

  it("is nothing json.encode knows", function()
    local dir <close> = file_with(png)
    assert.has_error(function() json.encode { jsonl.image(dir.file) } end)
  end)

  it("needs no memory of its size", function()
    local dir <close> = support.tmpdir()
    assert(os.execute(([[{ printf '\211PNG\r\n\032\n'; head -c 60000000 /dev/zero; } >%s/big.png]]):format(dir.path)))
    local out = in_own_process([[
      local folder = ...
      local jsonl = require "obatch.jsonl"
      local writer <close> = assert(jsonl.create(folder .. "/a"))
      local image = assert(jsonl.image(folder .. "/big.png"))
      print(peak(function() assert(writer:put { image, image }) end) < 10, writer.bytes)
    ]], dir.path)
    assert.equal("true\t160000076\n", out)
  end)
end)
