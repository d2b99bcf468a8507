-- What is enqueued, what was submitted, and which parts may be submitted now: judged by events alone.
local meter = require "obatch.meter"
local part_events = require "obatch.part"
local queue = require "obatch.queue"
local term = require "obatch.term"

local MODEL = "gpt-test"

--- A store of n parts of so many tokens each, and a queue for it. `tell(i, event)` is what a journal does.
local function store_of(n, tokens)
  local self = { parts = {} }
  self.meter = meter.new(function() return self.parts end)
  for i = 1, n do
    self.parts[i] = { part = i, model = MODEL, lines = 10, bytes = 4 * tokens, tokens_in = tokens, tokens_out = 100 }
  end
  function self.tell(i, event)
    event.time = event.time or 1000
    self.meter:apply(self.parts[i], event)
    part_events.apply(self.parts[i], event)
  end
  function self.create(i, time) self.tell(i, { event = "created", batch_id = "b" .. i, time = time }) end
  function self.finish(i, tokens_in, tokens_out)
    self.tell(i, { event = "terminal", batch_id = "b" .. i, status = "completed",
      usage = tokens_in and { input_tokens = tokens_in, output_tokens = tokens_out } })
    self.tell(i, { event = "downloaded", batch_id = "b" .. i, files = {} })
  end
  function self.refuse(i, limit)
    self.tell(i, { event = "requeued", batch_id = self.parts[i].batch_id, limit = limit })
  end
  return self, queue.new(self, 0.01, function() end)
end

