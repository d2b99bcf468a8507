--- How many tokens a request will take, and what they cost: estimates, made before anything is sent.
-- The formulas and numbers are those of the official images guide, autumn 2026.

local image = require "obatch.image"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local request = require "obatch.request"
local text = require "obatch.text"

local tokens = {}

--- What a picture counts whose size or model is not known: a page of A4 at 300 dpi takes so many tokens
--- with gpt-4o and gpt-4.1, and between 765 and 2,500 with the others at the detail "high".
tokens.PICTURE = 1105

--- Patches of 32 x 32 pixels. `patches` and `side` (pixels) are what an image is shrunk to at the
--- detail "high"; `original` is the same for that detail, where the model has it, and its `most` the
--- patches above which an image is refused. `auto` is what that detail means, "high" if not said.
--- `times` is tokens per patch.
local ORIGINAL_5 = { patches = 10000, side = 6000 }
local LATEST = { patches = 2500, side = 65535, original = { side = 65535, most = 30000 }, auto = "original",
  times = 1.2 }
local MINI = { patches = 1536, side = 2048, times = 1.62 }
local NANO = { patches = 1536, side = 2048, times = 2.46 }
local PLAIN = { patches = 1536, side = 2048, times = 1 }

--- Tiles of 512 x 512 pixels: `base` tokens for an image and `tile` for each tile.
local TILES_4 = { base = 85, tile = 170 }
local TILES_5 = { base = 70, tile = 140 }
local TILES_O = { base = 75, tile = 150 }

--- To add a model, write a line here. A model that has none counts as the longest name here that its
--- own begins with, up to a "-": gpt-4o-2024-05-13 as gpt-4o, but gpt-5.1 not as gpt-5.
local MODELS = {
  ["gpt-6-astra"] = LATEST,
  ["gpt-6-sol"] = LATEST, -- taken to be like gpt-6-astra
  ["gpt-6-luna"] = LATEST, -- taken to be like gpt-6-astra
  ["gpt-5.6-sol"] = LATEST,
  ["gpt-5.6-terra"] = LATEST,
  ["gpt-5.6-luna"] = LATEST,
  ["gpt-5.5"] = { patches = 2500, side = 2048, original = ORIGINAL_5, auto = "original", times = 1 },
  ["gpt-5.4"] = { patches = 2500, side = 2048, original = ORIGINAL_5, times = 1 },
  ["gpt-5.4-mini"] = MINI,
  ["gpt-5.4-nano"] = NANO,
  ["gpt-5.3-codex"] = PLAIN,
  ["gpt-5.2"] = PLAIN,
  ["gpt-5-mini"] = MINI,
  ["gpt-5-nano"] = NANO,
  ["gpt-5"] = TILES_5,
  ["gpt-4.5"] = TILES_4,
  ["gpt-4.1"] = TILES_4,
  ["gpt-4.1-mini"] = MINI,
  ["gpt-4.1-nano"] = NANO,
  ["gpt-4o"] = TILES_4,
  ["gpt-4o-mini"] = { base = 2833, tile = 5667 },
  ["o4-mini"] = { patches = 1536, side = 2048, times = 1.72 },
  ["o3"] = TILES_O,
  ["o1"] = TILES_O,
  ["computer-use-preview"] = { base = 65, tile = 129 },
}

local DETAILS = { auto = true, low = true, high = true, original = true }

--- What lies this close to a whole number is that number: a side that was shrunk to exactly 33
--- patches must not count as 34. The short side of a strip is one, however thin it gets.
local ROUNDING = 1e-6
local function ceil(x) return math.max(1, math.ceil(x - ROUNDING)) end
local function floor(x) return math.floor(x + ROUNDING) end

--- The sides after the longer one was shrunk to `side` pixels.
local function fit(width, height, side)
  local longest = math.max(width, height)
  if longest <= side then return width, height end
  return width * side / longest, height * side / longest
end

local function count_patches(width, height) return ceil(width / 32) * ceil(height / 32) end

--- Patches after the image was shrunk to `limit` = { side =, patches = or nil }.
local function patches(width, height, limit)
  width, height = fit(width, height, limit.side)
  local count = count_patches(width, height)
  if not limit.patches or count <= limit.patches then return count end
  local factor = math.sqrt(1024 * limit.patches / (width * height))
  local across, down = width * factor / 32, height * factor / 32
  factor = factor * math.min(floor(across) / across, floor(down) / down) -- until one side is whole patches
  return count_patches(width * factor, height * factor)
end

--- "high" for tiles: fitted in 2048 x 2048, then the shorter side shrunk to 768.
local function tiles(width, height)
  width, height = fit(width, height, 2048)
  local shortest = math.min(width, height)
  if shortest > 768 then width, height = width * 768 / shortest, height * 768 / shortest end
  return ceil(width / 512) * ceil(height / 512)
end

