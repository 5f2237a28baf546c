#!lua flags=allow-oom
-- Take over one job of a worker that is gone, to be run alone: if it killed its worker it must take nobody along.
-- Jobs that cannot be run any more are ended on the way; one that used up its attempts goes among the dead.
-- KEYS lanes   ARGV 2 consumer 3 token 4 lease ms 5 max attempts 6 max dead 7 dead ttl ms 8.. consumers known to be gone
-- -> {handed job} or {}
local consumer, now = ARGV[2], now_ms()
local given = recall(consumer, ARGV[3])
if given then return {handed(given[1], given[2], given[3], now)} end
local rung = {}

local function end_of(jid, deadline, h)
  if not h[1] or redis.call('EXISTS', P .. 'p:' .. jid) == 0 then return 'lost' end
  if h[1] ~= 'running' then return 'stray' end
  if h[3] == '1' then return 'cancelled' end
  if deadline > 0 and deadline <= now then return 'expired' end
  if tonumber(h[2]) >= tonumber(ARGV[5]) then return 'dead' end
  return nil
end

local function take(lane_number, lane, p)
  local id, owner = p[1], p[2]
  local e = redis.call('XRANGE', lane, id, id)[1]
  if not e then redis.call('XACK', lane, G, id); return nil end
  local jid, deadline, size = e[2][2], tonumber(e[2][4]), e[2][6]
  local h = redis.call('HMGET', P .. 'j:' .. jid, 'st', 'n', 'c')
  local why = end_of(jid, deadline, h)
  if not why then
    redis.call('XCLAIM', lane, G, consumer, 0, id, 'JUSTID')
    start(lane, id, jid, consumer, now)
    count('recovered')
    remember(consumer, ARGV[3], {lane_number, id, jid})
    return handed(lane_number, id, jid, now)
  end
  if why == 'lost' then
    if h[1] == 'running' then close_job(jid, 'failed', now); redis.call('HSET', P .. 'j:' .. jid, 'why', 'lost-record') end
    lost(lane, id, jid, size)
  else
    drop_entry(lane, id, size)
    if why == 'dead' then bury(jid, 'max-attempts', h[2], owner, now, tonumber(ARGV[6]), tonumber(ARGV[7]))
    elseif why ~= 'stray' then close_job(jid, why, now) end
  end
  rung[#rung + 1] = jid
  return nil
end

local function first()
  for lane_number, lane in ipairs(KEYS) do
    for i = 8, #ARGV do
      for _, p in ipairs(pending(lane, '-', '+', 16, ARGV[i])) do
        local got = take(lane_number, lane, p)
        if got then return {got} end
      end
    end
    for _, p in ipairs(pending(lane, 'IDLE', ARGV[4], '-', '+', 16)) do
      local got = take(lane_number, lane, p)
      if got then return {got} end
    end
  end
  return {}
end

local got = first()
ring(rung)
return got
