-- A reader's decisions: files of them, and what becomes of them in the correction loop.
local decisions = require "obatch.decisions"
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local openai = require "obatch.openai"
local strike = require "strike"
local support = require "support"

local says = loop.says

--- The text of a file of decisions: each a table, or a line.
local function lines_of(list)
  local lines = {}
  for i, one in ipairs(list) do lines[i] = type(one) == "string" and one or json.encode(one) end
  return table.concat(lines, "\n") .. "\n"
end

--- A decision about an answer's text (nil: about none).
local function about(id, decision, answer, note)
  return { custom_id = id, decision = decision, note = note, sha256 = answer and fs.sha256_text(answer) }
end

describe("a file of decisions", function()
  local dir
  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  local function read(list)
    support.write(dir.path .. "/d", lines_of(list))
    return decisions.read(dir.path .. "/d")
  end

  it("is read as it was written, the later of two about the same text counting", function()
    local sha256 = fs.sha256_text "x"
    local list = assert(read { about("a", "accept", "x", "good"), about("b", "reject"), about("a", "reject", "y"),
      { custom_id = "a", decision = "reject", note = json.null, sha256 = sha256:upper(), more = 1 }, "",
      { path = { hex = "ff2e706e67" }, decision = "accept", sha256 = sha256 } })
    assert.equal(4, #list)
    assert.same({ custom_id = "a", decision = "reject", note = "", sha256 = sha256, where = dir.path .. "/d:4" },
      list[3])
    assert.is_nil(list[1].sha256)
    assert.equal(fs.sha256_text "y", list[2].sha256)
    assert.equal("\xFF.png", list[4].path)
    assert.same({}, assert(read {}))
  end)

  it("names file and line of all that is wrong, and is not followed then", function()
    local list, faults = read { about("a", "accept", "x"), '{"custom_id":', about("a", "acept", "x"),
      { decision = "accept" }, { custom_id = 7, decision = "accept" },
      { custom_id = "a", decision = "reject", note = {} },
      { custom_id = "a", decision = "reject", sha256 = "abc" }, '["a"]',
      about("a", "reject", "x", ("n"):rep(decisions.MAX_NOTE + 1)), '{"custom_id":"\\ud800","decision":"accept"}' }
    assert.is_nil(list)
    for i, words in ipairs { "byte 14: ", "\"decision\" must be \"accept\" or \"reject\", not 'acept'",
      'there is no "custom_id"',
      '"custom_id" must be a string', '"note" must be a string', '"sha256" must be 64 hexadecimal digits',
      'there is no "custom_id"', "the note has 10001 bytes", '"custom_id": ' } do
      assert.is_truthy(faults[i]:find(("%s/d:%d: "):format(dir.path, i + 1), 1, true), faults[i])
      assert.is_truthy(faults[i]:find(words, 1, true), faults[i])
    end
    assert.equal(9, #faults)
    list, faults = decisions.read(dir.path .. "/nowhere")
    assert.is_nil(list)
    assert.is_truthy(faults[1]:find("nowhere", 1, true))
    assert.equal("ENOENT", select(3, decisions.read(dir.path .. "/nowhere")))
    assert.is_nil(select(2, decisions.read(dir.path .. "/\27[31m"))[1]:find "\27")
  end)

  it("that a job keeps is missing only where the system says so", function()
    support.write(dir.path .. "/file", "")
    local kept, message, code = decisions.of_job(dir.path .. "/file", {})
    assert.is_nil(kept)
    assert.equal("ENOTDIR", code, message)
    assert.same({}, decisions.of_job(dir.path, {}))
    assert(fs.mkdir(dir.path .. "/decisions.jsonl"))
    kept, message, code = decisions.of_job(dir.path, {})
    assert.is_nil(kept)
    assert.equal("LINK", code)
    assert.equal(dir.path .. "/decisions.jsonl is a folder, and obatch's own name: remove it", message)
  end)
end)

--- r-1 is never JSON, r-2 always refused, r-3 cut off, r-4 and r-5 good.
local MODEL = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n == 1 then return "no JSON " .. asked end
if n == 2 then return { refusal = "no" } end
if n == 3 then return { content = '{"cut": ' .. asked, finish_reason = "length" } end
return json.encode { id = request.custom_id, asked = asked }
]]

