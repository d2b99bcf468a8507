-- obatch clean: what it does to a folder of texts, what it says, and what it never touches.
local fs = require "obatch.fs"
local support = require "support"

local LOOP = ("The same line again and again.\n"):rep(30)
local REFUSAL = "I'm sorry, but I can't assist with that."

--- A folder with the texts of a table (path -> text) in it.
local function folder(files)
  local dir = support.tmpdir()
  for path, content in pairs(files) do
    local parent = path:match("^(.*)/")
    if parent then assert(fs.mkdir(dir.path .. "/" .. parent)) end
    support.write(dir.path .. "/" .. path, content)
  end
  return dir
end

--- A page of 1,400 characters in which hardly a word comes twice.
local function page(n)
  local words = {}
  for i = 1, 200 do words[i] = ("w%d"):format(i * 7919 % 10007 + n) end
  return table.concat(words, " ") .. ".\n"
end

local function clean(dir, ...) return support.obatch("clean", "--image-dir", dir.path, ...) end

--- All files below a folder: path -> content.
local function contents(dir)
  local files = {}
  for path in fs.walk(dir.path) do files[path:sub(#dir.path + 2)] = support.read(path) end
  return files
end

describe("obatch clean", function()
  it("cleans texts, labels what is beyond that, and leaves everything else", function()
    local dir <close> = folder {
      ["a.png.txt"] = "```\r\nDear Sir, the tran-\r\nscription of it. \r\n```\r\n",
      ["good.JPEG.txt"] = "Dear Sir,\nyours.\n",
      ["sub/loop.jpg.txt"] = LOOP .. " \n", ["sub/blank.webp.txt"] = "", ["refused.gif.txt"] = REFUSAL,
      ["notes.txt"] = "```\nmine\n```", ["a.png"] = "image", ["old.png.txt.api"] = LOOP, ["b.png.txt.before"] = LOOP,
    }
    local status, out, err = clean(dir)
    assert.equal(0, status, err)
    assert.same({
      ["a.png.txt"] = "Dear Sir, the transcription\nof it.\n", ["good.JPEG.txt"] = "Dear Sir,\nyours.\n",
      ["sub/loop.jpg.txt.api"] = LOOP .. " \n", ["sub/blank.webp.txt"] = "", ["refused.gif.txt.api"] = REFUSAL,
      ["notes.txt"] = "```\nmine\n```", ["a.png"] = "image", ["old.png.txt.api"] = LOOP, ["b.png.txt.before"] = LOOP,
    }, contents(dir))
    assert.is_truthy(out:find('labelled .api: ' .. dir.path .. '/sub/loop.jpg.txt: repetition 1.00 ("The', 1, true))
    assert.is_truthy(out:find("\n6 texts: 1 unchanged, 1 cleaned, 1 blank, 2 labelled .api, 1 labelled before\n", 1,
      true), out)
  end)

  it("changes nothing when it runs again", function()
    local files = { ["cut.png.txt"] = "I have your letter of the fifth and I beg to say in\n",
      ["sub/l.png.txt"] = LOOP, ["fence.png.txt"] = "```\nDear Sir\n```" }
    -- Without the 20 refusals, which are labelled, the text that is cut off would be far too short.
    for i = 1, 30 do files[("p%02d.png.txt"):format(i)] = i > 20 and page(i) or REFUSAL .. (" "):rep(i) end
    local dir <close> = folder(files)
    assert.equal(0, (clean(dir)))
    local once = contents(dir)
    assert.is_truthy(once["cut.png.txt"])
    local status, out = clean(dir)
    assert.equal(0, status)
    assert.same(once, contents(dir))
    assert.is_nil(out:find("cleaned", 1, true), out)
    assert.is_truthy(out:find("33 texts: 12 unchanged, 21 labelled before", 1, true), out)
  end)

  it("--dry-run shows the differences and the labels, and writes nothing", function()
    local dir <close> = folder { ["it's a.png.txt"] = "```\nDear\0 Sir\27[2J\n```\n", ["loop.png.txt"] = LOOP,
      ["-x.png.txt"] = "ok" }
    local before = contents(dir)
    local status, out = clean(dir, "--dry-run")
    assert.equal(0, status)
    assert.same(before, contents(dir))
    local name = dir.path .. "/it's a.png.txt"
    assert.is_truthy(out:find(("--- %s\n+++ %s (cleaned)\n"):format(name, name), 1, true), out)
    assert.is_truthy(out:find("\n-```\n-Dear\\x00 Sir\\x1B[2J\n-```\n+Dear Sir[2J\n", 1, true), out)
    assert.is_truthy(out:find("would be labelled .api: " .. dir.path .. "/loop.png.txt: repetition", 1, true), out)
    assert.is_truthy(out:find("3 texts: 1 unchanged, 1 would be cleaned, 1 would be labelled .api\ndry run", 1, true),
      out)
    assert.is_nil(out:find("[\0-\9\27]"))
  end)

  it("shows so many differences and counts the others", function()
    local files = {}
    for i = 1, 203 do files[i .. ".png.txt"] = "a line \n" end
    local dir <close> = folder(files)
    local status, out = clean(dir, "--dry-run")
    assert.equal(0, status)
    assert.is_truthy(out:find("3 more differences are not shown", 1, true), out)
    assert.is_truthy(out:find("203 would be cleaned", 1, true), out)
  end)

  it("changes nothing when the report cannot be written", function()
    local dir <close> = folder { ["a.png.txt"] = "a  \n" }
    local status, _, err = clean(dir, "--report", dir.path .. "/nowhere/r.csv")
    assert.equal(2, status)
    assert.is_truthy(err:find("--report: ", 1, true), err)
    assert.equal("a  \n", support.read(dir.path .. "/a.png.txt"))
  end)

  it("--report writes one row for each text", function()
    local dir <close> = folder { ['a,"b".png.txt'] = "```\nDear Sir.\n```", ["loop.png.txt"] = LOOP, ["x.png.txt"] = "",
      ["y.png.txt.api"] = LOOP }
    assert.equal(0, (clean(dir, "--report", dir.path .. "/report.csv")))
    local expected = ([[
path,action,rules,score,reasons
"DIR/a,""b"".png.txt",cleaned,fences; trailing blanks,0.00,
DIR/loop.png.txt,labelled,,1.00,"repetition 1.00 (""The same line again and again"" 30 times in a row)"
DIR/x.png.txt,blank,,0.00,
DIR/y.png.txt.api,labelled before,,0.00,
]]):gsub("DIR", (dir.path:gsub("%%", "%%%%")))
    assert.equal(expected, support.read(dir.path .. "/report.csv"))
  end)

  it("--json keeps JSON JSON and labels what is none", function()
    local dir <close> = folder { ["fence.png.txt"] = '```json\n{"a": "tran-\\nscription \\n"}\n```',
      ["broken.png.txt"] = '{"a": "b',
      ["good.png.txt"] = '{"a": "x\\nY"} \n', ["blank.png.txt"] = "" }
    local status, out = clean(dir, "--json")
    assert.equal(0, status)
    assert.same({ ["fence.png.txt"] = '{"a": "tran-\\nscription \\n"}', ["broken.png.txt.api"] = '{"a": "b',
      ["good.png.txt"] = '{"a": "x\\nY"} \n', ["blank.png.txt"] = "" }, contents(dir))
    assert.is_truthy(out:find("broken JSON 1.00", 1, true), out)
  end)

  it("never overwrites a labelled text, and says so", function()
    local dir <close> = folder { ["a.png.txt"] = LOOP, ["a.png.txt.api"] = "another" }
    local status, out = clean(dir)
    assert.equal(1, status)
    assert.same({ ["a.png.txt"] = LOOP, ["a.png.txt.api"] = "another" }, contents(dir))
    assert.is_truthy(out:find("in the way: " .. dir.path .. "/a.png.txt.api is there already", 1, true), out)
  end)

  it("labels a text of which cleaning would leave nothing, untouched", function()
    local dir <close> = folder { ["a.png.txt"] = "```json\n```\n" }
    local status, out = clean(dir)
    assert.equal(0, status)
    assert.same({ ["a.png.txt.api"] = "```json\n```\n" }, contents(dir))
    assert.is_truthy(out:find("cleaning leaves nothing of it", 1, true), out)
  end)

  it("leaves links alone and names them", function()
    local dir <close> = folder { ["real.png"] = "```\nmine\n```", ["a/x.png.txt"] = LOOP }
    support.shell("cd " .. support.quote(dir.path)
      .. " && ln -s real.png l.png.txt && ln -s nowhere m.png.txt && ln -s nowhere other && ln -s a b")
    local status, out = clean(dir)
    assert.equal(0, status)
    assert.equal("```\nmine\n```", support.read(dir.path .. "/real.png"))
    assert.equal("link", fs.lstat(dir.path .. "/l.png.txt").type)
    assert.is_truthy(out:find("link: " .. dir.path .. "/l.png.txt is a link", 1, true), out)
    assert.is_truthy(out:find("3 texts: 1 labelled .api, 2 link", 1, true), out)
  end)

  it("labels what is too big for a page without reading it", function()
    local dir <close> = folder {}
    support.shell(("truncate -s 900000000 %s/a.png.txt"):format(support.quote(dir.path)))
    local status, out = clean(dir)
    assert.equal(0, status)
    assert.is_truthy(fs.stat(dir.path .. "/a.png.txt.api"))
    assert.is_truthy(out:find("900000000 bytes: no page has so many", 1, true), out)
  end)

  it("names what it cannot read or write, does the rest, and fails", function()
    local dir <close> = folder { ["a/x.png.txt"] = "```\nDear\n```", ["b/y.png.txt"] = "```\nSir\n```" }
    -- A folder where the temporary file has to be is what root cannot write, either.
    assert(fs.mkdir(dir.path .. "/a/x.png.txt.part/full"))
    local status, out = clean(dir)
    assert.equal(1, status, out)
    assert.equal("```\nDear\n```", support.read(dir.path .. "/a/x.png.txt"))
    assert.equal("Sir\n", support.read(dir.path .. "/b/y.png.txt"))
    assert.is_truthy(out:find("failed: .-a/x%.png%.txt"), out)
    assert.is_truthy(out:find("1 cleaned, 1 failed", 1, true), out)
  end)

  it("prints names of any bytes so that a terminal can bear them", function()
    local dir <close> = folder { ["a\n\27[31m\xE9.png.txt"] = LOOP }
    local _, out = clean(dir, "--report", dir.path .. "/r.csv")
    assert.is_truthy(out:find("a%0A%1B[31m%E9.png.txt: repetition", 1, true), out)
    assert.is_truthy(support.read(dir.path .. "/r.csv"):find("a%0A%1B[31m%E9.png.txt,labelled", 1, true))
    assert.equal(LOOP, support.read(dir.path .. "/a\n\27[31m\xE9.png.txt.api"))
  end)

  it("takes --rules, and refuses wrong ones before anything is touched", function()
    local dir <close> = folder { ["a.png.txt"] = "STAMP\nDear Sir" }
    local home <close> = folder {
      ["rules.lua"] = [[
        local cleaning = require "obatch.cleaning"
        table.insert(cleaning.rules, { name = "stamp", apply = function(text) return (text:gsub("^STAMP\n",
          "")) end })]],
      ["wrong.lua"] = 'table.insert(require "obatch.cleaning".rules, { nam = "stamp" })' }
    local status, _, err = clean(dir, "--rules", home.path .. "/wrong.lua")
    assert.equal(2, status)
    assert.is_truthy(err:find("wrong.lua: cleaning.rules[11]: there is no field 'nam'", 1, true), err)
    assert.equal(0, (clean(dir, "--rules", home.path .. "/rules.lua")))
    assert.equal("Dear Sir", support.read(dir.path .. "/a.png.txt"))
  end)

  it("refuses a folder that is not there", function()
    local status, _, err = support.obatch("clean", "--image-dir", "/nowhere/images")
    assert.equal(2, status)
    assert.is_truthy(err:find("/nowhere/images is not a folder", 1, true))
  end)

  it("says so of a folder without texts", function()
    local dir <close> = folder { ["notes.txt"] = "x" }
    local status, out = clean(dir)
    assert.equal(0, status)
    assert.equal("0 texts\n", out)
  end)
end)
