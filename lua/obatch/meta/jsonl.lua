---@meta obatch.jsonl
-- luacheck: no unused args, ignore 241

--- Files of lines that are JSON each. Memory is bounded by the longest line, not by the file.
local jsonl = {}

---@class obatch.jsonl.Options
---@field max_line? integer  bytes; longer lines are skipped and reported (64 MB)

---@class obatch.jsonl.Line
---@field text? string     nil for a line that is too long
---@field error? string    what is wrong then
---@field number integer   from 1
---@field offset integer   of its first byte, from 0

--- The lines of a file.
---@class obatch.jsonl.Reader
local Reader = {}

--- for line in reader:lines() do; what cannot be read raises. The reader stays open.
---@return fun(): obatch.jsonl.Line|nil
function Reader:lines() end

--- The line that begins at an offset; lines() is not disturbed.
---@param offset integer
---@return string|nil text
---@return string|nil message
---@return string|nil code
function Reader:at(offset) end

function Reader:close() end

---@param path string
---@param options? obatch.jsonl.Options
---@return obatch.jsonl.Reader|nil reader
---@return string|nil message
---@return string|nil code
function jsonl.open(path, options) end

---@class obatch.jsonl.ScanOptions: obatch.jsonl.Options
---@field decode? string  name of a field: the threads that scan prepare jsonl.decode for it
---@field index? string  name of a field: the lines are indexed by it on the way, as jsonl.index does it
---@field json? string  name of a field: records tell whether that is a string that holds JSON
---@field usual? table<string, string|integer|boolean|lightuserdata>  fields with their usual values: records tell
--- whether they have just these; json.null stands for nothing at all, too

--- A line with the values at the pointers that were asked for, each under its name. They are made when they are first
--- asked for, of a piece of the file that a record keeps in memory, so that a record costs little, and many that are
--- kept cost much. next() sees only what is there already, pairs() sees all.
---@class obatch.jsonl.Record
---@field number integer    from 1; this and the offset say which line it is
---@field offset integer    of its first byte, from 0
---@field length integer    bytes
---@field text? string      nil for a line that is too long
---@field error? string     a bad line: file, line and what is wrong
---@field error_at? integer the byte of the line
---@field blank? boolean    it is an empty line
---@field spoiled? table<string, string>  name -> why a string there cannot be decoded
---@field is_json? true     see the option json: decodable JSON, white space around it or not
---@field is_usual? true    see the option usual; no line with a lone surrogate is
---@field [string] any

--- The records of a file, until it is closed; it closes itself at the end.
---@class obatch.jsonl.Scanner
---@overload fun(): obatch.jsonl.Record|nil
local Scanner = {}

function Scanner:close() end

--- The index that the option index asked for, which is to be closed; nil before the end of the file.
---@return obatch.jsonl.Index|nil index
function Scanner:index() end

--- Checks and extracts in one pass: for record in jsonl.scan(path, { id = "/custom_id" }) do
---@param path string
---@param fields table<string, string>  name -> pointer
---@param options? obatch.jsonl.ScanOptions
---@return obatch.jsonl.Scanner|nil scanner
---@return string|nil message
---@return string|nil code
function jsonl.scan(path, fields, options) end

--- The value of the JSON that a field holds, which is a string with JSON in it, or with one Markdown fence around it:
--- json.decode of it, and faster, for the string itself is not made. nil when the field is no string, or what it holds
--- is not JSON or cannot be decoded.
---@param record obatch.jsonl.Record
---@param name string  of the field
---@return any value
function jsonl.decode(record, name) end

--- Adds the bytes of a record's line and a newline to a file, without a string in between.
---@param file file*  of io.open
---@param record obatch.jsonl.Record
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function jsonl.write(file, record) end

--- Where plain text is in the record's line: string.find(record.text, text, from, true), and the line does not become
--- a Lua string.
---@param record obatch.jsonl.Record
---@param text string
---@param from? integer  from 1
---@return integer|nil first
---@return integer|nil last
function jsonl.find(record, text, from) end

