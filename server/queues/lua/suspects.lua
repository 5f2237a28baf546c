#!lua flags=no-writes
-- Whether somebody holds entries and is gone, or has let the lease pass.
-- KEYS lanes   ARGV 2 consumer who asks 3 lease ms 4.. consumers known to be gone   -> 1 or 0
for _, lane in ipairs(KEYS) do
  for i = 4, #ARGV do
    if #pending(lane, '-', '+', 1, ARGV[i]) > 0 then return 1 end
  end
  for _, p in ipairs(pending(lane, 'IDLE', ARGV[3], '-', '+', 16)) do
    if p[2] ~= ARGV[2] then return 1 end
  end
end
return 0
