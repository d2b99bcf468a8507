--- The sandbox's Files and Uploads: validation, storage, expiry.
--
-- Functions that the API's user can get wrong return nil and a problem
-- { status =, message =, param =, code =, type = }, which the server puts into the error envelope.

local fs = require "obatch.fs"
local json = require "obatch.json"
local jsonl = require "obatch.jsonl"
local store = require "obatch.sandbox.store"
local term = require "obatch.term"

local MAX_FILE = 512 * 1024 * 1024
local MAX_PART = 64 * 1024 * 1024
local MAX_UPLOAD = 8 * 1024 * 1024 * 1024
local UPLOAD_SECONDS = 3600
local BATCH_FILE_SECONDS = 30 * 86400 -- batch input and output files; the others stay

local purposes = {
  assistants = true, batch = true, ["fine-tune"] = true, vision = true, user_data = true, evals = true,
}

local Files = {}
Files.__index = Files

local files = {}

--- The largest body that can be right: a file and what multipart adds.
files.max_body = MAX_FILE + 1024 * 1024

---@class obatch.sandbox.FileOptions
---@field lax_uploads? boolean             accept any bytes
---@field refuse_large? "upload"|"batch"   with 400, or the batch fails

---@param dir string
---@param faults table
---@param options obatch.sandbox.FileOptions
---@return table files
function files.open(dir, faults, options)
  return setmetatable({
    files = store.open(dir .. "/files"), uploads = store.open(dir .. "/uploads"),
    faults = faults, options = options,
  }, Files)
end

local function problem(message, param, code, status)
  return nil, { status = status or 400, message = message, param = param, code = code }
end

---@param name string  of the parameter
---@return nil
---@return table problem
function files.missing(name)
  return problem(("Missing required parameter: '%s'."):format(name), name, "missing_required_parameter")
end

--- Seconds of an expiry policy; nil alone when there is none.
---@param policy any    { anchor =, seconds = }
---@param name string
---@return integer|nil seconds
---@return table|nil problem
function files.expiry(policy, name)
  if policy == nil or policy == json.null then return nil end
  if type(policy) ~= "table" then
    return problem(("Invalid type for '%s': expected an object."):format(name), name, "invalid_type")
  end
  if policy.anchor ~= "created_at" then
    return problem(("Invalid value for '%s.anchor'. Supported values are: 'created_at'."):format(name),
      name .. ".anchor", "invalid_value")
  end
  local seconds = policy.seconds
  if math.type(seconds) ~= "integer" or seconds < 3600 or seconds > 2592000 then
    return problem(("Invalid value for '%s.seconds': expected an integer from 3600 to 2592000."):format(name),
      name .. ".seconds", "invalid_value")
  end
  return seconds
end

-- What uploading looks at: the name, the size, the first line. The rest is for the batch to find.
local function check_content(self, purpose, filename, path, size)
  if size > MAX_FILE then return problem("File is too large.", nil, nil, 413) end
  if purpose ~= "batch" then return true end
  if not filename:find("%.jsonl$") then
    local _, refusal = problem("Invalid file format for Batch API. Must be .jsonl")
    refusal.detail = { message = refusal.message, code = json.null }
    return nil, refusal
  end
  if self.options.refuse_large == "upload" and size > self:max_input() then
    return problem("File is too large.")
  end
  if not self.options.lax_uploads then
    local reader <close> = assert(jsonl.open(path))
    local next_line, state = reader:lines()
    local first = next_line(state)
    -- A byte order mark passes here and fails in the batch, which is how it is met in the field.
    if not first or not first.text or not json.check((first.text:gsub("^\xEF\xBB\xBF", ""))) then
      return problem("Invalid file format. Expected .jsonl: each line must be a valid JSON object.")
    end
  end
  return true
end

--- The size from which a batch refuses its input file.
---@return integer bytes
function Files:max_input() return self.faults:limit("bytes") or 209715200 end

-- The bytes of all files together.
local function stored(self)
  local bytes = 0
  for _, record in ipairs(self.files.order) do
    if self:find(record.object.id) then bytes = bytes + record.object.bytes end
  end
  return bytes
end

