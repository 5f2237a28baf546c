#!lua flags=no-writes
-- KEYS lanes   -> every consumer that one of their groups knows: whoever asks finds out which of them live
local seen, out = {}, {}
for _, lane in ipairs(KEYS) do
  local r = redis.pcall('XINFO', 'CONSUMERS', lane, G)
  if not r.err then
    for _, c in ipairs(r) do
      if not seen[c[2]] then seen[c[2]] = true; out[#out + 1] = c[2] end
    end
  end
end
return out
