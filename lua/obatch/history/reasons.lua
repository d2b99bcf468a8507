--- Reasons, counted by what they have in common, whatever numbers and names are in them.

local answer = require "obatch.report.answer"
local text = require "obatch.text"

---@class obatch.history.Reasons
---@field count integer  of all that was added
local Reasons = {}
Reasons.__index = Reasons

local reasons = {}

--- Reasons that are told apart; what comes after so many is counted together. They may hold anything a model says.
local MOST = 1000

--- The bytes of a reason that count.
local LONGEST = 200

---@return obatch.history.Reasons
function reasons.new() return setmetatable({ count = 0, by_words = {}, list = {} }, Reasons) end

--- Adds the reason of one request. The first one of a kind is its example.
---@param reason string?
---@param example string
function Reasons:add(reason, example)
  local words = text.cut(type(reason) == "string" and reason or "no reason given", LONGEST)
  local key = answer.group(words)
  if not self.by_words[key] and #self.list >= MOST then key, words = "", "other reasons" end
  local entry = self.by_words[key]
  if not entry then
    entry = { reason = words, count = 0, example = example }
    self.by_words[key], self.list[#self.list + 1] = entry, entry
  end
  if entry.reason ~= words then entry.reason = key end -- their numbers differ
  entry.count = entry.count + 1
  self.count = self.count + 1
end

--- The most frequent ones: { reason=, count=, example= }, and how many requests have others.
---@param most integer
---@return { reason: string, count: integer, example: string }[] list
---@return integer others
function Reasons:top(most)
  table.sort(self.list, function(a, b)
    if a.count ~= b.count then return a.count > b.count end
    return a.reason < b.reason
  end)
  local list, others = table.move(self.list, 1, math.min(most, #self.list), 1, {}), self.count
  for _, entry in ipairs(list) do others = others - entry.count end
  return list, others
end

return reasons
