-- obatch.history: what has become of the requests of a job, by its files alone. One job is run, and its folder then
-- cut back to what it was at some moment of the run, or damaged.
local errand = require "obatch.errand"
local fs = require "obatch.fs"
local history = require "obatch.history"
local ids = require "obatch.history.ids"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"
local tell = require "obatch.history.tell"

--- r-2 and r-4 are refused for good; r-5 is missing once, r-6 is answered twice (the first one is not good); every
--- third one needs two tries.
local MODEL = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n == 2 then return { refusal = "I will not \27[31m do that" } end
if n == 4 then return "never\27[31m\n{\"a\": JSON" end
if n % 3 == 0 and asked == 1 then return "no JSON at all" end
return json.encode { id = request.custom_id, asked = asked }
]]
local FAULTS = "results: missing id=r-5 asked=1; results: duplicate id=r-6 asked=1"

local finished -- the job; its .base is never changed

--- A copy of the finished job, whose journal ends after the events that keep(event) is true for.
local function copy(keep)
  local dir = support.tmpdir()
  local base = dir.path .. "/base"
  assert(os.execute(("cp -R %s %s"):format(support.quote(finished.base), support.quote(base))))
  if keep then
    local lines = {}
    for line in support.read(base .. "/journal.jsonl"):gmatch("[^\n]+") do
      if keep(json.decode(line)) then lines[#lines + 1] = line end
    end
    support.write(base .. "/journal.jsonl", table.concat(lines, "\n") .. "\n")
  end
  return setmetatable({ path = base }, { __close = function() getmetatable(dir).__close(dir) end })
end

local function open(path, options) return assert(history.open(path, options)) end

local function items_of(h)
  local list = {}
  for item in h:items() do list[item.custom_id] = item end
  return list
end

--- What must be true of every history.
local function check(h)
  local t, counted, order = h.totals, { keep = 0, give_up = 0, ["in flight"] = 0, left = 0 }, 0
  assert.equal(t.requests, t.valid + t.given_up + t.left + t.in_flight)
  for item in h:items() do
    order = order + 1
    local key = counted[item.action] and item.action or "left"
    counted[key] = counted[key] + 1
    local story = assert(h:story(item.custom_id))
    assert.same({ item.action, item.class }, { story.action, story.class })
    for _, attempt in ipairs(story.attempts) do
      for _, kind in ipairs { "request", "result" } do
        local path, number = attempt[kind .. "_path"], attempt[kind .. "_line"]
        if number then
          local n = 0
          for line in io.lines(path) do
            n = n + 1
            if n == number then assert.equal(attempt[kind], line) end
          end
        end
      end
    end
  end
  assert.equal(t.requests, order)
  assert.same({ t.valid, t.given_up, t.in_flight, t.left },
    { counted.keep, counted.give_up, counted["in flight"], counted.left })
end

local function words(story)
  local list = {}
  for i, attempt in ipairs(story.attempts) do
    list[i] = ("%d %s %s%s"):format(attempt.iteration, attempt.class, attempt.action,
      attempt.duplicate and " twice" or "")
  end
  return table.concat(list, ", ")
end

describe("the history of a job", function()
  lazy_setup(function()
    finished = loop.job { model = MODEL, args = { "--max-requests", "2" } }
    local box <close> = finished:sandbox { "--faults", FAULTS }
    finished:run(box)
    assert(finished.code == 3, finished.err)
  end)
  lazy_teardown(function() finished:__close() end)

  it("that is finished tells what its closing table tells, and every attempt", function()
    local h <close> = open(finished.base)
    check(h)
    assert.same({ requests = 6, valid = 4, given_up = 2, left = 0, in_flight = 0 }, h.totals)
    local tokens_in, tokens_out = 0, 0
    for n, row in ipairs(loop.table(finished.out)) do
      local iteration = h.iterations[n]
      assert.equal("merged", iteration.state)
      assert.equal("run", iteration.judged_by)
      for name, count in pairs(row) do
        if iteration.classes[name] then assert.equal(count, iteration.classes[name], name) end
      end
      assert.equal(row.submitted, iteration.submitted)
      tokens_in, tokens_out = tokens_in + row["tokens in"], tokens_out + row["tokens out"]
    end
    for _, entry in ipairs(h:usage()) do
      tokens_in, tokens_out = tokens_in - entry.tokens_in, tokens_out - entry.tokens_out
      assert.equal("gpt-test", entry.model)
    end
    assert.same({ 0, 0 }, { tokens_in, tokens_out })
    assert.equal(3, #h.iterations[1].batches)
    local batch = h.iterations[1].batches[1]
    assert.same({ "completed", 1, 2 }, { batch.status, batch.iteration, batch.requests })
    assert(batch.created_at and batch.ended_at >= batch.created_at)

    assert.equal("1 valid keep", words(h:story("r-1")))
    assert.equal("1 refused give_up", words(h:story("r-2")))
    assert.equal("1 invalid resend, 2 valid keep", words(h:story("r-3")))
    assert.equal("1 invalid resend, 2 invalid resend, 3 invalid resend, 4 invalid give_up", words(h:story("r-4")))
    assert.equal("1 missing resend, 2 valid keep", words(h:story("r-5")))
    assert.equal("1 invalid resend, 1 invalid nil twice, 2 valid keep", words(h:story("r-6")))
    -- The request as it was sent: from the third attempt on with the bad answer.
    local third = h:story("r-4").attempts[3]
    assert(third.request:find("never", 1, true) and third.request:find("could not be used", 1, true), third.request)
    assert.equal("never\27[31m\n{\"a\": JSON", third.text)
    assert.equal("in neither the output nor the error file", h:story("r-5").attempts[1].reason)
    assert.equal(json.get(h:answer_line("r-3"), "/custom_id"), "r-3")
    assert(h:answer_line("r-3"):find("asked", 1, true))
    assert.equal("r-2 r-4", (function()
      local list = {}
      for item in h:items("give_up") do list[#list + 1] = item.custom_id end
      return table.concat(list, " ")
    end)())
  end)

  it("names requests that are near one that is not there", function()
    local h <close> = open(finished.base)
    local story, message, code = h:story("R-3")
    assert.same({ nil, "NOT_FOUND" }, { story, code })
    assert(message:find("near it: r-3", 1, true), message)
    local all = { count = 3, id = function(_, i) return ({ "p-207", "p-1207", "p-31207" })[i] end }
    assert.equal("p-31207", ids.near(all, "31207")[1])
    local short = { count = 3, id = function(_, i) return ({ "d", "ab", "xy" })[i] end }
    local function near(word) return table.concat(ids.near(short, word), " ") end
    assert.same({ "ab", "", "d", "ab", "xy", "" }, { near("a"), near(""), near("D"), near("ac"), near("y"), near("q") })
    story, message = h:story("3")
    assert.equal(nil, story)
    assert(message:find("the one with this number is r-3; near it: r-3", 1, true), message)
    assert.same({ 3, 6 }, { h:story("r-3").number, h:story("r-3").requests })
  end)

  it("that is under way tells what is in flight, judges what was downloaded, and adds up", function()
    local base <close> = copy(function(event)
      if event.iteration ~= 1 then return event.event == "started" end
      local is_late = event.event == "terminal" or event.event == "fetched" or event.event == "downloaded"
      return event.event ~= "merged" and not (is_late and event.part > 1)
    end)
    os.execute(("cd %s && rm -rf iteration_[2-9] iteration_1/*_iteration_1.jsonl.x final_results.jsonl given_up.jsonl "
      .. "iteration_1/unresolved* iteration_1/merged*"):format(support.quote(base.path)))
    local h <close> = open(base.path)
    check(h)
    assert.same({ requests = 6, valid = 1, given_up = 1, left = 0, in_flight = 4 }, h.totals)
    assert.equal("in flight", h.iterations[1].state)
    assert.equal("rules", h.iterations[1].judged_by)
    local items = items_of(h)
    assert.same({ "keep", "give_up", "in flight", "in flight" },
      { items["r-1"].action, items["r-2"].action, items["r-3"].action, items["r-6"].action })
    local attempt = h:story("r-3").attempts[1]
    assert.same({ "in flight", nil }, { attempt.action, attempt.class })
    assert.equal(h.iterations[1].batches[2].id, attempt.batch_id)
    assert(attempt.submitted_at and attempt.request)
    local told = tell.status(h, 80)
    assert(told:find("4 in flight", 1, true) and told:find(attempt.batch_id, 1, true), told)
    assert(tell.story(h:story("r-3"), 80):find("in flight since", 1, true))
  end)

  it("whose second iteration is in flight keeps the verdicts of the first, and says what is not sent", function()
    local base <close> = copy(function(event)
      return (event.iteration or 1) == 1 or event.iteration == 2 and (event.event == "planned" or event.part == 1
        and event.event ~= "terminal" and event.event ~= "fetched" and event.event ~= "downloaded")
    end)
    local h <close> = open(base.path)
    check(h)
    assert.same({ requests = 6, valid = 1, given_up = 1, left = 2, in_flight = 2 }, h.totals)
    local items = items_of(h)
    assert.same({ "in flight", "invalid", 2, 1 }, { items["r-3"].action, items["r-3"].class, items["r-3"].iteration,
      items["r-3"].attempts })
    assert.same({ "resend", "missing" }, { items["r-5"].action, items["r-5"].class })
    assert.same({ parts = 1, requests = 2 }, h.iterations[2].waiting)
    assert.equal("1 missing resend, 2 nil not sent", words(h:story("r-5")))
  end)

  it("goes on past damaged and torn lines of the journal, and tells them", function()
    local base <close> = copy()
    local path = base.path .. "/journal.jsonl"
    local content = support.read(path)
    local planned = content:match('\n([^\n]*"planned","iteration":2[^\n]*)\n')
    assert(planned, content)
    local at = content:find(planned, 1, true)
    support.write(path, content:sub(1, at - 1) .. "{ \27[31m" .. content:sub(at + 3) .. '{"event":"ter')
    local h <close> = open(base.path)
    check(h)
    assert.same({ requests = 6, valid = 4, given_up = 2, left = 0, in_flight = 0 }, h.totals)
    local notes = table.concat(h.notes, "\n")
    assert(notes:find("damaged", 1, true) or notes:find("restore it from a copy", 1, true), notes)
    assert(notes:find("cut off", 1, true), notes)
    assert(not notes:find("\27", 1, true), notes)
    assert.equal("1 invalid resend, 2 valid keep", words(h:story("r-3")))
  end)

  it("judges by the rules what the run has not judged, or what is damaged", function()
    for _, damage in ipairs { "rm iteration_*/unresolved*",
      "for f in iteration_*/unresolved*; do echo '{' >>$f; done" } do
      local base <close> = copy()
      os.execute(("cd %s && %s"):format(support.quote(base.path), damage))
      local h <close> = open(base.path)
      check(h)
      assert.same({ requests = 6, valid = 4, given_up = 2, left = 0, in_flight = 0 }, h.totals)
      assert.equal("rules", h.iterations[1].judged_by)
      assert.equal("1 missing resend, 2 valid keep", words(h:story("r-5")))
      assert.equal("not JSON: expected a value at byte 1", h:story("r-3").attempts[1].reason)
    end
  end)

  it("knows the requests by what else names them, where the request files are gone (an errand at its end)", function()
    local base <close> = copy()
    os.execute(("cd %s && rm iteration_*/batch_requests*; mv %s %s"):format(support.quote(base.path),
      support.quote(finished.requests), support.quote(finished.requests .. ".away")))
    local named = {}
    for i = 1, 6 do named[i] = ('{"custom_id":"r-%d","path":"p%d","image_dir":""}'):format(i, i) end
    support.write(base.path .. "/completed.json", ('{"items":[%s]}'):format(table.concat(named, ",")))
    local h <close> = open(base.path)
    os.rename(finished.requests .. ".away", finished.requests)
    assert.equal(nil, h.original)
    check(h)
    -- An early obatch wrote the items alone: everything that reads them takes them so.
    local folder, file = base.path:match("^(.*)/([^/]*)$")
    support.write(base.path .. "/completed.json", ("[%s]"):format(table.concat(named, ",")))
    assert.equal("p6", assert(errand.completed(folder, file)).items[6].path)
    assert.equal("p6", ids.items(base.path)[6].path)
    local _, out = support.obatch("fsck", base.path)
    assert.falsy(out:find("not a record", 1, true), out)
    support.write(base.path .. "/completed.json", "[1]")
    assert.equal("DAMAGED", select(3, errand.completed(folder, file)))
    assert.equal(0, #ids.items(base.path))
    _, out = support.obatch("fsck", base.path)
    assert.truthy(out:find("it is not a record", 1, true), out)
    assert.same({ requests = 6, valid = 4, given_up = 2, left = 0, in_flight = 0 }, h.totals)
    assert.equal("1 invalid resend, 2 invalid resend, 3 invalid resend, 4 invalid give_up", words(h:story("r-4")))
    assert.equal("1 missing resend, 2 valid keep", words(h:story("r-5")))
    assert.equal(nil, h:story("r-4").attempts[1].request)
  end)

  it("of an earlier script goes by its merged results, with and without requests", function()
    for _, with_requests in ipairs { true, false } do
      local base <close> = copy()
      os.execute(("cd %s && rm -f journal.jsonl lock final* given* corrected* iteration_*/unresolved* "
        .. "iteration_*/invalid* iteration_*/batch_*put.jsonl iteration_*/batch_*error.jsonl %s"):format(
        support.quote(base.path), with_requests and "" or "iteration_*/batch_requests*"))
      local h <close> = open(base.path, with_requests and { original = finished.requests } or nil)
      check(h)
      assert.same({ 4, 2, 0 }, { h.totals.valid, h.totals.given_up, h.totals.in_flight })
      assert.equal("rules", h.iterations[1].judged_by)
      assert.equal(3, #h.iterations[1].batches)
      assert.equal("1 invalid resend, 2 valid keep", words(h:story("r-3")))
    end
    local h, message, code = history.open(finished.path)
    assert.same({ nil, "USAGE" }, { h, code })
    assert(message:find("is not a job", 1, true))
  end)

  it("takes the first good one of several answers, and shows the others", function()
    local base <close> = copy()
    os.execute(("cd %s && rm -f journal.jsonl iteration_*/unresolved*"):format(support.quote(base.path)))
    local merged = base.path .. "/iteration_1/merged_results_iteration_1.jsonl"
    local good = ('{"custom_id":"r-3","response":{"status_code":200,"body":{"choices":[{"message":{"content":"[3]"},'
      .. '"finish_reason":"stop"}]}},"error":null}')
    support.write(merged, support.read(merged) .. good .. "\n" .. good:gsub("%[3%]", "[4]") .. "\n")
    local h <close> = open(base.path, { original = finished.requests })
    check(h)
    assert.equal(good, h:answer_line("r-3"))
    assert.equal("1 valid keep, 1 invalid nil twice, 1 valid nil twice, 2 valid nil twice", words(h:story("r-3")))
  end)

  it("has nothing in flight where a budget kept everything out of the next iteration", function()
    local base <close> = copy(function(event) return (event.iteration or 1) == 1 end)
    os.execute(("cd %s && rm -rf iteration_[2-9]"):format(support.quote(base.path)))
    local path = base.path .. "/journal.jsonl"
    support.write(path, support.read(path) .. '{"event":"planned","iteration":2,"parts":[],"cut":"SPENT"}\n')
    local h <close> = open(base.path)
    check(h)
    assert.same({ requests = 6, valid = 1, given_up = 1, left = 4, in_flight = 0 }, h.totals)
    assert.same({ "planned", 0 }, { h.iterations[2].state, h.iterations[2].submitted })
    local told = h:story("r-3")
    assert.equal("1 invalid resend", words(told))
    assert(tell.story(told, 80):find("then: to be sent again", 1, true))
    local status = tell.status(h, 80)
    assert(status:find("a budget keeps requests from being sent: it is spent", 1, true), status)
    assert(status:find("iteration  1\n", 1, true), status)
  end)

  it("tells the same of an errand that a budget has cut before and after its requests are removed", function()
    local job <close> = loop.job { model = MODEL }
    local box <close> = job:sandbox { "--faults", "results: missing id=r-3 asked=1" }
    job:run(box, { "--budget-requests", "4" })
    assert.equal(1, job.code, job.err)
    job:run(box)
    local function look()
      local h <close> = open(job.base)
      check(h)
      local list = { h.totals }
      for n, iteration in ipairs(h.iterations) do list[n + 1] = { iteration.submitted, iteration.classes } end
      for item in h:items() do list[item.custom_id] = words(h:story(item.custom_id)) end
      return list
    end
    local before = look()
    assert.equal("1 missing resend, 2 valid keep", before["r-3"])
    assert.equal("2 valid keep", before["r-5"])
    os.execute(("cd %s && rm iteration_*/batch_requests* && echo '{\"items\":[]}' >completed.json"):format(
      support.quote(job.base)))
    assert.same(before, look())
  end)

  it("goes by the line that the run took, and by its verdict, where the rules here would take another", function()
    local base <close> = copy()
    local folder = base.path .. "/iteration_1/"
    for _, name in ipairs(fs.list(folder)) do
      if name:find("_output%.jsonl$") or name:find("^merged_") then
        local more = {}
        for line in support.read(folder .. name):gmatch("[^\n]+") do
          local other = json.decode(line)
          if other.custom_id == "r-1" then
            other.response.body.choices[1].message.content = "[1]"
            more[#more + 1] = json.encode(other)
          end
          more[#more + 1] = line
          if other.custom_id == "r-4" then
            other.response.body.choices[1].message.content = "[4]"
            more[#more + 1] = json.encode(other)
          end
        end
        support.write(folder .. name, table.concat(more, "\n") .. "\n")
      end
    end
    local h <close> = open(base.path)
    check(h)
    assert.equal("1 valid keep, 1 valid nil twice", words(h:story("r-1")))
    assert(h:answer_line("r-1"):find("asked", 1, true), h:answer_line("r-1"))
    local second = h:story("r-4").attempts[2]
    assert.same({ "[4]", "invalid", "not good by the rules of the run", true },
      { second.text, second.class, second.reason, second.duplicate })
  end)

  it("follows requests to the parts that a batch was split into, and tells what was refused", function()
    local job <close> = loop.job { requests = loop.lines(3), model = "return '[1]'" }
    local box <close> = job:sandbox { "--faults", "batches: fail=invalid_url line=2 first=1" }
    job:run(box)
    assert.equal(3, job.code, job.err)
    local h <close> = open(job.base)
    check(h)
    assert.same({ 2, 1 }, { h.totals.valid, h.totals.given_up })
    local attempt = h:story("r-3").attempts[1]
    assert.same({ 2, 2, "keep" }, { attempt.part, attempt.request_line, attempt.action })
    assert.equal(h.iterations[1].batches[2].id, attempt.batch_id)
    local refused = h:story("r-2").attempts[1]
    assert.same({ 1, "permanent", "give_up", "failed" }, { refused.part, refused.class, refused.action,
      refused.batch_status })
    assert(refused.result_path:find("rejected_iteration_1", 1, true), refused.result_path)
    assert.same({ "failed", "completed" }, { h.iterations[1].batches[1].status, h.iterations[1].batches[2].status })
  end)

  it("shows what a reader has decided about an answer", function()
    local base <close> = copy()
    local answer = 'never\27[31m\n{"a": JSON'
    support.write(base.path .. "/decisions.jsonl", json.encode { custom_id = "r-4", decision = "reject",
      note = "no \27[31m", sha256 = fs.sha256_text(answer), iteration = 4 } .. "\n")
    local h <close> = open(base.path)
    local story = h:story("r-4")
    assert.equal("reject", story.attempts[1].decision.decision)
    local told = tell.story(story, 80)
    assert(told:find("a reader's decision: reject, no", 1, true), told)
    assert(not told:find("\27", 1, true))
  end)

  it("tells the place where an answer breaks, what was changed in a request, and no control character", function()
    local h <close> = open(finished.base)
    local told = tell.story(h:story("r-4"), 80)
    assert(told:find("      never%1B[31m\n      ^ byte 1\n", 1, true), told)
    assert(told:find("messages: one more: assistant: never", 1, true), told)
    assert(told:find("(the same as before)", 1, true), told)
    assert(told:find("then: given up", 1, true), told)
    local refused = tell.story(h:story("r-2"), 80)
    assert(refused:find("the model refused: I will not %1B[31m do that", 1, true), refused)
    for line in (told .. "\n" .. refused):gmatch("[^\n]+") do
      assert(not line:find("[\0-\31\127]"), line)
    end
  end)

  it("keeps little of each request in memory", function()
    local dir <close> = support.tmpdir()
    local count, long = 5000, ("x"):rep(1000)
    assert(fs.mkdir(dir.path .. "/iteration_1"))
    local file <close> = assert(io.open(dir.path .. "/iteration_1/merged_results_iteration_1.jsonl", "wb"))
    local requests <close> = assert(io.open(dir.path .. "/requests.jsonl", "wb"))
    for i = 1, count do
      requests:write(loop.line("r-" .. i, nil, { user = long }), "\n")
      file:write(('{"custom_id":"r-%d","error":null,"response":{"status_code":200,"body":{"choices":[{"message":'
        .. '{"content":"%s"},"finish_reason":"stop"}]}}}\n'):format(i, i % 2 == 0 and "[1]" or "no " .. long))
    end
    file:close()
    requests:close()
    collectgarbage()
    local before = collectgarbage("count")
    local h <close> = open(dir.path, { original = dir.path .. "/requests.jsonl" })
    for _ in h:items() do end -- goes through them
    assert(h:story("r-1") and h:story("r-2") and h:answer_line("r-4"))
    collectgarbage()
    local each = (collectgarbage("count") - before) * 1024 / count
    assert.same({ count, count // 2 }, { h.totals.requests, h.totals.valid })
    assert(each < 250, ("%.0f bytes for each request"):format(each))
  end)
end)
