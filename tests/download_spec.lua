--- `obatch download`, end to end against the sandbox: every image that was answered gets its text, once,
--- whatever happens in between.
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local openai = require "obatch.openai"
local records = require "obatch.records"
local request = require "obatch.request"
local submission = require "obatch.submission"
local support = require "support"
local term = require "obatch.term"

local KEY = "sk-this-key-must-be-in-no-file"

local Project = {}
Project.__index = Project

--- A folder with images, and a sandbox whose model is the function body `model`. Options:
---   model      sees `request` and `asked`; the default answers with the custom_id
---   words      for the sandbox
---   policy     what the policy file does
local function project(names, options)
  options = options or {}
  local dir = support.tmpdir()
  local self = setmetatable({ dir = dir, path = dir.path, images = {}, box_dir = dir.path .. "/box" }, Project)
  for i, name in ipairs(names) do
    self.images[i] = "data/" .. name
    local path = self.path .. "/" .. self.images[i]
    fs.mkdir(path:match("^(.*)/"))
    support.write(path, "\x89PNG\r\n\x1A\n" .. name)
  end
  support.write(self.path .. "/model.lua", "return function(request, asked)\n"
    .. (options.model or "return 'text of ' .. request.custom_id") .. "\nend")
  support.write(self.path .. "/policy.lua", "local policy = require 'obatch.policy'\npolicy.settle_seconds = 0.3\n"
    .. (options.policy or "") .. "\nreturn policy")
  self.words = { "--model", self.path .. "/model.lua", "--batch-seconds", "0.1", table.unpack(options.words or {}) }
  self.words.dir = self.box_dir
  self.box = support.sandbox(self.words)
  return self
end

function Project:stop_box()
  if self.box then getmetatable(self.box).__close(self.box) end
  self.box = nil
end

--- Another sandbox with the same state.
function Project:restart(words)
  self:stop_box()
  self.words = { "--model", self.path .. "/model.lua", "--batch-seconds", "0.1", table.unpack(words or {}) }
  self.words.dir = self.box_dir
  self.box = support.sandbox(self.words)
end

function Project:__close()
  self:stop_box()
  getmetatable(self.dir).__close(self.dir)
end

--- Sends images first ... last (all), as upload does, in a batch. Returns the batch id.
function Project:send(first, last, settings)
  local shelf <close> = assert(records.open { batch_dir = self.path .. "/batch",
    completed_dir = self.path .. "/batch/completed", output_dir = self.path .. "/batch_return", log = function() end })
  local api <close> = assert(openai.new { key = KEY, base_url = self.box.url, settle_seconds = 0.3 })
  local _, path = shelf:next_part("requests")
  local writer <close> = assert(jsonl.create(path, { sha256 = true }))
  local record = { image_dir = "data", items = {}, request = { endpoint = "/v1/chat/completions", model = "gpt-test",
    detail = "low", prompt = "Read {name}, a page of the {book}." } }
  for name, value in pairs(settings or {}) do record.request[name] = value end
  local taken = {}
  for i = first or 1, last or #self.images do
    local id = image_record.custom_id(self.images[i], taken)
    local picture = assert(jsonl.image(self.path .. "/" .. self.images[i]))
    assert(writer:put(request.compose { custom_id = id, endpoint = record.request.endpoint, image = picture,
      model = record.request.model, prompt = "Read it" }))
    table.insert(record.items, { custom_id = id, path = self.images[i], bytes = picture:bytes(),
      sha256 = picture:sha256(), prompt_sha256 = "p", attempt = 1, fields = { book = "ledger of " .. i } })
  end
  local part = assert(shelf:plan("requests", assert(writer:commit()), record))
  assert(submission.submit(shelf, api, { log = function() end, poll_wait = 0.1 }))
  return part.batch_id
end

