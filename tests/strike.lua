--- What the specs of faulty disks and of kills share: the jobs that they disturb, runs whose calls to the
--- file system fail or kill them (see preload/strike.c), and what must be true of each job in the end.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

local strike = {}

local LIBRARY = support.binary:match("^.*/") .. "tests/strike.so"
assert(fs.stat(LIBRARY), "build with -DOBATCH_TESTS=ON: there is no " .. LIBRARY)

--- Shell text: what is started after it, in the same shell, is struck as `settings` say: { calls=, name=,
--- at=, with=, on=, log= }, those of preload/strike.c, in files below `folder`.
function strike.export(folder, settings)
  local words = { "export LD_PRELOAD=" .. support.quote(LIBRARY),
    'ASAN_OPTIONS="$ASAN_OPTIONS:verify_asan_link_order=0"', "STRIKE_UNDER=" .. support.quote(folder) }
  for name, value in pairs(settings) do
    words[#words + 1] = ("STRIKE_%s=%s"):format(name:upper(), support.quote(value))
  end
  return table.concat(words, " ") .. "; "
end

--- Shell text of one run that is struck; what it prints and its exit code go to NAME.err and NAME.code.
function strike.step(self, name, settings)
  return ("(%srun) >%s.err 2>&1; echo $? >%s.code\n"):format(strike.export(self.base, settings), name, name)
end

-- ---------------------------------------------------------------- the jobs

--- 9 requests in batches of 3 and three iterations; one is refused and given up.
local MODEL = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n == 7 then return { refusal = "I cannot." } end
if asked < n % 3 + 1 then return "no JSON at all" end
return json.encode { id = request.custom_id, asked = asked }
]]

local function paid_by_loop()
  local paid = {}
  for i = 1, 9 do paid["r-" .. i] = i == 7 and 1 or i % 3 + 1 end
  return paid
end

