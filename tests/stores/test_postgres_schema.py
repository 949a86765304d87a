"""The PostgreSQL store's tables: made by request alone, once, by whoever may; and what a role needs to work with them."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores import _postgres_schema as tables
from coatcheck.stores import open_store
from coatcheck.stores._postgres_steps import Statements
from coatcheck.stores.postgres import PostgresStore
from tests.clients.postgres_server import PostgresServer
from tests.stores.postgres_nodes import connected, migrated, started, told
from tests.stores.sqlite_peer import record

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "postgresql.md"


def relations(postgres: PostgresServer, schema: str) -> list[str]:
    found = postgres.by_hand(
        f"SELECT relname FROM pg_class WHERE relnamespace = '{schema}'::regnamespace AND relkind = 'r'"
    )
    return sorted(found.split())


async def test_nothing_is_made_by_starting_and_the_refusal_names_the_command(
    postgres: PostgresServer, schema: str
) -> None:
    store = PostgresStore(postgres.url(schema=schema))
    with pytest.raises(UsageError) as refusal:
        await store.start()
    where = f"postgresql://127.0.0.1:{postgres.port}/postgres"
    assert str(refusal.value) == (
        f"{where} has no session tables in the schema {schema}: run `coatcheck sessions migrate`, or await the store's"
        " migrate()"
    )
    assert postgres.by_hand(f"SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'") == "0"
    with pytest.raises(UsageError, match=r"is not started: await its start\(\) first"):
        await store.read("a")
    with pytest.raises(UsageError, match="is not started"):
        store.changes()
    await store.close()


async def test_migrating_makes_the_tables_once_and_says_what_it_did(postgres: PostgresServer, schema: str) -> None:
    store = PostgresStore(postgres.url(schema=schema))
    assert await store.migrate() == [f"schema {schema} is now of version 1"]
    assert relations(postgres, schema) == ["schema_version", "session", "tombstone", "user_epoch"]
    assert await store.migrate() == []
    async with started(postgres.url(schema=schema)):
        pass


async def test_migrate_in_the_url_migrates_at_the_start(postgres: PostgresServer, schema: str) -> None:
    store = open_store(postgres.url(schema=schema, migrate="true"))
    await store.start()
    await store.create(record("a"))
    await store.close()


async def test_a_schema_that_somebody_made_for_us_is_filled_without_the_right_to_make_one(
    postgres: PostgresServer, schema: str
) -> None:
    postgres.by_hand(f"CREATE ROLE {schema} LOGIN", f"CREATE SCHEMA {schema} AUTHORIZATION {schema}")
    await migrated(postgres.url(schema=schema, user=schema))
    async with started(postgres.url(schema=schema, user=schema)) as store:
        await store.create(record("a"))
    other = PostgresStore(postgres.url(schema=f"{schema}x", user=schema))
    with pytest.raises(StoreUnavailable, match="does not let this role work: permission denied for database"):
        await other.migrate()


async def test_any_number_migrate_at_once_and_one_does_it(postgres: PostgresServer, schema: str) -> None:
    done = await asyncio.gather(*(PostgresStore(postgres.url(schema=schema)).migrate() for _ in range(8)))
    assert sorted(map(len, done)) == [0] * 7 + [1]
    # Those that start meanwhile see all of it or nothing.
    async with started(postgres.url(schema=schema)) as store:
        await store.create(record("a"))


async def test_a_name_full_of_traps_is_only_a_name(postgres: PostgresServer) -> None:
    schema = 'it\'s; "DROP" {s} %s é'
    url = postgres.url(schema=schema)
    await migrated(url)
    async with started(url) as store:
        await store.create(record("a"))
        stream = store.changes()
        await store.end(["a"], reason="x", now=1.0)
        assert [change.id for change in await told(stream, 1)] == ["a"]
        assert store._feed is not None
        assert store._feed.trouble is None


async def test_a_migration_that_fails_leaves_nothing(postgres: PostgresServer, schema: str) -> None:
    postgres.by_hand(f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.tombstone (theirs int)")
    with pytest.raises(UsageError, match='cannot be made: relation "tombstone" already exists'):
        await migrated(postgres.url(schema=schema))
    assert relations(postgres, schema) == ["tombstone"]


@pytest.mark.parametrize(
    ("version", "readable_from", "message"),
    [
        (0, 0, r"are of an older release \(schema 0\): run `coatcheck sessions migrate`"),
        (9, 9, r"made by a newer release of Coatcheck \(schema 9; this one knows 1\): upgrade this installation"),
        (9, 1, None),
    ],
)
async def test_tables_of_other_releases_are_used_only_where_both_can_work_with_them(
    postgres: PostgresServer, schema: str, version: int, readable_from: int, message: str | None
) -> None:
    url = await migrated(postgres.url(schema=schema))
    postgres.by_hand(f"UPDATE {schema}.schema_version SET version = {version}, readable_from = {readable_from}")
    if message is None:
        async with started(url) as store:
            await store.create(record("a"))
        assert await PostgresStore(url).migrate() == []
        return
    with pytest.raises(UsageError, match=message):
        await PostgresStore(url).start()
    if version > 1:
        with pytest.raises(UsageError, match=message):
            await PostgresStore(url).migrate()


async def test_a_damaged_schema_is_no_empty_one(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    postgres.by_hand(f"TRUNCATE {schema}.schema_version")
    for attempt in (PostgresStore(url).start(), PostgresStore(url).migrate()):
        with pytest.raises(StoreUnavailable, match="is damaged"):
            await attempt
    postgres.by_hand(f"INSERT INTO {schema}.schema_version VALUES (1, 1)", f"DROP TABLE {schema}.session")
    with pytest.raises(StoreUnavailable, match="is damaged"):
        await PostgresStore(url).start()


async def test_tables_that_are_dropped_while_we_run_are_an_outage_and_no_empty_store(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, probe_interval=0.02) as store:
        await store.create(record("a"))
        stream = store.changes()
        postgres.by_hand(f"SET client_min_messages = error; DROP SCHEMA {schema} CASCADE")
        for call in (
            store.read("a"),
            store.create(record("b")),
            store.end(["a"], reason="x", now=1.0),
            store.epoch("u"),
        ):
            with pytest.raises(StoreUnavailable, match="does not have the session tables"):
                await call
        async with asyncio.timeout(5):  # nobody's copies are believed for long
            while store._feed.trouble is None:  # type: ignore[union-attr]
                await asyncio.sleep(0.005)
        with pytest.raises(StoreUnavailable, match="does not have the session tables"):
            stream.poll(lambda change: None)


async def test_tables_become_unlogged_and_logged_again_by_request_and_keep_what_is_in_them(
    postgres: PostgresServer, schema: str
) -> None:
    url, fast = postgres.url(schema=schema), postgres.url(schema=schema, unlogged="true")
    await migrated(url)
    async with started(url) as store:
        await store.create(record("a"))
    with pytest.raises(UsageError, match="are logged, and unlogged=true was asked for: change the URL, or run"):
        await PostgresStore(fast).start()
    assert await PostgresStore(fast).migrate() == ["its tables are unlogged"]
    kinds = "SELECT DISTINCT relpersistence FROM pg_class WHERE relname IN ('session', 'user_epoch', 'tombstone') AND "
    kinds += f"relnamespace = '{schema}'::regnamespace"
    assert postgres.by_hand(kinds) == "u"
    with pytest.raises(UsageError, match="are unlogged, and that was not asked for: change the URL, or run"):
        await PostgresStore(url).start()
    async with started(fast) as store:
        assert await store.read("a") == record("a")
        stream = store.changes()
        assert await store.apply("a", Changes(set={"k": b"1"})) is not None
        assert await store.end_user("u", reason="x", now=1.0) == []
        assert await store.end(["a"], reason="x", now=1.0) == ["a"]
        assert [change.kind for change in await told(stream, 2)] == ["changed", "ended"]
    assert await PostgresStore(url).migrate() == ["its tables are logged"]
    assert postgres.by_hand(kinds) == "p"


async def test_a_database_in_another_encoding_is_refused(postgres: PostgresServer, schema: str) -> None:
    postgres.by_hand(f"CREATE DATABASE {schema} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    with pytest.raises(UsageError, match="is encoded as LATIN1: sessions need a database in UTF8"):
        await migrated(postgres.url(database=schema))


@pytest.fixture
def roles(postgres: PostgresServer, schema: str) -> Iterator[str]:
    """A database in which the statements of the reference were run."""
    found = re.search(r"```sql\n(-- as a superuser.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert found is not None
    postgres.by_hand(f"CREATE DATABASE {schema}")
    text = found[1].replace("DATABASE shop", f"DATABASE {schema}")
    before, _, after = text.partition("-- then, as coatcheck_owner: coatcheck sessions migrate\n")
    postgres.by_hand(before, database=schema)
    asyncio.run(migrated(postgres.url(user="coatcheck_owner", database=schema)))
    postgres.by_hand(after, user="coatcheck_owner", database=schema)
    yield schema
    postgres.by_hand(
        f"DROP DATABASE {schema} WITH (FORCE)",
        "DROP ROLE coatcheck_app",
        "DROP ROLE coatcheck_owner",
        "DROP ROLE IF EXISTS x",
    )


async def test_the_role_that_the_reference_describes_can_do_all_the_work_and_no_more(
    postgres: PostgresServer, roles: str
) -> None:
    url = postgres.url(user="coatcheck_app", database=roles)
    async with started(url) as store:
        stream = store.changes()
        epoch = await store.epoch("user")
        for session_id in ("a", "b", "c", "d"):
            await store.create(record(session_id, user_id="user", epoch=epoch))
        await store.create(record("old", expires_at=1.0))
        assert await store.apply("a", Changes(set={"k": b"1"})) is not None
        await store.touch({"a": 5000.0})
        assert await store.end(["b"], reason="x", now=1.0) == ["b"]
        assert await store.end_user("user", reason="x", now=1.0, keep="a") == ["c", "d"]
        assert await store.sweep(now=60.0, limit=10, unseen_since=0.0) == 1
        assert sorted(await store.alive(["a", "b", "c", "old"])) == ["a"]
        assert isinstance(await store.read("a"), SessionRecord)
        assert isinstance(await store.read("c"), Tombstone)
        assert len(await store.list_user("user")) == 1
        assert {change.kind for change in await told(stream, 6)} == {"changed", "ended", "user"}
    async with connected(postgres, user="coatcheck_app", database=roles) as session:
        for forbidden in (
            "DROP TABLE coatcheck.session",
            "TRUNCATE coatcheck.session",
            "CREATE TABLE coatcheck.mine (x int)",
            "ALTER TABLE coatcheck.session DISABLE TRIGGER ALL",
            "UPDATE coatcheck.schema_version SET version = 2",
            "CREATE OR REPLACE FUNCTION coatcheck.tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
        ):
            with pytest.raises(Exception, match=r"permission denied|must be owner"):
                await session.execute(forbidden)


async def test_a_role_without_rights_is_told_so(postgres: PostgresServer, schema: str) -> None:
    await migrated(postgres.url(schema=schema))
    postgres.by_hand(f"CREATE ROLE {schema} LOGIN")
    with pytest.raises(StoreUnavailable, match=f"does not let this role work: permission denied for schema {schema}"):
        await PostgresStore(postgres.url(schema=schema, user=schema)).start()
    postgres.by_hand(
        f"GRANT USAGE ON SCHEMA {schema} TO {schema}; GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {schema}"
    )
    async with started(postgres.url(schema=schema, user=schema)) as store:
        assert await store.read("a") is None
        with pytest.raises(StoreUnavailable, match="permission denied for table session"):
            await store.create(record("a"))
        assert await store.read("a") is None


async def test_every_statement_finds_its_rows_by_an_index(postgres: PostgresServer, schema: str) -> None:
    await migrated(postgres.url(schema=schema))
    values = {
        "text": "'x'", "text[]": "'{x}'", "int8": "1", "float8": "1", "float8[]": "'{1}'", "bytea": "''",
    }  # fmt: skip
    async with connected(postgres) as session:
        # Without statistics a planner takes what it likes; like this it goes through a whole table only where it must.
        await session.execute("SET enable_seqscan = off")
        for name, statement in vars(Statements(schema)).items():
            prepared = await session.prepare(statement)
            types = [
                kind.name.replace("_", "") + "[]" * kind.name.startswith("_") for kind in prepared.get_parameters()
            ]
            await session.execute(f"PREPARE s_{name} AS {statement}")
            plan = await session.fetch(f"EXPLAIN EXECUTE s_{name} ({', '.join(values[kind] for kind in types)})")
            text = "\n".join(line for (line,) in plan)
            assert "Seq Scan" not in text, f"{name}:\n{text}"


def test_what_is_no_notification_of_ours_means_believe_nothing() -> None:
    assert tables.decode('["ended","a",0,0,"logout"]') == tables.Change("ended", "a", reason="logout")
    for payload in ("", "a", "[]", '["gone","a",0,0,""]', '["ended","a"]', '{"kind":"ended"}', '["ended",1,0,0,""]'):
        assert tables.decode(payload) == tables.Change("missed")
