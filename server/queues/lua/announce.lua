#!lua flags=allow-oom
-- A worker says for how long it serves a version (0: no longer), and what frontends must know of it.
-- KEYS 1 tq:served 2 tq:specs   ARGV 2 model|version|consumer 3 model|version 4 ms 5 announcement
local now, ms = now_ms(), tonumber(ARGV[4])
local before = redis.call('ZSCORE', KEYS[1], ARGV[2])
if ms > 0 then
  redis.call('ZADD', KEYS[1], now + ms, ARGV[2])
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])
else
  redis.call('ZREM', KEYS[1], ARGV[2])
end
if (ms > 0) ~= (before and tonumber(before) > now or false) then redis.call('PUBLISH', KEYS[1], ARGV[3]) end
return 1
