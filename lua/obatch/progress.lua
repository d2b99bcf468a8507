--- What a running command tells: lines that stay, and below them a region of at most three lines that is renewed
--- in place on a terminal (a line a minute elsewhere). All of it goes to stderr; stdout is for results.
--
-- There is one terminal, so there is one progress: the command that runs makes it (progress.new), and the nouns
-- tell it what they are at (progress.stage, progress.over) without being handed it. Where no command has made
-- one, as in a script that uses them as a library, they tell nobody.
--
-- The cursor waits at the beginning of the region, so that "erase from here" takes the region away whatever the
-- size of the window has become meanwhile, and takes nothing else when a shell has written below it (Ctrl-Z, fg).

local columns = require "obatch.columns"
local fs = require "obatch.fs"
local pace = require "obatch.pace"
local term = require "obatch.term"
local text = require "obatch.text"
local units = require "obatch.units"

--- Seconds between two status lines where there is no terminal, and between two looks of the region.
local LINE_INTERVAL, REGION_INTERVAL = 60, 0.2

--- The region appears after this many seconds: what ends before needs none.
local PATIENCE = 0.4

--- Lines of the region at most.
local MOST_LINES = 3

--- Bytes between two looks at the clock while a file is read.
local STEP = 1 << 16

local SEPARATOR = " · "

--- What stands for the characters of the region that a locale without UTF-8 does not have.
local ASCII = { ["·"] = "-", ["…"] = "~" }

local RED, PLAIN, ERASE = "\27[31m", "\27[m", "\r\27[J"

---@class obatch.Progress
local Progress = {}
Progress.__index = Progress

--- Something that lasts.
---@class obatch.Stage
local Stage = {}
Stage.__index = Stage

local progress = {}

--- The progress of the command that runs, nil when there is none.
local current

-- ---------------------------------------------------------------- what is shown

