#!lua flags=allow-oom
-- Their callers have left: waiting requests go, the workers of running ones are asked to leave them out.
-- KEYS lanes   ARGV then per request: lane number, entry, id   -> how many were still waiting
local running, waiting = {}, 0
for i = 2, #ARGV, 3 do
  local lane, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  if #pending(lane, id, id, 1) > 0 then running[#running + 1] = ARGV[i + 2]
  else
    local e = redis.call('XRANGE', lane, id, id)[1]
    if e and drop_entry(lane, id, e[2][6]) == 1 then
      redis.call('HINCRBY', P .. 'rows', lane, -e[2][8])
      waiting = waiting + 1
    end
  end
end
if #running > 0 then redis.call('PUBLISH', P .. 'cx', table.concat(running, ' ')) end
return waiting
