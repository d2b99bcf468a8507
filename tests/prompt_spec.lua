local prompt = require "obatch.prompt"

describe("prompt.compile", function()
  it("puts in the image's name, path and folder", function()
    local fill, used = prompt.compile "Read {name} ({path}) of {dir}. Again: {name}"
    assert.same({}, used)
    assert.equal("Read 1.jpg (data/box 1/1.jpg) of data/box 1. Again: 1.jpg", fill "data/box 1/1.jpg")
    assert.equal("Read 1.jpg (1.jpg) of .. Again: 1.jpg", fill "1.jpg")
    assert.equal("Read 1.jpg (/1.jpg) of /. Again: 1.jpg", fill "/1.jpg")
  end)

  it("puts in the declared fields, and says which it uses", function()
    local columns = { "year", "shelf mark", "place", "kind" }
    local fill, used = prompt.compile("A {kind} of {year}; {kind}. {shelf mark}", columns)
    assert.same({ "kind", "year", "shelf mark" }, used)
    assert.equal("A deed of 1871; deed. ", fill("a.jpg", { kind = "deed", year = "1871", ["shelf mark"] = "" }))
  end)

  it("leaves every other brace as it is", function()
    local json = [[Answer {"name": "...", "list": [{}], "path": {"dir": {}}} {nome} { name } {year} {} }{ {{name}} %1]]
    local fill = prompt.compile(json, { "kind", "%1" })
    assert.equal((json:gsub("{{name}}", "{1.jpg}")), fill("data/1.jpg", {}))
  end)

  it("does not look at the braces of what it has put in", function()
    local fill = prompt.compile("{name} {kind} {dir}", { "kind" })
    assert.equal("{kind}.jpg {path} %1 {name}", fill("{name}/{kind}.jpg", { kind = "{path} %1" }))
  end)

  it("writes a path that is not text as %XX", function()
    local fill = prompt.compile "{path}|{name}|{dir}"
    assert.equal("d%FF/a%0Ab.jpg|a%0Ab.jpg|d%FF", fill "d\xFF/a\nb.jpg")
  end)

  it("names the image and the field that is missing", function()
    local fill = prompt.compile("{kind}", { "kind" })
    for _, fields in ipairs { false, {} } do
      local filled, message = fill("data/1\n.jpg", fields or nil)
      assert.is_nil(filled)
      assert.equal("the prompt needs {kind}, and data/1%0A.jpg has none: add a line for it to the CSV file", message)
    end
  end)

  it("refuses a column that is called like something built in, when the prompt uses it", function()
    local fill, message = prompt.compile("Read {name}", { "name" })
    assert.is_nil(fill)
    assert.equal("the prompt's {name} may be the image's or the column's: call the column something else", message)
    assert.equal("Read a.jpg", prompt.compile("Read {name}", { "dir" })("a.jpg"))
  end)

  it("refuses a prompt that is not UTF-8", function()
    local fill, message = prompt.compile "Lies die Seite f\xFCr mich"
    assert.is_nil(fill)
    assert.equal("the prompt is not UTF-8 (byte 17): save it as UTF-8", message)
  end)
end)
