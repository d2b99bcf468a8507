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

-- ---------------------------------------------------------------- chat templates and fences

--- Tokens of chat templates that stand between <| and |>; those with an underscore (im_start, eot_id,
--- start_header_id) are all taken for one. "<|A|>" is physics.
local TEMPLATE_WORDS = { ["end"] = true, start = true, user = true, assistant = true, system = true, endoftext = true,
  endofprompt = true, startoftext = true, message = true, channel = true, ["return"] = true, pad = true }

local function without_token(name)
  if TEMPLATE_WORDS[name] or name:find("_", 1, true) then return "" end
end

local function count(content, plain)
  local n, position = 0, 1
  while true do
    local first, last = content:find(plain, position, true)
    if not first then return n end
    n, position = n + 1, last + 1
  end
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

local function remove_template_tokens(content)
  if content:find("<|", 1, true) then
    content = content:gsub("<|im_start|>[a-z]*[ \t]*\n?", "")
    content = content:gsub("<|start_header_id|>[a-z]*<|end_header_id|>\n*", "")
    content = content:gsub("<|channel|>[a-z]*<|message|>", "")
    content = content:gsub("<|([A-Za-z0-9_]+)|>", without_token)
  end
  if content:find("<", 1, true) then
    content = content:gsub("<\u{FF5C}[A-Za-z_\u{2581}]+\u{FF5C}>", "")
    for _, token in ipairs { "<</?SYS>>", "<start_of_turn>[a-z]*\n?", "<end_of_turn>", "<[be]os>", "<pad>" } do
      content = content:gsub(token, "")
    end
    content = content:gsub("^[ \t\r\n]*<think>.-</think>[ \t\r\n]*", "")
    content = without_sentence_marks(content)
  end
  content = content:gsub("%[/?INST%]", "")
  -- The role that heads a turn: "assistant" alone, "Assistant:" alone, "assistant: ...".
  content = content:gsub("^[ \t\r\n]*assistant[ \t\r]*\n", "")
  content = content:gsub("^[ \t\r\n]*[Aa][Ss][Ss][Ii][Ss][Tt][Aa][Nn][Tt]:[ \t\r]*\n", "")
  return (content:gsub("^[ \t\r\n]*assistant:[ \t]*", ""))
end

local FENCE = "^[ \t]*```+ ?[A-Za-z0-9_+-]*$"
local FENCE_LANGUAGES = { text = true, txt = true, plaintext = true, markdown = true, md = true, json = true,
  html = true }

--- Lines that are nothing but a Markdown fence become empty, wherever they are: they carry nothing
--- of a page. A fence on the line of the text goes when it is around the whole of it.
local function remove_fences(content)
  if not content:find("```", 1, true) then return content end
  local lines, changed = lines_of(content), false
  for i, line in ipairs(lines) do
    if without_trailing_blanks(line):find(FENCE) then lines[i], changed = "", true end
  end
  if changed then return table.concat(lines, "\n") end

  local inner = content:match("^[ \t\r\n]*```+(.*)$")
  inner = inner and inner:match("^(.*[^ \t\r\n])[ \t\r\n]*$")
  if not inner or inner:sub(-3) ~= "```" then return content end
  inner = inner:match("^(.*[^`])`+$") or ""
  local language, rest = inner:match("^([a-z]+)[ \t](.*)$")
  return FENCE_LANGUAGES[language] and rest or inner
end

-- ---------------------------------------------------------------- a model's own words

--- Whether one of the patterns is in `line` (with `first`: at its begin).
local function has_any(line, patterns, first)
  for _, pattern in ipairs(patterns) do
    if line:find((first and "^" or "") .. pattern) then return true end
  end
  return false
end

local function set(list)
  local members = {}
  for _, member in ipairs(list) do members[member] = true end
  return members
end

--- A line as the tables below know it: lower case, straight apostrophes, no Markdown around it.
local function plain(line)
  line = without_trailing_blanks(line):lower():gsub("\u{2019}", "'")
  return (line:gsub("^[ \t#*_]+", ""):gsub("[*_]+$", ""):gsub("[*_]+:$", ":"))
end

--- How an announcement begins, and what one of them is then in it. No page of its own accord has
--- both, "Here is the text of the resolution:" and "I have received, as requested:" included.
local OFFERING = { "here is ", "here's ", "here are ", "below is ", "below are ", "sure[,!.]", "certainly[,!.]",
  "of course[,!.]", "absolutely[,!.]", "okay[,!.]" }
local STATING = { "the following is ", "this is ", "the text ", "the extracted ", "the transcri" }
local DONE = { "i have transcribed", "i've transcribed", "i have extracted", "i've extracted", "i have cleaned",
  "i've cleaned", "i have corrected the text", "i've corrected the text" }
