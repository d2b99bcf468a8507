--- Sends a folder of page images in batches; `obatch download` brings their texts.
--
-- The recipe: open the batch folder and finish what the last run began; walk the images; leave out
-- what has a text, is on its way, was given up or is no whole image; write the others as requests, cut
-- into batches; and submit each batch as soon as it is full. Nothing is sent twice, whatever stops this.

local cli = require "obatch.cli"
local csv = require "obatch.csv"
local fs = require "obatch.fs"
local image = require "obatch.image"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local openai = require "obatch.openai"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local prompt = require "obatch.prompt"
local records = require "obatch.records"
local request = require "obatch.request"
local resubmit = require "obatch.resubmit"
local sidecar = require "obatch.sidecar"
local submission = require "obatch.submission"
local term = require "obatch.term"
local text = require "obatch.text"
local tokens = require "obatch.tokens"

--- Endings of what the API takes: PNG, JPEG, WebP, GIF.
local SENDABLE = { ".jpg", ".jpeg", ".png", ".webp", ".gif" }

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
parser:option("--budget", "Send no more than is estimated to cost so much."):argname("USD"):convert(cli.positive_number)
parser:option("--prices", "Price table (default: lua/obatch/prices.lua)."):argname("FILE")
parser:flag("--redo", "Send images again that have a text.")
parser:flag("--redo-empty", "Send images again whose text is blank.")
parser:flag("--redo-failed", "Send images again that were given up.")
parser:flag("--dry-run", "Say what would be sent and what it may cost; send nothing.")
openai.options(parser)
parser:epilog [[
Example:
  obatch upload --image-dir data --prompt-file rolls_prompt.txt --dry-run
  obatch upload --image-dir data --prompt-file rolls_prompt.txt
  obatch download

Exit codes: 0 sent; 1 stopped, run again to go on; 2 wrong usage or input;
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

local prices, trouble = tokens.prices(args.prices)
if not prices then return cli.fail(2, "%s", trouble) end
local _, unpriced = tokens.cost(prices, args.model, 0, 0)
if unpriced and args.budget then return cli.fail(2, "--budget: %s", unpriced) end
local answer_tokens = args.max_tokens or prices.assumed_output_tokens

--- The fields of an image that the prompt uses.
local function fields_of(path)
  if #used == 0 then return nil end
  local row, fields = csv.lookup(rows, path, image_dir) or {}, {}
  for _, name in ipairs(used) do fields[name] = row[name] end
  return fields
end

-- ---------------------------------------------------------------- the batch folder

local line <close> = progress.new()
local function log(words) line:say(words) end

local api <close>, problem = openai.from_options(args, policy, log)
if not api and not args.dry_run then return cli.fail(2, "%s", problem) end

--- A dry run makes no folder.
local function open_shelf()
  if args.dry_run and not fs.stat(args.batch_dir) then return nil end
  return records.open { batch_dir = args.batch_dir, completed_dir = args.batch_dir .. "/completed",
    description = args.description, log = log }
end
local shelf <close>, complaint, code = open_shelf()
if complaint then return cli.stopped(complaint, code) end

--- Whatever the last run has left without a batch. true | nil, message, CODE.
local function submit()
  return submission.submit(shelf, api, { log = log, progress = line })
end

if shelf and not args.dry_run then
  local ok, why, what = submit()
  if not ok then return cli.stopped(why, what) end
end
local held, waiting, what = {}, { unsubmitted = 0 }, nil
if shelf then held, waiting, what = resubmit.on_their_way(shelf, api) end
if not held then return cli.stopped(waiting, what) end
if waiting.unknown then
  return cli.fail(2, "nobody knows which images batch %s holds: the service has no input file of it any more. Run "
    .. "\"obatch download --image-dir %s\" first, or move %s to %s/completed yourself", waiting.unknown,
    text.printable(image_dir), shelf:record_path(waiting.unknown), args.batch_dir)
end

-- The latest word on every image that came back without a text.
local unresolved = {}
for entry in shelf and shelf:unresolved() or function() end do unresolved[records.real_path(entry.path)] = entry end

-- ---------------------------------------------------------------- which images

local SKIPPED = { "have a text", "are blank pages", "are labelled .api", "are on their way", "were given up",
  "are beyond --limit", "are beyond --budget" }
local skipped, left_out = {}, {}
local function skip(reason) skipped[reason] = (skipped[reason] or 0) + 1 end

--- Why an image is not sent again; nil when it is to be sent.
local function reason_to_skip(path, id)
  local real = records.real_path(path)
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

local count = { images = 0, sent = 0, batches = 0, bytes = 0, tokens_in = 0, cost = 0 }
local taken = {} -- custom_ids, of all images: an image has the same one in every run
local writer, record, first_question

--- Counts lines and bytes as jsonl.create's writer does, and writes nothing.
local function meter(limits)
  local lines, bytes = 0, 0
  return { close = function() end, put = function(_, value, more)
    local size = #json.encode(value) + more + 1
    if size > limits.max_bytes then return nil, "", "TOO_BIG" end
    if lines >= limits.max_lines or bytes + size > limits.max_bytes then return nil, "", "FULL" end
    lines, bytes = lines + 1, bytes + size
    return true
  end }
end

local function finish_batch()
  local full = writer
  writer = nil
  if not full then return true end
  if #record.items == 0 then
    full:close() -- none of its images could be sent
    return true
  end
  count.batches = count.batches + 1
  if args.dry_run then return true end
  local facts, reason, errno = full:commit()
  if not facts then return nil, reason, errno end
  local part
  part, reason, errno = shelf:plan(args.jsonl_file_base, facts, record)
  if not part then return nil, reason, errno end
  return submit()
end

local function begin_batch()
  record = { image_dir = image_dir, root = folder.root, items = {}, request = { endpoint = args.endpoint,
    model = args.model, detail = args.detail, max_tokens = args.max_tokens, prompt = template } }
  local limits = { max_lines = args.max_images_per_batch, max_bytes = args.max_bytes }
  if args.dry_run then
    writer = meter(limits)
    return true
  end
  local _, path = shelf:next_part(args.jsonl_file_base)
  local reason, errno
  writer, reason, errno = jsonl.create(path, limits)
  return writer ~= nil, reason, errno
end

--- Adds an image to the requests. true; false and what is wrong with the image, its path included; or
--- nil, message, CODE when the run cannot go on.
local function add(path, id)
  local facts, fault = image.facts(path)
  if not facts then return false, fault end
  if #path:match("[^/]*$") > sidecar.LONGEST_NAME then
    return false, path .. ": its name leaves no room for that of a text beside it"
  end
  local fields = fields_of(path)
  local question, missing = fill(path, fields)
  if not question then return false, missing end
  first_question = first_question or question
  local estimate, unknown, kind = tokens.image(args.model, args.detail, facts.width, facts.height)
  if kind == "NO_DETAIL" then return nil, unknown, "USAGE" end
  if kind == "TOO_BIG" then return false, ("%s: %s"):format(path, unknown) end
  local tokens_in = (estimate or 0) + tokens.text(question)
  local cost = tokens.cost(prices, args.model, tokens_in, answer_tokens) or 0
  if args.budget and not estimate then return nil, "--budget: " .. unknown, "USAGE" end
  if args.budget and count.cost + cost > args.budget then
    skip("are beyond --budget")
    return true
  end

  local picture
  picture, fault = jsonl.image(path)
  if not picture then return false, fault end
  local value = request.compose { custom_id = id, endpoint = args.endpoint, model = args.model, prompt = question,
    image = args.dry_run and ("data:%s;base64,"):format(picture:mime()) or picture, detail = args.detail,
    max_tokens = args.max_tokens }
  local base64_size = (facts.bytes + 2) // 3 * 4
  if not writer then
    local ok, reason, errno = begin_batch()
    if not ok then return nil, reason, errno end
  end
  local ok, reason, errno = writer:put(value, base64_size)
  if errno == "FULL" then
    ok, reason, errno = finish_batch()
    if not ok then return nil, reason, errno end
    ok, reason, errno = begin_batch()
    if not ok then return nil, reason, errno end
    ok, reason, errno = writer:put(value, base64_size)
  end
  if errno == "TOO_BIG" then
    return false, ("%s: its request is larger than a batch may be (--max-bytes %d)"):format(path, args.max_bytes)
  elseif not ok and reason:sub(1, #path) == path then -- the image, not the disk we write to
    return false, reason
  elseif not ok then
    return nil, reason, errno
  end

  local before = unresolved[records.real_path(path)]
  local replaces = fs.sha256(sidecar.text_path(path)) or fs.sha256(sidecar.label_path(path)) or nil -- by --redo
  record.items[#record.items + 1] = { custom_id = id, path = path, bytes = facts.bytes, sha256 = picture:sha256(),
    prompt_sha256 = fs.sha256_text(question), attempt = 1 + (before and before.attempts or 0), fields = fields,
    replaces = replaces }
  count.sent, count.bytes = count.sent + 1, count.bytes + facts.bytes
  count.tokens_in, count.cost = count.tokens_in + tokens_in, count.cost + cost
  if not estimate then count.unestimated = unknown end
  return true
end

-- What people have, and the API does not take: it is walked only to be counted.
local walked, unknown_endings = {}, {}
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

for path, size, trouble_there in fs.walk(image_dir, { ext = walked }) do
  local ending = (path:match("%.[^./]*$") or ""):lower()
  if size and not endings[ending] then
    unknown_endings[ending] = (unknown_endings[ending] or 0) + 1
  elseif not size then
    left_out[#left_out + 1] = text.printable(trouble_there)
  else
    count.images = count.images + 1
    local id = records.custom_id(path, taken)
    local reason = reason_to_skip(path, id)
    if reason then
      skip(reason)
    elseif args.limit and count.sent >= args.limit then
      skip("are beyond --limit")
    else
      local ok, fault, errno = add(path, id)
      if ok == nil then return cli.stopped(fault, errno) end
      if not ok then left_out[#left_out + 1] = text.printable(fault) end
      line:status(("%d images looked at, %d of them to be sent"):format(count.images, count.sent))
    end
  end
  if term.interrupted() then return cli.stopped("interrupted", "INTERRUPTED") end
end
local ok, reason, errno = finish_batch()
if not ok then return cli.stopped(reason, errno) end
line:close()
if args.dry_run and first_question then
  print(("the prompt of the first image:\n%s\n"):format(first_question))
end

-- ---------------------------------------------------------------- the end

for _, sentence in ipairs(left_out) do print("left out: " .. sentence) end
for ending, number in pairs(unknown_endings) do
  print(("ignored: %d %s (not in --valid-image-types; the API takes PNG, JPEG, WebP and GIF)"):format(number, ending))
end
for _, words in ipairs(SKIPPED) do
  if skipped[words] then print(("skipped: %d %s"):format(skipped[words], words)) end
end
local verb = args.dry_run and "would be sent" or "sent"
print(("%d images: %d %s in %d batch%s (%.1f MB)"):format(count.images, count.sent, verb, count.batches,
  count.batches == 1 and "" or "es", count.bytes / 1e6))
if count.sent > 0 then
  if count.unestimated then
    print("no estimate of tokens: " .. count.unestimated)
  elseif unpriced then
    print(("about %d tokens in; no estimate of the cost: %s"):format(count.tokens_in, unpriced))
  else
    print(("about %d tokens in and %s %d out: about %.2f USD by the prices of %s"):format(count.tokens_in,
      args.max_tokens and "at most" or ("(at %d an answer)"):format(answer_tokens), count.sent * answer_tokens,
      count.cost, prices.as_of))
  end
end
if args.dry_run and waiting.unsubmitted > 0 then
  print(("%d images of an earlier run are not submitted yet: the next run does that first"):format(waiting.unsubmitted))
end
if args.dry_run then
  print("dry run: nothing was submitted")
elseif count.sent > 0 or #shelf.parts > 0 then
  print(("next: obatch download%s"):format(args.batch_dir ~= "batch" and " --batch-dir " .. args.batch_dir or ""))
end
if count.images == 0 then return cli.fail(2, "there are no images in %s", text.printable(image_dir)) end
return #left_out > 0 and 3 or 0
