-- The key: everything that a run leaves behind, under every kind of fault, is searched for it, in each form in
-- which it may be written.
local fs = require "obatch.fs"
local loop = require "loop"
local pipeline = require "pipeline"
local support = require "support"

--- It has what is escaped in URLs, and is nothing that anybody else writes.
local KEY = "sk-proj-Kq7/xW+9zLmN3==_vT5rYb8"

local function url_encoded(key) return (key:gsub("[^%w_.~-]", function(c) return ("%%%02X"):format(c:byte()) end)) end

--- Base64 of the key wherever it stands in a text: without the characters at the borders, which depend on it.
local function base64_forms(key)
  local forms = {}
  for shift = 0, 2 do
    local _, out = support.shell(("printf %%s %s | base64 -w0"):format(support.quote(("x"):rep(shift) .. key)))
    forms[#forms + 1] = out:sub(shift == 0 and 1 or 5, -6)
  end
  return forms
end

local FORMS = { KEY, url_encoded(KEY), url_encoded(KEY):lower(), (KEY:gsub("/", "\\/")), KEY:reverse(),
  (KEY:gsub(".", function(c) return ("%02x"):format(c:byte()) end)), (KEY:gsub(".", "%0\0")) }
for _, form in ipairs(base64_forms(KEY)) do FORMS[#FORMS + 1] = form end
FORMS[#FORMS + 1] = KEY:sub(1, 12) -- a key that was cut short is half a key
FORMS[#FORMS + 1] = KEY:sub(-12)

--- Fails when a text holds the key.
local function has_no_key(text, where)
  for i, form in ipairs(FORMS) do
    local at = text:find(form, 1, true)
    assert(not at, at and ("form %d of the key is in %s: %s"):format(i, where, text:sub(math.max(1, at - 99), at + 99)))
  end
end

--- Fails when anything below a folder holds the key, names of files included.
local function leaves_no_key(folder)
  local _, files = support.shell(("find %s -print"):format(support.quote(folder)))
  has_no_key(files, "a file's name")
  for path in files:gmatch("[^\n]+") do
    local stat = fs.lstat(path)
    if stat and stat.type == "file" then has_no_key(support.read(path), path) end
  end
end

--- A server that sends back, in every way, the key it was sent: as the words of errors, in pages and in
--- redirections. Python, because it must say what no well-behaved server says.
local ECHO = [[
import base64, http.server, json, sys, threading
class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def handle_any(self):
        sent = self.headers.get("Authorization", "")
        key = sent.split()[-1] if sent else ""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        kind = self.path.split("/")[1]
        status, kindly, headers = 401, "application/json", {"x-request-id": "req_" + key, "WWW-Authenticate": sent}
        body = json.dumps({"error": {"message": "Incorrect API key provided: " + key, "code": key, "type": sent}})
        if kind == "html":
            status, kindly = 403, "text/html"
            body = "<html><h1>Forbidden</h1>" + sent + "</html>"
        elif kind == "redirect":
            status, headers["Location"] = 302, "http://127.0.0.1:1/" + key + "?" + key
        elif kind == "escaped":
            status = 400
            body = json.dumps({"error": {"message": "Bad header " + key.replace("/", "%2F").replace("+", "%2B")
                .replace("=", "%3D")}}).replace("/", "\\/")
        elif kind == "server":
            status, headers["Retry-After"] = 500, "0"
        elif kind == "nonsense":
            status, body = 200, key
        elif kind == "objects":
            status, body = 200, json.dumps({"id": "file-" + key, "object": "file", "bytes": 1, "data": []})
        data = body.encode()
        self.send_response(status, "Not " + key)
        self.send_header("Content-Type", kindly)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items(): self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
    do_GET = do_POST = do_DELETE = handle_any
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
]]

local function echo_server()
  local dir = support.tmpdir()
  support.write(dir.path .. "/echo.py", ECHO)
  local server = assert(io.popen(("exec python3 %s/echo.py & echo $!; wait"):format(dir.path)))
  local pid = server:read("n")
  local self = { port = math.tointeger(server:read("n")) }
  function self.url(kind) return ("http://127.0.0.1:%d/%s/v1"):format(self.port, kind) end
  return setmetatable(self, { __close = function()
    os.execute("kill " .. pid)
    server:close()
    getmetatable(dir).__close(dir)
  end })
end

describe("the key", function()
  local usual = loop.KEY
  lazy_setup(function() loop.KEY = KEY end)
  lazy_teardown(function() loop.KEY = usual end)

  --- A run of the loop, or of a command for images (upload), as a cell; where it would go on waiting it is
  --- stopped.
  local function cell(subject, url, name)
    local command = subject.images and "export PATIENCE=1; " .. subject:step(name or "upload", support.quote(url)):gsub(
      "tests/signal_at%.lua", "tests/short_waits.lua") or subject:command(support.quote(url))
    command = command:gsub("timeout %-k 5 120", "timeout -k 5 8"):gsub(
      "OPENAI_API_KEY=%S+", function() return "OPENAI_API_KEY=" .. support.quote(KEY) end)
    return { subject = subject, command = command }
  end

  --- Runs all of them, three at once, each in its folder; then looks into everything there is.
  local function run_and_search(cells)
    local scripts = {}
    for i, one in ipairs(cells) do
      -- The script has the key, of course: it is no part of what a run leaves.
      local path = ("%s/%d.sh"):format(cells.scripts.path, i)
      support.write(path, ("cd %s || exit\n( %s ) >out 2>err\necho $? >code\n"):format(support.quote(one.subject.path),
        one.command))
      scripts[i] = path
    end
    support.shell(("printf '%%s\\n' %s | xargs -P 3 -n 1 sh"):format(table.concat(scripts, " ")))
    for _, one in ipairs(cells) do
      assert(fs.stat(one.subject.path .. "/code"), "it did not end: " .. one.command)
      one.code = tonumber(support.read(one.subject.path .. "/code"))
      one.err = support.read(one.subject.path .. "/err")
      assert(one.code ~= 127 and one.err ~= "", "it did not run: " .. one.command)
      leaves_no_key(one.subject.path)
    end
  end

  local function closing(cells)
    cells.scripts = support.tmpdir()
    return setmetatable(cells, { __close = function()
      for _, one in ipairs(cells) do getmetatable(one.subject).__close(one.subject) end
      getmetatable(cells.scripts).__close(cells.scripts)
    end })
  end

  local QUICK = "policy.patience = 0.5"

  --- A cell of download, which has a batch to ask for, and one of deep_clean, which has a page to send.
  local function of_sent_images(url)
    local download, deep = pipeline.project { images = 2 }, pipeline.project { images = 2 }
    assert(fs.mkdir(download.base .. "/batch"))
    support.write(download.base .. "/batch/batch_1.txt", "{'id': 'batch_1'}\n")
    support.write(deep.base .. "/data/a/p-2.png.txt.api", ("The same line.\n"):rep(9))
    return cell(download, url, "download"), cell(deep, url, "deep_clean")
  end

  it("is in nothing that is left when the service sends it back in errors, pages and redirections", function()
    local echo <close> = echo_server()
    local cells <close> = closing {}
    for _, kind in ipairs { "plain", "html", "redirect", "escaped", "server", "nonsense", "objects" } do
      cells[#cells + 1] = cell(loop.job { policy = QUICK }, echo.url(kind))
      cells[#cells + 1] = cell(pipeline.project { images = 2 }, echo.url(kind))
    end
    for _, kind in ipairs { "plain", "redirect" } do
      cells[#cells + 1], cells[#cells + 2] = of_sent_images(echo.url(kind))
    end
    run_and_search(cells)
    for i = #cells - 3, #cells do
      local word = i < #cells - 1 and "***" or i == #cells and "status 302" or "GET 127.0.0.1:1" -- a GET follows it
      assert(cells[i].err:find(word, 1, true), cells[i].command .. ": " .. cells[i].err)
    end
    for _, one in ipairs(cells) do assert(one.code ~= 0, one.err) end
    assert(cells[1].err:find("***", 1, true), "the message is gone, not only the key in it: " .. cells[1].err)
  end)

  it("is in nothing that is left of runs that break in other ways", function()
    -- Of the sandbox, whose folder is searched as well. It is asked about images, too.
    local job <close> = loop.job { model = "if not request.custom_id:find '%d$' then return '' end\n" .. loop.MODEL }
    local box <close> = job:sandbox { "--faults", "upload: drop late first=2; batch: stall first=1",
      "--faults", "create_batch: status=500 body=html first=2; content: cut=100 first=2; file: status=404 first=1" }
    local url = box.url
    local cells <close> = closing {}
    local function loop_with(policy, address, words)
      local one = cell(loop.job { policy = QUICK .. "\n" .. (policy or "") }, address or url)
      one.command = one.command .. (words or "")
      cells[#cells + 1] = one
      return one
    end
    loop_with()
    loop_with(nil, "https://127.0.0.1:" .. box.port .. "/v1") -- TLS with what speaks none
    loop_with(nil, "http://203.0.113.1/v1")                  -- no TLS to another host
    loop_with(nil, "http://user:word@127.0.0.1:1/v1")
    loop_with(nil, "http://127.0.0.1:1/v1?a=b")
    loop_with("function policy.accept() error('a policy that fails') end")
    loop_with("function policy.accept() error({}) end")
    loop_with("function policy.accept() os.execute('env; cat /proc/$PPID/environ /proc/$PPID/cmdline') return true end")
    loop_with("function policy.accept() error(table.concat(arg, ' ') .. debug.traceback()) end")
    loop_with(nil, nil, " --no-such-option")
    local full = loop_with()
    full.command = "( ulimit -f 2; " .. full.command .. " )"
    local damaged = loop_with()
    assert(fs.mkdir(damaged.subject.base))
    support.write(damaged.subject.base .. "/journal.jsonl", '{"event":\n{"event":"started"}\n')
    cells[#cells + 1] = cell(pipeline.project {}, url)
    cells[#cells + 1], cells[#cells + 2] = of_sent_images("https://127.0.0.1:" .. box.port .. "/v1")
    run_and_search(cells)
    for i = #cells - 1, #cells do
      assert(cells[i].err:find("SSL", 1, true), cells[i].command .. ": " .. cells[i].err)
    end
    leaves_no_key(job.path)
    leaves_no_key(box.log)
    assert.equal("", support.read(box.log .. "/err"), "the sandbox has ended")
  end)

  it("is in no /proc of a running process and of its children, and no core can be dumped", function()
    local job <close> = loop.job { requests = loop.lines(2), policy = [[
      function policy.accept()
        os.execute("env >child.env; tr '\\0' '\\n' </proc/$PPID/environ >parent.env; tr '\\0' ' ' </proc/$PPID/cmdline "
          .. ">parent.cmd; cat /proc/$PPID/limits >limits")
        return true
      end]] }
    local box <close> = job:sandbox()
    local scripts <close> = support.tmpdir()
    local one = cell(job, box.url)
    support.write(scripts.path .. "/run.sh", ("cd %s && %s >out 2>err; echo $? >code"):format(job.path, one.command))
    support.shell("sh " .. scripts.path .. "/run.sh")
    assert.equal("0\n", support.read(job.path .. "/code"), support.read(job.path .. "/err"))
    assert(support.read(job.path .. "/child.env"):find("PATH=", 1, true), "the child has an environment")
    assert(support.read(job.path .. "/parent.cmd"):find("correction_loop", 1, true))
    leaves_no_key(job.path)
    assert(support.read(job.path .. "/limits"):find("Max core file size%s+[01]%s"), support.read(job.path .. "/limits"))
  end)

  it("is in no argv, history or file when the process is killed, and a repl shows it nowhere", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox { "--faults", "batch: stall" }
    local scripts <close> = support.tmpdir()
    local one = cell(job, box.url)
    support.write(scripts.path .. "/run.sh", ([[cd %s
%s >out 2>err & pid=$!
until grep -q created base/journal.jsonl 2>/dev/null; do kill -0 $pid || break; sleep 0.05; done
child=$(cat /proc/$pid/task/$pid/children) # of timeout
for p in $pid $child; do tr '\0' ' ' </proc/$p/cmdline; echo; done >argv
kill -KILL $child
wait]]):format(job.path, one.command))
    support.shell("sh " .. scripts.path .. "/run.sh")
    assert(support.read(job.path .. "/argv"):find("correction_loop", 1, true), support.read(job.path .. "/err"))
    leaves_no_key(job.path)

    assert(fs.mkdir(job.path .. "/home"))
    local code, out, err = support.shell(("cd %s && HOME=%s/home XDG_STATE_HOME=%s/home OPENAI_API_KEY=%s "
      .. "OPENAI_BASE_URL=%s %s repl -e %s"):format(job.path, job.path, job.path, support.quote(KEY), box.url,
      support.quote(support.binary), support.quote([[
        local seen = {}
        local function show(value, depth)
          if type(value) ~= "table" then return io.write(tostring(value), "\n") end
          if seen[value] or depth > 6 then return end
          seen[value] = true
          for k, v in pairs(value) do show(k, depth + 1) show(v, depth + 1) end
          if getmetatable(value) then show(getmetatable(value), depth + 1) end
        end
        local api = openai.from_options({})
        show(api, 0)
        show(package.loaded, 0)
        print(api, os.getenv("OPENAI_API_KEY"), api:file("none"))
        error(api)]])))
    assert(code == 1 and out ~= "", err)
    has_no_key(out .. err, "what the repl shows")
    leaves_no_key(job.path)
  end)

  it("read from a file that others can read is used, with a warning that does not show it", function()
    local job <close> = loop.job {}
    local box <close> = job:sandbox()
    local keys <close> = support.tmpdir()
    support.write(keys.path .. "/key", KEY .. "\n")
    for _, mode in ipairs { "644", "600" } do
      assert(os.execute(("chmod %s %s/key"):format(mode, keys.path)))
      local command = job:command(box.url, { "--api-key-file", keys.path .. "/key" }):gsub("OPENAI_API_KEY=%S+ ", "")
      local code, out, err = support.shell(command)
      assert.equal(0, code, err)
      assert.equal(mode == "644", err:find(keys.path .. "/key", 1, true) ~= nil, err)
      has_no_key(out .. err, "what was printed")
    end
    leaves_no_key(job.path)
  end)
end)
