--- How quantities are written for people: durations, bytes, counts, times. Never for programs, which get plain
--- numbers.

local units = {}

--- What is shown for a number that is none: such words come from services, too.
local UNKNOWN = "?"

local function is_finite(number) return number == number and math.abs(number) < 1e20 end

--- A duration, as coarse as it is long: "45 s", "3 min 20 s", "2 h 05 min", "3 d 04 h" (from two days on).
---@param seconds number  negative ones are written as "0 s"
---@return string
function units.duration(seconds)
  if not is_finite(seconds) then return UNKNOWN end
  local whole = math.max(0, math.floor(seconds + 0.5))
  if whole < 60 then return ("%d s"):format(whole) end
  if whole < 3600 then return ("%d min %02d s"):format(whole // 60, whole % 60) end
  local minutes = (whole + 30) // 60
  if minutes < 48 * 60 then return ("%d h %02d min"):format(minutes // 60, minutes % 60) end
  local hours = (whole + 1800) // 3600
  return ("%d d %02d h"):format(hours // 24, hours % 24)
end

local BYTES = { "kB", "MB", "GB", "TB", "PB", "EB" } -- more than any disk has

--- A number of bytes, in powers of 1000 as the service counts them: "312 bytes", "12.3 MB", "4.05 GB".
---@param bytes number
---@return string
function units.bytes(bytes)
  if not is_finite(bytes) then return UNKNOWN end
  if bytes < 999.5 then
    local digits = ("%.0f"):format(bytes)
    return digits .. (digits == "1" and " byte" or " bytes")
  end
  local power = 0
  repeat
    bytes, power = bytes / 1000, power + 1
  until bytes < 999.5 or power == #BYTES
  local digits = bytes < 9.995 and "%.2f" or bytes < 99.95 and "%.1f" or "%.0f"
  return digits:format(bytes) .. " " .. BYTES[power]
end

--- A whole number with its thousands apart: "12,345".
---@param number number
---@return string
function units.number(number)
  if not is_finite(number) then return UNKNOWN end
  local digits = ("%.0f"):format(number)
  local sign, rest = digits:match("^(%-?)(%d+)$")
  return sign .. rest:reverse():gsub("(%d%d%d)", "%1,"):reverse():gsub("^,", "")
end

--- So many of something: "1 batch", "12,345 requests".
---@param number number
---@param one string
---@param many string?  default: one .. "s"
---@return string
function units.count(number, one, many)
  return ("%s %s"):format(units.number(number), number == 1 and one or many or one .. "s")
end

local YEAR_10000 = 253402300800

--- A point in time, here: "2026-11-22 14:32"; only "14:32:05" when it is of today.
---@param unix number  seconds since 1970
---@param now number?  default: now
---@return string
function units.time(unix, now)
  if not (unix >= 0 and unix < YEAR_10000) then return UNKNOWN end
  local second = math.floor(unix)
  if os.date("%Y-%m-%d", second) == os.date("%Y-%m-%d", math.floor(now or os.time())) then
    return os.date("%H:%M:%S", second) --[[@as string]]
  end
  return os.date("%Y-%m-%d %H:%M", second) --[[@as string]]
end

--- How long ago a point in time was: "3 min 20 s ago".
---@param unix number
---@param now number?  default: now
---@return string
function units.ago(unix, now)
  local passed = (now or os.time()) - unix
  return is_finite(passed) and units.duration(passed) .. " ago" or UNKNOWN
end

--- How much time is left until a point in time: "2 h 05 min left", or "over".
---@param unix number
---@param now number?  default: now
---@return string
function units.left(unix, now)
  local left = unix - (now or os.time())
  if not is_finite(left) then return UNKNOWN end
  return left > 0 and units.duration(left) .. " left" or "over"
end

return units
