--- What was paid: one line of ledger.jsonl for every request the model was asked.
--
--   {"asked":2,"batch":"batch_...","custom_id":"page-7","time":1795000000.25}
--
-- The ledger comes first and the results second: a batch that was interrupted by the end of the
-- process runs again from its start, and gets from here how often each of its requests had been
-- asked, so that the same answers come out and nothing is paid twice.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local term = require "obatch.term"

local Ledger = {}
Ledger.__index = Ledger

local ledger = {}

--- Opens (or starts) the ledger.
---@param path string
---@param unfinished fun(batch: string): boolean  which batches will run again
---@return table ledger
function ledger.open(path, unfinished)
  local self = setmetatable({ asked = {}, paid = {}, pending = {} }, Ledger)
  local old = io.open(path, "rb")
  local torn = false -- a line that the process died in
  if old then
    torn = old:seek("end") > 0 and old:seek("end", -1) and old:read(1) ~= "\n"
    old:close()
    for record in assert(jsonl.scan(path, { asked = "/asked", batch = "/batch", id = "/custom_id" })) do
      if not record.error then
        self.asked[record.id] = record.asked
        if unfinished(record.batch) then self:paid_by(record.batch)[record.id] = record.asked end
      end
    end
  end
  self.file = assert(fs.append(path))
  if torn then assert(self.file:write("\n")) end
  return self
end

--- What a batch that is not finished has paid so far.
---@param batch string
---@return table<string, integer> asked  by custom_id
function Ledger:paid_by(batch)
  local paid = self.paid[batch]
  if not paid then
    paid = {}
    self.paid[batch] = paid
  end
  return paid
end

--- How often `custom_id` has been asked now that `batch` asks it; the same number when it asks again.
---@param batch string
---@param custom_id string
---@return integer asked
function Ledger:ask(batch, custom_id)
  local paid = self:paid_by(batch)
  if not paid[custom_id] then
    local asked = (self.asked[custom_id] or 0) + 1
    self.asked[custom_id], paid[custom_id] = asked, asked
    self.pending[#self.pending + 1] =
      json.encode { asked = asked, batch = batch, custom_id = custom_id, time = term.time() } .. "\n"
  end
  return paid[custom_id]
end

--- Makes durable what was asked since the last time. One write for many requests: it waits for the disk.
function Ledger:flush()
  if #self.pending == 0 then return end
  assert(self.file:write(table.concat(self.pending)))
  self.pending = {}
end

--- The batch has ended: what it paid need not be looked up again.
---@param batch string
function Ledger:settle(batch)
  self:flush()
  self.paid[batch] = nil
end

function Ledger:close()
  self:flush()
  self.file:close()
end

return ledger
