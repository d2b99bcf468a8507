--- Files of results and of requests, and the requests of a job, as sequences that are looked through without being
--- loaded: where(), each(), count(), sample(). Files may have any size.

local columns = require "obatch.columns"
local fs = require "obatch.fs"
local ids = require "obatch.history.ids"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local show = require "obatch.repl.show"
local text = require "obatch.text"
local units = require "obatch.units"

local stream = {}

--- A failure of the world is raised here, since nobody looks at what an assignment returns; without a traceback.
---@class obatch.repl.Failure
---@field message string
---@field code string?
local Failure = { __name = "failure", __tostring = function(self) return self.message end }
stream.Failure = Failure

--- What fs.stat says of a path; raises where there is nothing, naming what is near.
---@param path string
---@return table stat
function stream.find(path)
  local stat, message, code = fs.stat(path)
  if stat then return stat end
  local folder, name = path:match("^(.*/)([^/]+)/*$")
  local names = fs.list(folder or ".") or {}
  local near = ids.near({ count = #names, id = function(_, i) return names[i] end }, name or path)
  for i, each in ipairs(near) do near[i] = text.shown((folder or "") .. each) end
  if code == "ENOENT" then message = ("there is no %s"):format(text.shown(path)) end
  return stream.check(nil, message .. (#near > 0 and "; near it: " .. table.concat(near, ", ") or ""), code)
end

--- Passes results on, or raises nil, message, CODE as a failure.
---@param ... any
---@return any ...
function stream.check(...)
  if (...) ~= nil then return ... end
  local message, code = select(2, ...)
  error(setmetatable({ message = tostring(message), code = code }, Failure), 0)
end

local function fail(format, ...) stream.check(nil, format:format(...)) end

-- ---------------------------------------------------------------- records

--- A line, or a request of a job. Fields that cost more than reading are worked out when one of them is asked for
--- first, by the function `_fill`.
local Record = { __name = "record" }

--- Judges a result: `_scanned` is what jsonl.scan made of its line.
local function fill_result(record)
  local scanned = record._scanned
  for name, value in pairs(outcome.judge(scanned, record._rules)) do record[name] = value end
  local is_plain = type(scanned.content) == "string" and not scanned.output
  record.text = is_plain and scanned.content or outcome.text(record.line)
  record._scanned, record._rules = nil, nil
end

local function fill_request(record) record.text = show.asked(record.line) end

--- The record with all fields, so that Tab and the screen have them.
local function complete(record)
  local fill_it = rawget(record, "_fill")
  record._fill = nil
  if fill_it then fill_it(record) end
  return record
end

function Record.__index(record, name)
  return rawget(record, "_fill") and rawget(complete(record), name) or nil
end

function Record.__tostring(record)
  return rawget(record, "line") and show.line(record.line, 160)
    or ("%s %s"):format(text.shown(tostring(record.custom_id)), text.shown(tostring(record.class)))
end

function Record.__display(record, width, rows)
  local plain = {}
  for key, value in next, complete(record) do plain[key] = value end
  return show.value(plain, width, rows)
end

--- A record of a line that is no JSON.
local function unreadable(line)
  return setmetatable({ number = line.number, class = "unreadable",
    reason = ("line %d: %s"):format(line.number, line.error) }, Record)
end

--- The records of a file: `make` makes one of what jsonl.scan makes of a line. Reading is shown as progress where
--- nothing else is shown meanwhile (`is_silent`).
local function read_lines(path, plan, make)
  return function(is_silent)
    local advance, scanner = stream.check(jsonl.scan(path, plan))
    local function scan() return advance(scanner) end
    local next_line = is_silent and progress.over(scan, "reading", path) or scan
    return function()
      local line = next_line()
      if not line then return nil end
      return line.error and unreadable(line) or setmetatable(make(line), Record)
    end
  end
end

-- ---------------------------------------------------------------- streams

---@class obatch.repl.Stream
local Stream = { __name = "stream" }
Stream.__index = Stream

--- What a method is called for; it says so where the dot was meant to be a colon.
local function state_of(self)
  local state = getmetatable(self) == Stream and self._state or nil
  return state or stream.check(nil, "this is a method: write it with a colon, as in r:count()")
end

local function new(state) return setmetatable({ path = state.path, _state = state }, Stream) end

--- The records that the filters let through, one after the other.
local function records(state, is_silent)
  local advance = state.read(is_silent)
  return function()
    while true do
      local record = advance()
      if not record then return nil end
      local good = true
      for _, filter in ipairs(state.filters) do
        if not filter(record) then
          good = false
          break
        end
      end
      if good then return record end
    end
  end
end

--- Only those for which fn(record) is true: r:where(function(x) return x.class == "invalid" end). Nothing is read
--- before somebody asks for records.
---@param fn fun(record: table): any
---@return obatch.repl.Stream
function Stream:where(fn)
  local whole, state = state_of(self), {}
  if type(fn) ~= "function" then fail("where() takes a function of a record: r:where(function(x) return x.class ~= %s",
    '"valid" end)') end
  for key, value in pairs(whole) do state[key] = value end
  state.filters = table.move(whole.filters, 1, #whole.filters, 1, {})
  table.insert(state.filters, fn)
  return new(state)
end

--- for record in r:each() do ... end, or r:each(print).
---@param fn (fun(record: table): any)?
---@return (fun(): table?)?
function Stream:each(fn)
  local state = state_of(self)
  if not fn then return records(state) end
  for record in records(state) do fn(record) end
end

local Counts = { __name = "counts" }

function Counts.__display(counts, width, rows)
  local list = {}
  for value, count in next, counts do list[#list + 1] = { tostring(value), units.number(count), count } end
  table.sort(list, function(a, b)
    if a[3] ~= b[3] then return a[3] > b[3] end
    return a[1] < b[1]
  end)
  local more = #list - math.max(rows - 3, 4)
  if more > 0 then list = table.move(list, 1, #list - more, 1, {}) end
  local shown = columns.format(list, { { "" }, { "count", align = "right" } }, width)
  return shown .. (more > 0 and ("… %d more values\n"):format(more) or "")
end

--- How many there are; of each value of a field with its name, or with what a function makes of a record: a table.
---@param by (string|fun(record: table): any)?
---@return integer|table<any, integer>
function Stream:count(by)
  local state = state_of(self)
  if by ~= nil and type(by) ~= "string" and type(by) ~= "function" then
    fail("count() takes the name of a field, or a function of a record")
  end
  if not by then
    local count = 0
    for _ in records(state, true) do count = count + 1 end
    return count
  end
  local counts = setmetatable({}, Counts)
  for record in records(state, true) do
    local value
    if type(by) == "function" then value = by(record) else value = record[by] end
    if value == nil then value = "(none)" end
    counts[value] = (counts[value] or 0) + 1
  end
  return counts
end

local Sample = { __name = "sample" }

--- So many of them, drawn evenly, in their order.
---@param size integer? 5
---@return table[]
function Stream:sample(size)
  local state = state_of(self)
  size = math.tointeger(size or 5)
  if not size or size < 1 then fail("sample() takes how many to draw, at least 1") end
  local chosen, seen = {}, 0
  for record in records(state, true) do
    seen = seen + 1
    local place = seen <= size and seen or math.random(seen)
    if place <= size then chosen[place] = { seen, record } end
  end
  table.sort(chosen, function(a, b) return a[1] < b[1] end)
  local list = setmetatable({}, Sample)
  for i, entry in ipairs(chosen) do list[i] = complete(entry[2]) end
  rawset(list, "_columns", state.columns)
  return list
end

local function line_of(state, id)
  if not state.path then fail("this is no file: j:why(id) tells of a request") end
  if type(id) ~= "string" then fail("a custom_id is a string") end
  local shared = state.shared
  if not shared.index then shared.index = stream.check(jsonl.index(state.path, "/custom_id")) end
  local line = shared.index:line(id)
  if not line then fail("%s: there is no line with the custom_id '%s'", text.shown(state.path), text.shown(id)) end
  return line
end

--- The line with a custom_id, as it is in the file. The first call reads the file once and remembers where each
--- line is.
---@param id string
---@return string
function Stream:line(id) return line_of(state_of(self), id) end

--- The text of the answer (of the last message of a request) with a custom_id; nil when there is none.
---@param id string
---@return string?
function Stream:text(id)
  local state = state_of(self)
  local line = line_of(state, id)
  return state.kind == "request" and show.asked(line) or outcome.text(line)
end

-- ---------------------------------------------------------------- on the screen

--- A cell: the first words of a value, on one line.
local function one_line(value, places)
  if type(value) ~= "string" then return value end
  return (text.cut(value, 4 * places):gsub("%s+", " "))
end

--- An id that would leave no room for the rest of a table is cut in its middle: paths differ at their end.
local function short_id(id, places)
  id = columns.shown(id)
  if columns.places(id) <= places then return id end
  local tail = utf8.offset(id, -(places // 2), #id + 1)
  while columns.places(id:sub(tail)) > places // 2 do tail = utf8.offset(id, 2, tail) end
  return columns.cut(id, places - places // 2) .. id:sub(tail)
end

local function table_of(list, shape, width)
  local rows = {}
  for i, record in ipairs(list) do
    rows[i] = {}
    for n, column in ipairs(shape) do
      local value = column.get and column.get(record) or not column.get and record[column[1]]
      rows[i][n] = one_line(value, width)
      if column[1] == "custom_id" and value then rows[i][n] = short_id(rows[i][n], math.max(width // 2, 16)) end
    end
  end
  return columns.format(rows, shape, width)
end

function Sample.__display(list, width) return table_of(list, rawget(list, "_columns"), width) end

function Stream.__display(self, width, rows)
  local state = self._state
  local list, most, more = {}, math.max(rows - 5, 4), false
  for record in records(state, true) do
    more = #list == most
    if more then break end
    list[#list + 1] = record
  end
  local shown = #list > 0 and table_of(list, state.columns, width) or ""
  local end_note = #list == 0 and "none" or more and "… and more: :count(), :sample(5)"
    or ("%d in all"):format(#list)
  return ("%s%s\n%s%s"):format(columns.cut(state.title, width - 8), #state.filters > 0 and ", some" or "", shown,
    columns.cut(end_note, width))
end

function Stream.__tostring(self) return self._state.title end

-- ---------------------------------------------------------------- what there are streams of

local RESULT_COLUMNS = { { "custom_id", keep = true }, { "class" }, { "in", align = "right", drop = 1,
  get = function(record) return record.tokens_in end }, { "out", align = "right", drop = 2,
  get = function(record) return record.tokens_out end }, { "text",
  get = function(record) return record.class ~= "valid" and record.reason or record.text end } }

local REQUEST_COLUMNS = { { "custom_id", keep = true }, { "model" }, { "url", drop = 1 },
  { "bytes", align = "right", drop = 2, get = function(record) return record.line and #record.line end },
  { "text", get = function(record) return record.text or record.reason end } }

local ITEM_COLUMNS = { { "custom_id", keep = true }, { "class" }, { "action" },
  { "attempts", align = "right", drop = 1 }, { "reason" } }

local function open_file(path, kind, plan, shape, make)
  if type(path) ~= "string" then fail("the path of a file is expected, such as \"file.jsonl\"") end
  local stat = stream.find(path)
  if stat.type == "dir" then fail("%s is a folder; job %q opens one", text.shown(path), text.shown(path)) end
  return new { path = path, kind = kind, columns = shape, filters = {}, shared = {},
    read = read_lines(path, plan, make),
    title = ("%ss in %s, %s"):format(kind, text.shown(path), units.bytes(stat.size)) }
end

--- The result lines of a file, judged by `rules`, or as "json" or "text". Records have custom_id, class, reason,
--- status, text (of the answer), tokens_in, tokens_out, line (as it is in the file) and number.
---@param path string
---@param rules table|"json"|"text"|nil nil: the rules of the folder that is open, else the default ones
---@return obatch.repl.Stream
function stream.results(path, rules)
  if type(rules) == "string" then
    local expect = rules
    if expect ~= "json" and expect ~= "text" then fail('results are judged as "json" or as "text"') end
    rules = setmetatable({ expect = expect, allow_blank = expect == "text" }, { __index = show.rules })
  end
  local plan = { model = "/response/body/model" }
  for name, pointer in pairs(outcome.FIELDS) do plan[name] = pointer end
  rules = rules or show.rules
  return open_file(path, "result", plan, RESULT_COLUMNS, function(line)
    return { custom_id = line.custom_id, status = line.status, model = line.model, line = line.text,
      number = line.number, _fill = fill_result, _scanned = line, _rules = rules }
  end)
end

--- The requests of a file. Records have custom_id, model, url, text (of the last message), line and number.
---@param path string
---@return obatch.repl.Stream
function stream.requests(path)
  local plan = { custom_id = "/custom_id", model = "/body/model", url = "/url" }
  return open_file(path, "request", plan, REQUEST_COLUMNS, function(line)
    return { custom_id = line.custom_id, model = line.model, url = line.url, line = line.text, number = line.number,
      _fill = fill_request }
  end)
end

--- The requests of a job, as obatch.history gives them.
---@param title string
---@param items fun(): (fun(): table?)  begins to go through them
---@return obatch.repl.Stream
function stream.items(title, items)
  return new { kind = "item", columns = ITEM_COLUMNS, filters = {}, title = title, read = function()
    local advance = items()
    return function()
      local item = advance()
      return item and setmetatable(item, Record)
    end
  end }
end

stream.Stream = Stream

return stream