local ABOUT_THE_TASK = { "transcription", "transcribed", "text extracted", "extracted text", "extracted from",
  "%f[a-z]ocr%f[^a-z]", "th[ei]s? image", "your image", "the scan", "%f[a-z]json%f[^a-z]", "markdown",
  "text from the page", "text from the document", "text of the page", "text of the document" }
local ABOUT_THE_ORDER = { "you requested", "requested json", "cleaned", "corrected", "information extracted" }

--- Whole lines that only say that text follows; those of the second table with an empty line behind.
local LABELS = set { "here is the text:", "here's the text:", "here is the full text:", "transcription:",
  "transcribed text:", "transcript:", "extracted text:", "ocr text:", "ocr output:", "ocr result:",
  "ocr transcription:", "cleaned text:", "corrected text:" }
local INTERJECTIONS = set { "sure!", "sure:", "certainly!", "certainly:", "of course!", "absolutely!",
  "here you go:", "here it is:" }

local RULER = "^[ \t]*%-%-%-+[ \t\r]*$"

local function sets_apart(line) return is_blank(line) or line:find(RULER) end

--- Whether `line`, with `next` behind it, is a model's announcement: a label, or a short line that
--- opens like one, speaks of the task, and ends in a colon before an empty line.
local function is_preamble(line, next)
  if #line > MAX_REMARK then return false end
  local words = plain(line)
  if LABELS[words] then return true end
  if not sets_apart(next) then return false end
  if INTERJECTIONS[words] then return true end
  if words:sub(-1) ~= ":" then return false end
  if has_any(words, DONE, true) then return true end
  local offers = has_any(words, OFFERING, true)
  return (offers or has_any(words, STATING, true)) and has_any(words, ABOUT_THE_TASK)
    or offers and has_any(words, ABOUT_THE_ORDER)
end

local CLOSINGS = { "i hope this ", "i hope that ", "let me know ", "please let me know ", "feel free ",
  "please feel free ", "if you need ", "if you have ", "if you'd like ", "if you would like ", "is there anything ",
  "would you like me " }
local OFFERS = { "this helps", "that helps", "this is helpful", "further assistance", "any further", "anything else",
  "any questions", "more help", "further help", "need help", "clarification", "adjustment", "corrections",
  "modification", "any changes", "feel free to ask", "me to " }

local function is_postamble(line)
  if #line > MAX_REMARK then return false end
  local words = plain(line)
  return has_any(words, CLOSINGS, true) and has_any(words, OFFERS)
end

