--- Writes requests about images into batches, each of which is submitted as soon as it is full.
--
-- An image is sent with a question about it. What is written is kept in the record of its batch; what it
-- takes comes out of the run's purse (see obatch.budget).

local fs = require "obatch.fs"
local image = require "obatch.image"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local request = require "obatch.request"
local sidecar = require "obatch.sidecar"
local tokens = require "obatch.tokens"

local composer = {}
local Composer = {}
Composer.__index = Composer

---@alias obatch.composer.Ask fun(path: string): string?, table|string|nil  the text about an image, and the facts
--- in it that came from a table or nil; or nil and why there is none
---@class obatch.composer.Options
---@field dry_run? boolean   nothing is written or submitted, only counted
---@field shelf? obatch.Shelf  the batch folder; not for a dry run
---@field submit fun(): true?, string?, string?  submits what the shelf holds
---@field name string        how the request files are called
---@field max_images integer of a batch
---@field max_bytes integer
---@field image_dir string   the folder of the images, as it was given
---@field root string        its real path
---@field request { endpoint: string, model: string, detail: string, max_tokens?: integer, prompt: string }
---@field question obatch.composer.Ask
---@field attempts fun(real_path: string): integer  how often an image was sent before
---@field purse obatch.Purse

--- A composer. Its counts: .sent, .bytes (of the images), .batches, .tokens_in, .tokens_out and .cost (USD) as the
--- purse estimates them; .unestimated says why the tokens of an image are not known, .unpriced that the cost is not;
--- .first_question is an example.
---@param options obatch.composer.Options
---@return table composer
function composer.new(options)
  local self = setmetatable({ sent = 0, bytes = 0, batches = 0, tokens_in = 0, tokens_out = 0, cost = 0 }, Composer)
  for name, value in pairs(options) do self[name] = value end
  return self
end

--- Counts lines and bytes as jsonl.create's writer does, and writes nothing.
local function counting_writer(limits)
  local lines, bytes = 0, 0
  return { close = function() end, put = function(_, value, more)
    local size = #json.encode(value) + more + 1
    if size > limits.max_bytes then return nil, "", "TOO_BIG" end
    if lines >= limits.max_lines or bytes + size > limits.max_bytes then return nil, "", "FULL" end
    lines, bytes = lines + 1, bytes + size
    return true
  end }
end

---@return boolean ok
---@return string|nil message
---@return string|nil code
function Composer:begin()
  self.record = { image_dir = self.image_dir, root = self.root, items = {}, request = self.request }
  self.estimate = { tokens_in = 0, tokens_out = 0 }
  local limits = { max_lines = self.max_images, max_bytes = self.max_bytes, sha256 = true }
  if self.dry_run then
    self.writer = counting_writer(limits)
    return true
  end
  local _, path = self.shelf:next_part(self.name)
  local message, code
  self.writer, message, code = jsonl.create(path, limits)
  return self.writer ~= nil, message, code
end

--- Ends the batch that is being written, and submits it.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Composer:finish()
  local full = self.writer
  self.writer = nil
  if not full then return true end
  if #self.record.items == 0 then
    full:close() -- none of its images could be sent
    return true
  end
  self.batches = self.batches + 1
  if self.dry_run then return true end
  local facts, message, code = full:commit()
  if not facts then return nil, message, code end
  facts.tokens_in, facts.tokens_out = self.estimate.tokens_in, self.estimate.tokens_out
  local part
  part, message, code = self.shelf:plan(self.name, facts, self.record)
  if not part then return nil, message, code end
  return self.submit()
end

--- Leaves what is not finished. The request file has no name yet, so nothing of it stays.
function Composer:close()
  if self.writer then self.writer:close() end
  self.writer = nil
end
Composer.__close = Composer.close

