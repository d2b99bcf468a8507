--- What the specs of the correction loop share: jobs, runs of them beside a sandbox, and what must be
--- true of every job that has ended.
local fs = require "obatch.fs"
local json = require "obatch.json"
local support = require "support"

local loop = {}

--- The key of every run; `loop.check` looks for it in all that a run leaves.
loop.KEY = "sk-this-key-must-be-in-no-file"

--- One request line. `fields` sets keys of the line, `body` keys of its body.
function loop.line(id, fields, body)
  local line = { custom_id = id, method = "POST", url = "/v1/chat/completions",
    body = { model = "gpt-test", messages = json.array { { role = "user", content = "Transcribe " .. id } } } }
  for name, value in pairs(fields or {}) do line[name] = value end
  for name, value in pairs(body or {}) do line.body[name] = value end
  return json.encode(line)
end

--- n lines, r-1 to r-n.
function loop.lines(n, fields, body)
  local list = {}
  for i = 1, n do list[i] = loop.line("r-" .. i, fields, body) end
  return list
end

--- Answers that say how often they were asked for; every third request needs two tries.
loop.MODEL = [[
local n = tonumber(request.custom_id:match("%d+$"))
if n % 3 == 0 and asked == 1 then return "no JSON at all" end
return json.encode { id = request.custom_id, asked = asked }
]]

--- How often r-1 ... r-n are asked then.
function loop.usual(n)
  local paid = {}
  for i = 1, n do paid["r-" .. i] = i % 3 == 0 and 2 or 1 end
  return paid
end

local function write_lua(path, head, body, tail)
  support.write(path, ("%s\n%s\n%s\n"):format(head, body, tail))
end

--- Writes the model of a sandbox, of which `body` is the function's.
function loop.write_model(path, body)
  write_lua(path, "local json = require 'obatch.json'\nreturn function(request, asked)", body, "end")
end

local Job = {}
Job.__index = Job

--- A job in a folder of its own: `local job <close> = loop.job { requests=, model=, policy= }`.
---   requests   list of lines, or the path of a file (6 usual ones)
---   model      body of the sandbox's model (loop.MODEL)
---   policy     what the policy file does; settle_seconds is short unless that changes it
---   args       words for every run
function loop.job(options)
  local dir = support.tmpdir()
  local self = setmetatable({ dir = dir, path = dir.path, base = dir.path .. "/base", box = dir.path .. "/box",
    requests = dir.path .. "/requests.jsonl", args = options.args or {} }, Job)
  local requests = options.requests or loop.lines(6)
  if type(requests) == "string" then
    self.requests = requests
  else
    support.write(self.requests, table.concat(requests, "\n") .. "\n")
  end
  self:set_model(options.model or loop.MODEL)
  self:set_policy(options.policy or "")
  return self
end

function Job:__close() getmetatable(self.dir).__close(self.dir) end

function Job:set_model(body) loop.write_model(self.path .. "/model.lua", body) end

function Job:set_policy(body)
  write_lua(self.path .. "/policy.lua", "local policy = require 'obatch.policy'\npolicy.settle_seconds = 0.3", body,
    "return policy")
end

local function quoted(words)
  local list = {}
  for i, word in ipairs(words) do list[i] = support.quote(word) end
  return table.concat(list, " ")
end

local function sandbox_words(self, words)
  return { "--model", self.path .. "/model.lua", "--batch-seconds", "0.1", table.unpack(words or {}) }
end

--- A running sandbox with the job's model.
function Job:sandbox(words, port)
  words = sandbox_words(self, words)
  words.dir, words.port = self.box, port
  return support.sandbox(words)
end

--- The shell command of one run; `words` come last. The url may be a shell expression.
function Job:command(url, words)
  return ("OPENAI_API_KEY=%s OPENAI_BASE_URL=%s timeout -k 5 120 %s correction_loop --base-dir %s "
    .. "--original-requests %s --poll-wait 0.1 --policy %s %s %s"):format(loop.KEY, url, support.quote(support.binary),
    support.quote(self.base), support.quote(self.requests), support.quote(self.path .. "/policy.lua"),
    quoted(self.args), quoted(words or {}))
end

