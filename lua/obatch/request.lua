--- Request lines: what a valid one is, and the few edits a retry makes.
--
-- A line is bytes. Every edit is a splice, so that all outside the edited value stays byte for byte
-- what the user wrote.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local progress = require "obatch.progress"
local text = require "obatch.text"

local request = {}

--- The API's limits for one batch: https://platform.openai.com/docs/guides/batch. The service
--- enforces 200 MiB; 200 MB leaves a margin.
request.MAX_REQUESTS = 50000
request.MAX_BYTES = 200 * 1000 * 1000

--- Per endpoint: where the conversation is, and what its token limit may be called. The first name
--- is the one to add where a request has none.
local KINDS = {
  ["/chat/completions"] = { conversation = "/body/messages", limits = { "max_completion_tokens", "max_tokens" } },
  ["/responses"] = { conversation = "/body/input", limits = { "max_output_tokens" } },
}

local IS_LIMIT = {}
for _, kind in pairs(KINDS) do
  for _, name in ipairs(kind.limits) do IS_LIMIT[name] = true end
end

local function kind_of(url)
  for suffix, kind in pairs(KINDS) do
    if url:sub(-#suffix) == suffix then return kind end
  end
end

local FIELDS = { custom_id = "/custom_id", method = "/method", url = "/url", model = "/body/model",
  stream = "/body/stream" }

--- What is wrong with one record of jsonl.scan(path, FIELDS): a list of sentences.
local function faults_of(record, line_at, max_bytes)
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
  elseif not kind_of(record.url) then
    fault("url '%s': only /v1/chat/completions and /v1/responses answers can be judged", record.url)
  end
  if type(record.model) ~= "string" or record.model == "" then
    local body = json.raw(line_at(record.offset), "/body")
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

---@class obatch.request.Summary
---@field requests integer
---@field bytes integer
---@field groups { url: string, model: string, requests: integer, bytes: integer, batches: integer }[]  as limits cut

--- Checks a whole request file before anything is spent.
---@param path string
---@param max_requests integer  of a batch
---@param max_bytes integer
---@return obatch.request.Summary|nil summary
---@return string[]|nil faults  all of them, each "path:line: what is wrong"
---@return string|nil code  where the file was not read to its end: INTERRUPTED, or what the disk says
function request.check_file(path, max_requests, max_bytes)
  local faults = {}
  local function fault(number, message) faults[#faults + 1] = ("%s:%d: %s"):format(path, number, message) end

  local has_mark = fs.read(path, 3) == "\xEF\xBB\xBF"
  if has_mark then
    fault(1, "the file begins with a byte order mark, which the Batch API takes for broken JSON: "
      .. "remove its first three bytes")
  end
  local reader <close>, message, code = jsonl.open(path)
  if not reader then return nil, { message }, code end
  local index <close>, problem, reason = jsonl.index(path, "/custom_id")
  if not index then return nil, { problem }, reason end

  -- Only a file that has duplicates pays for remembering which line came first.
  local first_line = index.duplicates > 0 and {}
  local summary = { requests = 0, bytes = 0, groups = {} }
  local by_key = {}
  for record in progress.over(jsonl.scan(path, FIELDS), "checking", path) do
    if record.error then
      if not (has_mark and record.number == 1) then faults[#faults + 1] = record.error end
    else
      local id = record.custom_id
      local name = type(id) == "string" and id ~= "" and ("custom_id '%s': "):format(id) or ""
      for _, sentence in ipairs(faults_of(record, function(at) return reader:at(at) end, max_bytes)) do
        fault(record.number, name .. sentence)
      end
      if first_line and type(id) == "string" then
        if first_line[id] then
          fault(record.number, ("custom_id '%s' is already that of line %d"):format(id, first_line[id]))
        else
          first_line[id] = record.number
        end
      end
      local key = tostring(record.url) .. "\0" .. tostring(record.model)
      local group = by_key[key]
      if not group then
        group = { url = record.url, model = record.model, requests = 0, bytes = 0, batches = 0, lines = 0, size = 0 }
        by_key[key], summary.groups[#summary.groups + 1] = group, group
      end
      local size = record.length + 1
      if group.batches == 0 or group.lines == max_requests or group.size + size > max_bytes then
        group.batches, group.lines, group.size = group.batches + 1, 0, 0
      end
      group.lines, group.size = group.lines + 1, group.size + size
      group.requests, group.bytes = group.requests + 1, group.bytes + size
      summary.requests, summary.bytes = summary.requests + 1, summary.bytes + size
    end
  end
  if #faults == 0 and summary.requests == 0 then faults[1] = path .. ": the file holds no requests" end
  if #faults > 0 then return nil, faults end
  return summary
end

---@class obatch.request.Question
---@field custom_id string
---@field model string
---@field prompt string
---@field endpoint "/v1/chat/completions"|"/v1/responses"
---@field image? obatch.jsonl.Image
---@field detail? string       nil: the service's default
---@field max_tokens? integer  nil: the service's default

--- A request about a text, an image, or both, as a value for jsonl's writer. The shapes are those of
--- the images guide: https://platform.openai.com/docs/guides/images-vision.
---@param what obatch.request.Question
---@return table request
function request.compose(what)
  local chat = what.endpoint ~= "/v1/responses"
  local content = json.array { { type = chat and "text" or "input_text", text = what.prompt } }
  if what.image and chat then
    content[2] = { type = "image_url", image_url = { url = what.image, detail = what.detail } }
  elseif what.image then
    content[2] = { type = "input_image", image_url = what.image, detail = what.detail }
  end
  local conversation = json.array { { role = "user", content = content } }
  local body = { model = what.model }
  body[chat and "messages" or "input"] = conversation
  body[kind_of(what.endpoint).limits[1]] = what.max_tokens
  return { custom_id = what.custom_id, method = "POST", url = what.endpoint, body = body }
end

---@param line string
---@return string url    its endpoint
---@return string model
function request.group(line)
  return json.get(line, "/url"), json.get(line, "/body/model")
end

--- The name of the line's token limit and its value; the value is nil where the line has none (the
--- name is then the one to add).
local function token_limit(line)
  local names = kind_of(json.get(line, "/url")).limits
  for _, name in ipairs(names) do
    local value = math.tointeger(json.get(line, "/body/" .. name))
    if value then return name, value end
  end
  return names[1], nil
end

--- The token limit for the next try of a request whose answer was truncated; nil when the policy's
--- cap leaves nothing to raise.
---@param line string
---@param limit integer|nil  what the truncated try had; nil: what the line says
---@param used integer       tokens that it spent
---@param rule { factor: number, floor: integer, cap: integer }  policy.token_limit
---@return integer|nil limit
function request.raised_limit(line, limit, used, rule)
  if not limit then
    local _, own = token_limit(line)
    limit = own
  end
  local raised = limit and limit * rule.factor or math.max(rule.floor, used * rule.factor)
  raised = math.tointeger(math.min(raised, rule.cap) // 1)
  if raised > (limit or 0) then return raised end
end

--- The token limit in a line, or in what is left of one when its pictures are taken out, found without
--- reading it as JSON: for estimates.
---@param line string
---@return integer|nil limit
function request.find_limit(line)
  local position = 1
  while true do
    local first, last = line:find('_tokens"', position, true) -- what begins with a rare letter is found soon
    if not first then return nil end
    local name = line:sub(math.max(1, first - 24), last - 1):match '"([%l_]+)$'
    local value = line:match("^%s*:%s*(%d+)%s*[,}]", last + 1) -- inside a text, the quote would be escaped
    if value and IS_LIMIT[name] then return math.tointeger(tonumber(value)) end
    position = last
  end
end

---@param line string
---@param limit integer  tokens
---@return string line
function request.set_limit(line, limit)
  local name = token_limit(line)
  return assert(json.set(line, "/body/" .. name, tostring(limit)))
end

---@param line string
---@param model string
---@return string line
function request.set_model(line, model)
  return assert(json.set(line, "/body/model", json.encode(model)))
end

--- Continues the conversation with the model's bad answer and a prompt.
---@param line string
---@param answer string|nil  nil or blank: none
---@param prompt string
---@param max_answer integer  bytes of the answer at most
---@return string line
function request.add_feedback(line, answer, prompt, max_answer)
  assert(type(prompt) == "string", "policy.feedback must return a string")
  local pointer = kind_of(json.get(line, "/url")).conversation
  local function message(role, raw_content) return ('{"role":"%s","content":%s}'):format(role, raw_content) end

  local given = json.raw(line, pointer) or "null" -- /v1/responses may name a stored prompt instead
  if given == "null" then
    line = assert(json.set(line, pointer, "[]"))
  elseif given:sub(1, 1) == '"' then -- and takes a bare string for one user message
    line = assert(json.set(line, pointer, "[" .. message("user", given) .. "]"))
  end
  if answer and not text.is_blank(answer) then
    line = assert(json.set(line, pointer .. "/-", message("assistant", json.encode(text.cut(answer, max_answer)))))
  end
  return assert(json.set(line, pointer .. "/-", message("user", json.encode(prompt))))
end

return request
