-- A model that takes its time: the sandbox goes on meanwhile, and its books stay right.
local fs = require "obatch.fs"
local sandbox_client = require "sandbox_client"
local support = require "support"
local term = require "obatch.term"

local lines = sandbox_client.lines
local count, counts, ledger = sandbox_client.count, sandbox_client.counts, sandbox_client.ledger

-- Answers how often it was asked and how many others wait: one request for each file `one`, all of
-- them once there is a file `all`.
local GATED = [[
local fs = require "obatch.fs"
local dir, waiting = %q, 0
return function(request, asked, wait)
  waiting = waiting + 1
  local most = waiting
  while not fs.stat(dir .. "/all") and not os.remove(dir .. "/one") do wait(0.01) end
  waiting = waiting - 1
  return { content = asked .. " of " .. most, usage = { prompt = 10, completion = 1 } }
end]]

local function gated(dir)
  support.write(dir.path .. "/model.lua", GATED:format(dir.path))
  return dir.path .. "/model.lua", function(name) support.write(dir.path .. "/" .. name, "") end
end

local function start(client, content)
  local batch = client:create(assert(client:upload(content)))
  return client:watch(batch.id, function(now) return now.status == "in_progress" end)
end

-- Waits until so many requests are in the ledger.
local function asked(box, n)
  for _ = 1, 3000 do
    if fs.stat(box.dir .. "/ledger.jsonl") and count(ledger(box)) >= n then return end
    term.sleep(0.01)
  end
  error("the model is not asked")
end

describe("while a model waits", function()
  it("clients are answered, and other batches run", function()
    local dir <close> = support.tmpdir()
    local model, open = gated(dir)
    sandbox_client.with({ "--model", model }, function(client, box)
      local first, second = start(client, lines(1, 3)), start(client, lines(4, 6))
      asked(box, 2)
      -- A sandbox that is held up answers nothing at all, so these requests have a limit.
      local t = client.http:request {
        url = client.url .. "/batches/" .. first.id, headers = { Authorization = "Bearer x" }, timeout = 20 }
      assert.equal(200, t and t.status)
      open("all")
      for _, batch in ipairs { first, second } do
        batch = client:ended(batch.id)
        assert.same({ "completed", "3 3 0", 33 }, { batch.status, counts(batch), batch.usage.total_tokens })
      end
    end)
  end)

  it("no more than a few requests are in memory", function()
    local dir <close> = support.tmpdir()
    local model, open = gated(dir)
    sandbox_client.with({ "--model", model }, function(client, box)
      local running = {}
      for i = 1, 5 do running[i] = start(client, lines(10 * i, 10 * i + 1)) end
      asked(box, 2)
      open("all")
      local most = 0
      for _, batch in ipairs(running) do
        batch = client:ended(batch.id)
        assert.equal("2 2 0", counts(batch))
        for _, result in ipairs((client:results(batch.output_file_id))) do
          most = math.max(most, tonumber(result.response.body.choices[1].message.content:match("%d+$")))
        end
      end
      assert.equal(2, most)
    end)
  end)

  it("a cancelled batch keeps the answer it has asked for, and asks for no other", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/model.lua", [[
      local term = require "obatch.term"
      return function(_, _, wait)
        local began = term.time()
        wait(0.5)
        return term.time() - began >= 0.5 and "in full" or "cut short"
      end]])
    sandbox_client.with({ "--model", dir.path .. "/model.lua" }, function(client, box)
      local made = start(client, lines(1, 5))
      asked(box, 1)
      client:call("POST", "/batches/" .. made.id .. "/cancel")
      local batch = client:ended(made.id)
      assert.same({ "cancelled", "5 1 0" }, { batch.status, counts(batch) })
      local results = client:results(batch.output_file_id)
      assert.equal(1, #results)
      assert.equal("in full", results[1].response.body.choices[1].message.content)
      assert.equal(4, #client:results(batch.error_file_id))
      assert.equal(1, count(ledger(box)))
    end)
  end)

  it("killed again and again, it pays each request once and answers each one once", function()
    local dir <close> = support.tmpdir()
    local model, open = gated(dir)
    local state, made = dir.path .. "/state", nil
    for kill = 1, 3 do
      local box <close> = support.sandbox { dir = state, "--model", model, "--batch-seconds", "0.1" }
      local client = sandbox_client.connect(box)
      if not made then made = start(client, lines(1, 9)) end
      for answered = 1, kill - 1 do
        open("one")
        client:watch(made.id, function(batch) return batch.request_counts.completed == answered end)
      end
      asked(box, kill)
      os.execute("kill -9 " .. box.pid)
    end
    open("all")
    local box <close> = support.sandbox { dir = state, "--model", model, "--batch-seconds", "0.1" }
    local client = sandbox_client.connect(box)
    local batch = client:ended(made.id)
    assert.same({ "completed", "9 9 0", 99 }, { batch.status, counts(batch), batch.usage.total_tokens })
    local list, by_id = client:results(batch.output_file_id)
    assert.same({ 9, 9 }, { #list, count(by_id) })
    for _, result in ipairs(list) do
      assert.equal("1 of 1", result.response.body.choices[1].message.content)
    end
    local paid = ledger(box)
    for i = 1, 9 do assert.equal(1, paid["id-" .. i]) end
    local _, payments = support.read(state .. "/ledger.jsonl"):gsub("\n", "")
    assert.equal(9, payments)
  end)
end)
