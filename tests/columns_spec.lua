-- Tables for people: aligned by what a terminal shows, cut to it, and safe whatever is in a cell.
local columns = require "obatch.columns"

local LIST = { { "id", keep = true }, { "status" }, { "requests", align = "right", drop = 1 }, { "name" } }

local function lines(text)
  local list = {}
  for line in text:gmatch("([^\n]*)\n") do list[#list + 1] = line end
  return list
end

describe("a table", function()
  it("is as wide as what is in it: text to the left, numbers to the right, nothing behind the last cell", function()
    assert.same({
      "id         status       requests  name",
      "batch_123  in_progress     1,234  a",
      "b          done                9",
    }, lines(columns.format({ { "batch_123", "in_progress", "1,234", "a" }, { "b", "done", 9 } }, LIST)))
  end)

  it("of no rows is its titles", function()
    assert.equal("id  status  requests  name\n", columns.format({}, LIST))
  end)

  it("without a width is not cut, as long as a cell may be", function()
    local long = ("x"):rep(500)
    assert.truthy(columns.format({ { "b", "s", 1, long } }, LIST):find(long, 1, true))
  end)

  it("fits the screen: a column is left out, then the widest text is cut, and ids never", function()
    local id, rows = ("i"):rep(20), {}
    rows[1] = { id, "in_progress", 12, "a name that is rather long" }
    for width = 120, 40, -1 do
      for _, line in ipairs(lines(columns.format(rows, LIST, width))) do
        assert.truthy(columns.places(line) <= width, ("%d: %s"):format(width, line))
      end
      assert.truthy(columns.format(rows, LIST, width):find(id, 1, true))
    end
    local wide, narrow = columns.format(rows, LIST, 66), columns.format(rows, LIST, 50)
    assert.truthy(wide:find("12  a name that is rathe…", 1, true), wide)
    assert.truthy(wide:find("in_progress", 1, true))
    assert.falsy(narrow:find("requests", 1, true))
    assert.truthy(columns.format(rows, LIST, 5):find(id, 1, true))
  end)

  it("goes on where it was cut into pages: one line of titles, columns that do not move", function()
    local layout = {}
    local first = columns.format({ { "batch_1", "completed", 1, "a" } }, LIST, 80, layout)
    local second = columns.format({ { "b", "x", 22, "b" }, { "c", "much too long for it", 3, "c" } }, LIST, 80, layout)
    assert.same({
      "id       status     requests  name",
      "batch_1  completed         1  a",
      "b        x                22  b",
      "c        much too…         3  c",
    }, lines(first .. second))
  end)

  it("counts what is shown, not bytes: letters beyond ASCII, wide ones, marks on letters", function()
    assert.equal(5, columns.places("Zürih"))
    assert.equal(6, columns.places("日本語"))
    assert.equal(1, columns.places("e\u{301}"))
    assert.equal("日…", columns.cut("日本語", 4))
    assert.equal("日本…", columns.cut("日本語", 5))
    assert.equal("日本語", columns.cut("日本語", 6))
    assert.same({ "name    n", "日本語  1", "Zürich  2" },
      lines(columns.format({ { "日本語", 1 }, { "Zürich", 2 } }, { { "name" }, { "n", align = "right" } })))
  end)

  it("shows hostile cells without obeying them", function()
    local text = columns.format({ { "a\27[31m\n\r\t", "\xFF\xC2\x9B", "\u{202E}abc\u{2028}", { } == nil } }, LIST)
    assert.equal(2, #lines(text))
    assert.falsy(text:gsub("\n", ""):find("%c"))
    assert.falsy(text:find("\xC2\x9B", 1, true) or text:find("\u{202E}", 1, true) or text:find("\u{2028}", 1, true))
    assert.truthy(utf8.len(text))
    assert.truthy(text:find("a%1B[31m%0A%0D%09", 1, true))
    assert.truthy(#columns.format({ { ("x"):rep(1 << 20) } }, LIST) < 10000)
  end)
end)
