-- The options and the environment of a command that talks to the service: the key, where it may stand and
-- that it is shown nowhere, and what else they set.
local api_server = require "api_server"
local argparse = require "argparse"
local http = require "obatch.http"
local openai = require "obatch.openai"
local support = require "support"

local KEY, GET, BATCH = api_server.KEY, api_server.GET, api_server.BATCH
local script, seen, origin = api_server.script, api_server.seen, api_server.origin
local failure, fails = api_server.failure, api_server.fails

local dir, getenv

setup(api_server.start)
teardown(api_server.stop)

before_each(function()
  api_server.stop_time()
  dir, getenv = support.tmpdir(), os.getenv
end)

after_each(function()
  api_server.resume_time()
  os.getenv = getenv -- luacheck: ignore 122
  getmetatable(dir).__close(dir)
end)

describe("the options of a command", function()
  local environment

  before_each(function()
    environment = {}
    os.getenv = function(name) return environment[name] end -- luacheck: ignore 122
  end)

  local function from(options) return openai.from_options(options or {}, {}) end

  local function key_file(content)
    support.write(dir.path .. "/api_key.txt", content)
    return { api_key_file = dir.path .. "/api_key.txt" }
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
    local api <close> = assert(from())
    assert.equal("Bearer " .. KEY, api.headers.Authorization)
  end)

  it("find the key in a file, which goes before the environment", function()
    environment.OPENAI_API_KEY = "other"
    for _, form in ipairs { "KEY", "KEY\n", "KEY\r\n", " KEY \n\n", "\nKEY\nnotes about it\n" } do
      local content = form:gsub("KEY", (KEY:gsub("%%", "%%%%")))
      local api <close> = assert(from(key_file(content)))
      assert.equal("Bearer " .. KEY, api.headers.Authorization)
    end
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
    assert.is_nil(api.headers["OpenAI-Organization"])
    assert.is_nil(api.headers["OpenAI-Project"])
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
