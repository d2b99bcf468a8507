--- Shell completions of the whole program, made by lua-argparse of the parsers of all commands.
--
-- lua-argparse offers files for every option that takes something. Here an option says by its argname what it
-- takes: DIR folders, FILE (or no argname) files, any other name nothing that a shell could know. To that end a few of
-- its methods are replaced in these parsers; they are those of lua-argparse 0.7.1.

local argparse = require "argparse"
local cli = require "obatch.cli"

local completion = {}

--- What an option or argument takes: "folder", "file", or nil for what no shell knows.
local function takes(element)
  local word = element._argname
  if type(word) == "table" then word = word[1] end
  if not word then return element._name:find "dir$" and "folder" or "file" end
  return word:find "DIR" and "folder" or (word:find "FILE" or word:find "IMAGE") and "file" or nil
end

-- ---------------------------------------------------------------- bash

--- What bash is to do after an option, by what it takes. Its own completion of files knows spaces, "~" and the
--- slash behind a folder; compgen does not.
local function bash_reply(element)
  if element._choices then
    return ('COMPREPLY=($(compgen -W "%s" -- "$cur"))'):format(table.concat(element._choices, " "))
  end
  local kind = takes(element)
  if kind == "file" then return "COMPREPLY=()" end
  return kind == "folder" and "compopt +o default +o bashdefault -o dirnames" or "compopt +o default +o bashdefault"
end

local function bash_option_args(self, buf, indent)
  local margin = (" "):rep(indent)
  local cases = {}
  for _, option in ipairs(self._options) do
    if option._choices or option._minargs > 0 then
      cases[#cases + 1] = ("%s    %s)\n%s        %s\n%s        return 0\n%s        ;;"):format(margin,
        table.concat(option._aliases, "|"), margin, bash_reply(option), margin, margin)
    end
  end
  if #cases > 0 then
    table.insert(buf, margin .. 'case "$prev" in')
    table.insert(buf, table.concat(cases, "\n"))
    table.insert(buf, margin .. "esac\n")
  end
end

--- lua-argparse completes the choices of options only; here also those of a command's first argument.
local function bash_cmd_completions(self, buf)
  local first = self._arguments[1]
  if not (self._parent and first and first._choices and #self._commands == 0) then
    return getmetatable(self)._bash_cmd_completions(self, buf)
  end
  table.insert(buf, ("        '%s')"):format(self:_get_fullname(true)))
  self:_bash_option_args(buf, 12)
  table.insert(buf, "            " .. bash_reply(first))
  table.insert(buf, "            ;;")
end

--- The options of the program itself (--version) are none of its commands: no sub-command gets them here, though
--- lua-argparse would have it so.
local function bash_get_cmd(self, buf, indent)
  local first = #buf + 1
  getmetatable(self)._bash_get_cmd(self, buf, indent)
  local margin = (" "):rep(indent + 12)
  for i = first, #buf do
    if not self._parent then buf[i] = buf[i]:gsub("^" .. margin .. 'opts="%$opts ', margin .. 'opts="') end
  end
end

-- ---------------------------------------------------------------- zsh, fish

--- The lines that lua-argparse writes about options stand in the order of the options.
local function zsh_arguments(self, buf, ...)
  local line = #buf + 1
  getmetatable(self)._zsh_arguments(self, buf, ...)
  while not buf[line]:find "options=%($" do line = line + 1 end
  if self._parent then -- "$options": those of the level above
    if self._parent._parent then line = line + 1 else table.remove(buf, line + 1) end
  end
  for i, option in ipairs(self._options) do
    local kind = takes(option)
    if kind ~= "file" then
      buf[line + i] = buf[line + i]:gsub(': :_files"$', kind == "folder" and ': :_files -/"' or ': : "')
    end
  end
end

local function fish_complete_help(self, buf, basename)
  local line = #buf + 1 + #self._commands -- after an empty one
  getmetatable(self)._fish_complete_help(self, buf, basename)
  for i, option in ipairs(self._options) do
    local kind = takes(option)
    if kind ~= "file" and not option._choices then
      buf[line + i] = buf[line + i]:gsub(" %-r%f[ \0]",
        kind == "folder" and " -xa '(__fish_complete_directories)'" or " -x", 1)
    end
    if not self._parent then
      buf[line + i] = buf[line + i]:gsub("^complete %-c %S+", ("%%0 -n '__fish_%s_using_command'"):format(basename))
    end
  end
  local first = self._arguments[1]
  if self._parent and first and first._choices then
    table.insert(buf, ("complete -c %s -n '__fish_%s_seen_command %s' -xa '%s'"):format(basename, basename,
      self:_get_fullname(true), table.concat(first._choices, " ")))
  end
end

-- ---------------------------------------------------------------- the program

--- Replaces the methods in a parser and in the parsers of its sub-commands.
local function adapt(parser)
  parser._bash_option_args, parser._bash_cmd_completions = bash_option_args, bash_cmd_completions
  parser._bash_get_cmd = bash_get_cmd
  parser._zsh_arguments, parser._fish_complete_help = zsh_arguments, fish_complete_help
  for _, command in ipairs(parser._commands) do
    command._parent = parser
    adapt(command)
  end
end

--- The parser of the whole program: each command with its own options, arguments and sub-commands.
---@param list obatch.scripts.Script[]
---@param complain fun(name: string, message: string) is told of a script whose options cannot be had
---@return table parser lua-argparse's
function completion.program(list, complain)
  local program = argparse("obatch", "Runs OpenAI Batch API work."):require_command(false)
  program:flag("--version", "Show the version and those of the libraries.")

  local function add(name, description, parser, message)
    local command = program:command(name, description ~= "" and description or nil)
    command._aliases = { name } -- lua-argparse adds the same with "-" for "_", which is no command
    if not parser then return complain(name, message) end
    local own = { command._options, command._arguments, command._commands }
    command._options, command._arguments, command._commands = parser._options, parser._arguments, parser._commands
    if not command:_is_shell_safe() then
      command._options, command._arguments, command._commands = table.unpack(own)
      complain(name, "its options are not such as shells take")
    end
  end

  local run = argparse("run")
  run:argument("file")
  run:argument("arguments"):args("*")
  add("run", cli.BUILT_IN.run, run)
  add("repl", cli.BUILT_IN.repl, cli.parser_of(function() return require "obatch.repl".main {} end))
  for _, script in ipairs(list) do
    if not cli.BUILT_IN[script.name] then add(script.name, script.description, cli.parser_of(script.path)) end
  end
  adapt(program)
  return program
end

--- The completions for a shell.
---@param program table what completion.program() gave
---@param shell "bash"|"zsh"|"fish"
---@return string text
function completion.of(program, shell)
  return program["get_" .. shell .. "_complete"](program)
end

return completion
