--- Brings the texts of the images that upload sent.
--
-- The recipe: open the batch folder; wait for every batch, fetch what it gave back, put each text beside
-- its image, and move the batch's record to the completed ones. Then say which images have no text, and,
-- with --resubmit, send exactly those through the correction loop. Whatever stops this, the same command
-- goes on where it was. What a good answer is, is decided in lua/obatch/policy.lua; --policy changes it.

local budget = require "obatch.budget"
local cli = require "obatch.cli"
local fs = require "obatch.fs"
local harvest = require "obatch.harvest"
local image_record = require "obatch.image_record"
local openai = require "obatch.openai"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local records = require "obatch.records"
local resubmit = require "obatch.resubmit"
local sidecar = require "obatch.sidecar"
local submission = require "obatch.submission"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

local parser = cli.parser("download", "Waits for the batches that upload has sent, and puts each text beside its "
  .. "image.")
parser:option("--batch-dir", "Folder of the records, as given to upload."):argname("DIR"):default("batch")
parser:option("--completed-dir", "Where records go when all of their batch is stored (default: completed in the "
  .. "batch folder)."):argname("DIR")
parser:option("--output-dir", "Where the results are kept as they came."):argname("DIR"):default("batch_return")
parser:option("--extraction-base-dir", "Where each result goes as a JSON file of its own.")
  :argname("DIR"):default("batch_json_results")
parser:option("--image-dir", "Folder of the images, for batches of earlier scripts: their records do not say.")
  :argname("DIR")
parser:option("--field", "The answers are JSON, and the text is the one in this field."):argname("NAME")
parser:option("--policy", "Rules that differ from the default ones (see lua/obatch/policy.lua)."):argname("FILE")
parser:option("--poll-wait", "Seconds at most between two looks at the batches.")
  :argname("SECONDS"):default("60"):convert(cli.seconds)
parser:mutex(
  parser:flag("--wait", "Go on until every batch is done (the default)."),
  parser:flag("--once", "Look once, store what is done, wait for nothing.")
)
parser:flag("--resubmit", "Then send the images that have no text through the correction loop, given-up ones too.")
parser:flag("--overwrite", "Replace texts that are there and differ, labelled ones too.")
budget.options(parser)
progress.options(parser)
submission.options(parser, true)
openai.options(parser)
parser:epilog [[
Example:
  obatch download
  obatch download --once
  obatch download --resubmit

Exit codes: 0 all good (with --once also when batches are still running); 1
stopped, run again to go on; 2 wrong usage or input; 3 finished, but some
images have no text (listed); 130 interrupted.]]
local args = parser:parse { ... }
if args.once and args.resubmit then parser:error("--resubmit waits for its batches; it does not go with --once") end
local ceilings, complaint_of_budget = budget.from_options(args)
if not ceilings then return cli.fail(2, "%s", complaint_of_budget) end
local completed_dir = args.completed_dir or args.batch_dir .. "/completed"

-- ---------------------------------------------------------------- what the text is

policy.expect = "text" -- unless the policy file says "json"
policy.allow_blank = true -- a blank page: asking again would be paid again
local rules, message = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", message) end
if args.field then
  rules.expect = "json"
  rules.page_text = function(answer)
    local value = type(answer) == "table" and answer[args.field] or nil
    if type(value) == "string" then return value end
    return nil, ("the answer has no text in the field '%s'"):format(args.field)
  end
end

--- In the correction loop, too, an answer without a text is none.
if rules.page_text then
  local accept = rules.accept
  rules.accept = function(answer, item)
    if accept then
      local ok, reason = accept(answer, item)
      if not ok then return false, reason end
    end
    local page, reason = rules.page_text(answer, item)
    return type(page) == "string", reason
  end
end

-- ---------------------------------------------------------------- the batch folder

--- Whether upload, or an earlier script, has worked in a folder.
local function is_batch_dir(dir)
  if fs.stat(dir .. "/journal.jsonl") then return true end
  for _, name in ipairs(fs.list(dir) or {}) do
    if records.is_name(name) then return true end
  end
  return false
end
if not is_batch_dir(args.batch_dir) then
  return cli.fail(2, "there are no records of batches in %s: run upload first, or name its --batch-dir",
    text.printable(args.batch_dir))
end
local line <close> = progress.new { quiet = args.quiet }
local function log(words) line:say(words) end

local api <close>, problem = openai.from_options(args, rules, log)
if not api then return cli.fail(2, "%s", problem) end

