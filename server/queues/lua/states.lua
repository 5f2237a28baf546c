#!lua flags=no-writes
-- KEYS 1 any key of the model   ARGV 2.. jobs  -> "state:attempts" of each, '' for no such job
local out = {}
for i = 2, #ARGV do
  local h = redis.call('HMGET', P .. 'j:' .. ARGV[i], 'st', 'n')
  out[i - 1] = h[1] and (h[1] .. ':' .. h[2]) or ''
end
return out
