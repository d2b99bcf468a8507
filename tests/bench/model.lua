--- The sandbox's model for the whole loop: answers of 4 KB, every tenth of them good only the second time.

local line = [[{"text":"a line of the page, as it was read","bbox":[120,340,880,392]}]]
local good = '{"page":"Transcribed.","items":[' .. (line .. ","):rep(55) .. line .. "]}"

return function(request, asked)
  local number = tonumber(request.custom_id:match "(%d+)%D*$")
  return number % 10 == 0 and asked == 1 and good:sub(1, -2) or good
end
