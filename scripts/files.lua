--- Lists files at the service and deletes unneeded ones.
--
-- What prune takes is decided here, in choose(). Nothing of a batch in flight is ever deleted.

local cli = require "obatch.cli"
local confirm = require "obatch.confirm"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local job = require "obatch.job"
local journal = require "obatch.journal"
local json = require "obatch.json"
local openai = require "obatch.openai"
local part_events = require "obatch.part"
local progress = require "obatch.progress"
local service = require "obatch.service"
local suggestion = require "obatch.suggestion"
local tasks = require "obatch.tasks"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

local function days(word)
  local number = cli.seconds(word)
  if not number then return nil, ("'%s' is not a number of days"):format(word) end
  return number
end

local parser = cli.parser("files", "Lists the files of the account at the service, newest first, and deletes those "
  .. "that are not needed."):command_target("action"):require_command(false)
parser:command("list"):summary("A table of the newest files (the default)."):add_help(false)
parser:command("rm"):summary("Delete these files."):add_help(false):argument("ids"):argname("ID"):args("+")
parser:command("prune"):summary("Delete what obatch has uploaded for batches that have ended; see below.")
  :add_help(false)
parser:option("--limit", "list: at most so many (20)."):argname("N"):convert(cli.positive_integer)
parser:flag("--all", "list: all there are.")
parser:option("--purpose", "list: only files of this purpose: batch, batch_output, ..."):argname("WORD")
parser:option("--job", "prune: the files, results too, of the batches whose results are all in this folder.")
  :argname("DIR")
parser:flag("--outputs", "prune: results, too, of batches that obatch has sent, when they are a week old (or as old as "
  .. "--older-than says): what was not downloaded is lost.")
parser:option("--older-than", "prune: only files that are older."):argname("DAYS"):convert(days)
parser:flag("--dry-run", "prune: only say what would be deleted.")
parser:flag("--yes", "rm, prune: do not ask.")
parser:flag("--json", "For other programs, one a line: file objects as the service sent them (list), what was "
  .. "deleted (rm, prune).")
progress.options(parser)
openai.options(parser)
parser:epilog [[
prune takes input files that are named as obatch names them and whose batch
has ended; where it failed, or none is known, only after a week: a job may
create its batch again. With --job DIR it goes by what the journal of a job (or
of upload and download, or of deep_clean) says was downloaded, and takes the
results, too. The input of a batch in flight is never deleted.

Example:
  obatch files
  obatch files list --purpose batch_output --all
  obatch files prune --dry-run
  obatch files prune --job Cleaned_results
  obatch files rm file-6bVqXz3oYhPqT1mNwE2kLs

Exit codes: 0 all good; 1 failed, or not wanted; 2 wrong usage; 130 interrupted.]]
local args = parser:parse { ... }
local action = args.action or "list"
for option, of in pairs { limit = "list", all = "list", purpose = "list", job = "prune", outputs = "prune",
  older_than = "prune", dry_run = "prune", yes = "rm prune" } do
  if args[option] and not of:find(action, 1, true) then
    parser:error(("--%s goes with '%s', not with '%s'"):format(option:gsub("_", "-"), of:gsub(" ", "' and '"), action))
  end
end
if args.limit and args.all then parser:error("--limit and --all: which of them?") end
if args.job and args.outputs then parser:error("--job takes the results anyway, but only those that are in DIR") end
if args.purpose and not args.purpose:find("^[%w_-]+$") then
  parser:error(("'%s' is no purpose of a file"):format(text.printable(args.purpose)))
end

--- Seconds for which a call is tried again: somebody is sitting in front of this.
local PATIENCE = 30

--- An input file whose batch failed, or that none is known of, stays for so many seconds; a result that may not have
--- been fetched yet, too.
local UNCLEAR_STAYS = 7 * 86400

--- The most files that are shown before a question.
local MAX_SHOWN = 20

local ALL_BATCHES, AT_ONCE = "/batches?limit=100", 4

-- ---------------------------------------------------------------- what the folder of a job has

--- Notes of the files of a part at the service of which batch they are; "" where that is not known any more.
local function add_files(files, part)
  local ended = part.ended or {}
  for _, id in ipairs { not part.adopted and part.file_id or false, ended.output_file_id or false,
    ended.error_file_id or false } do
    if id then files[id] = part.batch_id or "" end
  end
end

--- Whether all that was downloaded of a part can be told to be as it was: an old journal does not know.
local function has_digests(part)
  for _, name in ipairs(part.files or {}) do
    if not (part.digests and part.digests[name:match("[^/]*$")]) then return false end
  end
  return true
end

