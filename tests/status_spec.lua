-- obatch status and obatch why: beside a run, on folders of every kind, and on what a model or a file name may hold.
local fs = require "obatch.fs"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

local quote = support.quote

--- Runs a command on a folder below `base`, which it must not touch. Exit code, stdout, stderr.
local function look(base, ...)
  local state = ("cd %s && find %s -printf '%%p %%T@ %%s %%i %%m\\n' 2>&1 | sort"):format(
    quote(base), quote((select(2, ...))))
  local _, before = support.shell(state)
  local words = {}
  for i, word in ipairs { ... } do words[i] = quote(word) end
  local code, out, err = support.shell(("cd %s && %s %s"):format(quote(base), quote(support.binary),
    table.concat(words, " ")))
  assert(not (out .. err):find("stack traceback", 1, true) and not err:find("Sanitizer", 1, true), out .. err)
  assert(not (out .. err):find("[\0-\8\11-\31\127]"), "a control character is shown: " .. out .. err)
  assert.equal(before, select(2, support.shell(state)), "something was written")
  return code, out, err
end

local function says(printed, words)
  assert(printed:find(words, 1, true), ("not said: %s\n%s"):format(words, printed))
end

describe("obatch status and obatch why", function()
  it("tell of a finished job, of one under way with who works on it, and of nothing hostile", function()
    local evil = "r-\27[31m\u{202e}\n2"
    local requests = { loop.line("r-1"), loop.line(evil, nil, { messages = json.array { { role = "user",
      content = json.array { { type = "image_url", image_url = { url = "data:image/png;base64,"
        .. ("A"):rep(4000) } } } } } }), loop.line("r-3") }
    local job <close> = loop.job { requests = requests, policy = "policy.attempts.invalid = 2", model = [[
      if request.custom_id:find("\n") then return "bad \27]0;title\7 answer" end
      return "{}"]] }
    do
      local box <close> = job:sandbox { "--batch-seconds", "600" }
      local started = ("cd %s && { %s >out 2>err & echo $! >pid; }; until grep -q '\"created\"' base/journal.jsonl "
        .. "2>/dev/null; do sleep 0.05; done"):format(quote(job.path), job:command(box.url))
      support.shell(started)
      local code, out = look(job.path, "status", "base")
      assert.equal(0, code)
      says(out, "a run is working on it: ")
      says(out, "3 requests: 0 have a good answer, 0 given up, 0 left, 3 in flight")
      says(out, "of its 24 h")
      assert(out:find("2[34] h %d%d min left"), out)
      says(out, "next: obatch status base")
      code, out = look(job.path, "why", "base", "r-1")
      assert.equal(0, code)
      says(out, "r-1 in base, request 1 of 3, is in flight (0 answers)")
      support.shell(("kill $(cat %s/pid); while kill -0 $(cat %s/pid) 2>/dev/null; do sleep 0.05; done"):format(
        quote(job.path), quote(job.path)))
      code, out = look(job.path, "status", "base")
      assert.equal(0, code)
      says(out, "no run is working on it")
      says(out, ("next: obatch correction_loop --base-dir base --original-requests %s"):format(job.requests))
    end
    support.shell("rm -rf " .. quote(job.base))
    local box <close> = job:sandbox()
    job:run(box)

    local code, out = look(job.path, "status", "base")
    assert.equal(0, code)
    says(out, "\ninvalid    1  1\n")
    says(out, "3 requests: 2 have a good answer, 1 given up, 0 left, 0 in flight")
    says(out, "1  not JSON: expected a value at byte 1 (r-%1B[31m")
    says(out, "base/final_results.jsonl")
    says(out, "next: obatch why base ")
    local document
    code, out = look(job.path, "status", "base", "--json")
    document = assert(json.decode(out))
    assert.same({ 0, "job", 2, 1 }, { code, document.kind, document.totals.valid, document.given_up[1].requests })
    assert.equal(evil, document.given_up[1].example)
    assert.equal(2, #document.iterations)

    code, out = look(job.path, "why", "base", evil)
    assert.equal(0, code)
    says(out, "was given up (2 answers)")
    says(out, "[image/png, 3.00 kB]")
    says(out, "bad %1B]0;title%07 answer")
    says(out, "^ byte 1\n")
    says(out, "iteration_1/batch_requests_iteration_1.jsonl:2")
    code, out = look(job.path, "why", "base", evil, "--json")
    document = assert(json.decode(out))
    assert.same({ 0, 2 }, { code, #document.attempts })
    assert.equal(requests[2], document.attempts[1].request)
    assert.equal("bad \27]0;title\7 answer", document.attempts[1].text)

    local _, err
    code, _, err = look(job.path, "why", "base", "r-2")
    assert.equal(2, code)
    says(err, "near it: r-1")
  end)

  it("say with 2 what is no such folder, and what an option is that there is not", function()
    local dir <close> = support.tmpdir()
    assert(fs.mkdir(dir.path .. "/empty"))
    for _, command in ipairs { { "status" }, { "why", "x" } } do
      local words = command[2]
      local code, _, err = look(dir.path, command[1], "nowhere", words)
      assert.equal(2, code)
      says(err, "nowhere: there is no such folder")
      code, _, err = look(dir.path, command[1], "empty", words)
      assert.equal(2, code)
      says(err, "empty is not a job or a batch folder")
    end
    assert.equal(2, (look(dir.path, "status", "empty", "--jsno")))
  end)

  it("tell of images: of batches, of what came back, of what was sent again, and of deep_clean", function()
    local dir <close> = support.tmpdir()
    for _, name in ipairs { "one", "two", "three" } do
      assert(fs.mkdir(dir.path .. "/scans"))
      support.shell(("cp %s/tests/fixtures/pages/letters/*.png %s/scans/%s.png"):format(quote(support.home),
        quote(dir.path), name))
    end
    support.write(dir.path .. "/prompt.txt", "Read \27[31m it.")
    loop.write_model(dir.path .. "/model.lua", [[
      if request.custom_id:find("two") and asked < 3 then return { refusal = "no" } end
      if request.custom_id:find("three") then return { status = 400 } end
      return "the text of " .. request.custom_id]])
    local box <close> = support.sandbox { "--model", dir.path .. "/model.lua", "--batch-seconds", "0.1" }
    local function run(words)
      local code, out, err = support.shell(("cd %s && OPENAI_API_KEY=sk-x OPENAI_BASE_URL=%s timeout 60 %s %s"):format(
        quote(dir.path), box.url, quote(support.binary), words))
      return code, out .. err
    end
    run("upload --image-dir scans --prompt-file prompt.txt")
    local code, out = look(dir.path, "status", "batch")
    assert.equal(0, code)
    says(out, "images: 0 have a text, 0 a labelled one, 0 unresolved, 3 under way")
    says(out, "next: obatch download\n")
    code, out = run("download --poll-wait 0.1")
    assert.equal(3, code, out)
    code, out = look(dir.path, "status", "batch")
    assert.equal(0, code)
    says(out, "images: 1 have a text, 0 a labelled one, 2 unresolved, 0 under way")
    says(out, "without a text:")
    code, out = look(dir.path, "why", "batch", "scans/two.png")
    assert.equal(0, code)
    says(out, "scans/two.png (custom_id scans|two.png) has no text")
    says(out, "Read %1B[31m it.")
    says(out, "refused: the model refused: no")
    says(out, "unresolved: refused")
    run("download --resubmit --poll-wait 0.1")
    code, out = look(dir.path, "status", "batch")
    assert.equal(0, code)
    says(out, "resubmit_001")
    code, out = look(dir.path, "why", "batch", "scans|two.png", "--json")
    local document = assert(json.decode(out))
    assert.equal(0, code)
    assert.same({ "scans/two.png", "refused" }, { document.path, document.sent[1].lines[1].class })
    code, out = look(dir.path, "why", "batch", "scans/one.png")
    assert.equal(0, code)
    says(out, "has a text\nscans/one.png.txt")
    says(out, "(the text that is beside the image)")
    local _, err
    code, _, err = look(dir.path, "why", "batch", "tow.png")
    assert.equal(2, code)
    says(err, "near it: ")

    support.write(dir.path .. "/scans/one.png.txt.api", "the text of tne text of")
    fs.remove(dir.path .. "/scans/one.png.txt")
    run("deep_clean --image-dir scans --poll-wait 0.1")
    code, out = look(dir.path, "status", "deep_clean")
    assert.equal(0, code)
    says(out, "1 run of deep_clean about 1 labelled text")
    says(out, "run_001  completed")
    code, out = look(dir.path, "why", "deep_clean", "scans/one.png")
    assert.equal(0, code)
    says(out, "1. run_001")
    code, out = look(dir.path, "why", "batch", "scans/one.png")
    assert.equal(0, code)
    says(out, "deep_clean run_001")

    -- All results of the project, the good answer of each image first.
    code, out = run("collect batch --to all")
    assert.equal(3, code, out)
    local all = assert(json.decode(support.read(dir.path .. "/all/collected_results.json")))
    assert.equal("the text of scans|one.png", all["scans|one.png"])
    assert.equal("permanent", all["scans|three.png"].error.class)
    code, out = run("collect deep_clean --to mended --json")
    assert.same({ 0, 1 }, { code, assert(json.decode(out)).requests })
    assert(fs.rename(dir.path .. "/batch_return", dir.path .. "/kept")) -- as download --output-dir has it
    code, out = run("collect batch --to again --output-dir kept")
    assert.equal(3, code, out)
    assert.equal(support.read(dir.path .. "/all/collected_results.json"),
      support.read(dir.path .. "/again/collected_results.json"))
  end)
end)
