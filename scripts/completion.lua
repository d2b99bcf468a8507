--- Prints what lets a shell complete commands, options and files: bash, zsh or fish.
--
-- The shell reads what is printed once; the installed files are made like this, too. What is in ./scripts is left
-- out: a shell must not run what happens to be in the folder it is started in.

local cli = require "obatch.cli"
local completion = require "obatch.completion"
local scripts = require "obatch.scripts"
local text = require "obatch.text"

local parser = cli.parser("completion", "Prints the completions of obatch for a shell, with your own scripts (those in "
  .. "$OBATCH_SCRIPTS and in ~/.config/obatch/scripts).")
parser:argument("shell", "The shell."):choices { "bash", "zsh", "fish" }
parser:epilog [[
Example:
  source <(obatch completion bash)
  obatch completion bash > ~/.local/share/bash-completion/completions/obatch
  obatch completion zsh > ~/.zfunc/_obatch
  obatch completion fish > ~/.config/fish/completions/obatch.fish

The folders have to be there. zsh wants "fpath+=~/.zfunc" before compinit in
~/.zshrc. Print it again when you have added a script.

Exit codes: 0 printed; 2 wrong usage.]]
local args = parser:parse { ... }

local folders = {}
for _, folder in ipairs(scripts.folders(cli.home)) do
  if folder.from ~= "here" then folders[#folders + 1] = folder end
end
local program = completion.program(scripts.list(cli.home, folders), function(name, message)
  io.stderr:write(("completion: only the name of %s is completed: %s\n"):format(name, text.shown(message)))
end)
io.write(completion.of(program, args.shell))
return 0
