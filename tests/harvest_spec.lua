--- Harvesting: what is written where, whatever the result lines say.
local fs = require "obatch.fs"
local harvest = require "obatch.harvest"
local image_record = require "obatch.image_record"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local sidecar = require "obatch.sidecar"
local support = require "support"

--- A policy of its own for each test.
local function rules(changes)
  local list = { expect = "text", allow_blank = true, repair = false, attempts = { invalid = 4, truncated = 4,
    refused = 1, transient = 6, permanent = 1, missing = 6 } }
  function list.action(item)
    local limit = list.attempts[item.class]
    return limit and item.counts[item.class] >= limit and "give_up" or "resend"
  end
  for name, value in pairs(changes or {}) do list[name] = value end
  return list
end

--- A result line with an answer; `fields` change its choice, `more` the line.
local function answer(id, content, fields, more)
  local choice = { index = 0, finish_reason = "stop", message = { role = "assistant", content = content } }
  for name, value in pairs(fields or {}) do choice[name] = value end
  local line = { id = "batch_req_1", custom_id = id, error = json.null, response = { status_code = 200, body = {
    object = "chat.completion", model = "gpt-test-2026", choices = json.array { choice },
    usage = { prompt_tokens = 11, completion_tokens = 7 } } } }
  for name, value in pairs(more or {}) do line[name] = value end
  return json.encode(line)
end

local Project = {}
Project.__index = Project

--- A project with images `names` below data/, all submitted in batch_1: `local p <close> = project(...)`.
local function project(...)
  local dir = support.tmpdir()
  local self = setmetatable({ dir = dir, path = dir.path, data = dir.path .. "/data", json = dir.path .. "/json",
    log = {}, noted = {}, known = {}, rules = rules(), taken = {} }, Project)
  self.items = {}
  for i, name in ipairs { ... } do
    local path = self.data .. "/" .. name
    fs.mkdir(path:match("^(.*)/"))
    support.write(path, "image " .. name)
    self.items[i] = { custom_id = image_record.custom_id(path, self.taken), path = path, bytes = #"image " + #name,
      sha256 = fs.sha256(path), prompt_sha256 = "p", attempt = 1 }
  end
  self.part = { batch_id = "batch_1", files = {}, ended = { status = "completed" },
    record = { image_dir = self.data, request = { model = "gpt-test" }, items = self.items } }
  return self
end

function Project:__close() getmetatable(self.dir).__close(self.dir) end

