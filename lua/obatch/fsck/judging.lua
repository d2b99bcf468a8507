--- Judges the merged results of a job again, and compares all that follows from them: the counts, what each
-- iteration has left, and the final files. Reads only.

local difference = require "obatch.fsck.difference"
local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local ledger = require "obatch.ledger"
local outcome = require "obatch.outcome"
local progress = require "obatch.progress"
local report = require "obatch.fsck.report"

local judging = {}
local name = report.name

--- Corrected results of an earlier script are read whole up to this size.
local MAX_DECODED = 64 * 1000 * 1000

local RERUN = "The next run of the same command writes it"
local REPAIR = "--repair makes it anew"

--- Whether the last outcome of a request is a good answer.
local function is_valid(book, ordinal) return outcome.CLASSES[book.last[ordinal]] == "valid" end

--- Compares one of the files that a ledger writes (of iteration n), as difference.find.
local function compare(path, file, book, n)
  local stage, bytes = progress.stage("comparing " .. path:match("[^/]*$"), { unit = "bytes",
    total = (fs.stat(path) or {}).size }), 0
  return difference.find(path, function(put)
    book:pieces(file, function(piece, ordinal)
      bytes = bytes + #piece
      stage:update(bytes)
      return put(piece, ordinal)
    end, n)
  end)
end

-- ---------------------------------------------------------------- one iteration

--- submitted = valid + every other class, and what was submitted is what was planned.
local function check_conservation(check, book, n)
  local summary, sum, planned = book.iterations[n], 0, 0
  for _, class in ipairs(outcome.CLASSES) do sum = sum + summary[class] end
  local where, iteration = check.state:path(n, ""):gsub("/$", ""), check.state.iterations[n]
  if sum ~= summary.submitted then
    check.found:fault("counts", where, ("%d requests were submitted, the classes add up to %d"):format(
      summary.submitted, sum))
  end
  for _, part in ipairs(iteration.parts) do
    if not part.of and not part.is_dropped then planned = planned + (part.lines or 0) end
  end
  if not iteration.adopted and planned ~= summary.submitted and not check.has_changed and not check.is_completed then
    check.found:fault("counts", where, ("by the journal %d requests were planned, by the files %d were submitted")
      :format(planned, summary.submitted), "Look at its request files")
  end
end

--- What to do about a file that other verdicts have made; `else_words`: where that is not why.
local function cause_of(check, else_words)
  local decided = fs.stat(check.dir .. "/decisions.jsonl") ~= nil
  return ("Was the job run with another --policy? Name it. %s, %s"):format(decided
    and "Or was a line of decisions.jsonl deleted? The next run writes it anew. If neither" or "If not", else_words)
end

--- A derived file that is not what judging again gives.
local function tell_difference(check, path, found, book, is_not_yet)
  local kind = "files that follow from the results"
  if found.what == "missing" and is_not_yet then
    return check.found:note(kind, path, "it is not written yet", RERUN)
  elseif found.what == "missing" then
    return check.found:fault(kind, path, "it is missing", REPAIR)
  end
  local about = found.ordinal and (" at custom_id '%s'"):format(name(book:id(found.ordinal))) or ""
  local where = ("%s:%d: byte %d"):format(path, found.line, found.byte)
  if check.is_errand then
    return check.found:note(kind, where, ("it %s%s"):format(found.what, about), "The command that wrote it has "
      .. "rules of its own")
  end
  check.found:fault(kind, where, ("it %s%s; judging the results again, by these rules, gives something else"):format(
    found.what, about), cause_of(check, REPAIR))
end

--- The files of iteration n, which was judged last; `is_open`: nothing was written after it yet.
local function check_iteration_files(check, book, n, is_open)
  for _, file in ipairs(ledger.OF_ITERATION) do
    local path = check.state:path(n, file)
    local found, message = compare(path, file, book, n)
    if message then
      check.found:fault("unreadable files", path, message)
    elseif found then
      tell_difference(check, path, found, book, is_open)
      check.repairs.iterations[n] = check.repairs.iterations[n] or {}
      table.insert(check.repairs.iterations[n], path)
    end
  end
end

-- ---------------------------------------------------------------- the final files

