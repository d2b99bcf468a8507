local csv = require "obatch.csv"
local support = require "support"

local dir

local function read(content)
  support.write(dir.path .. "/f.csv", content)
  return csv.read(dir.path .. "/f.csv")
end

describe("csv.read", function()
  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  it("reads quotes, doubled quotes, commas and line breaks in quotes, by any line ends", function()
    for _, line_end in ipairs { "\n", "\r\n" } do
      for _, start in ipairs { "", "\xEF\xBB\xBF" } do
        for _, last in ipairs { "", line_end } do
          local columns, rows = read(start .. table.concat({
            'year,path,"shelf, mark"', '1871,a.jpg,', '"18""72""","b,1.jpg","two\r\nlines"', '"","",""', '""""," ",x',
          }, line_end) .. last)
          assert.same({ "year", "shelf, mark" }, columns)
          assert.same({
            ["a.jpg"] = { year = "1871", ["shelf, mark"] = "" },
            ["b,1.jpg"] = { year = '18"72"', ["shelf, mark"] = "two\r\nlines" },
            [" "] = { year = '"', ["shelf, mark"] = "x" },
          }, rows)
        end
      end
    end
    local columns, rows = read "path"
    assert.same({ {}, {} }, { columns, rows })
    assert.same({ ["a.jpg"] = { year = "" } }, select(2, read "path,year\na.jpg,"))
  end)

  it("takes blank lines, which spreadsheets leave, for nothing", function()
    assert.same({ ["a.jpg"] = { year = "1" }, ["b.jpg"] = { year = "2" } },
      select(2, read "path,year\n\na.jpg,1\r\n,\nb.jpg,2\n,\n\n"))
  end)

  it("takes a path that is not UTF-8, and nothing else that is not", function()
    assert.same({ ["\xFF.jpg"] = { year = "1" } }, select(2, read "path,year\n\xFF.jpg,1"))
  end)

  it("names the file and the line of every fault", function()
    local faults = {
      { "", 1, "it is empty; its first line must name the columns, one of them path" },
      { "\n\n", 1, "it is empty; its first line must name the columns, one of them path" },
      { "file;year\n", 1, "there is no column called path; the columns, between commas, are: file;year" },
      { "path,year,path\n", 1, 'there are two columns called "path"' },
      { "path,,year\n", 1, "column 2 has no name in UTF-8" },
      { "path,\xFF\n", 1, "column 2 has no name in UTF-8" },
      { 'path,year\n"a\n\n.jpg",1\nb.jpg\n', 5, "1 cells, but there are 2 columns" },
      { "path,year\na.jpg,1,2\n", 2, "3 cells, but there are 2 columns" },
      { "path,year\na.jpg,1\nb.jpg,1\n\na.jpg,2\n", 5, "a.jpg is in line 2, too" },
      { "path,year\n,1\n", 2, "the path is empty" },
      { "path,year\na.jpg,f\xFCr\n", 2, 'column "year" is not UTF-8: save the file as UTF-8' },
      { 'path,year\na.jpg,"1\nb.jpg,2\n', 2, "a quote is opened here and never closed" },
      { 'path,year\na.jpg,"1"2\n', 2, "a quote or a line break stands where none can: put the whole cell in quotes, "
        .. "and write a quote in it twice" },
      { 'path,year\na.jpg,1"2\n', 2, "a quote or a line break stands where none can: put the whole cell in quotes, "
        .. "and write a quote in it twice" },
      { "path,year\ra.jpg,1\r", 1, "a quote or a line break stands where none can: put the whole cell in quotes, "
        .. "and write a quote in it twice" },
    }
    for _, fault in ipairs(faults) do
      local columns, message, code = read(fault[1])
      assert.is_nil(columns)
      assert.equal(("%s/f.csv:%d: %s"):format(dir.path, fault[2], fault[3]), message)
      assert.equal("MALFORMED", code)
    end
    local columns, message, code = csv.read(dir.path .. "/no\nne.csv")
    assert.is_nil(columns)
    assert.matches("/no%0Ane.csv: No such file", message, 1, true)
    assert.equal("ENOENT", code)
  end)
end)

describe("csv.lookup", function()
  it("finds an image by its path as given, or else from the image folder on", function()
    local rows = { ["data/a.jpg"] = 1, ["a.jpg"] = 2, ["b/c.jpg"] = 3, ["data"] = 4 }
    assert.equal(1, csv.lookup(rows, "data/a.jpg", "data"))
    assert.equal(2, csv.lookup(rows, "scans/a.jpg", "scans"))
    assert.equal(3, csv.lookup(rows, "./data/b/c.jpg", "./data/"))
    assert.equal(3, csv.lookup(rows, "/b/c.jpg", "/"))
    assert.equal(3, csv.lookup(rows, "d.t//b/c.jpg", "d.t//"))
    assert.is_nil(csv.lookup(rows, "data2/a.jpg", "data"))
    assert.is_nil(csv.lookup(rows, "dxt/b/c.jpg", "d.t"))
    assert.is_nil(csv.lookup(rows, "other/b/c.jpg", "data"))
  end)
end)
