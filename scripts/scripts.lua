--- Lists the scripts with where each comes from, and copies one to where you can change it.
--
-- The recipe is lua/obatch/scripts.lua's: folders in order, the first one wins.

local cli = require "obatch.cli"
local columns = require "obatch.columns"
local fs = require "obatch.fs"
local json = require "obatch.json"
local scripts = require "obatch.scripts"
local term = require "obatch.term"
local text = require "obatch.text"

--- The installed scripts, for completion and for who mistypes one.
local installed = {}
for i, script in ipairs(scripts.list(cli.home, { { path = cli.home .. "/scripts", from = "installed" } })) do
  installed[i] = script.name
end

local parser = cli.parser("scripts", "Lists every script that \"obatch NAME\" finds, and where it comes from: "
  .. "./scripts, the folders of $OBATCH_SCRIPTS (with ':' between them), your own folder in ~/.config/obatch, or "
  .. "what is installed. The first one is run, and hides the others.")
parser:flag("--json", "Print JSON for other programs.")
parser:option("--copy", "Copy this installed script to where you can change it."):argname("NAME"):choices(installed)
parser:option("--to", "Folder of the copy, instead of your own one in ~/.config/obatch."):argname("DIR")
parser:flag("--overwrite", "Replace the copy that is there; what you have changed in it is lost.")
parser:epilog [[
Example:
  obatch scripts
  obatch scripts --copy upload
  obatch scripts --copy upload --to ./scripts
  obatch scripts --json

Exit codes: 0 all good; 1 it could not be copied; 2 wrong usage.]]
local args = parser:parse { ... }
if not args.copy and (args.to or args.overwrite) then parser:error("--to and --overwrite belong to --copy NAME") end
if args.copy and args.json then parser:error("--json belongs to the list, not to --copy") end

if args.copy then
  local dir = args.to or scripts.config_folder()
  if not dir then return cli.fail(2, "neither XDG_CONFIG_HOME nor HOME is set: name a folder with --to DIR") end
  local path, message, code = scripts.copy(cli.home, args.copy, dir, cli.full_version(), args.overwrite)
  if not path then
    return cli.fail(1, "%s%s", message, code == "EXISTS" and not args.overwrite
      and ". With --overwrite it is replaced, and what was changed in it is lost" or "")
  end
  print("copied to " .. text.printable(path))
  local found, is_looked_up = scripts.find(cli.home, args.copy), false
  for _, folder in ipairs(scripts.folders(cli.home)) do
    is_looked_up = is_looked_up or fs.absolute(folder.path) == fs.absolute(dir)
  end
  if found and fs.absolute(found.path) == fs.absolute(path) then
    print(("\"obatch %s\" runs this one from now on. Back to the installed one: rm %s"):format(args.copy,
      text.printable(text.shell_word(path))))
  elseif found and is_looked_up then -- in the source tree that is the installed one: its folder is ./scripts
    print(("\"obatch %s\" still runs %s here, which comes before it"):format(args.copy, text.printable(found.path)))
  else
    print(("that folder is none of those where scripts are looked up; run it by: obatch run %s"):format(
      text.printable(text.shell_word(path))))
  end
  return 0
end

local list = scripts.list(cli.home)

if args.json then
  local out = json.array {}
  for i, script in ipairs(list) do
    out[i] = { name = script.name, path = script.path, from = script.from, description = script.description,
      shadows = json.array(script.shadows), installed = script.installed, differs = script.differs,
      copied_from = script.copied_from, outdated = script.outdated }
    for key, value in pairs(out[i]) do
      if type(value) == "string" then out[i][key] = text.to_utf8(value) end
    end
    for n, path in ipairs(out[i].shadows) do out[i].shadows[n] = text.to_utf8(path) end
  end
  print(json.encode(out))
  return 0
end

local FROM = { here = "./scripts", environment = "$OBATCH_SCRIPTS", config = "yours", installed = "installed" }
local rows = {}
for i, script in ipairs(list) do
  rows[i] = { script.name, FROM[script.from], (script.description:gsub("%.$", "")) }
end
io.write(columns.format(rows, { { "script", keep = true }, { "from", keep = true }, { "what it does" } },
  term.isatty(1) and term.size() or nil))

--- What is to be known about scripts that hide others.
local notes, same = {}, {}
local function note(...) notes[#notes + 1] = text.printable((...):format(select(2, ...))) end
for _, script in ipairs(list) do
  if script.installed and not script.differs then same[#same + 1] = script.name end
  for _, path in ipairs(script.shadows) do
    if path ~= script.installed or script.differs then
      note("%s: %s is run, not %s", script.name, script.path, path)
    end
  end
  if script.outdated then
    note("%s: the installed one has changed since this was copied from obatch %s; see how: diff %s %s", script.name,
      script.copied_from, text.shell_word(script.installed), text.shell_word(script.path))
  elseif script.copied_from and script.differs then
    note("%s: copied from obatch %s, and changed", script.name, script.copied_from)
  end
end
if #same > 0 then note("the same as the installed ones: %s", table.concat(same, ", ")) end
print("\nlooked up in this order:")
for _, folder in ipairs(scripts.folders(cli.home)) do print("  " .. text.printable(folder.path)) end
if #notes > 0 then print("\n" .. table.concat(notes, "\n")) end
return 0