--- One run to its end: exit code, stdout, stderr.
function Job:run(box, words)
  local code, out, err = support.shell(self:command(box and box.url or "http://127.0.0.1:9/v1", words))
  self.code, self.out, self.err = code, out, err
  return code, out, err
end

function Job:read(name) return support.read(self.base .. "/" .. name) end

--- The whole lines of a file of the job, decoded.
function Job:decoded(name)
  local list = {}
  for line in self:read(name):gmatch("[^\n]+") do list[#list + 1] = assert(json.decode(line)) end
  return list
end

--- The events of the journal as a list of words ("intent upload", "uploaded", ...).
function Job:events()
  local words = {}
  for i, event in ipairs(self:decoded("journal.jsonl")) do
    words[i] = event.what and event.event .. " " .. event.what or event.event
  end
  return words
end

--- custom_id -> how often its request was paid for.
function Job:paid()
  local paid = {}
  if not fs.stat(self.box .. "/ledger.jsonl") then return paid end
  for line in support.read(self.box .. "/ledger.jsonl"):gmatch("[^\n]+") do
    local id = assert(json.decode(line)).custom_id
    paid[id] = (paid[id] or 0) + 1
  end
  return paid
end

--- The HTTP requests that the sandbox saw: a list of "POST /v1/files" and so on.
function Job:asked()
  local list = {}
  for line in support.read(self.box .. "/requests.jsonl"):gmatch("[^\n]+") do
    local request = assert(json.decode(line))
    list[#list + 1] = request.method .. " " .. request.path
  end
  return list
end

--- The records of one kind that the sandbox holds: "files" or "batches".
function Job:records(kind)
  local list = {}
  for _, name in ipairs(fs.list(self.box .. "/" .. kind)) do
    if name:find("%.json$") then
      list[#list + 1] = assert(json.decode(support.read(self.box .. "/" .. kind .. "/" .. name))).object
    end
  end
  return list
end

--- How many input files and how many batches that ran were made.
function Job:created()
  local files, batches = 0, 0
  for _, file in ipairs(self:records("files")) do
    if file.purpose == "batch" then files = files + 1 end
  end
  for _, batch in ipairs(self:records("batches")) do
    if batch.status ~= "failed" then batches = batches + 1 end
  end
  return files, batches
end

--- Runs many cells at once and waits for all. A cell is a job with .faults, and perhaps .box_words (of
--- its sandbox) and .steps: shell text to run before the last run, in which `run WORDS` is a run, `$url` is where
--- the sandbox listens, `$box` its process and `serve PORT` its command.
--- Afterwards each has .code, .out, .err of the last run, and .box_err.
function loop.pool(cells, at_once)
  local scripts = {}
  for _, cell in ipairs(cells) do
    local words = sandbox_words(cell, cell.box_words)
    if cell.faults then table.move({ "--faults", cell.faults }, 1, 2, #words + 1, words) end
    local path = cell.path
    support.write(path .. "/cell.sh", ([[
cd %s || exit
serve() { exec %s sandbox --dir box %s --port "$1"; }
: >box.out
serve 0 >>box.out 2>box.err & box=$!
until url=$(sed -n 's/^listening on //p' box.out); [ -n "$url" ]; do kill -0 $box || exit; sleep 0.05; done
run() { %s "$@"; }
%s
run >out 2>err; echo $? >code
kill $box; wait $box
exit 0
]]):format(path, support.quote(support.binary), quoted(words), cell:command("$url/v1"), cell.steps or ""))
    scripts[#scripts + 1] = path .. "/cell.sh"
  end
  local command = ("printf '%%s\\n' %s | xargs -P %d -n 1 sh"):format(quoted(scripts), at_once)
  local code, _, complaint = support.shell(command)
  assert(code == 0, complaint)
  for _, cell in ipairs(cells) do
    local function text(name)
      local path = cell.path .. "/" .. name
      return fs.stat(path) and support.read(path) or ""
    end
    cell.code, cell.out, cell.err = tonumber(text("code")), text("out"), text("err")
    cell.box_err = text("box.err")
  end
end

--- Cells that are closed together: `local group <close> = loop.group {}`.
function loop.group(cells)
  return setmetatable(cells, { __close = function()
    for _, cell in ipairs(cells) do getmetatable(cell).__close(cell) end
  end })
end

--- The table a run prints: for each iteration a table of row name -> number.
function loop.table(out)
  local iterations, inside = {}, false
  for line in out:gmatch("([^\n]*)\n") do
    inside = line:find("^iteration ") or (inside and line ~= "")
    if inside then
      local name, n = line:match("^(%l[%l ]*%l) "), 0
      for cell in line:gmatch("%d+") do
        n = n + 1
        iterations[n] = iterations[n] or {}
        iterations[n][name] = tonumber(cell)
      end
    end
  end
  return iterations
end

local NO_CLASS = { iteration = true, submitted = true, ["tokens in"] = true, ["tokens out"] = true }

--- What the classes of each iteration add up to must be what it submitted.
function loop.check_table(out)
  local rows = loop.table(out)
  assert(#rows > 0, "no table was printed: " .. out)
  for _, row in ipairs(rows) do
    local sum = 0
    for name, value in pairs(row) do
      if not NO_CLASS[name] then sum = sum + value end
    end
    assert(sum == row.submitted,
      ("iteration %d: %d submitted, %d accounted for"):format(row.iteration, row.submitted, sum))
  end
  return rows
end

local function sorted_text(map)
  local list = {}
  for key, value in pairs(map) do list[#list + 1] = key .. "=" .. tostring(value) end
  table.sort(list)
  return table.concat(list, " ")
end

--- "id=n id=n ..." in order, to compare and to read.
loop.text = sorted_text

--- The lines of all merged results, as a set.
local function merged_lines(self)
  local set = {}
  for n = 1, 99 do
    local path = ("%s/iteration_%d/merged_results_iteration_%d.jsonl"):format(self.base, n, n)
    if not fs.stat(path) then return set end
    for line in support.read(path):gmatch("[^\n]+") do set[line] = true end
  end
end

--- The last run of a job has printed these words.
function loop.says(job, words)
  local printed = job.out .. job.err
  assert(printed:find(words, 1, true), printed)
end

--- What must be true of every job, however it ended: no Lua or memory fault, no key anywhere, nothing
--- half-written.
function loop.check_clean(self)
  local all = self.out .. self.err .. (self.box_err or "")
  assert(not all:find("Sanitizer", 1, true), all)
  assert(not all:find("stack traceback", 1, true), all)
  assert(not all:find(loop.KEY, 1, true), "the key is in what was printed")
  local code, found = support.shell("grep -rlF " .. loop.KEY .. " " .. support.quote(self.base))
  assert(code == 1, "the key is in " .. found)
  local _, left = support.shell(("find %s -name '*.part'"):format(support.quote(self.base)))
  assert(left == "", "left behind: " .. left)
end

--- What must be true of a finished job whose requests r-1 ... all have a good answer: each was paid as
--- often as `paid` says, its last answer is the one that counts, and every file agrees.
function loop.check(self, paid)
  assert(self.code == 0, ("exit code %s\n%s%s%s"):format(self.code, self.out, self.err, self.box_err or ""))
  loop.check_clean(self)
  local rows = loop.check_table(self.out)
  local wanted, found = sorted_text(paid), sorted_text(self:paid())
  assert(wanted == found, ("paid, expected: %s\n         found: %s\n%s"):format(wanted, found, self.err))

  local merged, order, index = merged_lines(self), {}, 0
  for line in support.read(self.requests):gmatch("[^\n]+") do order[#order + 1] = json.get(line, "/custom_id") end
  for line in self:read("final_results.jsonl"):gmatch("[^\n]+") do
    index = index + 1
    assert(merged[line], "a final line is none that was received: " .. line)
    assert(json.get(line, "/custom_id") == order[index], "final_results.jsonl is out of order: " .. line)
  end
  assert(index == #order, ("final_results.jsonl holds %d of %d"):format(index, #order))
  local answers, count = assert(json.decode(self:read("corrected_results.json"))), 0
  for id, answer in pairs(answers) do
    count = count + 1
    assert(answer.id == id and answer.asked <= paid[id], "a wrong answer for " .. id)
  end
  assert(count == #order, "corrected_results.json does not hold every answer")
  assert(self:read("given_up.jsonl") == "", "something was given up")
  return rows
end

loop.paid, loop.created, loop.records = Job.paid, Job.created, Job.records

return loop
