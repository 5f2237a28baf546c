#!lua flags=allow-oom
-- Hand back jobs that were claimed and never started: claimable at once, and the attempt does not count.
-- KEYS lanes   ARGV 2 consumer, then per job: lane number, entry, job, attempt   -> how many
local released, rung = 0, {}
for i = 3, #ARGV, 4 do
  local lane, id, jid, attempt = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local key = P .. 'j:' .. jid
  local h = redis.call('HMGET', key, 'st', 'o', 'n', 'dl', 'z')
  if h[1] == 'running' and h[2] == ARGV[2] and h[3] == attempt then
    requeue(lane, id, jid, h[4], h[5], ARGV[2] .. ':' .. attempt)
    redis.call('HINCRBY', key, 'n', -1)
    count('released')
    released = released + 1
    rung[#rung + 1] = jid
  end
end
ring(rung)
return released
