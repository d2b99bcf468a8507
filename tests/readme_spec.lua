-- The README is true: its Lua runs, its commands, options, functions and files exist.
local fs = require "obatch.fs"
local support = require "support"

local readme = support.read(support.home .. "/README.md")

--- The ```lua blocks, with the line each begins at.
local blocks = {}
do
  local number, block = 0, nil
  for line in readme:gmatch("([^\n]*)\n") do
    number = number + 1
    if line == "```lua" then
      block = { line = number + 1 }
    elseif line == "```" and block then
      block.text = table.concat(block, "\n") .. "\n"
      blocks[#blocks + 1], block = block, nil
    elseif block then
      block[#block + 1] = line
    end
  end
end

local function help_of(name)
  local code, out = support.obatch(name, "--help")
  assert.equal(0, code, "obatch " .. name .. " --help")
  return out
end

--- Whether a help text knows an option.
local function knows(help, option) return help:find("%f[%w-]" .. option:gsub("%-", "%%-") .. "%f[^%w-]") ~= nil end

describe("README.md", function()
  it("has Lua blocks, and each compiles", function()
    assert.truthy(#blocks >= 6)
    for _, block in ipairs(blocks) do
      local chunk, message = load(block.text, "=README.md:" .. block.line, "t")
      assert.truthy(chunk, message)
    end
  end)

  it("shows policies that work when pasted, models that answer, and scripts that run", function()
    local dir <close> = support.tmpdir()
    local policies, models, rules, scripts = 0, 0, 0, 0
    local requests = dir.path .. "/requests.jsonl"
    support.write(requests, '{"custom_id":"p-1","method":"POST","url":"/v1/chat/completions","body":{"model":"m",'
      .. '"messages":[{"role":"user","content":"x"}]}}\n')
    local function job(base, model, policy)
      local box <close> = support.sandbox { "--model", model, "--batch-seconds", "0.1" }
      return support.obatch({ OPENAI_API_KEY = "sk-x", OPENAI_BASE_URL = box.url }, "correction_loop", "--base-dir",
        dir.path .. "/" .. base, "--original-requests", requests, "--poll-wait", "0.1", table.unpack(policy or {}))
    end
    local good = dir.path .. "/good.lua"
    support.write(good, [[
      return function() return '{"ocr_text": "Feb. 11, 1910", "date": "1910-02-11"}' end]])
    for i, block in ipairs(blocks) do
      local path = dir.path .. "/block_" .. i .. ".lua"
      support.write(path, block.text)
      if block.text:find('local policy = require "obatch.policy"', 1, true) then
        policies = policies + 1
        local code, out, err = job("policy_" .. i, good, { "--policy", path })
        assert.equal(0, code, ("README.md:%d: %s%s"):format(block.line, out, err))
      elseif block.text:find("return function(request, asked)", 1, true) then
        models = models + 1
        local code, out, err = job("model_" .. i, path)
        assert.equal(0, code, ("README.md:%d: %s%s"):format(block.line, out, err))
      elseif block.text:find('require "obatch.cleaning"', 1, true) then
        rules = rules + 1
        local code, out, err = support.obatch("clean", "--image-dir", dir.path, "--rules", path)
        assert.equal(0, code, ("README.md:%d: %s%s"):format(block.line, out, err))
      else
        scripts = scripts + 1
        job("job", good)
        local code, out, err = support.obatch("run", path, dir.path .. "/job")
        assert.equal(0, code, ("README.md:%d: %s%s"):format(block.line, out, err))
        assert.truthy(out:find("%S"), "it printed nothing")
      end
    end
    assert.truthy(policies >= 3 and models >= 1 and rules >= 1 and scripts >= 1)
  end)

  it("names commands and options that exist", function()
    local text = readme:gsub("\\\n%s*", " ") -- a command that goes on in the next line
    local seen, helps = 0, {}
    for line in text:gmatch("[^\n]+") do
      local name, rest = line:match("^    obatch (%S+)(.*)$")
      if name then
        seen = seen + 1
        if name:find("^[%a_]+$") and name ~= "run" then
          helps[name] = helps[name] or help_of(name)
          for option in rest:gsub('".-"', ""):gsub("  .*", ""):gmatch("%f[%w-]%-%-?[%a][%w-]*") do
            assert.truthy(knows(helps[name], option), ("obatch %s knows no %s"):format(name, option))
          end
        end
      end
      for other in line:gmatch("`obatch ([%a_]+)") do
        if other ~= "run" and other ~= "NAME" then helps[other] = helps[other] or help_of(other) end
      end
    end
    assert.truthy(seen > 5)
    assert.truthy(helps.correction_loop and helps.sandbox)
  end)

  it("describes every command and every option of it, and no other option of correction_loop", function()
    local names = { "repl" }
    for _, file in ipairs(fs.list(support.home .. "/scripts")) do names[#names + 1] = file:match("^(.*)%.lua$") end
    for _, name in ipairs(names) do
      local help = help_of(name)
      assert.truthy(readme:find("`obatch " .. name, 1, true) or readme:find("\n    obatch " .. name, 1, true),
        "not in the README: obatch " .. name)
      local section = readme:match("\n## obatch " .. name .. "\n(.-)\n## ") or readme
      -- The README says that the sandbox has more, and of which commands the options of the API are.
      -- One that has a letter as well ("-e CODE,") is known by that.
      local options = name == "sandbox" and "" or help:gsub("\n +%-%a %u[^\n]*\n[^\n]*", "")
      for option in options:gmatch("\n   (%-%-[%a][%w-]*)") do
        local is_api = option:find "^%-%-api%-" or option == "--allow-plain-http"
        assert.truthy(knows(is_api and readme or section, option),
          ("not in the README: obatch %s %s"):format(name, option))
      end
    end
    local help = help_of "correction_loop"
    local section = readme:match("\n## obatch correction_loop\n(.-)\n## ")
    for option in section:gmatch("`(%-%-[%a][%w-]*)") do
      assert.truthy(knows(help, option), "no such option: " .. option)
    end
  end)

  it("names modules and functions that exist", function()
    local count, api = 0, readme:match("\n## The Lua API\n(.-)\n## ")
    for name in readme:gmatch("`obatch%.([%a]+)`") do
      count = count + 1
      assert.truthy(require("obatch." .. name))
    end
    for name in readme:gmatch("\n### obatch%.([%a]+)\n") do assert.truthy(require("obatch." .. name)) end
    for name, member in api:gmatch("%f[%w_.](%l+)%.(%l[%w_]*)%f[%s({`),]") do
      local known, module = pcall(require, "obatch." .. name)
      if known then
        count = count + 1
        assert.not_nil(module[member], ("obatch.%s has no %s"):format(name, member))
      end
    end
    assert.truthy(count > 40, count)
  end)

  it("names files that exist", function()
    for path in readme:gmatch("%]%(([^)#]+)%)") do
      if not path:find("^https?:") then assert.truthy(fs.stat(support.home .. "/" .. path), path) end
    end
    for _, kind in ipairs { "scripts/[%w_]+%.%l+", "tests/[%w_]+%.%l+", "lua/obatch/[%w_]+%.lua" } do
      for path in readme:gmatch("%f[%w/](" .. kind .. ")") do
        assert.truthy(fs.stat(support.home .. "/" .. path), path)
      end
    end
  end)

  it("names build options that CMakeLists.txt has", function()
    local lists = support.read(support.home .. "/CMakeLists.txt")
    local count = 0
    for option in readme:gmatch("%-D(OBATCH_[%u]+)=") do
      count = count + 1
      assert.truthy(lists:find("option(" .. option .. " ", 1, true), option)
    end
    assert.truthy(count >= 3)
  end)
end)
