--- Sends a folder of page images in batches; `obatch download` brings their texts.
--
-- The recipe: open the batch folder and finish what the last run began; walk the images; leave out
-- what has a text, is on its way, was given up or is no whole image; write the others as requests, cut
-- into batches; and submit each batch as soon as it is full. Nothing is sent twice, whatever stops this.

local budget = require "obatch.budget"
local cli = require "obatch.cli"
local composer = require "obatch.composer"
local csv = require "obatch.csv"
local fs = require "obatch.fs"
local image_record = require "obatch.image_record"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local prompt = require "obatch.prompt"
local records = require "obatch.records"
local request = require "obatch.request"
local resubmit = require "obatch.resubmit"
local sidecar = require "obatch.sidecar"
local submission = require "obatch.submission"
local suggestion = require "obatch.suggestion"
local term = require "obatch.term"
local text = require "obatch.text"
local tokens = require "obatch.tokens"
local units = require "obatch.units"

--- Endings of what the API takes: PNG, JPEG, WebP, GIF.
local SENDABLE = { ".jpg", ".jpeg", ".png", ".webp", ".gif" }

--- How many rows of --fields without an image are named.
local NAMES = 5

local parser = cli.parser("upload", "Sends the images of a folder through the Batch API, with a prompt.")
parser:option("--image-dir", "Folder of the images; folders in it are walked, too."):argname("DIR"):count(1)
parser:option("--prompt-file", "What the model is asked about each image. {name}, {path}, {dir} and the "
  .. "columns of --fields are filled in; other braces stay."):argname("FILE"):count(1)
parser:option("--batch-dir", "Folder of the records, one for each batch."):argname("DIR"):default("batch")
parser:option("--description", "A few words that the batches carry as metadata."):argname("TEXT")
parser:option("--valid-image-types", "Endings of image files."):argname("EXT"):args("+")
  :default(table.concat(SENDABLE, " "))
parser:option("--max-images-per-batch", "Images per batch."):argname("N"):default("400"):convert(cli.positive_integer)
parser:option("--max-bytes", "Bytes per batch."):argname("N")
  :default(tostring(request.MAX_BYTES)):convert(cli.positive_integer)
parser:option("--jsonl-file-base", "How the request files are called until their batch exists."):argname("NAME")
  :default("batch_requests")
parser:option("--model", "The model."):argname("NAME"):default("gpt-4o")
parser:option("--endpoint", "The endpoint of the requests."):default("/v1/chat/completions")
  :choices { "/v1/chat/completions", "/v1/responses" }
parser:option("--detail", "How closely the model looks. \"auto\" is the expensive choice with newer models.")
  :default("high"):choices { "low", "high", "original", "auto" }
parser:option("--max-tokens", "Most tokens an answer may have (default: what the service allows).")
  :argname("N"):convert(cli.positive_integer)
parser:option("--fields", "CSV file with a column \"path\"; its other columns may be used in the prompt.")
  :argname("FILE")
parser:option("--limit", "Send at most so many images in this run: a pilot."):argname("N")
  :convert(cli.positive_integer)
budget.options(parser)
progress.options(parser)
parser:flag("--redo", "Send images again that have a text.")
parser:flag("--redo-empty", "Send images again whose text is blank.")
parser:flag("--redo-failed", "Send images again that were given up.")
parser:flag("--dry-run", "Say what would be sent and what it may cost; send nothing.")
submission.options(parser)
openai.options(parser)
parser:epilog [[
Example:
  obatch upload --image-dir data --prompt-file rolls_prompt.txt --dry-run
  obatch upload --image-dir data --prompt-file rolls_prompt.txt
  obatch download

Exit codes: 0 sent; 1 stopped, also by a budget: run again to go on; 2 wrong usage or input;
3 sent, but some images cannot be (listed); 130 interrupted.]]
local args = parser:parse { ... }
if args.max_bytes > request.MAX_BYTES or args.max_images_per_batch > request.MAX_REQUESTS then
  parser:error(("the API takes no batch of more than %d bytes or %d requests"):format(request.MAX_BYTES,
    request.MAX_REQUESTS))
end
if args.jsonl_file_base:find("/", 1, true) then parser:error("--jsonl-file-base is a name, not a path") end

-- ---------------------------------------------------------------- what is asked, and what it costs

local image_dir = args.image_dir:gsub("(.)/+$", "%1")
local folder, message = sidecar.folder(image_dir)
local is_folder = folder and fs.stat(image_dir).type == "dir"
if not is_folder then return cli.fail(2, "--image-dir: %s", message or text.printable(image_dir) .. " is no folder") end

local template, columns, rows
template, message = fs.read(args.prompt_file)
if not template then return cli.fail(2, "%s", message) end
template = template:gsub("^\u{FEFF}", "") -- a byte order mark
if text.is_blank(template) then return cli.fail(2, "%s: the prompt is empty", args.prompt_file) end
if args.fields then
  columns, rows = csv.read(args.fields)
  if not columns then return cli.fail(2, "%s", rows) end
