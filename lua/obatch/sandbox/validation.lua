--- What a batch's creation and its input file can have wrong, in the service's own codes.

local files = require "obatch.sandbox.files"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local tokens = require "obatch.tokens"

local validation = {}

local MAX_REQUESTS = 50000
local MAX_EMBEDDING_INPUTS = 50000

local endpoints = {
  "/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions", "/v1/moderations",
  "/v1/images/generations", "/v1/images/edits", "/v1/videos",
}

local function refuse(message, param, code)
  return nil, { status = 400, message = message, param = param, code = code }
end

local function type_name(value)
  if value == json.null then return "null" end
  if json.is_array(value) then return "an array" end
  if math.type(value) == "integer" then return "an integer" end
  return ({ table = "an object", string = "a string", number = "a number", boolean = "a boolean" })[type(value)]
end

local function wrong_type(name, wanted, value)
  return refuse(("Invalid type for '%s': expected %s, but got %s instead."):format(name, wanted, type_name(value)),
    name, "invalid_type")
end

local function check_metadata(metadata)
  if metadata == nil or metadata == json.null then return true end
  if type(metadata) ~= "table" or json.is_array(metadata) then
    return wrong_type("metadata", "an object", metadata)
  end
  local pairs_seen = 0
  for key, value in pairs(metadata) do
    pairs_seen = pairs_seen + 1
    local name = "metadata." .. key
    if type(value) ~= "string" then return wrong_type(name, "a string", value) end
    if utf8.len(key) > 64 then
      return refuse("Invalid 'metadata': a key is longer than 64 characters.", "metadata", "invalid_value")
    end
    if utf8.len(value) > 512 then
      return refuse(("Invalid '%s': string too long. Expected at most 512 characters."):format(name),
        name, "string_above_max_length")
    end
  end
  if pairs_seen > 16 then
    return refuse("Invalid 'metadata': too many properties. Expected at most 16.", "metadata",
      "object_above_max_properties")
  end
  return true
end

--- Checks the body of POST /batches.
---@param body table
---@return integer|false|nil seconds  its results are kept so long; false: for good
---@return table|nil problem
function validation.creation(body)
  for _, name in ipairs { "input_file_id", "endpoint", "completion_window" } do
    local value = body[name]
    if value == nil then return files.missing(name) end
    if type(value) ~= "string" then return wrong_type(name, "a string", value) end
  end
  local known = false
  for _, endpoint in ipairs(endpoints) do known = known or endpoint == body.endpoint end
  if not known then
    return refuse(("Invalid value: '%s'. Supported values are: '%s'."):format(body.endpoint,
      table.concat(endpoints, "', '")), "endpoint", "invalid_value")
  end
  if body.completion_window ~= "24h" then
    return refuse(("Invalid value for 'completion_window': '%s'. Supported values are: '24h'.")
      :format(body.completion_window), "completion_window", "invalid_value")
  end
  local good, problem = check_metadata(body.metadata)
  if not good then return nil, problem end
  local seconds, wrong = files.expiry(body.output_expires_after, "output_expires_after")
  if wrong then return nil, wrong end
  return seconds or false
end

--- One entry of a failed batch's `errors.data`.
---@param code string
---@param message string
---@param param? string
---@param line? integer
---@return table entry
function validation.entry(code, message, param, line)
  return { code = code, message = message, param = param or json.null, line = line or json.null }
end

---@param id any
---@return table entry
function validation.file_not_found(id)
  return validation.entry("invalid_request",
    ("Cannot find file %s, or organization org-sandbox does not have access to it."):format(id), "file_id")
end

local function absent(value) return value == nil or value == json.null end

local stream_names = {
  ["/v1/chat/completions"] = "Chat Completions", ["/v1/responses"] = "Responses", ["/v1/completions"] = "Completions",
}

