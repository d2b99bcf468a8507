--- The files that an iteration of a job has: what was sent, what came back, what the run said of it.

local fs = require "obatch.fs"

local files = {}

--- The request files of iteration n that are there; `part` is {} where nobody knows it.
---@param self obatch.History
---@param n integer
---@return { path: string, part: table }[]
function files.requests(self, n)
  local list = {}
  for _, part in ipairs(self.state.iterations[n].parts) do
    local path = part.file and not part.is_empty and self.state:path(n, part.file)
    if path and fs.stat(path) then list[#list + 1] = { path = path, part = part } end
  end
  if #self.state.iterations[n].parts == 0 or self.state.iterations[n].adopted then
    for _, name in ipairs(fs.list(self.state:path(n, "")) or {}) do
      if name:find("^batch_requests_iteration_.*%.jsonl$") then
        list[#list + 1] = { path = self.state:path(n, name), part = {} }
      end
    end
  end
  return list
end

--- The result files of iteration n: what was downloaded, as long as all of it is there; else the merged results; and
--- the lines of requests that failed validation.
---@param self obatch.History
---@param n integer
---@return { path: string, part: table }[]
function files.results(self, n)
  local iteration, list, is_whole = self.state.iterations[n], {}, not self.state.is_foreign
  local function add(part, name)
    local path = self.state:path(n, name)
    if fs.stat(path) then list[#list + 1] = { path = path, part = part } else is_whole = false end
  end
  for _, part in ipairs(iteration.parts) do
    for _, name in ipairs(part.files or {}) do add(part, name) end
    for _, name in pairs(not part.done and part.fetched or {}) do
      if name then add(part, name) end
    end
  end
  local merged = self.state:merged_path(n)
  local is_merged = iteration.merged and fs.stat(merged) ~= nil
  if is_merged and (not is_whole or #list == 0) then list = { { path = merged, part = {} } } end
  for _, part in ipairs(iteration.parts) do
    if part.rejected then add(part, part.rejected) end
  end
  return list
end

--- The file with what iteration n has left, nil where it has none.
---@param self obatch.History
---@param n integer
---@return string? path
function files.unresolved(self, n)
  local path = self.state:path(n, "unresolved_iteration_%d.jsonl")
  return self.state.iterations[n].merged and fs.stat(path) and path or nil
end

--- The file that says what iteration n has left, where the run's verdicts are believed.
---@param self obatch.History
---@param n integer
---@return { path: string }[]
function files.verdicts(self, n)
  return self.iterations[n].judged_by == "run" and { { path = files.unresolved(self, n) } } or {}
end

--- The file with the answer that counts of each request, where a run has written it.
---@param self obatch.History
---@return { path: string }[]
function files.final(self)
  local path = self.dir .. "/final_results.jsonl"
  return fs.stat(path) and { { path = path } } or {}
end

return files
