#!lua flags=allow-oom
-- Keep the lease on what is still ours (a plain XCLAIM by a worker that lost it would steal it back).
-- KEYS lanes   ARGV 2 consumer, then per job: lane number, entry, job
-- -> {jobs no longer ours, jobs somebody wants cancelled}
local gone, unwanted = {}, {}
for i = 3, #ARGV, 3 do
  local lane, id, jid = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2]
  local p = pending(lane, id, id, 1)
  if p[1] and p[1][2] == ARGV[2] then
    redis.call('XCLAIM', lane, G, ARGV[2], 0, id, 'JUSTID')
    if redis.call('HGET', P .. 'j:' .. jid, 'c') == '1' then unwanted[#unwanted + 1] = jid end
  else
    gone[#gone + 1] = jid
  end
end
return {gone, unwanted}
