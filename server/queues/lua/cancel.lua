#!lua flags=allow-oom
-- A waiting job ends at once; the worker of a running one is asked to leave it out of its next batch.
-- KEYS 1 any key of the model   ARGV 2 job 3 tenant   -> view; no fields: no such job
local jid = ARGV[2]
local h = redis.call('HMGET', P .. 'j:' .. jid, 'st', 'tn', 's', 'id', 'z')
if not h[1] or h[2] ~= ARGV[3] then return {jid, {}, ''} end
if h[1] == 'queued' then
  drop_entry(h[3], h[4], h[5])
  close_job(jid, 'cancelled', now_ms())
  ring({jid})
elseif h[1] == 'running' then
  redis.call('HSET', P .. 'j:' .. jid, 'c', 1)
  redis.call('PUBLISH', P .. 'cx', jid)
end
return view(jid)