--- Of a job of the correction loop: the parts whose results are all here, as they were downloaded.
local function add_job(files, dir)
  local the_job, message, code = job.read(dir)
  if not the_job then return nil, message, code end
  for n, iteration in ipairs(the_job.iterations) do
    for _, part in ipairs(iteration.parts) do
      if part.done and not part.incomplete and has_digests(part) then
        local damaged, problem, reason = part_events.damaged_file(part, the_job:path(n, ""))
        if reason then return nil, problem, reason end
        if not damaged then add_files(files, part) end
      end
    end
  end
  return true
end

--- Of a batch folder: the parts whose texts are stored.
local function add_images(files, dir)
  local events, message, code = journal.read(dir .. "/journal.jsonl")
  if not events then return nil, message, code end
  local parts = {}
  for _, event in ipairs(events) do
    local planned = event.event == "planned" and { event.planned } or event.event == "split" and event.successors
    for _, part in ipairs(planned or {}) do parts[part.part] = part end
    if event.event == "adopted" then parts[event.part] = { adopted = true } end
    local part = parts[event.part]
    if part and event.event == "completed" then
      if part.done and not part.incomplete then add_files(files, part) end
    elseif part then
      part_events.apply(part, event)
    end
  end
  return true
end

--- The files at the service that a folder has no more need of: file id -> batch id; nil, message, CODE.
local function files_of(dir)
  local kind = fsck.kind(dir)
  if not kind then
    return nil, ("%s is no folder of a job, nor one of upload and download or deep_clean"):format(dir), "USAGE"
  end
  local files, folders = {}, fs.stat(dir .. "/journal.jsonl") and { dir } or {}
  for _, name in ipairs(fs.list(dir) or {}) do
    local folder = dir .. "/" .. name
    if (name:find("^run_%d+$") or name:find("^resubmit_%d+$")) and fs.stat(folder .. "/journal.jsonl") then
      folders[#folders + 1] = folder
    end
  end
  for _, folder in ipairs(folders) do
    local add = fsck.kind(folder) == "images" and add_images or add_job
    local ok, message, code = add(files, folder)
    if not ok then return nil, message, code end
  end
  return files
end

-- ---------------------------------------------------------------- the service

local wanted_by_job
if args.job then
  local message, code
  wanted_by_job, message, code = files_of(args.job)
  if not wanted_by_job then return cli.fail(code == "USAGE" and 2 or 1, "%s", message) end
end

local line <close> = progress.new { quiet = args.quiet }
local api <close>, complaint = openai.from_options(args, { patience = PATIENCE }, function(words) line:say(words) end)
if not api then return cli.fail(2, "%s", complaint) end

--- Writes to stdout; false when nobody reads it any more.
local function out(...) return io.stdout:write(...) and io.stdout:flush() and true or false end

--- The places on a line, where there is a screen.
local function width_of(fd) return term.isatty(fd) and term.size() or nil end

--- The exit code for what could not be had; says why.
local function failed(message, code, id)
  if code == "INTERRUPTED" then return cli.fail(130, "interrupted") end
  return cli.fail(1, "%s", service.explain(api, message, code, id, "files"))
end

local function size_of(file) return math.tointeger(openai.present(file.bytes)) or 0 end

local function sum_up(number, bytes)
  return ("%s, %s"):format(units.count(number, "file"), units.bytes(bytes))
end

--- Which batch each file belongs to, of the newest batches: one request, and no harm when it fails.
local function recent_uses()
  local used_by = {}
  api:each(ALL_BATCHES, function(batch)
    local facts = service.facts(batch)
    for _, id in pairs { facts.input_file_id, facts.output_file_id, facts.error_file_id } do used_by[id] = facts.id end
  end, { once = true, pages = 1 })
  return used_by
end

-- ---------------------------------------------------------------- list

local DEFAULT_LIMIT, PAGE = 20, 100

local function list()
  local limit = args.all and math.huge or args.limit or DEFAULT_LIMIT
  local used_by = not args.json and recent_uses() or {}
  local page, layout, shown, bytes, more, is_read = {}, {}, 0, 0, false, true
  local function flush()
    if #page > 0 and is_read then is_read = out(service.file_table(page, width_of(1), layout, used_by)) end
    page = {}
  end
  local path = ("/files?%slimit=%d"):format(args.purpose and ("purpose=%s&"):format(args.purpose) or "",
    math.min(1000, limit + 1))
  local _, message, code = api:each(path, function(file)
    more = shown == limit
    if more then return true end
    shown, bytes = shown + 1, bytes + size_of(file)
    if args.json then
      is_read = out(service.raw_line(file), "\n")
    else
      page[#page + 1] = file
      if #page == PAGE then flush() end
    end
    return not is_read
  end)
  flush()
  if message then return failed(message, code) end
  if args.json or not is_read then return 0 end
  out(shown == 0 and "there are no files\n" or "\n" .. sum_up(shown, bytes) .. "\n")
  if more then io.stderr:write(("there are more: obatch files list --limit %d, or --all\n"):format(shown * 10)) end
  return 0
end

-- ---------------------------------------------------------------- deleting

--- What becomes of files, by the batches that there are. Two tables by file id: `flight`, the batch in flight that
--- needs it; `ended`, what is known of the batch that it belonged to: { id=, status=, is_ours=, is_input= }; and the
--- id of the newest batch: with it, a second look goes only through those that are newer. Or nil, message, CODE when
--- the listing could not be had to its end: then nothing may be deleted.
local function batches_of_files(known)
  local flight, ended, newest = {}, {}, nil
  local stage, looked = line:stage("looking through the batches", { unit = "batches" }), 0
  local _, message, code = api:each(ALL_BATCHES, function(batch)
    looked = looked + 1
    stage:update(looked)
    local facts = service.facts(batch)
    if known and facts.id == known then return true end
    newest = newest or facts.id
    for _, field in ipairs { "input_file_id", "output_file_id", "error_file_id" } do
      local id = facts[field]
      if id and not facts.is_over then
        flight[id] = facts.id
      elseif id and (not ended[id] or ended[id].status == "failed" and facts.status ~= "failed") then
        ended[id] = { id = facts.id, status = facts.status, is_ours = facts.run ~= nil,
          is_input = field == "input_file_id" }
      end
    end
  end)
  if message then return nil, message, code end
  return flight, ended, newest
end

--- Whether a file is named as obatch names what it uploads: run, iteration and part (of images: part), digest.
local function has_our_name(file)
  local name = type(file.filename) == "string" and file.filename or ""
  local run, place, digest = name:match("^(%x+)%-([%d-]+)%-(%x+)%.jsonl$")
  return run ~= nil and #run == 12 and #digest == 12 and (place:find("^%d+$") or place:find("^%d+%-%d+$")) ~= nil
end

--- Whether prune takes a file; false and why it stays, in words that go behind a number.
local function choose(file, flight, ended, now)
  local batch, created = ended[file.id], service.created_at(file)
  local age = created and now - created
  if flight[file.id] then return false, "needed by a batch in flight" end
  if wanted_by_job then
    -- A server that was set up anew may give the ids that it gave before to the files of others.
    local its_batch = wanted_by_job[file.id]
    if not its_batch or batch and its_batch ~= "" and batch.id ~= its_batch
      or file.purpose == "batch" and (not batch or batch.is_input) and not has_our_name(file) then
      return false, "not of this job, or not safe in its folder"
    end
  elseif batch and not batch.is_input then
    if not batch.is_ours then return false, "of other tools" end
    if not args.outputs then return false, "results (--job DIR takes those that are in DIR, --outputs all)" end
    if not args.older_than and (age or 0) < UNCLEAR_STAYS then
      return false, "results that are not a week old: a job may be about to fetch them (--older-than 0 takes them)"
    end
  elseif file.purpose ~= "batch" or not has_our_name(file) then
    return false, "of other tools"
  elseif not (batch and batch.status ~= "failed") and (age or 0) < UNCLEAR_STAYS then
    return false, "whose batch failed or is not known, and which are not a week old"
  end
  if args.older_than and (age or 0) < args.older_than * 86400 then return false, "not old enough" end
  return true
end

--- Says what would go, or is about to.
local function show(files, used_by, target, fd, most)
  local shown = table.move(files, 1, math.min(#files, most), 1, {})
  local ok = target:write(service.file_table(shown, width_of(fd), nil, used_by))
  if ok and #files > most then target:write(("... and %s more\n"):format(units.number(#files - most))) end
end

--- A file in a line of JSON, and whether it was deleted.
local function told(file, used_by, is_deleted)
  local function as_text(value) return type(value) == "string" and text.to_utf8(value) or nil end
  return json.encode { id = as_text(file.id), filename = as_text(file.filename), bytes = size_of(file),
    purpose = as_text(file.purpose), batch_id = as_text(used_by[file.id]), deleted = is_deleted }
end

--- Deletes files, and says so. Returns the exit code.
local function delete(files, used_by)
  local gone, bytes, trouble, code_of_all = 0, 0, 0, 0
  local work, stage = {}, line:stage("deleting", { total = #files, unit = "files" })
  for i, file in ipairs(files) do
    work[i] = function()
      if code_of_all ~= 0 then return end
      local reply, message, code = api:delete_file(file.id)
      if reply and reply.deleted == false then
        reply, message, code = nil, ("file %s: the service says that it is not deleted"):format(file.id), "REFUSED"
      end
      if code_of_all ~= 0 then return end
      if not reply and code == "INTERRUPTED" then
        code_of_all = 130
      elseif not reply and code ~= "NOT_FOUND" then -- somebody else has deleted it: so be it
        trouble = trouble + 1
        cli.fail(1, "%s", message)
        -- What is no fault of this file meets the others as well.
        if code ~= "REFUSED" and code ~= "CONFLICT" then code_of_all = 1 end
      else
        gone, bytes = gone + 1, bytes + size_of(file)
        stage:update(gone)
        if args.json then line:print(told(file, used_by, true)) end
      end
    end
  end
  tasks.run(api.client, work, AT_ONCE)
  progress.hide()
  if not args.json then out(("deleted: %s\n"):format(sum_up(gone, bytes))) end
  if code_of_all == 130 then return cli.fail(130, "interrupted: %d are left", #files - gone) end
  if trouble > 0 then return cli.fail(1, "%d are left", #files - gone) end
  return 0
end

--- Deletes files but those that a batch needs which was created since the newest one that was looked at: the list of
--- files took its time, and so did the answer of the reader.
local function delete_unneeded(files, used_by, newest)
  local flight, message, code = batches_of_files(newest)
  if not flight then return failed(message, code) end
  local unneeded = {}
  for _, file in ipairs(files) do
    if flight[file.id] then
      line:say(("file %s stays: batch %s needs it now"):format(file.id, flight[file.id]))
    else
      unneeded[#unneeded + 1] = file
    end
  end
  return delete(unneeded, used_by)
end

local function bytes_of(files)
  local bytes = 0
  for _, file in ipairs(files) do bytes = bytes + size_of(file) end
  return bytes
end

local function remove(ids)
  local files, known = {}, {}
  for _, id in ipairs(ids) do
    local file, message, code = api:file(id)
    if not file then
      local exit = failed(message, code, id)
      io.stderr:write("nothing was deleted\n")
      return exit
    end
    -- A service that is not strict about ids would delete what was not looked for among the batches.
    if file.id ~= id then
      return cli.fail(1, "file %s: the reply is not about this file. Nothing was deleted", id)
    end
    if not known[id] then files[#files + 1] = file end
    known[id] = true
  end
  local flight, ended, newest = batches_of_files()
  progress.hide()
  if not flight then return failed(ended, newest) end
  local used_by = {}
  for _, file in ipairs(files) do
    if flight[file.id] then
      return cli.fail(1, "file %s belongs to batch %s, which is in flight: without it the batch may fail. Nothing was "
        .. "deleted. Cancel the batch first: %s", file.id, flight[file.id],
        suggestion.command("batches", "cancel", flight[file.id]))
    end
    used_by[file.id] = ended[file.id] and ended[file.id].id
  end
  show(files, used_by, io.stderr, 2, MAX_SHOWN)
  local wanted, exit = confirm("delete " .. (#files == 1 and "it" or sum_up(#files, bytes_of(files))), args.yes)
  if not wanted then return exit end
  return delete_unneeded(files, used_by, newest)
end

local function prune()
  local flight, ended, newest = batches_of_files()
  if not flight then return failed(ended, newest) end
  local files, stay, reasons, used_by, now = {}, {}, {}, {}, term.time()
  local _, message, reason = api:each("/files?limit=1000", function(file)
    if type(file.id) ~= "string" or file.id == "" then return end
    local is_taken, why = choose(file, flight, ended, now)
    if is_taken then
      openai.raw(file) -- the page need not be kept
      files[#files + 1] = file
      used_by[file.id] = ended[file.id] and ended[file.id].id
    else
      if not stay[why] then reasons[#reasons + 1] = why end
      stay[why] = (stay[why] or 0) + 1
    end
  end)
  progress.hide()
  if message then return failed(message, reason) end
  for _, why in ipairs(reasons) do io.stderr:write(("left alone: %s %s\n"):format(units.number(stay[why]), why)) end
  if #files == 0 then
    io.stderr:write("there is nothing to delete\n")
    return 0
  end

  local sum = sum_up(#files, bytes_of(files))
  if args.dry_run then
    if args.json then
      for _, file in ipairs(files) do
        if not out(told(file, used_by, false), "\n") then break end
      end
    else
      show(files, used_by, io.stdout, 1, math.huge)
      out(("\nwould be deleted: %s\n"):format(sum))
    end
    return 0
  end
  show(files, used_by, io.stderr, 2, MAX_SHOWN)
  local wanted, exit = confirm("delete " .. sum .. (args.outputs and ", results that may not be downloaded among them"
    or ""), args.yes)
  if not wanted then return exit end
  return delete_unneeded(files, used_by, newest)
end

if action == "rm" then return remove(args.ids) end
if action == "prune" then return prune() end
return list()
