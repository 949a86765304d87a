"""What each of the store's writes does inside a transaction, and how rows become records. Leaves committing to the writer.

A step raises SessionRefused only before it has written anything: whatever else goes wrong undoes its whole transaction.
"""

# ruff: noqa: S608 (statements are put together from constants of this module only)

import json
import secrets
from collections.abc import Collection, Mapping
from typing import cast

import msgspec

from coatcheck.errors import LoginRefused, SessionRefused, StoreUnavailable
from coatcheck.record import Changes, SessionRecord, Tombstone, decode_record, encode_record, merge
from coatcheck.stores._sqlite_link import Link, Row

__all__ = [
    "ALIVE",
    "EPOCH",
    "READ",
    "READ_TOMBSTONE",
    "READ_USER",
    "apply",
    "create",
    "drop_old_changes",
    "drop_old_tombstones",
    "end",
    "end_user",
    "epoch_of",
    "generations_of",
    "key_of",
    "keys_of",
    "make_epoch",
    "record_of",
    "sweep",
    "tombstone_of",
    "touch",
]

_COLUMNS = "s.id, s.user_id, s.epoch, s.generation, s.version, s.expires_at, s.last_seen_at, s.record"
_VALID = "(s.user_id IS NULL OR s.epoch = (SELECT u.epoch FROM user_epoch AS u WHERE u.user_id = s.user_id))"

READ = f"SELECT {_COLUMNS} FROM session AS s WHERE s.key = ? AND s.id = ? AND {_VALID}"
READ_TOMBSTONE = "SELECT id, ended_at, reason, hashes FROM tombstone WHERE id = ?"
READ_USER = f"SELECT {_COLUMNS} FROM session AS s WHERE s.user_id = ? AND {_VALID}"
ALIVE = f"SELECT s.id, s.generation FROM session AS s WHERE s.key IN (SELECT value FROM json_each(?)) AND {_VALID}"
EPOCH = "SELECT epoch FROM user_epoch WHERE user_id = ?"

_CREATE = """
INSERT INTO session (key, id, user_id, epoch, generation, version, expires_at, last_seen_at, hashes, record)
SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
WHERE (?3 IS NULL OR ?4 = (SELECT epoch FROM user_epoch WHERE user_id = ?3))
AND NOT EXISTS (SELECT 1 FROM tombstone WHERE id = ?2) AND NOT EXISTS (SELECT 1 FROM session WHERE key = ?1)
"""
_TAKEN = "SELECT EXISTS (SELECT 1 FROM session WHERE key = ?1) OR EXISTS (SELECT 1 FROM tombstone WHERE id = ?2)"
_UPDATE_VALUES = "UPDATE session SET version = ?2, record = ?3 WHERE key = ?1"
_UPDATE_IDENTITY = """
UPDATE session SET version = ?2, record = ?3, generation = ?4, user_id = ?5, epoch = ?6, expires_at = ?7, hashes = ?8
WHERE key = ?1
"""
_TO_END = f"""
SELECT s.key, s.id FROM session AS s WHERE s.key IN (SELECT value FROM json_each(?1)) AND {_VALID}
AND (?2 IS NULL OR s.generation = ?2) AND (?3 IS NULL OR s.last_seen_at <= ?3)
"""
_BURY = """
INSERT OR REPLACE INTO tombstone (id, ended_at, reason, hashes)
SELECT id, ?2, ?3, hashes FROM session WHERE key IN (SELECT value FROM json_each(?1))
"""
_DELETE = "DELETE FROM session WHERE key IN (SELECT value FROM json_each(?1))"

# Many in one statement: each statement gives up the interpreter's lock, and a busy event loop keeps it for 5 ms.
_TOUCHED_AT_ONCE = 100
_TOUCH = f"""
WITH seen (key, id, at) AS (VALUES {", ".join(["(?, ?, ?)"] * _TOUCHED_AT_ONCE)})
UPDATE session SET last_seen_at = seen.at FROM seen
WHERE session.key = seen.key AND session.id = seen.id AND session.last_seen_at < seen.at
"""

_PRIME = 2**61 - 1


