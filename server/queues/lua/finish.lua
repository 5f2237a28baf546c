#!lua flags=allow-oom
-- End jobs: fence, outcome, ack, delete and doorbell in one step. A repeat after a lost reply answers OK again; a
-- worker that lost its lease is told STALE and must forget what it computed.
-- KEYS lanes   ARGV 2 consumer 3 max attempts 4 max dead 5 dead ttl ms
--              then per job: lane number, entry, job, attempt, state (done failed cancelled expired retry), outcome
-- -> per job OK | STALE
local consumer, now, out, rung = ARGV[2], now_ms(), {}, {}
for i = 6, #ARGV, 6 do
  local lane, id, jid, attempt, state, outcome = KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5]
  local key, who = P .. 'j:' .. jid, consumer .. ':' .. attempt
  local h = redis.call('HMGET', key, 'st', 'o', 'n', 'lf', 'dl', 'z', 'c')
  if h[4] == who then
    out[#out + 1] = 'OK'
  elseif h[1] ~= 'running' or h[2] ~= consumer or h[3] ~= attempt then
    out[#out + 1] = 'STALE'
    count('stale')
  else
    redis.call('HSET', key, 'lf', who)
    if state == 'retry' and h[7] == '1' then state = 'cancelled' end
    if state == 'retry' and tonumber(attempt) < tonumber(ARGV[3]) then
      requeue(lane, id, jid, h[5], h[6], who)
      count('retried')
    else
      local ttl = tonumber(ARGV[5])
      drop_entry(lane, id, h[6])
      if state == 'retry' then bury(jid, 'failed', attempt, consumer, now, tonumber(ARGV[4]), ttl)
      else ttl = close_job(jid, state, now) end
      redis.call('SET', P .. 'r:' .. jid, outcome, 'PX', ttl)
    end
    out[#out + 1] = 'OK'
    rung[#rung + 1] = jid
  end
end
ring(rung)
return out
