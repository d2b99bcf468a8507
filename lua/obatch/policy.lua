--- The rules of a run: what a good answer is, and which outcome leads to which action.
--
-- This is the table to change. Write a file that changes some of it and returns it, and give that
-- to --policy:
--
--     local policy = require "obatch.policy"
--     policy.attempts.invalid = 6
--     return policy
--
-- Rules may be changed between two runs of one job: answers that are already there are judged again
-- by the new rules, and only what is still not good is sent.

local fs = require "obatch.fs"

local policy = {
  --- What an answer must be: "json" (any strict JSON value, unwrapped from a Markdown fence), or
  --- "text" (anything that is not blank).
  expect = "json",

  --- Mend raw control characters and trailing commas in an answer that is not strict JSON.
  repair = false,

  --- How many answers of a class are taken before a request is given up. Classes that are not
  --- named here (expired, cancelled) are sent again without limit: the service never answered.
  attempts = { invalid = 4, truncated = 4, refused = 1, transient = 6, permanent = 1, missing = 6 },

  --- From this attempt on, a request whose last answer was invalid carries that answer and the
  --- prompt below. Before it, the user's own bytes are sent again.
  feedback_from = 3,

  --- How much of a bad answer goes into the conversation, in bytes.
  feedback_answer_bytes = 16000,

  --- A truncated answer raises the request's token limit: times `factor`, where the request names
  --- none at least `floor`, never above `cap`.
  token_limit = { factor = 2, floor = 4096, cap = 32768 },

  --- Seconds over which a batch or file that may have been created (its reply was lost) is looked
  --- for before it is created once more. New batches can be late in the listing.
  settle_seconds = 15,

  --- Seconds for which one call to the service is tried again after a fault that may pass.
  patience = 600,

  --- What becomes of a batch of the correction loop that the service does not know any more, though nothing
  --- else shows that this is the right key: "stop" the run, or "resend" its requests, which are then paid again
  --- if the batch is there after all. (When the service knows other things of the job, it is sent again anyway.)
  gone_batches = "stop",
}

--- The prompt that follows a bad answer.
---@param item obatch.policy.Item  its reason says what is wrong with the answer
---@return string prompt
function policy.feedback(item)
  return ("Your previous answer could not be used: %s. Answer the original request again. "
    .. "Return only %s, with nothing before or after it."):format((item.reason:gsub("[%s.]+$", "")),
    policy.expect == "json" and "the complete, valid JSON" or "the text that was asked for")
end

---@class obatch.policy.Item
---@field custom_id string   which request it is
---@field class string       of its last outcome (see obatch.outcome)
---@field reason string      why, in words
---@field counts table<string, integer>  how many outcomes of each class it has had: item.counts.invalid, ...
---@field attempts integer   all of them, without expired and cancelled ones

--- What becomes of a request that has no good answer yet.
---@param item obatch.policy.Item
---@return "resend"|"give_up" action
function policy.action(item)
  local limit = policy.attempts[item.class]
  if item.class == "refused" and policy.refused_model then limit = limit + 1 end
  if limit and item.counts[item.class] >= limit then return "give_up" end
  return "resend"
end

--- Fields that have no default, and what they must be.
local OPTIONAL = {
  schema = "table or string", -- a JSON Schema the answer must meet: a table, or the path of a file
  accept = "function",        -- accept(answer, item): true, or false and the reason. The answer is
                              -- the decoded JSON, or the text; item.custom_id, item.text
  allow_blank = "boolean",    -- an answer that is complete and blank is a good one: a blank page
  page_text = "function",     -- page_text(answer, item): what of an image's answer goes beside the image, a
                              -- string, or nil and the reason; without it, the whole text
  refused_model = "string",   -- send what one model refused to this one
  validator = "function",     -- the compiled schema; set by load()
}

--- Entries that the tables among the rules may have beside those they begin with.
local MORE = { attempts = { expired = true, cancelled = true }, token_limit = {} }

--- Makes an assignment to a rule that does not exist an error, at the line that tries.
local function guard(fields, optional, name)
  return setmetatable(fields, {
    __newindex = function(self, key, value)
      if not optional[key] then
        error(("policy: there is no rule '%s%s'"):format(name, tostring(key)), 2)
      end
      rawset(self, key, value)
    end,
  })
end

-- What the table holds so far are the rules; what is added below is not.
local DEFAULTS, ENTRIES = {}, {}
for key, value in pairs(policy) do DEFAULTS[key] = type(value) end
for name in pairs(MORE) do
  ENTRIES[name] = {}
  for entry in pairs(policy[name]) do ENTRIES[name][entry] = true end
end

--- What is wrong with a number among the rules; nil when nothing is.
local function number_fault(name, value)
  if name == "token_limit.factor" then
    return not (type(value) == "number" and value > 1) and "number above 1" or nil
  elseif name == "settle_seconds" or name == "patience" then
    return value < 0 and "number of seconds" or nil
  end
  return not (math.type(value) == "integer" and value >= 1) and "whole number above 0" or nil
end

local function check(rules)
  local function must_be(key, what) return nil, ("policy.%s must be a %s"):format(key, what) end

  for key, kind in pairs(DEFAULTS) do
    local value = rules[key]
    if type(value) ~= kind then return must_be(key, kind) end
    local fault = kind == "number" and number_fault(key, value)
    if fault then return must_be(key, fault) end
  end
  for key, kinds in pairs(OPTIONAL) do
    if rules[key] ~= nil and not kinds:find(type(rules[key]), 1, true) then return must_be(key, kinds) end
  end
  if rules.expect ~= "json" and rules.expect ~= "text" then
    return nil, 'policy.expect must be "json" or "text"'
  end
  if rules.gone_batches ~= "stop" and rules.gone_batches ~= "resend" then
    return nil, 'policy.gone_batches must be "stop" or "resend"'
  end
  for name, entries in pairs(ENTRIES) do
    for entry in pairs(entries) do
      if rules[name][entry] == nil then
        return nil, ("policy.%s.%s is missing: change single entries, as in policy.attempts.invalid = 6"):format(
          name, entry)
      end
    end
    for entry, value in pairs(rules[name]) do
      if not entries[entry] and not MORE[name][entry] then
        return nil, ("there is no rule '%s.%s'"):format(name, tostring(entry))
      end
      local fault = number_fault(name .. "." .. entry, value)
      if fault then return must_be(name .. "." .. entry, fault) end
    end
  end
  return true
end

--- Reads a policy file.
---@param path? string  nil: the rules as they stand
---@return table|nil policy
---@return string|nil message
function policy.load(path)
  local rules = policy
  if path then
    local chunk, message = loadfile(path, "t")
    if not chunk then return nil, message end
    local ok
    ok, rules = pcall(chunk)
    if not ok then return nil, tostring(rules) end
    if rules ~= policy then
      return nil, path .. ': a policy begins with local policy = require "obatch.policy" and ends with return policy'
    end
  end
  local ok, message = check(rules)
  if not ok then return nil, (path or "policy") .. ": " .. message end
  local schema = rules.schema
  if schema then
    if type(schema) == "string" then
      schema, message = fs.read(schema)
      if not schema then return nil, "policy.schema: " .. message end
    end
    rules.validator, message = require "obatch.schema".compile(schema)
    if not rules.validator then
      return nil, ("policy.schema%s: %s"):format(schema ~= rules.schema and " " .. rules.schema or "", message)
    end
  end
  return rules
end

guard(policy.attempts, MORE.attempts, "attempts.")
guard(policy.token_limit, MORE.token_limit, "token_limit.")
guard(policy, OPTIONAL, "")

return policy
