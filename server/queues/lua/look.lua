#!lua flags=no-writes
-- What metrics want to know, O(1) per lane.   KEYS 1 any key of the model
-- -> {{lane, length, pending, age ms of the oldest, waiting rows of online requests}.., events counted, dead, bytes}
local now, lanes = now_ms(), {}
for _, lane in ipairs(redis.call('SMEMBERS', P .. 'lanes')) do
  local length, held, age = redis.call('XLEN', lane), 0, 0
  if length > 0 then
    held = pending(lane)[1] or 0
    age = now - tonumber(string.match(redis.call('XRANGE', lane, '-', '+', 'COUNT', 1)[1][1], '^(%d+)'))
  end
  lanes[#lanes + 1] = {lane, length, held, age, tonumber(redis.call('HGET', P .. 'rows', lane) or '0')}
end
return {lanes, redis.call('HGETALL', P .. 'n'), redis.call('XLEN', P .. 'dlq'), tonumber(redis.call('GET', P .. 'b') or '0')}
