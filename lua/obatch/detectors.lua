--- Detectors: which texts are beyond what cleaning can mend.
--
-- Each looks at a cleaned text and gives a score and the reason; the scores add up, and a text from
-- `threshold` on is labelled. Numbers and list can be changed by a file given to --rules, which
-- returns nothing:
--
--     local detectors = require "obatch.detectors"
--     detectors.limits.replaced_share = 0.05
--     detectors.remove "length"
--     table.insert(detectors.list, { name = "stamps", score = function(text, context)
--       if text:find("MICROFILMED", 1, true) then return 1, "nothing but the film's leader" end
--       return 0
--     end })
--
-- A page may be an index, a table, a form with dotted lines, a poem with a refrain, in any script:
-- what such pages have in common with bad texts scores low or not at all.

local cleaning = require "obatch.cleaning"
local json = require "obatch.json"
local refusal = require "obatch.refusal"
local repetition = require "obatch.repetition"
local text = require "obatch.text"

local detectors = {
  --- A text whose scores reach this is labelled.
  threshold = 1,

  limits = {
    --- A loop: the same words, one time after the other. Short words and numbers repeat in honest
    --- tables, so how often is too often depends on the bytes of what is repeated: from `bytes` on,
    --- `times` are too many. (Numbers count as the first entry.)
    loops = { { bytes = 0, times = 400 }, { bytes = 2, times = 100 }, { bytes = 4, times = 40 },
      { bytes = 12, times = 10 }, { bytes = 100, times = 6 }, { bytes = 200, times = 4 } },
    --- Where there is hardly anything else in the text, so many times are too many for any word.
    loop_alone = 20,
    --- A loop that is this share of the text, or this many bytes, is reason enough.
    loop_share = 0.3,
    loop_bytes = 2000,
    --- A loop that is more than half of the text is one from so many times and bytes on.
    loop_half = { times = 3, bytes = 500 },
    --- A text with this share of dotted lines is a form, whose rows may repeat so many times as often.
    leader_share = 0.3,
    form_factor = 10,
    --- So may rows that differ in their numbers only: accounts.
    counting_factor = 6,
    --- Share of the text's runs of six words that were there before: half a reason, a reason.
    repeated_share = { 0.6, 0.8 },
    --- One sign (a dot, a dash) so often in a row; and where there is hardly anything else.
    sign_run = 10000,
    sign_alone = 1000,

    --- Share of characters that no language uses.
    odd_share = 0.05,
    --- Fewer than this are never reason enough, here and for the next.
    odd = 3,
    --- Of replacement characters (U+FFFD): this share, or this many.
    replaced_share = 0.01,
    replaced = 10,
    --- Of words as no language writes them ("JoJotWoIe", "yea}", "Ja}Jaq", "bst3st"); so many times the
    --- share where all the damage is of one kind.
    garbled_share = 0.05,
    garbled_one_kind = 3,

    --- A folder of fewer texts says nothing about their length.
    folder_texts = 10,
    --- So many times shorter, longer, or far longer than the folder's median.
    shorter = 20,
    longer = 20,
    far_longer = 100,
    --- Characters that fit on no page.
    page = 200000,

    --- Bytes of a refusal: in a longer text the same words are its content.
    refusal = 600,
  },
}

local limits = detectors.limits

