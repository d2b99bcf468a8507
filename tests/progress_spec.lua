-- What a running command shows: on a terminal of any width, without one, and how honest it is about what is left.
local columns = require "obatch.columns"
local flight = require "obatch.flight"
local loop = require "loop"
local pace = require "obatch.pace"
local progress = require "obatch.progress"
local support = require "support"
local tasks = require "obatch.tasks"
local term = require "obatch.term"

--- What a terminal of so many columns shows after some bytes: its lines, without those at the end that are empty.
--- Raises for a line that the terminal would have to wrap, and for an escape sequence that it does not know.
local function screen_of(bytes, width)
  local lines, row, column = { {} }, 1, 1
  local position = 1
  while position <= #bytes do
    local number, kind = bytes:match("^\27%[(%d*)(%a)", position)
    if kind then
      position = position + 2 + #number + 1
      if kind == "K" or kind == "J" then
        for i = column, #lines[row] do lines[row][i] = nil end
        for i = row + 1, kind == "J" and #lines or row do lines[i] = {} end
      elseif kind == "A" then
        row = row - number
      else
        assert(kind == "m", "an unknown sequence: " .. kind)
      end
    else
      local character = bytes:match("^[^\x80-\xBF][\x80-\xBF]*", position)
      position = position + #character
      if character == "\r" then
        column = 1
      elseif character == "\n" then
        row, column = row + 1, 1 -- as the terminal's driver has it
        lines[row] = lines[row] or {}
      else
        assert(character:byte() >= 32, "a control character")
        lines[row][column] = character
        for i = 2, columns.places(character) do lines[row][column + i - 1] = "" end
        column = column + columns.places(character)
        assert(not width or column <= width + 1, "the line is wider than the terminal")
      end
    end
  end
  local shown = {}
  for i = 1, #lines do
    for k = 1, #lines[i] do lines[i][k] = lines[i][k] or " " end
    shown[i] = table.concat(lines[i])
  end
  while shown[#shown] == "" do shown[#shown] = nil end
  return shown
end

--- A progress on a terminal that is none: .at is its clock, .width and .rows its size, .bytes what was written.
local function fake(options)
  local self = { at = 0, width = 100, rows = 24, bytes = "", in_front = true }
  local given = { terminal = true, colour = false, clock = function() return self.at end,
    time = function() return 1800000000 + self.at end, utf8 = true, size = function() return self.width, self.rows end,
    foreground = function() return self.in_front end, write = function(bytes) self.bytes = self.bytes .. bytes end }
  for name, value in pairs(options or {}) do given[name] = value end
  self.line = progress.new(given)
  finally(function() self.line:close() end)
  --- What is on the screen, without the time of day in lines that stay.
  function self.screen()
    local shown = screen_of(self.bytes, self.width)
    for i, line in ipairs(shown) do shown[i] = line:gsub("^%d%d:%d%d:%d%d ", "") end
    return shown
  end
  return self
end

describe("the region", function()
  it("says the stage, how much is done, and since when; and is renewed in place", function()
    local t = fake()
    local stage = t.line:stage("judging results", { total = 2000000, unit = "bytes" })
    stage:update(500000)
    assert.equal("", t.bytes) -- what ends at once needs no region
    t.at = 1
    stage:update(1000000)
    assert.same({ "judging results · 1.00 MB of 2.00 MB · 1 s so far" }, t.screen())
    t.at = 2
    stage:update(1500000)
    assert.same({ "judging results · 1.50 MB of 2.00 MB · 2 s so far" }, t.screen())
  end)

  it("is not written more than five times a second", function()
    local t = fake()
    local stage, count = t.line:stage("looking", { unit = "images" }), 0
    t.line.write = function() count = count + 1 end
    for i = 1, 1000 do
      t.at = 1 + i / 100
      stage:update(i)
    end
    assert.truthy(count >= 40 and count <= 51, count)
  end)

  it("fits a narrow terminal, in three lines at most, the most important words first", function()
    local t = fake()
    t.width = 40
    local stage = t.line:stage("iteration 1", { unit = "requests", facts = function()
      return { done = 1234, total = 10000, failed = 12, in_flight = 3000, words = { "2 batches in_progress" },
        expires_at = 1800000000 + 7500 }
    end })
    t.at = 1
    stage:update()
    assert.same({ "iteration 1 · 1,234 of 10,000 requests", "12 failed · 3,000 in flight",
      "2 batches in_progress · 1 s so far" }, t.screen())
    t.width, t.at = 100, 2
    stage:update()
    assert.same({ "iteration 1 · 1,234 of 10,000 requests · 12 failed · 3,000 in flight · 2 batches in_progress",
      "2 s so far · first expires in 2 h 05 min" }, t.screen())
    for width = 1, 60 do
      t.width, t.at, t.bytes = width, t.at + 1, ""
      stage:update()
      assert.truthy(#t.screen() <= 3, width)
    end
    t.rows, t.width, t.at, t.bytes = 2, 40, t.at + 1, ""
    stage:update()
    assert.equal(1, #t.screen()) -- a window of two lines has room for one, and for the cursor below
  end)

  it("counts the places of wide characters, and shows no control character of anybody", function()
    local t = fake()
    t.width = 20
    local stage = t.line:stage("読み込み中読み込み中読み込み中")
    t.at = 1
    stage:update()
    assert.equal("読み込み中読み込み…", t.screen()[1])
    t.at = 2
    t.line:stage("\27[2Jx\n\r")
    assert.equal("%1B[2Jx%0A%0D", t.screen()[1])
  end)

  it("is ASCII in a locale without UTF-8, the sign of what is cut off, too", function()
    local t = fake { utf8 = false }
    t.width = 30
    local stage = t.line:stage("checking a file with a long name", { total = 4000, unit = "requests" })
    t.at = 1
    stage:update(10)
    assert.same({ "checking a file with a long ~", "10 of 4,000 requests" }, { t.screen()[1], t.screen()[2] })
    t.width = 100
    t.at = 2
    stage:update(20)
    assert.same({ "checking a file with a long name - 20 of 4,000 requests - 2 s so far" }, t.screen())
  end)

  it("is of the stage that has begun, also when nobody tells of it again until it is over", function()
    local t = fake()
    local stage = t.line:stage("judging", { total = 4000, unit = "requests" })
    t.at = 1
    stage:update(4000)
    t.at = 1.01
    t.line:stage("merging")
    assert.same({ "merging" }, t.screen())
  end)

  it("stays below the lines that stay, and leaves nothing behind at the end", function()
    local t = fake()
    local words = { ("x"):rep(60), ("y"):rep(60) }
    local stage = t.line:stage("waiting", { facts = function() return { words = words } end })
    t.at = 1
    stage:update()
    assert.equal(2, #t.screen())
    t.line:say "a batch has ended \27[31m"
    assert.same({ "a batch has ended %1B[31m", "waiting · " .. ("x"):rep(60), ("y"):rep(60) .. " · 1 s so far" },
      t.screen())
    t.line:say "another"
    t.line:close()
    t.at = 5
    stage:update() -- somebody who has not heard of it
    t.line:say "the end"
    assert.same({ "a batch has ended %1B[31m", "another", "the end" }, t.screen())
  end)

  it("erases nothing but itself after a shell has written below it", function()
    local t = fake()
    local stage = t.line:stage("waiting", { facts = function() return { words = { ("x"):rep(90), "y" } } end })
    t.at = 1
    stage:update()
    t.bytes = t.bytes .. "^Z\n[1]+ Stopped\27[K\n$ fg\27[K\nobatch\n" -- the cursor stood at the region's beginning
    t.at = 2
    stage:update()
    local shown = t.screen()
    assert.same({ "[1]+ Stopped", "$ fg", "obatch" }, { shown[2], shown[3], shown[4] })
    assert.same({ "waiting", ("x"):rep(90) .. " · y" }, { shown[5], shown[6] })
  end)

  it("keeps off the terminal while the command runs in the background", function()
    local t = fake()
    local stage = t.line:stage("waiting")
    t.at, t.in_front = 10, false
    stage:update()
    t.line:close()
    assert.equal("", t.bytes)
  end)

  it("has colour for what failed only, and none where NO_COLOR says so", function()
    local function shown(colour)
      local t = fake { colour = colour }
      local stage = t.line:stage("waiting", { facts = function() return { failed = 3, done = 5 } end })
      t.at = 1
      stage:update()
      return t.bytes
    end
    assert.truthy(shown(true):find("\27[31m3 failed\27[m", 1, true))
    assert.is_nil(shown(false):find("\27%[%d*m"))
  end)

  it("is gone for a moment when a line goes to stdout", function()
    local t, written = fake(), nil
    local stage = t.line:stage("checking")
    t.at = 1
    stage:update()
    local stdout = io.stdout
    finally(function() io.stdout = stdout end) -- luacheck: ignore 122
    io.stdout = { -- luacheck: ignore 122
      write = function(_, ...) written = { t.screen(), ... } end,
      flush = function() end,
    }
    t.line:print "c.txt: not JSON"
    assert.same({ {}, "c.txt: not JSON", "\n" }, written)
  end)
end)

describe("without a terminal", function()
  it("there is a line a minute, and no control character", function()
    local t = fake { terminal = false, colour = true }
    local stage = t.line:stage("checking", { total = 4000, unit = "requests" })
    for second = 1, 190 do
      t.at = second
      stage:update(second * 10)
    end
    assert.is_nil(t.bytes:gsub("\n", ""):find("%c"))
    local lines = t.screen()
    assert.equal(3, #lines)
    assert.equal("checking · 600 of 4,000 requests · about 6 min left · 1 min 00 s so far", lines[1])
    assert.equal("checking · 1,800 of 4,000 requests · about 4 min left · 3 min 00 s so far", lines[3])
  end)

  it("and with --quiet there is nothing at all", function()
    for _, terminal in ipairs { true, false } do
      local t = fake { quiet = true, terminal = terminal }
      local stage = t.line:stage("checking", { total = 4000, unit = "requests" })
      t.at = 1000
      stage:update(10)
      t.line:say "something"
      t.line:close()
      assert.equal("", t.bytes)
    end
  end)
end)

describe("nouns", function()
  it("tell the command that runs, and nobody where there is none", function()
    local stage = progress.stage("reading", { total = 5 })
    stage:update(3)
    progress.hide()
    local t = fake()
    t.at = 1
    local heard = progress.stage("reading", { total = 5, unit = "lines" })
    t.at = 2
    heard:update(3)
    assert.same({ "reading · 3 of 5 lines · 1 s so far" }, t.screen())
    stage:update(4)
    t.line:close()
    progress.stage("reading", { total = 5, unit = "lines" }):update(3)
    assert.same({}, t.screen())
  end)

  it("are told how far a file is read, with every record handed on", function()
    local t = fake()
    t.at = 1
    local offset = 0
    local function records()
      offset = offset + 50000
      t.at = t.at + 0.1
      return offset <= 1000000 and { offset = offset } or nil
    end
    local count, dir <close> = 0, support.tmpdir()
    support.write(dir.path .. "/big.jsonl", ("x"):rep(1050000)) -- the offset of a record is where it begins
    for record in progress.over(records, "judging", dir.path .. "/big.jsonl") do
      count = count + 1
      assert.equal(count * 50000, record.offset)
    end
    assert.equal(20, count)
    -- What comes next may last, and nobody tell of it: nothing is left of this file.
    assert.same({ "judging big.jsonl · 1.05 MB of 1.05 MB · 500 kB/s · 2 s so far" }, t.screen())
  end)

  it("wait, and what is shown goes on meanwhile", function()
    local t, sleep, slept = fake(), term.sleep, 0
    finally(function() term.sleep = sleep end)
    term.sleep = function(seconds)
      slept, t.at = slept + seconds, t.at + seconds
      return true
    end
    t.line:stage("waiting")
    assert.is_true(progress.sleep(4.5))
    assert.equal(4.5, slept)
    assert.same({ "waiting · 4 s so far" }, t.screen())
    term.sleep = function() return nil, "interrupted", "INTERRUPTED" end
    assert.same({ nil, "interrupted", "INTERRUPTED" }, { progress.sleep(4.5) })
  end)
end)

describe("what is left", function()
  --- What is said over a time in which done(second) is seen every `step` seconds: { { at, words or false }, ... }, one
  --- for each change.
  local function told(total, step, seconds, done)
    local p, list, last = pace.new(), {}, nil
    for at = 0, seconds, step do
      p:note(math.min(total, done(at) // 1), at)
      local words = pace.words(p:left(total, at)) or false
      if words ~= last then list[#list + 1] = { at, words } end
      last = words
    end
    return list
  end

  --- What is said at one time.
  local function told_at(list, at)
    local words
    for _, entry in ipairs(list) do
      if entry[1] <= at then words = entry[2] end
    end
    return words
  end

  it("is said of a steady pace, when enough was seen, and never goes up or to nothing", function()
    local list = told(10000, 60, 7800, function(at) return math.max(0, at - 600) * 10000 / 7200 end)
    assert.is_false(told_at(list, 720))
    assert.equal("about 1 h 40 min left", told_at(list, 1500))
    assert.equal("about 30 min left", told_at(list, 6000))
    assert.equal("about 2 min left", told_at(list, 7680))
    assert.is_false(told_at(list, 7800))
    local before = math.huge
    for i = 2, #list - 1 do
      local hours, minutes = list[i][2]:match("(%d+) h"), list[i][2]:match("(%d+) min")
      local left = (hours or 0) * 60 + (minutes or 0)
      assert.truthy(left > 0 and left < before, list[i][2])
      before = left
    end
  end)

  it("is not said of what was seen for a moment only", function()
    local list = told(1000000, 0.2, 60, function(at) return at * 10 end)
    assert.same({ { 0, false } }, list)
    list = told(1000, 60, 179, function(at) return at end)
    assert.same({ { 0, false } }, list)
  end)

  it("is taken back when nothing moves any more", function()
    local list = told(10000, 60, 6000, function(at) return math.min(5000, at * 10000 / 7200) end)
    assert.equal("about 1 h left", told_at(list, 3540))
    assert.is_false(list[#list][2])
    assert.truthy(list[#list][1] <= 3600 + 6 * 60, list[#list][1])
  end)

  it("does not jump with bursts, as services count", function()
    local list = told(10000, 60, 7200, function(at) return at // 300 * 300 * 10000 / 7200 end)
    for at = 1500, 6900, 60 do
      local words = told_at(list, at)
      local left = words and (words:match("(%d+) h") or 0) * 60 + (words:match("(%d+) min") or 0)
      assert.truthy(left and math.abs(left - (7200 - at) / 60) <= 15, ("%d: %s"):format(at, words))
    end
  end)

  it("becomes a range when the pace changes, and settles on the new one", function()
    local list = told(20000, 60, 6 * 3600, function(at)
      return at < 3600 and at * 2 or 7200 + (at - 3600) * 2 / 3
    end)
    assert.equal("about 1 h 50 min left", told_at(list, 3540))
    local least, most = told_at(list, 4900):match("^(%d+) h 30 min to (%d+) h left$")
    assert.same({ "2", "5" }, { least, most })
    assert.equal("about 4 h left", told_at(list, 8400))
  end)

  it("begins anew when what is done goes back", function()
    local p = pace.new()
    for i = 1, 20 do p:note(i * 10, i) end
    assert.truthy(p:left(1000, 20))
    for i = 1, 20 do p:note(i * 5, 20 + i) end
    assert.same({ 900 / 5, 900 / 5 }, { p:left(1000, 40) })
  end)

  it("is not said when all is done that is counted, and more is to come", function()
    local t = fake()
    local facts = { done = 0, total = 600, at = 0 }
    local stage = t.line:stage("iteration 1", { unit = "requests", scope = " in this iteration",
      facts = function() return facts end })
    for second = 1, 30 do
      t.at, facts.done, facts.at = second, second * 10, second
      stage:update()
    end
    assert.same({ "iteration 1 · 300 of 600 requests · less than a minute left in this iteration · 30 s so far" },
      t.screen())
    t.at, facts.done = 31, 600 -- the last look was a second ago
    stage:update()
    assert.same({ "iteration 1 · 600 of 600 requests · 31 s so far" }, t.screen())
  end)

  it("says of what it is where the window has room for that", function()
    for width, words in pairs { [42] = " in this iteration", [41] = " · 30 s so far" } do
      local t = fake()
      t.width = width
      local stage = t.line:stage("iteration 1", { total = 600, unit = "requests", scope = " in this iteration" })
      for second = 1, 30 do
        t.at = second
        stage:update(second * 10)
      end
      assert.equal("less than a minute left" .. words, t.screen()[2])
    end
  end)

  it("is the latest time of the service where nothing else is known", function()
    local t = fake()
    local noon = os.time { year = 2027, month = 1, day = 15, hour = 12 }
    t.line.time = function() return noon + t.at end
    local latest = noon + 7200
    local stage = t.line:stage("iteration 1", { facts = function() return { latest_at = latest } end })
    t.at = 1
    stage:update()
    assert.same({ "iteration 1 · at the latest 14:00 · 1 s so far" }, t.screen())
    latest, t.at = noon + 86400, 2
    stage:update()
    assert.same({ "iteration 1 · at the latest tomorrow 12:00 · 2 s so far" }, t.screen())
  end)
end)

describe("batches in flight", function()
  local now = term.time()

  it("are counted together, with those that are done and have left, and those to be sent", function()
    local parts = {
      { lines = 100, batch_id = "a", status = "in_progress", counts = { total = 100, completed = 40, failed = 2 },
        seen = { expires_at = now + 7000 } },
      { lines = 50, batch_id = "b", status = "validating", seen = { expires_at = now + 9000 } },
      { lines = 30, batch_id = "c", status = "completed", done = true, ended = { failed = 1 } },
      { lines = 20 },
      { lines = 999, is_empty = true, done = true },
    }
    local watched = flight.new { parts = parts }
    assert.is_nil(watched:facts().done) -- before the first look
    watched.looked_at = 1
    local facts = watched:facts()
    assert.same({ 72, 200, 3, 108 }, { facts.done, facts.total, facts.failed, facts.in_flight })
    assert.same({ "1 batch in_progress", "1 batch validating", "1 batch to be sent" }, facts.words)
    assert.equal(now + 7000, facts.expires_at)
    assert.is_nil(facts.latest_at) -- what is not sent yet may end later
    table.remove(parts, 3)
    parts[3].batch_id, parts[3].seen = "d", { expires_at = now + 8000 }
    facts = watched:facts()
    assert.same({ 72, 200 }, { facts.done, facts.total })
    assert.equal(now + 9000, facts.latest_at)
  end)

  it("are believed no count that is none", function()
    for _, odd in ipairs { -5, 1e300, 0.5, "7", {}, true, 1 << 62 } do
      local watched = flight.new { parts = { { lines = 10, batch_id = "a", seen = { expires_at = odd },
        counts = { total = odd, completed = odd, failed = odd } } } }
      watched.looked_at = 1
      local facts = watched:facts()
      assert.truthy(facts.done >= 0 and facts.done <= 10 and facts.total == 10 and facts.failed <= 10)
      assert.is_nil(facts.expires_at)
    end
  end)

  it("are sent and fetched at so many bytes a second", function()
    local clock, at = term.clock, 0
    finally(function() term.clock = clock end)
    term.clock = function() return at end
    local sent = 0
    local transfer = { progress = function() return sent, 0 end }
    local watched = flight.new { parts = { { lines = 1, bytes = 4000000 } } }
    local function send()
      for second = 1, 3 do
        at, sent = second, second * 1000000
        watched:watch({ [transfer] = true })
      end
      local facts = watched:facts()
      assert.equal(1000000, facts.rate)
      assert.same({ "uploading 3.00 MB of 4.00 MB" }, facts.words)
      watched:watch({ [transfer] = true }, transfer)
      return "file", 2
    end
    assert.same({ "file", 2 }, { watched:upload({ bytes = 4000000 }, send) })
    assert.is_nil(watched:facts().rate)
    watched:download(function()
      assert.equal("downloading 1 file", watched:facts().words[1])
      watched:watch({ [{ progress = function() return 0, 2500000 end }] = true })
      assert.equal("downloading 1 file, 2.50 MB so far", watched:facts().words[1])
    end)
  end)

  it("are at no bytes a second when all is sent and the service takes its time to answer", function()
    local clock, at = term.clock, 0
    finally(function() term.clock = clock end)
    term.clock = function() return at end
    local transfer = { progress = function() return 1000, 0 end }
    local watched = flight.new { parts = {} }
    local function stalled(bytes)
      local facts
      watched:upload({ bytes = bytes }, function()
        for second = 1, 3 do
          at = at + second
          watched:watch({ [transfer] = true })
        end
        facts = watched:facts()
        watched:watch({ [transfer] = true }, transfer)
      end)
      return facts
    end
    local facts = stalled(1000)
    assert.is_nil(facts.rate)
    assert.same({ "uploading 1.00 kB of 1.00 kB" }, facts.words)
    assert.equal(0, stalled(2000).rate)
  end)

  it("have failed for what their batch has not run by its end", function()
    for status, failed in pairs { expired = 60, cancelled = 60, completed = 2 } do
      local watched = flight.new { parts = { { lines = 100, batch_id = "a", status = status,
        counts = { total = 100, completed = 40, failed = 2 }, ended = { status = status, failed = 2 } } } }
      watched.looked_at = 1
      local facts = watched:facts()
      assert.same({ 100, 100, failed }, { facts.done, facts.total, facts.failed }, status)
    end
  end)

  it("are watched while transfers are under way", function()
    local seen, ends = {}, { "none yet" }
    local client = { start = function(_, request) return request end,
      wait = function()
        local transfer = table.remove(ends)
        return transfer ~= "none yet" and transfer or nil, "nothing", "TIMEOUT"
      end }
    local one = { name = "one" }
    table.insert(ends, 1, one)
    tasks.run(client, { function() assert.equal(one, tasks.request(client, one)) end }, 4, function(transfers, ended)
      seen[#seen + 1] = { next(transfers), ended }
    end)
    assert.same({ { one }, { one, one } }, seen)
  end)
end)

describe("a command", function()
  --- Runs a script on a terminal of 40 columns. Returns its exit code and all that came to the terminal.
  local function on_terminal(code, environment)
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/script.lua", [[
      local progress, term = require "obatch.progress", require "obatch.term"
      local line <close> = progress.new()
      local facts = { failed = 2, words = { "on something long" } }
      local stage = line:stage("working", { facts = function() return facts end })
      progress.sleep(2) ]] .. code)
    local inner = ("stty cols 40 rows 10; exec env -u NO_COLOR --default-signal=INT LC_ALL=C.UTF-8 TERM=xterm %s %s "
      .. "run %s/script.lua"):format(environment or "", support.quote(support.binary), dir.path)
    return support.shell(("timeout -k 1 60 script -qefc %s /dev/null"):format(support.quote(inner)))
  end

  --- What is left on the screen.
  local function left(out) return table.concat(screen_of((out:gsub("\r\n", "\n"))), "\n") end

  it("shows the region on a real terminal as wide as that is, and takes it away at the end", function()
    local code, out = on_terminal [[ line:say("done") ]]
    assert.equal(0, code)
    assert.truthy(out:find("working · \27[31m2 failed\27[m · on something long", 1, true), out)
    assert.truthy(out:find("\27[K\r\n1 s so far", 1, true), out)
    assert.matches("^%d%d:%d%d:%d%d done$", left(out))
  end)

  it("takes it away when it fails, and at Ctrl-C", function()
    local code, out = on_terminal [[ error("broken") ]]
    assert.equal(1, code)
    assert.matches("^obatch: [^\n]*broken$", left(out:gsub("\nstack traceback.*", "\n")))
    code, out = on_terminal [[
      local killer <close> = io.popen("kill -INT " .. require "obatch.fs".read("/proc/self/stat"):match("%d+"))
      if not progress.sleep(60) then return require "obatch.cli".stopped("interrupted", "INTERRUPTED") end ]]
    assert.equal(130, code)
    assert.matches("^obatch: interrupted: run the same", left(out))
  end)

  it("has no colour with NO_COLOR, no dots in a locale without UTF-8, and no region on a dumb terminal", function()
    local _, plain = on_terminal("", "NO_COLOR=1")
    assert.truthy(plain:find("2 failed · on something long", 1, true), plain)
    local _, ascii = on_terminal("", "LC_ALL=C")
    assert.truthy(ascii:find("working - \27[31m2 failed\27[m - on something long", 1, true), ascii)
    local _, dumb = on_terminal([[ line:say("done") ]], "TERM=dumb")
    assert.matches("^%d%d:%d%d:%d%d done\r\n$", dumb)
  end)

  it("takes --quiet wherever something lasts", function()
    for _, name in ipairs { "upload", "download", "clean", "deep_clean", "validate", "correction_loop" } do
      local _, out = support.obatch(name, "--help")
      assert.truthy(out:find("--quiet", 1, true), name)
    end
  end)

  it("tells nothing on the way with --quiet, and keeps its log all the same", function()
    local job <close> = loop.job { requests = loop.lines(3) }
    local box <close> = job:sandbox()
    local code, out, err = job:run(box, { "--quiet" })
    assert.equal("", err)
    assert.equal(0, code)
    assert.truthy(out:find("3 requests: 3 have a good answer", 1, true), out)
    assert.truthy(job:read("iteration_1/correction_log.txt"):find("uploaded as", 1, true))
    job:run(box)
    assert.is_nil(job.err:gsub("\n", ""):find("%c"), job.err)
  end)
end)
