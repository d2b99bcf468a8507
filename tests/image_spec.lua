local fs = require "obatch.fs"
local image = require "obatch.image"
local image_bytes = require "image_bytes"
local support = require "support"

local dir

--- What image.facts says of a file with these bytes.
local function facts(bytes)
  support.write(dir.path .. "/x.jpg", bytes)
  return image.facts(dir.path .. "/x.jpg")
end

--- "png 33x70", or the code.
local function verdict(bytes)
  local found, _, code = facts(bytes)
  return found and ("%s %dx%d"):format(found.type, found.width, found.height) or code
end

--- The verdicts on the first 0, 1, 2, ... bytes, each with the length from which on it is given:
--- { "EMPTY 0", "NOT_IMAGE 1", ... }.
local function verdicts_of_cuts(bytes)
  local changes, last = {}, nil
  for length = 0, #bytes do
    local now = verdict(bytes:sub(1, length))
    if now ~= last then changes[#changes + 1] = now .. " " .. length end
    last = now
  end
  return changes
end

--- How many bytes this process reads while `f` runs.
local function bytes_read(f)
  local function so_far() return tonumber(support.read("/proc/self/io"):match("rchar: (%d+)")) end
  local before = so_far()
  f()
  return so_far() - before
end

local KINDS = {
  png = image_bytes.png, jpeg = image_bytes.jpeg, gif = image_bytes.gif,
  webp = function(width, height) return image_bytes.webp(width, height, "lossless") end,
}

describe("image.facts", function()
  before_each(function() dir = support.tmpdir() end)
  after_each(function() getmetatable(dir).__close(dir) end)

  it("reads the size of every kind of image, whatever its name says", function()
    for kind, make in pairs(KINDS) do
      for _, size in ipairs { { 1, 1 }, { 33, 70 }, { 300, 255 }, { 2480, 3508 } } do
        local bytes = make(size[1], size[2])
        assert.same({ type = kind, width = size[1], height = size[2], bytes = #bytes }, facts(bytes))
      end
    end
    assert.equal("webp 33x70", verdict(image_bytes.webp(33, 70, "lossy")))
    assert.equal("webp 16000x70", verdict(image_bytes.webp(16000, 70, "extended")))
    assert.equal("png 100000x3", verdict(image_bytes.png(100000, 3)))
    assert.equal("jpeg 65535x8", verdict(image_bytes.jpeg(65535, 8)))
  end)

  it("calls a copy that broke off after any byte cut off, and only that", function()
    assert.same({ "EMPTY 0", "NOT_IMAGE 1", "CUT_OFF 8", "png 20x9 101" }, verdicts_of_cuts(image_bytes.png(20, 9)))
    assert.same({ "EMPTY 0", "NOT_IMAGE 1", "CUT_OFF 3", "jpeg 33x70 303" },
      verdicts_of_cuts(image_bytes.jpeg(33, 70, image_bytes.exif())))
    assert.same({ "EMPTY 0", "NOT_IMAGE 1", "CUT_OFF 6", "gif 33x70 96" }, verdicts_of_cuts(image_bytes.gif(33, 70)))
    for kind, length in pairs { lossless = 28, lossy = 290, extended = 64 } do
      assert.same({ "EMPTY 0", "NOT_IMAGE 1", "CUT_OFF 12", "webp 9x8 " .. length },
        verdicts_of_cuts(image_bytes.webp(9, 8, kind)))
    end
  end)

  it("does not take the end of an EXIF thumbnail for the end of the picture", function()
    local whole = image_bytes.jpeg(800, 600, image_bytes.exif())
    assert.equal("CUT_OFF", verdict(image_bytes.cut(whole)))
    assert.equal("CUT_OFF", verdict(whole:sub(1, -3) .. ("\0"):rep(10000)))
  end)

  it("knows a whole image with something behind its end", function()
    local jpeg, png = image_bytes.jpeg(33, 70), image_bytes.png(33, 70)
    local film = "\0\0\0\24ftypmp42" .. ("film\0"):rep(20000)
    for _, more in ipairs { "\0", ("\0"):rep(100000), "\r\n", film, jpeg, image_bytes.cut(jpeg), ("\xFF"):rep(9000) } do
      assert.equal("jpeg 33x70", verdict(jpeg .. more))
      assert.equal("png 33x70", verdict(png .. more))
      assert.equal("gif 33x70", verdict(image_bytes.gif(33, 70) .. more))
      assert.equal("webp 33x70", verdict(image_bytes.webp(33, 70, "lossless") .. more))
    end
  end)

  it("finds the end of a JPEG behind any coded picture", function()
    local head = image_bytes.jpeg(33, 70):sub(1, -12)
    local scan = "\x12\xFF\x00\xD9\xFF\xD0\xD9\xFF\xD7\xFF\x00\x00"
    local segment = image_bytes.jpeg_segment
    local next_scan = segment(0xC4, "\0tables\xFF\xD9") .. segment(0xDA, "\1\1\0\0\63\0")
    for length = 4070, 4110 do -- a marker may lie across the edge of what is read at once
      local long = ("\xAA"):rep(length)
      assert.equal("jpeg 33x70", verdict(head .. scan .. long .. "\xFF\xFF\xFF\xD9" .. ("\0"):rep(5000)))
      assert.equal("jpeg 33x70", verdict(head .. long .. next_scan .. scan .. "\xFF\xD9" .. ("\0"):rep(5000)))
      assert.equal("CUT_OFF", verdict(head .. long .. next_scan .. scan .. ("\0"):rep(5000)))
      assert.equal("CUT_OFF", verdict(head .. scan .. long .. "\xFF"))
    end
    assert.equal("jpeg 33x70", verdict(head .. scan .. "\xFF\x02\xFF\xFF\xD9" .. ("\0"):rep(5000)))
    -- A picture that broke off, and another file behind it.
    local other = image_bytes.jpeg(16, 16) .. ("\0"):rep(70000) .. "\xFF\xD9"
    assert.equal("CUT_OFF", verdict(head .. scan .. other .. ("\0"):rep(5000)))
  end)

  it("reads past odd but legal headers", function()
    local segment = image_bytes.jpeg_segment
    assert.equal("jpeg 33x70", verdict(image_bytes.jpeg(33, 70, "\xFF\xFF\xFF" .. segment(0xE0, "JFIF"):sub(2))))
    assert.equal("jpeg 33x70", verdict(image_bytes.jpeg(33, 70, segment(0xE2, ("\xFF\xC0"):rep(30000)):rep(3))))
    assert.equal("jpeg 33x70", verdict((image_bytes.jpeg(33, 70):gsub("\xFF\xC0", "\xFF\xC2")))) -- progressive
    for _, marker in ipairs { 0xC4, 0xC8, 0xCC } do -- among those of frames, but not one
      assert.equal("jpeg 33x70", verdict(image_bytes.jpeg(33, 70, segment(marker, "\8\0\1\0\1\1"))))
    end
    local chunk = image_bytes.png_chunk
    assert.equal("png 33x70", verdict(image_bytes.png(33, 70, chunk("acTL", "\0\0\0\2\0\0\0\0")))) -- APNG
    assert.equal("png 33x70", verdict(image_bytes.png(33, 70, chunk("tEXt", "a\0IEND")) .. ("x"):rep(5000)))
    local gif = image_bytes.gif(33, 70)
    assert.equal("gif 33x70", verdict(gif:sub(1, 6) .. "\0\0\0\0" .. gif:sub(11))) -- no screen: the frame's size
    assert.equal("gif 33x70", verdict(gif:sub(1, -2) .. "\x21\xFE\3abc\0" .. "\0\0;"))
    local local_table = gif:find(string.pack("<BI2I2I2I2", 0x2C, 0, 0, 33, 70), 1, true) + 9
    assert.equal("gif 33x70", verdict(gif:sub(1, local_table - 1) .. "\x80\x2C\x2C\x2C\x2C\x2C\x2C"
      .. gif:sub(local_table + 1)))
  end)

  it("tells animated images", function()
    assert.equal("ANIMATED", verdict(image_bytes.gif(33, 70, 2)))
    assert.equal("ANIMATED", verdict(image_bytes.webp(33, 70, "animated")))
  end)

  it("says what a file is that is no image, by name and with the remedy", function()
    support.write(dir.path .. "/page\n.png", "a letter")
    local found, message, code = image.facts(dir.path .. "/page\n.png")
    assert.is_nil(found)
    assert.equal("NOT_IMAGE", code)
    assert.equal(dir.path .. "/page%0A.png is no PNG, JPEG, GIF or WebP image (by its first bytes): convert it, "
      .. "or take it away", message)
    assert.equal("NOT_IMAGE", verdict("II*\0\8\0\0\0"))
    assert.equal("NOT_IMAGE", verdict("RIFF\4\0\0\0WAVE"))
    assert.equal("NOT_IMAGE", verdict(("\0"):rep(5000)))
    assert.equal("EMPTY", verdict "")

    assert.equal("NOT_IMAGE", select(3, image.facts(dir.path)))
    assert.equal("ENOENT", select(3, image.facts(dir.path .. "/none")))
    assert(os.execute("ln -s loop " .. support.quote(dir.path .. "/loop")))
    found, message, code = image.facts(dir.path .. "/loop")
    assert.is_nil(found)
    assert.matches("/loop", message, 1, true)
    assert.equal("ELOOP", code)
    assert(os.execute("mkfifo " .. support.quote(dir.path .. "/pipe")))
    assert.equal("NOT_IMAGE", select(3, image.facts(dir.path .. "/pipe"))) -- and does not wait for it
  end)

  it("calls an image that no program could show damaged", function()
    local segment, chunk = image_bytes.jpeg_segment, image_bytes.png_chunk
    local damaged = {
      image_bytes.jpeg(33, 70, "\xFF\xE1\0\0"),
      image_bytes.jpeg(33, 70, "\xFF\xE1\0\1"),
      (image_bytes.jpeg(33, 70):gsub("\0\70\0\33", "\0\0\0\33")),
      "\xFF\xD8\xFF\xD9",
      "\xFF\xD8" .. segment(0xDA, "\1\1\0\0\63\0") .. "scan\xFF\xD9",
      (image_bytes.png(33, 70):gsub("IHDR", "CgBI")),
      "\x89PNG\r\n\x1A\n" .. chunk("IHDR", string.pack(">I4I4BBBBB", 0, 70, 1, 0, 0, 0, 0)) .. chunk("IEND", ""),
      "\x89PNG\r\n\x1A\n" .. chunk("IHDR", string.pack(">I4I4BBBBB", 70, 1 << 31, 1, 0, 0, 0, 0)) .. chunk("IEND", ""),
      "GIF89a\33\0\70\0\0\0\0;",
      image_bytes.gif(33, 70):sub(1, -2) .. "what?;",
      (image_bytes.webp(33, 70, "lossless"):gsub("\x2F", "\x2E")),
      (image_bytes.webp(33, 70, "lossy"):gsub("\x9D\1", "\x9D\2")),
      (image_bytes.webp(33, 70, "lossy"):gsub("VP8 ", "VP9 ")),
    }
    for i, bytes in ipairs(damaged) do
      local found, message, code = facts(bytes)
      assert.is_nil(found, i)
      assert.equal("NOT_IMAGE", code, i)
      assert.matches("is a damaged", message, 1, true)
    end
  end)

  it("says that a file could not be read to its end, rather than that it is cut off", function()
    support.write(dir.path .. "/x.jpg", image_bytes.jpeg(2480, 3508))
    local open = io.open
    io.open = function(...) -- luacheck: ignore 122
      local file = assert(open(...))
      return { setvbuf = function() end, seek = function(_, ...) return file:seek(...) end,
        read = function() return nil, "Input/output error", 5 end, close = function() file:close() end }
    end
    local ok, found, message, code = pcall(image.facts, dir.path .. "/x.jpg")
    io.open = open -- luacheck: ignore 122
    assert.is_true(ok, found)
    assert.is_nil(found)
    assert.equal(dir.path .. "/x.jpg cannot be read: Input/output error", message)
    assert.equal("EIO", code)
  end)

  it("never raises or hangs on bytes that lie", function()
    math.randomseed(20261101)
    local originals = { image_bytes.jpeg(33, 70, image_bytes.exif()), image_bytes.png(33, 70),
      image_bytes.gif(33, 70), image_bytes.gif(9, 9, 2), image_bytes.webp(9, 8, "lossy"),
      image_bytes.webp(33, 70, "extended") }
    for _, original in ipairs(originals) do
      for _ = 1, 300 do
        local bytes = { original:byte(1, -1) }
        for _ = 1, math.random(6) do
          bytes[math.random(math.random(2) == 1 and 60 or #bytes)] = ({ 0, 255, math.random(0, 255) })[math.random(3)]
        end
        for i, byte in ipairs(bytes) do bytes[i] = string.char(byte) end
        local found, message, code = facts(table.concat(bytes))
        if found then
          assert.is_true(math.type(found.width) == "integer" and found.width > 0 and found.height > 0)
        else
          assert.is_string(message)
          assert.is_string(code)
        end
      end
    end
  end)

  it("reads a few KB of a large image, and holds a few KB of any", function()
    local function sparse(name, head, tail)
      local file <close> = assert(io.open(dir.path .. "/" .. name, "wb"))
      file:write(head)
      file:seek("set", 40e6 // 1)
      file:write(tail)
    end
    local png = image_bytes.png(33, 70)
    sparse("whole.jpg", image_bytes.jpeg(33, 70, image_bytes.exif()):sub(1, -3), "\xFF\xD9")
    sparse("whole.png", png:sub(1, 33) .. "\2\0\0\0IDAT", png:sub(-12))
    for _, name in ipairs { "whole.jpg", "whole.png" } do
      local read = bytes_read(function() assert.equal(33, assert(image.facts(dir.path .. "/" .. name)).width) end)
      assert.is_true(read < 20000, ("%d bytes of %s were read"):format(read, name))
    end

    sparse("cut.jpg", image_bytes.jpeg(33, 70):sub(1, -3), "x")
    assert.equal(40000001, fs.stat(dir.path .. "/cut.jpg").size)
    local most = 0
    collectgarbage()
    local before = collectgarbage "count"
    debug.sethook(function() most = math.max(most, collectgarbage "count" - before) end, "", 100)
    local ok, found, _, code = pcall(image.facts, dir.path .. "/cut.jpg")
    debug.sethook()
    assert.same({ true, "CUT_OFF" }, { ok, code }, found)
    assert.is_true(most > 0 and most < 2000, most .. " KB") -- what is garbage already counts, too
  end)

  it("takes a time that grows as the file does, not as its square", function()
    local head = "\xFF\xD8\xFF"
    for _, bytes in ipairs { head .. ("\xFF\1"):rep(300000), head .. ("\xE0\0\2\xFF"):rep(150000),
      image_bytes.jpeg(1, 1):sub(1, -3) .. ("\xFF\xDA\0\2"):rep(20000),
      image_bytes.gif(1, 1):sub(1, 25) .. ("\0"):rep(600000) } do
      local read = bytes_read(function() assert.equal("CUT_OFF", verdict(bytes)) end)
      assert.is_true(read < 2 * #bytes, ("%d bytes were read of %d"):format(read, #bytes))
    end
  end)
end)

describe("image.size", function()
  local function size(bytes, most)
    local asked = 0
    local width, height = image.size(function(position, count)
      asked = asked + 1
      assert.is_true(position >= 1 and count >= 1)
      return bytes:sub(position, position + math.max(count, most or 0) - 1)
    end)
    return width and ("%dx%d"):format(width, height), asked
  end

  it("reads the sides by the header alone, in small pieces or in one", function()
    for name, bytes in pairs { png = image_bytes.png(33, 70), jpeg = image_bytes.jpeg(33, 70),
      exif = image_bytes.jpeg(33, 70, image_bytes.exif()), gif = image_bytes.gif(33, 70),
      lossy = image_bytes.webp(33, 70, "lossy"), lossless = image_bytes.webp(33, 70, "lossless"),
      extended = image_bytes.webp(33, 70, "extended") } do
      assert.equal("33x70", size(bytes), name)
      assert.equal("33x70", size(bytes, 1 << 20), name)
      if #bytes > 100 then bytes = bytes:sub(1, -30) end
      assert.equal("33x70", size(bytes, 24), name) -- whether it is whole is not asked
    end
  end)

  it("gives nothing for what is no image or ends too soon", function()
    for _, bytes in ipairs { "", "x", "%PDF-1.7", image_bytes.png(3, 3):sub(1, 20), image_bytes.jpeg(3, 3):sub(1, 70),
      "\xFF\xD8\xFF", image_bytes.gif(3, 3):sub(1, 8), image_bytes.webp(9, 8, "lossy"):sub(1, 22) } do
      assert.is_nil((size(bytes)), bytes)
    end
  end)

  it("jumps over what stands before the sides of a JPEG", function()
    local segments = image_bytes.jpeg_segment(0xE2, ("x"):rep(60000)):rep(10)
    local found, asked = size(image_bytes.jpeg(33, 70, segments), 24)
    assert.equal("33x70", found)
    assert.is_true(asked < 40, asked)
  end)
end)
