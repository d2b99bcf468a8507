--- The command that comes next, complete, so that it can be copied from a message.

local text = require "obatch.text"

local suggestion = {}

--- The most lines that a command ends with.
local MOST = 2

--- A command line of these words, as a shell takes it.
---@param ... string  the name of a script, then its arguments
---@return string line  "obatch why Cleaned_results 'page 7'"
function suggestion.command(...)
  local words = { "obatch" }
  for _, word in ipairs { ... } do words[#words + 1] = text.shell_word(text.shown(tostring(word))) end
  return table.concat(words, " ")
end

--- The command line that runs, with a flag, or with an option of another value.
---@param option string  "--max-iterations"
---@param value? string|integer  nil for a flag
---@param without? string  a flag that is left out
---@return string line
function suggestion.again(option, value, without)
  local words, skip = {}, false
  for _, word in ipairs(arg) do
    local is_option = word == option
    if not skip and not is_option and word ~= without and word:sub(1, #option + 1) ~= option .. "=" then
      words[#words + 1] = word
    end
    skip = is_option and value ~= nil
  end
  local name = arg[0]:match("([^/]*)%.lua$") or arg[0]
  return suggestion.command(name, table.unpack(table.move({ option, value }, 1, 2, #words + 1, words)))
end

--- Says on stderr what may be done next: the first two of these lines.
---@param lines string[]  command lines
---@param is_quiet? boolean  say nothing
function suggestion.tell(lines, is_quiet)
  io.stdout:flush() -- where both go to one file, what came of it stands before this
  for i = 1, is_quiet and 0 or math.min(#lines, MOST) do io.stderr:write("next: ", lines[i], "\n") end
end

return suggestion
