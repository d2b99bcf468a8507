-- The manual page, from what the program says of itself: "obatch run cmake/man.lua > obatch.1".
local cli = require "obatch.cli"
local scripts = require "obatch.scripts"

local function escaped(text) return (text:gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("\n([.'])", "\n\\&%1")) end

local commands = { run = { description = cli.BUILT_IN.run },
  repl = { description = cli.BUILT_IN.repl,
    parser = cli.parser_of(function() return require "obatch.repl".main {} end) } }
for _, script in ipairs(scripts.list(cli.home, { { path = cli.home .. "/scripts", from = "installed" } })) do
  commands[script.name] = { description = script.description, parser = assert(cli.parser_of(script.path)) }
end
local names = {}
for name in pairs(commands) do names[#names + 1] = name end
table.sort(names)

io.write(([[
.TH OBATCH 1 "" "obatch %s" ""
.SH NAME
obatch \- send many requests through the OpenAI Batch API and lose none
.SH SYNOPSIS
.B obatch
NAME [ARGUMENTS]
.br
.B obatch run
FILE [ARGUMENTS]
.br
.B obatch
\-\-help | \-\-version
.SH DESCRIPTION
Uploads requests, creates batches, waits, downloads, judges every answer and resends exactly what failed, until each
request has a good answer or a recorded reason why not. Each command is a Lua script that can be read and changed;
.B obatch scripts
lists them. The whole description is %s.
.SH COMMANDS
]]):format(cli.version, "README.md in share/obatch"))
for _, name in ipairs(names) do
  local command = commands[name]
  io.write((".SS %s\n%s\n"):format(name, escaped(command.description)))
  if command.parser then io.write(".PP\n.nf\n" .. escaped(command.parser:get_help()) .. "\n.fi\n") end
end
io.write([[
.SH ENVIRONMENT
OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID, OPENAI_PROJECT_ID, the usual proxy variables, CURL_CA_BUNDLE;
OBATCH_SCRIPTS (folders of scripts, with ':' between them), OBATCH_HOME (where lua/ and scripts/ are).
.SH EXIT STATUS
0 all good; 1 failed; 2 wrong usage; 3 finished, but some requests were given up; 130 interrupted and resumable.
]])
return 0
