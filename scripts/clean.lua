--- Cleans the texts beside the images, and labels those that a program cannot mend.
--
-- The recipe: measure all texts, so that it is known what is usual for each folder; then clean each
-- (lua/obatch/cleaning.lua), judge it (lua/obatch/detectors.lua), and write it, or label it by renaming
-- IMAGE.txt to IMAGE.txt.api, its text untouched. --rules changes rules and detectors.

local cleaning = require "obatch.cleaning"
local cli = require "obatch.cli"
local decisions = require "obatch.decisions"
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local progress = require "obatch.progress"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local texts = require "obatch.texts"

local parser = cli.parser("clean", "Cleans the texts beside the images (IMAGE.txt) by a list of rules, and labels "
  .. "those that a program cannot mend: IMAGE.txt becomes IMAGE.txt.api, its text untouched.")
parser:option("--image-dir", "Folder of the images, with all folders in it."):argname("DIR"):count(1)
parser:flag("--dry-run", "Show what would change and what would be labelled, write nothing.")
parser:option("--report", "Write one row for each text: path, action, rules, score, reasons."):argname("FILE.csv")
parser:flag("--json", "The texts are to be JSON: only rules that leave it JSON; what is none is labelled.")
parser:option("--rules", "A file that changes lua/obatch/cleaning.lua or detectors.lua."):argname("FILE")
progress.options(parser)
parser:epilog [[
Only the texts of images are touched (X.txt where X ends in .jpg .jpeg .png
.webp .gif). An empty text is a blank page, and stays. Links are left alone.
Running it twice changes nothing more.

Example:
  obatch clean --image-dir data --dry-run --report clean.csv

Exit codes: 0 done; 1 a file could not be read, written or labelled (named
above); 2 wrong usage; 130 interrupted.]]
local args = parser:parse { ... }

if args.report then -- before anything is changed
  local ok, why = fs.write(args.report, "")
  if not ok then return cli.fail(2, "--report: %s", why) end
end
local ready, problem = detectors.load(args.rules)
if not ready then return cli.fail(2, "%s", problem) end
local dir = fs.stat(args.image_dir)
if not dir or dir.type ~= "dir" then return cli.fail(2, "%s is not a folder", text.printable(args.image_dir)) end

local line <close> = progress.new { quiet = args.quiet }
local measuring, measured = line:stage("measuring texts", { unit = "texts" }), 0
local survey, message, code = texts.survey(args.image_dir, args.json, function()
  measured = measured + 1
  measuring:update(measured)
  return term.interrupted()
end)
progress.hide()
if not survey then return cli.stopped(message, code) end

-- ---------------------------------------------------------------- one text

--- A text as a terminal may see it.
local function visible(content)
  return (content:gsub("[\0-\8\11-\31\127]", function(control) return ("\\x%02X"):format(control:byte()) end))
end

--- Differences that a dry run shows; --report tells of all.
local MOST_SHOWN, changes = 200, 0

--- Prints what diff(1) finds between a file and its new content. true | nil, message.
local function show_difference(path, content)
  local name = text.printable(path)
  local temporary = os.tmpname()
  local _ <close> = setmetatable({}, { __close = function() fs.remove(temporary) end })
  local ok, why = fs.write(temporary, content, "later")
  if not ok then return nil, why end
  local word = text.shell_word
  local diff <close> = io.popen(("diff -a -u --label %s --label %s -- %s %s 2>&1"):format(word(name),
    word(name .. " (cleaned)"), word(path), word(temporary)))
  local shown = diff:read("a")
  local _, how, status = diff:close()
  if how ~= "exit" or status > 1 then return nil, "diff (package diffutils): " .. shown end
  progress.hide()
  io.write(visible(shown))
  return true
end

--- What readers have accepted stays as it is.
local kept = decisions.beside()

