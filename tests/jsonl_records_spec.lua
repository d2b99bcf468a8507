-- The records of jsonl.scan: made when they are asked for, on any number of threads.
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local jsonl_files = require "jsonl_files"
local random_json = require "random_json"
local support = require "support"
local text = require "obatch.text"

local file_with = jsonl_files.file_with

local function all_records(...)
  local found = {}
  for record in assert(jsonl.scan(...)) do found[#found + 1] = record end
  return found
end

describe("a record of jsonl.scan", function()
  it("makes fields when they are asked for, and the same ones again", function()
    local dir <close> = file_with('{"a": [1], "b": null, "c": "' .. ("x"):rep(100) .. '", "d": 7}\n')
    local record = all_records(dir.file, { a = "/a", b = "/b", c = "/c", d = "/d", e = "/e" })[1]
    assert.is_nil(rawget(record, "a"))
    local list = record.a
    list[2] = "mine"
    assert.equal(list, record.a)
    record.d = 8
    assert.equal(8, record.d)
    assert.is_nil(record.e)
    assert.is_nil(record.nothing)
    assert.is_nil(record[1])
    local all = {}
    for name, value in pairs(record) do all[name] = value end
    assert.same({ number = 1, offset = 0, length = 138, text = '{"a": [1], "b": null, "c": "' .. ("x"):rep(100)
      .. '", "d": 7}', a = { 1, "mine" }, b = json.null, c = ("x"):rep(100), d = 8 }, all)
  end)

  it("is written as JSON with all that is in it", function()
    local dir <close> = file_with('{"a": [1]}\n')
    local record = all_records(dir.file, { a = "/a" })[1]
    assert.equal([[{"a":[1],"length":10,"number":1,"offset":0,"text":"{\"a\": [1]}"}]], json.encode(record))
  end)

  it("reads a number that ends a file as it stands there, whatever was in that memory before", function()
    local dir <close> = file_with(("1e999999999\n99999\n"):rep(30000) .. "1.5e1")
    local last
    for record in assert(jsonl.scan(dir.file, { n = "" })) do last = record end
    assert.same({ 60001, 15.0 }, { last.number, last.n })
  end)

  it("lets records outlive the loop, the chunk and the scanner", function()
    local lines = {}
    for i = 1, 3000 do lines[i] = ('{"n": %d, "pad": "%s"}'):format(i, ("p"):rep(i % 700)) end
    local dir <close> = file_with(table.concat(lines, "\n"))
    local kept = {}
    do
      local records <close> = assert(jsonl.scan(dir.file, { n = "/n", pad = "/pad" }))
      for record in records do
        if record.number % 7 == 0 then kept[#kept + 1] = record end
        if record.number % 500 == 0 then collectgarbage() end
      end
    end
    collectgarbage()
    for i, record in ipairs(kept) do
      assert.equal(lines[i * 7], record.text)
      assert.equal(i * 7, record.n)
      assert.equal(i * 7 % 700, #record.pad)
    end
  end)

  it("keeps the lines of records that are kept, not the chunks they came in", function()
    local dir <close> = support.tmpdir()
    do -- 40 MB: 160 chunks
      local file <close> = assert(io.open(dir.path .. "/in", "wb"))
      for i = 1, 10000 do
        local pad = ("p"):rep(4000 + i % 99)
        file:write(i % 64 == 1 and "broken\n" or ('{"n": %d, "a": [%d], "pad": "%s"}\n'):format(i, i, pad))
      end
    end
    local grown = jsonl_files.in_own_process([[
      local jsonl = require "obatch.jsonl"
      local path = ...
      local kept, lists, n = {}, {}, 0
      print(peak(function()
        for record in assert(jsonl.scan(path .. "/in", { n = "/n", a = "/a", pad = "/pad", none = "/none" })) do
          if record.number % 32 == 1 then
            kept[#kept + 1] = record
            if record.number % 5 == 0 then lists[record] = record.a end
          end
        end
      end))
      local file = assert(io.open(path .. "/out", "wb"))
      for i, record in ipairs(kept) do
        n = i * 32 - 31
        local is_bad = n % 64 == 1
        assert(record.number == n and record.n == (not is_bad and n or nil) and record.none == nil)
        assert(#record.text == record.length and (is_bad or #record.pad == 4000 + n % 99 and record.a[1] == n))
        assert((record.error ~= nil) == is_bad and lists[record] == (n % 5 == 0 and record.a or nil))
        assert(jsonl.write(file, record))
        assert(jsonl.find(record, is_bad and "bro" or '"n": ' .. n))
        assert(jsonl.sub(record, 1, 1) == (is_bad and "b" or "{"))
        assert(jsonl.decode(record, "none") == nil and jsonl.decode(record, "pad") == nil)
        local seen = 0
        for _ in pairs(record) do seen = seen + 1 end
        assert(seen == (is_bad and 6 or 7), seen)
      end
      assert(#kept == 313 and file:close())
    ]], dir.path)
    assert.is_true(tonumber(grown) < 25, grown)
    local lines, n = {}, 0
    for line in io.lines(dir.path .. "/in", "L") do
      n = n + 1
      if n % 32 == 1 then lines[#lines + 1] = line end
    end
    assert.equal(table.concat(lines), support.read(dir.path .. "/out"))
  end)

  it("knows a record's line whichever of number and offset somebody has written over", function()
    local dir <close> = file_with('{"n": 1}\n{"n": 2}\n{"n": 3}\n')
    local one, two, three = table.unpack(all_records(dir.file, { n = "/n" }))
    one.number = 3
    two.offset = "x"
    three.number, three.offset = -1, -1
    assert.equal(1, one.n)
    assert.equal(2, two.n)
    assert.is_nil(three.n)
    assert.is_nil(three.text)
  end)

  it("hands records that are misused no memory that is not theirs", function()
    local dir <close> = file_with('{"n": 1}\n')
    local meta = getmetatable(all_records(dir.file, { n = "/n" })[1])
    for _, other in ipairs { {}, { number = 1 << 62, offset = 1 << 62 }, { number = math.mininteger },
      { offset = -9 } } do
      assert.is_nil(meta.__index(other, "n"))
    end
    assert.has_error(function() return meta.__index("x", "n") end)
    assert.has_error(function() jsonl.write(io.stdout, {}) end)
    assert.has_error(function() getmetatable(assert(jsonl.scan(dir.file, {}))).__call(io.stdout) end)
  end)

  it("writes a record's own bytes", function()
    local dir <close> = file_with(' {"n": 1}\t\r\nno JSON\n' .. ("x"):rep(50) .. '\n{"n": 4}')
    do
      local out <close> = assert(io.open(dir.path .. "/out", "wb"))
      for record in assert(jsonl.scan(dir.file, { n = "/n" }, { max_line = 40 })) do
        if record.number == 3 then
          assert.has_error(function() jsonl.write(out, record) end) -- it is not there
        else
          if record.number == 4 then record.text = "mine" end
          assert.is_true(jsonl.write(out, record))
        end
      end
      out:close()
      assert.has_error(function() jsonl.write(out, { text = "x" }) end)
    end
    assert.equal(' {"n": 1}\t\nno JSON\nmine\n', support.read(dir.path .. "/out"))
    local full <close> = assert(io.open("/dev/full", "wb"))
    full:setvbuf "no"
    for record in assert(jsonl.scan(dir.file, {})) do
      assert.equal("ENOSPC", select(3, jsonl.write(full, record)))
    end
  end)

  it("finds and cuts in a record's line as in a string", function()
    local line = '{"a": "abab_url_url", "b": [1, 2]}'
    local dir <close> = file_with(("%s\r\n%s\n"):format(line, ("x"):rep(90)))
    for record in assert(jsonl.scan(dir.file, {}, { max_line = 80 })) do
      if record.number == 2 then
        assert.has_error(function() jsonl.find(record, "x") end) -- it is not there
        assert.has_error(function() jsonl.sub(record, 1, 2) end)
      else
        for from = 1, #line + 3 do
          for to = math.max(0, from - 2), #line + 3 do
            assert.equal(line:sub(from, to), jsonl.sub(record, from, to))
            local wanted = line:sub(from, to)
            if wanted ~= "" and #wanted < 9 then
              for start = 1, #line + 2 do
                assert.same({ line:find(wanted, start, true) }, { jsonl.find(record, wanted, start) })
              end
            end
          end
        end
        assert.is_nil(jsonl.find(record, "]}\r"))
        assert.is_nil(jsonl.find(record, "}", math.maxinteger))
        assert.equal(line, jsonl.sub(record, 1, math.maxinteger))
        assert.equal("", jsonl.sub(record, math.maxinteger, math.maxinteger))
        for _, bad in ipairs { { "", 1 }, { "a", 0 }, { nil, 1 } } do
          assert.has_error(function() jsonl.find(record, bad[1], bad[2]) end)
        end
        assert.has_error(function() jsonl.sub(record, 0, 1) end)
        record.text = "mine"
        assert.same({ 2, 3 }, { jsonl.find(record, "in") })
      end
    end
    assert.has_error(function() jsonl.find({}, "x") end)
    assert.has_error(function() jsonl.sub("x", 1, 1) end)
  end)

  it("writes between what others write to the file, and leaves it closed by the collector whole", function()
    local dir <close> = file_with(('{"pad": "%s"}\n'):format(("x"):rep(3000)):rep(100))
    local out, expected = assert(io.open(dir.path .. "/out", "wb")), {}
    for record in assert(jsonl.scan(dir.file, {})) do
      assert(out:write(record.number, " "))
      assert(jsonl.write(out, record))
      expected[#expected + 1] = record.number .. " " .. record.text .. "\n"
      if record.number == 50 then
        assert.equal(#table.concat(expected), out:seek())
        collectgarbage()
      end
    end
    out = nil -- luacheck: ignore
    collectgarbage()
    collectgarbage()
    assert.is_true(table.concat(expected) == support.read(dir.path .. "/out"))
  end)

  it("has nothing more to tell to a finalizer that comes after its bytes have gone", function()
    local dir <close> = file_with('{"n": 1}\n{"n": 2}\n')
    local seen
    do
      local keeper = setmetatable({}, { __gc = function(self) seen = { self.record.number, self.record.n } end })
      keeper.record = assert(jsonl.scan(dir.file, { n = "/n" }))()
    end
    collectgarbage()
    collectgarbage()
    assert.same({ 1 }, seen)
  end)

  it("tells which strings hold JSON, and which lines are as usual", function()
    local cases = { -- a, b: is_json, is_usual
      { [["{}"]], "1", true, true }, { [[" \n[1, \"x\"]\t\r"]], "1", true, true }, { [["\u000b1\f"]], "1", true, true },
      { [["\u00a01"]], "1", nil, true }, { [["{} x"]], "1", nil, true }, { [["{\"a\":\"\\ud800\"}"]], "1", nil, true },
      { [[""]], "1", nil, true }, { "{}", "1", nil, true }, { [["1e999"]], "1", true, true },
      { [["1"]], "1.0", true, nil }, { [["1"]], '"1"', true, nil }, { [["1"]], "null", true, nil },
      { [["\ud800"]], "1", nil, nil }, { "null", "1", nil, true },
    }
    local lines = {}
    for i, case in ipairs(cases) do lines[i] = ('{"a": %s, "b": %s, "n": null}'):format(case[1], case[2]) end
    lines[#lines + 1] = '{"a": "1", "b": 1}'
    lines[#lines + 1] = '{"a": "1", "n": 0, "b": 1}'
    lines[#lines + 1] = '{"a": "1", "n": null}'
    local dir <close> = file_with(table.concat(lines, "\n"))
    local fields, options = { a = "/a", b = "/b", n = "/n" }, { json = "a", usual = { b = 1, n = json.null } }
    local records = all_records(dir.file, fields, options)
    for i, case in ipairs(cases) do
      assert.equal(case[3], records[i].is_json, lines[i])
      assert.equal(case[4], records[i].is_usual, lines[i])
    end
    assert.same({ true, nil, nil }, { records[#cases + 1].is_usual, records[#cases + 2].is_usual,
      records[#cases + 3].is_usual })
    for _, wrong in ipairs { { json = "x" }, { json = 1 }, { decode = "x" }, { json = "text" }, { usual = 1 },
      { usual = { x = 1 } }, { usual = { a = 1.5 } }, { usual = { a = 'x"' } }, { usual = { "a" } },
      { text = true } } do
      assert.has_error(function() jsonl.scan(dir.file, fields, wrong) end)
    end
  end)

  it("decodes what a string holds as json.decode does", function()
    local texts = {
      "1", " 1\n", "", " ", "-0", "-0.0", "0.1", "-12.50", "01", "-", "1.", "1.e1", "1e5", "1.5E-3", "1e999", "1234567",
      "12345678", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "0.1234567", "0.12345678",
      "1234567.7654321", "12345678901234567.5", "[1.5,2.25e1,-3,100000000000]", "true", "nul", "[null, true ,false]",
      '""', '"a', '"\\u0041\\n\\"\\\\\\/"', '"\\u0022"', '"\\ud83d\\ude00"', '"\\ud83d"', '"é\u{1F600}"', '"\\x"',
      "[]", "{}", "[ ]", "{ }", "[1,]", "[1 2]", "[,1]", '{"a"}', '{"a":}', '{"a":1,}', "{1:2}", '{"":{"":[]}}',
      '{"a":1,"b":2,"a":[3]}', '{"at":1,"a":2}', -- the last two have one place among the keys that are kept
      '{"\\u0061":1,"a\\"":2}', '{"' .. ("k"):rep(39) .. '":1,"' .. ("k"):rep(40) .. '":2}', "\v1", "1 x", "[1]]", "[1",
      '[{"a":1},{"a":2},{"b":3}]', '["' .. ("x"):rep(100) .. '","' .. ("y\\n"):rep(100) .. '"]',
    }
    for _, depth in ipairs { 62, 63, 64, 1024, 1025 } do
      texts[#texts + 1] = ("["):rep(depth) .. ("]"):rep(depth)
      texts[#texts + 1] = ('{"a":'):rep(depth) .. "1" .. ("}"):rep(depth)
    end
    for path in io.popen(("ls %s/tests/fixtures/json/*"):format(support.quote(support.home))):lines() do
      local inner = support.read(path)
      if utf8.len(inner) and not inner:find("^```") then texts[#texts + 1] = inner end
    end
    math.randomseed(8)
    for _ = 1, 600 do
      local inner = random_json.document()
      texts[#texts + 1] = inner
      inner = random_json.damage(inner)
      if utf8.len(inner) then texts[#texts + 1] = inner end
    end
    texts[#texts + 1] = "[" .. ("0,"):rep(40000) .. "0]" -- more than is prepared
    local lines, meant = {}, {}
    local function add(written, inner)
      lines[#lines + 1] = ('{"x": %s, "y": [1]}'):format(written)
      meant[#meant + 1] = inner
    end
    for _, inner in ipairs(texts) do
      local written = json.encode(inner)
      add(written, inner)
      -- The other ways to write it: some of what stays an escape in the string is read by this, some is not.
      add(written:gsub("/", "\\/"):gsub("[\xC2-\xF4][\x80-\xBF]*", function(character)
        local code = utf8.codepoint(character)
        if code < 0x10000 then return ("\\u%04x"):format(code) end
        return ("\\u%04X\\u%04x"):format(0xD7C0 + (code >> 10), 0xDC00 + (code & 0x3FF))
      end), inner)
      if math.random(20) == 1 then
        local escaped = inner:gsub("[\0-\127]", function(byte) return ("\\u%04x"):format(byte:byte()) end)
        add('"' .. escaped .. '"', inner)
      end
    end
    local dir <close> = file_with(table.concat(lines, "\n"))
    for _, options in ipairs { {}, { decode = "x" }, { decode = "x", usual = { z = json.null } }, { decode = "y" } } do
      local good = 0
      for record in assert(jsonl.scan(dir.file, { x = "/x", y = "/y", z = "/z" }, options)) do
        local inner = meant[record.number]
        local value, expected = jsonl.decode(record, "x"), json.decode(inner)
        local line = lines[record.number]
        assert.equal(expected == nil, value == nil, line)
        if value ~= nil then
          good = good + 1
          assert.equal(json.encode(expected), json.encode(value), line)
        end
        assert.equal(inner, record.x)
        value = jsonl.decode(record, "x") -- of the string that is in the record now
        assert.equal(expected and json.encode(expected), value and json.encode(value))
        assert.is_nil(jsonl.decode(record, "y"))
        assert.is_nil(jsonl.decode(record, "z"))
      end
      assert.truthy(good > 1000 and good < #lines - 300)
    end
    local record = all_records(dir.file, { x = "/x" })[1]
    for _, call in ipairs { { {}, "x" }, { record }, { 1, "x" }, { record, "number" } } do
      assert.has_error(function() assert(jsonl.decode(table.unpack(call))) end)
    end
  end)

  it("decodes JSON in one fence, as text.find_json finds it", function()
    local found = { "```json\n{\"a\": [1, 2]}\n```", "```\n[1]\n```\n\n ", "``` JSON5 \n 1 \n  `````",
      "```json\n[\n1\n]\n```", "```\n\"é\\n\\\"```\\\"\"\n```" }
    local cases = { "```json\r\n1\r\n```", "```\n```", "```", "```json", "```\n", "```1\n```", "```\n1```", "```\n1",
      "``\n1\n``", "```\n1\n``", "```\n1\n```\n2",
      "```\n1\n```\n```\n2\n```", "```\n{}\n```\n```", "a\n```\n1\n```", "```\n[1\n```",
      "```\n\"a\\n```", '```\n["\\n```', "```a`b\n1\n```", "```\n1\\n```", "```\\n1\n```", "`", "```\n`\n```" }
    table.move(cases, 1, #cases, #found + 1)
    table.move(found, 1, #found, 1, cases) -- the others are left to find_json, or have no answer
    local lines = {}
    for i, case in ipairs(cases) do
      lines[2 * i - 1] = json.encode { x = case }
      lines[2 * i] = lines[2 * i - 1]:gsub("/", "\\/"):gsub("é", "\\u00e9")
    end
    local dir <close> = file_with(table.concat(lines, "\n"))
    for _, options in ipairs { {}, { decode = "x" } } do
      for record in assert(jsonl.scan(dir.file, { x = "/x" }, options)) do
        local case = cases[(record.number + 1) // 2]
        local value = jsonl.decode(record, "x")
        assert.equal(record.number <= 2 * #found, value ~= nil, case)
        if value ~= nil then assert.same(json.decode((text.find_json(case))), value) end
        assert.equal(case, record.x)
        assert.same(value, jsonl.decode(record, "x")) -- of the string
      end
    end
  end)

  it("keeps its bytes while they are decoded, whatever finalizers take from the scanner meanwhile", function()
    local dir <close> = support.tmpdir()
    do
      local file <close> = assert(io.open(dir.path .. "/in", "wb"))
      for i = 1, 5000 do
        file:write(('{"n":%d,"s":"[%s0]"}\n'):format(i, ('\\"%08d\\",'):format(i):rep(600)))
      end
    end
    support.write(dir.path .. "/chunk.lua", [[
      collectgarbage("generational")
      local jsonl = require "obatch.jsonl"
      local scanner = assert(jsonl.scan(..., { n = "/n", s = "/s" }, { decode = "s" }))
      local kept, armed, fired = {}, false, 0
      local function arm()
        setmetatable({}, { __gc = function()
          if armed then
            armed, fired = false, fired + 1
            for _ = 1, 700 do kept[#kept + 1] = scanner() end
          end
          arm()
        end })
      end
      arm()
      for record in scanner do
        kept[#kept + 1] = record
        armed = #kept > 500
        local n, list = record.n, jsonl.decode(record, "s")
        armed = false
        for i = 1, 600 do assert(list[i] == ("%08d"):format(n)) end
      end
      assert(#kept == 5000 and fired > 1)
    ]])
    local code, _, err = support.shell(("%s run %s/chunk.lua %s/in"):format(support.quote(support.binary), dir.path,
      dir.path))
    assert.equal(0, code, err)
  end)

  it("knows where its line is when there are very many lines in few bytes", function()
    local dir <close> = file_with(("\n"):rep(50000) .. ('{"n":7}\n'):rep(20000) .. ("1\n"):rep(20000) .. '{"n":8}')
    support.write(dir.path .. "/many.lua", [[
      local count, sum, at = 0, 0, 0
      for record in assert(require "obatch.jsonl".scan(..., { n = "/n" })) do
        count = count + 1
        assert(record.number == count and record.offset == at)
        at = at + record.length + 1
        sum = sum + (record.n or 0)
      end
      print(count, sum, at)
    ]])
    for threads = 1, 3 do
      local code, out = support.shell(("OBATCH_THREADS=%d %s run %s/many.lua %s"):format(threads,
        support.quote(support.binary), dir.path, dir.file))
      assert.same({ 0, "90001\t140008\t250008\n" }, { code, out })
    end
  end)

  it("hands on what comes through a pipe when it is there", function()
    local dir <close> = support.tmpdir()
    assert(os.execute("mkfifo " .. dir.path .. "/pipe"))
    -- The second line is written when the first one has been seen.
    local writer = [[{ echo '{"n":1}'; until [ -e DIR/seen ]; do sleep 0.01; done; printf '{"n":2}'; } >DIR/pipe &]]
    assert(os.execute((writer:gsub("DIR", dir.path))))
    local seen = {}
    for record in assert(jsonl.scan(dir.path .. "/pipe", { n = "/n" })) do
      seen[#seen + 1] = record.n
      support.write(dir.path .. "/seen", "")
    end
    assert.same({ 1, 2 }, seen)
  end)

  it("comes to the same with any number of threads", function()
    local dir <close> = support.tmpdir()
    math.randomseed(6)
    do
      local file <close> = assert(io.open(dir.path .. "/in", "wb"))
      for i = 1, 6000 do
        local kind = i % 41
        file:write(kind == 0 and "broken" or kind == 1 and "" or kind == 2 and (" "):rep(3)
          or ('{"id": "r-%d", "x": "%s"}'):format(i % 5000, ("\\u00e9"):rep(math.random(60))))
        if i % 1000 == 0 then file:write(("z"):rep(600000)) end -- longer than a chunk
        file:write(i % 3 == 0 and "\r\n" or "\n")
      end
    end
    local chunk = [[
      local jsonl = require "obatch.jsonl"
      local path, out = {}, {}
      local other = assert(jsonl.scan(..., { x = "/x" }, { max_line = 500 })) -- two at a time
      for record in assert(jsonl.scan(..., { id = "/id", x = "/x" }, { max_line = 620000, json = "x" })) do
        local second = other()
        out[#out + 1] = ("%d %d %d %s %s %d %s %s"):format(record.number, record.offset, record.length, record.id,
          record.error, #(record.x or ""), second.error, second.offset == record.offset and second.x == record.x)
        if record.number % 2000 == 0 then assert(os.execute "true") io.popen("true"):close() end
        if record.number == 100 then
          for _ in jsonl.scan(..., { id = "/id" }) do break end -- closed in the middle
        end
      end
      assert(other() == nil)
      local index <close> = assert(jsonl.index(..., "/id"))
      out[#out + 1] = ("%d %d %d"):format(index.count, index.duplicates, index:find "r-4999")
      for i = 1, index.count, 97 do out[#out + 1] = index:id(i) .. " " .. table.concat({ index:at(i) }, " ") end
      print(table.concat(out, "\n"))
    ]]
    local outputs = {}
    for i, threads in ipairs { 1, 2, 4 } do
      support.write(dir.path .. "/chunk.lua", chunk)
      local code, out, err = support.shell(("OBATCH_THREADS=%d %s run %s/chunk.lua %s/in"):format(threads,
        support.quote(support.binary), dir.path, dir.path))
      assert.equal(0, code, err)
      outputs[i] = out
    end
    assert.truthy(#outputs[1] > 100000)
    assert.equal(outputs[1], outputs[2])
    assert.equal(outputs[1], outputs[3])
  end)

  describe("and a finalizer that comes in between", function()
    --- A file of lines with an n from 1 on and some bytes.
    local function numbered(count, bytes)
      local dir = support.tmpdir()
      dir.file = dir.path .. "/in"
      local file <close> = assert(io.open(dir.file, "wb"))
      for i = 1, count do file:write(('{"n":%d,"s":"%s"}\n'):format(i, ("y"):rep(bytes + i % 50))) end
      return dir
    end

    --- Has a function called by the collector, again and again.
    local function arm(call)
      setmetatable({}, { __gc = function() if call() ~= false then arm(call) end end })
    end

    it("may close the scanner", function()
      local dir <close> = numbered(5000, 0)
      local function lines()
        local scanner = assert(jsonl.scan(dir.file, { n = "/n" }))
        setmetatable({ scanner }, { __gc = function(owner) owner[1]:close() end })
        return scanner
      end
      for _ = 1, 40 do
        local last = 0
        for record in lines() do
          last = last + 1
          assert(last == record.number)
        end
        assert(last > 0 and last <= 5000)
      end
    end)

    for _, case in ipairs { { "a record", 1, 150 }, { "many records", 7000, 0 } } do
      it(("may take %s: each line is handed out once, as it is"):format(case[1]), function()
        local count <const> = 30000
        local dir <close> = numbered(count, case[3])
        local scanner, seen, kept, taken = assert(jsonl.scan(dir.file, { n = "/n" })), {}, {}, 0
        local function take(record)
          assert(not seen[record.number])
          seen[record.number], kept[#kept + 1] = true, record
          assert(record.n == record.number)
          assert(record.text == ('{"n":%d,"s":"%s"}'):format(record.n, ("y"):rep(case[3] + record.n % 50)))
        end
        local wrong
        arm(function()
          for _ = 1, case[2] do
            local record = scanner()
            if not record then return false end
            taken = taken + 1
            local ok, message = pcall(take, record)
            wrong = wrong or not ok and message
          end
        end)
        for record in scanner do take(record) end
        assert.is_nil(wrong or nil)
        assert.equal(count, #kept)
        assert.is_true(taken > 0)
        for _, record in ipairs(kept) do assert(record.n == record.number) end
      end)
    end
  end)
end)