--- Takes announcements and offers of help off, each a paragraph of its own, with the rulers that set
--- them apart.
local function remove_remarks(content)
  local lines = lines_of(content)
  local first, last = content_range(lines, 1, #lines)
  if not first then return content end
  local from, to = first, last
  while from < to and is_preamble(lines[from], lines[from + 1]) do
    from = content_range(lines, from + 1, to)
    if from < to and lines[from]:find(RULER) then from = content_range(lines, from + 1, to) end
  end
  while from < to and sets_apart(lines[to - 1]) and is_postamble(lines[to]) do
    from, to = content_range(lines, from, to - 1)
    if from < to and lines[to]:find(RULER) then from, to = content_range(lines, from, to - 1) end
  end
  if from == first and to == last then return content end
  return table.concat(lines, "\n", from, to) .. (to < #lines and "\n" or "")
end

-- ---------------------------------------------------------------- broken escapes

--- Commands of TeX that begin like an escape.
local TEX = {}
for word in ([[nabla neq neg nmid newline newcommand noindent normalsize nonumber notag
  rho right rightarrow rangle rceil rfloor rule tau theta times tanh text textbf textit textrm tilde triangle tfrac
  uparrow underline upsilon]]):gmatch("[a-z]+") do
  TEX[word] = true
end

--- How many "\n" (a backslash and the letter) there are, or nil when some backslash is no JSON
--- escape: TeX, a Windows path. One "\n" before a small letter proves nothing: E = h\nu.
local function escaped_newlines(content)
  if content:find("%f[A-Za-z][A-Za-z]:\\") then return nil end
  local escapes, proven = 0, false
  for char, position in content:gmatch("\\(.)()") do
    if not char:find('[nrtu"\\/]') then return nil end
    if char:find("[nrtu]") and TEX[content:match("^[a-z]*", position - 1)] then return nil end
    if char == "n" then
      escapes = escapes + 1
      proven = proven or not content:find("^[a-z]", position)
    end
  end
  if escapes > 1 or proven then return escapes end
end

local SIMPLE = { n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

--- A text that is a JSON string, or the inside of one: line breaks written as \n, hardly any real
--- one. What looks like JSON with keys is left to the rules for JSON.
local function unescape(content)
  if not content:find("\\n", 1, true) or content:find('^[ \t\r\n]*[{%[][ \t\r\n]*["{}]') then return content end
  local escapes = escaped_newlines(content)
  if not escapes then return content end
  local body = content:match("^[ \t\r\n]*(.*)$"):match("^(.*[^ \t\r\n])") or ""
  if count(body, "\n") * 4 > escapes then return content end
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

local SOFT_HYPHEN, HYPHEN = "\u{AD}", "\u{2010}"

--- First parts of compounds that keep their hyphen.
local KEEPS_HYPHEN = {}
for word in ("self well ill half non ex vice all cross quasi by ever so"):gmatch("[a-z]+") do
  KEEPS_HYPHEN[word] = true
end

--- Letters of which small and capital ones are told apart, small ones only: Latin, Greek, Cyrillic.
local function is_small_letter(code)
  return code >= 0x61 and code <= 0x7A or code >= 0xDF and code <= 0xFF and code ~= 0xF7
    or code >= 0x100 and code <= 0x17F and code % 2 == 1 or code >= 0x3AC and code <= 0x3CE
    or code >= 0x430 and code <= 0x45F
end

--- Whether the character that begins (ends) a string is a small letter. Bytes that are no UTF-8 are
--- none.
local function begins_small(string)
  local first = string:match("^" .. utf8.charpattern)
  return first ~= nil and utf8.len(first) == 1 and is_small_letter(utf8.codepoint(first))
end

local function ends_small(string)
  local last = string:sub(-4):match("[^\x80-\xBF][\x80-\xBF]*$")
  return last ~= nil and utf8.len(last) == 1 and is_small_letter(utf8.codepoint(last))
end

--- The line up to the hyphen that breaks its last word; with the hyphen where a compound has one.
local function broken_word(line)
  local stem
  if line:sub(-2) == SOFT_HYPHEN then return line:sub(1, -3) end
  if line:sub(-3) == HYPHEN then stem = line:sub(1, -4)
  elseif line:sub(-1) == "-" then stem = line:sub(1, -2)
  else return nil end
  if not ends_small(stem) then return nil end
  -- At least two letters before the hyphen: "e-" is no part of a broken word.
  local word = stem:sub(-100):match("[A-Za-z\x80-\xFF'-]*$")
  if (utf8.len(word) or #word) < 2 then return nil end
  if KEEPS_HYPHEN[word:lower()] or word:find("-", 1, true) then return stem .. "-" end
  return stem
end

--- The rest of a word that was broken at a line's end moves up to its beginning: "the tran-\nscription
--- of" becomes "the transcription\nof", so the lines stay where they are on the page. Only between
--- small letters: "Anglo-\nSaxon", "1909-\n10" stay. What is a compound (self-help, up-to-date)
--- keeps its hyphen. A line that held nothing else goes.
local function join_words(content)
  if not (content:find("-\n", 1, true) or content:find(HYPHEN .. "\n", 1, true)
    or content:find(SOFT_HYPHEN .. "\n", 1, true)) then
    return content
  end
  -- A line under construction is a list of pieces, of which only the last can have a broken word.
  local out, pieces = {}, nil
  for _, line in ipairs(lines_of(content)) do
    local stem = pieces and broken_word(pieces[#pieces])
    local indent, piece, rest
    if stem then indent, piece, rest = line:match("^([ \t]*)([^ \t]+)[ \t]*(.*)$") end
    if piece and begins_small(piece) and (rest == "" or not broken_word(piece)) then
      pieces[#pieces] = stem
      pieces[#pieces + 1] = piece
      line = rest ~= "" and indent .. rest or nil
    end
    if line then
      if pieces then out[#out + 1] = table.concat(pieces) end
      pieces = { line }
    end
  end
  out[#out + 1] = table.concat(pieces)
  return table.concat(out, "\n")
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
  { name = "fences", apply = remove_fences },
  { name = "preamble and postamble", apply = remove_remarks },
  { name = "escaped newlines", apply = unescape },
  { name = "NUL and hex pairs", apply = mend_nul_pairs },
  { name = "control characters", apply = remove_controls },
  { name = "line endings", apply = unify_line_endings },
  { name = "trailing blanks", apply = remove_trailing_blanks },
  { name = "words hyphenated across lines", apply = join_words },
}

--- What is done instead where JSON was asked for, and to a text that is a JSON object or array: what
--- leaves JSON JSON.
cleaning.json_rules = {
  { name = "byte order mark", apply = remove_mark },
  { name = "JSON unwrapped", apply = unwrap_json },
  { name = "NUL and hex pairs", apply = mend_json_escapes },
}

--- Takes a rule off the lists.
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

--- The text after all rules, and the names of those that changed it, in the order of their first
--- change. `as_json`: JSON was asked for. When the rules leave nothing of a text that was not blank,
--- or never come to an end with it, the text comes back as it was, with the reason as a third value.
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
