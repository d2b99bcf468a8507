-- fsck: what a run has left adds up, or it says what does not; --repair rebuilds what can be had again.
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local json = require "obatch.json"
local loop = require "loop"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local support = require "support"

local quote = support.quote

-- ---------------------------------------------------------------- one finished job, and copies of it

--- Requests r-1 to r-12 in two parts, two iterations; r-12 is given up.
local model = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n == 12 then return { refusal = "No." } end
if n % 3 == 0 and asked == 1 then return "no JSON at all" end
return json.encode { id = request.custom_id, asked = asked }
]]

local master = nil -- the job, made once

--- A copy of the master, `.base`, to be damaged.
local function copy()
  local dir = support.tmpdir()
  assert(support.shell(("cp -a %s %s %s"):format(quote(master.base), quote(master.requests), quote(dir.path))) == 0)
  local self = { base = dir.path .. "/base", requests = dir.path .. "/requests.jsonl" }
  return setmetatable(self, { __close = function() getmetatable(dir).__close(dir) end })
end

--- Everything below a folder, to see that nothing was touched.
local function state_of(base)
  local _, text = support.shell(("cd %s && find . -printf '%%p %%T@ %%s %%i %%m\\n' | sort"):format(quote(base)))
  return text
end

--- fsck of a copy: exit code, what was printed. Without --repair nothing may be touched.
local function check(self, ...)
  local words = { ... }
  local before = state_of(self.base)
  local code, out, err = support.obatch("fsck", self.base, "--original-requests", self.requests, ...)
  assert(not (out .. err):find("stack traceback", 1, true) and not err:find("Sanitizer", 1, true), out .. err)
  if words[1] ~= "--repair" then assert.equal(before, state_of(self.base), "fsck has written something") end
  return code, out .. err
end

local function says(out, words)
  assert(out:find(words, 1, true), ("not said: %s\n%s"):format(words, out))
end

--- Changes a file of a copy by gsub-like function.
local function edit(self, name, change)
  local path = self.base .. "/" .. name
  support.write(path, (change(support.read(path))))
end

