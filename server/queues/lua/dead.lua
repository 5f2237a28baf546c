#!lua flags=no-writes
-- The dead, newest first.   KEYS 1 any key of the model   ARGV 2 entry to start below ('+' the newest) 3 want 4 tenant
-- -> {views, entry reached ('' at the end)}
local out, from = {}, ARGV[2]
if from ~= '+' then from = '(' .. from end
local r = redis.call('XREVRANGE', P .. 'dlq', from, '-', 'COUNT', 1000)
for i, e in ipairs(r) do
  local fields = redis.call('HGETALL', P .. 'j:' .. e[2][2])
  local tenant = redis.call('HGET', P .. 'j:' .. e[2][2], 'tn')
  if tenant == ARGV[4] then out[#out + 1] = {e[2][2], fields, redis.call('GET', P .. 'r:' .. e[2][2]) or ''} end
  if #out == tonumber(ARGV[3]) or (i == #r and #r == 1000) then return {out, e[1]} end
end
return {out, ''}
