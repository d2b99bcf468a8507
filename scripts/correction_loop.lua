--- Sends requests in batches, judges every answer, and resends exactly what failed.
--
-- The recipe: check the request file, open the job directory, then iterate: write what has no good
-- answer yet into request files, bring them through the service, merge what came back, judge it.
-- Whatever stops this, the same command goes on where it was. What a good answer is and what
-- happens to a bad one is decided in lua/obatch/policy.lua; --policy changes it.

local cli = require "obatch.cli"
local fs = require "obatch.fs"
local job = require "obatch.job"
local ledger = require "obatch.ledger"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local request = require "obatch.request"
local submission = require "obatch.submission"

local parser = cli.parser("correction_loop", "Sends a file of Batch API requests, judges every answer, and resends "
  .. "exactly what failed, until each request has a good answer or a recorded reason why not.")
parser:option("--base-dir", "Folder of the job: everything that was sent and received, and the results.")
  :argname("DIR"):count(1)
parser:option("--original-requests", "The requests, one JSON object a line."):argname("FILE"):count(1)
parser:option("--initial-ids", "Batch ids, one a line, of batches submitted elsewhere for these requests.")
  :argname("FILE")
parser:option("--poll-wait", "Seconds at most between two looks at the batches.")
  :argname("SECONDS"):default("60"):convert(cli.seconds)
parser:option("--policy", "Rules that differ from the default ones (see lua/obatch/policy.lua)."):argname("FILE")
parser:option("--max-iterations", "Submit at most this often; what is left can be resumed.")
  :argname("N"):default("10"):convert(cli.positive_integer)
parser:option("--max-requests", "Requests per batch."):argname("N")
  :default(tostring(request.MAX_REQUESTS)):convert(cli.positive_integer)
parser:option("--max-bytes", "Bytes per batch."):argname("N")
  :default(tostring(request.MAX_BYTES)):convert(cli.positive_integer)
parser:flag("--dry-run", "Check requests and policy, say what a new job would send, send nothing.")
openai.options(parser)
parser:epilog [[
Example:
  obatch correction_loop --base-dir Cleaned_results \
    --original-requests original_requests.jsonl

Exit codes: 0 every request has a good answer; 1 stopped, run again to go on;
2 wrong usage or input; 3 finished, but some requests have no good answer
(listed); 130 interrupted.]]
local args = parser:parse { ... }

-- ---------------------------------------------------------------- nothing is spent before this is right

local rules, message = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", message) end

