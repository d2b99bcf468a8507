local image_bytes = require "image_bytes"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local prices = require "obatch.prices"
local request = require "obatch.request"
local support = require "support"
local tokens = require "obatch.tokens"

describe("tokens.image", function()
  it("gives the numbers of the official guide", function()
    local guide = {
      { "gpt-5.2", "high", 1024, 1024, 1024 },
      { "gpt-4.1-mini", "high", 1024, 1024, 1659 },
      { "gpt-5.2", "high", 1800, 2400, 1452 },
      { "gpt-5.4-mini", "high", 1800, 2400, 2353 },
      { "gpt-5-mini", "high", 2480, 3508, 2385 },
      { "gpt-5.4", "high", 2480, 3508, 2478 },
      { "gpt-5.6-sol", "original", 2480, 3508, 10296 },
      { "gpt-6-astra", "high", 1024, 1024, 1229 },
      { "gpt-4o", "high", 1024, 1024, 765 },
      { "gpt-4o", "high", 2048, 4096, 1105 },
      { "gpt-4.1", "high", 2480, 3508, 1105 },
      { "gpt-5", "high", 2480, 3508, 910 },
      { "gpt-6-luna", "low", 5000, 5000, 308 },
    }
    for _, row in ipairs(guide) do
      local model, detail, width, height, expected = table.unpack(row)
      assert.equal(expected, tokens.image(model, detail, width, height), table.concat(row, " "))
      assert.equal(expected, tokens.image(model, detail, height, width), table.concat(row, " ")) -- turned
    end
  end)

  it("counts small images and low detail as they are", function()
    assert.equal(1, tokens.image("gpt-5.2", "high", 1, 32))
    assert.equal(2, tokens.image("gpt-5.2", "high", 1, 33))
    assert.equal(255, tokens.image("gpt-4o", "high", 1, 512))
    assert.equal(425, tokens.image("gpt-4o", "high", 1, 513))
    assert.equal(85, tokens.image("gpt-4o", "low", 4000, 4000))
    assert.equal(2833, tokens.image("gpt-4o-mini", "low", 4000, 4000))
    assert.equal(2833 + 4 * 5667, tokens.image("gpt-4o-mini", "high", 1024, 1024))
    assert.equal(415, tokens.image("gpt-4.1-mini", "low", 512, 512)) -- 256 patches at 1.62
  end)

  it("takes an unspecified detail for what it costs at the model", function()
    for _, model in ipairs { "gpt-5.5", "gpt-6-astra", "gpt-5.6-luna" } do
      assert.equal(tokens.image(model, "original", 2480, 3508), tokens.image(model, nil, 2480, 3508))
      assert.equal(tokens.image(model, "original", 2480, 3508), tokens.image(model, "auto", 2480, 3508))
      assert.is_true(tokens.image(model, "auto", 2480, 3508) > 3 * tokens.image(model, "high", 2480, 3508))
    end
    for _, model in ipairs { "gpt-5.4", "gpt-4o", "gpt-5-mini", "o4-mini" } do
      assert.equal(tokens.image(model, "high", 2480, 3508), tokens.image(model, "auto", 2480, 3508))
    end
  end)

  it("never counts more patches than the limit, nor none, for any sides", function()
    local sides = { 1, 2, 31, 32, 33, 63, 100, 767, 768, 769, 1024, 1537, 2048, 2049, 2304, 2400, 3508, 9999, 30000,
      65535, 100000, 2147483647 }
    for _, width in ipairs(sides) do
      for _, height in ipairs(sides) do
        for model, limit in pairs { ["gpt-5.2"] = 1536, ["gpt-5.4"] = 2500, ["gpt-6-astra"] = 3000 } do
          local count = tokens.image(model, "high", width, height)
          assert.is_true(math.type(count) == "integer" and count >= 1 and count <= limit,
            ("%s %d x %d: %s"):format(model, width, height, count))
        end
        assert.is_true(tokens.image("gpt-5.5", "original", width, height) <= 10000)
        assert.is_true(tokens.image("gpt-4o", "high", width, height) <= 85 + 170 * 8)
      end
    end
  end)

  it("does not count a patch more for an error in the last digit", function()
    assert.equal(40 * 38, tokens.image("gpt-5.2", "high", 2400, 2304)) -- from 40 x 38.4
    for scale = 33, 300 do
      assert.equal(48 * 32, tokens.image("gpt-5.2", "high", 48 * scale, 32 * scale), scale)
      assert.equal(33 * 44, tokens.image("gpt-5.2", "high", 33 * scale, 44 * scale), scale)
      assert.equal(85 + 170 * 6, tokens.image("gpt-4o", "high", 64 * scale, 96 * scale), scale) -- 768 x 1152
    end
  end)

  it("says so when a model refuses an image for its size", function()
    assert.equal(36000, tokens.image("gpt-6-astra", "original", 32 * 150, 32 * 200))
    local count, message, code = tokens.image("gpt-6-astra", nil, 32 * 150, 32 * 200 + 1)
    assert.is_nil(count)
    assert.equal("TOO_BIG", code)
    assert.equal("gpt-6-astra refuses images of more than 30000 patches of 32 x 32 pixels, and 4800 x 6401 pixels "
      .. "are 30150: make the image smaller, or use the detail high", message)
    assert.equal(3000, tokens.image("gpt-6-astra", "high", 32 * 500, 32 * 500))
  end)

  it("knows a model by the longest name it begins with", function()
    assert.equal(765, tokens.image("gpt-4o-2024-05-13", "high", 1024, 1024))
    assert.equal(1659, tokens.image("gpt-4.1-mini-2025-04-14", "high", 1024, 1024))
    assert.equal(630, tokens.image("gpt-5-chat-latest", "high", 1024, 1024))
    assert.equal(1024, tokens.image("gpt-5.2-codex", "high", 1024, 1024))
    for _, model in ipairs { "gpt-5.1", "gpt-4", "gpt", "llama-4", "", "-", "gpt-4omni" } do
      local count, message, code = tokens.image(model, "high", 1024, 1024)
      assert.is_nil(count)
      assert.matches(model .. " counts the tokens of an image: add it to lua/obatch/tokens.lua", message, 1, true)
      assert.equal("UNKNOWN_MODEL", code)
    end
  end)

  it("refuses details that there are not", function()
    local count, message, code = tokens.image("gpt-4o", "original", 1024, 1024)
    assert.is_nil(count)
    assert.equal("gpt-4o does not know the detail original: use high", message)
    assert.equal("NO_DETAIL", code)
    assert.has_error(function() tokens.image("gpt-4o", "medium", 1, 1) end, 'there is no detail "medium"')
  end)
end)

