--- What people are told of parts that are on their way through the service: how many of their requests are
--- finished, what moves over the line, and when their batches end at the latest.

local term = require "obatch.term"
local units = require "obatch.units"

local flight = {}

---@class obatch.Flight
local Flight = {}
Flight.__index = Flight

--- Seconds over which the bytes a second are counted.
local RATE_WINDOW = 5

--- A batch that is said to live longer, in seconds, is not believed: it is a day.
local LONGEST = 400 * 86400

--- Watches over the parts of a store (see obatch.submission).
---@param store table
---@return obatch.Flight
function flight.new(store)
  return setmetatable({
    store = store,
    tally = {},     -- part -> { total =, finished =, failed = }, also of those that have left the store
    moving = {},    -- transfer -> bytes it has moved
    moved = 0,      -- bytes that all transfers have moved
    past = {},      -- { at =, moved = } of the last seconds
    uploads = { count = 0, bytes = 0, done = 0 }, downloads = 0,
    looked_at = nil, -- when the counts of the batches were last asked for, by term.clock
  }, Flight)
end

-- ---------------------------------------------------------------- what moves

--- For tasks.run: takes in what the transfers have moved.
---@param transfers table<userdata, any>  those under way
---@param ended userdata?  one of them that is over
function Flight:watch(transfers, ended)
  for transfer in pairs(transfers) do
    local sent, received = transfer:progress()
    local bytes = sent + received
    self.moved = self.moved + math.max(0, bytes - (self.moving[transfer] or 0))
    self.moving[transfer] = transfer ~= ended and bytes or nil
  end
  local now, past = term.clock(), self.past
  past[#past + 1] = { at = now, moved = self.moved }
  while #past > 1 and past[2].at <= now - RATE_WINDOW do table.remove(past, 1) end
end

--- Bytes a second; nil when nothing moves that is worth telling.
local function rate_of(self)
  local first, last = self.past[1], self.past[#self.past]
  if self.uploads.count + self.downloads == 0 or not first or last.at - first.at < 1 then return nil end
  return (last.moved - first.moved) / (last.at - first.at)
end

--- Calls send(), which uploads the file of a part; returns what that does.
---@param part table
---@param send fun(): ...
---@return ...
function Flight:upload(part, send)
  local uploads = self.uploads
  if uploads.count == 0 then uploads.bytes, uploads.done, self.past = 0, 0, {} end
  uploads.count, uploads.bytes = uploads.count + 1, uploads.bytes + part.bytes
  local results = table.pack(send())
  uploads.count, uploads.done = uploads.count - 1, uploads.done + part.bytes
  return table.unpack(results, 1, results.n)
end

--- Calls fetch(), which downloads a file; returns what that does.
---@param fetch fun(): ...
---@return ...
function Flight:download(fetch)
  if self.downloads == 0 then self.past = {} end
  self.downloads = self.downloads + 1
  local results = table.pack(fetch())
  self.downloads = self.downloads - 1
  return table.unpack(results, 1, results.n)
end

-- ---------------------------------------------------------------- what is finished

--- A count in a reply; 0 for anything else.
local function count(value)
  value = math.type(value) and math.tointeger(value)
  return value and value > 0 and value or 0
end

--- What is known of the requests of a part that is in flight, waits or is done.
local function tally_of(part, before)
  local counts = part.counts or {}
  local total = part.lines or math.max(count(counts.total), before and before.total or 0)
  local failed = math.min(total, part.ended and count(part.ended.failed) or count(counts.failed))
  local finished = math.min(total, count(counts.completed) + failed)
  -- What a batch has not run by its end is done with, too; "expired" and "cancelled" are no answers.
  if part.ended and part.counts and part.ended.status ~= "completed" then
    failed = math.max(failed, total - count(counts.completed))
  end
  if part.ended or part.done then finished = total end
  return { total = total, finished = finished, failed = failed }
end

--- Whether the requests of a part have gone to others, which are counted.
local function is_void(part) return part.is_empty or part.rejected ~= nil end

--- When the batch of a part expires; nil where the service says nothing that makes sense.
local function expiry_of(part, now)
  local at = part.seen and part.seen.expires_at
  return math.type(at) and at > now - LONGEST and at < now + LONGEST and at or nil
end

--- Where everything stands: see Progress:stage. Parts that were done before the first call count, too. What is done
--- is told after the first look (`looked_at`).
---@return table facts
function Flight:facts()
  local now, states, waiting, is_all_known = term.time(), {}, 0, true
  local facts = { done = 0, total = 0, failed = 0, in_flight = 0, at = self.looked_at, rate = rate_of(self) }
  for _, part in ipairs(self.store.parts) do
    local is_flying = part.batch_id ~= nil and not part.done and not part.lost
    self.tally[part] = not is_void(part) and tally_of(part, self.tally[part]) or nil
    if is_flying and not part.ended then
      local status = part.trouble and "out of reach" or part.status or "submitted"
      states[status] = (states[status] or 0) + 1
      local tally, expires_at = self.tally[part], expiry_of(part, now)
      facts.in_flight = facts.in_flight + (tally and tally.total - tally.finished or 0)
      if expires_at then
        facts.expires_at = math.min(facts.expires_at or math.huge, expires_at)
        facts.latest_at = math.max(facts.latest_at or 0, expires_at)
      else
        is_all_known = false
      end
    elseif not part.batch_id and not part.done then
      waiting = waiting + 1
    end
  end
  for _, tally in pairs(self.tally) do
    facts.done, facts.total = facts.done + tally.finished, facts.total + tally.total
    facts.failed = facts.failed + tally.failed
  end
  if not self.looked_at then facts.done = nil end -- nobody has asked the service yet
  if waiting > 0 or not is_all_known or facts.latest_at and facts.latest_at <= now then facts.latest_at = nil end

  local words = {}
  for status, number in pairs(states) do
    words[#words + 1] = units.count(number, "batch", "batches") .. " " .. status
  end
  table.sort(words)
  local uploads, under_way = self.uploads, 0
  for _, bytes in pairs(self.moving) do under_way = under_way + bytes end
  if uploads.count > 0 then
    local sent = math.min(uploads.bytes, uploads.done + under_way)
    table.insert(words, 1, ("uploading %s of %s"):format(units.bytes(sent), units.bytes(uploads.bytes)))
    -- All of it is on its way, and the service has not answered yet: that is no stall.
    if sent == uploads.bytes and self.downloads == 0 then facts.rate = nil end
    waiting = waiting - uploads.count
  end
  if self.downloads > 0 then
    local so_far = under_way > 0 and (", %s so far"):format(units.bytes(under_way)) or ""
    table.insert(words, 1, "downloading " .. units.count(self.downloads, "file") .. so_far)
  end
  if waiting > 0 then words[#words + 1] = units.count(waiting, "batch", "batches") .. " to be sent" end
  facts.words = words
  return facts
end

return flight
