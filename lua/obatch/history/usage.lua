--- What the lines of a job have taken: tokens, by model and by what became of the line.

local files = require "obatch.history.files"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"

local usage = {}

local MODEL = "/response/body/model"

--- What is needed of a line whose verdict is known, and of one that is judged.
local COUNTED, JUDGED = { model = MODEL }, { model = MODEL }
for _, name in ipairs { "custom_id", "prompt_tokens", "completion_tokens", "input_tokens", "output_tokens" } do
  COUNTED[name] = outcome.FIELDS[name]
end
for name, pointer in pairs(outcome.FIELDS) do JUDGED[name] = pointer end

--- ordinal -> class of what iteration n has left without a good answer; nil where the run has not said.
local function read_verdicts(self, n)
  local file = files.verdicts(self, n)[1]
  if not file then return nil end
  local classes = {}
  for record in jsonl.scan(file.path, { id = "/custom_id", class = "/class" }) or function() end do
    local ordinal = type(record.id) == "string" and self.ids:find(record.id)
    if ordinal then classes[ordinal] = record.class end
  end
  return classes
end

--- As History:usage().
---@param self obatch.History
---@return { model: string, class: string, requests: integer, tokens_in: integer, tokens_out: integer }[]
function usage.count(self)
  local list, by_key, order = {}, {}, {}
  for i, class in ipairs(outcome.CLASSES) do order[class] = i end
  for n in ipairs(self.iterations) do
    local verdicts = read_verdicts(self, n)
    for _, file in ipairs(files.results(self, n)) do
      local records = jsonl.scan(file.path, verdicts and COUNTED or JUDGED)
      for record in records and progress.over(records, "counting", file.path) or function() end do
        local ordinal = type(record.custom_id) == "string" and self.ids:find(record.custom_id)
        if ordinal then
          local class = verdicts and (verdicts[ordinal] or "valid") or outcome.judge(record, self.rules).class
          local model = type(file.part.model) == "string" and file.part.model
            or type(record.model) == "string" and record.model or "unknown"
          local key = model .. "\0" .. class
          local entry = by_key[key]
          if not entry then
            entry = { model = model, class = class, requests = 0, tokens_in = 0, tokens_out = 0 }
            by_key[key], list[#list + 1] = entry, entry
          end
          local tokens_in, tokens_out = outcome.tokens(record)
          entry.requests = entry.requests + 1
          entry.tokens_in, entry.tokens_out = entry.tokens_in + tokens_in, entry.tokens_out + tokens_out
        end
      end
    end
  end
  table.sort(list, function(a, b)
    if a.model ~= b.model then return a.model < b.model end
    return (order[a.class] or 0) < (order[b.class] or 0)
  end)
  return list
end

return usage
