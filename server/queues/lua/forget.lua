#!lua flags=allow-oom
-- Remove consumers that own nothing (XGROUP DELCONSUMER silently discards what they own).
-- KEYS lanes   ARGV 2.. consumers   -> how many are gone from every lane
local n = 0
for i = 2, #ARGV do
  local owns = false
  for _, lane in ipairs(KEYS) do
    if #pending(lane, '-', '+', 1, ARGV[i]) > 0 then owns = true end
  end
  if not owns then
    for _, lane in ipairs(KEYS) do redis.pcall('XGROUP', 'DELCONSUMER', lane, G, ARGV[i]) end
    n = n + 1
  end
end
return n
