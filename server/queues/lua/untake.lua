#!lua flags=allow-oom
-- Hand back online requests that never started, as if they had not been claimed.
-- KEYS lanes   ARGV 2 consumer, then per request: lane number, entry   -> how many
local n = 0
for i = 3, #ARGV, 2 do
  local lane, id = KEYS[tonumber(ARGV[i])], ARGV[i + 1]
  local p, e = pending(lane, id, id, 1)[1], redis.call('XRANGE', lane, id, id)[1]
  if p and p[2] == ARGV[2] and e then
    redis.call('XACK', lane, G, id)
    redis.call('XDEL', lane, id)
    redis.call('XADD', lane, '*', unpack(e[2]))
    redis.call('HINCRBY', P .. 'rows', lane, e[2][8])
    n = n + 1
  end
end
return n
