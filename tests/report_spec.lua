-- `obatch report`: what is in its page, and where its marks are.
local answer = require "obatch.report.answer"
local cli = require "obatch.cli"
local detectors = require "obatch.detectors"
local excerpt = require "obatch.report.excerpt"
local fs = require "obatch.fs"
local images = require "obatch.report.images"
local job = require "obatch.report.job"
local json = require "obatch.json"
local page = require "obatch.report.page"
local report = require "obatch.report"
local support = require "support"

local PRICES = { as_of = "yesterday", models = { ["gpt-4o"] = { input = 1, output = 4 } }, assumed_output_tokens = 1 }

local function never() return false end

--- What JavaScript has between two offsets of a string: UTF-16 code units.
local function slice(text, from, to)
  local out, at = {}, 0
  for _, code in utf8.codes(text) do
    if at >= from and at < to then out[#out + 1] = utf8.char(code) end
    at = at + (code > 0xFFFF and 2 or 1)
  end
  return table.concat(out)
end

--- What the marks of an excerpt are on.
local function marked(shown)
  local words = {}
  for i, mark in ipairs(shown.marks or {}) do words[i] = slice(shown.text, mark.from, mark.to) end
  return words
end

--- The data of a page, as a browser reads it: head, items by id, and the HTML.
local function read_page(path)
  local html = support.read(path)
  local items, list = {}, {}
  local lines = assert(html:match('<script type="application/x%-ndjson" id="items">(.-)</script>'))
  for line in lines:gmatch("[^\n]+") do
    local item = assert(json.decode(line))
    items[item.id], list[#list + 1] = item, item
  end
  return assert(json.decode((html:match('<script type="application/json" id="head">(.-)</script>')))), items, list, html
end

--- Writes lines of JSON.
local function write_lines(path, values)
  local lines = {}
  for i, value in ipairs(values) do lines[i] = type(value) == "string" and value or json.encode(value) end
  assert(fs.mkdir((path:match("^(.*)/"))))
  support.write(path, table.concat(lines, "\n") .. "\n")
end

local function request_of(id, words)
  return { custom_id = id, method = "POST", url = "/v1/chat/completions", body = { model = "gpt-4o",
    messages = json.array { { role = "user", content = words or "Transcribe." } } } }
end

--- A result line: content, or a table that is the choice.
local function result_of(id, content, model, usage)
  local choice = type(content) == "table" and content or { finish_reason = "stop",
    message = { role = "assistant", content = content } }
  return { custom_id = id, error = json.null, response = { status_code = 200, body = { model = model or "gpt-4o",
    choices = json.array { choice }, usage = usage or { prompt_tokens = 1000, completion_tokens = 100 } } } }
end

--- A job as an earlier script has left it: requests, what came back, and the verdicts on it.
local function write_job(dir, requests, results, verdicts)
  write_lines(dir .. "/iteration_1/batch_requests_iteration_1.jsonl", requests)
  write_lines(dir .. "/iteration_1/merged_results_iteration_1.jsonl", results)
  if verdicts then write_lines(dir .. "/iteration_1/unresolved_iteration_1.jsonl", verdicts) end
end

local function write_report(dir, options)
  options = options or {}
  options.prices, options.valid = PRICES, options.valid or 200
  options.output_dir, options.interrupted = options.output_dir or "batch_return", options.interrupted or never
  return report.write(dir, options)
end

describe("a text in the report", function()
  it("has its marks on the right characters, whatever is before them", function()
    local before = "😀é\u{2028}𝔄\0\xFF\xFE" -- astral ones count twice, a byte that is no UTF-8 once
    local bytes = before .. "bad😀 end"
    local shown = excerpt.of(bytes, {
      { first = #before + 1, last = #before + 3, kind = "x", words = "w" },
      { first = #before + 5, last = #before + 6, kind = "x", words = "inside of a character" },
      { first = 1, last = 1, kind = "x", words = "its first byte" },
      { first = #bytes + 1, last = #bytes, kind = "x", words = "the end" },
      { first = #before, last = #before, kind = "x", words = "no UTF-8" } })
    assert.equal("😀é\u{2028}𝔄\u{2400}\u{FFFD}\u{FFFD}bad😀 end", shown.text)
    assert.same({ "😀", "\u{FFFD}", "bad", "😀", "" }, marked(shown))
    assert.equal(9, shown.marks[3].from) -- 2 + 1 + 1 + 2 + 1 + 1 + 1
    assert.equal(18, shown.marks[5].from)
  end)

  it("is shown in pieces when it is long, with the places that are marked", function()
    local bytes = ("é"):rep(50000) .. "HERE" .. ("😀"):rep(30000) .. "THE END"
    local at = bytes:find("HERE", 1, true)
    local shown = excerpt.of(bytes, { { first = at, last = at + 3, kind = "x", words = "w" },
      { first = #bytes - 2, last = #bytes, kind = "x", words = "w" } })
    assert.same({ "HERE", "END" }, marked(shown))
    assert.is_true(#shown.text < 30000)
    assert.equal(2, #shown.gaps)
    local left_out = 0
    for _, gap in ipairs(shown.gaps) do left_out = left_out + gap.left_out end
    assert.equal(utf8.len(bytes), utf8.len(shown.text) + left_out)
    assert.equal("éé", slice(shown.text, shown.gaps[1].at - 2, shown.gaps[1].at))
  end)

  it("may be any bytes, with marks anywhere", function()
    math.randomseed(7)
    for _ = 1, 300 do
      local bytes, places = {}, {}
      for i = 1, math.random(0, 60) do bytes[i] = string.char(math.random(0, 3) > 0 and math.random(128, 255) or 65) end
      bytes = table.concat(bytes):rep(math.random(0, 1) * 600 + 1)
      for i = 1, 5 do
        local first = math.random(1, #bytes + 1)
        places[i] = { first = first, last = math.random(first - 1, #bytes), kind = "x", words = "\xFF" }
      end
      local shown = excerpt.of(bytes, places)
      local length = 0
      for _, code in utf8.codes(shown.text) do length = length + (code > 0xFFFF and 2 or 1) end
      for _, mark in ipairs(shown.marks or {}) do
        assert.is_true(mark.from >= 0 and mark.from <= mark.to and mark.to <= length)
      end
      assert(json.encode(shown))
    end
  end)
end)

describe("a request in the report", function()
  it("has the size of an image where the image was, and the keys in their order", function()
    local line = '{"z":1,"a":{"url":"data:image\\/jpeg;base64,' .. ("QUJD"):rep(100000) .. '"},'
      .. '"b":"data:image/png;base64,QUI=","t":"' .. ("word "):rep(2000) .. 'the end"}'
    local text, files = excerpt.line(line)
    assert.same({ { kind = "image/jpeg", bytes = 300000 }, { kind = "image/png", bytes = 2 } }, files)
    assert.matches('"z": 1.*"%[image/jpeg, 300 kB%]".*"b": "%[image/png, 2 bytes%]".*left out.*the end"', text)
    assert.is_true(#text < 3000)
  end)

  it("may be no JSON", function()
    assert.equal("{\u{FFFD}", (excerpt.line("{\xFF")))
  end)
end)

describe("the place where an answer breaks", function()
  local json_rules = { expect = "json" }
  local function first_mark(content, class, reason, rules)
    local shown = excerpt.of(content, answer.places(content, class, reason, rules or json_rules))
    return marked(shown)[1], shown.marks and shown.marks[1].kind
  end

  it("is the byte of the JSON error, of a bare answer and of a fenced one", function()
    local text = require "obatch.text"
    for _, content in ipairs { '  {"😀": x}', 'Here it is:\n\n```json\n {"😀": x}\n```\nDone.' } do
      local _, reason = text.find_json(content)
      assert.same({ "x", "json" }, { first_mark(content, "invalid", reason) })
    end
    local _, reason = text.find_json('{"a": ')
    assert.same({ "", "json" }, { first_mark('{"a": ', "invalid", reason) })
  end)

  it("is the value that the schema names, also under a key that looks like a message", function()
    local content = 'Answer:\n```json\n{"b": 5, "a: /b": {"c": [1, "no", {"d": [5]}]}}\n```'
    assert.equal('"no"', (first_mark(content, "invalid", "not of the schema: at /a: ~1b/c/1: expected integer")))
    assert.equal("5", (first_mark(content, "invalid", "not of the schema: at /b: expected string: got 5")))
    assert.is_nil((first_mark(content, "invalid", "not of the schema: at /gone: expected string")))
    assert.is_nil((first_mark(content, "invalid", "not of the schema: at the top: expected array")))
  end)

  it("is the end of what was cut off", function()
    assert.same({ "", "truncated" }, { first_mark("abc", "truncated", "cut off after 5 tokens") })
  end)

  it("is what was repaired in a good answer", function()
    local content = '```json\n{"a": "x\ny\1z", "b": [1, 2,\n],}\n```'
    local shown = excerpt.of(content, answer.places(content, "valid", nil, { expect = "json", repair = true }))
    assert.same({ "\n", "\1", ",", "," }, marked(shown))
    assert.same({}, answer.places('{"a": 1}', "valid", nil, { expect = "json", repair = true }))
  end)
end)

describe("reasons", function()
  it("are grouped without their numbers, ids and quoted words", function()
    local function same(a, b) assert.equal(answer.group(a), answer.group(b)) end
    same("not JSON: expected a value at byte 132", "not JSON: expected a value at byte 7")
    same("status 400: invalid_image: page-0007 of batch_ab12 is broken",
      "status 400: invalid_image: page-9 of batch_cd3 is broken")
    same('repetition 1.00 ("the mill" 40 times in a row)', 'repetition 0.50 ("a" 400 times in a row)')
    assert.not_equal(answer.group("status 400: x"), answer.group("status 413: x"))
    assert.not_equal(answer.group("expected ',' or '}' at byte 1"), answer.group("expected ':' at byte 1"))
  end)
end)

describe("detectors.findings", function()
  local function places(content, context)
    local found = {}
    for _, finding in ipairs(detectors.findings(content, context or {})) do
      found[finding.name] = {}
      for i, place in ipairs(finding.places) do found[finding.name][i] = content:sub(place.first, place.last) end
    end
    return found
  end
  local PAGE = "The harbour master of the town was seen at the north pier in the rain.\n"

  it("say where", function()
    local loop = ("and the ship went down "):rep(60)
    assert.equal(loop:sub(1, -2), places(PAGE .. loop .. "\nEnd of it.\n").repetition[1])
    assert.same({ "\u{FFFD}\u{FFFD}", "\u{FFFD}" },
      places(PAGE .. "a\u{FFFD}\u{FFFD}b\u{FFFD}")["replacement characters"])
    assert.same({ "\u{E000}\u{E001}", "Ã©" }, places(PAGE .. "\u{E000}\u{E001} Ã©")["odd characters"])
    assert.same({ "\xFF\xFE", "\xC3" }, places(PAGE .. "\xFF\xFEa\xC3")["invalid UTF-8"])
    assert.same({ "x" }, places('{"a": xxx}', { json = true })["broken JSON"])
    local garbled = places(PAGE .. PAGE .. "the JoJotWoIe of yea} and Ja}Jaq was bst3st here. McGinnis said so.\n")
    assert.same({ "JoJotWoIe", "yea}", "Ja}Jaq", "bst3st" }, garbled["garbled words"])
    assert.same({ "I'm sorry, but I can't read the text in this image." },
      places("I'm sorry, but I can't read the text in this image.").refusal)
  end)

  it("is what judge adds up", function()
    local content = PAGE .. ("and the ship went down "):rep(60)
    local label, score, reasons = detectors.judge(content, {})
    local sum = 0
    for _, finding in ipairs(detectors.findings(content, {})) do sum = sum + finding.score end
    assert.is_true(label)
    assert.equal(sum, score)
    assert.matches('^repetition 1.00 %("and the ship went down" 60 times in a row%)$', reasons[1])
  end)
end)

describe("the page", function()
  --- Base64 to hexadecimal digits.
  local function to_hex(base64)
    local digits, bits, out = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", "", {}
    for digit in base64:gmatch("[^=]") do
      local value = digits:find(digit, 1, true) - 1
      for bit = 5, 0, -1 do bits = bits .. (value >> bit & 1) end
    end
    for byte in bits:gmatch("%d%d%d%d%d%d%d%d") do out[#out + 1] = ("%02x"):format(tonumber(byte, 2)) end
    return table.concat(out)
  end

  it("runs its own script and nothing else", function()
    local dir <close> = support.tmpdir()
    local hostile = '</script><script>alert(1)</script><!-- \u{2028}\u{2029} <img src=x onerror="alert(1)">'
    do
      local p <close> = assert(page.create(dir.path .. "/p.html", hostile, cli.home .. "/lua/obatch/report/"))
      assert(p:item { id = hostile })
      assert(p:commit { title = hostile })
    end
    local head, items, _, html = read_page(dir.path .. "/p.html")
    assert.equal(hostile, head.title)
    assert.equal(hostile, items[hostile].id)
    assert.is_nil(html:find("<script>alert", 1, true))
    assert.is_nil(html:find("<img src=x", 1, true))
    assert.is_nil(html:find("\u{2028}", html:find("<body>", 1, true), true))
    local policy = html:match('http%-equiv="Content%-Security%-Policy" content="([^"]*)"')
    assert.matches("default%-src 'none'", policy)
    for kind, element in pairs { script = "script", style = "style" } do
      local source = html:match("<" .. element .. ">(.-)</" .. element .. ">")
      local hash = policy:match(kind .. "%-src 'sha256%-([^']*)'")
      assert.equal(fs.sha256_text(source), to_hex(hash))
    end
    local _, scripts = html:gsub("<script", "")
    assert.equal(3, scripts) -- items, head, and its own
  end)

  it("is whole or not there", function()
    local dir <close> = support.tmpdir()
    write_job(dir.path, { request_of "a" }, { result_of("a", "{}") })
    support.write(dir.path .. "/report.html", "the one before")
    local asked = 0
    local _, _, code = write_report(dir.path, { interrupted = function()
      asked = asked + 1
      return true
    end })
    assert.equal("INTERRUPTED", code)
    assert.equal(1, asked)
    assert.equal("the one before", support.read(dir.path .. "/report.html"))
    assert.is_nil(fs.stat(dir.path .. "/report.html.part"))
  end)
end)

describe("the report of a job", function()
  it("has every failure with its place, a sample of the rest, and what they cost", function()
    local dir <close> = support.tmpdir()
    local base = dir.path .. "/out"
    local requests, results, verdicts = {}, {}, {}
    for i = 1, 40 do
      requests[i] = request_of("good-" .. i)
      results[i] = result_of("good-" .. i, '{"n": ' .. i .. "}")
    end
    local function fail(id, content, class, reason, model)
      requests[#requests + 1] = request_of(id, "<b>\u{2028}")
      results[#results + 1] = content and result_of(id, content, model)
      verdicts[#verdicts + 1] = { custom_id = id, class = class, reason = reason, action = "give_up" }
    end
    fail("broken", '😀{"a": x}', "invalid", "not JSON: expected a value at byte 1")
    fail("</script>\u{2028}\0\127", "<script>alert(1)</script>", "invalid", "not JSON: expected a value at byte 1")
    fail("cut", { finish_reason = "length", message = { content = "" } }, "truncated", "cut off after 100 tokens",
      "nobody-knows")
    fail("gone", nil, "missing", "in neither file")
    results[#results + 1] = '{"custom_id":"surrogate","response":{"status_code":200,"body":{"choices":[{'
      .. '"finish_reason":"stop","message":{"content":"\\ud800"}}]}},"error":null}'
    requests[#requests + 1] = request_of("surrogate")
    verdicts[#verdicts + 1] = { custom_id = "surrogate", class = "invalid", reason = "the text cannot be decoded: x",
      action = "resend" }
    write_job(base, requests, results, verdicts)
    local broken_sha256 = fs.sha256_text('😀{"a": x}')
    write_lines(base .. "/decisions.jsonl", { { custom_id = "broken", decision = "accept", note = "it is right",
      sha256 = broken_sha256 } })

    local result = assert(write_report(base, { valid = 10, policy_file = "my policy.lua" }))
    assert.equal(base .. "/report.html", result.path)
    assert.equal(15, result.shown)
    assert.equal(30, result.hidden)
    assert.matches("^obatch correction_loop %-%-base%-dir .* %-%-policy 'my policy.lua' %-%-decisions FILE$",
      result.command)

    local head, items, list = read_page(result.path)
    assert.equal("job", head.kind)
    assert.same({ requests = 45, valid = 40, given_up = 4, left = 1, in_flight = 0 }, head.totals)
    assert.equal(45, head.shown + head.hidden)
    assert.equal("10 of 40 valid ones, picked at random", head.sample)
    assert.equal(5, head.iterations[1].classes.invalid + head.iterations[1].classes.truncated
      + head.iterations[1].classes.missing)
    local cost = {}
    for _, row in ipairs(head.usage) do cost[(row.model or "?") .. " " .. row.class] = row.cost or "unknown" end
    assert.equal((40 * 1000 * 1 + 40 * 100 * 4) / 1e6, cost["gpt-4o valid"])
    assert.equal(2 * (1000 + 400) / 1e6, cost["gpt-4o invalid"])
    assert.equal("unknown", cost["nobody-knows truncated"]) -- not 0

    local broken = items.broken
    assert.same({ "😀" }, marked(broken.attempts[1]))
    assert.equal(broken_sha256, broken.sha256)
    assert.equal(0, broken.answer)
    assert.same({ decision = "accept", note = "it is right" }, broken.decision)
    assert.equal("<script>alert(1)</script>", items["</script>\u{2028}\u{2400}\127"].attempts[1].text)
    assert.matches('"content": "<b>', items["</script>\u{2028}\u{2400}\127"].attempts[1].request)
    assert.same({ "" }, marked(items.cut.attempts[1]))
    assert.matches('"finish_reason": "length"', items.cut.attempts[1].result)
    assert.is_nil(items.gone.sha256)
    assert.is_nil(items.surrogate.attempts[1].text)
    assert.matches("\\ud800", items.surrogate.attempts[1].result, 1, true)
    local previous = 0
    for i = 1, 10 do -- the sample is in the order of the requests
      local number = tonumber(list[i].id:match("^good%-(%d+)$"))
      assert.is_true(number > previous)
      previous = number
    end

    assert(write_report(base, { valid = 10 }))
    local _, _, again = read_page(result.path)
    assert.equal(list[1].id, again[1].id)
    assert.equal(list[10].id, again[10].id)
  end)

  it("says what was never answered, and shows what was changed between two attempts", function()
    local dir <close> = support.tmpdir()
    local requests = { request_of "a", request_of "b" }
    write_job(dir.path, requests, { result_of("a", "no"), result_of("b", "no") },
      { { custom_id = "a", class = "invalid", reason = "r", action = "resend" },
        { custom_id = "b", class = "invalid", reason = "r", action = "resend" } })
    local second = dir.path .. "/iteration_2/"
    write_lines(second .. "batch_requests_iteration_2.jsonl", { request_of("a"), request_of("b", "again") })
    write_lines(second .. "merged_results_iteration_2.jsonl", { result_of("a", "no"), result_of("b", "{}") })
    write_lines(second .. "unresolved_iteration_2.jsonl",
      { { custom_id = "a", class = "invalid", reason = "r", action = "give_up" } })
    assert(write_report(dir.path))
    local _, items = read_page(dir.path .. "/report.html")
    assert.equal(2, #items.a.attempts)
    assert.matches("Transcribe", items.a.attempts[1].request)
    assert.is_nil(items.a.attempts[2].request) -- the same bytes
    assert.matches("again", items.b.attempts[2].request)
    assert.equal("valid", items.b.class)
    assert.equal(1, items.b.answer)
    assert.equal(fs.sha256_text("{}"), items.b.sha256)
  end)

  it("does not grow in memory with the number of its items", function()
    local dir <close> = support.tmpdir()
    local requests, results, verdicts, filler = {}, {}, {}, ("x"):rep(40000)
    for i = 1, 400 do
      requests[i], results[i] = request_of("r-" .. i), result_of("r-" .. i, filler .. i)
      verdicts[i] = { custom_id = "r-" .. i, class = "invalid", reason = "not JSON: expected a value at byte 1",
        action = "give_up" }
    end
    write_job(dir.path, requests, results, verdicts)
    requests, results, verdicts = nil, nil, nil -- luacheck: ignore
    local held, count = {}, 0
    local stub = { item = function(_, item)
      count = count + 1
      assert(item.attempts[1].text)
      if count == 100 or count == 400 then
        collectgarbage()
        held[#held + 1] = collectgarbage "count"
      end
      return true
    end }
    assert(job.write(dir.path, { prices = PRICES, valid = 0, interrupted = never }, stub))
    assert.equal(400, count)
    assert.is_true(held[2] - held[1] < 1000, ("%.0f kB more"):format(held[2] - held[1])) -- of 12 MB of texts
  end)
end)

describe("the report of images", function()
  local function touch(path, content)
    assert(fs.mkdir((path:match("^(.*)/"))))
    support.write(path, content or "not really an image")
  end

  it("names each image by an address that a browser finds", function()
    assert.equal("../data/a%20b%23%3F%25%3A.png", images.address("/x/data/a b#?%:.png", "/x/batch"))
    assert.equal("a.png", images.address("/x/a.png", "/x"))
    assert.equal("../../%FF%C3%A9/a.png", images.address("/\xFFé/a.png", "/x/y"))
    assert.equal("a/a.png", images.address("/a/a/a.png", "/a"))
  end)

  it("shows a folder of images with texts, whoever made them", function()
    local dir <close> = support.tmpdir()
    local scans = dir.path .. "/scans"
    local bad_name = "b \xFF<b>#.PNG"
    touch(scans .. "/a.jpg")
    touch(scans .. "/a.jpg.txt", "The harbour master was seen.\n")
    touch(scans .. "/" .. bad_name)
    local loop = ("and the ship went down "):rep(60):sub(1, -2)
    -- It is judged without its fence.
    touch(scans .. "/" .. bad_name .. ".txt.api", "```\nThe mill. " .. loop .. "\nThe end.\n```\n")
    touch(scans .. "/c/blank.png")
    touch(scans .. "/c/blank.png.txt", "")
    touch(scans .. "/d.png")
    touch(scans .. "/gone.png.txt", "Its image is gone. \xFF")
    touch(scans .. "/a.jpg.txt.before", "</script>Teh harbour")
    touch(scans .. "/notes.txt", "not a text of an image")
    write_lines(scans .. "/decisions.jsonl", { { path = "a.jpg", decision = "reject", note = "a letter is missing",
      sha256 = fs.sha256(scans .. "/a.jpg.txt") } })
    assert(write_report(scans))
    local head, items, list = read_page(scans .. "/report.html")
    assert.equal("images", head.kind)
    assert.equal(5, #list)
    assert.same({ images = 5, text = 3, api = 1, missing = 1, under_way = 0, unresolved = 0, suspicious = 2 },
      head.totals)
    assert.matches("^obatch deep_clean %-%-image%-dir .*/scans %-%-decisions FILE$", head.decisions)

    local by_name = {}
    for _, item in ipairs(list) do by_name[item.name:match("scans/(.*)")] = item end
    local a = by_name["a.jpg"]
    assert.equal("a.jpg", a.image)
    assert.equal("text", a.state)
    assert.equal(fs.sha256(scans .. "/a.jpg.txt"), a.sha256)
    assert.is_false(a.label)
    assert.same({ { name = "before deep_clean", text = "</script>Teh harbour" } }, a.versions)
    assert.same({ decision = "reject", note = "a letter is missing" }, a.decision)
    local b = by_name["b %FF<b>#.PNG"]
    assert.equal("b%20%FF%3Cb%3E%23.PNG", b.image)
    assert.equal(scans .. "/" .. bad_name, require "obatch.image_record".decode_path(b.path))
    assert.same({ "api", true, "repetition" }, { b.state, b.label, b.group })
    assert.same({ loop }, marked(b))
    assert.matches("60 times in a row", b.marks[1].words)
    assert.is_true(by_name["c/blank.png"].blank)
    assert.equal(0, by_name["c/blank.png"].score)
    assert.same({ "missing", "there is no text beside it" }, { by_name["d.png"].state, by_name["d.png"].reason })
    assert.is_nil(by_name["gone.png"].image)
    assert.same({ "\u{FFFD}" }, marked(by_name["gone.png"]))
    assert(items[a.id])
  end)

  it("shows the project of a batch folder: what came back, what did not, what is under way", function()
    local dir <close> = support.tmpdir()
    local root = dir.path
    local function record(id, names, is_completed)
      local items = json.array {}
      for i, name in ipairs(names) do
        touch(root .. "/scans/" .. name)
        items[i] = { custom_id = "scans|" .. name, path = root .. "/scans/" .. name }
      end
      write_lines(("%s/batch/%s%s.txt"):format(root, is_completed and "completed/" or "", id), { { batch = { id = id,
        status = is_completed and "completed" or "in_progress", created_at = is_completed and 100 or 200,
        completed_at = is_completed and 160 or nil, endpoint = "/v1/chat/completions" },
        image_dir = root .. "/scans", run = "r", part = 1, request = { model = "gpt-4o" }, items = items } })
    end
    record("batch_1", { "a.png", "b.png", "c.png" }, true)
    record("batch_2", { "c.png", "e.png" }, false)
    touch(root .. "/scans/never.png")
    write_lines(root .. "/batch/journal.jsonl", { { event = "started", run = "r", time = 1 } })
    write_lines(root .. "/batch/unresolved.jsonl", {
      { custom_id = "scans|b.png", path = root .. "/scans/b.png", batch = "batch_1", class = "refused",
        reason = "the model refused: no, page 17", action = "give_up", attempts = 2 },
      { custom_id = "scans|a.png", path = root .. "/scans/a.png", batch = "batch_1", class = "invalid", reason = "r",
        action = "resend", attempts = 1 },
      { custom_id = "scans|a.png", path = root .. "/scans/a.png", batch = "batch_1", class = "valid",
        action = "done" } })
    write_lines(root .. "/batch_return/batch_1.jsonl", { result_of("scans|a.png", "```\nThe text of a.\n```"),
      result_of("scans|c.png", "The text of c."),
      result_of("scans|b.png", { finish_reason = "stop", message = { refusal = "no, page 17" } }) })
    touch(root .. "/scans/a.png.txt", "The text of a.")
    touch(root .. "/scans/c.png.txt", "The text of c.")
    -- deep_clean was asked about a, and its answer is there.
    write_lines(root .. "/deep_clean/run_001/completed.json", { { items = json.array { { custom_id = "x",
      path = root .. "/scans/a.png", image_dir = root .. "/scans" } } } })
    write_lines(root .. "/deep_clean/run_001/final_results.jsonl", { result_of("x", "What deep_clean said.") })
    write_lines(root .. "/deep_clean/run_001/journal.jsonl", { { event = "started", run = "d", time = 1 } })

    assert(write_report(root .. "/batch"))
    local head, items = read_page(root .. "/batch/report.html")
    assert.same({ images = 5, text = 2, api = 0, missing = 1, under_way = 1, unresolved = 1, suspicious = 0 },
      head.totals)
    local a, b, c, e = items["scans|a.png"], items["scans|b.png"], items["scans|c.png"], items["scans|e.png"]
    assert.equal("../scans/a.png", a.image)
    assert.same({ { name = "returned by batch_1", text = "```\nThe text of a.\n```" },
      { name = "returned by deep_clean run_001", text = "What deep_clean said." } }, a.versions)
    assert.same({ "unresolved", "refused", "the model refused: no, page 17", "the model refused: no, page N", 2 },
      { b.state, b.class, b.reason, b.group, b.attempts })
    assert.is_nil(c.versions) -- what came back is what is there
    assert.same({ "text", "under way: batch_2" }, { c.state, c.reason })
    assert.same({ "under way", "under way: batch_2" }, { e.state, e.reason })
    local times = {}
    for _, batch in ipairs(head.batches) do
      times[batch.id] = { batch.status, batch.requests, batch.created_at, batch.ended_at, batch.model }
    end
    assert.same({ "completed", 3, 100, 160, "gpt-4o" }, times.batch_1)
    assert.same({ "in_progress", 2, 200, nil, "gpt-4o" }, times.batch_2)
    local unsent
    for _, item in pairs(items) do unsent = item.name:find("never", 1, true) and item or unsent end
    assert.same({ "missing", "it was never sent" }, { unsent.state, unsent.reason })
  end)

  it("says what failures cost: also good answers whose text is labelled now, or was asked for again", function()
    local dir <close> = support.tmpdir()
    local root = dir.path
    local function item(name, id) return { custom_id = id or name, path = ("%s/scans/%s.png"):format(root, name),
      image_dir = root .. "/scans" } end
    local function record(id, time, ...)
      write_lines(("%s/batch/completed/%s.txt"):format(root, id), { { batch = { id = id, status = "completed",
        created_at = time, completed_at = time + 10 }, image_dir = root .. "/scans", run = "r", part = 1,
        request = { model = "gpt-4o" }, items = json.array { ... } } })
    end
    -- Each answer has a number of tokens of its own, so that one sees which of them counts for what.
    local function answer_of(id, tokens, content)
      return result_of(id, content or "A text.", "gpt-4o", { prompt_tokens = tokens, completion_tokens = 0 })
    end
    record("batch_1", 100, item "kept", item "labelled", item "twice", item "gone", item "mended", item "bad")
    record("batch_2", 200, item "twice")
    write_lines(root .. "/batch/journal.jsonl", { { event = "started", run = "r", time = 1 } })
    write_lines(root .. "/batch_return/batch_1.jsonl", { answer_of("kept", 1), answer_of("labelled", 10),
      answer_of("twice", 100), answer_of("gone", 1000), answer_of("mended", 10000), answer_of("stranger", 2),
      answer_of("bad", 100000, { finish_reason = "length", message = { content = "A te" } }) })
    write_lines(root .. "/batch_return/batch_2.jsonl", { answer_of("twice", 4) })
    for _, name in ipairs { "kept", "twice", "mended" } do touch(root .. "/scans/" .. name .. ".png.txt", "A text.") end
    touch(root .. "/scans/labelled.png.txt.api", "A text.")
    local run = root .. "/deep_clean/run_001"
    write_lines(run .. "/completed.json", { { items = json.array { item("mended", "m"), item("labelled", "l") } } })
    write_job(run, { request_of "m", request_of "l" }, { answer_of("m", 8), answer_of("l", 20) })
    write_lines(run .. "/final_results.jsonl", { answer_of("m", 8), answer_of("l", 20) })

    assert(write_report(root .. "/batch"))
    local head = read_page(root .. "/batch/report.html")
    local tokens, answers = {}, 0
    for _, row in ipairs(head.usage) do
      tokens[row.class], answers = (tokens[row.class] or 0) + row.tokens_in, answers + row.requests
    end
    assert.same({ valid = 1 + 2 + 4 + 8, ["sent again"] = 10 + 100 + 10000, labelled = 20, truncated = 100000,
      ["without a text"] = 1000 }, tokens)
    assert.equal(10, answers)
  end)

  it("knows a folder by where it is, without saying it", function()
    local dir <close> = support.tmpdir()
    local keys = {}
    for i, name in ipairs { "one", "two", "one" } do
      local scans = ("%s/%s/scans"):format(dir.path, name)
      touch(scans .. "/a.png")
      assert(write_report(scans, { output = dir.path .. "/page.html" }))
      keys[i] = read_page(dir.path .. "/page.html").key
    end
    assert.matches("^%x+$", keys[1])
    assert.not_equal(keys[1], keys[2])
    assert.equal(keys[1], keys[3])
  end)
end)

describe("obatch report", function()
  it("writes to no folder and to a folder at the root", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/a.png", "x")
    for _, output in ipairs { "/proc", "/proc/no.html", "/proc.html/", dir.path .. "/none/x.html" } do
      local code, out, err = support.obatch("report", dir.path, "--output", output)
      assert.equal(1, code)
      assert.equal("", out)
      assert.truthy(err:find(output, 1, true) or err:find("/none/: ", 1, true), err)
    end
  end)

  it("says where the page is and how decisions come back, and takes a folder with a slash", function()
    local dir <close> = support.tmpdir()
    write_job(dir.path .. "/out", { request_of "a" }, { result_of("a", "{}") })
    local code, out, err = support.obatch("report", dir.path .. "/out/", "--quiet", "--valid", "0")
    assert.equal(0, code, err)
    assert.equal("", err)
    assert.matches("out/report.html: 0 items, [%d.]+ kB %(and 1 good answer that it leaves out: %-%-valid N", out)
    assert.matches("obatch correction_loop %-%-base%-dir .*%-%-decisions FILE", out)
  end)

  it("refuses what it cannot report on", function()
    local dir <close> = support.tmpdir()
    for words, complaint in pairs { [dir.path .. "/none"] = "there is no such folder", [dir.path] = "holds no images",
      [support.binary] = "is not a folder" } do
      local code, out, err = support.obatch("report", words)
      assert.equal(2, code)
      assert.equal("", out)
      assert.matches(complaint, err)
      assert.is_nil(fs.stat(words .. "/report.html"))
    end
    local code, _, err = support.obatch("report", dir.path, "--valid=-1")
    assert.equal(2, code)
    assert.matches("is not a whole number", err)
  end)
end)
