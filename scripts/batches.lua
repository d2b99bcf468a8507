--- Lists, shows, awaits or cancels batches.
--
-- It needs no folder of a job, and touches none. What is known of a batch and how it is shown is in
-- lua/obatch/service.lua.

local cli = require "obatch.cli"
local columns = require "obatch.columns"
local confirm = require "obatch.confirm"
local fsck = require "obatch.fsck"
local fs = require "obatch.fs"
local json = require "obatch.json"
local openai = require "obatch.openai"
local part = require "obatch.part"
local progress = require "obatch.progress"
local service = require "obatch.service"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

local parser = cli.parser("batches", "Lists the batches of the account, newest first; shows one, waits for some, or "
  .. "cancels them."):command_target("action"):require_command(false)
parser:command("list"):summary("A table of the newest batches (the default)."):add_help(false)
parser:command("show"):summary("Everything about one batch."):add_help(false)
  :argument("id"):argname("ID")
parser:command("watch"):summary("Wait until these batches have ended; without an ID: all that are in flight.")
  :add_help(false):argument("ids"):argname("ID"):args("*")
parser:command("cancel"):summary("Cancel batches. What they have done is kept, and paid."):add_help(false)
  :argument("ids"):argname("ID"):args("+")
parser:option("--limit", "list: at most so many (20)."):argname("N"):convert(cli.positive_integer)
parser:flag("--all", "list: all there are.")
parser:option("--poll-wait", "watch: seconds at most between two looks (60)."):argname("SECONDS"):convert(cli.seconds)
parser:flag("--yes", "cancel: do not ask.")
parser:flag("--json", "Batches as the service sent them, for other programs: one a line (list, cancel); the one "
  .. "(show); a line for each change (watch).")
progress.options(parser)
openai.options(parser)
parser:epilog [[
Example:
  obatch batches
  obatch batches list --limit 100
  obatch batches show batch_67f7bfc50b288190893f242d9fa47c52
  obatch batches watch && echo all done
  obatch batches cancel batch_67f7bfc50b288190893f242d9fa47c52

Exit codes: 0 all good; 1 failed (no such batch, the service cannot be reached,
what was to be cancelled had ended); 2 wrong usage; watch: 3 some batches have
failed, expired or were cancelled; 130 interrupted.]]
local args = parser:parse { ... }
local action = args.action or "list"
for option, of in pairs { limit = "list", all = "list", poll_wait = "watch", yes = "cancel" } do
  if args[option] and action ~= of then
    parser:error(("--%s goes with '%s', not with '%s'"):format(option:gsub("_", "-"), of, action))
  end
end
if args.limit and args.all then parser:error("--limit and --all: which of them?") end

--- Seconds for which a call is tried again: somebody is sitting in front of this.
local PATIENCE = 30

--- Batches in flight are not older than this, in seconds: the longest completion window there is, and a day. It is
--- reckoned from the newest batch: the clock of this machine may be wrong.
local OLDEST_IN_FLIGHT = 8 * 86400

local is_terminal = term.isatty(1)

--- The places on a line, where there is a screen.
local function width() return is_terminal and term.size() or nil end

local line <close> = progress.new { quiet = args.quiet }
local api <close>, complaint = openai.from_options(args, { patience = PATIENCE }, function(words) line:say(words) end)
if not api then return cli.fail(2, "%s", complaint) end

--- Writes to stdout; false when nobody reads it any more.
local function out(...) return io.stdout:write(...) and io.stdout:flush() and true or false end

--- The exit code for what could not be had; says why.
local function failed(message, code, id)
  if code == "INTERRUPTED" then return cli.fail(130, "interrupted") end
  return cli.fail(1, "%s", service.explain(api, message, code, id))
end

local count = units.count

-- ---------------------------------------------------------------- list

local DEFAULT_LIMIT, PAGE = 20, 100