--- A piece of the region: words, whether they are bad news, and the words for where they are too wide.
local function piece(list, words, is_bad, short)
  if words then list[#list + 1] = { words = text.shown(words), is_bad = is_bad, short = short } end
end

--- A point in time of the next days.
local function when(unix, now)
  local day = os.date("%Y-%m-%d", math.floor(unix))
  if day == os.date("%Y-%m-%d", math.floor(now)) then return os.date("%H:%M", math.floor(unix)) end
  if day == os.date("%Y-%m-%d", math.floor(now) + 86400) then return os.date("tomorrow %H:%M", math.floor(unix)) end
  return os.date("%Y-%m-%d %H:%M", math.floor(unix))
end

local function amount(number, unit)
  return unit == "bytes" and units.bytes(number) or units.number(number)
end

--- Where a stage stands, which its pace takes in.
local function look_at(stage, now)
  local facts = stage.facts and stage.facts() or stage
  if facts.done then stage.pace:note(facts.done, facts.at or now) end
  return facts
end

--- The pieces of a stage, the most important ones first.
local function pieces_of(stage, facts, now)
  local list, done, total, unit = {}, facts.done, facts.total, stage.unit
  piece(list, stage.name)
  if done and total and total > 0 then
    local of = unit == "bytes" and "%s of %s" or "%s of %s " .. (unit or "")
    piece(list, of:format(amount(math.min(done, total), unit), amount(total, unit)))
  elseif done and done > 0 then
    piece(list, unit == "bytes" and units.bytes(done) or ("%s %s"):format(units.number(done), unit or ""))
  end
  if (facts.failed or 0) > 0 then piece(list, units.number(facts.failed) .. " failed", true) end
  if (facts.in_flight or 0) > 0 then piece(list, units.number(facts.in_flight) .. " in flight") end
  local rate = facts.rate or unit == "bytes" and stage.pace:rate()
  if rate then piece(list, units.bytes(rate) .. "/s") end
  for _, words in ipairs(facts.words or {}) do piece(list, words) end

  -- When all is done, what is left is something else, and the pace may not have seen the last of it.
  local left = done and total and done < total and pace.words(stage.pace:left(total, now))
  local time = stage.line.time()
  piece(list, left and left .. (stage.scope or ""), false, left)
  if not left and facts.latest_at then piece(list, "at the latest " .. when(facts.latest_at, time)) end
  if now - stage.began >= 1 then piece(list, units.duration(now - stage.began) .. " so far") end
  if facts.expires_at then piece(list, "first expires in " .. units.duration(facts.expires_at - time)) end
  return list
end

--- The pieces as lines of so many places, at most so many lines; what has no place is left out.
local function lay_out(list, width, most, has_colour)
  local lines, used = {}, 0
  for _, one in ipairs(list) do
    local words = columns.cut(columns.places(one.words) > width and one.short or one.words, width)
    local places = columns.places(words)
    if one.is_bad and has_colour then words = RED .. words .. PLAIN end
    if #lines > 0 and used + #" . " + places <= width then
      lines[#lines], used = lines[#lines] .. SEPARATOR .. words, used + #" . " + places
    elseif #lines < most then
      lines[#lines + 1], used = words, places
    end
  end
  return lines
end

-- ---------------------------------------------------------------- the terminal

--- Whether this process may write on its terminal as it likes: not after "bg", and not when started with "&".
local function is_in_foreground()
  local stat = fs.read("/proc/self/stat", 4096)
  local group, foreground = (stat or ""):match("^.*%) %S %S+ (%S+) %S+ %S+ (%S+)")
  return group == foreground
end

--- Whether the locale says that the terminal, or who reads the file, takes UTF-8.
local function is_utf8()
  for _, name in ipairs { "LC_ALL", "LC_CTYPE", "LANG" } do
    local value = os.getenv(name)
    if value and value ~= "" then return value:lower():find "utf%-?8" ~= nil end
  end
  return false
end

--- Erases the region.
local function hide(self)
  if self.shown and self.is_foreground() then self.write(ERASE) end
  self.shown = false
end

local function draw(self, now)
  local list = pieces_of(self.doing, look_at(self.doing, now), now)
  if not self.on_terminal or not self.is_foreground() then
    self.next_draw, self.shown = now + 1, false
    if now >= self.next_line then
      self.next_line = now + LINE_INTERVAL
      for i, one in ipairs(list) do list[i] = one.words end
      self.write(os.date("%H:%M:%S ") .. self.encode(table.concat(list, SEPARATOR)) .. "\n")
    end
    return
  end
  self.next_draw, self.next_line = now + REGION_INTERVAL, now + LINE_INTERVAL
  local width, rows = self.size()
  local most = math.max(1, math.min(MOST_LINES, rows - 1))
  local lines = lay_out(list, math.max(1, width - 1), most, self.has_colour)
  local up = #lines > 1 and ("\27[%dA"):format(#lines - 1) or ""
  self.write("\r" .. self.encode(table.concat(lines, "\27[K\n")) .. "\27[J" .. up .. "\r")
  self.shown = true
end

--- Renews what is shown where it is time.
local function tick(self, stage)
  if self.is_quiet then return end
  self.doing = stage or self.doing
  if not self.doing then return end
  local now = self.clock()
  if now >= self.next_draw then draw(self, now) end
end

--- Begins to tell what a command does; until it is closed it is the one that progress.stage and the like speak of.
--- Options: quiet; and for tests terminal (whether there is one), colour, utf8, clock, time, size, foreground, write.
---@param options? { quiet?: boolean, terminal?: boolean, colour?: boolean, utf8?: boolean,
---  clock?: (fun(): number), time?: (fun(): number), size?: (fun(): integer, integer), foreground?: (fun(): boolean),
---  write?: fun(bytes: string) }
---@return obatch.Progress
function progress.new(options)
  options = options or {}
  local no_colour, is_dumb = os.getenv "NO_COLOR", os.getenv "TERM" == "dumb"
  local self = setmetatable({
    clock = options.clock or function() return term.clock() end,
    time = options.time or function() return term.time() end,
    size = options.size or term.size,
    is_foreground = options.foreground or is_in_foreground,
    write = options.write or function(bytes) io.stderr:write(bytes) end,
    on_terminal = options.terminal, has_colour = options.colour,
    is_quiet = options.quiet, shown = false,
  }, Progress)
  local has_utf8 = options.utf8
  if has_utf8 == nil then has_utf8 = is_utf8() end
  self.encode = function(words) return has_utf8 and words or (words:gsub("\xC2\xB7", ASCII):gsub("\u{2026}", ASCII)) end
  if self.on_terminal == nil then self.on_terminal = term.isatty(2) and not is_dumb end
  if self.has_colour == nil then self.has_colour = not (no_colour and no_colour ~= "") end
  local now = self.clock()
  self.next_draw = self.is_quiet and math.huge or now + (self.on_terminal and PATIENCE or 1)
  self.next_line = now + LINE_INTERVAL
  current = self
  return self
end

--- A line that stays, above the region. It may hold words of the service: no control character of theirs reaches
--- the terminal.
---@param words string
function Progress:say(words)
  if self.is_quiet then return end
  local was_shown = self.shown
  hide(self)
  self.write(os.date("%H:%M:%S ") .. text.shown(words) .. "\n")
  if was_shown then draw(self, self.clock()) end
end

--- A line for stdout, which may be the same terminal.
---@param line string  as it is to be written
function Progress:print(line)
  hide(self)
  io.stdout:write(line, "\n")
  io.stdout:flush() -- where stderr goes to the same file, the order is that of what happened
end

--- Begins something that lasts: it is what is shown, until another stage is told of. Options:
---   total    how much there is of it, where that is known
---   unit     what is counted: "bytes", or a word such as "images"
---   scope    what is said after "about 5 min left", where more may follow: " in this iteration"
---   facts()  instead of update(): called whenever what is shown is renewed; returns { done=, total=, failed=,
---            in_flight=, rate= (bytes a second), words= (a list), at= (when done was seen, by the clock),
---            expires_at=, latest_at= (Unix times) }, all of them optional
---@param name string
---@param options? { total?: number, unit?: string, scope?: string, facts?: fun(): table }
---@return obatch.Stage
function Progress:stage(name, options)
  local now = self.clock()
  local stage = setmetatable({ line = self, name = name, began = now, checked = 0, pace = pace.new() }, Stage)
  for key, value in pairs(options or {}) do stage[key] = value end
  stage.step = stage.unit == "bytes" and STEP or 0
  if not stage.facts then stage.pace:note(0, now) end
  -- Where nothing is counted, nobody may tell of it again until it is over, and the stage before is not what lasts.
  if self.shown and not (stage.facts or stage.total or stage.unit) then self.next_draw = now end
  tick(self, stage)
  return stage
end

--- Tells how much of it is done. Costs next to nothing: it may be called for each line of a file.
---@param done? number  nil: no more than before, but it goes on
function Stage:update(done)
  self.done = done or self.done
  local line = self.line
  if line.is_quiet then return end
  if done and done - self.checked < self.step and line.doing == self then return end
  self.checked = done or self.checked
  tick(line, self)
end

--- All of it is done: so it is shown until something else is told of, however long that takes.
local function finish(stage)
  local line = stage.line
  stage.done = stage.total
  if line.shown and line.doing == stage then draw(line, line.clock()) end
end

--- Takes the region away for good; lines can still be said.
function Progress:close()
  hide(self)
  self.doing, self.next_draw = nil, math.huge
  if current == self then current = nil end
end
Progress.__close = Progress.close

-- ---------------------------------------------------------------- for the nouns

--- Where nobody watches.
local NOBODY = setmetatable({ is_quiet = true, clock = function() return 0 end, next_draw = math.huge, shown = false },
  Progress)

--- Begins something that lasts: see Progress:stage.
---@param name string
---@param options? table
---@return obatch.Stage
function progress.stage(name, options) return (current or NOBODY):stage(name, options) end

--- Goes through the records of a file (those of jsonl.scan, which know their offset), and tells how far it is.
---@generic R
---@param records fun(): R
---@param name string  what is done
---@param path string
---@return fun(): R
function progress.over(records, name, path)
  if not current or current.is_quiet then return records end
  local stage = current:stage(("%s %s"):format(name, path:match("[^/]*$")),
    { total = (fs.stat(path) or {}).size, unit = "bytes" })
  local step, due = stage.step, 0
  return function()
    local record = records()
    if not record then
      finish(stage)
    elseif record.offset >= due then
      stage:update(record.offset)
      due = record.offset + step
    end
    return record
  end
end

--- Waits as term.sleep does, and renews what is shown meanwhile.
---@param seconds number
---@return true|nil ok
---@return string? message
---@return string? code
function progress.sleep(seconds)
  if not current or current.is_quiet then return term.sleep(seconds) end
  while true do
    local slice = math.min(1, seconds)
    local ok, message, code = term.sleep(slice)
    seconds = seconds - slice
    if not ok then return nil, message, code end
    if seconds <= 0 then return true end
    tick(current)
  end
end

--- Takes the region away for a moment: something else is to be written to the terminal.
function progress.hide()
  if current then hide(current) end
end

--- Adds the option of commands that last.
---@param parser table  of cli.parser
function progress.options(parser)
  parser:flag("--quiet", "Tell nothing on the way, only what is wrong and what came of it.")
end

--- How many odd things of one kind are told one by one.
local MAX_NOTES = 10

--- Tells of odd things: the first few of each kind, then how many more there were.
---@param log fun(line: string)
---@return fun(kind: string, format: string, ...) note
---@return fun() finish
function progress.notes(log)
  local counts = {}
  return function(kind, format, ...)
    counts[kind] = (counts[kind] or 0) + 1
    if counts[kind] <= MAX_NOTES then log(format:format(...)) end
  end, function()
    for kind, count in pairs(counts) do
      if count > MAX_NOTES then log(("... and %d more %s"):format(count - MAX_NOTES, kind)) end
    end
  end
end

return progress
