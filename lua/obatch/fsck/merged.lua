--- The merged results of an iteration beside the downloaded files they were made of.

local difference = require "obatch.fsck.difference"
local fs = require "obatch.fs"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"

local merged = {}

local BLOCK = 1 << 20

--- Where a merged file first differs from the files it was made of, one after the other, each ended with a
--- newline. As difference.find.
---@param path string
---@param files string[]
---@return table|nil difference
---@return string|nil message
function merged.compare(path, files)
  return difference.find(path, function(put)
    for _, name in ipairs(files) do
      local file <close> = assert(io.open(name, "rb"))
      local last = "\n"
      for block in function() return file:read(BLOCK) end do
        if not put(block) then return end
        last = block:sub(-1)
      end
      if last ~= "\n" and not put("\n") then return end
    end
  end)
end

--- A line as an integer: 64 bits of its SHA-256.
local function key(line) return math.tointeger(tonumber("0x" .. fs.sha256_text(line):sub(1, 16))) end

--- Whether a merged file holds an answer that the downloaded files do not. A damaged line may be the rest of an answer,
--- unless the downloads have as many lines, or are known to be what was merged.
---@param path string
---@param files string[]
---@param index obatch.jsonl.Index
---@param rules table
---@param is_proven boolean
---@return integer|nil number  of the first line that does
---@return integer lines       that no downloaded file has, whatever they are worth
function merged.more_than(path, files, index, rules, is_proven)
  local known, best, lines = {}, {}, 0 -- best[ordinal]: whether the downloads hold a good answer
  local function ordinal_of(record)
    return type(record.custom_id) == "string" and index and index:find(record.custom_id) or nil
  end
  for _, file in ipairs(files) do
    for record in progress.over(outcome.scan(file, rules), "comparing", file) do
      if record.text and not record.blank then lines, known[key(record.text)] = lines + 1, true end
      local ordinal = not record.error and ordinal_of(record)
      if ordinal then best[ordinal] = best[ordinal] or outcome.judge(record, rules).class == "valid" end
    end
  end
  local strange, there, damaged = 0, 0, nil
  for record in progress.over(outcome.scan(path, rules), "comparing", path) do
    local is_known = record.blank or record.text and known[key(record.text)]
    there = there + (record.blank and 0 or 1)
    strange = strange + (is_known and 0 or 1)
    local ordinal = not is_known and not record.error and ordinal_of(record)
    if not is_known and record.error then
      damaged = damaged or record.number
    elseif not is_known and not index then
      return record.number, strange
    elseif ordinal and best[ordinal] ~= true then
      -- One that was asked, and has no good answer in the downloads.
      if best[ordinal] == nil or outcome.judge(record, rules).class == "valid" then return record.number, strange end
    end
  end
  return not is_proven and there > lines and damaged or nil, strange
end

--- Makes a merged file of the downloaded ones.
---@param path string
---@param files string[]
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function merged.write(path, files)
  local out <close>, message, code = fs.create(path)
  if not out then return nil, message, code end
  for _, file in ipairs(files) do
    local bytes, whole, why = out:copy(file)
    if not bytes then return nil, whole, why end
    if not whole then
      local ok
      ok, message, code = out:write("\n")
      if not ok then return nil, message, code end
    end
  end
  local facts, problem, reason = out:commit()
  if not facts then return nil, problem, reason end
  return true
end

return merged
