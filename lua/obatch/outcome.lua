--- One result line -> one outcome class.
--
-- Every custom_id of every iteration ends in exactly one class. The order of judging: how the
-- request ended, then refused, then truncated, then the text itself.

local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local text = require "obatch.text"

local outcome = {}

--- All classes, in the order in which tables show them.
outcome.CLASSES = { "valid", "invalid", "truncated", "refused", "transient", "permanent",
  "expired", "cancelled", "missing" }

--- What judging needs of a result line: the plan for jsonl.scan. The shapes are those of
--- /v1/chat/completions and /v1/responses; a line has one of them.
outcome.FIELDS = {
  custom_id = "/custom_id",
  failure = "/error",
  status = "/response/status_code",
  body_error = "/response/body/error",
  finish_reason = "/response/body/choices/0/finish_reason",
  refusal = "/response/body/choices/0/message/refusal",
  content = "/response/body/choices/0/message/content",
  state = "/response/body/status",
  incomplete = "/response/body/incomplete_details/reason",
  output = "/response/body/output",
  prompt_tokens = "/response/body/usage/prompt_tokens",
  completion_tokens = "/response/body/usage/completion_tokens",
  input_tokens = "/response/body/usage/input_tokens",
  output_tokens = "/response/body/usage/output_tokens",
}

--- What the fields of most answers are: nothing but the text is left to judge.
local USUAL = {
  status = 200, finish_reason = "stop", failure = json.null, refusal = json.null, state = json.null,
  incomplete = json.null, output = json.null,
}

--- The result lines of a file as outcome.class and outcome.judge take them: jsonl.scan with what its threads can find
--- out for a policy. Records of a plain jsonl.scan(path, outcome.FIELDS) are judged the same, and slower.
---@param path string
---@param policy table
---@return fun(): obatch.jsonl.Record?  what jsonl.scan returns, failures too
function outcome.scan(path, policy)
  -- Where the policy looks at the value, decoding it is the check.
  local options = { usual = USUAL }
  if policy.expect == "json" then
    options[(policy.validator or policy.accept) and "decode" or "json"] = "content"
  end
  return jsonl.scan(path, outcome.FIELDS, options)
end

--- Codes of an account that cannot pay: nothing sent after them can succeed either.
local QUOTA = {
  insufficient_quota = true, credit_balance_exhausted = true, billing_hard_limit_reached = true,
  organization_spend_limit_exceeded = true, project_spend_limit_exceeded = true,
  organization_usage_limit_exceeded = true,
}

local ENDED = { batch_expired = "expired", batch_cancelled = "cancelled" }

--- Codes with which the service says that it, not the request, was at fault.
local TRANSIENT = { server_error = true, request_timeout = true, rate_limit_exceeded = true,
  vector_store_timeout = true }

--- Client errors for which the same request may succeed later.
local PASSING = { [408] = true, [409] = true, [429] = true }

--- Whether an API error object says that the account cannot pay: its code, else its type.
---@param failure table
---@return boolean
function outcome.is_quota(failure)
  return QUOTA[failure.code] or QUOTA[failure.type] or false
end

local function describe(failure)
  local code = type(failure.code) == "string" and failure.code or nil
  local message = type(failure.message) == "string" and failure.message or nil
  if code and message then return code .. ": " .. message end
  return code or message or "no reason given"
end

--- Whether there is no error in the line's "error": null, or what some services write instead. An
--- answer that was paid is not thrown away for that.
local function is_empty(value)
  return value == nil or value == json.null or value == false or value == ""
    or type(value) == "table" and next(value) == nil
end

