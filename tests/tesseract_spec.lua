-- The model that reads: the sample pages through the sandbox, and what it must not be talked into.
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local request = require "obatch.request"
local sandbox_client = require "sandbox_client"
local support = require "support"

local PAGES = support.home .. "/tests/fixtures/pages/"
local PLAIN, UPSIDE_DOWN, OVERWRITTEN = "letters/1893-04-02.png", "letters/1893-08-30.jpg", "letters/1893-09-03.jpg"
local CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"

-- Request lines, one for each of { page =, custom_id = (the page), prompt =, endpoint = }.
local function lines_for(wanted)
  local dir <close> = support.tmpdir()
  local writer <close> = assert(jsonl.create(dir.path .. "/requests.jsonl", {}))
  for _, what in ipairs(wanted) do
    assert(writer:put(request.compose {
      custom_id = what.custom_id or what.page, endpoint = what.endpoint or CHAT, model = "gpt-test",
      prompt = what.prompt or "Transcribe this page.", image = what.page and assert(jsonl.image(PAGES .. what.page)),
    }))
  end
  assert(writer:commit())
  local list = {}
  for line in assert(jsonl.open(dir.path .. "/requests.jsonl")):lines() do list[#list + 1] = line.text end
  return list
end

-- A request line with this text where the image's address is.
local function line_with(custom_id, url)
  local content = json.array { { type = "image_url", image_url = { url = url } } }
  return sandbox_client.line(custom_id, nil, { messages = json.array { { role = "user", content = content } } })
end

local function base64(text)
  local dir <close> = support.tmpdir()
  support.write(dir.path .. "/raw", text)
  return (select(2, support.shell("base64 -w0 " .. dir.path .. "/raw")))
end

describe("the model that reads with tesseract", function()
  local box, client
  setup(function()
    box = support.sandbox { "--model", "tesseract", "--batch-seconds", "0.1" }
    client = sandbox_client.connect(box)
  end)
  teardown(function() getmetatable(box).__close(box) end)

  -- custom_id -> content of the chat answers to these lines.
  local function answers_to(lines)
    local batch = client:run(lines)
    assert.equal(("%d %d 0"):format(#lines, #lines), sandbox_client.counts(batch))
    local contents = {}
    for id, result in pairs(select(2, client:results(batch.output_file_id))) do
      local choice = result.response.body.choices[1]
      assert.equal("stop", choice.finish_reason)
      contents[id] = choice.message.content
    end
    return contents
  end

  local first, again -- what the pages were answered the first and the second time

  it("reads pages of every format, and finds nothing on an empty one", function()
    local wanted = {}
    for path in fs.walk(PAGES, { ext = { [".png"] = true, [".jpg"] = true, [".jpeg"] = true, [".gif"] = true } }) do
      wanted[#wanted + 1] = { page = path:sub(#PAGES + 1) }
    end
    first = answers_to(lines_for(wanted))
    for page, words in pairs {
      [PLAIN] = "The surveyor came on Tuesday and walked the whole\nlength of the north pier.",
      ["letters/1893-05-19 to Margaret.jpg"] = "the two jars of plum jam were not broken.",
      ["ledger/index.gif"] = "Barometer, 9",
      ["forms/arrival.PNG"] = "Master: Thomas Hartnoll",
    } do
      assert.truthy(first[page]:find(words, 1, true), page .. ": " .. first[page])
    end
    assert.equal("", first["ledger/index-back.jpeg"])
    assert.truthy(first[PLAIN]:find("^Port.*Edwin$"), first[PLAIN])
  end)

  it("garbles the page that lies upside down, and reads it when it is asked again", function()
    assert.truthy(#first[UPSIDE_DOWN] > 200)
    assert.falsy(first[UPSIDE_DOWN]:find("barometer", 1, true))
    again = answers_to(lines_for { { page = UPSIDE_DOWN }, { page = OVERWRITTEN }, { page = PLAIN } })
    assert.truthy(again[UPSIDE_DOWN]:find("The barometer falls, so I shall", 1, true), again[UPSIDE_DOWN])
    assert.truthy(again[PLAIN]:find("walked the whole\nlength of the north pier.", 1, true))
    for _, text in ipairs { first[OVERWRITTEN], again[OVERWRITTEN] } do
      assert.truthy(#text > 400)
      assert.falsy(text:find("I have walked the rest of the way", 1, true))
    end
  end)

  it("gives the detectors just the garbled pages to find", function()
    local labelled = {}
    for time, answers in ipairs { first, again } do
      for page, content in pairs(answers) do
        if detectors.judge(content, {}) then table.insert(labelled, time .. " " .. page) end
      end
    end
    table.sort(labelled)
    assert.same({ "1 " .. UPSIDE_DOWN, "1 " .. OVERWRITTEN, "2 " .. OVERWRITTEN }, labelled)
  end)

  it("takes a prompt that brings the first text along for being asked again", function()
    local prompt = "This text is garbled:\n\n%s\n\nWhat does the page say?"
    local contents = answers_to(lines_for {
      { page = UPSIDE_DOWN, custom_id = "with", prompt = prompt:format(first[UPSIDE_DOWN]) },
      -- A short line may be there by chance.
      { page = UPSIDE_DOWN, custom_id = "without",
        prompt = prompt:format(first[OVERWRITTEN] .. "\n" .. first[UPSIDE_DOWN]:match("^[^\n]+")) },
    })
    assert.truthy(contents.with:find("The barometer falls", 1, true), contents.with)
    assert.equal(first[UPSIDE_DOWN], contents.without)
  end)

  it("answers on both endpoints, as JSON when JSON is asked for", function()
    local lines = lines_for { { page = PLAIN, custom_id = "plain", endpoint = RESPONSES },
      { page = PLAIN, custom_id = "json", endpoint = RESPONSES } }
    lines[2] = assert(json.set(lines[2], "/body/text", '{"format":{"type":"json_schema","name":"page"}}'))
    local batch = client:run(lines, { endpoint = RESPONSES })
    local _, by_id = client:results(batch.output_file_id)
    local function text(id) return by_id[id].response.body.output[1].content[1].text end
    assert.equal(first[PLAIN], text("plain"))
    assert.same({ ocr_text = first[PLAIN] }, json.decode(text("json")))
    local usage = by_id.plain.response.body.usage
    assert.is_true(usage.input_tokens > 700 and usage.input_tokens < 2000)
    assert.is_true(usage.output_tokens > 100 and usage.output_tokens < 400)

    lines = lines_for { { page = PLAIN, custom_id = "chat" } }
    lines[1] = assert(json.set(lines[1], "/body/response_format", '{"type":"json_object"}'))
    assert.same({ ocr_text = first[PLAIN] }, json.decode(answers_to(lines).chat))
  end)

  it("refuses a request without an image", function()
    local batch = client:run(lines_for { { custom_id = "no image", prompt = "Mend this: Te qick brwn fox." } })
    local message = client:results(batch.output_file_id)[1].response.body.choices[1].message
    assert.equal(json.null, message.content)
    assert.truthy(message.refusal:find("no image", 1, true))
  end)

  it("answers 400 to what is no image, and never takes it for a list of files to read", function()
    local png = support.read(PAGES .. PLAIN)
    local batch = client:run {
      line_with("list", "data:image/png;base64," .. base64(PAGES .. PLAIN .. "\n")),
      line_with("cut", "data:image/png;base64," .. base64(png:sub(1, 200))),
      line_with("not base64", "data:image/png;base64,iVBORw0KGgo$(touch /tmp/x)"),
      line_with("elsewhere", "https://example.org/page.png"),
      line_with("good", "data:image/png;base64," .. base64(png)),
    }
    assert.equal("5 1 4", sandbox_client.counts(batch))
    local codes = {}
    for id, result in pairs(select(2, client:results(batch.error_file_id))) do
      assert.equal(400, result.response.status_code)
      codes[id] = result.response.body.error.code
    end
    assert.same({ list = "invalid_image_format", cut = "invalid_image", ["not base64"] = "invalid_base64_image",
      elsewhere = "invalid_image_url" }, codes)
  end)
end)

describe("its program", function()
  it("gets no name to the shell that is not quoted, and leaves no files", function()
    local dir <close> = support.tmpdir()
    local temporary = dir.path .. "/it's \"$(exit 3)\" here"
    assert(fs.mkdir(temporary))
    support.write(dir.path .. "/line", lines_for { { page = "forms/arrival.PNG" } }[1])
    support.write(dir.path .. "/ask.lua", [[
      local model, line = ...
      local request = { body = require "obatch.json".decode(require "obatch.fs".read(line)).body }
      print(assert(loadfile(model))()(request, 1, require "obatch.term".sleep))]])
    local code, text, complaint = support.obatch({ TMPDIR = temporary }, "run", dir.path .. "/ask.lua",
      support.home .. "/scripts/models/tesseract.lua", dir.path .. "/line")
    assert.same({ 0, "" }, { code, complaint })
    assert.truthy(text:find("Grey Heron", 1, true), text)
    assert.same({}, fs.list(temporary))
  end)

  it("is named when it is missing, and the sandbox does not start", function()
    local dir <close> = support.tmpdir()
    local code, out, complaint = support.shell(("timeout 30 env PATH=%s %s sandbox --port 0 --model tesseract"):format(
      support.quote(dir.path), support.quote(support.binary)))
    assert.same({ 2, "" }, { code, out })
    assert.truthy(complaint:find("tesseract-ocr", 1, true), complaint)
  end)
end)