--- The numbers of the parts that may be submitted.
local function due(store, line)
  local list = {}
  for i, part in ipairs(store.parts) do
    if line:is_due(part) then list[#list + 1] = i end
  end
  return table.concat(list, " ")
end

--- Lets `seconds` pass at once.
local function later(seconds)
  local clock, before = term.clock, term.clock()
  term.clock = function() return before + seconds end
  finally(function() term.clock = clock end)
end

describe("the meter", function()
  it("counts the tokens of batches that have not ended, and corrects them upwards by what was counted", function()
    local store = store_of(3, 100)
    store.create(1)
    store.create(2)
    assert.equal(200, store.meter:enqueued(MODEL))
    assert.equal(0, store.meter:enqueued "another")
    store.finish(1, 150, 50)
    assert.equal(150, store.meter:enqueued(MODEL)) -- one batch, at 1.5 times its estimate
    store.finish(2, 10, 50)
    store.create(3)
    assert.equal(100, store.meter:enqueued(MODEL)) -- 160 of 200: never below the plain estimate
    assert.equal(0.8, (store.meter:factors(MODEL)))
    assert.equal(0.5, select(2, store.meter:factors(MODEL)))
  end)

  it("learns nothing from a batch that did not run to its end, or that counts nothing", function()
    local store = store_of(2, 100)
    store.create(1)
    store.tell(1, { event = "terminal", batch_id = "b1", status = "expired",
      usage = { input_tokens = 1, output_tokens = 1 } })
    store.create(2)
    store.finish(2, 0, 0)
    assert.same({ 1, 1 }, { store.meter:factors(MODEL) })
  end)

  it("does not count a batch that failed validation, as enqueued or as spent", function()
    local store = store_of(1, 100)
    store.create(1)
    store.refuse(1, 50)
    assert.equal(0, store.meter:enqueued(MODEL))
    assert.equal(50, store.meter.limits[MODEL])
    store.create(1)
    assert.equal(1, #store.meter:spent {})
  end)

  it("tells what was submitted since a mark or a time, and what waits to be", function()
    local store = store_of(4, 100)
    store.create(1, 1000)
    local mark = store.meter:mark()
    store.create(2, 2000)
    store.create(3, 3000)
    store.finish(3, 80, 40)
    local function sum(since)
      local requests, tokens = 0, 0
      for _, batch in ipairs(store.meter:spent(since)) do
        requests, tokens = requests + batch.requests, tokens + batch.tokens_in + batch.tokens_out
      end
      return ("%d %.0f"):format(requests, tokens)
    end
    -- Part 4 waits. 100 + 100 tokens are estimated for each; the counts of part 3 make it 80 + 40.
    assert.equal("30 360", sum { mark = mark })
    assert.equal("20 240", sum { time = 3000 })
    assert.equal("40 480", sum { time = 0 })
    local other = store_of(0)
    other.meter.beside = { store.meter }
    assert.equal(2, #other.meter:spent { mark = 0, started = 3000 })
    store.meter:begin_run()
    assert.equal(1, #other.meter:spent { mark = 0, started = 3000 }) -- what waits; the rest was of another run
    assert.equal(2, #other.meter:spent { time = 3000 })
  end)
end)

describe("a part may be submitted", function()
  it("when its tokens fit beside those in flight, or nothing is in flight", function()
    local store, line = store_of(4, 100)
    assert.equal("1 2 3 4", due(store, line))
    store.meter.limits[MODEL] = 250
    store.create(1)
    assert.equal("2 3 4", due(store, line))
    store.create(2)
    assert.equal("", due(store, line))
    store.finish(1, 100, 100)
    assert.equal("3 4", due(store, line))
    store.meter.limits[MODEL] = 10
    store.finish(2, 100, 100)
    assert.equal("3 4", due(store, line))
  end)

  it("not while another takes the room that is left", function()
    local store, line = store_of(2, 100)
    store.meter.limits[MODEL] = 150
    local seen
    line:create(store.parts[1], function() seen = due(store, line) end)
    assert.falsy(seen:find "2", seen)
    assert.equal("1 2", due(store, line))
  end)

  it("after a refusal when a batch of ours has ended, not by time alone", function()
    local store, line = store_of(2, 100)
    store.create(1)
    store.parts[1].status = "in_progress"
    line:create(store.parts[2], function() store.create(2) end)
    store.refuse(2, 1000)
    assert.is_nil(line:no_room(store.parts[2], "full"))
    later(10000)
    assert.equal("", due(store, line))
    store.finish(1)
    line:batch_ended()
    assert.equal("2", due(store, line))
  end)

  it("after a refusal with nothing of ours in flight when a growing pause is over", function()
    local store, line = store_of(1, 100)
    for round = 1, 3 do
      store.create(1)
      store.refuse(1, 1000)
      assert.is_nil(line:no_room(store.parts[1], "full"))
      assert.equal("", due(store, line))
      assert.truthy(line:pause_before(round + 1) > line:pause_before(round))
    end
    assert.truthy(line:pause_before(99) <= 900)
    later(900)
    assert.equal("1", due(store, line))
  end)

  it("soon where a batch of ours has ended since it was created: there is room already", function()
    local store, line = store_of(3, 100)
    for i = 1, 2 do
      store.create(i)
      store.parts[i].status = "in_progress"
    end
    line:create(store.parts[3], function() store.create(3) end)
    store.finish(1)
    line:batch_ended()
    store.refuse(3, 1000)
    line:no_room(store.parts[3], "full")
    later(900)
    assert.equal("3", due(store, line))
  end)

  it("whatever fractions of tokens were added and taken away again", function()
    local store, line = store_of(8, 100)
    store.create(8)
    store.finish(8, 110.3, 1)
    for _ = 1, 200 do
      local threads = {}
      for i = 1, 7 do
        threads[i] = coroutine.wrap(function() line:create(store.parts[i], coroutine.yield) end)
        threads[i]()
      end
      for _, i in ipairs { 3, 1, 7, 2, 6, 5, 4 } do threads[i]() end
    end
    line.strained[MODEL] = true
    store.meter.limits[MODEL] = 1
    assert.equal("1 2 3 4 5 6 7", due(store, line))
  end)

  it("one after the other, where the service counts more than the estimates say", function()
    local store, line = store_of(4, 100)
    store.create(1)
    store.parts[1].status = "in_progress"
    store.create(2)
    store.refuse(2, 1000)
    line:no_room(store.parts[2], "full")
    assert.equal("3 4", due(store, line))
    store.create(3) -- validating
    assert.equal("", due(store, line))
    store.parts[3].status = "in_progress"
    assert.equal("4", due(store, line))
  end)
end)

describe("a part is to be split", function()
  local function refused(tokens, limit, lines)
    local store, line = store_of(1, tokens)
    store.parts[1].lines = lines or 10
    store.create(1)
    store.refuse(1, limit)
    return line:no_room(store.parts[1], "full"), line, store
  end

  it("when it was refused alone, and is estimated to be above the limit", function()
    assert.equal(3, (refused(1000, 400)))
    assert.equal(10, (refused(1000, 4)))
    assert.is_nil((refused(399, 400)))
    assert.is_nil((refused(1000, nil)))
  end)

  it("not while others of ours may be what fills the limit", function()
    local store, line = store_of(2, 1000)
    store.create(1)
    store.parts[1].status = "in_progress"
    store.create(2)
    store.refuse(2, 400)
    assert.is_nil(line:no_room(store.parts[2], "full"))
  end)

  --- What comes of the seventh refusal, so many hours after the first one.
  local function after(hours, tokens, limit, lines)
    local pieces, line, store = refused(tokens, limit, lines)
    assert.is_nil(pieces)
    for _ = 2, 6 do assert.is_nil(line:no_room(store.parts[1], "full")) end
    later(hours * 3600 + 1)
    return line:no_room(store.parts[1], "full")
  end

  it("when it was refused alone for an hour, and may fill the limit: the service may count more", function()
    assert.is_nil(after(0.9, 300, 400))
    assert.equal(2, after(1, 300, 400))
    assert.equal(2, after(1, 300, nil))
  end)

  it("when it was refused alone for longer than other work can last, however small its estimate", function()
    assert.is_nil(after(24, 99, 400))
    assert.equal(2, after(25, 99, 400))
  end)

  it("not when it is a single request that would fit", function()
    assert.is_nil(after(100, 300, 400, 1))
    assert.is_nil(after(100, 99, 400, 1))
    assert.is_nil(after(100, 99, nil, 1))
  end)

  it("when a single request is above the limit, and was refused for an hour: then it is given up", function()
    assert.equal(1, after(1, 1000, 400, 1))
  end)
end)
