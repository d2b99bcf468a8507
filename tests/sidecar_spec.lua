--- Names of sidecars, and the one place that writes texts beside images.
local fs = require "obatch.fs"
local json = require "obatch.json"
local sidecar = require "obatch.sidecar"
local support = require "support"

local function lines_of(path)
  local list = {}
  for line in support.read(path):gmatch("[^\n]+") do list[#list + 1] = json.decode(line) end
  return list
end

describe("the name of a sidecar", function()
  it("leads back to its image, in any case, and to whether it is labelled", function()
    assert.same({ "data/a.jpg", "text" }, { sidecar.parse(sidecar.text_path("data/a.jpg")) })
    assert.same({ "data/A.JPEG", "api" }, { sidecar.parse(sidecar.label_path("data/A.JPEG")) })
    assert.same({ "d.d/.x\n.png", "text" }, { sidecar.parse("d.d/.x\n.png.txt") })
  end)

  it("is that of an image: other text files are nobody's sidecars", function()
    for _, path in ipairs { "notes.txt", "data/notes.txt", "a.jpg", "a.jpg.text", "a.pdf.txt", "a.jpg.txt.before",
      ".jpg.txt", "data/.png.txt", "a.jpg/notes.txt", "notes.txt.api", "", ".txt", "a.jpgx.txt" } do
      assert.is_nil(sidecar.parse(path), path)
    end
  end)
end)

describe("the file of a JSON result", function()
  local function back(name)
    local id = ""
    for folder in name:gmatch("([^/]*)~/") do id = id .. folder end
    return id .. name:match("([^/]*)%.json$")
  end

  it("is the custom_id itself where that fits", function()
    assert.equal("|data|a b.jpg.json", sidecar.file_name("|data|a b.jpg"))
    assert.equal(("x"):rep(250) .. ".json", sidecar.file_name(("x"):rep(250)))
    assert.equal("...json", sidecar.file_name(".."))
  end)

  it("is in folders where it does not, none of them longer than a file system allows, and leads back", function()
    for _, id in ipairs { ("x"):rep(251), "x" .. ("é"):rep(400), ("a~"):rep(300), ("|data|a b"):rep(30) .. ".jpg",
      ("~"):rep(512), ("€x"):rep(1000), ("\x80"):rep(300) } do
      local name = sidecar.file_name(id)
      assert.equal(id, back(name))
      for piece in name:gmatch("[^/]+") do
        assert.is_true(#piece <= 255, #piece)
        assert.is_true(utf8.len(id) == nil or utf8.len(piece) ~= nil, "cut inside a character")
      end
    end
  end)

  it("is refused to an id that would be a path", function()
    for _, id in ipairs { "../x", "/etc/passwd", "a\0b", "" } do
      local name, _, code = sidecar.file_name(id)
      assert.is_nil(name)
      assert.equal("NAME", code)
    end
  end)
end)

describe("writing beside an image", function()
  local dir, folder, image
  local function fresh()
    dir = support.tmpdir()
    assert(fs.mkdir(dir.path .. "/data/sub"))
    image = dir.path .. "/data/sub/a b.jpg"
    support.write(image, "an image")
    folder = assert(sidecar.folder(dir.path .. "/data"))
    return dir
  end

  it("writes the text, and says so when it is there already", function()
    local _ <close> = fresh()
    assert.equal("written", folder:write(image, "one\n"))
    assert.equal("one\n", support.read(image .. ".txt"))
    assert.equal("same", folder:write(image, "one\n"))
    assert.same({ "a b.jpg", "a b.jpg.txt" }, fs.list(dir.path .. "/data/sub"))
  end)

  it("never replaces another text unless it is told to", function()
    local _ <close> = fresh()
    support.write(image .. ".txt", "by hand")
    assert.equal("kept", folder:write(image, "one"))
    assert.equal("by hand", support.read(image .. ".txt"))
    assert.equal("kept", folder:write(image, ""))
    assert.equal("written", folder:write(image, "one", true))
    assert.equal("one", support.read(image .. ".txt"))
  end)

  it("replaces a blank one, and never a text by nothing", function()
    local _ <close> = fresh()
    assert.equal("written", folder:write(image, ""))
    assert.equal("", support.read(image .. ".txt"))
    assert.is_true(sidecar.is_blank(image))
    assert.equal("same", folder:write(image, " \n"))
    assert.equal("written", folder:write(image, "one"))
    assert.is_false(sidecar.is_blank(image))
  end)

  it("takes a labelled text for one that is there; with overwrite the label goes away", function()
    local _ <close> = fresh()
    support.write(image .. ".txt.api", "garbled")
    assert.is_true(sidecar.exists(image))
    assert.equal("kept", folder:write(image, "one"))
    assert.is_nil(fs.lstat(image .. ".txt"))
    assert.equal("same", folder:write(image, "garbled"))
    assert.is_nil(fs.lstat(image .. ".txt"))
    assert.equal("written", folder:write(image, "one", true))
    assert.equal("one", support.read(image .. ".txt"))
    assert.is_nil(fs.lstat(image .. ".txt.api"))
    support.write(image .. ".txt.api", "left by a run that was killed in between")
    assert.equal("same", folder:write(image, "one", true))
    assert.is_nil(fs.lstat(image .. ".txt.api"))
  end)

  it("follows no link that stands where the sidecar belongs", function()
    local _ <close> = fresh()
    local elsewhere = dir.path .. "/elsewhere"
    support.write(elsewhere, "mine")
    support.shell(("ln -s %s %s"):format(support.quote(elsewhere), support.quote(image .. ".txt")))
    assert.equal("kept", folder:write(image, "one"))
    assert.equal("written", folder:write(image, "one", true))
    assert.equal("mine", support.read(elsewhere))
    assert.equal("file", fs.lstat(image .. ".txt").type)
  end)

  it("does not hang on a pipe nor trip over a folder of that name", function()
    local _ <close> = fresh()
    support.shell("mkfifo " .. support.quote(image .. ".txt"))
    assert.equal("kept", folder:write(image, "one"))
    fs.remove(image .. ".txt")
    fs.mkdir(image .. ".txt")
    assert.equal("kept", folder:write(image, "one"))
    local ok, message, code = folder:write(image, "one", true)
    assert.is_nil(ok)
    assert.equal("EISDIR", code, message)
  end)

  it("writes nothing where there is no image, or none of this folder", function()
    local _ <close> = fresh()
    support.write(dir.path .. "/outside.jpg", "an image")
    support.shell(("cd %s && mkdir other && echo x > other/b.jpg && ln -s ../../other data/sub/link"):format(
      support.quote(dir.path)))
    local before = { support.shell("cd " .. support.quote(dir.path) .. " && find . | sort") }
    for path, expected in pairs {
      [dir.path .. "/data/sub/gone.jpg"] = "ENOENT", [dir.path .. "/data/gone/a.jpg"] = "ENOENT",
      [dir.path .. "/outside.jpg"] = "OUTSIDE", [dir.path .. "/data/../outside.jpg"] = "OUTSIDE",
      [dir.path .. "/data/sub/../sub/a b.jpg"] = "OUTSIDE", [dir.path .. "/data/sub/link/b.jpg"] = "OUTSIDE",
      [dir.path .. "/data/sub"] = "OUTSIDE", ["/etc/passwd"] = "OUTSIDE", ["a b.jpg"] = "OUTSIDE", [""] = "OUTSIDE",
      [dir.path .. "/data/a\0b.jpg"] = "OUTSIDE", [dir.path .. "/data2/a.jpg"] = "OUTSIDE",
      [dir.path .. "/data/" .. ("x"):rep(300) .. ".jpg"] = "ENAMETOOLONG",
    } do
      local ok, message, code = folder:write(path, "text", true)
      assert.is_nil(ok, path)
      assert.equal(expected, code, message)
    end
    assert.same(before, { support.shell("cd " .. support.quote(dir.path) .. " && find . | sort") })
  end)

  it("takes a link to an image for an image, and the folder itself may be reached by a link", function()
    local _ <close> = fresh()
    support.shell(("cd %s && ln -s sub/'a b.jpg' data/l.jpg && ln -s data named"):format(support.quote(dir.path)))
    local named = assert(sidecar.folder(dir.path .. "/named/"))
    assert.equal("written", named:write(dir.path .. "/named/l.jpg", "one"))
    assert.equal("written", named:write(dir.path .. "/named/sub/a b.jpg", "two"))
    assert.equal("one", support.read(dir.path .. "/data/l.jpg.txt"))
  end)

  it("says what an image's name of more than LONGEST_NAME bytes is good for", function()
    local _ <close> = fresh()
    local longest = dir.path .. "/data/" .. ("x"):rep(sidecar.LONGEST_NAME - 4) .. ".jpg"
    support.write(longest, "an image")
    assert.equal("written", folder:write(longest, "one"))
    assert.equal("one", support.read(longest .. ".txt"))
    local longer = longest:gsub("x%.jpg$", "xx.jpg")
    support.write(longer, "an image")
    local ok, _, code = folder:write(longer, "one")
    assert.is_nil(ok)
    assert.equal("ENAMETOOLONG", code)
  end)

  it("fails for a folder that is not there", function()
    local ok, message, code = sidecar.folder("/nonexistent/folder")
    assert.is_nil(ok)
    assert.equal("ENOENT", code)
    assert.matches("/nonexistent/folder", message)
  end)
end)

describe("provenance", function()
  local function entry(id, batch, written, more)
    local made = { custom_id = id, batch = batch, written = written, image = id }
    for key, value in pairs(more or {}) do made[key] = value end
    return made
  end

  it("has one line for each custom_id and batch, however often it is written", function()
    local dir <close> = support.tmpdir()
    local folder, path = dir.path .. "/", dir.path .. "/provenance.jsonl"
    assert(sidecar.add_provenance(folder, { entry("a", "b1", true), entry("b", "b1", true) }))
    local first = support.read(path)
    assert(sidecar.add_provenance(folder, { entry("a", "b1", true), entry("b", "b1", true) }))
    assert.equal(first, support.read(path))
    assert(sidecar.add_provenance(folder, { entry("b", "b2", true), entry("b", "b1", true, { tokens_in = 3 }) }))
    local lines = lines_of(path)
    assert.equal(3, #lines)
    assert.same({ "b", "b1", 3 }, { lines[2].custom_id, lines[2].batch, lines[2].tokens_in })
    assert.same({ "provenance.jsonl" }, fs.list(dir.path))
  end)

  it("does not forget that a text was written when it is found changed later", function()
    local dir <close> = support.tmpdir()
    assert(sidecar.add_provenance(dir.path .. "/", { entry("a", "b1", true) }))
    assert(sidecar.add_provenance(dir.path .. "/", { entry("a", "b1", false) }))
    assert.is_true(lines_of(dir.path .. "/provenance.jsonl")[1].written)
  end)

  it("leaves lines of other origin alone, also broken ones", function()
    local dir <close> = support.tmpdir()
    local path = dir.path .. "/provenance.jsonl"
    support.write(path, '{"custom_id":"a"}\nnot JSON\n\n{"custom_id":"a","batch":"b0","written":true}\n{"cut')
    assert(sidecar.add_provenance(dir.path .. "/", { entry("a", "b1", true) }))
    local text = support.read(path)
    assert.truthy(text:find('{"custom_id":"a"}\nnot JSON\n', 1, true))
    assert.truthy(text:find('"b0"', 1, true))
    assert.truthy(text:find('\n{"cut\n', 1, true))
    assert.truthy(text:find('"b1"', 1, true))
  end)

  it("is neither read nor written through a link, nor through a stale .part that is one", function()
    local dir <close> = support.tmpdir()
    local elsewhere = dir.path .. "/elsewhere"
    fs.mkdir(dir.path .. "/data")
    support.write(elsewhere, '{"secret":1}\n')
    for _, name in ipairs { "provenance.jsonl", "provenance.jsonl.part" } do
      support.shell(("ln -s %s %s/data/%s"):format(support.quote(elsewhere), support.quote(dir.path), name))
    end
    assert(sidecar.add_provenance(dir.path .. "/data/", { entry("a", "b1", true) }))
    assert.equal('{"secret":1}\n', support.read(elsewhere))
    assert.equal("file", fs.lstat(dir.path .. "/data/provenance.jsonl").type)
    assert.equal(1, #lines_of(dir.path .. "/data/provenance.jsonl"))
  end)
end)
