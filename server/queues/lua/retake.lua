#!lua flags=allow-oom
-- Take over one online request of a worker that is gone, to be run alone; one that used up its attempts is answered.
-- KEYS lanes   ARGV 2 consumer 3 token 4 lease ms 5 max attempts 6 the answer then 7.. consumers known to be gone
-- -> {row as in take} or {}
local consumer, now = ARGV[2], now_ms()

local function row(number, e, attempt)
  return {number, e[1], e[2][2], remaining(e[2][4], now), attempt, e[2][12], e[2][10]}
end

local given = recall(consumer, ARGV[3])
if given then
  local e = redis.call('XRANGE', KEYS[given[1]], given[2], given[2])[1]
  if e then return {row(given[1], e, given[3])} end
  return {}
end

local function take(number, lane, p)
  local id, owner, attempts = p[1], p[2], p[4]
  local e = redis.call('XRANGE', lane, id, id)[1]
  if not e then redis.call('XACK', lane, G, id); return nil end
  local deadline = tonumber(e[2][4])
  if deadline > 0 and deadline <= now then
    drop_entry(lane, id, e[2][6])
    count('online_expired')
  elseif attempts >= tonumber(ARGV[5]) then
    drop_entry(lane, id, e[2][6])
    redis.call('XADD', P .. 'a:' .. e[2][10], 'NOMKSTREAM', '*', e[2][2], ARGV[6])
    count('online_poison')
  else
    redis.call('XCLAIM', lane, G, consumer, 0, id)
    count('online_recovered')
    remember(consumer, ARGV[3], {number, id, attempts + 1})
    return row(number, e, attempts + 1)
  end
  return nil
end

for number, lane in ipairs(KEYS) do
  for i = 7, #ARGV do
    for _, p in ipairs(pending(lane, '-', '+', 64, ARGV[i])) do
      local got = take(number, lane, p)
      if got then return {got} end
    end
  end
  for _, p in ipairs(pending(lane, 'IDLE', ARGV[4], '-', '+', 64)) do
    local got = take(number, lane, p)
    if got then return {got} end
  end
end
return {}
