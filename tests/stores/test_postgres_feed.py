"""The PostgreSQL store's change feed: what it hears of, and when it may be believed."""

import asyncio
import logging
import time
from typing import Any

import pytest

from coatcheck import Sessions
from coatcheck.errors import StoreUnavailable
from coatcheck.record import Tombstone
from coatcheck.stores.contract import Change
from coatcheck.stores.postgres import PostgresStore
from tests.clients.line import Line
from tests.clients.postgres_server import PgBouncer, PostgresServer
from tests.stores.asking import calls_that_asking_costs
from tests.stores.postgres_nodes import connected, migrated, started, told
from tests.stores.sqlite_peer import record

QUICK = {"probe_interval": 0.02, "timeout": 0.6}


async def until(condition: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


def pids(postgres: PostgresServer, schema: str) -> list[str]:
    """The server's processes that listen to a schema's changes."""
    found = postgres.by_hand(f"SELECT pid FROM pg_stat_activity WHERE query = 'LISTEN \"{schema}\"'")
    return found.split()


async def test_whatever_is_typed_by_hand_is_told_at_once(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        for session_id in ("a", "b", "c", "d", "e"):
            await store.create(record(session_id))
        for user_id in ("u", "v", "w"):
            await store.epoch(user_id)
        stream = store.changes()
        for statement, change in (
            ("UPDATE session SET expires_at = 1 WHERE id = 'a'", Change("changed", "a")),
            ("UPDATE session SET version = 9 WHERE id = 'a'", Change("changed", "a", 9, 1)),
            ("UPDATE session SET version = 10, generation = 0 WHERE id = 'a'", Change("changed", "a")),
            ("UPDATE session SET id = 'z' WHERE id = 'a'", Change("changed", "a")),
            ("DELETE FROM session WHERE id = 'b'", Change("ended", "b", reason="deleted by hand")),
            ("UPDATE user_epoch SET epoch = epoch + 1 WHERE user_id = 'u'", Change("user", "u")),
            ("DELETE FROM user_epoch WHERE user_id = 'v'", Change("user", "v")),
            ("TRUNCATE user_epoch", Change("missed")),
            ("INSERT INTO session VALUES ('c', NULL, 0, 1, 1, 9e9, 1, DEFAULT, '', '') "
             "ON CONFLICT (id) DO UPDATE SET record = EXCLUDED.record", Change("changed", "c")),
            ("TRUNCATE session", Change("missed")),
        ):  # fmt: skip
            await hand.execute(statement)
            assert await told(stream, 1) == [change], statement
        assert isinstance(await store.read("b"), Tombstone)
        # Of what changes nothing that a copy holds, nothing is told.
        await store.create(record("f"))
        await hand.execute(
            "UPDATE session SET last_seen_at = 4000; TRUNCATE tombstone; DELETE FROM session WHERE id = 'f'"
        )
        assert await told(stream, 1) == [Change("ended", "f", reason="deleted by hand")]


async def test_a_batch_by_hand_is_told_row_by_row_and_a_rollback_not_at_all(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    ids = [f"s{number:04}" for number in range(1500)]
    async with started(url) as store, connected(postgres, schema) as hand:
        await hand.execute(
            "INSERT INTO session (id, epoch, generation, version, expires_at, last_seen_at, hashes, record) "
            "SELECT 's' || lpad(n::text, 4, '0'), 0, 1, 1, 9e9, 1, '', '' "
            "FROM generate_series(0, 1499) AS n"
        )
        stream = store.changes()
        transaction = hand.transaction()
        await transaction.start()
        await hand.execute("DELETE FROM session")
        await transaction.rollback()
        await hand.execute("DELETE FROM session")
        changes = await told(stream, 1500)
        assert sorted(change.id for change in changes) == ids


async def test_what_a_notification_cannot_hold_is_told_as_missed(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        stream = store.changes()
        long = "\x01" * 2000  # six characters each, as JSON writes them
        await hand.execute("INSERT INTO user_epoch VALUES ($1, 1)", long)
        await store.end_user(long, reason="x", now=1.0)
        assert await told(stream, 1) == [Change("missed")]
        assert await store.end(["a"], reason="é" * 5000, now=1.0) == ["a"]
        assert await told(stream, 1) == [Change("ended", "a", reason="é" * 1000)]
        stone = await store.read("a")
        assert isinstance(stone, Tombstone)
        assert stone.reason == "é" * 5000


async def test_what_no_notification_of_ours_says_is_believed_no_copies(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres) as hand:
        stream = store.changes()
        await hand.execute(f"NOTIFY {schema}, 'whatever'")
        await hand.execute(f"NOTIFY {schema}")
        assert await told(stream, 2) == [Change("missed"), Change("missed")]


async def test_the_lease_runs_from_the_sending_of_the_last_probe_that_came_back(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    before = time.monotonic()
    async with started(url, **QUICK) as store:
        stream = store.changes()
        assert before <= stream.confirmed() <= time.monotonic()
        moments: set[float] = set()
        while len(moments) < 5:
            await stream.wait()
            asked = time.monotonic()
            stream.poll(lambda change: None)
            assert stream.confirmed() <= asked
            moments.add(stream.confirmed())


async def test_a_confirmation_waits_until_what_came_before_it_was_delivered(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, **QUICK) as store:
        await store.create(record("a"))
        stream = store.changes()
        confirmed = stream.confirmed()
        await store.end(["a"], reason="x", now=1.0)
        await until(lambda: len(stream._queue) > 3)  # probes have come back, and nobody has polled
        assert stream.behind()
        assert stream.confirmed() == confirmed

        def fail(change: Change) -> None:
            assert stream.behind()
            stream.poll(lambda again: pytest.fail("delivered in the middle of a delivery"))
            raise RuntimeError("not taken in")

        while True:
            if isinstance(stream._queue[0], Change):
                break
            stream._queue.popleft()
        with pytest.raises(RuntimeError, match="not taken in"):
            stream.poll(fail)
        assert stream.confirmed() == confirmed
        assert await told(stream, 1) == [Change("ended", "a", reason="x")]
        assert stream.confirmed() > confirmed


async def test_a_probe_is_nobody_elses_and_cannot_be_forged(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as one, started(url) as two, connected(postgres) as hand:
        assert one._feed is not None
        assert two._feed is not None
        confirmed = two._feed.confirmed
        for payload in ("", one._feed._awaited[0], two._feed._awaited[0]):
            await hand.execute(f"NOTIFY {schema}, '{payload}'")
        stream = two.changes()
        await one.create(record("a"))
        await one.end(["a"], reason="x", now=1.0)
        await told(stream, 1)
        assert two._feed.confirmed == confirmed


async def test_a_listening_session_that_is_killed_is_made_anew_and_everything_is_believed_lost(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url, **QUICK) as store:
        await store.create(record("a"))
        stream = store.changes()
        [pid] = pids(postgres, schema)
        postgres.by_hand(f"SELECT pg_terminate_backend({pid})", f"DELETE FROM {schema}.session")
        changes = await told(stream, 1)
        assert changes[0] == Change("missed")
        assert await store.alive(["a"]) == {}
        await store.create(record("b"))
        await store.end(["b"], reason="x", now=1.0)
        assert await told(stream, 1) == [Change("ended", "b", reason="x")]
        await until(lambda: store._feed.trouble is None)  # type: ignore[union-attr]
        assert pids(postgres, schema) != [pid]


async def test_a_line_that_is_cut_without_a_word_confirms_nothing_and_is_laid_anew(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        feed_url = f"//127.0.0.1:{line.port}"
        async with started(postgres.url(schema=schema), feed_url=feed_url, connect_timeout=0.3, **QUICK) as store:
            await store.create(record("a"))
            stream = store.changes()
            line.cut()
            cut = time.monotonic()
            await store.end(["a"], reason="x", now=1.0)
            await until(lambda: store._feed.trouble is not None)  # type: ignore[union-attr]
            with pytest.raises(StoreUnavailable, match="what is notified does not come back: is feed_url"):
                stream.poll(lambda change: pytest.fail("nothing can have been heard"))
            assert stream.confirmed() <= cut
            line.mend()
            changes = await told(stream, 1)
            assert changes == [Change("missed")]
            await until(lambda: store._feed.trouble is None)  # type: ignore[union-attr]
            stream.poll(lambda change: None)
            assert stream.confirmed() > cut


@pytest.mark.parametrize("lost", [b"LISTEN", b"current_setting"])
async def test_a_line_that_is_cut_between_connecting_and_listening_is_not_waited_for_for_ever(
    postgres: PostgresServer, schema: str, lost: bytes
) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        feed_url = f"//127.0.0.1:{line.port}"
        line.cut(lost)
        async with asyncio.timeout(5):
            async with started(postgres.url(schema=schema), feed_url=feed_url, **QUICK) as store:
                assert store._feed is not None
                assert "in time" in (store._feed.trouble or "")
                stream = store.changes()
                line.mend()
                await until(lambda: store._feed.trouble is None)  # type: ignore[union-attr]
                await store.create(record("a"))
                await store.end(["a"], reason="x", now=1.0)
                assert Change("ended", "a", reason="x") in await told(stream, 2)


async def test_where_writes_cannot_go_nothing_is_confirmed_and_nothing_is_lost_either(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        url = (
            f"postgresql://postgres@127.0.0.1:{line.port}/postgres?schema={schema}&feed_url=//127.0.0.1:{postgres.port}"
        )
        async with started(url, connect_timeout=0.3, **QUICK) as store, started(postgres.url(schema=schema)) as other:
            await store.create(record("a"))
            stream = store.changes()
            line.cut()
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.6 s"):
                await store.create(record("b"))
            await until(lambda: store._feed.trouble is not None)  # type: ignore[union-attr]
            await other.end(["a"], reason="x", now=1.0)
            changes: list[Change] = []
            async with asyncio.timeout(5):
                while not changes:
                    with pytest.raises(StoreUnavailable, match=r"could not be sent|cannot be reached"):
                        stream.poll(changes.append)
                    await asyncio.sleep(0.005)
            assert changes == [Change("ended", "a", reason="x")]
            line.mend()
            await until(lambda: store._feed.trouble is None)  # type: ignore[union-attr]
            stream.poll(changes.append)
            assert len(changes) == 1  # the listener was there all the time
            await store.create(record("c"))


async def test_through_pgbouncer_alone_no_copy_is_believed_and_the_log_names_feed_url(
    postgres: PostgresServer, pgbouncer: PgBouncer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    """LISTEN through a pooler raises no error, and a session that notifies itself would even hear it."""
    url = await migrated(pgbouncer.url(schema=schema, timeout=0.4, probe_interval=0.05))
    caplog.set_level(logging.WARNING)
    async with Sessions(url) as here, Sessions(postgres.url(schema=schema)) as there:
        assert here.feed_failing
        assert "give the database's own address as feed_url" in caplog.text
        assert here.cache.lease_until == float("-inf")
        session = await here.load(None)
        await session.log_in("user")
        assert session.cookie_change is not None
        token = (session.cookie_change.token or "").encode()
        assert (await here.load(token)).user_id == "user"
        assert here.load_cached(token) is None
        await there.end_user("user")
        assert (await here.load(token)).user_id is None  # with no feed, at once


async def test_through_pgbouncer_in_session_mode_the_feed_works(postgres: PostgresServer, schema: str) -> None:
    bouncer = PgBouncer(postgres, pool_mode="session", pool_size=20)
    try:
        url = await migrated(bouncer.url(schema=schema))
        async with started(url) as store:
            assert store.pooled
            await store.create(record("a"))
            stream = store.changes()
            await store.end(["a"], reason="x", now=1.0)
            assert await told(stream, 1) == [Change("ended", "a", reason="x")]
            assert stream.confirmed() > 0
    finally:
        bouncer.close()


async def test_the_feed_of_another_database_is_noticed(
    postgres: PostgresServer, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    await migrated(postgres.url(schema=schema))
    other = f"postgresql://127.0.0.1:{postgres.port}/template1"
    async with Sessions(postgres.url(schema=schema, timeout=0.4, probe_interval=0.05, feed_url=other)) as sessions:
        assert sessions.feed_failing
    assert f"is feed_url ({other}) the same database, and no pooler?" in caplog.text


async def test_a_feed_that_is_away_at_the_start_comes_later_and_believes_nothing_from_before(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        line.cut()
        feed_url = f"//127.0.0.1:{line.port}"
        async with started(postgres.url(schema=schema), feed_url=feed_url, connect_timeout=0.2, **QUICK) as store:
            stream = store.changes()
            assert stream.confirmed() == float("-inf")
            with pytest.raises(StoreUnavailable, match="cannot be reached: no answer in time"):
                stream.poll(lambda change: None)
            line.mend()
            assert await told(stream, 1) == [Change("missed")]
            await until(lambda: store._feed.trouble is None)  # type: ignore[union-attr]


async def test_a_store_that_is_closed_confirms_nothing_more(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    store = PostgresStore(url)
    await store.start()
    stream = store.changes()
    await store.close()
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        stream.poll(lambda change: None)
    await stream.aclose()
    assert pids(postgres, schema) == []


async def test_an_end_there_is_a_refusal_here_within_milliseconds(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    delays: list[float] = []
    async with Sessions(url) as here, Sessions(url) as there:
        for number in range(50):
            session = await here.load(None)
            await session.log_in(f"user {number}")
            assert session.cookie_change is not None
            token = (session.cookie_change.token or "").encode()
            assert (await there.load(token)).user_id is not None
            assert there.load_cached(token) is not None
            await here.end(session.id or "")
            ended = time.perf_counter()
            while there.load_cached(token) is not None:
                await asyncio.sleep(0)
            delays.append(time.perf_counter() - ended)
    assert sorted(delays)[-2] < 0.05, "P1: within 50 ms, ninety-nine times of a hundred"


async def test_to_ask_whether_there_is_something_costs_no_more_than_a_few_calls(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store:
        stream = store.changes()
        stream.poll(lambda change: None)
        assert calls_that_asking_costs(stream) < 4
