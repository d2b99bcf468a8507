-- obatch deep_clean: labelled texts go out, good ones come back, bad ones are counted, and whatever stops
-- it, nothing is paid twice and nothing is lost.
local errand = require "obatch.errand"
local fs = require "obatch.fs"
local image_bytes = require "image_bytes"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local loop = require "loop"
local strike = require "strike"
local support = require "support"

local LOOP = ("The same line again and again.\n"):rep(30)

--- Good answers but for images called "bad".
local MODEL = [[
if request.custom_id:find("bad") then return "I'm sorry, but I can't assist with that." end
return "Here is the text from the image:\n\n```\nThe tran-\nscription of " .. request.custom_id .. ".\n```"]]

local Project = {}
Project.__index = Project

--- A project in a folder of its own: `local project <close> = project { texts=, model= }`, with the texts
--- (name below data/ -> content) and an image beside each.
local function project(options)
  options = options or {}
  local dir = support.tmpdir()
  local self = setmetatable({ dir = dir, path = dir.path, box = dir.path .. "/box", words = options.words or {} },
    Project)
  self.texts = options.texts or { ["a.png.txt.api"] = LOOP, ["b c/it's.png.txt.api"] = LOOP .. "2",
    ["bad.png.txt.api"] = LOOP .. "3", ["good.png.txt"] = "Dear Sir.\n" }
  for name, content in pairs(self.texts) do
    local path = ("%s/data/%s"):format(self.path, name)
    assert(fs.mkdir(path:match("^(.*)/")))
    support.write(path, content)
    support.write(path:match("^(.*%.png)") or path .. ".png", image_bytes.png(8, 8))
  end
  loop.write_model(self.path .. "/model.lua", options.model or MODEL)
  return self
end

function Project:__close() getmetatable(self.dir).__close(self.dir) end
Project.paid = loop.paid

--- For loop.pool: one run of the command. It may kill itself, see signal_at.lua.
function Project:command(url)
  local words = {}
  for i, word in ipairs(self.words) do words[i] = support.quote(word) end
  return ("cd %s && OPENAI_API_KEY=%s OPENAI_BASE_URL=%s timeout -k 5 120 %s run %s/tests/signal_at.lua "
    .. "%s/scripts/deep_clean.lua --image-dir data --poll-wait 0.1 %s"):format(support.quote(self.path), loop.KEY, url,
    support.quote(support.binary), support.quote(support.home), support.quote(support.home), table.concat(words, " "))
end

function Project:sandbox()
  return support.sandbox { "--model", self.path .. "/model.lua", "--batch-seconds", "0.1", dir = self.box }
end

