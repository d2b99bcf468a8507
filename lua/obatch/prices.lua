--- What models cost in the Batch API, in USD per million tokens. This is data to edit: prices change
-- every few months, and an estimate always says of what date they are.
--
-- To add a model, or correct one, write a line into `models` and change `as_of`. Where only the
-- standard price is known: the Batch API takes half of it. A dated snapshot (gpt-4.1-2025-04-14)
-- costs what its model costs, unless it has a line of its own.
--
-- Not in here: cached input (pages of an archive share little), writing to the cache (1.25 x input
-- from gpt-5.6 on), requests of more than 272,000 input tokens (gpt-6: input x 2, output x 1.5) and
-- regional processing (+ 10 %).

return {
  as_of = "autumn 2026",
  source = "the official pricing page, as copied between 2026-09-22 and 2026-11-21",

  --- Tokens that an answer is taken to have where only --max-tokens limits it. A densely printed page
  --- has about this many, an index card a third of it. Reasoning comes on top.
  assumed_output_tokens = 1000,

  models = {
    ["gpt-6-astra"] = { input = 5.00, output = 25.00 },
    ["gpt-6-sol"] = { input = 1.00, output = 5.00 },
    ["gpt-6-luna"] = { input = 0.05, output = 0.25 },
    ["gpt-6.1-sol"] = { input = 1.00, output = 5.00 }, -- from second-hand copies
    ["gpt-6.1-terra"] = { input = 0.50, output = 2.50 }, -- from one article
    ["gpt-5.6-sol"] = { input = 2.00, output = 10.00 }, -- offered until at least 2026-11-21; before, 2.50 and 15.00
    ["gpt-5.6-terra"] = { input = 1.00, output = 6.00 },
    ["gpt-5.6-luna"] = { input = 0.10, output = 0.60 },
    ["gpt-5.5"] = { input = 2.50, output = 15.00 },
    ["gpt-5.5-pro"] = { input = 15.00, output = 90.00 },
    ["gpt-5.4"] = { input = 1.25, output = 7.50 },
    ["gpt-5.4-mini"] = { input = 0.375, output = 2.25 },
    ["gpt-5.4-nano"] = { input = 0.10, output = 0.625 },
    ["gpt-5.2"] = { input = 0.875, output = 7.00 },
    ["gpt-5.1"] = { input = 0.625, output = 5.00 },
    ["gpt-5"] = { input = 0.625, output = 5.00 },
    ["gpt-5-mini"] = { input = 0.125, output = 1.00 },
    ["gpt-5-nano"] = { input = 0.025, output = 0.20 },
    ["gpt-5-pro"] = { input = 7.50, output = 60.00 },
    ["gpt-4.1"] = { input = 1.00, output = 4.00 },
    ["gpt-4.1-mini"] = { input = 0.20, output = 0.80 },
    ["gpt-4.1-nano"] = { input = 0.05, output = 0.20 },
    ["gpt-4o"] = { input = 1.25, output = 5.00 },
    ["gpt-4o-2024-05-13"] = { input = 2.50, output = 7.50 }, -- from a second-hand copy
    ["gpt-4o-mini"] = { input = 0.075, output = 0.30 },
    ["o3"] = { input = 1.00, output = 4.00 },
    ["o3-mini"] = { input = 0.55, output = 2.20 },
    ["o3-pro"] = { input = 10.00, output = 40.00 },
    ["o4-mini"] = { input = 0.55, output = 2.20 },
    ["o1"] = { input = 7.50, output = 30.00 },
    ["o1-pro"] = { input = 75.00, output = 300.00 },
    ["text-embedding-3-small"] = { input = 0.01, output = 0 }, -- half of the standard price
    ["text-embedding-3-large"] = { input = 0.065, output = 0 }, -- half of the standard price
  },
}
