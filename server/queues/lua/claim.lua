#!lua flags=allow-oom
-- Start up to `want` waiting jobs, lanes in the order of KEYS (strict priority) or, where `step` is -1, the other way round.
-- Cancelled and expired ones are dropped on the way.
-- KEYS lanes   ARGV 2 consumer 3 token 4 want 5 step (1 or -1)   -> {handed jobs, tops, 1 if nothing was left}
local consumer, now, want = ARGV[2], now_ms(), tonumber(ARGV[4])
local given, out, rung = recall(consumer, ARGV[3]), {}, {}
if given then
  for _, g in ipairs(given) do out[#out + 1] = handed(g[1], g[2], g[3], now) end
  return {out, tops(), 0}
end
given = {}
local first, last, drained = 1, #KEYS, 1
if ARGV[5] == '-1' then first, last = last, first end
for lane_number = first, last, tonumber(ARGV[5]) do
  local lane, more = KEYS[lane_number], true
  for _ = 1, 4 do                                          -- dropped ones make room for more, within reason
    if #out >= want or not more then break end
    local asked = want - #out
    local entries = read_group(lane, consumer, asked)
    more = #entries == asked
    for _, e in ipairs(entries) do
      local id, jid, deadline, size = e[1], e[2][2], tonumber(e[2][4]), e[2][6]
      local key = P .. 'j:' .. jid
      local st = redis.call('HGET', key, 'st')
      if not st or redis.call('EXISTS', P .. 'p:' .. jid) == 0 then
        if st == 'queued' then close_job(jid, 'failed', now); redis.call('HSET', key, 'why', 'lost-record') end
        lost(lane, id, jid, size); rung[#rung + 1] = jid
      elseif st ~= 'queued' then
        drop_entry(lane, id, size)
      elseif deadline > 0 and deadline <= now then
        drop_entry(lane, id, size); close_job(jid, 'expired', now); rung[#rung + 1] = jid
      else
        start(lane, id, jid, consumer, now)
        given[#given + 1] = {lane_number, id, jid}
        out[#out + 1] = handed(lane_number, id, jid, now)
        rung[#rung + 1] = jid
      end
    end
  end
  if more then drained = 0 end
end
if #given > 0 then remember(consumer, ARGV[3], given) end
ring(rung)
return {out, tops(), drained}