local function find_model(name)
  repeat
    if MODELS[name] then return MODELS[name] end
    name = name:match("^(.*)%-")
  until not name
end

--- The tokens of an image.
---@param model string
---@param detail? "auto"|"low"|"high"|"original"
---@param width integer   pixels
---@param height integer
---@return integer|nil tokens
---@return string|nil message
---@return string|nil code  "UNKNOWN_MODEL"; "NO_DETAIL": the model has no "original"; "TOO_BIG": it refuses the image
function tokens.image(model, detail, width, height)
  detail = detail or "auto"
  if not DETAILS[detail] then error(("there is no detail %q"):format(detail), 2) end
  local known = find_model(model)
  if not known then
    return nil, ("it is not known how %s counts the tokens of an image: add it to lua/obatch/tokens.lua"):format(
      text.printable(model)), "UNKNOWN_MODEL"
  end
  if detail == "auto" then detail = known.auto or "high" end
  if detail == "original" and not known.original then
    return nil, ("%s does not know the detail original: use high"):format(text.printable(model)), "NO_DETAIL"
  end
  if known.tile then return known.base + (detail == "low" and 0 or known.tile * tiles(width, height)) end

  local limit = detail == "low" and { side = 512 } or detail == "original" and known.original or known
  local count = patches(width, height, limit)
  if limit.most and count > limit.most then
    return nil, ("%s refuses images of more than %d patches of 32 x 32 pixels, and %d x %d pixels are %d: "
      .. "make the image smaller, or use the detail high"):format(
      text.printable(model), limit.most, width, height, count), "TOO_BIG"
  end
  return ceil(count * known.times)
end

