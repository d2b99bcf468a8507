--- The report: what a run, or a folder of images with their texts, has come to, as one HTML file that a person can
--- look through (lua/obatch/report/page.html). Reads only, beside a run, too.

local cli = require "obatch.cli"
local excerpt = require "obatch.report.excerpt"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local images = require "obatch.report.images"
local job = require "obatch.report.job"
local outcome = require "obatch.outcome"
local page = require "obatch.report.page"
local sidecar = require "obatch.sidecar"
local suggestion = require "obatch.suggestion"

local report = {}

--- Whether there is an image, or the text of one, below a folder.
local function has_images(dir)
  local extensions = { [".txt"] = true, [".txt.api"] = true }
  for extension in pairs(sidecar.EXTENSIONS) do extensions[extension] = true end
  for path, ok in fs.walk(dir, { ext = extensions, stat = false }) do
    local extension = path:match("%.[^./]*$")
    if ok and (extension and sidecar.EXTENSIONS[extension:lower()] or sidecar.parse(path)) then return true end
  end
  return false
end

--- The runs of deep_clean's folder that have begun, in their order.
local function runs_of(dir)
  local runs = {}
  for _, name in ipairs(fs.list(dir) or {}) do
    local folder = dir .. "/" .. name
    if name:find("^run_%d+$") and fs.stat(folder .. "/journal.jsonl") then runs[#runs + 1] = folder end
  end
  table.sort(runs)
  return runs
end

--- The command that takes what a reader decides in the page; nil for one run of an errand, or unknown folders.
local function command_for(kind, dir, original, image_dir, policy_file)
  if kind == "images" then
    return image_dir and suggestion.command("deep_clean", "--image-dir", image_dir, "--decisions", "FILE")
  elseif fs.stat(dir .. "/completed.json") or fs.stat(dir .. "/record.json") then
    return nil
  end
  local words = { "--base-dir", dir, "--original-requests", original or "REQUESTS.jsonl" }
  if policy_file then table.move({ "--policy", policy_file }, 1, 2, #words + 1, words) end
  return suggestion.command("correction_loop", table.unpack(table.move({ "--decisions", "FILE" }, 1, 2, #words + 1,
    words)))
end

---@class obatch.report.Options
---@field output string? Where the page is written (default: DIR/report.html).
---@field rules table? By which is judged what no run has judged (default: obatch.policy).
---@field policy_file string? Where these rules are from.
---@field prices table As obatch.prices.
---@field original string? The requests of a job, where they are not where the journal says.
---@field valid integer How many good answers of a job are shown.
---@field as_json boolean? The texts of images are to be JSON.
---@field output_dir string Where download keeps the results of batches as they came.
---@field job_dir string? The folder of deep_clean (default: deep_clean beside DIR).
---@field interrupted fun(): boolean

---@class obatch.report.Result
---@field path string
---@field bytes integer
---@field shown integer Items in the page.
---@field hidden integer Good answers that are not.
---@field command string? What takes a reader's decisions.

--- Writes the report of a folder: a job, a batch folder, the folder of deep_clean (its last run), or a folder of
--- images with texts beside them. The file is whole or not there.
---@param dir string
---@param options obatch.report.Options
---@return obatch.report.Result? result
---@return string? message
---@return string? code USAGE where there is nothing to report on, INTERRUPTED, or what the disk says.
function report.write(dir, options)
  local kind, problem, reason = fsck.identify(dir)
  if reason == "NO_FOLDER" then return nil, problem, "USAGE" end
  local source, note = dir, nil
  if kind == "errands" then
    local runs = runs_of(dir)
    if #runs == 0 then return nil, dir .. ": no run of deep_clean has begun there", "USAGE" end
    source, kind = runs[#runs], "job"
    note = #runs > 1 and ("This is the last of %d runs; the one before: %s"):format(#runs,
      suggestion.command("report", runs[#runs - 1])) or nil
  elseif not kind and not has_images(dir) then
    return nil, dir .. " is not a job (correction_loop), not a batch folder (upload), and holds no images", "USAGE"
  end
  local path = options.output or dir .. "/report.html"
  local page_dir, message, code = fs.absolute(path:match("^(.*/)[^/]*$") or ".")
  if not page_dir then return nil, message, code end
  local output <close>, fault, why = page.create(path, "obatch: " .. excerpt.unicode(dir),
    cli.home .. "/lua/obatch/report/")
  if not output then return nil, fault, why end

  local head
  if kind == "job" then
    head, message, code = job.write(source, options, output)
  else
    local copy = setmetatable({ page_dir = page_dir, is_batch_dir = kind == "images" }, { __index = options })
    head, message, code = images.write(source, copy, output)
  end
  if not head then return nil, message, code end
  if note then table.insert(head.notes, 1, excerpt.unicode(note)) end
  -- Of that folder and no other, but without its path, which may be nobody's business.
  head.key = fs.sha256_text(fs.absolute(source) or source)
  head.title, head.dir = "obatch: " .. excerpt.unicode(dir), excerpt.unicode(source)
  head.generated_at, head.version, head.classes = os.time(), cli.version, outcome.CLASSES
  head.prices_date, head.shown = options.prices.as_of, output.items
  head.decisions = command_for(head.kind, source, head.original, head.image_dir, options.policy_file)
  head.original, head.image_dir = nil, nil
  local facts
  facts, message, code = output:commit(head)
  if not facts then return nil, message, code end
  return { path = path, bytes = facts.bytes, shown = head.shown, hidden = head.hidden, command = head.decisions }
end

return report