local function list()
  local limit = args.all and math.huge or args.limit or DEFAULT_LIMIT
  local page, layout, shown, more, is_read = {}, {}, 0, false, true
  local sums = { flight = 0, total = 0, completed = 0, failed = 0 }
  local function flush()
    if #page > 0 and is_read then is_read = out(service.table(page, width(), layout)) end
    page = {}
  end
  local _, message, code = api:each(("/batches?limit=%d"):format(math.min(PAGE, limit + 1)), function(batch)
    more = shown == limit
    if more then return true end
    shown = shown + 1
    if args.json then
      is_read = out(service.raw_line(batch), "\n")
      return not is_read
    end
    local facts = service.facts(batch)
    page[#page + 1] = facts
    if not facts.is_over then sums.flight = sums.flight + 1 end
    for _, name in ipairs { "total", "completed", "failed" } do sums[name] = sums[name] + (facts[name] or 0) end
    if #page == PAGE then flush() end
    return not is_read
  end)
  flush()
  if message then return failed(message, code) end
  if args.json or not is_read then return 0 end
  if shown == 0 then
    out("there are no batches: this project of the account has sent none\n")
    return 0
  end
  out(("\n%s, %s in flight; %s: %s completed, %s failed\n"):format(count(shown, "batch", "batches"),
    units.number(sums.flight), count(sums.total, "request"), units.number(sums.completed), units.number(sums.failed)))
  if more then
    io.stderr:write(("there are more: obatch batches list --limit %d, or --all\n"):format(shown * 10))
  end
  return 0
end

-- ---------------------------------------------------------------- show

--- The most folders in which the job of a batch is looked for.
local MAX_FOLDERS = 1000

--- Whether the journal of a folder is that of a run.
local function is_of(folder, run)
  local beginning = fs.read(folder .. "/journal.jsonl", 4096)
  local first = beginning and json.decode(beginning:match("^[^\n]*"))
  return type(first) == "table" and first.event == "started" and first.run == run
end

--- The folder of a run: this one, one in it, or an errand (run_001) in one of these. nil when it is none of them.
local function find_folder(run)
  if is_of(".", run) then return "." end
  local looked = 0
  for _, name in ipairs(fs.list(".") or {}) do
    local stat = fs.stat(name)
    if stat and stat.type == "dir" and looked < MAX_FOLDERS then
      looked = looked + 1
      if is_of(name, run) then return name end
      -- Folders of images hold thousands of files, and no errands.
      local has_errands = fs.stat(name .. "/attempts.jsonl") or fs.stat(name .. "/journal.jsonl")
      for _, inner in ipairs(has_errands and fs.list(name) or {}) do
        local folder = name .. "/" .. inner
        if (inner:find("^run_%d+$") or inner:find("^resubmit_%d+$")) and is_of(folder, run) then return folder end
      end
    end
  end
end

--- What can be done next about a batch: a list of lines.
local function next_steps(facts)
  local folder = facts.run and find_folder(facts.run)
  local lines = {}
  if not facts.is_over then
    lines = { "wait for it: " .. suggestion.command("batches", "watch", facts.id),
      "stop it: " .. suggestion.command("batches", "cancel", facts.id) }
  end
  if folder and fs.stat(("%s/completed/%s.txt"):format(folder, part.file_name(facts.id))) then
    lines[#lines + 1] = "its texts are stored: " .. suggestion.command("fsck", folder)
  elseif folder and fsck.kind(folder) == "images" then
    lines[#lines + 1] = "fetch its texts: " .. suggestion.command("download", "--batch-dir", folder)
  elseif folder then
    lines[#lines + 1] = "its job: " .. suggestion.command("status", folder)
  elseif facts.run then
    lines[#lines + 1] = ("the folder of its job (run %s) is not here: go to where it was started"):format(facts.run)
  end
  if not folder and (facts.output_file_id or facts.error_file_id) then
    lines[#lines + 1] = "fetch its files: "
      .. suggestion.command("repl", "-e", ("batch(%q):download()"):format(text.shown(facts.id)))
  end
  return lines
end

local function show(id)
  local batch, message, code = api:batch(id)
  if not batch then return failed(message, code, id) end
  if args.json then
    local raw = openai.raw(batch)
    out(json.decode(raw) and raw or service.raw_line(batch), "\n")
    return 0
  end
  if not out(service.describe(batch, width())) then return 0 end
  for _, step in ipairs(next_steps(service.facts(batch))) do io.stderr:write(columns.shown(step), "\n") end
  return 0
end

-- ---------------------------------------------------------------- watch

--- The ids of all batches in flight, oldest first; nil, message, CODE.
local function in_flight()
  local ids, newest = {}, nil
  local _, message, code = api:each("/batches?limit=100", function(batch)
    local facts = service.facts(batch)
    if not facts.is_over and facts.id ~= "" then table.insert(ids, 1, facts.id) end
    newest = newest or facts.created_at
    return facts.created_at and facts.created_at < newest - OLDEST_IN_FLIGHT
  end)
  if message then return nil, message, code end
  return ids
end

--- What has become of some batches: "2 completed, 1 in_progress", and the numbers of their requests: all, those that
--- are done, and those of them that failed.
local function summary_of(states)
  local by_status, names, total, done, bad = {}, {}, 0, 0, 0
  for _, facts in ipairs(states) do
    if not by_status[facts.status] then names[#names + 1] = facts.status end
    by_status[facts.status] = (by_status[facts.status] or 0) + 1
    total, bad = total + (facts.total or 0), bad + (facts.failed or 0)
    done = done + (facts.completed or 0) + (facts.failed or 0)
  end
  table.sort(names)
  for i, name in ipairs(names) do names[i] = ("%d %s"):format(by_status[name], columns.shown(name)) end
  return table.concat(names, ", "), total, done, bad
end

--- What Progress:stage shows of them; `at` is when they were looked at, by the clock.
local function standing(states, at)
  local names, total, done, bad = summary_of(states)
  local facts = { total = total, done = done, failed = bad, at = at, in_flight = 0, words = { names } }
  for _, batch in ipairs(states) do
    if not batch.is_over then
      facts.in_flight = facts.in_flight + math.max(0, (batch.total or 0) - (batch.completed or 0) - (batch.failed or 0))
      facts.expires_at = batch.expires_at and math.min(facts.expires_at or math.huge, batch.expires_at)
        or facts.expires_at
    end
  end
  return facts
end

--- A string as JSON text, null for nil.
local function encoded(string) return json.encode(string and text.to_utf8(string) or json.null) end

--- Each of some ids once.
local function distinct(ids)
  local once, known = {}, {}
  for _, id in ipairs(ids) do
    if not known[id] then once[#once + 1] = id end
    known[id] = true
  end
  return once
end

local function watch(ids)
  ids = distinct(ids)
  if #ids == 0 then
    local message, code
    ids, message, code = in_flight()
    if not ids then return failed(message, code) end
    if #ids == 0 then
      io.stderr:write("no batch is in flight\n")
      return 0
    end
  end

  local now, told = {}, nil
  local stage = line:stage("waiting for " .. count(#ids, "batch", "batches"),
    { unit = "requests", facts = function() return now end })
  local states, message, code, id = service.watch(api, ids, {
    poll_wait = args.poll_wait or 60,
    on_change = function(facts, batch, previous)
      progress.hide()
      if args.json then
        return not out(('{"time":%d,"id":%s,"previous":%s,"status":%s,"batch":%s}\n'):format(term.time() // 1,
          encoded(facts.id), encoded(previous), encoded(facts.status), batch and service.raw_line(batch) or "null"))
      elseif not args.quiet and facts.status ~= previous then
        return not out(("%s %s %s\n"):format(os.date("%H:%M:%S"), columns.shown(facts.id), service.words(facts)))
      end
    end,
    on_look = function(all, trouble)
      if trouble and trouble ~= told then line:say(trouble .. "; looking again") end
      told = trouble
      now = standing(all, term.clock())
      stage:update()
    end,
  })
  line:close()
  if code == "STOPPED" then return 1 end -- nobody reads it any more
  if not states then return failed(message, code, id) end
  if not args.json then
    local names, total, done, bad = summary_of(states)
    out(("%s: %s; %s of %s requests done, %s of them failed\n"):format(count(#states, "batch", "batches"), names,
      units.number(done), units.number(total), units.number(bad)))
  end
  local bad
  for _, facts in ipairs(states) do
    if facts.status ~= "completed" then bad = bad or facts.id end
  end
  if not bad then return 0 end
  io.stderr:write("see why: ", suggestion.command("batches", "show", bad), "\n")
  return 3
end

-- ---------------------------------------------------------------- cancel

local function cancel(ids)
  local open, ended = {}, 0
  for _, id in ipairs(distinct(ids)) do
    local batch, message, code = api:batch(id)
    if not batch then
      local exit = failed(message, code, id)
      io.stderr:write("nothing was cancelled\n")
      return exit
    end
    local facts = service.facts(batch)
    facts.id = id
    if facts.status == "cancelling" or facts.status == "cancelled" or facts.status == "canceled" then
      io.stderr:write(("batch %s: %s already\n"):format(columns.shown(facts.id), columns.shown(facts.status)))
    elseif facts.is_over then
      ended = ended + 1
      cli.fail(1, "batch %s has ended (%s): there is nothing to cancel", facts.id, service.words(facts))
    else
      open[#open + 1] = facts
    end
  end
  if #open == 0 then return ended > 0 and 1 or 0 end

  io.stderr:write(service.table(open, term.isatty(2) and term.size() or nil))
  local wanted, exit = confirm(#open == 1 and "cancel it" or ("cancel these %d batches"):format(#open), args.yes)
  if not wanted then return exit end
  local asked = 0
  for _, facts in ipairs(open) do
    local batch, message, code = api:cancel_batch(facts.id)
    if batch then
      asked = asked + 1
      out(args.json and service.raw_line(batch) or columns.shown(facts.id .. " " .. service.facts(batch).status), "\n")
    elseif code == "INTERRUPTED" then
      return failed(message, code)
    else
      -- A conflict: it has ended since it was looked at.
      cli.fail(1, "%s", message)
      ended = ended + 1
    end
  end
  if asked > 0 then
    io.stderr:write("Cancelling takes up to 10 minutes. What was done until then is paid, and the next run of its job "
      .. "fetches it.\nwait for it: ", suggestion.command("batches", "watch", #open == 1 and open[1].id or nil), "\n")
  end
  return ended > 0 and 1 or 0
end

if action == "show" then return show(args.id) end
if action == "watch" then return watch(args.ids) end
if action == "cancel" then return cancel(args.ids) end
return list()
