#!lua
-- Queue a dead job again with a fresh count of attempts and no deadline.
-- KEYS 1 any key of the model   ARGV 2 job 3 tenant 4 max depth 5 keep ms
-- -> {OK, view} | {NOT_FOUND} | {NOT_DEAD} | {LOST} | {FULL, depth, how many}
local jid, key = ARGV[2], P .. 'j:' .. ARGV[2]
local h = redis.call('HMGET', key, 'tn', 'dq', 's', 'z', 'st')
if not h[1] or h[1] ~= ARGV[3] then return {'NOT_FOUND'} end
if not h[2] then
  if h[5] == 'queued' or h[5] == 'running' then return {'OK', view(jid)} end       -- our own retry after a lost reply
  return {'NOT_DEAD'}
end
if redis.call('EXISTS', P .. 'p:' .. jid) == 0 then return {'LOST'} end
local depth = redis.call('XLEN', h[3])
if depth >= tonumber(ARGV[4]) then return {'FULL', 'depth', depth} end
redis.call('XDEL', P .. 'dlq', h[2])
local id = redis.call('XADD', h[3], '*', 'j', jid, 'd', 0, 'z', h[4])
redis.call('HSET', key, 'st', 'queued', 'n', 0, 'o', '', 'id', id, 'dl', 0, 't1', 0, 't2', 0)
redis.call('HDEL', key, 'dq', 'why', 'lf', 'c')
redis.call('UNLINK', P .. 'r:' .. jid)
redis.call('PEXPIRE', key, ARGV[5])
redis.call('PEXPIRE', P .. 'p:' .. jid, ARGV[5])
redis.call('ZADD', P .. 'exp', now_ms() + tonumber(ARGV[5]), jid)
redis.call('INCRBY', P .. 'b', h[4])
count('revived')
ring({jid})
return {'OK', view(jid)}
