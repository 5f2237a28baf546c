#!lua
-- Every command the scripts use, once, on keys of its own: what an ACL forbids is named at start.
-- KEYS 1 stream 2 hash   -> names of the commands that were refused
local s, h, denied = KEYS[1], KEYS[2], {}

local function try(...)
  local r = redis.pcall(...)
  if type(r) == 'table' and r.err then denied[#denied + 1] = string.lower((...)) end
  return r
end

try('TIME')
try('UNLINK', s, h)
try('XGROUP', 'CREATE', s, G, '0', 'MKSTREAM')
local id = try('XADD', s, '*', 'j', 'probe')
try('XREADGROUP', 'GROUP', G, 'probe', 'COUNT', 1, 'STREAMS', s, '>')
try('XPENDING', s, G)
try('XCLAIM', s, G, 'probe', 0, type(id) == 'string' and id or '1-1', 'JUSTID')
try('XINFO', 'STREAM', s); try('XINFO', 'GROUPS', s); try('XINFO', 'CONSUMERS', s, G)
try('XRANGE', s, '-', '+'); try('XREVRANGE', s, '+', '-'); try('XLEN', s)
try('XACK', s, G, '1-1'); try('XDEL', s, '1-1'); try('XGROUP', 'DELCONSUMER', s, G, 'probe')
try('HSET', h, 'f', 1); try('HINCRBY', h, 'f', 1); try('HGET', h, 'f'); try('HMGET', h, 'f')
try('HGETALL', h); try('HDEL', h, 'f'); try('UNLINK', s, h)
try('SET', h, 1, 'PX', 1000); try('GET', h); try('INCRBY', h, 1); try('DECRBY', h, 1)
try('EXISTS', h); try('PTTL', h); try('PEXPIRE', h, 1000); try('UNLINK', h)
try('ZADD', h, 1, 'm'); try('ZRANGEBYSCORE', h, 0, 1); try('ZREVRANGEBYSCORE', h, 1, 0)
try('ZSCORE', h, 'm'); try('ZRANGE', h, 0, -1); try('ZREMRANGEBYSCORE', h, 0, 1); try('ZREM', h, 'm')
try('UNLINK', h); try('SADD', h, 'm'); try('SMEMBERS', h); try('UNLINK', h)
try('PUBLISH', P .. 'done', '')
return denied
