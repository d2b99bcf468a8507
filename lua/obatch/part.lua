--- A part: one file of requests and the batch that runs it. What has happened to a part is the events
-- that name it, in a journal; its state is nothing but those events applied.
--
--   part               its number, from 1
--   file, bytes, lines, sha256, endpoint, model     as planned (none of these when adopted)
--   adopted            its batch was submitted by somebody else
--   file_id, batch_id  at the service; nil when there is none yet
--   upload_doubt, create_doubt    an intent without a fact: ask before doing it again
--   requeued           how often its batch failed validation for a reason that passes
--   ended              { status=, output_file_id=, error_file_id= } of its batch
--   fetched            "output" -> the file it was downloaded to, false when it is gone for good; only
--                      where the error file is still to come
--   rejected           file of result-like lines for requests that failed validation
--   model_refused      it is what a part was left with after lines were refused for their model
--   files              downloaded files, in order
--   done               nothing is left to do for it
--
-- While a run lasts, obatch.submission keeps what it sees in it: .status, .counts, .seen (the batch
-- object of the last look), .trouble and the like are in no journal.

local part = {}

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
end

function apply.requeued(self)
  self.batch_id, self.create_doubt, self.requeued = nil, nil, (self.requeued or 0) + 1
end

function apply.rejected(self, event)
  self.done, self.rejected = true, event.file
end

function apply.downloaded(self, event)
  self.done, self.files = true, event.files
end

--- Changes a part by one event; false when the event is none of a part's.
function part.apply(self, event)
  local change = apply[event.event]
  if change then change(self, event) end
  return change ~= nil
end

--- Ids come from the service; what is not safe in a file name becomes %XX.
function part.file_name(id)
  return (id:gsub("[^%w_-]", function(char) return ("%%%02X"):format(char:byte()) end))
end

return part