end
local fill, used = prompt.compile(template, columns)
if not fill then return cli.fail(2, "%s: %s", args.prompt_file, used) end
for key in template:gmatch("{(%a[%w_]*)}") do
  if args.fields and not prompt.is_known(key, columns) then
    io.stderr:write(("obatch: note: {%s} is no column of %s and is sent as it is\n"):format(key, args.fields))
  end
end
if args.fields and #used == 0 then
  return cli.fail(2, "%s uses no column of %s: write {%s}, for example", args.prompt_file, args.fields,
    columns[1] or "COLUMN")
end

local ceilings, trouble = budget.from_options(args)
if not ceilings then return cli.fail(2, "%s", trouble) end
local is_priced, unpriced = ceilings:check_model(args.model)
if not is_priced then return cli.fail(2, "%s", unpriced) end

local matched = {} -- rows of --fields that an image has

--- The question about an image, and the fields in it.
local function question_about(path)
  local fields
  if #used > 0 then
    local row = csv.lookup(rows, path, image_dir) or {}
    fields = {}
    for _, name in ipairs(used) do fields[name] = row[name] end
  end
  local question, missing = fill(path, fields)
  if not question then return nil, missing end
  return question, fields
end

-- ---------------------------------------------------------------- the batch folder

local line <close> = progress.new { quiet = args.quiet }
local function log(words) line:say(words) end

--- Stops the run; what is sent is sent.
local function stopped(reason, what)
  line:close()
  return cli.stopped(reason, what)
end

local api <close>, problem = openai.from_options(args, policy, log)
if not api and not args.dry_run then return cli.fail(2, "%s", problem) end

--- A dry run makes no folder.
local function open_shelf()
  if args.dry_run and not fs.stat(args.batch_dir) then return nil end
  return records.open { batch_dir = args.batch_dir, completed_dir = args.batch_dir .. "/completed",
    description = args.description, log = log }
end
local shelf <close>, complaint, code = open_shelf()
if complaint then return stopped(complaint, code) end

--- Whatever the last run has left without a batch. true | nil, message, CODE.
local function submit()
  return submission.submit(shelf, api, { log = log,
    output_expires_after = args.output_expires_after })
end

local purse = ceilings:purse(shelf and shelf.meter) -- what the last run has left to be submitted counts, too
if shelf and not args.dry_run then
  local ok, why, what = purse:shed(shelf.parts, function(part) return shelf:withdraw(part) end)
  if ok then ok, why, what = submit() end
  if not ok then return stopped(why, what) end
end
local held, waiting, what = {}, { unsubmitted = 0 }, nil
if shelf then held, waiting, what = resubmit.on_their_way(shelf, api) end
if not held then return stopped(waiting, what) end
if waiting.unknown then
  return cli.fail(2, "nobody knows which images batch %s holds: the service has no input file of it any more. Run "
    .. "\"obatch download --image-dir %s\" first, or move %s to %s/completed yourself", waiting.unknown,
    text.printable(image_dir), shelf:record_path(waiting.unknown), args.batch_dir)
end

-- The latest word on every image that came back without a text.
local unresolved = {}
for entry in shelf and shelf:unresolved() or function() end do
  unresolved[image_record.real_path(entry.path)] = entry
end

-- ---------------------------------------------------------------- which images

local SKIPPED = { "have a text", "are blank pages", "are labelled .api", "are on their way", "were given up",
  "are beyond --limit", "are beyond the budget", "take more than the whole budget" }
local skipped, reasons, left_out = {}, {}, {}
local function skip(words, reason)
  skipped[words] = (skipped[words] or 0) + 1
  reasons[words] = reasons[words] or reason
end

--- Why an image is not sent again; nil when it is to be sent.
local function reason_to_skip(path, id, real)
  if held[real] or held[id] or held[real:gsub("/", "|")] then return "are on their way" end
  if args.redo then return nil end
  if fs.lstat(sidecar.label_path(path)) then return "are labelled .api" end
  if fs.lstat(sidecar.text_path(path)) then
    if not sidecar.is_blank(path) then return "have a text" end
    return not args.redo_empty and "are blank pages" or nil
  end
  local last = unresolved[real]
  if last and last.action == "give_up" and not args.redo_failed then return "were given up" end
end

-- ---------------------------------------------------------------- requests, batch by batch

local batches <close> = composer.new { dry_run = args.dry_run, shelf = shelf, submit = submit,
  name = args.jsonl_file_base, max_images = args.max_images_per_batch, max_bytes = args.max_bytes,
  image_dir = image_dir, root = folder.root, question = question_about, purse = purse,
  request = { endpoint = args.endpoint, model = args.model, detail = args.detail, max_tokens = args.max_tokens,
    prompt = template },
  attempts = function(real) return unresolved[real] and unresolved[real].attempts or 0 end }

-- What people have, and the API does not take: it is walked only to be counted.
local images, walked, unknown_endings = 0, {}, {}
for _, ending in ipairs { ".tif", ".tiff", ".jp2", ".bmp", ".heic", ".pdf", table.unpack(SENDABLE) } do
  walked[ending] = true
