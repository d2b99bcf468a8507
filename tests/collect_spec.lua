-- obatch collect: what all batches of a folder have brought, raw and by custom_id.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

local quote = support.quote

local function collect(dir, ...)
  local words = { ... }
  for i, word in ipairs(words) do words[i] = quote(word) end
  local code, out, err = support.shell(("cd %s && %s collect %s"):format(quote(dir), quote(support.binary),
    table.concat(words, " ")))
  assert(not (out .. err):find("stack traceback", 1, true) and not err:find("Sanitizer", 1, true), out .. err)
  assert(not (out .. err):find("[\0-\8\11-\31\127]"), "a control character is shown: " .. out .. err)
  return code, out, err
end

local function result(id, content, more)
  return ('{"id":"batch_req_1","custom_id":%s,"response":{"status_code":200,"body":{"choices":[{"message":{"content":'
    .. '%s%s'):format(json.encode(id), json.encode(content), more or '},"finish_reason":"stop"}]}},"error":null}')
end

local function says(printed, words)
  assert(printed:find(words, 1, true), ("not said: %s\n%s"):format(words, printed))
end

--- The custom_ids of an object, in the order of the file.
local function order_of(text)
  local list = {}
  for id in text:gmatch('\n"([^"]*)": ') do list[#list + 1] = id end
  return table.concat(list, " ")
end

describe("obatch collect", function()
  it("puts downloaded results together: the first good answer counts, in the order of the requests", function()
    local dir <close> = support.tmpdir()
    local folder = dir.path .. "/batch_return"
    assert(fs.mkdir(folder))
    local bad = '{"custom_id":"b","response":{"status_code":500,"body":{"error":{"message":"oh \27no"}}},"error":null}'
    bad = bad:gsub("\27", "\\u001b")
    support.write(folder .. "/batch_1.jsonl", table.concat({ result("c", '```json\n{"x": [1]}\n```'), bad,
      result("a", "1893"), "{ broken", "" }, "\n"))
    support.write(folder .. "/batch_2.jsonl", table.concat({ result("b", "good now"), result("c", "[]"), bad,
      result("unasked \27[31m", "x"), result("e", "half", '},"finish_reason":"length"}]}},"error":null}') }, "\n"))
    support.write(folder .. "/requests.jsonl", loop.line("a") .. "\n")
    local asked = {}
    for i, id in ipairs { "a", "b", "c", "d", "e" } do asked[i] = loop.line(id) .. "\n" end
    support.write(dir.path .. "/asked.jsonl", table.concat(asked))

    local code, out, err = collect(dir.path, "batch_return", "--original-requests", "asked.jsonl")
    assert.equal(3, code, err)
    says(err, "batch_return/requests.jsonl holds no results: left out")
    says(err, "the line is left out")
    local text = support.read(folder .. "/collected/collected_results.json")
    assert.equal("a b c e", order_of("\n" .. text))
    local answers = assert(json.decode(text))
    assert.same({ "1893", "good now", { x = json.array { 1 } } }, { answers.a, answers.b, answers.c })
    assert.same({ error = { class = "truncated", reason = "cut off after 0 tokens", text = "half" } }, answers.e)
    says(out, "5 requests: 1 parsed, 2 as text, 1 error")
    says(out, "3 lines are not used")
    says(out, "1 line is for a custom_id that is none of the requests")
    says(out, "1 request has no answer yet, and is not in it")
    local raw = support.read(folder .. "/collected/collected_results.jsonl")
    assert.equal(support.read(folder .. "/batch_1.jsonl") .. support.read(folder .. "/batch_2.jsonl") .. "\n", raw)

    -- Without the requests: in the order of the lines, and everything that came.
    code, out = collect(dir.path, "batch_return", "--json")
    assert.equal(3, code)
    local summary = assert(json.decode(out))
    assert.same({ 5, 9, 1, 3, 1, 1 }, { summary.requests, summary.lines, summary.parsed, summary.texts, summary.errors,
      summary.damaged })
    text = support.read(folder .. "/collected/collected_results.json")
    assert.equal("c b a unasked \\u001b[31m e", order_of("\n" .. text))

    -- What was changed since, or is somebody else's, is not written over.
    support.write(folder .. "/collected/collected_results.json", "mine")
    code, out, err = collect(dir.path, "batch_return")
    assert.equal("", out)
    assert.equal(2, code)
    says(err, "collected_results.json is there already")
    assert.equal("mine", support.read(folder .. "/collected/collected_results.json"))
    assert.equal(3, (collect(dir.path, "batch_return", "--force")))
    assert.equal(2, (collect(dir.path, "nowhere")))
    assert(fs.mkdir(dir.path .. "/empty"))
    code, out, err = collect(dir.path, "empty")
    assert.equal("", out)
    assert.equal(2, code)
    says(err, "empty holds no results")
    assert.falsy(fs.stat(dir.path .. "/empty/collected"))
  end)

  it("leaves out no file that it cannot read: it stops with its name", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/batch_1.jsonl", result("a", "one") .. "\n")
    for target, words in pairs { ["/proc/sys/vm/drop_caches"] = "Permission denied", -- to root, too
      ["/proc/self/mem"] = "Input/output error", ["batch_2.jsonl"] = "Too many levels" } do -- a link to itself
      assert(support.shell(("ln -s %s %s/batch_2.jsonl"):format(target, quote(dir.path))) == 0)
      local code, out, err = collect(dir.path, ".", "--to", "collected")
      assert.same({ 1, "" }, { code, out }, err)
      says(err, "batch_2.jsonl: " .. words)
      assert.falsy(err:find("--to", 1, true), err) -- another target does not help
      assert.is_nil(fs.lstat(dir.path .. "/collected"))
      assert(fs.remove(dir.path .. "/batch_2.jsonl"))
    end
    local code, _, err = collect(dir.path, ".", "--to", "/sys/no-such-place") -- read-only, or nobody may
    assert.equal(1, code)
    says(err, "/sys/no-such-place")
    says(err, "name another place with --to DIR")
  end)

  it("may be stopped between its files, takes none of them for results, and writes over nothing else", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/batch_1.jsonl", result("a", "one") .. "\n" .. result("b", "two") .. "\n")
    support.write(dir.path .. "/batch_2.jsonl", "\u{feff}" .. result("c", "three") .. "\n" .. result("d", "four"))
    for _ = 1, 2 do -- the second time, its own files are there
      local code, out, err = collect(dir.path, ".", "--to", ".")
      assert.equal(3, code, err) -- what is in a line that cannot be read has no answer here
      says(out, "4 result lines, as received")
      says(err, "byte order mark; the line is left out")
    end
    local code, out = collect(dir.path, ".", "--to", "elsewhere")
    assert.equal(3, code)
    says(out, "4 result lines, as received")

    -- Stopped when the lines were there and the object was not, or was that of the last time.
    support.write(dir.path .. "/elsewhere/collected_results.jsonl", "other lines\n")
    assert.equal(2, (collect(dir.path, ".", "--to", "elsewhere")))
    support.write(dir.path .. "/elsewhere/collected.json", '{"unfinished":true}\n')
    assert.equal(3, (collect(dir.path, ".", "--to", "elsewhere")))
    says(support.read(dir.path .. "/elsewhere/collected.json"), '"sha256":')
    assert(fs.mkdir(dir.path .. "/unwritable"))
    assert(fs.mkdir(dir.path .. "/unwritable/collected_results.json")) -- the object cannot get its name
    code = collect(dir.path, ".", "--to", "unwritable", "--force")
    assert.equal(1, code)
    says(support.read(dir.path .. "/unwritable/collected.json"), '"unfinished":true')

    assert(fs.mkdir(dir.path .. "/foreign"))
    support.write(dir.path .. "/foreign/collected.json", "mine")
    code = collect(dir.path, ".", "--to", "foreign")
    assert.same({ 2, "mine" }, { code, support.read(dir.path .. "/foreign/collected.json") })
  end)

  it("goes by the verdicts of a job, finished or not", function()
    local job <close> = loop.job { policy = "policy.attempts.invalid = 1; policy.accept = function(answer) "
      .. "return answer.asked ~= nil, 'not asked' end", model = [[
      local n = tonumber(request.custom_id:match("%d+$"))
      if n == 2 then return "{}" end
      if n == 4 and asked == 1 then return { status = 500 } end
      return json.encode { id = request.custom_id, asked = asked }]] }
    local box <close> = job:sandbox { "--faults", "results: unknown id=r-1" }
    job:run(box)
    assert.equal(3, job.code, job.err)
    local code, out = collect(job.path, "base", "--to", "out")
    assert.equal(3, code)
    says(out, "1 line is for a custom_id that is none of the requests")
    says(out, "6 requests: 5 parsed, 0 as text, 1 error")
    local answers = assert(json.decode(support.read(job.path .. "/out/collected_results.json")))
    assert.same({ error = { class = "invalid", reason = "not asked", text = "{}" } }, answers["r-2"])
    assert.same({ id = "r-4", asked = 2 }, answers["r-4"])
    local good = assert(json.decode(job:read("corrected_results.json")))
    for id, answer in pairs(good) do assert.same(answer, answers[id]) end
    says(out, "1 line is not used")

    -- What the first iteration has brought, while the second one is in flight.
    local lines = {}
    for line in job:read("journal.jsonl"):gmatch("[^\n]+") do
      local event = json.decode(line)
      local is_late = event.event == "terminal" or event.event == "fetched" or event.event == "downloaded"
        or event.event == "merged"
      if event.iteration ~= 2 or not is_late then lines[#lines + 1] = line end
    end
    support.write(job.base .. "/journal.jsonl", table.concat(lines, "\n") .. "\n")
    code, out = collect(job.path, "base", "--to", "out")
    assert.equal(3, code)
    says(out, "6 requests: 4 parsed, 0 as text, 2 errors")
    answers = assert(json.decode(support.read(job.path .. "/out/collected_results.json")))
    assert.equal("transient", answers["r-4"].error.class)
  end)
end)
