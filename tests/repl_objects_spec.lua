local complete = require "obatch.repl.complete"
local json = require "obatch.json"
local loop = require "loop"
local objects = require "obatch.repl.objects"
local show = require "obatch.repl.show"
local stream = require "obatch.repl.stream"
local support = require "support"

--- A result line with an answer; `reason` is its finish_reason.
local function result(id, content, reason, tokens)
  return json.encode { custom_id = id, error = json.null, response = { status_code = 200, body = { model = "m",
    choices = json.array { { finish_reason = reason or "stop", message = { content = content } } },
    usage = { prompt_tokens = 10, completion_tokens = tokens or 5 } } } }
end

describe("files of any size", function()
  local dir, path
  before_each(function()
    dir = support.tmpdir()
    path = dir.path .. "/results.jsonl"
    local lines = {}
    for i = 1, 200 do lines[i] = result("page-" .. i, '{"n": ' .. i .. "}", i % 10 == 0 and "length" or "stop", i) end
    lines[50] = '{"custom_id": broken'
    lines[60] = result("page-60", "no \27[31mJSON")
    support.write(path, table.concat(lines, "\n") .. "\n")
  end)
  after_each(function() getmetatable(dir).__close(dir) end)

  it("counts by a field, by a function, and what filters let through", function()
    local r = stream.results(path)
    assert.equal(200, r:count())
    local counts = r:count "class"
    assert.same({ valid = 180, truncated = 18, invalid = 1, unreadable = 1 }, setmetatable(counts, nil))
    local cut = r:where(function(record) return record.class == "truncated" end)
    local late = cut:where(function(record) return record.number > 100 end)
    assert.same({ 200, 18, 10 }, { r:count(), cut:count(), late:count() })
    assert.same({ [0] = 9, [1] = 1 }, setmetatable(late:count(function(x) return x.number // 200 end), nil))
    assert.same({ ["(none)"] = 10 }, setmetatable(late:count "nothing", nil))
  end)

  it("a filter reads nothing before somebody asks, and only what is asked for", function()
    local seen = 0
    local r = stream.results(path):where(function() seen = seen + 1 return true end)
    assert.equal(0, seen)
    assert.equal("page-1", r:each()().custom_id)
    assert.equal(1, seen)
  end)

  it("records have all that is known of a line", function()
    local list = {}
    stream.results(path):each(function(record) list[record.number] = record end)
    local record = list[200]
    assert.same({ "page-200", "truncated", "cut off after 200 tokens", 200, "m", '{"n": 200}', 10, 200 },
      { record.custom_id, record.class, record.reason, record.status, record.model, record.text, record.tokens_in,
        record.tokens_out })
    assert.equal(result("page-200", '{"n": 200}', "length", 200), record.line)
    assert.equal("unreadable", list[50].class)
    assert.matches("^line 50: ", list[50].reason)
    assert.is_nil(list[50].text)
  end)

  it("judges as text where that is said", function()
    assert.equal(0, stream.results(path, "text"):where(function(x) return x.class == "invalid" end):count())
    assert.has_error(function() stream.results(path, "xml") end)
  end)

  it("a sample is drawn evenly, in order, in one pass, and is complete", function()
    local drawn = {}
    for _ = 1, 300 do
      local before = 0
      local sample = stream.results(path):sample(20)
      assert.equal(20, #sample)
      for _, record in ipairs(sample) do
        assert.is_true(record.number > before)
        before = record.number
        drawn[record.number] = (drawn[record.number] or 0) + 1
        assert.is_string(rawget(record, "class"))
      end
    end
    for number = 1, 200 do assert.is_true((drawn[number] or 0) > 5, number) end -- 30 are to be expected
    assert.equal(200, #stream.results(path):sample(1000))
  end)

  it("finds the text and the line of an id, and says when there is none", function()
    local r = stream.results(path)
    assert.equal('{"n": 199}', r:text "page-199")
    assert.equal(result("page-1", '{"n": 1}', "stop", 1), r:where(function() return true end):line "page-1")
    local ok, failure = pcall(r.text, r, "page-500")
    assert.is_false(ok)
    assert.equal(path .. ": there is no line with the custom_id 'page-500'", tostring(failure))
  end)

  it("the screen shows the first lines, cut, and nothing that a terminal would obey", function()
    for _, width in ipairs { 80, 40 } do
      local shown = show.value(stream.results(path), width, 24)
      assert.is_true(select(2, shown:gsub("\n", "\n")) <= 23)
      for line in shown:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= width, line) end
      assert.matches("\npage%-1 ", shown)
    end
    local bad = stream.results(path, "text"):where(function(x) return x.custom_id == "page-60" end)
    local shown = show.value(bad, 80, 24)
    assert.matches("no %1B[31mJSON", shown, 1, true)
    assert.matches("\n1 in all$", shown)
    assert.matches("none$", show.value(bad:where(function() return false end), 80, 24))
    assert.matches("valid +180\n", show.value(stream.results(path):count "class", 80, 24))
  end)

  it("requests have model, url and the text of the last message", function()
    support.write(path, loop.line("a", nil, { messages = json.array { { role = "system", content = "Be good" },
      { role = "user", content = json.array { { type = "text", text = "Read this" },
        { type = "image_url", image_url = { url = "data:image/png;base64,AAAA" } } } } } }) .. "\n"
      .. loop.line "b" .. "\n")
    local r = stream.requests(path)
    assert.equal("Read this", r:text "a")
    assert.same({ ["gpt-test"] = 2 }, setmetatable(r:count "model", nil))
    assert.matches("\nb +gpt%-test +/v1/chat/completions +%d+ +Transcribe b\n", show.value(r, 100, 24))
  end)

  it("ids that leave no room for the rest are cut in their middle", function()
    local long = ("\u{e9}|"):rep(40)
    support.write(path, result(long .. "a.jpg", "{}") .. "\n" .. result(long .. "b.jpg", "{}") .. "\n")
    for _, width in ipairs { 80, 40 } do
      local shown = show.value(stream.results(path), width, 24)
      for line in shown:gmatch("[^\n]+") do assert.is_true(utf8.len(line) <= width, line) end
      assert.matches("\n\u{e9}|[^\n]*…[^\n]*|a%.jpg  valid[^\n]*\n[^\n]*|b%.jpg  valid", shown)
    end
  end)

  it("wrong arguments are said in words, before anything is read", function()
    support.write(path, ("no JSON\n"):rep(3))
    local r = stream.results(path)
    for words, call in pairs {
      ["where() takes a function of a record"] = function() r:where(1) end,
      ["sample() takes how many to draw, at least 1"] = function() r:sample(0) end,
      ["sample() takes how many to draw"] = function() r:sample("many") end,
      ["count() takes the name of a field"] = function() r:count(5) end,
      ["a custom_id is a string"] = function() r:text(5) end,
      ["the path of a file is expected"] = function() stream.results(5) end,
      ["at least 1"] = function() objects.batches(0) end,
      ["the id of a batch is expected"] = function() objects.batch "" end,
      ["a folder is expected"] = function() objects.job(5) end,
    } do
      local ok, failure = pcall(call)
      assert.is_false(ok)
      assert.equal(stream.Failure, getmetatable(failure), words)
      assert.matches(words, tostring(failure), 1, true)
    end
    assert.equal(2, #r:sample(2.0))
  end)

  it("a dot for a colon, a folder and a misspelt file are said in words", function()
    for words, call in pairs {
      ["this is a method: write it with a colon, as in r:count()"] = function() return stream.results(path).count() end,
      [dir.path .. " is a folder; job \"" .. dir.path .. "\" opens one"] = function() stream.results(dir.path) end,
      [("there is no %s/result.jsonl; near it: %s"):format(dir.path, path)] = function()
        stream.results(dir.path .. "/result.jsonl")
      end,
    } do
      local ok, failure = pcall(call)
      assert.is_false(ok)
      assert.equal(words, tostring(failure))
    end
  end)
end)

describe("jobs and batches", function()
  local job

  --- Runs a script on stdin in the folder of the job; returns its exit code and output.
  local function script(box, text, ...)
    support.write(job.path .. "/input", text)
    local words = {}
    for i, word in ipairs { ... } do words[i] = support.quote(word) end
    return support.shell(("cd %s && OPENAI_API_KEY=%s OPENAI_BASE_URL=%s timeout 60 %s repl %s <input"):format(job.path,
      loop.KEY, box and box.url or "http://127.0.0.1:9/v1", support.quote(support.binary), table.concat(words, " ")))
  end

  setup(function()
    job = loop.job { requests = loop.lines(12) }
    local box <close> = job:sandbox()
    assert.equal(0, (job:run(box)))
  end)
  teardown(function() getmetatable(job).__close(job) end)

  it("a job is read from its files, without the service", function()
    local code, out, err = script(nil, [[
      print(j)
      print(j.totals.requests, #j:iterations(), j:iterations()[1].classes.invalid)
      for item in j:class "valid":each() do io.write(item.custom_id, ";") end print()
      print(j:class "truncated":count(), j:class "keep":where(function(x) return x.iteration == 2 end):count())
      local story = j:why "r-3"
      print(#story.attempts, story.attempts[1].class, story.attempts[2].class, story.attempts[2].text)
      print((tostring(select(2, pcall(j.why, j, "r-33"))):gsub("near it: r%-3, .*", "near it: r-3")))
      print(pcall(j.class, j, "truncate"))
      print(pcall(j.iterations))
      print(j:refresh() == j, j.dir)
    ]], "base")
    assert.same({ 0, "" }, { code, err })
    assert.equal([[
job base: 12 requests, 12 valid
12	2	4
r-1;r-2;r-3;r-4;r-5;r-6;r-7;r-8;r-9;r-10;r-11;r-12;
0	4
2	invalid	valid	{"asked":2,"id":"r-3"}
base: there is no request 'r-33'; near it: r-3
false	there is no class "truncate"; there are: valid, invalid, truncated, refused, transient, permanent, expired, ]]
      .. [[cancelled, missing, in flight, not sent, resend, give_up, keep
false	this is a method: write it with a colon, as in j:iterations()
true	base
]], out)
  end)

  it("Tab knows the classes", function()
    assert.equal('cated"', (complete.answer('j:class "trun', {}, false, 80, 24, objects.known_words())))
  end)

  it("a job and its parts are tables on the screen, the story is that of why", function()
    local _, status = script(nil, "return j", "base")
    assert.matches("base: a job of 12 requests", status, 1, true)
    local _, iterations = script(nil, "return j:iterations()", "base")
    assert.equal("iteration  state   batches  submitted  valid  invalid\n"
      .. "        1  merged        1         12      8        4\n"
      .. "        2  merged        1          4      4        0\n", iterations)
    local _, told = script(nil, "return j:why 'r-3'", "base")
    local _, why = support.shell(("cd %s && %s why base r-3"):format(job.path, support.quote(support.binary)))
    assert.matches("1. iteration 1, part 1, batch_", told, 1, true)
    assert.equal((why:gsub("%s+$", "")), (told:gsub("%s+$", "")))
  end)

  it("DIR that is no job is said, and what there is", function()
    local code, _, err = script(nil, "return 1", "none")
    assert.equal(2, code)
    assert.equal("obatch: there is no none\n", err)
    code, _, err = script(nil, "return 1", ".")
    assert.equal(2, code)
    assert.matches("is no job", err, 1, true)
  end)

  it("batches are listed in pages, have their fields, and their files come as objects", function()
    local box <close> = job:sandbox()
    local code, out, err = script(box, [[
      local page = batches(1)
      print(#page, page[1].status, page[1].request_counts.completed, page[1].output_expires_at == nil)
      local b = batch(page:more()[1].id)
      print(pcall(function() return page:more():more() end))
      print(b:refresh() == b, b.status, b.request_counts.total, b.validation_errors)
      print(b:requests():count(), b:requests():text "r-2", b:results():count "class".invalid)
      print(pcall(b.errors, b))
      print(b:download("files").output:gsub(b.id, "ID"))
      print(pcall(b.cancel, b))
      local ok, failure = pcall(batch, b.id .. "x")
      print(ok, tostring(failure):find("near it: " .. b.id, 1, true) ~= nil)
      print((tostring(b):gsub(b.id, "ID")))
    ]])
    assert.equal(0, code, err)
    local id = out:match("batch (%S+) %(completed%) has no error file")
    assert.is_string(id)
    out = out:gsub(id, "ID")
    assert.equal([[
1	completed	4	true
false	there are no more batches
true	completed	12	nil
12	Transcribe r-2	4
false	batch ID (completed) has no error file
files/ID_output.jsonl	1
]], out:match("^(.-)false\t[^\n]*cancel"))
    assert.matches("\nfalse\ttrue\nID completed: 12 of 12 requests", out, 1, true)
    local _, shown = script(box, "return batches()")
    assert.matches("^id +status", shown)
    assert.falsy(shown:find("_:more", 1, true))
    local _, described = script(box, ("return batch %q"):format(id))
    assert.matches("\n  status +completed\n", described)
    for _, text in ipairs { out, err, shown, described } do assert.falsy(text:find(loop.KEY, 1, true)) end
  end)

  it("cancel asks the service, and the object is what it answers", function()
    local box <close> = support.sandbox { "--model", job.path .. "/model.lua", "--batch-seconds", "600" }
    local code, out, err = script(box, [[
      local api = openai.from_options {}
      local file = api:upload("requests.jsonl", "requests.jsonl")
      local b = batch(api:create_batch(file.id, "/v1/chat/completions", {}).id)
      print(b.cancelling_at, b:cancel() == b, b.cancelling_at ~= nil or b.cancelled_at ~= nil)
    ]])
    assert.same({ 0, "nil\ttrue\ttrue\n", "" }, { code, out, err })
  end)
end)
