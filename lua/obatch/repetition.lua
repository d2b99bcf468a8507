--- What repeats in a text: its words, runs of words, and stretches in which the same ones come one time after
--- the other. All of it takes time in proportion to the text.

local repetition = {}

--- More words than this are not looked at; a longer text is too long for a page anyhow.
local MAX_WORDS = 200000

--- A word of more bytes than this is taken apart into characters: scripts without spaces, "ooooo...".
repetition.LONG_WORD = 60

--- The words of a text. Punctuation counts for nothing.
---@param content string
---@return integer[] ids       the number of each word (equal words have equal numbers)
---@return integer[] begins    the byte where it begins
---@return integer[] ends
---@return string[] words      by number
function repetition.words_of(content)
  local ids, starts, stops, numbers, words = {}, {}, {}, {}, {}
  local n = 0
  local function add(word, start)
    local id = numbers[word]
    if not id then
      id = #words + 1
      numbers[word], words[id] = id, word
    end
    n = n + 1
    ids[n], starts[n], stops[n] = id, start, start + #word - 1
  end
  for start, word in content:gmatch("()([0-9A-Za-z\x80-\xFF]+)") do
    if #word <= repetition.LONG_WORD then
      add(word, start)
    else
      for at, character in word:gmatch("()([%z\1-\x7F\xC2-\xFD]?[\x80-\xBF]*)") do
        if character ~= "" then add(character, start + at - 1) end
        if n >= MAX_WORDS then break end
      end
    end
    if n >= MAX_WORDS then break end
  end
  return ids, starts, stops, words
end

--- Words of the runs by which a repetition is noticed.
local NOTICE = 3
local BASE = 0x5851F42D4C957F2D

--- Goes through the runs of k words. The hash is a polynomial, modulo 2^64.
---@param ids integer[]
---@param k integer
---@param visit fun(i: integer, hash: integer)  i is the last word of the run
function repetition.each_gram(ids, k, visit)
  local hash, drop = 0, 1
  for _ = 1, k do drop = drop * BASE end
  for i = 1, #ids do
    hash = hash * BASE + ids[i]
    if i > k then hash = hash - ids[i - k] * drop end
    if i >= k then visit(i, hash) end
  end
end

--- The stretches in which the same words come one time after the other, in words, each at least twice the period.
---@param ids integer[]
---@return { first: integer, last: integer, period: integer }[] stretches
function repetition.stretches(ids)
  local found, last_at = {}, {}
  local period, first
  local function close(last)
    if period and last - first + 1 >= 2 * period then
      found[#found + 1] = { first = first, last = last, period = period }
    end
    period = nil
  end
  repetition.each_gram(ids, NOTICE, function(i, hash)
    if period and ids[i] ~= ids[i - period] then close(i - 1) end
    if not period and last_at[hash] then
      period = i - last_at[hash]
      first = last_at[hash] - NOTICE + 1
    end
    last_at[hash] = i
  end)
  close(#ids)
  return found
end

return repetition
