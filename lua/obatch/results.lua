--- A file of results as it was downloaded: whether it is what it should be, before anything is judged.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"

local results = {}

--- Bits of the offset in a file.
local OFFSET_BITS <const> = 48

--- Where a line stands, in one integer: the number that a file is known by, and the offset there.
---@param number integer
---@param offset integer
---@return integer place
function results.place(number, offset) return number << OFFSET_BITS | offset end

---@param place integer
---@return integer number
---@return integer offset
function results.split_place(place) return place >> OFFSET_BITS, place & (1 << OFFSET_BITS) - 1 end

local function is_result(record) return not record.error and type(record.id) == "string" end

--- Whether there is a result line in it. A page of a gateway holds none.
---@param path string
---@return boolean
function results.are_some(path)
  for record in assert(jsonl.scan(path, { id = "/custom_id" })) do
    if is_result(record) then return true end
  end
  return false
end

--- Whether it holds result lines and nothing else, the last one whole.
---@param path string
---@return boolean
function results.are_all(path)
  local found = false
  for record in assert(jsonl.scan(path, { id = "/custom_id" })) do
    if not is_result(record) then return false end
    found = true
  end
  return found and fs.last_byte(path) == "\n"
end

--- Whether it ends with a whole line.
---@param path string
---@return boolean
function results.end_whole(path)
  local last_byte = fs.last_byte(path)
  if last_byte == "\n" or last_byte == "" then return true end
  local last
  for record in assert(jsonl.scan(path, {})) do last = record end
  return not (last and last.error)
end

--- What a result line says, in the output or the error file, when the account cannot pay; nil when none does.
---@param path string
---@return string|nil message
function results.quota_complaint(path)
  local usual = { failure = json.null, body_error = json.null }
  for record in assert(jsonl.scan(path, { failure = "/error", body_error = "/response/body/error" },
    { usual = usual })) do
    for _, failure in pairs(record.is_usual and {} or { a = record.failure, b = record.body_error }) do
      if type(failure) == "table" and outcome.is_quota(failure) then return tostring(failure.message) end
    end
  end
end

return results
