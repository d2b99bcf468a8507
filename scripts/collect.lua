--- Collects all results of a folder: the raw lines, and one JSON object by custom_id.
--
-- The recipe: see what the folder is, copy every result line as it was received into one file, then write one object
-- {custom_id: answer} of the answers that count. Works on a job (also one under way), on the folder of batches of an
-- image project, and on any folder of downloaded results (.jsonl), whoever downloaded them.

local cli = require "obatch.cli"
local folders = require "obatch.history.folders"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local history = require "obatch.history"
local job_files = require "obatch.history.files"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local lines = require "obatch.history.lines"
local outcome = require "obatch.outcome"
local part_events = require "obatch.part"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local results = require "obatch.results"
local suggestion = require "obatch.suggestion"
local tell = require "obatch.history.tell"
local text = require "obatch.text"
local units = require "obatch.units"

--- The files that are made.
local RAW, OBJECT, SUMMARY = "collected_results.jsonl", "collected_results.json", "collected.json"

local parser = cli.parser("collect", "Collects the results of a folder: all result lines as they were received ("
  .. RAW .. "), and one JSON object, custom_id -> answer (" .. OBJECT .. ").")
fsck.options(parser, {
  dir = "The folder of a job (correction_loop), of batches (upload and download), of deep_clean, or any folder of "
    .. "downloaded result files (.jsonl).",
  original = "The requests: their order is that of the answers, and what has none is told.",
  policy = "The rules by which answers are judged that no run has judged.",
})
parser:option("--to", "Where they are written (default: DIR/collected)."):argname("DIR")
parser:flag("--force", "Write over files that collect has not made.")
parser:flag("--json", "Print JSON for other programs.")
progress.options(parser)
parser:epilog [[
In the object, an answer that is a JSON object or a list, bare or in a Markdown
fence, is parsed; any other answer is a string; a request without a good answer
has {"error": {"class": ..., "reason": ...}}, with the text that came, if any.
What is not answered yet is left out. Of several answers to one request the
first good one counts. Answers of a job are judged as its last run has judged
them.

Example:
  obatch collect Cleaned_results
  obatch collect batch_return --to collected

Exit codes: 0 every request has a good answer; 1 failed; 2 wrong usage;
3 done, but some requests have no good answer, or a damaged line may hold one;
130 interrupted.]]
local args = parser:parse { ... }

local rules, fault = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", fault) end

local kind, why_not, complaint = fsck.identify(args.dir)
if complaint == "NO_FOLDER" then return cli.fail(2, "%s", why_not) end
kind = kind or "files"
local target = args.to or args.dir .. "/collected"

-- ---------------------------------------------------------------- nothing is written over

--- What the last collect said of its files in a folder: { sha256 = { NAME = digest } }, or { unfinished = true } where
--- it was stopped between them. nil: it is not from collect.
local function read_summary(folder)
  local before = json.decode(fs.read(("%s/%s"):format(folder, SUMMARY)) or "")
  if type(before) ~= "table" then return nil end
  return (type(before.sha256) == "table" or before.unfinished == true) and before or nil
end

local before = read_summary(target)
for _, name in ipairs { RAW, OBJECT, SUMMARY } do
  local path = ("%s/%s"):format(target, name)
  local is_ours = before and (name == SUMMARY or before.unfinished or before.sha256[name] == fs.sha256(path))
  if fs.lstat(path) and not args.force and not is_ours then
    return cli.fail(2, "%s is there already, and it is not as collect has made it: move it away, name another "
      .. "--to, or say --force", path)
  end
end

local line <close> = progress.new { quiet = args.quiet or args.json }
local counts = { lines = 0, parsed = 0, texts = 0, errors = 0, not_used = 0, damaged = 0, unknown = 0, unanswered = 0 }
local digests = {}
local note, finish_notes = progress.notes(function(words) line:say(words) end)

--- Whether what failed was writing to the target: another one may do, then.
local is_of_target = false

---@return nil, string message, string code
local function not_written(message, code)
  is_of_target = true
  return nil, message, code
end

