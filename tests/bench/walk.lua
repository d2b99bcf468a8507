--- Writes down the paths of all .jpg and .png files below a folder.
--
--    obatch run tests/bench/walk.lua FOLDER OUT

local fs = require "obatch.fs"

local folder, out_path = ...
local out <close> = assert(io.open(out_path, "wb"))
local pictures = { [".jpg"] = true, [".png"] = true }
for path in fs.walk(folder, { ext = pictures, stat = false }) do assert(out:write(path, "\n")) end
