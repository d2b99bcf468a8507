--- The sandbox's model for the whole loop: every 20th request is answered well only the second time.

local good = [[{"page":"Transcribed.","items":[{"text":"one line","bbox":[1,2,3,4]}],"total":1}]]

return function(request, asked)
  local number = tonumber(request.custom_id:match "(%d+)%D*$")
  return number % 20 == 0 and asked == 1 and good:sub(1, -2) or good
end
