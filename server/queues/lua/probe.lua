#!lua
-- Every command the scripts use, once, on keys of its own: where an ACL forbids one, this says so at start.
-- KEYS 1 stream 2 hash
local s, h = KEYS[1], KEYS[2]
redis.call('UNLINK', s, h)
local now = now_ms()
redis.call('XGROUP', 'CREATE', s, G, '0', 'MKSTREAM')
local id = redis.call('XADD', s, '*', 'j', 'probe')
redis.call('XREADGROUP', 'GROUP', G, 'probe', 'COUNT', 1, 'STREAMS', s, '>')
redis.call('XPENDING', s, G)
redis.call('XCLAIM', s, G, 'probe', 0, id, 'JUSTID')
redis.call('XINFO', 'STREAM', s); redis.call('XINFO', 'GROUPS', s); redis.call('XINFO', 'CONSUMERS', s, G)
redis.call('XRANGE', s, '-', '+'); redis.call('XREVRANGE', s, '+', '-'); redis.call('XLEN', s)
redis.call('XACK', s, G, id); redis.call('XDEL', s, id); redis.call('XGROUP', 'DELCONSUMER', s, G, 'probe')
redis.call('HSET', h, 'f', 1); redis.call('HINCRBY', h, 'f', 1); redis.call('HGET', h, 'f'); redis.call('HMGET', h, 'f')
redis.call('HGETALL', h); redis.call('HDEL', h, 'f'); redis.call('UNLINK', s, h)
redis.call('SET', h, 1, 'PX', 1000); redis.call('GET', h); redis.call('INCRBY', h, 1); redis.call('DECRBY', h, 1)
redis.call('EXISTS', h); redis.call('PTTL', h); redis.call('PEXPIRE', h, 1000); redis.call('UNLINK', h)
redis.call('ZADD', h, now, 'm'); redis.call('ZRANGEBYSCORE', h, 0, 1); redis.call('ZREVRANGEBYSCORE', h, 1, 0)
redis.call('ZSCORE', h, 'm'); redis.call('ZRANGE', h, 0, -1); redis.call('ZREMRANGEBYSCORE', h, 0, 1); redis.call('ZREM', h, 'm')
redis.call('UNLINK', h); redis.call('SADD', h, 'm'); redis.call('SMEMBERS', h); redis.call('UNLINK', h)
redis.call('PUBLISH', P .. 'done', '')
return 'OK'
