-- Every fault at every endpoint, for some tries and for ever: what tests/fault_matrix.txt promises.
--
-- A cell is one job beside a sandbox. First its fault does not end (the sandbox fails as long as there is
-- a file "on"), and the run has a patience of a second; then it ends after two tries.
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

--- Cells that run at once. They wait most of the time.
local AT_ONCE = 20

--- How often a run must have met its fault, going on each time, to count as one that waits. The pauses between
--- two attempts to create something grow; what comes as content is judged again at each of ten looks.
local function many(row, column)
  if column:find("^list") then return 3 end
  local is_judged = column == "content" and (row.words:find("truncate") or row.words:find("longer")
    or row.words:find("status=200"))
  return is_judged and 24 or 5
end

--- The sections of the table, a list: title, columns = { name ... }, rows = { { name=, words=, says=,
--- cells = { "on/stop" ... } } ... }.
local function read_table()
  local sections, current = {}, nil
  for line in support.read(support.home .. "/tests/fault_matrix.txt"):gmatch("[^\n]+") do
    local fields = {}
    for field in line:gmatch("[^|]+") do fields[#fields + 1] = field:match("^%s*(.-)%s*$") end
    if line:find("|", 1, true) and fields[2] == "the fault in the sandbox" then
      current = { title = fields[1], columns = table.move(fields, 4, #fields, 1, {}), rows = {} }
      sections[#sections + 1] = current
    elseif line:find("|", 1, true) then
      local row = { name = fields[1], words = fields[2], says = fields[3],
        cells = table.move(fields, 4, #fields, 1, {}) }
      assert(#row.cells == #current.columns, "cells are missing: " .. line)
      current.rows[#current.rows + 1] = row
    end
  end
  return sections
end

--- The listings are only asked when a reply was lost.
local BEFORE = {
  list_files = "upload: drop late first=1; ", list_batches = "create_batch: drop late first=1; ",
}

local every_cell = loop.group {}

local makers = {}

makers["the correction loop"] = function(column)
  local deletes = column == "delete_file"
  local self = loop.job { args = { "--max-requests", "3", deletes and "--delete-remote-files" or nil },
    policy = ("dofile(%q)\npolicy.attempts.missing = 1"):format(support.home .. "/tests/short_waits.lua") }
  support.write(self.path .. "/run.sh", "url=$1; exec env " .. self:command('"$url"') .. "\n")
  function self.check() loop.check(self, loop.usual(6)) end
  self.made = deletes and "0 3" or "3 3" -- files, batches: two, and one for what the model answers badly
  return self
end

makers["images"] = function()
  local self = pipeline.project { images = 4, upload = { "--max-images-per-batch", "2" } }
  local function step(command)
    return (self:step(command, '"$url"'):gsub("tests/signal_at%.lua", "tests/short_waits.lua"))
  end
  support.write(self.path .. "/run.sh", ("url=$1\n( %s ) && ( %s )\n"):format(step "upload", step "download"))
  function self.command(_, url) return ("sh %s/run.sh %s"):format(support.quote(self.path), url) end
  function self.check() pipeline.check(self) end
  self.made = "2 2"
  return self
end

-- A run that the fault does not end for. `stop` says when it is told to stop.
local function endless(url, patience, stop)
  return ([[
PATIENCE=%d setsid sh run.sh "%s/v1" >first.out 2>first.err & session=$!
%s
wait $session; echo $? >first.code
grep -c '"fault":"[^"]' box/requests.jsonl >first.met
rm on
]]):format(patience, url, stop or "")
end

local STOP = "pkill -TERM -s $session -x obatch"

--- When it has met the fault so many times.
local function after_faults(times)
  return ([[
while kill -0 $session && [ "$(grep -c '"fault":"[^"]' box/requests.jsonl)" -lt %d ]; do sleep 0.2; done 2>/dev/null
%s]]):format(times, STOP)
end

--- When it has said so, and has gone on for a while. One that never does is told to stop, too.
local function after_saying(words)
  return ([[
for i in $(seq 300); do
  grep -qF %s first.out first.err || ! kill -0 $session && break
  sleep 0.2
done 2>/dev/null
sleep 1
%s]]):format(support.quote(words), STOP)
end

--- Addresses where no service is. The steps before it bring the run to the endpoint, where it is refused; what
--- comes after it is the start of a service there.
local ADDRESSES = {
  ["nothing listens"] = { "http://127.0.0.1:$port", after = [[
( sleep 1; serve $port ) >>box.out 2>>box.err & box=$!
url=http://127.0.0.1:$port
]] },
  ["a name without an address"] = { "https://nowhere.invalid" },
  ["no TLS there"] = { "https://${url#http://}" },
}
local function elsewhere(address, says, waits)
  return ([[
touch on
run >stage.out 2>stage.err
port=$((10000 + $$ % 20000)) # none that the system gives to others
]]) .. (address.after and "kill $box; wait $box\n" or "")
    .. endless(address[1], 1, waits and after_saying(says)) .. (address.after or "")
end

local CODES = { on = 0, stop = 1, refuse = 1, part = 3, wait = 130 }

local function check_first(self, word, row)
  local function text(name) return support.read(self.path .. "/" .. name) end
  local printed = text "first.out" .. text "first.err"
  assert.equal(CODES[word], tonumber(text "first.code"), printed)
  assert.falsy(printed:find("Sanitizer", 1, true) or printed:find("stack traceback", 1, true)
    or printed:find(loop.KEY, 1, true), printed)
  if word == "refuse" then
    assert.is_true(tonumber((text "first.met")) <= 2, "tried again: " .. text "first.met" .. printed)
  end
  if word ~= "on" and row.says ~= "-" then
    assert.truthy(printed:find(row.says, 1, true), ("does not say '%s': %s"):format(row.says, printed))
  end
  if word == "stop" or word == "refuse" then
    assert.truthy(printed:find("again", 1, true), "does not say how to go on: " .. printed)
  end
end

local function cell(section, row, column, promise)
  local recovers, never = promise:match("^(%S+)/(%S+)$")
  local address = ADDRESSES[row.words]
  local self = makers[section.title](column)
  local place = row.words:find(":", 1, true) and row.words or column .. ": " .. row.words
  local waits = never == "wait"
  if address then
    self.faults = ("%s%s: status=401 while=%s/on"):format(BEFORE[column] or "", column, self.path)
    self.steps = elsewhere(address, row.says, waits)
  else
    local first = recovers == "stop" and 1 or 2
    self.faults = ("%s%s while=%s/on; %s first=%d"):format(BEFORE[column] or "", place, self.path, place, first)
    -- A silent service is given up after 2 seconds; that is to be one try of several.
    self.steps = "touch on\n" .. endless("$url", row.words:find("stall") and 5 or 1,
      waits and after_faults(many(row, column)))
    -- What is refused is left for the next run, also when only the first two tries are.
    if column == "delete_file" then self.steps = self.steps .. "run >second.out 2>second.err\n" end
    if recovers == "stop" then self.steps = self.steps .. "run >second.out 2>second.err; echo $? >second.code\n" end
  end
  every_cell[#every_cell + 1] = self
  self.is_large = row.words:find("long=%d") ~= nil
  local name = ("%s: %s at %s"):format(section.title, row.name, column)

  it(("%s, for ever: %s"):format(name, never), function()
    check_first(self, never, row)
    -- A reply that is lost or spoiled leaves a file that is gone: asked again, the service says so.
    if column == "delete_file" and row.words:find("^status=[345]") and not row.words:find("404")
      and not row.words:find("late") then
      local said = support.read(self.path .. "/first.err")
      assert.truthy(said:find("the next run tries again", 1, true), said)
    end
  end)

  it(("%s, then not: %s"):format(name, recovers), function()
    if recovers == "stop" then
      assert.equal("1\n", support.read(self.path .. "/second.code"))
    end
    if recovers == "part" then
      assert.equal(3, self.code, self.out .. self.err)
      loop.check_clean(self)
      return
    end
    self.check()
    if column == "delete_file" and row.name == "404" then return end -- what is said to be gone is not deleted again
    assert.equal(self.made, ("%d %d"):format(self:created()), "uploaded or created twice")
  end)
end

describe("the matrix,", function()
  lazy_setup(function()
    -- A gigabyte takes its time, and would take that of the others.
    local large, small = {}, {}
    for _, one in ipairs(every_cell) do table.insert(one.is_large and large or small, one) end
    loop.pool(large, 1)
    loop.pool(small, AT_ONCE)
  end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  for _, section in ipairs(read_table()) do
    for _, row in ipairs(section.rows) do
      for i, promise in ipairs(row.cells) do
        if promise ~= "-" then cell(section, row, section.columns[i], promise) end
      end
    end
  end
end)
