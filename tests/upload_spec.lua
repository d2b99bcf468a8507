-- Upload: which images are sent, what their requests say, and what is left out and said.
local fs = require "obatch.fs"
local image_bytes = require "image_bytes"
local json = require "obatch.json"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

local says = loop.says
local check = pipeline.check

--- The requests that the sandbox was given, by custom_id.
local function requests(project)
  local found = {}
  for _, file in ipairs(project:records("files")) do
    if file.purpose == "batch" then
      for line in support.read(project.box .. "/files/" .. file.id):gmatch("[^\n]+") do
        local request = assert(json.decode(line))
        found[request.custom_id] = request
      end
    end
  end
  return found
end

local function uploaded(options, words)
  local project = pipeline.project(options)
  local box <close> = project:sandbox()
  project:run("upload", box, words)
  return project
end

describe("upload", function()
  it("brings each image to its text, once, and tidies up", function()
    local project <close> = pipeline.project { images = 5, upload = { "--max-images-per-batch", "2" } }
    local box <close> = project:sandbox()
    assert.equal(0, (project:run("upload", box)), project.err)
    says(project, "5 images: 5 sent in 3 batches")
    says(project, "next: obatch download")
    assert.equal(3, #project:batch_records("batch"))
    project:run("download", box)
    check(project)
  end)

  it("sends nothing that has a text, is blank, labelled or on its way, and says so", function()
    local project <close> = pipeline.project { images = 5 }
    local box <close> = project:sandbox()
    support.write(project.base .. "/data/b c/p-1.png.txt", "a text")
    support.write(project.base .. "/data/a/p-2.png.txt", "")
    support.write(project.base .. "/data/b c/p-3.png.txt.api", "bad")
    project:run("upload", box, { "--limit", "1" })
    says(project, "5 images: 1 sent in 1 batch ")
    says(project, "skipped: 1 are beyond --limit")
    for _, words in ipairs { "1 have a text", "1 are blank pages", "1 are labelled .api" } do
      says(project, "skipped: " .. words)
    end
    -- The same folder by another name.
    project:run("upload", box, { "--image-dir", "./data/", "--redo" })
    says(project, "skipped: 1 are on their way")
    says(project, "4 sent")
    local files = project:created()
    assert.equal(2, files)
  end)

  it("takes up blank pages and what was given up only when asked", function()
    local project <close> = pipeline.project { images = 2, model = [[return { refusal = "no" }]] }
    local box <close> = project:sandbox()
    project:run("upload", box)
    assert.equal(3, (project:run("download", box)), project.err)
    project:run("upload", box)
    says(project, "skipped: 2 were given up")
    support.write(project.base .. "/data/a/p-2.png.txt", " \n")
    project:run("upload", box, { "--redo-empty", "--dry-run" })
    says(project, "1 would be sent")
    project:run("upload", box, { "--redo-failed" })
    says(project, "1 sent")
    for _, record in ipairs(project:batch_records("batch")) do assert.equal(2, record.items[1].attempt) end
    project:run("download", box)
    assert.equal(2, project:paid()["data|b c|p-1.png"])
  end)

  it("leaves out by name what is no whole image, and sends the others", function()
    local png = image_bytes.png(3, 3)
    local project <close> = uploaded({ images = { ["ok.png"] = png, ["empty.png"] = "", ["text.jpg"] = "no image",
      ["cut.png"] = image_bytes.cut(image_bytes.png(40, 40)), ["cut.jpg"] = image_bytes.cut(image_bytes.jpeg(40, 40)),
      ["big.png"] = image_bytes.png(3, 3, image_bytes.png_chunk("tEXt", ("x"):rep(9000))),
      [("n"):rep(248) .. ".png"] = png } }, { "--max-bytes", "9000" })
    says(project, "7 images: 1 sent in 1 batch ")
    assert.equal(3, project.code)
    for _, name in ipairs { "empty.png", "text.jpg", "cut.png", "cut.jpg", "big.png", ("n"):rep(248) } do
      says(project, "left out: data/" .. name)
    end
  end)

  it("takes the type of an image from its bytes, not from its name", function()
    local project <close> = uploaded { images = { ["a.png"] = image_bytes.jpeg(3, 3),
      ["b.JPEG"] = image_bytes.png(3, 3), ["c.gif"] = image_bytes.gif(3, 3, 1),
      ["d.webp"] = image_bytes.webp(3, 3, "lossy") } }
    local types = {}
    for id, request in pairs(requests(project)) do
      types[id] = request.body.messages[1].content[2].image_url.url:match("^data:(.-);base64,")
    end
    assert.same({ ["data|a.png"] = "image/jpeg", ["data|b.JPEG"] = "image/png", ["data|c.gif"] = "image/gif",
      ["data|d.webp"] = "image/webp" }, types)
  end)

  it("composes chat requests and responses requests", function()
    local words = { "--model", "gpt-5.4-mini", "--detail", "low", "--max-tokens", "77" }
    local project <close> = uploaded({ images = 1 }, words)
    assert.same({ custom_id = "data|b c|p-1.png", method = "POST", url = "/v1/chat/completions", body = {
      model = "gpt-5.4-mini", max_completion_tokens = 77, messages = { { role = "user", content = {
        { type = "text", text = "Transcribe p-1.png: {\"text\": \"...\"}\n" },
        { type = "image_url", image_url = { detail = "low", url = "data:image/png;base64,"
          .. io.popen("base64 -w0 " .. support.quote(project.base .. "/data/b c/p-1.png")):read("a") } } } } } } },
      requests(project)["data|b c|p-1.png"])
    table.move({ "--endpoint", "/v1/responses" }, 1, 2, #words + 1, words)
    local other <close> = uploaded({ images = 1 }, words)
    local body = requests(other)["data|b c|p-1.png"].body
    assert.equal(77, body.max_output_tokens)
    assert.equal("input_text", body.input[1].content[1].type)
    assert.equal("input_image", body.input[1].content[2].type)
    assert.truthy(body.input[1].content[2].image_url:find("^data:image/png;base64,"))
  end)

  it("gives names that are ambiguous or not UTF-8 custom_ids of their own, the same in every run", function()
    local png = image_bytes.png(2, 2)
    local names = { "a/b.png", "a|b.png", "n\xe9.png", "line\nbreak.png", "it's \"quoted\".png", ("d"):rep(200) .. "/"
      .. ("x"):rep(200) .. ".png" }
    local images = {}
    for _, name in ipairs(names) do images[name] = png end
    local project <close> = pipeline.project { images = images }
    local box <close> = project:sandbox()
    project:run("upload", box)
    assert.equal(0, project.code, project.err)
    local ids = {}
    for _, item in ipairs(project:batch_records("batch")[1].items) do ids[#ids + 1] = item.custom_id end
    table.sort(ids)
    assert.same({ "data|a|b.png", "data|a|b.png~2", "data|" .. ("d"):rep(200) .. "|" .. ("x"):rep(200) .. ".png",
      "data|it's \"quoted\".png", "data|line\nbreak.png", "data|n%E9.png" }, ids)
    assert.equal(0, (project:run("download", box)), project.err)
    for _, name in ipairs(names) do assert.truthy(project:text(name), name) end
    assert.equal("The text of data|a|b.png~2.", project:text("a|b.png"))
    assert.equal("The text of data|a|b.png.", project:text("a/b.png"))
  end)

  it("cuts batches by their bytes", function()
    local project <close> = uploaded({ images = 4 }, { "--max-bytes", "900" })
    assert.equal(0, project.code, project.err)
    for _, file in ipairs(project:records("files")) do
      assert.truthy(file.purpose ~= "batch" or file.bytes <= 900, file.bytes)
    end
    says(project, "4 sent in 2 batches")
  end)

  it("makes no batch of nothing", function()
    local project <close> = uploaded({ images = { ["big.png"] = image_bytes.png(3, 3,
      image_bytes.png_chunk("tEXt", ("x"):rep(9000))) } }, { "--max-bytes", "9000" })
    assert.equal(3, project.code, project.err)
    says(project, "1 image: 0 sent in 0 batches")
    assert.same({}, project:records("files"))
  end)

  it("keeps the requests until their batch exists, and does not upload them again", function()
    local project <close> = pipeline.project { images = 2 }
    do
      local box <close> = project:sandbox { "--faults", "create_batch: status=401" }
      assert.equal(1, (project:run("upload", box)))
      local _, found = support.shell("ls " .. project.base .. "/batch/*_0001.jsonl")
      assert.truthy(found:find("batch_requests_0001.jsonl", 1, true), found)
    end
    local box <close> = project:sandbox()
    project:run("upload", box)
    says(project, "skipped: 2 are on their way")
    project:run("download", box)
    check(project)
    local files = project:created()
    assert.equal(1, files)
  end)

  it("says with --dry-run what would be sent and may cost, and sends nothing", function()
    local project <close> = pipeline.project { images = 5, upload = { "--max-images-per-batch", "2", "--dry-run" } }
    local box <close> = project:sandbox()
    assert.equal(0, (project:run("upload", box, { "--model", "gpt-4o-2024-05-13", "--max-tokens", "100" })))
    says(project, "5 images: 5 would be sent in 3 batches")
    -- One tile each (reference: 85 + 170), and a prompt of 36 bytes.
    says(project, "about 1320 tokens in and at most 500 out: about 0.01 USD by the prices of ")
    says(project, "dry run: nothing was submitted")
    assert.same({}, project:names("batch"))
    assert.same({}, project:paid())
    project:run("upload", box, { "--model", "no-such-model" })
    says(project, "no estimate of tokens")
  end)

  it("stops before --budget is exceeded, and sends nothing when there is no price", function()
    local project <close> = pipeline.project { images = 5 }
    local box <close> = project:sandbox()
    -- gpt-4o in batches: (264 * 1.25 + 1000 * 5.00) / 1e6 = 0.00533 USD an image.
    local words = { "--max-tokens", "1000", "--budget", "0.0150" }
    project:run("upload", nil, { "--dry-run", table.unpack(words) })
    says(project, "5 images: 2 would be sent")
    says(project, "skipped: 3 are beyond the budget (--budget 0.0150: ")
    project:run("upload", box, words)
    says(project, "5 images: 2 sent")
    says(project, "skipped: 3 are beyond the budget (--budget 0.0150: 0.0107 USD of this run are spent; 0.0043 left, "
      .. "and the next request may cost 0.0053)")
    assert.equal(2, (project:run("upload", box, { "--model", "no-such-model", "--budget", "5" })))
    says(project, "no-such-model")
    local files = project:created()
    assert.equal(1, files)
  end)

  it("keeps a budget for each run, or for the day, whatever runs there were", function()
    local project <close> = pipeline.project { images = 7, upload = { "--max-images-per-batch", "2" } }
    local box <close> = project:sandbox()
    assert.equal(1, (project:run("upload", box, { "--budget-requests", "3" })))
    says(project, "7 images: 3 sent in 2 batches")
    says(project, "skipped: 4 are beyond the budget (--budget-requests 3: 3 requests of this run are submitted; 0 "
      .. "left)")
    -- Another run: the batches of the first are none of its own, but they are of the same day.
    project:run("upload", box, { "--budget-requests", "3", "--budget-per-day" })
    says(project, "0 sent in 0 batches")
    says(project, "3 requests of today are submitted; 0 left")
    project:run("upload", box, { "--budget-requests", "1" })
    says(project, "1 sent in 1 batch ")
    project:run("upload", box, { "--budget-tokens", "300", "--budget-per-day", "--max-tokens", "300" })
    says(project, "skipped: 3 take more than the whole budget (--budget-tokens 300: one request alone may take 564 ")
    project:run("upload", box)
    project:run("download", box)
    check(project)
  end)

  it("counts what the service has counted, and learns from it what an image takes", function()
    local project <close> = pipeline.project { images = 3, model =
      [[return { content = "The text of " .. request.custom_id .. ".", usage = { prompt = 100, completion = 10 } }]] }
    local box <close> = project:sandbox()
    project:run("upload", box, { "--limit", "1" })
    project:run("download", box)
    -- 1264 were estimated: with those, not one more would go.
    project:run("upload", box, { "--budget-tokens", "250", "--budget-per-day" })
    says(project, "3 images: 1 sent")
    says(project, "(--budget-tokens 250: 220 tokens of today are submitted; 30 left, and the next request may "
      .. "take 110)")
    says(project, "about 100 tokens in and (as answers were so far) 10 out")
  end)

  it("counts what the last run has left to be submitted as this run's", function()
    local project <close> = pipeline.project { images = 4 }
    local box <close> = project:sandbox { "--faults", "create_batch: status=401 first=1" }
    assert.equal(1, (project:run("upload", box, { "--limit", "2" })))
    project:run("upload", box, { "--budget-requests", "3" })
    says(project, "4 images: 1 sent")
    says(project, "skipped: 1 are beyond the budget (--budget-requests 3: 3 requests of this run")
    project:run("upload", box)
    project:run("download", box)
    check(project)
  end)

  it("tells which rows of --fields no image has", function()
    local project <close> = pipeline.project { images = 2 }
    local rows = { "path,date", "data/a/p-2.png,1909", "b c/p-1.png,1910" }
    for i = 1, 7 do rows[#rows + 1] = ("data/gone-%d.png,1900"):format(i) end
    support.write(project.base .. "/facts.csv", table.concat(rows, "\n"))
    support.write(project.base .. "/prompt.txt", "{date}")
    project:run("upload", nil, { "--fields", "facts.csv", "--dry-run", "--limit", "1" })
    says(project, "note: 7 rows of facts.csv match no image: data/gone-1.png, data/gone-2.png, data/gone-3.png, "
      .. "data/gone-4.png, data/gone-5.png, ...\n")
  end)

  it("tells the model facts from a CSV file, and leaves out images it knows nothing about", function()
    local project <close> = pipeline.project { images = 3 }
    support.write(project.base .. "/facts.csv", "path,date,place\ndata/a/p-2.png,1909,\"Toronto, Canada\"\n"
      .. "b c/p-1.png,1910,London\n")
    support.write(project.base .. "/prompt.txt", "{name} of {date}, {place}: {json} {\"date\": \"\"}")
    local box <close> = project:sandbox()
    assert.equal(3, (project:run("upload", box, { "--fields", "facts.csv" })))
    says(project, "left out: the prompt needs {date}, and data/b c/p-3.png has none")
    local found = requests(project)
    assert.equal("p-2.png of 1909, Toronto, Canada: {json} {\"date\": \"\"}",
      found["data|a|p-2.png"].body.messages[1].content[1].text)
    assert.equal("p-1.png of 1910, London: {json} {\"date\": \"\"}",
      found["data|b c|p-1.png"].body.messages[1].content[1].text)
  end)

  it("shows a dry run's first prompt, and tells of braces that are no column", function()
    local project <close> = pipeline.project { images = 1 }
    support.write(project.base .. "/facts.csv", "path,yaer,place\ndata/b c/p-1.png,1909,Toronto\n")
    support.write(project.base .. "/prompt.txt", "\u{FEFF}{name}, {place}, {year} {\"year\": 0}")
    project:run("upload", nil, { "--fields", "facts.csv", "--dry-run" })
    says(project, "note: {year} is no column of facts.csv")
    says(project, "the prompt of the first image:\np-1.png, Toronto, {year} {\"year\": 0}\n")
  end)

  it("tells of pictures that the API does not take, and of a folder without any", function()
    local project <close> = pipeline.project { images = 0 }
    assert.equal(2, (project:run("upload", nil, { "--dry-run" })))
    says(project, "there are no images in data")
    for _, name in ipairs { "a.tif", "b.TIF", "c.pdf" } do support.write(project.base .. "/data/" .. name, "x") end
    project:run("upload", nil, { "--dry-run" })
    says(project, "ignored: 2 .tif")
    says(project, "ignored: 1 .pdf")
  end)

  it("leaves a batch to the next run when the service does not see its file yet", function()
    local project <close> = pipeline.project { images = 2 }
    local box <close> = project:sandbox { "--missing-input", "400", "--faults", "files: hidden=2 first=1" }
    assert.equal(0, (project:run("upload", box)), project.err)
    says(project, "waits to be submitted again")
    project:run("download", box)
    check(project)
    local files = project:created()
    assert.equal(1, files)
  end)

  it("composes anew what an earlier run has not sent, by the options as they are now", function()
    local project <close> = pipeline.project { images = 2 }
    assert.equal(1, (support.shell("export AT=2 WHEN=after SIGNAL=KILL; "
      .. project:step("upload", "http://127.0.0.1:9/v1") .. "; [ $? = 137 ] && exit 1")))
    local box <close> = project:sandbox()
    support.write(project.base .. "/prompt.txt", "Corrected.")
    project:run("upload", box, { "--model", "gpt-4.1" })
    says(project, "2 sent in 1 batch ")
    assert.equal("gpt-4.1", requests(project)["data|a|p-2.png"].body.model)
    project:run("download", box)
    check(project)
  end)

  it("does not send what the record of an earlier script holds", function()
    local project <close> = pipeline.project { images = 3 }
    local box <close> = project:sandbox()
    project:run("upload", box, { "--limit", "2" })
    -- As those scripts left it: no journal, and a record that only its name tells about.
    local name = project:names("batch")[1]
    assert.truthy(name:find("^batch_"))
    support.shell(("cd %s/batch && rm -rf journal.jsonl completed lock && echo \"Batch(id='x')\" >%s"):format(
      project.base, name))
    project:run("upload", box)
    says(project, "skipped: 2 are on their way")
    project:run("upload", box, { "--image-dir", "./data", "--dry-run" })
    says(project, "skipped: 3 are on their way") -- the third by the run above
    assert.equal(0, (project:run("download", box, { "--image-dir", "data" })), project.err)
    check(project)
  end)

  it("refuses when nobody knows which images an earlier script has sent", function()
    local project <close> = pipeline.project { images = 1 }
    local box <close> = project:sandbox()
    assert(fs.mkdir(project.base .. "/batch"))
    support.write(project.base .. "/batch/batch_gone.txt", "Batch(id='batch_gone')")
    assert.equal(2, (project:run("upload", box)))
    says(project, "nobody knows which images batch batch_gone holds")
    local files = project:created()
    assert.equal(0, files)
  end)

  it("says what is wrong with its input before it touches anything", function()
    local project <close> = pipeline.project { images = 1 }
    for _, case in ipairs {
      { { "--image-dir", "nowhere" }, "nowhere" },
      { { "--prompt-file", "nowhere.txt" }, "nowhere.txt" },
      { { "--fields", "nowhere.csv" }, "nowhere.csv" },
      { { "--endpoint", "/v1/embeddings" }, "endpoint" },
      { { "--max-bytes", "300000000" }, "no batch of more than 200000000 bytes" },
      { { "--image-dir", "prompt.txt" }, "prompt.txt is no folder" },
      { { "--budget", "0" }, "'0' is not a number above 0" },
      { { "--budget-per-day" }, "--budget-per-day needs a budget" },
      { { "--prices", "prompt.txt" }, "prompt.txt" },
    } do
      assert.equal(2, (project:run("upload", nil, case[1])))
      says(project, case[2])
    end
    assert.same({}, project:names("batch"))
  end)
end)