def key_of(session_id: str) -> int:
    """Give the number under which a session lies in its table: 61 bits, from the whole id.

    SQLite finds an integer among ten million in four pages and a text in six, each of which costs about a microsecond.
    Two ids with one number are not confused, since the id is compared too: the second one cannot be stored beside the
    first. With ten million sessions stored that befalls one creation in 10¹¹.
    """
    return int.from_bytes(session_id.encode(errors="surrogatepass"), "big") % _PRIME


def keys_of(session_ids: Collection[str]) -> str:
    """Give the keys of any number of ids in one binding, as SQLite's `json_each` takes them."""
    return json.dumps([key_of(session_id) for session_id in session_ids])


def create(link: Link, record: SessionRecord) -> None:
    """Insert a new record, or raise SessionRefused or LoginRefused."""
    link.rows(
        _CREATE,
        (
            key_of(record.id),
            record.id,
            record.user_id,
            record.epoch,
            record.generation,
            record.version,
            record.expires_at,
            record.last_seen_at,
            _hashes(record),
            encode_record(record),
        ),
    )
    if link.changed() == 1:
        return
    if link.rows(_TAKEN, (key_of(record.id), record.id)) == [(1,)]:
        raise SessionRefused(f"the session id {record.id} is taken")
    raise _login_refused()


def apply(
    link: Link, session_id: str, changes: Changes, expect_generation: int | None, expect_version: int | None
) -> SessionRecord | None:
    """Merge into the record as it is now; None where there is none to merge into."""
    key = key_of(session_id)
    rows = link.rows(READ, (key, session_id))
    if not rows:
        return None
    record = record_of(rows[0])
    if (expect_generation is not None and record.generation != expect_generation) or (
        expect_version is not None and record.version != expect_version
    ):
        return None
    identity = changes.identity
    if (
        identity is not None
        and identity.user_id is not None
        and link.rows(EPOCH, (identity.user_id,)) != [(identity.epoch,)]
    ):
        raise _login_refused()
    merged = merge(record, changes)
    data = encode_record(merged)
    if identity is None:  # the indexed columns are left alone: that saves half of the work
        link.rows(_UPDATE_VALUES, (key, merged.version, data))
    else:
        of_identity = (merged.generation, merged.user_id, merged.epoch, merged.expires_at, _hashes(merged))
        link.rows(_UPDATE_IDENTITY, (key, merged.version, data, *of_identity))
    return merged


def end(
    link: Link,
    session_ids: Collection[str],
    reason: str,
    now: float,
    expect_generation: int | None,
    unseen_since: float | None,
) -> list[str]:
    """End what meets the conditions, in the order of the ids that were given."""
    rows = link.rows(_TO_END, (keys_of(session_ids), expect_generation, unseen_since))
    found = {session_id: key for key, session_id in cast("list[tuple[int, str]]", rows)}
    ended = [session_id for session_id in dict.fromkeys(session_ids) if session_id in found]
    _bury(link, [found[session_id] for session_id in ended], reason, now)
    return ended


def end_user(link: Link, user_id: str, reason: str, now: float, keep: str | None) -> list[str]:
    """Raise the user's epoch, give it to `keep`, and end the rest."""
    kept = keep is not None and bool(link.rows(f"{READ} AND s.user_id = ?", (key_of(keep), keep, user_id)))
    rows = cast(
        "list[tuple[int, str]]",
        link.rows("SELECT key, id FROM session WHERE user_id = ?1 AND id IS NOT ?2", (user_id, keep)),
    )
    # First made, then raised: the trigger that tells of it is one for updates.
    make_epoch(link, user_id)
    link.rows("UPDATE user_epoch SET epoch = epoch + 1 WHERE user_id = ?", (user_id,))
    if keep is not None and kept:
        link.rows(
            "UPDATE session SET version = version + 1, epoch = (SELECT epoch FROM user_epoch WHERE user_id = ?2) "
            "WHERE key = ?1",
            (key_of(keep), user_id),
        )
    _bury(link, [key for key, _ in rows], reason, now)
    return [session_id for _, session_id in rows]


def make_epoch(link: Link, user_id: str) -> int:
    """Give the user's epoch, a new random one if there is none."""
    link.rows("INSERT INTO user_epoch SELECT ?1, ?2 WHERE NOT EXISTS (SELECT 1 FROM user_epoch WHERE user_id = ?1)",
              (user_id, secrets.randbits(48)))  # fmt: skip
    return cast(int, link.rows(EPOCH, (user_id,))[0][0])


