--- Cleaning: what a program can take off or mend in a page's text without guessing.
--
-- The rules are an ordered list. A file given to --rules changes it, and returns nothing:
--
--     local cleaning = require "obatch.cleaning"
--     cleaning.remove "words hyphenated across lines"
--     table.insert(cleaning.rules, { name = "library stamp",
--       apply = function(text) return (text:gsub("LIBRARY OF CONGRESS\n", "")) end })
--
-- The list is applied again and again until nothing changes, so a text that was cleaned stays as it
-- is. Valid UTF-8 stays valid. Nothing here uses %s, %w and the like, whose meaning for bytes above
-- 127 depends on the locale, nor a pattern that is slow on a long run of one character.

local hyphenation = require "obatch.hyphenation"
local json = require "obatch.json"
local text = require "obatch.text"

local cleaning = {}

--- After this many rounds a text is taken for one that the rules will never settle.
local MAX_ROUNDS = 20

--- Longest first or last line, in bytes, that may be a model's own words.
local MAX_REMARK = 300

-- ---------------------------------------------------------------- lines

local function lines_of(content)
  local lines = {}
  for line in (content .. "\n"):gmatch("([^\n]*)\n") do lines[#lines + 1] = line end
  return lines
end

local BLANK_BYTES = { [9] = true, [11] = true, [12] = true, [13] = true, [32] = true }

--- A line without blanks at its end (white space of ASCII, no-break space).
local function without_trailing_blanks(line)
  local last = #line
  while true do
    local byte = line:byte(last)
    if BLANK_BYTES[byte] then last = last - 1
    elseif byte == 0xA0 and line:byte(last - 1) == 0xC2 then last = last - 2
    else return line:sub(1, last) end
  end
end

local function is_blank(line) return without_trailing_blanks(line) == "" end

--- The first and the last line of lines[from..to] that are not blank; nil when all are.
local function content_range(lines, from, to)
  while from <= to and is_blank(lines[from]) do from = from + 1 end
  while to >= from and is_blank(lines[to]) do to = to - 1 end
  if from <= to then return from, to end
end

-- ---------------------------------------------------------------- chat templates

local function set(list)
  local members = {}
  for _, member in ipairs(list) do members[member] = true end
  return members
end

--- Tokens of chat templates that stand between <| and |>. "<|A|>" and "<|psi_1|>" are physics.
local TEMPLATE_WORDS = set { "end", "start", "user", "assistant", "system", "endoftext", "endofprompt", "startoftext",
  "message", "channel", "return", "pad", "im_start", "im_end", "im_sep", "begin_of_text", "end_of_text",
  "start_header_id", "end_header_id", "eot_id", "eom_id", "start_of_role", "end_of_role", "vision_start", "vision_end",
  "image_pad" }

local ROLES = set { "assistant", "user", "system", "model", "tool", "final", "analysis" }

--- Tokens that begin (end) a text, each as a pattern without captures; a role may follow a first one.
local FIRST_TOKENS = { "<<SYS>>", "<</SYS>>", "%[/?INST%]", "<bos>", "<start_of_turn>",
  "<\u{FF5C}[A-Za-z_\u{2581}]+\u{FF5C}>" }
local LAST_TOKENS = { "%[/?INST%]$", "<eos>$", "<pad>$", "<end_of_turn>$", "<\u{FF5C}[A-Za-z_\u{2581}]+\u{FF5C}>$" }

--- Longest token, in bytes.
local MAX_TOKEN = 60

local function count(content, plain)
  local n, position = 0, 1
  while true do
    local first, last = content:find(plain, position, true)
    if not first then return n end
    n, position = n + 1, last + 1
  end
end

--- Where the token ends that is at `position`, with a role and one line break behind it; nil when there is none.
local function after_token(content, position)
  local name, after = content:match("^<|([A-Za-z0-9_]+)|>()", position)
  if not TEMPLATE_WORDS[name] then
    after = nil
    for _, token in ipairs(FIRST_TOKENS) do
      after = after or content:match("^" .. token .. "()", position)
    end
  end
  if not after then return nil end
  local role, behind = content:match("^([a-z]+)()", after)
  if ROLES[role] and content:find("^[ \t\r]*\n", behind) or ROLES[role] and content:find("^<|", behind) then
    after = behind
  end
  return content:match("^[ \t\r]*\n()", after) or after
end

--- Where the token begins that ends at `position`; nil when there is none.
local function before_token(content, position)
  local tail = content:sub(math.max(1, position - MAX_TOKEN), position)
  local start, name = tail:match("()<|([A-Za-z0-9_]+)|>$")
  if not TEMPLATE_WORDS[name] then
    start = nil
    for _, token in ipairs(LAST_TOKENS) do start = start or tail:find(token) end
  end
  return start and position - #tail + start
end

local function remove_outer_tokens(content)
  local first, last = 1, #content
  while true do
    local after = after_token(content, content:match("^[ \t\r\n]*()", first))
    if not after then break end
    first = after
  end
  while first <= last do
    local position = last
    while position > first and content:find("^[ \t\r\n]", position) do position = position - 1 end
    local start = before_token(content, position)
    if not start or start < first then break end
    last = start - 1
  end
  return content:sub(first, last)
end

local function without_role(_, role) if ROLES[role] then return "" end end

--- Where there are tokens of two kinds, <|im_start|> and <|im_end|>, they go wherever they are.
local function remove_inner_tokens(content)
  local kind
  for name in content:gmatch("<|([A-Za-z0-9_]+)|>") do
    if TEMPLATE_WORDS[name] then
      kind = kind or name
      if name ~= kind then
        content = content:gsub("(<|im_start|>)([a-z]+)[ \t\r]*\n", without_role)
        content = content:gsub("(<|start_header_id|>)([a-z]+)(<|end_header_id|>)\n*", without_role)
        return (content:gsub("<|([A-Za-z0-9_]+)|>", function(word) if TEMPLATE_WORDS[word] then return "" end end))
      end
    end
  end
  return content
end

--- <s> and </s> around the text mark its begin and end; in it, or in pairs, they are struck words.
local function without_sentence_marks(content)
  local opening, closing = count(content, "<s>"), count(content, "</s>")
  if opening == closing and opening > 0 then
    local whole = opening == 1 and content:find("^[ \t\r\n]*<s>.*</s>[ \t\r\n]*$")
    if not whole then return content end
  end
  content = content:gsub("^[ \t\r\n]*<s>[ \t]*", "")
  return (content:match("^(.*)</s>[ \t\r\n]*$") or content)
end

--- Tokens go around the text; the role that heads a turn, "assistant" or "assistant: ...", goes with one.
local function remove_template_tokens(content)
  local before = content
  if content:find("<", 1, true) or content:find("INST]", 1, true) then
    content = remove_inner_tokens(remove_outer_tokens(content))
    content = content:gsub("^[ \t\r\n]*<think>.-</think>[ \t\r\n]*", "")
    content = without_sentence_marks(content)
  end
  if content ~= before then
    content = content:gsub("^[ \t\r\n]*[Aa]ssistant:?[ \t\r]*\n", ""):gsub("^[ \t\r\n]*assistant:[ \t]*", "")
  end
  return content
end

-- ---------------------------------------------------------------- fences

local FENCE = "^[ \t]*```+ ?[A-Za-z0-9_+-]*$"
local FENCE_LANGUAGES = { text = true, txt = true, plaintext = true, markdown = true, md = true, json = true,
  html = true }

local function is_fence(line) return without_trailing_blanks(line):find(FENCE) ~= nil end

--- The numbers of the fence lines when all of lines[from..to] is in fences; nil when something is
--- outside, or a fence is in a fence's place in the page. The last one may lack its end.
local function outer_fences(lines, from, to)
  local found, depth = {}, 0
  for i = from, to do
    if is_fence(lines[i]) then
      local opens = depth == 0 or lines[i]:find("[A-Za-z0-9]")
      if depth == 0 or depth == 1 and not opens then found[#found + 1] = i end
      depth = depth + (opens and 1 or -1)
    elseif depth == 0 and not is_blank(lines[i]) then
      return nil
    end
  end
  if #found > 0 then return found end
end

--- Markdown fences around the whole text become empty lines, also where one of the two is missing.
local function remove_fences(content)
  if not content:find("```", 1, true) then return content end
  local lines = lines_of(content)
  local from, to = content_range(lines, 1, #lines)
  local found = from and outer_fences(lines, from, to)
  if not found and from and is_fence(lines[to]) then
    found = { to }
    for i = from, to - 1 do
      if is_fence(lines[i]) then found = nil break end
    end
  end
  if found then
    for _, i in ipairs(found) do lines[i] = "" end
    return table.concat(lines, "\n")
  end

  local inner = content:match("^[ \t\r\n]*```+(.*)$")
  inner = inner and inner:match("^(.*[^ \t\r\n])[ \t\r\n]*$")
  if not inner or inner:sub(-3) ~= "```" then return content end
  inner = inner:match("^(.*[^`])`+$") or ""
  if inner:find("```", 1, true) then return content end
  local language, rest = inner:match("^([a-z]+)[ \t](.*)$")
  return FENCE_LANGUAGES[language] and rest or inner
end

-- ---------------------------------------------------------------- a model's own words

--- A line as the tables below know it: lower case, straight apostrophes, no Markdown around it.
local function plain(line)
  line = without_trailing_blanks(line):lower():gsub("\u{2019}", "'")
  return (line:gsub("^[ \t#*_]+", ""):gsub("[*_]+$", ""):gsub("[*_]+:$", ":"))
end

--- How an announcement begins, and what is then in it: of the first table where it is proof enough (as
--- the usual line is, see is_usual), of the second where a fence follows. Pages announce texts, lists and
--- transcriptions, too; that of an image's text is a model's.
local OPENINGS = { "here is ", "here's ", "here are ", "below is ", "below are ", "sure[,!.]", "certainly[,!.]",
  "of course[,!.]", "absolutely[,!.]", "okay[,!.]", "the following is ", "this is ", "the text ", "the extracted ",
  "the transcri", "i have ", "i've " }
local PROOF = { "%f[a-z]text .*%f[a-z][fio][a-z]+ [a-z]+ ?[a-z]* image%f[^a-z]",
  "transcri[a-z]+ .*%f[a-z][fio][a-z]+ [a-z]+ ?[a-z]* image%f[^a-z]", "transcri[a-z]+ th[ei]s? image", "extracted text",
  "text extracted from", "%f[a-z]ocr text", "%f[a-z]ocr output" }
local ABOUT_THE_TASK = { "%f[a-z]text%f[^a-z]", "transcri", "extracted", "%f[a-z]ocr%f[^a-z]", "%f[a-z]image",
  "%f[a-z]scan", "%f[a-z]json%f[^a-z]", "markdown", "you requested", "cleaned", "corrected" }

--- Whole lines that only say that text follows: no proof.
local LABELS = set { "transcription:", "transcribed text:", "transcript:", "extracted text:", "ocr text:",
  "ocr output:", "ocr result:", "ocr transcription:", "cleaned text:", "corrected text:", "sure!", "sure:",
  "certainly!", "certainly:", "of course!", "absolutely!", "here you go:", "here it is:" }

local RULER = "^[ \t]*%-%-%-+[ \t\r]*$"

local function sets_apart(line) return is_blank(line) or line:find(RULER) or is_fence(line) end

local INTERJECTIONS = { "sure", "certainly", "of course", "absolutely", "okay" }
local QUALITIES = set { "", "full", "complete", "transcribed", "extracted", "cleaned", "corrected", "raw", "ocr" }
local THINGS = set { "text", "transcription", "transcript", "content", "contents", "output" }
local SOURCES = set { "image", "page", "document", "scan", "picture", "photo", "file" }

--- Whether a line is "Here is the text:", "Sure! Here's the transcribed text of the page:" or the like, word
--- by word.
local function is_usual(words)
  for _, interjection in ipairs(INTERJECTIONS) do words = words:gsub("^" .. interjection .. "[,!.]+ ", "") end
  local rest = words:match("^here is the (.*):$") or words:match("^here's the (.*):$")
    or words:match("^below is the (.*):$")
  if not rest then return false end
  local thing, source = rest:match("^(.-) [fio][rfn]o?m? th[ei]s? ([a-z]+)$")
  local quality, noun = (thing or rest):match("^(.-) ?([a-z]+)$")
  return THINGS[noun] and QUALITIES[quality] and (not source or SOURCES[source]) or false
end

--- "proof" for an announcement that only a model makes, "sign" for one that pages make, too; else nil.
local function announcement(line)
  if #line > MAX_REMARK then return nil end
  local words = plain(line)
  if is_usual(words) then return "proof" end
  if LABELS[words] then return "sign" end
  if words:sub(-1) ~= ":" or not text.has_any(words, OPENINGS, true) then return nil end
  return text.has_any(words, PROOF) and "proof" or text.has_any(words, ABOUT_THE_TASK) and "sign" or nil
end

local CLOSINGS = { "i hope this ", "i hope that ", "let me know ", "please let me know ", "feel free ",
  "please feel free ", "if you need ", "if you have ", "if you'd like ", "if you would like ", "is there anything ",
  "would you like me " }
local OFFERS = { "this helps", "that helps", "this is helpful", "further assistance", "any further", "anything else",
  "any questions", "more help", "further help", "need help", "clarification", "adjustment", "corrections",
  "modification", "any changes", "feel free to ask", "me to " }
local NAMES_THE_TASK = { "transcription", "transcribe", "%f[a-z]ocr%f[^a-z]", "th[ei]s? image", "the text above",
  "the above text", "extracted text" }

--- "proof" for an offer that names the task, "sign" for one that a letter may end in; else nil.
local function closing(line)
  if #line > MAX_REMARK then return nil end
  local words = plain(line)
  if not (text.has_any(words, CLOSINGS, true) and text.has_any(words, OFFERS)) then return nil end
  return text.has_any(words, NAMES_THE_TASK) and "proof" or "sign"
end

--- Takes announcements and offers of help off, each a paragraph of its own, with the rulers that set
--- them apart: those that are proof, an announcement before one, an offer in a text with an announcement,
--- and all around a text in fences.
local function remove_remarks(content)
  local lines = lines_of(content)
  local first, last = content_range(lines, 1, #lines)
  if not first then return content end
  -- from..to: without all that may be a model's; proven_from..proven_to: without what is proven.
  local from, to, proven_from, proven_to = first, last, first, last
  while from < to and sets_apart(lines[from + 1]) do
    local kind = announcement(lines[from])
    if not kind then break end
    from = content_range(lines, from + 1, to)
    if from < to and lines[from]:find(RULER) then from = content_range(lines, from + 1, to) end
    if kind == "proof" then proven_from = from end
  end
  while from < to and sets_apart(lines[to - 1]) do
    local kind = closing(lines[to])
    if not kind then break end
    local proven = kind == "proof" and proven_to == to
    from, to = content_range(lines, from, to - 1)
    if from < to and lines[to]:find(RULER) then from, to = content_range(lines, from, to - 1) end
    if proven then proven_to = to end
  end
  if not (outer_fences(lines, from, to) and (to == last or is_fence(lines[to]))) then
    if proven_from == first then to = proven_to end
    from = proven_from
  end
  if from == first and to == last then return content end
  return table.concat(lines, "\n", from, to) .. (to < #lines and "\n" or "")
end

-- ---------------------------------------------------------------- broken escapes

--- Commands of TeX that begin like an escape.
local TEX = {}
for word in ([[nabla ne neq neg ni nu nmid nleq ngeq nless nexists newline newcommand noindent normalsize nonumber
  not notag notin rho right rightarrow rangle rceil rfloor rule rm tan tau theta times to top tanh text textbf textit
  textrm tilde triangle triangledown triangleleft tfrac]]):gmatch("[a-z]+") do
  TEX[word] = true
end

--- How many "\n" (a backslash and the letter) there are; nil when they are not proven to be line
--- breaks: some backslash is no JSON escape (TeX, a path), one is in a string of code or a regular
--- expression, or not most of them are followed by what begins a line: no small letter.
local function escaped_newlines(content)
  if content:find("%f[A-Za-z][A-Za-z]:\\") or content:find("[(=][ \t]*[\"'][^\"']*\\n") then return nil end
  if content:find("\\n[\"']$") and not content:find('^"') then return nil end
  local escapes, proven = 0, 0
  for position, char, after in content:gmatch("()\\(.)()") do
    if not char:find('[nrtu"\\/]') then return nil end
    if char:find("[nrt]") and TEX[content:match("^[a-z]*", position + 1)] then return nil end
    if char == "u" and not content:find("^[0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f][0-9A-Fa-f]", after) then return nil end
    if char == "r" and not content:find("^\\n", after) then return nil end
    if char == "n" then
      -- In a regular expression, and as the end of a string.
      if content:find("^[]+?{}|)/]", after) or content:find("^%*[^* ]", after)
        or content:find("^[\"'][^\"'A-Za-z0-9\x80-\xFF]", after) then
        return nil
      end
      escapes = escapes + 1
      local mention = content:find("^[ \t]", position - 1) and content:find("^[ \t]", after)
      if after > #content or not mention and content:find("^[ \t\r\nA-Z0-9\"'\\\x80-\xFF]", after) then
        proven = proven + 1
      end
    end
  end
  if proven * 2 > escapes then return escapes end
end

local SIMPLE = { n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

--- A text that is a JSON string, or the inside of one: line breaks written as \n, hardly any real
--- one. What looks like JSON with keys is left to the rules for JSON.
local function unescape(content)
  if not content:find("\\n", 1, true) or content:find('^[ \t\r\n]*[{%[][ \t\r\n]*["{}]') then return content end
  local body = content:match("^[ \t\r\n]*(.*)$"):match("^(.*[^ \t\r\n])") or ""
  local escapes = escaped_newlines(body)
  if not escapes or count(body, "\n") * 4 > escapes then return content end
  local quoted = body:gsub("[\0-\31]", function(control) return ("\\u%04x"):format(control:byte()) end)
  for _, literal in ipairs { quoted, '"' .. quoted .. '"' } do
    if literal:find('^"') and json.check(literal, "decodable") then return json.decode(literal) end
  end
  return (body:gsub('\\([nrt"\\/])', SIMPLE))
end

local function character(hex) return utf8.char(tonumber(hex, 16)) end

--- "\u00e9" that came out as "\u0000e9": a NUL and the two digits.
local function mend_nul_pairs(content)
  if not content:find("\0", 1, true) and not content:find("\\u0000", 1, true) then return content end
  content = content:gsub("\\u0000([0-9A-Fa-f][0-9A-Fa-f])", character)
  return (content:gsub("\0([0-9A-Fa-f][0-9A-Fa-f])", character))
end

--- The same inside JSON, where the escape is still one.
local function mend_json_escapes(content)
  return (content:gsub("\\.[0-9A-Fa-f]*", function(escape)
    local hex, rest = escape:match("^\\u0000([0-9A-Fa-f][0-9A-Fa-f])(.*)$")
    return hex and "\\u00" .. hex .. rest
  end))
end

-- ---------------------------------------------------------------- characters and lines

--- U+0080 to U+009F are controls that nobody means: Windows-1252 taken for Latin-1. What that has
--- there: https://encoding.spec.whatwg.org/index-windows-1252.txt, "." for nothing.
local WINDOWS = {}
for _, code in utf8.codes("€.‚ƒ„…†‡ˆ‰Š‹Œ.Ž..‘’“”•–—˜™š›œ.žŸ") do
  WINDOWS[#WINDOWS + 1] = code == 46 and "" or utf8.char(code)
end

local function remove_controls(content)
  content = content:gsub("[\v\f]", "\n"):gsub("[\0-\8\14-\31\127]", "")
  return (content:gsub("\xC2([\x80-\x9F])", function(byte) return WINDOWS[byte:byte() - 127] end))
end

local function unify_line_endings(content)
  return (content:gsub("\r\n", "\n"):gsub("\r", "\n"):gsub("\u{2028}", "\n"):gsub("\u{2029}", "\n"))
end

--- Blanks at line ends, empty lines before the text, more than one line break behind it.
local function remove_trailing_blanks(content)
  local lines = lines_of(content)
  for i, line in ipairs(lines) do lines[i] = without_trailing_blanks(line) end
  local from, to = 1, #lines
  while from <= to and lines[from] == "" do from = from + 1 end
  while to >= from and lines[to] == "" do to = to - 1 end
  if from > to then return "" end
  return table.concat(lines, "\n", from, to) .. (to < #lines and "\n" or "")
end

local function remove_mark(content) return (content:gsub("^\u{FEFF}", "")) end

--- JSON in a fence, behind a sentence, with raw control characters or trailing commas.
local function unwrap_json(content)
  local found, steps = text.find_json(content, true)
  return found and #steps > 0 and found or content
end

-- ---------------------------------------------------------------- the lists

--- What is done to a text, in this order. apply(text) -> text.
cleaning.rules = {
  { name = "byte order mark", apply = remove_mark },
  { name = "chat-template tokens", apply = remove_template_tokens },
  { name = "preamble and postamble", apply = remove_remarks }, -- knows a model by its fences
  { name = "fences", apply = remove_fences },
  { name = "escaped newlines", apply = unescape },
  { name = "NUL and hex pairs", apply = mend_nul_pairs },
  { name = "control characters", apply = remove_controls },
  { name = "line endings", apply = unify_line_endings },
  { name = "trailing blanks", apply = remove_trailing_blanks },
  { name = "words hyphenated across lines", apply = hyphenation.join },
}

--- What is done instead where JSON was asked for, and to a text that is a JSON object or array: what
--- leaves JSON JSON.
cleaning.json_rules = {
  { name = "byte order mark", apply = remove_mark },
  { name = "JSON unwrapped", apply = unwrap_json },
  { name = "NUL and hex pairs", apply = mend_json_escapes },
}

--- Takes a rule off the lists.
---@param name string
function cleaning.remove(name)
  local found = false
  for _, rules in ipairs { cleaning.rules, cleaning.json_rules } do
    for i = #rules, 1, -1 do
      if rules[i].name == name then
        table.remove(rules, i)
        found = true
      end
    end
  end
  if not found then error(("cleaning: there is no rule '%s'"):format(tostring(name)), 2) end
end

--- What is wrong with a list of { name = string, [verb] = function }; nil when nothing is.
---@param title string  how the list is called
---@param list any
---@param verb string   "apply"
---@return string|nil fault
function cleaning.list_fault(title, list, verb)
  if type(list) ~= "table" then return title .. " must be a list" end
  for key, entry in pairs(list) do
    local where = ("%s[%s]"):format(title, tostring(key))
    if math.type(key) ~= "integer" or key < 1 or key > #list then return where .. ": no place in the list" end
    if type(entry) ~= "table" then return ("%s must be { name =, %s = }"):format(where, verb) end
    for field in pairs(entry) do
      if field ~= "name" and field ~= verb then return ("%s: there is no field '%s'"):format(where, tostring(field)) end
    end
    if type(entry.name) ~= "string" then return where .. ": name must be a string" end
    if type(entry[verb]) ~= "function" then
      return ("%s (%s): %s must be a function"):format(where, entry.name, verb)
    end
  end
end

--- What is wrong with the rules; nil when nothing is.
---@return string|nil fault
function cleaning.fault()
  return cleaning.list_fault("cleaning.rules", cleaning.rules, "apply")
    or cleaning.list_fault("cleaning.json_rules", cleaning.json_rules, "apply")
end

-- ---------------------------------------------------------------- cleaning

local function is_json(content)
  return content:find("^[ \t\r\n]*[{%[]") and json.check(content)
end

--- Whether there is nothing to be seen: a blank page.
local function says_nothing(content)
  return text.is_blank((remove_controls(remove_mark(content)):gsub("\u{A0}", " ")))
end

--- The text after all rules. When the rules leave nothing of a text that was not blank, or never come to an end with
--- it, the text comes back as it was.
---@param content string
---@param as_json? boolean  JSON was asked for
---@return string cleaned
---@return string[] rules  the names of those that changed it, in the order of their first change
---@return string|nil why  it was left alone
function cleaning.clean(content, as_json)
  local cleaned, names, seen = content, {}, {}
  for _ = 1, MAX_ROUNDS do
    local before = cleaned
    for _, rule in ipairs((as_json or is_json(cleaned)) and cleaning.json_rules or cleaning.rules) do
      local after = rule.apply(cleaned)
      if type(after) ~= "string" then
        error(("cleaning: the rule '%s' returned a %s, not the text"):format(rule.name, type(after)), 0)
      end
      if after ~= cleaned and not seen[rule.name] then
        seen[rule.name], names[#names + 1] = true, rule.name
      end
      cleaned = after
    end
    if cleaned == before then
      if text.is_blank(cleaned) and not says_nothing(content) then
        return content, {}, "cleaning leaves nothing of it"
      end
      return cleaned, names
    end
  end
  return content, {}, ("cleaning comes to no end in %d rounds"):format(MAX_ROUNDS)
end

setmetatable(cleaning, { __newindex = function(_, key)
  error(("cleaning: there is no '%s'"):format(tostring(key)), 2)
end })

return cleaning