-- What is wrong with one line: code, message, param; nothing when it is good. `seen` holds the
-- custom_ids and the model of the lines before it.
local function check_line(record, endpoint, seen, models)
  if record.error or not record.text:find("^%s*{") then
    return "invalid_json_line", "This line is not parseable as valid JSON."
  end
  for _, name in ipairs { "custom_id", "method", "url" } do
    local value = record[name]
    if absent(value) then
      return "missing_required_parameter", ("Missing required parameter: '%s'."):format(name), name
    elseif type(value) ~= "string" then
      return "invalid_request", ("Invalid type for '%s': expected a string."):format(name), name
    end
  end
  if record.method ~= "POST" then
    return "invalid_request", ("Invalid method '%s'. Only POST is supported."):format(record.method), "method"
  end
  if record.url ~= endpoint then
    return "invalid_url", "The URL provided for this request does not match the batch endpoint.", "url"
  end
  if type(record.model) ~= "string" then
    local body = json.raw(record.text, "/body")
    if not body or body == "null" then
      return "missing_required_parameter", "Missing required parameter: 'body'.", "body"
    elseif body:byte() ~= 123 then -- "{"
      return "invalid_request", "Invalid type for 'body': expected an object.", "body"
    end
    return "invalid_request", "Model parameter is required.", "body.model"
  end
  local model = record.model
  if models and not models[model] then
    return "model_not_found", ("The provided model '%s' is not supported by the Batch API."):format(model), "body.model"
  end
  seen.model = seen.model or model
  if model ~= seen.model then
    return "mismatched_model", ("The provided model '%s' does not match the rest of the batch. Each batch must "
      .. "contain requests for a single model."):format(model), "body.model"
  end
  if record.stream == true then
    return "streaming_unsupported", ("%s: Streaming is not supported in the Batch API."):format(
      stream_names[endpoint] or endpoint), "body.stream"
  end
  if endpoint == "/v1/chat/completions" and absent(record.role) then
    local messages = json.raw(record.text, "/body/messages")
    if not messages or messages == "null" then
      return "invalid_request", "Messages parameter is required.", "body.messages"
    end
  end
  if seen.ids[record.custom_id] then
    return "duplicate_custom_id", ("The custom_id '%s' for this request is a duplicate of another request. The "
      .. "custom_id parameter must be unique for each request in a batch."):format(record.custom_id), "custom_id"
  end
  seen.ids[record.custom_id] = true
end

-- A list of integers is one text that is tokens already.
local function count_inputs(input)
  return type(input) == "table" and not math.type(input[1]) and #input or 1
end

---@class obatch.sandbox.Limits
---@field bytes integer
---@field requests? integer  nil: the service's
---@field errors integer     entries at most
---@field models? table<string, boolean>  nil: any
---@field skip_blank? boolean  blank lines are no error

--- Checks an input file line by line and calls `breathe()` between the lines.
---@param path string
---@param size integer
---@param endpoint string
---@param limits obatch.sandbox.Limits
---@param breathe fun()
---@return table[] errors  none when all is well
---@return { requests: integer, model?: string, tokens: integer } facts  tokens are an estimate, see obatch.tokens
function validation.input(path, size, endpoint, limits, breathe)
  local found = { requests = 0, tokens = 0 }
  local most = limits.requests or MAX_REQUESTS
  if size > limits.bytes then
    return { validation.entry("maximum_input_file_size_exceeded",
      ("The batch input file is larger than the %d bytes maximum."):format(limits.bytes)) }, found
  end
  local plan = {
    custom_id = "/custom_id", method = "/method", url = "/url", model = "/body/model", stream = "/body/stream",
  }
  -- Only what is small: a message or an input may hold megabytes of image.
  if endpoint == "/v1/chat/completions" then plan.role = "/body/messages/0/role" end
  if endpoint == "/v1/embeddings" then plan.input = "/body/input" end

  local entries, seen, inputs = json.array {}, { ids = {} }, 0
  for record in assert(jsonl.scan(path, plan, { max_line = limits.bytes })) do
    if not (record.blank and limits.skip_blank) then
      found.requests = found.requests + 1
      if found.requests > most then
        return { validation.entry("maximum_requests_exceeded",
          ("The batch input file contains more than the %d requests maximum."):format(most)) }, found
      end
      found.tokens = found.tokens + tokens.request(record)
      inputs = inputs + count_inputs(record.input)
      local code, message, param = check_line(record, endpoint, seen, limits.models)
      if code and #entries < limits.errors then
        entries[#entries + 1] = validation.entry(code, message, param, record.number)
      end
    end
    breathe()
  end
  found.model = seen.model
  if found.requests == 0 then
    entries = { validation.entry("empty_file",
      "The input file is empty. Please ensure that the batch contains at least one request.") }
  elseif endpoint == "/v1/embeddings" and inputs > MAX_EMBEDDING_INPUTS then
    entries = { validation.entry("maximum_embedding_inputs_exceeded",
      ("The batch contains more than the %d embedding inputs maximum."):format(MAX_EMBEDDING_INPUTS)) }
  end
  return entries, found
end

return validation
