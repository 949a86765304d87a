"""The PostgreSQL store's statements: each of the contract's steps as one, and how rows become records. Leaves running them
to `postgres`, connections to `_postgres_link`, the tables to `_postgres_schema`.

Whoever locks several rows locks in this order, so that nobody waits in a circle: the user's epoch, sessions by id,
tombstones. A login holds a share of its user's epoch (FOR SHARE) until it is committed, and ending a user takes it whole:
so one of the two comes first for everybody, and the other one sees it.
"""

# ruff: noqa: S608 (statements are put together from a schema's quoted name and constants of this module)

from collections.abc import Collection
from typing import cast

import msgspec

from coatcheck.errors import StoreUnavailable
from coatcheck.record import Changes, SessionRecord, Tombstone, decode_record, encode_record
from coatcheck.stores._postgres_link import Row
from coatcheck.stores._postgres_schema import quoted

__all__ = ["Statements", "creation", "in_order", "record_of", "replacement", "tombstone_of"]

_COLUMNS = "s.id, s.user_id, s.epoch, s.generation, s.version, s.expires_at, s.last_seen_at, s.record"
_VALID = "(s.user_id IS NULL OR s.epoch = (SELECT u.epoch FROM {s}.user_epoch AS u WHERE u.user_id = s.user_id))"

_ASYNC = "pg_catalog.set_config('synchronous_commit', 'off', true)"
"""Has this transaction's commit not wait for the disk (`Link.write_told`)."""

_CURRENT = "current AS MATERIALIZED (SELECT FROM {s}.user_epoch WHERE user_id = {user} AND epoch = {epoch} FOR SHARE)"

_BURIED = """
buried AS (
  INSERT INTO {s}.tombstone (id, ended_at, reason, hashes) SELECT id, {now}::double precision, {reason}::text, hashes FROM {over}
  ON CONFLICT (id) DO UPDATE SET ended_at = EXCLUDED.ended_at, reason = EXCLUDED.reason, hashes = EXCLUDED.hashes
),
gone AS (DELETE FROM {s}.session AS s USING {over} AS o WHERE s.id = o.id RETURNING s.id)
"""


class Statements:
    """All statements, for the tables of one schema. `durable`: a commit waits for the disk, unless it says otherwise."""

    def __init__(self, schema: str, *, durable: bool = True) -> None:
        s = quoted(schema)
        # What is unlogged waits for no disk anyway; and should it be logged by now, it had better.
        no_wait = _ASYNC if durable else "NULL"
        valid = _VALID.format(s=s)

        self.read = (
            f"SELECT {_COLUMNS} FROM {s}.session AS s WHERE s.id = $1 AND {valid} UNION ALL "
            f"SELECT t.id, t.reason, NULL, NULL, NULL, NULL, t.ended_at, t.hashes FROM {s}.tombstone AS t WHERE t.id = $1 "
            "LIMIT 1"
        )
        """A session's row, or its tombstone's, whose `epoch` is NULL."""

        self.read_session = f"SELECT {_COLUMNS} FROM {s}.session AS s WHERE s.id = $1 AND {valid}"
        self.read_user = f"SELECT {_COLUMNS} FROM {s}.session AS s WHERE s.user_id = $1 AND {valid}"
        self.alive = f"SELECT s.id, s.generation FROM {s}.session AS s WHERE s.id = ANY($1) AND {valid}"
        self.epoch = f"SELECT epoch FROM {s}.user_epoch WHERE user_id = $1"
        self.make_epoch = (
            f"INSERT INTO {s}.user_epoch (user_id, epoch) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING"
        )

        self.create = (
            f"WITH {_CURRENT.format(s=s, user='$2', epoch='$3')} "
            f"INSERT INTO {s}.session "
            "(id, user_id, epoch, generation, version, expires_at, last_seen_at, hashes, record) "
            "SELECT $1, $2, $3, $4::bigint, $5::bigint, $6::double precision, $7::double precision, $8::bytea, $9::bytea "
            "WHERE $2 IS NULL OR EXISTS (SELECT FROM current) RETURNING id"
        )
        """A row if the session was made; none if its epoch is not the user's; a unique key's violation if the id is taken."""

        # Nobody has changed it since it was read: a change raises the version.
        same = f"s.id = $1 AND s.version = $2 AND ($5::bytea IS NULL OR s.record = $5) AND {valid}"
        self.replace_values = (
            f"WITH done AS (UPDATE {s}.session AS s SET version = $3, record = $4 WHERE {same} RETURNING 1) "
            f"SELECT {no_wait} FROM done"
        )
        """A row if nobody came in between. The indexed columns are left alone: that saves more than half of the work."""

        self.replace_identity = (
            f"WITH {_CURRENT.format(s=s, user='$7', epoch='$8')}, done AS ("
            f"UPDATE {s}.session AS s SET version = $3, record = $4, generation = $6, user_id = $7, epoch = $8, "
            f"expires_at = $9, hashes = $10 WHERE {same} AND ($7 IS NULL OR EXISTS (SELECT FROM current)) RETURNING 1) "
            f"SELECT $7::text IS NULL OR EXISTS (SELECT FROM current), EXISTS (SELECT FROM done), {no_wait}"
        )
        """Whether the epoch is the user's, and whether the session was changed."""

        self.end = (
            "WITH over AS MATERIALIZED ("
            f"SELECT s.id, s.hashes FROM {s}.session AS s WHERE s.id = ANY($1) AND {valid} "
            "AND ($4::bigint IS NULL OR s.generation = $4) AND ($5::double precision IS NULL OR s.last_seen_at <= $5) "
            f"ORDER BY s.id FOR UPDATE), {_BURIED.format(s=s, over='over', now='$2', reason='$3')} "
            f"SELECT id, {no_wait} FROM gone"
        )

        self.raise_epoch = (
            f"INSERT INTO {s}.user_epoch AS u (user_id, epoch) VALUES ($1, $2) "
            "ON CONFLICT (user_id) DO UPDATE SET epoch = u.epoch + 1 RETURNING epoch"
        )
        self.end_user = (
            f"WITH mine AS MATERIALIZED (SELECT s.id, s.hashes FROM {s}.session AS s WHERE s.user_id = $1 "
            "ORDER BY s.id FOR UPDATE), over AS (SELECT id, hashes FROM mine WHERE id IS DISTINCT FROM $4::text), "
            f"{_BURIED.format(s=s, over='over', now='$2', reason='$3')}, "
            # Only one that was valid until now.
            f"kept AS (UPDATE {s}.session AS s SET epoch = $5::bigint, version = s.version + 1 FROM mine "
            "WHERE s.id = mine.id AND s.id = $4 AND s.epoch = $5::bigint - 1) "
            "SELECT id FROM gone"
        )
        """After `raise_epoch`, in the same transaction and with a newer snapshot: sees every login that came first."""

        self.touch = (
            "WITH seen AS (SELECT * FROM ROWS FROM (unnest($1::text[]), unnest($2::double precision[])) AS t (id, at)), "
            f"later AS MATERIALIZED (SELECT s.id, seen.at FROM {s}.session AS s JOIN seen ON seen.id = s.id "
            "WHERE s.last_seen_at < seen.at ORDER BY s.id FOR NO KEY UPDATE OF s) "
            f"UPDATE {s}.session AS s SET last_seen_at = later.at FROM later WHERE s.id = later.id"
        )

        def sweep(over: str) -> str:
            return (
                f"WITH over AS MATERIALIZED (SELECT s.id, s.hashes FROM {s}.session AS s WHERE {over} LIMIT $2 "
                f"FOR UPDATE SKIP LOCKED), {_BURIED.format(s=s, over='over', now='$3', reason='$4')} "
                f"SELECT id, {no_wait} FROM gone"
            )

        self.sweep_expired = sweep("s.expires_at < $1 ORDER BY s.expires_at")
        self.sweep_idle = sweep(
            "s.seen_slot <= floor($1::double precision / 600)::bigint AND s.last_seen_at < $1 ORDER BY s.seen_slot"
        )
        self.sweep_tombstones = (
            f"DELETE FROM {s}.tombstone WHERE ctid = ANY(ARRAY(SELECT ctid FROM {s}.tombstone WHERE ended_at < $1 "
            "ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)) RETURNING 1"
        )


