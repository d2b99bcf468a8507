--- The batches that a journal tells of: that of a job, and that of an image project.


local batches = {}

--- A batch. Times are Unix seconds, as the journal heard of it; nil where it did not.
---@class obatch.history.Batch
---@field id string
---@field iteration integer?  nil in an image project
---@field part integer
---@field model string?
---@field endpoint string?
---@field status string  "in flight", or how it ended ("completed", "failed", "lost": the service does not know it, ...)
---@field requests integer?
---@field bytes integer?
---@field created_at integer?
---@field ended_at integer?
---@field reason string?  why it failed
---@field usage { input_tokens: integer, output_tokens: integer }?  as the service counted them

local REASONS = { rejected = "the service refused some of its requests",
  split = "it was refused; its requests went to smaller batches" }

local function string_of(value) return type(value) == "string" and value or nil end

--- The batches, in the order in which they were created. `events` is of fsck.replay; part_of(event) gives
--- { part=, iteration= } of an event, or nil where there is none.
---@param events { event: table }[]
---@param part_of fun(event: table): { part: table, iteration: integer? }?
---@return obatch.history.Batch[]
function batches.list(events, part_of)
  local list, by_id = {}, {}
  local function batch_of(id, owner)
    if type(id) ~= "string" then return {} end
    local batch = by_id[id]
    if not batch then
      local part = owner.part
      batch = { id = id, iteration = owner.iteration, part = part.part, status = "in flight",
        model = string_of(part.model), endpoint = string_of(part.endpoint), requests = part.lines, bytes = part.bytes }
      by_id[id], list[#list + 1] = batch, batch
    end
    return batch
  end
  for _, entry in ipairs(events) do
    local event = entry.event
    local kind, time = event.event, math.type(event.time) == "integer" and event.time or nil
    if kind == "adopted" then
      for i, id in ipairs(type(event.batch_ids) == "table" and event.batch_ids or { event.batch_id }) do
        local owner = part_of { iteration = event.iteration, part = event.part or i }
        if owner then batch_of(id, owner) end
      end
    end
    local owner = part_of(event)
    if owner and kind == "created" then
      batch_of(event.batch_id, owner).created_at = time
    elseif owner and kind == "terminal" then
      local batch, usage = batch_of(event.batch_id, owner), event.usage
      batch.status, batch.ended_at = string_of(event.status) or "ended", time
      if type(usage) == "table" and math.type(usage.input_tokens) == "integer"
        and math.type(usage.output_tokens) == "integer" then batch.usage = usage end
    elseif owner and (kind == "requeued" or REASONS[kind]) and event.batch_id then
      local batch = batch_of(event.batch_id, owner)
      batch.status, batch.ended_at, batch.reason = "failed", time, string_of(event.reason) or REASONS[kind]
    elseif owner and kind == "downloaded" and event.batch_id then
      local batch = batch_of(event.batch_id, owner)
      if batch.status == "in flight" then batch.status, batch.ended_at = "lost", time end
    end
  end
  return list
end

return batches
