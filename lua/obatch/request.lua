--- Request lines: what a valid one is, and the few edits a retry makes.
--
-- A line is bytes. Every edit is a splice, so that all outside the edited value stays byte for byte
-- what the user wrote.

local json = require "obatch.json"
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

--- Whether the answers to requests for an endpoint can be judged.
---@param url string
---@return boolean
function request.is_known(url) return kind_of(url) ~= nil end

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

--- Bytes behind the name of a limit in which its value is looked for.
local MAX_VALUE = 100

--- The token limit in a line, or in what is left of one when its pictures are taken out, found without
--- reading it as JSON: for estimates.
---@param line any   what find and sub take
---@param find? fun(line: any, text: string, from: integer, plain: true): integer?, integer?  string.find; or jsonl.find
---@param sub? fun(line: any, first: integer, last: integer): string                         the same
---@return integer|nil limit
function request.find_limit(line, find, sub)
  find, sub = find or string.find, sub or string.sub
  local position = 1
  while true do
    local first, last = find(line, '_tokens"', position, true) -- what begins with a rare letter is found soon
    if not first then return nil end
    local name = sub(line, math.max(1, first - 24), last - 1):match '"([%l_]+)$'
    if IS_LIMIT[name] then
      -- Inside a text, the quote before it would be escaped.
      local value = sub(line, last + 1, last + MAX_VALUE):match "^%s*:%s*(%d+)%s*[,}]"
      if value then return math.tointeger(tonumber(value)) end
    end
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
