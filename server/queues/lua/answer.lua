#!lua flags=allow-oom
-- Answer online requests. Whoever removes the entry answers; everybody after is late. All answers to one frontend travel
-- in one entry of its stream; where that is gone, so is the frontend.
-- KEYS lanes   ARGV 2 consumer, then per request: lane number, entry, id, frontend, bytes of the request, envelope
-- -> per request OK | STALE
local out, by_frontend = {}, {}
for i = 3, #ARGV, 6 do
  if drop_entry(KEYS[tonumber(ARGV[i])], ARGV[i + 1], ARGV[i + 4]) == 1 then
    local fields = by_frontend[ARGV[i + 3]] or {}
    fields[#fields + 1] = ARGV[i + 2]
    fields[#fields + 1] = ARGV[i + 5]
    by_frontend[ARGV[i + 3]] = fields
    out[#out + 1] = 'OK'
  else
    out[#out + 1] = 'STALE'
  end
end
for frontend, fields in pairs(by_frontend) do
  if not redis.call('XADD', P .. 'a:' .. frontend, 'NOMKSTREAM', 'MAXLEN', '~', 100000, '*', unpack(fields)) then
    count('online_orphans', #fields / 2)
  end
end
return out
