--- Finds texts that are not strict JSON, and deletes them when told to.
--
-- The recipe: walk the texts beside the images (or any files of one ending), check each, print one line
-- for each fault. With --delete the faulty files go, so that the next upload takes their images again.

local cli = require "obatch.cli"
local fs = require "obatch.fs"
local json = require "obatch.json"
local progress = require "obatch.progress"
local sidecar = require "obatch.sidecar"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

--- A longer file is not read: it would not fit into memory comfortably.
local MAX_BYTES = 64 * 1000 * 1000

local parser = cli.parser("validate", "Checks that the texts beside the images (IMAGE.txt) are strict JSON, and prints "
  .. "one line for each that is not.")
parser:option("--image-dir", "Folder of the images, with all folders in it."):argname("DIR"):count(1)
parser:option("--ext", "Check all files with this ending instead, such as .json."):argname("ENDING")
parser:flag("--delete", "Delete the faulty files, so that the next upload takes their images again.")
progress.options(parser)
parser:epilog [[
An empty text beside an image is a blank page, and no fault (a file checked for
its --ext is one). Labelled texts (.txt.api) are not looked at: deep_clean sees
to them. Links are neither followed nor deleted, and a file of more than 64 MB
is neither read nor deleted; both are named.

Example:
  obatch validate --image-dir data
  obatch validate --image-dir batch_json_results --ext .json

Exit codes: 0 no fault is left; 1 there are faults, or files that could not be
read; 2 wrong usage; 130 interrupted.]]
local args = parser:parse { ... }

local dir = fs.stat(args.image_dir)
if not dir or dir.type ~= "dir" then return cli.fail(2, "%s is not a folder", text.printable(args.image_dir)) end
local ending = args.ext or ".txt"
if not ending:find("^%.") then return cli.fail(2, "--ext %s: an ending begins with a dot, as in .json", ending) end
-- Images are no JSON, and cannot be had again; nor can what the other commands keep beside them.
if args.delete and (sidecar.EXTENSIONS[ending:lower()] or args.ext and (ending == ".txt" or ending == ".jsonl")) then
  return cli.fail(2, "--ext %s with --delete would delete what is no JSON file", ending)
end

--- Where a byte is for an editor.
local function place(content, at)
  local before = content:sub(1, at - 1)
  local _, breaks = before:gsub("\n", "")
  local line = before:match("^.*\n(.*)$") or before
  return ("byte %d (line %d, column %d)"):format(at, breaks + 1, (utf8.len(line) or #line) + 1)
end

local line <close> = progress.new { quiet = args.quiet }
local stage = line:stage("checking", { unit = "files" })
local checked, blank, deleted, unread = 0, 0, 0, 0
local faulty = {} -- paths
local function trouble(message)
  unread = unread + 1
  progress.hide()
  io.stderr:write("obatch: ", message, "\n")
end

--- Checks one file.
local function check(path)
  local name = text.printable(path)
  local stat, message = fs.lstat(path)
  if not stat then return trouble(message) end
  if stat.type ~= "file" then
    progress.hide()
    io.stderr:write("obatch: ", name, " is a link, not a file: left alone\n")
    return
  end
  if stat.size > MAX_BYTES then
    return trouble(("%s has %d bytes: not read, not deleted"):format(name, stat.size))
  end
  local content, problem = fs.read(path, MAX_BYTES)
  if not content then return trouble(problem) end
  checked = checked + 1
  stage:update(checked)
  if not args.ext and text.is_blank(content) then
    blank = blank + 1
    return
  end
  local ok, why, at = json.check(content)
  if ok then return end
  faulty[#faulty + 1] = path
  line:print(("%s: %s: %s"):format(name, place(content, at), why))
end

for path, ok, problem in fs.walk(args.image_dir, { ext = { [ending] = true }, stat = false }) do
  if term.interrupted() then
    line:close()
    return cli.stopped("interrupted", "INTERRUPTED")
  end
  local image, kind = sidecar.parse(path)
  local wanted = args.ext or image and kind == "text"
  if not ok and (fs.lstat(path) or {}).type ~= "link" then
    trouble(problem)
  elseif wanted then
    check(path)
  end
end

line:close()
local good = checked - blank - #faulty
-- Where none is JSON, they were never meant to be: these are somebody's transcriptions.
local is_doubtful = good == 0 and #faulty > 0
for _, path in ipairs(args.delete and not is_doubtful and faulty or {}) do
  local removed, complaint = fs.remove(path)
  if removed then deleted = deleted + 1 else trouble(complaint) end
end
local number = units.number
print(("%s: %s strict JSON, %s blank, %s faulty%s"):format(units.count(checked, "file"), number(good), number(blank),
  number(#faulty), args.delete and (", %s deleted"):format(number(deleted)) or ""))
if is_doubtful then
  print("none of them is JSON: were they meant to be?" .. (args.delete and " Nothing was deleted" or ""))
elseif #faulty > deleted and not args.ext then
  suggestion.tell({ suggestion.again("--delete") .. "\n      and upload takes their images again" }, args.quiet)
end
return (#faulty > deleted or unread > 0) and 1 or 0
