--- The report's page: one HTML file that needs no network and runs nothing but its own script.
--
-- lua/obatch/report/page.html is the template, with page.css and the page's scripts. Whatever comes from a
-- model, a file name or a journal is in two data elements that no browser executes: #items, one JSON object a
-- line, and #head, one JSON object. A Content-Security-Policy names the hashes of script and style.

local fs = require "obatch.fs"
local json = require "obatch.json"

local page = {}
local Page = {}
Page.__index = Page

--- What {{js}} stands for, in this order.
local SCRIPTS = { "page_texts.js", "page_charts.js", "page_list.js", "page_decisions.js", "page.js" }

local DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

--- Bytes, given in hexadecimal digits, in base64: a hash as a policy names it.
local function to_base64(hex)
  local out = {}
  for group in hex:gmatch("%x%x?%x?%x?%x?%x?") do
    local bits = tonumber(group .. ("0"):rep(6 - #group), 16)
    for i = 0, #group // 2 do
      local digit = bits >> 18 - 6 * i & 63
      out[#out + 1] = DIGITS:sub(digit + 1, digit + 1)
    end
    out[#out + 1] = ("="):rep(3 - #group // 2)
  end
  return table.concat(out)
end

local function policy_for(js, css)
  local function hash(source) return ("'sha256-%s'"):format(to_base64(fs.sha256_text(source))) end
  return table.concat({ "default-src 'none'", "script-src " .. hash(js), "style-src " .. hash(css),
    "img-src file: 'self' data:", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'",
    "trusted-types 'none'" }, "; ")
end

--- A part of the template; what would end its element early is a fault in the installation.
local function source_of(dir, name)
  local source = assert(fs.read(dir .. name))
  for _, bad in ipairs { "</script", "</style", "<!--", "\r", "\0" } do
    if source:lower():find(bad, 1, true) then error(("%s%s must not contain %q"):format(dir, name, bad)) end
  end
  return source
end

local ENTITIES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;", ["'"] = "&#39;" }

--- A value as it can stand in a data element: nothing in it ends that, and every line break is an escape.
local function data(value)
  return (json.encode(value):gsub("<", "\\u003c"):gsub("\xE2\x80[\xA8\xA9]", { ["\u{2028}"] = "\\u2028",
    ["\u{2029}"] = "\\u2029" }))
end

--- Begins a page. It has its name only when it is whole; one that is closed before is gone.
---@param path string Where it is written.
---@param title string What the window is called.
---@param template string The folder of the template, with a "/" at the end.
---@return table? page With :item(value), :commit(head), :close().
---@return string? message
---@return string? code
function page.create(path, title, template)
  local js = {}
  for i, name in ipairs(SCRIPTS) do js[i] = source_of(template, name) end
  local parts = { title = title:gsub("[&<>\"']", ENTITIES), css = source_of(template, "page.css"),
    js = table.concat(js) }
  parts.csp = policy_for(parts.js, parts.css)
  local html = assert(fs.read(template .. "page.html"))
  local before, between, after = html:match("^(.*){{items}}(.*){{head}}(.*)$")
  if not before then error(template .. "page.html must hold {{items}} and, after it, {{head}}") end
  local function fill(source)
    return (source:gsub("{{(%l+)}}", function(name)
      return parts[name] or error(("%spage.html: there is no {{%s}}"):format(template, name))
    end))
  end

  local file, message, code = fs.create(path)
  if not file then return nil, message, code end
  local self = setmetatable({ file = file, between = fill(between), after = fill(after), items = 0 }, Page)
  local ok
  ok, message, code = file:write(fill(before), "\n")
  if ok then return self end
  self:close()
  return nil, message, code
end

--- Adds an item.
---@param value table As JSON holds it; strings are valid UTF-8 (see obatch.report.excerpt).
---@return true|nil ok
---@return string|nil message
---@return string|nil code
function Page:item(value)
  self.items = self.items + 1
  return self.file:write(data(value), "\n")
end

--- Ends the page and gives it its name.
---@param head table What is told of all of it.
---@return { bytes: integer }|nil facts
---@return string|nil message
---@return string|nil code
function Page:commit(head)
  local ok, message, code = self.file:write(self.between, data(head), self.after)
  if not ok then return nil, message, code end
  return self.file:commit()
end

function Page:close() self.file:close() end
Page.__close = Page.close

return page
