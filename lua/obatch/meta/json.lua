---@meta obatch.json
-- luacheck: no unused args, ignore 241

--- Strict JSON (RFC 8259): valid UTF-8, no NaN, nothing after the value, at most 1,024 levels; of duplicate keys the
--- last one answers. Positions count bytes from 1. Pointers are those of RFC 6901, such as "/body/model".
local json = {}

--- What stands for null: `json.null`.
---@class obatch.json.Null

---@type obatch.json.Null
json.null = nil

--- Whether a text is JSON.
---@param text string
---@param how? "decodable"  refuse lone surrogates, too, which are legal and no string can hold
---@return true|nil ok
---@return string|nil message
---@return integer|nil position
function json.check(text, how) end

--- The value of a JSON text: 64-bit integers stay exact, arrays stay arrays even when empty, null is json.null.
---@param text string
---@return any value
---@return string|nil message
---@return integer|nil position
function json.decode(text) end

--- JSON text with sorted keys; raises on what JSON cannot hold.
---@param value any
---@return string text
function json.encode(value) end

--- The value at a pointer, as decode gives it; nil where there is none.
---@param text string
---@param pointer string
---@return any value
---@return string|nil message  the text breaks before the value is found
---@return integer|nil position
function json.get(text, pointer) end

--- The values at some pointers, each under its name, in one pass over the text: as json.get gives them, and as
--- jsonl.scan gives those of a line.
---@param text string
---@param fields table<string, string>  name -> pointer
---@return table<string, any>|nil values  with `spoiled`, name -> why a value cannot be decoded, where there are any
---@return string|nil message
---@return integer|nil position
function json.find(text, fields) end

--- The bytes of the value at a pointer; nil where there is none.
---@param text string
---@param pointer string
---@return string|nil bytes
---@return string|nil message
---@return integer|nil position
function json.raw(text, pointer) end

--- A copy with the value at a pointer replaced, or added; every other byte stays. "/a/-" appends to an array.
---@param text string
---@param pointer string
---@param raw string  JSON text; anything else raises
---@return string|nil text
---@return string|nil message  there is nothing it could be put into
---@return integer|nil position
function json.set(text, pointer, raw) end

--- The same text laid out with two spaces a level: every number, string and key keeps its own bytes and its place.
---@param text string
---@return string|nil text
---@return string|nil message
---@return integer|nil position
function json.pretty(text) end

--- Marks a table as an array, so that it is one also when it is empty.
---@generic T: table
---@param table T
---@return T table  the same
function json.array(table) end

--- Whether a value is a table that is marked as an array.
---@param value any
---@return boolean
function json.is_array(value) end

return json
