--- What the report shows of images and the texts beside them: every page, its text with what the detectors find
--- in it, what the text was before, and what is known of pages without one.

local image_record = require "obatch.image_record"
local answer = require "obatch.report.answer"
local cleaning = require "obatch.cleaning"
local decisions = require "obatch.decisions"
local detectors = require "obatch.detectors"
local excerpt = require "obatch.report.excerpt"
local fs = require "obatch.fs"
local history = require "obatch.history"
local job = require "obatch.report.job"
local json = require "obatch.json"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local project = require "obatch.report.project"
local sidecar = require "obatch.sidecar"
local text = require "obatch.text"
local texts = require "obatch.texts"

local images = {}

-- ---------------------------------------------------------------- addresses

--- The address of a file relative to a folder, both by their absolute paths, as an HTML page can use it.
---@param path string
---@param from string
---@return string
function images.address(path, from)
  local there, here = {}, {}
  for name in path:gmatch("[^/]+") do there[#there + 1] = name end
  for name in from:gmatch("[^/]+") do here[#here + 1] = name end
  local same = 0
  while same < #here and same < #there - 1 and here[same + 1] == there[same + 1] do same = same + 1 end
  local words = {}
  for _ = same + 1, #here do words[#words + 1] = ".." end
  for i = same + 1, #there do
    words[#words + 1] = there[i]:gsub("[^A-Za-z0-9._~-]", function(byte) return ("%%%02X"):format(byte:byte()) end)
  end
  return table.concat(words, "/")
end

-- ---------------------------------------------------------------- one page

--- The text that counts of an image with sidecars: of an empty one and a labelled one the labelled one. Its
--- content, its item of the survey, and a sentence where it cannot be read.
local function text_of(sidecars)
  local chosen, content, message
  for _, kind in ipairs { "text", "api" } do
    local item = sidecars[kind]
    if item and (not chosen or content and text.is_blank(content)) then
      chosen = item
      content, message = texts.read(item.path)
    end
  end
  return content, chosen, message
end

--- What the detectors say of a text: sets .label, .score, .reasons, .group; returns where.
local function judge(shown, content, context)
  local cleaned = cleaning.clean(content, context.json)
  local found, score, names, reasons = detectors.findings(cleaned, context), 0, {}, json.array {}
  for i, finding in ipairs(found) do
    score = score + finding.score
    names[#names + 1] = finding.name
    names[finding.name] = true
    reasons[i] = excerpt.unicode(("%s %.2f (%s)"):format(finding.name, finding.score, finding.reason))
  end
  shown.score, shown.label, shown.reasons = score, score >= detectors.threshold - 1e-9, reasons
  shown.group = #names > 0 and table.concat(names, ", ") or nil
  if cleaned == content or #found == 0 then return answer.places_of(found) end
  -- The marks are for the text as it is there.
  local places = {}
  for _, finding in ipairs(detectors.findings(content, context)) do
    if names[finding.name] then places[#places + 1] = finding end
  end
  return answer.places_of(places)
end

--- What the text of an image was before, oldest first; only what differs from what comes next.
local function versions_of(self, image, known, content)
  local list = self.project:answers(known)
  local before = texts.read(sidecar.before_path(image))
  if before then
    local place = #list + 1
    for i = #list, 1, -1 do
      if list[i].name:find("^returned by deep_clean") then place = i end
    end
    table.insert(list, place, { name = "before deep_clean", text = before })
  end
  local versions = json.array {}
  for i, version in ipairs(list) do
    if version.text ~= content and version.text ~= (list[i + 1] or {}).text then
      local shown = excerpt.of(version.text, {})
      shown.name = excerpt.unicode(version.name)
      versions[#versions + 1] = shown
    end
  end
  return #versions > 0 and versions or nil
end

--- Which batches an image is under way in; nil when in none.
local function under_way(known)
  local names = {}
  for _, sent in ipairs(known and known.sent or {}) do
    if sent.is_under_way then names[#names + 1] = sent.source.name end
  end
  return #names > 0 and "under way: " .. table.concat(names, ", ") or nil
end

--- An image as the page has it. sidecars: { text =, api = } items of the survey.
local function show(self, image, sidecars, survey, is_there)
  local known = self.project:about(image)
  local shown = { id = excerpt.unicode(known and known.custom_id or image_record.custom_id(image, {})),
    path = image_record.encode_path(image), name = text.printable(image),
    image = is_there and images.address(image_record.real_path(image), self.page_dir) or nil }
  local entry = known and known.entry
  shown.attempts = entry and math.tointeger(tonumber(entry.attempts)) or nil
  local content, item, message = text_of(sidecars)
  if item then
    shown.state, shown.reason = item.kind, message or under_way(known)
  elseif under_way(known) then
    shown.state, shown.reason = "under way", under_way(known)
  elseif entry then
    shown.state, shown.class = "unresolved", type(entry.class) == "string" and excerpt.unicode(entry.class) or nil
    shown.reason = type(entry.reason) == "string" and entry.reason or "no reason given"
    shown.group = answer.group(shown.reason)
  else
    shown.state = "missing"
    shown.reason = known and "it was sent, and there is no text beside it"
      or self.project.is_known and "it was never sent" or "there is no text beside it"
  end
  if not is_there then shown.reason = "the image is not there any more" end
  if content then
    shown.sha256, shown.blank = fs.sha256_text(content), text.is_blank(content) or nil
    local places = judge(shown, content, survey:context(item.path))
    for key, value in pairs(excerpt.of(content, places)) do shown[key] = value end
    local past = item.kind == "api" and self.project:attempts(item.path, shown.sha256)
    if past then shown.attempts, shown.class, shown.reason = past.count, past.class, shown.reason or past.reason end
    local decision = self.beside:about(image, content)
    if decision then shown.decision = { decision = decision.decision, note = excerpt.unicode(decision.note) } end
  end
  shown.versions = versions_of(self, image, known, content)
  shown.reason, shown.group = excerpt.unicode(shown.reason), excerpt.unicode(shown.group)
  if known then self.states[known] = shown.state end
  local counts = self.counts
  counts.images = counts.images + 1
  counts[shown.state:gsub(" ", "_")] = counts[shown.state:gsub(" ", "_")] + 1
  if shown.score and shown.score > 0 then counts.suspicious = counts.suspicious + 1 end
  return shown
end

-- ---------------------------------------------------------------- all pages

--- Writes the images of one folder, in the order of their paths; then texts whose image is gone.
local function write_folder(self, image_dir, options, page)
  local survey, message, code = texts.survey(image_dir, options.as_json, options.interrupted)
  if not survey then return nil, message, code end
  for _, fault in ipairs(survey.faults) do self.notes[#self.notes + 1] = fault end
  local beside, stage = {}, progress.stage("writing " .. image_dir, { unit = "images" })
  for _, item in ipairs(survey.items) do
    beside[item.image] = beside[item.image] or {}
    beside[item.image][item.kind] = item
  end
  local function write(image, is_there)
    local real = image_record.real_path(image)
    if self.seen[real] then return true end
    self.seen[real] = true
    local sidecars = beside[image] or {}
    beside[image] = nil
    if options.interrupted() then return nil, "interrupted", "INTERRUPTED" end
    stage:update(self.counts.images)
    return page:item(show(self, image, sidecars, survey, is_there))
  end
  local ok = true
  for path, is_there, problem in fs.walk(image_dir, { ext = sidecar.EXTENSIONS, stat = false }) do
    if ok and is_there then
      ok, message, code = write(path, true)
    elseif ok then
      self.notes[#self.notes + 1] = problem
    end
  end
  for _, item in ipairs(survey.items) do
    if ok and beside[item.image] then ok, message, code = write(item.image, fs.stat(item.image) ~= nil) end
  end
  if not ok then return nil, message, code end
  return true
end

--- Images that were sent and are in none of the folders.
local function write_others(self, options, page)
  local survey = setmetatable({}, { __index = { context = function() return { json = options.as_json } end } })
  local others = {}
  for real, known in pairs(self.project.images) do
    if not self.seen[real] then others[#others + 1] = known.path end
  end
  table.sort(others)
  for _, path in ipairs(others) do
    local sidecars = {}
    local own, label = sidecar.text_path(path), sidecar.label_path(path)
    if fs.lstat(own) then sidecars.text = { path = own, kind = "text" } end
    if fs.lstat(label) then sidecars.api = { path = label, kind = "api" } end
    local ok, message, code = page:item(show(self, path, sidecars, survey, fs.stat(path) ~= nil))
    if not ok then return nil, message, code end
    if options.interrupted() then return nil, "interrupted", "INTERRUPTED" end
  end
  return true
end

--- What a line tells of its use: the fields that outcome.tokens takes, and the model.
local OF_USE = { model = "/response/body/model", prompt_tokens = outcome.FIELDS.prompt_tokens,
  completion_tokens = outcome.FIELDS.completion_tokens, input_tokens = outcome.FIELDS.input_tokens,
  output_tokens = outcome.FIELDS.output_tokens }

--- Takes out of an errand's rows what good answers have taken that came to nothing after all; calls add with a row
--- for each.
local function split_by_fate(self, source, h, rows, add)
  for item in h:items "valid" do
    local fate = project.fate(source, item.custom_id, self.states)
    local line = fate ~= "valid" and h:answer_line(item.custom_id)
    local used = line and json.find(line, OF_USE)
    local from
    for _, row in ipairs(used and rows or {}) do
      -- The batch's model where it is known, which has no date.
      if row.class == "valid" and (not from or row.model == used.model) then from = row end
    end
    if from then
      local tokens_in, tokens_out = outcome.tokens(used)
      add { model = from.model, class = fate, requests = 1, tokens_in = tokens_in, tokens_out = tokens_out }
      from.requests = from.requests - 1
      from.tokens_in, from.tokens_out = from.tokens_in - tokens_in, from.tokens_out - tokens_out
    end
  end
end

--- What the batches of the project, and its errands, have used, by what the answers have come to.
local function usage_of(self, rules)
  local rows, list = {}, {}
  local function add(row)
    if row.requests == 0 then return end
    local key = (row.model or "") .. "\0" .. row.class
    if not rows[key] then
      rows[key] = { model = row.model, class = row.class, requests = 0, tokens_in = 0, tokens_out = 0 }
      list[#list + 1] = rows[key]
    end
    for _, name in ipairs { "requests", "tokens_in", "tokens_out" } do rows[key][name] = rows[key][name] + row[name] end
  end
  self.project:each_result(function(line, source)
    local judged = outcome.judge(line, rules)
    local class = judged.class == "valid" and project.fate(source, line.custom_id, self.states) or judged.class
    add { model = line.model, class = class, requests = 1, tokens_in = judged.tokens_in,
      tokens_out = judged.tokens_out }
  end)
  local batches = json.array(self.project.batches)
  for _, source in ipairs(self.project.errands) do
    local h <close> = history.open(source.folder, { rules = rules })
    local own = h and h:usage() or {}
    if h then split_by_fate(self, source, h, own, add) end
    for _, row in ipairs(own) do add(row) end
    for _, iteration in ipairs(h and h.iterations or {}) do
      for _, batch in ipairs(iteration.batches or {}) do batch.iteration = nil end
      job.add_batches(iteration.batches or {}, batches)
    end
  end
  return list, batches
end

--- Writes the images of a project into a page, one at a time.
---@param dir string The batch folder, or a folder of images with texts beside them.
---@param options table is_batch_dir, rules, prices, as_json, output_dir, job_dir, page_dir (absolute), interrupted().
---@param page table Of obatch.report.page.
---@return table? head What the page tells of all of it, but .title and .dir.
---@return string? message
---@return string? code
function images.write(dir, options, page)
  local source <close> = project.read(options.is_batch_dir and dir or nil, options)
  local self = { project = source, page_dir = options.page_dir, beside = decisions.beside(), seen = {}, states = {},
    notes = json.array {}, counts = { images = 0, text = 0, api = 0, missing = 0, under_way = 0, unresolved = 0,
      suspicious = 0 } }
  for _, image_dir in ipairs(options.is_batch_dir and source.image_dirs or { dir }) do
    local ok, message, code = write_folder(self, image_dir, options, page)
    if not ok then return nil, message, code end
  end
  local ok, message, code = write_others(self, options, page)
  if not ok then return nil, message, code end
  local rules = options.rules or setmetatable({ expect = "text", allow_blank = true }, { __index = policy })
  local usage, batches = usage_of(self, rules)
  for _, sentence in ipairs(source.notes) do self.notes[#self.notes + 1] = sentence end
  for i, sentence in ipairs(self.notes) do self.notes[i] = excerpt.unicode(sentence) end
  local holder = options.is_batch_dir and fs.holder(dir .. "/lock")
  if holder then
    table.insert(self.notes, excerpt.unicode(("A run was going on when this page was written (%s)."):format(holder)))
  end
  return { kind = "images", totals = self.counts, iterations = json.array {}, hidden = 0, notes = self.notes,
    usage = job.with_costs(usage, options.prices), batches = batches,
    image_dir = source.image_dirs[1] or not options.is_batch_dir and dir or nil }
end

return images
