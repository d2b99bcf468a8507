--- From what a model says to the line of a result file.
--
-- A model is a function `model(request, asked, wait)`:
--   request  { custom_id =, method =, url =, body = (decoded), raw = (the line) }
--   asked    how often this custom_id has been asked so far, this time included
--   wait     wait(seconds), for a model that waits for something else: the sandbox goes on meanwhile
-- It returns the answer's text, or a table with any of:
--   content              string, or json.array of parts as some compatible servers send; absent: null
--   refusal              string
--   finish_reason        "stop", "length" or "content_filter"
--   incomplete           "max_output_tokens" or "content_filter", the same in words of /v1/responses
--   failed               { code =, message = }: a response with status "failed"
--   usage                { prompt =, completion = } tokens; reasoning_tokens is a part of completion
--   status, body_error   the line's HTTP status, and { message =, type =, code =, param = } for >= 400
--   empty_body           true: the line's body is {}
--   error                { code =, message = }: the line has no response
--   to                   "output" or "error", whatever file the line belongs to
--   missing, duplicate   no line; the line twice
--   raw                  this text is the line
-- The sandbox gives /v1/chat/completions, /v1/completions, /v1/responses, /v1/embeddings and
-- /v1/moderations their shapes; for another endpoint a model has to give `raw`. A model that raises
-- stops the sandbox. Its file returns the function | nil, message when it cannot work here.

local fs = require "obatch.fs"
local json = require "obatch.json"

local answers = {}