--- Words for a reason: one line, not endless.
local function quoted(words)
  local line = text.printable((words:gsub("[ \t\n]+", " ")))
  local short = text.cut(line, 50)
  return ('"%s%s"'):format(short, #short < #line and "..." or "")
end

--- More places of one finding are not told.
local MAX_PLACES = 1000

--- Adds the bytes from `first` to `last` to the places of a finding; to the one before where the two touch.
local function add_place(places, first, last)
  local before = places[#places]
  if before and first <= before.last + 1 then
    before.last = math.max(before.last, last)
  elseif #places < MAX_PLACES then
    places[#places + 1] = { first = first, last = last }
  end
end

-- ---------------------------------------------------------------- repetition

--- Whether dotted lines, rows of dashes and the like are a good part of it.
local function is_form(content)
  local leaders = 0
  for _, leader in ipairs { "%.%.%.+", "___+", "%-%-%-+", "\u{2026}" } do
    for first, last in content:gmatch("()" .. leader .. "()") do leaders = leaders + last - first end
  end
  return leaders >= limits.leader_share * #content
end

--- What makes a line a row: figures at its end, gaps between columns (two blanks after a full stop are
--- none), dotted lines.
local ROW = { "%d[%s%p]*$", "\xC2[\xBC-\xBE][%s%p]*$", "%S   +%S", "[^%s.:;,?!]  %S", "%S *\t", "|.*|",
  "%.%.%.%.", "%. %. %. %.", "____", "%-%-%-%-", "\u{2026}\u{2026}" }

--- Bytes of the longest row.
local LONG_ROW = 500

--- Whether most of it is rows of a table or a form, which repeat as they please.
local function is_table(piece)
  local rows = 0
  for line in piece:gmatch("[^\n]+") do
    if #line <= LONG_ROW and text.has_any(line, ROW) then rows = rows + #line end
  end
  return rows > #piece / 2
end

--- How often is too often for a unit of so many bytes that is such a share of the text.
local function too_often(bytes, share)
  local times
  for _, loop in ipairs(limits.loops) do
    if bytes >= loop.bytes then times = loop.times end
  end
  return bytes > 0 and share > 0.9 and math.min(times, limits.loop_alone) or times
end

--- Looks for loops, in which the same words come `factor` times as often as is too often. `exact`: the
--- words are the same to the last number.
local function loop_score(content, ids, starts, stops, words, factor, exact)
  local covered, worst, twice, half, places = 0, nil, nil, limits.loop_half, {}
  for _, stretch in ipairs(repetition.stretches(ids)) do
    local bytes, letters = 0, false
    for i = stretch.first, stretch.first + stretch.period - 1 do
      bytes = bytes + stops[i] - starts[i] + 1
      letters = letters or words[ids[i]] ~= nil and words[ids[i]]:find("[^0-9]") ~= nil
    end
    local times = (stretch.last - stretch.first + 1) / stretch.period
    local size = stops[stretch.last] - starts[stretch.first] + 1
    if times >= factor * too_often(letters and bytes or 0, size / #content)
      or exact and letters and size > #content / 2 and size >= half.bytes and times >= half.times then
      if not is_table(content:sub(starts[stretch.first], stops[stretch.last])) then covered = covered + size end
      add_place(places, starts[stretch.first], stops[stretch.last])
      if not worst or size > worst.size then
        worst = { size = size, times = times // 1, words = stretch.period,
          text = content:sub(starts[stretch.first], stops[stretch.first + stretch.period - 1]) }
      end
    elseif bytes >= 150 and size >= #content * 0.8 then
      twice = times // 1
    end
  end
  if worst then
    local much = covered >= math.min(limits.loop_bytes, limits.loop_share * #content)
    return much and 1 or 0.5, ("%s %d times in a row"):format(quoted(worst.text), worst.times), places
  elseif twice then
    return 0.5, ("all of it is there %d times"):format(twice)
  end
  return 0
end

--- Words of the runs by which novelty is measured.
local NOVELTY = 6

--- How much of the text was there before, word for word: loops that vary a little. Runs of few
--- different words (Yes No No Yes) are tables.
local function novelty_score(ids, starts, stops)
  if #ids < 200 then return 0 end
  local seen, repeated, places = {}, 0, {}
  repetition.each_gram(ids, NOVELTY, function(i, hash)
    if not seen[hash] then
      seen[hash] = true
      return
    end
    local different = 0
    for a = i - NOVELTY + 1, i do
      local is_new = 1
      for b = i - NOVELTY + 1, a - 1 do
        if ids[a] == ids[b] then is_new = 0 end
      end
      different = different + is_new
    end
    if different >= 4 then
      repeated = repeated + 1
      add_place(places, starts[i - NOVELTY + 1], stops[i])
    end
  end)
  local share = repeated / #ids
  local half, whole = limits.repeated_share[1], limits.repeated_share[2]
  if share < half then return 0 end
  return share >= whole and 1 or 0.5, ("%d%% of it was there before, word for word"):format(share * 100 // 1), places
end

--- The longest run of one ASCII sign, that sign, and its place; blanks, and line breaks unless `in_line`,
--- between them not counted.
local function sign_run(content, in_line)
  local longest, sign, first, last = 0, nil, nil, nil
  for start, run in content:gmatch(in_line and "()([^0-9A-Za-z\x80-\xFF\n]+)" or "()([^0-9A-Za-z\x80-\xFF]+)") do
    if #run > longest then
      local n, previous, begin = 0, nil, nil
      for at, char in run:gmatch("()([^ \t\r\n])") do
        if char ~= previous then n, begin = 0, at end
        n, previous = n + 1, char
        if n > longest then longest, sign, first, last = n, char, start + begin - 1, start + at - 1 end
      end
    end
  end
  return longest, sign, { { first = first, last = last } }
end

local function repeats(content)
  local ids, starts, stops, words = repetition.words_of(content)
  local form = is_form(content)
  local factor = form and limits.form_factor or 1
  local score, reason, places = loop_score(content, ids, starts, stops, words, factor, true)
  local function or_else(other, why, there)
    if other > score then score, reason, places = other, why, there end
  end
  if score < 1 and not form then
    local other, why, there = novelty_score(ids, starts, stops)
    or_else(is_table(content) and math.min(other, 0.5) or other, why, there)
  end
  if score < 1 then
    for i, id in ipairs(ids) do
      if not words[id]:find("[^0-9]") then ids[i] = 0 end
    end
    local other, why, there = loop_score(content, ids, starts, stops, words, factor * limits.counting_factor)
    or_else(other, why and why .. ", but for numbers", there)
  end
  if score < 1 then
    local run, sign, there = sign_run(content)
    -- A ruled page is nothing but signs, too, but has lines.
    local most = 0.8 * #content:gsub("[ \t\r\n]+", "")
    local alone = run > most and (not form or sign_run(content, true) > most)
    if run >= (alone and limits.sign_alone or limits.sign_run) then
      or_else(1, ("'%s' %d times in a row"):format(sign, run), there)
    end
  end
  return score, reason, places
end

-- ---------------------------------------------------------------- characters

--- Whether a code point is no character of any language: private use, what Unicode will never or has
--- not yet assigned (planes 4 to 13), controls.
local function is_odd(code)
  return code < 0x20 and code ~= 9 and code ~= 10 and code ~= 13 or code >= 0x7F and code <= 0x9F
    or code >= 0xE000 and code <= 0xF8FF or code >= 0xFDD0 and code <= 0xFDEF or code & 0xFFFE == 0xFFFE
    or code >= 0xFFF0 and code <= 0xFFFC or code >= 0x40000
end

--- What Windows-1252 has at 0x80 to 0x9F.
local WINDOWS = {}
for _, code in utf8.codes "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ" do WINDOWS[code] = true end

--- UTF-8 taken for Windows-1252: "Ã©", "â€™", "ÐŸÑ€Ð¸".
local function is_mistaken(previous, code)
  return (previous == 0xC2 or previous == 0xC3) and code >= 0xA0 and code <= 0xBF
    or (previous == 0xD0 or previous == 0xD1) and (code >= 0x80 and code <= 0xBF or WINDOWS[code])
    or previous == 0xE2 and code == 0x20AC
end

local function odd_characters(content)
  if not utf8.len(content) or not content:find("[\x80-\xFF\0-\8\11\12\14-\31\127]") then return 0 end
  local odd, all, previous, before, places = 0, 0, 0, 1, {}
  for at, code in utf8.codes(content) do
    if code > 32 then all = all + 1 end
    if is_mistaken(previous, code) then
      odd = odd + 2
      add_place(places, before, at + #utf8.char(code) - 1)
    elseif is_odd(code) then
      odd = odd + 1
      add_place(places, at, at + #utf8.char(code) - 1)
    end
    previous, before = code, at
  end
  if odd == 0 then return 0 end
  local share = odd / math.max(all, 1)
  return math.min(odd < limits.odd and 0.4 or 1, share / limits.odd_share),
    ("%d of %d characters are of no language"):format(odd, all), places
end

local function replacement_characters(content)
  local _, n = content:gsub("\u{FFFD}", "")
  if n == 0 then return 0 end
  local places = {}
  for at in content:gmatch("()\u{FFFD}") do add_place(places, at, at + 2) end
  local share = n / (utf8.len(content) or #content)
  local score = n >= limits.replaced and 1 or math.min(1, 0.2 + share / limits.replaced_share * 0.8)
  return math.min(n < limits.odd and 0.4 or 1, score),
    ("%d replacement character%s (U+FFFD)"):format(n, n == 1 and "" or "s"), places
end

-- ---------------------------------------------------------------- garbled words

--- Fewer words than this say nothing; more are not looked at.
local FEW_WORDS, ENOUGH_WORDS = 20, 20000

--- Begins of names that have a capital within: McGinnis, DeLong.
local NAMES = { Mc = true, Mac = true, De = true, Di = true, Du = true, La = true, Le = true, Van = true, Von = true,
  Fitz = true, St = true }

local ELEMENTS = {}
for symbol in ("H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Cr Mn Fe Co Ni Cu Zn As Br Sr Ag Sn Sb I Ba "
  .. "Pt Au Hg Pb Bi U"):gmatch("%a+") do ELEMENTS[symbol] = true end

--- Whether it is a chemical formula: NaHCO3.
local function is_compound(word)
  local rest = word:gsub("%u%l?", function(symbol) return ELEMENTS[symbol] and "" end)
  return not rest:find("%a")
end

--- Whether a word of ASCII letters looks like an engine's guess at ink: nil, or the kind of damage,
--- which is a capital within it ("case"), a bracket at a letter or a digit between small ones ("mark"),
--- or a lone consonant ("lone").
local function damage_of(word)
  if #word > repetition.LONG_WORD or word:find("^%u?%l%l+[.,;:]?$") then return nil end -- most words
  for run in word:gmatch("[A-Za-z]+") do
    if #run > 3 then
      local inner = run:find("%l%u") and not NAMES[run:match("^(%u%l+)%u")] and not run:find("^%l%l?%u%l+$")
        and not run:find("^%u?%l+Innen$") and not run:find("^%u?%l+In$")
      if (inner or run:find("%u%u%l") and not run:find("^%u+s$")) and not is_compound(word) then return "case" end
    end
  end
  if word:find("[%]{}|~]%a") or word:find("%a[{}|~]") or word:find("%[%[") or word:find("%a%[%a*%]?%a")
    and not word:find("%]") or word:find("%l%d+%l") or word:find("%d%u%l") and not is_compound(word) then
    return "mark"
  end
  return #word == 1 and word:find("[b-df-hj-np-tvx><~^\\`{}]") and "lone" or nil
end

--- Whether the word from `first` to `last` stands alone between line ends, bars and gaps, or before a dot.
local function is_cell(content, first, last)
  local before, after = content:sub(math.max(first - 2, 1), first - 1), content:sub(last + 1, last + 2)
  return after:find("^ ?%.") or (before:find("^ ?$") or before:find("[\t\n|]$") or before:find("^[ |] $"))
    and (after:find("^ ?$") or after:find("^[\t\r\n|]") or after:find("^ [ |]"))
end

--- Formulas and programs are written that way.
local function is_formal(content, words)
  local _, equations = content:gsub("=", "")
  local _, commands = content:gsub("\\%a%a", "")
  local _, signs = content:gsub("\xE2\x88[\x80-\xBF]", "") -- U+2200 to U+223F
  return equations * 20 >= words or commands >= 3 or signs >= 3 or content:find('^[ \t\r\n]*[{%[][ \t\r\n]*["{]')
end

local function garbled_words(content, context)
  if context.json then return 0 end
  local words, garbled, scraps, kinds, seen, suspects, places = 0, 0, 0, {}, {}, {}, {}
  local function count(kind, n)
    garbled, kinds[kind] = garbled + n, (kinds[kind] or 0) + n
  end
  for first, word in content:gmatch("()([^ \t\r\n]+)") do
    words = words + 1
    local kind = damage_of(word)
    if kind == "case" then
      -- What is there again is a name.
      local bare = word:match("^%A*(.-)%A*$")
      seen[bare] = (seen[bare] or 0) + 1
      if seen[bare] <= 2 then count(kind, seen[bare] == 1 and 1 or -1) end
      suspects[#suspects + 1] = { first = first, last = first + #word - 1, bare = bare }
    elseif kind == "mark" or kind and not is_cell(content, first, first) then
      count(kind, 1)
      suspects[#suspects + 1] = { first = first, last = first + #word - 1 }
    end
    if #word <= 2 and word:find("[^0-9]") then scraps = scraps + 1 end
    if words == ENOUGH_WORDS then break end
  end
  local share, different = garbled / words, scraps / words > 0.35 and 1 or 0
  for _, n in pairs(kinds) do different = different + (n > 0 and 1 or 0) end
  if words < FEW_WORDS or share < 0.01 or is_formal(content, words) then return 0 end
  local enough = limits.garbled_share * (different > 1 and 1 or limits.garbled_one_kind)
  local score = math.min(1, share / enough, garbled / 5)
  -- Such a text falls to pieces as well: of honest pages hardly any has more than a third of them.
  if share >= 0.02 then score = math.min(1, score + math.max(0, scraps / words - 0.35)) end
  for _, suspect in ipairs(suspects) do
    if not suspect.bare or seen[suspect.bare] == 1 then add_place(places, suspect.first, suspect.last) end
  end
  return score, ("%d of %d words are garbled, %d are scraps"):format(garbled, words, scraps), places
end

-- ---------------------------------------------------------------- length

--- The length that context.median is the median of.
function detectors.length(content) return utf8.len(content) or #content end

local function length(content, context)
  local n = detectors.length(content)
  if n > limits.page then return 1, ("%d characters: no page has so many"):format(n) end
  if not context.median or context.texts < limits.folder_texts then return 0 end
  local function reason(format, times)
    return format:format(n, times, context.median, context.texts)
  end
  if n * limits.shorter < context.median then
    return 0.6, reason("%d characters, less than 1/%d of the median (%.0f) of %d texts", limits.shorter)
  elseif n > context.median * limits.far_longer then
    return 1, reason("%d characters, more than %d times the median (%.0f) of %d texts", limits.far_longer)
  elseif n > context.median * limits.longer then
    return 0.6, reason("%d characters, more than %d times the median (%.0f) of %d texts", limits.longer)
  end
  return 0
end

-- ---------------------------------------------------------------- words of the model

local function collect_strings(value, into)
  if type(value) == "string" then into[#into + 1] = value
  elseif type(value) == "table" then
    for _, member in pairs(value) do collect_strings(member, into) end
  end
  return into
end

local function model_speaks(content)
  local texts = { content }
  if content:find("^[ \t\r\n]*[{%[]") and json.check(content, "decodable") then
    texts = collect_strings(json.decode(content), {})
  end
  for _, words in ipairs(texts) do
    if #words <= limits.refusal and refusal.found_in(words) then
      local first, last = content:find(words, 1, true)
      return 1, "a model's words instead of the page: " .. quoted(words), first and { { first = first, last = last } }
    end
  end
  local first, last = content:lower():find("as an ai language model", 1, true)
  if first then
    return 0.6, "a model speaks in it: 'As an AI language model'", { { first = first, last = last } }
  end
  return 0
end

-- ---------------------------------------------------------------- the rest

local function broken_json(content, context)
  if not context.json then return 0 end
  local ok, message, at = json.check(content)
  if ok then return 0 end
  return 1, ("%s at byte %d"):format(message, at), { { first = at, last = at } }
end

local function is_void(value)
  if type(value) == "table" then
    for _, member in pairs(value) do
      if not is_void(member) then return false end
    end
    return true
  end
  return value == json.null or type(value) == "string" and text.is_blank(value)
end

--- An answer without a text, where a text was asked for.
local function empty_json(content, context)
  if context.json or #content > limits.refusal or not content:find('^[ \t\r\n]*[{%["n]')
    or not json.check(content, "decodable") or not is_void(json.decode(content)) then return 0 end
  return 1, "JSON without a text"
end

--- Many honest pages end in the middle of a sentence, so this only ever adds to something else. A last
--- line much shorter than the longest is a signature.
local function cut_off(content, context)
  local body = content:match("^.*[^ \t\r\n]")
  if context.json or not body:find("[a-z,-]", -1) then return 0 end
  local last = body:match("^.*\n(.*)$") or body
  local _, words = content:sub(-400):gsub("[A-Za-z\x80-\xFF]+", "")
  local longest = 0
  for line in content:gmatch("[^\n]+") do longest = math.max(longest, #line) end
  if words < 12 or #last * 2 < longest then return 0 end
  return 0.4, "ends in the middle of a sentence", { { first = #body + 1, last = #body } }
end

local function invalid_utf8(content)
  local ok, at = utf8.len(content)
  if ok then return 0 end
  local places, bad, _ = {}, at, nil
  while bad and #places < MAX_PLACES do
    add_place(places, bad, bad)
    _, bad = utf8.len(content, bad + 1)
  end
  return 1, ("not UTF-8 from byte %d on"):format(at), places
end

--- What is looked at, in this order. score(text, context) -> score, reason (none for a score of 0), and
--- where, if it can be said: a list of { first =, last = } in bytes, last = first - 1 for a place between two.
--- The context has
---   json      whether the text should be JSON
---   texts     how many texts that are not blank its folder holds
---   median    their median length in characters (detectors.length), after cleaning
detectors.list = {
  { name = "invalid UTF-8", score = invalid_utf8 },
  { name = "repetition", score = repeats },
  { name = "odd characters", score = odd_characters },
  { name = "replacement characters", score = replacement_characters },
  { name = "garbled words", score = garbled_words },
  { name = "length", score = length },
  { name = "refusal", score = model_speaks },
  { name = "broken JSON", score = broken_json },
  { name = "empty JSON", score = empty_json },
  { name = "cut off", score = cut_off },
}

--- Takes a detector off the list.
function detectors.remove(name)
  for i, detector in ipairs(detectors.list) do
    if detector.name == name then
      table.remove(detectors.list, i)
      return
    end
  end
  error(("detectors: there is no detector '%s'"):format(tostring(name)), 2)
end

---@class obatch.Finding
---@field name string The detector's name.
---@field score number
---@field reason string
---@field places { first: integer, last: integer }[] Bytes of the text; none where it is the text as a whole.

--- What is wrong with a text, in the order of detectors.list. A blank text is a blank page, and has nothing.
---@param content string The text, cleaned.
---@param context table See detectors.list.
---@return obatch.Finding[] findings Those with a score above 0.
function detectors.findings(content, context)
  local found = {}
  if text.is_blank(content) then return found end
  for _, detector in ipairs(detectors.list) do
    local score, reason, places = detector.score(content, context)
    if type(score) ~= "number" then
      error(("detectors: '%s' returned a %s, not a score"):format(detector.name, type(score)), 0)
    end
    if score > 0 then
      found[#found + 1] = { name = detector.name, score = score, reason = reason or "no reason given",
        places = type(places) == "table" and places or {} }
    end
  end
  return found
end

--- Judges a text. Returns whether it is to be labelled, its score, and the reasons with their scores
--- (a list of strings, the empty one for a text without a fault).
function detectors.judge(content, context)
  local total, reasons = 0, {}
  for i, finding in ipairs(detectors.findings(content, context)) do
    total = total + finding.score
    reasons[i] = ("%s %.2f (%s)"):format(finding.name, finding.score, finding.reason)
  end
  return total >= detectors.threshold - 1e-9, total, reasons
end

-- ---------------------------------------------------------------- changes by the user

--- The type of each limit, to hold against what a rules file makes of it.
local LIMIT_TYPES = {}
for name, value in pairs(limits) do LIMIT_TYPES[name] = type(value) end

--- What is wrong with the detectors and their numbers; nil when nothing is.
local function fault()
  if type(detectors.threshold) ~= "number" then return "detectors.threshold must be a number" end
  if detectors.limits ~= limits then
    return "detectors.limits: change single numbers, as in detectors.limits.page = 50000"
  end
  for name, kind in pairs(LIMIT_TYPES) do
    if type(limits[name]) ~= kind then return ("detectors.limits.%s must be a %s"):format(name, kind) end
  end
  return cleaning.list_fault("detectors.list", detectors.list, "score")
end

--- Runs a file that changes cleaning and detectors (nil: none), and checks both. Returns true, or nil
--- and what is wrong.
function detectors.load(path)
  if path then
    local chunk, message = loadfile(path, "t")
    if not chunk then return nil, message end
    local ok, result = pcall(chunk)
    if not ok then return nil, tostring(result) end
    if result ~= nil and result ~= true then
      return nil, path .. ': a rules file changes require "obatch.cleaning" and require "obatch.detectors", and '
        .. "returns nothing"
    end
  end
  local problem = cleaning.fault() or fault()
  if problem then return nil, (path and path .. ": " or "") .. problem end
  return true
end

local function guard(fields, name)
  return setmetatable(fields, { __newindex = function(_, key)
    error(("%s: there is no '%s'"):format(name, tostring(key)), 2)
  end })
end
guard(limits, "detectors.limits")
return guard(detectors, "detectors")
