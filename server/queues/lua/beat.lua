#!lua flags=allow-oom
-- A sign of life; at maxmemory as well, or the living would count as dead.   KEYS 1 tq:w:<consumer>   ARGV 2 ms
return redis.call('SET', KEYS[1], 1, 'PX', ARGV[2])
