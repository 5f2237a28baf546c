#!lua flags=allow-oom
-- Forget a dead job.   KEYS 1 any key of the model   ARGV 2 job 3 tenant   -> OK | NOT_FOUND | NOT_DEAD
local jid, key = ARGV[2], P .. 'j:' .. ARGV[2]
local h = redis.call('HMGET', key, 'tn', 'dq')
if not h[1] or h[1] ~= ARGV[3] then return 'NOT_FOUND' end
if not h[2] then return 'NOT_DEAD' end
redis.call('XDEL', P .. 'dlq', h[2])
redis.call('UNLINK', key, P .. 'p:' .. jid, P .. 'r:' .. jid)
redis.call('ZREM', P .. 'idx', jid)
redis.call('ZREM', P .. 'exp', jid)
count('dropped')
return 'OK'
