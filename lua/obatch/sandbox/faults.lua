--- The sandbox's misbehaviour on purpose.
local fs = require "obatch.fs"

local faults = {}

--- The grammar, as `obatch sandbox --help` shows it.
faults.help = [[
Faults: rules "WHERE: WORDS", separated by ";". A word is NAME or NAME=VALUE.
The first rule of a place that fires decides, so rules in a row make a
sequence:
  --faults "create_batch: drop late first=1; results: missing every=9"

When (no word: always). A rule counts what reaches it:
  first=N           the first N only
  after=N           not the first N
  every=K           each K-th
  chance=P          0 to 1, see --seed
  while=FILE        as long as there is such a file: create it and remove it

upload list_files file delete_file content create_batch list_batches batch
cancel create_upload add_part complete_upload cancel_upload, or * for all:
  status=CODE       answer with this HTTP error; with it:
    code=WORD         the error's code
    quota             429, insufficient_quota
    retry-after=S     Retry-After, seconds
    retry-after-ms=MS
    should-retry=true|false   x-should-retry
    body=html|empty   not JSON (with 200, too)
  drop              close the connection without an answer
  stall             never answer, keep the connection open
  late              with status, drop, stall: do what was asked, lose only the
                    answer
  cut=BYTES         promise the whole body, send so much of it, close
  truncate=BYTES    promise and send only so much
  longer=BYTES      so much more than there is
  count=BYTES       the file object claims so many more bytes (less: -BYTES)
  etag=weak|changing|none, range=wrong   content with --range: no proof that
                    it is the same; another part than the one asked for
  rate=BYTES        send so much a second
  delay=S           wait before answering
results (one line each):
  status=CODE       the model's endpoint said so (0 too)
  body=empty        no body
  to=output|error   the file it goes to
  error=CODE        no HTTP answer, for example request_timeout
  missing           no line
  duplicate         the line twice
  unknown           one more line, for a custom_id nobody sent
  garbage           half a line
  no-id             custom_id ""
  long=BYTES        a line of so many bytes instead, most of them NUL; it comes
                    last
  asked=N, id=ID    only the N-th answer for a custom_id; only this custom_id
batches (one batch each):
  validating=S in_progress=S finalizing=S cancelling=S   how long it stays so
  expire=SHARE, cancel=SHARE   ends expired, cancelled, after this share of its
                    requests (0 to 1)
  fail=CODE         fails validation; line=N, param=WORD
  no-file           fails validation: "Cannot find file"
  unlisted=S        not in the list for so long
  no-metadata       forgets its metadata
  empty-ids         absent file ids are ""
  null-output       forgets its output file
  ordered           results in the order of the requests, not shuffled
  truncated         the output file ends in the middle of a line
files (one upload each):
  hidden=S          not found for so long
  expire=S          expires so soon
limits (always):
  tokens=N          enqueued tokens per model (text at 4 bytes each, pictures
                    by size); of them
    taken=M for=S     others use M, for S seconds from the first batch on
  creations=N       batches an hour, then 429 with Retry-After
    per=S             in S seconds, not in an hour
  storage=BYTES     of all files together; an upload beyond it is refused
  requests=N        per batch, not 50,000
  bytes=N           per input file, not 209,715,200]]

-- The words of each place, by what their values are: a flag has none, a share is from 0 to 1, a
-- status from 200 to 599, a list names the values there are; only an offset may be below 0.
local when_words = { first = "integer", after = "integer", every = "integer", chance = "share", ["while"] = "text" }
local endpoint_words = {
  status = "status", code = "text", quota = "flag", ["retry-after"] = "number",
  ["retry-after-ms"] = "number", ["should-retry"] = { "true", "false" }, body = { "html", "empty" },
  drop = "flag", stall = "flag", late = "flag", cut = "integer", rate = "integer", delay = "number",
  truncate = "integer", longer = "integer", count = "offset", etag = { "weak", "changing", "none" },
  range = { "wrong" },
}
local words = {
  results = {
    status = "integer", error = "text", missing = "flag", duplicate = "flag", unknown = "flag",
    garbage = "flag", ["no-id"] = "flag", body = { "empty" }, to = { "output", "error" },
    asked = "integer", id = "text", long = "integer",
  },
  batches = {
    validating = "number", in_progress = "number", finalizing = "number", cancelling = "number",
    expire = "share", cancel = "share", fail = "text", line = "integer", param = "text",
    ["no-file"] = "flag", unlisted = "number", ["no-metadata"] = "flag", ["empty-ids"] = "flag",
    ["null-output"] = "flag", ordered = "flag", truncated = "flag",
  },
  files = { hidden = "number", expire = "number" },
  limits = {
    tokens = "integer", taken = "integer", ["for"] = "number", creations = "integer", per = "number",
    storage = "integer", requests = "integer", bytes = "integer",
  },
}
for name in ([[* upload list_files file delete_file content create_batch list_batches batch cancel
    create_upload add_part complete_upload cancel_upload]]):gmatch("%S+") do
  words[name] = endpoint_words
