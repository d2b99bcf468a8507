-- What survives in a journal: everything that was confirmed, and nothing that was not.
local journal = require "obatch.journal"
local support = require "support"

local dir, path

before_each(function()
  dir = support.tmpdir()
  path = dir.path .. "/journal.jsonl"
end)
after_each(function() getmetatable(dir).__close(dir) end)

--- Opens the journal, records `events`, closes it; returns what was in it before.
local function session(...)
  local log <close>, before = assert(journal.open(path))
  for _, name in ipairs { ... } do assert.is_true(log:record { event = name }) end
  return before
end

local function names(events)
  local list = {}
  for i, event in ipairs(events) do list[i] = event.event end
  return list
end

--- What is wrong with a journal of these bytes, which must still be there afterwards.
local function damage(content)
  support.write(path, content)
  local log, message, code = journal.open(path)
  assert.is_nil(log)
  assert.equal("DAMAGED", code)
  assert.equal(content, support.read(path))
  return message
end

it("a journal that does not exist yet holds nothing, and one that is empty neither", function()
  assert.same({}, session())
  assert.equal("", support.read(path))
  assert.same({}, session())
end)

it("events come back in order, with all they held, and go on behind the old ones", function()
  do
    local log <close> = assert(journal.open(path))
    assert.is_true(log:record { event = "planned", parts = { { lines = 12345678901234567, model = "é\n\"" } } })
    assert.is_true(log:record { event = "created", batch_id = "b" })
  end
  local before = session "merged"
  assert.same({ "planned", "created" }, names(before))
  assert.same({ { lines = 12345678901234567, model = "é\n\"" } }, before[1].parts)
  assert.is_true(math.abs(before[1].time - os.time()) < 60)
  assert.same({ "planned", "created", "merged" }, names(session()))
end)

it("an event is in the file when record() returns", function()
  local log <close> = assert(journal.open(path))
  assert.is_true(log:record { event = "one", n = 1 })
  assert.matches('^{"event":"one","n":1,"time":%d+}\n$', support.read(path))
end)

for name, torn in pairs {
  ["half an event"] = '{"event":"cre', ["an event without its newline"] = '{"event":"created"}',
  ["zeros"] = ("\0"):rep(5000), ["a lone bracket"] = "{",
  ["zeros where a block was, and the rest of the event"] = ("\0"):rep(700) .. '3,"time":1795000000}\n',
  ["an event that zeros end"] = '{"event":"created","batch_id"' .. ("\0"):rep(90),
} do
  it("a torn last line is dropped, and what is recorded next stands on a line of its own: " .. name, function()
    session("one", "two")
    local whole = support.read(path)
    support.write(path, whole .. torn)
    assert.same({ "one", "two" }, names(session()))
    assert.equal(whole, support.read(path))
    support.write(path, whole .. torn)
    session "three"
    assert.same({ "one", "two", "three" }, names(session()))
  end)
end

it("a torn first line leaves an empty journal", function()
  support.write(path, '{"event":"star')
  assert.same({}, session())
  assert.equal("", support.read(path))
end)

it("a damaged line before the last is an error that names it, and nothing is changed", function()
  assert.matches("journal.jsonl:2: byte 3: .*The journal is damaged; restore it from a copy, or delete this line",
    damage '{"event":"one"}\n{ nonsense }\n{"event":"three"}\n')
  assert.matches("journal.jsonl:2: ", damage '{"event":"one"}\n\n{"event":"three"}\n', 1, true)
  assert.matches("journal.jsonl:1: ", damage '\0\0\0\0\n{"event":"three"}\n', 1, true)
  assert.matches("journal.jsonl:2: ", damage '{"event":"one"}\n\0\0\n{"event":"three"}\n{"event":"fo', 1, true)
end)

it("a last line that is whole and damaged is an error too: it had been confirmed", function()
  assert.matches("journal.jsonl:2: ", damage '{"event":"one"}\n{"event":\n', 1, true)
end)

it("JSON that is no event is damage", function()
  for _, line in ipairs { "[]", "{}", "3", '"event"', '{"event":3}' } do
    assert.matches("journal.jsonl:1: byte 1: not an event", damage(line .. "\n"), 1, true)
  end
end)

it("a journal that cannot be read or written is an error of the disk", function()
  path = dir.path .. "/nowhere/journal.jsonl"
  local log, message, code = journal.open(path)
  assert.same({ nil, "ENOENT" }, { log, code })
  assert.matches(path, message, 1, true)
  path = dir.path
  log, message, code = journal.open(path)
  assert.same({ nil, "EISDIR" }, { log, code })
  assert.matches(path, message, 1, true)
end)

it("a journal is not looked for behind a symbolic link when it is written", function()
  support.write(dir.path .. "/elsewhere", "")
  assert(os.execute(("ln -s elsewhere %s"):format(support.quote(path))))
  local log, message, code = journal.open(path)
  assert.same({ nil, "ELOOP" }, { log, code })
  assert.matches(path, message, 1, true)
  assert.equal("", support.read(dir.path .. "/elsewhere"))
end)

it("an event that cannot be written is not believed, and leaves no torn line", function()
  local script = dir.path .. "/full.lua"
  -- The shell's file size limit (in KiB) stands for a full disk.
  support.write(script, ([[
    local log = assert(require "obatch.journal".open(%q))
    assert(log:record { event = "one" })
    local ok, message, code = log:record { event = "two", text = ("x"):rep(100000) }
    print(ok, code, message:find(%q, 1, true) ~= nil)
    print((log:record { event = "three" }))]]):format(path, path))
  local code, out, complaint = support.shell(("bash -c 'ulimit -f 64; exec %s run %s'"):format(support.binary, script))
  assert.equal(0, code, complaint)
  assert.equal("nil\tEFBIG\ttrue\ntrue\n", out)
  assert.same({ "one", "three" }, names(session()))
end)
