--- Where scripts are found, which of two with one name is run, and copies that people change.
--
-- A name is looked up in ./scripts, in the folders of $OBATCH_SCRIPTS (several are separated by ':'), in the
-- user's own folder ($XDG_CONFIG_HOME/obatch/scripts, else ~/.config/obatch/scripts) and among the installed ones.
-- The first one is run, and hides the others.

local fs = require "obatch.fs"

local scripts = {}

--- A folder in which scripts are looked up.
---@class obatch.scripts.Folder
---@field path string
---@field from "here"|"environment"|"config"|"installed" what brought it into the list

--- A script that can be run by its name.
---@class obatch.scripts.Script
---@field name string
---@field path string
---@field from "here"|"environment"|"config"|"installed"
---@field description string the first line of its head comment, or ""
---@field shadows string[] paths of those of the same name that it hides
---@field installed? string path of the installed one, when that is among them
---@field differs? boolean whether it is another text than the installed one
---@field copied_from? string the version of obatch that it was copied from, by what its note says
---@field outdated? boolean whether the installed one has changed since then

--- The longest script that is looked into.
local MAX_SCRIPT = 4 * 1000 * 1000

--- A script's name: no path, nothing that a shell or a completion has to quote.
local NAME = "^[%w_-]+$"

--- The note that ends a copy. It stands behind everything else, where it is out of the way.
local NOTE = '%s-- Copied by "obatch scripts --copy" from obatch %s; SHA-256 of the original: %s\n'
local NOTE_PATTERN = '\n%-%- Copied by "obatch scripts %-%-copy" from obatch ([^\n]-); '
  .. 'SHA%-256 of the original: (%x+)\n'

-- ---------------------------------------------------------------- folders

--- An environment variable that names something; an empty one does not.
local function environment(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

--- The folder of the user's own scripts, which need not exist.
---@return string? path nil where the environment does not say whose home this is
function scripts.config_folder()
  local config = environment "XDG_CONFIG_HOME"
  if config and config:sub(1, 1) ~= "/" then config = nil end -- to be ignored, says the XDG specification
  local home = environment "HOME"
  config = config or home and home .. "/.config"
  return config and config .. "/obatch/scripts"
end

--- The folders in which a name is looked up, first one wins. One folder under two names (./scripts, in the source
--- tree) is in the list once.
---@param home string cli.home
---@return obatch.scripts.Folder[] folders
function scripts.folders(home)
  local installed = home .. "/scripts"
  local list, seen = {}, {}
  local function add(path, from)
    local real = fs.absolute(path) or path
    if seen[real] then return end
    seen[real] = true
    if real == (fs.absolute(installed) or installed) then path, from = installed, "installed" end
    list[#list + 1] = { path = path, from = from }
  end
  add("scripts", "here")
  for path in (environment "OBATCH_SCRIPTS" or ""):gmatch("[^:]+") do add(path, "environment") end
  local config = scripts.config_folder()
  if config then add(config, "config") end
  add(installed, "installed")
  return list
end

-- ---------------------------------------------------------------- scripts

local function is_file(path)
  local stat = fs.stat(path)
  return stat ~= nil and stat.type == "file"
end

--- The text of a script, its copier's note taken off, and what the note says: version, SHA-256.
local function read(path)
  local whole = fs.read(path, MAX_SCRIPT)
  if not whole then return nil end
  -- By plain words first: a pattern takes ten times as long to say that there is none, for every script of a listing.
  if not whole:find('Copied by "obatch scripts', 1, true) then return whole end
  local first, last, version, sha256 = whole:find(NOTE_PATTERN)
  if not first then return whole end
  return whole:sub(1, first) .. whole:sub(last + 1), version, sha256
end

--- What is known of a script from its files. `paths` are all of its name, the one that is run first.
local function describe(name, from, paths, installed)
  local text, version, sha256 = read(paths[1])
  local script = { name = name, path = paths[1], from = from, shadows = { table.unpack(paths, 2) },
    description = (text or ""):match("^%-%-%-? *([^\n]*)") or "" }
  if installed and installed ~= paths[1] then
    local original = read(installed)
    script.installed, script.copied_from = installed, version
    -- The copier ends a last line that had no end.
    script.differs = text ~= original and text ~= (original or "") .. "\n"
    if sha256 then script.outdated = sha256 ~= (original and fs.sha256_text(original)) end
  end
  return script
end

--- The script that `obatch NAME` runs.
---@param home string cli.home
---@param name string
---@return obatch.scripts.Script? script nil when there is none
function scripts.find(home, name)
  if not name:find(NAME) then return nil end
  local paths, from, installed = {}, nil, nil
  for _, folder in ipairs(scripts.folders(home)) do
    local path = ("%s/%s.lua"):format(folder.path, name)
    if is_file(path) then
      paths[#paths + 1] = path
      from = from or folder.from
      if folder.from == "installed" then installed = path end
    end
  end
  return from and describe(name, from, paths, installed)
end

--- Every script that can be run by its name, sorted by name.
---@param home string cli.home
---@param folders? obatch.scripts.Folder[] where to look instead of in all of scripts.folders()
---@return obatch.scripts.Script[] list
function scripts.list(home, folders)
  local names, found = {}, {}
  for _, folder in ipairs(folders or scripts.folders(home)) do
    for _, file in ipairs(fs.list(folder.path) or {}) do
      local name, path = file:match("^(.*)%.lua$"), folder.path .. "/" .. file
      if name and name:find(NAME) and is_file(path) then
        local one = found[name]
        if not one then
          one = { from = folder.from }
          found[name], names[#names + 1] = one, name
        end
        one[#one + 1] = path
        if folder.from == "installed" then one.installed = path end
      end
    end
  end
  table.sort(names)
  local list = {}
  for i, name in ipairs(names) do
    list[i] = describe(name, found[name].from, found[name], found[name].installed)
  end
  return list
end

--- Copies an installed script to where it can be changed. Its last line notes where it comes from.
---@param home string cli.home
---@param name string
---@param dir string folder of the copy; it is made if need be
---@param version string of this program
---@param overwrite? boolean replace what is there
---@return string? path
---@return string? message
---@return string? code "NOT_FOUND", "EXISTS", or an errno name
function scripts.copy(home, name, dir, version, overwrite)
  local original = ("%s/scripts/%s.lua"):format(home, name)
  if not name:find(NAME) or not is_file(original) then
    return nil, ("no installed script is called '%s'"):format(name), "NOT_FOUND"
  end
  local text, message, code = fs.read(original)
  if not text then return nil, message, code end
  local path = ("%s/%s.lua"):format(dir, name)
  local there = fs.lstat(path)
  if there and fs.absolute(path) == fs.absolute(original) then
    return nil, path .. " is the installed script itself", "EXISTS"
  elseif there and not overwrite then
    return nil, path .. " is there already", "EXISTS"
  end
  local ok
  ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  ok, message, code = fs.write(path,
    text .. NOTE:format(text:sub(-1) == "\n" and "" or "\n", version, fs.sha256_text(text)))
  if not ok then return nil, message, code end
  return path
end

return scripts
