--- How often a request ended in which class, in one integer: 6 bits for each class (63 means "63 or more"), since there
--- may be millions of requests.

local outcome = require "obatch.outcome"

local attempts = {}

--- class -> its number, from 1; outcome.CLASSES is the way back.
---@type table<string, integer>
attempts.NUMBER = {}
for number, class in ipairs(outcome.CLASSES) do attempts.NUMBER[class] = number end

--- Outcomes that the service owes no answer for: they are no attempts.
local NOT_COUNTED = { [attempts.NUMBER.expired] = true, [attempts.NUMBER.cancelled] = true }

--- Whether an outcome is an attempt.
---@param number integer  of its class
---@return boolean
function attempts.is_counted(number) return not NOT_COUNTED[number] end

--- The counts with one outcome more; those of a new request are 0.
---@param counts integer
---@param number integer  of its class
---@return integer counts
function attempts.add(counts, number)
  local shift = 6 * (number - 1)
  return (counts >> shift & 63) < 63 and counts + (1 << shift) or counts
end

--- How many attempts that were.
---@param counts integer
---@return integer sum
function attempts.sum(counts)
  local sum = 0
  for number = 1, #outcome.CLASSES do
    if not NOT_COUNTED[number] then sum = sum + (counts >> 6 * (number - 1) & 63) end
  end
  return sum
end

--- The counts by class, as policies see them.
---@param counts integer
---@return table<string, integer> by_class
function attempts.by_class(counts)
  local by_class = {}
  for number, class in ipairs(outcome.CLASSES) do by_class[class] = counts >> 6 * (number - 1) & 63 end
  return by_class
end

return attempts