def creation(record: SessionRecord) -> tuple[object, ...]:
    """Give the parameters of `create`."""
    return (
        record.id,
        record.user_id,
        record.epoch,
        record.generation,
        record.version,
        record.expires_at,
        record.last_seen_at,
        _hashes(record),
        encode_record(record),
    )


def replacement(
    before: SessionRecord, after: SessionRecord, changes: Changes, *, exactly: bool = False
) -> tuple[object, ...]:
    """Give the parameters of `replace_values` or, with a change of identity, `replace_identity`.

    `exactly` compares all of what stands there: for whoever has not just read it.
    """
    values = (
        before.id,
        before.version,
        after.version,
        encode_record(after),
        encode_record(before) if exactly else None,
    )
    if changes.identity is None:
        return values
    return (*values, after.generation, after.user_id, after.epoch, after.expires_at, _hashes(after))


def record_of(row: Row) -> SessionRecord:
    """Give a row's record. What stands in the columns counts, since they can be changed by hand. Raises StoreUnavailable."""
    session_id, user_id, epoch, generation, version, expires_at, last_seen_at, data = cast(
        "tuple[str, str | None, int, int, int, float, float, bytes]", row
    )
    try:
        record = decode_record(data, id=session_id, version=version, last_seen_at=last_seen_at)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from error
    if (record.user_id, record.epoch, record.generation, record.expires_at) != (user_id, epoch, generation, expires_at):
        return msgspec.structs.replace(
            record, user_id=user_id, epoch=epoch, generation=generation, expires_at=expires_at
        )
    return record


def tombstone_of(row: Row) -> Tombstone:
    """Give the tombstone in an answer to `read`."""
    session_id, reason, *_, ended_at, data = row
    try:
        hashes = msgspec.msgpack.decode(cast("bytes", data), type=tuple[bytes, ...])
    except (msgspec.MsgspecError, TypeError):
        hashes = ()
    return Tombstone(
        id=cast("str", session_id), ended_at=cast("float", ended_at), reason=cast("str", reason), hashes=hashes
    )


def in_order(session_ids: Collection[str], rows: list[Row]) -> list[str]:
    """Give the ids in the rows in the order in which they were asked for."""
    found = {cast("str", row[0]) for row in rows}
    return [session_id for session_id in dict.fromkeys(session_ids) if session_id in found]


def _hashes(record: SessionRecord) -> bytes:
    return msgspec.msgpack.encode((record.secret_hash, *(old for old, _ in record.replaced)))