--- How a request without a usable answer ended; nil when there is an answer to look at.
local function how_it_ended(record)
  local spoiled = record.spoiled and record.spoiled.failure
  local failure = type(record.failure) == "table" and not is_empty(record.failure) and record.failure or nil
  local status = math.tointeger(tonumber(record.status))
  if failure then
    if ENDED[failure.code] then return ENDED[failure.code], describe(failure) end
    if TRANSIENT[failure.code] or outcome.is_quota(failure) then return "transient", describe(failure) end
  elseif spoiled or not is_empty(record.failure) then
    failure = { message = tostring(spoiled or record.failure) }
  end

  if status == 200 and not failure then
    local inner = type(record.body_error) == "table" and record.body_error or nil
    if record.state == "failed" then
      local passes = not inner or TRANSIENT[inner.code] or outcome.is_quota(inner)
      local class = passes and "transient" or "permanent"
      return class, "the response failed: " .. describe(inner or {})
    elseif record.state == "cancelled" or record.state == "queued" or record.state == "in_progress" then
      return "transient", ("the response is '%s'"):format(record.state)
    end
    return nil
  end

  local inner = failure or (type(record.body_error) == "table" and record.body_error) or {}
  if not status or status == 0 then
    return "transient", failure and describe(failure) or "the request got no HTTP answer"
  end
  local reason = ("status %d: %s"):format(status, describe(inner))
  local passes = status < 400 or status >= 500 or PASSING[status] or outcome.is_quota(inner)
  return passes and "transient" or "permanent", reason
end

--- The parts of a list that carry text or a refusal: { {type="text", text=...}, ... } of a chat
--- message, { {type="output_text", ...}, {type="refusal", ...} } of a response's message.
local function read_parts(parts, into)
  if type(parts) ~= "table" then return end
  for _, part in ipairs(parts) do
    if type(part) == "table" then
      if (part.type == "text" or part.type == "output_text") and type(part.text) == "string" then
        into[#into + 1] = part.text
      elseif part.type == "refusal" and type(part.refusal) == "string" then
        into.refusal = part.refusal
      end
    end
  end
end

--- The answer's text (nil when there is none) and the refusal (nil when it did not refuse).
local function read_answer(record)
  local found = {}
  if type(record.content) == "string" then
    found[1] = record.content
  else
    read_parts(record.content, found)
  end
  if type(record.output) == "table" then
    for _, item in ipairs(record.output) do
      if type(item) == "table" and item.type == "message" then read_parts(item.content, found) end
    end
  end
  if type(record.refusal) == "string" and record.refusal ~= "" then found.refusal = record.refusal end
  return found[1] and table.concat(found), found.refusal
end

--- The tokens in and out of a record of jsonl.scan with the four fields of outcome.FIELDS that count them; 0 where
--- the service did not.
---@param record table
---@return integer tokens_in
---@return integer tokens_out
function outcome.tokens(record)
  local function count(a, b) return math.tointeger(tonumber(a)) or math.tointeger(tonumber(b)) or 0 end
  return count(record.prompt_tokens, record.input_tokens), count(record.completion_tokens, record.output_tokens)
end

local OF_TEXT = { content = outcome.FIELDS.content, output = outcome.FIELDS.output }

--- The text of a stored result line, whatever it was worth; nil when it holds none.
---@param line string|obatch.jsonl.Record  the line, or its record with the FIELDS
---@return string|nil text
function outcome.text(line)
  if type(line) == "string" then line = json.find(line, OF_TEXT) or {} end
  return (read_answer(line))
end

--- The answer of a stored line that was judged valid: the text asked for (for JSON: unwrapped).
---@param line string|obatch.jsonl.Record  as for outcome.text
---@param policy table
---@return string|nil answer
---@return string[]|string steps  that unwrapping took, in words; with nil, why there is no answer
function outcome.answer(line, policy)
  local answer = outcome.text(line)
  if policy.expect == "json" then return text.find_json(answer, policy.repair) end
  return answer, {}
end

--- Which accept functions can see a second argument: most have one, and for them it is not made.
local sees_item = setmetatable({}, { __mode = "k" })

local function wants_item(accept)
  local wants = sees_item[accept]
  if wants == nil then
    local about = debug.getinfo(accept, "u")
    wants = about.nparams > 1 or about.isvararg
    sees_item[accept] = wants
  end
  return wants
end

--- What the policy's own checks say of an answer: of the value that its JSON means, or of the text (which is that of
--- the record when it is not given).
local function check(value, answer, record, policy)
  if policy.validator then
    local ok, message = policy.validator(value)
    if not ok then return "invalid", "not of the schema: " .. message end
  end
  local accept = policy.accept
  if accept then
    local item = wants_item(accept) and { custom_id = record.custom_id, text = answer or record.content } or nil
    local ok, message = accept(value, item)
    if not ok then return "invalid", message or "refused by the policy's accept()" end
  end
  return "valid"
