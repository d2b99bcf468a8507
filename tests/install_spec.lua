-- What "cmake --install" and "cpack" put where, that it runs from there, and that the shells complete it.
-- That the .deb installs and runs on a clean Debian 12 is tried by hand.
local fs = require "obatch.fs"
local support = require "support"

local build = support.binary:match("^(.*)/")

local function has(text, words) assert.truthy(text:find(words, 1, true), text) end

--- The paths below a folder, without it: a set.
local function files(dir)
  local found = {}
  for path in fs.walk(dir) do found[path:sub(#dir + 2)] = true end
  return found
end

--- What is to be installed, by what the source tree has.
local function wanted_files(zsh)
  local wanted = { ["bin/obatch"] = true, ["lib/obatch/editor.so"] = true, ["lib/obatch/http.so"] = true,
    ["lib/obatch/httpd.so"] = true, ["share/obatch/README.md"] = true, ["share/doc/obatch/copyright"] = true,
    ["share/bash-completion/completions/obatch"] = true, ["share/zsh/" .. zsh .. "/_obatch"] = true,
    ["share/fish/vendor_completions.d/obatch.fish"] = true, ["share/man/man1/obatch.1"] = true }
  for _, folder in ipairs { "lua", "scripts" } do
    for path in fs.walk(support.home .. "/" .. folder) do
      if not path:find("%.sh$") and not path:find("/%.[^/]*$") and not path:find("%.part$") and not path:find("~$") then
        wanted["share/obatch/" .. path:sub(#support.home + 2)] = true
      end
    end
  end
  return wanted
end

describe("cmake --install", function()
  local dir = support.tmpdir()
  local prefix = dir.path .. "/a prefix"
  local obatch -- quoted
  lazy_teardown(function() local _ <close> = dir end)

  it("puts everything into its place, where everybody can read it", function()
    -- Nothing of whoever installs gets into the completions, and a strict umask shuts nobody out.
    assert(fs.mkdir(dir.path .. "/config/obatch/scripts"))
    support.write(dir.path .. "/config/obatch/scripts/only_of_root.lua", "--- Mine.\n")
    local code, _, err = support.shell(("umask 077; XDG_CONFIG_HOME=%s/config cmake --install %s --prefix %s"):format(
      dir.path, support.quote(build), support.quote(prefix)))
    assert.equal(0, code, err)
    assert.same(wanted_files "site-functions", files(prefix))
    local _, odd = support.shell(([[cd %s; find . -not -perm -a=r; find . -type d -not -perm -a=rx
      grep -rl only_of_root share]]):format(support.quote(prefix)))
    assert.equal("", odd)
  end)

  it("makes a program that uses what was installed, and can be moved", function()
    assert(fs.rename(prefix, dir.path .. "/else where"))
    obatch = support.quote(dir.path .. "/else where/bin/obatch")
    local code, out = support.shell(("cd / && %s --version && %s correction_loop --help && echo 1+1 | %s repl"):format(
      obatch, obatch, obatch))
    assert.equal(0, code)
    has(out, "libcurl ")
    has(out, "--original-requests")
    has(out, "\n2\n")
    code, out = support.shell("cd / && " .. obatch .. " no_such_script 2>&1")
    assert.equal(2, code)
    has(out, dir.path .. "/else where/share/obatch/scripts")
    code, out = support.shell("cd / && OBATCH_SCRIPTS= XDG_CONFIG_HOME=/nowhere " .. obatch .. " scripts")
    assert.equal(0, code)
    assert.truthy(out:find("\nupload +installed +%u"), out)
  end)

  it("makes a program that runs a whole job", function()
    local code, out, err = support.shell(([[cd %s
      %s sandbox --port 0 --dir box --model demo >box.out & box=$!
      until url=$(sed -n 's/^listening on //p' box.out); [ -n "$url" ]; do kill -0 $box || exit; sleep 0.05; done
      echo '{"custom_id":"p-1","method":"POST","url":"/v1/responses","body":{"model":"m","input":"x"}}' >in.jsonl
      OPENAI_API_KEY=k OPENAI_BASE_URL=$url/v1 %s correction_loop --base-dir job \
        --original-requests in.jsonl --poll-wait 0.2
      code=$?; kill $box; wait $box; exit $code]]):format(dir.path, obatch, obatch))
    assert.equal(0, code, out .. err)
    has(out, "1 requests: 1 have a good answer")
  end)
end)

describe("cpack", function()
  it("makes a .deb with all of it, and with what it needs", function()
    local dir <close> = support.tmpdir()
    local code, out, err = support.shell(("cd %s && umask 077; cpack --config %s/CPackConfig.cmake -B %s"):format(
      dir.path, support.quote(build), dir.path))
    assert.equal(0, code, out .. err)
    code, out = support.shell(("cd %s && dpkg-deb -c obatch_*.deb"):format(dir.path))
    assert.equal(0, code)
    local found = {}
    for mode, path in out:gmatch("(%S+)[^\n]- %./(%S*)\n") do
      assert.truthy(mode:find("^drwxr%-xr%-x") or mode:find("^%-rw[-x]r%-[-x]r%-[-x]"), mode .. " " .. path)
      if mode:sub(1, 1) == "-" then found[path:gsub("^usr/", "")] = true end
    end
    assert.same(wanted_files "vendor-completions", found)
    code, out = support.shell(("cd %s && dpkg-deb -f obatch_*.deb"):format(dir.path))
    assert.equal(0, code)
    for _, package in ipairs { "lua-cjson", "lua-argparse", "lua-rex-pcre2", "ca-certificates", "libcurl4",
      "liblua5.4-0", "libmicrohttpd12", "libedit2", "libnettle8", "libc6" } do
      assert.truthy(out:match("\nDepends: [^\n]*"):find("%f[%w]" .. package:gsub("%W", "%%%0") .. "%f[^%w.-]"),
        package .. " is not in\n" .. out)
    end
    has(out, "\nSection: utils\n")
  end)
end)

describe("obatch completion", function()
  local dir = support.tmpdir()
  lazy_teardown(function() local _ <close> = dir end)

  --- The completions for a shell, in a file, as somebody with scripts of his own has them.
  local function completions(shell)
    local path = dir.path .. "/" .. shell
    if not fs.stat(path) then
      for _, place in ipairs { "config/obatch/scripts", "scripts", "data/folder", "data/with space" } do
        assert(fs.mkdir(dir.path .. "/" .. place))
      end
      support.write(dir.path .. "/data/file.jsonl", "")
      -- It has options; it would do something if it were run on.
      support.write(dir.path .. "/config/obatch/scripts/tally.lua", ([[
        --- It's mine: `touch %s/run` $(touch %s/run).
        local cli = require "obatch.cli"
        local parser = cli.parser("tally", "Counts.")
        parser:option("--by", "What \"it\" [is] counted by."):choices { "day", "week" }
        parser:option("--from"):argname("DIR")
        local args = parser:parse { ... }
        os.execute "touch %s/run"]]):format(dir.path, dir.path, dir.path):gsub("\n +", "\n"):gsub("^ +", ""))
      support.write(dir.path .. "/config/obatch/scripts/plain.lua", ("os.execute 'touch %s/run'\n"):format(dir.path))
      support.write(dir.path .. "/scripts/foreign.lua", ([[
        os.execute "touch %s/run"
        require "obatch.cli".parser("foreign"):parse {}]]):format(dir.path))
    end
    local code, out, err = support.shell(("cd %s && XDG_CONFIG_HOME=%s/config OBATCH_SCRIPTS= %s completion %s"):format(
      dir.path, dir.path, support.quote(support.binary), shell))
    assert.equal(0, code, err)
    assert.equal("completion: only the name of plain is completed: " .. dir.path
      .. "/config/obatch/scripts/plain.lua makes no parser by cli.parser()\n", err)
    support.write(path, out)
    return path, out
  end

  --- No script has been run, by obatch or by a shell.
  local function nothing_ran() assert.is_nil(fs.stat(dir.path .. "/run")) end

  it("runs no script further than its parser, and nothing of ./scripts", function()
    for _, shell in ipairs { "bash", "zsh", "fish" } do
      local path, out = completions(shell)
      has(out, "tally")
      has(out, "plain")
      has(out, "correction_loop")
      assert.falsy(out:find("foreign", 1, true))
      assert.falsy(out:find("correction-loop", 1, true), "that is no command")
      local code, said, err = support.shell(("%s -n %s"):format(shell, path))
      assert.equal(0, code, said .. err)
    end
    nothing_ran()
  end)

  -- What is typed -> what has to be among the answers, and (after "not") what must not.
  local CASES = {
    { "obatch c", "correction_loop", "completion", "clean", "not", "upload" },
    { "obatch ta", "tally" },
    { "obatch --v", "--version" },
    { "obatch upload --im", "--image-dir" },
    { "obatch upload --", "--prompt-file", "--redo", "not", "--version", "--original-requests" },
    { "obatch upload --detail ", "low", "high", "original", "auto" },
    { "obatch tally --by w", "week", "not", "day" },
    { "obatch completion ", "bash", "zsh", "fish" },
    { "obatch completion z", "zsh", "not", "bash" },
    { "obatch scripts --copy up", "upload" },
    { "obatch batches sh", "show" },
    { "obatch batches ", "list", "show", "watch", "cancel", "not", "upload" },
    { "obatch run data/", "data/file.jsonl", "data/folder/" },
    { "obatch upload --prompt-file data/", "data/file.jsonl", "data/folder/" },
    { "obatch upload --image-dir data/", "data/folder/", "not", "data/file.jsonl" },
    { "obatch upload --limit ", "not", "data/", "data/file.jsonl" },
  }

  --- Checks what a shell answers; `script` is a program for it that prints the answers to $line.
  local function check(shell, script, cases)
    local path = completions(shell)
    local words = {}
    for i, case in ipairs(cases) do words[i] = support.quote(case[1]) end
    support.write(dir.path .. "/ask." .. shell, script:gsub("LINES", (table.concat(words, " ")))
      :gsub("COMPLETIONS", path))
    local code, out, err = support.shell(("cd %s && HOME=%s timeout 100 %s ask.%s"):format(dir.path, dir.path, shell,
      shell))
    assert.equal(0, code, err)
    assert.equal("", err)
    local answers, n = {}, 0
    for line in out:gmatch("([^\n]*)\n") do
      if line:find("^>>> ") then
        n = n + 1
        answers[n] = {}
      else
        answers[n][line:match("^[^\t]*"):gsub(" +$", ""):gsub("\\ ", " ")] = true
      end
    end
    for i, case in ipairs(cases) do
      local is_wanted = true
      for j = 2, #case do
        if case[j] == "not" then
          is_wanted = false
        else
          assert.equal(is_wanted, answers[i][case[j]] == true, ("%s: %q and %q in:\n%s"):format(shell, case[1], case[j],
            out))
        end
      end
    end
    nothing_ran()
  end

  it("works in bash", function()
    -- As readline does it: the function, and where it leaves the answer to readline (an empty one), files or folders.
    check("bash", [=[
      source COMPLETIONS
      compopt() { for word in "$@"; do case $word in default) files=;; dirnames) files=-d;; esac; done; }
      complete -p obatch | grep -q -- '-o default' || exit 1
      for line in LINES; do
        echo ">>> $line"
        read -r -a COMP_WORDS <<<"$line"
        [[ $line == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=() files=-f
        _obatch
        if [ ${#COMPREPLY[@]} -gt 0 ]; then
          printf '%s\n' "${COMPREPLY[@]}"
        elif [ -n "$files" ]; then
          compgen "$files" -- "${COMP_WORDS[COMP_CWORD]}" | while read -r path; do
            if [ -d "$path" ]; then path=$path/; fi
            printf '%s\n' "$path"
          done
        fi
      done]=], CASES)
  end)

  it("works in fish", function()
    check("fish", [[
      source COMPLETIONS
      for line in LINES
        echo ">>> $line"
        complete -C "$line"
      end]], CASES)
  end)

  it("works in zsh", function()
    -- A zsh on a terminal of its own (zpty), in which Tab is pressed; what it would show goes to a file.
    check("zsh", [=[
      zmodload zsh/zpty
      cat >inner.zsh <<'E'
PS1= PS2=
autoload -U compinit
compinit -D -u
source COMPLETIONS 2>/dev/null
compdef _obatch obatch
compadd() {
  local -a found before rest
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
  builtin compadd -A found "$@"
  zparseopts -E -a rest p:=before W: f d:
  local hit
  for hit in $found; do
    hit=$before[2]$hit
    [[ -d $hit ]] && hit=$hit/
    print -r -- $hit >>answers
  done
  builtin compadd "$@"
}
ended() { print '>>> ' >>answers; comppostfuncs=(ended) } # zsh forgets it each time
comppostfuncs=(ended)
bindkey '^I' complete-word
setopt no_list_beep no_auto_list
print ready >>answers
E
      zpty shell zsh -f -i
      wait_for() { local n=0; until grep -q "$1" answers 2>/dev/null || (( n++ > 400 )); do sleep 0.05; done }
      zpty -w shell 'source ./inner.zsh'
      wait_for ready
      for line in LINES; do
        : >answers
        zpty -w -n shell "$line"$'\t'
        wait_for '^>>>'
        print -r -- ">>> $line"
        grep -v '^>>>' answers
        zpty -w -n shell $'\x15'
      done
      zpty -d shell]=], CASES)
  end)
end)
