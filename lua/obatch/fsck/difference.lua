--- Where a file differs from what it should hold, which is made piece by piece: neither is held in memory.

local fs = require "obatch.fs"

local difference = {}

--- The number of the line that holds the byte `position` (from 1) of an open file.
local function line_at(file, position)
  local line, left = 1, position - 1
  file:seek("set", 0)
  while left > 0 do
    local block = file:read(math.min(left, 1 << 16))
    if not block then break end
    local _, breaks = block:gsub("\n", "")
    line, left = line + breaks, left - #block
  end
  return line
end

--- Where the file at `path` first differs from the pieces that make(put) gives, by put(text, ordinal) until that
--- returns false. nil alone when it does not; only { what = "missing" } where there is no file.
---@param path string
---@param make fun(put: fun(text: string, ordinal?: integer): boolean)
---@return { what: string, byte?: integer, line?: integer, ordinal?: integer }|nil difference
---@return string|nil message  it cannot be read
function difference.find(path, make)
  if not fs.stat(path) then return { what = "missing" } end
  local readable, message = fs.read(path, 1)
  if not readable then return nil, message end
  local file <close> = assert(io.open(path, "rb"))
  local byte, found = 1, nil
  make(function(piece, ordinal)
    local there = file:read(#piece) or ""
    if there == piece then
      byte = byte + #piece
      return true
    end
    local i = 1
    while i <= #there and there:byte(i) == piece:byte(i) do i = i + 1 end
    found = { byte = byte + i - 1, ordinal = ordinal, what = i > #there and "ends too early" or "differs" }
    return false
  end)
  if not found and file:read(1) then found = { byte = byte, what = "goes on" } end
  if found then found.line = line_at(file, found.byte) end
  return found
end

return difference
