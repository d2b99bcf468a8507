--- What a job knows its request file by (obatch.job).

local fs = require "obatch.fs"
local job = require "obatch.job"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local support = require "support"

local LINES = { '{"custom_id":"a"}', '{"custom_id":"b","x":1}', '{"custom_id":"c"}', '{"custom_id":"d","x":"four"}' }
local WHOLE = table.concat(LINES, "\n") .. "\n"

--- Plans the first iteration of a job in `dir` for a file with these bytes, so many requests in a part: as
--- `what(ordinal)` says (default: as they stand, one model); and closes the job.
local function plan(dir, content, max, what)
  support.write(dir.path .. "/requests", content)
  local the_job <close> = assert(job.open(dir.path .. "/job", dir.path .. "/requests"))
  local index <close> = assert(jsonl.index(dir.path .. "/requests", "/custom_id"))
  local ordinal = 0
  assert(the_job:plan(1, function()
    ordinal = ordinal + 1
    if ordinal > index.count then return nil end
    local line, model = nil, nil
    if what then line, model = what(ordinal) end
    return line or ordinal, "/v1/chat/completions", model or "m"
  end, max, 10000, index))
  return the_job.original.pieces, the_job.iterations[1].parts
end

local function open(dir)
  local the_job, message, code = job.open(dir.path .. "/job", dir.path .. "/requests")
  if the_job then the_job:close() end
  return the_job ~= nil, message, code
end

--- What a file of these bytes is known by.
local function known_by(bytes)
  local dir <close> = support.tmpdir()
  support.write(dir.path .. "/file", bytes)
  return { { bytes = #bytes, fingerprint = fs.fingerprint(dir.path .. "/file") } }
end

describe("a job knows its request file", function()
  it("by the digests of its parts, where they are the file from its beginning to its end", function()
    local dir <close> = support.tmpdir()
    local pieces, parts = plan(dir, WHOLE, 3)
    assert.equal(2, #parts)
    for i, part in ipairs(parts) do assert.same({ bytes = part.bytes, fingerprint = part.fingerprint }, pieces[i]) end
    assert.same(known_by(LINES[4] .. "\n"), { pieces[2] })
    assert.is_true(open(dir))
  end)

  local cases = {
    ["lines of two models"] = { WHOLE, function(i) return nil, i % 2 == 0 and "m" or "n" end },
    ["a line that is not sent as it stands"] = { WHOLE, function(i) return i == 2 and LINES[2] or nil end },
    ["no newline at the end"] = { WHOLE:sub(1, -2) },
    ["lines that end with CR and LF"] = { (WHOLE:gsub("\n", "\r\n")) },
    ["an empty line"] = { (WHOLE:gsub("\n", "\n\n", 1)) },
  }
  for name, case in pairs(cases) do
    it("by that of the whole, where there is or are " .. name, function()
      local dir <close> = support.tmpdir()
      local pieces = plan(dir, case[1], 3, case[2])
      assert.same(known_by(case[1]), pieces)
      assert.is_true(open(dir))
    end)
  end

  it("and refuses another one, wherever it differs", function()
    local dir <close> = support.tmpdir()
    plan(dir, WHOLE, 3)
    for _, other in ipairs { "x" .. WHOLE:sub(2), WHOLE:sub(1, -3) .. "x\n", WHOLE .. "\n", WHOLE:sub(1, -2), "",
      (WHOLE:gsub("\n", " ", 1)) } do
      support.write(dir.path .. "/requests", other)
      local ok, message, code = open(dir)
      assert.same({ false, "CHANGED" }, { ok, code })
      assert.matches("is not the file this job was started with", message)
    end
    support.write(dir.path .. "/requests", WHOLE)
    assert.is_true(open(dir))
  end)

  it("by its size until something is planned", function()
    local dir <close> = support.tmpdir()
    support.write(dir.path .. "/requests", WHOLE)
    assert.is_true(open(dir))
    support.write(dir.path .. "/requests", WHOLE .. "\n")
    assert.equal("CHANGED", select(3, open(dir)))
  end)

  it("by the SHA-256 of the whole, or of its pieces, that older journals have", function()
    for _, of_pieces in ipairs { false, true } do
      local dir <close> = support.tmpdir()
      plan(dir, WHOLE, 3)
      local path, lines = dir.path .. "/job/journal.jsonl", {}
      for line in support.read(path):gmatch "[^\n]+" do
        local event = json.decode(line)
        local at = 0
        for _, piece in ipairs(of_pieces and event.pieces or {}) do
          piece.fingerprint, piece.sha256 = nil, fs.sha256_text(WHOLE:sub(at + 1, at + piece.bytes))
          at = at + piece.bytes
        end
        if not of_pieces then event.pieces = nil end
        if event.original and not of_pieces then event.original.sha256 = fs.sha256_text(WHOLE) end
        lines[#lines + 1] = json.encode(event) .. "\n"
      end
      support.write(path, table.concat(lines))
      assert.is_true(open(dir))
      support.write(dir.path .. "/requests", WHOLE:sub(1, -3) .. "x\n")
      assert.equal("CHANGED", select(3, open(dir)))
    end
  end)
end)