--- Bytes of the record's line: string.sub(record.text, first, last), positions from 1.
---@param record obatch.jsonl.Record
---@param first integer
---@param last integer
---@return string bytes
function jsonl.sub(record, first, last) end

--- The lines of a file that have an id, counted from 1; 32 bytes of memory a line.
---@class obatch.jsonl.Index
---@field count integer
---@field duplicates integer  lines whose id an earlier one has; the first is found
local Index = {}

---@param id string
---@return integer|nil ordinal
---@return string|nil message
---@return string|nil code  "CHANGED", or an errno name
function Index:find(id) end

--- Where a line is.
---@param ordinal integer
---@return integer|nil offset
---@return integer|nil length
function Index:at(ordinal) end

---@param ordinal integer
---@return string|nil id
---@return string|nil message
---@return string|nil code
function Index:id(ordinal) end

--- Whether the file is what was indexed, as far as its size and time tell. One that was replaced by another file is.
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "CHANGED": it was written over, or touched
function Index:check() end

--- Whether, moreover, the file that now stands at the path is the one that was indexed.
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "CHANGED", or what the disk says
function Index:check_path() end

--- Goes on with a file that was only touched: it stands at its path, and is_same() finds in it what was indexed.
---@param is_same fun(): boolean|nil, string?, string?
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "CHANGED", or those of is_same
function Index:renew(is_same) end

--- The text of a line.
---@param which string|integer  its id or its ordinal
---@return string|nil text
---@return string|nil message
---@return string|nil code
function Index:line(which) end

function Index:close() end

--- Indexes the lines that have a string at the pointer.
---@param path string
---@param pointer string
---@param options? obatch.jsonl.Options
---@return obatch.jsonl.Index|nil index
---@return string|nil message
---@return string|nil code
function jsonl.index(path, pointer, options) end

---@class obatch.jsonl.Limits
---@field max_lines? integer
---@field max_bytes? integer
---@field sha256? boolean  commit() tells that of the file, and images know theirs
---@field fingerprint? boolean  commit() tells that of the file, see fs.fingerprint

--- A file that has its name only when it is whole.
---@class obatch.jsonl.Writer
---@field lines integer
---@field bytes integer
local Writer = {}

--- Adds a line as it is. The error of buffered bytes may come with a later line, or with commit.
---@param line string
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "FULL" (a fresh file would take it), "TOO_BIG" (none would), or an errno name
function Writer:raw(line) end

--- Adds a line of a file that is indexed, as it stands there.
---@param index obatch.jsonl.Index
---@param ordinal integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code  as for raw, and "CHANGED": that file is not what was indexed
function Writer:copy(index, ordinal) end

--- Adds the JSON text of a value, which may have images in it.
---@param value any
---@return true|nil ok
---@return string|nil message
---@return string|nil code  also "CHANGED": an image is not what it was; the file ends with the line before
function Writer:put(value) end

--- Makes the file durable under its name. A digest is nil where the writer was not asked for it.
---@return { lines: integer, bytes: integer, sha256?: string, fingerprint?: string }|nil facts
---@return string|nil message
---@return string|nil code
function Writer:commit() end

--- Removes what was written where it was not committed.
function Writer:close() end

---@param path string
---@param limits? obatch.jsonl.Limits
---@return obatch.jsonl.Writer|nil writer
---@return string|nil message
---@return string|nil code
function jsonl.create(path, limits) end

--- A value that Writer:put streams as a base64 data: URL.
---@class obatch.jsonl.Image
local Image = {}

---@return string type  "image/png", by the first bytes
function Image:mime() end

---@return integer bytes  the size of the file
function Image:bytes() end

---@return string|nil sha256  of the bytes that put wrote, hex digits; nil before, or where the writer has no `sha256`
function Image:sha256() end

--- A picture as a value of a request.
---@param path string  PNG, JPEG, GIF or WebP
---@return obatch.jsonl.Image|nil image
---@return string|nil message
---@return string|nil code  "NOT_IMAGE", or an errno name
function jsonl.image(path) end

return jsonl
