--- Checks a job directory of the correction loop, and finds out what can be rebuilt. Reads only.
--
-- What is kept in memory of each request are a few integers; lines stay in the files.

local errand = require "obatch.errand"
local fs = require "obatch.fs"
local ids = require "obatch.history.ids"
local jobs = require "obatch.job"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local ledger = require "obatch.ledger"
local judging = require "obatch.fsck.judging"
local merged = require "obatch.fsck.merged"
local part_events = require "obatch.part"
local progress = require "obatch.progress"
local replay = require "obatch.fsck.replay"
local report = require "obatch.fsck.report"
local text = require "obatch.text"

local job = {}
local Check = {}
Check.__index = Check
local name = report.name

local RERUN = "The next run of the same command goes on with it"
local REPAIR = "--repair makes it anew"
local SAVE = "Restore it from a copy"

--- Files of a job's own folder that a write which was cut off may leave as NAME.part.
local OWN_FILES = { "journal.jsonl", "final_correction_log.txt", "decisions.jsonl", table.unpack(ledger.FINAL) }

--- Whether a file is the one that something is known by; tells what lasts, and of a file that cannot be read.
---@param path string
---@param known { fingerprint?: string, sha256?: string }
---@return boolean|nil is_it  nil when it cannot be read
function Check:is_known(path, known)
  progress.stage("checking " .. path:match("[^/]*$"))
  local is_it, message = part_events.is_known(path, known)
  if is_it == nil then self.found:fault("unreadable files", path, message) end
  return is_it
end

-- ---------------------------------------------------------------- the requests

--- Whether a file is the one that the journal speaks of.
local function is_original(path, known)
  progress.stage("checking " .. path:match("[^/]*$"))
  return jobs.is_original(path, known)
end

--- Judges by this request file.
---@param path string
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Check:use_original(path)
  local message, code
  self.original = path
  self.index, message, code = jsonl.index(path, "/custom_id")
  if not self.index then return nil, message, code end
  return true
end

--- Finds the request file: the one named, or that of the journal; an errand keeps its own in its folder. Where
--- there is none, or another one, what needs it is not checked.
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Check:find_original()
  local state, found = self.state, self.found
  local path = self.options.original
  local known = state.original
  if path and not fs.stat(path) then return nil, path .. ": there is no such file", "USAGE" end
  path = path or ids.find_original(state, is_original)
  local own = self.dir .. "/original_requests.jsonl"
  if not path and fs.stat(own) then path = own end
  local first = not path and not known and state.iterations[1]
  for _, file in ipairs(first and fs.list(state:path(1, "")) or {}) do
    -- An earlier script that kept its requests sent all of them in its first iteration.
    if file == "batch_requests_iteration_1.jsonl" then path = state:path(1, file) end
  end
  if not path and self.is_completed then
    found:note("requests", self.dir, "its requests were removed when it was completed; its answers are not judged "
      .. "again")
    return true
  elseif not path and #state.iterations == 0 and state.events.damaged == 0 and not self.is_emptied then
    found:note("requests", self.dir, "nothing was submitted yet")
    return true
  elseif not path and self.is_emptied then
    return true
  elseif not path then
    found:fault("requests", known and known.path or self.dir, known and "the request file of the journal is not there"
      or "nobody says what was asked", "Name the request file with --original-requests")
    path = ids.copy_of_original(state)
    return not path or self:use_original(path)
  end
  local is_right, message, code = true, nil, nil
  if known then is_right, message, code = is_original(path, known) end
  if is_right == nil then return nil, message, code end
  if not is_right then
    self.has_changed = true
    found:fault("requests", path, "it is not the request file of the job: its content has changed since the job was "
      .. "started", "Put the old content back, or name it with --original-requests: the loop refuses this one")
    path = ids.copy_of_original(state)
    return not path or self:use_original(path)
  end
  return self:use_original(path)
end