-- About 4 characters are a token; an image costs what a tile-based model takes for 1024x1024.
local function count_tokens(value)
  if type(value) == "string" then
    return value:find("^data:") and 765 or (#value + 3) // 4
  end
  local tokens = 0
  if type(value) == "table" then
    for _, part in pairs(value) do tokens = tokens + count_tokens(part) end
  end
  return tokens
end

local function usage_of(request, answer)
  local given = answer.usage or {}
  local reasoning = answer.reasoning_tokens or 0
  local prompt = given.prompt or count_tokens(request.body.messages or request.body.input or request.body.prompt)
  local completion = given.completion or count_tokens(answer.content or answer.refusal) + reasoning
  return { prompt = prompt, completion = completion, reasoning = reasoning, total = prompt + completion }
end

--- Of what differs from line to line, nothing is random and nothing is the time of day: the same seed,
--- custom_id and number of asking give the same bytes, so that what a run makes of its answers can be
--- compared with what another run made of them. A function(prefix, n) -> prefix and 2n hex digits.
local function identity(custom_id, asked, seed)
  return function(prefix, n)
    return prefix .. fs.sha256_text(("%s\0%s\0%s\0%s"):format(seed, asked, custom_id, prefix)):sub(1, 2 * n)
  end
end

--- When a line says that it was made: some second of 2026-01-01, by the same rule.
local function made_at(name)
  return 1767225600 + tonumber(name("", 3), 16) % 86400
end

local function or_null(value) return value == nil and json.null or value end

local shapes = {}

shapes["/v1/chat/completions"] = function(request, answer, usage, name)
  local finish = answer.finish_reason
    or answer.incomplete and (answer.incomplete == "content_filter" and "content_filter" or "length")
  return {
    id = name("chatcmpl-", 14), object = "chat.completion", created = made_at(name), model = request.body.model,
    choices = json.array { {
      index = 0, logprobs = json.null, finish_reason = finish or "stop",
      message = {
        role = "assistant", content = or_null(answer.content), refusal = or_null(answer.refusal),
        annotations = json.array {},
      },
    } },
    usage = {
      prompt_tokens = usage.prompt, completion_tokens = usage.completion, total_tokens = usage.total,
      prompt_tokens_details = { cached_tokens = 0, audio_tokens = 0 },
      completion_tokens_details = {
        reasoning_tokens = usage.reasoning, audio_tokens = 0,
        accepted_prediction_tokens = 0, rejected_prediction_tokens = 0,
      },
    },
    service_tier = "default", system_fingerprint = "fp_sandbox",
  }
end

shapes["/v1/completions"] = function(request, answer, usage, name)
  return {
    id = name("cmpl-", 14), object = "text_completion", created = made_at(name), model = request.body.model,
    choices = json.array { {
      index = 0, text = answer.content or "", logprobs = json.null,
      finish_reason = answer.finish_reason or "stop",
    } },
    usage = { prompt_tokens = usage.prompt, completion_tokens = usage.completion, total_tokens = usage.total },
  }
end

local incomplete_reasons = { length = "max_output_tokens", content_filter = "content_filter" }

shapes["/v1/responses"] = function(request, answer, usage, name)
  local output, content = json.array {}, json.array {}
  local reason = answer.incomplete or incomplete_reasons[answer.finish_reason]
  local status = answer.failed and "failed" or reason and "incomplete" or "completed"
  if usage.reasoning > 0 then
    output[1] = { id = name("rs_", 16), type = "reasoning", summary = json.array {} }
  end
  if answer.refusal then
    content[1] = { type = "refusal", refusal = answer.refusal }
  elseif type(answer.content) == "table" then
    content = answer.content
  elseif answer.content then
    content[1] = {
      type = "output_text", text = answer.content, annotations = json.array {}, logprobs = json.array {},
    }
  end
  if #content > 0 then
    output[#output + 1] = {
      id = name("msg_", 16), type = "message", role = "assistant", content = content,
      status = status == "completed" and "completed" or "incomplete",
    }
  end
  return {
    id = name("resp_", 16), object = "response", created_at = made_at(name), model = request.body.model,
    status = status, output = output, error = or_null(answer.failed),
    incomplete_details = reason and { reason = reason } or json.null,
    usage = {
      input_tokens = usage.prompt, output_tokens = usage.completion, total_tokens = usage.total,
      input_tokens_details = { cached_tokens = 0, cache_write_tokens = 0 },
      output_tokens_details = { reasoning_tokens = usage.reasoning },
    },
  }
end

shapes["/v1/embeddings"] = function(request, _, usage)
  local input, data = request.body.input, json.array {}
  -- A list of integers is one text that is tokens already.
  if type(input) ~= "table" or math.type(input[1]) then input = { input } end
  for i, text in ipairs(input) do
    local digest, vector = fs.sha256_text(json.encode(text)), json.array {}
    for k = 1, 8 do vector[k] = tonumber(digest:sub(k * 2 - 1, k * 2), 16) / 128 - 1 end
    data[i] = { object = "embedding", index = i - 1, embedding = vector }
  end
  usage.completion, usage.total = 0, usage.prompt
  return {
    object = "list", data = data, model = request.body.model,
    usage = { prompt_tokens = usage.prompt, total_tokens = usage.prompt },
  }
end

shapes["/v1/moderations"] = function(request, _, usage, name)
  usage.prompt, usage.completion, usage.total = 0, 0, 0
  return {
    id = name("modr-", 12), model = request.body.model,
    results = json.array { { flagged = false, categories = {}, category_scores = {} } },
  }
end

local function error_body(status, given)
  local server = status >= 500
  return { error = {
    message = given.message or (server and "The server had an error while processing your request."
      or ("The request was answered with status %d."):format(status)),
    type = given.type or (server and "server_error" or "invalid_request_error"),
    param = or_null(given.param),
    code = or_null(given.code or status == 429 and "rate_limit_exceeded" or nil),
  } }
end

---@class obatch.sandbox.Line
---@field text? string    the line; nil when there is none
---@field to "output"|"error"
---@field twice? boolean
---@field usage? { prompt: integer, completion: integer, reasoning: integer, total: integer }  nil when nothing was used

--- The line for an answer.
---@param request table
---@param answer any      what the model returned
---@param asked integer   how often it has been asked
---@param seed integer    that of the sandbox
---@return obatch.sandbox.Line line
function answers.line(request, answer, asked, seed)
  if answer.missing then return { to = "output" } end
  local name = identity(request.custom_id, asked, seed)
  local line = { id = name("batch_req_", 16), custom_id = request.custom_id, error = json.null }
  local status, usage = answer.status or 200, nil
  if answer.error then
    line.response, line.error = json.null, answer.error
  else
    local body = {}
    if answer.failed and request.url ~= "/v1/responses" then
      status, answer.body_error = 500, answer.failed -- only a response can fail with status 200
    end
    if status == 200 and not answer.empty_body and not answer.raw then
      local shape = shapes[request.url]
      if shape then
        usage = usage_of(request, answer)
        body = shape(request, answer, usage, name)
      else
        status = 400
        answer.body_error = { message = "The sandbox has no answers for " .. request.url .. "." }
      end
    end
    if status >= 400 and not answer.empty_body then body = error_body(status, answer.body_error or {}) end
    line.response = { status_code = status, request_id = status == 0 and "" or name("", 16), body = body }
  end
  local good = not answer.error and status == 200
  return {
    text = answer.raw or json.encode(line), usage = usage, twice = answer.duplicate,
    to = answer.to or (good and "output" or "error"),
  }
end

--- The line of a request that was never run.
---@param custom_id string
---@param code "batch_expired"|"batch_cancelled"
---@param seed integer
---@return string line
function answers.not_run(custom_id, code, seed)
  local message = code == "batch_expired"
    and "This request could not be executed before the completion window expired."
    or "This request was not executed because the batch was cancelled."
  return answers.line({ custom_id = custom_id }, { error = { code = code, message = message } }, code, seed).text
end

return answers