--- The shell command of `obatch download` in the project's folder.
function Project:command(...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = support.quote(word) end
  return ("cd %s && OPENAI_API_KEY=%s OPENAI_BASE_URL=%s %s %s download --poll-wait 0.1 --policy policy.lua %s"):format(
    support.quote(self.path), KEY, self.box and self.box.url or "http://127.0.0.1:9/v1", self.prefix or "timeout 100",
    support.quote(support.binary), table.concat(words, " "))
end

--- Runs it: exit code and all that was printed.
function Project:download(...)
  local code, out, err = support.shell(self:command(...))
  local all = out .. err
  assert(not all:find("traceback", 1, true) and not all:find("Sanitizer", 1, true), all)
  assert(not all:find(KEY, 1, true), "the key is in what was printed")
  self.out, self.err = out, err
  return code, all
end

function Project:has(i, suffix) return fs.lstat(self.path .. "/" .. self.images[i] .. (suffix or ".txt")) ~= nil end
function Project:text(i) return support.read(self.path .. "/" .. self.images[i] .. ".txt") end
function Project:texts()
  local list = {}
  for i in ipairs(self.images) do list[i] = self:has(i) and self:text(i) or false end
  return list
end

function Project:lines(name)
  local list = {}
  for line in io.lines(self.path .. "/" .. name) do list[#list + 1] = assert(json.decode(line)) end
  return list
end

--- custom_id -> how often it was paid for.
function Project:paid()
  local paid = {}
  if fs.stat(self.box_dir .. "/ledger.jsonl") then
    for line in io.lines(self.box_dir .. "/ledger.jsonl") do
      local id = assert(json.decode(line)).custom_id
      paid[id] = (paid[id] or 0) + 1
    end
  end
  return paid
end

--- Every file of the project but the sandbox's, with its content; what is a matter of time is left out.
function Project:tree()
  local files = {}
  for path in fs.walk(self.path) do
    local name = path:sub(#self.path + 2)
    if not name:find("^box/") and not name:find("journal%.jsonl$") and not name:find("lock$") then
      files[name] = support.read(path)
    end
  end
  return files
end

local function says(words, printed) assert(printed:find(words, 1, true), "not said: " .. words .. "\n" .. printed) end

local ODD_NAMES = { "a.png", "sub/it's \"b\" $(x).png", "line\nbreak.png", "\xFF\xFE.png", "x|y.png", "x/y.png",
  ("n"):rep(200) .. "/" .. ("m"):rep(200) .. ".png", "é.PNG" }

describe("download", function()
  it("puts every text beside its image, keeps what came, and puts the records away", function()
    local p <close> = project(ODD_NAMES)
    local first, second = p:send(1, 3), p:send(4)
    local code, all = p:download()
    assert.equal(0, code, all)
    says("2 batches, 8 images: 8 valid", p.out)
    says("8 texts written", p.out)
    says("next: obatch clean --image-dir data", p.err)
    local taken = {}
    for i, path in ipairs(p.images) do
      if i == 4 then taken = {} end
      assert.equal("text of " .. image_record.custom_id(path, taken), p:text(i))
    end
    for _, id in ipairs { first, second } do
      assert.truthy(fs.stat(("%s/batch_return/%s.jsonl"):format(p.path, id)))
      assert.truthy(fs.stat(("%s/batch/completed/%s.txt"):format(p.path, id)))
      assert.is_nil(fs.stat(("%s/batch/%s.txt"):format(p.path, id)))
    end
    local result = support.read(("%s/batch_json_results/%s/data|a.png.json"):format(p.path, first))
    assert.matches('\n  "custom_id": "data|a.png"', result)
    assert.equal(first, p:lines("data/provenance.jsonl")[1].batch)

    local before = p:tree()
    code, all = p:download()
    assert.equal(0, code, all)
    says("nothing new has come back", p.out)
    assert.same(before, p:tree())
    local status, found = support.shell(("cd %s && grep -rlF %s batch batch_return batch_json_results data"):format(
      support.quote(p.path), KEY))
    assert.equal(1, status, "the key is in " .. found)
  end)

  it("names every image that came back without a text, and why; the first twenty on the screen", function()
    local names = {}
    for i = 1, 26 do names[i] = ("%02d.png"):format(i) end
    local p <close> = project(names, { model = [[
      local n = tonumber(request.custom_id:match("(%d+)%.png"))
      if n == 1 then return "text" end
      if n == 2 then return { refusal = "I would rather not." } end
      if n == 3 then return { missing = true } end
      if n == 4 then return { content = "", finish_reason = "stop" } end
      return { content = "cut off", finish_reason = "length" }]] })
    local batch = p:send()
    local code, all = p:download()
    assert.equal(3, code, all)
    says("2 valid, 22 truncated, 1 refused, 1 missing", p.out)
    says("24 images have no text", p.out)
    says("data/02.png: refused: the model refused: I would rather not.", p.out)
    says("... and 4 more", p.out)
    says("upload sends 23 of them once more", p.out)
    says("--resubmit\n      sends 24", p.err)
    assert.equal(24, #p:lines("batch/unresolved.jsonl"))
    assert.equal("", p:text(4))
    code = p:download()
    assert.equal(3, code)
    says("24 images have no text", p.out)
    assert.equal(24, #p:lines("batch/unresolved.jsonl"))

    -- What has a text by now, by whatever means, is no longer listed; nor is what is gone.
    for i = 5, 25 do support.write(("%s/data/%02d.png.txt"):format(p.path, i), "by hand") end
    support.write(p.path .. "/data/03.png.txt.api", "labelled")
    fs.remove(p.path .. "/data/26.png")
    p:download()
    says("1 image has no text", p.out)

    fs.rename(("%s/batch/completed/%s.txt"):format(p.path, batch), ("%s/batch/%s.txt"):format(p.path, batch))
    assert.equal(3, (p:download()))
    says("2 were there already", p.out)
    assert.equal(24, #p:lines("batch/unresolved.jsonl"))
  end)

  it("harvests what expired and cancelled batches finished", function()
    local names = {}
    for i = 1, 8 do names[i] = i .. ".png" end
    local p <close> = project(names, { words = { "--faults",
      "batches: expire=0.5 first=1; batches: cancel=0.5 first=1" } })
    p:send(1, 4)
    p:send(5, 8)
    local code, all = p:download()
    assert.equal(3, code, all)
    says("4 valid, 2 expired, 2 cancelled", p.out)
    for _, entry in ipairs(p:lines("batch/unresolved.jsonl")) do
      assert.same({ "resend", 0 }, { entry.action, entry.attempts })
    end
    local n = 0
    for _, text in ipairs(p:texts()) do n = n + (text and 1 or 0) end
    assert.equal(4, n)
  end)

  it("takes the text from a field of the JSON answer, or by a function of the policy", function()
    local p <close> = project({ "1.png", "2.png", "3.png" }, { model = [[
      if request.custom_id:find("3") then return '```json\n{"ocr_text": 3, "other": "three"}\n```' end
      return 'Here it is:\n```json\n{"ocr_text": "page\\n' .. request.custom_id .. '", "other": "x"}\n```']] })
    p:send()
    local code, all = p:download("--field", "ocr_text")
    assert.equal(3, code, all)
    assert.same({ "page\ndata|1.png", "page\ndata|2.png", false }, p:texts())
    says("3.png: invalid: the answer has no text in the field 'ocr_text'", p.out)
    assert.same({ "fence removed" }, { table.unpack(p:lines("data/provenance.jsonl")[1].steps) })

    local q <close> = project({ "1.png" }, { policy = [[
      function policy.page_text(answer, item) return item.custom_id .. ": " .. answer:upper() end]] })
    q:send()
    assert.equal(0, (q:download()))
    assert.equal("data|1.png: TEXT OF DATA|1.PNG", q:text(1))
  end)

  it("does not replace another text unless it is told to", function()
    local p <close> = project { "1.png", "2.png" }
    support.write(p.path .. "/data/1.png.txt", "by hand")
    support.write(p.path .. "/data/2.png.txt.api", "labelled")
    local batch = p:send()
    local code = p:download()
    assert.equal(0, code)
    says("2 not written, because another text is there", p.out)
    says("data/1.png.txt: another text is there", p.err)
    assert.same({ "by hand", false }, p:texts())
    fs.rename(("%s/batch/completed/%s.txt"):format(p.path, batch), ("%s/batch/%s.txt"):format(p.path, batch))
    assert.equal(0, (p:download "--overwrite"))
    assert.same({ "text of data|1.png", "text of data|2.png" }, p:texts())
    assert.is_false(p:has(2, ".txt.api"))
  end)

  it("looks once when it is told to, and stores what is done", function()
    local p <close> = project({ "1.png", "2.png", "3.png" }, { words = { "--faults",
      "batches: in_progress=300 after=1; results: missing id=data|2.png" } })
    p:send(1, 2)
    p:send(3, 3)
    term.sleep(0.5)
    local code, all = p:download "--once"
    assert.equal(0, code, all)
    says("1 image has no text", p.out)
    says("1 batch is still running", p.out)
    assert.same({ "text of data|1.png", false, false }, p:texts())
    code = p:download("--once", "--resubmit")
    assert.equal(2, code)
  end)

  it("writes nowhere else, whatever the results say", function()
    local names = {}
    for i = 1, 10 do names[i] = i .. ".png" end
    local p <close> = project(names, { model = [[
      local ids = { "|etc|passwd", "..|..|x", "..|outside.png", "../outside.png", "/tmp/obatch-outside.png",
        "data/1.png", "a\\u0000b", "|" .. ("x"):rep(300), "data|1.png|..|..|outside.png" }
      local id = ids[tonumber(request.custom_id:match("(%d+)%.png")) - 1]
      return id and { raw = '{"custom_id":"' .. id .. '","error":null,"response":{"status_code":200,"body":{"choices":['
        .. '{"finish_reason":"stop","message":{"role":"assistant","content":"evil"}}]}}}' } or "one"]] })
    support.write(p.path .. "/outside.png", "image")
    local batch = p:send()
    local before = p:tree()
    local code, all = p:download()
    assert.equal(3, code, all)
    says("'|etc|passwd' was not submitted with batch " .. batch, p.err)
    says("1 valid, 9 missing", p.out)
    assert.equal("one", p:text(1))
    for name in pairs(p:tree()) do
      assert.is_true(before[name] ~= nil or name:find("^batch[/_]") ~= nil or name == "data/1.png.txt"
        or name == "data/provenance.jsonl", name)
    end
    assert.same({ "data|1.png.json" }, fs.list(p.path .. "/batch_json_results/" .. batch))
    assert.is_nil(fs.lstat("/tmp/obatch-outside.png.txt"))
  end)
end)

describe("a download that is disturbed", function()
  it("gets the same in the end, whatever the service does", function()
    local names = {}
    for i = 1, 12 do names[i] = i .. ".png" end
    local p <close> = project(names, { words = { "--faults", "content: cut=300 first=2; content: status=500 first=1;"
      .. "batch: status=503 every=3; file: status=429 retry-after=0 first=1; results: duplicate every=4" } })
    p:send(1, 5)
    p:send(6, 12)
    local code, all = p:download()
    assert.equal(0, code, all)
    for i, text in ipairs(p:texts()) do assert.equal(("text of data|%d.png"):format(i), text) end
  end)

  it("can be killed at any moment; the same command goes on, and nothing is paid twice", function()
    local names = {}
    for i = 1, 40 do names[i] = ("%s/%02d.png"):format(i % 3, i) end
    local p <close> = project(names, { model = [[
      if request.custom_id:find("9.png", 1, true) then return { refusal = "no" } end
      return ("text of " .. request.custom_id .. "\n"):rep(50)]] })
    for i = 1, 40, 8 do p:send(i, i + 7) end
    for i = 1, 14 do
      p.prefix = ("timeout -s KILL %.2f"):format(0.12 + i * 0.035)
      p:download()
    end
    p.prefix = nil
    local code, all = p:download()
    assert.equal(3, code, all)
    for i, text in ipairs(p:texts()) do
      assert.equal(i % 10 ~= 9 and ("text of data|%s\n"):format(names[i]:gsub("/", "|")):rep(50) or false, text)
    end
    for id, times in pairs(p:paid()) do assert.equal(1, times, id) end
    assert.equal(4, #p:lines("batch/unresolved.jsonl"))
    local lines = 0
    for i = 0, 2 do lines = lines + #p:lines(("data/%d/provenance.jsonl"):format(i)) end
    assert.equal(36, lines)
    local _, left = support.shell(("find %s -name '*.part'"):format(support.quote(p.path)))
    assert.equal("", left)
    for _, name in ipairs(fs.list(p.path .. "/batch")) do assert.is_nil(name:find("%.txt$"), name) end
  end)

  it("stops at Ctrl-C with 130, at a full disk and at a locked folder with 1, and goes on afterwards", function()
    local p <close> = project({ "1.png" }, { words = { "--faults", "batches: in_progress=1.5 first=1" },
      model = "return ('text '):rep(30000)" })
    p:send()
    p.prefix = "timeout --preserve-status -s INT 0.6"
    assert.equal(130, (p:download()))
    says("interrupted: run the same command again", p.err)
    p.prefix = nil
    local lock <close> = assert(fs.lock(p.path .. "/batch/lock"))
    assert.equal(1, (p:download()))
    says("in use", p.err)
    lock:close()
    p.prefix = "sh -c 'ulimit -f 100; exec \"$@\"' sh"
    assert.equal(1, (p:download()))
    says("File too large", p.err)
    p.prefix = nil
    assert.equal(1, (p:download("--extraction-base-dir", "policy.lua")))
    says("stopped: ", p.err)
    assert.equal(0, (p:download()))
    assert.equal(("text "):rep(30000), p:text(1))
  end)

  it("says what is missing before it asks the service anything", function()
    local p <close> = project { "1.png" }
    local code = p:download()
    assert.equal(2, code)
    says("there are no records of batches in batch", p.err)
    p:send()
    for _, words in ipairs { { "--poll-wait", "x" }, { "--policy", "none.lua" }, { "--nonsense" },
      { "--once", "--wait" } } do
      assert.equal(2, (p:download(table.unpack(words))))
    end
    assert.equal(2, (support.shell("cd " .. support.quote(p.path) .. " && env -u OPENAI_API_KEY "
      .. support.quote(support.binary) .. " download")))
  end)

  it("waits for a folder of images that is not there, and stores the other batches", function()
    local p <close> = project { "1.png", "2.png" }
    p:send(1, 1)
    p.images[2] = "elsewhere/2.png"
    fs.mkdir(p.path .. "/elsewhere")
    fs.rename(p.path .. "/data/2.png", p.path .. "/elsewhere/2.png")
    local shelf_record = p.path .. "/batch/" .. p:send(2, 2) .. ".txt"
    support.write(shelf_record, (support.read(shelf_record):gsub('"image_dir": "data"', '"image_dir": "elsewhere"')))
    fs.rename(p.path .. "/elsewhere", p.path .. "/unplugged")
    local code, all = p:download()
    assert.equal(1, code, all)
    says("the folder of the images is not there", p.out)
    assert.equal("text of data|1.png", p:text(1))
    fs.rename(p.path .. "/unplugged", p.path .. "/elsewhere")
    assert.equal(0, (p:download()))
    assert.equal("text of elsewhere|2.png", p:text(2))
  end)

  it("keeps the answer to an image that was moved away, for when it is back", function()
    local p <close> = project { "1.png", "2.png" }
    local batch = p:send()
    fs.rename(p.path .. "/data/1.png", p.path .. "/1.png")
    local code, all = p:download()
    assert.equal(3, code, all)
    says("data/1.png: valid: answered, but the image is not there any more", p.out)
    says("move the records of their batches from batch/completed to batch", p.out)
    assert.is_nil(p.out:find("resubmit", 1, true))
    assert.truthy(fs.stat(("%s/batch_json_results/%s/data|1.png.json"):format(p.path, batch)))
    fs.rename(p.path .. "/1.png", p.path .. "/data/1.png")
    assert.equal(3, (p:download "--resubmit"))
    assert.equal(1, p:paid()["data|1.png"])
    fs.rename(("%s/batch/completed/%s.txt"):format(p.path, batch), ("%s/batch/%s.txt"):format(p.path, batch))
    assert.equal(0, (p:download()))
    assert.equal("text of data|1.png", p:text(1))
    for id, times in pairs(p:paid()) do assert.equal(1, times, id) end
  end)
end)

describe("what earlier scripts have left", function()
  --- Makes the record of a batch look as if an earlier script had written it.
  local function age(p, batch)
    fs.remove(p.path .. "/batch/journal.jsonl")
    support.write(("%s/batch/%s.txt"):format(p.path, batch), "{'id': '" .. batch .. "'}\n")
  end

  it("is taken over: records that say nothing but their name", function()
    local p <close> = project { "1.png", "sub/2.png" }
    age(p, p:send())
    local code, all = p:download()
    assert.equal(0, code, all)
    assert.same({ "text of data|1.png", "text of data|sub|2.png" }, p:texts())
    assert.equal(1, #fs.list(p.path .. "/batch_return"))
    says("nothing new", select(2, p:download()))
  end)

  it("is served from its own results when the service has forgotten the batch, below --image-dir only", function()
    local p <close> = project { "1.png", "2.png" }
    local batch = p:send()
    assert.equal(0, (p:download()))
    fs.remove(("%s/batch/completed/%s.txt"):format(p.path, batch))
    for i = 1, 2 do fs.remove(p.path .. "/" .. p.images[i] .. ".txt") end
    fs.remove(p.path .. "/data/2.png")
    age(p, batch)
    p:stop_box()
    support.shell("rm -r " .. support.quote(p.box_dir))
    p:restart()
    local code, all = p:download()
    assert.equal(1, code, all)
    says("--image-dir", p.out)
    code, all = p:download("--image-dir", "data")
    assert.equal(0, code, all)
    assert.same({ "text of data|1.png", false }, p:texts())
    says("'data|2.png' was not submitted", p.err)
  end)
end)

describe("download --resubmit", function()
  local MODEL = [[
    local n = tonumber(request.custom_id:match("(%d+)%.png"))
    local shown = request.body.messages[1].content[1].text
    if n == 1 then return "text 1" end
    if n == 2 then return asked == 1 and { status = 500 } or shown end
    if n == 3 then return asked <= 2 and { content = "cu", finish_reason = "length" } or "text 3" end
    if n == 4 then return { refusal = "no" } end
    if n == 5 then return asked == 1 and { missing = true } or "" end
    if n == 7 then return { content = "", finish_reason = "length" } end
    return asked == 1 and { status = 400 } or "text of " .. request.custom_id]]

  it("sends exactly the images that have no text, as their records say, and stores what comes", function()
    local p <close> = project({ "1.png", "2.png", "3.png", "4.png", "5.png", "\xFF 6.png", "7.png" },
      { model = MODEL, policy = "policy.token_limit.cap = 4096" })
    p:send()
    assert.equal(3, (p:download()))
    says("6 images have no text", p.out)
    support.write(p.path .. "/data/\xFF 6.png.txt", "by hand")
    local code, all = p:download "--resubmit"
    assert.equal(3, code, all)
    assert.same({ "text 1", "Read 2.png, a page of the ledger of 2.", "text 3", false, "", "by hand", false },
      p:texts())
    local paid = p:paid()
    assert.same({ 1, 2, 3, 2, 1 }, { paid["data|1.png"], paid["data|2.png"], paid["data|3.png"], paid["data|4.png"],
      paid["data|%FF 6.png"] })
    says("2 images have no text", p.out)
    says("data/4.png: refused", p.out)
    local unresolved = p:lines("batch/unresolved.jsonl")
    local last = unresolved[#unresolved]
    assert.same({ "data|7.png", "resubmit_001", "give_up", 3 }, { last.custom_id, last.batch, last.action,
      last.attempts })
    assert.matches("cannot be raised", last.reason)
    local by_id = {}
    for _, entry in ipairs(p:lines("data/provenance.jsonl")) do by_id[entry.custom_id] = entry end
    assert.same({ "resubmit_001", 2 }, { by_id["data|2.png"].batch, by_id["data|2.png"].attempt })
    assert.equal(64, #by_id["data|2.png"].sha256)
    assert.truthy(fs.stat(p.path .. "/batch_json_results/resubmit_001/data|4.png.json"))
    assert.truthy(fs.stat(p.path .. "/batch/resubmit_001/completed.json"))
    assert.is_nil(fs.stat(p.path .. "/batch/resubmit_001/original_requests.jsonl"))

    -- Once more: only the one that is left, with the settings of the first record.
    fs.remove(p.path .. "/data/\xFF 6.png.txt")
    assert.equal(3, (p:download "--resubmit"))
    assert.equal("text of data|%FF 6.png", p:text(6))
    assert.same({ 3, 2 }, { p:paid()["data|4.png"], p:paid()["data|%FF 6.png"] })
    local sent = {}
    for i, item in ipairs(json.decode(support.read(p.path .. "/batch/resubmit_002/completed.json")).items) do
      sent[i] = item.custom_id
    end
    assert.same({ "data|%FF 6.png", "data|4.png", "data|7.png" }, sent)
  end)

  it("can be killed at any moment; the same command goes on, and nothing is paid twice", function()
    local names = {}
    for i = 1, 12 do names[i] = i .. ".png" end
    local p <close> = project(names,
      { model = "return asked == 1 and { status = 400 } or 'text ' .. request.custom_id" })
    p:send()
    assert.equal(3, (p:download()))
    for i = 1, 12 do
      p.prefix = ("timeout -s KILL %.2f"):format(0.12 + i * 0.04)
      p:download "--resubmit"
    end
    p.prefix = nil
    local code, all = p:download "--resubmit"
    assert.equal(0, code, all)
    for i, text in ipairs(p:texts()) do assert.equal(("text data|%d.png"):format(i), text) end
    for id, times in pairs(p:paid()) do assert.equal(2, times, id) end
    assert.truthy(fs.stat(p.path .. "/batch/resubmit_001/completed.json"))
    assert.is_nil(fs.stat(p.path .. "/batch/resubmit_002"))
  end)

  it("that was interrupted is named by a plain download, and its images are on their way", function()
    local p <close> = project({ "1.png" }, { model = "return asked == 1 and { status = 400 } or 'text'",
      words = { "--faults", "batches: in_progress=1.5 after=1" } })
    p:send()
    assert.equal(3, (p:download()))
    p.prefix = "timeout --preserve-status -s INT 1.2"
    assert.equal(130, (p:download "--resubmit"))
    says("interrupted", p.err)
    p.prefix = nil
    assert.equal(3, (p:download()))
    says("--resubmit\n      goes on with images", p.err)
    assert.is_nil(p.out:find("no text", 1, true))
    local again = assert(require "obatch.resubmit".unfinished(p.path .. "/batch"))
    assert.equal("data/1.png", again.items[1].path)
    assert.equal(0, (p:download "--resubmit"))
    assert.equal("text", p:text(1))
    assert.equal(2, p:paid()["data|1.png"])
  end)

  it("judges by the field that is asked for", function()
    local p <close> = project({ "1.png" }, { model = [[
      return asked == 1 and "no JSON" or asked == 2 and '{"other": 1}' or '{"ocr_text": "third"}']] })
    p:send()
    assert.equal(3, (p:download("--field", "ocr_text")))
    -- What a run has left that was killed while it composed the requests: nothing of it was sent.
    fs.mkdir(p.path .. "/batch/resubmit_001")
    support.write(p.path .. "/batch/resubmit_001/original_requests.jsonl", "half of i")
    local code, all = p:download("--field", "ocr_text", "--resubmit")
    assert.equal(0, code, all)
    assert.equal("third", p:text(1))
    assert.is_nil(fs.stat(p.path .. "/batch/resubmit_002"))
  end)

  it("tells images apart that had one custom_id, in batches of their own", function()
    local p <close> = project({ "x/y.png", "x|y.png" }, { model = [[
      local shown = request.body.messages[1].content[1].text
      return shown == "Read it" and { status = 400 } or shown]] })
    p:send(1, 1)
    p:send(2, 2)
    assert.equal(3, (p:download()))
    local code, all = p:download "--resubmit"
    assert.equal(0, code, all)
    assert.same({ "Read y.png, a page of the ledger of 1.", "Read x|y.png, a page of the ledger of 2." }, p:texts())
  end)

  it("says which images it cannot send, and sends the others", function()
    local p <close> = project({ "1.png", "2.png", "3.png" },
      { model = "return asked == 1 and { status = 400 } or 'text'" })
    p:send()
    assert.equal(3, (p:download()))
    support.write(p.path .. "/data/1.png", "no image any more")
    fs.remove(p.path .. "/data/2.png")
    local code, all = p:download "--resubmit"
    assert.equal(3, code, all)
    says("not sent again: data/1.png: data/1.png: not a PNG", p.err)
    assert.same({ false, false, "text" }, p:texts())
    code, all = p:download "--resubmit"
    assert.equal(3, code, all)
    assert.equal(2, p:paid()["data|3.png"])
  end)
end)
