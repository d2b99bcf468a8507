--- An append-only, fsynced file of events, one JSON object a line. What is in it has happened.

local fs = require "obatch.fs"
local json = require "obatch.json"

---@class obatch.Journal
local Journal = {}
Journal.__index = Journal

local journal = {}

--- The events in a journal's text, and the number of bytes that hold whole lines; nil and the
--- message for a damaged line. A last line without its newline is what a crash leaves of an event
--- that was never confirmed. So is a last line with NUL bytes, newline or not: after a power cut, blocks
--- that had not reached the disk are read as zeros, and JSON text holds none.
local function replay(path, content)
  local events, position, number = {}, 1, 0
  while true do
    local stop = content:find("\n", position, true)
    if not stop then return events, position - 1 end
    local line = content:sub(position, stop - 1)
    if stop == #content and line:find("\0", 1, true) then return events, position - 1 end
    number = number + 1
    local event, problem, at = json.decode(line)
    if type(event) ~= "table" or type(event.event) ~= "string" then
      return nil, ("%s:%d: byte %d: %s. The journal is damaged; restore it from a copy, or delete this line "
        .. "if you know that what it said is not needed"):format(path, number, at or 1, problem or "not an event")
    end
    events[number] = event
    position = stop + 1
  end
end

--- The events of a journal, to be looked at only; a torn last line is left out.
---@param path string
---@return table[]|nil events
---@return string|nil message
---@return string|nil code
function journal.read(path)
  local content, message, code = fs.read(path)
  if not content then return nil, message, code end
  local events, whole = replay(path, content)
  if not events then return nil, whole, "DAMAGED" end
  return events
end

--- Opens the journal for appending and drops a torn last line.
---@param path string
---@return obatch.Journal|nil journal
---@return table[]|string events  else the message
---@return string|nil code  "DAMAGED", or what the disk says
function journal.open(path)
  local content, message, code = fs.read(path)
  if not content and code ~= "ENOENT" then return nil, message, code end
  content = content or ""
  local events, whole = replay(path, content)
  if not events then return nil, whole, "DAMAGED" end
  if whole < #content then
    local ok
    ok, message, code = fs.write(path, content:sub(1, whole))
    if not ok then return nil, message, code end
  end
  local handle
  handle, message, code = fs.append(path)
  if not handle then return nil, message, code end
  return setmetatable({ handle = handle }, Journal), events
end

--- Appends one event and returns when it is on disk.
---@param event { event: string }  and what belongs to it
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Journal:record(event)
  event.time = os.time()
  return self.handle:write(json.encode(event) .. "\n")
end

function Journal:close() self.handle:close() end
Journal.__close = Journal.close

return journal