end

-- The value of one word, or nil when the text is not of the kind.
local function value(kind, text)
  if kind == "flag" then return not text or nil end
  if not text or kind == "text" then return text end
  if type(kind) == "table" then
    for _, allowed in ipairs(kind) do
      if text == allowed then return text end
    end
    return nil
  end
  local number = tonumber(text)
  if kind == "offset" then return math.tointeger(number) end
  if not number or number < 0 or kind == "share" and number > 1 then return nil end
  if kind == "status" and (number < 200 or number > 599) then return nil end
  if kind == "integer" or kind == "status" then return math.tointeger(number) end
  return number
end

local Faults = {}
Faults.__index = Faults

--- Reads a specification.
---@param spec string
---@return table|nil faults
---@return string|nil message
function faults.parse(spec)
  local self = setmetatable({ rules = {} }, Faults)
  for text in spec:gmatch("[^;\n]+") do
    local place, rest = text:match("^%s*([%w_*]+)%s*:(.*)$")
    if text:find("%S") then
      local known = words[place]
      if not known then
        return nil, ("faults: %q does not begin with a known place and a colon"):format(text)
      end
      local rule = { reached = 0, fired = 0 }
      for word in rest:gmatch("%S+") do
        local name, given = word:match("^([^=]+)=(.+)$")
        name = name or word
        local kind = known[name] or place ~= "limits" and when_words[name]
        if not kind then return nil, ("faults: %s knows no word %q"):format(place, name) end
        rule[name] = value(kind, given)
        if rule[name] == nil then
          local wants = type(kind) == "table" and table.concat(kind, " or ") or kind
          return nil, ("faults: %q: %s is of the kind: %s"):format(word, name, wants)
        end
      end
      self.rules[place] = self.rules[place] or {}
      table.insert(self.rules[place], rule)
    end
  end
  return self
end

local function fires(rule)
  if rule["while"] and not fs.stat(rule["while"]) then return false end
  rule.reached = rule.reached + 1
  local n = rule.reached - (rule.after or 0)
  if n < 1 or rule.every and n % rule.every ~= 0 or rule.first and rule.fired >= rule.first
      or rule.chance and math.random() >= rule.chance then
    return false
  end
  rule.fired = rule.fired + 1
  return true
end

local nothing = {}

-- The first rule of `place` that fires; an empty table when none does.
local function pick(self, place, matches)
  for _, rule in ipairs(self.rules[place] or nothing) do
    if (not matches or matches(rule)) and fires(rule) then return rule end
  end
  return nothing
end

--- What one HTTP request to `endpoint` meets.
---@param endpoint string
---@return table|nil fault
function Faults:request(endpoint)
  local rule = pick(self, endpoint)
  return rule ~= nothing and rule or pick(self, "*")
end

--- What the answer to `custom_id`, asked for the `asked`-th time, meets.
---@param custom_id string
---@param asked integer
---@return table|nil fault
function Faults:result(custom_id, asked)
  return pick(self, "results", function(rule)
    return (rule.asked or asked) == asked and (rule.id or custom_id) == custom_id
  end)
end

---@return table|nil fault
function Faults:batch() return pick(self, "batches") end

---@return table|nil fault
function Faults:file() return pick(self, "files") end

--- A limit, and the rule that sets it.
---@param name "tokens"|"creations"|"storage"|"requests"|"bytes"
---@return integer|nil limit  nil: none, or the service's own
---@return table|nil rule
function Faults:limit(name)
  for _, rule in ipairs(self.rules.limits or nothing) do
    if rule[name] then return rule[name], rule end
  end
end

return faults
