#!lua
-- Queue a batch of one frontend's online requests. A repeat after a lost reply is told the same verdicts again.
-- KEYS lanes   ARGV 2 frontend 3 number of this send 4 most that may wait in a lane 5 max bytes
--              then per request: lane number, id, budget ms (-1 none), rows, envelope
-- -> per request its entry | FULL | EXPIRED
local memory, answers = P .. 'f:' .. ARGV[2], P .. 'a:' .. ARGV[2]
local said = redis.call('GET', memory)
if said then
  local at = string.find(said, '|', 1, true)
  if string.sub(said, 1, at - 1) == ARGV[3] then return cjson.decode(string.sub(said, at + 1)) end
end
local now, depth, added, out = now_ms(), {}, 0, {}
local bytes = tonumber(redis.call('GET', P .. 'b') or '0')
for i, lane in ipairs(KEYS) do depth[i] = redis.call('XLEN', lane) - (pending(lane)[1] or 0) end
if redis.call('EXISTS', answers) == 0 then redis.call('XADD', answers, '*', '', '') end
redis.call('PEXPIRE', answers, 600000)
for i = 6, #ARGV, 5 do
  local number, budget, size = tonumber(ARGV[i]), tonumber(ARGV[i + 2]), #ARGV[i + 4]
  local verdict
  if budget == 0 then verdict = 'EXPIRED'
  elseif depth[number] >= tonumber(ARGV[4]) or bytes + added + size > tonumber(ARGV[5]) then verdict = 'FULL'
  else
    local deadline = 0
    if budget > 0 then deadline = now + budget end
    verdict = redis.call('XADD', KEYS[number], '*', 'i', ARGV[i + 1], 'd', deadline, 'z', size, 'r', ARGV[i + 3], 'f', ARGV[2], 'b', ARGV[i + 4])
    if depth[number] == 0 then redis.call('SADD', P .. 'lanes', KEYS[number]) end
    depth[number] = depth[number] + 1
    added = added + size
    redis.call('HINCRBY', P .. 'rows', KEYS[number], ARGV[i + 3])
  end
  out[#out + 1] = verdict
end
if added > 0 then redis.call('INCRBY', P .. 'b', added) end
redis.call('SET', memory, ARGV[3] .. '|' .. cjson.encode(out), 'PX', 600000)
return out
