--- Several things at once in one thread: functions run as coroutines, whose transfers and waits
--- overlap. Outside run(), the same calls simply block.

local term = require "obatch.term"

local tasks = {}

local running = setmetatable({}, { __mode = "k" })  -- the coroutines that run() drives

--- Sends a request and waits for its end. After an interruption nothing is begun any more.
---@param client obatch.http.Client
---@param request obatch.http.Request
---@return obatch.http.Transfer|nil transfer
---@return string|nil message
---@return string|nil code
function tasks.request(client, request)
  if term.interrupted() then return nil, "interrupted", "INTERRUPTED" end
  if not running[coroutine.running()] then return client:request(request) end
  local transfer, message, code = client:start(request)
  if not transfer then return nil, message, code end
  return coroutine.yield(transfer)
end

---@param seconds number
---@return true|nil ok
---@return string|nil message
---@return string|nil code  "INTERRUPTED"
function tasks.sleep(seconds)
  if not running[coroutine.running()] then return term.sleep(seconds) end
  return coroutine.yield(term.clock() + seconds)
end

--- Seconds at most between two calls of watch(), see below.
local WATCH = 0.2

--- Calls every function, at most `limit` at a time, and returns when all have returned. An error in
--- one is raised here. When the program is interrupted, everything that waits is answered with
--- nil, "interrupted", "INTERRUPTED". `ended` is a transfer that has just ended.
---@param client obatch.http.Client
---@param functions function[]
---@param limit integer
---@param watch? fun(transfers: table, ended?: table)  is called now and then with the set of the transfers under way
function tasks.run(client, functions, limit, watch)
  local next_function, active = 1, 0
  local by_transfer, wakes = {}, {}

  local function advance(thread, ...)
    local ok, wish = coroutine.resume(thread, ...)
    if not ok then error(debug.traceback(thread, wish), 0) end
    if coroutine.status(thread) == "dead" then
      active = active - 1
    elseif type(wish) == "number" then
      wakes[thread] = wish
    else
      by_transfer[wish] = thread
    end
  end

  local function interrupt()
    local threads = {}
    for transfer, thread in pairs(by_transfer) do
      transfer:cancel()
      threads[#threads + 1] = thread
    end
    for thread in pairs(wakes) do threads[#threads + 1] = thread end
    by_transfer, wakes = {}, {}
    for _, thread in ipairs(threads) do advance(thread, nil, "interrupted", "INTERRUPTED") end
  end

  while true do
    while active < limit and next_function <= #functions do
      local thread = coroutine.create(functions[next_function])
      next_function, active, running[thread] = next_function + 1, active + 1, true
      advance(thread)
    end
    if active == 0 then return end

    local now, nearest, sleeper = term.clock(), math.huge, nil
    for thread, at in pairs(wakes) do
      if at < nearest then nearest, sleeper = at, thread end
    end
    local pause = nearest < math.huge and math.max(0, nearest - now) or nil
    if watch then pause = math.min(pause or WATCH, WATCH) end
    local transfer, _, code
    if next(by_transfer) then
      transfer, _, code = client:wait(pause)
    else
      _, _, code = term.sleep(pause)
    end
    if watch then watch(by_transfer, transfer) end
    if transfer then
      local thread = by_transfer[transfer]
      by_transfer[transfer] = nil
      if thread then advance(thread, transfer) end
    elseif code == "INTERRUPTED" then
      interrupt()
    elseif sleeper and term.clock() >= nearest then
      wakes[sleeper] = nil
      advance(sleeper, true)
    end
  end
end

return tasks
