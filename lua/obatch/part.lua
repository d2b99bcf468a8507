--- A part: one file of requests and the batch that runs it. What has happened to a part is the events
-- that name it, in a journal; its state is nothing but those events applied.
--
--   part               its number, from 1
--   file, bytes, lines, endpoint, model     as planned (none of these when adopted)
--   fingerprint, or sha256     what the file is known by; older journals have the latter, and those of images
--   tokens_in, tokens_out    estimates for all its requests, as planned
--   adopted            its batch was submitted by somebody else
--   file_id, batch_id  at the service; nil when there is none yet
--   upload_doubt, create_doubt    an intent without a fact: ask before doing it again
--   requeued           how often its batch failed validation for a reason that passes
--   former_ids         the ids of those batches
--   ended              { status=, output_file_id=, error_file_id= } of its batch
--   fetched            "output" -> the file it was downloaded to, false when it is gone for good; only
--                      where the error file is still to come
--   rejected           file of result-like lines for requests that failed validation
--   model_refused      it is what a part was left with after lines were refused for their model
--   files              downloaded files, in order
--   digests            file -> { bytes=, fingerprint=, or sha256= } as downloaded
--   incomplete         the service may have more of its results than was downloaded
--   is_empty           its requests went to other parts (split), or are to be planned anew (dropped)
--   deleted            its files at the service are deleted, or to be kept there
--   done               nothing is left to do for it but, where that was asked for, to delete those files
--
-- While a run lasts, obatch.submission keeps what it sees in it: .status, .counts, .seen (the batch
-- object of the last look), .trouble and the like are in no journal; nor is .written, the
-- state (fs.state) of the request file when this process had written it.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"

local part = {}

--- The longest line of a request file, in bytes; no file is that long.
local MAX_LINE = 1 << 30

local apply = {}

function apply.intent(self, event)
  if event.what == "upload" then
    self.file_id, self.upload_doubt = nil, true
  else
    self.create_doubt = true
  end
end

function apply.refused(self, event)
  self[event.what == "upload" and "upload_doubt" or "create_doubt"] = nil
end

function apply.uploaded(self, event)
  self.file_id, self.upload_doubt = event.file_id, nil
end

function apply.created(self, event)
  self.batch_id, self.create_doubt = event.batch_id, nil
end

function apply.terminal(self, event)
  self.ended = event
end

function apply.fetched(self, event)
  self.fetched = self.fetched or {}
  self.fetched[event.kind] = event.file
  self.incomplete = self.incomplete or event.incomplete
end

function apply.requeued(self, event)
  self.batch_id, self.create_doubt, self.requeued = nil, nil, (self.requeued or 0) + 1
  self.former_ids = self.former_ids or {}
  table.insert(self.former_ids, event.batch_id)
end

function apply.rejected(self, event)
  self.done, self.rejected = true, event.file
end

function apply.downloaded(self, event)
  self.done, self.files, self.digests = true, event.files, event.digests
  self.incomplete = self.incomplete or event.incomplete
end

function apply.lost(self)
  self.done, self.files, self.digests, self.fetched = nil, nil, nil, nil
end

function apply.split(self)
  self.done, self.is_empty, self.files, self.batch_id = true, true, {}, nil
end

apply.dropped = apply.split

function apply.deleted(self)
  self.deleted = true
end

--- Changes a part by one event.
---@param self table
---@param event table
---@return boolean is_mine  false when the event is none of a part's
function part.apply(self, event)
  local change = apply[event.event]
  if change then change(self, event) end
  return change ~= nil
end

