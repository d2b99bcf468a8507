--- What fsck has found: faults (something does not add up), notes (worth knowing, nothing is wrong) and
-- actions (what --repair did). All of it is text for a terminal, whatever the files hold.

local text = require "obatch.text"

---@class obatch.fsck.Report
---@field faults integer
---@field notes integer
local Report = {}
Report.__index = Report

local report = {}

--- How many findings of one kind are told one by one.
local MAX_TOLD = 20

--- The longest line, and the longest part of it that the files name, in bytes.
local MAX_LINE, MAX_NAME = 1000, 120

---@return obatch.fsck.Report report
function report.new()
  return setmetatable({ faults = 0, notes = 0, kinds = {}, by_key = {} }, Report)
end

--- A custom_id, batch id or other value from a file, for a message.
---@param value any
---@return string
function report.name(value)
  local name = type(value) == "string" and value or tostring(value)
  local cut = text.cut(name, MAX_NAME)
  return text.printable(cut) .. (#cut < #name and "..." or "")
end

local function add(self, level, kind, where, what, remedy)
  local key = level .. "\0" .. kind
  local group = self.by_key[key]
  if not group then
    group = { level = level, kind = kind, count = 0, lines = {} }
    self.by_key[key] = group
    table.insert(self.kinds, kind == "journal" and 1 or #self.kinds + 1, group) -- others may follow from this one
  end
  group.count = group.count + 1
  if group.count > MAX_TOLD then return end
  local line = ("%s: %s"):format(where, what)
  if remedy then line = ("%s. %s"):format(line, remedy) end
  line = text.printable(line)
  local cut = text.cut(line, MAX_LINE)
  group.lines[group.count] = #cut < #line and cut .. "..." or cut
end

--- Something does not add up. The kind "journal" is told first.
---@param kind string     groups findings ("damaged lines")
---@param where string    the file, with line or byte
---@param what string     is wrong there
---@param remedy? string  what can be done about it
function Report:fault(kind, where, what, remedy)
  self.faults = self.faults + 1
  add(self, "fault", kind, where, what, remedy)
end

--- Worth knowing.
---@param kind string
---@param where string
---@param what string
---@param remedy? string
function Report:note(kind, where, what, remedy)
  self.notes = self.notes + 1
  add(self, "note", kind, where, what, remedy)
end

--- The findings as lines, at most MAX_TOLD of each kind: what matters most comes last, where people look.
---@return string[] lines
function Report:lines()
  local lines = {}
  for _, level in ipairs { "note", "fault" } do
    for _, group in ipairs(self.kinds) do
      if group.level == level then
        for _, line in ipairs(group.lines) do lines[#lines + 1] = ("%s: %s"):format(level, line) end
        if group.count > MAX_TOLD then
          lines[#lines + 1] = ("%s: ... and %d more %s"):format(level, group.count - MAX_TOLD, group.kind)
        end
      end
    end
  end
  return lines
end

return report
