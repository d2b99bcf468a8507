--- Says how far a job or an image project has got, from the files in its folder.
--
-- The recipe: see what the folder is, read it (lua/obatch/history.lua), tell it. No network, no lock, nothing is
-- written: it can be used beside a run.

local cli = require "obatch.cli"
local columns = require "obatch.columns"
local folders = require "obatch.history.folders"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local history = require "obatch.history"
local json = require "obatch.json"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local suggestion = require "obatch.suggestion"
local tell = require "obatch.history.tell"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

local parser = cli.parser("status", "Says how far the job in a folder has got: what was submitted, what is in flight, "
  .. "what came back, what was given up and why, and what to do next. The folder may be that of a job "
  .. "(correction_loop), of batches (upload and download), or of deep_clean.")
fsck.options(parser, { policy = "The rules of the job, for answers that no run has judged yet." })
parser:flag("--json", "Print JSON for other programs.")
progress.options(parser)
parser:epilog [[
It asks nobody but the folder: what is in flight is as the last run has seen
it. "obatch batches" asks the service.

Example:
  obatch status Cleaned_results
  obatch status batch --json

Exit codes: 0 done; 1 the folder cannot be read; 2 wrong usage, or no such
folder.]]
local args = parser:parse { ... }

local rules, fault = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", fault) end

local line <close> = progress.new { quiet = args.quiet or args.json }
local shown, number = text.shown, units.number
local width = term.isatty(1) and term.size() or nil

--- Reasons that --json prints.
local MOST_REASONS = 100

--- What --json prints; what people read; the commands that come next.
local facts, out, next_commands = { dir = args.dir }, {}, json.array {}

