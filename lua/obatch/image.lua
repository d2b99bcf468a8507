--- What an image file is, and whether it is whole, by its bytes: the name may say anything, and a
-- file that is no image or was cut off while it was copied is paid for and never read.
--
-- Nothing is decoded, and no more than a few KB are held, whatever the file says of itself. Sources:
-- PNG (W3C), JPEG (ITU-T T.81, and what libjpeg tolerates), GIF89a, RFC 9649 (WebP).

local fs = require "obatch.fs"
local text = require "obatch.text"

local image = {}

--- How much is read at once, in bytes: the beginning and the end of a healthy file.
local STEP = 4096

-- ---------------------------------------------------------------- a file, seen through a window

local File = {}
File.__index = File

local function open_file(path, head, size)
  local handle, message = io.open(path, "rb")
  if not handle then return nil, message end
  handle:setvbuf("no") -- what is read is what is asked for
  return setmetatable({ handle = handle, size = size, chunk = head, first = 1 }, File)
end

function File:__close() self.handle:close() end

--- Where in the window a position is, after moving it there when it does not hold `count` bytes from there on.
---@param position integer  1 is the file's first byte
---@param count integer
---@return integer index
function File:window(position, count)
  local at = position - self.first + 1
  if at >= 1 and at + count - 1 <= #self.chunk then return at end
  local chunk, message
  if self.read then
    chunk = self.read(position, count)
  elseif self.handle:seek("set", position - 1) then
    chunk, message = self.handle:read(math.max(STEP, count))
  end
  self.fault = self.fault or message
  self.chunk, self.first = chunk or "", position
  return 1
end

--- Bytes from a position on; fewer where the file ends.
---@param position integer
---@param count integer
---@return string bytes
function File:bytes(position, count)
  local at = self:window(position, count)
  return self.chunk:sub(at, at + count - 1)
end

--- The byte at `position`; nil behind the end.
---@param position integer
---@return integer|nil byte
function File:byte(position)
  local at = self:window(position, 1)
  return self.chunk:byte(at)
end

--- string.unpack of what stands at `position`; nil where the file ends before.
---@param format string
---@param position integer
---@return any ...
function File:unpack(format, position)
  local size = string.packsize(format)
  local bytes = self:bytes(position, size)
  if #bytes == size then return string.unpack(format, bytes) end
end

--- The file's last bytes, without those before `position`.
---@param position integer
---@return string bytes
function File:tail(position) return self:bytes(math.max(position, self.size - STEP + 1), STEP) end

-- ---------------------------------------------------------------- one function per format

-- Each returns width and height; or nil, what is wrong, CODE. With file.header_only, whether the file is
-- whole is not asked.

local function damaged(format, ...) return nil, "is a damaged " .. format:format(...), "NOT_IMAGE" end

local function cut_off(what)
  return nil, ("is cut off (%s): make or copy it again"):format(what), "CUT_OFF"
end

--- An APNG counts as its first frame, which is what a reader of plain PNG sees.
local function png(file)
  local length, name, width, height = file:unpack(">I4c4I4I4", 9)
  if not length then return cut_off "a PNG without its IEND" end
  if name ~= "IHDR" or length ~= 13 or width < 1 or height < 1 or width > 0x7FFFFFFF or height > 0x7FFFFFFF then
    return damaged "PNG: its header is not one"
  end
  if file.header_only then return width, height end
  local position = 9
  if file:tail(position):find("\0\0\0\0IEND\xAEB`\x82", 1, true) then return width, height end
  repeat -- what stands behind IEND may be long
    length, name = file:unpack(">I4c4", position)
    if not length then return cut_off "a PNG without its IEND" end
    position = position + 12 + length -- length, name, checksum
  until name == "IEND"
  if position - 1 > file.size then return cut_off "a PNG without its IEND" end
  return width, height
end

--- Where the next marker begins; nil where there is none. 0xFF 0x00 and restart markers belong to the
--- coded picture, and any number of 0xFF may stand before a marker. What is no marker is skipped, as
--- libjpeg does it.
local function next_marker(file, position)
  while true do
    local at = file:window(position, 2)
    local found = file.chunk:find("\xFF[^\0\xD0-\xD7\xFF]", at)
    if found then return file.first + found - 1 end
    position = file.first + #file.chunk - 1 -- the last byte may be a marker's first
    if #file.chunk < 2 then return nil end
  end
end

--- The size is that of the coded picture: an EXIF orientation may swap its sides, which changes its
--- tokens by little.
local function jpeg(file)
  local position, width, height, looked = 3, nil, nil, false
  while true do
    position = next_marker(file, position)
    local marker = position and file:byte(position + 1)
    if not marker or marker == 0xD8 then return cut_off "a JPEG without its end" end -- 0xD8: another begins
    if marker == 0xD9 then
      if not width then return damaged "JPEG: it holds no picture" end
      return width, height
    elseif marker < 0xC0 then -- has no length
      position = position + 2
    else
      local length = file:unpack(">I2", position + 2)
      if not length then return cut_off "a JPEG without its end" end
      if length < 2 then return damaged("JPEG: a segment of %d bytes at byte %d", length, position) end
      local is_frame = marker <= 0xCF and marker ~= 0xC4 and marker ~= 0xC8 and marker ~= 0xCC
      if is_frame and not width then
        height, width = file:unpack(">I2I2", position + 5)
        if not width then return cut_off "a JPEG without its end" end
        if width == 0 or height == 0 then return damaged("JPEG: it says it is %d x %d", width, height) end
        if file.header_only then return width, height end
      elseif marker == 0xDA then
        if not width then return damaged "JPEG: its picture begins before its size is said" end
        -- Not before the picture: the thumbnail in an EXIF block has an end of its own. A file whose
        -- end is further away (cameras append films of MBs) is walked.
        if not looked and file:tail(position):find("\xFF\xD9", 1, true) then return width, height end
        looked = true
      end
      position = position + 2 + length
    end
  end
