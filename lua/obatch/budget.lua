--- Ceilings on what is submitted: so many requests, tokens or USD, for a run or for a calendar day.
--
-- A budget is what the user allows. A purse is what is left of it: what the batches have taken so far, by
-- the meter of their job or batch folder (see obatch.meter), and what was chosen to be sent since.

local cli = require "obatch.cli"
local part_events = require "obatch.part"
local term = require "obatch.term"
local tokens = require "obatch.tokens"

local budget = {}

---@class obatch.Budget
---@field limited boolean  whether there is any ceiling
---@field prices table     the price table
local Budget = {}
Budget.__index = Budget
---@class obatch.Purse
local Purse = {}
Purse.__index = Purse

--- Sums of money are off in the last digits; a ceiling must not be missed by those.
local ROUNDING = 1e-9

local function number(amount) return ("%d"):format(math.ceil(amount)) end
local function money(amount) return ((amount == 0 or amount >= 0.001) and "%.4f" or "%.6g"):format(amount) end

--- What there are ceilings for: the option, how an amount is written, what so much of it is, what becomes of
--- it, and what the next request may do.
local KINDS = {
  { key = "requests", option = "--budget-requests", write = number, unit = "requests", done = "submitted",
    take = "take" },
  { key = "tokens", option = "--budget-tokens", write = number, unit = "tokens", done = "submitted", take = "take" },
  { key = "usd", option = "--budget", write = money, unit = "USD", done = "spent", take = "cost" },
}

--- Adds the options of a command that submits.
---@param parser table
function budget.options(parser)
  parser:option("--budget-requests", "Submit at most so many requests."):argname("N")
    :convert(cli.positive_integer)
  parser:option("--budget-tokens", "Submit no more than is estimated to take so many tokens, input and output.")
    :argname("N"):convert(cli.positive_integer)
  parser:option("--budget", "Submit no more than is estimated to cost so much."):argname("USD")
    :convert(cli.positive_number)
  parser:flag("--budget-per-day", "The budget is for a day, from midnight to midnight, not for a run.")
  parser:option("--prices", "Price table (default: lua/obatch/prices.lua)."):argname("FILE")
end

--- The budget that the options name.
---@param args table
---@return obatch.Budget|nil budget
---@return string|nil message  what is wrong with the options
function budget.from_options(args)
  local prices, message = tokens.prices(args.prices)
  if not prices then return nil, message end
  local most = { requests = args.budget_requests, tokens = args.budget_tokens, usd = args.budget }
  if args.budget_per_day and not next(most) then
    return nil, "--budget-per-day needs a budget: --budget-requests, --budget-tokens or --budget"
  end
  return setmetatable({ limited = next(most) ~= nil, most = most, prices = prices,
    per_day = args.budget_per_day or false, started = os.time() }, Budget)
end

--- Whether requests for a model can be counted: a ceiling in USD needs its price.
---@param model string
---@return true|nil ok
---@return string|nil message  with true, too, where no price is known
function Budget:check_model(model)
  local _, unpriced = tokens.cost(self.prices, model, 0, 0)
  if unpriced and self.most.usd then return nil, "--budget: " .. unpriced end
  return true, unpriced
end

