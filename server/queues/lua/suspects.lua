#!lua flags=no-writes
-- Whether somebody holds entries and is gone, or has let the lease pass: ourselves too, since what we hold we renew.
-- KEYS lanes   ARGV 2 lease ms 3.. consumers known to be gone   -> 1 or 0
for _, lane in ipairs(KEYS) do
  for i = 3, #ARGV do
    if #pending(lane, '-', '+', 1, ARGV[i]) > 0 then return 1 end
  end
  if #pending(lane, 'IDLE', ARGV[2], '-', '+', 1) > 0 then return 1 end
end
return 0