--- Writes a request into the batch, or into the next one where it is full.
---@param value table
---@param more? integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Composer:put(value, more)
  if not self.writer then
    local ok, message, code = self:begin()
    if not ok then return nil, message, code end
  end
  local ok, message, code = self.writer:put(value, more)
  if code ~= "FULL" then return ok, message, code end
  ok, message, code = self:finish()
  if not ok then return nil, message, code end
  return self:put(value, more)
end

--- What an image of these sides and the question about it take: tokens in; and why that is a guess, nil where
--- it is none. Or nil, message, CODE of tokens.image.
local function tokens_of(self, facts, question)
  local count, message, code = tokens.image(self.request.model, self.request.detail, facts.width, facts.height)
  if code == "UNKNOWN_MODEL" then return tokens.PICTURE + tokens.text(question), message end
  if not count then return nil, message, code end
  return count + tokens.text(question)
end

--- Adds an image to the requests. false: the image is at fault, and the message names it, or the budget has no room for
--- it; nil: the run cannot go on.
---@param path string
---@param id string         its custom_id
---@param real_path string  its path without links (image_record.real_path)
---@return boolean|nil ok
---@return string|nil message
---@return string|nil code  with false: "SPENT" or "OVER", see Purse:take
function Composer:add(path, id, real_path)
  local facts, fault = image.facts(path)
  if not facts then return false, fault end
  if #path:match("[^/]*$") > sidecar.LONGEST_NAME then
    return false, path .. ": its name leaves no room for that of a text beside it"
  end
  local question, fields = self.question(path)
  if not question then return false, fields end
  self.first_question = self.first_question or question
  local settings = self.request
  local tokens_in, unknown, kind = tokens_of(self, facts, question)
  if kind == "NO_DETAIL" then return nil, unknown, "USAGE" end
  if kind == "TOO_BIG" then return false, ("%s: %s"):format(path, unknown) end
  local fits, why, what = self.purse:fits(settings.model, tokens_in, settings.max_tokens)
  if not fits then return false, why, what end

  local picture
  picture, fault = jsonl.image(path)
  if not picture then return false, fault end
  local value = request.compose { custom_id = id, endpoint = settings.endpoint, model = settings.model,
    prompt = question, image = self.dry_run and ("data:%s;base64,"):format(picture:mime()) or picture,
    detail = settings.detail, max_tokens = settings.max_tokens }
  local base64_size = (facts.bytes + 2) // 3 * 4
  local ok, message, code = self:put(value, base64_size)
  if code == "TOO_BIG" then
    return false, ("%s: its request is larger than a batch may be (--max-bytes %d)"):format(path, self.max_bytes)
  elseif not ok and message:sub(1, #path) == path then -- the image, not the disk we write to
    return false, message
  elseif not ok then
    return nil, message, code
  end

  local replaces = fs.sha256(sidecar.text_path(path)) or fs.sha256(sidecar.label_path(path)) or nil -- by --redo
  self.record.items[#self.record.items + 1] = { custom_id = id, path = path, bytes = facts.bytes,
    sha256 = picture:sha256(), prompt_sha256 = fs.sha256_text(question), attempt = 1 + self.attempts(real_path),
    fields = fields, replaces = replaces }
  self:count(facts.bytes, tokens_in)
  self.unestimated = self.unestimated or unknown
  return true
end

--- Counts a request that was written.
---@param bytes integer
---@param tokens_in integer
function Composer:count(bytes, tokens_in)
  local model, limit, estimate = self.request.model, self.request.max_tokens, self.estimate
  assert(self.purse:take(model, tokens_in, limit))
  estimate.tokens_in = estimate.tokens_in + tokens_in
  estimate.tokens_out = estimate.tokens_out + (limit or self.purse.budget.prices.assumed_output_tokens)
  local input, output, cost = self.purse:estimate(model, tokens_in, limit)
  self.sent, self.bytes = self.sent + 1, self.bytes + bytes
  self.tokens_in, self.tokens_out = self.tokens_in + input, self.tokens_out + output
  self.cost = self.cost + (cost or 0)
end

return composer
