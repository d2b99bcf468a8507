--- What a session has at hand: batches() and batch(id) of the service, job(dir), results(file), requests(file).
--- They raise where something fails, and are shown as tables.

local columns = require "obatch.columns"
local fs = require "obatch.fs"
local fsck = require "obatch.fsck"
local json = require "obatch.json"
local history = require "obatch.history"
local openai = require "obatch.openai"
local outcome = require "obatch.outcome"
local policy = require "obatch.policy"
local progress = require "obatch.progress"
local service = require "obatch.service"
local show = require "obatch.repl.show"
local stream = require "obatch.repl.stream"
local tell = require "obatch.history.tell"
local text = require "obatch.text"
local units = require "obatch.units"

local objects = {}
local check = stream.check

--- Batches that batches() shows at a time.
local BATCHES = 20

local function fail(message, code) check(nil, message, code) end

local function note(format, ...)
  progress.hide()
  io.stderr:write(text.shown(format:format(...)), "\n")
end

-- ---------------------------------------------------------------- batches

--- The client of the API, made when it is needed first: a session without a key can look at files.
local client, client_options

local function api()
  local function log(line) note("%s", line) end
  if not client then client = check(openai.from_options(client_options or {}, policy, log)) end
  return client
end

--- A batch object of the service, with its fields as they came, but for nulls, and `errors`, which is the method:
--- the errors of a validation are in `validation_errors`.
---@class obatch.repl.Batch
---@field id string
---@field status string
---@field validation_errors table?
local Batch = { __name = "batch" }
Batch.__index = Batch

--- batch -> the object as the API client returned it
local REPLIES = setmetatable({}, { __mode = "k" })

