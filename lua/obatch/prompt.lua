--- Prompts that say something about the image they are for.

local text = require "obatch.text"

local prompt = {}

--- What every image has; a path is bytes, and a prompt is text.
local BUILT_IN = {
  path = function(path) return text.printable(path) end,
  name = function(path) return text.printable(path:match("[^/]*$")) end,
  dir = function(path) return text.printable(path:match("^(/)[^/]*$") or path:match("^(.*)/") or ".") end,
}

--- Compiles a template: {name}, {path} and {dir} stand for the image's file name, path and folder,
--- and {COLUMN} for a field of it. Any other brace is a brace, since prompts contain JSON. The function that fills it
--- returns nil and a message where a field is missing.
---@param template string
---@param columns? string[]  see obatch.csv
---@return (fun(path: string, fields?: table<string, string>): string?, string?)|nil fill
---@return string[]|string used  the columns that the template uses; or what is wrong: it is not UTF-8, or a column is
--- called like something built in
function prompt.compile(template, columns)
  local valid, bad = utf8.len(template)
  if not valid then return nil, ("the prompt is not UTF-8 (byte %d): save it as UTF-8"):format(bad) end
  local is_column, is_used, used = {}, {}, {}
  for _, column in ipairs(columns or {}) do is_column[column] = true end
  for key in template:gmatch("{([^{}]*)}") do
    if is_column[key] and BUILT_IN[key] then
      return nil, ("the prompt's {%s} may be the image's or the column's: call the column something else"):format(key)
    elseif is_column[key] and not is_used[key] then
      is_used[key] = true
      used[#used + 1] = key
    end
  end

  local function fill(path, fields)
    for _, column in ipairs(used) do
      if not (fields and fields[column]) then
        return nil, ("the prompt needs {%s}, and %s has none: add a line for it to the CSV file"):format(
          column, text.printable(path))
      end
    end
    -- One pass: braces in a file name or a field are not looked at again.
    return (template:gsub("{([^{}]*)}", function(key)
      return BUILT_IN[key] and BUILT_IN[key](path) or is_used[key] and fields[key] or nil
    end))
  end
  return fill, used
end

--- Whether {key} stands for something in a prompt: built in, or one of `columns`.
---@param key string
---@param columns string[]
---@return boolean
function prompt.is_known(key, columns)
  for _, column in ipairs(columns) do
    if column == key then return true end
  end
  return BUILT_IN[key] ~= nil
end

return prompt
