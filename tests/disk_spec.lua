-- A disk that is full, over its quota, broken or read-only: whichever call fails, the run says what it could
-- not do to which file, and stops; no final name holds less than the whole; and when the cause is gone, the
-- same command does the rest and pays nothing twice.
local fs = require "obatch.fs"
local loop = require "loop"
local strike = require "strike"
local support = require "support"

local undisturbed = strike.undisturbed()

local every_cell = loop.group {}

local WORDS = { ENOSPC = "No space left on device", EDQUOT = "Disk quota exceeded", EIO = "Input/output error",
  EROFS = "Read-only file system", EACCES = "Permission denied", ENOLCK = "No locks available",
  SHORT = "No space left on device" }

--- Calls whose failure changes nothing that counts: the bytes are on disk by then, what could not be
--- removed is removed by the next run, and an iteration's log only tells what the terminal told.
local function is_harmless(call)
  return call.call == "remove" or call.call == "close" and not call.path:find("%.part$")
    or call.path:find("^/.*/correction_log%.txt$") ~= nil
end

--- A pattern for a path: one of many batches stands for all, and one of the images' folders, which come in
--- no order.
local function pattern(path)
  return path:gsub("/$", ""):gsub("batch_%x%x%x%x%x%x%x%x+", "batch_*"):gsub("^/data/[^/]+$", "/data/+([!/])")
    :gsub("^/data/[^/]+/provenance", "/data/+([!/])/provenance"):gsub("^/data/[^/]+/#$", "/data/+([!/])/#")
    :gsub("^/data/[^/]+/[^/]+%.txt$", "/data/+([!/])/*.txt"):gsub("(/batch_%*)/[^/]+%.json$", "%1/*.json")
end

--- Texts are written by other threads: when a result cannot be, a run has written them.
local function is_of_text(path) return path:find("^/data/.*[#t]$") ~= nil end

--- Results and texts are written without a name. Where that is not allowed, they are written as other files are.
local function has_other_way(path) return is_of_text(path) or path:find("^/batch_json_results/.+/") ~= nil end

--- Which different calls the processes of an undisturbed run make, in their order: { call =, path = a
--- pattern }.
local function kinds(whole)
  local list, known = {}, {}
  for _, process in ipairs(whole.processes) do
    for _, call in ipairs(process.calls) do
      local path = pattern(call.path)
      local key = call.call .. " " .. path
      if not known[key] and not is_harmless(call) then
        known[key] = true
        list[#list + 1] = { call = call.call, path = path }
      end
    end
  end
  return list
end

local ERRORS = { "ENOSPC", "EIO", "EDQUOT", "EROFS", "EACCES" }

--- What a call can fail with: the i-th of it.
local function error_of(call, i, path)
  if call == "lock" then return "ENOLCK" end
  local error = ERRORS[i % #ERRORS + 1]
  return error == "EACCES" and has_other_way(path) and "EIO" or error
end

--- A job with `strikes`: a list of { calls=, name=, at=, with=, on= }, each for one run of its own.
local function cell(subject, name, strikes, check_run)
  local self = strike.subjects[subject].new()
  self.subject, self.strikes = subject, strikes
  local steps = {}
  for i, settings in ipairs(strikes) do
    settings.log = ("%s/%d.calls"):format(self.path, i)
    steps[i] = strike.step(self, i, settings) .. ("mkdir %d.base; [ -d %s ] && cp -a %s/. %d.base\n"):format(i,
      support.quote(self.base), support.quote(self.base), i)
  end
  self.steps = table.concat(steps)
  every_cell[#every_cell + 1] = self
  it(subject .. ": " .. name, function()
    local whole = undisturbed[subject]
    for i, settings in ipairs(strikes) do
      local run = { code = tonumber(support.read(("%s/%d.code"):format(self.path, i))),
        said = support.read(("%s/%d.err"):format(self.path, i)), was_struck = fs.stat(settings.log) ~= nil }
      local what = ("run %d, %s of %s fails with %s: exit code %s\n%s"):format(i, settings.calls or "each call",
        settings.name or "any file", settings.with, run.code, run.said)
      assert(not run.said:find("traceback", 1, true) and not run.said:find("Sanitizer", 1, true), what)
      check_run(run, settings, what)
      strike.check_between({ base = ("%s/%d.base"):format(self.path, i), read = self.read, decoded = self.decoded },
        strike.subjects[subject], whole, what)
    end
    strike.check(self, strike.subjects[subject], whole)
  end)
end

--- A run that could not go on: exit 1, and words that name the cause, and the file or its folder.
local function has_stopped(run, settings, what)
  assert(run.was_struck, "no such call was made: " .. what)
  assert(run.code == 1, what)
  assert(run.said:find(WORDS[settings.with], 1, true), what)
  local name = (settings.name or ""):gsub("%.part$", ""):gsub("/#$", ""):gsub("^.*[*)]", ""):match("[^/]*$")
  assert(run.said:find(name, 1, true), what)
  -- Where the file system has no locks, as some network mounts, there is a way out.
  assert(settings.calls ~= "lock" or run.said:find("use a folder on another one", 1, true), what)
end

--- A run for which the failure made no difference, or which said what it was.
local function has_stopped_or_ended(run, settings, what)
  assert(run.was_struck, "no such call was made: " .. what)
  if run.code == 1 then return has_stopped(run, settings, what) end
  assert(run.code == 0 or run.code == 3, what)
end

describe("when the disk is at fault", function()
  lazy_setup(function() loop.pool(every_cell, 12) end)
  lazy_teardown(function() getmetatable(every_cell).__close() end)

  for _, subject in ipairs { "correction_loop", "one_batch", "deep_clean" } do
    local list = kinds(undisturbed[subject])

    -- Run after run, each fails a little later: every kind of call of every file is the one that fails.
    for _, texts in ipairs(subject == "one_batch" and { false, true } or { false }) do
      local strikes, short = {}, {}
      for i, kind in ipairs(list) do
        if subject ~= "one_batch" or is_of_text(kind.path) == texts then
          strikes[#strikes + 1] = { calls = kind.call, name = kind.path, at = 1,
            with = error_of(kind.call, i, kind.path) }
          if kind.call == "write" and not kind.path:find("/lock$") then
            short[#short + 1] = { calls = "write", name = kind.path, at = 1, with = "SHORT" }
          end
        end
      end
      local which = texts and " (texts)" or ""
      cell(subject, "each kind of call fails once" .. which, strikes, has_stopped)
      cell(subject, "half of what is written still fits, for each file" .. which, short, has_stopped)
    end

    -- Each run records one event, and cannot record the next one.
    local events = {}
    for _, process in ipairs(undisturbed[subject].processes) do
      for i = 2, process.events do
        events[#events + 1] = { calls = i % 2 == 0 and "write" or "fsync", at = 2, with = error_of("write", i, ""),
          name = "/*@(journal|attempts).jsonl" }
      end
    end
    cell(subject, "the journal takes one event at a time", events, has_stopped_or_ended)

    for _, error in ipairs { "EACCES", "EIO" } do
      cell(subject, "nothing can be removed: " .. error, { { calls = "remove", at = 1, on = 1, with = error } },
        has_stopped_or_ended)
    end
    cell(subject, "what is whole cannot be closed", { { calls = "close", at = 1, on = 1, with = "EIO",
      name = "!(*.part)" } }, has_stopped_or_ended)
    cell(subject, "nothing can be written", { { at = 1, on = 1, with = "EROFS" } }, has_stopped)
  end
end)