--- Adds a result file with these lines to the part.
function Project:results(...)
  local path = ("%s/results_%d.jsonl"):format(self.path, #self.part.files + 1)
  support.write(path, table.concat({ ... }, "\n") .. "\n")
  table.insert(self.part.files, path)
end

function Project:harvest(options)
  local settings = { rules = self.rules, json_dir = self.json, log = function(line) table.insert(self.log, line) end,
    shelf = {
      unresolved = function()
        local i = 0
        return function()
          i = i + 1
          return self.known[i]
        end
      end,
      note_unresolved = function(_, entries)
        self.noted = entries
        return true
      end,
    } }
  for name, value in pairs(options or {}) do settings[name] = value end
  return harvest.part(self.part, settings)
end

function Project:text(i) return support.read(self.items[i].path .. ".txt") end
function Project:has_text(i) return fs.lstat(self.items[i].path .. ".txt") ~= nil end
function Project:id(i) return self.items[i].custom_id end
function Project:json_path(id) return ("%s/batch_1/%s.json"):format(self.json, id) end

function Project:provenance(folder)
  local list = {}
  for line in io.lines((folder or self.data) .. "/provenance.jsonl") do
    local entry = json.decode(line)
    list[entry.custom_id] = entry
    list[#list + 1] = entry
  end
  return list
end

--- Every file below the project, with its content.
function Project:tree()
  local files = {}
  for path in fs.walk(self.path) do files[path:sub(#self.path + 2)] = support.read(path) end
  return files
end

describe("harvesting a batch", function()
  it("puts each text beside its image, each line into a JSON file, and where it came from beside it", function()
    local p <close> = project("a.jpg", "sub/b c.png", "sub/d.jpg")
    p:results(answer(p:id(2), "two\n"), answer(p:id(1), "one"), answer(p:id(3), "three"))
    local counts = assert(p:harvest())
    assert.same({ "one", "two\n", "three" }, { p:text(1), p:text(2), p:text(3) })
    assert.same({ 3, 3, 3 }, { counts.submitted, counts.valid, counts.written })
    assert.same({}, p.noted)
    local entry = p:provenance()[1]
    assert.same({ image = "a.jpg", custom_id = p:id(1), batch = "batch_1", sha256 = fs.sha256_text("image a.jpg"),
      prompt_sha256 = "p", model = "gpt-test-2026", attempt = 1, tokens_in = 11, tokens_out = 7,
      steps = json.array {}, written = true }, entry)
    assert.equal(2, #p:provenance(p.data .. "/sub"))
    assert.same(json.decode(answer(p:id(1), "one")), json.decode(support.read(p:json_path(p:id(1)))))
  end)

  it("keeps every value of a line as the service wrote it", function()
    local p <close> = project("a.jpg")
    local line = answer(p:id(1), "one"):gsub('"id":"batch_req_1"', '"id":"batch_req_1","n":12345678901234567890,'
      .. '"f":1.10,"e":[],"o":{},"u":"\\u00e9\\/","id":"again"')
    p:results(line)
    assert(p:harvest())
    local pretty = support.read(p:json_path(p:id(1)))
    for _, piece in ipairs { "12345678901234567890", "1.10", "[]", "{}", '"\\u00e9\\/"', '"again"' } do
      assert.truthy(pretty:find(piece, 1, true), piece)
    end
    assert.matches('\n  "custom_id": ', pretty)
  end)

  it("gives the same files when it is done again, whatever was left half done", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"), answer(p:id(3), nil, { finish_reason = "length" }))
    assert(p:harvest())
    local before, noted = p:tree(), p.noted
    assert(p:harvest())
    assert.same(before, p:tree())
    fs.remove(p.items[2].path .. ".txt")
    support.write(p.items[2].path .. ".txt.part", "tw")
    support.write(p:json_path(p:id(1)) .. ".part", "{")
    fs.remove(p.data .. "/provenance.jsonl")
    support.write(p.data .. "/provenance.jsonl.part", "{")
    assert(p:harvest())
    assert.same(before, p:tree())
    assert.same(noted, p.noted)
  end)

  it("still knows that it wrote a text which was cleaned before it was done again", function()
    local p <close> = project("a.jpg")
    p:results(answer(p:id(1), "one"))
    assert(p:harvest())
    support.write(p.items[1].path .. ".txt", "cleaned")
    assert.equal(1, assert(p:harvest()).kept)
    assert.equal("cleaned", p:text(1))
    assert.is_true(p:provenance()[1].written)
  end)

  it("takes the first good answer of several, in either file", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    local bad = { status_code = 500, body = {} }
    p:results(answer(p:id(1), "one"), answer(p:id(1), "other"), answer(p:id(2), nil, nil, { response = bad }),
      answer(p:id(3), "three"))
    p:results(answer(p:id(2), "two"), answer(p:id(3), nil, nil, { response = bad }))
    local counts = assert(p:harvest())
    assert.same({ "one", "two", "three" }, { p:text(1), p:text(2), p:text(3) })
    assert.equal(3, counts.valid)
    assert.matches('"one"', support.read(p:json_path(p:id(1))))
    assert.matches('"two"', support.read(p:json_path(p:id(2))))
    assert.matches('"three"', support.read(p:json_path(p:id(3))))
  end)

  it("books every image in one class, and those without a text as unresolved", function()
    local p <close> = project("1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg", "6.jpg", "7.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "cut", { finish_reason = "length" }),
      answer(p:id(3), nil, { message = { role = "assistant", content = json.null, refusal = "no" } }), "not JSON",
      (answer(p:id(6), "broken"):gsub("broken", "\\ud800")))
    local refusal = { status_code = 400, body = { error = { message = "bad image" } } }
    p:results(answer(p:id(4), nil, nil, { response = refusal }),
      answer(p:id(5), nil, nil, { response = json.null, error = { code = "batch_expired", message = "late" } }))
    local counts = assert(p:harvest())
    local sum = 0
    for _, class in ipairs(outcome.CLASSES) do sum = sum + counts[class] end
    assert.equal(7, sum)
    local noted = {}
    for _, entry in ipairs(p.noted) do noted[entry.path:match("(%d)%.jpg$")] = entry end
    assert.same({ "truncated", "resend", 1 }, { noted["2"].class, noted["2"].action, noted["2"].attempts })
    assert.same({ "refused", "give_up" }, { noted["3"].class, noted["3"].action })
    assert.same({ "permanent", "give_up" }, { noted["4"].class, noted["4"].action })
    assert.matches("bad image", noted["4"].reason)
    assert.same({ "expired", "resend", 0 }, { noted["5"].class, noted["5"].action, noted["5"].attempts })
    assert.equal("invalid", noted["6"].class)
    assert.equal("missing", noted["7"].class)
    assert.is_nil(noted["1"])
    assert.equal(6, #p.noted)
    assert.equal("batch_1", noted["7"].batch)
  end)

  it("says of what is in no file how its batch ended, and counts that as no attempt", function()
    for status, class in pairs { expired = "expired", cancelled = "cancelled", failed = "cancelled" } do
      local p <close> = project("a.jpg", "b.jpg")
      p.part.ended.status = status
      p:results(answer(p:id(1), "one"))
      local counts = assert(p:harvest())
      assert.equal(1, counts[class])
      assert.same({ class, "resend", 0 }, { p.noted[1].class, p.noted[1].action, p.noted[1].attempts })
    end
  end)

  it("gives up by the policy's limits over all batches of an image", function()
    local p <close> = project("a.jpg")
    for i = 1, 3 do
      p.known[i] = { custom_id = p:id(1), path = p.items[1].path, batch = "batch_0" .. i, class = "truncated" }
    end
    p.known[4] = { custom_id = p:id(1), path = p.items[1].path, batch = "batch_1", class = "truncated" } -- this one
    p.known[5] = { custom_id = "x", path = "elsewhere/a.jpg", batch = "batch_2", class = "truncated" }
    p:results(answer(p:id(1), "cut", { finish_reason = "length" }))
    assert(p:harvest())
    assert.same({ "give_up", 4 }, { p.noted[1].action, p.noted[1].attempts })
    table.remove(p.known, 1)
    assert(p:harvest())
    assert.same({ "resend", 3 }, { p.noted[1].action, p.noted[1].attempts })
  end)

  it("uses what the correction loop says of an item that has no answer", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), nil, { finish_reason = "length" }))
    p.part.failures = { [p:id(2)] = { class = "truncated", reason = "at the cap", action = "give_up", attempts = 3 },
      [p:id(1)] = { class = "invalid", reason = "stale", action = "give_up", attempts = 1 } }
    assert(p:harvest())
    assert.same({ "at the cap", "give_up", 3 }, { p.noted[1].reason, p.noted[1].action, p.noted[1].attempts })
    assert.equal("missing", p.noted[2].class)
    assert.equal("one", p:text(1))
  end)
end)

describe("a result that lies", function()
  it("writes nothing for an id that was not submitted, under no name", function()
    local p <close> = project("a.jpg")
    local before = p:tree()
    support.write(p.path .. "/outside.jpg", "image")
    local evil = { "|etc|passwd", "..|..|x", "..|outside.jpg", "../outside.jpg", "/etc/passwd", "a\0b",
      p.path .. "/x.jpg", p.data .. "/a.jpg", "", ".", "..", ("x"):rep(300),
      ("%s|data|b.jpg"):format(p.path):gsub("/", "|"), "__index", "\27[2J" }
    local lines = {}
    for i, id in ipairs(evil) do lines[i] = answer(id, "evil") end
    lines[#lines + 1] = answer(json.null, "evil")
    lines[#lines + 1] = answer(json.array { "x" }, "evil")
    lines[#lines + 1] = (answer("x", "evil"):gsub('"custom_id":"x"', '"custom_id":"\\ud800"'))
    p:results(table.unpack(lines))
    local counts = assert(p:harvest())
    local after = p:tree()
    for path in pairs(after) do
      assert.is_true(before[path] ~= nil or path == "results_1.jsonl" or path == "outside.jpg", path)
    end
    assert.equal(#lines, counts.foreign)
    assert.equal(1, counts.missing)
    assert.matches("not submitted with batch batch_1", table.concat(p.log, "\n"))
    assert.is_nil(table.concat(p.log, "\n"):find("[\0\27]"), "control characters on the terminal")
    assert.matches("and %d+ more", table.concat(p.log, "\n"))
    assert.is_true(#p.log < #lines, "as many words as an attacker likes")
  end)

  it("writes below the folder of results, whatever the service calls its batches", function()
    for _, id in ipairs { "../../x", "..", "a/b", "é\n", "batch.1" } do
      local p <close> = project("a.jpg")
      p.part.batch_id = id
      p:results(answer(p:id(1), "one"))
      assert(p:harvest())
      local names = fs.list(p.json)
      assert.equal(1, #names)
      assert.matches("^[%w_%%-]+$", names[1])
      assert.same({ "data", "json", "results_1.jsonl" }, fs.list(p.path))
    end
  end)

  it("follows no link at any place that is written to", function()
    local p <close> = project("a.jpg", "sub/b.jpg", ("d"):rep(150) .. "/" .. ("e"):rep(150) .. ".jpg")
    local out = p.path .. "/out"
    fs.mkdir(out)
    support.write(out .. "/file", "mine")
    fs.mkdir(p.json .. "/batch_1")
    local long = p:id(3):sub(1, 200)
    support.shell(("cd %s && ln -s ../../out/file batch_1/%s && ln -s ../../out batch_1/%s"):format(
      support.quote(p.json), support.quote(p:id(1) .. ".json"), support.quote(long .. "~")))
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    assert(p:harvest())
    assert.equal("mine", support.read(out .. "/file"))
    assert.equal("file", fs.lstat(p:json_path(p:id(1))).type)

    p:results(answer(p:id(3), "three"))
    local ok, message, code = p:harvest()
    assert.is_nil(ok)
    assert.equal("LINK", code)
    assert.matches("is a link", message)

    fs.remove(p.json .. "/batch_1/" .. long .. "~")
    fs.rename(p.json .. "/batch_1", p.path .. "/moved")
    support.shell(("ln -s ../out %s/batch_1"):format(support.quote(p.json)))
    ok, message, code = p:harvest()
    assert.is_nil(ok)
    assert.equal("LINK", code, message)
    assert.same({ "file" }, fs.list(out))
  end)

  it("does not write beside an image whose folder has become a link", function()
    local p <close> = project("sub/a.jpg", "b.jpg")
    fs.rename(p.data .. "/sub", p.path .. "/out")
    support.shell(("ln -s ../out %s/sub"):format(support.quote(p.data)))
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local counts = assert(p:harvest())
    assert.same({ 2, 1, 1 }, { counts.valid, counts.written, counts.unwritten })
    assert.same({ "a.jpg" }, fs.list(p.path .. "/out"))
    assert.same({ "valid", "give_up" }, { p.noted[1].class, p.noted[1].action })
    assert.matches("link", p.noted[1].reason)
  end)
end)

describe("an image", function()
  it("that is gone gets no text, but its answer is kept and not paid for again", function()
    local p <close> = project("a.jpg", "sub/b.jpg", "c.jpg")
    fs.remove(p.items[1].path)
    fs.remove(p.items[2].path)
    fs.remove(p.data .. "/sub")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"), answer(p:id(3), "three"))
    local counts = assert(p:harvest())
    assert.same({ 3, 2 }, { counts.valid, counts.unwritten })
    assert.is_false(p:has_text(1))
    assert.is_nil(fs.lstat(p.data .. "/sub"))
    assert.matches('"one"', support.read(p:json_path(p:id(1))))
    assert.same({ "valid", "give_up" }, { p.noted[1].class, p.noted[1].action })
    assert.matches("not there any more", p.noted[1].reason)
  end)

  it("that is another one now gets its text, and that is noted", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    support.write(p.items[1].path, "of another size")
    support.write(p.items[2].path, "IMAGE b.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"), answer(p:id(3), "three"))
    p.part.record.batch = { created_at = os.time() + 7200 }
    assert.equal(1, assert(p:harvest()).changed, "an old image of the same size is not read")
    p.part.record.batch = { created_at = os.time() }
    assert.equal(2, assert(p:harvest()).changed)
    local provenance = p:provenance()
    assert.same({ true, true }, { provenance[1].image_changed, provenance[2].image_changed })
    assert.is_nil(provenance[3].image_changed)
    assert.matches("has changed since", p.log[1])
  end)

  it("with another text keeps it, is named, and gets the new one with overwrite", function()
    local p <close> = project("a.jpg", "b.jpg")
    support.write(p.items[1].path .. ".txt", "by hand")
    support.write(p.items[2].path .. ".txt.api", "labelled")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local counts = assert(p:harvest())
    assert.same({ 2, 0, 2 }, { counts.valid, counts.written, counts.kept })
    assert.matches("a%.jpg%.txt: another text", p.log[1])
    assert.is_false(p:provenance()[1].written)
    assert.same({}, p.noted)
    assert.equal(2, assert(p:harvest { overwrite = true }).written)
    assert.same({ "one", "two" }, { p:text(1), p:text(2) })
    assert.is_nil(fs.lstat(p.items[2].path .. ".txt.api"))
    assert.is_true(p:provenance()[1].written)
  end)

  it("may be called anything that a file can be called", function()
    local names = { "it's \"quoted\" $(x).jpg", "line\nbreak.png", "\xFF\xFE.jpg", "a|b.jpg", "back\\slash.gif",
      "~.webp", ("n"):rep(240) .. "/" .. ("m"):rep(240) .. ".jpg", "é.JPG", "%41.jpg" }
    local p <close> = project(table.unpack(names))
    local lines = {}
    for i in ipairs(names) do lines[i] = answer(p:id(i), "text " .. i) end
    p:results(table.unpack(lines))
    assert.equal(#names, assert(p:harvest()).written)
    for i in ipairs(names) do assert.equal("text " .. i, p:text(i)) end
    assert.equal(#names - 1, #p:provenance())
    local before = p:tree()
    assert(p:harvest())
    assert.same(before, p:tree())
  end)

  it("whose name leaves no room for a text is reported, once and for all, and the others go on", function()
    local p <close> = project(("n"):rep(251) .. ".jpg", "b.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local counts = assert(p:harvest())
    assert.same({ 1, 1 }, { counts.written, counts.unwritten })
    assert.equal("give_up", p.noted[1].action)
  end)
end)

describe("a folder of images that is not there at all", function()
  it("stops the harvest: a disk that is not mounted is no reason to pay again", function()
    local p <close> = project("a.jpg")
    p:results(answer(p:id(1), "one"))
    fs.rename(p.data, p.path .. "/moved")
    local ok, message, code = p:harvest()
    assert.is_nil(ok)
    assert.equal("NO_FOLDER", code)
    assert.matches("not there", message)
    assert.same({}, p.noted)
    fs.rename(p.path .. "/moved", p.data)
    assert.equal(1, assert(p:harvest()).written)
  end)
end)

describe("what the text is", function()
  it("is told when it is JSON, whole, where text was expected", function()
    local p <close> = project("a.jpg", "b.jpg")
    p:results(answer(p:id(1), '{"ocr_text": "one"}'), answer(p:id(2), "{dear} Sir"))
    local counts = assert(p:harvest())
    assert.same({ 2, 1 }, { counts.valid, counts.json })
  end)

  it("is nothing at all for a blank page, which is not paid again", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    p:results(answer(p:id(1), ""), answer(p:id(2), " \n"), answer(p:id(3), "", { finish_reason = "length" }),
      answer(p:id(4), json.null), answer(p:id(5), "", { finish_reason = "tool_calls" }))
    local counts = assert(p:harvest())
    assert.same({ 2, 2, 1, 2 }, { counts.valid, counts.blank, counts.truncated, counts.invalid })
    assert.same({ "", "" }, { p:text(1), p:text(2) })
    assert.is_false(p:has_text(3))
    assert.is_false(p:has_text(4))
  end)

  it("is nothing for a blank page of the responses endpoint", function()
    local p <close> = project("a.jpg")
    p:results(json.encode { custom_id = p:id(1), error = json.null, response = { status_code = 200, body = {
      status = "completed", model = "m", output = json.array { { type = "message", content = json.array {
        { type = "output_text", text = "" } } } } } } })
    assert.equal(1, assert(p:harvest()).blank)
    assert.equal("", p:text(1))
  end)

  it("is the JSON without its fence where JSON is asked for, and that is noted", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    p.rules = rules { expect = "json" }
    p:results(answer(p:id(1), '```json\n{"a": 1.0}\n```'), answer(p:id(2), "no JSON"), answer(p:id(3), ""))
    local counts = assert(p:harvest())
    assert.same({ 1, 2, 0 }, { counts.valid, counts.invalid, counts.blank })
    assert.equal('{"a": 1.0}', p:text(1))
    assert.same({ "fence removed" }, { table.unpack(p:provenance()[1].steps) })
  end)

  it("is what the policy's page_text makes of the answer; what it refuses is invalid", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg", "d.jpg")
    local seen = {}
    p.rules = rules { expect = "json", page_text = function(value, item)
      seen[item.custom_id] = item.text
      if value.number then return value.number end
      return value.text, "no text in it"
    end }
    p:results(answer(p:id(1), '{"text": "one"}'), answer(p:id(2), '{"other": 1}'), answer(p:id(3), '{"text": ""}'),
      answer(p:id(4), '{"number": 4}'))
    local counts = assert(p:harvest())
    assert.same({ 2, 2, 1 }, { counts.valid, counts.invalid, counts.blank })
    assert.same({ "one", "" }, { p:text(1), p:text(3) })
    assert.equal("no text in it", p.noted[1].reason)
    assert.matches("page_text", p.noted[2].reason)
    assert.equal('{"text": "one"}', seen[p:id(1)])
  end)
end)

describe("a batch of an earlier script", function()
  --- As records.lua loads it: custom_ids of the input file, or nothing.
  local function legacy(p, ids)
    p.part.legacy = true
    p.part.record = { image_dir = "", items = ids and {} }
    for i, id in ipairs(ids or {}) do p.part.record.items[i] = { custom_id = id, path = (id:gsub("|", "/")) } end
  end

  it("finds its images by the paths that its custom_ids were made from, below the current folder", function()
    local p <close> = project("a.jpg", "sub/b.jpg", "c.jpg")
    support.write(p.path .. "/secret", "not an image")
    local below = p.path:gsub("/", "|")
    local ids = { p:id(1), "data|sub|b.jpg", "data|gone.jpg", below .. "|gone.jpg", below .. "|secret", "secret",
      "a\0b.jpg", "/x", "/etc/passwd" }
    local lines = {}
    for i, id in ipairs(ids) do lines[i] = answer(id, "text " .. i) end
    p:results(table.unpack(lines))
    -- As from that folder: this process stays in its own.
    support.write(p.path .. "/harvest.lua", ([[
      local harvest, json = require "obatch.harvest", require "obatch.json"
      local items = {}
      for i, id in ipairs(%s) do items[i] = { custom_id = id, path = (id:gsub("|", "/")) } end
      local counts = assert(harvest.part({ batch_id = "batch_1", legacy = true, files = { "results_1.jsonl" },
        ended = { status = "completed" }, record = { image_dir = "", items = items } }, {
        rules = { expect = "text", allow_blank = true }, json_dir = "json", log = function() end }))
      print(json.encode(counts))
      return 0]]):format("require 'obatch.json'.decode(" .. ("%q"):format(json.encode(json.array(ids))) .. ")"))
    local code, out, err = support.shell(("cd %s && %s run harvest.lua"):format(support.quote(p.path),
      support.quote(support.binary)))
    assert.equal(0, code, err)
    local counts = json.decode(out)
    assert.same({ "text 1", "text 2", false }, { p:text(1), p:text(2), p:has_text(3) })
    assert.same({ 9, 2, 7 }, { counts.valid, counts.written, counts.unwritten })
    assert.is_nil(fs.lstat(p.path .. "/secret.txt"))
  end)

  it("believes no id that names an image elsewhere, whatever the service says was submitted", function()
    local p <close> = project("a.jpg")
    support.write(p.path .. "/outside.jpg", "image")
    local outside = p.path:gsub("/", "|") .. "|outside.jpg"
    p:results(answer(outside, "evil"), answer(p:id(1), "one"))
    legacy(p, { outside, p:id(1) })
    local ok, message, code = p:harvest()
    assert.same({ nil, "USAGE" }, { ok, code })
    assert.matches("%-%-image%-dir", message)
    assert.is_nil(fs.lstat(p.path .. "/outside.jpg.txt"))
    legacy(p, { outside, p:id(1) })
    local counts = assert(p:harvest { image_dir = p.data })
    assert.same({ 1, 1, "one" }, { counts.written, counts.unwritten, p:text(1) })
    assert.is_nil(fs.lstat(p.path .. "/outside.jpg.txt"))
  end)

  it("finds them below --image-dir, as it is given or by its real path, also behind a link", function()
    local p <close> = project("a.jpg", "sub/b|c.jpg", "d.jpg")
    support.shell(("ln -s data %s/named"):format(support.quote(p.path)))
    local named = (p.path .. "/named"):gsub("/", "|")
    legacy(p, { p:id(1), named .. "|sub|b|c.jpg", "elsewhere|d.jpg" })
    p:results(answer(p:id(1), "one"), answer(named .. "|sub|b|c.jpg", "two"), answer("elsewhere|d.jpg", "three"))
    local counts = assert(p:harvest { image_dir = p.path .. "/named" })
    assert.same({ "one", "two" }, { p:text(1), p:text(2) })
    assert.same({ 2, 1 }, { counts.written, counts.unwritten })
  end)

  it("serves only images below --image-dir when the service has forgotten what was submitted", function()
    local p <close> = project("a.jpg", "b.jpg", "x/y.jpg", "x|y.jpg")
    legacy(p, nil)
    support.write(p.path .. "/outside.jpg", "image")
    p:results(answer(p:id(1), "one"), answer(p.path:gsub("/", "|") .. "|outside.jpg", "evil"),
      answer("|etc|passwd", "evil"), answer(image_record.custom_id(p.items[3].path, {}), "which of the two?"))
    local ok, message, code = p:harvest()
    assert.is_nil(ok)
    assert.equal("USAGE", code)
    assert.matches("%-%-image%-dir", message)
    support.shell(("ln -s data %s/named"):format(support.quote(p.path)))
    local counts = assert(p:harvest { image_dir = p.path .. "/named/" })
    assert.same({ 1, 1, 3 }, { counts.submitted, counts.written, counts.foreign })
    counts = assert(p:harvest { image_dir = p.path .. "/named" })
    assert.same({ 1, 1, 3 }, { counts.submitted, counts.same, counts.foreign })
    counts = assert(p:harvest { image_dir = p.data, overwrite = true })
    assert.same({ 1, 1, 3 }, { counts.submitted, counts.same, counts.foreign })
    assert.equal("one", p:text(1))
    assert.same({ "a.jpg", "a.jpg.txt", "b.jpg", "provenance.jsonl", "x", "x|y.jpg" }, fs.list(p.data))
    assert.same({}, p.noted)
  end)
end)

describe("a disk that takes no more", function()
  it("stops the harvest before anything is noted as done", function()
    local p <close> = project("a.jpg")
    support.write(p.json, "a file where the folder should be")
    p:results(answer(p:id(1), "one"))
    local ok, message, code = p:harvest()
    assert.is_nil(ok)
    assert.matches("^E", code)
    assert.matches(p.json, message, 1, true)
  end)

  --- Harvests while files whose names end so cannot be written, which is heard of when a file whose name ends with
  --- `heard_by` is given away, or else when it is waited for.
  local function harvest_without(p, ending, code, heard_by)
    local files = fs.files
    local _ <close> = setmetatable({}, { __close = function() fs.files = files end })
    fs.files = function()
      local failed, writer = {}, {}
      function writer.write(_, path, content)
        if heard_by and path:sub(-#heard_by) == heard_by and failed[1] then return writer.finish() end
        if path:sub(-#ending) ~= ending then return fs.write(path, content) end
        failed[#failed + 1] = path
        return true
      end
      function writer.finish()
        local path = table.remove(failed, 1)
        if path then return nil, "cannot write " .. path .. ": as the test wants", code, path end
        return true
      end
      return setmetatable(writer, { __close = function() end })
    end
    return p:harvest()
  end

  it("stops it at what was given to other threads, before anything is noted as done", function()
    for _, ending in ipairs { ".txt", ".json" } do
      local p <close> = project("a.jpg", "b.jpg")
      p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
      local ok, message, code = harvest_without(p, ending, "ENOSPC")
      assert.same({ nil, "ENOSPC" }, { ok, code })
      assert.matches("a.jpg" .. ending, message, 1, true)
      assert.same({}, p.noted)
      assert.is_nil(fs.stat(p.data .. "/provenance.jsonl"))
    end
  end)

  it("says of no image what befell the file of another one before it", function()
    -- The first image has no text: its JSON file is the last one before the other's text.
    for _, code in ipairs { "EISDIR", "ENOENT", "ENOTDIR", "ELOOP" } do
      local p <close> = project("a.jpg", "b.jpg")
      p:results(answer(p:id(1), nil, { finish_reason = "length" }), answer(p:id(2), "two"))
      local ok, message, failed = harvest_without(p, "a.jpg.json", code, "b.jpg.txt")
      assert.same({ nil, code }, { ok, failed })
      assert.matches("a.jpg.json: as the test wants", message, 1, true)
      assert.same({}, p.noted)
      assert.is_nil(fs.stat(p.data .. "/provenance.jsonl"))
      assert.equal(1, assert(p:harvest()).written)
      assert.same({ "two", p:id(1), 1 }, { p:text(2), p.noted[1].custom_id, #p.noted })
    end

    local p <close> = project("a.jpg", "b.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local counts = assert(harvest_without(p, "a.jpg.txt", "ELOOP", "b.jpg.txt"))
    assert.same({ 1, 1, "two" }, { counts.written, counts.unwritten, p:text(2) })
    assert.same({ p:id(1), 1 }, { p.noted[1].custom_id, #p.noted })
  end)

  it("goes on when a folder of images goes away while its texts are on their way", function()
    local p <close> = project("a.jpg", "sub/b.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local files = fs.files
    local _ <close> = setmetatable({}, { __close = function() fs.files = files end })
    fs.files = function()
      local real = files()
      local writer = { finish = function() return real:finish() end }
      function writer.write(_, path, content)
        if path == p.items[2].path .. ".txt" then fs.rename(p.data .. "/sub", p.path .. "/elsewhere") end
        return real:write(path, content)
      end
      return setmetatable(writer, { __close = function() real:close() end })
    end
    local counts = assert(p:harvest())
    assert.same({ 1, 1, "one" }, { counts.written, counts.unwritten, p:text(1) })
    assert.same({ p:id(2), 1 }, { p.noted[1].custom_id, #p.noted })
    assert.matches("the image is not there any more", p.noted[1].reason)
  end)

  it("goes on where only one image is concerned, and tells and notes what is true in the end", function()
    local p <close> = project("a.jpg", "b.jpg", "c.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"), answer(p:id(3), "three"))
    local counts = assert(harvest_without(p, "b.jpg.txt", "ELOOP"))
    assert.same({ 2, 1 }, { counts.written, counts.unwritten })
    assert.same({ p:id(2) }, { p.noted[1].custom_id, p.noted[2] })
    assert.matches("answered, but its text cannot be written: .*as the test wants", p.noted[1].reason)
    local said = support.read(p.data .. "/provenance.jsonl")
    assert.is_truthy(said:find("a.jpg", 1, true) and said:find("c.jpg", 1, true) and not said:find("b.jpg", 1, true))

    local q <close> = project("a.jpg", "b.jpg")
    q:results(answer(q:id(1), "one"), answer(q:id(2), "two"))
    counts = assert(harvest_without(q, "a.jpg.json", "ENAMETOOLONG"))
    assert.same({ 2, 0 }, { counts.written, counts.unwritten })
    assert.matches("a.jpg.json: as the test wants", table.concat(q.log, "\n"), 1, true)
  end)

  it("looks for whose text it is once, however many there are that cannot be written", function()
    local names = {}
    for i = 1, 120 do names[i] = i .. ".jpg" end
    local p <close> = project(table.unpack(names))
    local lines = {}
    for i = 1, #names do lines[i] = answer(p:id(i), "text") end
    p:results(table.unpack(lines))
    local text_path, calls = sidecar.text_path, 0
    local _ <close> = setmetatable({}, { __close = function() sidecar.text_path = text_path end })
    function sidecar.text_path(image)
      calls = calls + 1
      return text_path(image)
    end
    assert.equal(#names, assert(harvest_without(p, ".txt", "ELOOP")).unwritten)
    assert.is_true(calls < 10 * #names, calls)
  end)

  it("leaves nothing of a run that was killed while it wrote", function()
    local p <close> = project("a.jpg", "b.jpg")
    p:results(answer(p:id(1), "one"), answer(p:id(2), "two"))
    local result = p.json .. "/batch_1/" .. p:id(1) .. ".json"
    fs.mkdir(p.json .. "/batch_1")
    for _, path in ipairs { p.items[1].path .. ".txt.part", result .. ".part", p.json .. "/batch_1/other.json.part" } do
      support.write(path, "half a")
    end
    fs.mkdir(p.items[2].path .. ".txt.part") -- this is the user's
    assert.equal(2, assert(p:harvest()).written)
    assert.same({ "a.jpg", "a.jpg.txt", "b.jpg", "b.jpg.txt", "b.jpg.txt.part", "provenance.jsonl" }, fs.list(p.data))
    assert.same({ p:id(1) .. ".json", p:id(2) .. ".json" }, fs.list(p.json .. "/batch_1"))
  end)

  it("keeps the first of two texts for one image, though it is still on its way", function()
    local p <close> = project("a.jpg")
    support.shell(("ln -s data %s/named"):format(support.quote(p.path)))
    for _, folder in ipairs { p.data, p.path .. "/named" } do
      p.items[2] = { custom_id = "another", path = folder .. "/a.jpg", image_dir = folder }
      p.part.files = {}
      p:results(answer(p:id(1), "one"), answer("another", "two"))
      local counts = assert(p:harvest())
      assert.same({ 1, 1, "one" }, { counts.written, counts.kept, p:text(1) })
      fs.remove(p.items[1].path .. ".txt")
    end
  end)
end)
