--- A file of requests, read once: whether every line is one, where each of them stands, what it takes.
--
-- Whoever sends a request as the user wrote it need not read it again: it is known by its ordinal, from 1, and what
-- decides about it was seen in the one pass over the file.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local progress = require "obatch.progress"
local request = require "obatch.request"
local term = require "obatch.term"
local tokens = require "obatch.tokens"

local requests = {}

---@class obatch.Requests
---@field path string
---@field index obatch.jsonl.Index    by custom_id; it has all of them
---@field groups { url: string, model: string, requests: integer, bytes: integer, batches: integer }[]  as limits cut
---@field takes integer[]   ordinal -> tokens in, and the number of its group
---@field limits integer[]  ordinal -> tokens out, where the request names a limit
local Requests = {}
Requests.__index = Requests

local FIELDS = { custom_id = "/custom_id", method = "/method", url = "/url", model = "/body/model",
  stream = "/body/stream" }

--- What is wrong with one record of jsonl.scan(path, FIELDS): a list of sentences.
local function faults_of(record, max_bytes)
  local faults = {}
  local function fault(format, ...) faults[#faults + 1] = format:format(...) end

  local spoiled = record.spoiled or {}
  if spoiled.custom_id then
    fault("custom_id: %s", spoiled.custom_id)
  elseif type(record.custom_id) ~= "string" or record.custom_id == "" then
    fault("custom_id is missing or not a string")
  end
  if record.method ~= "POST" then fault('method must be "POST"') end
  if type(record.url) ~= "string" then
    fault("url is missing or not a string")
  elseif not request.is_known(record.url) then
    fault("url '%s': only /v1/chat/completions and /v1/responses answers can be judged", record.url)
  end
  if type(record.model) ~= "string" or record.model == "" then
    local body = json.raw(record.text, "/body")
    if not body or body:sub(1, 1) ~= "{" then
      fault("body is missing or not an object")
    else
      fault("body.model is missing or not a string")
    end
  end
  if record.stream == true then fault("body.stream: the Batch API does not stream") end
  if record.length + 1 > max_bytes then
    fault("the request has %d bytes, more than --max-bytes (%d) allows for a whole batch", record.length + 1, max_bytes)
  end
  return faults
end

--- The group of a request: those with its endpoint and model, as the limits of a batch cut them.
local function group_of(self, by_key, url, model)
  local key = tostring(url) .. "\0" .. tostring(model)
  local number = by_key[key]
  if not number then
    number = #self.groups + 1
    by_key[key], self.groups[number] = number,
      { url = url, model = model, requests = 0, bytes = 0, batches = 0, lines = 0, size = 0 }
  end
  return self.groups[number], number
end

local function count(group, size, max_requests, max_bytes)
  if group.batches == 0 or group.lines == max_requests or group.size + size > max_bytes then
    group.batches, group.lines, group.size = group.batches + 1, 0, 0
  end
  group.lines, group.size = group.lines + 1, group.size + size
  group.requests, group.bytes = group.requests + 1, group.bytes + size
end

--- Bits of the number of a group, beside which the tokens of a request stand in one integer.
local GROUP_BITS = 24

--- Reads a whole file into `self`: the faults, all of them. `first_line` is nil, or a table for the ids and the lines
--- that they came on first: remembering them is what only a file with duplicates pays for.
local function read(self, max_requests, max_bytes, first_line)
  local path, faults = self.path, {}
  self.groups, self.takes, self.limits = {}, {}, {}
  local function fault(number, message) faults[#faults + 1] = ("%s:%d: %s"):format(path, number, message) end

  local has_mark = fs.read(path, 3) == "\xEF\xBB\xBF"
  if has_mark then
    fault(1, "the file begins with a byte order mark, which the Batch API takes for broken JSON: "
      .. "remove its first three bytes")
  end
  local scanner, problem, reason = jsonl.scan(path, FIELDS, { index = "custom_id" })
  if not scanner then return { problem }, reason end
  local by_key, ordinal = {}, 0
  local function next_record()
    local ok, record = pcall(scanner)
    if ok then return record end
    problem, reason = record, term.interrupted() and "INTERRUPTED" or "EIO" -- what is raised is about the disk
  end
  for record in progress.over(next_record, "checking", path) do
    if record.error then
      if not (has_mark and record.number == 1) then faults[#faults + 1] = record.error end
    else
      local id = record.custom_id
      local name = type(id) == "string" and id ~= "" and ("custom_id '%s': "):format(id) or ""
      for _, sentence in ipairs(faults_of(record, max_bytes)) do
        fault(record.number, name .. sentence)
      end
      if first_line and type(id) == "string" then
        if first_line[id] then
          fault(record.number, ("custom_id '%s' is already that of line %d"):format(id, first_line[id]))
        else
          first_line[id] = record.number
        end
      end
      if #faults == 0 then
        local group, number = group_of(self, by_key, record.url, record.model)
        count(group, record.length + 1, max_requests, max_bytes)
        ordinal = ordinal + 1
        local tokens_in, limit = tokens.request(record, record.model)
        self.takes[ordinal], self.limits[ordinal] = tokens_in << GROUP_BITS | number, limit
      end
    end
  end
  if reason then
    scanner:close()
    return { problem }, reason
  end
  self.index = scanner:index()
  if #faults == 0 and ordinal == 0 then faults[1] = path .. ": the file holds no requests" end
  return faults
end

--- Reads and checks a whole file before anything is spent. What is returned is to be closed.
---@param path string
---@param max_requests integer  of a batch
---@param max_bytes integer
---@return obatch.Requests|nil requests
---@return string[]|nil faults  all of them, each "path:line: what is wrong"
---@return string|nil code  where the file was not read to its end: INTERRUPTED, or what the disk says
function requests.read(path, max_requests, max_bytes)
  local self = setmetatable({ path = path }, Requests)
  local faults, code = read(self, max_requests, max_bytes)
  if self.index and self.index.duplicates > 0 then
    self:close()
    faults, code = read(self, max_requests, max_bytes, {})
  end
  if #faults == 0 then return self end
  if self.index then self:close() end
  return nil, faults, code
end

--- What is known of a request as it stands in the file.
---@param ordinal integer
---@return string url     its endpoint
---@return string model
---@return integer tokens_in        about, see obatch.tokens
---@return integer|nil tokens_out   the limit that it names
function Requests:takes_of(ordinal)
  local takes = self.takes[ordinal]
  local group = self.groups[takes & (1 << GROUP_BITS) - 1]
  return group.url, group.model, takes >> GROUP_BITS, self.limits[ordinal]
end

--- Idempotent.
function Requests:close() self.index:close() end
Requests.__close = Requests.close

return requests
