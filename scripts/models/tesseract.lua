--- Reads the page: answers with the text that the local tesseract finds in the request's image.
-- Needs tesseract 5 with its English and its orientation data (Debian: tesseract-ocr).
--
-- A page is read the quick way at first. It is read the better way when it is asked for again: the
-- same custom_id once more, or a prompt that already holds a line of what the quick way reads. A
-- request for JSON gets {"ocr_text": ...}, one without an image a refusal.

local fs = require "obatch.fs"
local json = require "obatch.json"

-- Page segmentation without and with a look at which side is up (a page that was scanned upside down
-- comes out as gibberish the quick way); and thresholds that follow uneven light (2 is Sauvola's).
local QUICK = "--psm 3"
local BETTER = "--psm 1 -c thresholding_method=2"

-- A line of this many bytes that is in the prompt did not get there by chance.
local TELLING_LINE = 12

-- In the background, so that the sandbox goes on answering; `status` is there when all is done. One
-- thread, since several pages may be read at a time, and more threads make one hardly faster. The
-- image goes at once, for a sandbox that is killed removes nothing.
local COMMAND = [[cd '%s' && {
  { if base64 -d base64 >image
    then OMP_THREAD_LIMIT=1 tesseract image stdout -l eng %s -c page_separator= >text; echo $? >code
    else echo base64 >code; fi
    rm -f base64 image
    mv code status; } </dev/null >/dev/null 2>&1 &
}]]

-- What the formats that the API takes (PNG, JPEG, GIF, WebP) begin with, in base64. Nothing else may
-- reach tesseract: it takes a text for a list of files and addresses, and reads those.
local SIGNATURES = { "^iVBORw0KGgo", "^/9j/", "^R0lGODdh", "^R0lGODlh", "^UklGR......XRUJQ" }

if not os.execute("[ $(tesseract --list-langs 2>/dev/null | grep -cxE 'eng|osd') = 2 ]") then
  return nil, "the model tesseract: the program or its English data is missing; install it, "
    .. "for example with: apt-get install tesseract-ocr"
end

-- Collects the texts and the addresses of the images in a conversation, of either endpoint.
local function collect(value, found)
  if type(value) == "string" then
    table.insert(found.texts, value)
  elseif type(value) == "table" then
    local image = value.image_url
    if type(image) == "table" then image = image.url end
    if image then
      table.insert(found.images, image)
    else
      collect(value.content or value.text, found)
      for _, item in ipairs(value) do collect(item, found) end
    end
  end
  return found
end

local function wants_json(body)
  local format = body.response_format or type(body.text) == "table" and body.text.format
  return type(format) == "table" and (format.type == "json_object" or format.type == "json_schema")
end

local function bad_image(code, message)
  return nil, { status = 400, body_error = { code = code, message = message } }
end

-- Where the base64 of a data: URL begins | nil, answer.
local function base64_start(url)
  local header = type(url) == "string" and url:match("^data:[%w/.+-]*;base64,")
  if not header then return bad_image("invalid_image_url", "The sandbox takes images as base64 data: URLs only.") end
  local first = #header + 1
  for _, signature in ipairs(SIGNATURES) do
    if url:find(signature, first) then return first end
  end
  return bad_image("invalid_image_format", "The image is none of PNG, JPEG, GIF and WebP.")
end

-- A folder for the files of one reading, removed when it goes out of scope.
local function work_folder()
  local path = ("%s/obatch-tesseract-%s"):format(os.getenv("TMPDIR") or "/tmp", fs.random(8))
  assert(fs.mkdir(path))
  return setmetatable({ path = path }, { __close = function()
    for _, name in ipairs { "base64", "image", "text", "code", "status" } do fs.remove(path .. "/" .. name) end
    fs.remove(path)
  end })
end

-- What tesseract reads in the image of a data: URL whose base64 begins at `first` | nil, answer.
local function read(url, first, way, wait)
  local dir <close> = work_folder()
  local file = assert(io.open(dir.path .. "/base64", "wb"))
  for piece = first, #url, 1 << 20 do assert(file:write(url:sub(piece, math.min(piece + (1 << 20) - 1, #url)))) end
  assert(file:close())
  assert(os.execute(COMMAND:format(dir.path:gsub("'", "'\\''"), way)))
  while not fs.stat(dir.path .. "/status") do wait(0.02) end

  local status = assert(fs.read(dir.path .. "/status"))
  if status == "base64\n" then return bad_image("invalid_base64_image", "The image is not valid base64.") end
  if status == "1\n" then return bad_image("invalid_image", "The image cannot be read; it may be damaged.") end
  if status ~= "0\n" then return nil, { status = 500 } end -- killed, for example: out of memory
  return (assert(fs.read(dir.path .. "/text")):gsub("%s+$", ""))
end

-- Whether one of the texts holds a line of the reading.
local function is_known(reading, texts)
  local all = table.concat(texts, "\n")
  for line in reading:gmatch("[^\n]+") do
    if #line >= TELLING_LINE and all:find(line, 1, true) then return true end
  end
  return false
end

return function(request, asked, wait)
  local body = request.body
  local found = collect(body.messages or body.input, { texts = {}, images = {} })
  if #found.images == 0 then
    return { refusal = "There is no image in this request, and tesseract reads nothing else." }
  end

  local readings = {}
  for i, url in ipairs(found.images) do
    local first, answer = base64_start(url)
    if not first then return answer end
    local reading
    if asked == 1 then
      reading, answer = read(url, first, QUICK, wait)
      if not reading then return answer end
    end
    if not reading or is_known(reading, found.texts) then
      reading, answer = read(url, first, BETTER, wait)
      if not reading then return answer end
    end
    readings[i] = reading
  end
  local text = table.concat(readings, "\n\n")
  return wants_json(body) and json.encode { ocr_text = text } or text
end