end
local endings = {}
for _, ending in ipairs(type(args.valid_image_types) == "table" and args.valid_image_types
  or { args.valid_image_types }) do
  for word in ending:gmatch("[^%s,]+") do
    word = word:lower():gsub("^%.?", ".")
    endings[word], walked[word] = true, true
  end
end

local stage = line:stage("looking at images", { unit = "images", facts = function()
  return { done = images, words = { ("%d to be sent"):format(batches.sent) } }
end })
local taken = {} -- custom_ids, of all images: an image has the same one in every run
for path, is_there, trouble_there in fs.walk(image_dir, { ext = walked, stat = false }) do
  local ending = (path:match("%.[^./]*$") or ""):lower()
  if is_there and not endings[ending] then
    unknown_endings[ending] = (unknown_endings[ending] or 0) + 1
  elseif not is_there then
    left_out[#left_out + 1] = text.printable(trouble_there)
  else
    images = images + 1
    local id, real = image_record.custom_id(path, taken), image_record.real_path(path)
    local row = rows and csv.lookup(rows, path, image_dir)
    if row then matched[row] = true end
    local reason = reason_to_skip(path, id, real)
    if reason then
      skip(reason)
    elseif args.limit and batches.sent >= args.limit then
      skip("are beyond --limit")
    else
      local ok, fault, what_then = batches:add(path, id, real)
      if ok == nil then return stopped(fault, what_then) end
      if what_then then
        skip(what_then == "OVER" and "take more than the whole budget" or "are beyond the budget", fault)
      elseif not ok then
        left_out[#left_out + 1] = text.printable(fault)
      end
    end
  end
  stage:update()
  if term.interrupted() then return stopped("interrupted", "INTERRUPTED") end
end
local ok, reason, errno = batches:finish()
if not ok then return stopped(reason, errno) end
line:close()
if args.dry_run and batches.first_question then
  print(("the prompt of the first image:\n%s\n"):format(batches.first_question))
end

-- ---------------------------------------------------------------- the end

for _, sentence in ipairs(left_out) do print("left out: " .. sentence) end
for ending, number in pairs(unknown_endings) do
  print(("ignored: %d %s (not in --valid-image-types; the API takes PNG, JPEG, WebP and GIF)"):format(number, ending))
end
for _, words in ipairs(SKIPPED) do
  local why = reasons[words] and (" (%s)"):format(reasons[words]) or ""
  if skipped[words] then print(("skipped: %d %s%s"):format(skipped[words], words, why)) end
end
local strangers = {}
for path, row in pairs(rows or {}) do
  if not matched[row] then strangers[#strangers + 1] = text.printable(path) end
end
table.sort(strangers)
if #strangers > 0 then
  print(("note: %d rows of %s match no image: %s%s"):format(#strangers, args.fields,
    table.concat(strangers, ", ", 1, math.min(#strangers, NAMES)), #strangers > NAMES and ", ..." or ""))
end
print(("%s: %s %s in %s (%.1f MB)"):format(units.count(images, "image"), units.number(batches.sent),
  args.dry_run and "would be sent" or "sent", units.count(batches.batches, "batch", "batches"), batches.bytes / 1e6))
if batches.sent > 0 then
  local answer_tokens = args.max_tokens or ceilings.prices.assumed_output_tokens
  local words = args.max_tokens and "at most" or ("(at %d an answer)"):format(answer_tokens)
  if batches.tokens_out ~= batches.sent * answer_tokens then words = "(as answers were so far)" end
  if batches.unestimated then
    print(("no estimate of tokens: %s. An image is taken for %d"):format(batches.unestimated, tokens.PICTURE))
  elseif unpriced then
    print(("about %d tokens in; no estimate of the cost: %s"):format(batches.tokens_in, unpriced))
  else
    print(("about %d tokens in and %s %d out: about %.2f USD by the prices of %s"):format(batches.tokens_in, words,
      batches.tokens_out, batches.cost, ceilings.prices.as_of))
  end
end
if args.dry_run and waiting.unsubmitted > 0 then
  print(("%d images of an earlier run are not submitted yet: the next run does that first"):format(waiting.unsubmitted))
end
if args.dry_run then
  print("dry run: nothing was submitted")
elseif batches.sent > 0 or #shelf.parts > 0 then
  local held_back = 0
  for _, part in ipairs(shelf.parts) do held_back = held_back + (part.batch_id and 0 or 1) end
  if held_back > 0 then
    print(("%s for room at the service; download submits what waits"):format(
      units.count(held_back, "batch waits", "batches wait")))
  end
  local words = args.batch_dir ~= "batch" and { "--batch-dir", args.batch_dir } or {}
  suggestion.tell({ suggestion.command("download", table.unpack(words)) }, args.quiet)
end
if images == 0 then return cli.fail(2, "there are no images in %s", text.printable(image_dir)) end
if not args.dry_run and skipped["are beyond the budget"] then return stopped(reasons["are beyond the budget"]) end
if not args.dry_run and skipped["take more than the whole budget"] then
  return cli.fail(1, "stopped: %s", reasons["take more than the whole budget"])
end
return #left_out > 0 and 3 or 0
