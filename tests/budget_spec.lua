-- Budgets: what fits into them, what is counted as spent, and what people are told.
local argparse = require "argparse"
local budget = require "obatch.budget"
local support = require "support"
local term = require "obatch.term"

--- A meter of batches that were created at a time: { at =, model =, requests =, tokens_in =, tokens_out = }.
local function meter_of(batches, factors)
  local meter = { batches = batches }
  function meter:mark() return #self.batches end
  function meter:spent(since)
    local list = {}
    for i, batch in ipairs(self.batches) do
      if i > (since.mark or 0) and batch.at >= (since.time or 0) then list[#list + 1] = batch end
    end
    return list
  end
  function meter.factors(_, model)
    local known = factors and factors[model] or { 1, 1 }
    return known[1], known[2]
  end
  return meter
end

local function batch(at, requests, tokens_in, tokens_out, model)
  return { at = at, requests = requests, tokens_in = tokens_in, tokens_out = tokens_out, model = model or "gpt-4o" }
end

local function budget_of(args) return assert(budget.from_options(args)) end

--- How many requests fit, and what is said then.
local function fill(purse, tokens_in, tokens_out, model)
  for count = 0, 1000 do
    local ok, message, code = purse:take(model or "gpt-4o", tokens_in, tokens_out)
    if not ok then return count, message, code end
  end
end

describe("a budget", function()
  it("is read from the options", function()
    local parser = argparse("x")
    budget.options(parser)
    local args = parser:parse { "--budget-requests", "7", "--budget-tokens", "8", "--budget", "0.5",
      "--budget-per-day" }
    local read = budget_of(args)
    assert.same({ requests = 7, tokens = 8, usd = 0.5 }, read.most)
    assert.is_true(read.limited and read.per_day)
    assert.is_false(budget_of(parser:parse {}).limited)
  end)

  it("for a day needs a ceiling, and a price table must be one", function()
    local none, message = budget.from_options { budget_per_day = true }
    assert.is_nil(none)
    assert.equal("--budget-per-day needs a budget: --budget-requests, --budget-tokens or --budget", message)
    none, message = budget.from_options { prices = "no-such-file.lua" }
    assert.is_nil(none)
    assert.matches("no-such-file.lua", message, 1, true)
  end)

  it("in USD needs a price for the model", function()
    local ok, message = budget_of { budget = 1 }:check_model "no-such-model"
    assert.is_nil(ok)
    assert.matches("^%-%-budget: no price is known for no%-such%-model", message)
    assert.is_true(budget_of { budget_tokens = 1 }:check_model "no-such-model")
    assert.is_true(budget_of { budget = 1 }:check_model "gpt-4o")
  end)
end)

describe("a purse", function()
  it("without ceilings lets everything through", function()
    assert.is_nil(fill(budget_of {}:purse(meter_of {}), 1 << 40, nil, "no-such-model"))
    assert.is_nil(fill(budget_of {}:purse(), 1, 1))
  end)

  it("counts requests, tokens in and out, and money, and takes what fits exactly", function()
    local count, message, code = fill(budget_of { budget_requests = 100 }:purse(meter_of {}), 1, 1)
    assert.equal(100, count)
    assert.equal("SPENT", code)
    assert.equal("--budget-requests 100: 100 requests of this run are submitted; 0 left", message)

    count, message = fill(budget_of { budget_tokens = 1000 }:purse(meter_of {}), 150, 50)
    assert.equal(5, count)
    assert.equal("--budget-tokens 1000: 1000 tokens of this run are submitted; 0 left", message)
    count, message = fill(budget_of { budget_tokens = 999 }:purse(meter_of {}), 150, 50)
    assert.equal(4, count)
    assert.equal("--budget-tokens 999: 800 tokens of this run are submitted; 199 left, and the next request may "
      .. "take 200", message)

    -- 0.10 USD each: three of those are a little more than 0.3, as floats add up.
    count, message = fill(budget_of { budget = 0.3 }:purse(meter_of {}), 40000, 10000)
    assert.equal(3, count)
    assert.equal("--budget 0.3000: 0.3000 USD of this run are spent; 0.0000 left", message)
  end)

  it("takes a request without a limit for the usual answer", function()
    assert.equal(3, (fill(budget_of { budget_tokens = 3600 }:purse(meter_of {}), 200, nil)))
  end)

  it("counts by what the service has counted for the model so far, but no answer above its own limit", function()
    local meter = meter_of({}, { ["gpt-4o"] = { 0.5, 2 } })
    local purse = budget_of { budget_tokens = 1000 }:purse(meter)
    assert.equal(10, (fill(purse, 101, 49))) -- 51 and 49
    local _, _, usd = purse:estimate("gpt-4o", 2000000, 100)
    assert.equal((1e6 * 1.25 + 100 * 5) / 1e6, usd)
    local input, output = purse:estimate("gpt-4o", 100, nil)
    assert.same({ 50, 2000 }, { input, output })
    input, output = purse:estimate("gpt-4.1", 7, 9)
    assert.same({ 7, 9 }, { input, output })
  end)

  it("of a run begins with nothing, and sees what the run has submitted when it looks again", function()
    local meter = meter_of { batch(0, 50, 1, 1) }
    local purse = budget_of { budget_requests = 10 }:purse(meter)
    assert.equal(10, (fill(purse, 1, 1)))
    -- Six of those were submitted, four will never be.
    table.insert(meter.batches, batch(0, 6, 1, 1))
    purse:refresh()
    local count, message = fill(purse, 1, 1)
    assert.equal(4, count)
    assert.equal("--budget-requests 10: 10 requests of this run are submitted; 0 left", message)
    -- The batch has failed its validation: it has run nothing.
    table.remove(meter.batches)
    purse:refresh()
    assert.equal(10, (fill(purse, 1, 1)))
  end)

  it("of a day counts what earlier runs have submitted since midnight, and begins anew with the next day", function()
    local now, clock = os.time { year = 2026, month = 10, day = 25, hour = 15 }, term.time -- of 25 hours, in Europe
    local midnight = os.time { year = 2026, month = 10, day = 25, hour = 0 }
    term.time = function() return now + 0.5 end
    finally(function() term.time = clock end)
    local meter = meter_of { batch(midnight - 1, 50, 10, 10), batch(midnight, 3, 900, 100), batch(now, 4, 900, 100) }
    local daily = budget_of { budget_requests = 10, budget_per_day = true }
    local count, message = fill(daily:purse(meter), 1, 1)
    assert.equal(3, count)
    assert.equal("--budget-requests 10: 10 requests of today are submitted; 0 left", message)
    local purse = budget_of { budget_tokens = 1500, budget_per_day = true }:purse(meter)
    count, message = fill(purse, 1, 1)
    assert.equal(0, count)
    assert.equal("--budget-tokens 1500: 2000 tokens of today are submitted; 0 left", message)
    now = os.time { year = 2026, month = 10, day = 26, hour = 0 }
    purse:refresh()
    assert.equal(15, (fill(purse, 90, 10)))
  end)

  it("says when one request alone takes more than the whole budget, however much is left", function()
    local purse = budget_of { budget_tokens = 1000, budget_requests = 1 }:purse(meter_of {})
    local ok, message, code = purse:take("gpt-4o", 900, 101)
    assert.is_nil(ok)
    assert.equal("OVER", code)
    assert.equal("--budget-tokens 1000: one request alone may take 1001 tokens. No run can send it: raise the budget, "
      .. "or let the request take less", message)
    assert.is_true(purse:take("gpt-4o", 900, 100))
    assert.equal("OVER", select(3, purse:take("gpt-4o", 900, 101)))
    assert.equal("SPENT", select(3, purse:take("gpt-4o", 900, 100)))
    assert.equal("OVER", select(3, budget_of { budget = 0.001 }:purse(meter_of {}):take("gpt-4o", 4000, 0)))
  end)

  it("asks whether a request fits without taking it out", function()
    local purse = budget_of { budget_requests = 1 }:purse(meter_of {})
    assert.is_true(purse:fits("gpt-4o", 1, 1))
    assert.is_true(purse:fits("gpt-4o", 1, 1))
    assert.is_true(purse:take("gpt-4o", 1, 1))
    assert.is_nil(purse:fits("gpt-4o", 1, 1))
  end)

  it("in USD stops when batches count whose model has no price", function()
    local now = term.time()
    local meter = meter_of { batch(now, 1, 1, 1, "no-such-model") }
    local ok, message = budget_of { budget = 5, budget_per_day = true }:purse(meter):take("gpt-4o", 1, 1)
    assert.is_nil(ok)
    assert.matches("batches with another model count, too, and no price is known for no-such-model", message, 1, true)
    assert.is_true(budget_of { budget = 5 }:purse(meter):take("gpt-4o", 1, 1)) -- they are not of this run
    assert.is_true(budget_of { budget_tokens = 5, budget_per_day = true }:purse(meter):take("gpt-4o", 1, 1))
  end)

  it("goes by the price table that is named", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/prices.lua",
      'return { as_of = "now", assumed_output_tokens = 5, models = { mine = { input = 0, output = 1e6 } } }')
    local purse = budget_of { budget = 12, prices = dir.path .. "/prices.lua" }:purse()
    assert.equal(2, (fill(purse, 1000, nil, "mine")))
  end)
end)
