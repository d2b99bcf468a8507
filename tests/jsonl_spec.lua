-- Reading JSON Lines: line by line, with a plan of what to extract, and by id.
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local jsonl_files = require "jsonl_files"
local random_json = require "random_json"
local support = require "support"

local BLOCK, file_with, in_own_process = jsonl_files.BLOCK, jsonl_files.file_with, jsonl_files.in_own_process

local function all_lines(path, options)
  local reader <close> = assert(jsonl.open(path, options))
  local found = {}
  for line in reader:lines() do found[#found + 1] = line end
  return found
end

local function all_records(...)
  local found = {}
  for record in assert(jsonl.scan(...)) do found[#found + 1] = record end
  return found
end

local function open_files() return #assert(fs.list("/proc/self/fd")) end

describe("jsonl.open", function()
  it("reads files of no line and of one", function()
    for text, expected in pairs { [""] = {}, ["\n"] = { "" }, ["a"] = { "a" }, ["a\n"] = { "a" }, ["\r\n"] = { "" },
      ["\r"] = { "\r" } } do
      local dir <close> = file_with(text)
      local texts = {}
      for i, line in ipairs(all_lines(dir.file)) do texts[i] = line.text end
      assert.same(expected, texts)
    end
  end)

  it("gives number, offset and text of lines with LF, CRLF, nothing and any bytes in them", function()
    local dir <close> = file_with("one\ntwo\r\n\n\0\r\xff\r\r\n\r\nlast")
    assert.same({
      { number = 1, offset = 0, text = "one" },
      { number = 2, offset = 4, text = "two" },
      { number = 3, offset = 9, text = "" },
      { number = 4, offset = 10, text = "\0\r\xff\r" },
      { number = 5, offset = 16, text = "" },
      { number = 6, offset = 18, text = "last" },
    }, all_lines(dir.file))
  end)

  it("finds every line end wherever it falls between two reads", function()
    math.randomseed(1)
    local pieces, expected, offset = {}, {}, 0
    local lengths = { 0, BLOCK - 1, 0, BLOCK, 1, BLOCK - 2, 3 * BLOCK + 5, 0, 0, BLOCK - 3, 2 * BLOCK - 1,
      4095, 20479, 7 } -- at() reads 4096 bytes first, then 16384 more
    for i, length in ipairs(lengths) do
      for _, newline in ipairs { "\n", "\r\n" } do
        local text = string.char(96 + i):rep(length)
        expected[#expected + 1] = { number = #expected + 1, offset = offset, text = text }
        pieces[#pieces + 1] = text .. newline
        offset = offset + length + #newline
      end
    end
    local dir <close> = file_with(table.concat(pieces))
    assert.same(expected, all_lines(dir.file))
    local reader <close> = assert(jsonl.open(dir.file))
    for _, line in ipairs(expected) do assert.equal(line.text, reader:at(line.offset)) end
  end)

  it("skips a line that is too long, and only that one", function()
    for _, case in ipairs {
      { 10, "\n", true }, { 11, "\n", false }, { 10, "\r\n", true }, { 11, "\r\n", false }, { 10, "", true },
      { 11, "", false }, { BLOCK, "\n", false }, { 5 * BLOCK + 3, "\r\n", false }, { 5 * BLOCK, "", false },
    } do
      local length, newline, fits = table.unpack(case)
      local dir <close> = file_with("before\n" .. ("x"):rep(length) .. newline .. (newline ~= "" and "after" or ""))
      local found = all_lines(dir.file, { max_line = 10 })
      assert.equal("before", found[1].text)
      assert.equal(2, found[2].number)
      assert.equal(fits and ("x"):rep(length) or nil, found[2].text)
      assert.equal(not fits and "longer than 10 bytes" or nil, found[2].error)
      if newline ~= "" then
        assert.same({ number = 3, offset = 7 + length + #newline, text = "after" }, found[3])
      end
      assert.equal(newline == "" and 2 or 3, #found)
    end
  end)

  it("takes a CRLF line of just max_line bytes whose newline comes with the next read", function()
    local dir <close> = file_with(("x"):rep(BLOCK - 1) .. "\r\nafter")
    local found = all_lines(dir.file, { max_line = BLOCK - 1 })
    assert.equal(("x"):rep(BLOCK - 1), found[1].text)
    assert.equal("after", found[2].text)
  end)

  it("holds no more of a long line than max_line", function()
    local dir <close> = support.tmpdir()
    assert(os.execute(("{ echo '{\"a\": 1}'; head -c 100000000 /dev/zero; echo; echo '{\"a\": 2}'; } >%s/long")
      :format(dir.path)))
    local out = in_own_process([[
      local jsonl = require "obatch.jsonl"
      local path, sum = ..., 0
      local grown = peak(function()
        for record in assert(jsonl.scan(path, { a = "/a" }, { max_line = 1000000 })) do
          sum = sum + (record.a or record.length)
        end
      end)
      print(sum, grown < 20)
    ]], dir.path .. "/long")
    assert.equal("100000003\ttrue\n", out)
  end)

  it("reads a line at an offset without disturbing the loop", function()
    local dir <close> = file_with("one\ntwo\r\nthree")
    local reader <close> = assert(jsonl.open(dir.file, { max_line = 5 }))
    local seen = {}
    for line in reader:lines() do
      seen[#seen + 1] = line.text
      assert.equal("one", reader:at(0))
      assert.equal("three", reader:at(9))
      assert.equal("wo", reader:at(5))
      assert.equal("", reader:at(3))
    end
    assert.same({ "one", "two", "three" }, seen)
    assert.equal("two", reader:at(4))
    assert.equal("NOT_FOUND", select(3, reader:at(14)))
    assert.has_error(function() reader:at(-1) end)

    local dir2 <close> = file_with("123456\n12345\n123456")
    local short <close> = assert(jsonl.open(dir2.file, { max_line = 5 }))
    assert.equal("TOO_BIG", select(3, short:at(0)))
    assert.equal("12345", short:at(7))
    assert.equal("TOO_BIG", select(3, short:at(13)))
  end)

  it("says what cannot be opened", function()
    assert.same({ n = 3, nil, "/nowhere/x: No such file or directory", "ENOENT" },
      table.pack(jsonl.open("/nowhere/x")))
    assert.equal("EISDIR", select(3, jsonl.open("/")))
    assert.has_error(function() jsonl.open("/dev/null", { max_line = 0 }) end)
    assert.has_error(function() jsonl.open("/dev/null", { max_line = 1 << 32 }) end)
  end)

  it("raises on a read error, which names the file", function()
    local reader <close> = assert(jsonl.open("/proc/self/mem")) -- its first page cannot be read
    local good, message = pcall(function() for _ in reader:lines() do error("a line?") end end)
    assert.is_false(good)
    assert.truthy(message:find("/proc/self/mem: Input/output error", 1, true))
    assert.equal("EIO", select(3, reader:at(0)))
  end)

  it("closes once and for all", function()
    local dir <close> = file_with("a\n")
    local before = open_files()
    local reader = assert(jsonl.open(dir.file))
    reader:close()
    reader:close()
    assert.equal(before, open_files())
    assert.has_error(function() reader:lines() end)
    assert.has_error(function() reader:at(0) end)
  end)
end)

describe("jsonl.scan", function()
  it("extracts what the plan names, decoded", function()
    local dir <close> = file_with('{"custom_id": "a\\u007cb", "response": {"status_code": 200, "body": {"x": [1]}}}\n'
      .. '{"custom_id": "c", "response": null, "error": {"code": "batch_expired"}}')
    local records = all_records(dir.file,
      { id = "/custom_id", status = "/response/status_code", response = "/response", same = "/custom_id" })
    assert.same({ number = 1, offset = 0, length = 79, id = "a|b", same = "a|b", status = 200,
      response = { status_code = 200, body = { x = { 1 } } } }, records[1])
    assert.is_true(json.is_array(records[1].response.body.x))
    assert.same({ number = 2, offset = 80, length = 72, id = "c", same = "c", response = json.null }, records[2])
  end)

  it("gives the line's own bytes", function()
    local dir <close> = file_with(' {"a" : 1.0}\t\r\n[')
    local records = all_records(dir.file, { a = "/a" })
    assert.equal(' {"a" : 1.0}\t', records[1].text)
    assert.equal("[", records[2].text)
  end)

  it("finds the same as json.get, in random documents", function()
    math.randomseed(11)
    local texts, plans = {}, {}
    for i = 1, 400 do
      local text, places = random_json.document()
      texts[i] = text:gsub("[\r\n]", " ")
      plans[i] = places[math.random(#places)].pointer
    end
    local dir <close> = file_with(table.concat(texts, "\n"))
    for i, pointer in ipairs(plans) do
      if i % 10 == 0 then -- each plan over the whole file, most lines lack it
        for record in assert(jsonl.scan(dir.file, { found = pointer })) do
          assert.same(json.get(texts[record.number], pointer), record.found)
        end
      end
    end
  end)

  it("reports a bad line with file, line and byte, and leaves its neighbours alone", function()
    local bad = { "[", '{"n": ', '"', '{"n": "x', '{"n": "\\', "}", "]]", "nul", "\0", "\xff\xfe", "x", '"\xc3',
      '{"n": 1}{"n": 2}', '{"n": 1', '{"n":1}\r\r{', ("["):rep(2000), '{"n": NaN}' }
    local pieces = { '{"n": 0}\n' }
    for i, text in ipairs(bad) do pieces[i + 1] = text .. "\n" .. ('{"n": %d}\n'):format(i) end
    local dir <close> = file_with(table.concat(pieces))
    local records = all_records(dir.file, { n = "/n" })
    assert.equal(2 * #bad + 1, #records)
    for i, record in ipairs(records) do
      assert.equal(i, record.number)
      if i % 2 == 1 then
        assert.equal((i - 1) // 2, record.n)
        assert.is_nil(record.error)
      else
        assert.is_nil(record.n)
        local _, message, position = json.check(bad[i // 2])
        assert.equal(("%s:%d: byte %d: %s"):format(dir.file, i, position, message), record.error)
        assert.equal(position, record.error_at)
      end
    end
  end)

  it("tells empty lines, long lines and a byte order mark", function()
    local dir <close> = file_with('\xef\xbb\xbf{"n": 1}\n\n \t\r\n' .. ("x"):rep(50) .. '\n{"n": 5}')
    local records = all_records(dir.file, { n = "/n" }, { max_line = 20 })
    assert.equal(dir.file .. ":1: byte 1: byte order mark", records[1].error)
    assert.same({ number = 2, offset = 12, length = 0, blank = true, error = dir.file .. ":2: empty line" }, records[2])
    assert.same({ number = 3, offset = 13, length = 2, blank = true, error = dir.file .. ":3: empty line" }, records[3])
    assert.same({ number = 4, offset = 17, length = 50, error = dir.file .. ":4: longer than 20 bytes" }, records[4])
    assert.equal(5, records[5].n)
  end)

  it("knows the length of a line that it skips, CRLF between two reads or not", function()
    for length = BLOCK - 2, BLOCK + 1 do
      local dir <close> = file_with(("x"):rep(length) .. "\r\n1\n")
      local records = all_records(dir.file, {}, { max_line = 10 })
      assert.equal(length, records[1].length)
      assert.equal(length + 2, records[2].offset)
    end
  end)

  it("lets a lone surrogate spoil its own field only", function()
    local text = '{"id": "x", "text": "ab\\ud800", "deep": {"list": ["\\udc00"]}, "big": 1e999}'
    local dir <close> = file_with(text)
    local plan = { id = "/id", content = "/text", deep = "/deep", big = "/big", none = "/none" }
    assert.same({ number = 1, offset = 0, length = #text, id = "x", spoiled = {
      content = ("byte %d: lone surrogate"):format(text:find("\\ud800", 1, true)),
      deep = ("byte %d: lone surrogate"):format(text:find("\\udc00", 1, true)),
      big = ("byte %d: number too large"):format(text:find("1e999", 1, true)),
    } }, all_records(dir.file, plan)[1])
  end)

  it("closes the file at the end and on break", function()
    local dir <close> = file_with("1\n2\n")
    local before = open_files()
    local function take_one(...)
      for record in ... do
        if record.number == 1 then break end
      end
    end
    local records = assert(jsonl.scan(dir.file, {}))
    take_one(records)
    assert.equal(before + 1, open_files()) -- a loop over a variable leaves it to the variable
    assert.equal(2, records().number)
    assert.is_nil(records())
    assert.equal(before, open_files())
    assert.is_nil(records())
    take_one(assert(jsonl.scan(dir.file, {})))
    assert.equal(before, open_files())
    records = assert(jsonl.scan(dir.file, {}))
    records:close()
    assert.equal(before, open_files())
  end)

  it("checks its arguments before it opens anything", function()
    local before = open_files()
    for _, plan in ipairs { { error = "/a" }, { number = "/a" }, { a = "no pointer" }, { a = 1 }, { "/a" } } do
      assert.has_error(function() jsonl.scan("/dev/null", plan) end)
    end
    assert.has_error(function() jsonl.scan("/dev/null") end)
    assert.equal(before, open_files())
    assert.same({ n = 3, nil, "/nowhere: No such file or directory", "ENOENT" },
      table.pack(jsonl.scan("/nowhere", { a = "/a" })))
  end)

  it("raises on a read error", function()
    local good, message = pcall(function() return all_records("/proc/self/mem", {}) end)
    assert.is_false(good)
    assert.truthy(message:find("/proc/self/mem: Input/output error", 1, true))
  end)
end)

describe("jsonl.index", function()
  it("finds lines by id and by ordinal", function()
    local lines = { '{"custom_id": "a"}', '{"x": 1, "custom_id": "b\\u00e9\\/"}', '{"custom_id": ""}' }
    local dir <close> = file_with(lines[1] .. "\r\n" .. lines[2] .. "\n" .. lines[3])
    local index <close> = assert(jsonl.index(dir.file, "/custom_id"))
    assert.equal(3, #index)
    assert.equal(3, index.count)
    assert.equal(0, index.duplicates)
    assert.equal(1, index:find "a")
    assert.equal(2, index:find "bé/")
    assert.equal(3, index:find "")
    assert.same({ n = 1 }, table.pack(index:find "b"))
    assert.same({ 20, #lines[2] }, { index:at(2) })
    for i, line in ipairs(lines) do
      assert.equal(line, index:line(i))
      assert.equal(line, index:line(index:id(i)))
    end
    assert.equal("bé/", index:id(2))
    for _, ordinal in ipairs { 0, 4, -1 } do
      assert.is_nil(index:at(ordinal))
      assert.is_nil(index:line(ordinal))
      assert.is_nil(index:id(ordinal))
    end
    assert.is_nil(index:line("nobody"))
  end)

  it("leaves out lines without a good id, and counts on", function()
    local dir <close> = file_with(table.concat({ '{"id": "1"}', "garbage", "", '{"id": 2}', '{"id": "\\ud800"}', "{}",
      '{"id": "' .. ("x"):rep(40) .. '"}', '{"id": "3"', '{"id": "4"}' }, "\n"))
    local index <close> = assert(jsonl.index(dir.file, "/id", { max_line = 40 }))
    assert.equal(2, #index)
    assert.equal(1, index:find "1")
    assert.equal(2, index:find "4")
    assert.equal('{"id": "4"}', index:line(2))
  end)

  it("finds the first of duplicate ids and counts the others", function()
    local dir <close> = file_with('{"id": "a", "n": 1}\n{"id": "b"}\n{"id": "\\u0061", "n": 2}\n{"id": "a", "n": 3}\n')
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    assert.equal(4, #index)
    assert.equal(2, index.duplicates)
    assert.equal(1, index:find "a")
    assert.equal('{"id": "a", "n": 3}', index:line(4))
    assert.equal("a", index:id(3))
  end)

  it("is not misled by ids whose hashes are equal", function()
    -- FNV-1a with 32 bits, as in jsonl_index.c: among 200,000 ids some collide.
    local by_hash, ids = {}, {}
    for i = 1, 200000 do
      local id, hash = ("page|%d.jpg"):format(i * 2654435761 % 4294967291), 2166136261
      for j = 1, #id do hash = (hash ~ id:byte(j)) * 16777619 & 0xffffffff end
      local other = by_hash[hash]
      if other then table.move({ other, id }, 1, 2, #ids + 1, ids) end
      by_hash[hash] = id
    end
    assert.is_true(#ids >= 4)
    local lines, stranger = {}, table.remove(ids)
    for i, id in ipairs(ids) do lines[i] = ('{"id": "%s", "n": %d}\n'):format(id, i) end
    local dir <close> = file_with(table.concat(lines))
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    assert.equal(0, index.duplicates)
    for i, id in ipairs(ids) do assert.equal(i, index:find(id)) end
    assert.is_nil(index:find(stranger)) -- its twin is there
  end)

  it("holds as many ids as there are", function()
    local lines = {}
    for i = 1, 30000 do lines[i] = ('{"id": "%d", "pad": "%s"}'):format(i * 7, ("p"):rep(i % 90)) end
    local dir <close> = file_with(table.concat(lines, "\n"))
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    assert.equal(30000, #index)
    for i = 1, 30000, 17 do
      assert.equal(i, index:find(tostring(i * 7)))
      assert.equal(lines[i], index:line(tostring(i * 7)))
      assert.is_nil(index:find(tostring(i * 7 + 1)))
    end
  end)

  it("notices that another file is at its path, and goes on with one that was only touched", function()
    local dir <close> = file_with('{"id": "aaaa"}\n')
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    local stale = { nil, dir.file .. " has changed since it was indexed", "CHANGED" }
    local function touch(time) os.execute(("touch -d @%d %s"):format(time, dir.file)) end
    assert.is_true(index:check_path())
    touch(1700000000)
    assert.same(stale, { index:check_path() })
    assert.same(stale, { index:renew(function() return false end) })
    assert.same({ nil, "why", "EIO" }, { index:renew(function() return nil, "why", "EIO" end) })
    assert.same(stale, { index:renew(function() touch(1700000001) return true end) })
    assert.same(stale, { index:check() })
    assert.is_true(index:renew(function() return true end))
    assert.is_true(index:check() and index:check_path())
    assert.is_false((pcall(index.renew, index)))
    os.execute(("cp -p %s %s.new && mv %s.new %s"):format(dir.file, dir.file, dir.file, dir.file))
    assert.is_true(index:check())
    assert.same(stale, { index:check_path() })
    assert.same(stale, { index:renew(function() return true end) })
    os.remove(dir.file)
    assert.equal("ENOENT", select(3, index:check_path()))
    local closed = assert(jsonl.index(support.write(dir.file, "{}\n") or dir.file, "/id"))
    touch(1700000002)
    assert.is_false((pcall(closed.renew, closed, function() closed:close() return true end)))
  end)

  it("notices that the file has changed", function()
    local dir <close> = file_with('{"id": "aaaa"}\n{"id": "bbbb"}\n')
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    assert.is_true(index:check())
    support.write(dir.file, '{"id": "aaaa"}\n{"id": 12345 }\n')
    assert.same({ nil, dir.file .. " has changed since it was indexed", "CHANGED" }, { index:check() })
    assert.equal(1, index:find "aaaa")
    assert.equal("CHANGED", select(3, index:find "bbbb"))
    support.write(dir.file, "{}\n")
    for _, call in ipairs { "line", "id" } do
      local text, message, code = index[call](index, 2)
      assert.is_nil(text)
      assert.truthy(message:find(dir.file, 1, true))
      assert.equal("CHANGED", code)
    end
  end)

  it("indexes an empty file, and says what cannot be opened", function()
    local dir <close> = file_with("")
    local index <close> = assert(jsonl.index(dir.file, "/id"))
    assert.equal(0, #index)
    assert.is_nil(index:find "a")
    assert.equal("ENOENT", select(3, jsonl.index("/nowhere", "/id")))
    assert.equal("EIO", select(3, jsonl.index("/proc/self/mem", "/id")))
    assert.has_error(function() jsonl.index(dir.file, "id") end)
    index:close()
    index:close()
    assert.has_error(function() index:find "a" end)
  end)
end)

describe("jsonl.scan on its way", function()
  local CONTENT = '{"id":"a","n":1}\n{"n":2}\nbroken\n\n{"n":3,"id":"\\u0062"}\r\n{"id":7}\n{"id":"a"}\n{"id":"c"}'

  it("indexes the lines as jsonl.index does", function()
    local dir <close> = file_with(CONTENT)
    local scanner = assert(jsonl.scan(dir.file, { n = "/n", id = "/id" }, { index = "id" }))
    for _ in scanner do assert.is_nil(scanner:index()) end
    local index <close> = scanner:index()
    local other <close> = assert(jsonl.index(dir.file, "/id"))
    assert.same({ 4, 1 }, { index.count, index.duplicates })
    for ordinal = 1, 4 do
      assert.same({ other:id(ordinal), other:line(ordinal), other:at(ordinal) },
        { index:id(ordinal), index:line(ordinal), index:at(ordinal) })
    end
    for _, id in ipairs { "a", "b", "c", "d" } do assert.equal(other:find(id), index:find(id)) end
  end)

  it("does so over many chunks, whatever the records are looked at for", function()
    local lines = {}
    for i = 1, 3000 do lines[i] = ('{"x":"%s","id":"r-%d"}'):format(("x"):rep(i % 700), i) end
    local dir <close> = file_with(table.concat(lines, "\n") .. "\n")
    local scanner = assert(jsonl.scan(dir.file, { id = "/id" }, { index = "id" }))
    for record in scanner do assert.is_true(record.number % 7 > 0 or #record.id > 2) end
    local index <close> = scanner:index()
    assert.equal(3000, index.count)
    for i = 1, 3000, 97 do assert.equal(lines[i], index:line("r-" .. i)) end
  end)

  it("has none that was not asked for, and indexes by no field that there is not", function()
    local dir <close> = file_with(CONTENT)
    local scanner = assert(jsonl.scan(dir.file, { id = "/id" }))
    for _ in scanner do end -- luacheck: ignore 542
    assert.is_nil(scanner:index())
    assert.has_error(function() jsonl.scan(dir.file, { id = "/id" }, { index = "other" }) end)
    assert.has_error(function() jsonl.scan(dir.file, { id = "/id" }, { index = 7 }) end)
  end)
end)
