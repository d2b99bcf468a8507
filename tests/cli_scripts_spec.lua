-- Where scripts are found, which of two is run, who is told; copies; typing errors; `obatch scripts`.
local fs = require "obatch.fs"
local json = require "obatch.json"
local support = require "support"

local function has(text, words) assert.truthy(text:find(words, 1, true), text) end

--- A folder with a home of its own, in which obatch is run: `place:obatch(words...)`.
local function a_place()
  local dir = support.tmpdir()
  for _, name in ipairs { "scripts", "one", "two", "config/obatch/scripts" } do
    assert(fs.mkdir(dir.path .. "/" .. name))
  end
  function dir:obatch(...)
    local words = { ... }
    for i, word in ipairs(words) do words[i] = support.quote(word) end
    return support.shell(("cd %s && OBATCH_SCRIPTS=%s XDG_CONFIG_HOME=%s/config HOME=%s %s %s"):format(self.path,
      support.quote(self.scripts or ""), self.path, self.path, support.quote(support.binary),
      table.concat(words, " ")))
  end
  --- A script that says where it is from.
  function dir:script(path) support.write(self.path .. "/" .. path, ("--- From %s.\nprint %q\n"):format(path, path)) end
  function dir:listed(name)
    local code, out, err = self:obatch("scripts", "--json")
    assert.equal(0, code, err)
    for _, script in ipairs(json.decode(out)) do
      if script.name == name then return script end
    end
  end
  return dir
end

describe("a script", function()
  it("is found in ./scripts, $OBATCH_SCRIPTS, the user's folder, and then where it was installed", function()
    local place <close> = a_place()
    place.scripts = place.path .. "/one::" .. place.path .. "/two:/nowhere"
    local order = { "scripts/sandbox.lua", "one/sandbox.lua", "two/sandbox.lua", "config/obatch/scripts/sandbox.lua" }
    for _, path in ipairs(order) do place:script(path) end
    for _, path in ipairs(order) do
      local code, out = place:obatch("sandbox")
      assert.equal(0, code)
      assert.equal(path .. "\n", out)
      assert(fs.remove(place.path .. "/" .. path))
    end
    local code, out = place:obatch("sandbox", "--help")
    assert.equal(0, code)
    has(out, "--faults")
  end)

  it("is not taken from an XDG_CONFIG_HOME that is no absolute path, nor from a folder called NAME.lua", function()
    local place <close> = a_place()
    place:script("config/obatch/scripts/mine.lua")
    assert(fs.mkdir(place.path .. "/scripts/mine.lua"))
    local code, out = place:obatch("mine")
    assert.equal(0, code)
    assert.equal("config/obatch/scripts/mine.lua\n", out)
    code = support.shell(("cd %s && XDG_CONFIG_HOME=config HOME=/nowhere %s mine"):format(place.path,
      support.quote(support.binary)))
    assert.equal(2, code)
  end)

  it("of the folder one is in that is run instead of an installed one is told on stderr, no other is", function()
    local place <close> = a_place()
    place:script("scripts/upload.lua")
    local code, out, err = place:obatch("upload")
    assert.equal(0, code)
    assert.equal("scripts/upload.lua\n", out)
    assert.equal("obatch: upload is ./scripts/upload.lua here, not the installed one\n", err)
    -- the same text, as in a source tree of this version
    support.write(place.path .. "/scripts/upload.lua", support.read(support.home .. "/scripts/upload.lua"))
    code, out, err = place:obatch("upload", "--help")
    assert.equal(0, code)
    has(out, "--image-dir")
    assert.equal("", err)
    -- one that hides none, and one that the user has put into the own folder
    place:script("scripts/mine.lua")
    assert.equal("", (select(3, place:obatch("mine"))))
    assert(fs.remove(place.path .. "/scripts/upload.lua"))
    place:script("config/obatch/scripts/upload.lua")
    code, out, err = place:obatch("upload")
    assert.equal(0, code)
    assert.equal("config/obatch/scripts/upload.lua\n", out)
    assert.equal("", err)
  end)

  it("whose name is mistyped is suggested", function()
    for typed, meant in pairs { corection_loop = "correction_loop", ["correction-loop"] = "correction_loop",
      CORRECTION_LOOP = "correction_loop", fsk = "fsck", dowload = "download", uplaod = "upload", correction =
      "correction_loop", sandbx = "sandbox", rep1 = "repl", deepclean = "deep_clean" } do
      local code, out, err = support.obatch(typed)
      assert.equal(2, code)
      assert.equal("", out)
      has(err, ("no script called '%s': did you mean '%s'?"):format(typed, meant))
    end
    for _, typed in ipairs { "x", "xyzzy", "--verbose", "../upload", ("upload"):rep(20) } do
      local _, _, err = support.obatch(typed)
      assert.falsy(err:find("did you mean", 1, true), err)
    end
  end)
end)

