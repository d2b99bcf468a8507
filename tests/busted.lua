-- Runs busted inside obatch: `obatch run tests/busted.lua FILE_spec.lua...`, TAP on stdout.
-- busted and its libraries probe for globals of other Lua versions, so the guard against undefined
-- ones is lifted here; cli_spec.lua tests the guard itself.
setmetatable(_G, nil)

local folder = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = package.path .. ";" .. folder .. "/?.lua" -- last: "busted" is not this file
table.insert(arg, 1, "--output=TAP")
require "busted.runner" { standalone = false }
return 0