--- A job that has ended once, beside its sandbox.
local function ended_job(box_of)
  local job = loop.job { requests = loop.lines(5), model = MODEL }
  local box = job:sandbox()
  box_of.box = box
  job:run(box)
  assert.equal(3, job.code, job.err)
  return job
end

--- Runs the job with these decisions.
local function decide(job, box, list, words)
  support.write(job.path .. "/decisions", lines_of(list))
  job:run(box, { "--decisions", job.path .. "/decisions", table.unpack(words or {}) })
  loop.check_clean(job)
end

local function paid(job) return loop.text(job:paid()) end

local function given_up(job)
  local map = {}
  for _, item in ipairs(job:decoded("given_up.jsonl")) do map[item.custom_id] = item.attempts end
  return loop.text(map)
end

--- The requests of iteration n, by their custom_id.
local function sent(job, n)
  local map = {}
  for _, line in ipairs(job:decoded(("iteration_%d/batch_requests_iteration_%d.jsonl"):format(n, n))) do
    map[line.custom_id] = line
  end
  return map
end

--- fsck finds nothing wrong.
local function check_folder(job)
  local code, out = support.obatch("fsck", job.base, "--policy", job.path .. "/policy.lua")
  assert.equal(0, code, out)
end

local GOOD_4, GOOD_5 = json.encode { id = "r-4", asked = 1 }, json.encode { id = "r-5", asked = 1 }