--- Goes through the custom_ids of a request file.
---@param path string
---@param visit fun(ordinal: integer?, id: any, number: integer)
---@return integer|nil lines  nil when it is not there
function Check:each_request(path, visit)
  if not fs.stat(path) then return nil end
  local lines = 0
  local records, message = jsonl.scan(path, { id = "/custom_id" })
  if not records then
    self.found:fault("unreadable files", path, message)
    return nil
  end
  for record in progress.over(records, "checking", path) do
    if not record.blank then lines = lines + 1 end
    if record.error and not record.blank then
      self.found:fault("damaged request lines", ("%s:%d: byte %d"):format(path, record.number, record.error_at or 1),
        "the line is not JSON", SAVE)
    elseif not record.error then
      visit(type(record.id) == "string" and self.index and self.index:find(record.id) or nil, record.id, record.number)
    end
  end
  return lines
end

--- A request file and what the journal says of it.
---@param iteration table
---@param part table
function Check:check_request_file(iteration, part)
  local found, path = self.found, self.state:path(iteration.n, part.file)
  local is_sent = part.batch_id ~= nil or part.done
  local how_bad = is_sent and "Its batch exists: only which requests were in it is lost; restore it from a copy"
    or part.file_id and "It was uploaded, and the next run creates its batch; restore it from a copy all the same"
    or "It is still to be sent: restore it from a copy"
  local stat = fs.stat(path)
  if not stat then
    if not self.is_completed then found:fault("request files", path, "the request file is missing", how_bad) end
    return
  end
  if part.bytes and stat.size ~= part.bytes then
    found:fault("request files", path, ("%d bytes, by the journal it had %d"):format(stat.size, part.bytes), how_bad)
  elseif part_events.digest_of(part) and self:is_known(path, part) == false then
    found:fault("request files", path, "its content is not what the journal planned (by its digest)", how_bad)
  end
end

--- Which requests each iteration submitted, by its request files.
---@param iteration table
function Check:check_requests(iteration)
  local found, n = self.found, iteration.n
  local seen, by_file, is_whole = {}, false, true
  for _, part in ipairs(iteration.parts) do
    if part.file and not part.is_empty then self:check_request_file(iteration, part) end
    local path = part.file and self.state:path(n, part.file)
    local lines = path and self:each_request(path, function(ordinal, id, number)
      local where = ("%s:%d"):format(path, number)
      if not ordinal then
        if self.index then
          found:fault("requests that are not in the request file", where,
            ("custom_id '%s' is not in %s"):format(name(id), self.original), "Its answer is not used")
        end
      elseif seen[ordinal] and not part.of then
        found:fault("requests sent twice", where, ("custom_id '%s' is in two parts of iteration %d"):format(name(id),
          n), "It was paid twice; the first good answer counts")
      else
        seen[ordinal] = true
      end
    end)
    is_whole = is_whole and (lines ~= nil or part.is_empty)
    if lines then
      by_file = true
      if part.lines and lines ~= part.lines then
        found:fault("request files", path, ("%d requests, by the journal it had %d"):format(lines, part.lines), SAVE)
      end
    end
  end
  local is_all = n == 1 and not iteration.adopted and not iteration.cut and not self.has_changed
  if is_all and by_file and is_whole and self.index then
    for ordinal = 1, self.index.count do
      if not seen[ordinal] then
        found:fault("requests that were never sent", self.state:path(n, ""),
          ("custom_id '%s' is in no request file of iteration 1"):format(name(self.index:id(ordinal))),
          "Where it has no answer either, the next run of correction_loop sends it")
      end
    end
  end
end

-- ---------------------------------------------------------------- what came back

