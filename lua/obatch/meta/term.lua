---@meta obatch.term
-- luacheck: no unused args, ignore 241

--- The terminal, time, and being stopped.
local term = {}

---@param fd integer  0, 1 or 2
---@return boolean
function term.isatty(fd) end

--- 80, 24 where there is no terminal to ask.
---@return integer columns
---@return integer rows
function term.size() end

---@param seconds number
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "INTERRUPTED"
function term.sleep(seconds) end

--- Seconds from an unknown start, which never jump.
---@return number seconds
function term.clock() end

---@return number seconds  since 1970
function term.time() end

--- Whether a stop was asked for: Ctrl-C, SIGTERM or SIGHUP.
---@return boolean
function term.interrupted() end

--- Forgets a Ctrl-C. For the REPL only.
---@return boolean stays  false where the session itself is to end (SIGTERM, SIGHUP)
function term.resume() end

--- From now on Ctrl-C stops what runs, and never the program, until it is closed. There can be one.
---@class obatch.term.Session
local Session = {}

function Session:close() end

---@return obatch.term.Session session
function term.session() end

--- An environment variable's text; the variable is gone then, also for programs that this one starts.
---@param name string
---@return string|nil text
function term.take_env(name) end

--- Line editing.
---@class obatch.term.Editor
local Editor = {}

--- Reads a line.
---@param prompt string
---@return string|nil text     without its newline; nil alone at the end of input
---@return string|nil message  with "TAB": the text before the cursor; the next call goes on with the same line
---@return string|nil code     "INTERRUPTED" or "TAB"
function Editor:line(prompt) end

--- Puts text where the cursor was when Tab was pressed.
---@param text string
function Editor:insert(text) end

--- Shows lines below the one that is being edited.
---@param text string
function Editor:list(text) end

--- Remembers a line, here and in the history file.
---@param text string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Editor:add(text) end

function Editor:close() end

---@param options? { history?: string }  a file that keeps what add was given
---@return obatch.term.Editor editor
function term.editor(options) end

return term
