-- Prepended to every script of this folder (after its #! line).
--
-- Every key, its type and its meaning. P is "tq:{<model>}:", so all keys of a model share a slot.
--   P s:<route>:<lane>   stream  one entry per unfinished job or request; never trimmed, the bound is at the entrance.
--                                route: the version asked for, "" for any. lane: jhi jlo (jobs), ohi olo (online).
--                                job entry:    j job id, d deadline (ms, 0 none), z bytes
--                                online entry: i request id, d deadline, z bytes, r rows, f frontend, b envelope
--                                An entry is deleted with its ack, so XLEN = waiting + running.
--   P j:<job>            hash    st state, n attempts started, o owner, s lane, id entry, dl deadline, c cancel asked,
--                                v version asked for, p priority, tn tenant, z bytes, ttl of the record after its end,
--                                t0 submitted, t1 started, t2 finished, lf last who let go ("consumer:attempt"),
--                                dq entry among the dead, why
--   P p:<job>            string  the request's envelope: apart, because UNLINK frees it at once and XDEL does not
--   P r:<job>            string  the outcome's envelope, until the record expires
--   P i:<digest>         string  "job|fingerprint" under an idempotency key, until the window is over
--   P dlq                stream  the dead: j job id, why, n attempts, owner
--   P idx                zset    job id by submission, for lists;  P exp  zset  job id by end of its record, for sweeping
--   P lanes              set     every lane ever used
--   P b                  string  bytes of all entries;  P n  hash  events counted since the beginning
--   P k:<consumer>:<slot> string the last claim of one of its claimers, so that a claim repeated after a lost reply hands
--                                out the same; a slot of its own for each, or one would forget what another is owed
--   P f:<frontend>       string  its last send and the verdicts, for the same reason
--   P a:<frontend>       stream  answers to its online requests: i request id, b envelope, ...
--   P rows               hash    rows of the waiting online requests by lane
--   P done, P cx         channels: ids whose state changed; ids to cancel
--   tq:w:<consumer>      string  alive while it exists (another slot: never touched by scripts)
--   tq:served            zset    model|version|consumer by the instant its announcement ends;  tq:specs  hash  what they
--                                announced, by model|version
--   tq:models            set     every model name ever used;  tq:epoch  string  missing or changed: data was lost
local P, G = ARGV[1], 'w'

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function count(what, n)
  redis.call('HINCRBY', P .. 'n', what, n or 1)
end

local function ring(ids)
  if #ids > 0 then redis.call('PUBLISH', P .. 'done', table.concat(ids, ' ')) end
end

-- The number of entries removed: 1, or 0 if somebody did it before; its bytes are given back exactly once.
local function drop_entry(lane, id, size)
  redis.call('XACK', lane, G, id)
  local n = redis.call('XDEL', lane, id)
  if n == 1 then redis.call('DECRBY', P .. 'b', size) end
  return n
end

-- End a job: its record stays for `ttl`, its request goes.
local function close_job(jid, state, now)
  local key = P .. 'j:' .. jid
  local ttl = tonumber(redis.call('HGET', key, 'ttl') or '60000')
  redis.call('HSET', key, 'st', state, 't2', now)
  redis.call('PEXPIRE', key, ttl)
  redis.call('ZADD', P .. 'exp', now + ttl, jid)
  redis.call('UNLINK', P .. 'p:' .. jid)
  count(state)
  return ttl
end

-- Put a claimed entry back as if it had never been delivered, at the end of its lane.
local function requeue(lane, id, jid, deadline, size, who)
  redis.call('XACK', lane, G, id)
  redis.call('XDEL', lane, id)
  local new = redis.call('XADD', lane, '*', 'j', jid, 'd', deadline, 'z', size)
  redis.call('HSET', P .. 'j:' .. jid, 'st', 'queued', 'o', '', 'id', new, 'lf', who)
end

-- Move a job among the dead. The oldest one makes room when `max` are there, and is counted.
local function bury(jid, why, n, owner, now, max, ttl)
  local dlq, key = P .. 'dlq', P .. 'j:' .. jid
  while redis.call('XLEN', dlq) >= max do
    local oldest = redis.call('XRANGE', dlq, '-', '+', 'COUNT', 1)[1]
    redis.call('XDEL', dlq, oldest[1])
    redis.call('UNLINK', P .. 'p:' .. oldest[2][2])
    redis.call('HDEL', P .. 'j:' .. oldest[2][2], 'dq')
    count('dead_trimmed')
  end
  local id = redis.call('XADD', dlq, '*', 'j', jid, 'why', why, 'n', n, 'owner', owner)
  redis.call('HSET', key, 'st', 'failed', 'why', why, 'dq', id, 't2', now, 'o', owner)
  redis.call('PEXPIRE', key, ttl)
  redis.call('PEXPIRE', P .. 'p:' .. jid, ttl)
  redis.call('ZADD', P .. 'exp', now + ttl, jid)
  count('failed')
  count('dead')
end

-- An entry whose record is gone (it expired, or Redis lost it): nothing is left to run.
local function lost(lane, id, jid, size)
  if drop_entry(lane, id, size) == 1 then count('lost_record') end
  redis.call('UNLINK', P .. 'p:' .. jid)
end

-- XREADGROUP that makes the group where it is missing: at 0, never $, or what came before it would be invisible.
local function read_group(lane, consumer, want)
  local r = redis.pcall('XREADGROUP', 'GROUP', G, consumer, 'COUNT', want, 'STREAMS', lane, '>')
  if type(r) == 'table' and r.err then
    if not string.find(r.err, 'NOGROUP', 1, true) then return error(r.err) end
    redis.call('XGROUP', 'CREATE', lane, G, '0', 'MKSTREAM')
    r = redis.call('XREADGROUP', 'GROUP', G, consumer, 'COUNT', want, 'STREAMS', lane, '>')
  end
  if not r or #r == 0 then return {} end
  return r[1][2]
end

-- XPENDING in its long form; empty where there is no group yet.
local function pending(lane, ...)
  local r = redis.pcall('XPENDING', lane, G, ...)
  if r.err then return {} end
  return r
end

local function remaining(deadline, now)
  local d = tonumber(deadline)
  if d == 0 then return -1 end
  return math.max(d - now, 0)
end

-- The ids after which an entry is new to every lane in KEYS: where the alarm clock starts to listen.
local function tops()
  local out = {}
  for i, lane in ipairs(KEYS) do
    out[i] = '0-0'
    local info = redis.pcall('XINFO', 'STREAM', lane)
    if not info.err then
      for j = 1, #info, 2 do
        if info[j] == 'last-generated-id' then out[i] = info[j + 1] end
      end
    end
  end
  return out
end

-- Where the claims of a token ("slot.number") are remembered.
local function memory(consumer, token)
  return P .. 'k:' .. consumer .. ':' .. string.match(token, '^[^.]*')
end

-- What this consumer was handed by the call with this token, nil if that call never happened.
local function recall(consumer, token)
  local said = redis.call('GET', memory(consumer, token))
  if not said then return nil end
  local at = string.find(said, '|', 1, true)
  if string.sub(said, 1, at - 1) ~= token then return nil end
  return cjson.decode(string.sub(said, at + 1))
end

local function remember(consumer, token, given)
  redis.call('SET', memory(consumer, token), token .. '|' .. cjson.encode(given), 'PX', 3600000)
end

-- A running job as its worker needs it: lane number, entry, job, milliseconds left (-1 none), attempt, envelope.
local function handed(lane, id, jid, now)
  local h = redis.call('HMGET', P .. 'j:' .. jid, 'dl', 'n', 'c')
  local payload = redis.call('GET', P .. 'p:' .. jid)
  return {lane, id, jid, remaining(h[1] or '0', now), tonumber(h[2] or '0'), payload or '', h[3] or ''}
end

-- Mark a claimed entry as started by `consumer`.
local function start(lane, id, jid, consumer, now)
  redis.call('HINCRBY', P .. 'j:' .. jid, 'n', 1)
  redis.call('HSET', P .. 'j:' .. jid, 'st', 'running', 'o', consumer, 'id', id, 't1', now)
  redis.call('HDEL', P .. 'j:' .. jid, 'lf')
end

local function view(jid)
  return {jid, redis.call('HGETALL', P .. 'j:' .. jid), redis.call('GET', P .. 'r:' .. jid) or ''}
end