--- The downloaded files of a part against the journal. Sets part.proven where all of them are, to the byte,
--- what the service sent; part.lost where one is not there, or is another.
---@param iteration table
---@param part table
function Check:check_downloads(iteration, part)
  local found = self.found
  part.proven = true
  for _, file in ipairs(part.files or {}) do
    local path = self.state:path(iteration.n, file)
    local digest = type(part.digests) == "table" and part.digests[file]
    local stat = fs.stat(path)
    local is_merged = iteration.merged and fs.stat(self.state:merged_path(iteration.n))
    local again = is_merged and "Its lines are in the merged results, too. " .. SAVE
      or iteration.merged and SAVE
      or part.deleted and "It is deleted at the service. " .. SAVE
      or part.done and part.batch_id and "Run the same command: it downloads it again" or SAVE
    if not stat then
      part.lost = true
      found:fault("downloaded files", path, "the downloaded file is missing", again)
    elseif not fs.read(path, 1) then
      part.lost = true
      found:fault("unreadable files", path, (select(2, fs.read(path, 1))))
    elseif type(digest) ~= "table" then
      part.proven = false
    elseif stat.size ~= digest.bytes then
      part.lost = true
      found:fault("downloaded files", path, ("%d bytes, but %s were downloaded"):format(stat.size, name(digest.bytes)),
        again)
    else
      local is_it = self:is_known(path, digest)
      part.lost = part.lost or not is_it
      if is_it == false then
        found:fault("downloaded files", path, "it is not what was downloaded (by its digest)", again)
      end
    end
  end
  part.proven = part.proven and not part.lost
  for _, file in pairs(not part.done and part.fetched or {}) do
    if file and not fs.stat(self.state:path(iteration.n, file)) then
      found:fault("downloaded files", self.state:path(iteration.n, file), "the downloaded file is missing", SAVE)
    end
  end
  if part.rejected and not fs.stat(self.state:path(iteration.n, part.rejected)) then
    found:fault("downloaded files", self.state:path(iteration.n, part.rejected),
      "the file of rejected requests is missing", SAVE)
    part.lost = true
  end
end

--- Every line of a result file: damaged ones, ids nobody submitted, ids answered twice.
---@param path string
---@param seen table<integer, integer>  ordinal -> offset
---@param is_proven boolean
---@return nil
function Check:check_lines(path, seen, is_proven)
  local found = self.found
  local reader <close>, message = jsonl.open(path)
  if not reader or not fs.read(path, 1) then
    return found:fault("unreadable files", path, message or "it cannot be read")
  end
  -- What is known to be as the service sent it is the service's fault, and has been dealt with.
  local tell = is_proven and found.note or found.fault
  local since = is_proven and "The service sent it so; the line is left out" or "The line is left out"
  for record in progress.over(jsonl.scan(path, { id = "/custom_id" }), "checking", path) do
    local where = ("%s:%d"):format(path, record.number)
    local ordinal = type(record.id) == "string" and self.index and self.index:find(record.id) or nil
    if record.error and not record.blank then
      tell(found, "damaged lines", ("%s: byte %d"):format(where, record.error_at or 1), "the line is not JSON ("
        .. record.error:gsub("^.*: ", "") .. ")", since)
    elseif not record.error and type(record.id) ~= "string" then
      tell(found, "lines without a custom_id", where, "there is no custom_id", since)
    elseif not record.error and self.index and not ordinal then
      tell(found, "ids that nobody submitted", where, ("custom_id '%s' was never submitted"):format(name(record.id)),
        since)
    elseif ordinal and seen[ordinal] then
      local first, second = reader:at(seen[ordinal]), reader:at(record.offset)
      if first == second then
        found:note("ids answered twice", where, ("custom_id '%s' is answered twice, with the same line"):format(
          name(record.id)))
      else
        tell(found, "ids answered twice", where, ("custom_id '%s' is answered twice, and differently"):format(
          name(record.id)), "The first good answer counts")
      end
    elseif ordinal then
      seen[ordinal] = record.offset
    end
  end
end

