--- help(): what the README says of a command, a module, a function or an object, so that there is one text.

local cli = require "obatch.cli"
local columns = require "obatch.columns"
local fs = require "obatch.fs"
local ids = require "obatch.history.ids"

local help = {}

local LUA = { coroutine = true, debug = true, io = true, math = true, os = true, string = true, table = true,
  utf8 = true }
local MANUAL = "https://www.lua.org/manual/5.4/manual.html"

-- ---------------------------------------------------------------- the README

--- Splits Markdown into blocks: { kind = "section", level, text } | "row", cells | "code", text | "item", text |
--- "text", text. Lines of a paragraph, a list item or a block of code are together.
local function read_blocks(markdown)
  local blocks, open, fence = {}, nil, false
  local function add(kind, text)
    open = { kind = kind, text = text }
    blocks[#blocks + 1] = open
    return open
  end
  for line in (markdown .. "\n"):gmatch("([^\n]*)\n") do
    local marks, title = line:match("^(#+) (.*)$")
    if line:find("^```") then
      fence = not fence
      open = fence and add("code", "") or nil
    elseif fence then
      open.text = open.text .. line .. "\n"
    elseif marks then
      add("section", title).level = #marks
      open = nil
    elseif line:find("^|") then
      if not line:find("^|[-:| ]+$") then
        local cells = {}
        local free = line:sub(2):gsub("\\|", "\0")
        for cell in free:gmatch("%s*(.-)%s*|") do cells[#cells + 1] = cell:gsub("%z", "|") end
        add("row", line).cells = cells
      else
        blocks[#blocks] = nil -- the titles above it
      end
      open = nil
    elseif line == "" then
      if not open or open.kind ~= "code" then open = nil end
    elseif line:find("^    ") and (not open or open.kind == "code") then
      if not open then add("code", "") end
      open.text = open.text .. line:sub(5) .. "\n"
    elseif line:find("^%- ") then
      add("item", line:sub(3))
    elseif open and open.kind ~= "code" then
      open.text = open.text .. " " .. line:match("^%s*(.*)")
    else
      add("text", line)
    end
  end
  return blocks
end

--- The names that a cell such as "`json.get(text, pointer)`, `json.null`" is about, or "expired, cancelled".
local function names_in(cell)
  local names = {}
  if not cell:find("`", 1, true) then
    for name in cell:gmatch("[^,]+") do names[#names + 1] = name:match("^%s*(.-)%s*$") end
  end
  for code in cell:gmatch("`([^`]+)`") do
    for name in (code:gsub("%b()", "()"):gsub("%b{}", "{}"):gsub('%b""', "")):gmatch("%-?%-?[%a_][%w_.:%-]*") do
      names[#names + 1] = name:match("^(.-)[.:%-]*$")
    end
  end
  return names
end

local README

--- The README as blocks, with an index of what each section and row is about: lower-case name -> list of the
--- numbers of blocks.
local function readme()
  if README then return README end
  local markdown, message = fs.read(cli.home .. "/README.md")
  if not markdown then error(message, 0) end
  README = { blocks = read_blocks(markdown), index = {}, names = {} }
  local function enter(name, number)
    local key = name:lower()
    if not README.index[key] then
      README.index[key] = {}
      README.names[#README.names + 1] = name
    end
    table.insert(README.index[key], number)
  end
  for number, block in ipairs(README.blocks) do
    if block.kind == "section" then
      local short = block.text:match("^obatch[ .](.*)$")
      enter(block.text, number)
      if short then enter(short, number) end
    elseif block.kind == "row" then
      local known = {}
      for _, name in ipairs(names_in(block.cells[1])) do
        local last = name:match("[.:]([%a_][%w_]*)$")
        for _, each in ipairs { name, last } do
          if not known[each] then enter(each, number) end
          known[each] = true
        end
      end
    end
  end
  return README
end

-- ---------------------------------------------------------------- on the screen

--- Words in lines of at most `width` places, the first of which begins with `first`, the others with `indent`.
local function wrap(words, width, indent, first)
  local lines, line, is_new = {}, first or "", true
  for word in words:gmatch("%S+") do
    if not is_new and columns.places(line) + 1 + columns.places(word) > width then
      lines[#lines + 1] = line
      line, is_new = indent, true
    end
    line, is_new = line .. (is_new and "" or " ") .. word, false
  end
  lines[#lines + 1] = line
  return table.concat(lines, "\n")
end

--- Markdown's marks taken off, but those of code.
local function plain(text)
  return (text:gsub("%[([^%]]*)%]%([^)]*%)", "%1"):gsub("%*%*", ""))
end

local function show_block(block, width)
  if block.kind == "section" then return plain(block.text) .. "\n" .. ("-"):rep(math.min(#block.text, width)) end
  if block.kind == "code" then return "  " .. block.text:gsub("\n(.)", "\n  %1"):gsub("\n$", "") end
  if block.kind == "item" then return wrap(plain(block.text), width, "  ", "- ") end
  if block.kind == "text" then return wrap(plain(block.text), width, "") end
  local cells = {}
  for i = 2, #block.cells do
    if block.cells[i] ~= "" then cells[#cells + 1] = plain(block.cells[i]) end
  end
  return wrap(plain(block.cells[1]:gsub("`", "")), width, "") .. "\n"
    .. wrap(table.concat(cells, "; "), width, "    ", "    ")
end

local function show_blocks(list, width)
  local out = {}
  for i, block in ipairs(list) do
    local before = list[i - 1]
    local close = before and (before.kind == block.kind and (block.kind == "row" or block.kind == "item")
      or before.kind == "section")
    out[#out + 1] = (before and not close and "\n" or "") .. show_block(block, width)
  end
  return table.concat(out, "\n") .. "\n"
end

--- The blocks of the section that begins at `number`, those below it included.
local function section_at(number)
  local blocks = readme().blocks
  local list = { blocks[number] }
  for i = number + 1, #blocks do
    if blocks[i].kind == "section" and blocks[i].level <= list[1].level then break end
    list[#list + 1] = blocks[i]
  end
  return list
end

--- The title of the section in which a block is; with `level`, of the one of that level or above.
local function title_of(number, level)
  local blocks = readme().blocks
  while number > 0 and (blocks[number].kind ~= "section" or level and blocks[number].level > level) do
    number = number - 1
  end
  return blocks[number] and blocks[number].text or ""
end

-- ---------------------------------------------------------------- names of values

--- What a function or a table is called: by the given tables of names, the modules that are loaded, and Lua's own.
--- The second value is the section that it is told about in, or true for Lua's own.
local function name_of(value, named)
  for _, entry in ipairs(named) do
    if entry.value == value then return entry.section or entry.name, entry.within end
  end
  for _, entry in ipairs(named) do
    local fields = type(entry.value) == "table" and entry.value or {}
    for key, each in next, fields do
      if type(key) == "string" and each == value then
        return (entry.prefix or entry.name .. ".") .. key, entry.within
      end
    end
  end
  for path, module in next, package.loaded do
    local name = path:match("^obatch%.(.*)$")
    if name then
      if module == value then return path end
      for key, each in next, type(module) == "table" and module or {} do
        if each == value and type(key) == "string" then return name .. "." .. key end
      end
    end
  end
  for key, each in next, _G do
    if each == value then return key, true end
    if type(each) == "table" and each ~= _G and each ~= package.loaded then
      for name, inner in next, each do
        if inner == value and type(name) == "string" then return key .. "." .. name, true end
      end
    end
  end
end

--- What a function or a table is called, such as "j:why" or "json.get"; nil for one that nobody knows.
---@param value any
---@param named table[] see text
---@return string? name
function help.name(value, named) return (name_of(value, named)) end

-- ---------------------------------------------------------------- help

--- The subjects, as help() lists them.
local function subjects(width)
  local kinds = { { "Commands", "^obatch ([%w_]+)$" }, { "Modules", "^obatch%.([%w_]+)$" }, { "Subjects", "^(.+)$" } }
  local lists, known = {}, {}
  for i in ipairs(kinds) do lists[i] = {} end
  for _, block in ipairs(readme().blocks) do
    if block.kind == "section" and block.level > 1 then
      for i, kind in ipairs(kinds) do
        local name = block.text:match(kind[2])
        if name then
          if not known[name] then table.insert(lists[i], i == 3 and '"' .. name .. '"' or name) end
          known[name] = true
          break
        end
      end
    end
  end
  local out = {}
  for i, kind in ipairs(kinds) do
    out[#out + 1] = wrap(("%s: %s"):format(kind[1], table.concat(lists[i], ", ")):gsub('" ', '"\0'), width, "  ")
      :gsub("%z", " ")
  end
  local more = 'help "batches", help(jsonl.scan) or help "--max-iterations" tells more.'
  return table.concat(out, "\n\n") .. "\n\n" .. wrap(more, width, "") .. "\n"
end

--- The lines of the README about a row: the row, and where it is from.
local function show_rows(numbers, width)
  local out, title = {}, nil
  for _, number in ipairs(numbers) do
    local from = title_of(number)
    if from ~= title then
      out[#out + 1] = (title and "\n" or "") .. from .. ":"
      title = from
    end
    out[#out + 1] = show_block(readme().blocks[number], width)
  end
  return table.concat(out, "\n") .. "\n"
end

--- The paragraphs that speak of `name(`.
local function mentions(name)
  local found = {}
  for _, block in ipairs(readme().blocks) do
    if (block.kind == "text" or block.kind == "item") and block.text:find("`" .. name .. "(", 1, true) then
      found[#found + 1] = block
    end
  end
  return found
end

--- What help(subject) prints. Raises when there is nothing about it, naming what is near.
---@param subject any nil for the list of subjects; a name, a function, a module, or an object of the session
---@param width integer places on a line
---@param named table[] what has a name here: { name =, value =, prefix = what its fields are written after,
---section = the README's section about it, within = the section in which its name and those of its fields are }
---@return string text
function help.text(subject, width, named)
  if subject == nil then return subjects(width) end
  local name, within = subject, LUA[subject]
  if type(subject) ~= "string" then
    local meta = debug.getmetatable(subject)
    name, within = name_of(subject, named)
    for _, of_object in ipairs { meta or false, type(meta) == "table" and rawget(meta, "__index") or false } do
      if not name and of_object then name, within = name_of(of_object, named) end
    end
    if not name then error(("there is no help for this %s; help() lists what there is"):format(type(subject)), 0) end
  end
  if within == true or LUA[name:match("^(%l+%d?)%.")] then
    return ("%s is Lua's own: %s%s\n"):format(name, MANUAL, LUA[name] and "" or "#pdf-" .. name)
  end

  local index, sections, rows = readme().index, {}, {}
  for _, number in ipairs(index[name:lower()] or {}) do
    local list = readme().blocks[number].kind == "section" and sections or rows
    if list == sections or not within or title_of(number, 2) == within then list[#list + 1] = number end
  end
  -- a name such as "batches" is a command's, a value is what it is here
  if sections[1] and (type(subject) ~= "function" or not rows[1]) then
    return show_blocks(section_at(sections[1]), width)
  elseif rows[1] then
    return show_rows(rows, width)
  end
  local found = mentions(name)
  if #found > 0 then return show_blocks(found, width) end
  local module = name:match("^([%w_]+)[.:]")
  if type(subject) ~= "string" and module and index["obatch." .. module] then
    return show_blocks(section_at(index["obatch." .. module][1]), width)
  end
  local names = readme().names
  local near = ids.near({ count = #names, id = function(_, i) return names[i] end }, name)
  error(("no help about %q; %s"):format(name, #near > 0 and "near it: " .. table.concat(near, ", ")
    or "help() lists what there is"), 0)
end

return help
