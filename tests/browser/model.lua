-- The model of the report page's jobs: answers that are to be looked at, by custom_id.
local HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'> "
  .. "\u{202E}drow\u{202C} \27[31m"

return function(request, asked)
  local id = request.custom_id
  if id == "good" then return '{"text": "fine"}' end
  if id == "refused" then return { refusal = "I'm sorry, I can't help with that." } end
  if id == "long" then
    return '{"text": "' .. ("a long answer that goes on and on, line after line; "):rep(160) .. '" "broken": true}'
  end
  if id:find("broken", 1, true) then
    return ('{"attempt": %d, "text": "%s\\ncame by coach" "broken": true}'):format(asked,
      asked == 1 and "the blue ledger" or "the old green ledger")
  end
  if id:find("|", 1, true) then -- a page
    if id:find("1893-05-19", 1, true) then return "Port Ellery\n\n" .. ("the pier and the "):rep(60) end
    if id:find("arrival", 1, true) then return HOSTILE end
    return "```\nDear Margaret,\n\nthe ledger arrived with the coach on Friday.\n\nEdwin\n```"
  end
  return '{"text": "' .. HOSTILE
end
