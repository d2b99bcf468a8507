--- What the specs share: temporary folders, files, and running the program under test.
local cli = require "obatch.cli"
local fs = require "obatch.fs"

local support = {}

--- The program that runs this spec; the same binary is what the specs start.
support.binary = assert(fs.absolute("/proc/self/exe"))
support.home = cli.home

local function remove_tree(path)
  local stat = fs.lstat(path)
  if stat and stat.type == "dir" then
    for _, name in ipairs(fs.list(path) or {}) do remove_tree(path .. "/" .. name) end
  end
  fs.remove(path)
end

--- A fresh folder, `.path`, removed with all that is in it when the variable goes out of scope:
--- `local dir <close> = support.tmpdir()`.
function support.tmpdir()
  local root = os.getenv("TMPDIR") or "/tmp"
  local dir = { path = ("%s/obatch-test-%s"):format(root, fs.random(8)) }
  assert(fs.mkdir(dir.path))
  return setmetatable(dir, { __close = function(self) remove_tree(self.path) end })
end

function support.write(path, text)
  local file <close> = assert(io.open(path, "wb"))
  assert(file:write(text))
end

function support.read(path)
  local file <close> = assert(io.open(path, "rb"))
  return file:read("a")
end

--- A word for /bin/sh.
function support.quote(word)
  return "'" .. tostring(word):gsub("'", "'\\''") .. "'"
end

--- Runs a shell command; returns its exit code, stdout and stderr.
function support.shell(command)
  local dir <close> = support.tmpdir()
  local _, how, code = os.execute(("{ %s\n} >%s/out 2>%s/err </dev/null"):format(command, dir.path, dir.path))
  if how == "signal" then code = 128 + code end
  return code, support.read(dir.path .. "/out"), support.read(dir.path .. "/err")
end

--- Runs obatch with the given words; `{ NAME = value }` as the first argument sets environment
--- variables. Returns its exit code, stdout and stderr.
function support.obatch(...)
  local words, environment = { ... }, {}
  if type(words[1]) == "table" then
    for name, value in pairs(table.remove(words, 1)) do
      environment[#environment + 1] = name .. "=" .. support.quote(value)
    end
  end
  for i, word in ipairs(words) do words[i] = support.quote(word) end
  return support.shell(("%s %s %s"):format(table.concat(environment, " "), support.quote(support.binary),
    table.concat(words, " ")))
end

--- A running sandbox: `local box <close> = support.sandbox { "--faults", "..." }`, with .url (for
--- OPENAI_BASE_URL), .dir (its state) and .pid. Closing it stops it.
function support.sandbox(options)
  options = options or {}
  local tmp = support.tmpdir()
  local words = {}
  for i, word in ipairs(options) do words[i] = support.quote(word) end
  local state = options.dir or tmp.path .. "/state"
  support.write(tmp.path .. "/out", "") -- the child makes it only when it is scheduled
  assert(os.execute(("%s sandbox --port %d --dir %s %s >%s/out 2>%s/err </dev/null & echo $! >%s/pid"):format(
    support.quote(support.binary), options.port or 0, support.quote(state), table.concat(words, " "),
    tmp.path, tmp.path, tmp.path)))
  local pid = tonumber(support.read(tmp.path .. "/pid"))
  local term = require "obatch.term"
  local url
  for _ = 1, 1200 do
    url = support.read(tmp.path .. "/out"):match("listening on (http://%S+)\n")
    if url or not os.execute("kill -0 " .. pid .. " 2>/dev/null") then break end
    term.sleep(0.05)
  end
  if not url then
    local complaint = support.read(tmp.path .. "/err")
    remove_tree(tmp.path)
    error("the sandbox did not start: " .. complaint)
  end
  local box = { url = url .. "/v1", port = tonumber(url:match(":(%d+)$")), dir = state, pid = pid, log = tmp.path }
  return setmetatable(box, {
    __close = function()
      -- An ended child may stay a zombie for as long as nobody reaps it, and kill -0 still finds that.
      os.execute(("kill %d 2>/dev/null; while grep -q '^State:.[^ZX]' /proc/%d/status 2>/dev/null; "
        .. "do sleep 0.02; done"):format(pid, pid))
      local complaint = support.read(tmp.path .. "/err")
      remove_tree(tmp.path)
      if complaint:find("Sanitizer") then error("the sandbox: " .. complaint) end
    end,
  })
end

return support