--- Every line of final_results.jsonl: is its answer the one that counts? Returns the ordinals it has, and
--- whether the file holds answers that the merged results do not.
local function check_final_lines(check, book, path)
  local found, seen, is_more = check.found, {}, false
  if not fs.read(path, 1) then
    found:fault("unreadable files", path, (select(2, fs.read(path, 1))))
    return true
  end
  for record in jsonl.scan(path, { id = "/custom_id" }) do
    local where = ("%s:%d"):format(path, record.number)
    local ordinal = type(record.id) == "string" and book.index:find(record.id) or nil
    if record.error and not record.blank then
      found:fault("damaged lines", ("%s: byte %d"):format(where, record.error_at or 1), "the line is not JSON", REPAIR)
    elseif not record.error and not ordinal then
      found:fault("final results", where, ("custom_id '%s' was never submitted"):format(name(record.id)), REPAIR)
    elseif ordinal and seen[ordinal] then
      found:fault("final results", where, ("custom_id '%s' is there twice"):format(name(record.id)), REPAIR)
    elseif ordinal and not is_valid(book, ordinal) then
      is_more = true
      found:fault("final results", where, ("custom_id '%s' has no good answer in any iteration"):format(
        name(record.id)), cause_of(check, "this line may be all that is left of the answer: bring the results of its "
        .. "iteration back. --repair leaves the file alone"))
    elseif ordinal and not check.state.is_foreign and record.text ~= book:result_line(ordinal) then
      found:fault("final results", where, ("the line of custom_id '%s' is not the one that was received"):format(
        name(record.id)), REPAIR)
    end
    if ordinal then seen[ordinal] = true end
  end
  for ordinal = 1, book.index.count do
    if is_valid(book, ordinal) and not seen[ordinal] then
      found:fault("final results", path, ("custom_id '%s' has a good answer, and is not there"):format(
        name(book:id(ordinal))), REPAIR)
    end
  end
  return is_more
end

--- The final files of an earlier script, as far as they are known: each good answer must be in them.
local function check_foreign_files(check, book)
  local found, faults = check.found, check.found.faults
  local final, path = check.dir .. "/final_results.jsonl", check.dir .. "/corrected_results.json"
  local is_more = fs.stat(final) and check_final_lines(check, book, final) or false
  local stat = fs.stat(path)
  if stat and stat.size > MAX_DECODED then
    found:note("final results", path, "it is too large to be compared")
  elseif stat then
    local answers, problem, at = json.decode(fs.read(path) or "")
    if type(answers) ~= "table" then
      found:fault("damaged lines", ("%s: byte %d"):format(path, at or 1), problem or "it is no JSON object", REPAIR)
      answers = nil
    end
    for ordinal = 1, answers and book.index.count or 0 do
      local id, is_good = book:id(ordinal), is_valid(book, ordinal)
      if is_good and answers[id] == nil then
        found:fault("final results", path, ("custom_id '%s' has a good answer, and is not there"):format(name(id)),
          REPAIR)
      elseif not is_good and answers[id] ~= nil then
        is_more = true
        found:fault("final results", path, ("custom_id '%s' has no good answer in any iteration"):format(name(id)),
          "Was it judged by another --policy? Name it. If not, this may be all that is left of its answer: --repair "
          .. "leaves the file alone")
      end
    end
  end
  if found.faults > faults and not is_more then
    for _, file in ipairs(ledger.FINAL) do
      if fs.stat(check.dir .. "/" .. file) then table.insert(check.repairs.final, check.dir .. "/" .. file) end
    end
  end
end

--- Where the final files differ from what judging gives: file -> a difference; .count of them, .missing of those.
local function compare_final_files(check, book)
  local all = { by_file = {}, count = 0, missing = 0 }
  for _, file in ipairs(ledger.FINAL) do
    local path = check.dir .. "/" .. file
    local one, message = compare(path, file, book)
    if message then
      check.found:fault("unreadable files", path, message)
    elseif one then
      all.by_file[file], all.count = one, all.count + 1
      if one.what == "missing" then all.missing = all.missing + 1 end
    end
  end
  return all
end

--- After which other iteration than the last one each of the final files that differ was what it is: file ->
--- number. One after the last, which the journal does not know as merged, or not at all, is .beyond: then the end of
--- the journal is missing. Judges anew, which only those need. nil, message, CODE.
local function written_after(check, different, last)
  local after, state = {}, check.state
  local index <close>, problem, reason = jsonl.index(check.original, "/custom_id")
  if not index then return nil, problem, reason end
  local book, message, code = ledger.new(state, index, check.rules, function() end)
  if not book then return nil, message, code end
  local known = #state.iterations
  local _ <close> = setmetatable({}, { __close = function()
    while #state.iterations > known do table.remove(state.iterations) end
  end })
  local n = 1
  while n <= last or fs.stat(state:merged_path(n)) do
    state.iterations[n] = state.iterations[n] or { n = n, parts = {} }
    local ok
    ok, message, code = book:add(n)
    if not ok and n > last then break end
    if not ok then return nil, message, code end
    for file in pairs(n ~= last and different.by_file or {}) do
      if not compare(check.dir .. "/" .. file, file, book) then
        after[file] = n
        if n > last then after.beyond = n end
      end
    end
    n = n + 1
  end
  return after
