--- Sends the labelled texts through the Batch API, and takes the label off those that come back good.
--
-- The recipe: do what a reader has decided; finish the run that was begun before, if there is one; then look
-- at every labelled text, leave out what cannot be sent or was tried often enough, send the others through the
-- correction loop, and put what came back good in its place. Good is what the detectors let pass after cleaning
-- (lua/obatch/detectors.lua, cleaning.lua; --rules changes them). The text that was there stays as
-- IMAGE.txt.before until --purge.

local budget = require "obatch.budget"
local cleaning = require "obatch.cleaning"
local cli = require "obatch.cli"
local decisions = require "obatch.decisions"
local detectors = require "obatch.detectors"
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local jsonl = require "obatch.jsonl"
local mending = require "obatch.mending"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local prompt = require "obatch.prompt"
local request = require "obatch.request"
local sidecar = require "obatch.sidecar"
local submission = require "obatch.submission"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local texts = require "obatch.texts"
local units = require "obatch.units"

--- Bytes of a text that go into a request. The rest of a longer one is left to its image.
local MAX_SENT = 100000

--- Submissions of one run at most: those that the service owes (expired, transient) included.
local MAX_ITERATIONS = 10

local parser = cli.parser("deep_clean", "Sends the labelled texts (IMAGE.txt.api) through the Batch API. A good answer "
  .. "becomes IMAGE.txt, and what was there is kept as IMAGE.txt.before.")
parser:option("--image-dir", "Folder of the images, with all folders in it."):argname("DIR"):count(1)
parser:flag("--with-image", "Send the image with its text.")
parser:option("--prompt-file", "What the model is asked; {text} is the text (else it comes last), {note} what a "
  .. "reader said of it (else it comes first), {name}, {path} and {dir} are those of the image (default: "
  .. "scripts/deep_clean_prompt.txt)."):argname("FILE")
parser:option("--job-dir", "Folder of the runs: what was sent and received, and the attempts."):argname("DIR")
  :default("deep_clean")
parser:option("--max-attempts", "Answers that are not good before a text is left for a person."):argname("N")
  :default("3"):convert(cli.positive_integer)
parser:option("--decisions", "What a reader has decided about texts, as the page of obatch report exports it: an "
  .. "accepted text loses its label, a rejected one is sent with the reader's note."):argname("FILE")
parser:flag("--json", "The texts are to be JSON.")
parser:option("--rules", "A file that changes lua/obatch/cleaning.lua or detectors.lua."):argname("FILE")
parser:option("--policy", "Rules that differ from the default ones (see lua/obatch/policy.lua)."):argname("FILE")
parser:option("--model", "The model."):argname("NAME"):default("gpt-4o")
parser:option("--endpoint", "The endpoint of the requests."):default("/v1/chat/completions")
  :choices { "/v1/chat/completions", "/v1/responses" }
parser:option("--detail", "How closely the model looks."):default("high"):choices { "low", "high", "original", "auto" }
parser:option("--max-tokens", "Most tokens an answer may have (default: what the service allows).")
  :argname("N"):convert(cli.positive_integer)
parser:option("--poll-wait", "Seconds at most between two looks at the batches.")
  :argname("SECONDS"):default("60"):convert(cli.seconds)
parser:flag("--dry-run", "Say what would be sent; send nothing.")
parser:flag("--purge", "Remove the kept IMAGE.txt.before files, and do nothing else.")
budget.options(parser)
progress.options(parser)
submission.options(parser, true)
openai.options(parser)
parser:epilog [[
Each run of the command asks once for each text; an answer that is not good
counts as an attempt, and leaves the text labelled. The same command goes on
with a run that was stopped.

Example:
  obatch deep_clean --image-dir data --dry-run
  obatch deep_clean --image-dir data --with-image
  obatch deep_clean --image-dir data --with-image --decisions decisions.jsonl
  obatch deep_clean --image-dir data --purge

Exit codes: 0 no text is labelled any more; 1 stopped, run again to go on;
2 wrong usage or input; 3 finished, but some texts are still labelled
(listed); 130 interrupted.]]
local args = parser:parse { ... }

local image_dir = args.image_dir:gsub("(.)/+$", "%1")
local dir = fs.stat(image_dir)
if not dir or dir.type ~= "dir" then return cli.fail(2, "%s is not a folder", text.printable(image_dir)) end

if args.purge then
  local removed, faults = mending.purge(image_dir, function(sentence) io.stderr:write("obatch: ", sentence, "\n") end)
  print(("%s removed"):format(units.count(removed, "kept original")))
  return faults > 0 and 1 or 0
end

-- ---------------------------------------------------------------- nothing is spent before this is right