local shelf <close>, complaint, code = records.open { batch_dir = args.batch_dir, completed_dir = completed_dir,
  output_dir = args.output_dir, log = log }
if not shelf then return cli.stopped(complaint, code) end
shelf.meter:begin_run()

--- Stops the run; what is stored is stored.
local function stopped(reason, what)
  line:close()
  return cli.stopped(reason, what)
end

-- ---------------------------------------------------------------- storing what a batch gave back

local totals = { batches = 0 }
local stored = {}  -- the ids of the batches of this run
local refused = {} -- why batches cannot be stored now, though the others can
local image_dirs = {} -- the folders that have new texts

--- What keeps one batch from being stored, and not the others.
local OF_ONE_BATCH = { USAGE = true, NO_FOLDER = true, LINK = true, EACCES = true, EPERM = true, EROFS = true }

local function in_words(counts)
  local words = {}
  for _, class in ipairs(outcome.CLASSES) do
    if counts[class] > 0 then words[#words + 1] = ("%d %s"):format(counts[class], class) end
  end
  return table.concat(words, ", ")
end

--- Harvests a part. Its counts; nil, message, CODE.
local function store(part)
  local counts, why, what = harvest.part(part, { shelf = shelf, rules = rules, image_dir = args.image_dir,
    json_dir = args.extraction_base_dir, overwrite = args.overwrite, log = log })
  if not counts then return nil, why, what end
  stored[part.batch_id] = true
  local dir = part.record.image_dir
  if counts.written > 0 and dir and dir ~= "" and not image_dirs[dir] then
    image_dirs[dir], image_dirs[#image_dirs + 1] = true, dir
  end
  totals.batches = totals.batches + 1
  for name, count in pairs(counts) do totals[name] = (totals[name] or 0) + count end
  log(("batch %s: %d images: %s"):format(part.batch_id, counts.submitted, in_words(counts)))
  return true
end

local function on_done(part)
  if term.interrupted() then return nil, "interrupted", "INTERRUPTED" end
  local ok, why, what = shelf:load(part, api)
  if ok then ok, why, what = store(part) end
  if ok then return shelf:complete(part) end
  if not OF_ONE_BATCH[what] then return nil, why, what end
  refused[#refused + 1] = ("batch %s: %s"):format(part.batch_id, why)
  return true
end

local done, reason, what = submission.run(shelf, api,
  { poll_wait = args.poll_wait, log = log, on_done = on_done, once = args.once,
    delete_remote = args.delete_remote_files, output_expires_after = args.output_expires_after })
if not done then return stopped(reason, what) end
local no_more = reason and reason.message -- why nothing may be submitted now

-- ---------------------------------------------------------------- which images have no text

--- The latest entry in unresolved.jsonl of each image that still has no text, in the order of the file.
--- Images that are gone since an earlier run are forgotten.
local function without_text(held)
  local latest, order = {}, {}
  for entry in shelf:unresolved() do
    local path = image_record.real_path(entry.path)
    if not latest[path] then order[#order + 1] = path end
    latest[path] = entry
  end
  local list = {}
  for _, path in ipairs(order) do
    local entry = latest[path]
    local is_new = stored[entry.batch]
    if entry.action ~= "done" and not held[path] and (is_new or fs.stat(path) and not sidecar.exists(path)) then
      list[#list + 1] = entry
    end
  end
  return list
end

local held, why, errno = resubmit.on_their_way(shelf, api)
if not held then return stopped(why, errno) end
local failed = without_text(held)

-- ---------------------------------------------------------------- sending them again

local cannot_be_resent = {} -- paths of images that only upload can send again

--- Sends `entries` through the correction loop, or goes on with what an earlier run has sent. An exit code
--- when that is stopped.
local function send_again(entries)
  local again, reasons, what_went_wrong = resubmit.unfinished(args.batch_dir)
  if reasons then return stopped(reasons, what_went_wrong) end
  if again then
    log(("%s: going on with %d images"):format(again.name, #again.items))
  else
    local to_send = {}
    for _, entry in ipairs(entries) do
      if entry.class ~= "valid" then to_send[#to_send + 1] = entry end
    end
    if #to_send == 0 then return nil end
    again, reasons, what_went_wrong = resubmit.begin(args.batch_dir, completed_dir, to_send)
    if what_went_wrong then return stopped(reasons, what_went_wrong) end
    for _, left_out in ipairs(reasons) do
      cannot_be_resent[left_out.entry.path] = true
      log(("not sent again: %s: %s"):format(text.printable(left_out.entry.path), left_out.reason))
    end
    if not again then return nil end
    log(("%s: %d images are sent again"):format(again.name, #again.items))
  end

  local result, trouble, kind = again:run { rules = rules, api = api, log = log,
    poll_wait = args.poll_wait, max_iterations = 10, budget = ceilings, beside = { shelf.meter },
    delete_remote = args.delete_remote_files, output_expires_after = args.output_expires_after }
  if not result then return stopped(trouble, kind) end
  local ok
  if result.stop_reason and result.left > 0 and not result.is_over then
    ok, trouble, kind = store(resubmit.answered(again))
    return stopped(ok and result.stop_reason or trouble, kind)
  end
  ok, trouble, kind = store(resubmit.part(again, result.iterations, result.is_over and result.stop_reason))
  if ok then ok, trouble, kind = again:complete() end
  if not ok then return stopped(trouble, kind) end
end

if args.resubmit then
  if no_more then return stopped(no_more) end
  local exit_code = send_again(failed)
  if exit_code then return exit_code end
  held, why, errno = resubmit.on_their_way(shelf, api)
  if not held then return stopped(why, errno) end
  failed = without_text(held)
end

-- ---------------------------------------------------------------- the end

line:close()
local MOST_LISTED = 20

if totals.batches == 0 then
  print("nothing new has come back")
else
  print(("%s, %s: %s"):format(units.count(totals.batches, "batch", "batches"),
    units.count(totals.submitted, "image"), in_words(totals)))
  local words = { ("%d texts written"):format(totals.written) }
  local function add(name, format)
    if totals[name] > 0 then words[#words + 1] = format:format(totals[name]) end
  end
  add("blank", "%d of them blank pages")
  add("same", "%d were there already")
  add("kept", "%d not written, because another text is there")
  add("unwritten", "%d could not be written")
  add("json", "%d are JSON objects, whole (--field NAME takes one field of them)")
  add("changed", "%d images have changed since they were sent")
  print("  " .. table.concat(words, ", "))
end

local counts = { valid = 0, give_up = 0, resend = 0, resendable = 0 }
for _, entry in ipairs(failed) do
  local kind = entry.class == "valid" and "valid" or entry.action
  counts[kind] = (counts[kind] or 0) + 1
  if kind ~= "valid" and not cannot_be_resent[entry.path] then counts.resendable = counts.resendable + 1 end
end
local batch_dir = text.printable(args.batch_dir)
if #failed > 0 then
  print(("%s no text:"):format(units.count(#failed, "image has", "images have")))
  for i = 1, math.min(#failed, MOST_LISTED) do
    local entry = failed[i]
    print(("  %s: %s: %s"):format(text.printable(entry.path), entry.class, text.printable(entry.reason or "")))
  end
  if #failed > MOST_LISTED then print(("  ... and %d more"):format(#failed - MOST_LISTED)) end
  print(("all of them, and why: %s/unresolved.jsonl"):format(batch_dir))
end
if counts.valid > 0 then
  print(("%d of them are answered and are not asked again. To write their texts: put the images back, move the "
    .. "records of their batches from %s to %s, and run download"):format(counts.valid,
    text.printable(completed_dir), batch_dir))
end
for _, words in ipairs(refused) do print("not stored: " .. text.printable(words)) end
if no_more then print("nothing more was submitted: " .. text.printable(no_more)) end
local running = #shelf.parts - #refused
if running > 0 then
  print(("%s still running: run download again"):format(units.count(running, "batch is", "batches are")))
end

local next_ones = {}
local send_again_command = suggestion.again("--resubmit", nil, "--once")
local is_unfinished = running == 0 and #refused == 0 and next(held) ~= nil
if is_unfinished then
  next_ones[1] = send_again_command .. "\n      goes on with images that are being sent again"
elseif counts.resendable > 0 then
  next_ones[1] = ("%s\n      sends %d through the correction loop"):format(send_again_command, counts.resendable)
end
if counts.resend > 0 then print(("upload sends %d of them once more, as they were"):format(counts.resend)) end
for _, dir in ipairs(image_dirs) do next_ones[#next_ones + 1] = suggestion.command("clean", "--image-dir", dir) end
suggestion.tell(next_ones, args.quiet)

if #refused > 0 then
  return cli.fail(1, "%s could not be stored, see above; nothing of that is lost",
    units.count(#refused, "batch", "batches"))
end
if running > 0 then return 0 end
return (#failed > 0 or is_unfinished) and 3 or 0
