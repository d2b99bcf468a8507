--- What the specs of hostile input share: a service that lies (tests/liar.lua), and runs of which must be true
--- that they end as they should, say it plainly, and change nothing outside of what is theirs.
local fs = require "obatch.fs"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"
local term = require "obatch.term"

local quote = support.quote

local hostile = {}

--- Runs tests/liar.lua with the text of its LIES.lua: .url(name) of a service.
function hostile.liar(lies)
  local dir = support.tmpdir()
  support.write(dir.path .. "/lies.lua", lies)
  support.write(dir.path .. "/out", "") -- the child makes them only when it is scheduled
  support.write(dir.path .. "/err", "")
  assert(os.execute(("%s run %s/tests/liar.lua %s/lies.lua %s >%s/out 2>%s/err </dev/null & echo $! >%s/pid"):format(
    quote(support.binary), quote(support.home), dir.path, dir.path, dir.path, dir.path, dir.path)))
  local self = { pid = tonumber(support.read(dir.path .. "/pid")) }
  while not self.port do
    self.port = tonumber(support.read(dir.path .. "/out"))
    assert(self.port or fs.stat("/proc/" .. self.pid), support.read(dir.path .. "/err"))
    term.sleep(0.02)
  end
  function self.url(name) return ("http://127.0.0.1:%d/%s/v1"):format(self.port, name) end
  return setmetatable(self, { __close = function()
    os.execute(("kill %d; while grep -q '^State:.[^ZX]' /proc/%d/status 2>/dev/null; do sleep 0.02; done"):format(
      self.pid, self.pid))
    local complaint = support.read(dir.path .. "/err")
    getmetatable(dir).__close(dir)
    assert(complaint == "", "the liar: " .. complaint)
  end })
end

--- Every file, folder and link below a path, with what it holds, as a set of lines.
local function snapshot(path)
  local find = "find . -type f -exec sha256sum {} + && find . ! -type f -printf '%p -> %l\\n'"
  local _, out = support.shell(("cd %s && %s"):format(quote(path), find))
  local set = {}
  for line in out:gmatch("[^\n]+") do set[line] = true end
  return set
end

--- Nothing has changed below a path but what matches one of the patterns.
local function unchanged(path, before, allowed)
  local after = snapshot(path)
  local function check(line, what)
    local name = line:match("%.(/.*) %->") or line:match("%.(/.*)$") or line
    for _, pattern in ipairs(allowed) do
      if name:find(pattern) then return end
    end
    error(what .. ": " .. line)
  end
  for line in pairs(after) do if not before[line] then check(line, "new or changed") end end
  for line in pairs(before) do if not after[line] then check(line, "gone or changed") end end
end

--- What is printed and logged holds no control characters, no traceback and no word of a sanitizer.
local function is_plain(cell, folder)
  local _, logs = support.shell(("find %s -name '*log*.txt' -exec cat {} +"):format(quote(folder)))
  local all = cell.out .. cell.err .. logs
  assert(not all:find("[\0-\9\11-\31\127]"), "control characters: " .. all:gsub("[^\n\32-\126]", "?"))
  assert(not all:find("stack traceback", 1, true) and not all:find("Sanitizer", 1, true), all)
  assert(utf8.len(all), "no UTF-8: " .. all)
  assert(#all < 200000, "too much is said")
  assert(cell.code ~= 1 and cell.code ~= 2 or cell.err:find("obatch", 1, true), "no word of what is wrong")
end

--- Runs all cells, three at once: { job or project, command =, allowed = patterns of what may change, codes
--- = set of exit codes }. Gives each .code, .out and .err, and checks what must be true of all of them.
function hostile.run_all(cells)
  local scripts = {}
  for _, cell in ipairs(cells) do
    cell.before = snapshot(cell.subject.path)
    local path = cell.subject.path .. "/cell"
    support.write(path .. ".sh", ("( %s\n) >%s.out 2>%s.err\necho $? >%s.code\n"):format(cell.command, path, path,
      path))
    scripts[#scripts + 1] = quote(path .. ".sh")
  end
  support.shell(("printf '%%s\\n' %s | xargs -P 3 -n 1 sh"):format(table.concat(scripts, " ")))
  local faults = {}
  for _, cell in ipairs(cells) do
    local path = cell.subject.path .. "/cell"
    cell.code, cell.out, cell.err = tonumber(support.read(path .. ".code")), support.read(path .. ".out"),
      support.read(path .. ".err")
    local ok, message = pcall(function()
      assert(cell.codes[cell.code], ("exit code %s"):format(cell.code))
      if cell.says then assert((cell.out .. cell.err):find(cell.says, 1, true), "does not say " .. cell.says) end
      is_plain(cell, cell.subject.base)
      table.insert(cell.allowed, "^/cell%.")
      unchanged(cell.subject.path, cell.before, cell.allowed)
      if cell.check then cell.check(cell) end
    end)
    if not ok then
      faults[#faults + 1] = ("%s: %s\n%s"):format(cell.name, message, (cell.out .. cell.err):sub(1, 3000))
    end
  end
  assert(#faults == 0, ("%d of %d:\n%s"):format(#faults, #cells, table.concat(faults, "\n")))
end

--- A cell of the correction loop with three requests.
function hostile.loop_cell(service, name, fields)
  local job = loop.job { requests = loop.lines(3), policy = "policy.patience = 1" }
  local cell = { subject = job, name = name, allowed = { "^/base$", "^/base/", "^$" }, codes = { [0] = true } }
  cell.command = job:command(service.url(name)):gsub("timeout %-k 5 120", "timeout -k 5 30")
  for key, value in pairs(fields or {}) do cell[key] = value end
  return cell
end

--- A cell of upload and then download, two images.
function hostile.image_cell(service, name, fields)
  local project = pipeline.project { images = 2 }
  local cell = { subject = project, name = name, codes = { [0] = true },
    allowed = { "^/work/batch", "^/both%.sh$", "^/work/data/.*%.png%.txt$", "^/work/data/.*/provenance%.jsonl$" } }
  cell.command = project:command(service.url(name)):gsub("timeout %-k 5 120", "timeout -k 5 30")
  for key, value in pairs(fields or {}) do cell[key] = value end
  return cell
end

function hostile.closing(cells)
  return setmetatable(cells, { __close = function()
    for _, cell in ipairs(cells) do getmetatable(cell.subject).__close(cell.subject) end
  end })
end

return hostile