--- The files below a folder: name -> content, with the ids that the sandbox gave as "batch_*".
local function contents(folder, keep)
  local files = {}
  for path, size in fs.walk(folder) do
    local name = path:sub(#folder + 2):gsub("batch_%x+", "batch_*")
    if size and keep(name) then files[name] = support.read(path) end
  end
  return files
end

local function is_text(name) return name:find("%.txt$") or name:find("%.txt%.%l+$") end

local LABELLED = ("The same line again and again.\n"):rep(30)

--- Each: new() -> a cell for loop.pool, code of a run that ends, paid custom_id -> times, created "files
--- batches", finals(cell) -> name -> bytes, which are the same in every job that has ended; check(cell).
strike.subjects = {
  correction_loop = {
    new = function()
      return loop.job { requests = loop.lines(9), model = MODEL, args = { "--max-requests", "3" },
        policy = ("dofile %q"):format(support.home .. "/tests/signal_at.lua") }
    end,
    code = 3, paid = paid_by_loop(), created = "6 6", journals = { "journal.jsonl" },
    finals = function(self)
      local files = {}
      for _, name in ipairs { "final_results.jsonl", "corrected_results.json", "given_up.jsonl" } do
        if fs.stat(self.base .. "/" .. name) then files[name] = self:read(name) end
      end
      return files
    end,
    check = function(self)
      loop.check_table(self.out)
      local seen, count = {}, 0
      for _, name in ipairs { "final_results.jsonl", "given_up.jsonl" } do
        for _, line in ipairs(self:decoded(name)) do
          assert(not seen[line.custom_id], line.custom_id .. " has two final states")
          seen[line.custom_id], count = true, count + 1
        end
      end
      assert(count == 9, ("%d of 9 requests have a final state"):format(count))
      -- The lists of batch ids that other tools read hold every batch of the journal.
      local wanted, found = {}, {}
      for _, event in ipairs(self:decoded("journal.jsonl")) do
        if event.event == "created" then wanted[event.batch_id] = event.iteration end
      end
      for n = 1, 3 do
        for id in self:read(("iteration_%d/submitted_batch_ids_iteration_%d.txt"):format(n, n)):gmatch("[^\n]+") do
          found[id] = n
        end
      end
      assert(loop.text(wanted) == loop.text(found), "the lists of batch ids do not hold every batch")
    end,
  },

  pipeline = {
    new = function() return pipeline.project { images = 6, upload = { "--max-images-per-batch", "3" } } end,
    code = 0, created = "2 2", journals = { "batch/journal.jsonl" },
    paid = { ["data|a|p-2.png"] = 1, ["data|a|p-4.png"] = 1, ["data|a|p-6.png"] = 1, ["data|b c|p-1.png"] = 1,
      ["data|b c|p-3.png"] = 1, ["data|b c|p-5.png"] = 1 },
    finals = function(self)
      return contents(self.base, function(name)
        return name:find("^data/") and is_text(name) or name:find("^batch_json_results/")
      end)
    end,
    check = function(self)
      pipeline.check(self)
      for _, folder in ipairs { "data/a", "data/b c" } do
        local _, lines = support.read(self.base .. "/" .. folder .. "/provenance.jsonl"):gsub("\n", "")
        assert(lines == 3, "a text's provenance was lost or told twice")
      end
    end,
  },

  deep_clean = {
    new = function()
      local self = pipeline.project { images = 3, commands = { "deep_clean" },
        model = [[return "The text of " .. request.custom_id .. "."]] }
      for name in pairs(self.images) do
        support.write(("%s/data/%s.txt.api"):format(self.base, name), LABELLED .. name .. "\n")
      end
      return self
    end,
    code = 0, created = "1 1", journals = { "deep_clean/run_001/journal.jsonl", "deep_clean/attempts.jsonl" },
    paid = { ["data|a|p-2.png"] = 1, ["data|b c|p-1.png"] = 1, ["data|b c|p-3.png"] = 1 },
    finals = function(self)
      return contents(self.base, function(name) return name:find("^data/") and is_text(name) end)
    end,
    check = function() end,
  },
}

--- The same with one batch, whose files come in the same order in every run.
strike.subjects.one_batch = setmetatable({
  new = function() return pipeline.project { images = 6 } end, created = "1 1",
}, { __index = strike.subjects.pipeline })

--- Which commands a run of a subject consists of.
local function commands(cell) return cell.commands or { "correction_loop" } end

--- The calls that each process of a run has made: a list of { command=, events= (recorded in journals),
--- renames=, calls = { { call=, path= (below the job's folder) }, ... } }.
local function processes(cell, subject)
  local list, is_journal = {}, {}
  for _, name in ipairs(subject.journals) do is_journal["/" .. name] = true end
  for number, call, path in support.read(cell.path .. "/calls"):gmatch("(%d+) (%l+) ([^\n]*)") do
    if number == "1" then
      list[#list + 1] = { command = commands(cell)[#list + 1], events = 0, renames = 0, calls = {} }
    end
    local process = list[#list]
    path = path:sub(1, #cell.base) == cell.base and path:sub(#cell.base + 1) or "/" .. path
    process.calls[#process.calls + 1] = { call = call, path = path }
    if call == "rename" then process.renames = process.renames + 1 end
    if call == "write" and is_journal[path] then process.events = process.events + 1 end
  end
  return list
end

--- An undisturbed job of each kind, run to its end: name -> { finals =, processes = as above }.
function strike.undisturbed()
  local cells, found = loop.group {}, {}
  local names = {}
  for name, subject in pairs(strike.subjects) do
    local cell = subject.new()
    cell.subject, cell.steps = name, strike.export(cell.base, { log = cell.path .. "/calls" })
    cells[#cells + 1], names[#names + 1] = cell, name
  end
  loop.pool(cells, 3)
  for _, cell in ipairs(cells) do
    local subject = strike.subjects[cell.subject]
    found[cell.subject] = { finals = subject.finals(cell), processes = processes(cell, subject) }
    strike.check(cell, subject, found[cell.subject])
  end
  getmetatable(cells).__close(cells)
  return found
end

local function compare(what, wanted, found)
  for name, bytes in pairs(wanted) do
    assert(found[name] == bytes, ("%s: %s differs:\n%s\nnot\n%s"):format(what, name, found[name] or "(it is missing)",
      bytes))
  end
  for name in pairs(found) do assert(wanted[name], ("%s: there is also %s"):format(what, name)) end
end

--- What must be true of a job that has ended, whatever happened to it: as `whole`, which nothing disturbed.
function strike.check(self, subject, whole)
  assert(self.code == subject.code, ("exit code %s\n%s%s%s"):format(self.code, self.out, self.err, self.box_err))
  loop.check_clean(self)
  local wanted, found = loop.text(subject.paid), loop.text(self:paid())
  assert(wanted == found, ("paid, expected: %s\n         found: %s\n%s"):format(wanted, found, self.err))
  local files, batches = self:created()
  assert(subject.created == files .. " " .. batches, ("created %d files and %d batches, not %s"):format(files, batches,
    subject.created))
  compare("in the end", whole.finals, subject.finals(self))
  subject.check(self)
end

--- What must be true of a job in between: each file that has a final name is as it will be in the end (a
--- labelled text is not there any more then), and every line is whole.
function strike.check_between(self, subject, whole, where)
  for name, bytes in pairs(subject.finals(self)) do
    assert(whole.finals[name] == bytes or name:find("%.api$"), ("%s: %s holds\n%s"):format(where, name, bytes))
  end
  for path, size in fs.walk(self.base) do
    if size and path:find("%.jsonl$") then
      local content = support.read(path)
      assert(content == "" or content:sub(-1) == "\n", ("%s: %s is cut off"):format(where, path))
      for line in content:gmatch("[^\n]+") do
        assert(json.check(line), ("%s: %s holds a broken line"):format(where, path))
      end
    end
  end
end

return strike