--- The tokens of a text, at 4 bytes each: right for English, which has 4 characters to a token, and
--- near for languages whose letters take more bytes, and fewer to a token.
---@param string string
---@return integer tokens
function tokens.text(string) return (#string + 3) // 4 end

-- ---------------------------------------------------------------- a request line

--- Bytes around an embedded picture that are searched for its detail, and before it for "data:" and its type; the
--- latter is nearly always within the few bytes of USUAL.
local NEAR, USUAL = 200, 24

--- What pictures begin with in base64; what begins otherwise is none, and need not be decoded. (For a backslash, see
--- base64_reader.)
local BEGINNINGS = { ["iVBO"] = true, ["/9j/"] = true, ["R0lG"] = true, ["UklG"] = true }

--- What four base64 digits stand for. The headers of pictures are much alike, so that is kept; but not without
--- end.
local DIGITS, kept, MAX_KEPT = {}, 0, 5000
for value, digit in utf8.codes "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/" do
  DIGITS[digit] = value - 1
end
local GROUPS = setmetatable({}, { __index = function(groups, digits)
  local bits = 0
  for i = 1, 4 do bits = bits << 6 | (DIGITS[digits:byte(i)] or 0) end
  local bytes = string.char(bits >> 16, bits >> 8 & 0xFF, bits & 0xFF)
  if kept < MAX_KEPT then
    groups[digits], kept = bytes, kept + 1
  end
  return bytes
end })

--- Bytes that are decoded at once: a JPEG is walked from segment to segment.
local STEP = 24

--- Where the sides of a picture are not said before so many base64 digits, they are not looked for further.
local MAX_HEADER = 1000000

--- read(position, count) over the base64 digits that stand in `line` from `first` to `last`, as image.size
--- wants it: only what is asked for is decoded.
local function base64_reader(line, sub, first, last)
  last = math.min(last, first + MAX_HEADER)
  if sub(line, first, math.min(last, first + NEAR)):find("\\", 1, true) then -- some encoders write "\/"
    line, sub = sub(line, first, last):gsub("\\", ""), string.sub
    first, last = 1, #line
  end
  return function(position, count)
    local skipped, start = (position - 1) % 3, first + (position - 1) // 3 * 4
    local groups = (skipped + math.max(count, STEP) + 2) // 3
    local bytes = sub(line, start, math.min(start + groups * 4 - 1, last)):gsub("....", GROUPS)
    return bytes:sub(skipped + 1)
  end
end

--- The detail that a request asks for a picture: it stands beside the picture, before or after it.
local function detail_of(line, sub, first, last)
  local before, after = sub(line, math.max(1, first - NEAR), first - 1), sub(line, last + 1, last + NEAR)
  if not (before .. after):find('"detail"', 1, true) then return nil end
  local beside = (before:match("^.*{(.*)") or "") .. "\0" .. after:match("^[^}]*")
  local detail = beside:match('"detail"%s*:%s*"(%a+)"')
  return DETAILS[detail] and detail or nil
end

--- Bytes of a line without its pictures, where an escape (\u00e9) counts as what it stands for takes at
--- most in UTF-8: half as much. How many there are is judged by the first ones.
local function bytes_of(rest, find, sub, length)
  local first = find(rest, "\\u", 1, true)
  if not first then return length end
  local sample = sub(rest, first, first + 599)
  local _, escapes = sample:gsub("\\u%x%x%x%x", "")
  return length - (length - first + 1) * 3 * escapes // #sample
end

--- Whether an address of embedded data, with a type or without one, ends before a position; not before `from`.
local function is_data(line, sub, from, position)
  local function ends(bytes)
    return sub(line, math.max(from, position - bytes), position - 1):find '"data:[%w/+.-]*$'
  end
  return ends(USUAL) or ends(NEAR)
end

--- What the values "image_url" and "input_image" are made of: the end begins with a rare letter, so it is found soon.
local PICTURE_KINDS = { ['"image'] = '_url"', ['"input'] = '_image"' }

--- Whether a name ends before a position: a colon follows, after white space.
local function is_name(line, sub, position)
  while true do
    local next_bytes = sub(line, position, position + 15)
    if not next_bytes:find "^%s+$" then return next_bytes:find "^%s*:" ~= nil end
    position = position + 16
  end
end

--- How many parts of the conversation in a line are pictures, embedded or not.
local function pictures_in(rest, find, sub)
  local count = 0
  for before, ending in pairs(PICTURE_KINDS) do
    local first, last = find(rest, ending, 1, true)
    while first do
      -- The first is also the name of a field.
      local is_kind = first > #before and sub(rest, first - #before, first - 1) == before
      if is_kind and not is_name(rest, sub, last + 1) then count = count + 1 end
      first, last = find(rest, ending, last + 1, true)
    end
  end
  return count
end

--- About how many tokens a request line (JSON text) takes. The line is not decoded: its text counts 4 bytes a token,
--- each embedded picture by its sides as the model counts them, all else that is embedded or named by an address as
--- tokens.PICTURE.
---@param line string|obatch.jsonl.Record  of a record, no Lua string is made
---@param model? string  nil: the line's own
---@return integer tokens_in
---@return integer|nil tokens_out  the limit that it names
function tokens.request(line, model)
  local is_string = type(line) == "string"
  local find, sub = is_string and string.find or jsonl.find, is_string and string.sub or jsonl.sub
  local pieces, pictures, from, position = nil, nil, 1, 1
  while true do
    local first, last = find(line, ";base64,", position, true)
    if not first then break end
    position = last + 1
    local stop = is_data(line, sub, from, first) and find(line, '"', position, true)
    if stop then
      local width, height
      local beginning = sub(line, position, position + 3)
      if BEGINNINGS[beginning] or beginning:find("\\", 1, true) then
        width, height = image.size(base64_reader(line, sub, position, stop - 1))
      end
      pieces, pictures = pieces or {}, pictures or {}
      pictures[#pictures + 1] = { width = width, height = height, detail = detail_of(line, sub, first, stop) }
      pieces[#pieces + 1] = sub(line, from, last)
      from, position = stop, stop
    end
  end
  local rest, length = line, is_string and #line or line.length
  if pictures then
    rest = table.concat(pieces) .. sub(line, from, length)
    find, sub, length = string.find, string.sub, #rest
    model = model or json.get(rest, "/body/model")
  end

  local count, others = (bytes_of(rest, find, sub, length) + 3) // 4, pictures_in(rest, find, sub)
  local limit = request.find_limit(rest, find, sub)
  for _, picture in ipairs(pictures or {}) do
    local known = picture.width and type(model) == "string"
    count = count + (known and tokens.image(model, picture.detail, picture.width, picture.height) or tokens.PICTURE)
    others = others - 1
  end
  return count + math.max(0, others) * tokens.PICTURE, limit
end

-- ---------------------------------------------------------------- money

--- The price table: obatch.prices, or a file like it.
---@param path? string
---@return table|nil prices
---@return string|nil message
function tokens.prices(path)
  if not path then return require "obatch.prices" end
  local chunk, message = loadfile(path, "t", {})
  if not chunk then return nil, message end
  local ok, prices = pcall(chunk)
  if not ok then return nil, prices end
  if type(prices) == "table" and prices.as_of and prices.models and prices.assumed_output_tokens then return prices end
  return nil, path .. ": a price table is like lua/obatch/prices.lua"
end

--- What so many tokens cost in the Batch API.
---@param prices table  like obatch.prices
---@param model string
---@param tokens_in integer
---@param tokens_out integer
---@return number|nil usd
---@return string|nil message  the model is not in it
function tokens.cost(prices, model, tokens_in, tokens_out)
  local price = prices.models[model] or prices.models[model:gsub("%-%d%d%d%d%-%d%d%-%d%d$", "")]
  if not price then
    return nil, ("no price is known for %s (prices of %s): add it to lua/obatch/prices.lua"):format(
      text.printable(model), prices.as_of)
  end
  return (tokens_in * price.input + tokens_out * price.output) / 1e6
end

return tokens
