-- Which texts are labelled, for which reason, and which honest pages are not.
local cleaning = require "obatch.cleaning"
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local support = require "support"
local text = require "obatch.text"

--- A letter of some 1,000 characters that repeats nothing.
local LETTER = [[
Port Ellery, 2 April 1893

Dear Margaret,

The surveyor came on Tuesday and walked the whole length of the north pier. He counted eleven loose
stones and wrote each of them down, but he would not say what the repair is going to cost. Your
brother has taken the boat to the yard. The keel is sound. The mast must be replaced before summer,
and the sails can wait another year.

Please send the blue ledger with the next coach, because Mr Hartnoll asks for it every morning. He
thinks that somebody has paid twice for the tar. If nobody finds the entry, we shall write to the
bank in the city, which I would rather not do. The weather is good, the barometer stands high, and
the children of the harbour master have learned to swim.

With love to all,

Edwin
]]

local function judge(content, context) return detectors.judge(content, context or {}) end

local function labelled(content, pattern, context)
  local label, score, reasons = judge(content, context)
  local all = table.concat(reasons, "; ")
  assert.is_true(label, ("%.2f %s: %s"):format(score, all, content:sub(1, 60)))
  assert.is_truthy(all:find(pattern), all)
  assert.is_nil(all:find("[\n\27]"))
end

local function passes(content, context)
  local label, score, reasons = judge(content, context)
  assert.is_false(label, ("%.2f %s: %s"):format(score, table.concat(reasons, "; "), content:sub(1, 60)))
end

local function rows(n, row)
  local list = {}
  for i = 1, n do list[i] = row(i) end
  return table.concat(list, "\n") .. "\n"
end

describe("labelled as a repetition:", function()
  for name, content in pairs {
    ["a line"] = ("The quick brown fox jumps over the lazy dog.\n"):rep(30),
    ["a line at the end of a page"] = LETTER .. ("I remain, Sir, your obedient servant,\n"):rep(40),
    ["a phrase without a line break"] = LETTER .. ("and so on and so forth "):rep(60),
    ["one word"] = ("the "):rep(50),
    ["some lines again and again"] = ("Alpha beta\ngamma delta\nepsilon zeta eta\ntheta iota\n"):rep(25),
    ["a paragraph"] = LETTER:rep(4),
    ["a phrase in a script without spaces"] = "这是一个测试。" .. ("我们的朋友遍天下"):rep(50),
    ["a syllable"] = ("la"):rep(2000),
    ["a digit"] = ("0"):rep(5000),
    ["a sign"] = LETTER .. ("."):rep(20000),
    ["rows that only count"] = rows(200, function(i)
      return ("%d. The committee then proceeded to the consideration of the report."):format(i)
    end),
    ["phrases in changing order"] = rows(120, function(i)
      return (i * i % 7 < 3 and "the members of the committee on rules" or "resolved by the convention of the order")
        .. (i * 5 % 11 < 6 and " and all the other delegates from the west" or ", as was said before at great length")
    end),
  } do
    it(name, function() labelled(content, "^repetition") end)
  end

  it("a loop of 1 MB, in a moment and with a bounded number of words", function()
    labelled(("The same line again.\n"):rep(50000), "^repetition")
  end)
end)

