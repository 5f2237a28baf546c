#!lua flags=allow-oom
-- Once a minute, whoever comes first: what no event cleans up.
--   records that expired leave the indexes;
--   jobs waiting in lanes that nobody serves expire, and go when their record is lost;
--   orphans (delivered once, pending with nobody: after DELCONSUMER or a partial loss of data) are queued again.
-- KEYS 1 any key of the model   ARGV 2 least ms between sweeps   -> how many orphans were found, -1 if it was not time yet
if not redis.call('SET', P .. 'swept', 1, 'NX', 'PX', ARGV[2]) then return -1 end
local now, orphans, rung = now_ms(), 0, {}
for _, jid in ipairs(redis.call('ZRANGEBYSCORE', P .. 'exp', '-inf', now, 'LIMIT', 0, 1000)) do
  local left = redis.call('PTTL', P .. 'j:' .. jid)
  if left > 0 then redis.call('ZADD', P .. 'exp', now + left, jid)
  else redis.call('ZREM', P .. 'exp', jid); redis.call('ZREM', P .. 'idx', jid) end
end

local function delivered_up_to(lane)
  local groups = redis.pcall('XINFO', 'GROUPS', lane)
  if groups.err then return nil end
  for _, g in ipairs(groups) do
    for i = 1, #g, 2 do
      if g[i] == 'last-delivered-id' then return g[i + 1] end
    end
  end
  return '0-0'
end

local function is_online(e) return e[2][1] == 'i' end

local function sweep_waiting(lane, from)
  for _, e in ipairs(redis.call('XRANGE', lane, '(' .. from, '+', 'COUNT', 200)) do
    local id, jid, deadline, size = e[1], e[2][2], tonumber(e[2][4]), e[2][6]
    local over = deadline > 0 and deadline <= now
    if is_online(e) then
      if over and drop_entry(lane, id, size) == 1 then redis.call('HINCRBY', P .. 'rows', lane, -e[2][8]) end
    elseif redis.call('EXISTS', P .. 'j:' .. jid) == 0 then lost(lane, id, jid, size)
    elseif over then
      drop_entry(lane, id, size); close_job(jid, 'expired', now); rung[#rung + 1] = jid
    end
  end
end

local function sweep_delivered(lane, up_to)
  for _, e in ipairs(redis.call('XRANGE', lane, '-', up_to, 'COUNT', 1000)) do
    local id, jid = e[1], e[2][2]
    if #pending(lane, id, id, 1) == 0 then
      orphans = orphans + 1
      count('orphan')
      if is_online(e) then drop_entry(lane, id, e[2][6])
      elseif redis.call('EXISTS', P .. 'j:' .. jid) == 0 then lost(lane, id, jid, e[2][6])
      else requeue(lane, id, jid, e[2][4], e[2][6], 'sweep:' .. id) end
    end
  end
end

for _, lane in ipairs(redis.call('SMEMBERS', P .. 'lanes')) do
  local up_to = delivered_up_to(lane)
  if up_to then
    sweep_delivered(lane, up_to)
    sweep_waiting(lane, up_to)
  end
end
ring(rung)
return orphans
