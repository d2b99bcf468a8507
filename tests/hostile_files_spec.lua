-- Files that lie: records and lists of batches as another tool, or somebody else, may have left them, and links
-- planted in the folders of a job. Whatever they say: a clear report, a defined end, nothing written outside.
local fs = require "obatch.fs"
local hostile = require "hostile"
local image_bytes = require "image_bytes"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

local quote = support.quote
local liar, closing, run_all = hostile.liar, hostile.closing, hostile.run_all
local loop_cell, image_cell = hostile.loop_cell, hostile.image_cell

local ENDS = { [0] = true, [1] = true, [2] = true, [3] = true }

--- A folder beside the job's own, with an image and a file, of which nothing may change.
local function outside_of(cell)
  local outside = cell.subject.path .. "/outside"
  assert(fs.mkdir(outside .. "/folder"))
  support.write(outside .. "/file", "not yours")
  support.write(outside .. "/x.png", image_bytes.png(1, 8))
  return outside
end

local function plant(target, path)
  assert(fs.mkdir(path:match("^(.*)/")))
  assert(os.execute(("ln -s %s %s"):format(quote(target), quote(path))))
end

describe("a list of batches of another tool", function()
  it("whose ids are paths, commands to a terminal, endless or no text is refused, and says which", function()
    local lists = { slash = "a/b/c", dots = "..", up = "../../../../outside", absolute = "/tmp/outside",
      control = "b\27[31m\7X", long = ("b"):rep(100000), nul = "b\0c", bytes = "b\xFF\xC2\x9B1m", space = "b c",
      question = "b?limit=1", nothing = "\0", empty = "", lines = "\n \r\n\n", json = '["batch_1"]' }
    local service <close> = liar "return {}"
    local cells <close> = closing {}
    for name, content in pairs(lists) do
      local own = loop_cell(service, name, { codes = { [1] = true, [2] = true } })
      assert(fs.mkdir(own.subject.base .. "/iteration_1"))
      support.write(own.subject.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt", content .. "\n")
      local given = loop_cell(service, name .. "_given", { codes = { [1] = true, [2] = true } })
      support.write(given.subject.path .. "/ids.txt", content .. "\n")
      given.command = given.command .. " --initial-ids " .. quote(given.subject.path .. "/ids.txt")
      for _, cell in ipairs { own, given } do
        cell.check = function()
          local said = cell.err:find("ids_iteration_1.txt", 1, true) or cell.err:find("ids.txt", 1, true)
          assert(said or cell.code == 1, "does not say which file")
          assert(not cell.subject:read("journal.jsonl"):find("planned", 1, true), "it sent requests")
        end
        cells[#cells + 1] = cell
      end
    end
    run_all(cells)
  end)
end)

describe("records of batches", function()
  --- Texts of a record, given the folder that is not theirs.
  local function records_in(outside)
    local item = { custom_id = "data|x.png", path = outside .. "/x.png", bytes = 8, attempt = 1 }
    local function with(fields)
      local copy = {}
      for key, value in pairs(item) do copy[key] = value end
      for key, value in pairs(fields) do copy[key] = value end
      return copy
    end
    local function record(items, fields)
      local whole = { image_dir = outside, items = json.array(items), request = { endpoint = "/v1/responses",
        model = "m", prompt = "p" } }
      for key, value in pairs(fields or {}) do whole[key] = value end
      return json.encode(whole)
    end
    local hex = (outside .. "/x.png"):gsub(".", function(c) return ("%02x"):format(c:byte()) end)
    return {
      root = record({ item }, { image_dir = "/" }), there = record { item },
      up = record({ with { path = "data/../../outside/x.png" } }, { image_dir = "data" }),
      here = record({ with { path = "../outside/x.png" } }, { image_dir = "" }),
      above = record({ with { path = "../outside/x.png" } }, { image_dir = ".." }),
      no_image = record({ with { path = outside .. "/file" } }, { image_dir = "/" }),
      hex = record({ with { path = { hex = hex } } }, { image_dir = "/" }),
      hex_nul = record({ with { path = { hex = "00" .. hex } } }, { image_dir = "/" }),
      no_hex = record({ with { path = { hex = "zz" } } }, { image_dir = { hex = "0" } }),
      hex_number = record({ with { path = { hex = 7 } } }),
      own_dir = record({ with { image_dir = outside } }, { image_dir = "data" }),
      own_dir_number = record({ with { image_dir = 7 } }, { image_dir = "data" }),
      root_moved = record({ with { path = "data/x.png" } }, { image_dir = "data", root = outside }),
      root_number = record({ item }, { image_dir = "data", root = 7 }),
      numbers = record { with { bytes = "x", sha256 = 7, attempt = "x", prompt_sha256 = {}, replaces = 5,
        fields = 7 } },
      request_word = record({ item }, { request = "x" }), request_true = record({ item }, { request = true }),
      batch_word = record({ item }, { batch = "x" }), batch_number = record({ item }, { batch = 7 }),
      items_word = record({}, { items = "x" }), items_map = record({}, { items = { a = 1 } }),
      items_numbers = record { 7 }, items_null = record { json.null }, nothing = record {},
      same_id = record { item, with { path = "data/a/p-2.png" } },
      id_path = record { with { custom_id = "../../../outside/x" } }, id_empty = record { with { custom_id = "" } },
      id_nul = record { with { custom_id = "x\0y" } }, id_long = record { with { custom_id = ("x"):rep(100000) } },
      deep = ('{"items":'):rep(100000), deep_whole = ("["):rep(100000) .. ("]"):rep(100000),
      control = "\27]0;title\7\27[2J", bytes = "\xFF\xFE\0\0", empty = "", null = "null", list = "[]",
    }
  end

  it("in every shape move nothing to elsewhere, and stop no other batch with a crash", function()
    local answer = [[return { x = { output = function(lines)
      return (lines[1]:gsub('"custom_id":"[^"]*"', '"custom_id":"data|x.png"')) .. "\n" end } }]]
    local service <close> = liar(answer)
    local cells <close> = closing {}
    for name in pairs(records_in "") do
      local cell = image_cell(service, "x", { codes = ENDS })
      cell.name = name
      -- upload makes a batch that the service knows; then its record, and the journal, are somebody else's.
      cell.command = ("( %s ) && cd %s && rm -f batch/journal.jsonl && for record in batch/batch-*.txt; do "
        .. "cat %s >$record; done; %s"):format(cell.subject:step("upload", quote(service.url "x")),
        quote(cell.subject.base), quote(cell.subject.path .. "/forged"), cell.subject:step("download",
        quote(service.url "x")))
      support.write(cell.subject.path .. "/forged", records_in(outside_of(cell))[name])
      cells[#cells + 1] = cell
    end
    run_all(cells)
  end)

  it("of errands and of completed batches in a wrong shape are named", function()
    local service <close> = liar "return {}"
    local cells <close> = closing {}
    for name, content in pairs { number = '{"items":[7]}', no_path = '{"items":[{"custom_id":"x"}]}',
      no_id = '{"items":[{"path":"data/a/p-2.png"}]}', word = '{"items":"x"}', map = '{"items":{"a":{}}}',
      torn = '{"items":[', hex = '{"items":[{"custom_id":"x","path":{"hex":7},"image_dir":7}]}' } do
      local again = image_cell(service, "again", { codes = ENDS })
      again.name = "resubmit, " .. name
      again.command = ("( %s ) && ( %s ) && %s"):format(again.subject:step("upload", quote(service.url "again")),
        again.subject:step("download", quote(service.url "again")),
        again.subject:step("download", quote(service.url "again"), { "--resubmit" }))
      local deep = image_cell(service, "deep", { codes = ENDS })
      deep.name = "deep_clean, " .. name
      table.insert(deep.allowed, "^/work/deep_clean")
      deep.command = deep.subject:step("deep_clean", quote(service.url "deep"))
      for folder, cell in pairs { ["/batch/resubmit_001/"] = again, ["/deep_clean/run_001/"] = deep } do
        assert(fs.mkdir(cell.subject.base .. folder))
        support.write(cell.subject.base .. folder .. "record.json", content)
        support.write(cell.subject.base .. folder .. "original_requests.jsonl", loop.lines(1)[1] .. "\n")
        cells[#cells + 1] = cell
      end
    end
    run_all(cells)
  end)
end)

describe("links that somebody has planted", function()
  --- Runs a command of each kind in a folder where NAME is a link to what is not the job's. A run that refuses
  --- it names it.
  local function plant_all(kinds)
    local service <close> = liar "return {}"
    local cells <close> = closing {}
    for _, kind in ipairs(kinds) do
      for i, name in ipairs(kind) do
        local cell = kind.make(service, kind[0] .. i)
        cell.name = kind[0] .. ", " .. name
        cell.codes = ENDS
        table.insert(cell.allowed, "%.png%.txt%.part$") -- a leftover, by its name
        local path = (cell.subject.base .. "/" .. name):gsub("/$", "")
        plant(outside_of(cell) .. (name:find("/$") and "/folder" or "/file"), path)
        function cell.check()
          assert(cell.code == 0 or cell.code == 3 or cell.err:find(path:match("[^/]*$"), 1, true), "does not name it")
        end
        cells[#cells + 1] = cell
      end
    end
    run_all(cells)
  end

  it("in the folder of a job of the correction loop are replaced or refused, and not followed", function()
    plant_all { { [0] = "loop", make = loop_cell, "final_results.jsonl", "corrected_results.json", "journal.jsonl",
      "corrected_results.json.part", "given_up.jsonl", "final_results.jsonl.part", "final_correction_log.txt", "lock",
      "iteration_1/", "iteration_1/merged_results_iteration_1.jsonl", "iteration_1/correction_log.txt",
      "iteration_1/batch_requests_iteration_1.jsonl", "iteration_1/batch_requests_iteration_1_p001.jsonl.part",
      "iteration_1/submitted_batch_ids_iteration_1.txt", "iteration_1/batch-2_output.jsonl",
      "iteration_1/batch-2_output.jsonl.part", "iteration_1/unresolved_iteration_1.jsonl" } }
  end)

  it("in the folders of batches, of results and beside images are replaced or refused, too", function()
    plant_all { { [0] = "image", make = image_cell, "batch/journal.jsonl", "batch/lock", "batch/unresolved.jsonl",
      "batch/batch-2.txt", "batch/batch_0001.jsonl", "batch/batch_0001.record", "batch/batch_0001.jsonl.part",
      "batch/completed/batch-2.txt", "batch_return/batch-2.jsonl", "batch_return/batch-2.jsonl.part",
      "batch_json_results/batch-2/", "batch_json_results/batch-2/data|a|p-2.png.json", "data/a/p-2.png.txt",
      "data/a/p-2.png.txt.part", "data/a/p-2.png.txt.api", "data/a/provenance.jsonl" } }
  end)

  it("in the folder of deep_clean and of what is sent again are replaced or refused, too", function()
    local function deep(service, name)
      local cell = image_cell(service, name)
      support.write(cell.subject.base .. "/data/a/p-2.png.txt.api", ("The same line.\n"):rep(9))
      cell.allowed = { "^/work/deep_clean", "^/work/data/a/p%-2%.png%.txt", "^/work/data/a$", "^/work$" }
      cell.command = cell.subject:step("deep_clean", quote(service.url(name)))
        :gsub("timeout %-k 5 120", "timeout -k 5 30")
      return cell
    end
    local function again(service, name)
      local cell = image_cell(service, name)
      support.write(cell.subject.path .. "/policy.lua", [[local policy = require "obatch.policy"
        policy.patience = 1
        function policy.accept() return false, "not good" end
        return policy]])
      cell.command = ("( %s ) && %s"):format(cell.subject:step("upload", quote(service.url(name))),
        cell.subject:step("download", quote(service.url(name)), { "--resubmit", "--policy", "../policy.lua" }))
      return cell
    end
    plant_all { { [0] = "deep", make = deep, "deep_clean/lock", "deep_clean/attempts.jsonl", "deep_clean/run_001/",
      "deep_clean/run_001/record.json", "deep_clean/run_001/original_requests.jsonl", "deep_clean/run_001/iteration_1/",
      "deep_clean/run_001/completed.json", "deep_clean/run_001/lock", "data/a/p-2.png.txt", "data/a/p-2.png.txt.part",
      "data/a/p-2.png.txt.before" },
      { [0] = "again", make = again, "batch/resubmit_001/", "batch/resubmit_001/record.json",
      "batch/resubmit_001/original_requests.jsonl", "batch/resubmit_001/completed.json" } }
  end)
end)