describe("not labelled:", function()
  for name, content in pairs {
    ["a letter"] = LETTER,
    ["a page number"] = "57",
    ["a title"] = "COPY.",
    ["a list of names and numbers"] = "Hayes D. A. S 235\nHart Frank P.O. 914-996\nHarvard W. T. 75\nHays J. W. 436\n"
      .. "Hauck Will 720½\nHayes R. R. 393\nHayes W. C. 776-791-790\nHarris J. R. 544-945\nHarper O. W. 722\n",
    ["an index with dotted lines"] = rows(60, function(i) return ("Entry%d, of the %s .............. %d"):format(i,
      ({ "pier", "boat", "ledger" })[i % 3 + 1], i * 7) end),
    ["an empty form"] = ("Name ........................ Age ....... Residence ...............\n"):rep(30),
    ["a ruled page"] = ("______________________________\n"):rep(40),
    ["a table of zeros"] = ("0 0 0 0 0 0 0 0\n"):rep(40),
    ["a table of yes and no"] = rows(500, function(i)
      return fs.sha256_text("row " .. i):byte() % 2 == 0 and "Yes" or "No"
    end),
    ["an account with dittos"] = rows(50, function(i) return ("%d  do.  do.  do.  %d.50"):format(i, i * 3 % 17) end),
    ["an account with equal entries"] = rows(35, function(i)
      return ("%d Oct. To cash paid for labor on the county road %d.50"):format(i % 31, i * 3 % 17)
    end),
    ["a register with a formula"] = rows(40, function(i)
      return ("Person%d Family%d, laborer, residing at New York, aged %d"):format(i, i * 7, 20 + i % 40)
    end),
    ["a poem with a refrain"] = rows(7, function(i)
      return ("Verse %d begins with word%d and word%d,\nand goes on to the shore of sea%d.\nRow, brothers, row, the "
        .. "stream runs fast,\nthe rapids are near and the daylight's past."):format(i, i, i * 9, i * 4)
    end),
    ["a hymn"] = ("Hallelujah! "):rep(12) .. "\nPraise to the Lord, the Almighty, the King of creation.",
    ["struck letters"] = ("X"):rep(300) .. "\nDear Sir: I have your letter and will answer it soon.",
    ["French"] = "Le député a été très fâché de l’affaire, où il avait été mêlé malgré lui. « Ça va », dit-il à Noël.",
    ["capitals with tildes"] = "SÃO PAULO, CORAÇÃO, NÃO. Â direita, À esquerda; PÃES E MÃES.",
    ["Chinese"] = "第一章　总则\n第一条　为了规范活动，保护公民、法人和其他组织的合法权益，维护社会秩序，制定本法。",
    ["Arabic"] = "قال الراوي يا سادة يا كرام، كان في قديم الزمان ملك من ملوك الزمان، له ولدان.",
    ["Cyrillic"] = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    ["Greek"] = "Μῆνιν ἄειδε, θεά, Πηληϊάδεω Ἀχιλῆος οὐλομένην, ἣ μυρί' Ἀχαιοῖς ἄλγε' ἔθηκε.",
    ["Hindi"] = "यह एक पुराना पत्र है, जो गाँव के मुखिया ने अपने पुत्र को लिखा था।",
    ["formulas"] = "Let f(x) = x² + 2x + 1. Then f'(x) = 2x + 2, and ∫₀¹ f(x) dx = 7/3.\n"
      .. ("a1x + b1y = c1\n"):rep(6),
    ["TeX"] = [[\section{Fields} Let $x \in \mathbb{R}$ and $\nabla f = 0$; then
      \begin{equation} \frac{a}{b} = c_{1}^{2x} \end{equation} where a, b, c, d, f, g, h are real.]],
    ["names with capitals within"] = ("McGinnis, MacDonald, DeLong, LaFollette, O'Connell, VanDyke, PhD, MSc, "
      .. "FitzGerald, iPhone, 14th, 2d, 23d, 3rd, 10kg, No.2, A12\n"):rep(2),
    ["a regret of 1909"] = "I am sorry, but I cannot attend the convention. Fraternally yours, Samuel Gompers.",
    ["a page that ends in the middle of a sentence"] = LETTER:sub(1, 700),
    ["one character that could not be read"] = LETTER .. "\u{FFFD}",
    ["nothing"] = "",
    ["white space"] = " \n\t",
  } do
    it(name, function() passes(content) end)
  end

  it("the good ones of the real answers, where they are at hand", function()
    local path = support.home .. "/../shared/real/ocr_results.jsonl"
    if not fs.stat(path) then return end
    for record in jsonl.scan(path, { id = "/custom_id" }, { text = true }) do
      local answer = outcome.text(record.text)
      passes((cleaning.clean(answer)))
      local found = text.find_json(answer, true)
      if found then
        passes(found, { json = true, texts = 45, median = 1400 })
        passes((cleaning.clean(json.get(found, "/ocr_text"))), { texts = 45, median = 900 })
      end
    end
  end)
end)

describe("labelled", function()
  it("for what an engine reads upside down", function()
    labelled([[
WS UO atl joedxq ‘Jeoq at} Jou pue
YP} [[EYs | OS ‘ST[e] JoJotWoIe ay,
yea} PY J WPT) Ja}Jaq are spires Mau
MOLIOWO} Woy urese Jetd YyJIoU ay}]], "^garbled words")
  end)

  it("for characters of no language, and for UTF-8 taken for something else", function()
    labelled("Dear \u{E123}\u{E456}ir, \u{10FFFF}our letter is here.", "^odd characters")
    labelled("Le dÃ©putÃ© a Ã©tÃ© trÃ¨s fÃ¢chÃ© de lâ€™affaire, oÃ¹ il avait Ã©tÃ© mÃªlÃ©.", "^odd characters")
  end)

  it("for replacement characters", function()
    labelled("Dear Sir \u{FFFD}\u{FFFD}\u{FFFD} I have your letter of the 5th.", "^replacement characters")
    labelled(LETTER:rep(3) .. ("\u{FFFD} x "):rep(10), "replacement characters 1.00 %(10 ")
  end)

  it("for bytes that are not UTF-8", function()
    labelled("caf\xE9 \27[31m", "^invalid UTF%-8 1.00 %(not UTF%-8 from byte 4 on%)")
  end)

  it("for a refusal, alone or in JSON", function()
    for _, content in ipairs { "I'm sorry, but I can't assist with that request.",
      "I\u{2019}m sorry, I can\u{2019}t help with that.",
      "I cannot help with this.", "As an AI language model, I am unable to read images.",
      "I am unable to transcribe the image.",
      "\n\nI'm unable to view the handwriting.", "The image appears to be blank.",
      "There is no legible text in the image.",
      '{"ocr_text": "I\'m sorry, but I can\'t assist with that.", "date": null}' } do
      labelled(content, "^refusal")
    end
  end)

  it("for broken JSON where JSON was asked for", function()
    labelled('{"ocr_text": "Dear Sir', "^broken JSON 1.00 %(.* at byte %d+%)", { json = true })
    passes('{"ocr_text": "Dear Sir"}', { json = true })
    passes('{"ocr_text": "Dear Sir')
    passes("", { json = true })
  end)

  it("for a length that no page has", function()
    labelled(rows(40000, function(i) return "word" .. i end), "no page has so many")
  end)