local function say(format, ...) out[#out + 1] = format:format(...) end
local function add(block)
  if block then out[#out + 1] = "\n" .. block end
end
local function suggest(...) table.insert(next_commands, suggestion.command(...)) end

local function reasons_for_json(counted)
  local list, others = counted:top(MOST_REASONS)
  local array = json.array {}
  for i, entry in ipairs(list) do
    array[i] = { reason = entry.reason, requests = entry.count, example = entry.example }
  end
  if others > 0 then array[#array + 1] = { reason = json.null, requests = others } end
  return array
end

local function finish()
  line:close()
  facts.next = next_commands
  if args.json then
    print(json.encode(tell.encodable(facts)))
    return 0
  end
  if #next_commands > 0 then say("") end
  for _, command in ipairs(next_commands) do say("next: %s", command) end
  print(table.concat(out, "\n"))
  return 0
end

-- ---------------------------------------------------------------- a job

--- What goes on with a job: an errand's by the command that has begun it.
local function suggest_for_job(job, example)
  local is_open = #job.iterations == 0 or job.totals.left > 0 or job.totals.in_flight > 0
  for _, iteration in ipairs(job.iterations) do is_open = is_open or iteration.state ~= "merged" end
  local is_errand = fs.stat(args.dir .. "/record.json") or fs.stat(args.dir .. "/completed.json")
  if job.is_damaged then suggest("fsck", args.dir) end
  if job.holder then
    suggest("status", args.dir)
  elseif job.is_damaged then -- it cannot go on
    example = nil
  elseif is_open and is_errand then
    table.insert(next_commands, "the command that began it, again (obatch deep_clean, or obatch download --resubmit)")
  elseif is_open then
    say("")
    say("To go on, run it with the options that it was begun with (--policy, --budget, ...).")
    suggest("correction_loop", "--base-dir", args.dir, "--original-requests", job.original
      or job.state.original and job.state.original.path or "FILE")
  end
  if example then suggest("why", args.dir, example) end
  if not is_open and not is_errand and not job.is_damaged then suggest("report", args.dir) end
end

local function tell_job()
  local job <close>, message, code = history.open(args.dir, { rules = args.policy and rules,
    original = args.original_requests })
  if not job then return cli.fail(code == "USAGE" and 2 or 1, "%s", message) end
  local first = job:items("give_up")() or job:items("resend")()
  if not args.json then
    out[1] = tell.status(job, width)
    suggest_for_job(job, first and first.custom_id)
    return finish()
  end
  facts.kind, facts.run, facts.original, facts.holder, facts.totals, facts.notes = "job", job.run, job.original,
    job.holder, job.totals, json.array(job.notes)
  facts.is_damaged = job.is_damaged
  facts.iterations, facts.batches, facts.results = json.array {}, json.array {}, json.array {}
  for n, iteration in ipairs(job.iterations) do
    for _, batch in ipairs(iteration.batches) do table.insert(facts.batches, batch) end
    facts.iterations[n] = { n = n, state = iteration.state, cut = iteration.cut, submitted = iteration.submitted,
      classes = iteration.classes, judged_by = iteration.judged_by, waiting = iteration.waiting }
  end
  facts.tokens = tell.tokens(job)
  local given_up, left = tell.reasons_of(job)
  facts.given_up, facts.left = reasons_for_json(given_up), reasons_for_json(left)
  for i, file in ipairs(tell.results(job)) do facts.results[i] = file.path end
  suggest_for_job(job, first and first.custom_id)
  return finish()
end

-- ---------------------------------------------------------------- image projects and deep_clean

local function begin(kind, folder)
  facts.kind, facts.holder, facts.notes = kind, folder.holder, json.array(folder.notes)
  say("%s", tell.holder(folder.holder))
  out[#out + 1] = tell.last_event(folder.events or {})
  for _, note in ipairs(folder.notes) do say("%s", shown(note)) end
end

--- The errands of a folder, one line each. Returns the first one that is not at its end.
local function tell_errands(errands)
  facts.errands = json.array {}
  local rows, open = {}, nil
  local function cell(count) return count and number(count) end
  for i, errand in ipairs(errands) do
    local job <close> = folders.job(errand)
    local totals = job and job.totals or {}
    facts.errands[i] = { name = errand.name, dir = errand.dir, state = errand.state, requests = #errand.items,
      totals = job and totals, iterations = job and #job.iterations, holder = errand.holder }
    rows[i] = { errand.name, errand.state, number(#errand.items), cell(totals.valid), cell(totals.given_up),
      cell(totals.left), cell(totals.in_flight), job and #job.iterations }
    if errand.state ~= "completed" then open = open or errand end
  end
  if #rows > 0 then
    add((columns.format(rows, { { "errand", keep = true }, { "state" }, { "requests", align = "right" },
      { "good", align = "right" }, { "given up", align = "right" }, { "left", align = "right" },
      { "in flight", align = "right" }, { "iterations", align = "right", drop = 1 } }, width):gsub("\n$", "")))
  end
  return open
end

local function tell_images()
  local project, message = folders.images(args.dir, args.output_dir)
  if not project then return cli.fail(1, "%s", message) end
  local c = project.counts
  say("%s: %s in %s", shown(args.dir), units.count(c.images, "image"), units.count(c.batches, "record of a batch",
    "records of batches"))
  begin("images", project)
  facts.totals, facts.batches, facts.waiting, facts.output_dir = c, json.array(project.batches), project.waiting,
    project.output_dir
  add(tell.in_flight(project.batches, width))
  local flying = 0
  for _, batch in ipairs(project.batches) do flying = flying + (batch.status == "in flight" and 1 or 0) end
  say("")
  say("batches: %s in flight, %s ended", number(flying), number(#project.batches - flying))
  if project.waiting.parts > 0 then
    say("%s composed that have no batch yet", units.count(project.waiting.requests, "request"))
  end
  say("images: %s have a text, %s a labelled one, %s unresolved, %s under way%s%s", number(c.text), number(c.label),
    number(c.unresolved), number(c.under_way), c.gone > 0 and (", %s gone"):format(number(c.gone)) or "",
    c.lost > 0 and (", %s without an outcome"):format(number(c.lost)) or "")
  add(tell.reasons("without a text", project.unresolved, width))
  facts.unresolved = reasons_for_json(project.unresolved)
  local open = tell_errands(project.errands)
  local batch_dir = args.dir ~= "batch" and { "--batch-dir", args.dir } or {}
  if project.holder then
    suggest("status", args.dir)
  elseif project.waiting.parts > 0 then
    table.insert(next_commands, "the obatch upload that was stopped, again")
  elseif open or flying == 0 and c.unresolved > 0 then
    suggest("download", "--resubmit", table.unpack(batch_dir))
  elseif flying > 0 or c.under_way > 0 then
    suggest("download", table.unpack(batch_dir))
  end
  if c.lost > 0 then suggest("fsck", args.dir) end
  local example = (project.unresolved:top(1))[1]
  if example then suggest("why", args.dir, example.example) end
  return finish()
end

local function tell_mending()
  local mending, message = folders.mending(args.dir)
  if not mending then return cli.fail(1, "%s", message) end
  say("%s: %s of deep_clean about %s", shown(args.dir), units.count(#mending.errands, "run"),
    units.count(mending.texts, "labelled text"))
  begin("errands", mending)
  facts.totals = { texts = mending.texts, labelled = mending.labelled, attempts = #mending.attempts }
  local open = tell_errands(mending.errands)
  say("")
  say("%s of these texts %s labelled still, as far as they are where they were; %s not good",
    number(mending.labelled), mending.labelled == 1 and "is" or "are", units.count(#mending.attempts, "answer was",
    "answers were"))
  add(tell.reasons("still labelled", mending.reasons, width))
  facts.labelled = reasons_for_json(mending.reasons)
  if mending.holder then
    suggest("status", args.dir)
  elseif open then
    table.insert(next_commands, "the obatch deep_clean that was stopped, again")
  end
  local example = (mending.reasons:top(1))[1]
  if example then suggest("why", args.dir, example.example) end
  return finish()
end

-- ---------------------------------------------------------------- which it is

local kind, problem = fsck.identify(args.dir)
if kind == "job" then return tell_job() end
if kind == "images" then return tell_images() end
if kind == "errands" then return tell_mending() end
return cli.fail(2, "%s", problem)