end

--- Behind the blocks of data that begin at `position`; nil where the file ends before.
local function skip_blocks(file, position)
  while true do
    local length = file:byte(position)
    if not length then return nil end
    position = position + 1 + length
    if length == 0 then return position end
  end
end

--- Bytes of the color table that `flags` announce.
local function color_table(flags) return flags & 0x80 ~= 0 and 3 << (flags & 7) + 1 or 0 end

local function gif(file)
  local width, height, flags = file:unpack("<I2I2B", 7)
  if not width then return cut_off "a GIF without its trailer" end
  if file.header_only and width > 0 and height > 0 then return width, height end
  local position, has_frame = 14 + color_table(flags), false
  while position do
    local block = file:byte(position)
    if block == 0x3B then
      if not has_frame or width == 0 or height == 0 then return damaged "GIF: it holds no picture" end
      return width, height
    elseif block == 0x2C then
      if has_frame then
        return nil, "is an animated GIF, which the API does not take: keep one of its frames", "ANIMATED"
      end
      has_frame = true
      local frame_width, frame_height
      frame_width, frame_height, flags = file:unpack("<I2I2B", position + 5)
      if not frame_width then break end
      if width == 0 or height == 0 then width, height = frame_width, frame_height end
      position = skip_blocks(file, position + 11 + color_table(flags))
    elseif block == 0x21 then
      position = skip_blocks(file, position + 2)
    elseif block == 0 then
      position = position + 1 -- padding between blocks; decoders skip it
    elseif block then
      return damaged("GIF: no block can begin at byte %d", position)
    else
      break
    end
  end
  return cut_off "a GIF without its trailer"
end

local function webp(file)
  local riff_size, name = file:unpack("<I4xxxxc4", 5)
  if not riff_size or file.size < riff_size + 8 then return cut_off "a WebP shorter than it says" end
  local first, second
  if name == "VP8X" then -- flags, the sides less 1 in 24 bits each
    local flags
    flags, first, second = file:unpack("<BxxxI3I3", 21)
    if flags and flags & 0x02 ~= 0 then
      return nil, "is an animated WebP, which the API does not take: keep one of its frames", "ANIMATED"
    end
    if first then return first + 1, second + 1 end
  elseif name == "VP8L" then -- a signature, the sides less 1 in 14 bits each
    first, second = file:unpack("<BI4", 21)
    if first == 0x2F then return (second & 0x3FFF) + 1, (second >> 14 & 0x3FFF) + 1 end
  elseif name == "VP8 " then -- a tag whose lowest bit is 0 for a key frame, a start code, the sides in 14 bits
    local tag, start
    tag, start, first, second = file:unpack("<I3c3I2I2", 21)
    if start == "\x9D\x01\x2A" and tag & 1 == 0 and first & 0x3FFF > 0 and second & 0x3FFF > 0 then
      return first & 0x3FFF, second & 0x3FFF
    end
  end
  return damaged "WebP: its header is not one"
end

local FORMATS = {
  { name = "png", signature = "^\x89PNG\r\n\x1A\n", facts = png },
  { name = "jpeg", signature = "^\xFF\xD8\xFF", facts = jpeg },
  { name = "gif", signature = "^GIF8[79]a", facts = gif },
  { name = "webp", signature = "^RIFF....WEBP", facts = webp },
}

--- The longest signature, in bytes.
local SIGNATURE = 12

--- The sides of an image that is no file, by its header alone.
---@param read fun(position: integer, count: integer): string  at least `count` bytes, fewer only at the end
---@return integer|nil width   pixels; nil for what is no image, or ends before its size is said
---@return integer|nil height
function image.size(read)
  local head = read(1, SIGNATURE)
  for _, format in ipairs(FORMATS) do
    if head:find(format.signature) then
      local width, height = format.facts(setmetatable({ read = read, header_only = true, size = math.huge,
        chunk = head, first = 1 }, File))
      if width then return width, height end
    end
  end
end

--- What an image file is.
---@param path string
---@return { type: "png"|"jpeg"|"gif"|"webp", width: integer, height: integer, bytes: integer }|nil facts  pixels
---@return string|nil message
---@return string|nil code  "EMPTY"; "NOT_IMAGE", also for one that no program could show; "CUT_OFF"; "ANIMATED", which
--- the API refuses; or an errno name
function image.facts(path)
  local function fail(reason, code) return nil, text.printable(path) .. " " .. reason, code end

  local stat, message, code = fs.stat(path)
  if not stat then return nil, text.printable(message), code end
  if stat.type ~= "file" then return fail("is not a file", "NOT_IMAGE") end
  if stat.size == 0 then return fail("is empty: make or copy it again", "EMPTY") end
  local head
  head, message, code = fs.read(path, STEP)
  if not head then return nil, text.printable(message), code end
  for _, format in ipairs(FORMATS) do
    if head:find(format.signature) then
      local file <close>, problem = open_file(path, head, stat.size)
      if not file then return nil, text.printable(problem), "EIO" end
      local width, height
      width, height, code = format.facts(file)
      if file.fault then return fail("cannot be read: " .. file.fault, "EIO") end
      if not width then return fail(height, code) end
      return { type = format.name, width = width, height = height, bytes = stat.size }
    end
  end
  return fail("is no PNG, JPEG, GIF or WebP image (by its first bytes): convert it, or take it away", "NOT_IMAGE")
end

return image