local summary, faults = request.check_file(args.original_requests, args.max_requests, args.max_bytes)
if not summary then
  for _, fault in ipairs(faults) do io.stderr:write(fault, "\n") end
  return cli.fail(2, "%s cannot be sent: %d fault%s, listed above; nothing was submitted", args.original_requests,
    #faults, #faults == 1 and "" or "s")
end

local function describe_plan()
  for _, group in ipairs(summary.groups) do
    print(("%d requests (%d bytes) for %s on %s, in %d batch%s"):format(group.requests, group.bytes, group.model,
      group.url, group.batches, group.batches == 1 and "" or "es"))
  end
end
if args.dry_run then
  describe_plan()
  print("dry run: nothing was submitted")
  return 0
end

local progress_line <close> = progress.new()
local current_iteration
local the_job
local function log(line)
  progress_line:say(line)
  if current_iteration then the_job:log(current_iteration, line) end
end

local api <close>, problem = openai.from_options(args, { settle_seconds = rules.settle_seconds, log = log })
if not api then return cli.fail(2, "%s", problem) end

local opened <close>, trouble, code = job.open(args.base_dir, args.original_requests)
if not opened then return cli.fail(code == "CHANGED" and 2 or 1, "%s", trouble) end
the_job = opened

local book <close>, complaint = ledger.new(the_job, args.original_requests, rules, log)
if not book then return cli.fail(1, "%s", complaint) end

--- Something in the world is at fault, or the user wants it. Nothing is lost: the journal knows where
--- to go on.
local function stopped(reason, what)
  progress_line:close()
  if what == "INTERRUPTED" then return cli.fail(130, "interrupted: run the same command again to go on") end
  return cli.fail(1, "stopped: %s\nobatch: run the same command again to go on", reason)
end

-- ---------------------------------------------------------------- taking over what is already there

--- The batch ids in a file, one a line, each once; nil and what is wrong.
local function read_ids(path)
  local content, reason = fs.read(path)
  if not content then return nil, reason end
  local ids, seen = {}, {}
  for id in content:gmatch("[^\r\n]+") do
    id = id:match("^%s*(.-)%s*$")
    if id ~= "" and not seen[id] then
      seen[id], ids[#ids + 1] = true, id
    end
  end
  if #ids == 0 then return nil, path .. " holds no batch ids" end
  return ids
end

--- An id of `ids` that is not in the list `known`; nil when all are.
local function stranger(ids, known)
  local set = {}
  for _, id in ipairs(known) do set[id] = true end
  for _, id in ipairs(ids) do
    if not set[id] then return id end
  end
end

--- Takes over batches that another tool submitted as iteration n, after asking the service for each.
local function adopt(n, path)
  local ids, reason = read_ids(path)
  if not ids then return cli.fail(2, "%s", reason) end
  local list = the_job:ids_path(n)
  local forgotten = path ~= list and fs.stat(list) and stranger(read_ids(list) or {}, ids)
  if forgotten then
    return cli.fail(2, "%s names batch %s, which is not in %s: its answers would be lost. Name all batches in one of "
      .. "the files, and remove the other", list, forgotten, path)
  end
  for _, id in ipairs(ids) do
    local batch, why, what = api:batch(id)
    if not batch and what == "NOT_FOUND" then
      return cli.fail(2, "%s names batch %s, which the service does not know: %s", path, id, why)
    elseif not batch then
      return stopped(why, what)
    end
  end
  local ok, why = the_job:adopt(n, ids)
  if not ok then return stopped(why) end
  log(("iteration %d: going on with %d batches from %s"):format(n, #ids, path))
end

-- The same command may come again; other batches cannot be taken over once the job has begun.
if args.initial_ids and #the_job.iterations > 0 then
  local known = {}
  for _, iteration in ipairs(the_job.iterations) do
    for _, part in ipairs(iteration.parts) do known[#known + 1] = part.batch_id end
  end
  local new = stranger(read_ids(args.initial_ids) or {}, known)
  if new then
    return cli.fail(2, "%s names batch %s, but the job in %s has begun without it. Give --initial-ids at the first "
      .. "run of a job: here, with another --base-dir", args.initial_ids, new, args.base_dir)
  end
end

-- A list of ids for an iteration that the journal does not know is another tool's work.
repeat
  local n = #the_job.iterations + 1
  local path = n == 1 and args.initial_ids or the_job:ids_path(n)
  local there = path == args.initial_ids or fs.stat(path)
  local exit_code = there and adopt(n, path)
  if exit_code then return exit_code end
until not there

-- ---------------------------------------------------------------- the loop

local function judge(n)
  local ok, reason = book:add(n)
  if not ok then return nil, reason end
  return book:write_iteration(n)
end

--- line, url, model of each request to send next.
local function next_requests(ordinals)
  local i = 0
  return function()
    i = i + 1
    if not ordinals[i] then return nil end
    local line = book:next_request(ordinals[i], args.max_bytes)
    return line, request.group(line)
  end
end

local stop_reason
local n = 0 -- iterations that are merged and judged
while n < #the_job.iterations and the_job.iterations[n + 1].merged do
  n = n + 1
  local ok, reason = judge(n)
  if not ok then return stopped(reason) end
end

while not stop_reason do
  -- What has not left this machine yet is written anew: rules and limits may have changed.
  if n == #the_job.iterations or the_job:is_untouched(n + 1) then
    local ordinals = book:to_send()
    if #ordinals == 0 or n >= args.max_iterations then break end
    local ok, reason = the_job:plan(n + 1, next_requests(ordinals), args.max_requests, args.max_bytes)
    if not ok then return stopped(reason) end
    current_iteration = n + 1
    log(("iteration %d: %d requests in %d part(s)"):format(n + 1, #ordinals, #the_job.iterations[n + 1].parts))
  else
    current_iteration = n + 1
    log(("iteration %d: going on"):format(n + 1))
  end
  n = n + 1

  local done, reason, what = submission.run(the_job, n, api,
    { poll_wait = args.poll_wait, log = log, progress = progress_line })
  if not done then return stopped(reason, what) end
  stop_reason = reason and reason.message

  local ok, why = the_job:merge(n)
  if not ok then return stopped(why) end
  ok, why = judge(n)
  if not ok then return stopped(why) end
  log(("iteration %d: %d of %d valid"):format(n, book.iterations[n].valid, book.iterations[n].submitted))
end

-- ---------------------------------------------------------------- the end

local totals, reason = book:write_final()
if not totals then return stopped(reason) end

local report = { book:table(), "",
  ("%d requests: %d have a good answer, %d given up, %d left"):format(summary.requests, totals.valid, totals.given_up,
    totals.left) }
local function file_line(name, what) report[#report + 1] = ("  %s/%-28s %s"):format(args.base_dir, name, what) end
file_line("final_results.jsonl", "one good result line per request, as received")
file_line("corrected_results.json", "custom_id -> answer")
if totals.given_up > 0 then file_line("given_up.jsonl", "what was given up, and why") end
if totals.left > 0 then
  report[#report + 1] = stop_reason and ("stopped: %s"):format(stop_reason)
    or ("%d are left after %d iterations: a higher --max-iterations goes on with them"):format(totals.left, n)
  file_line(("iteration_%d/unresolved_iteration_%d.jsonl"):format(n, n), "what is left")
end
local text = table.concat(report, "\n") .. "\n"
local ok, why = fs.write(args.base_dir .. "/final_correction_log.txt", text)
if not ok then return stopped(why) end
progress_line:close()
io.write(text)

if stop_reason and totals.left > 0 then return stopped(stop_reason) end
return (totals.given_up > 0 or totals.left > 0) and 3 or 0
