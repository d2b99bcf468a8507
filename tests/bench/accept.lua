--- A policy that looks into every answer: it has a list of items, each with four numbers for its place.

local policy = require "obatch.policy"

function policy.accept(answer)
  if type(answer) ~= "table" or type(answer.items) ~= "table" then return false, "it has no items" end
  for i, item in ipairs(answer.items) do
    if type(item.bbox) ~= "table" or #item.bbox ~= 4 then return false, ("item %d has no bbox"):format(i) end
  end
  return true
end

return policy