--- The results of one iteration: downloads, what was merged of them, and every line.
---@param iteration table
function Check:check_results(iteration)
  local found, n = self.found, iteration.n
  local files, is_proven, is_lost, has_digests = {}, not self.state.is_foreign, false, true
  for _, part in ipairs(iteration.parts) do
    self:check_downloads(iteration, part)
    is_proven, is_lost = is_proven and part.proven, is_lost or part.lost
    for _, file in ipairs(part.files or {}) do
      files[#files + 1] = self.state:path(n, file)
      has_digests = has_digests and type(part.digests) == "table" and part.digests[file] ~= nil
    end
  end
  if not has_digests then self.without_digests = true end

  local path = self.state:merged_path(n)
  local stat = fs.stat(path)
  if not iteration.merged then
    if stat then found:note("parts under way", path, "its iteration is not merged by the journal", RERUN) end
    for _, file in ipairs(files) do
      if fs.stat(file) then self:check_lines(file, {}, is_proven) end
    end
    return
  end
  local sound = stat ~= nil
  if not self.state.is_foreign then sound = self:check_merged(iteration, files, is_lost, is_proven) end
  if stat then self:check_lines(path, {}, is_proven and sound) end
end

--- The merged file against the downloaded ones.
---@param iteration table
---@param files string[]
---@param is_lost boolean
---@param is_proven boolean
---@return boolean sound  whether it is as it should be
function Check:check_merged(iteration, files, is_lost, is_proven)
  local found, n = self.found, iteration.n
  local path = self.state:merged_path(n)
  progress.stage("checking " .. path:match("[^/]*$"))
  if is_lost then
    local as_merged = iteration.merged_as and fs.stat(path) and self:is_known(path, iteration.merged_as)
    -- The downloads can prove nothing, and what was merged of them may be all there is.
    if not fs.stat(path) then
      found:fault("merged results", path, "the merged results are missing, and so are downloads",
        "Bring the downloaded files back; then --repair makes it anew")
    elseif iteration.merged_as and as_merged == false then
      found:fault("merged results", path, "it is not what was merged (by its digest), and downloads are missing", SAVE)
    end
    return as_merged or false
  end
  local difference, message = merged.compare(path, files)
  if message then
    found:fault("unreadable files", path, message)
    return false
  elseif not difference then
    return true
  end
  local remedy = REPAIR .. " from the downloaded files"
  local blocker, strange
  if difference.what ~= "missing" then
    blocker, strange = merged.more_than(path, files, self.index, self.rules, is_proven)
  end
  if blocker then
    remedy = ("Line %d of it is in no downloaded file: it may be all that is left of that answer, so --repair leaves "
      .. "the file alone"):format(blocker)
  else
    self.repairs.merged[#self.repairs.merged + 1] = { path = path, files = files, keep = strange and strange > 0 }
  end
  if difference.what == "missing" then
    found:fault("merged results", path, ("the merged results of iteration %d are missing"):format(n), remedy)
  else
    found:fault("merged results", ("%s:%d: byte %d"):format(path, difference.line, difference.byte),
      "it is not the downloaded files one after the other", remedy)
  end
  return false
end

-- ---------------------------------------------------------------- lists, leftovers, what is under way

---@param iteration table
function Check:check_batch_list(iteration)
  local found, n = self.found, iteration.n
  local path, listed = self.state:ids_path(n), {}
  for id in (fs.read(path) or ""):gmatch("[^\r\n]+") do
    id = id:match("^%s*(.-)%s*$")
    if id ~= "" then listed[id] = true end
  end
  local wanted, lacks = {}, false
  for _, part in ipairs(iteration.parts) do
    if part.batch_id then
      wanted[#wanted + 1] = part.batch_id
      if not listed[part.batch_id] then
        lacks = true
        local is_new = not iteration.merged and n == #self.state.iterations
        found[is_new and "note" or "fault"](found, "lists of batch ids", path, ("batch %s of the journal is not in the "
          .. "list"):format(name(part.batch_id)), is_new and RERUN or REPAIR)
      end
    end
  end
  local strange = false
  for id in pairs(listed) do
    if not self.state.batches[id] then
      strange = true
      found:fault("lists of batch ids", path, ("it names batch %s, which the journal does not know"):format(name(id)),
        "If another tool submitted it, its answers are not used; else take it out of the list")
    end
  end
  if lacks then self.repairs.lists[#self.repairs.lists + 1] = { path = path, ids = wanted, keep = strange } end
end

--- Links: the loop writes and reads only what is the job's own.
---@param iteration table
---@return nil
function Check:check_links(iteration)
  local folder = self.state:path(iteration.n, ""):gsub("/$", "")
  local function is_link(path) return (fs.lstat(path) or {}).type == "link" end
  if is_link(folder) then
    self.has_linked_folder = true
    return self.found:fault("links", folder, "it is a link, and a job's folders are its own",
      "Put the folder itself in its place: the loop refuses this")
  end
  for _, file in ipairs(fs.list(folder) or {}) do
    local path = ("%s/%s"):format(folder, file)
    if is_link(path) then
      self.found:fault("links", path, "it is a link, and a job's files are its own", "Put the file itself in its place")
    end
  end
end

function Check:check_leftovers()
  local list = self.repairs.leftovers
  for _, file in ipairs(OWN_FILES) do
    local path = ("%s/%s.part"):format(self.dir, file)
    if fs.lstat(path) then list[#list + 1] = path end
  end
  for n = 1, #self.state.iterations do
    local folder = self.state:path(n, "")
    for _, file in ipairs(fs.list(folder) or {}) do
      if file:find("%.part$") then list[#list + 1] = folder .. file end
    end
  end
  for _, path in ipairs(list) do
    self.found:note("leftovers", path, "a write that was cut off has left this",
      "The next run, or --repair, removes it")
  end
end

local function state_of(part)
  local batch = part.batch_id and ("batch %s"):format(name(part.batch_id))
  if part.ended then
    return ("%s has ended (%s); its results are to be downloaded"):format(batch or "its batch", name(part.ended.status))
  end
  if batch then return batch .. " is in flight" end
  if part.create_doubt then return "its batch may have been created: the service is asked before anything is sent" end
  if part.upload_doubt then return "its file may have been uploaded: the service is asked before anything is sent" end
  if part.requeued then return "it waits to be submitted again" end
  return part.file_id and "it is uploaded, and has no batch yet" or "it is not sent yet"
end

---@param iteration table
function Check:tell_what_is_under_way(iteration)
  for _, part in ipairs(iteration.parts) do
    if not part.done then
      self.found:note("parts under way", self.state:path(iteration.n, ""):gsub("/$", ""),
        ("part %d: %s"):format(part.part, state_of(part)))
    end
  end
  if not iteration.merged then self.is_under_way = true end
end

--- Whether a folder of the job, or the job itself, holds results.
local function holds_results(dir)
  for _, file in ipairs(fs.list(dir) or {}) do
    if file == "final_results.jsonl" or file:find("^merged_results_iteration_%d+%.jsonl$")
      or file:find("_output%.jsonl$") or file:find("_error%.jsonl$") then return true end
    if file:find("^iteration_%d+$") and holds_results(("%s/%s"):format(dir, file)) then return true end
  end
  return false
end

--- A journal that is empty, or gone where obatch has been at work, beside results.
function Check:check_beginning()
  local path, state = self.dir .. "/journal.jsonl", self.state
  local cure = "Restore it from a copy. Without it the same command begins anew: it takes over the batches that "
    .. "each iteration lists, and downloads their results again while the service has them"
  if not state.is_foreign and #state.events == 0 and state.events.damaged == 0 and holds_results(self.dir) then
    self.is_emptied = true
    self.found:fault("journal", path, "it holds no event, and there are results beside it", cure)
  elseif state.is_foreign and fs.stat(state:path(1, "unresolved_iteration_%d.jsonl")) then -- which is obatch's
    self.found:fault("journal", path, "it is missing, and there are results of obatch", cure)
  elseif state.is_foreign then
    self.found:note("journal", self.dir, "there is no journal.jsonl: it was made by an earlier script, and is checked "
      .. "as far as its files go")
  end
end

--- Folders of iterations that the journal does not know.
function Check:check_unknown_iterations()
  for _, file in ipairs(fs.list(self.dir) or {}) do
    local n = math.tointeger(tonumber(file:match("^iteration_(%d+)$")))
    if n and not self.state.iterations[n] then
      local folder = ("%s/%s"):format(self.dir, file)
      if fs.stat(self.state:ids_path(n)) then
        self.found:note("unknown iterations", folder, "the journal does not know it; it names batches",
          "The next run of correction_loop takes them over when it gets there")
      elseif fs.stat(self.state:merged_path(n)) then
        self.found:fault("unknown iterations", folder, "the journal does not know it, but it holds results",
          "They are not used: was the journal cut off? Restore it from a copy")
      end
    end
  end
end

-- ---------------------------------------------------------------- errands

--- A completed errand (see obatch.errand) has no requests any more; its record says which there were. Each has
--- an answer, or is in what was given up or left.
---@return nil
function Check:check_completed()
  local path = self.dir .. "/completed.json"
  local value, problem, at = json.decode(fs.read(path) or "")
  local record = errand.record(value)
  if not record then
    return self.found:fault("records", ("%s: byte %d"):format(path, at or 1), problem or "it is not a record", SAVE)
  end
  local ends, last = {}, #self.state.iterations
  for _, file in ipairs { self.dir .. "/final_results.jsonl", self.dir .. "/given_up.jsonl",
    self.state:path(last, "unresolved_iteration_%d.jsonl") } do
    for line in fs.stat(file) and jsonl.scan(file, { id = "/custom_id" }) or function() end do
      if line.error and not line.blank then
        self.found:fault("damaged lines", ("%s:%d: byte %d"):format(file, line.number, line.error_at or 1),
          "the line is not JSON", SAVE)
      elseif type(line.id) == "string" then
        ends[line.id] = true
      end
    end
  end
  for _, item in ipairs(record.items) do
    local id = item.custom_id
    if not ends[id] then
      self.found:fault("final results", self.dir .. "/final_results.jsonl", ("custom_id '%s' has no answer here, and "
        .. "nothing says why"):format(name(id)), "What came back for it is in the merged results. " .. SAVE)
    end
  end
end

-- ---------------------------------------------------------------- the whole

--- The table that the last run has left, for a job that cannot be judged.
---@return string|nil text
function Check:last_table()
  local content = fs.read(self.dir .. "/final_correction_log.txt", 1 << 16)
  local table_text = content and content:match("^(iteration .-)\n\n")
  if not table_text then return nil end
  self.found:note("requests", self.dir, "the table is that of the last run: without the request file nothing is judged "
    .. "again")
  return (table_text:gsub("[^\n]+", text.printable))
end

--- Checks a job.
---@param dir string
---@param options { rules: table, found: obatch.fsck.Report, original?: string }
---@return { state: table, table?: string, totals?: table, repairs: table }|nil result
---@return string|nil message
---@return string|nil code  "USAGE": it is no job
function job.check(dir, options)
  local self = setmetatable({ dir = dir, options = options, found = options.found, rules = options.rules,
    repairs = { merged = {}, lists = {}, leftovers = {}, iterations = {}, final = {} },
    is_completed = fs.stat(dir .. "/completed.json") ~= nil }, Check)
  self.is_errand = self.is_completed or fs.stat(dir .. "/record.json") ~= nil
  local message, code
  if fs.stat(dir .. "/journal.jsonl") then
    self.state, message, code = replay.job(dir, self.found)
  else
    self.state = replay.files(dir)
    if #self.state.iterations == 0 then
      return nil, dir .. " is not a job: it holds no journal.jsonl and no iteration_1", "USAGE"
    end
  end
  if not self.state then return nil, message, code end
  local state = self.state
  self:check_beginning()
  if state.events.torn then self.repairs.torn = dir .. "/journal.jsonl" end
  local _ <close> = setmetatable({}, { __close = function() if self.index then self.index:close() end end })
  local ok
  ok, message, code = self:find_original()
  if not ok then return nil, message, code end
  for _, iteration in ipairs(state.iterations) do
    self:check_links(iteration)
    self:check_requests(iteration)
    self:check_results(iteration)
    if not state.is_foreign then
      self:check_batch_list(iteration)
      self:tell_what_is_under_way(iteration)
    end
  end
  if self.without_digests then
    self.found:note("downloads", dir, "the journal is of an older obatch, and does not say what was downloaded: those "
      .. "files cannot be verified")
  end
  self:check_leftovers()
  self:check_unknown_iterations()
  if self.is_completed then self:check_completed() end
  if self.original then
    ok, message, code = judging.run(self)
    if not ok then return nil, message, code end
  end
  if not self.original then self.table = self:last_table() end
  if self.is_errand then self.repairs.final, self.repairs.iterations = {}, {} end
  self.repairs.is_unsafe = state.events.damaged > 0 or state.odd or state.unknown or self.has_changed
    or self.is_emptied or self.has_linked_folder
  return self
end

return job