-- What a storage quota says to a file of `size` bytes: true | nil, problem. (The words are a guess.)
local function check_storage(self, size)
  local quota = self.faults:limit("storage")
  if not quota or stored(self) + size <= quota then return true end
  return problem(("You have exceeded your file storage quota of %d bytes. Please delete files that you no longer "
    .. "need."):format(quota))
end

--- Where the bytes of a file are.
---@param id string
---@return string path
function Files:path(id) return self.files:path(id) end

-- Makes the record of a file whose bytes are already in place under `id`.
local function add(self, id, filename, purpose, size, seconds)
  local now = term.time()
  local fault = self.faults:file()
  local created = math.floor(now)
  seconds = seconds or purpose:find("^batch") and BATCH_FILE_SECONDS or nil
  if purpose == "batch" and fault.expire then seconds = fault.expire end
  return self.files:add {
    hidden_until = fault.hidden and now + fault.hidden, expires = seconds and now + seconds,
    object = {
      id = id, object = "file", bytes = size, created_at = created, filename = filename, purpose = purpose,
      expires_at = seconds and math.floor(created + seconds) or json.null,
      status = "processed", status_details = json.null,
    },
  }
end

local function new_id() return "file-" .. fs.random(11) end

--- POST /files
---@param req obatch.httpd.Request  with a form
---@return table|nil record
---@return table|nil problem
function Files:create(req)
  local form = req.form
  if not form then
    return problem(req.form_error or "This endpoint takes multipart/form-data.")
  end
  local part = form.file
  if not form.purpose then return files.missing("purpose") end
  if type(part) ~= "table" then return files.missing("file") end
  if not purposes[form.purpose] then
    return problem(("Invalid value: '%s' for 'purpose'."):format(form.purpose), "purpose", "invalid_value")
  end
  local policy
  if form["expires_after[anchor]"] or form["expires_after[seconds]"] then
    policy = {
      anchor = form["expires_after[anchor]"],
      seconds = math.tointeger(tonumber(form["expires_after[seconds]"])),
    }
  end
  local seconds, wrong = files.expiry(policy, "expires_after")
  if wrong then return nil, wrong end
  local filename = part.filename or "file"
  local good, refusal = check_content(self, form.purpose, filename, part.path, part.size)
  if good then good, refusal = check_storage(self, part.size) end
  if not good then return nil, refusal end

  local id = new_id()
  assert(req:keep(self:path(id)))
  return add(self, id, filename, form.purpose, part.size, seconds)
end

--- Makes a file of a batch's results out of bytes written to path(id).
---@param id string
---@param filename string
---@param size integer
---@param seconds? number  until it expires
---@return table record
function Files:add_result(id, filename, size, seconds)
  return add(self, id, filename, "batch_output", size, seconds)
end

--- An id whose bytes the caller is going to write.
files.new_id = new_id

--- The record of a file that is there to see.
---@param id string
---@return table|nil record
function Files:find(id)
  local record = self.files:get(id)
  local now = term.time()
  if not record or (record.hidden_until or 0) > now or (record.expires or now + 1) <= now then return nil end
  return record
end

--- Forgets a file.
---@param id string
---@param in_use? boolean  a batch is running on its bytes: they stay
function Files:delete(id, in_use)
  self.files:remove(id)
  if not in_use then assert(fs.remove(self:path(id))) end
end

--- Removes the bytes of a file that was deleted while a batch used it. The id may be anything that a
-- user gave as one.
---@param id any
function Files:release(id)
  if id:find("^file%-%x+$") and not self.files:get(id) then assert(fs.remove(self:path(id))) end
end

---@param limit integer
---@param after? string  an id
---@param ascending? boolean
---@param purpose? string
---@return table[]|nil page
---@return boolean|nil more
function Files:list(limit, after, ascending, purpose)
  return self.files:page(limit, after, ascending, function(record)
    return (not purpose or record.object.purpose == purpose) and self:find(record.object.id)
  end)
end

