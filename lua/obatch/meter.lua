--- What the batches of a job or an image project hold, and what the service has counted for them: how many
-- tokens are enqueued, how far the estimates are off, what was submitted since when.
--
-- All of it follows from the journal: apply() hears every event of a part. A batch that failed validation
-- has run nothing and counts for nothing.

local meter = {}

---@class obatch.Meter
---@field beside obatch.Meter[]|nil  of jobs that share a budget with this one
local Meter = {}
Meter.__index = Meter

---@param waiting fun(): table[]  the parts of the store, of which those without a batch are still to be submitted
---@return obatch.Meter meter
function meter.new(waiting)
  return setmetatable({
    waiting = waiting,
    entries = {}, -- one for each batch, in the order of creation
    by_batch = {},
    limits = {},  -- model -> enqueued tokens that the service allows, as its last refusal said
    sums = {},    -- model -> { open = tokens in flight, and of the batches that were answered in full, estimated
                  -- and counted: estimated_in, counted_in, estimated_out, counted_out }
  }, Meter)
end

--- The estimate of a part's input tokens; of journals that have none, by its bytes.
local function estimate_in(part) return part.tokens_in or (part.bytes or 0) // 4 end

local NOTHING = { open = 0, estimated_in = 0, counted_in = 0, estimated_out = 0, counted_out = 0 }

local function close(sums, entry)
  if entry.is_open then sums.open = sums.open - entry.tokens_in end
  entry.is_open = false
end

--- Takes in an event of `part`, before it changes the part.
---@param part table
---@param event table
function Meter:apply(part, event)
  local kind = event.event
  if kind == "created" then
    local entry = { model = part.model or "", time = event.time or 0, requests = part.lines or 0,
      tokens_in = estimate_in(part), tokens_out = part.tokens_out or 0, is_open = true }
    self.entries[#self.entries + 1], self.by_batch[event.batch_id] = entry, entry
    self.sums[entry.model] = self.sums[entry.model] or setmetatable({}, { __index = NOTHING })
    self.sums[entry.model].open = self.sums[entry.model].open + entry.tokens_in
    return
  end
  if kind == "requeued" and event.limit then self.limits[part.model] = event.limit end
  local entry = event.batch_id and self.by_batch[event.batch_id]
  if not entry then return end
  local sums, usage = self.sums[entry.model], event.usage
  if kind == "requeued" or kind == "rejected" or kind == "split" then
    close(sums, entry)
    entry.is_void = true
  elseif kind == "terminal" or kind == "downloaded" then
    close(sums, entry)
    entry.usage = usage or entry.usage
  end
  -- Lines that failed count no tokens.
  local is_whole = kind == "terminal" and event.status == "completed" and (event.failed or 0) == 0
  if is_whole and usage and usage.input_tokens > 0 then
    sums.estimated_in, sums.counted_in = sums.estimated_in + entry.tokens_in, sums.counted_in + usage.input_tokens
    sums.estimated_out, sums.counted_out = sums.estimated_out + entry.tokens_out, sums.counted_out + usage.output_tokens
  end
end

--- By what estimates for a model are to be multiplied: what the service counted over what
--- was estimated, in all batches of which every request was answered. 1, 1 where nothing is known.
---@param model string
---@return number input
---@return number output
function Meter:factors(model)
  local sums = self.sums[model] or NOTHING
  local function factor(counted, estimated) return counted > 0 and estimated > 0 and counted / estimated or 1 end
  return factor(sums.counted_in, sums.estimated_in), factor(sums.counted_out, sums.estimated_out)
end

--- The same for enqueued tokens. What the service holds against its limit is an estimate of its own, often above
--- what it counts in the end: such counts only ever raise ours.
---@param model string
---@return number factor
function Meter:enqueuing_factor(model) return math.max(1, (self:factors(model))) end

--- The tokens that a part enqueues: its estimate, calibrated.
---@param part table
---@return number tokens
function Meter:tokens_of(part) return estimate_in(part) * self:enqueuing_factor(part.model) end

--- The tokens that batches with this model have enqueued and not released, calibrated.
---@param model string
---@return number tokens
function Meter:enqueued(model) return (self.sums[model] or NOTHING).open * self:enqueuing_factor(model) end

--- What is submitted from here on is of this run.
function Meter:begin_run() self.run_mark = self:mark() end

--- A point in what was submitted, for spent{ mark = }.
---@return integer mark
function Meter:mark() return #self.entries end

--- What was submitted since then, and what is planned and waits for its batch, for each batch. Tokens are what the
--- service counted where the batch has ended, else the estimates, calibrated. The meters in .beside are asked by time:
--- with a mark, `started` says when the run began. One of which begin_run() was called knows that better: a second may
--- hold the end of one run and the begin of the next.
---@param since { mark?: integer, time?: number, started?: number }  a mark, or Unix seconds
---@return { model: string, requests: integer, tokens_in: number, tokens_out: number }[] list
function Meter:spent(since)
  local list = {}
  local function add(model, requests, tokens_in, tokens_out, usage)
    local factor_in, factor_out = self:factors(model)
    list[#list + 1] = { model = model, requests = requests, tokens_in = usage and usage.input_tokens or
      tokens_in * factor_in, tokens_out = usage and usage.output_tokens or tokens_out * factor_out }
  end
  for i, entry in ipairs(self.entries) do
    if not entry.is_void and i > (since.mark or 0) and entry.time >= (since.time or 0) then
      add(entry.model, entry.requests, entry.tokens_in, entry.tokens_out, entry.usage)
    end
  end
  for _, part in ipairs(self.waiting()) do
    if not part.batch_id and not part.done and part.lines then
      add(part.model, part.lines, estimate_in(part), part.tokens_out or 0)
    end
  end
  for _, other in ipairs(self.beside or {}) do
    local by_mark = not since.time and other.run_mark
    local when = by_mark and { mark = by_mark } or { time = since.time or since.started }
    for _, batch in ipairs(other:spent(when)) do list[#list + 1] = batch end
  end
  return list
end

return meter
