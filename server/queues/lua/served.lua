#!lua flags=allow-oom
-- The versions that some worker serves now, with what they announced.   KEYS 1 tq:served 2 tq:specs
local now, seen, out = now_ms(), {}, {}
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local name = string.match(member, '^(.*|.*)|.*$')
  if not seen[name] then
    seen[name] = true
    out[#out + 1] = {name, redis.call('HGET', KEYS[2], name) or ''}
  end
end
return out
