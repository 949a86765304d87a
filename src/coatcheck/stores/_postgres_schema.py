"""The PostgreSQL store's tables and triggers: making them on request, bringing them up to date, and telling what is there.

Nothing here happens by itself: tables are made by `migrate` alone. Every change notifies by a trigger, so one that was
typed by hand in psql is told too. What a notification holds is said at `decode`.
"""

# ruff: noqa: S608 (statements are put together from a schema's quoted name and constants of this module)

from typing import Literal, cast

import msgspec

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.stores._postgres_link import Conflict, Link
from coatcheck.stores.contract import Change

__all__ = ["SCHEMA_VERSION", "decode", "migrate", "probe", "quoted", "require_schema"]

SCHEMA_VERSION = 1

_READABLE_FROM = 1
"""The oldest release's SCHEMA_VERSION that can work with the tables as they are now."""

_LOCK = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('coatcheck ' || $1, 0))"
"""One migration at a time. It ends with the transaction, so behind a pooler too."""

_TABLES = ("session", "user_epoch", "tombstone")

_VERSION_1 = """
CREATE TABLE {s}.session (
  id text COLLATE "C" PRIMARY KEY,
  user_id text COLLATE "C",
  epoch bigint NOT NULL,
  generation bigint NOT NULL,
  version bigint NOT NULL,
  expires_at double precision NOT NULL,
  last_seen_at double precision NOT NULL,
  -- What is indexed in place of last_seen_at: most of the times that a session is seen, no index has to change (HOT).
  seen_slot bigint NOT NULL GENERATED ALWAYS AS (floor(last_seen_at / 600)) STORED,
  hashes bytea NOT NULL,  -- of the current secret and the lately replaced ones: what the tombstone will need
  record bytea NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX session_of_user ON {s}.session (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX session_by_expiry ON {s}.session (expires_at);
CREATE INDEX session_by_last_seen ON {s}.session (seen_slot);

CREATE TABLE {s}.user_epoch (user_id text COLLATE "C" PRIMARY KEY, epoch bigint NOT NULL);

CREATE TABLE {s}.tombstone (
  id text COLLATE "C" PRIMARY KEY,
  ended_at double precision NOT NULL,
  reason text NOT NULL,
  hashes bytea NOT NULL
);
CREATE INDEX tombstone_by_age ON {s}.tombstone (ended_at);

CREATE FUNCTION {s}.tell() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  change json;
  why text;
  told boolean;
BEGIN
  IF TG_OP = 'TRUNCATE' THEN
    change := json_build_array('missed', '', 0, 0, '');
  ELSIF TG_TABLE_NAME = 'user_epoch' THEN
    change := json_build_array('user', OLD.user_id, 0, 0, '');
  ELSIF TG_OP = 'UPDATE' THEN
    -- A version that did not rise tells that this was no store of ours.
    told := NEW.id = OLD.id AND NEW.version > OLD.version AND NEW.generation >= OLD.generation;
    change := json_build_array('changed', OLD.id, CASE WHEN told THEN NEW.version ELSE 0 END,
      CASE WHEN told THEN NEW.generation ELSE 0 END, '');
  ELSE
    SELECT reason INTO why FROM {s}.tombstone WHERE id = OLD.id;
    IF NOT FOUND THEN
      why := 'deleted by hand';
      INSERT INTO {s}.tombstone (id, ended_at, reason, hashes)
        VALUES (OLD.id, extract(epoch FROM clock_timestamp()), why, OLD.hashes);
    END IF;
    change := json_build_array('ended', OLD.id, 0, 0, left(why, 1000));
  END IF;
  IF octet_length(change::text) > 7900 THEN  -- the server refuses 8000, and with it the change
    change := json_build_array('missed', '', 0, 0, '');
  END IF;
  PERFORM pg_notify({channel}, change::text);
  RETURN NULL;
END $$;

CREATE FUNCTION {s}.refuse_ended() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- After the insertion: whoever was ending a session of this id has finished by now, and its tombstone is seen.
  IF EXISTS (SELECT FROM {s}.tombstone WHERE id = NEW.id) THEN
    RAISE EXCEPTION USING ERRCODE = 'unique_violation', MESSAGE = 'a session of this id has ended: it is not made again';
  END IF;
  RETURN NULL;
END $$;

-- Not for last_seen_at: being seen is no change.
CREATE TRIGGER session_changed AFTER UPDATE OF id, user_id, epoch, generation, version, expires_at, hashes, record
  ON {s}.session FOR EACH ROW EXECUTE FUNCTION {s}.tell();
CREATE TRIGGER session_ended AFTER DELETE ON {s}.session FOR EACH ROW EXECUTE FUNCTION {s}.tell();
CREATE TRIGGER sessions_gone AFTER TRUNCATE ON {s}.session FOR EACH STATEMENT EXECUTE FUNCTION {s}.tell();
CREATE TRIGGER session_made AFTER INSERT ON {s}.session FOR EACH ROW EXECUTE FUNCTION {s}.refuse_ended();
CREATE TRIGGER user_epoch_changed AFTER UPDATE OR DELETE ON {s}.user_epoch FOR EACH ROW EXECUTE FUNCTION {s}.tell();
CREATE TRIGGER user_epochs_gone AFTER TRUNCATE ON {s}.user_epoch FOR EACH STATEMENT EXECUTE FUNCTION {s}.tell();

CREATE TABLE {s}.schema_version (version int NOT NULL, readable_from int NOT NULL);
INSERT INTO {s}.schema_version VALUES (0, 0);
"""

