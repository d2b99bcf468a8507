local units = require "obatch.units"

describe("units", function()
  local function all(write, cases)
    for _, case in ipairs(cases) do assert.equal(case[2], write(case[1])) end
  end

  it("write durations as coarse as they are long, and round none up to a minute of 60 seconds", function()
    all(units.duration, { { -5, "0 s" }, { 0, "0 s" }, { 59.4, "59 s" }, { 59.6, "1 min 00 s" },
      { 3599.4, "59 min 59 s" },
      { 3599.6, "1 h 00 min" }, { 7500, "2 h 05 min" }, { 86400, "24 h 00 min" }, { 2 * 86400 - 31, "47 h 59 min" },
      { 2 * 86400, "2 d 00 h" }, { 2 * 86400 + 7100, "2 d 02 h" } })
  end)

  it("write bytes with three digits, in powers of 1000", function()
    all(units.bytes, { { 0, "0 bytes" }, { 1, "1 byte" }, { 999, "999 bytes" }, { 999.9, "1.00 kB" },
      { 1000, "1.00 kB" },
      { 9996, "10.0 kB" }, { 99960, "100 kB" }, { 999499, "999 kB" }, { 999500, "1.00 MB" }, { 12345678, "12.3 MB" },
      { 4.05e9, "4.05 GB" }, { 2e18, "2.00 EB" } })
  end)

  it("write counts with their thousands apart", function()
    all(units.number, { { 0, "0" }, { 999, "999" }, { 1000, "1,000" }, { 123456, "123,456" },
      { -1234567, "-1,234,567" }, { 1e6, "1,000,000" } })
  end)

  it("write one of something without an s", function()
    assert.equal("1 request", units.count(1, "request"))
    assert.equal("0 requests", units.count(0, "request"))
    assert.equal("12,345 batches", units.count(12345, "batch", "batches"))
  end)

  it("write the time of a day that is today without its date", function()
    local noon = os.time { year = 2026, month = 3, day = 5, hour = 12 }
    assert.equal("12:00:00", units.time(noon, noon + 3600))
    assert.equal("2026-03-05 12:00", units.time(noon, noon + 86400))
    assert.equal("3 min 20 s ago", units.ago(noon, noon + 200))
    assert.equal("2 h 05 min left", units.left(noon + 7500, noon))
    assert.equal("over", units.left(noon, noon))
  end)

  it("raise for no number, whatever a service says", function()
    for _, odd in ipairs { 1 / 0, -1 / 0, 0 / 0, 1e300, -1e300 } do
      for _, name in ipairs { "duration", "bytes", "number", "time", "ago", "left" } do
        assert.equal("?", units[name](odd), name)
      end
    end
  end)
end)