end

--- The final files hold more than the journal knows of, up to iteration n.
local function tell_missing_end(check, n, last)
  local first, are_known = check.state.iterations[last + 1], true
  for _, part in ipairs(first and first.parts or {}) do
    are_known = are_known and (part.done or part.batch_id or part.create_doubt or part.upload_doubt)
  end
  if not first then are_known = fs.stat(check.state:ids_path(last + 1)) ~= nil end
  check.found:fault("journal", check.dir .. "/journal.jsonl", ("its end is missing: by it iteration %d is not merged, "
    .. "and the final files were made with iteration %d"):format(last + 1, n), are_known
    and "Run the same command: it completes the job" or "Restore it from a copy: the same command would send again "
    .. "what the journal does not know")
end

--- The final files. true | nil, message, CODE.
local function check_final_files(check, book, different, last)
  local found, dir, final = check.found, check.dir, check.repairs.final
  if different.missing == #ledger.FINAL then
    if not check.is_under_way and check.totals.left == 0 then
      found:note("final files", dir, "the final files are not written yet",
        "The next run of the same command writes them")
      final[1] = dir .. "/final_results.jsonl"
    end
    return true
  end
  local after, message, code = {}, nil, nil
  if different.count > different.missing then after, message, code = written_after(check, different, last) end
  if not after then return nil, message, code end
  if after.beyond then
    tell_missing_end(check, after.beyond, last)
    return true
  end
  local is_more = false
  for _, file in ipairs(ledger.FINAL) do
    local path, one = dir .. "/" .. file, different.by_file[file]
    if one and after[file] then
      found:note("final files", path, ("it was written after iteration %d, and there are more results since"):format(
        after[file]), "The next run of the same command writes it anew")
    elseif one then
      tell_difference(check, path, one, book)
      if file == "final_results.jsonl" and one.what ~= "missing" and not check.is_errand then
        is_more = check_final_lines(check, book, path)
      end
    end
    if one then final[#final + 1] = path end
  end
  if is_more then check.repairs.final, check.repairs.iterations = {}, {} end
  return true
end

-- ---------------------------------------------------------------- the whole

--- Judges what is merged, as far as it can be read: sets .table (text), .totals ({ requests=, valid=,
--- given_up=, left= }) and .last_judged of a check (obatch.fsck.job).
---@param check table
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function judging.run(check)
  local state = check.state
  local index <close>, problem, reason = jsonl.index(check.original, "/custom_id")
  if not index then return nil, problem, reason end
  local book, message, code = ledger.new(state, index, check.rules, function() end)
  if not book then return nil, message, code end
  local last, different = 0, nil
  for n, iteration in ipairs(state.iterations) do
    if not iteration.merged or not fs.stat(state:merged_path(n)) then break end
    local ok, why = book:add(n)
    if not ok then
      check.found:fault("unreadable files", state:path(n, ""), why)
      break
    end
    last = n
    check_conservation(check, book, n)
    if not state.is_foreign then
      if n == #state.iterations then different = compare_final_files(check, book) end
      check_iteration_files(check, book, n, different and different.count == #ledger.FINAL)
    end
  end
  check.table, check.last_judged = last > 0 and book:table() or nil, last
  local valid, left = 0, #book:to_send()
  for ordinal = 1, book.index.count do
    if is_valid(book, ordinal) then valid = valid + 1 end
  end
  check.totals = { requests = book.index.count, valid = valid, given_up = book.index.count - valid - left, left = left }
  local next_one = state.iterations[last + 1]
  if next_one and next_one.merged then
    -- What is known is not all there is: nothing that follows from it may be written.
    check.repairs.iterations = {}
    check.found:note("counts", check.dir, ("only what came before iteration %d could be judged"):format(last + 1))
  elseif state.is_foreign then
    check_foreign_files(check, book)
  else
    return check_final_files(check, book, different or compare_final_files(check, book), last)
  end
  return true
end

return judging