local ready, problem = detectors.load(args.rules)
if not ready then return cli.fail(2, "%s", problem) end
policy.attempts.invalid = 1 -- unless the policy file says more: attempts are counted over the runs
local rules, message = policy.load(args.policy)
if not rules then return cli.fail(2, "%s", message) end

local ceilings
ceilings, message = budget.from_options(args)
if not ceilings then return cli.fail(2, "%s", message) end
local is_priced, unpriced = ceilings:check_model(args.model)
if not is_priced then return cli.fail(2, "%s", unpriced) end

local prompt_file = args.prompt_file or cli.home .. "/scripts/deep_clean_prompt.txt"
local template, fault = fs.read(prompt_file)
if not template then return cli.fail(2, "%s", fault) end
if text.is_blank(template) then return cli.fail(2, "%s: the prompt is empty", prompt_file) end
if not template:find("{text}", 1, true) then template = template .. "\n\n{text}" end
if not template:find("{note}", 1, true) then template = "{note}" .. template end
local fill, complaint = prompt.compile(template, { "text", "note" })
if not fill then return cli.fail(2, "%s: %s", prompt_file, complaint) end

local decided, wrong
if args.decisions then decided, wrong = decisions.read(args.decisions) end
if wrong then
  for _, sentence in ipairs(wrong) do io.stderr:write(sentence, "\n") end
  return cli.fail(2, "--decisions: the file is not right, see above; none was followed, and nothing was sent")
end

-- ---------------------------------------------------------------- what a good answer is

local current -- the run whose answers are judged (see below)
local kept = decisions.beside() -- what was decided about texts of this folder, now or in earlier runs
local function decided_about(image, content) return (kept:about(image, content) or {}).decision end


--- The text of an answer as it would be written.
local function mend(answer) return (cleaning.clean(answer, args.json)) end

