--- Which parts of a store may be submitted now: those that wait for nothing, and those that have waited
--- long enough for the service, or for room among the tokens that it allows to be enqueued.
--
-- That limit is one for each model, shared with all other work of the organization, and cannot be asked for:
-- it is learnt from refusals (see obatch.meter). Batches are held back that would not fit by their estimates;
-- where the service counts more than those say, its refusals decide.

local term = require "obatch.term"

local queue = {}

---@class obatch.Queue
local Queue = {}
Queue.__index = Queue

--- The longest pause before a part is submitted again, in seconds.
local MAX_PAUSE = 900

--- A batch that was refused for its tokens so often and so long (seconds), with none of ours beside it, though by
--- the estimate it would fit, is believed to be too big after all and is split: soon where the estimate is near
--- the limit, for the service may count more; else when all that the user had enqueued must have ended.
local ALONE_TRIES, NEARLY_FULL = 6, 1 / 4
local ALONE_FOR, ALONE_FOR_SMALL = 3600, 25 * 3600

--- A batch that is split is cut so that by the estimate its pieces leave this share of the limit free.
local MARGIN = 0.1

---@param store table       as in obatch.submission
---@param poll_wait number  seconds with which pauses begin
---@param log fun(line: string)
---@return obatch.Queue queue
function queue.new(store, poll_wait, log)
  return setmetatable({ store = store, poll_wait = poll_wait, log = log,
    ended_count = 0, -- batches of ours that have ended, and made room
    creating = {},   -- part -> its tokens, while its batch is being created
    strained = {},   -- model -> true: the service counts more than the estimates say
  }, Queue)
end

--- Whether a part's batch may be in flight: it exists, and is not known to have ended.
---@param part table
---@return boolean
function queue.is_flying(part) return part.batch_id ~= nil and not part.done and not part.lost end

--- Whether the service has let a batch in: until then, it may still be refused.
local function is_running(part)
  return queue.is_flying(part) and not part.ended and part.status ~= nil and part.status ~= "validating"
end

local function any(self, model, test)
  for _, part in ipairs(self.store.parts) do
    if part.model == model and test(part) then return true end
  end
  return false
end

--- Whether what the service is known to allow has room for a part's tokens beside those of ours that are
--- enqueued. What is alone is always tried: only the service knows its limit.
local function has_room(self, part)
  local meter, model = self.store.meter, part.model
  local enqueued = meter:enqueued(model)
  for other, tokens in pairs(self.creating) do
    if other.model == model then enqueued = enqueued + tokens end
  end
  return not meter.limits[model] or enqueued == 0 or enqueued + meter:tokens_of(part) <= meter.limits[model]
end

--- Under strain, batches of a model are created one after the other, each when the one before was let in.
local function is_in_line(self, part)
  if not self.strained[part.model] then return false end
  return any(self, part.model, function(other)
    return self.creating[other] ~= nil or queue.is_flying(other) and not is_running(other)
  end)
end

--- Whether a part may be submitted now.
---@param part table
---@return boolean
function Queue:is_due(part)
  if part.done or part.batch_id then return false end
  local wait = part.queued
  if wait and wait.after_end and any(self, part.model, is_running) then
    if self.ended_count <= wait.after_end then return false end
  elseif wait and term.clock() < wait.at then
    return false
  end
  return has_room(self, part) and not is_in_line(self, part)
end

--- The pause before the k-th time that something is tried again.
---@param k integer
---@return number seconds
function Queue:pause_before(k) return math.min(MAX_PAUSE, math.max(1, self.poll_wait) * 2 ^ math.min(k, 16)) end

--- Puts a part back for a while.
---@param part table
---@param why string
---@param seconds number
---@param for_room? boolean  as long as batches of ours with its model are running, wait for one of them to end instead
---@return true
function Queue:put_back(part, why, seconds, for_room)
  part.queued = { after_end = for_room and self.ended_count or nil, at = term.clock() + seconds }
  self.log(("part %d waits to be submitted again: %s"):format(part.part, why))
  return true
end

--- Calls create(), which creates the part's batch; until it returns, the part's tokens count as enqueued.
---@param part table
---@param create fun(): any
---@return any created  what it returned
function Queue:create(part, create)
  self.creating[part] = self.store.meter:tokens_of(part)
  part.ended_before = self.ended_count
  local created = create()
  self.creating[part] = nil
  return created
end

--- A batch has ended that had been let in. (What fails validation makes no room: counting that, parts that
--- wait would wake each other for ever.)
function Queue:batch_ended() self.ended_count = self.ended_count + 1 end

--- The service had no room for the tokens of a part, which has no batch any more. Puts it back; or says into how many
--- parts its requests must be split, because it can never fit (1: it is a single request, and hopeless).
---@param part table
---@param why string
---@return integer|nil pieces
function Queue:no_room(part, why)
  if any(self, part.model, is_running) then
    if has_room(self, part) then self.strained[part.model] = true end
    part.refusals = nil
    -- Where one has ended since, there is room already, and the next end may be a day away.
    self:put_back(part, why, self:pause_before(1), self.ended_count == (part.ended_before or self.ended_count))
    return nil
  end
  local refusals = part.refusals or { count = 0, since = term.clock() }
  part.refusals, refusals.count = refusals, refusals.count + 1
  local tokens, limit = self.store.meter:tokens_of(part), self.store.meter.limits[part.model]
  if limit and tokens > limit and part.lines > 1 then
    return math.min(part.lines, math.ceil(tokens / (limit * (1 - MARGIN))))
  end
  local is_small = limit and tokens < limit * NEARLY_FULL
  local is_hopeless = refusals.count >= ALONE_TRIES
    and term.clock() - refusals.since >= (is_small and ALONE_FOR_SMALL or ALONE_FOR)
  -- A single request is given up only when it is above the limit: else it waits, as long as it takes.
  if is_hopeless and (part.lines > 1 or limit and tokens > limit) then return math.min(part.lines, 2) end
  self:put_back(part, why, self:pause_before(refusals.count), true)
end

return queue
