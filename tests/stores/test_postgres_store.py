"""What is particular to the PostgreSQL store. What it has in common with others is the conformance kit's."""

import asyncio
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from coatcheck.errors import MissingDependency, SessionRefused, StoreUnavailable, UsageError, WrongEventLoop
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores import _postgres_link, open_store
from coatcheck.stores.contract import Change
from coatcheck.stores.postgres import PostgresStore
from tests.clients.line import Line
from tests.clients.postgres_server import PgBouncer, PostgresServer, free_port
from tests.stores.postgres_nodes import connected, migrated, started, told, waiting
from tests.stores.sqlite_peer import record


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_it_is_what_a_url_opens(postgres: PostgresServer, schema: str, scheme: str) -> None:
    store = open_store(postgres.url(schema=schema, migrate="true").replace("postgresql", scheme, 1))
    assert isinstance(store, PostgresStore)
    await store.start()
    await store.create(record("a"))
    await store.close()


def test_without_its_package_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith("coatcheck.stores.") and "postgres" in name:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingDependency, match=r"coatcheck\[postgres\]"):
        open_store("postgresql://localhost/d")


async def test_a_server_that_is_away_is_an_outage_and_then_there_is_service(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    store = PostgresStore(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres")
    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:\d+/postgres cannot be reached: .*Connect call failed"):
        await store.start()
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.migrate()
    with pytest.raises(StoreUnavailable, match=r'cannot be used: database "nowhere" does not exist \(3D000\)'):
        await PostgresStore(postgres.url(database="nowhere")).start()


async def test_the_first_of_several_hosts_that_is_a_primary_is_taken(postgres: PostgresServer, schema: str) -> None:
    url = postgres.url(schema=schema, migrate="true", target_session_attrs="read-write")
    async with started(url.replace("127.0.0.1", f"127.0.0.1:{free_port()},127.0.0.1", 1)) as store:
        await store.create(record("a"))


async def test_a_host_that_says_nothing_costs_one_caller_its_time(postgres: PostgresServer, schema: str) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        hosts = f"127.0.0.1:{line.port},127.0.0.1:{postgres.port}"
        url = f"postgresql://postgres@{hosts}/postgres?schema={schema}&timeout=0.5&connect_timeout=2"
        async with started(url) as store:
            await store.create(record("a"))
            line.cut()
            assert store._pool is not None
            with pytest.raises(StoreUnavailable, match="did not answer within"):
                await store.read("a")  # on a connection that is cut
            with pytest.raises(StoreUnavailable, match="did not answer within"):
                await store.read("a")  # which it tries to make anew, there
            began = time.monotonic()
            assert await store.read("a") == record("a")
            await asyncio.gather(*(store.read("a") for _ in range(20)))
            assert time.monotonic() - began < 0.5


async def test_no_password_is_shown_by_whatever_goes_wrong(
    postgres: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await migrated(postgres.url(schema=schema))
    shown: list[str] = []

    async def fails(store: PostgresStore, work: Any) -> None:
        shown.append(repr(store))
        try:
            await work
        except (StoreUnavailable, UsageError) as error:
            shown.append(f"{error!r} {error} {error.__cause__!r} {error.__context__!r}")

    base = f"postgresql://postgres:s3cret@127.0.0.1:{postgres.port}"
    for url in (
        f"postgresql://app:s3cret@127.0.0.1:{free_port()}/postgres",
        f"{base}/nowhere",
        f"{base}/postgres?sslmode=require",
        f"{base}/postgres?sslmode=nonsense",
        f"{base}/postgres?sslrootcert=/nowhere&sslmode=verify-full",
        f"postgresql://nobody:s3cret@127.0.0.1:{postgres.port}/postgres",
        f"{base}/postgres?schema=nowhere",
        "postgresql://app:s3cret@host.invalid/postgres",
    ):
        store = PostgresStore(url, feed_url="//app:s3cret@127.0.0.1:1", connect_timeout=1.0)
        await fails(store, store.start())
        await fails(store, store.migrate())
    store = PostgresStore(f"{base}/postgres?schema={schema}", feed_url="//postgres:s3cret@127.0.0.1:1")
    await store.start()
    stream = store.changes()
    with pytest.raises(StoreUnavailable) as refusal:
        stream.poll(lambda change: None)
    await store.close()
    everything = "\n".join([*shown, str(refusal.value), caplog.text])
    assert len(everything) > 2000
    assert "s3cret" not in everything


async def test_errors_show_no_rows_and_no_parameters(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    postgres.by_hand(f"ALTER TABLE {schema}.session ADD CHECK (octet_length(record) < 300)")
    async with started(url) as store:
        with pytest.raises(StoreUnavailable, match="violates check constraint") as refusal:
            await store.create(record("a", values={"k": b"private" * 100}))
        error: BaseException | None = refusal.value
        assert "DETAIL" not in str(error)
        assert error.__context__ is None
        await store.create(record("b"))


@pytest.mark.parametrize("text", ["nul\0", "\ud800"])
async def test_what_postgresql_cannot_store_fails_alone(postgres: PostgresServer, schema: str, text: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, pool_size=1) as store:
        for attempt in (
            lambda: store.epoch(text),
            lambda: store.create(record("a", user_id=text)),
            lambda: store.create(record("b", version=2**70)),
            lambda: store.end(["a"], reason=text, now=1.0),
            lambda: store.end_user(text, reason="x", now=1.0),
            lambda: store.read(text),
        ):
            with pytest.raises((UsageError, UnicodeEncodeError), match=r"PostgreSQL cannot store this|surrogates"):
                await attempt()
        with pytest.raises(StoreUnavailable, match="index row"):
            await store.epoch("".join(map(chr, range(1000, 5000))))
        await store.create(record("c"))
        assert await store.alive(["a", "b", "c"]) == {"c": 1}


async def test_a_record_that_cannot_be_read_is_not_unknown(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        await hand.execute("UPDATE session SET record = 'nonsense'")
        for attempt in (store.read("a"), store.apply("a", Changes(set={"k": b"1"}))):
            with pytest.raises(StoreUnavailable, match="the stored session a cannot be read"):
                await attempt
        assert await store.end(["a"], reason="x", now=1.0) == ["a"]


async def test_what_stands_in_the_columns_counts(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        epoch = await store.epoch("user")
        await hand.execute(f"UPDATE session SET user_id = 'user', epoch = {epoch}, expires_at = 7, last_seen_at = 3000")
        found = await store.read("a")
        assert isinstance(found, SessionRecord)
        assert (found.user_id, found.epoch, found.expires_at, found.last_seen_at) == ("user", epoch, 7.0, 3000.0)
        after = await store.apply("a", Changes(set={"k": b"1"}))
        assert after == await store.read("a")
        assert after is not None
        assert after.expires_at == 7.0
        await hand.execute("UPDATE tombstone SET hashes = 'nonsense'")
        await store.end(["a"], reason="x", now=1.0)
        await hand.execute("UPDATE tombstone SET hashes = 'nonsense'")
        stone = await store.read("a")
        assert stone is not None
        assert stone.hashes == ()  # type: ignore[union-attr]


async def test_there_are_never_more_connections_than_allowed_and_idle_ones_are_used_again(
    postgres: PostgresServer, schema: str
) -> None:
    postgres.by_hand(f"CREATE ROLE {schema} LOGIN SUPERUSER")
    url = await migrated(postgres.url(schema=schema, user=schema))
    ours = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{schema}'"
    async with started(url, pool_size=3) as store, connected(postgres) as look:
        before = await look.fetchval(ours)
        assert before >= 2  # the feed's
        await asyncio.gather(*(store.read(f"s{number}") for number in range(50)))
        assert await look.fetchval(ours) == before + 3
        used = [await store._rows("SELECT pg_catalog.pg_backend_pid()") for _ in range(20)]
        assert len({pid for [(pid,)] in used}) == 1
    async with connected(postgres) as look:
        async with asyncio.timeout(5):
            while await look.fetchval(ours):
                await asyncio.sleep(0.005)


async def test_who_finds_no_connection_in_time_is_told_so(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, pool_size=1, timeout=0.3) as store:
        await store.create(record("a"))
        held, over = asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            held.set()
            await over.wait()

        assert store._pool is not None
        busy = asyncio.ensure_future(store._pool.run(hold, again=False))
        await held.wait()
        begun = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.3 s"):
            await store.read("a")
        assert time.monotonic() - begun < 2
        over.set()
        await busy
        assert isinstance(await store.read("a"), SessionRecord)


async def test_closing_finishes_what_was_accepted(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    store = PostgresStore(url, pool_size=2)
    await store.start()
    async with connected(postgres, schema) as hand:
        await store.create(record("a"))
        async with hand.transaction():
            await hand.execute("SELECT FROM session FOR UPDATE")
            ending = asyncio.ensure_future(store.end(["a"], reason="x", now=1.0))
            await waiting(postgres)
            closing = asyncio.ensure_future(store.close())
            late = asyncio.ensure_future(store.read("a"))
            await asyncio.wait([late])
        await closing
        assert await ending == ["a"]
        with pytest.raises(UsageError, match="is not started"):
            late.result()
    await store.close()


def test_a_loop_that_went_away_with_its_connections_is_no_reason_not_to_start_again(
    postgres: PostgresServer, schema: str
) -> None:
    store = PostgresStore(postgres.url(schema=schema, migrate="true"))
    first = asyncio.new_event_loop()
    first.run_until_complete(store.start())

    async def elsewhere() -> None:
        with pytest.raises(WrongEventLoop):
            await store.read("a")
        with pytest.raises(WrongEventLoop):
            await store.start()
        with pytest.raises(WrongEventLoop):
            await store.close()

    asyncio.run(elsewhere())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nobody closed what was opened there
        for task in asyncio.all_tasks(first):
            task.cancel()
        first.run_until_complete(asyncio.sleep(0.01))
        first.close()

        async def again() -> None:
            await store.start()
            assert await store.read("a") is None
            await store.close()

        asyncio.run(again())


async def test_being_seen_changes_no_index_most_of_the_time(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    ids = [f"s{number:03}" for number in range(200)]
    async with started(url) as store, connected(postgres, schema) as hand:
        for session_id in ids:
            await store.create(record(session_id, values={"k": bytes(100)}, last_seen_at=1200.0))
        for minute in range(1, 9):
            await store.touch(dict.fromkeys(ids[::10], 1200.0 + 60 * minute))
        await hand.execute("SELECT pg_stat_force_next_flush()")
        for link in store._pool._idle:  # type: ignore[union-attr]
            await link.rows("SELECT pg_stat_force_next_flush()")
        await asyncio.sleep(0)
        await hand.execute("SELECT pg_stat_clear_snapshot()")
        updated, hot = await hand.fetchrow(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = $1 AND relname = 'session'",
            schema,
        )
        assert updated == 160
        assert hot >= updated * 0.9


async def test_sweeps_go_in_steps_and_forget_tombstones(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        await hand.execute(
            "INSERT INTO tombstone SELECT 't' || n, 1.0, 'x', '' FROM generate_series(1, 2500) AS n; "
            "INSERT INTO tombstone VALUES ('young', 1000.0, 'x', '')"
        )
        for number in range(4):
            await store.create(record(f"late{number}", expires_at=100.0))
            await store.create(record(f"idle{number}", last_seen_at=100.0 + 300 * number))
        assert [await store.sweep(now=1000.0, limit=3, unseen_since=601.0) for _ in range(3)] == [3, 3, 0]
        assert sorted(await store.alive([f"idle{number}" for number in range(4)])) == ["idle2", "idle3"]
        left = await hand.fetch("SELECT id, reason FROM tombstone ORDER BY id")
        assert [tuple(row) for row in left] == [
            ("idle0", "idle"), ("idle1", "idle"), *((f"late{number}", "expired") for number in range(4)), ("young", "x"),
        ]  # fmt: skip


async def test_many_at_once_share_what_connections_there_are(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, pool_size=4, timeout=20.0) as store:
        epoch = await store.epoch("user")

        async def live(number: int) -> None:
            session_id = f"s{number}"
            await store.create(record(session_id, user_id="user", epoch=epoch))
            assert (await store.apply(session_id, Changes(set={"k": b"1"}))) is not None
            with pytest.raises(SessionRefused):
                await store.create(record(session_id))
            if number % 2:
                assert await store.end([session_id], reason="x", now=1.0) == [session_id]

        await asyncio.gather(*(live(number) for number in range(100)))
        assert len(await store.list_user("user")) == 50
        assert len(await store.end_user("user", reason="x", now=1.0)) == 50


async def test_a_pooler_that_was_not_recognised_is_named_by_the_error(postgres: PostgresServer, schema: str) -> None:
    await migrated(postgres.url(schema=schema))
    async with started(postgres.url(schema=schema), pgbouncer=False, pool_size=1) as store:
        await store.read("a")
        [link] = store._pool._idle  # type: ignore[union-attr]
        await link.run("DEALLOCATE ALL")  # as when the server's side has become another one
        with pytest.raises(StoreUnavailable, match=r"is a pooler .*: add pgbouncer=true to its URL"):
            await store.read("a")


async def test_a_pooler_that_takes_settings_and_forgets_them_is_found_out(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    ignored = "coatcheck.link,default_transaction_isolation,statement_timeout,idle_in_transaction_session_timeout,tcp_user_timeout"
    bouncer = PgBouncer(postgres, ignores=ignored)
    try:
        async with started(bouncer.url(schema=schema, feed_url=f"//127.0.0.1:{postgres.port}")) as store:
            assert store.pooled
            await store.create(record("a"))
            assert await store.end(["a"], reason="x", now=1.0) == ["a"]
    finally:
        bouncer.close()


async def test_pgbouncer_can_be_named_in_advance_or_denied(
    postgres: PostgresServer, pgbouncer: PgBouncer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    feed_url = f"//127.0.0.1:{postgres.port}"
    async with started(pgbouncer.url(schema=schema, feed_url=feed_url), pgbouncer=True) as store:
        await store.create(record("a"))
    with pytest.raises(UsageError, match="so it is a pooler: leave out pgbouncer=false"):
        await PostgresStore(pgbouncer.url(schema=schema), pgbouncer=False).start()
    # A server that is taken for a pooler is only a little slower.
    async with started(postgres.url(schema=schema), pgbouncer=True) as store:
        assert await store.end(["a"], reason="x", now=1.0) == ["a"]


async def test_tls_is_as_the_url_has_it(start_postgres: Callable[..., PostgresServer], tmp_path: Path) -> None:
    server, other = start_postgres(tls=True), start_postgres(tls=True)
    roots = [tmp_path / "root.pem", tmp_path / "other.pem"]
    for root, of in zip(roots, (server, other), strict=True):
        root.write_bytes(of.certificate.read_bytes())
    await migrated(server.url(sslmode="require"))
    async with started(server.url(sslmode="verify-full", sslrootcert=roots[0])) as store:
        await store.create(record("a"))
        encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'coatcheck'"
        assert await store._rows(encrypted) == [(True,)]
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        await PostgresStore(server.url(sslmode="verify-full", sslrootcert=roots[1])).start()


async def test_a_socket_in_the_file_system_will_do(postgres: PostgresServer, schema: str) -> None:
    url = f"postgresql://postgres@/postgres?host={postgres.directory}&port={postgres.port}&schema={schema}"
    async with started(await migrated(url)) as store:
        await store.create(record("a"))
        stream = store.changes()
        assert await store.end(["a"], reason="x", now=1.0) == ["a"]
        assert [change.id for change in await told(stream, 1)] == ["a"]
        assert repr(store) == f"<PostgresStore postgresql://{postgres.directory}/postgres schema={schema}>"


def test_a_pooler_that_refuses_settings_is_recognised_behind_tls_that_was_only_preferred() -> None:
    refusal = asyncpg.ProtocolViolationError("unsupported startup parameter: coatcheck.link")
    second = asyncpg.ConnectionDoesNotExistError("SSL required")
    second.__cause__ = refusal
    assert _postgres_link._is_refusal(refusal)
    assert _postgres_link._is_refusal(second)
    assert not _postgres_link._is_refusal(asyncpg.ConnectionDoesNotExistError("SSL required"))
    assert not _postgres_link._is_refusal(OSError())


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "postgresql.md"


async def test_what_the_reference_types_by_hand_does_what_it_says(postgres: PostgresServer, schema: str) -> None:
    postgres.by_hand(f"CREATE DATABASE {schema}")
    url = await migrated(postgres.url(database=schema))
    text = REFERENCE.read_text().partition("## By hand")[2].split("```")[1].replace("…", "user")
    shown, deleted, emptied = [line.partition(";")[0] for line in text.strip().splitlines()]
    async with started(url) as store:
        await store.create(record("a", user_id="user", epoch=await store.epoch("user")))
        await store.create(record("b"))
        assert "1970-01-01 00:16:40" in postgres.by_hand(shown, database=schema)
        postgres.by_hand(deleted, database=schema)
        assert await store.alive(["a", "b"]) == {"b": 1}
        postgres.by_hand(emptied, database=schema)
        assert await store.alive(["a", "b"]) == {}
        stream = store.changes()
        postgres.by_hand('NOTIFY coatcheck, \'["missed","",0,0,""]\'', database=schema)
        assert await told(stream, 1) == [Change("missed")]


def test_the_reference_names_every_option() -> None:
    text = REFERENCE.read_text()
    from coatcheck.stores import _postgres_url as url

    for name in url._OURS:
        assert f"`{name}`" in text, name
