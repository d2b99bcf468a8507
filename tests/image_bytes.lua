--- Whole images, made by hand: every one can be decoded, and is all black or all of one color.
local image_bytes = {}

--- A bit string, lowest bit first, as deflate, LZW and VP8L pack them.
local function bit_writer()
  local out, held, bits = {}, 0, 0
  local function put(value, count)
    held, bits = held | value << bits, bits + count
    while bits >= 8 do
      out[#out + 1] = string.char(held & 0xFF)
      held, bits = held >> 8, bits - 8
    end
  end
  return put, function()
    if bits > 0 then put(0, 8 - bits) end
    return table.concat(out)
  end
end

-- ---------------------------------------------------------------- PNG

local function crc32(bytes)
  local crc = 0xFFFFFFFF
  for i = 1, #bytes do
    crc = crc ~ bytes:byte(i)
    for _ = 1, 8 do crc = crc & 1 == 1 and crc >> 1 ~ 0xEDB88320 or crc >> 1 end
  end
  return crc ~ 0xFFFFFFFF
end

function image_bytes.png_chunk(name, data)
  return string.pack(">I4", #data) .. name .. data .. string.pack(">I4", crc32(name .. data))
end

--- `count` zero bytes in zlib's format: runs of 258, each of 13 bits.
local function zlib_zeros(count)
  local put, finish = bit_writer()
  put(1, 1) -- the last block,
  put(1, 2) -- with fixed codes
  local function literal() put(0x0C, 8) end
  literal()
  for _ = 1, (count - 1) // 258 do
    put(0xA3, 8) -- a run of 258
    put(0, 5) -- of the byte before
  end
  for _ = 1, (count - 1) % 258 do literal() end
  put(0, 7) -- the end
  return "\x78\x01" .. finish() .. string.pack(">I2I2", count % 65521, 1)
end

--- One bit a pixel. `chunks` go between the header and the data.
function image_bytes.png(width, height, chunks)
  return "\x89PNG\r\n\x1A\n" .. image_bytes.png_chunk("IHDR", string.pack(">I4I4BBBBB", width, height, 1, 0, 0, 0, 0))
    .. (chunks or "") .. image_bytes.png_chunk("IDAT", zlib_zeros(height * (1 + (width + 7) // 8)))
    .. image_bytes.png_chunk("IEND", "")
end

-- ---------------------------------------------------------------- JPEG

function image_bytes.jpeg_segment(marker, data)
  return string.pack(">BBI2", 0xFF, marker, #data + 2) .. data
end

--- Grey, baseline; a block of 8 x 8 takes two bits. `segments` go behind the first two bytes.
function image_bytes.jpeg(width, height, segments)
  local segment = image_bytes.jpeg_segment
  local bits = 2 * ((width + 7) // 8) * ((height + 7) // 8)
  local scan = ("\0"):rep(bits // 8) .. (bits % 8 > 0 and string.char(0xFF >> bits % 8) or "")
  local one_code = "\1" .. ("\0"):rep(16) -- "0" means 0
  return "\xFF\xD8" .. (segments or "") .. segment(0xDB, "\0" .. ("\1"):rep(64))
    .. segment(0xC0, string.pack(">BI2I2BBBB", 8, height, width, 1, 1, 0x11, 0))
    .. segment(0xC4, "\x00" .. one_code) .. segment(0xC4, "\x10" .. one_code)
    .. segment(0xDA, "\1\1\0\0\63\0") .. scan .. "\xFF\xD9"
end

--- The segment in which cameras keep a small copy of the picture, with an end of its own.
function image_bytes.exif()
  return image_bytes.jpeg_segment(0xE1, "Exif\0\0" .. image_bytes.jpeg(16, 16))
end

-- ---------------------------------------------------------------- GIF

--- The LZW data of `count` pixels of color 0.
local function lzw_zeros(count)
  local CLEAR, STOP = 4, 5
  local put, finish = bit_writer()
  local width, next_code, longest = 3, nil, nil
  local function clear()
    put(CLEAR, width)
    width, next_code, longest = 3, STOP + 1, 0
  end
  clear()
  while count > 0 do
    local run = math.min(longest + 1, count) -- each code may name the run that it makes known
    put(run == 1 and 0 or STOP + run - 1, width)
    count = count - run
    if longest > 0 then next_code = next_code + 1 end
    longest = math.max(longest, run)
    if next_code == 4095 then
      clear()
    elseif next_code == 1 << width then
      width = width + 1
    end
  end
  put(STOP, width)
  return finish()
end

--- Four colors, whose bytes could begin blocks. `frames` (1) pictures one after the other.
function image_bytes.gif(width, height, frames)
  local data = { "\2" }
  local lzw = lzw_zeros(width * height)
  for at = 1, #lzw, 255 do data[#data + 1] = string.pack("s1", lzw:sub(at, at + 254)) end
  data[#data + 1] = "\0"
  local frame = "\x21\xF9\4\0\10\0\0\0" .. string.pack("<BI2I2I2I2B", 0x2C, 0, 0, width, height, 0)
    .. table.concat(data)
  return "GIF89a" .. string.pack("<I2I2BBB", width, height, 0x81, 0, 0) .. ("\x2C\x21\x3B"):rep(4)
    .. frame:rep(frames or 1) .. ";"
end

-- ---------------------------------------------------------------- WebP

function image_bytes.riff_chunk(name, data) return name .. string.pack("<s4", data) .. ("\0"):rep(#data % 2) end

--- VP8: a key frame whose every bit is 0. The sizes of its partitions are more than enough for small
--- pictures; those of large ones do not fit their field.
local function vp8(width, height)
  local blocks = ((width + 15) // 16) * ((height + 15) // 16)
  local first = 200 + 20 * blocks
  return image_bytes.riff_chunk("VP8 ", string.pack("<I3c3I2I2", first << 5 | 1 << 4, "\x9D\x01\x2A", width, height)
    .. ("\0"):rep(first + 40 * blocks))
end

--- VP8L: five codes of one symbol each, so that a pixel takes no bits.
local function vp8l(width, height)
  local put, finish = bit_writer()
  put(0x2F, 8)
  put(width - 1, 14)
  put(height - 1, 14)
  put(0, 4) -- no alpha, version 0
  put(0, 3) -- no transform, no color cache, no second image
  for _ = 1, 5 do put(1, 4) end
  return image_bytes.riff_chunk("VP8L", finish())
end

local function vp8x(flags, width, height)
  return image_bytes.riff_chunk("VP8X", string.pack("<BxxxI3I3", flags, width - 1, height - 1))
end

--- `kind`: "lossy" (up to about 2500 x 2500 pixels), "lossless", "extended", "animated".
function image_bytes.webp(width, height, kind)
  local chunks
  if kind == "lossy" then
    chunks = vp8(width, height)
  elseif kind == "lossless" then
    chunks = vp8l(width, height)
  elseif kind == "extended" then
    chunks = vp8x(0x08, width, height) .. vp8l(width, height) .. image_bytes.riff_chunk("EXIF", "MM\0\42\0\0\0\8\0\0")
  else
    local frame = image_bytes.riff_chunk("ANMF", string.pack("<I3I3I3I3I3B", 0, 0, width - 1, height - 1, 100, 0)
      .. vp8l(width, height))
    chunks = vp8x(0x02, width, height) .. image_bytes.riff_chunk("ANIM", ("\0"):rep(6)) .. frame:rep(2)
  end
  return image_bytes.riff_chunk("RIFF", "WEBP" .. chunks)
end

-- ---------------------------------------------------------------- cuts

--- What a copy that broke off leaves: the first two thirds.
function image_bytes.cut(bytes) return bytes:sub(1, #bytes * 2 // 3) end

return image_bytes
