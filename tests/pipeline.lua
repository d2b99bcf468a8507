--- What the specs of the image pipeline share: a project folder with images, runs of the commands beside
--- a sandbox, and what must be true of every project in the end.
local fs = require "obatch.fs"
local image_bytes = require "image_bytes"
local json = require "obatch.json"
local loop = require "loop"
local support = require "support"

local pipeline = {}

--- Answers with the custom_id, so that a text beside a wrong image shows.
pipeline.MODEL = [[return "The text of " .. request.custom_id .. "."]]

local Project = {}
Project.__index = Project

--- A project in a folder of its own: `local project <close> = pipeline.project { images=, model=, args= }`.
---   images   name below data/ -> bytes; or a number of small ones, p-1.png ... in two folders
---   model    body of the sandbox's model (pipeline.MODEL)
---   upload, download    words for every run of that command
---   commands            what a run consists of ({ "upload", "download" })
function pipeline.project(options)
  options = options or {}
  local dir = support.tmpdir()
  local self = setmetatable({ dir = dir, path = dir.path, box = dir.path .. "/box",
    base = dir.path .. "/work",
    commands = options.commands or { "upload", "download" },
    upload_words = options.upload or {}, download_words = options.download or {}, images = {} }, Project)
  local images = options.images or 4
  if type(images) == "number" then
    local named = {}
    for i = 1, images do named[("%s/p-%d.png"):format(i % 2 == 0 and "a" or "b c", i)] = image_bytes.png(i, 8) end
    images = named
  end
  for name, bytes in pairs(images) do self:add(name, bytes) end
  assert(fs.mkdir(self.base .. "/data"))
  support.write(self.base .. "/prompt.txt", "Transcribe {name}: {\"text\": \"...\"}\n")
  loop.write_model(self.path .. "/model.lua", options.model or pipeline.MODEL)
  return self
end

function Project:__close() getmetatable(self.dir).__close(self.dir) end

--- Adds an image; what is there is replaced.
function Project:add(name, bytes)
  local path = ("%s/data/%s"):format(self.base, name)
  assert(fs.mkdir(path:match("^(.*)/")))
  support.write(path, bytes)
  self.images[name] = bytes
end

local function quoted(words)
  local list = {}
  for i, word in ipairs(words) do list[i] = support.quote(word) end
  return table.concat(list, " ")
end

--- The shell text of one command in the project's folder. The url may be a shell expression.
function Project:step(command, url, words)
  local own = { upload = { "--image-dir", "data", "--prompt-file", "prompt.txt", table.unpack(self.upload_words) },
    download = { "--poll-wait", "0.1", table.unpack(self.download_words) },
    deep_clean = { "--image-dir", "data", "--poll-wait", "0.1" } }
  return ("cd %s && OPENAI_API_KEY=%s OPENAI_BASE_URL=%s timeout -k 5 120 %s run %s/tests/signal_at.lua "
    .. "%s/scripts/%s.lua %s %s"):format(support.quote(self.base), loop.KEY, url, support.quote(support.binary),
    support.quote(support.home), support.quote(support.home), command, quoted(own[command] or {}),
    quoted(words or {}))
end

--- For loop.pool: one command after the other. $ONLY names the command that the signal of signal_at.lua, or
--- the strike of preload/strike.c, is for.
function Project:command(url)
  local steps = {}
  for i, command in ipairs(self.commands) do
    steps[i] = ('( [ "${ONLY-%s}" = %s ] || unset AT LD_PRELOAD; %s )'):format(command, command,
      self:step(command, '"$url"'))
  end
  support.write(self.path .. "/both.sh", ("url=$1\n%s\n"):format(table.concat(steps, " && ")))
  return ("sh %s/both.sh %s"):format(support.quote(self.path), url)
end

--- A running sandbox with the project's model.
function Project:sandbox(words, port)
  words = { "--model", self.path .. "/model.lua", "--batch-seconds", "0.1", table.unpack(words or {}) }
  words.dir, words.port = self.box, port
  return support.sandbox(words)
end

--- One command to its end: exit code, stdout, stderr.
function Project:run(command, box, words)
  local code, out, err = support.shell(self:step(command, box and box.url or "http://127.0.0.1:9/v1", words))
  self.code, self.out, self.err = code, out, err
  return code, out, err
end

Project.paid = loop.paid
Project.created = loop.created
Project.records = loop.records

--- The text beside an image, nil when there is none.
function Project:text(name)
  return fs.read(("%s/data/%s.txt"):format(self.base, name))
end

--- The names in a folder of the project, sorted; {} when it is not there.
function Project:names(folder) return fs.list(self.base .. "/" .. folder) or {} end

--- The records of a folder ("batch" or "batch/completed"), decoded.
function Project:batch_records(folder)
  local list = {}
  for _, name in ipairs(self:names(folder)) do
    local content = name:find("%.txt$") and support.read(("%s/%s/%s"):format(self.base, folder, name))
    if content then list[#list + 1] = assert(json.decode(content)) end
  end
  return list
end

--- What must be true of every project whose images all have a text: each was paid once, has the text of
--- its own custom_id, and nothing is left half-way.
function pipeline.check(self)
  assert(self.code == 0, ("exit code %s\n%s%s%s"):format(self.code, self.out, self.err, self.box_err or ""))
  pipeline.check_clean(self)
  local paid, count = self:paid(), 0
  for name in pairs(self.images) do
    local id = "data|" .. name:gsub("[/\\]", "|")
    assert(paid[id] == 1, ("%s was paid %s times\n%s"):format(id, paid[id] or 0, self.err))
    local found = self:text(name)
    assert(found == "The text of " .. id .. ".", ("beside %s: %s\n%s"):format(name, found, self.err))
    count = count + 1
  end
  local completed = 0
  for _, record in ipairs(self:batch_records("batch/completed")) do completed = completed + #record.items end
  assert(completed == count, ("the completed records hold %d of %d images"):format(completed, count))
  assert(#self:batch_records("batch") == 0, "a record was left in batch/")
  local _, left = support.shell(("find %s/batch -name '*.jsonl' ! -name journal.jsonl ! -name unresolved.jsonl; "
    .. "find %s/batch -name '*.record'"):format(support.quote(self.base), support.quote(self.base)))
  assert(left == "", "left behind: " .. left)
end

--- What must be true of every project, however a run ended.
pipeline.check_clean = loop.check_clean

return pipeline