-- ---------------------------------------------------------------- the raw lines

--- Copies files one after the other. Returns the path of the new one; nil, message, CODE.
local function write_raw(paths)
  local path = ("%s/%s"):format(target, RAW)
  local ok, message, code = fs.mkdir(target)
  if not ok then return not_written(message, code) end
  local out <close>, problem, reason = fs.create(path, { sha256 = true })
  if not out then return not_written(problem, reason) end
  -- From here on the files need not belong together: whoever stops now may begin again.
  ok, message, code = fs.write(("%s/%s"):format(target, SUMMARY), json.encode { unfinished = true } .. "\n")
  if not ok then return not_written(message, code) end
  for _, from in ipairs(paths) do
    local bytes, whole, errno = out:copy(from)
    if not bytes and whole:find(path, 1, true) then return not_written(whole, errno) end
    if not bytes then return nil, whole, errno end
    if bytes > 0 and not whole then
      ok, message, code = out:write("\n")
      if not ok then return not_written(message, code) end
    end
  end
  local facts
  facts, message, code = out:commit()
  if not facts then return not_written(message, code) end
  digests[RAW] = facts.sha256
  return path
end

--- Whether a file holds result lines: what a batch gave back, not what was sent. nil, message, CODE when it cannot be
--- read.
local function holds_results(path)
  local begins, message, code = fs.read(path, 1)
  if not begins then return nil, message, code end
  for record in jsonl.scan(path, { id = "/custom_id", response = "/response/status_code", failure = "/error",
    method = "/method" }) do
    if not record.error then
      return type(record.id) == "string" and not record.method and (record.response or record.failure) ~= nil
    end
  end
  return false
end

-- ---------------------------------------------------------------- the object

--- Writes the object; each(put) calls put(custom_id, JSON text). true | nil, message, CODE.
local function write_object(each)
  local out <close>, message, code = fs.create(("%s/%s"):format(target, OBJECT), { sha256 = true })
  if not out then return not_written(message, code) end
  local separator, ok = "{\n", true
  each(function(custom_id, value)
    if ok then ok, message, code = out:write(separator, json.encode(text.to_utf8(custom_id)), ": ", value) end
    separator = ",\n"
    return ok
  end)
  if ok then ok, message, code = out:write(separator == "{\n" and "{}\n" or "\n}\n") end
  local facts
  if ok then facts, message, code = out:commit() end
  if not facts then return not_written(message, code) end
  digests[OBJECT] = facts.sha256
  return true
end

--- A good answer as JSON text: what it says where that is an object or a list, else a string.
local function good_value(answer)
  local found = text.find_json(answer, rules.repair)
  if found and found:find("^[%[{]") then
    counts.parsed = counts.parsed + 1
    return found
  end
  counts.texts = counts.texts + 1
  return json.encode(text.to_utf8(answer))
end

local function bad_value(class, reason, answer)
  counts.errors = counts.errors + 1
  return json.encode { error = { class = class, reason = reason and text.to_utf8(reason),
    text = answer and text.to_utf8(answer) } }
end

-- ---------------------------------------------------------------- a job

--- Whether a file holds the requests that a batch was refused for: no lines that were received.
local function is_rejected(path) return path:find("/rejected_iteration_[^/]*$") ~= nil end

