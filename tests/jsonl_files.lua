--- What the specs of obatch.jsonl share.
local support = require "support"

local jsonl_files = {}

--- What the reader and the writer move at once, in bytes.
jsonl_files.BLOCK = 256 * 1024

--- A folder with one file in it; its path is .file.
function jsonl_files.file_with(text)
  local dir = support.tmpdir()
  dir.file = dir.path .. "/lines.jsonl"
  support.write(dir.file, text)
  return dir
end

--- Runs a chunk in a process of its own with these arguments; returns what it printed. The chunk
--- has peak(f): by how many MB the resident size peaks while f runs.
function jsonl_files.in_own_process(chunk, ...)
  local dir <close> = support.tmpdir()
  support.write(dir.path .. "/chunk.lua", [[
    local function peak(f)
      local function resident(name)
        local status <close> = io.open "/proc/self/status"
        return tonumber(status:read("a"):match(name .. ":%s*(%d+)")) / 1024
      end
      local reset <close> = io.open("/proc/self/clear_refs", "w") -- VmHWM starts again from now
      assert(reset:write("5"))
      reset:close()
      local before = resident "VmRSS"
      f()
      return resident "VmHWM" - before
    end
  ]] .. chunk)
  local code, out, complaint = support.obatch("run", dir.path .. "/chunk.lua", ...)
  assert(code == 0, complaint)
  return out
end

return jsonl_files
