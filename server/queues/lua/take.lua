#!lua flags=allow-oom
-- Claim up to `want` online requests, lanes in the order of KEYS or the other way round. Expired ones are dropped without
-- a word: their frontend has told their callers already.
-- KEYS lanes   ARGV 2 consumer 3 token 4 want 5 step (1 or -1)
-- -> {{lane number, entry, id, ms left (-1 none), attempt, envelope, frontend}.., tops, 1 if nothing was left}
local consumer, now, want, out = ARGV[2], now_ms(), tonumber(ARGV[4]), {}

local function row(number, e, attempt)
  return {number, e[1], e[2][2], remaining(e[2][4], now), attempt, e[2][12], e[2][10]}
end

local given = recall(consumer, ARGV[3])
if given then
  for _, g in ipairs(given) do
    local e = redis.call('XRANGE', KEYS[g[1]], g[2], g[2])[1]
    if e then out[#out + 1] = row(g[1], e, 1) end
  end
  return {out, tops(), 0}
end
given = {}
local first, last, drained = 1, #KEYS, 1
if ARGV[5] == '-1' then first, last = last, first end
for number = first, last, tonumber(ARGV[5]) do
  local lane, rows, more = KEYS[number], 0, true
  for _ = 1, 4 do
    if #out >= want or not more then break end
    local asked = want - #out
    local entries = read_group(lane, consumer, asked)
    more = #entries == asked
    for _, e in ipairs(entries) do
      local deadline = tonumber(e[2][4])
      rows = rows + tonumber(e[2][8])
      if deadline > 0 and deadline <= now then
        drop_entry(lane, e[1], e[2][6])
        count('online_expired')
      else
        given[#given + 1] = {number, e[1]}
        out[#out + 1] = row(number, e, 1)
      end
    end
  end
  if rows > 0 then redis.call('HINCRBY', P .. 'rows', lane, -rows) end
  if more then drained = 0 end
end
if #given > 0 then remember(consumer, ARGV[3], given) end
return {out, tops(), drained}