--- A new part for requests of an old one. Its tokens are estimated by its share of the bytes.
---@param self table
---@param number integer
---@param file string  where the requests are
---@param facts { lines: integer, bytes: integer, fingerprint: string }  of its writer
---@return table part
function part.successor(self, number, file, facts)
  local share = facts.bytes / self.bytes
  return { part = number, file = file, endpoint = self.endpoint, model = self.model, lines = facts.lines,
    bytes = facts.bytes, fingerprint = facts.fingerprint,
    tokens_in = (self.tokens_in or self.bytes // 4) * share // 1 | 0,
    tokens_out = (self.tokens_out or 0) * share // 1 | 0 }
end

--- Writes the lines of a part's request file into several files, in their order. What is planned with them are parts
--- that have been refused before.
---@param path string
---@param self table
---@param pieces integer
---@param place fun(i: integer): string, integer  the i-th file's path and its part's number
---@return table[]|nil parts
---@return string|nil message
---@return string|nil code
function part.split_file(path, self, pieces, place)
  local reader <close>, message, code = jsonl.open(path, { max_line = MAX_LINE })
  if not reader then return nil, message, code end
  local next_line, state = reader:lines()
  local successors, taken = json.array {}, 0
  for i = 1, pieces do
    local target, number = place(i)
    local last = self.lines * i // pieces
    local writer <close>, problem, reason = jsonl.create(target,
      { max_lines = self.lines, max_bytes = math.maxinteger, fingerprint = true })
    if not writer then return nil, problem, reason end
    while taken < last do
      local line = next_line(state)
      if not line or not line.text then return nil, path .. ": a line is gone or cannot be read", "EIO" end
      local ok, trouble, errno = writer:raw(line.text)
      if not ok then return nil, trouble, errno end
      taken = taken + 1
    end
    local facts, trouble, errno = writer:commit()
    if not facts then return nil, trouble, errno end
    successors[i] = part.successor(self, number, target:match("[^/]*$"), facts)
    successors[i].requeued = 1
  end
  return successors
end

--- What something is known by; nil when nothing says so. Older journals have the SHA-256.
---@param known { fingerprint?: string, sha256?: string }
---@return string|nil digest
function part.digest_of(known) return known.fingerprint or known.sha256 end

--- Whether the bytes of a file are those that something is known by.
---@param path string
---@param known { fingerprint?: string, sha256?: string }
---@param offset? integer  from 0
---@param length? integer  to the end
---@return boolean|nil is_it
---@return string|nil message
---@return string|nil code
function part.is_known(path, known, offset, length)
  local digest, message, code
  if known.fingerprint then
    digest, message, code = fs.fingerprint(path, offset, length)
  else
    digest, message, code = fs.sha256(path, offset, length)
  end
  if not digest then return nil, message, code end
  return digest == part.digest_of(known)
end

--- The beginning of what a part's request file is known by, for its name at the service.
---@param self table
---@return string digits
function part.short_digest(self) return part.digest_of(self):sub(1, 12) end

--- Which of the downloaded files of a part is not as it was downloaded. What an older journal does not know is only
--- looked for. A file that cannot be read may be as it was: that is nil, message, CODE.
---@param self table
---@param dir string  the folder of the files
---@return string|nil path  nil alone: all of them are as they were
---@return string|nil message
---@return string|nil code
function part.damaged_file(self, dir)
  for _, name in ipairs(self.files or {}) do
    name = name:match("[^/]*$")
    local path, digest = dir .. name, self.digests and self.digests[name]
    local is_it, message, code
    if digest then
      is_it, message, code = part.is_known(path, digest)
    else
      is_it, message, code = fs.stat(path)
    end
    if is_it == nil and code ~= "ENOENT" then return nil, message, code end
    if not is_it then return path end
  end
end

--- Whether nothing of a part has left this machine, so that it may as well be planned anew.
---@param self table
---@return boolean
function part.is_untouched(self)
  return not (self.adopted or self.file_id or self.batch_id or self.done or self.upload_doubt or self.requeued)
end

--- Whether a part is planned and certainly has no batch, though its file may be uploaded.
---@param self table
---@return boolean
function part.is_unsent(self)
  return not (self.adopted or self.batch_id or self.done or self.upload_doubt or self.create_doubt)
end

--- Ids come from the service; what is not safe in a file name becomes %XX.
---@param id string
---@return string name
function part.file_name(id)
  return (id:gsub("[^%w_-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

return part
