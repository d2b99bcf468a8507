-- Several tasks over one HTTP client, against tests/scripted_api.py.
local api_server = require "api_server"
local http = require "obatch.http"
local support = require "support"
local tasks = require "obatch.tasks"

local script, seen, asked, origin = api_server.script, api_server.seen, api_server.asked, api_server.origin

setup(api_server.start)
teardown(api_server.stop)

describe("tasks", function()
  local client

  before_each(function() client = http.client() end)
  after_each(function() client:close() end)

  local function get(path)
    return function() return tasks.request(client, { url = origin() .. path }) end
  end

  it("overlap: each waits for an answer that comes when all have asked", function()
    script { ["GET /g"] = { gate = 3, body = "here" } }
    local answers = {}
    local function ask()
      local body = assert(get "/g"()).body
      answers[#answers + 1] = body
    end
    tasks.run(client, { ask, ask, ask }, 3)
    assert.same({ "here", "here", "here" }, answers)
  end)

  it("are never more at once than the limit, and all get their turn", function()
    script { ["GET /g"] = { gate = 2 } }
    local list = {}
    for i = 1, 6 do list[i] = get "/g" end
    tasks.run(client, list, 2)
    local most = 0
    for _, request in ipairs(seen()) do most = math.max(most, request.in_flight) end
    assert.same({ 6, 2 }, { #seen(), most })
  end)

  it("go on while one sleeps, and wake in their order", function()
    script { ["GET /x"] = { body = "x" } }
    local order = {}
    local function note(name) order[#order + 1] = name end
    tasks.run(client, {
      function() assert.is_true(tasks.sleep(0.3)) note "second" end,
      function() assert.is_true(tasks.sleep(0.1)) note "first" end,
      function() assert(get "/x"()) note "request" end,
      function() note "nothing" end,
    }, 4)
    assert.same({ "nothing", "request", "first", "second" }, order)
  end)

  it("hear of the faults of their own transfers", function()
    script { ["GET /lost"] = { drop = true }, ["GET /x"] = { body = "x" } }
    local lost, fine, refused
    tasks.run(client, {
      function() lost = get "/lost"() end,
      function() fine = get "/x"() end,
      function() refused = { tasks.request(client, { url = "http://example.com/" }) } end,
    }, 3)
    assert.same({ "CLOSED", "x" }, { lost.code, fine.body })
    assert.same({ nil, "URL" }, { refused[1], refused[3] })
  end)

  it("block outside run()", function()
    script { ["GET /x"] = { body = "x" } }
    assert.equal("x", assert(get "/x"()).body)
    assert.is_true(tasks.sleep(0))
    assert.equal(4, coroutine.wrap(function() return get "/x"() and 4 end)())
  end)

  it("that raise end run() with a traceback of their own", function()
    local function deep_inside() error "no luck" end
    local ok, message = pcall(tasks.run, client, { function()
      tasks.sleep(0)
      deep_inside()
    end }, 1)
    assert.is_false(ok)
    assert.matches("tasks_spec.lua:%d+: no luck.*deep_inside", message)
  end)

  it("begin no request any more after an interruption", function()
    local dir <close> = support.tmpdir()
    script { ["GET /first"] = { body = "x" } }
    support.write(dir.path .. "/child.lua", ([[
      local fs, http, tasks = require "obatch.fs", require "obatch.http", require "obatch.tasks"
      local client <close> = http.client()
      local function get(path) return tasks.request(client, { url = %q .. path }) end
      local function task()
        print("first", get "/first".status)
        os.execute("kill -TERM " .. fs.read("/proc/self/stat", 20):match "^%%d+")
        print("second", get "/second")
      end
      tasks.run(client, { task, function() get "/third" end }, 1)]]):format(origin()))
    local code, out = support.obatch("run", dir.path .. "/child.lua")
    assert.equal(130, code)
    assert.equal("first\t200\nsecond\tnil\tinterrupted\tINTERRUPTED\n", out)
    assert.same({ "GET /first" }, asked())
  end)
end)
