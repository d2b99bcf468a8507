--- What somebody may have meant who has mistyped a name.

local nearest = {}

--- How many letters have to be added, dropped, changed or swapped with the next one to make `b` of `a`
--- (optimal string alignment, over bytes).
---@param a string
---@param b string
---@param most integer what is more than that is not counted to its end
---@return integer steps
function nearest.distance(a, b, most)
  if math.abs(#a - #b) > most then return most + 1 end
  local before, row = {}, {}
  for j = 0, #b do row[j] = j end
  for i = 1, #a do
    local two, least = before, i
    before, row = row, { [0] = i }
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], two[j - 2] + 1)
      end
      least = math.min(least, row[j])
    end
    if least > most then return most + 1 end
  end
  return row[#b]
end

--- The name that was meant by a mistyped one: the nearest of those that differ in a third of their letters at most,
--- or else the shortest that begins with what was typed.
---@param typed string
---@param names string[]
---@return string? name nil when none is near
function nearest.of(typed, names)
  local function plain(name) return (name:lower():gsub("-", "_")) end
  local word = plain(typed)
  if #word < 2 or #word > 40 then return nil end
  local best, least = nil, math.huge
  for _, name in ipairs(names) do
    local most = math.max(1, #name // 3)
    local steps = nearest.distance(word, plain(name), most)
    if steps < least and steps <= most then best, least = name, steps end
  end
  if best then return best end
  for _, name in ipairs(names) do
    if #word > 2 and plain(name):sub(1, #word) == word and (not best or #name < #best) then best = name end
  end
  return best
end

return nearest