end

--- Which class a result line has by a policy, and why; what judge() tells besides is not worked out.
---@param record obatch.jsonl.Record  of outcome.scan(path, policy)
---@param policy table
---@return string class     one of CLASSES
---@return string? reason   nil for "valid"
---@return boolean? blank   of "truncated": whether it was cut off before any text came
function outcome.class(record, policy)
  local wants_json, is_checked = policy.expect == "json", policy.validator or policy.accept
  if record.is_usual then
    if wants_json and not is_checked then
      if record.is_json then return "valid" end
    elseif wants_json then
      local value = jsonl.decode(record, "content")
      if value ~= nil then return check(value, nil, record, policy) end
    elseif type(record.content) == "string" and not text.is_blank(record.content) then
      return check(record.content, record.content, record, policy)
    end
  end

  local class, reason = how_it_ended(record)
  if class then return class, reason end

  local answer, refusal = read_answer(record)
  local spoiled = record.spoiled or {}
  refusal = refusal or spoiled.refusal
  if refusal then return "refused", "the model refused: " .. refusal end
  if record.finish_reason == "content_filter" or record.incomplete == "content_filter" then
    return "refused", "stopped by the content filter"
  end
  if record.finish_reason == "length" or record.state == "incomplete" then
    local blank = not answer or text.is_blank(answer)
    local _, tokens_out = outcome.tokens(record)
    return "truncated", ("cut off after %d tokens%s"):format(tokens_out,
      blank and ", all of them spent before the answer began" or ""), blank
  end

  local undecodable = spoiled.content or spoiled.output
  if undecodable then return "invalid", "the text cannot be decoded: " .. undecodable end
  local is_complete = record.finish_reason == "stop" or record.state == "completed"
  if not answer or text.is_blank(answer) and not (policy.allow_blank and is_complete) then
    return "invalid", "the answer holds no text"
  end

  local value = answer
  if wants_json then
    local found, problem = text.find_json(answer, policy.repair)
    if not found then return "invalid", problem end
    if is_checked then
      local at
      value, problem, at = json.decode(found)
      if value == nil then return "invalid", ("the answer cannot be decoded: %s at byte %d"):format(problem, at) end
    end
  end
  return check(value, answer, record, policy)
end

---@class obatch.Outcome
---@field class string        one of CLASSES
---@field reason? string      nil for "valid"
---@field blank? boolean      of "truncated": whether it was cut off before any text came
---@field tokens_in integer   as the service counted them, 0 when it did not
---@field tokens_out integer

--- Judges a result line by a policy.
---@param record obatch.jsonl.Record  as for outcome.class
---@param policy table
---@return obatch.Outcome outcome
function outcome.judge(record, policy)
  local class, reason, blank = outcome.class(record, policy)
  local tokens_in, tokens_out = outcome.tokens(record)
  return { class = class, reason = reason, blank = blank, tokens_in = tokens_in, tokens_out = tokens_out }
end

--- One result line, as it was received, for the functions here that take a record. nil, message when it is not JSON.
---@param line string
---@return table<string, any>? record  with the FIELDS
---@return string? message
function outcome.record(line) return json.find(line, outcome.FIELDS) end

--- Judges one result line, as it was received, by a policy. nil, message when it is not JSON.
---@param line string
---@param policy table
---@return obatch.Outcome?
---@return string? message
function outcome.judge_line(line, policy)
  local record, message = outcome.record(line)
  if not record then return nil, message end
  return outcome.judge(record, policy)
end

--- Why a request has no line at all, by its class: "missing", "expired" or "cancelled".
---@param class string
---@return string
function outcome.absence(class)
  return class == "missing" and "in neither the output nor the error file"
    or ("its batch was %s before the request ran"):format(class)
end

return outcome
