#!lua
-- Accept a job, or say why not; all or nothing at maxmemory, because nothing is allowed to go over it.
-- KEYS 1 lane 2.. the route's other job lanes
-- ARGV 2 job 3 envelope 4 fingerprint 5 idempotency digest ('' none) 6 window ms 7 budget ms (0 none) 8 keep ms
--      9 ttl ms 10 max depth 11 max bytes 12 max age ms (0 none) 13 tenant 14 version 15 priority
-- -> {OK | DUP, view} | {CONFLICT} | {EXPIRED} | {FULL, which bound, how much}
local jid, payload = ARGV[2], ARGV[3]
local idem = P .. 'i:' .. ARGV[5]
if ARGV[5] ~= '' then
  local before = redis.call('GET', idem)
  if before then
    local at = string.find(before, '|', 1, true)
    local other = string.sub(before, 1, at - 1)
    if string.sub(before, at + 1) ~= ARGV[4] then return {'CONFLICT'} end
    if redis.call('EXISTS', P .. 'j:' .. other) == 1 then return {'DUP', view(other)} end
  end
end
if redis.call('EXISTS', P .. 'j:' .. jid) == 1 then return {'DUP', view(jid)} end
local budget = tonumber(ARGV[7])
if budget < 0 then return {'EXPIRED'} end
local now, depth, size = now_ms(), 0, #payload
for _, lane in ipairs(KEYS) do depth = depth + redis.call('XLEN', lane) end
if depth >= tonumber(ARGV[10]) then return {'FULL', 'depth', depth} end
local bytes = tonumber(redis.call('GET', P .. 'b') or '0')
if bytes + size > tonumber(ARGV[11]) then return {'FULL', 'bytes', bytes} end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if oldest and tonumber(ARGV[12]) > 0 then
  local age = now - tonumber(string.match(oldest[1], '^(%d+)'))
  if age > tonumber(ARGV[12]) then return {'FULL', 'age', age} end
end
local deadline, keep = 0, tonumber(ARGV[8])
if budget > 0 then deadline = now + budget end
redis.call('SET', P .. 'p:' .. jid, payload, 'PX', keep)
local id = redis.call('XADD', KEYS[1], '*', 'j', jid, 'd', deadline, 'z', size)
redis.call('HSET', P .. 'j:' .. jid, 'st', 'queued', 'n', 0, 'o', '', 's', KEYS[1], 'id', id, 'dl', deadline, 'v', ARGV[14],
  'p', ARGV[15], 'tn', ARGV[13], 'z', size, 'ttl', ARGV[9], 't0', now)
redis.call('PEXPIRE', P .. 'j:' .. jid, keep)
redis.call('ZADD', P .. 'idx', now, jid)
redis.call('ZADD', P .. 'exp', now + keep, jid)
redis.call('SADD', P .. 'lanes', KEYS[1])
redis.call('INCRBY', P .. 'b', size)
if ARGV[5] ~= '' then redis.call('SET', idem, jid .. '|' .. ARGV[4], 'PX', ARGV[6]) end
count('submitted')
return {'OK', view(jid)}
