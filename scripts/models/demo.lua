--- A model with the habits of a real one: most answers are good JSON in a Markdown fence, some are
-- not, and most of those come right when they are asked again.
--
-- What a custom_id gets depends on its last number (page-0007: 7) and on how often it was asked, so
-- twenty requests in a row meet every habit, each run alike.

local json = require "obatch.json"

local function good(request)
  return json.encode {
    title = "Page " .. request.custom_id, text = "The transcription of " .. request.custom_id .. ".",
    legible = true, language = "en",
  }
end

local function fenced(request) return "```json\n" .. good(request) .. "\n```" end

-- Habit by the last number modulo 20; the others answer in a fence. `asked` counts from 1.
local habits = {
  [1] = good,                                                           -- bare JSON
  [2] = function(request) return "Here is the transcription:\n\n" .. fenced(request) end,
  [4] = function(request, asked)                                        -- breaks off
    return asked == 1 and '```json\n{"title": "Page", "text": "The transcription of' or fenced(request)
  end,
  [6] = function(request, asked)                                        -- raw line break in a string
    return asked == 1 and (good(request):gsub("The transcription", "The\ntranscription")) or good(request)
  end,
  [7] = good,
  [8] = function(request)                                               -- thinks its whole budget away
    local body = request.body
    local limit = body.max_completion_tokens or body.max_tokens or body.max_output_tokens or 1000
    if limit < 1500 then
      return { content = "", finish_reason = "length", reasoning_tokens = limit,
        usage = { prompt = 900, completion = limit } }
    end
    return { content = fenced(request), reasoning_tokens = 1200, usage = { prompt = 900, completion = 1260 } }
  end,
  [10] = function(request, asked)
    return asked == 1 and { status = 500 } or fenced(request)
  end,
  [11] = function(request, asked)
    return asked <= 2 and { status = 429, body_error = { message = "Rate limit reached." } } or fenced(request)
  end,
  [12] = function(request, asked)
    return asked == 1 and { missing = true } or fenced(request)
  end,
  [13] = good,
  [14] = function(request, asked)                                       -- needs to be told what was wrong
    return asked <= 2 and "The page shows a letter of two paragraphs." or fenced(request)
  end,
  [16] = function(request, asked)                                       -- no HTTP answer at all
    return asked == 1 and { error = { code = "request_timeout", message = "The request timed out." } }
      or fenced(request)
  end,
  [17] = function() return { refusal = "I can't help with transcribing this page." } end,
  [18] = function(request, asked)
    return { content = fenced(request), duplicate = asked == 1 }
  end,
  [19] = function() return "This page is illegible to me." end,         -- never comes right
}

return function(request, asked)
  local number = tonumber(request.custom_id:match("(%d+)%D*$")) or #request.custom_id
  return (habits[number % 20] or fenced)(request, asked)
end
