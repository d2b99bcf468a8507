-- The next command that a message names: as a shell takes it when it is pasted.
local suggestion = require "obatch.suggestion"
local support = require "support"

describe("the command that comes next", function()
  --- What again() says in a program that was started with these words.
  local function again(words, ...)
    local before = table.move(arg, 0, #arg, 0, {})
    local function become(new)
      for i = math.max(#arg, #new), 0, -1 do rawset(arg, i, new[i]) end
    end
    finally(function() become(before) end)
    become(words)
    local line = suggestion.again(...)
    become(before)
    return line
  end

  it("reaches the program word for word", function()
    local words = { "plain", "two words", "it's", "~/x", "$(id)", "", "#", "é", "--odd=*" }
    local line = suggestion.command("why", table.unpack(words))
    local _, out = support.shell("printf '<%s>'" .. line:match "^obatch why(.*)$")
    assert.equal("<" .. table.concat(words, "><") .. ">", out)
  end)

  it("has no control character of a name", function()
    assert.is_nil(suggestion.command("why", "a\27[31mb\nc"):find("%c"))
  end)

  it("stands below what the program has printed, also where both go to one file", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/x.lua", [[
      io.write("20 requests: 18 have a good answer\n")
      require "obatch.suggestion".tell { "obatch why a b", "obatch report a", "obatch status a" } ]])
    local _, out = support.shell(("%s run %s/x.lua 2>&1 | cat"):format(support.quote(support.binary), dir.path))
    assert.equal("20 requests: 18 have a good answer\nnext: obatch why a b\nnext: obatch report a\n", out)
  end)

  it("is the one that runs, with another value", function()
    for _, given in ipairs { { "--base-dir", "b", "--max-iterations", "3", "--quiet" },
      { "--base-dir", "b", "--max-iterations=3", "--quiet" }, { "--base-dir", "b", "--quiet" } } do
      given[0] = "/somewhere/correction_loop.lua"
      assert.equal("obatch correction_loop --base-dir b --quiet --max-iterations 13",
        again(given, "--max-iterations", 13))
    end
  end)

  it("is the one that runs, with a flag, and loses no word when that was there already", function()
    assert.equal("obatch download --batch-dir b --resubmit",
      again({ [0] = "download.lua", "--resubmit", "--batch-dir", "b" }, "--resubmit"))
    assert.equal("obatch download --batch-dir b --resubmit",
      again({ [0] = "download.lua", "--once", "--batch-dir", "b" }, "--resubmit", nil, "--once"))
  end)
end)