def touch(link: Link, seen: Mapping[str, float]) -> None:
    """Raise last-seen times. No trigger fires."""
    times = list(seen.items())
    for first in range(0, len(times), _TOUCHED_AT_ONCE):
        some = times[first : first + _TOUCHED_AT_ONCE]
        some += [("", 0.0)] * (_TOUCHED_AT_ONCE - len(some))  # one length, so that one prepared statement serves all
        link.rows(_TOUCH, tuple(value for session_id, at in some for value in (key_of(session_id), session_id, at)))


def sweep(link: Link, now: float, limit: int, unseen_since: float) -> int:
    """End at most `limit` sessions that are over."""
    gone = 0
    for column, before, reason in (("expires_at", now, "expired"), ("last_seen_at", unseen_since, "idle")):
        rows = link.rows(
            f"SELECT key FROM session WHERE {column} < ? ORDER BY {column} LIMIT ?", (before, limit - gone)
        )
        _bury(link, [cast(int, key) for (key,) in rows], reason, now)
        gone += len(rows)
    return gone


def drop_old_tombstones(link: Link, ended_before: float, limit: int) -> int:
    """Forget tombstones; give how many."""
    link.rows(
        "DELETE FROM tombstone WHERE id IN (SELECT id FROM tombstone WHERE ended_at < ? ORDER BY ended_at LIMIT ?)",
        (ended_before, limit),
    )
    return link.changed()


def drop_old_changes(link: Link, keep: int, limit: int) -> int:
    """Forget the oldest changes but for the newest `keep`; give how many. The newest one always stays."""
    link.rows(
        "DELETE FROM change WHERE seq <= (SELECT max(seq) FROM change) - ? AND seq < (SELECT min(seq) FROM change) + ?",
        (max(keep, 1), limit),
    )
    return link.changed()


def record_of(row: Row) -> SessionRecord:
    """Give a row's record. What stands in the columns counts, since they can be changed by hand. Raises StoreUnavailable."""
    session_id, user_id, epoch, generation, version, expires_at, last_seen_at, data = cast(
        "tuple[str, str | None, int, int, int, float, float, object]", row
    )
    if not isinstance(data, bytes):
        raise StoreUnavailable(f"the stored session {session_id} cannot be read: its record is no BLOB")
    try:
        record = decode_record(data, id=session_id, version=version, last_seen_at=last_seen_at)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from error
    if (record.user_id, record.epoch, record.generation, record.expires_at) != (user_id, epoch, generation, expires_at):
        return msgspec.structs.replace(
            record, user_id=user_id, epoch=epoch, generation=generation, expires_at=expires_at
        )
    return record


def epoch_of(rows: list[Row]) -> int | None:
    """Give the epoch in the answer to `EPOCH`."""
    return cast(int, rows[0][0]) if rows else None


def generations_of(rows: list[Row]) -> dict[str, int]:
    """Give the answer to `ALIVE` as a dict."""
    return dict(cast("list[tuple[str, int]]", rows))


def tombstone_of(row: Row) -> Tombstone:
    """Give a row's tombstone."""
    session_id, ended_at, reason, data = cast("tuple[str, float, str, bytes]", row)
    try:
        hashes = msgspec.msgpack.decode(data, type=tuple[bytes, ...])
    except (msgspec.MsgspecError, TypeError):
        hashes = ()
    return Tombstone(id=session_id, ended_at=ended_at, reason=reason, hashes=hashes)


def _bury(link: Link, keys: list[int], reason: str, now: float) -> None:
    if keys:
        listed = json.dumps(keys)
        link.rows(_BURY, (listed, now, reason))  # before the deletion, whose trigger looks for the reason there
        link.rows(_DELETE, (listed,))


def _hashes(record: SessionRecord) -> bytes:
    return msgspec.msgpack.encode((record.secret_hash, *(old for old, _ in record.replaced)))


def _login_refused() -> LoginRefused:
    return LoginRefused("every session of this user was ended while the login was being checked: log in again")
