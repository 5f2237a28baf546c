#!lua flags=no-writes
-- KEYS 1 any key of the model   ARGV 2.. jobs  -> a view of each: {job, fields, outcome}; no fields: no such job
local out = {}
for i = 2, #ARGV do out[i - 1] = view(ARGV[i]) end
return out
