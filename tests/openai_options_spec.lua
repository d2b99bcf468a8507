-- The options and the environment of a command that talks to the service: the key, where it may stand and
-- that it is shown nowhere, and what else they set.
local api_server = require "api_server"
local argparse = require "argparse"
local http = require "obatch.http"
local openai = require "obatch.openai"
local support = require "support"
local term = require "obatch.term"

local KEY, GET, BATCH = api_server.KEY, api_server.GET, api_server.BATCH
local script, seen, origin = api_server.script, api_server.seen, api_server.origin
local failure, fails = api_server.failure, api_server.fails

local dir
local getenv, take_env, stderr = os.getenv, term.take_env, io.stderr

setup(api_server.start)
teardown(api_server.stop)

before_each(function()
  api_server.stop_time()
  dir = support.tmpdir()
end)

after_each(function()
  api_server.resume_time()
  os.getenv, term.take_env, io.stderr = getenv, take_env, stderr -- luacheck: ignore 122
  getmetatable(dir).__close(dir)
end)

describe("the options of a command", function()
  local environment, warnings

  before_each(function()
    environment, warnings = {}, {}
    os.getenv = function(name) return environment[name] end -- luacheck: ignore 122
    term.take_env = function(name) return environment[name] or "" end
    io.stderr = { write = function(_, line) warnings[#warnings + 1] = line end } -- luacheck: ignore 122
  end)

  local function from(options) return openai.from_options(options or {}, {}) end

  local function key_file(content)
    support.write(dir.path .. "/api_key.txt", content)
    assert(os.execute(("chmod 600 %s/api_key.txt"):format(dir.path)))
    return { api_key_file = dir.path .. "/api_key.txt" }
  end

  --- The Authorization header that a client with these options sends.
  local function sent_by(options)
    environment.OPENAI_BASE_URL = origin() .. "/v1"
    local api <close> = assert(from(options))
    script { [GET] = BATCH }
    assert(api:batch "b")
    return seen()[1].headers.authorization
  end

  it("are parsed", function()
    local parser = argparse "x"
    openai.options(parser)
    assert.same({ api_key_file = "k", allow_plain_http = true },
      parser:parse { "--api-key-file", "k", "--allow-plain-http" })
    assert.same({}, parser:parse {})
  end)

  it("find the key in the environment", function()
    environment.OPENAI_API_KEY = KEY
    assert.equal("Bearer " .. KEY, sent_by())
  end)

  it("find the key in a file, which goes before the environment", function()
    environment.OPENAI_API_KEY = "other"
    for _, form in ipairs { "KEY", "KEY\n", "KEY\r\n", " KEY \n\n", "\nKEY\nnotes about it\n" } do
      local content = form:gsub("KEY", (KEY:gsub("%%", "%%%%")))
      assert.equal("Bearer " .. KEY, sent_by(key_file(content)))
    end
    assert.same({}, warnings)
  end)

  it("warn once of a key file that others can read", function()
    local options = key_file(KEY)
    for _, mode in ipairs { "640", "604" } do
      assert(os.execute(("chmod %s %s"):format(mode, options.api_key_file)))
      options.api_key_file = options.api_key_file:gsub("/([^/]*)$", "/./%1")
      for _ = 1, 2 do assert(from(options)):close() end
      assert.same({ ("warning: others can read the API key in %s; run: chmod 600 %s\n"):format(options.api_key_file,
        options.api_key_file) }, warnings)
      warnings = {}
    end
  end)

  it("make a client that does not show the key to who looks at it", function()
    environment.OPENAI_API_KEY = KEY
    local api <close> = assert(from())
    local visited = {}
    local function look(value, name)
      assert.is_nil(tostring(value):find(KEY, 1, true), name)
      if type(value) ~= "table" or visited[value] then return end
      visited[value] = true
      for key, each in pairs(value) do
        look(key, name)
        look(each, name .. "." .. tostring(key))
      end
      look(getmetatable(value), name .. "'s metatable")
    end
    look(api, "api")
    assert.is_truthy(visited[getmetatable(api)])
    assert.is_nil(require "obatch.repl.show".value(api, 200):find(KEY, 1, true))
  end)

  it("say how to give a key where there is none", function()
    for _, value in ipairs { "", false } do
      environment.OPENAI_API_KEY = value or nil
      assert.matches("set OPENAI_API_KEY, or name a file with --api-key-file", fails(from()), 1, true)
    end
  end)

  it("name a key file that is not there, or holds no key, and never what it holds", function()
    local message = fails(from { api_key_file = dir.path .. "/nowhere" })
    assert.matches(dir.path .. "/nowhere", message, 1, true)
    for _, content in ipairs { "", "\n \n", KEY .. " and more", "OpenAI key: " .. KEY, "\xEF\xBB\xBF" .. KEY,
      KEY .. "\1", "clé" .. KEY } do
      message = fails(from(key_file(content)))
      assert.equal(dir.path .. "/api_key.txt does not hold an API key: one word of printable characters", message)
    end
    environment.OPENAI_API_KEY = KEY .. " \n"
    assert.matches("^OPENAI_API_KEY does not hold an API key", fails(from()))
  end)

  it("take the base URL with any slashes at its end, organization and project from the environment", function()
    environment = { OPENAI_API_KEY = KEY, OPENAI_ORG_ID = "org-1", OPENAI_PROJECT_ID = "proj-2" }
    script { [GET] = BATCH }
    for _, slashes in ipairs { "", "/", "///" } do
      environment.OPENAI_BASE_URL = origin() .. "/v1" .. slashes
      local api <close> = assert(from())
      assert.truthy(api:batch "b")
    end
    local request = seen()[3]
    assert.equal("/v1/batches/b", request.target)
    assert.same({ "org-1", "proj-2" }, { request.headers["openai-organization"], request.headers["openai-project"] })
  end)

  it("mean the real service, and nobody's organization, where the environment is empty", function()
    environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = "", OPENAI_ORG_ID = "", OPENAI_PROJECT_ID = "" }
    local api <close> = assert(from())
    assert.equal("https://api.openai.com/v1", api.base_url)
    api.base_url = origin() .. "/v1"
    script { [GET] = BATCH }
    assert(api:batch "b")
    local headers = seen()[1].headers
    assert.same({}, { headers["openai-organization"], headers["openai-project"] })
  end)

  it("say which option lets plain http go elsewhere", function()
    environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = "http://example.com/v1" }
    assert.equal("OPENAI_BASE_URL: plain http would send everything in the clear; use https, or say --allow-plain-http",
      fails(from()))
  end)

  it("pass on the flag for plain http, the log and the settling time", function()
    environment = { OPENAI_API_KEY = KEY, OPENAI_BASE_URL = origin() .. "/v1" }
    local client, allowed = http.client, {}
    finally(function() http.client = client end)
    http.client = function(options)
      allowed[#allowed + 1] = options.allow_plain_http or false
      return client(options)
    end
    assert(from()):close()
    local heard = {}
    local api <close> = assert(openai.from_options({ allow_plain_http = true },
      { settle_seconds = 3, patience = 4 }, function(line) heard[#heard + 1] = line end))
    script { [GET] = { failure(503), BATCH } }
    assert.truthy(api:batch "b")
    assert.same({ { false, true }, 1, 3, 4 }, { allowed, #heard, api.settle_seconds, api.patience })
  end)
end)

describe("the process", function()
  it("takes the key out of its environment, and can make a client again and again", function()
    support.write(dir.path .. "/look.lua", ([[
      local openai = require "obatch.openai"
      local fs = require "obatch.fs"
      do -- as a policy may do when it is loaded
        local child <close> = io.popen("env", "r")
        print(child:read("a"):find("%s", 1, true))
      end
      for _ = 1, 2 do
        local api <close> = assert(openai.from_options { api_url = "%s/v1" })
        assert(api:batch "b")
      end
      print(os.getenv "OPENAI_API_KEY")
      print((fs.read("/proc/self/environ") .. fs.read("/proc/self/cmdline")):find("%s", 1, true))
      local child <close> = io.popen("env; cat /proc/$PPID/environ", "r")
      print(child:read("a"):find("%s", 1, true))]]):format(KEY, origin(), KEY, KEY))
    script { [GET] = BATCH }
    local code, out, complaint = support.obatch({ OPENAI_API_KEY = KEY }, "run", dir.path .. "/look.lua")
    assert.same({ 0, "nil\nnil\nnil\nnil\n" }, { code, out }, complaint)
    local asked = seen()
    assert.same({ "Bearer " .. KEY, "Bearer " .. KEY },
      { asked[1].headers.authorization, asked[2].headers.authorization })
  end)

  it("takes every copy of a variable, and no other", function()
    support.write(dir.path .. "/take.lua", [[
      local fs, term = require "obatch.fs", require "obatch.term"
      print(term.take_env "SECRET", term.take_env "SECRET", term.take_env "NOWHERE", os.getenv "SECRETS")
      local environment = fs.read("/proc/self/environ")
      print(environment:find("one", 1, true), environment:find("two", 1, true))
      print(pcall(term.take_env, "A=b"), pcall(term.take_env, ""))]])
    -- No shell gives a name twice; execve does.
    local code, out, complaint = support.shell(([[python3 -c '
import ctypes
libc = ctypes.CDLL(None)
words = (ctypes.c_char_p * 4)(b"%s", b"run", b"%s", None)
environment = (ctypes.c_char_p * 4)(b"SECRET=one", b"SECRET=two", b"SECRETS=kept", None)
libc.execve(words[0], words, environment)']]):format(support.binary, dir.path .. "/take.lua"))
    assert.same({ 0, "one\tnil\tnil\tkept\nnil\tnil\n" }, { code, out:match("^[^\n]*\n[^\n]*\n") }, complaint)
    assert.equal(2, select(2, out:gsub("false", "")))
  end)

  it("leaves no core dump, in which the key would be", function()
    support.write(dir.path .. "/limit.lua", [[io.write(require "obatch.fs".read("/proc/self/limits"))]])
    local _, out = support.shell(("ulimit -S -c unlimited; %s run %s"):format(support.quote(support.binary),
      dir.path .. "/limit.lua"))
    assert.matches("Max core file size +[01] ", out)
  end)
end)
