---@meta obatch.httpd
-- luacheck: no unused args, ignore 241

--- A small HTTP server on loopback, for the sandbox and for tests.
local httpd = {}

---@class obatch.httpd.Options
---@field spool string       a folder that is there, for bodies above 64 KiB and the files of forms
---@field host? string       an IP address of this machine ("127.0.0.1")
---@field port? integer      0: a free one
---@field max_body? integer  bytes (300 MiB); what is larger is answered with 413
---@field patience? number   seconds that a client may take, and one more for every 1,000 bytes (60)

---@class obatch.httpd.Part
---@field path string      its content, until the reply is out
---@field filename string
---@field type? string
---@field size integer

--- One complete request.
---@class obatch.httpd.Request
---@field method string
---@field path string                    percent-decoded
---@field query table<string, string>
---@field headers table<string, string>  names in lower case
---@field size integer                   of the body
---@field form? table<string, string|obatch.httpd.Part>
---@field form_error? string             it is malformed
local Request = {}

--- The body.
---@param max? integer  bytes (64 MiB)
---@return string|nil text
---@return string|nil message
---@return string|nil code  "MULTIPART", "TOO_BIG", or an errno name
function Request:text(max) end

--- Moves the body, or the first file of a form, to a path on the file system of the spool folder.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Request:keep(path) end

---@class obatch.httpd.Reply
---@field status? integer   200
---@field headers? table<string, string>
---@field body? string
---@field file? string      a path, instead of body
---@field offset? integer   the first byte of it (0)
---@field length? integer   bytes (the rest)
---@field delay? number     seconds before it is sent
---@field rate? number      bytes a second
---@field cut? integer      promise all, send so many bytes of the body, and close
---@field drop? boolean     reset the connection without an answer
---@field stall? boolean    never answer

--- Answers; it is sent while the server waits for the next request.
---@param reply obatch.httpd.Reply
---@return true|nil ok
---@return string|nil message
---@return string|nil code  the file cannot be read; the request still waits
function Request:reply(reply) end

--- Resets the connection of a request that was not answered.
function Request:close() end

---@class obatch.httpd.Server
---@field port integer
local Server = {}

--- The next complete request. All input and output happens in here, so call it in a loop.
---@param seconds? number  for ever without
---@return obatch.httpd.Request|nil request
---@return string|nil message
---@return string|nil code  "TIMEOUT" or "INTERRUPTED"
function Server:next(seconds) end

--- Ends every connection at once.
function Server:close() end

---@param options obatch.httpd.Options
---@return obatch.httpd.Server|nil server
---@return string|nil message
---@return string|nil code
function httpd.listen(options) end

---@return string version  of libmicrohttpd
function httpd.version() end

return httpd