_STEPS = (_VERSION_1,)
"""What brings the schema from each version to the next. Release N−1 must be able to work on what release N makes."""

_Kind = Literal["changed", "ended", "user", "missed"]
_payload = msgspec.json.Decoder(tuple[_Kind, str, int, int, str])


def quoted(schema: str) -> str:
    """Give a schema's name as SQL takes it, whatever is in it."""
    return '"' + schema.replace('"', '""') + '"'


def decode(payload: str) -> Change:
    """Read a notification: a JSON array of kind, id, version, generation, reason. What is none means: believe no copy."""
    try:
        return Change(*_payload.decode(payload))
    except msgspec.MsgspecError:
        return Change("missed")


def probe(schema: str, channel: str, name: str) -> str:
    """Give the statement that notifies `name` on a channel, if the tables are there.

    Without parameters, so that it is one message, and behind a pooler one transaction. It need not be durable.
    """
    return (
        f"SELECT pg_catalog.pg_notify({_literal(channel)}, {_literal(name)}), "
        f"pg_catalog.set_config('synchronous_commit', 'off', true) FROM {quoted(schema)}.schema_version"
    )


async def require_schema(link: Link, schema: str, where: str, *, unlogged: bool) -> None:
    """Raise UsageError, naming what mends it, unless the tables are there and such as this release works with."""
    found = await _found(link, schema)
    mend = "run `coatcheck sessions migrate`, or await the store's migrate()"
    if found is None:
        raise UsageError(f"{where} has no session tables in the schema {schema}: {mend}")
    version, readable_from, is_unlogged = found
    if version < SCHEMA_VERSION:
        raise UsageError(f"the session tables in {where} are of an older release (schema {version}): {mend}")
    if readable_from > SCHEMA_VERSION:
        raise _too_new(where, version)
    if is_unlogged != unlogged:
        are, asked = (
            ("unlogged", "that was not asked for") if is_unlogged else ("logged", "unlogged=true was asked for")
        )
        raise UsageError(f"the session tables in {where} are {are}, and {asked}: change the URL, or {mend}")


async def migrate(link: Link, schema: str, where: str, *, unlogged: bool) -> list[str]:
    """Make the tables or bring them up to date, as one transaction; give what was done, in words.

    Raises UsageError for tables of a newer release and for somebody else's of the same name.
    """
    if link.encoding != "UTF8":
        raise UsageError(f"{where} is encoded as {link.encoding}: sessions need a database in UTF8")
    done: list[str] = []
    try:
        async with link.transaction():
            await link.run("SET LOCAL statement_timeout = 0")
            await link.rows(_LOCK, schema)
            found = await _found(link, schema)
            version, _, is_unlogged = (0, 0, False) if found is None else found
            if found is not None and found[1] > SCHEMA_VERSION:
                raise _too_new(where, version)
            if version == 0 and not await _exists(link, "pg_namespace WHERE nspname = $1", schema):
                await link.run(f"CREATE SCHEMA {quoted(schema)}")
            names = {"s": quoted(schema), "channel": _literal(schema)}
            for number, step in enumerate(_STEPS[version:], version + 1):
                await link.run(step.format_map(names))
                done.append(f"schema {schema} is now of version {number}")
            if version < SCHEMA_VERSION:
                await link.run(
                    f"UPDATE {quoted(schema)}.schema_version "
                    f"SET version = {SCHEMA_VERSION}, readable_from = {_READABLE_FROM}"
                )
            if is_unlogged != unlogged:
                kind = "UNLOGGED" if unlogged else "LOGGED"
                await link.run("; ".join(f"ALTER TABLE {quoted(schema)}.{table} SET {kind}" for table in _TABLES))
                done.append(f"its tables are {kind.lower()}")
    except Conflict as error:
        raise UsageError(f"the schema {schema} in {where} cannot be made: {error}") from None
    return done


async def _found(link: Link, schema: str) -> tuple[int, int, bool] | None:
    """Give version, readable_from, and whether the tables are unlogged; None where there are none."""
    if not await _exists(
        link, "pg_class WHERE relname = 'schema_version' AND relnamespace = "
        "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)", schema
    ):  # fmt: skip
        return None
    rows = await link.rows(
        f"SELECT v.version, v.readable_from, c.relpersistence = 'u' FROM {quoted(schema)}.schema_version AS v, "
        f"pg_catalog.pg_class AS c WHERE c.relname = 'session' AND c.relnamespace = "
        "(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1)",
        schema,
    )
    if len(rows) != 1:
        raise StoreUnavailable(
            f"the schema {schema} is damaged: its schema_version or its session table is not what it was"
        )
    return cast("tuple[int, int, bool]", tuple(rows[0]))


async def _exists(link: Link, what: str, name: str) -> bool:
    return await link.rows(f"SELECT FROM pg_catalog.{what}", name) != []


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _too_new(where: str, version: int) -> UsageError:
    return UsageError(
        f"the session tables in {where} were made by a newer release of Coatcheck (schema {version}; this one knows "
        f"{SCHEMA_VERSION}): upgrade this installation"
    )