end)

describe("the length of a text", function()
  local folder = { texts = 40, median = 1200 }

  it("counts against its folder", function()
    labelled(rows(12000, function(i) return "word" .. i * 7919 end), "more than 100 times the median",
      { texts = 40, median = 900 })
    local label, score = judge("Dear Sir", folder)
    assert.is_false(label)
    assert.equal(0.6, score)
    labelled("I have your letter of the fifth and I beg to say in", "length.*cut off", folder)
  end)

  it("says nothing where the folder has few texts", function()
    assert.equal(0, select(2, judge("Dear Sir.", { texts = 9, median = 1200 })))
    assert.equal(0, select(2, judge("Dear Sir.", { texts = 0 })))
  end)

  it("is that in characters", function() assert.equal(2, detectors.length "我们") end)
end)

describe("scores", function()
  local list, threshold = detectors.list, detectors.threshold
  after_each(function() detectors.list, detectors.threshold = list, threshold end)

  it("add up to the threshold", function()
    local function detector(name, score) return { name = name, score = function() return score, "why" end } end
    detectors.list = { detector("a", 0.6), detector("b", 0.4), detector("c", 0) }
    local label, score, reasons = judge "x"
    assert.is_true(label)
    assert.equal(1, score)
    assert.same({ "a 0.60 (why)", "b 0.40 (why)" }, reasons)
    detectors.threshold = 1.1
    assert.is_false((judge "x"))
    detectors.list = { { name = "a", score = function() return "1" end } }
    assert.has_error(function() judge "x" end, "detectors: 'a' returned a string, not a score")
  end)
end)

describe("a rules file", function()
  --- Runs detectors.load on a file of its own in a program of its own.
  local function load_rules(rules, code)
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/rules.lua", rules)
    support.write(dir.path .. "/test.lua", ([[
      local cleaning, detectors = require "obatch.cleaning", require "obatch.detectors"
      local ok, message = detectors.load(%q)
      if not ok then print(message) return 1 end
      %s]]):format(dir.path .. "/rules.lua", code or ""))
    local status, out, err = support.obatch("run", dir.path .. "/test.lua")
    return status, out .. err
  end

  it("changes rules, detectors and numbers", function()
    local status, out = load_rules([[
      local cleaning, detectors = require "obatch.cleaning", require "obatch.detectors"
      cleaning.remove "fences"
      detectors.remove "refusal"
      detectors.threshold = 0.5
      detectors.limits.shorter = 5
      table.insert(detectors.list, { name = "leader", score = function(text)
        return text:find("MICROFILM", 1, true) and 1 or 0, "a film leader"
      end })]], [[
      print(cleaning.clean "```\na\n```", detectors.judge("I cannot help with this.", {}))
      print(detectors.judge("MICROFILMED 1984", {}))
      print(detectors.judge("short.", { texts = 10, median = 40 }))]])
    assert.equal(0, status, out)
    assert.is_truthy(out:find("^```"), out)
    assert.is_truthy(out:find("false"), out)
    assert.equal(2, select(2, out:gsub("true", "")), out)
  end)

  for name, case in pairs {
    ["a misspelt field"] = { 'require "obatch.detectors".treshold = 2', "there is no 'treshold'" },
    ["a misspelt number"] = { 'require "obatch.detectors".limits.pages = 2', "detectors.limits: there is no 'pages'" },
    ["a number that is none"] = { 'require "obatch.detectors".limits.page = "2"', "limits.page must be a number" },
    ["other limits altogether"] = { 'require "obatch.detectors".limits = {}', "change single numbers" },
    ["a detector without a function"] = { 'table.insert(require "obatch.detectors".list, { name = "x" })',
      "%(x%): score must be a function" },
    ["a misspelt rule"] = { 'require "obatch.cleaning".remove "fence"', "there is no rule 'fence'" },
    ["a misspelt detector"] = { 'require "obatch.detectors".remove "x"', "there is no detector 'x'" },
    ["a wrong threshold"] = { 'require "obatch.detectors".threshold = "low"', "threshold must be a number" },
    ["a syntax error"] = { "local =", "rules.lua:1:" },
    ["a policy"] = { 'return require "obatch.policy"', "returns nothing" },
  } do
    it("with " .. name .. " is refused", function()
      local status, out = load_rules(case[1])
      assert.equal(1, status)
      assert.is_truthy(out:find(case[2]), out)
    end)
  end

  it("that is not there is refused", function()
    local ok, message = detectors.load "/nowhere/rules.lua"
    assert.is_nil(ok)
    assert.is_truthy(message:find("/nowhere/rules.lua", 1, true))
  end)
end)