--- Cleans and judges one text, and does what follows. Returns a row of the report: action, rules, score,
--- reasons. Actions: unchanged, cleaned, blank, accepted, labelled, "labelled before", link, "in the way", failed.
local function treat(item)
  local row = { path = item.path, action = "unchanged", rules = {}, score = 0, reasons = {} }
  local function is(action, reason)
    row.action, row.reasons = action, reason and { reason } or row.reasons
    return row
  end
  if item.kind == "api" then return is("labelled before") end
  local content, why, what = texts.read(item.path)
  if what == "LINK" then return is("link", why) end
  if not content and what ~= "TOO_BIG" then return is("failed", why) end
  local decision, wrong
  if content then decision, wrong = kept:about(item.image, content) end
  if wrong then return is("failed", wrong) end
  if decision and decision.decision == "accept" then return is("accepted") end

  local cleaned, label = content, true
  if content then
    cleaned, row.rules, why = cleaning.clean(content, args.json)
    label, row.score, row.reasons = detectors.judge(cleaned, survey:context(item.path))
  end
  if why then -- too big, or too much for the rules
    label = true
    table.insert(row.reasons, 1, why)
  end

  if label then
    local target = item.path .. ".api"
    if fs.lstat(target) then
      table.insert(row.reasons, 1, text.printable(target) .. " is there already and is not overwritten")
      return is("in the way")
    end
    row.rules = {} -- the text stays as it is
    if not args.dry_run then
      local ok, trouble = fs.rename(item.path, target)
      if not ok then return is("failed", trouble) end
    end
    return is("labelled")
  end

  if cleaned ~= content then
    local ok, trouble = true, nil
    if args.dry_run then
      changes = changes + 1
      if changes <= MOST_SHOWN then ok, trouble = show_difference(item.path, cleaned) end
    else
      ok, trouble = fs.write(item.path, cleaned, "later")
    end
    if not ok then return is("failed", trouble) end
    return is("cleaned")
  end
  return text.is_blank(content) and is("blank") or row
end

-- ---------------------------------------------------------------- all of them

local function cell(value)
  value = tostring(value)
  return value:find('[",\r\n]') and '"' .. value:gsub('"', '""') .. '"' or value
end

local WORDS = args.dry_run and { labelled = "would be labelled .api", cleaned = "would be cleaned" }
  or { labelled = "labelled .api" }
local TOLD = { labelled = true, link = true, ["in the way"] = true, failed = true }

local counts, report = {}, { "path,action,rules,score,reasons" }
local stage = line:stage("cleaning texts", { total = #survey.items, unit = "texts" })
for i, item in ipairs(survey.items) do
  if term.interrupted() then break end
  stage:update(i - 1)
  local row = treat(item)
  local name, reasons = text.printable(row.path), table.concat(row.reasons, "; ")
  counts[row.action] = (counts[row.action] or 0) + 1
  if TOLD[row.action] then
    -- What went wrong names the file itself.
    local about = row.action == "labelled" and name .. ": " or ""
    line:print(("%s: %s%s"):format(WORDS[row.action] or row.action, about, reasons))
  end
  if args.report then
    report[#report + 1] = ("%s,%s,%s,%.2f,%s"):format(cell(name), row.action, cell(table.concat(row.rules, "; ")),
      row.score, cell(reasons))
  end
end
line:close()
for _, fault in ipairs(survey.faults) do io.stderr:write("obatch: ", fault, "\n") end

if not args.dry_run and counts.cleaned then
  local ok, why = fs.sync(args.image_dir)
  if not ok then return cli.fail(1, "%s", why) end
end
if args.report then -- of what was done, also when that is not all
  local ok, why = fs.write(args.report, table.concat(report, "\n") .. "\n")
  if not ok then return cli.fail(1, "%s", why) end
end
local summary = {}
for _, action in ipairs { "unchanged", "cleaned", "blank", "accepted", "labelled", "labelled before", "link",
  "in the way", "failed" } do
  if counts[action] then summary[#summary + 1] = ("%d %s"):format(counts[action], WORDS[action] or action) end
end
print(("%d texts%s%s"):format(#survey.items, #summary > 0 and ": " or "", table.concat(summary, ", ")))
if changes > MOST_SHOWN then print(("%d more differences are not shown"):format(changes - MOST_SHOWN)) end
if args.dry_run then print("dry run: nothing was written") end
if term.interrupted() then return cli.stopped("interrupted", "INTERRUPTED") end
if (counts.labelled or counts["labelled before"]) and not args.dry_run then
  suggestion.tell({ suggestion.command("deep_clean", "--image-dir", args.image_dir, "--dry-run") }, args.quiet)
end
return (counts.failed or counts["in the way"] or #survey.faults > 0) and 1 or 0
