"""What the Redis store does inside Redis: one script a step, each of them atomic. Leaves merging and judging to Python.

All keys of a script lie in one slot, but for `guards` on a store of one server: keys that must hold what the caller
saw. Each write leaves its note: a key that is set and deleted in the same step, so that its name, which tells what has
happened, comes with the same message of Redis that says that the record's key has changed.

Where `allow-oom` stands, a script runs while Redis is full: sessions can still be ended when none can be made.
"""

from hashlib import sha1

__all__ = ["BEFORE", "BUMP", "CARRY", "CLEAR", "CREATE", "END", "MAKE_EPOCH", "NOTE_SESSION", "WRITE", "Script"]


class Script:
    """A script, by its text and by the digest under which Redis knows it once it has run."""

    __slots__ = ("digest", "name", "text")

    def __init__(self, name: str, text: str, *, allow_oom: bool = False) -> None:
        self.name: str = name
        self.text: str = f"#!lua{' flags=allow-oom' if allow_oom else ''}\n{text.strip()}\n"
        self.digest: str = sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"<script {self.name}>"


_TELL = """
local function tell(note)
  redis.call('SET', note, '')
  redis.call('DEL', note)
end
"""

_PUT = """
local function put(key, number, id)
  local done = redis.pcall('ZADD', key, number, id)
  if type(done) == 'table' and done.err then
    redis.call('DEL', key)  -- somebody put something else there
    redis.call('ZADD', key, number, id)
  end
end

local function index(key, id, now, ttl)
  put(key, now, id)
  if redis.call('PTTL', key) < tonumber(ttl) then redis.call('PEXPIRE', key, ttl) end
end
"""

_GUARDS = """
local function guarded(first, values)
  for i = first, #KEYS do
    if redis.call('GET', KEYS[i]) ~= ARGV[values + i - first] then return false end
  end
  return true
end
"""

CREATE = Script(
    "create",
    _TELL
    + _PUT
    + _GUARDS
    + """
-- record, seen, expiry, note, index or the record again, guards…
-- value, id, ttl, expires_at, last_seen_at, now, guards' values…
-- 1: done; 0: the id is taken; -1: a guard does not hold
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
if not guarded(6, 7) then return -1 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
put(KEYS[2], ARGV[5], ARGV[2])
put(KEYS[3], ARGV[4], ARGV[2])
if KEYS[5] ~= KEYS[1] then index(KEYS[5], ARGV[2], ARGV[6], ARGV[3]) end
tell(KEYS[4])
return 1
""",
)
"""Store a record under a key that is free. An index that is the record's own key stands for none."""

_REPLACE = (
    _TELL
    + _PUT
    + _GUARDS
    + """
-- record, seen, expiry, note, index or the record again, guards…
-- head, value, id, ttl or '', expires_at, now, guards' values…
-- 1: done; 0: the record is not the expected one any more, or a guard does not hold
local found = redis.call('GET', KEYS[1])
if not found or string.sub(found, 1, #ARGV[1]) ~= ARGV[1] then return 0 end
if not guarded(6, 7) then return 0 end
if ARGV[4] == '' then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
else
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[4])
  put(KEYS[3], ARGV[5], ARGV[3])
  if KEYS[5] ~= KEYS[1] then index(KEYS[5], ARGV[3], ARGV[6], ARGV[4]) end
end
tell(KEYS[4])
return 1
"""
)

WRITE = Script("write", _REPLACE)
"""Replace a record by its next version: the merging was done by the caller, on what `head` names."""

CARRY = Script("carry over", _REPLACE, allow_oom=True)
"""The same for the one session that is kept while its user's others end, which must not need memory."""

