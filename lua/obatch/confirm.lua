--- Asks before something is done that cannot be undone.

local cli = require "obatch.cli"
local term = require "obatch.term"

--- Asks a question of yes and no on the terminal; "no" is what Enter means. Where nobody can answer, the option
--- --yes has to have said so.
---@param question string what is about to be done; it ends without a question mark
---@param yes boolean? whether --yes was given: nothing is asked
---@return boolean is_wanted
---@return integer? code the exit code, where it is not wanted: what is to be said was said
return function(question, yes)
  if yes then return true end
  if not (term.isatty(0) and term.isatty(2)) then
    return false, cli.fail(2, "%s? There is no terminal to ask on: nothing was done. Say --yes to do it", question)
  end
  io.stderr:write(question, "? [y/N] ")
  local answer = io.read("l") or ""
  if term.interrupted() then return false, cli.fail(130, "interrupted: nothing was done") end
  if answer:lower():find("^%s*y") then return true end
  return false, cli.fail(1, "nothing was done")
end
