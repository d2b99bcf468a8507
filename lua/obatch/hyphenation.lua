--- Words that a page breaks at the end of a line.

local hyphenation = {}

local function set(words)
  local members = {}
  for word in words:gmatch("[^ ]+") do members[word] = true end
  return members
end

local SOFT_HYPHEN, HYPHEN = "\u{AD}", "\u{2010}"

--- First parts of compounds that keep their hyphen.
local KEEPS_HYPHEN = set "self well ill half non ex vice all cross quasi by ever so"

--- What a hyphen at a line's end is no break of a word before: "twenty-five", "pre- and post-war".
local NUMBERS = set "twenty thirty forty fifty sixty seventy eighty ninety"
local AND = set "and or und oder et ou but in"

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
  if (utf8.len(word) or #word) < 2 or NUMBERS[word:lower()] then return nil end
  if KEEPS_HYPHEN[word:lower()] or word:find("-", 1, true) then return stem .. "-" end
  return stem
end

--- Whether a line may take part: no address, no columns.
local function is_prose(line)
  return not (line:find("://", 1, true) or line:find("@", 1, true) or line:find("[^ \t][ \t][ \t]+[^ \t]"))
end

--- Whether the hyphen before `piece` stays: "mother-" before "in-law", "pre-" before "and".
local function keeps_apart(piece)
  return piece:find("-[^-]") or piece:find(HYPHEN .. ".") or AND[piece:match("^([a-z]+)%f[^a-z\x80-\xFF]")]
end

--- The rest of a word that was broken at a line's end moves up to its beginning: "the tran-\nscription
--- of" becomes "the transcription\nof", so the lines stay where they are on the page. Only between
--- small letters: "Anglo-\nSaxon", "1909-\n10" stay. What is a compound (self-help, up-to-date)
--- keeps its hyphen. A line that held nothing else goes.
---@param content string
---@return string content
function hyphenation.join(content)
  if not (content:find("-\n", 1, true) or content:find(HYPHEN .. "\n", 1, true)
    or content:find(SOFT_HYPHEN .. "\n", 1, true)) then
    return content
  end
  -- A line under construction is a list of pieces, of which only the last can have a broken word.
  local out, pieces, prose_before = {}, nil, false
  for line in (content .. "\n"):gmatch("([^\n]*)\n") do
    local prose = is_prose(line)
    local stem = prose and prose_before and broken_word(pieces[#pieces])
    prose_before = prose
    local indent, piece, rest
    if stem then indent, piece, rest = line:match("^([ \t]*)([^ \t]+)[ \t]*(.*)$") end
    if piece and begins_small(piece) and not keeps_apart(piece) and (rest == "" or not broken_word(piece)) then
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

return hyphenation