describe("obatch scripts", function()
  it("lists each with where it is from, what it does and what it hides", function()
    local place <close> = a_place()
    place.scripts = place.path .. "/one"
    place:script("scripts/upload.lua")
    place:script("one/upload.lua")
    place:script("one/tally.lua")
    place:script("config/obatch/scripts/mine.lua")
    local code, out, err = place:obatch("scripts")
    assert.equal(0, code)
    assert.equal("", err)
    assert.truthy(out:find("\nupload +%./scripts +From scripts/upload%.lua\n"), out)
    assert.truthy(out:find("\ntally +%$OBATCH_SCRIPTS +From one/tally%.lua\n"), out)
    assert.truthy(out:find("\nmine +yours +From"), out)
    assert.truthy(out:find("\nsandbox +installed +A local"), out)
    has(out, "upload: scripts/upload.lua is run, not " .. place.path .. "/one/upload.lua")
    has(out, "upload: scripts/upload.lua is run, not " .. support.home .. "/scripts/upload.lua")
    has(out, "  " .. place.path .. "/config/obatch/scripts\n")
    local upload = place:listed "upload"
    assert.same({ place.path .. "/one/upload.lua", support.home .. "/scripts/upload.lua" }, { upload.shadows[1],
      upload.shadows[2] })
    assert.equal("here", upload.from)
    assert.is_true(upload.differs)
    assert.equal("From scripts/upload.lua.", upload.description)
    local sandbox = place:listed "sandbox"
    assert.equal("installed", sandbox.from)
    assert.equal(0, #sandbox.shadows)
    assert.is_nil(sandbox.installed)
  end)

  it("shows names and descriptions that would do something to the terminal", function()
    local place <close> = a_place()
    support.write(place.path .. "/scripts/mine.lua", "--- Red \27[31m and \xff.\nreturn 0\n")
    for _, words in ipairs { { "scripts" }, { "scripts", "--json" }, { "--help" } } do
      local code, out = place:obatch(table.unpack(words))
      assert.equal(0, code)
      assert.falsy(out:find("[\27\xff]"), out)
      has(out, "mine")
    end
  end)

  it("in the source tree has nothing to say of what hides what", function()
    local code, out = support.shell(("cd %s && OBATCH_SCRIPTS= XDG_CONFIG_HOME=/nowhere %s scripts"):format(
      support.quote(support.home), support.quote(support.binary)))
    assert.equal(0, code)
    assert.truthy(out:find("\nupload +installed "), out)
    assert.falsy(out:find(" is run, not ", 1, true), out)
  end)

  it("--copy in the source tree says that its own scripts come first there", function()
    local dir <close> = support.tmpdir()
    local code, out = support.shell(("cd %s && OBATCH_SCRIPTS= XDG_CONFIG_HOME=%s %s scripts --copy upload"):format(
      support.quote(support.home), dir.path, support.quote(support.binary)))
    assert.equal(0, code)
    has(out, ("still runs %s/scripts/upload.lua here"):format(support.home))
  end)

  it("--copy makes a copy that runs instead, and says how to go back", function()
    local place <close> = a_place()
    local path = place.path .. "/config/obatch/scripts/fsck.lua"
    local code, out, err = place:obatch("scripts", "--copy", "fsck")
    assert.equal(0, code, err)
    has(out, "copied to " .. path)
    has(out, "rm " .. path)
    local original = support.read(support.home .. "/scripts/fsck.lua")
    assert.equal(original, support.read(path):sub(1, #original))
    local fsck = place:listed "fsck"
    assert.equal("config", fsck.from)
    assert.is_false(fsck.differs)
    assert.is_false(fsck.outdated)
    assert.truthy(fsck.copied_from:find("^%d+%.%d+%.%d+ %("), fsck.copied_from)
    code, out = place:obatch("fsck", "--help")
    assert.equal(0, code)
    has(out, "--repair")

    -- a change of the user is no change of the installed one
    support.write(path, (support.read(path):gsub("Checks the folder", "Checks, my dear, the folder")))
    assert.is_true(place:listed("fsck").differs)
    assert.is_false(place:listed("fsck").outdated)
    assert.truthy(place:listed("fsck").copied_from)
    out = select(2, place:obatch("scripts"))
    has(out, "fsck: copied from obatch ")
    out = select(2, place:obatch("fsck", "--help"))
    has(out, "my dear")

    -- and is not lost without a word
    code, out, err = place:obatch("scripts", "--copy", "fsck")
    assert.equal(1, code)
    assert.equal("", out)
    has(err, path .. " is there already")
    has(err, "--overwrite")
    has(support.read(path), "my dear")
    code = place:obatch("scripts", "--copy", "fsck", "--overwrite")
    assert.equal(0, code)
    assert.is_false(place:listed("fsck").differs)
  end)

  it("tells of a copy whose original has changed since", function()
    local place <close> = a_place()
    assert(os.execute(("cp -r %s/lua %s && mkdir %s/home && mv %s/lua %s/home && cp -r %s/scripts %s/home"):format(
      support.quote(support.home), place.path, place.path, place.path, place.path, support.quote(support.home),
      place.path)))
    local function obatch(words)
      return support.shell(("cd / && OBATCH_HOME=%s/home XDG_CONFIG_HOME=%s/config OBATCH_SCRIPTS= %s %s"):format(
        place.path, place.path, support.quote(support.binary), words))
    end
    assert.equal(0, (obatch "scripts --copy fsck"))
    local installed = place.path .. "/home/scripts/fsck.lua"
    support.write(installed, "--- Newer.\n" .. support.read(installed))
    local code, out = obatch "scripts"
    assert.equal(0, code)
    has(out, "fsck: the installed one has changed since this was copied from obatch ")
    has(out, ("diff %s %s/config/obatch/scripts/fsck.lua"):format(installed, place.path))
  end)

  it("--copy goes to a folder of one's choice, and says what will be run", function()
    local place <close> = a_place()
    local code, out, err = place:obatch("scripts", "--copy", "clean", "--to", "./my own")
    assert.equal(0, code, err)
    assert.truthy(fs.stat(place.path .. "/my own/clean.lua"))
    has(out, "obatch run './my own/clean.lua'")
    code, out = place:obatch("scripts", "--copy", "clean", "--to", "./scripts/")
    assert.equal(0, code)
    has(out, '"obatch clean" runs this one from now on')
    code, out = place:obatch("scripts", "--copy", "clean")
    assert.equal(0, code)
    has(out, '"obatch clean" still runs scripts/clean.lua')
  end)

  it("says what it cannot copy", function()
    local place <close> = a_place()
    local function wrong(wanted, words, ...)
      local code, out, err = place:obatch("scripts", ...)
      assert.equal(wanted, code, err)
      assert.equal("", out)
      has(err, words)
      assert.falsy(err:find("traceback", 1, true), err)
    end
    wrong(2, "must be one of 'batches', 'clean'", "--copy", "fsckk")
    wrong(2, "belong to --copy", "--to", "x")
    wrong(2, "belong to --copy", "--overwrite")
    wrong(2, "belongs to the list", "--copy", "fsck", "--json")
    wrong(2, "too many arguments", "fsck")
    support.write(place.path .. "/file", "")
    wrong(1, "file", "--copy", "fsck", "--to", "file")
    wrong(1, "is the installed script itself", "--copy", "fsck", "--to", support.home .. "/scripts", "--overwrite")
    local code, _, err = support.shell(("cd %s && env -u HOME -u XDG_CONFIG_HOME %s scripts --copy fsck"):format(
      place.path, support.quote(support.binary)))
    assert.equal(2, code)
    has(err, "--to DIR")
  end)
end)