--- What Job:class takes.
local CLASSES = table.move(outcome.CLASSES, 1, #outcome.CLASSES, 1, {})
table.move({ "in flight", "not sent", "resend", "give_up", "keep" }, 1, 5, #CLASSES + 1, CLASSES)

--- Those, and ids that were seen, for Tab.
local seen, is_seen = table.move(CLASSES, 1, #CLASSES, 1, {}), {}

local function fill(batch, reply)
  for key in next, batch do batch[key] = nil end
  -- decoded anew from its bytes: whole numbers stay whole
  for key, value in next, json.decode(openai.raw(reply) or "") or reply do
    if value ~= json.null and openai.present(value) ~= nil then
      batch[key == "errors" and "validation_errors" or key] = value
    end
  end
  REPLIES[batch] = reply
  if type(reply.id) == "string" and not is_seen[reply.id] then
    seen[#seen + 1], is_seen[reply.id] = reply.id, true
  end
  return batch
end

--- What a method is called for; it says so where the dot was meant to be a colon.
local function own(map, self, example)
  return check(self and map[self], "this is a method: write it with a colon, as in " .. example)
end

local function reply_of(batch) return own(REPLIES, batch, "b:refresh()") end

local function new_batch(reply) return fill(setmetatable({}, Batch), reply) end

function Batch.__tostring(batch) return text.shown(batch.id) .. " " .. service.words(REPLIES[batch]) end
function Batch.__display(batch, width) return service.describe(REPLIES[batch], width) end

--- Asks the service how the batch is now.
---@return obatch.repl.Batch self
function Batch:refresh() return fill(self, check(api():batch(reply_of(self).id))) end

--- Asks the service to cancel it. What has been answered by then can be downloaded later.
---@return obatch.repl.Batch self
function Batch:cancel() return fill(self, check(api():cancel_batch(reply_of(self).id))) end

--- Brings the output and the error file here, or to a folder; what is there already is not fetched again.
---@param dir string?
---@return { output: string?, errors: string? } paths
function Batch:download(dir)
  reply_of(self)
  if dir then check(fs.mkdir(dir)) end
  Batch.refresh(self)
  local paths, absent = {}, nil
  for _, kind in ipairs { "output", "errors" } do
    local path, bytes, code = service.download(api(), REPLIES[self], kind, dir)
    if not path and code ~= "ABSENT" then fail(bytes, code) end
    if path then note("%s: %s", path, units.bytes(bytes)) else absent = absent or bytes end
    paths[kind] = path
  end
  if not next(paths) then fail(absent, "ABSENT") end
  return paths
end

local function fetched(batch, kind)
  Batch.refresh(batch)
  local path, bytes, code = service.download(api(), REPLIES[batch], kind)
  if not path then fail(bytes, code) end
  return path
end

--- The requests of the batch; its input file is fetched to this folder where it is not there.
---@return obatch.repl.Stream
function Batch:requests() return stream.requests(fetched(self, "input")) end

--- The results of the batch, those of its output file; likewise.
---@return obatch.repl.Stream
function Batch:results() return stream.results(fetched(self, "output")) end

--- The lines of its error file; likewise.
---@return obatch.repl.Stream
function Batch:errors() return stream.results(fetched(self, "errors")) end

--- Batches as the service lists them, a table of batch objects.
---@class obatch.repl.Page
local Page = { __name = "batches" }
Page.__index = Page

local function new_page(limit, after)
  local list, more, code = service.recent(api(), limit, after)
  if not list then fail(more, code) end
  local page = setmetatable({}, Page)
  for i, reply in ipairs(list) do page[i] = new_batch(reply) end
  page._next, page._limit = more, limit
  return page
end

--- The page that follows.
---@return obatch.repl.Page
function Page:more()
  if getmetatable(self) ~= Page then fail("this is a method: write it with a colon, as in _:more()") end
  if not self._next then fail("there are no more batches") end
  return new_page(self._limit, self._next)
end

function Page.__display(page, width)
  if #page == 0 then return "no batches\n" end
  local replies = {}
  for i, each in ipairs(page) do replies[i] = REPLIES[each] end
  return service.table(replies, width) .. (page._next and "_:more() shows the next ones\n" or "")
end

function Page.__tostring(page) return ("%d batches"):format(#page) end

-- ---------------------------------------------------------------- jobs

--- A job of the correction loop, also an errand of download or deep_clean, as its files tell.
---@class obatch.repl.Job
---@field dir string
---@field original string?
---@field totals table
---@field notes string[]
---@field rules table
local Job = { __name = "job" }
Job.__index = Job

--- job -> obatch.History
local HISTORIES = setmetatable({}, { __mode = "k" })

local function history_of(job) return own(HISTORIES, job, "j:iterations()") end

local function fill_job(job, dir)
  local before = HISTORIES[job]
  local h = check(history.open(dir))
  if before then before:close() end
  for key in next, job do job[key] = nil end
  for _, key in ipairs { "dir", "run", "original", "holder", "totals", "notes", "rules" } do job[key] = h[key] end
  HISTORIES[job] = h
  return job
end

--- Looks at the files again, which a run may have changed.
---@return obatch.repl.Job self
function Job:refresh() return fill_job(self, history_of(self).dir) end

local Iterations = { __name = "iterations" }

--- One line for each iteration, on the screen; each is a table: n, state, submitted, classes, batches.
---@return table[]
function Job:iterations()
  local list = setmetatable({}, Iterations)
  for i, iteration in ipairs(history_of(self).iterations) do list[i] = iteration end
  return list
end

function Iterations.__display(list, width)
  local shape = { { "iteration", align = "right" }, { "state" }, { "batches", align = "right", drop = 1 },
    { "submitted", align = "right" } }
  local is_used = {}
  for _, iteration in ipairs(list) do
    for class, count in pairs(iteration.classes) do is_used[class] = is_used[class] or count > 0 end
  end
  for i, class in ipairs(outcome.CLASSES) do
    local drop = class ~= "valid" and 2 + #outcome.CLASSES - i or nil -- the rarest ones first
    if is_used[class] then shape[#shape + 1] = { class, align = "right", drop = drop } end
  end
  local rows = {}
  for i, iteration in ipairs(list) do
    rows[i] = { iteration.n, iteration.state, #iteration.batches, iteration.submitted }
    for n = 5, #shape do rows[i][n] = iteration.classes[shape[n][1]] or 0 end
  end
  return #rows == 0 and "no iterations yet\n" or columns.format(rows, shape, width)
end

--- The requests whose last outcome has a class ("truncated", ...), or which are in a state: "in flight", "not sent",
--- "resend", "give_up", "keep".
---@param class string
---@return obatch.repl.Stream
function Job:class(class)
  local good = false
  for _, name in ipairs(CLASSES) do good = good or name == class end
  if not good then
    fail(("there is no class %q; there are: %s"):format(tostring(class), table.concat(CLASSES, ", ")))
  end
  local h = history_of(self)
  return stream.items(("requests of %s: %s"):format(text.shown(self.dir), class), function() return h:items(class) end)
end

local Story = { __name = "story" }

--- The whole story of a request: every attempt, its request, answer, reason and action. On the screen the text of
--- `obatch why`; a table with `attempts`.
---@param custom_id string
---@return obatch.history.Story
function Job:why(custom_id)
  return setmetatable(check(history_of(self):story(custom_id)), Story)
end

function Story.__display(story, width) return tell.story(story, width) end

function Job.__display(job, width) return tell.status(HISTORIES[job], width) end

function Job.__tostring(job)
  local totals = job.totals
  local words = ("job %s: %s requests"):format(text.shown(job.dir), units.number(totals.requests))
  for _, key in ipairs { "valid", "given_up", "left", "in_flight" } do
    if totals[key] > 0 then words = words .. (", %s %s"):format(units.number(totals[key]), (key:gsub("_", " "))) end
  end
  return words
end

-- ---------------------------------------------------------------- the session's own functions

--- The folders in a folder that are of a kind, as job() opens them or as their names.
local function folders_in(dir, is_job)
  local list = {}
  for _, name in ipairs(fs.list(dir) or {}) do
    local path = dir .. "/" .. name
    local kind = (fs.stat(path) or {}).type == "dir" and fsck.kind(path)
    if kind and (kind == "job" or not is_job) and #list < 5 then
      list[#list + 1] = text.shown(is_job and ("job %q"):format(path) or path)
    end
  end
  return table.concat(list, ", ")
end

local MADE_BY = { images = "a folder of batches (upload, download)", errands = "a folder of deep_clean" }

--- What a folder is, in words, and the words for its jobs; nil for something else.
---@param dir string
---@return string? kind "job", "images" or "errands"
---@return string? words
function objects.describe(dir)
  local kind = fsck.kind(dir)
  if not kind or kind == "job" then return kind, kind end
  local jobs = folders_in(dir, true)
  return kind, MADE_BY[kind] .. (jobs ~= "" and "; the jobs in it: " .. jobs or "; there is no job in it yet")
end

--- The recent batches, newest first: a table of batch objects. _:more() is the next page.
---@param limit integer? so many at a time (20)
---@return obatch.repl.Page
function objects.batches(limit)
  limit = math.tointeger(limit or BATCHES)
  if not limit or limit < 1 then fail("batches() takes how many to show, at least 1") end
  return new_page(limit)
end

--- The batch with an id.
---@param id string
---@return obatch.repl.Batch
function objects.batch(id)
  if type(id) ~= "string" or id == "" then fail('the id of a batch is expected: batch "batch_..."') end
  local reply, message, code = api():batch(id)
  if not reply and code == "NOT_FOUND" then
    local near = service.near(api(), id)
    if #near > 0 then message = message .. "; near it: " .. text.shown(table.concat(near, ", ")) end
  end
  return new_batch(check(reply, message, code))
end

--- The job in a folder. It reads only, and can be used beside a run.
---@param dir string
---@return obatch.repl.Job
function objects.job(dir)
  if type(dir) ~= "string" then fail('a folder is expected: job "Cleaned_results"') end
  if stream.find(dir).type ~= "dir" then
    fail(("%s is a file: results or requests opens it"):format(text.shown(dir)))
  end
  local kind, words = objects.describe(dir)
  if kind and kind ~= "job" then fail(("%s is no job but %s"):format(text.shown(dir), words)) end
  if not kind then
    local others = folders_in(dir)
    fail(("%s is no job: it has no journal and no iteration_1%s"):format(text.shown(dir),
      others ~= "" and "; there are in it: " .. others or ""))
  end
  return fill_job(setmetatable({}, Job), dir)
end

objects.results = stream.results
objects.requests = stream.requests

--- The classes of requests and the ids of batches that were seen, for Tab.
---@return string[]
function objects.known_words() return seen end

--- The options of the API client that is made later (see openai.options), and the rules by which results are
--- judged that no job judges.
---@param options table
---@param rules table
function objects.set_up(options, rules)
  client_options, show.rules = options, rules
end

--- What has a name in the README: for help.
---@type table[]
objects.NAMED = {
  { name = "batch", value = Batch, prefix = "b:", section = "Batches at the service",
    within = "obatch repl" },
  { name = "page", value = Page, prefix = "_:", section = "Batches at the service",
    within = "obatch repl" },
  { name = "job", value = Job, prefix = "j:", section = "Jobs",
    within = "obatch repl" },
  { name = "stream", value = stream.Stream, prefix = "r:", section = "Files of any size",
    within = "obatch repl" },
}

return objects
