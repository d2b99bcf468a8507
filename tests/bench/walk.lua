--- Writes down the paths of all .jpg and .png files below a folder.
--
--    obatch run tests/bench/walk.lua FOLDER OUT

local fs = require "obatch.fs"

local folder, out_path = ...
local out <close> = assert(io.open(out_path, "wb"))
for path in fs.walk(folder, { ext = { [".jpg"] = true, [".png"] = true } }) do assert(out:write(path, "\n")) end
