---@meta obatch.http
-- luacheck: no unused args, ignore 241

--- An HTTP client with many transfers in flight. TLS is always verified; POST is never sent twice.
local http = {}

---@class obatch.http.ClientOptions
---@field user_agent? string
---@field connect_timeout? number   seconds (30)
---@field stall_timeout? number     seconds without a byte (60)
---@field allow_plain_http? boolean let http:// go to other hosts than this machine

---@class obatch.http.Field
---@field name string
---@field value? string
---@field file? string      a path, instead of value
---@field filename? string  as the server sees it (the file's own)
---@field type? string      content type

---@class obatch.http.Request
---@field url string
---@field method? "GET"|"HEAD"|"POST"|"PUT"|"PATCH"|"DELETE"
---@field headers? table<string, string>
---@field body? string
---@field body_file? string            a path, instead of body
---@field form? obatch.http.Field[]    instead of body
---@field to_file? string              takes the body of a 2xx answer
---@field resume_at? integer           an answer of 206 goes behind so many bytes of to_file
---@field timeout? number              seconds for all of it
---@field answer_timeout? number       seconds until the answer begins (that of stall_timeout)
---@field follow? integer              redirects at most (5 for GET and HEAD, else 0)
---@field fresh? boolean               on a connection of its own (POST and PATCH)
---@field tag? any                     whatever the caller wants to find again

--- A request on its way, or what came of it.
---@class obatch.http.Transfer
---@field status? integer   nil in flight, 0 when no answer came
---@field headers? table<string, string>  names in lower case
---@field body? string
---@field bytes? integer    of the body
---@field error? string     what went wrong
---@field code? string      nil for any complete HTTP answer
---@field tag any
local Transfer = {}

--- Bytes as of the last wait.
---@return integer sent
---@return integer received
function Transfer:progress() end

--- Ends it with the code "CANCELLED".
function Transfer:cancel() end

---@class obatch.http.Client
local Client = {}

--- Begins a transfer; nothing waits.
---@param request obatch.http.Request
---@return obatch.http.Transfer|nil transfer
---@return string|nil message
---@return string|nil code  "URL", or an errno name
function Client:start(request) end

--- Waits for the next transfer that is finished.
---@param seconds? number  for ever without
---@return obatch.http.Transfer|nil transfer
---@return string|nil message
---@return string|nil code  "TIMEOUT", "INTERRUPTED" or "IDLE"
function Client:wait(seconds) end

--- Begins a transfer and waits for it.
---@param request obatch.http.Request
---@return obatch.http.Transfer|nil transfer  for any HTTP status
---@return string|nil message
---@return string|nil code  see README.md, "obatch.http"
---@return obatch.http.Transfer|nil failed
function Client:request(request) end

function Client:close() end

---@param options? obatch.http.ClientOptions
---@return obatch.http.Client client
function http.client(options) end

---@return string version  of libcurl and what it uses, such as "libcurl/7.88.1 OpenSSL/3.0.15 zlib/1.2.13"
function http.version() end

return http
