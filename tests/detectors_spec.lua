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
    ["a sentence three times"] = ("The council met in the hall of the union and heard the report of the "
      .. "officers, who had gone from town to town during the summer to see how the members of each lodge "
      .. "were faring."):rep(3, "\n"),
    ["a loop that is half of the text"] = LETTER:sub(1, 400) .. ("the boat and the yard and the mast, "):rep(9)
      .. ("the boat and the yard and the mast, "):rep(6),
    ["dashes and nothing else"] = ("-"):rep(3000),
    ["signs over many lines"] = ("! ! ! !\n"):rep(400),
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
    ["a price list"] = ("Best white flour, the barrel, delivered at the wharf   4.50\n"):rep(60),
    ["a roll with columns"] = ("Smith, John    private    absent\n"):rep(80),
    ["a statement of days"] = ("Paid to the labourers on the county road for a day 1.50\n"):rep(90),
    ["a page of measurements"] = ("12.5 13.5 14.5 12.5 13.5\n"):rep(200),
    ["rows to fill in"] = ("Received of the treasurer ______________ dollars\n"):rep(60),
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
    ["chemistry"] = ("Take CH3COOH and NaHCO3, then KMnO4 and NaOH; add HgCl2 or CaCO3 with care and stir the "
      .. "glass until it is clear. "):rep(2),
    ["German with a capital within"] = "Die LehrerInnen, SchülerInnen, BürgerInnen, ArbeiterInnen und StudentInnen "
      .. "der Stadt trafen sich, um über die Lage der MieterInnen, RentnerInnen und PendlerInnen zu reden.",
    ["names that have a capital within"] = ("The YoYoDyne works and the KwiKee yard of PaxTon lie by the sea, in the "
      .. "care of the EmBe and the JoLo men. "):rep(2),
    ["a program"] = "The functions getName, setName, addItem, delItem and runAll are called from the main part, "
      .. "which is written by hand and holds no more than the five lines that were printed on the page before it, "
      .. "as everybody knows who has read it to the end.",
    ["single letters in cells"] = rows(12, function(i) return ("b   c   Lot %d   sold   x   f"):format(i) end),
    ["single letters before dots"] = rows(12, function(i) return ("c . . . Lot number %d in the field"):format(i) end),
    ["two characters of no language"] = "No. \u{E000}\u{E001}",
    ["two characters that could not be read"] = "Sir \u{FFFD}\u{FFFD}",
    ["Spanish capitals"] = "ESPAÑA, “EL NIÑO”, AÑO, CAÑÓN; Íslenska: MAÐUR, BORÐ – ORÐ",
    ["a page that is JSON"] = '{"ocr_text": "Dear Sir"}',
    ["a number"] = "0",
    ["a regret of 1909"] = "I am sorry, but I cannot attend the convention. Fraternally yours, Samuel Gompers.",
    ["a page that ends in the middle of a sentence"] = LETTER:sub(1, 700),
    ["one character that could not be read"] = LETTER .. "\u{FFFD}",
    ["nothing"] = "",
    ["white space"] = " \n\t",
  } do
    it(name, function() passes(content) end)
  end

  for i, content in ipairs {
    "I don't have the money to help you this month. Love, Mother",
    "Sorry, I could not see you yesterday. Will call Monday. Tom",
    "I'm afraid you will not see me before Easter. Anna",
    "Sorry, cannot comply with request. Gompers",
    "I am sorry that I cannot send the images which you wished to have for the lodge room.",
    "The image appears by courtesy of the Photographic Society.",
    "I cannot help with the harvest this year, my back is bad. Your brother",
    "Copy of the group picture is sent you under separate cover. I could not see to it before.",
    "I regret that I am unable to provide the money for the hall. Yours, Gompers",
    "No text books were sent to the school.",
    "We are unable to provide images of the convention before May. Duncan",
    "I cannot read your last letter, the ink has run.",
    "We do not see how the image of the Union is served by this.  Fraternally, Duncan",
  } do
    it("a short letter " .. i, function() passes(content) end)
  end

  it("the good ones of the real answers, where they are at hand", function()
    local path = support.home .. "/../shared/real/ocr_results.jsonl"
    if not fs.stat(path) then return end
    for record in jsonl.scan(path, { id = "/custom_id" }) do
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

  it("for Cyrillic in UTF-8 taken for something else", function()
    labelled("ÐŸÑ€Ð¸Ð²ÐµÑ‚", "^odd characters")
    labelled("Ð\u{9F}Ñ\u{80}Ð¸Ð²ÐµÑ\u{82}, my dear friend", "^odd characters")
  end)

  it("for JSON without a text where no JSON was asked for", function()
    for _, content in ipairs { "{}", "[]", " null\n", '""', '{"ocr_text": ""}', '{"ocr_text": " ", "date": null}' } do
      labelled(content, "^empty JSON")
      passes(content, { json = true })
    end
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
      "Unfortunately, I am unable to read this image.", "I'm really sorry, but I can't help with that.",
      "My apologies, but I'm unable to extract text from this image.", "I don't see any image attached.",
      "I do not see any text in this image.", "It seems that the image is too blurry to read.",
      "Please upload the image so that I can transcribe it.", "Unable to process image.",
      "I was unable to transcribe the image.", "The text in the image is not legible.",
      "The provided text is garbled and cannot be corrected.",
      "The text you provided appears to be corrupted and I cannot clean it.",
      '{"ocr_text": "The text is illegible."}', "Image not legible.", "I can't make out any text.",
      "No text found.", "No legible text found in the image.",
      "I'm sorry, I can't fulfill this request. If you have another page, I will be glad to look at it for you.",
      "I\u{2019}m sorry, but I won\u{2019}t be able to help\nwith that request.",
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

describe("the work for a long text", function()
  --- The VM instructions and the calls of string functions, which may hide much more work.
  local function work_of(content)
    local n = 0
    debug.sethook(function() n = n + 100 end, "", 100)
    detectors.judge(content, {})
    debug.sethook()
    return n
  end

  for name, unit in pairs { ["one run of capitals"] = "A", ["one run of small letters"] = "a",
    ["one run of figures"] = "7", ["brackets"] = "a[", ["signs"] = ". ", ["bytes"] = "é", ["blanks"] = " " } do
    it("grows no faster than it: " .. name, function()
      local once, twice = work_of("x " .. unit:rep(20000) .. "y"), work_of("x " .. unit:rep(40000) .. "y")
      assert.is_true(twice < 2.6 * once + 20000, ("%d and %d instructions"):format(once, twice))
    end)
  end

  it("leaves no long word to a pattern that tries again from every letter", function()
    -- Patterns work outside of the VM: so it is the words that are searched for which are counted.
    local find, longest = string.find, 0
    rawset(string, "find", function(subject, pattern, ...)
      if pattern:find("^%%[ul]%%[ul]") then longest = math.max(longest, #subject) end
      return find(subject, pattern, ...)
    end)
    pcall(detectors.judge, "x " .. ("A"):rep(8000) .. (" word"):rep(30), {})
    rawset(string, "find", find)
    assert.is_true(longest < 100, longest)
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
