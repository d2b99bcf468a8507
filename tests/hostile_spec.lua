-- Services that lie, in result lines, batch objects and ids. Whatever they say: a clear report, a defined end,
-- and nothing written outside. What lies in files is in hostile_files_spec.lua.
local hostile = require "hostile"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

local liar, closing, run_all = hostile.liar, hostile.closing, hostile.run_all
local loop_cell, image_cell = hostile.loop_cell, hostile.image_cell

--- Lines that must be reported and change nothing, as Lua text of a function(lines, ids) that adds them.
local LINES = [[
function(lines, ids)
  local good = lines[1]
  local function with(id) return (good:gsub('"custom_id":"[^"]*"', function() return '"custom_id":' .. id end)) end
  local bad = { with '"nobody"', with '""', with '7', with 'null', with '["r-1"]', with '{"a":1}', "null", "[]", "7",
    with('"' .. ("x"):rep(1000000) .. '"'), with '"../../../outside"', with '"/tmp/outside"', with '".."',
    with '"a/b"', with '"nul\\u0000nul"', with '"line\\nbreak"', with '"\\u001b[31mred\\u0007\\u009b1m"',
    with '"\\u202eright"', with '"lone\\ud800"', with '"raw\0nul"', with '"bad\xFFutf8"', "\xEF\xBB\xBF" .. good,
    '{"custom_id":"nobody"', "{", "", " ", "\0\0\0", ("["):rep(100000), ('{"a":'):rep(100000) .. "1",
    ("["):rep(100000) .. ("]"):rep(100000), '{"custom_id":"r-1","n":' .. ("9"):rep(5000) .. '}x',
    good:gsub('"id":', '"n":1e999999,"id":', 1), "\27]0;title\7" }
  local all = {}
  for i = 1, math.max(#bad, #lines) do
    all[#all + 1] = bad[i]
    all[#all + 1] = lines[i] and lines[i] .. (i == 1 and "\r" or "") or nil
  end
  all[#all + 1] = lines[1] -- once more
  return table.concat(all, "\n") -- and no newline at the end
end]]

--- Objects with fields that are missing or of a wrong type, as text of a list of function(object) -> object.
local WRONG = [[local json = require "obatch.json"
local wrong = {}
for words in ([=[
  o.status = 3
  o.status = nil
  o.status = json.array {}
  o.errors = 'none'
  o.errors = 0
  o.request_counts = json.array { 1 }
  o.request_counts = { total = 'x', completed = {}, failed = false }
  o.output_file_id = { id = 'x' }
  o.output_file_id = 12
  o.metadata = 'x'
  o.metadata = json.array { 1 }
  o.id = json.array { 'batch-1' }
  o.id = 1
  o.id = nil
  o.created_at = 'soon'
  o.input_file_id = 5
  o.endpoint = {}
  o.status = 'in\27[31m_progress\n'
  o = {}
  o = json.array { o }
  o = json.null
  o = 7
  o = '{"id":"batch_1","status":'
  o = '<html>no</html>'
  o = ''
]=]):gmatch("[^\n]+") do
  if words:find("%S") then
    wrong[#wrong + 1] = assert(load("local json = ... return function(o) " .. words .. " return o end"))(json)
  end
end
]]

--- How many those are.
local WRONGS = load(WRONG .. "return #wrong")()

--- Ids as a service might choose them, as Lua text.
local IDS = { dots = "'../../../../outside'", slash = "'a/b/c'", absolute = "'/tmp/outside'",
  control = "'b\\27[31m\\r\\nX'", long = "('b'):rep(100000)", space = "' b '",
  question = "'b?limit=1#x'", percent = "'%2e%2e%2fb'", parent = "'..'", here = "'.'",
  same = "'b'", null_word = "'null'", unicode = "'b\u{202e}\u{9b}1m'" }

describe("a service that lies", function()
  it("in its result lines is told so, line by line, and only what was asked counts", function()
    local service <close> = liar(("return { loop = { output = %s }, images = { output = %s } }"):format(LINES, LINES))
    local function says_all(cell)
      local all = cell.out .. cell.err
      for _, words in ipairs { "nobody", "%00", "%1B", "..", "there is no custom_id", "invalid UTF-8",
        "nested too deep", "byte order mark" } do
        assert(all:find(words, 1, true), "does not say " .. words)
      end
    end
    local cells <close> = closing {
      loop_cell(service, "loop", { check = function(cell)
        assert.equal(0, cell.code)
        local ids = {}
        for line in support.read(cell.subject.base .. "/final_results.jsonl"):gmatch("[^\n]+") do
          ids[#ids + 1] = json.get(line, "/custom_id")
        end
        assert.same({ "r-1", "r-2", "r-3" }, ids)
        says_all(cell)
      end }),
      image_cell(service, "images", { check = function(cell)
        for name in pairs(cell.subject.images) do
          assert.equal(json.encode { id = "data|" .. name:gsub("/", "|") }, cell.subject:text(name))
        end
        says_all(cell)
      end }),
    }
    run_all(cells)
  end)

  it("with a line of 1 GB costs neither memory nor its neighbours", function()
    local dir <close> = support.tmpdir()
    local service <close> = liar(([[return { big = { output = function(lines)
      local file = assert(io.open(%q, "wb"))
      file:write(lines[1], '\n{"custom_id":"r-2","x":"')
      file:seek("set", 1000 * 1000 * 1000)
      file:write('"}\n', lines[2], "\n", lines[3], "\n")
      file:close()
      return { file = %q }
    end } }]]):format(dir.path .. "/big", dir.path .. "/big"))
    support.write(dir.path .. "/measure.lua", [[
      local cli = require "obatch.cli"
      local code = assert(loadfile(cli.home .. "/scripts/correction_loop.lua"))(...)
      for line in io.lines "/proc/self/status" do
        if line:find "^VmHWM" then io.stderr:write((line:gsub("%s+", " ")), "\n") end
      end
      return code]])
    local cells <close> = closing { loop_cell(service, "big") }
    cells[1].command = cells[1].command:gsub("timeout %-k 5 30", "timeout -k 5 120"):gsub(" correction_loop ",
      " run " .. dir.path .. "/measure.lua ")
    run_all(cells)
    local most = tonumber(cells[1].err:match("VmHWM: (%d+) kB")) / 1000
    assert.truthy(most < 600, most .. " MB") -- with what the sanitizers keep
    loop.says(cells[1], "longer than")
  end)
end)

describe("batch objects", function()
  it("with fields that are missing or wrong make no difference, once the service tells the truth", function()
    local service <close> = liar(WRONG .. [[
      local creations, looks = 0, 0
      local function broken() return "{" end
      local function liars(list)
        local honest = list[1]
        for i = 1, honest and #wrong or 0 do
          local copy = {}
          for key, value in pairs(honest) do copy[key] = value end
          local lie = wrong[i](copy)
          if type(lie) ~= "string" then table.insert(list, 1, lie) end
        end
        return list
      end
      return {
        created = { created = function(o)
          creations = creations + 1
          return wrong[creations] and wrong[creations](o) or o
        end },
        seen = { batch = function(o, look)
          looks = looks + 1
          return look <= 2 and wrong[looks % #wrong + 1](o) or o
        end },
        listed = { created = broken, listed = liars },
      }]])
    local cells <close> = closing {}
    for _, name in ipairs { "created", "seen", "listed" } do
      local cell = loop_cell(service, name, { check = function(cell)
        local ids, created = {}, 0
        for _, event in ipairs(cell.subject:decoded "journal.jsonl") do
          if event.event == "created" then ids[event.batch_id], created = true, created + 1 end
        end
        for _ in pairs(ids) do created = created - 1 end
        assert.equal(0, created, "a batch was taken for another one")
        assert.equal("", cell.subject:read "given_up.jsonl")
      end })
      if name ~= "listed" then
        support.write(cell.subject.requests, table.concat(loop.lines(WRONGS), "\n") .. "\n")
        cell.command = cell.command .. " --max-requests 1"
      end
      cells[#cells + 1] = cell
    end
    run_all(cells)
  end)

  it("with ids that are paths, commands to a terminal or of 100 KB write nothing elsewhere", function()
    local lies, cells <close> = {}, closing {}
    for name, id in pairs(IDS) do
      for _, command in ipairs { "loop", "images" } do
        lies[#lies + 1] = ("%s_%s = { batch_id = function() return %s end, file_id = function() return %s end },")
          :format(command, name, id, id)
      end
    end
    local service <close> = liar("return {" .. table.concat(lies, "\n") .. "}")
    for name in pairs(IDS) do
      cells[#cells + 1] = loop_cell(service, "loop_" .. name, { codes = { [0] = true, [1] = true } })
      cells[#cells + 1] = image_cell(service, "images_" .. name, { codes = { [0] = true, [1] = true } })
    end
    run_all(cells)
  end)

  it("with ids of one name after encoding are batches and files of their own", function()
    local service <close> = liar [[
      local ids, given = { "b/1", "b%2F1", "b%252F1", "B/1", "b_error", "b_error_output" }, 0
      return { x = { batch_id = function()
        given = given + 1
        return ids[given]
      end } }]]
    local cells <close> = closing { loop_cell(service, "x", { check = function(cell)
      local files, count = {}, 0
      for _, event in ipairs(cell.subject:decoded "journal.jsonl") do
        for _, name in ipairs(event.event == "downloaded" and event.files or {}) do
          assert.is_nil(files[name])
          files[name], count = true, count + 1
        end
      end
      assert.equal(6, count)
      local _, lines = cell.subject:read("final_results.jsonl"):gsub("\n", "\n")
      assert.equal(6, lines)
    end }) }
    support.write(cells[1].subject.requests, table.concat(loop.lines(6), "\n") .. "\n")
    cells[1].command = cells[1].command .. " --max-requests 1"
    run_all(cells)
  end)

  it("that are nonsense at every look are waited for, said so once, until the service is healthy", function()
    local dir <close> = support.tmpdir()
    local bodies = { torn = [['{"id":"batch_1","status":']], list = [['[]']], html = [['<html>no</html>']],
      null = [['null']], empty = "''", other = "{ id = 'another', status = 'completed' }",
      none = "{ object = 'batch' }", wrong = "{ id = o.id, status = { 1 } }" }
    local lies = {}
    for name, body in pairs(bodies) do
      lies[#lies + 1] = ([[%s = { batch = function(o, look)
        local healthy = io.open("%s/healthy_%s")
        if healthy then healthy:close() return o end
        if look == 8 then io.open("%s/looked_%s", "w"):close() end
        return %s
      end },]]):format(name, dir.path, name, dir.path, name, body)
    end
    local service <close> = liar("return {" .. table.concat(lies, "\n") .. "}")
    local cells <close> = closing {}
    for name in pairs(bodies) do
      local cell = loop_cell(service, name, { check = function(cell)
        local first = support.read(dir.path .. "/err_" .. cell.name)
        assert.equal("130\n", support.read(dir.path .. "/code_" .. cell.name), first)
        local _, count = first:gsub("[^\n]*batch%-%d[^\n]*", function(line)
          return not line:find("part %d") and line or nil
        end)
        assert(count > 0 and count <= 4, ("%d lines about it: %s"):format(count, first))
        assert.equal("", cell.subject:read "given_up.jsonl")
      end })
      cell.command = ([[%s 2>%s/err_%s & pid=$!
        until [ -e %s/looked_%s ]; do kill -0 $pid || break; sleep 0.1; done
        kill -TERM $pid; wait $pid; echo $? >%s/code_%s; touch %s/healthy_%s
        %s]]):format(cell.command, dir.path, name, dir.path, name, dir.path, name, dir.path, name, cell.command)
      cells[#cells + 1] = cell
    end
    run_all(cells)
  end)
end)