describe("tokens.text", function()
  it("counts four characters a token, and no text as none", function()
    assert.equal(0, tokens.text "")
    assert.equal(1, tokens.text "word")
    assert.equal(2, tokens.text "words")
    assert.equal(250, tokens.text(("x"):rep(1000)))
  end)
end)

describe("tokens.request", function()
  local PNG, JPEG = image_bytes.png(1024, 1024), image_bytes.jpeg(600, 500, image_bytes.exif():rep(5))

  local dir
  setup(function() dir = support.tmpdir() end)
  teardown(function() getmetatable(dir).__close(dir) end)

  local function url(bytes)
    support.write(dir.path .. "/x", bytes)
    return "data:image/png;base64," .. io.popen("base64 -w0 " .. dir.path .. "/x"):read "a"
  end

  --- tokens.request of a line, which is the same for its record.
  local function request_of(line, model)
    local tokens_in, tokens_out = tokens.request(line, model)
    support.write(dir.path .. "/line", line .. "\n")
    for record in assert(jsonl.scan(dir.path .. "/line", {})) do
      assert.same({ tokens_in, tokens_out }, { tokens.request(record, model) }, line)
      assert.is_nil(rawget(record, "text"))
    end
    return tokens_in, tokens_out
  end

  --- A line like those of upload; `more` bytes are what it has beside its pictures.
  local function line_of(pictures, settings)
    local what = { custom_id = "a", model = "gpt-4o", endpoint = "/v1/chat/completions", prompt = "Transcribe." }
    for name, value in pairs(settings or {}) do what[name] = value end
    what.image = pictures[1]
    local value = request.compose(what)
    local content = (value.body.messages or value.body.input)[1].content
    for i = 2, #pictures do
      content[#content + 1] = { type = "image_url", image_url = { url = pictures[i] } }
    end
    local line = json.encode(value)
    local rest = #line
    for _, picture in ipairs(pictures) do rest = rest - #(picture:match ";base64,(.*)" or "") end
    return line, (rest + 3) // 4
  end

  it("counts a text at 4 bytes a token", function()
    local line = line_of({}, { prompt = ("word"):rep(1000) })
    assert.equal((#line + 3) // 4, (request_of(line)))
    assert.equal(0, (request_of ""))
  end)

  it("takes embedded pictures out, and counts them by their sides, model and detail", function()
    local line, rest = line_of { url(PNG), url(JPEG) }
    assert.equal(rest + 765 + 425, (request_of(line)))
    assert.equal(rest + 1024 + 304, (request_of(line, "gpt-5.2")))
    for _, endpoint in ipairs { "/v1/chat/completions", "/v1/responses" } do
      line, rest = line_of({ url(PNG) }, { detail = "low", endpoint = endpoint })
      assert.equal(rest + 85, (request_of(line)), endpoint)
      -- As others write it: behind the picture, with spaces.
      local moved, count = line:gsub('"detail":"low",("[%l_]+":"data:.-")', '%1,  "detail" : "low"')
      assert.equal(1, count)
      assert.equal(rest + 86, (request_of(moved)), endpoint)
    end
  end)

  it("reads base64 whose slashes are escaped", function()
    local line, rest = line_of { url(JPEG) }
    local escaped, count = line:gsub(";base64,[^\"]*", function(picture) return (picture:gsub("/", "\\/")) end)
    assert.equal(1, count)
    assert.is_truthy(escaped:find(";base64,\\/9j\\/", 1, true))
    assert.equal(rest + 425, (request_of(escaped)))
  end)

  it("counts what it cannot see as a usual page", function()
    local other = "data:application/pdf;base64,JVBERi0xLjcKJeLjz9MK"
    local line, rest = line_of { other }
    assert.equal(rest + tokens.PICTURE, (request_of(line)))
    line, rest = line_of({ url(PNG) }, { model = "no-such-model" })
    assert.equal(rest + tokens.PICTURE, (request_of(line)))
    line = line_of { "https://example.org/a.png", "https://example.org/b.png" }
    assert.equal((#line + 3) // 4 + 2 * tokens.PICTURE, (request_of(line)))
    line = '{"url":"/v1/responses","body":{"input":[{"content":[{"type" : "input_image", "file_id":"f"}]}]}}'
    assert.equal((#line + 3) // 4 + tokens.PICTURE, (request_of(line)))
    line, rest = line_of { url(PNG), "https://example.org/a.png" }
    assert.equal(rest + 765 + tokens.PICTURE, (request_of(line)))
  end)

  it("takes no text for a picture", function()
    for _, prompt in ipairs { "see data:image/png;base64,iVBORw0KGgo", ";base64,", ("a;base64,"):rep(50),
      'the field "image_url" and the "input_image" of a request' } do
      local line = line_of({}, { prompt = prompt })
      assert.equal((#line + 3) // 4, (request_of(line)), prompt)
    end
    assert.equal(7, (request_of '{"a":"data:;base64,iVBORw0')) -- no JSON: never closed
  end)

  it("does not count the escapes of a text as if they were letters", function()
    local letters = ("\u{0416}"):rep(3000) -- 2 bytes each in UTF-8, 6 as an escape
    local plain = request_of(line_of({}, { prompt = letters }))
    local escaped = request_of((line_of({}, { prompt = letters }):gsub("\u{0416}", "\\u0416")))
    assert.equal(1500, plain - request_of(line_of({}, { prompt = "" })))
    local counted = escaped - request_of(line_of({}, { prompt = "" }))
    assert.is_true(counted > 2200 and counted < 2300, counted) -- half of 6 bytes
  end)

  it("gives the limit of the answer that the line names, or none", function()
    local line = line_of({ url(PNG) }, { max_tokens = 500 })
    assert.equal(500, select(2, request_of(line)))
    line = line_of({ url(PNG) }, { max_tokens = 77, endpoint = "/v1/responses" })
    assert.equal(77, select(2, request_of(line)))
    assert.is_nil(select(2, request_of(line_of { url(PNG) })))
  end)

  it("never raises on pictures that lie", function()
    math.randomseed(20261122)
    for _, bytes in ipairs { JPEG, PNG:sub(1, 200), image_bytes.webp(9, 8, "lossy"), image_bytes.gif(9, 9) } do
      local original = url(bytes:sub(1, 3000))
      for _ = 1, 200 do
        local picture = { original:byte(1, -1) }
        for _ = 1, math.random(6) do picture[math.random(23, math.random(2) == 1 and 60 or #picture)] =
          ("Aa/=9+\\"):byte(math.random(7)) end
        for i, byte in ipairs(picture) do picture[i] = string.char(byte) end
        local line = '{"url":"' .. table.concat(picture):sub(1, math.random(#picture)) .. '"}'
        assert.equal("integer", math.type((request_of(line, "gpt-4o"))))
      end
    end
  end)
end)

describe("tokens.cost", function()
  local function near(expected, found) assert.is_true(math.abs(expected - found) < 1e-9, found) end

  it("multiplies by the price of the model, or of the model a snapshot is of", function()
    near(1.25 + 0.5 * 5.00, tokens.cost(prices, "gpt-4o", 1000000, 500000))
    near(1.25, tokens.cost(prices, "gpt-4o-2024-08-06", 1000000, 0))
    near(2.50, tokens.cost(prices, "gpt-4o-2024-05-13", 1000000, 0)) -- dearer than its successors
    near(0.20 * 0.002385 + 0.80 * 0.001, tokens.cost(prices, "gpt-4.1-mini", 2385, 1000))
  end)

  it("gives no price for a model by the price of another", function()
    local strangers = { "gpt-5.4-pro", "gpt-4o-audio-preview", "gpt-4", "gpt-4o-2024", "ft:gpt-4o-2024-08-06:me" }
    for _, model in ipairs(strangers) do
      local cost, message = tokens.cost(prices, model, 1, 1)
      assert.is_nil(cost)
      assert.equal(("no price is known for %s (prices of %s): add it to lua/obatch/prices.lua"):format(
        model, prices.as_of), message)
    end
  end)

  it("has a table whose every line is a price", function()
    assert.matches("%f[%d]20%d%d", prices.as_of)
    assert.is_string(prices.source)
    assert.equal("integer", math.type(prices.assumed_output_tokens))
    for model, price in pairs(prices.models) do
      assert.is_true(price.input > 0 and price.output >= 0, model)
      local fields = 0
      for _ in pairs(price) do fields = fields + 1 end
      assert.equal(2, fields, model)
    end
  end)
end)
