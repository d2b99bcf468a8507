--- Checks what a run has left: does every request have its place, does every file agree with the journal?
--
-- The recipe: look at the folder (lua/obatch/fsck.lua), with --repair rebuild what follows from what was
-- downloaded, tell what was found, one line each. Without --repair nothing is written: it can be used beside a
-- run, and on a disk that is read-only.

local cli = require "obatch.cli"
local fsck = require "obatch.fsck"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local text = require "obatch.text"
local units = require "obatch.units"

local parser = cli.parser("fsck", "Checks the folder of a job (correction_loop), of batches (upload and download) or "
  .. "of deep_clean: whether every request has its place, and every file agrees with the journal.")
fsck.options(parser)
parser:flag("--repair", "Rebuild what follows from what was downloaded. No result is ever deleted.")
progress.options(parser)
parser:epilog [[
Example:
  obatch fsck Cleaned_results
  obatch fsck Cleaned_results --repair
  obatch fsck batch

Exit codes: 0 all adds up; 1 something does not (listed); 2 wrong usage, or no
such folder.]]
local args = parser:parse { ... }

local kind = fsck.kind(args.dir)
if kind and kind ~= "job" then
  policy.expect, policy.allow_blank = "text", true -- as download and deep_clean have it
end
local rules, message = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", message) end

local line <close> = progress.new { quiet = args.quiet }
line:stage("checking " .. args.dir)
local results, problem, code = fsck.run(args.dir, { rules = rules, original = args.original_requests,
  output_dir = args.output_dir, repair = args.repair,
  log = function(words) line:print("repair: " .. text.printable(words)) end })
line:close()
if not results then
  return cli.fail(code == "USAGE" and 2 or 1, "%s", text.printable(problem))
end

local count = units.count

local faults, notes = 0, 0
for i, result in ipairs(results) do
  if i > 1 then print() end
  print(text.printable(result.dir) .. ":")
  if result.table then print(result.table .. "\n") end
  local totals = result.totals
  if totals then
    print(("%s: %d have a good answer, %d given up, %d left"):format(count(totals.requests, "request"), totals.valid,
      totals.given_up, totals.left))
  end
  local c = result.counts
  if c then
    print(("%s in %s: %d have a text, %d a labelled one, %d unresolved, %d under way, %d gone, %d lost"):format(
      count(c.images, "image"), count(c.batches, "record"), c.text, c.label, c.unresolved, c.under_way, c.gone, c.lost))
  end
  for _, words in ipairs(result.found:lines()) do print(words) end
  faults, notes = faults + result.found.faults, notes + result.found.notes
end
print(faults == 0 and ("all adds up (%s)"):format(count(notes, "note"))
  or ("%s, %s"):format(count(faults, "fault"), count(notes, "note")))
return faults == 0 and 0 or 1
