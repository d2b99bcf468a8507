-- What a mistyped name may have meant.
local nearest = require "obatch.nearest"

describe("nearest.of", function()
  it("counts added, dropped, changed and swapped letters, up to a third of them", function()
    local names = { "status", "scripts", "files", "why" }
    assert.equal("status", nearest.of("statsu", names))
    assert.equal("status", nearest.of("stauts", names))
    assert.equal("status", nearest.of("state", names))
    assert.equal("scripts", nearest.of("script", names))
    assert.equal("files", nearest.of("fils", names))
    assert.equal("why", nearest.of("wy", names))
    assert.equal("status", nearest.of("stat", names))
    assert.is_nil(nearest.of("stop", names))
    assert.is_nil(nearest.of("", names))
  end)
end)

describe("nearest.distance", function()
  it("is exact up to what is asked for, and more than that beyond", function()
    assert.equal(0, nearest.distance("batch_1", "batch_1", 3))
    assert.equal(3, nearest.distance("kitten", "sitting", 3))
    assert.equal(3, nearest.distance("kitten", "sitting", 2))
    assert.equal(1, nearest.distance("ab", "ba", 3))
    assert.equal(2, nearest.distance("", "ab", 2))
  end)
end)
