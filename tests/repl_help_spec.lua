local cli = require "obatch.cli"
local help = require "obatch.repl.help"
local jsonl = require "obatch.jsonl"
local objects = require "obatch.repl.objects"

local named = table.move(objects.NAMED, 1, #objects.NAMED, 1, {})
for _, name in ipairs { "batches", "batch", "job", "results", "requests" } do
  named[#named + 1] = { name = name, value = objects[name], within = "obatch repl" }
end

local function text(subject, width) return help.text(subject, width or 80, named) end

describe("help", function()
  it("lists commands, modules and subjects of the README", function()
    local shown = text(nil)
    assert.matches("Commands: correction_loop, upload, ", shown, 1, true)
    assert.matches("Modules: json, jsonl, ", shown, 1, true)
    assert.matches('"Budgets"', shown, 1, true)
  end)

  it("shows a section by its name, its short name and in any case, to its end and no further", function()
    local shown = text "obatch fsck"
    assert.equal(shown, text "FSCK")
    assert.matches("^obatch fsck\n%-+\n", shown)
    assert.matches("%-%-repair\n    rebuild what follows", shown)
    assert.matches("Exit codes: 0 all adds up", shown, 1, true)
    assert.falsy(shown:find("Changing the rules", 1, true))
    assert.matches("### obatch.json", require "support".read(cli.home .. "/README.md"), 1, true)
    assert.matches("^obatch%.json\n", text "json")
  end)

  it("finds functions, modules, objects and their methods by what they are", function()
    assert.matches("^obatch%.jsonl:\njsonl%.scan%(path, ", text(jsonl.scan))
    assert.matches("^obatch%.jsonl\n", text(jsonl))
    assert.matches("^Jobs:\nj = job ", text(objects.job))
    assert.matches("^Batches at the service:\nbatches%(%[limit%]%)\n", text(objects.batches))
    local job
    for _, entry in ipairs(objects.NAMED) do
      if entry.name == "job" then job = entry.value end
    end
    assert.matches('^Jobs:\nj:why "custom_id"\n', text(job.why))
    assert.matches("^Jobs\n", text(setmetatable({}, job)))
    assert.matches("^`?term.isatty", text(require "obatch.term".sleep))
  end)

  it("every method of the objects has its row", function()
    for _, entry in ipairs(objects.NAMED) do
      for name, method in pairs(entry.value) do
        if type(method) == "function" and not name:find("^__") then
          local ok, shown = pcall(text, method)
          assert.is_true(ok, entry.name .. ":" .. name)
          assert.matches(":" .. name, shown, 1, true)
        end
      end
    end
  end)

  it("finds options, classes and detectors", function()
    assert.matches("^obatch correction_loop:\n%-%-max%-iterations N\n", text "--max-iterations")
    assert.matches("truncated\n    `finish_reason` `length`", text "truncated", 1, true)
    assert.matches("^obatch clean:\ncut off\n", text "cut off")
  end)

  it("sends to Lua's manual for what is Lua's", function()
    assert.matches("https://www.lua.org/manual/5.4/manual.html#pdf-string.rep", text(string.rep), 1, true)
    assert.matches("manual.html#pdf-setmetatable", text(setmetatable), 1, true)
    assert.matches("manual.html\n", text(string), 1, true)
  end)

  it("is cut into lines of the screen", function()
    for _, width in ipairs { 80, 40 } do
      for line in (text(nil, width) .. text("budgets", width)):gmatch("[^\n]+") do
        assert.is_true(utf8.len(line) <= width, line)
      end
    end
  end)

  it("an unknown name raises, with what is near", function()
    local ok, message = pcall(text, "jsonl.scann")
    assert.is_false(ok)
    assert.equal('no help about "jsonl.scann"; near it: jsonl.scan', message)
    assert.is_false((pcall(text, 42)))
    assert.is_false((pcall(text, "\27[31m")))
  end)
end)