--- POST /uploads
---@param body table
---@return table|nil record
---@return table|nil problem
function Files:create_upload(body)
  for _, name in ipairs { "filename", "purpose", "bytes", "mime_type" } do
    if body[name] == nil or body[name] == json.null then return files.missing(name) end
  end
  if not purposes[body.purpose] then
    return problem(("Invalid value: '%s' for 'purpose'."):format(tostring(body.purpose)), "purpose", "invalid_value")
  end
  if math.type(body.bytes) ~= "integer" or body.bytes < 1 or body.bytes > MAX_UPLOAD then
    return problem("Invalid value for 'bytes': expected an integer from 1 to 8 GB.", "bytes", "invalid_value")
  end
  if type(body.filename) ~= "string" then
    return problem("Invalid type for 'filename': expected a string.", "filename", "invalid_type")
  end
  local seconds, wrong = files.expiry(body.expires_after, "expires_after")
  if wrong then return nil, wrong end
  local now = math.floor(term.time())
  return self.uploads:add {
    seconds = seconds, parts = {},
    object = {
      id = "upload_" .. fs.random(16), object = "upload", bytes = body.bytes, created_at = now,
      expires_at = now + UPLOAD_SECONDS, filename = body.filename, purpose = body.purpose,
      status = "pending", file = json.null,
    },
  }
end

local function pending_upload(self, id)
  local upload = self.uploads:get(id)
  if not upload then return problem("No such Upload object: " .. id, "id", nil, 404) end
  local object = upload.object
  if object.status == "pending" and object.expires_at <= term.time() then object.status = "expired" end
  if object.status ~= "pending" then
    return problem(("Upload %s is %s."):format(id, object.status))
  end
  return upload
end

--- POST /uploads/{id}/parts
---@param id string
---@param req obatch.httpd.Request
---@return { object: table }|nil part
---@return table|nil problem
function Files:add_part(id, req)
  local upload, wrong = pending_upload(self, id)
  if not upload then return nil, wrong end
  local data = req.form and req.form.data
  if type(data) ~= "table" then return files.missing("data") end
  if data.size > MAX_PART then return problem("Parts must be at most 64 MB.", "data", nil, 413) end
  local part = "part_" .. fs.random(12)
  assert(req:keep(self.uploads:path(part)))
  upload.parts[part] = data.size
  self.uploads:save(upload)
  local created = math.floor(term.time())
  return { object = { id = part, object = "upload.part", created_at = created, upload_id = id } }
end

local function drop_parts(self, upload)
  for part in pairs(upload.parts) do assert(fs.remove(self.uploads:path(part))) end
  upload.parts = {}
end

--- POST /uploads/{id}/complete. `md5` is not checked.
---@param id string
---@param body table
---@return table|nil record
---@return table|nil problem
function Files:complete_upload(id, body)
  local upload, wrong = pending_upload(self, id)
  if not upload then return nil, wrong end
  local object = upload.object
  if type(body.part_ids) ~= "table" then return files.missing("part_ids") end
  local total = 0
  for _, part in ipairs(body.part_ids) do
    if not upload.parts[part] then return problem("No such part: " .. tostring(part), "part_ids") end
    total = total + upload.parts[part]
  end
  if total ~= object.bytes then
    return problem(("The parts hold %d bytes, but the upload was created for %d."):format(total, object.bytes))
  end
  local file = new_id()
  local path = self:path(file)
  local whole = assert(io.open(path .. ".part", "wb"))
  for _, part in ipairs(body.part_ids) do
    assert(whole:write(assert(fs.read(self.uploads:path(part), MAX_PART))))
  end
  assert(whole:close())
  local good, refusal = check_content(self, object.purpose, object.filename, path .. ".part", total)
  if good then good, refusal = check_storage(self, total) end
  if not good then
    assert(fs.remove(path .. ".part"))
    return nil, refusal
  end
  assert(fs.rename(path .. ".part", path))
  object.file = add(self, file, object.filename, object.purpose, total, upload.seconds).object
  object.status = "completed"
  drop_parts(self, upload)
  self.uploads:save(upload)
  return upload
end

--- POST /uploads/{id}/cancel
---@param id string
---@return table|nil record
---@return table|nil problem
function Files:cancel_upload(id)
  local upload, wrong = pending_upload(self, id)
  if not upload then return nil, wrong end
  upload.object.status = "cancelled"
  drop_parts(self, upload)
  self.uploads:save(upload)
  return upload
end

return files
