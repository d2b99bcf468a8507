--- Harvesting a batch: its result lines become one JSON file each, and the texts beside the images.
--
-- Results are not trusted. A custom_id is only a key: where anything is written follows from the
-- batch's record, which says what was submitted. An id that was not submitted writes nothing, under no
-- name. Harvesting the same batch again gives the same files.

local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local part_names = require "obatch.part"
local progress = require "obatch.progress"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"

local harvest = {}
local Harvest = {}
Harvest.__index = Harvest

--- An image whose time is so much older than its batch (seconds) is believed to be the one that was
--- sent if its size is the same; a younger one is read again. Uploading may have taken a while.
local UPLOAD_TIME = 3600

--- What keeps one text from being written, and not all of them: the image is gone, its folder is a
--- link now, its name leaves no room for ".txt", or a folder has the sidecar's name.
local OF_ONE_IMAGE = { ENOENT = true, ENOTDIR = true, OUTSIDE = true, ELOOP = true, ENAMETOOLONG = true,
  EISDIR = true }

--- The same for a JSON result: an id that can be no file's name, or is too long even in folders.
local OF_ONE_NAME = { NAME = true, ENAMETOOLONG = true }

-- ---------------------------------------------------------------- what was submitted

--- custom_id -> path of every image below a folder, by its path as given and by its absolute one. Of
--- two that would have one id, neither is served: nobody can tell which was meant.
local function images_below(image_dir)
  local root, message, code = fs.absolute(image_dir)
  if not root then return nil, message, code end
  local paths = {}
  local function add(path, image)
    local id = image_record.custom_id(path, {})
    if paths[id] == nil then paths[id] = image elseif paths[id] ~= image then paths[id] = false end
  end
  for path in fs.walk(image_dir, { ext = sidecar.EXTENSIONS, stat = false }) do
    add(path, path)
    add(root:gsub("/$", "") .. "/" .. path:sub(#image_dir + 1):gsub("^/+", ""), path)
  end
  return paths
end

--- Finds the image of a batch that an earlier script submitted. Such a script kept no paths: it is an
--- image below --image-dir, else the path that the custom_id was made from. The ids come from the service:
--- an absolute path is believed below the current folder and --image-dir only.
local function locate(item, images, image_dir)
  local path = images[item.custom_id]
  if path then
    item.path, item.image_dir = path, image_dir
    return
  end
  path = item.path or item.custom_id
  -- What is no image's name, or can be no file's, stays where it will not be found.
  if not sidecar.parse(sidecar.text_path(path)) or path:find("\0", 1, true) then path = "?" .. text.printable(path) end
  item.path, item.image_dir = path, ""
  if path:sub(1, 1) == "/" then
    local here = assert(fs.absolute ".")
    local is_here = path:sub(1, #here + 1) == here:gsub("/$", "") .. "/"
    item.image_dir = not is_here and image_dir and fs.absolute(image_dir) or here
  end
end

--- Whether a folder lies below another one, really. One that is not there does not lie elsewhere.
local function is_below(dir, top)
  local real, root = fs.absolute(dir == "" and "." or dir), fs.absolute(top)
  local prefix = root and root:gsub("/$", "") .. "/"
  return not real or prefix ~= nil and (real .. "/"):sub(1, #prefix) == prefix
end

--- A record that the journal does not know may be anybody's. What it says of folders is believed below the
--- current one, or the one that the user names; and it may only speak of images.
---@param item table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:check_origin(item)
  local top = self.image_dir or "."
  if not is_below(item.image_dir, top) then
    return nil, ("the record of batch %s was not written by upload here, and says that its images are in %s: name "
      .. "that folder with --image-dir if this is right"):format(self.part.batch_id, text.printable(item.image_dir)),
      "USAGE"
  end
  if not sidecar.parse(sidecar.text_path(item.path)) then item.path = text.printable(item.path) .. "?" end
  return true
end

--- Finds out which custom_ids may write, and where: self.items.
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "USAGE": only the user knows
function Harvest:know_items()
  local record, items = self.record, {}
  local named = record.image_dir ~= "" and record.image_dir or nil
  local images = {}
  if not named and self.image_dir then
    local message, code
    images, message, code = images_below(self.image_dir)
    if not images then return nil, message, code end
  elseif not record.items then
    return nil, ("batch %s was submitted by an earlier script, and the service has forgotten its requests: name the "
      .. "folder of its images with --image-dir"):format(self.part.batch_id), "USAGE"
  end
  for _, item in ipairs(record.items or {}) do
    item.image_dir = item.image_dir or named
    if not item.image_dir then
      locate(item, images, self.image_dir)
    elseif self.part.legacy then
      local ok, message, code = self:check_origin(item)
      if not ok then return nil, message, code end
    end
    items[item.custom_id] = item
  end
  if not record.items then
    for id, path in pairs(images) do
      items[id] = path and { custom_id = id, path = path, image_dir = self.image_dir } or nil
    end
  end
  self.items = items
  local _, first = next(items)
  for _, item in pairs(items) do
    -- One may lie in the other: a text on its way would not be seen by another name of its image.
    if item.image_dir ~= first.image_dir then self.write_new = nil end
  end
  return true
end

-- ---------------------------------------------------------------- the files written

--- Takes away what a run that was killed may have left of a file that has no name until it is whole now.
local function remove_part(path)
  local part = path .. ".part"
  local stat = fs.lstat(part)
  if stat and (stat.type == "file" or stat.type == "link") then return fs.remove(part) end
  return true
end

--- Says why a good answer is not beside its image. False for what would befall every other one, too.
local function unwritten(found, message, code)
  if not OF_ONE_IMAGE[code] then return false end
  found.written, found.changed = false, nil
  found.reason = code == "ENOENT" and "answered, but the image is not there any more"
    or "answered, but its text cannot be written: " .. message
  return true
end

--- Hears of a file that another thread could not write, some time after it was given away.
---@param path string
---@param message string
---@param code string
---@return boolean goes_on  false: nothing more can be written
function Harvest:not_written(path, message, code)
  local found = self.given[path]
  if found then
    self.given[path] = nil
    return unwritten(found, message, code)
  end
  if OF_ONE_NAME[code] then self.note("JSON results that cannot be written", "%s", message) end
  return OF_ONE_NAME[code] == true
end

--- Gives a file away to be written; without one, waits for all of them. A failure is that of a file before, says
--- nothing of the image at hand whatever its code, and nothing more can be written then.
---@param path? string
---@param content? string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:give(path, content)
  while true do
    local ok, message, code, failed
    if path then
      ok, message, code, failed = self.files:write(path, content)
    else
      ok, message, code, failed = self.files:finish()
    end
    if ok then
      if not path then self.given = {} end
      return true
    end
    if not self:not_written(failed, message, code) then
      self.is_over = true
      return nil, message, code
    end
  end
end

--- The sidecar.folder of an item's images.
---@param item table
---@return obatch.sidecar.Folder|nil folder
---@return string|nil message
---@return string|nil code
function Harvest:folder_of(item)
  local dir = item.image_dir
  if not self.folders[dir] then
    local folder, message, code = sidecar.folder(dir)
    if not folder then
      return nil, ("the folder of the images is not there: %s. Bring it back, or run from the folder in which upload "
        .. "was run"):format(message), code == "ENOENT" and "NO_FOLDER" or code
    end
    self.folders[dir] = folder
  end
  return self.folders[dir]
end

--- Makes a folder below json_dir, and makes sure that it is one: a link would lead elsewhere.
---@param relative string
---@return string|nil dir
---@return string|nil message
---@return string|nil code
function Harvest:json_folder(relative)
  local dir = self.json_dir .. "/" .. relative
  if self.json_folders[relative] then return dir end
  local ok, message, code = fs.mkdir(dir)
  if not ok then return nil, message, code end
  local root = assert(fs.absolute(self.json_dir))
  if fs.absolute(dir) ~= root:gsub("/$", "") .. "/" .. relative then
    return nil, ("%s is a link, or lies behind one: remove it"):format(text.printable(dir)), "LINK"
  end
  local names
  names, message, code = fs.list(dir)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    local result = name:match "^(.*)%.part$"
    ok, message, code = true, nil, nil
    if result then ok, message, code = remove_part(dir .. "/" .. result) end
    if not ok then return nil, message, code end
  end
  self.json_folders[relative] = true
  return dir
end

--- batch_json_results/BATCH/CUSTOM_ID.json: the line, laid out to be read, its values untouched.
---@param item table
---@param line string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:write_json(item, line)
  local name, message, code = sidecar.file_name(item.custom_id)
  if name then
    local path = part_names.file_name(self.part.batch_id) .. "/" .. name
    local folder
    folder, message, code = self:json_folder(path:match("^(.*)/"))
    if folder then
      return self:give(folder .. path:match("/[^/]*$"), (json.pretty(line) or line) .. "\n")
    end
  end
  if not OF_ONE_NAME[code] then return nil, message, code end
  self.note("JSON results that cannot be written", "%s", message)
  return true
end

--- Whether an image is another file than the one that was sent.
---@param item table
---@return boolean
function Harvest:has_changed(item)
  local stat = item.bytes and fs.stat(item.path)
  if not stat then return false end
  if stat.size ~= item.bytes then return true end
  local batch = self.record.batch
  local created = type(batch) == "table" and tonumber(batch.created_at)
  if not item.sha256 or created and stat.mtime < created - UPLOAD_TIME then return false end
  return fs.sha256(item.path) ~= item.sha256
end

--- Makes room for the text of an image that upload --redo has sent again: the text that was there then, if
--- it is still the same, is kept as IMAGE.txt.before. true | nil, message, CODE.
local function make_room(item)
  local before = sidecar.before_path(item.path)
  if not item.replaces or fs.lstat(before) then return true end
  for _, path in ipairs { sidecar.text_path(item.path), sidecar.label_path(item.path) } do
    if fs.sha256(path) == item.replaces then return fs.rename(path, before) end
  end
  return true
end

--- Puts a good answer beside its image. Sets found.written: "written", "same", "kept", or false with
--- found.reason. After a failure nothing more can be written at all.
---@param item table
---@param found table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:write_text(item, found)
  local folder, message, code = self:folder_of(item)
  if not folder then return nil, message, code end
  local result
  local text_path = sidecar.text_path(item.path)
  result, message, code = folder:check(item.path)
  if result then result, message, code = make_room(item) end
  if result and self.given[text_path] then result, message, code = self:give() end -- to see what is there
  if result then result, message, code = folder:write(item.path, found.text, self.overwrite, self.write_new) end
  if code == "OUTSIDE" and self.part.legacy and not self.image_dir then
    return nil, message .. ". Its batch is of an earlier script: name the images' folder with --image-dir", "USAGE"
  end
  if not result then
    if not self.is_over and unwritten(found, message, code) then return true end
    return nil, message, code
  end
  found.written = result
  if result == "written" then self.given[text_path] = found end
  if result == "kept" then
    self.note("other texts", "%s: another text is there and stays (the new one is in %s)",
      text.printable(text_path), text.printable(self.json_dir))
  end
  if self:has_changed(item) then
    found.changed = true
    self.note("images that have changed", "%s has changed since it was sent; the text is that of the old image",
      text.printable(item.path))
  end
  return true
end

-- ---------------------------------------------------------------- judging

--- The text of a line that was judged valid, and the steps taken to get at it.
---@param record obatch.jsonl.Record
---@return string|nil text
---@return string[]|string steps  else why it is none
function Harvest:text_of(record)
  local answer, steps = outcome.answer(record, self.rules)
  local page_text = self.rules.page_text
  if not page_text then return answer, steps end
  local value = self.rules.expect == "json" and json.decode(answer) or answer
  local page, reason = page_text(value, { custom_id = record.custom_id, text = outcome.text(record) })
  if type(page) ~= "string" then return nil, reason or "the policy's page_text() found no text in it" end
  return page, steps
end

--- Judges a line: an outcome that has .text, too, where it is valid, .steps and .model.
---@param record obatch.jsonl.Record
---@return obatch.Outcome found
function Harvest:judge(record)
  local found = outcome.judge(record, self.rules)
  if found.class == "valid" then
    found.text, found.steps = self:text_of(record)
    if not found.text then found.class, found.reason, found.steps = "invalid", found.steps, nil end
  end
  found.is_json = found.text and self.rules.expect == "text" and found.text:find("^%s*{") and json.check(found.text)
  if found.text and text.is_blank(found.text) then found.text, found.blank = "", true end
  local model = json.get(record.text, "/response/body/model")
  found.model = type(model) == "string" and text.cut(model, 200) or self.record.request and self.record.request.model
  return found
end

--- Takes in every line of a result file: the first good answer to an id counts, else the first.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:take_file(path)
  local lines, message, code = outcome.scan(path, self.rules)
  if not lines then return nil, message, code end
  local function note(record, kind, format, ...)
    self.counts.foreign = self.counts.foreign + 1
    self.note(kind, "%s:%d: " .. format, text.printable(path), record.number, ...)
  end
  for record in progress.over(lines, "storing", path) do
    local id = record.custom_id
    local item = type(id) == "string" and self.items[id] or nil
    local before = item and self.found[id]
    if record.error then
      self.note("lines that are not JSON", "%s; the line is left out", text.printable(record.error))
    elseif type(id) ~= "string" then
      note(record, "lines without a custom_id", "there is no custom_id; the line is left out")
    elseif not item then
      note(record, "lines for unknown custom_ids", "custom_id '%s' was not submitted with batch %s; "
        .. "nothing is written for it", text.printable(text.cut(id, 300)), self.part.batch_id)
    elseif before and before.class == "valid" then
      -- In a job of the correction loop, it was asked several times.
      local note_second = self.part.failures and function() end or self.note
      note_second("second answers", "%s:%d: custom_id '%s' is answered twice; the first good answer counts",
        text.printable(path), record.number, text.printable(id))
    else
      local found = self:judge(record)
      if not before or found.class == "valid" then
        self.found[id] = found
        local ok
        ok, message, code = self:write_json(item, record.text)
        if ok and found.text then ok, message, code = self:write_text(item, found) end
        if not ok then return nil, message, code end
        found.text = nil -- a batch may hold more text than memory
      end
    end
  end
  return true
end

--- What became of an item that is in no result file.
---@return { class: string, reason: string } found
function Harvest:absent()
  local status = self.part.ended and self.part.ended.status
  if status == "expired" or status == "cancelled" then
    return { class = status, reason = ("its batch was %s before the request ran"):format(status) }
  elseif status == "failed" then
    return { class = "cancelled", reason = "its batch failed validation because of other requests, and did not run" }
  end
  return { class = "missing", reason = "in neither the output nor the error file" }
end

--- Makes sure that every item has an outcome, and counts them.
function Harvest:count()
  local counts = self.counts
  for _, class in ipairs(outcome.CLASSES) do counts[class] = 0 end
  for _, item in ipairs(self.record.items or {}) do
    local id = item.custom_id
    local failure = self.part.failures and self.part.failures[id]
    if not self.found[id] or failure and self.found[id].class ~= "valid" then
      self.found[id] = failure or self:absent()
    end
  end
  for _, found in pairs(self.found) do
    counts.submitted = counts.submitted + 1
    counts[found.class] = counts[found.class] + 1
    if found.class == "valid" then
      local what = found.written or "unwritten"
      counts[what] = counts[what] + 1
      if found.blank then counts.blank = counts.blank + 1 end
      if found.is_json then counts.json = counts.json + 1 end
      if found.changed then counts.changed = counts.changed + 1 end
    end
  end
end

-- ---------------------------------------------------------------- what is noted

--- provenance.jsonl in every folder that has images of this batch.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:write_provenance()
  local by_folder = {}
  for id, found in pairs(self.found) do
    if found.class == "valid" and found.written then
      local item = self.items[id]
      local folder, name = item.path:match("^(.*/)([^/]*)$")
      folder, name = folder or "./", name or item.path
      by_folder[folder] = by_folder[folder] or {}
      table.insert(by_folder[folder], { image = text.printable(name), custom_id = id, batch = self.part.batch_id,
        sha256 = item.sha256, prompt_sha256 = item.prompt_sha256, model = found.model, attempt = item.attempt,
        tokens_in = found.tokens_in, tokens_out = found.tokens_out, steps = json.array(found.steps),
        written = found.written ~= "kept", image_changed = found.changed })
    end
  end
  for folder, entries in pairs(by_folder) do
    table.sort(entries, function(a, b) return a.custom_id < b.custom_id end)
    local ok, message, code = sidecar.add_provenance(folder, entries)
    if not ok then return nil, message, code end
  end
  return true
end

--- What unresolved.jsonl says of the images of this batch, by their real paths: how often each had each
--- class of outcome in other batches, anew after a good answer; and whether its last word is that it has
--- no text.
---@return table<string, table<string, integer>>|nil counts
---@return table<string, boolean>|string open  else the message
---@return string|nil code
function Harvest:history()
  local counts, open, is_ours = {}, {}, {}
  for id in pairs(self.found) do is_ours[image_record.real_path(self.items[id].path)] = true end
  for entry in self.shelf:unresolved() do
    local path = image_record.real_path(entry.path)
    if is_ours[path] and entry.class then
      open[path] = entry.action ~= "done"
      local before = counts[path] or {}
      if entry.batch ~= self.part.batch_id then before[entry.class] = (before[entry.class] or 0) + 1 end
      counts[path] = open[path] and before or nil
    end
  end
  return counts, open
end

--- What the policy does with an item that has no good answer, and how many answers were taken.
---@param item table
---@param found table
---@param before table  its counts in other batches
---@return string action
---@return integer attempts
function Harvest:decide(item, found, before)
  if found.action then return found.action, found.attempts end -- by the correction loop
  local counts, attempts = {}, 0
  for _, class in ipairs(outcome.CLASSES) do
    counts[class] = (before and before[class] or 0) + (class == found.class and 1 or 0)
    if class ~= "expired" and class ~= "cancelled" then attempts = attempts + counts[class] end
  end
  if found.class == "valid" then return "give_up", attempts end -- asking again would be paying twice
  local action = self.rules.action { class = found.class, reason = found.reason, counts = counts, attempts = attempts,
    custom_id = item.custom_id }
  if action ~= "resend" and action ~= "give_up" then
    error(('policy.action must return "resend" or "give_up", not %s (custom_id %s)'):format(
      tostring(action), item.custom_id))
  end
  return action, attempts
end

--- Everything that has no text beside its image, and what has one at last ("done"), in the order of its
--- custom_ids.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:note_unresolved()
  if not self.shelf then return true end
  local list, history, open = {}, self:history()
  for id, found in pairs(self.found) do
    local item = self.items[id]
    found.is_done = found.class == "valid" and found.written
    if not found.is_done or open[image_record.real_path(item.path)] then list[#list + 1] = item end
  end
  table.sort(list, function(a, b) return a.custom_id < b.custom_id end)
  local entries = {}
  for i, item in ipairs(list) do
    local found, action, attempts = self.found[item.custom_id], "done", nil
    if not found.is_done then
      action, attempts = self:decide(item, found, history[image_record.real_path(item.path)])
    end
    entries[i] = { custom_id = item.custom_id, path = item.path, batch = self.part.batch_id, class = found.class,
      reason = found.reason, action = action, attempts = attempts }
  end
  return self.shelf:note_unresolved(entries)
end

--- Makes everything that was written durable, in one go for each folder that upload was given. The folder of a text
--- that could not be written may be gone, and is not asked for.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Harvest:sync()
  local dirs = {}
  for id, found in pairs(self.found) do
    local item = self.items[id]
    local dir, other = item.path:match("^(.*/)") or ".", dirs[item.image_dir]
    if found.written and not (other and other < dir) then dirs[item.image_dir] = dir end -- the first of them
  end
  for _, dir in pairs(dirs) do
    local ok, message, code = fs.sync(dir)
    if not ok then return nil, message, code end
  end
  if not next(self.json_folders) then return true end
  return fs.sync(self.json_dir)
end

---@class obatch.harvest.Part
---@field batch_id string
---@field files string[]   paths of its result files, output first
---@field record { items: table[], image_dir?: string, request?: table }  see obatch.records
---@field ended? { status: string }  "expired" and "cancelled" say why an item is in no file
---@field failures? table<string, table>  by custom_id: class, reason, action, attempts of items that are in no file

---@class obatch.harvest.Options
---@field shelf obatch.Shelf
---@field rules table         a policy
---@field json_dir string     where the JSON results go, a folder for each batch
---@field image_dir? string   the folder of the images, where the record does not say
---@field overwrite? boolean  replace other texts that are there
---@field log fun(line: string)

--- Harvests a part whose result files are there. The counts: submitted, and one for each outcome class, which add up to
--- it; of the valid ones written, same, kept (another text is there) and unwritten add up; blank, json (a whole JSON
--- object where text was expected) and changed (the image has) are some of them; foreign counts lines that answer
--- nothing that was submitted. After a failure nothing more can be written, and nothing is lost by harvesting again.
---@param part obatch.harvest.Part
---@param options obatch.harvest.Options
---@return table<string, integer>|nil counts
---@return string|nil message
---@return string|nil code
function harvest.part(part, options)
  local self = setmetatable({ part = part, record = part.record, shelf = options.shelf, rules = options.rules,
    json_dir = options.json_dir, image_dir = options.image_dir, overwrite = options.overwrite,
    folders = {}, json_folders = {}, found = {},
    given = {}, -- path of a text that may still be on its way -> whose outcome it is
    counts = { submitted = 0, written = 0, same = 0, kept = 0, unwritten = 0, blank = 0, json = 0, changed = 0,
      foreign = 0 },
  }, Harvest)
  local files <close> = fs.files()
  self.files = files
  function self.write_new(path, content)
    local ok, message, code = remove_part(path)
    if not ok then return nil, message, code end
    return self:give(path, content)
  end
  local finish
  self.note, finish = progress.notes(options.log)

  local ok, message, code = self:know_items()
  for _, path in ipairs(part.files) do
    if ok then ok, message, code = self:take_file(path) end
  end
  if ok then ok, message, code = self:give() end -- what is told from here on is true
  finish()
  if not ok then return nil, message, code end
  self:count()
  for _, step in ipairs { self.write_provenance, self.sync, self.note_unresolved } do
    ok, message, code = step(self)
    if not ok then return nil, message, code end
  end
  return self.counts
end

return harvest
