--- The API key: where it comes from, and how it is kept out of everything that is shown or written.

local fs = require "obatch.fs"
local json = require "obatch.json"
local term = require "obatch.term"
local text = require "obatch.text"

local key = {}

-- ---------------------------------------------------------------- where it comes from

local environment_key

--- The key of the environment, which leaves it: a program that a policy starts is not given it.
local function take()
  environment_key = term.take_env("OPENAI_API_KEY") or environment_key
  return environment_key ~= "" and environment_key or nil
end
take()

--- Permission bits by which others than its owner read or write a file.
local OTHERS = tonumber("066", 8)

local warned = {}

local function warn_of_readers(path)
  local stat = fs.stat(path)
  if warned[path] or not stat or stat.type ~= "file" or stat.mode & OTHERS == 0 then return end
  warned[path] = true
  local name = text.printable(path)
  io.stderr:write(("warning: others can read the API key in %s; run: chmod 600 %s\n"):format(name, name))
end

--- The key in the first line of a file, else that of OPENAI_API_KEY. It leaves the environment either way.
---@param path? string
---@return string|nil key
---@return string|nil message what is missing
function key.read(path)
  local found = take()
  if path then
    local words, message = fs.read(path, 4096)
    if not words then return nil, message end
    warn_of_readers(path)
    found = words:match("^%s*([^\r\n]*)"):match("^(.-)%s*$")
  elseif not found then
    return nil, "no API key: set OPENAI_API_KEY, or name a file with --api-key-file"
  end
  if found:find("^[\x21-\x7E]+$") then return found end
  return nil, ("%s does not hold an API key: one word of printable characters"):format(path or "OPENAI_API_KEY")
end

-- ---------------------------------------------------------------- what hides it

--- Any real key is longer; a shorter one is a stand-in for a local server and may be an honest word.
local SHORTEST = 8

--- A reply that holds a key of so many bytes is nonsense, and not believed: its ids and words go into journals
--- and names of files. A stand-in may be shorter.
local SURELY_A_KEY = 16

--- What is to be kept out of words of others.
---@class obatch.Secret
---@field words string[] patterns of the key
---@field is_long boolean
local Secret = {}
Secret.__index = Secret

--- Knows a key as it may come back in a message: as it is, in a URL, in JSON text.
---@param word string the key
---@return obatch.Secret secret
function key.secret(word)
  local function percent(format)
    return (word:gsub("[^%w._~-]", function(char) return format:format(char:byte()) end))
  end
  local quoted = json.encode(word):sub(2, -2)
  local words, known = {}, {}
  for _, form in ipairs { word, percent "%%%02X", percent "%%%02x", quoted, (quoted:gsub("/", "\\/")) } do
    if not known[form] and #word >= SHORTEST then words[#words + 1] = form:gsub("%p", "%%%0") end
    known[form] = true
  end
  return setmetatable({ words = words, is_long = #word >= SURELY_A_KEY }, Secret)
end

--- A message without the key.
---@param message string
---@return string hidden
function Secret:hide(message)
  for _, word in ipairs(self.words) do message = message:gsub(word, "***") end
  return message
end

--- Whether what is surely a key is in a string, or in a string of a table.
---@param value any
---@return boolean is_in
function Secret:is_in(value)
  if type(value) == "table" then
    for name, each in pairs(value) do
      if self:is_in(name) or self:is_in(each) then return true end
    end
  elseif type(value) == "string" and self.is_long then
    for _, word in ipairs(self.words) do
      if value:find(word) then return true end
    end
  end
  return false
end

return key
