--- A local Batch API to rehearse against, free of charge.
--
-- Point any client at it:
--   obatch sandbox --port 8080 --dir /tmp/box &
--   export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=any
--
-- The first line on stdout is "listening on http://127.0.0.1:PORT". Ctrl-C stops it; the same --dir
-- goes on from there.

local cli = require "obatch.cli"
local faults = require "obatch.sandbox.faults"
local fs = require "obatch.fs"
local sandbox = require "obatch.sandbox"

local function integer(text)
  return math.tointeger(tonumber(text)), ("'%s' is not a whole number"):format(text)
end

--- An IP address, and 127.0.0.1 for localhost.
local function address(text)
  if text == "localhost" then return "127.0.0.1" end
  if text:find("^%d+%.%d+%.%d+%.%d+$") or text:find("^[%x:.]*:[%x:.]*$") then return text end
  return nil, ("'%s' is no IP address"):format(text)
end

--- Whether an address is this machine's own, which nobody else reaches.
local function is_loopback(host) return host == "::1" or host:find("^127%.") ~= nil end

local parser = cli.parser("sandbox", "A local Batch API (Files, Batches, Uploads) to rehearse against. "
  .. "Any API key is good. State is plain files in --dir; ledger.jsonl there tells what would have been paid, "
  .. "requests.jsonl what was asked over HTTP.")
parser:option("--port", "Port; 0 takes a free one."):default("8080"):convert(integer)
parser:option("--host", "Address to listen on. Every other one than this machine's own lets in whoever reaches it.")
  :argname("ADDRESS"):default("127.0.0.1"):convert(address)
parser:option("--dir", "Folder of the state. Without it: a temporary one, removed at the end.")
parser:option("--model", "What answers: a Lua file, or a name in scripts/models."):default("echo")
parser:option("--batch-seconds", "How long a batch takes."):default("1"):convert(cli.seconds)
parser:option("--faults", "What goes wrong on purpose, see below. Can be repeated."):argname("SPEC"):count("*")
parser:option("--seed", "Of all that is random (order of results, chance=)."):default("1"):convert(integer)

-- What is not known of the service, or differs between services.
parser:option("--models", "The models that exist, with commas. Without it: every name."):argname("A,B")
parser:option("--null-ids", "How a batch without output or error file says so: null, empty (\"\") or absent.")
  :default("null"):choices { "null", "empty", "absent" }
parser:option("--missing-input", "A batch whose input file is unknown fails later (fail) or at once (400).")
  :default("fail"):choices { "fail", "400" }
parser:option("--large-files", "Where an input file over the limit is refused: batch or upload.")
  :default("batch"):choices { "batch", "upload" }
parser:option("--blank-lines", "Blank lines in an input file: refuse or skip.")
  :default("refuse"):choices { "refuse", "skip" }
parser:option("--max-errors", "The most errors that a failed batch lists."):default("1000")
  :convert(cli.positive_integer)
parser:flag("--lax-uploads", "Accept uploads that are empty or do not begin with a line of JSON.")
parser:flag("--no-cancelled-lines", "No batch_cancelled lines for what a cancelled batch did not run.")
parser:flag("--range", "File content can be had in ranges.")
parser:epilog([[
Example:
  obatch sandbox --port 8080 --model demo &
  export OPENAI_BASE_URL=http://127.0.0.1:8080/v1 OPENAI_API_KEY=anything

]] .. faults.help)

--- The model function of a file, or of a name in scripts/models.
local function load_model(name)
  local path = name
  if name:find("^[%w_-]+$") then
    path = ("scripts/models/%s.lua"):format(name)
    if not fs.stat(path) then path = ("%s/%s"):format(cli.home, path) end
  end
  local chunk, message = loadfile(path, "t")
  if not chunk then return nil, message end
  local model, trouble = chunk()
  if model == nil and trouble then return nil, trouble end
  if type(model) ~= "function" then return nil, path .. ": a model returns a function(request, asked, wait)" end
  return model
end

local function remove_tree(path)
  local stat = fs.lstat(path)
  if stat and stat.type == "dir" then
    for _, name in ipairs(assert(fs.list(path))) do remove_tree(path .. "/" .. name) end
  end
  assert(fs.remove(path))
end

--- The folder to work in; when nobody named one, it is removed as it goes out of scope.
local function work_folder(named)
  local path = named or ("%s/obatch-sandbox-%s"):format(os.getenv("TMPDIR") or "/tmp", fs.random(6))
  return setmetatable({ path = path }, { __close = function()
    if not named then remove_tree(path) end
  end })
end

local args = parser:parse { ... }
local model, message = load_model(args.model)
if not model then return cli.fail(2, "%s", message) end
local rules, complaint = faults.parse(table.concat(args.faults, ";"))
if not rules then return cli.fail(2, "%s", complaint) end
local models
if args.models then
  models = {}
  for name in args.models:gmatch("[^,%s]+") do models[name] = true end
end

local folder <close> = work_folder(args.dir)
local box <close>, trouble, code = sandbox.open {
  host = args.host, port = args.port, dir = folder.path, model = model, faults = rules, seed = args.seed,
  batch_seconds = args.batch_seconds, models = models, null_ids = args.null_ids,
  missing_input = args.missing_input, refuse_large = args.large_files,
  skip_blank = args.blank_lines == "skip", max_errors = args.max_errors, lax_uploads = args.lax_uploads,
  no_cancelled_lines = args.no_cancelled_lines, range = args.range,
}
if code == "EADDRINUSE" then return cli.fail(1, "%s: take another --port (0: a free one)", trouble) end
if not box then return cli.fail(1, "%s", trouble) end

print(("listening on http://%s:%d"):format(args.host:find(":", 1, true) and "[" .. args.host .. "]" or args.host,
  box.port))
print(("state in %s%s"):format(folder.path, args.dir and "" or ", removed at the end; --dir keeps it"))
io.stdout:flush()
if not is_loopback(args.host) then
  io.stderr:write(("sandbox: listening on %s, which is not this machine's own address: whoever reaches it can use it, "
    .. "read what was uploaded and fill its disk, and keys sent to it travel in clear\n"):format(args.host))
end
box:run()
return 0
