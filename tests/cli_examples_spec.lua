-- The examples of every --help: each parses, and those that a small project can run are run.
local cli = require "obatch.cli"
local fs = require "obatch.fs"
local scripts = require "obatch.scripts"
local support = require "support"

--- The words of the last obatch command in a line, as a shell would split it; what follows after "|", ">", "&", ";"
--- or "#" is not obatch's.
local function words_of(line)
  line = line:match("%f[%w]obatch%f[^%w] *(.*)$")
  local words, word = {}, nil
  local i = 1
  while i <= #line do
    local c = line:sub(i, i)
    local close = (c == "'" or c == '"') and line:find(c, i + 1, true)
    if close then
      word, i = (word or "") .. line:sub(i + 1, close - 1), close
    elseif c == " " then
      if word then words[#words + 1], word = word, nil end
    elseif c:find("[|>&;)]") or c == "#" and not word then
      break
    else
      word = (word or "") .. c
    end
    i = i + 1
  end
  words[#words + 1] = word
  return words
end

--- Every command: its name, its parser, and its example lines (one that goes on in the next line is one).
local commands = {}
local function add(name, command)
  local parser, message = cli.parser_of(command)
  local help = parser and parser:get_help() or ""
  local examples = {}
  for line in ((help:match("\nExamples?:\n(.*)") or ""):gsub("\\\n *", "")):gmatch("[^\n]+") do
    if line:find("^  .*%f[%w]obatch%f[^%w] ") then examples[#examples + 1] = line:sub(3) end
  end
  commands[name] = { parser = parser, message = message, help = help, examples = examples }
end
for _, script in ipairs(scripts.list(cli.home, { { path = cli.home .. "/scripts", from = "installed" } })) do
  add(script.name, script.path)
end
add("repl", function() return require "obatch.repl".main {} end)

describe("--help", function()
  it("of every command has an example and the exit codes", function()
    for name, command in pairs(commands) do
      assert.truthy(command.parser, command.message)
      assert.truthy(#command.examples > 0, "no example in: obatch " .. name .. " --help")
      if name ~= "repl" and name ~= "sandbox" then
        assert.truthy(command.help:find("Exit codes:", 1, true), "no exit codes in: obatch " .. name .. " --help")
      end
    end
  end)

  it("shows examples whose options and commands exist", function()
    local count = 0
    for name, command in pairs(commands) do
      local of_its_own = 0
      for _, line in ipairs(command.examples) do
        local words = words_of(line)
        local other = commands[table.remove(words, 1)]
        assert.truthy(other, ("obatch %s --help: %s: there is no such command"):format(name, line))
        local ok, message = other.parser:pparse(words)
        assert.truthy(ok, ("obatch %s --help: %s: %s"):format(name, line, tostring(message)))
        if other == command then of_its_own = of_its_own + 1 end
        count = count + 1
      end
      assert.truthy(of_its_own > 0, "no example of its own: obatch " .. name)
    end
    assert.truthy(count > 25, count)
  end)
end)

-- The examples that are run, by the command, in an order in which each finds what it needs.
local ORDER = { "correction_loop", "upload", "download", "clean", "deep_clean", "validate", "status", "collect",
  "report", "fsck", "batches", "files", "scripts", "completion", "repl" }

--- Those that name an id or a file that this project has not, wait for a person, or need another shell.
local function can_run(line)
  for _, words in ipairs { "batch_%x%x%x%x", "file%-%w", "<%(", "~", "decisions", " prune", " repl$", "repl %w",
    " watch", "policy%.lua", "first_job", " why " } do
    if line:find(words) then return false end
  end
  return true
end

describe("an example", function()
  it("works when it is typed into a project", function()
    local dir <close> = support.tmpdir()
    for _, path in ipairs { "data", "home", "scans" } do assert(fs.mkdir(dir.path .. "/" .. path)) end
    for _, path in ipairs { "data/1.png", "data/2.png", "scans/1.png" } do
      assert(os.execute(("cp %s/tests/fixtures/pages/letters/1893-04-02.png %s/%s"):format(support.quote(support.home),
        dir.path, path)))
    end
    support.write(dir.path .. "/rolls_prompt.txt", "Read the page.\n")
    support.write(dir.path .. "/model.lua", [[
      return function() return '{"ocr_text": "Feb. 11, 1910"}' end]])
    local request = '{"custom_id":"p-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m",'
      .. '"messages":[{"role":"user","content":"x"}]}}\n'
    support.write(dir.path .. "/original_requests.jsonl", request:format(1) .. request:format(2))
    local box <close> = support.sandbox { "--model", dir.path .. "/model.lua", "--batch-seconds", "0.1" }
    local ran = 0
    for _, name in ipairs(ORDER) do
      for _, line in ipairs(commands[name] and commands[name].examples or {}) do
        if can_run(line) then
          local code, out, err = support.shell(([[cd %s; export HOME=$PWD/home XDG_CONFIG_HOME= OBATCH_SCRIPTS=
            export OPENAI_API_KEY=k OPENAI_BASE_URL=%s; obatch() { %s "$@"; }
            %s]]):format(dir.path, box.url, support.quote(support.binary), line))
          local said = ("$ %s\n%s%s"):format(line, out, err)
          assert.equal(0, code, said)
          assert.falsy(err:find("traceback", 1, true) or err:find("Sanitizer", 1, true), said)
          ran = ran + 1
        end
      end
    end
    assert.truthy(ran > 20, "examples that ran: " .. ran)
  end)
end)
