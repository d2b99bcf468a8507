--- How long something will still take, from what was seen of it so far: said when enough was seen, as a range when
--- the pace changes, and not at all when nobody can know.

local pace = {}

---@class obatch.Pace
local Pace = {}
Pace.__index = Pace

--- What is looked back upon: so many seconds at least, and so much of the time that it takes already.
local SHORTEST_WINDOW, WINDOW_SHARE = 20, 1 / 2

--- Observations that are kept of the window.
local MOST = 64

--- Steps forward, and the seconds they took, before anything is said; and how many times longer than that may be
--- foretold.
local FEWEST_STEPS, SHORTEST_SPAN, FARTHEST = 3, 3, 20

--- The pace of the second half of the window against that of all of it: up to CALM times faster or slower is no
--- change, beyond WILD nothing is said.
local CALM, WILD = 1.5, 4

--- Nothing is said after a silence of so many seconds and so many times the usual pause between two steps.
local SILENCE, PAUSES = 5, 4

---@return obatch.Pace
function pace.new()
  return setmetatable({ samples = {}, steps = 0 }, Pace)
end

--- Takes in that at the time `at` (seconds of any clock), `done` were seen to be done.
---@param done number
---@param at number
function Pace:note(done, at)
  local seen, samples = self.seen, self.samples
  if seen and at <= seen.at then return end
  self.seen = { at = at, done = done }
  if not seen or done == seen.done then return end
  if done < seen.done then -- counted anew
    self.samples, self.steps = {}, 0
    return
  end
  self.began = self.began or seen.at
  if #samples == 0 then samples[1] = seen end
  self.steps = self.steps + 1
  local window = math.max(SHORTEST_WINDOW, (at - self.began) * WINDOW_SHARE)
  if #samples > 1 and at - samples[#samples - 1].at < window / MOST then samples[#samples] = nil end
  samples[#samples + 1] = self.seen
  while #samples > 2 and samples[2].at <= at - window do table.remove(samples, 1) end
end

--- The seconds that are left of `total` by the time `now`: from and to; nil when that cannot be known.
---@param total number
---@param now number
---@return number? least
---@return number? most
function Pace:left(total, now)
  local first, last = self.samples[1], self.samples[#self.samples]
  if not last or self.steps < FEWEST_STEPS or last.done >= total then return nil end
  local span = last.at - first.at
  local pause, silence = (last.at - self.began) / self.steps, now - last.at
  if span < SHORTEST_SPAN or silence > SILENCE + PAUSES * pause then return nil end
  local stop = last.at + math.max(0, silence - pause) -- a silence makes the pace slower
  local middle = first
  for _, sample in ipairs(self.samples) do
    if sample.at > first.at + (stop - first.at) / 2 then break end
    middle = sample
  end
  local whole, recent = (last.done - first.done) / (stop - first.at), (last.done - middle.done) / (stop - middle.at)
  if recent <= 0 then return nil end
  local rest = total - last.done
  local least, most = rest / math.max(whole, recent), rest / math.min(whole, recent)
  local passed = stop - last.at
  least, most = math.max(0, least - passed), math.max(0, most - passed)
  if most > FARTHEST * span or math.max(whole, recent) > WILD * math.min(whole, recent) then return nil end
  return least, most
end

--- How much is done in a second, nil when too little was seen.
---@return number? rate
function Pace:rate()
  local first, last = self.samples[1], self.samples[#self.samples]
  if self.steps < FEWEST_STEPS then return nil end
  return (last.done - first.done) / (last.at - first.at)
end

--- Seconds, and how coarsely longer times are said.
local COARSE = { { 600, 60 }, { 3600, 300 }, { 6 * 3600, 600 }, { 24 * 3600, 1800 }, { math.huge, 3600 } }

local function coarse(seconds)
  for _, step in ipairs(COARSE) do
    if seconds < step[1] then return math.max(1, (seconds + step[2] / 2) // step[2]) * step[2] // 1 | 0 end
  end
end

local function say(seconds)
  local minutes = seconds // 60
  if minutes < 60 then return ("%d min"):format(minutes) end
  if minutes < 24 * 60 then
    return minutes % 60 == 0 and ("%d h"):format(minutes // 60) or ("%d h %02d min"):format(minutes // 60, minutes % 60)
  end
  return ("%d d %02d h"):format(minutes // 1440, minutes % 1440 // 60)
end

--- What left() returns, in words: "about 2 h 10 min left", "25 to 40 min left"; nil for nil.
---@param least number?
---@param most number?
---@return string?
function pace.words(least, most)
  if not least then return nil end
  if most < 45 then return "less than a minute left" end
  local from, to = coarse(least), coarse(most)
  if most <= CALM * least or from == to then return ("about %s left"):format(say(coarse((least + most) / 2))) end
  if to < 3600 then return ("%d to %d min left"):format(from // 60, to // 60) end
  return ("%s to %s left"):format(say(from), say(to))
end

return pace
