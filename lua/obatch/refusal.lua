--- What a model says when it does not answer, told apart from what people write on pages: "I cannot send
--- the images which you wished" is a letter.

local text = require "obatch.text"

local refusal = {}

--- What a model says, in lower case: it cannot ...
local CANNOT = { "cannot ", "can't ", "can not ", "couldn't ", "could not ", "unable to ", "not able to ",
  "be able to ", "do not see ", "don't see ", "do not have ", "don't have " }

--- ... do this ...
local DO = { "see", "view", "read", "process", "transcribe", "extract", "anal[yi][sz]e", "access", "interpret",
  "decipher", "identify", "recogni[sz]e", "open", "display", "clean", "correct", "comply", "ful?fill?",
  "make out" }

--- ... to that. People of 1909 could not send images nor comply with a request.
local THAT = { "%f[%a]images?%f[%A]", "any text$", "this picture", "provided text", "text provided", "text you",
  "th[ai][ts] request", "transcription" }

--- What it does not see.
local SEEN = { "^ any .*image", "^ an image", "^ th[ei]s? image" }

--- Formulas: all that a model has to say.
local HELP_WITH = { "with th[ai][ts]$", "with th[ai][ts],", "with th[ai][ts] request", "with th[ai][ts] task",
  "with th[ai][ts] image", "with your request" }
local FORMULAS = { "%f[%a]as an ai%f[%A]", "as a language model", "can't read this$",
  "i'm unable to %a+ th[ei]s? handwriting", "^no %a*%s?text found", "^no %a*%s?text detected",
  "^no %a*%s?text in the image", "no %a*%s?text visible", "no %a+ text in th[ei]s? image",
  "no text in th[ei]s? image", "please upload .*image", "please provide .*image", "please attach .*image",
  "please share .*image", "please provide the text" }

--- What the image or its text is said to be.
local SUBJECTS = { "^image ", "th[ei]s? image ", "provided image ", "image you ", "provided text ", "text provided ",
  "text you ", "^[\"{]*the text is ", "^[\"{]*the text appears ", "handwriting in the image " }
local STATES = { "legible", "readable", "blurr", "blank", "garbled", "corrupt", "unclear", "not clear", "too dark",
  "too faint", "low quality", "low resolution", "contains? no ", "not contain", "no %a*%s?text", "not visible" }

local function is_refusing(sentence)
  if text.has_any(sentence, FORMULAS) then return true end
  if text.has_any(sentence, SUBJECTS) and text.has_any(sentence, STATES) then return true end
  for _, cannot in ipairs(CANNOT) do
    local _, stop = sentence:find(cannot, 1, true)
    local rest = stop and sentence:sub(stop) or ""
    if rest:find(" transcri") or (rest:find(" assist ") or rest:find(" help ")) and text.has_any(rest, HELP_WITH)
      or cannot:find("see") and text.has_any(rest, SEEN) then return true end
    for _, verb in ipairs(DO) do
      local at = rest:find(" " .. verb .. "%f[%A]")
      if at and text.has_any(rest:sub(at), THAT) then return true end
    end
  end
  return false
end

--- Whether a short text is a model's words and not a page's: one of its first two sentences, or a good part
--- of it, says so.
---@param content string
---@return boolean|nil
function refusal.found_in(content)
  local words = content:lower():gsub("\u{2019}", "'"):gsub("\n[ \t\r]*\n", "."):gsub("[ \t\r\n*_]+", " ")
  local n = 0
  for sentence in words:gmatch("[^.!?]+") do
    sentence = sentence:gsub("^[ \"'(%[]+", ""):gsub("[ \"')%]]+$", "")
    if sentence ~= "" then
      n = n + 1
      if (n <= 2 or #sentence >= #words / 4) and is_refusing(sentence) then return true end
    end
  end
  return false
end

return refusal