--- The last midnight, in Unix seconds.
local function midnight()
  local day = os.date("*t", math.tointeger(term.time() // 1))
  return os.time { year = day.year, month = day.month, day = day.day, hour = 0 }
end

--- The purse of a run, made once, before anything is submitted in it.
---@param meter? obatch.Meter  nil: nothing was submitted before, and nothing is known about estimates
---@return obatch.Purse purse
function Budget:purse(meter)
  local purse = setmetatable({ budget = self, meter = meter, mark = meter and meter:mark() }, Purse)
  purse:refresh()
  return purse
end

--- Reads the meter again, and forgets what was taken out since the last time. To be called when that is in
--- the meter, or will never be submitted.
function Purse:refresh()
  local spent = { requests = 0, tokens = 0, usd = 0 }
  self.spent, self.factors, self.unpriced = spent, {}, nil
  if not self.meter then return end
  local since = self.budget.per_day and { time = midnight() } or { mark = self.mark, started = self.budget.started }
  for _, batch in ipairs(self.meter:spent(since)) do
    spent.requests = spent.requests + batch.requests
    spent.tokens = spent.tokens + batch.tokens_in + batch.tokens_out
    local usd, unpriced = tokens.cost(self.budget.prices, batch.model or "", batch.tokens_in, batch.tokens_out)
    spent.usd = spent.usd + (usd or 0)
    self.unpriced = self.unpriced or unpriced
  end
end

--- What a request will take, by the estimates of its tokens and by how far estimates for the model were off so far.
---@param model string
---@param tokens_in? integer
---@param tokens_out? integer  the limit that it names
---@return integer tokens_in
---@return integer tokens_out
---@return number|nil usd  nil where the model has no price
function Purse:estimate(model, tokens_in, tokens_out)
  local factors = self.factors[model]
  if not factors then
    factors = self.meter and { self.meter:factors(model) } or { 1, 1 }
    self.factors[model] = factors
  end
  local prices = self.budget.prices
  local input = math.ceil(tokens_in * factors[1])
  local output = math.ceil((tokens_out or prices.assumed_output_tokens) * factors[2])
  if tokens_out then output = math.min(output, tokens_out) end
  return input, output, (tokens.cost(prices, model, input, output))
end

--- What the request would take, by kind of ceiling, where it fits into what is left; see take().
local function fit(self, model, tokens_in, tokens_out)
  local input, output, usd = self:estimate(model, tokens_in, tokens_out)
  local need = { requests = 1, tokens = input + output, usd = usd or 0 }
  local most, spent = self.budget.most, self.spent
  if most.usd and not usd then
    local _, unpriced = tokens.cost(self.budget.prices, model, 0, 0)
    return nil, "--budget: " .. unpriced, "SPENT"
  elseif most.usd and self.unpriced then
    return nil, ("--budget: batches with another model count, too, and %s"):format(self.unpriced), "SPENT"
  end
  for _, kind in ipairs(KINDS) do
    local key, write = kind.key, kind.write
    if most[key] and need[key] > most[key] + ROUNDING then
      return nil, ("%s %s: one request alone may %s %s %s. No run can send it: raise the budget, or let the request "
        .. "take less"):format(kind.option, write(most[key]), kind.take, write(need[key]), kind.unit), "OVER"
    end
  end
  for _, kind in ipairs(KINDS) do
    local key, write = kind.key, kind.write
    if most[key] and spent[key] + need[key] > most[key] + ROUNDING then
      local left = math.max(0, most[key] - spent[key])
      local message = ("%s %s: %s %s of %s are %s; %s left"):format(kind.option, write(most[key]), write(spent[key]),
        kind.unit, self.budget.per_day and "today" or "this run", kind.done, write(left))
      if left > 0 then
        message = ("%s, and the next request may %s %s"):format(message, kind.take, write(need[key]))
      end
      return nil, message, "SPENT"
    end
  end
  return need
end

local function is_overdrawn(self)
  for key, most in pairs(self.budget.most) do
    if self.spent[key] > most + ROUNDING then return true end
  end
  return false
end

--- Has parts taken back that wait to be submitted (see obatch.part), from the last one, as long as they are more
--- than the budget allows: an earlier run may have had another one.
---@param parts table[]
---@param drop fun(part: table): true?, string?, string?
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Purse:shed(parts, drop)
  for i = #parts, 1, -1 do
    self:refresh()
    if not is_overdrawn(self) then break end
    if part_events.is_unsent(parts[i]) then
      local ok, message, code = drop(parts[i])
      if not ok then return nil, message, code end
    end
  end
  self:refresh()
  return true
end

--- Whether one more request fits into what is left; see take().
---@param model string
---@param tokens_in? integer
---@param tokens_out? integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Purse:fits(model, tokens_in, tokens_out)
  local need, message, code = fit(self, model, tokens_in, tokens_out)
  return need and true, message, code
end

--- Takes one more request out of the purse. Estimates as for estimate().
---@param model string
---@param tokens_in? integer
---@param tokens_out? integer
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "SPENT": too little is left for it; "OVER": it alone takes more than the whole budget
function Purse:take(model, tokens_in, tokens_out)
  local need, message, code = fit(self, model, tokens_in, tokens_out)
  if not need then return nil, message, code end
  for key, amount in pairs(need) do self.spent[key] = self.spent[key] + amount end
  return true
end

return budget
