-- obatch validate: which files are faults, and that only --delete deletes, and only those.
local fs = require "obatch.fs"
local support = require "support"

local function names(dir)
  local list = fs.list(dir)
  table.sort(list)
  return list
end

local function validate(dir, ...) return support.obatch("validate", "--image-dir", dir.path, ...) end

--- Two good texts, two faulty ones, and files that are none of its business.
local function folder()
  local dir = support.tmpdir()
  for name, content in pairs { ["a.png.txt"] = '{"a": [1, 2]}\n', ["b.png.txt"] = "",
    ["c.png.txt"] = '{"é":\n\n "é" 1}',
    ["d.JPG.txt"] = '{"a": "\xFF"}', ["e.png.txt.api"] = "{", ["f.png.txt.before"] = "{", ["notes.txt"] = "{",
    ["x.json"] = "[1,]", ["y.JSON"] = "" } do
    support.write(dir.path .. "/" .. name, content)
  end
  return dir
end

local ALL = { "a.png.txt", "b.png.txt", "c.png.txt", "d.JPG.txt", "e.png.txt.api", "f.png.txt.before", "notes.txt",
  "x.json", "y.JSON" }

describe("obatch validate", function()
  it("prints one line for each fault, with its place, and touches nothing", function()
    local dir <close> = folder()
    local status, out, err = validate(dir)
    assert.equal(1, status)
    assert.equal(("%s/c.png.txt: byte 15 (line 3, column 6): expected ',' or '}'\n"
      .. "%s/d.JPG.txt: byte 8 (line 1, column 8): invalid UTF-8\n"
      .. "4 files: 1 strict JSON, 1 blank, 2 faulty\n"):format(dir.path, dir.path), out)
    assert.equal(("next: obatch validate --image-dir %s --delete\n      and upload takes their images again\n")
      :format(dir.path), err)
    local _, same, nothing = validate(dir, "--quiet")
    assert.same({ out, "" }, { same, nothing })
    assert.same(ALL, names(dir.path))
  end)

  it("--delete deletes the faulty ones and nothing else", function()
    local dir <close> = folder()
    local status, out = validate(dir, "--delete")
    assert.equal(0, status)
    assert.is_truthy(out:find("4 files: 1 strict JSON, 1 blank, 2 faulty, 2 deleted\n", 1, true), out)
    assert.same({ "a.png.txt", "b.png.txt", "e.png.txt.api", "f.png.txt.before", "notes.txt", "x.json", "y.JSON" },
      names(dir.path))
    assert.equal(0, (validate(dir)))
  end)

  it("--delete takes no images, no notes, and not a whole collection of plain texts", function()
    local dir <close> = support.tmpdir()
    for i = 1, 2 do support.write(("%s/%d.png.txt"):format(dir.path, i), "plain text") end
    support.write(dir.path .. "/1.png", "an image")
    for _, ending in ipairs { ".png", ".JPG", ".txt", ".jsonl" } do
      assert.equal(2, (validate(dir, "--ext", ending, "--delete")))
    end
    local status, out = validate(dir, "--delete")
    assert.equal(1, status)
    assert.is_truthy(out:find("none of them is JSON: were they meant to be? Nothing was deleted", 1, true), out)
    assert.equal(3, #names(dir.path))
    local _, _, err = validate(dir)
    assert.equal("", err) -- and nobody is told to
    support.write(dir.path .. "/good.png.txt", "{}")
    assert.equal(0, (validate(dir, "--delete")))
    assert.same({ "1.png", "good.png.txt" }, names(dir.path))
  end)

  it("--ext checks all files of an ending, and an empty one is a fault there", function()
    local dir <close> = folder()
    local status, out = validate(dir, "--ext", ".json")
    assert.equal(1, status)
    assert.is_truthy(out:find("/x.json: byte 4 (line 1, column 4)", 1, true), out)
    assert.is_truthy(out:find("/y.JSON: byte 1 (line 1, column 1)", 1, true), out)
    assert.is_truthy(out:find("2 files: 0 strict JSON, 0 blank, 2 faulty\n", 1, true), out)
    assert.equal(2, (validate(dir, "--ext", "json")))
  end)

  it("neither follows nor deletes links", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/broken", "{")
    support.shell(("cd %s && ln -s broken l.png.txt && ln -s nowhere m.png.txt"):format(support.quote(dir.path)))
    local status, _, err = validate(dir, "--delete")
    assert.equal(0, status)
    assert.same({ "broken", "l.png.txt", "m.png.txt" }, names(dir.path))
    assert.is_truthy(err:find("l.png.txt is a link, not a file: left alone", 1, true), err)
  end)

  it("does not read, and does not delete, what is too big", function()
    local dir <close> = support.tmpdir()
    support.shell(("truncate -s 3000000000 %s/a.png.txt"):format(support.quote(dir.path)))
    local status, _, err = validate(dir, "--delete")
    assert.equal(1, status)
    assert.is_truthy(err:find("3000000000 bytes: not read, not deleted", 1, true), err)
    assert.same({ "a.png.txt" }, names(dir.path))
  end)

  it("prints names of any bytes so that a terminal can bear them", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/a\n\27\xE9.png.txt", "{")
    local _, out = validate(dir)
    assert.is_truthy(out:find("/a%0A%1B%E9.png.txt: byte 2 ", 1, true), out)
  end)

  it("refuses a folder that is not there", function()
    local status, _, err = support.obatch("validate", "--image-dir", "/nowhere/images")
    assert.equal(2, status)
    assert.is_truthy(err:find("/nowhere/images is not a folder", 1, true))
  end)
end)