rules.expect = args.json and "json" or "text"
local users_accept = rules.accept
rules.accept = function(answer, item)
  if users_accept then
    local ok, reason = users_accept(answer, item)
    if not ok then return false, reason end
  end
  local cleaned, _, unsettled = cleaning.clean(item.text, args.json)
  if unsettled then return false, unsettled end
  if text.is_blank(cleaned) then return false, "there is no text in it" end
  -- Judged by what was usual for the folder when the text was sent, so that a restart judges alike.
  local sent = current.by_id[item.custom_id]
  if fs.sha256_text(cleaned) == sent.rejected or decided_about(sent.path, cleaned) == "reject" then
    return false, "it is the text that a reader has rejected"
  end
  if sent.shortest and #cleaned < sent.shortest then
    return false, ("%d bytes are too few for this text"):format(#cleaned)
  end
  local label, _, reasons = detectors.judge(cleaned, { json = args.json, texts = sent.texts, median = sent.median })
  return not label, table.concat(reasons, "; ")
end

-- ---------------------------------------------------------------- what there is

local line <close> = progress.new { quiet = args.quiet }
local function log(words) line:say(words) end

local measuring, measured = line:stage("measuring texts", { unit = "texts" }), 0
local survey, trouble, code = texts.survey(image_dir, args.json, function()
  measured = measured + 1
  measuring:update(measured)
  return term.interrupted()
end)
progress.hide()
if not survey then return cli.stopped(trouble, code) end
for _, sentence in ipairs(survey.faults) do io.stderr:write("obatch: ", sentence, "\n") end
local function count_labelled()
  local count = 0
  for _, item in ipairs(survey.items) do count = count + (item.kind == "api" and 1 or 0) end
  return count
end
if count_labelled() == 0 and not decided and not fs.stat(args.job_dir) then
  print("0 texts are labelled")
  return #survey.faults > 0 and 1 or 0
end

--- A dry run makes no folder.
local function open_job()
  if not args.dry_run or fs.stat(args.job_dir) then return mending.open(args.job_dir) end
end
local job <close>, why_not, kind = open_job()
if why_not then return cli.stopped(why_not, kind) end

-- ---------------------------------------------------------------- what a reader has decided

local function say(words)
  if args.dry_run then line:print(words) else log(words) end
end
if decided then
  local counts, why, errno = mending.decide(survey, decided, kept, image_dir, function(image, sha256)
    return job and job:attempts(image, sha256) or 0
  end, say)
  local ok = counts
  if ok and not args.dry_run then ok, why, errno = kept:save() end
  if not ok then return cli.stopped(why, errno) end
  say(("decisions: %d accepted, %d rejected, %d not followed"):format(counts.accept, counts.reject, counts.left_out))
end
do
  local ok, why, errno = mending.follow(survey, kept, image_dir, function(item)
    local name = text.printable(item.image)
    if item.kind == "text" then
      say(("%s%s.txt: accepted by a reader, no label"):format(args.dry_run and "would be " or "", name))
    else
      say(("%s%s.txt.api: rejected by a reader, labelled"):format(args.dry_run and "would be " or "", name))
    end
  end, say, args.dry_run)
  if not ok then return cli.stopped(why, errno) end
end
local labelled = count_labelled()

local unfinished
if job then unfinished, trouble, code = job:unfinished() end
if trouble then return cli.stopped(trouble, code) end

local function open_api()
  if args.dry_run or labelled == 0 and not unfinished then return nil end
  return openai.from_options(args, rules, log)
end
local api <close>, keyless = open_api()
if keyless then return cli.fail(2, "%s", keyless) end

-- ---------------------------------------------------------------- what is sent

local still = {} -- what stays labelled, and why: sentences
local function stays(image, reason)
  still[#still + 1] = ("%s: %s"):format(text.printable(sidecar.label_path(image)), text.printable(reason))
end

local tried = {} -- real paths of the images that this command has asked about: once is enough

--- A text as JSON can carry it: bytes that are not UTF-8 are taken for Latin-1.
local function as_utf8(content)
  local out, position = {}, 1
  while position <= #content do
    local valid, bad = utf8.len(content, position)
    out[#out + 1] = content:sub(position, valid and #content or bad - 1)
    if valid then break end
    out[#out + 1] = utf8.char(content:byte(bad))
    position = bad + 1
  end
  return table.concat(out)
end

--- Why the labelled text of an image is not sent; nil when it is. One that a reader has rejected is asked about once
--- more, also when its attempts are used up.
local function reason_not_to_send(image, content, sha256, rejection)
  if not args.with_image and text.is_blank(content) then return "it is blank: send it --with-image" end
  if not args.with_image and #content > MAX_SENT then
    return ("%d bytes are too long to be sent: send it --with-image"):format(#content)
  end
  if not job then return nil end
  local count, reason = job:attempts(image, sha256)
  if count >= args.max_attempts and not (rejection and count <= (rejection.attempts or 0)) then
    return ("left for a person after %d attempts; the last one: %s"):format(count, reason)
  end
end

--- Goes through the labelled texts that may be sent. put(image, text, sha256, custom_id, rejection) returns true;
--- nil and what is wrong with that one; or nil, message, CODE. true | nil, message, CODE.
local function each_to_send(put)
  local taken, folders = {}, {}
  local stage = line:stage("looking at labelled texts", { total = #survey.items, unit = "texts" })
  for i, item in ipairs(survey.items) do
    stage:update(i - 1)
    if term.interrupted() then return nil, "interrupted", "INTERRUPTED" end
    if item.kind == "api" and not tried[image_record.real_path(item.image)] then
      local custom_id = image_record.custom_id(item.image, taken)
      local content, reason, errno
      if item.path == sidecar.text_path(item.image) then -- a dry run has not labelled it
        content, reason, errno = texts.read(item.path)
      else
        content, reason, errno = mending.read(item.image, image_dir, folders)
      end
      if content then
        local sha256, said = fs.sha256_text(content), kept:about(item.image, content)
        local rejection = said and said.decision == "reject" and said or nil
        reason = reason_not_to_send(item.image, content, sha256, rejection)
        if not reason then
          local ok
          ok, reason, errno = put(item.image, as_utf8(text.cut(content, MAX_SENT)), sha256, custom_id, rejection)
          if not ok and errno then return nil, reason, errno end
        end
      elseif errno == "ENOENT" then
        reason = nil -- it is no labelled text any more
      end
      if reason then stays(item.image, reason) end
    end
  end
  return true
end

--- A model that has only the text can mend it, and not much more: an answer that is far shorter says
--- something about the text, or leaves most of it out. (What repeats itself gets shorter indeed.) Bytes, or
--- nil for any length.
local function shortest_answer(content)
  if args.with_image then return nil end
  local _, _, reasons = detectors.judge(content, { json = args.json, texts = 0 })
  for _, reason in ipairs(reasons) do
    if reason:find("^repetition") then return nil end
  end
  return #content // 5
end

--- What the model is told of a reader's decision.
local function note_of(rejection)
  if not rejection then return "" end
  local sentence = "A reader has compared the text below with the page and rejected it"
  return rejection.note == "" and sentence .. ".\n\n" or ("%s: %s\n\n"):format(sentence, rejection.note)
end

--- Puts the requests into a writer; returns their items.
local function compose(writer)
  local items = {}
  local ok, reason, errno = each_to_send(function(image, content, sha256, custom_id, rejection)
    local picture, bad
    if args.with_image then
      picture, bad = jsonl.image(image)
      if not picture then return nil, bad end
    end
    local put, why, what = writer:put(request.compose { custom_id = custom_id, endpoint = args.endpoint,
      model = args.model, prompt = fill(image, { text = content, note = note_of(rejection) }), image = picture,
      detail = args.detail, max_tokens = args.max_tokens })
    if not put and why:sub(1, #image) == image then return nil, why end -- the image, not the disk we write to
    if not put then return nil, why, what end
    local context = survey:context(image)
    items[#items + 1] = { custom_id = custom_id, path = image, image_dir = image_dir, sha256 = sha256,
      texts = context.texts, median = context.median, shortest = shortest_answer(content),
      rejected = rejection and fs.sha256_text((cleaning.clean(content, args.json))) or nil }
    return true
  end)
  if not ok then return nil, reason, errno end
  return items
end

if args.dry_run then
  local count, bytes = 0, 0
  for _, item in ipairs(unfinished and unfinished.items or {}) do tried[image_record.real_path(item.path)] = true end
  local ok, reason, errno = each_to_send(function(image, content)
    if args.with_image then
      local picture, bad = jsonl.image(image)
      if not picture then return nil, bad end
      bytes = bytes + fs.stat(image).size
    end
    count, bytes = count + 1, bytes + #content
    return true
  end)
  line:close()
  if not ok then return cli.stopped(reason, errno) end
  for _, sentence in ipairs(still) do print("not sent: " .. sentence) end
  if unfinished then print(("%s was stopped, and would go on: %d texts"):format(unfinished.dir, #unfinished.items)) end
  print(("%d of %d labelled texts would be sent to %s%s: %d bytes"):format(count, labelled, args.model,
    args.with_image and " with their images" or "", bytes))
  print("dry run: nothing was sent")
  return 0
end

-- ---------------------------------------------------------------- the runs

local mended = 0

--- Whether the label of a text that was sent was taken off since.
local function is_accepted(item)
  local content = not fs.lstat(sidecar.label_path(item.path)) and texts.read(sidecar.text_path(item.path))
  return content and fs.sha256_text(content) == item.sha256 and decided_about(item.path, content) == "accept"
end

--- Brings a run to its end. true | nil, message, CODE.
local function finish(run)
  current = run
  for _, item in ipairs(run.items) do tried[image_record.real_path(item.path)] = true end
  local result, reason, errno = run:run { rules = rules, api = api, log = log,
    poll_wait = args.poll_wait, max_iterations = MAX_ITERATIONS, budget = ceilings,
    delete_remote = args.delete_remote_files, output_expires_after = args.output_expires_after }
  progress.hide()
  if not result then return nil, reason, errno end
  local ends, ok
  ends, reason, errno = mending.store(run, mend)
  if not ends then return nil, reason, errno end
  if result.stop_reason and result.left > 0 and not result.is_over then return nil, result.stop_reason end
  ok, reason, errno = job:complete(run, ends)
  if not ok then return nil, reason, errno end
  for _, one in ipairs(ends) do
    if one.good then
      mended = mended + 1
    elseif one.counted then
      local count = job:attempts(one.item.path, one.item.sha256)
      stays(one.item.path, ("attempt %d of %d%s: %s"):format(count, args.max_attempts,
        count >= args.max_attempts and ", left for a person" or "", one.reason))
    elseif is_accepted(one.item) then
      log(("%s.txt: a reader has accepted it meanwhile; the answer is only in %s"):format(
        text.printable(one.item.path), run.dir))
    else
      stays(one.item.path, one.reason)
    end
  end
  return true
end

if unfinished then
  log(("going on with %s: %d texts"):format(unfinished.dir, #unfinished.items))
  local ok, reason, errno = finish(unfinished)
  if not ok then return cli.stopped(reason, errno) end
end
local run, reason, errno = job:begin(compose)
if not run and reason then return cli.stopped(reason, errno) end
if run then
  log(("%s: %d texts"):format(run.dir, #run.items))
  local ok
  ok, reason, errno = finish(run)
  if not ok then return cli.stopped(reason, errno) end
end
line:close()

for _, sentence in ipairs(still) do print("still labelled: " .. sentence) end
print(("%s mended, %s still labelled"):format(units.count(mended, "text"), units.number(#still)))
if #still > 0 then
  local words = args.job_dir ~= "deep_clean" and { "--job-dir", args.job_dir } or {}
  suggestion.tell({ suggestion.command("report", args.image_dir, table.unpack(words)) }, args.quiet)
elseif mended > 0 then
  suggestion.tell({ suggestion.command("deep_clean", "--image-dir", args.image_dir, "--purge") }, args.quiet)
end
return #survey.faults > 0 and 1 or #still > 0 and 3 or 0
