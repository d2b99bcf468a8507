--- Writes one HTML page to look through a run: what failed and where, or page and text side by side.
--
-- The recipe: find out what the folder is, go through its items one by one, and write them into one page
-- (lua/obatch/report.lua; the page itself is lua/obatch/report/page.html). What a reader decides in the page is
-- exported there, and goes back to correction_loop or deep_clean by --decisions.

local cli = require "obatch.cli"
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local report = require "obatch.report"
local term = require "obatch.term"
local text = require "obatch.text"
local tokens = require "obatch.tokens"
local units = require "obatch.units"

--- Good answers of a job that are shown, if nothing else is said: enough for a reader's random sample.
local VALID = 200

local function count(word)
  local number = math.tointeger(tonumber(word))
  if not number or number < 0 then return nil, ("'%s' is not a whole number"):format(word) end
  return number
end

local parser = cli.parser("report", "Writes one self-contained HTML file about a job (correction_loop), a batch folder "
  .. "(upload and download), a run of deep_clean, or a folder of images with their texts.")
fsck.options(parser, { dir = "The folder." })
parser:option("--output", "Where the page is written (default: report.html in DIR). Images are shown from where they "
  .. "are, relative to it."):argname("FILE")
parser:option("--valid", "How many good answers of a job are shown, picked at random."):argname("N")
  :default(tostring(VALID)):convert(count)
parser:option("--rules", "A file that changes lua/obatch/cleaning.lua or detectors.lua."):argname("FILE")
parser:flag("--json-texts", "The texts beside the images are to be JSON (as with clean --json).")
parser:option("--job-dir", "The folder of deep_clean (default: deep_clean beside DIR)."):argname("DIR")
parser:option("--prices", "Price table (default: lua/obatch/prices.lua)."):argname("FILE")
progress.options(parser)
parser:epilog [[
Nothing but the page is written; it can be used beside a run.

Example:
  obatch report Cleaned_results
  obatch report batch --output review.html
  obatch report scans

Exit codes: 0 the page is written; 1 it could not be written; 2 wrong usage, or
nothing to report on; 130 interrupted.]]
local args = parser:parse { ... }

local dir = args.dir:gsub("(.)/+$", "%1")
local rules, message
if args.policy then
  -- As download and deep_clean have it, before the file changes it.
  local is_job = fsck.kind(dir) == "job"
  if not is_job or fs.stat(dir .. "/completed.json") or fs.stat(dir .. "/record.json") then
    policy.expect, policy.allow_blank = "text", true
  end
  rules, message = policy.load(args.policy)
  if not rules then return cli.fail(2, "%s", message) end
end
local prices
prices, message = tokens.prices(args.prices)
if not prices then return cli.fail(2, "%s", message) end
local ready
ready, message = detectors.load(args.rules)
if not ready then return cli.fail(2, "%s", message) end

local line <close> = progress.new { quiet = args.quiet }
local result, problem, code = report.write(dir, { output = args.output, rules = rules, policy_file = args.policy,
  prices = prices, original = args.original_requests, valid = args.valid, as_json = args.json_texts,
  output_dir = args.output_dir, job_dir = args.job_dir, interrupted = term.interrupted })
line:close()
if code == "INTERRUPTED" then return cli.fail(130, "interrupted: nothing is written") end
if code == "EACCES" or code == "EROFS" or code == "EPERM" then
  return cli.fail(1, "%s\nobatch: name another place with --output FILE", text.printable(problem))
end
if not result then return cli.fail(code == "USAGE" and 2 or 1, "%s", text.printable(problem)) end

print(("%s: %s, %s%s"):format(text.printable(result.path), units.count(result.shown, "item"), units.bytes(result.bytes),
  result.hidden > 0 and (" (and %s that it leaves out: --valid N shows more)"):format(units.count(result.hidden,
    "good answer")) or ""))
print("look at it: open it in a browser (it needs no network), where the images stay where they are")
if result.command then print("what you decide there, exported to FILE: " .. result.command) end
