-- What cleaning takes off and mends, what it leaves alone, and that it comes to an end.
local cleaning = require "obatch.cleaning"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local outcome = require "obatch.outcome"
local support = require "support"

--- Cleans, and checks what holds for every text: cleaning again changes nothing, UTF-8 stays UTF-8.
local function clean(content, as_json)
  local cleaned, names, reason = cleaning.clean(content, as_json)
  local again, more = cleaning.clean(cleaned, as_json)
  assert.equal(cleaned, again)
  if not reason then assert.same({}, more) end
  if utf8.len(content) then assert.is_truthy(utf8.len(cleaned), "no longer UTF-8") end
  assert.equal(cleaned ~= content, #names > 0)
  return cleaned, names, reason
end

--- Pairs of a text and what becomes of it.
local function cases(list)
  local i = -1
  return function()
    i = i + 2
    return list[i], list[i + 1]
  end
end

local function becomes(list)
  for before, after in cases(list) do
    assert.equal(after, (clean(before)))
  end
end

--- The same where it does not matter whether the text ends in a line break.
local function leaves(list)
  for before, after in cases(list) do
    assert.equal(after, (clean(before):gsub("\n$", "")), before)
  end
end

local function stays(list)
  for _, content in ipairs(list) do assert.equal(content, (clean(content))) end
end

describe("cleaning", function()
  it("leaves an honest page as it is", function()
    stays { "", "57",
      "Dear Sir and Brother:\n\nYour favor of the 7th is received.\n\n    Fraternally yours,\nSamuel Gompers\n",
      "Hayes D. A. S 235\nHart Frank P.O. 914-996\nHauck Will 720½", "Total ........ 12\nName ______", "XXXXXXXXXXXX",
      "第一章\n我们的朋友", "Глава первая", "قال الراوي", "a\tb\tc", "* one\n* two\n\n---\n\n# Heading", "Mr. Ryan  --\n\nTake",
      "E = h\\nu", "\\nabla f = 0 and \\nu = 1", "C:\\new\\notes", 'printf("%d\\n", n);\nreturn 0;\n}\n',
      "zwj: می\u{200C}خواهم" }
  end)

  it("names the rules that changed something, in their order", function()
    assert.same({ "fences", "line endings", "trailing blanks" }, select(2, clean "```\r\nDear Sir \r\n```"))
    assert.same({}, select(2, clean "Dear Sir"))
  end)

  it("takes off chat-template tokens and the role that heads a turn", function()
    leaves { "<|im_start|>assistant\nDear Sir<|im_end|>", "Dear Sir", "Dear Sir<|endoftext|>", "Dear Sir",
      "<|start_header_id|>assistant<|end_header_id|>\n\nDear Sir<|eot_id|>", "Dear Sir", "[INST]Dear Sir[/INST]",
      "Dear Sir",
      "<<SYS>>\n<</SYS>>Dear Sir", "Dear Sir", "<s>Dear Sir</s>", "Dear Sir", "<s> Dear Sir", "Dear Sir",
      "Dear Sir</s>\n", "Dear Sir", "<start_of_turn>model\nDear Sir<end_of_turn>", "Dear Sir",
      "<s>assistant: Dear Sir", "Dear Sir", "Assistant:\nDear Sir<|im_end|>", "Dear Sir",
      "assistant\nDear Sir</s>", "Dear Sir",
      "<|im_start|>user\nRead<|im_end|>\n<|im_start|>assistant\nDear Sir", "Read\nDear Sir",
      "Dear Sir<\u{FF5C}end\u{2581}of\u{2581}sentence\u{FF5C}>", "Dear Sir",
      "<think>It is a letter.\n</think>\n\nDear Sir", "Dear Sir", "<|channel|>final<|message|>Dear Sir<|return|>",
      "Dear Sir" }
    stays { "Assistant: John Smith\nDirector: Mary Jones", "Assistant Secretary", "the state <|A|> and <|psi|>",
      "<s>April 4</s> May 5, 1909", "a < b | c > d", "assistants: three",
      "see [INST] code", "<pad> on html <bos>", "the token <|im_end|> ends it", "<|psi_1|> is a norm",
      "Assistant:\nWho is there?\n\nDoctor:\nI.", "assistant: Mr Brown\nsecretary: Mr White",
      "assistant\nsecretary\ntreasurer" }
    leaves { "<|im_start|>dear sir", "dear sir" }
  end)

  it("takes off fences around a page or a part of it", function()
    leaves { "```\nDear Sir\n```", "Dear Sir", "```text\nDear Sir\n```\n", "Dear Sir",
      "````markdown\nDear Sir\n````", "Dear Sir",
      "```\nDear Sir", "Dear Sir", "Dear Sir\n```", "Dear Sir", "  ```  \nDear Sir\n\t```\t", "Dear Sir",
      "```Dear Sir```", "Dear Sir", "```text Dear Sir```", "Dear Sir", "```\nleft\n```\n```\nright\n```",
      "left\n\n\nright" }
    stays { "Run this:\n```\nmake\n```\nand wait.", "```\nmake\n```\nand wait", "Run this:\n```lua\nos.exit()\n```",
      "press the ``` key", "`code`", "~~~~~~~~~~\nDear Sir\n~~~~~~~~~~" }
  end)

  it("takes off what a model says before and after the text", function()
    for _, line in ipairs { "Here is the text from the image:", "Here's the transcription:",
      "Sure! Here is the extracted text:", "Sure, here's the OCR text:", "I've transcribed the text from this image:",
      "Here is the transcription of the text in the image:", "**Here is the text in the provided image:**",
      "Certainly! Below is the transcription of the image:", "The text in the image reads:",
      "Sure!\n\nHere is the text from the image:", "Here is the text:", "Sure! Here's the transcribed text:",
      "Here\u{2019}s the text of the document:", "Here is the corrected transcription of this page:" } do
      leaves { line .. "\n\nDear Sir", "Dear Sir", line .. "\n```\nDear Sir\n```", "Dear Sir",
        line .. "\r\n\r\n---\r\n\r\nDear Sir", "Dear Sir",
        line .. "\n\nDear Sir\n\nI hope this helps!", "Dear Sir" }
    end
    for _, line in ipairs { "Sure!", "Of course!", "**Transcription:**",
      "I've transcribed the page for you:",
      "The following is a transcription of the letter:", "### OCR Text:", "Here is the text you requested:" } do
      leaves { line .. "\n```\nDear Sir\n```", "Dear Sir", line .. "\r\n\r\n```text\r\nDear Sir\r\n", "Dear Sir" }
      stays { line .. "\n\nDear Sir", line .. "\nDear Sir" }
    end
    for _, line in ipairs { "I hope this helps!", "Let me know if you need any further assistance.",
      "Please let me know if you have any questions!", "Is there anything else I can help you with?",
      "If you need further assistance, feel free to ask!" } do
      leaves { "```\nDear Sir\n```\n" .. line, "Dear Sir", "```\nDear Sir\n```\n\n---\n\n" .. line .. "\n", "Dear Sir",
        "Sure!\n\n```\nDear Sir\n```\n" .. line, "Dear Sir",
        "Here is the text from the image:\n\nDear Sir\n\n" .. line, "Dear Sir" }
      stays { "Dear Sir\n\n" .. line, "Dear Sir\n\n---\n\n" .. line .. "\n" }
    end
    leaves { "Dear Sir\n\nLet me know if you need any changes to the transcription.", "Dear Sir",
      "Dear Sir\n\nIf you have any questions about the text above, feel free to ask!", "Dear Sir" }
  end)

  it("leaves what a page says itself", function()
    stays { "Here is the text of the resolution which was adopted by the Convention:\n\nResolved, That",
      "Here is the text of the resolution:\n\nResolved, That",
      "I have your letter, in which you requested the following:\n\n1. A list",
      "The text of the bill as amended is as follows:\n\nAn Act",
      "Here is the transcript of the hearing:\n\nQ. Your name?",
      "This is the house that Jack built:\n\nThis is the malt", "Here is the list, as requested:\nJohn\nPeter",
      "Sure of your reply, I remain,\n\nYours", "Certainly.\n\nQ. And then?",
      "Dear Sir:\n\nLet me know if you can come.",
      "I hope this finds you well.\n\nYours", "Dear Sir\nLet me know if you need anything else.\nYours",
      "Here is the text from the image:", "Sure!", "I hope this helps",
      "Dear Sir:\n\nI hope this helps.", "Dear Sir:\n\nLet me know if you have any questions about the shipment.",
      "Dear Sir:\n\nIf you need any further information please write to me.",
      "Dear Sir:\n\nPlease let me know if any corrections are needed to the enclosed proofs.",
      "Here is the list you requested:\n\nJohn\nPeter",
      "Of course, the corrected proofs which you requested are as follows:\n\nOne",
      "This is a transcription of the minutes of the meeting, held at Toronto:\n\nThe Chair",
      "Below is the image of our new building:\n\nTwo floors", "TRANSCRIPT:\n\nQ. Your name?\nA. Smith.",
      "Here is the text which stands below the image:\n\nTwo floors",
      "CORRECTED TEXT:\nSection 4 shall read:\n\nNo person", "Certainly!\n\nsaid the Walrus",
      "Sure!\n\nTranscript:\n\nQ. Your name?" }
    leaves { "Here is the text from the image:\n\nTranscript:\n\nQ. Your name?", "Transcript:\n\nQ. Your name?" }
  end)

  it("mends escaped line breaks where there are hardly any real ones", function()
    becomes { "Dear Sir:\\n\\nYour favor\\nis \\\"received\\\".", 'Dear Sir:\n\nYour favor\nis "received".',
      '"Dear Sir:\\nYour favor"', "Dear Sir:\nYour favor", "Dear Sir:\\r\\nYour favor\\r\\nIs here",
      "Dear Sir:\nYour favor\nIs here", "Agenda\\n* One\\n\\nThe end.\\n", "Agenda\n* One\n\nThe end.\n",
      "Dear Sir\\nI say \"no\" to it\\nYours", 'Dear Sir\nI say "no" to it\nYours', "caf\\u00e9\\nB", "café\nB",
      "one\\nTwo\\nThree\\nFour\n", "one\nTwo\nThree\nFour", "a\\tb\\nC", "a\tb\nC" }
    stays { "The folder \\reports\\new\\notes holds it.", "\\\\server\\new\\notes", 'printf("Hello\\nWorld\\n");',
      "The pattern /\\n\\n+/ matches.", "Frequency \\nu_1 and \\nu_2 and \\tan x",
      "$\\ni \\nless \\ntriangleleft \\tan \\triangledown$", 'print "Hello\\nWorld\\n"', "Write \\n for a new line.",
      "Write '\\n' for it", 's = "Hello\\nWorld"', "[^\\n]+\\n", "Then\\nThe \\tan x\\nSo",
      "a page\nthat speaks of \\n\nand has lines", "x\\no", '{"text": "a\\nB"}', '[{"text": "a\\nB\\nC"}]' }
  end)

  it("mends a NUL with the hex digits of a broken escape", function()
    becomes { "caf\0e9", "café", "\0c9cole", "École", "na\0efve caf\0e9s", "naïve cafés", "caf\\u0000e9", "café" }
  end)

  it("removes control characters and unifies line ends", function()
    becomes { "Dear\0 Sir\27\8\127", "Dear Sir", "one\ftwo\vthree", "one\ntwo\nthree", "a\r\nb\rc\nd", "a\nb\nc\nd",
      "a\u{2028}b", "a\nb", "don\u{92}t \u{93}go\u{94} \u{81}", "don’t “go”", "\u{FEFF}Dear Sir", "Dear Sir" }
    stays { "tab\there", "שלום\u{200F}" }
  end)

  it("removes blanks at line ends and around the text, not in it", function()
    becomes { "Dear Sir  \n\t \n  indented\u{A0} \u{A0}\n\n\n\n", "Dear Sir\n\n  indented\n", "\n\n  Dear Sir",
      "  Dear Sir" }
    stays { "a\n\n\n\nb", "a    b", "a\u{A0}b" }
  end)

  it("joins words that were hyphenated across lines, and keeps the lines", function()
    becomes { "the tran-\nscription of it", "the transcription\nof it", "affi-\nliated, under", "affiliated,\nunder",
      "the word transcrip-\ntion\nof", "the word transcription\nof", "un-\nbe-\nlievable", "unbelievable",
      "  indented con-\n  tinued here", "  indented continued\n  here", "self-\nhelp is good", "self-help\nis good",
      "up-to-\ndate lists", "up-to-date\nlists", "Über-\nsetzung der", "Übersetzung\nder", "пере-\nвод книги",
      "перевод\nкниги",
      "soft\u{AD}\nware runs", "software\nruns", "tran\u{2010}\nscription of", "transcription\nof",
      "trans- \r\ncription of", "transcription\nof" }
    stays { "Anglo-\nSaxon", "1909-\n1910", "Smith-\n\nbrown", "well --\nknown", "x-\nray", "A-\nb",
      "pages 12-\nand", "item -\nnext",
      "CON-\nSTITUTION", "re-\nestab- lished", "his mother-\nin-law came", "c'est-\nà-dire",
      "twenty-\nfive men", "pre-\nand post-war",
      "Haupt-\nund Neben", "two-\nor three", "see http://example.org/tran-\nscription",
      "write to john@exam-\nple.org now",
      "left con-    right\ntinued      side", "the con-\ntinued   right" }
    becomes { "an-\ndroid in", "android\nin", "the in-\nner man", "the inner\nman" }
  end)

  it("leaves a page that would be blank afterwards, and says so", function()
    for _, content in ipairs { "```\n```", "<|endoftext|>", "</s>", "<think>nothing</think>" } do
      local cleaned, names, reason = clean(content)
      assert.equal(content, cleaned)
      assert.same({}, names)
      assert.equal("cleaning leaves nothing of it", reason)
    end
  end)

  it("makes a page of nothing but white space and controls empty", function()
    becomes { " \n\t\n", "", "\0\0", "", "\u{A0}", "", "\u{FEFF}\r\n", "" }
  end)
end)

describe("cleaning where JSON was asked for", function()
  it("unwraps and repairs it", function()
    assert.equal('{"a":1}', (clean('```json\n{"a":1}\n```', true)))
    assert.equal('{"a":1}', (clean('Here is the JSON:\n\n{"a":1}\n', true)))
    assert.equal('{"a":"b\\nc"}', (clean('{"a":"b\nc",}', true)))
    assert.equal('{"a":1}', (clean('\u{FEFF}{"a":1}', true)))
    assert.equal('{"a":"caf\\u00e9 \\\\u0000e9"}', (clean('{"a":"caf\\u0000e9 \\\\u0000e9"}', true)))
  end)

  it("leaves what is JSON byte for byte, also where text was asked for", function()
    for _, content in ipairs { '{ "a" : "x\\nY" }', '{"a":"tran-\\nscription  "}\n', '[1,\t2]',
      '{"a":"```\\ntext\\n```"}' } do
      assert.equal(content, (clean(content, true)))
      assert.equal(content, (clean(content)))
    end
  end)

  it("does not touch what is none", function()
    for _, content in ipairs { "Dear Sir  ", '{"a": 1, // note\n"b": 2}', '{"a":"cut o' } do
      assert.equal(content, (clean(content, true)))
    end
  end)
end)

describe("for every text, cleaning again changes nothing and UTF-8 stays UTF-8:", function()
  local FRAGMENTS = { "```", "```json\n", "\n", "\n\n", "\r\n", "\r", " ", "  ", "\t", "Sure!",
    "Here is the text from the image:",
    "I hope this helps", "---", "<|im_start|>", "<|im_end|>", "assistant", ":", "<s>", "</s>", "[INST]", "\\n",
    "\\", "\\u00e9",
    "\0", "\0e9", "\0\0", "00", "e9", "\u{FEFF}", "\u{92}", "\u{A0}", "\u{AD}", "\u{2010}", "\u{2028}", "é", "我",
    "tran-", "scription",
    "self-", "ab-\n", "Anglo-", '"', "{", "}", "[", "]", '{"a":1}', "\27[31m", "\f", "\x80", "\xC3", "word",
    "Word.", "<think>",
    "</think>", "1909-", "-", "." }

  it("random fragments", function()
    math.randomseed(20261122)
    for _ = 1, 2000 do
      local pieces = {}
      for i = 1, math.random(1, 14) do pieces[i] = FRAGMENTS[math.random(#FRAGMENTS)] end
      local content = table.concat(pieces)
      clean(content)
      clean(content, true)
    end
  end)

  it("no letter of a page is lost by what is wrapped around it", function()
    math.randomseed(7)
    local WORDS = { "Dear", "Sir", "convention", "über", "слово", "1909", "the", "Labor", "é", "of" }
    local ENDS = { "\n", "\r\n", " \n", "\r", "\n\n", "-\n", " " }
    for _ = 1, 1000 do
      local pieces = {}
      for i = 1, math.random(3, 40) do pieces[i] = WORDS[math.random(#WORDS)] .. ENDS[math.random(#ENDS)] end
      local page = table.concat(pieces)
      local cleaned = clean("Sure!\n\n```text\r\n" .. page .. "\n```\n\nI hope this helps!<|im_end|>")
      assert.equal(page:gsub("[ \r\n-]", ""), (cleaned:gsub("[ \r\n-]", "")))
    end
  end)

  -- A rule that goes through a run from each of its positions takes minutes for this.
  it("long runs of one thing", function()
    for _, unit in ipairs { "\r", " ", "\u{A0}", "\n", "-", "`", "```\n", "ab-\n", "ab- ", "</s>", "Sure!\n\n",
      "ab\\n", "\\",
      "\0e9", "<|", "<think>", "[", "{\n", '{"a":\n', "\u{AD}\n", "*", "I hope this helps\n\n" } do
      cleaning.clean(unit:rep(100000 // #unit) .. "x")
      cleaning.clean("x" .. unit:rep(100000 // #unit), true)
    end
  end)

  it("real answers, where they are at hand", function()
    local path = support.home .. "/../shared/real/ocr_results.jsonl"
    if not fs.stat(path) then return end
    for record in jsonl.scan(path, { id = "/custom_id" }) do
      local answer = outcome.text(record.text)
      clean(answer)
      local found = clean(answer, true)
      if json.check(found) then clean(json.get(found, "/ocr_text")) end
    end
  end)
end)

describe("the list of rules", function()
  local kept
  before_each(function() kept = table.move(cleaning.rules, 1, #cleaning.rules, 1, {}) end)
  after_each(function() cleaning.rules = kept end)

  it("can be changed", function()
    cleaning.remove "words hyphenated across lines"
    assert.equal("tran-\nscription", (clean "tran-\nscription"))
    table.insert(cleaning.rules, 1, { name = "stamp", apply = function(content) return content:gsub("STAMP\n",
      "") end })
    assert.same({ "stamp" }, select(2, clean "Dear\nSTAMP\nSir"))
    assert.is_nil(cleaning.fault())
  end)

  it("says what is wrong with it", function()
    assert.has_error(function() cleaning.remove "hyphens" end, "cleaning: there is no rule 'hyphens'")
    assert.has_error(function() cleaning.rule = {} end, "cleaning: there is no 'rule'")
    cleaning.rules[#cleaning.rules + 1] = { name = "x", aply = print }
    assert.equal("cleaning.rules[11]: there is no field 'aply'", cleaning.fault())
    cleaning.rules[11] = { name = "x", apply = "y" }
    assert.equal("cleaning.rules[11] (x): apply must be a function", cleaning.fault())
    cleaning.rules[11] = nil
    cleaning.rules.stamp = print
    assert.equal("cleaning.rules[stamp]: no place in the list", cleaning.fault())
  end)

  it("ends with rules that never settle, and with one that returns no text", function()
    table.insert(cleaning.rules, { name = "swap", apply = function(content) return content == "a" and "b" or "a" end })
    local cleaned, _, reason = cleaning.clean "a"
    assert.equal("a", cleaned)
    assert.equal("cleaning comes to no end in 20 rounds", reason)
    cleaning.rules[#cleaning.rules].apply = function() end
    assert.has_error(function() cleaning.clean "a" end, "cleaning: the rule 'swap' returned a nil, not the text")
  end)
end)
