--- Tells the whole story of one request, or of one image.
--
-- The recipe: see what the folder is, gather every attempt (lua/obatch/history.lua), tell it: what was sent, what
-- came back, where it breaks, what followed, and where the raw lines are. No network, no lock, nothing is written.

local cli = require "obatch.cli"
local fsck = require "obatch.fsck"
local history = require "obatch.history"
local image = require "obatch.history.image"
local json = require "obatch.json"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local tell = require "obatch.history.tell"
local term = require "obatch.term"

local parser = cli.parser("why", "Tells the whole story of one request: each attempt with what was sent, the answer, "
  .. "the place where it breaks, the reason and what followed, and the files and lines where all of that is.")
fsck.options(parser, { policy = "The rules of the job, for answers that no run has judged yet." })
parser:argument("custom_id", "The custom_id of the request, or the path of an image."):argname("CUSTOM_ID")
parser:flag("--json", "Print JSON for other programs: with whole requests and answers.")
parser:option("--job-dir", "Where deep_clean keeps its runs (default: deep_clean, beside the folder of batches).")
  :argname("DIR")
progress.options(parser)
parser:epilog [[
Example:
  obatch why Cleaned_results page-0019
  obatch why batch scans/letters/page-7.png
  obatch why Cleaned_results page-0019 --json

Exit codes: 0 done; 1 the folder cannot be read; 2 wrong usage, no such folder,
or no such request (near ones are named).]]
local args = parser:parse { ... }

local rules, fault = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", fault) end

local line <close> = progress.new { quiet = args.quiet or args.json }

local function finish(story, message, code, words)
  line:close()
  if not story then return cli.fail((code == "NOT_FOUND" or code == "USAGE") and 2 or 1, "%s", message) end
  if args.json then
    print(json.encode(tell.encodable(story)))
  else
    print(words(story, term.isatty(1) and term.size() or nil))
  end
  return 0
end

local kind, problem = fsck.identify(args.dir)
if kind == "job" then
  local job <close>, message, code = history.open(args.dir, { rules = args.policy and rules,
    original = args.original_requests })
  if not job then return finish(nil, message, code) end
  local story
  story, message, code = job:story(args.custom_id)
  for _, note in ipairs(job.notes) do line:say(note) end
  return finish(story, message, code, tell.story)
elseif kind == "images" then
  local story, message, code = image.of_project(args.dir, args.custom_id, { output_dir = args.output_dir,
    job_dir = args.job_dir })
  return finish(story, message, code, tell.image)
elseif kind == "errands" then
  local story, message, code = image.of_mending(args.dir, args.custom_id)
  return finish(story, message, code, tell.image)
end
return cli.fail(2, "%s", problem)