END = Script(
    "end",
    _TELL
    + """
-- for each: record, seen, expiry, note
-- reason, now, ttl, last-seen time or '', time of expiry or '', for each: id, generation or ''
-- for each 1: ended, 0: not
local done = {}
for i = 1, #KEYS / 4 do
  local record, seen, expiry, note = KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1], KEYS[4 * i]
  local id, generation = ARGV[4 + 2 * i], ARGV[5 + 2 * i]
  local found = redis.pcall('GET', record)
  if type(found) == 'table' then found = 'of another type' end
  local there = found and string.sub(found, 1, 2) ~= 't:'
  local ends = there
  local version, held, length, at = string.match(found or '', '^r:(%d+):(%d+):(%d+):()')
  if ends and generation ~= '' and held ~= generation then ends = false end
  if ends and ARGV[4] ~= '' then
    local last = redis.pcall('ZSCORE', seen, id)
    if type(last) ~= 'string' or tonumber(last) > tonumber(ARGV[4]) then ends = false end
  end
  if ends and ARGV[5] ~= '' then
    local expires = redis.pcall('ZSCORE', expiry, id)
    if type(expires) ~= 'string' or tonumber(expires) >= tonumber(ARGV[5]) then ends = false end
  end
  if ends then
    local hashes = at and string.sub(found, at, at + length - 1) or '\\144'
    redis.call('SET', record, 't:' .. ARGV[2] .. ':' .. ARGV[1] .. ':' .. hashes, 'PX', ARGV[3])
    tell(note)
  end
  if ends or not there then
    redis.pcall('ZREM', seen, id)
    redis.pcall('ZREM', expiry, id)
  end
  done[i] = ends and 1 or 0
end
return done
""",
    allow_oom=True,
)
"""Put tombstones in the place of records. What cannot be read is ended too, unless a condition says otherwise."""

BUMP = Script(
    "end_user",
    _TELL
    + """
-- user, note, index
-- a number, id of the session to keep or ''
local found = redis.pcall('GET', KEYS[1])
local number, floor, kept
if type(found) == 'string' then number, floor, kept = string.match(found, '^(%d+) ?(%d*) ?(.*)$') end
number = number or ARGV[1]
local raised = string.format('%.0f', tonumber(number) + 1)
if ARGV[2] ~= '' then
  -- Kept before, and perhaps not yet rewritten: then what was allowed for it then is allowed on.
  raised = raised .. ' ' .. (kept == ARGV[2] and floor or number) .. ' ' .. ARGV[2]
end
redis.call('SET', KEYS[1], raised)
tell(KEYS[2])
local ids = redis.pcall('ZRANGE', KEYS[3], 0, -1)
if ids.err then ids = {} end
return {raised, ids}
""",
    allow_oom=True,
)
"""Raise a user's epoch past every session but one. This is the moment in which they all end."""

MAKE_EPOCH = Script(
    "epoch",
    _TELL
    + """
-- user, note
-- a number
local found = redis.call('GET', KEYS[1])
if found and string.match(found, '^%d') then return found end
redis.call('SET', KEYS[1], ARGV[1])
tell(KEYS[2])
return ARGV[1]
""",
)
"""Give a user an epoch, unless there is one."""

NOTE_SESSION = Script(
    "note a session",
    _PUT
    + """
-- index
-- id, now, ttl
index(KEYS[1], ARGV[1], ARGV[2], ARGV[3])
return 1
""",
)
"""Put a session into its user's index."""

CLEAR = Script(
    "clear",
    """
-- times by id
local found = redis.pcall('ZSCORE', KEYS[1], '')
if type(found) == 'table' and found.err then redis.call('DEL', KEYS[1]) end
return 1
""",
)
"""Delete what somebody put in the place of times by id."""

BEFORE = Script(
    "before",
    """
-- times by id of several buckets
-- time, limit
local found = {}
for i = 1, #KEYS do
  if #found >= tonumber(ARGV[2]) then break end
  local ids = redis.pcall('ZRANGEBYSCORE', KEYS[i], '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2] - #found)
  if ids.err then redis.call('DEL', KEYS[i]) end  -- somebody put something else there
  for _, id in ipairs(ids) do found[#found + 1] = id end
end
return found
""",
)
"""Find the sessions whose time is before another one."""