--- A job: what its runs have judged. Returns true; nil, message, CODE.
local function collect_job()
  local job <close>, message, code = history.open(args.dir, { rules = args.policy and rules,
    original = args.original_requests })
  if not job then return nil, message, code end
  for _, words in ipairs(job.notes) do line:say(words) end
  local paths, received = {}, 0
  for n in ipairs(job.iterations) do
    for _, file in ipairs(job_files.results(job, n)) do
      if not is_rejected(file.path) then paths[#paths + 1] = file.path end
    end
  end
  local raw
  raw, message, code = write_raw(paths)
  if not raw then return nil, message, code end
  for record in assert(jsonl.scan(raw, { id = "/custom_id" })) do
    if record.error and not record.blank then
      note("damaged lines", "%s; the line is left out", text.printable(record.error))
      counts.damaged = counts.damaged + 1
    end
    counts.lines = counts.lines + (record.blank and 0 or 1)
    if type(record.id) == "string" and job.ids:find(record.id) then
      received = received + 1
    elseif not record.error then
      counts.unknown = counts.unknown + 1
    end
  end
  local answered = 0
  local ok
  ok, message, code = write_object(function(put)
    local stage, done = progress.stage("collecting", { total = job.totals.requests, unit = "requests" }), 0
    for item in job:items() do
      done = done + 1
      stage:update(done)
      local result, path
      if item.class then result, path = job:answer_line(item.custom_id) end
      local answer = result and outcome.text(result)
      answered = answered + (result and not is_rejected(path) and 1 or 0)
      if item.class == "valid" and answer then
        if not put(item.custom_id, good_value(answer)) then return end
      elseif item.class then
        if not put(item.custom_id, bad_value(item.class, item.reason, answer)) then return end
      else
        counts.unanswered = counts.unanswered + 1
      end
    end
  end)
  if not ok then return nil, message, code end
  counts.requests, counts.not_used = job.totals.requests, received - answered
  return true
end

-- ---------------------------------------------------------------- result files

--- Files of results that nobody has judged. true | nil, message, CODE.
local function collect_files(paths)
  rules = args.policy and rules or setmetatable({ expect = "text", allow_blank = true }, { __index = rules })
  local raw, message, code = write_raw(paths)
  if not raw then return nil, message, code end
  local index <close>, problem, reason = jsonl.index(args.original_requests or raw, "/custom_id")
  if not index then return nil, problem, reason end
  local classes, places, reasons, files = {}, {}, {}, lines.new()
  local file = files:add(raw)
  for record in progress.over(assert(outcome.scan(raw, rules)), "judging", raw) do
    local id = record.custom_id
    local ordinal = not record.error and type(id) == "string" and index:find(id)
    counts.lines = counts.lines + (record.blank and 0 or 1)
    if record.error and not record.blank then
      note("damaged lines", "%s; the line is left out", text.printable(record.error))
      counts.damaged = counts.damaged + 1
    elseif not record.error and not ordinal then
      counts.unknown = counts.unknown + 1
    elseif ordinal then
      local result = outcome.judge(record, rules)
      if classes[ordinal] then counts.not_used = counts.not_used + 1 end
      if not classes[ordinal] or classes[ordinal] ~= "valid" and result.class == "valid" then
        classes[ordinal], reasons[ordinal] = result.class, result.reason
        places[ordinal] = results.place(file, record.offset)
      end
    end
  end
  local ok
  ok, message, code = write_object(function(put)
    for ordinal = 1, index.count do
      local class = classes[ordinal]
      local result = class and files:text(places[ordinal])
      local answer = result and outcome.text(result)
      local value
      if class == "valid" and answer then value = good_value(answer)
      elseif class then value = bad_value(class, reasons[ordinal], answer)
      elseif args.original_requests then counts.unanswered = counts.unanswered + 1 end
      counts.requests = (counts.requests or 0) + ((class or args.original_requests) and 1 or 0)
      if value and not put(index:id(ordinal), value) then break end
    end
  end)
  files:close()
  if not ok then return nil, message, code end
  return true
end

--- The result files of a folder that nobody has a journal of: those in it that hold result lines. nil, message, CODE
--- when it or one of its files cannot be read: that may hold answers.
local function files_of(dir)
  local paths, left_out, is_collected = {}, {}, read_summary(dir) ~= nil
  local names, message, code = fs.list(dir)
  if not names then return nil, message, code end
  for _, name in ipairs(names) do
    local path = ("%s/%s"):format(dir, name)
    if name == RAW and is_collected then
      note("files left out", "%s is from obatch collect: left out", text.printable(path))
    elseif name:find("%.jsonl$") then
      local stat, holds
      stat, message, code = fs.stat(path)
      if stat and stat.type == "file" then
        holds, message, code = holds_results(path)
        table.insert(holds and paths or left_out, path)
      end
      if code and code ~= "ENOENT" then return nil, message, code end
    end
  end
  table.sort(paths)
  for _, path in ipairs(left_out) do note("files left out", "%s holds no results: left out", text.printable(path)) end
  return paths
end

--- The result files of the errands of a folder, added to `paths`.
local function add_errands(errands, paths)
  for _, errand in ipairs(errands) do
    local job <close> = folders.job(errand)
    for n in ipairs(job and job.iterations or {}) do
      for _, file in ipairs(job_files.results(job, n)) do paths[#paths + 1] = file.path end
    end
  end
  return paths
end

--- The result files of the runs of deep_clean.
local function files_of_mending()
  return add_errands(folders.errands(args.dir, "run"), {})
end

--- The result files of an image project: of its batches, oldest first, then of what was sent again.
local function files_of_images()
  local project, message, code = folders.images(args.dir, args.output_dir)
  if not project then return nil, message, code end
  local paths = {}
  for _, batch in ipairs(project.batches) do
    for _, ending in ipairs { "", "_errors", "_rejected" } do
      local path = ("%s/%s%s.jsonl"):format(project.output_dir, part_events.file_name(batch.id), ending)
      if fs.stat(path) then paths[#paths + 1] = path end
    end
  end
  return add_errands(project.errands, paths)
end

-- ---------------------------------------------------------------- the end

local function run()
  if kind == "job" then return collect_job() end
  local paths, message, code
  if kind == "images" then
    paths, message, code = files_of_images()
  elseif kind == "errands" then
    paths = files_of_mending()
  else
    paths, message, code = files_of(args.dir)
  end
  if not paths then return nil, message, code end
  if #paths == 0 then
    return nil, ("%s holds no results%s"):format(args.dir, kind == "images" and ": obatch download fetches them"
      or ": no file NAME.jsonl with result lines"), "USAGE"
  end
  return collect_files(paths)
end

local ok, message, code = run()
finish_notes()
line:close()
if not ok then
  if code == "USAGE" then return cli.fail(2, "%s", message) end
  if code == "EINTR" or code == "INTERRUPTED" then return cli.fail(130, "interrupted") end
  if is_of_target and (code == "EACCES" or code == "EROFS" or code == "EPERM") then
    return cli.fail(1, "%s\nobatch: name another place with --to DIR", message)
  end
  return cli.fail(1, "%s", message)
end
local summary = { dir = args.dir, to = target, files = json.array { RAW, OBJECT }, sha256 = digests,
  requests = counts.requests or 0, lines = counts.lines, parsed = counts.parsed, texts = counts.texts,
  errors = counts.errors, not_used = counts.not_used, unanswered = counts.unanswered, damaged = counts.damaged,
  unknown = counts.unknown }
local words = json.encode(tell.encodable(summary))
ok, message = fs.write(("%s/%s"):format(target, SUMMARY), words .. "\n")
if not ok then return cli.fail(1, "%s", message) end

if args.json then
  print(words)
else
  local count = units.count
  local shown = text.shown(target)
  print(("%s/%-24s %s, as received"):format(shown, RAW, count(summary.lines, "result line")))
  print(("%s/%-24s %s: %d parsed, %d as text, %s"):format(shown, OBJECT, count(summary.requests, "request"),
    summary.parsed, summary.texts, count(summary.errors, "error")))
  if summary.not_used > 0 then
    print(("%s not used: another answer to the same request counts"):format(count(summary.not_used, "line is",
      "lines are")))
  end
  if summary.unknown > 0 then
    print(("%s for a custom_id that is none of the requests"):format(count(summary.unknown, "line is", "lines are")))
  end
  if summary.unanswered > 0 then
    print(("%s not in it"):format(count(summary.unanswered, "request has no answer yet, and is",
      "requests have no answer yet, and are")))
  end
  if summary.errors > 0 and kind == "job" then
    suggestion.tell({ suggestion.command("status", args.dir) }, args.quiet)
  end
end
local may_lack = summary.damaged > 0 and kind ~= "job" and not args.original_requests
return (summary.errors > 0 or summary.unanswered > 0 or may_lack) and 3 or 0
