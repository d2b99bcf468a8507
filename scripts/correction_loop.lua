--- Sends requests in batches, judges every answer, and resends exactly what failed.
--
-- The recipe: load the rules, check the request file, run the loop (lua/obatch/loop.lua), report.
-- Whatever stops this, the same command goes on where it was. What a good answer is and what
-- happens to a bad one is decided in lua/obatch/policy.lua; --policy changes it.

local budget = require "obatch.budget"
local cli = require "obatch.cli"
local decisions = require "obatch.decisions"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local loop = require "obatch.loop"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local request = require "obatch.request"
local requests = require "obatch.requests"
local submission = require "obatch.submission"
local suggestion = require "obatch.suggestion"

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
parser:option("--decisions", "What a reader has decided about answers, as the page of obatch report exports it.")
  :argname("FILE")
parser:flag("--dry-run", "Check requests and policy, say what a new job would send, send nothing.")
budget.options(parser)
progress.options(parser)
submission.options(parser, true)
openai.options(parser)
parser:epilog [[
Example:
  obatch correction_loop --base-dir Cleaned_results \
    --original-requests original_requests.jsonl
  obatch correction_loop --base-dir Cleaned_results \
    --original-requests original_requests.jsonl --decisions decisions.jsonl

Exit codes: 0 every request has a good answer; 1 stopped, run again to go on;
2 wrong usage or input; 3 finished, but some requests have no good answer
(listed); 130 interrupted.]]
local args = parser:parse { ... }

-- ---------------------------------------------------------------- nothing is spent before this is right

local rules, message = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", message) end

local ceilings
ceilings, message = budget.from_options(args)
if not ceilings then return cli.fail(2, "%s", message) end

local decided, wrong
if args.decisions then decided, wrong = decisions.read(args.decisions) end
if wrong then
  for _, sentence in ipairs(wrong) do io.stderr:write(sentence, "\n") end
  return cli.fail(2, "--decisions: the file is not right, see above; none was followed, and nothing was submitted")
end

local progress_line <close> = progress.new { quiet = args.quiet }
local function log(line) progress_line:say(line) end
local file <close>, faults, kind = requests.read(args.original_requests, args.max_requests, args.max_bytes)
progress.hide()
if kind == "INTERRUPTED" then return cli.stopped("interrupted", kind) end
if not file then
  for _, fault in ipairs(faults) do io.stderr:write(fault, "\n") end
  return cli.fail(2, "%s cannot be sent: %d fault%s, listed above; nothing was submitted", args.original_requests,
    #faults, #faults == 1 and "" or "s")
end

for _, group in ipairs(file.groups) do
  local ok, unpriced = ceilings:check_model(group.model)
  if not ok then return cli.fail(2, "%s", unpriced) end
end

local function describe_plan()
  for _, group in ipairs(file.groups) do
    print(("%d requests (%d bytes) for %s on %s, in %d batch%s"):format(group.requests, group.bytes, group.model,
      group.url, group.batches, group.batches == 1 and "" or "es"))
  end
end
--- What the requests may take, and how many of them the budget lets through.
local function describe_cost()
  local purse, count, fitting, tokens_in, tokens_out, cost = ceilings:purse(), 0, 0, 0, 0, 0
  for ordinal = 1, file.index.count do
    local _, model, input, limit = file:takes_of(ordinal)
    local estimate_in, estimate_out, usd = purse:estimate(model, input, limit)
    tokens_in, tokens_out, cost = tokens_in + estimate_in, tokens_out + estimate_out, cost and usd and cost + usd
    count = count + 1
    if purse:take(model, input, limit) then fitting = fitting + 1 end
  end
  progress_line:close()
  print(("about %d tokens in and %d out%s"):format(tokens_in, tokens_out,
    cost and (": about %.2f USD by the prices of %s"):format(cost, ceilings.prices.as_of) or ""))
  if fitting < count then print(("the budget lets %d of %d requests through"):format(fitting, count)) end
end

--- Takes up a reader's decisions. Exit code where that cannot be done, and nil.
local function decide(tell)
  local counts, why, errno = decisions.take { dir = args.base_dir, original = args.original_requests, list = decided,
    log = tell, is_dry = args.dry_run }
  if not counts then return cli.stopped(why, errno) end
  tell(("decisions: %d accepted, %d rejected, %d not followed%s"):format(counts.accept, counts.reject, counts.left_out,
    counts.waiting > 0 and ("; %d kept until there are answers"):format(counts.waiting) or ""))
end

if args.dry_run then
  local failed = decided and decide(function(words) progress_line:print(words) end)
  if failed then return failed end
  describe_plan()
  describe_cost()
  if fs.stat(args.base_dir .. "/journal.jsonl") then
    print(("that is the whole file; what is left of the job: %s"):format(suggestion.command("status", args.base_dir)))
  end
  print("dry run: nothing was submitted")
  return 0
end

local api <close>, problem = openai.from_options(args, rules, log)
if not api then return cli.fail(2, "%s", problem) end

-- ---------------------------------------------------------------- the loop

local failed = decided and decide(log)
if failed then return failed end
local result, reason, code = loop.run {
  base_dir = args.base_dir, original = args.original_requests, requests = file, initial_ids = args.initial_ids,
  rules = rules, api = api, log = log, poll_wait = args.poll_wait, max_iterations = args.max_iterations,
  max_requests = args.max_requests, max_bytes = args.max_bytes, budget = ceilings,
  delete_remote = args.delete_remote_files, output_expires_after = args.output_expires_after,
}
progress_line:close()
if not result then return cli.stopped(reason, code) end

-- ---------------------------------------------------------------- the end

local report = result.iterations > 0 and { result.table, "" } or {}
report[#report + 1] = ("%d requests: %d have a good answer, %d given up, %d left"):format(result.requests, result.valid,
  result.given_up, result.left)
local function file_line(name, what) report[#report + 1] = ("  %s/%-28s %s"):format(args.base_dir, name, what) end
file_line("final_results.jsonl", "one good result line per request, as received")
file_line("corrected_results.json", "custom_id -> answer")
if result.given_up > 0 then file_line("given_up.jsonl", "what was given up, and why") end
if result.left > 0 then
  report[#report + 1] = result.stop_reason and ("stopped: %s"):format(result.stop_reason)
    or ("%d are left after %d iterations: a higher --max-iterations goes on with them"):format(result.left,
      result.iterations)
  if result.iterations > 0 then
    file_line(("iteration_%d/unresolved_iteration_%d.jsonl"):format(result.iterations, result.iterations),
      "what has no good answer yet")
  end
end
local text = table.concat(report, "\n") .. "\n"
io.write(text)
local ok, why, errno = fs.write(args.base_dir .. "/final_correction_log.txt", text)
if not ok then return cli.stopped(why, errno) end

local next_ones = {}
if result.left > 0 and not result.stop_reason then
  next_ones[1] = suggestion.again("--max-iterations", args.max_iterations + 10)
end
local given_up <close> = result.given_up > 0 and jsonl.open(args.base_dir .. "/given_up.jsonl") or nil
if given_up then
  next_ones[#next_ones + 1] = suggestion.command("why", args.base_dir, json.get(given_up:at(0), "/custom_id"))
end
next_ones[#next_ones + 1] = suggestion.command("report", args.base_dir)
suggestion.tell(next_ones, args.quiet)

if result.is_over then return cli.fail(1, "stopped: %s", result.stop_reason) end
if result.stop_reason and result.left > 0 then return cli.stopped(result.stop_reason) end
return (result.given_up > 0 or result.left > 0) and 3 or 0
