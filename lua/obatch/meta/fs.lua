---@meta obatch.fs
-- luacheck: no unused args, ignore 241

--- Files, so that a crash or a full disk leaves no half of anything. Paths are bytes.
local fs = {}

---@class obatch.fs.Stat
---@field type "file"|"dir"|"link"|"other"
---@field size integer   bytes
---@field mtime number   seconds since 1970
---@field mode integer   permission bits

--- What is at a path; links are followed.
---@param path string
---@return obatch.fs.Stat|nil stat
---@return string|nil message
---@return string|nil code
function fs.stat(path) end

--- A word that is another one when the file was replaced or written to since, as far as the clock of its file
--- system can tell (some milliseconds).
---@param path string
---@return string|nil state
---@return string|nil message
---@return string|nil code
function fs.state(path) end

--- The same for a link itself.
---@param path string
---@return obatch.fs.Stat|nil stat
---@return string|nil message
---@return string|nil code
function fs.lstat(path) end

--- The path from the root, without links, of something that is there.
---@param path string
---@return string|nil path
---@return string|nil message
---@return string|nil code
function fs.absolute(path) end

--- A whole file.
---@param path string
---@param max? integer  its first bytes only, where it is longer
---@return string|nil content
---@return string|nil message
---@return string|nil code
function fs.read(path, max) end

--- "" for an empty file. What does not end with a newline has been cut off.
---@param path string
---@return string|nil byte
---@return string|nil message
---@return string|nil code
function fs.last_byte(path) end

--- Writes a whole file, atomic and durable; a link is replaced, not followed.
---@param path string
---@param text string
---@param when? "later"  durable only with an fs.sync, or an fs.rename of it
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function fs.write(path, text, when) end

--- A file that has its name only when it is whole.
---@class obatch.fs.File
local File = {}

--- The error of buffered bytes may come with a later call, or with commit.
---@param ... string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function File:write(...) end

--- Adds the bytes of another file.
---@param path string
---@return integer|nil bytes
---@return boolean|string whole  whether they end with a newline, or are none; else the message
---@return string|nil code
function File:copy(path) end

---@return { bytes: integer, sha256: string?, fingerprint: string? }|nil facts
---@return string|nil message
---@return string|nil code
function File:commit() end

--- Removes what was written where it was not committed.
function File:close() end

---@param path string
---@param options? { sha256: boolean?, fingerprint: boolean? }  whether commit tells the file's digest
---@return obatch.fs.File|nil file
---@return string|nil message
---@return string|nil code
function fs.create(path, options) end

--- A file that lines are added to.
---@class obatch.fs.Appender
local Appender = {}

--- All of it is on disk when this returns, or none of it is there.
---@param text string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Appender:write(text) end

function Appender:close() end

---@class obatch.fs.Files
local Files = {}

--- Takes a file. It gets its name when it is whole; of two texts for one path the second stays. A failure is that of an
--- earlier file, and the one at hand has then not been taken; each is told once, here or by finish(), in their order.
---@param path string
---@param content string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
---@return string|nil path  of the file that failed
function Files:write(path, content) end

--- Waits until all that were given are written; true when there is no failure left to tell. On disk they are with the
--- next fs.sync.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
---@return string|nil path
function Files:finish() end

--- What was given last may not be written.
function Files:close() end

--- For thousands of small files: each is written as fs.write(path, content, "later") does it, by other threads while
--- Lua goes on; but a path .. ".part" that an earlier run has left may stay.
---@return obatch.fs.Files files
function fs.files() end

--- Opens a file to add to its end. A symbolic link is refused.
---@param path string
---@param when? "later"  do not wait for the disk
---@return obatch.fs.Appender|nil file
---@return string|nil message
---@return string|nil code
function fs.append(path, when) end

--- The names in a folder, sorted bytewise.
---@param path string
---@return string[]|nil names
---@return string|nil message
---@return string|nil code
function fs.list(path) end

--- for path, size, mtime in fs.walk(folder) do: every regular file below it, sorted bytewise, links to files followed,
--- links to folders not. What cannot be read comes as path, nil, message, CODE, and the walk goes on. Folders are read
--- ahead: what is made or removed meanwhile may be seen or not.
---@param path string
---@param options? { ext?: table<string, boolean>, stat?: boolean }  ext: only names with one of these endings, in any
--- case; stat = false: names are enough, `true` comes instead of size and time, which is much faster
---@return fun(): string?, integer|true|nil, number|string|nil, string?
function fs.walk(path, options) end

--- Makes a folder, and those above it; one that is there is fine.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function fs.mkdir(path) end

--- Gives a file another name, in place of one that is there; its content and both folders are durable then.
---@param from string
---@param to string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function fs.rename(from, to) end

--- Removes a file or an empty folder; a missing one is fine.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function fs.remove(path) end

--- Everything that was written to the file system of a folder is on disk.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function fs.sync(path) end

--- A lock that ends with close() or with the process.
---@class obatch.fs.Lock
local Lock = {}

function Lock:close() end

---@param path string
---@return obatch.fs.Lock|nil lock
---@return string|nil message  who holds it
---@return string|nil code     "LOCKED", or an errno name
function fs.lock(path) end

--- Who holds a lock.
---@param path string
---@return string|nil who  "pid 12 on host x"; nil when nobody does
---@return string|nil message
---@return string|nil code
function fs.holder(path) end

--- SHA-256 of a file, or of some of its bytes, as far as there are any.
---@param path string
---@param offset? integer  from 0
---@param length? integer  default: to the end
---@return string|nil sha256      hex digits
---@return integer|string bytes   else the message
---@return string|nil code
function fs.sha256(path, offset, length) end

--- What a file, or some of its bytes, can be known by again: a digest for files that nobody forges, in a quarter of the
--- time that SHA-256 takes.
---@param path string
---@param offset? integer  from 0
---@param length? integer  default: to the end
---@return string|nil fingerprint  32 hex digits
---@return integer|string bytes    else the message
---@return string|nil code
function fs.fingerprint(path, offset, length) end

---@param text string
---@return string sha256  hex digits
function fs.sha256_text(text) end

--- Random bytes.
---@param n integer  1 to 256
---@return string hex  2n digits
function fs.random(n) end

return fs
