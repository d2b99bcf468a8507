--- Answers with the last text of the request; as a JSON object when the request asks for JSON.

local json = require "obatch.json"

-- The text of a message's content or of a /v1/responses input: a string, or a list of messages and parts.
local function text_of(content)
  if type(content) == "string" then return content end
  local texts = {}
  for _, part in ipairs(type(content) == "table" and content or {}) do
    local text = part
    if type(part) == "table" then text = part.text or text_of(part.content) end
    if type(text) == "string" and text ~= "" then texts[#texts + 1] = text end
  end
  return table.concat(texts, "\n")
end

local function wants_json(body)
  local format = body.response_format or type(body.text) == "table" and body.text.format
  return type(format) == "table" and (format.type == "json_object" or format.type == "json_schema")
end

return function(request)
  local body = request.body
  local text
  if type(body.messages) == "table" and #body.messages > 0 then
    text = text_of(body.messages[#body.messages].content)
  else
    text = text_of(body.input or body.prompt)
  end
  if wants_json(body) then return json.encode { echo = text } end
  return text
end
