#!lua flags=no-writes
-- Jobs newest first, from below a position on. Looks at `scan` of them at most, so that a filter that nothing passes
-- cannot hold Redis up.
-- KEYS 1 any key of the model   ARGV 2 score of the position 3 job at the position 4 state ('' any) 5 tenant 6 want 7 scan
-- -> {views, score and job of the position reached ('' at the end)}
local out, score, job = {}, ARGV[2], ARGV[3]
local r = redis.call('ZREVRANGEBYSCORE', P .. 'idx', score, '-inf', 'WITHSCORES', 'LIMIT', 0, tonumber(ARGV[7]))
local full = #r == 2 * tonumber(ARGV[7])
for i = 1, #r, 2 do
  if r[i + 1] ~= ARGV[2] or ARGV[3] == '' or r[i] < ARGV[3] then
    score, job = r[i + 1], r[i]
    local h = redis.call('HMGET', P .. 'j:' .. job, 'st', 'tn')
    if h[1] and h[2] == ARGV[5] and (ARGV[4] == '' or h[1] == ARGV[4]) then
      out[#out + 1] = {job, redis.call('HGETALL', P .. 'j:' .. job), ''}
      if #out == tonumber(ARGV[6]) then return {out, score, job} end
    end
  end
end
if full then return {out, score, job} end
return {out, '', ''}