describe("correction_loop --decisions", function()
  it("keeps what was accepted, and sends what was rejected once more with the note", function()
    local boxes = {}
    local job <close> = ended_job(boxes)
    local box <close> = boxes.box
    assert.equal("r-1=4 r-2=1 r-3=4 r-4=1 r-5=1", paid(job))
    says(job, ("next: obatch why %s r-1\nnext: obatch report %s\n"):format(job.base, job.base))
    local list = { about("r-1", "accept", "no JSON 3", "as good as it gets"),
      about("r-2", "reject", nil, "It may be read."), about("r-3", "accept", '{"cut": 4'),
      about("r-4", "reject", GOOD_4, 'Not "that" page.'),
      about("r-5", "reject", "another text"), about("r-9", "accept", "x"), about("r-2", "accept", "x") }
    decide(job, box, list, { "--dry-run" })
    assert.equal(0, job.code)
    says(job, "decisions: 2 accepted, 2 rejected, 3 not followed")
    assert.is_nil(fs.stat(job.base .. "/decisions.jsonl"))

    decide(job, box, list)
    assert.equal(3, job.code)
    says(job, ":5: custom_id 'r-5': the decision is about another text than those that came back; not followed")
    says(job, ":6: custom_id 'r-9': it is none of the requests; not followed")
    assert.equal("r-1=4 r-2=2 r-3=4 r-4=2 r-5=1", paid(job))
    assert.equal("r-2=2", given_up(job))
    assert.same({ ["r-1"] = "no JSON 3", ["r-3"] = '{"cut": 4', ["r-4"] = { id = "r-4", asked = 2 },
      ["r-5"] = { id = "r-5", asked = 1 } }, json.decode(job:read("corrected_results.json")))
    local lines = job:decoded("final_results.jsonl")
    assert.equal(4, #lines)
    assert.equal("no JSON 3", lines[1].response.body.choices[1].message.content)
    local requests = sent(job, 5)
    assert.equal("Your previous answer could not be used: rejected by a reader: Not \"that\" page. Answer the original "
      .. "request again. Return only the complete, valid JSON, with nothing before or after it.",
      requests["r-4"].body.messages[3].content)
    assert.equal(GOOD_4, requests["r-4"].body.messages[2].content)
    assert.is_truthy(requests["r-2"].body.messages[2].content:find("rejected by a reader: It may be read.", 1, true))
    check_folder(job)

    -- Nothing is asked or paid again, with the file and without it.
    local asked = #job:asked()
    decide(job, box, list)
    job:run(box, { "--quiet" })
    assert.equal("", job.err)
    assert.equal(asked, #job:asked())
    assert.equal("r-2=2", given_up(job))

    -- What is undone is undone: the policy decides again.
    local kept = {}
    for line in job:read("decisions.jsonl"):gmatch("[^\n]+") do
      if not line:find('"r-1"', 1, true) then kept[#kept + 1] = line end
    end
    support.write(job.base .. "/decisions.jsonl", lines_of(kept))
    local code, out = support.obatch("fsck", job.base, "--policy", job.path .. "/policy.lua")
    assert.equal(1, code, out)
    local explained = 0
    for line in out:gmatch("[^\n]*%-%-policy%? Name it[^\n]*") do
      explained = explained + 1
      assert.truthy(line:find("Or was a line of decisions.jsonl deleted? The next run writes it anew.", 1, true), line)
    end
    assert.truthy(explained > 2, out)
    job:run(box)
    check_folder(job)
    assert.equal("r-1=4 r-2=2", given_up(job))
    -- The same words about the answer that came since are a decision of their own.
    decide(job, box, { about("r-4", "reject", json.encode { id = "r-4", asked = 2 }, 'Not "that" page.') })
    assert.equal("r-1=4 r-2=2 r-3=4 r-4=3 r-5=1", paid(job))
    check_folder(job)
  end)

  it("never follows a decision about another answer, and tells of damage", function()
    local boxes = {}
    local job <close> = ended_job(boxes)
    local box <close> = boxes.box
    local before = job:read("final_results.jsonl")
    decide(job, box, { about("r-4", "reject", GOOD_5), about("r-1", "accept"), about("r-5", "reject") })
    says(job, "custom_id 'r-1': the decision is about no text (it has no sha256), and there is one")
    says(job, "decisions: 0 accepted, 0 rejected, 3 not followed")
    assert.equal(before, job:read("final_results.jsonl"))
    assert.is_nil(fs.stat(job.base .. "/decisions.jsonl"))
    decide(job, box, { about("r-4", "accept", GOOD_4), "{" })
    assert.equal(2, job.code)
    says(job, "/decisions:2: ")
    says(job, "none was followed, and nothing was submitted")
    support.write(job.base .. "/decisions.jsonl", "{}\n")
    job:run(box)
    assert.equal(1, job.code)
    says(job, 'decisions.jsonl:1: there is no "custom_id". Restore it from a copy, or delete this line')
    assert.equal("r-1=4 r-2=1 r-3=4 r-4=1 r-5=1", paid(job))
  end)

  it("says that there is no answer yet, and begins the job", function()
    local job <close> = loop.job { requests = loop.lines(2) }
    local box <close> = job:sandbox()
    decide(job, box, { about("r-1", "accept", "x") })
    says(job, "decisions: 0 accepted, 0 rejected, 0 not followed; 1 kept until there are answers")
    loop.check(job, loop.usual(2))
  end)

  it("is followed for answers of batches that it takes over only now", function()
    local job <close> = loop.job { requests = loop.lines(3), model = [[
if request.custom_id == "r-1" then return "no JSON" end
return json.encode { asked = asked }]] }
    local box <close> = job:sandbox()
    local api <close> = assert(openai.new { key = "sk-other", base_url = box.url })
    for n, lines in ipairs { loop.lines(3), loop.lines(1) } do
      support.write(job.path .. "/elsewhere.jsonl", table.concat(lines, "\n") .. "\n")
      local file = assert(api:upload(job.path .. "/elsewhere.jsonl", "elsewhere.jsonl"))
      assert(fs.mkdir(("%s/iteration_%d"):format(job.base, n)))
      support.write(("%s/iteration_%d/submitted_batch_ids_iteration_%d.txt"):format(job.base, n, n),
        assert(api:create_batch(file.id, "/v1/chat/completions", {})).id .. "\n")
    end
    local list = { about("r-1", "accept", "no JSON"), about("r-2", "reject", '{"asked":1}', "Look again.") }
    decide(job, box, list, { "--dry-run" })
    says(job, "0 not followed; 2 kept until there are answers")
    decide(job, box, list)
    assert.equal(0, job.code, job.err)
    assert.equal("r-1=2 r-2=2 r-3=1", paid(job))
    assert.is_truthy(job:read("iteration_3/batch_requests_iteration_3.jsonl"):find("Look again", 1, true))
    -- r-2 was not sent in iteration 2, and r-1 was: so it looked to who sent them.
    local rows = loop.check_table(job.out)
    assert.same({ 3, 1, 1 }, { rows[1].submitted, rows[2].submitted, rows[3].submitted })
    assert.is_nil(rows[2].missing)
    decide(job, box, { about("r-3", "reject", '{"asked":1}') })
    assert.same(rows[2], loop.check_table(job.out)[2])
    assert.equal("r-1=2 r-2=2 r-3=2", paid(job))
  end)

  it("asks once more where there was no text at all, however that is called", function()
    local job <close> = loop.job { requests = loop.lines(3), policy = "policy.attempts.invalid = 1", model = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n == 1 then return { content = json.null } end
if n == 2 then return { content = json.null, finish_reason = "length" } end
return asked == 1 and "early" or json.encode { asked = asked }]] }
    local box <close> = job:sandbox()
    job:run(box)
    assert.equal("r-1=1 r-2=4 r-3=1", paid(job))
    decide(job, box, { about("r-1", "reject", nil, "It may be read."), about("r-2", "reject"),
      about("r-3", "reject", "early") })
    says(job, "0 accepted, 3 rejected, 0 not followed")
    assert.equal("r-1=2 r-2=5 r-3=2", paid(job))
    check_folder(job)

    -- The answer that was accepted last counts, whatever the policy says of the others.
    local function answer_of_3() return json.decode(job:read("corrected_results.json"))["r-3"] end
    decide(job, box, { about("r-3", "accept", '{"asked":2}'), about("r-3", "accept", "early"),
      about("r-3", "accept", '{"asked":2}') })
    assert.same({ asked = 2 }, answer_of_3())
    local kept, of_early = job:read("decisions.jsonl"), '[^\n]*"sha256":"' .. fs.sha256_text("early") .. '"}\n'
    support.write(job.base .. "/decisions.jsonl", (kept:gsub(of_early, "")))
    job:set_policy("policy.attempts.invalid = 1; policy.attempts.truncated = 1; policy.expect = 'text'")
    job:run(box)
    assert.equal('{"asked":2}', answer_of_3())
    check_folder(job)
    decide(job, box, { about("r-3", "accept", "early") })
    assert.equal("early", answer_of_3())
    decide(job, box, { about("r-3", "accept", '{"asked":2}') })
    assert.equal('{"asked":2}', answer_of_3())
    assert.equal("r-1=2 r-2=5 r-3=2", paid(job))
    check_folder(job)

    support.write(job.base .. "/journal.jsonl", "{}\n")
    decide(job, box, { about("r-3", "accept", "early") }, { "--dry-run" })
    assert.equal(1, job.code)
    says(job, "journal.jsonl")
  end)

  it("survives a kill anywhere, and pays once", function()
    local cells = loop.group {}
    local _ <close> = cells
    -- At each call that changes decisions.jsonl, then before each of the first events.
    for at = 1, 9 do
      local job = loop.job { requests = loop.lines(5), model = MODEL,
        policy = ("dofile %q"):format(support.home .. "/tests/signal_at.lua") }
      support.write(job.path .. "/decisions", lines_of { about("r-1", "accept", "no JSON 4"),
        about("r-4", "reject", GOOD_4, "No.") })
      local killed = at <= 5 and strike.export(job.base, { name = "/decisions.jsonl*", at = at, with = "KILL" })
        or ("export AT=%d WHEN=before SIGNAL=KILL; "):format(at - 5)
      job.steps = ([[run >first.out 2>first.err
        (%s run --decisions decisions) >>first.out 2>&1; echo $? >codes
        [ -e base/decisions.jsonl ] || run --decisions decisions >>first.out 2>&1]]):format(killed)
      cells[at] = job
    end
    loop.pool(cells, 4)
    for _, job in ipairs(cells) do
      assert.equal("137\n", support.read(job.path .. "/codes"))
      assert.equal(3, job.code, job.err)
      loop.check_clean(job)
      assert.equal("r-1=4 r-2=1 r-3=4 r-4=2 r-5=1", paid(job))
      assert.equal("r-2=1 r-3=4", given_up(job))
      check_folder(job)
    end
  end)
end)