--- One run to its end: exit code, stdout, stderr.
function Project:run(box, ...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = support.quote(word) end
  return support.shell(self:command(box and box.url or "http://127.0.0.1:9/v1") .. " " .. table.concat(words, " "))
end

--- What is below data/ but the images: name -> content.
function Project:contents()
  local files, prefix = {}, self.path .. "/data/"
  for path in fs.walk(self.path .. "/data") do
    if not path:find("%.png$") then files[path:sub(#prefix + 1)] = support.read(path) end
  end
  return files
end

--- The requests of all batches that the sandbox ran, as one text.
function Project:sent()
  local all = {}
  for _, name in ipairs(fs.list(self.box .. "/files")) do
    local content = support.read(self.box .. "/files/" .. name)
    if content:find('"custom_id":"data|', 1, true) and content:find('"url"', 1, true) then all[#all + 1] = content end
  end
  return table.concat(all)
end

local MENDED = {
  ["a.png.txt"] = "The transcription\nof data|a.png.\n", ["a.png.txt.before"] = LOOP,
  ["b c/it's.png.txt"] = "The transcription\nof data|b c|it's.png.\n", ["b c/it's.png.txt.before"] = LOOP .. "2",
  ["bad.png.txt.api"] = LOOP .. "3", ["good.png.txt"] = "Dear Sir.\n",
}

describe("obatch deep_clean", function()
  it("mends what comes back good, counts what does not, and gives up in the end", function()
    local self <close> = project()
    local box <close> = self:sandbox()
    local status, out, err = self:run(box)
    assert.equal(3, status, err)
    assert.same(MENDED, self:contents())
    assert.is_truthy(out:find("still labelled: data/bad.png.txt.api: attempt 1 of 3: refusal 1.00", 1, true), out)
    assert.is_truthy(out:find("2 texts mended, 1 still labelled", 1, true), out)
    assert.same({ ["data|a.png"] = 1, ["data|b c|it's.png"] = 1, ["data|bad.png"] = 1 }, self:paid())

    status, out = self:run(box, "--max-attempts", "2")
    assert.equal(3, status)
    assert.is_truthy(out:find("bad.png.txt.api: attempt 2 of 2, left for a person: refusal", 1, true), out)
    status, out = self:run(box, "--max-attempts", "2")
    assert.equal(3, status)
    assert.is_truthy(out:find("bad.png.txt.api: left for a person after 2 attempts; the last one: refusal", 1, true),
      out)
    assert.equal(2, self:paid()["data|bad.png"])
    assert.same(MENDED, self:contents())

    -- Another text is another matter, and so is the same one by another path to its folder.
    support.write(self.path .. "/data/bad.png.txt.api", LOOP .. "4")
    assert.is_truthy(select(2, self:run(box)):find("attempt 1 of 3", 1, true))
    support.write(self.path .. "/data/bad.png.txt.api", LOOP .. "3")
    out = select(2, self:run(box, "--max-attempts", "2", "--image-dir", self.path .. "/data/../data"))
    assert.is_truthy(out:find("left for a person after 2 attempts", 1, true), out)
    assert.equal(3, self:paid()["data|bad.png"])
  end)

  it("sends the texts, and their images when it is told so", function()
    local self <close> = project { texts = { ["a.png.txt.api"] = LOOP .. 'a "quote" and {name}',
      ["caf.png.txt.api"] = "caf\xE9" } }
    local box <close> = self:sandbox()
    support.write(self.path .. "/prompt", 'Mend {name} as {"text": 1}: <{text}>')
    assert.equal(0, (self:run(box, "--prompt-file", self.path .. "/prompt", "--model", "gpt-x", "--max-tokens", "77")))
    local sent = self:sent()
    assert.is_truthy(sent:find('Mend a.png as {\\"text\\": 1}: <The same line', 1, true), sent)
    assert.is_truthy(sent:find('a \\"quote\\" and {name}>', 1, true))
    assert.is_truthy(sent:find("<café>", 1, true))
    assert.is_truthy(sent:find('"model":"gpt-x"', 1, true))
    assert.is_truthy(sent:find('"max_completion_tokens":77', 1, true))
    assert.is_nil(sent:find("image_url", 1, true))

    support.write(self.path .. "/data/a.png.txt.api", LOOP)
    fs.remove(self.path .. "/data/a.png.txt")
    fs.remove(self.path .. "/data/a.png.txt.before")
    assert.equal(0, (self:run(box, "--with-image", "--detail", "low")))
    sent = self:sent()
    assert.is_truthy(sent:find('"image_url":{"detail":"low","url":"data:image/png;base64,', 1, true), sent)
    assert.is_truthy(sent:find("again.\\n", 1, true))
  end)

  it("asks an answer of JSON to be JSON with --json", function()
    local self <close> = project { texts = { ["a.png.txt.api"] = '{"a": "b', ["bad.png.txt.api"] = "{" },
      words = { "--json" },
      model = [[return request.custom_id:find("bad") and "Dear Sir" or '```json\n{"a": "b",}\n```']] }
    local box <close> = self:sandbox()
    local status, out = self:run(box, "--policy", support.home .. "/tests/fixtures/repair.lua")
    assert.equal(2, status, out) -- no such policy: nothing is sent
    support.write(self.path .. "/policy.lua",
      'local policy = require "obatch.policy"\npolicy.repair = true\nreturn policy')
    status, out = self:run(box, "--policy", self.path .. "/policy.lua")
    assert.equal(3, status)
    assert.same({ ["a.png.txt"] = '{"a": "b"}', ["a.png.txt.before"] = '{"a": "b', ["bad.png.txt.api"] = "{" },
      self:contents())
    assert.is_truthy(out:find("attempt 1 of 3: not JSON", 1, true), out)
  end)

  it("leaves out what it cannot or must not send, and says why", function()
    local self <close> = project { texts = { ["both.png.txt.api"] = LOOP, ["both.png.txt"] = "Dear Sir.",
      ["before.png.txt.api"] = LOOP, ["before.png.txt.before"] = "older", ["long.png.txt.api"] = LOOP:rep(200),
      ["blank.png.txt.api"] = " \n", ["room.png.txt.api"] = LOOP, ["room.png.txt"] = " " } }
    support.shell(("cd %s/data && ln -s both.png.txt link.png.txt.api"):format(support.quote(self.path)))
    local box <close> = self:sandbox()
    local status, out = self:run(box)
    assert.equal(3, status)
    for _, words in ipairs { "both.png.txt.api: data/both.png.txt is there, too",
      "long.png.txt.api: 186000 bytes are too long",
      "before.png.txt.api: data/before.png.txt.before is in the way",
      "blank.png.txt.api: it is blank: send it --with-image",
      "link.png.txt.api: data/link.png.txt.api is a link" } do
      assert.is_truthy(out:find("still labelled: data/" .. words, 1, true), out)
    end
    assert.same({ ["data|room.png"] = 1 }, self:paid())
    assert.equal("The transcription\nof data|room.png.\n", self:contents()["room.png.txt"])
    support.write(self.path .. "/data/blank.png", "no image")
    out = select(2, self:run(box, "--with-image"))
    assert.is_truthy(out:find("blank.png.txt.api: data/blank.png: not a PNG", 1, true), out)
    assert.equal(1, self:paid()["data|long.png"])
    assert.is_nil(self:paid()["data|blank.png"])
  end)

  it("--dry-run says what would be sent, and makes nothing", function()
    local self <close> = project()
    local before = self:contents()
    local status, out = self:run(nil, "--dry-run")
    assert.equal(0, status)
    assert.is_truthy(out:find("3 of 3 labelled texts would be sent to gpt-4o: 2792 bytes", 1, true), out)
    assert.same(before, self:contents())
    assert.is_nil(fs.stat(self.path .. "/deep_clean"))
  end)

  it("--purge removes the kept originals, and nothing else", function()
    local self <close> = project { texts = { ["a.png.txt"] = "new", ["a.png.txt.before"] = "old",
      ["b.png.txt.before"] = "only", ["c.png.txt.api"] = LOOP, ["notes.txt.before"] = "mine", ["d.png.txt"] = "new" } }
    support.shell(("cd %s/data && ln -s notes.txt.before d.png.txt.before"):format(support.quote(self.path)))
    local status, out, err = self:run(nil, "--purge")
    assert.equal(0, status)
    assert.equal("1 kept original removed\n", out)
    assert.same({ ["a.png.txt"] = "new", ["b.png.txt.before"] = "only", ["c.png.txt.api"] = LOOP,
      ["notes.txt.before"] = "mine", ["d.png.txt"] = "new", ["d.png.txt.before"] = "mine" }, self:contents())
    assert.is_truthy(err:find("b.png.txt.before is kept: the text that replaced it is gone", 1, true), err)
    assert.is_truthy(err:find("d.png.txt.before is a link", 1, true), err)
  end)

  it("needs no key and makes no folder where nothing is labelled", function()
    local self <close> = project { texts = { ["a.png.txt"] = "Dear Sir." } }
    local status, out = support.shell(("cd %s && %s deep_clean --image-dir data"):format(support.quote(self.path),
      support.quote(support.binary)))
    assert.equal(0, status)
    assert.equal("0 texts are labelled\n", out)
    assert.is_nil(fs.stat(self.path .. "/deep_clean"))
  end)

  it("hashes no images, of which an errand is asked for that only where its record names it", function()
    local self <close> = project()
    for name, sha256 in pairs { run = false, resubmit = true } do
      local picture = assert(jsonl.image(self.path .. "/data/a.png"))
      assert(errand.begin(self.path, name, function(writer)
        assert(writer:put { custom_id = "a", image = picture })
        return { items = { { custom_id = "a", path = "data/a.png" } } }
      end, sha256))
      assert.equal(sha256 and fs.sha256(self.path .. "/data/a.png") or nil, picture:sha256())
    end
  end)

  it("leaves its folder to one process at a time", function()
    local self <close> = project()
    local box <close> = self:sandbox()
    assert(fs.mkdir(self.path .. "/deep_clean"))
    local _ <close> = assert(fs.lock(self.path .. "/deep_clean/lock"))
    local status, _, err = self:run(box)
    assert.equal(1, status)
    assert.is_truthy(err:find("deep_clean is in use: ", 1, true), err)
    assert.is_truthy(err:find("\nobatch: wait for that, or stop it with Ctrl-C, then run the same command again to go "
      .. "on\n", 1, true), err)
    assert.same({}, self:paid())
  end)

  it("refuses wrong usage before anything is sent", function()
    local self <close> = project()
    support.write(self.path .. "/rules.lua", 'require "obatch.detectors".x = 1')
    support.write(self.path .. "/empty", "")
    for _, words in ipairs { { "--rules", "rules.lua" }, { "--prompt-file", "empty" }, { "--prompt-file", "nowhere" },
      { "--image-dir", "nowhere" }, { "--max-attempts", "0" } } do
      local status, out = self:run(nil, table.unpack(words))
      assert.equal(2, status, words[1] .. out)
    end
    assert.is_nil(fs.stat(self.path .. "/deep_clean"))
  end)

  it("takes no remark for a text that it did not see the image of", function()
    local garbled = ("JoJotWoIe yea} Ja}Jaq bst3st the letter of May. "):rep(3) .. "A page of some length it is."
    local self <close> = project { texts = { ["a.png.txt.api"] = garbled },
      model = [[return "The letter is hard to read."]] }
    local box <close> = self:sandbox()
    local status, out = self:run(box)
    assert.equal(3, status)
    assert.is_truthy(out:find("27 bytes are too few for this text", 1, true), out)
    assert.same({ ["a.png.txt.api"] = garbled }, self:contents())
    assert.equal(0, (self:run(box, "--with-image")))
    assert.equal("The letter is hard to read.", self:contents()["a.png.txt"])
  end)

  it("is at its end without the requests, which may hold whole images", function()
    local self <close> = project()
    local box <close> = self:sandbox()
    assert.equal(3, (self:run(box)))
    for _, name in ipairs { "original_requests.jsonl", "record.json",
      "iteration_1/batch_requests_iteration_1.jsonl" } do
      assert.is_nil(fs.stat(self.path .. "/deep_clean/run_001/" .. name), name)
    end
  end)

  it("puts nothing where something changed while the answer was on its way", function()
    local self <close> = project { texts = { ["changed.png.txt.api"] = LOOP, ["gone.png.txt.api"] = LOOP,
      ["taken.png.txt.api"] = LOOP, ["sub/away.png.txt.api"] = LOOP } }
    local box <close> = self:sandbox()
    -- The first run is killed when its batch exists.
    assert.equal(137, (support.shell("export AT=6 WHEN=after SIGNAL=KILL; " .. self:command(box.url))))
    assert.is_truthy(fs.stat(self.path .. "/deep_clean/run_001/record.json"))
    support.write(self.path .. "/data/changed.png.txt.api", "mine")
    fs.remove(self.path .. "/data/gone.png.txt.api")
    support.write(self.path .. "/data/taken.png.txt", "mine")
    support.shell(("cd %s && mv data/sub elsewhere && ln -s ../elsewhere data/sub"):format(support.quote(self.path)))
    local status, out = self:run(box)
    assert.equal(3, status)
    assert.same({ ["changed.png.txt.api"] = "mine", ["taken.png.txt.api"] = LOOP, ["taken.png.txt"] = "mine" },
      self:contents())
    assert.equal(LOOP, support.read(self.path .. "/elsewhere/away.png.txt.api"))
    assert.is_nil(fs.stat(self.path .. "/elsewhere/away.png.txt"))
    for _, words in ipairs { "changed.png.txt.api: the labelled text was changed",
      "gone.png.txt.api: the labelled text is gone",
      "taken.png.txt.api: data/taken.png.txt is there already", "away.png.txt.api: .-not in the folder data" } do
      assert.is_truthy(out:find(words), out)
    end
  end)

  --- Writes a file of decisions, each { path, "accept"|"reject", text, note }; returns the words that name it.
  local function decisions(self, list)
    local lines = {}
    for i, one in ipairs(list) do
      lines[i] = json.encode { path = one[1], custom_id = one[1]:gsub("/", "|"), decision = one[2],
        sha256 = one[3] and fs.sha256_text(one[3]), note = one[4] }
    end
    support.write(self.path .. "/decisions", table.concat(lines, "\n"))
    return "--decisions", "decisions"
  end

  it("takes the label off what a reader accepted, for good, and sends what was rejected with the note", function()
    local self <close> = project { texts = { ["a.png.txt.api"] = LOOP, ["b.png.txt.api"] = LOOP .. "2",
      ["good.png.txt"] = "Dear Sir.\n", ["kept.png.txt"] = "Dear Madam.\n", ["other.png.txt"] = "Dear all.\n",
      ["mended.png.txt"] = "New.\n", ["mended.png.txt.before"] = "Old.\n" } }
    local box <close> = self:sandbox()
    local words = { decisions(self, { { "data/a.png", "accept", LOOP, "it is a poem" },
      { "elsewhere/b.png", "reject", LOOP .. "2" },
      { self.path .. "/data/good.png", "reject", "Dear Sir.\n", "No: {text}" },
      { "data/kept.png", "accept", "Dear Madam.\n" }, { "data/other.png", "reject", "Dear\n" },
      { "data/none.png", "reject", "Dear\n" }, { "data/kept.png", "reject" },
      { "data/mended.png", "reject", "New.\n" } }) }
    local before = self:contents()
    local status, out = self:run(nil, "--dry-run", table.unpack(words))
    assert.equal(0, status, out)
    for _, sentence in ipairs { "decisions: 2 accepted, 1 rejected, 5 not followed",
      "decisions:2: elsewhere/b.png: no text of an image below data; not followed",
      "decisions:5: data/other.png: the text is another one now; not followed",
      "decisions:6: data/none.png: no text of an image below data; not followed",
      "decisions:7: data/kept.png: it does not say about which text it is (sha256); not followed",
      "decisions:8: data/mended.png: data/mended.png.txt.before is in the way: see to it, or run with --purge",
      "would be data/a.png.txt: accepted by a reader, no label",
      "would be data/good.png.txt.api: rejected by a reader, labelled",
      "2 of 2 labelled texts would be sent to gpt-4o: 941 bytes" } do
      assert.is_truthy(out:find(sentence, 1, true), sentence .. "\n" .. out)
    end
    assert.same(before, self:contents())

    local err
    status, out, err = self:run(box, table.unpack(words))
    assert.equal(0, status, out .. err)
    assert.same({ ["data|b.png"] = 1, ["data|good.png"] = 1 }, self:paid())
    local sent = self:sent()
    assert.is_truthy(sent:find('"text":"A reader has compared the text below with the page and rejected it: No: {text}'
      .. "\\n\\nBelow, after", 1, true), sent)
    local now = self:contents()
    assert.equal(LOOP, now["a.png.txt"])
    assert.is_nil(now["a.png.txt.api"])
    assert.equal("The transcription\nof data|good.png.\n", now["good.png.txt"])
    assert.equal("Dear Sir.\n", now["good.png.txt.before"])

    -- What was accepted is not labelled again, and is not sent, until its text changes.
    assert.equal(0, (support.shell(("cd %s && %s clean --image-dir data"):format(support.quote(self.path),
      support.quote(support.binary)))))
    assert.equal(LOOP, self:contents()["a.png.txt"])
    support.write(self.path .. "/data/a.png.txt.api", LOOP)
    fs.remove(self.path .. "/data/a.png.txt")
    status, out, err = self:run(box)
    assert.equal(0, status, out .. err)
    assert.equal(LOOP, self:contents()["a.png.txt"])
    assert.is_nil(self:paid()["data|a.png"])
  end)

  it("asks once more about what a reader rejected, and takes the rejected text for no answer", function()
    local again = "The transcription\nof data|a.png.\n"
    local self <close> = project { texts = { ["bad.png.txt.api"] = LOOP, ["a.png.txt"] = again } }
    local box <close> = self:sandbox()
    self:run(box, "--max-attempts", "1")
    self:run(box, "--max-attempts", "1")
    assert.equal(1, self:paid()["data|bad.png"])
    local words = { "--max-attempts", "1",
      decisions(self, { { "data/bad.png", "reject", LOOP, "Look again." }, { "data/a.png", "reject", again } }) }
    local status, out = self:run(box, table.unpack(words))
    assert.equal(3, status, out)
    assert.same({ ["data|bad.png"] = 2, ["data|a.png"] = 1 }, self:paid())
    assert.is_truthy(self:sent():find("rejected it: Look again.", 1, true))
    assert.is_truthy(out:find("a.png.txt.api: attempt 1 of 1, left for a person: it is the text that a reader has "
      .. "rejected", 1, true), out)
    local files = self:contents()
    files["decisions.jsonl"] = nil
    assert.same({ ["bad.png.txt.api"] = LOOP, ["a.png.txt.api"] = again }, files)
    -- Once: the same decision asks no more.
    status, out = self:run(box, table.unpack(words))
    assert.equal(3, status, out)
    assert.same({ ["data|bad.png"] = 2, ["data|a.png"] = 1 }, self:paid())
    assert.is_truthy(out:find("bad.png.txt.api: left for a person after 2 attempts", 1, true), out)
  end)

  it("takes no text for an answer that a reader has rejected before", function()
    local self <close> = project { texts = { ["a.png.txt"] = "Text one is here.\n" },
      model = [[return asked % 2 == 1 and "Text two is here.\n" or "Text one is here.\n"]] }
    local box <close> = self:sandbox()
    local status, out = self:run(box, decisions(self, { { "data/a.png", "reject", "Text one is here.\n" } }))
    assert.equal(0, status, out)
    self:run(nil, "--purge")
    status, out = self:run(box, decisions(self, { { "data/a.png", "reject", "Text two is here.\n" } }))
    assert.equal(3, status, out)
    assert.is_truthy(out:find("a.png.txt.api: attempt 1 of 3: it is the text that a reader has rejected", 1, true), out)
    assert.equal("Text two is here.\n", self:contents()["a.png.txt.api"])
  end)

  it("lets a text be accepted that is on its way", function()
    local cells = loop.group { project { texts = { ["a.png.txt.api"] = LOOP, ["b.png.txt.api"] = LOOP .. "b" } } }
    local _ <close> = cells
    local self = cells[1]
    decisions(self, { { "data/a.png", "accept", LOOP } })
    self.steps = [[(export AT=4 WHEN=after SIGNAL=KILL; run) >first.out 2>&1; echo $? >codes
      run --decisions decisions >second.out 2>&1; echo $? >>codes]]
    loop.pool(cells, 1)
    assert.equal("137\n0\n", support.read(self.path .. "/codes"), support.read(self.path .. "/second.out"))
    local out = support.read(self.path .. "/second.out")
    for _, words in ipairs { "going on with deep_clean/run_001: 2 texts", "1 text mended, 0 still labelled",
      "data/a.png.txt: a reader has accepted it meanwhile; the answer is only in deep_clean/run_001" } do
      assert.is_truthy(out:find(words, 1, true), out)
    end
    assert.same({ ["data|a.png"] = 1, ["data|b.png"] = 1 }, self:paid())
    assert.equal(LOOP, self:contents()["a.png.txt"])
  end)

  it("does the rest of a reader's decisions after a kill", function()
    local cells = loop.group {}
    local _ <close> = cells
    for at = 1, 8 do
      local self = project { texts = { ["a.png.txt.api"] = LOOP, ["good.png.txt"] = "Dear Sir.\n" } }
      local words = table.concat({ decisions(self, { { "data/a.png", "accept", LOOP },
        { "data/good.png", "reject", "Dear Sir.\n", "No." } }) }, " ")
      -- Once what was decided is on disk, the same command without the option does the rest.
      self.steps = ([[(%s run %s) >first.out 2>&1; echo $? >codes
        [ -e data/decisions.jsonl ] || run %s >>first.out 2>&1]]):format(
        strike.export(self.path .. "/data", { at = at, with = "KILL" }), words, words)
      cells[at] = self
    end
    loop.pool(cells, 4)
    for _, self in ipairs(cells) do
      assert.equal("137\n", support.read(self.path .. "/codes"))
      assert.equal(0, self.code, self.out .. self.err)
      assert.same({ ["data|good.png"] = 1 }, self:paid())
      local files = self:contents()
      files["decisions.jsonl"] = nil
      assert.same({ ["a.png.txt"] = LOOP, ["good.png.txt"] = "The transcription\nof data|good.png.\n",
        ["good.png.txt.before"] = "Dear Sir.\n" }, files)
    end
  end)

  it("refuses decisions that are not right, before anything is done", function()
    local self <close> = project()
    local before = self:contents()
    support.write(self.path .. "/decisions", '{"path":"data/a.png","decision":"accept"}\n{"path":"data/a.png"}\n')
    local status, _, err = self:run(nil, "--decisions", "decisions")
    assert.equal(2, status)
    assert.is_truthy(err:find('decisions:2: "decision" must be "accept" or "reject"', 1, true), err)
    assert.same(before, self:contents())
    assert.is_nil(fs.stat(self.path .. "/deep_clean"))
  end)
end)