local function lines_of(text)
  local list = {}
  for line in text:gmatch("[^\n]*\n") do list[#list + 1] = line end
  return list
end

local MERGED = "iteration_1/merged_results_iteration_1.jsonl"

--- The downloaded file of the first part, whose lines are the first merged ones, whichever batch ended first.
local function download_name(self)
  for line in support.read(self.base .. "/journal.jsonl"):gmatch("[^\n]+") do
    local event = json.decode(line)
    if event.event == "downloaded" and event.iteration == 1 and event.part == 1 then
      return "iteration_1/" .. event.files[1]
    end
  end
end

--- Rewrites the journal; change(event) may change an event, or return false to leave it out.
local function edit_journal(self, change)
  edit(self, "journal.jsonl", function(text)
    local out = {}
    for line in text:gmatch("[^\n]+") do
      local event = json.decode(line)
      local more = change(event)
      if more ~= false then out[#out + 1] = json.encode(event) .. "\n" end
      if type(more) == "table" then out[#out + 1] = json.encode(more) .. "\n" end
    end
    return table.concat(out)
  end)
end

--- As an older obatch would have left it: the journal does not say what was downloaded.
local function without_digests(self)
  edit_journal(self, function(event) event.digests, event.fingerprint = nil, nil end)
end

describe("fsck of a finished job", function()
  lazy_setup(function()
    master = loop.job { requests = loop.lines(12), model = model, args = { "--max-requests", "7" } }
    local box <close> = master:sandbox()
    master:run(box)
    assert(master.code == 3, master.err)
  end)
  lazy_teardown(function() getmetatable(master).__close(master) end)

  it("shows the table of the run, says that all adds up, and exits with 0", function()
    local self <close> = copy()
    local code, out = check(self)
    assert.equal(0, code, out)
    says(out, master.out:match("^(.-)\n\n"))
    says(out, "12 requests: 11 have a good answer, 1 given up, 0 left")
    says(out, "all adds up (0 notes)")
    loop.check_table(out)
    code, out = check(self, "--repair")
    assert.equal(0, code, out)
    assert.is_nil(out:find("repair:", 1, true), out)
  end)

  -- What follows from the downloaded files is rebuilt, byte for byte.
  local function repairable(name, file, change, words, kept, code_before)
    it("repairs " .. name, function()
      local self <close> = copy()
      if change then edit(self, file, change) else assert(fs.remove(self.base .. "/" .. file)) end
      local damaged = change and support.read(self.base .. "/" .. file)
      local code, out = check(self)
      assert.equal(code_before or 1, code, out)
      says(out, file)
      says(out, words)
      code, out = check(self, "--repair")
      assert.equal(0, code, out)
      assert.equal(support.read(master.base .. "/" .. file), support.read(self.base .. "/" .. file))
      assert.equal(kept and damaged or nil, fs.read(self.base .. "/" .. file .. ".before-fsck"))
    end)
  end
  local function half(text) return text:sub(1, #text // 2) end
  local function without_first_line(text) return text:gsub("^[^\n]*\n", "") end
  local function twice(text) return text .. lines_of(text)[1] end
  local function other_value(text) return text:gsub('asked(.-)1', 'asked%17', 1) end

  repairable("merged results that are cut off", MERGED, half, "byte ", true)
  repairable("merged results that are missing", MERGED, nil, "the merged results of iteration 1 are missing")
  repairable("merged results that lack a line", MERGED, without_first_line, ":1: byte ")
  repairable("merged results with a line twice", MERGED, twice, "one after the other")
  repairable("merged results with a damaged line", MERGED, function(text) return text:gsub("{", "<", 1) end,
    "merged_results_iteration_1.jsonl:1: byte 1", true)
  repairable("merged results with an answer that was changed", MERGED, other_value, "--repair makes it anew", true)
  repairable("invalid results that are missing", "iteration_1/invalid_results_iteration_1.jsonl", nil, "it is missing")
  repairable("an unresolved entry that was changed", "iteration_1/unresolved_iteration_1.jsonl",
    function(text) return text:gsub('"resend"', '"give_up"', 1) end, "at custom_id 'r-3'", true)
  repairable("final results that are missing", "final_results.jsonl", nil, "it is missing")
  repairable("final results that lack a line", "final_results.jsonl", without_first_line,
    "custom_id 'r-1' has a good answer, and is not there", true)
  repairable("final results with a line twice", "final_results.jsonl", twice, "custom_id 'r-1' is there twice", true)
  repairable("final results with another answer", "final_results.jsonl", other_value,
    "the line of custom_id 'r-1' is not the one that was received", true)
  repairable("final results with a damaged line", "final_results.jsonl",
    function(text) return text:gsub("{", "<", 1) end, "final_results.jsonl:1: byte 1: the line is not JSON", true)
  repairable("an answer that was changed", "corrected_results.json", other_value, "corrected_results.json:2: ", true)
  repairable("corrected results that are cut off", "corrected_results.json", half, "ends too early", true)
  repairable("given_up.jsonl that is empty", "given_up.jsonl", function() return "" end, "at custom_id 'r-12'")
  repairable("a list that lacks a batch", "iteration_1/submitted_batch_ids_iteration_1.txt", without_first_line,
    "of the journal is not in the list")
  repairable("a journal whose last line is torn", "journal.jsonl", function(text) return text .. '{"event":"mer' end,
    "the last line is cut off", false, 0)
  repairable("a journal whose last line a power cut has left as zeros", "journal.jsonl",
    function(text) return text .. "\0\0\0\0\n" end, "the last line is cut off", false, 0)

  it("removes what a write that was cut off has left, and nothing of the user's", function()
    local self <close> = copy()
    support.write(self.base .. "/final_results.jsonl.part", "half")
    support.write(self.base .. "/iteration_1/x.jsonl.part", "half")
    support.write(self.base .. "/iteration_1/\27[2J.part", "") -- may reach no terminal
    support.write(self.base .. "/mine.part", "whole")
    local code, out = check(self)
    assert.equal(0, code, out)
    says(out, "final_results.jsonl.part: a write that was cut off")
    says(out, "iteration_1/x.jsonl.part")
    says(out, "iteration_1/%1B[2J.part")
    check(self, "--repair")
    assert.is_nil(fs.stat(self.base .. "/final_results.jsonl.part"))
    assert.is_nil(fs.stat(self.base .. "/iteration_1/x.jsonl.part"))
    assert.truthy(fs.stat(self.base .. "/mine.part"))
  end)

  -- What cannot be had again is told, and --repair leaves it alone.
  local function hopeless(name, damage, words)
    it("tells " .. name .. ", and leaves it alone", function()
      local self <close> = copy()
      words = type(words) == "string" and { words } or words
      damage(self)
      local code, out = check(self)
      assert.equal(1, code, out)
      for _, word in ipairs(words) do says(out, word) end
      local before = state_of(self.base):gsub("[^\n]*lock[^\n]*\n", "")
      code, out = check(self, "--repair")
      assert.equal(1, code, out)
      for _, word in ipairs(words) do says(out, word) end
      assert.equal(before, (state_of(self.base):gsub("[^\n]*lock[^\n]*\n", "")))
    end)
  end
  local function in_file(name, change)
    return function(self) edit(self, type(name) == "function" and name(self) or name, change) end
  end

  hopeless("a download that is missing", function(self) assert(fs.remove(self.base .. "/" .. download_name(self))) end,
    "the downloaded file is missing. Its lines are in the merged results, too. Restore it")
  hopeless("a download that is shorter than it was", in_file(download_name, half),
    "were downloaded. Its lines are in the merged results, too. Restore it")
  hopeless("a download that is not what it was", in_file(download_name, other_value),
    "it is not what was downloaded (by its digest)")
  hopeless("a request file that is missing",
    function(self) assert(fs.remove(self.base .. "/iteration_1/batch_requests_iteration_1_p001.jsonl")) end,
    "batch_requests_iteration_1_p001.jsonl: the request file is missing")
  hopeless("a request that was never sent",
    in_file("iteration_1/batch_requests_iteration_1_p001.jsonl", without_first_line),
    { "custom_id 'r-1' is in no request file of iteration 1", "6 requests, by the journal it had 7" })
  hopeless("results that are no file", function(self)
    assert(fs.remove(self.base .. "/" .. MERGED))
    assert(fs.mkdir(self.base .. "/" .. MERGED))
  end, "Is a directory")
  hopeless("a request file that is not what was planned",
    in_file("iteration_2/batch_requests_iteration_2.jsonl", function(text) return text:gsub("Trans", "trans", 1) end),
    "not what the journal planned (by its digest)")
  hopeless("a request in two parts", function(self)
    edit(self, "iteration_1/batch_requests_iteration_1_p002.jsonl", function(text)
      return text .. lines_of(support.read(self.base .. "/iteration_1/batch_requests_iteration_1_p001.jsonl"))[2]
    end)
  end, { "custom_id 'r-2' is in two parts of iteration 1", "6 requests, by the journal it had 5" })
  hopeless("a journal line that is damaged", in_file("journal.jsonl", function(text)
    local lines = lines_of(text)
    lines[3] = lines[3]:gsub('"event"', '"event', 1)
    return table.concat(lines)
  end), { "journal.jsonl:3: byte ", "No command goes on with this journal" })
  hopeless("a batch that was created without an intent", function(self)
    edit_journal(self, function(event) if event.event == "intent" and event.what == "create" then return false end end)
  end, "'created' of part 1 without an intent")
  hopeless("a batch that was downloaded twice", function(self)
    edit_journal(self, function(event) if event.event == "downloaded" then return event end end)
  end, "'downloaded' of part 1 though it was done")
  hopeless("an event of a part that was never planned", function(self)
    edit_journal(self, function(event)
      if event.event == "merged" then return { event = "requeued", iteration = 1, part = 9 } end
    end)
  end, "'requeued' for part 9 of iteration 1, which is not planned")
  hopeless("an event of a newer obatch", function(self)
    edit_journal(self, function(event)
      if event.event == "merged" then return { event = "moonwalked", part = 1 } end
    end)
  end, "unknown event 'moonwalked' (of a newer obatch?)")
  hopeless("a journal that leads out of the folder", function(self)
    edit_journal(self, function(event)
      if event.event == "downloaded" then event.files[1] = "../../requests.jsonl" end
    end)
  end, "'downloaded' of part 1 names no files in its folder")
  hopeless("a batch that the journal does not know",
    in_file("iteration_1/submitted_batch_ids_iteration_1.txt", function(text) return text .. "batch_other\n" end),
    "it names batch batch_other, which the journal does not know")
  hopeless("merged results that hold an answer no download has", function(self)
    without_digests(self)
    edit(self, download_name(self), without_first_line)
  end, { "is in no downloaded file: it may be all that is left of that answer", ":1: byte " })
  hopeless("merged results with what may be the rest of an answer", function(self)
    without_digests(self)
    edit(self, MERGED, function(text) return text .. '{"custom_id":"r-1","resp\n' end)
  end, "is in no downloaded file: it may be all that is left of that answer")
  hopeless("a final result that is all that is left of an answer", function(self)
    without_digests(self)
    edit(self, download_name(self), without_first_line)
    edit(self, MERGED, without_first_line)
  end, { "has no good answer in any iteration", "--repair leaves the file alone" })
  hopeless("a damaged line that may have been an answer", function(self)
    without_digests(self)
    for _, name in ipairs { download_name(self), MERGED } do
      edit(self, name, function(text) return text:gsub('"', "", 1) end)
    end
  end, { "merged_results_iteration_1.jsonl:1: byte 2: the line is not JSON (" })
  hopeless("a request file that has changed since", function(self)
    support.write(self.requests, support.read(self.requests) .. loop.line("r-13") .. "\n")
  end, { "its content has changed since the job was started" })

  hopeless("an empty journal beside results", in_file("journal.jsonl", function() return "" end),
    "journal.jsonl: it holds no event, and there are results beside it. Restore it from a copy")
  hopeless("a journal that is gone", function(self) assert(fs.remove(self.base .. "/journal.jsonl")) end,
    "journal.jsonl: it is missing, and there are results of obatch. Restore it from a copy")
  hopeless("a download that is lost before it came", function(self)
    edit_journal(self, function(event)
      if event.event == "downloaded" then event.event, event.file = "lost", "x" end
    end)
  end, "'lost' of part 1 though nothing of it was downloaded")
  local function link(name)
    return function(self)
      local path = self.base .. "/" .. (type(name) == "function" and name(self) or name)
      assert(support.shell(("cd %s && mv %s elsewhere && ln -s %s/elsewhere %s"):format(quote(self.base), quote(path),
        quote(self.base), quote(path))) == 0)
    end
  end
  hopeless("a download that is a link", link(download_name),
    "_output.jsonl: it is a link, and a job's files are its own")
  hopeless("merged results that are a link", link(MERGED), MERGED .. ": it is a link")
  hopeless("a folder that is a link", function(self)
    edit(self, "iteration_2/unresolved_iteration_2.jsonl", function(text) return text .. "x\n" end)
    link("iteration_2")(self)
  end, "iteration_2: it is a link, and a job's folders are its own")

  it("knows what a job may have gone through", function()
    local self <close> = copy()
    edit(self, "journal.jsonl", function(text)
      local out, files = {}, 0
      for line in text:gmatch("[^\n]+") do
        local event = json.decode(line)
        if event.event == "planned" and event.iteration == 1 then event.cut = "OVER" end
        if event.event == "terminal" then event.failed = 1 end
        if event.event == "downloaded" then
          files, event.incomplete = files + 1, true
          out[#out + 1] = json.encode(event)
          out[#out + 1] = json.encode { event = "lost", iteration = event.iteration, part = event.part,
            batch_id = event.batch_id, file = event.files[1] }
          out[#out + 1] = json.encode { event = "fetched", iteration = event.iteration, part = event.part,
            kind = "output", file = event.files[1], incomplete = true }
        end
        out[#out + 1] = json.encode(event)
      end
      assert(files == 3)
      return table.concat(out, "\n") .. "\n"
    end)
    support.write(self.base .. "/" .. download_name(self) .. ".before", "half")
    local code, out = check(self)
    assert.equal(0, code, out)
    says(out, "all adds up (0 notes)")
  end)

  it("finds the request file from any folder, and goes as far as it can without it", function()
    local self <close> = copy()
    local function check_from(folder, original)
      edit_journal(self, function(event) if event.original then
        event.original.path, event.original.absolute = original.path, original.absolute
      end end)
      local code, out = support.shell(("cd %s && %s fsck %s 2>&1"):format(quote(folder), quote(support.binary),
        quote(self.base)))
      return code, out
    end
    local other = self.base .. "/other.jsonl"
    support.write(other, "{}\n")
    for _, original in ipairs { { path = "x", absolute = self.requests }, { path = "requests.jsonl" },
      { path = "../base/../requests.jsonl" }, { path = "requests.jsonl", absolute = other } } do
      local code, out = check_from("/", original)
      assert.equal(0, code, out)
    end
    assert.equal(0, (check_from(self.base .. "/iteration_1", { path = "../../requests.jsonl", absolute = "/x" })))
    local code, out = check_from("/", { path = "gone.jsonl" })
    assert.equal(1, code)
    says(out, "gone.jsonl: the request file of the journal is not there. Name the request file")
    says(out, "1 fault")
    says(out, master.out:match("^(.-)\n\n"))
  end)

  it("tells a request file that is another one once, not for each request", function()
    local self <close> = copy()
    support.write(self.requests, loop.line("s-1") .. "\n")
    local code, out = check(self)
    assert.equal(1, code)
    says(out, "it is not the request file of the job")
    says(out, "1 fault")
    says(out, master.out:match("^(.-)\n\n"))
  end)

  it("says first that the end of the journal is missing, and what completes the job", function()
    local whole = support.read(master.base .. "/journal.jsonl")
    local at = {} -- where each event begins
    for position, line in whole:gmatch("()([^\n]+)") do
      local event = json.decode(line)
      at[event.event .. tostring(event.iteration)] = position - 1
    end
    for _, bytes in ipairs { #whole - 20, at.merged2, at.downloaded2 + 20, at.created2, at.planned2 } do
      local self <close> = copy()
      edit(self, "journal.jsonl", function(text) return text:sub(1, bytes) end)
      local code, out = check(self)
      assert.equal(1, code)
      local first = out:match("fault: [^\n]*")
      says(first, "journal.jsonl: its end is missing: by it iteration 2 is not merged")
      says(first, "Run the same command: it completes the job")
      assert.is_nil(out:find("--policy", 1, true), out)
      local before = support.read(self.base .. "/final_results.jsonl")
      check(self, "--repair")
      assert.equal(before, support.read(self.base .. "/final_results.jsonl"))
    end
  end)

  it("says that the same command downloads again what is not merged yet", function()
    local self <close> = copy()
    edit_journal(self, function(event)
      if event.event == "merged" and event.iteration == 2 then return false end
      if event.event == "downloaded" and event.iteration == 2 then
        assert(fs.remove(self.base .. "/iteration_2/" .. event.files[1]))
      end
    end)
    says(select(2, check(self)), "the downloaded file is missing. Run the same command: it downloads it again")
  end)

  it("repairs what it can where a folder is gone and a file is in the way", function()
    local self <close> = copy()
    local list = self.base .. "/iteration_1/submitted_batch_ids_iteration_1.txt"
    assert(support.shell(("cd %s && rm -r iteration_2 %s && mkdir -p %s/x"):format(quote(self.base), quote(list),
      quote(list))) == 0)
    edit(self, MERGED, half)
    local code, out = check(self, "--repair")
    assert.equal(1, code)
    says(out, "submitted_batch_ids_iteration_1.txt: it cannot be repaired: ")
    says(out, "iteration_2/batch_requests_iteration_2.jsonl: the request file is missing")
    for _, name in ipairs { MERGED, "iteration_2/submitted_batch_ids_iteration_2.txt" } do
      assert.equal(support.read(master.base .. "/" .. name), support.read(self.base .. "/" .. name))
    end
  end)

  it("judges no answer more often with --repair where nothing is to be repaired", function()
    local self <close> = copy()
    local counter, counting = self.base .. "/../count", self.base .. "/../counting.lua"
    support.write(counting, ([[
      local policy = require "obatch.policy"
      function policy.accept()
        local file <close> = io.open(%q, "a")
        file:write("x")
        return true
      end
      return policy]]):format(counter))
    local counts = {}
    for i, words in ipairs { {}, { "--repair" } } do
      support.write(counter, "")
      table.move({ "--policy", counting }, 1, 2, #words + 1, words)
      local code, out = check(self, table.unpack(words))
      assert.equal(0, code, out)
      counts[i] = #support.read(counter)
    end
    assert(counts[1] > 0)
    assert.equal(counts[1], counts[2])
  end)

  it("takes what is as the service sent it for the service's fault, and tells it", function()
    local self <close> = copy()
    local extra = '{"custom_id":"stranger"}\nnot JSON\n'
    local first = lines_of(support.read(self.base .. "/" .. download_name(self)))[1]
    extra = extra .. first .. first:gsub("{", "{ ", 1)
    edit(self, download_name(self), function(text) return text .. extra end)
    local _, position = support.read(self.base .. "/" .. MERGED):find(first, 1, true)
    assert(position == #first)
    without_digests(self)
    local code, out = check(self, "--repair")
    assert.equal(1, code, out)
    for _, level in ipairs { "fault", "note" } do
      if level == "note" then
        local digests = {}
        for _, name in ipairs(fs.list(self.base .. "/iteration_1")) do
          local sha256, bytes = fs.sha256(self.base .. "/iteration_1/" .. name)
          digests[name] = { sha256 = sha256, bytes = bytes }
        end
        edit_journal(self, function(event)
          if event.event == "downloaded" and event.iteration == 1 then
            event.digests = {}
            for _, name in ipairs(event.files) do event.digests[name] = digests[name] end
          end
        end)
        code, out = check(self)
        assert.equal(0, code, out)
      end
      for _, words in ipairs { "custom_id 'stranger' was never submitted", "the line is not JSON (",
        "is answered twice, and differently" } do
        local told = out:match(level .. ": [^\n]*" .. words:gsub("%p", "%%%0"))
        assert(told, ("no %s: %s\n%s"):format(level, words, out))
      end
      says(out, "is answered twice, with the same line")
    end
  end)

  it("tells twenty findings of a kind, and how many more there are; control characters never reach the terminal",
    function()
      local self <close> = copy()
      without_digests(self)
      local id = "\\u001b[2J\\u009b31m" .. ("x"):rep(5000)
      edit(self, download_name(self), function(text)
        return text .. ('{"custom_id":"' .. id .. '"}\n'):rep(50)
      end)
      local code, out = check(self)
      assert.equal(1, code)
      assert.is_nil(out:find("[\0-\9\11-\31\127]"), "a control character")
      assert.is_nil(out:find("\xC2\x9B", 1, true))
      assert.is_nil(out:find(("x"):rep(200), 1, true), "a long id is not cut")
      check(self, "--repair")
      out = select(2, check(self))
      local count = 0
      for _ in out:gmatch("was never submitted") do count = count + 1 end
      assert.equal(20, count)
      says(out, "... and 30 more ids that nobody submitted")
    end)

  it("tells how far it is with what lasts: digests, and the files that follow from the results", function()
    local self <close> = copy()
    local stage, told = progress.stage, {}
    progress.stage = function(name, options)
      told[name] = told[name] or { total = options and options.total, done = 0 }
      return { update = function(_, done) told[name].done = done end }
    end
    local _ <close> = setmetatable({}, { __close = function() progress.stage = stage end })
    assert(fsck.run(self.base, { rules = assert(policy.load()), original = self.requests }))
    progress.stage = stage
    for _, file in ipairs { "final_results.jsonl", "corrected_results.json" } do
      local size = fs.stat(self.base .. "/" .. file).size
      assert.same({ total = size, done = size }, told["comparing " .. file])
    end
    for _, file in ipairs { self.requests, "batch_requests_iteration_1_p001.jsonl", download_name(self), MERGED } do
      assert.truthy(told["checking " .. file:match("[^/]*$")], file)
    end
  end)

  it("says of a file that cannot be read just that, not that its content is another", function()
    local self <close> = copy()
    local fingerprint = fs.fingerprint
    local _ <close> = setmetatable({}, { __close = function() fs.fingerprint = fingerprint end })
    local files = { "iteration_1/batch_requests_iteration_1_p001.jsonl", download_name(self), MERGED }
    function fs.fingerprint(path, ...)
      for _, name in ipairs(files) do
        if path:sub(-#name) == name then return nil, "cannot read " .. path .. ": Input/output error", "EIO" end
      end
      return fingerprint(path, ...)
    end
    local found = assert(fsck.run(self.base, { rules = assert(policy.load()), original = self.requests }))[1].found
    local out = table.concat(found:lines(), "\n")
    for _, name in ipairs(files) do says(out, name .. ": Input/output error") end
    assert.falsy(out:find("digest", 1, true), out)
  end)

  it("reads beside a run, and repairs nothing then", function()
    local self <close> = copy()
    edit(self, MERGED, half)
    local lock <close> = assert(fs.lock(self.base .. "/lock"))
    local code, out = check(self)
    assert.equal(1, code)
    says(out, "a run holds the lock")
    says(out, "--repair makes it anew")
    local before = state_of(self.base)
    code, out = check(self, "--repair")
    assert.equal(1, code)
    says(out, "is held by pid")
    assert.equal(before, state_of(self.base))
    lock:close()
    out = select(2, check(self))
    assert.is_nil(out:find("holds the lock", 1, true), out)
  end)

  it("needs the job's policy, and does not rebuild by another one", function()
    local self <close> = copy()
    local strict = self.base .. "/../strict.lua"
    support.write(strict, "local policy = require 'obatch.policy'\n"
      .. "function policy.accept(answer) return answer.id ~= 'r-2', 'no' end\nreturn policy\n")
    local code, out = check(self, "--policy", strict)
    assert.equal(1, code)
    says(out, "custom_id 'r-2' has no good answer in any iteration. Was the job run with another --policy? Name it")
    check(self, "--repair", "--policy", strict)
    code, out = check(self)
    assert.equal(0, code, out)
  end)

  it("can repair again after a repair that was killed at any file", function()
    local kills = 0
    for at = 1, 20 do
      local self <close> = copy()
      assert(fs.remove(self.base .. "/" .. MERGED))
      edit(self, "iteration_2/merged_results_iteration_2.jsonl", function(text) return text .. "x\n" end)
      for _, name in ipairs { "final_results.jsonl", "corrected_results.json", "given_up.jsonl",
        "iteration_1/unresolved_iteration_1.jsonl" } do edit(self, name, function(text) return text .. "x\n" end) end
      support.write(self.base .. "/kill.lua", ([[
        local fs, jsonl = require "obatch.fs", require "obatch.jsonl"
        local count = 0
        local function die() count = count + 1; if count == %d then os.execute("kill -KILL $PPID") end end
        for _, name in ipairs { "rename", "write" } do
          local act = fs[name]
          fs[name] = function(...) die() return act(...) end
        end
        for _, module in ipairs { fs, jsonl } do
          local create = module.create
          module.create = function(...)
            local file, message, code = create(...)
            if not file then return nil, message, code end
            local methods = getmetatable(file).__index
            if not rawget(_G, "wrapped_" .. (module == fs and "fs" or "jsonl")) then
              rawset(_G, "wrapped_" .. (module == fs and "fs" or "jsonl"), true)
              local commit = methods.commit
              methods.commit = function(...) die() return commit(...) end
            end
            return file
          end
        end
        return require "obatch.policy"]]):format(at))
      local code, out = check(self, "--repair", "--policy", self.base .. "/kill.lua")
      if code ~= 137 then
        assert.equal(0, code, out)
        break
      end
      kills = kills + 1
      code, out = check(self, "--repair")
      assert.equal(0, code, out)
      for _, name in ipairs { MERGED, "final_results.jsonl", "corrected_results.json", "given_up.jsonl",
        "iteration_1/unresolved_iteration_1.jsonl" } do
        assert.equal(support.read(master.base .. "/" .. name), support.read(self.base .. "/" .. name))
      end
      local _, left = support.shell(("find %s -name '*.part'"):format(quote(self.base)))
      assert.equal("", left)
    end
    assert(kills >= 8, kills .. " kills only")
  end)
end)

describe("fsck of a folder", function()
  it("needs one that is a job (2), and says so", function()
    local dir <close> = support.tmpdir()
    for _, path in ipairs { dir.path, dir.path .. "/typo", dir.path .. "/file" } do
      if path:find("file$") then support.write(path, "") end
      local code, _, err = support.obatch("fsck", path)
      assert.equal(2, code)
      says(err, path)
      if path:find("file$") then says(err, "is not a folder") end
    end
    assert.equal(2, (support.obatch("fsck")))
    local code, _, err = support.obatch("fsck", dir.path, "--policy", dir.path .. "/none.lua")
    assert.equal(2, code)
    says(err, "none.lua")
  end)
end)

-- ---------------------------------------------------------------- jobs of earlier scripts

describe("fsck of a job that an earlier script made", function()
  lazy_setup(function()
    master = loop.job { requests = loop.lines(12), model = model, args = { "--max-requests", "7" } }
    local box <close> = master:sandbox()
    master:run(box)
    support.shell(("cd %s && rm -f journal.jsonl lock given_up.jsonl corrected_results_steps.jsonl "
      .. "final_correction_log.txt */*_output.jsonl */*_error.jsonl */unresolved* */batch_requests_iteration_1*"
      ):format(quote(master.base)))
  end)
  lazy_teardown(function() getmetatable(master).__close(master) end)

  it("goes as far as its files do", function()
    local self <close> = copy()
    local code, out = check(self)
    assert.equal(0, code, out)
    says(out, "there is no journal.jsonl")
    says(out, "12 requests: 11 have a good answer, 1 given up, 0 left")
    loop.check_table(out)
    code, out = support.obatch("fsck", self.base)
    assert.equal(1, code)
    says(out, "Name the request file with --original-requests")
  end)

  it("names an answer that was left out, and rebuilds", function()
    local self <close> = copy()
    edit(self, "corrected_results.json", function(text) return text:gsub('"r%-5": [^\n]*\n', "", 1) end)
    edit(self, "final_results.jsonl", function(text) return text:gsub("^[^\n]*\n", "") end)
    local code, out = check(self)
    assert.equal(1, code)
    says(out, "corrected_results.json: custom_id 'r-5' has a good answer, and is not there")
    says(out, "final_results.jsonl: custom_id 'r-1' has a good answer, and is not there")
    code, out = check(self, "--repair")
    assert.equal(0, code, out)
    for _, name in ipairs { "corrected_results.json", "final_results.jsonl" } do
      assert.equal(support.read(master.base .. "/" .. name), support.read(self.base .. "/" .. name))
      assert.truthy(fs.stat(self.base .. "/" .. name .. ".before-fsck"))
    end
  end)

  it("never replaces the last copy of an answer", function()
    local self <close> = copy()
    edit(self, MERGED, function(text) return lines_of(text)[1] end)
    local code, out = check(self)
    assert.equal(1, code)
    says(out, "corrected_results.json: custom_id 'r-5' has no good answer in any iteration")
    local function kept()
      local texts = {}
      for i, name in ipairs { "final_results.jsonl", "corrected_results.json", MERGED } do
        texts[i] = support.read(self.base .. "/" .. name)
      end
      return texts
    end
    local before = kept()
    check(self, "--repair")
    assert.same(before, kept())
  end)

  it("names damaged lines", function()
    local self <close> = copy()
    edit(self, MERGED, function(text) return text .. '{"custom_id": "r-1", \n' end)
    local code, out = check(self)
    assert.equal(1, code)
    says(out, "merged_results_iteration_1.jsonl:13: byte ")
  end)
end)
