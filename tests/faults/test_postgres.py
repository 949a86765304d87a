"""PostgreSQL killed, frozen, cut off, filled and typed into: what was acknowledged holds, what has ended stays ended, and
there is service again without a restart of ours.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from coatcheck import Session, Sessions
from coatcheck.errors import CoatcheckError, StoreUnavailable
from coatcheck.record import Changes, SessionRecord
from coatcheck.stores.contract import Change
from coatcheck.stores.postgres import PostgresStore
from tests.clients.line import Line
from tests.clients.postgres_server import PgBouncer, PostgresServer
from tests.stores.postgres_nodes import connected, migrated, started, told, waiting
from tests.stores.sqlite_peer import record

StartPostgres = Callable[..., PostgresServer]


async def logged_in(sessions: Sessions, user_id: str = "user") -> tuple[Session, bytes]:
    session = await sessions.load(None)
    await session.log_in(user_id)
    assert session.cookie_change is not None
    return session, (session.cookie_change.token or "").encode()


async def again(sessions: Sessions, token: bytes, seconds: float = 15.0) -> str | None:
    """Ask until there is an answer."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return (await sessions.load(token)).user_id
            except StoreUnavailable:
                await asyncio.sleep(0.01)


class Acknowledged:
    """What somebody who wrote was told; and what may be either way, because nothing was said of it."""

    def __init__(self) -> None:
        self.created: set[str] = set()
        self.applied: set[tuple[str, str]] = set()
        self.ended: set[str] = set()
        self.ending: set[str] = set()

    async def live(self, store: PostgresStore, name: str, everybody_is_there: asyncio.Barrier) -> None:
        ids = [f"{name}-{number}" for number in range(30)]
        for session_id in ids:
            await store.create(record(session_id))
            self.created.add(session_id)
        # From here on nobody creates anything: that would put on the disk what others have not waited for.
        await everybody_is_there.wait()
        for number, session_id in enumerate(ids):
            for key in "xyz"[: number % 4]:
                assert await store.apply(session_id, Changes(set={key: b"1"})) is not None
                self.applied.add((session_id, key))
            if number % 2 == 0:
                self.ending.add(session_id)
                assert await store.end([session_id], reason="x", now=1.0) == [session_id]
                self.ended.add(session_id)

    async def check(self, store: PostgresStore) -> None:
        found = {session_id: await store.read(session_id) for session_id in self.created}
        records = {session_id: each for session_id, each in found.items() if isinstance(each, SessionRecord)}
        assert not self.ended & set(records), "an ended session lives again"
        assert self.created - self.ending <= set(records), "an acknowledged session is gone"
        for session_id, key in self.applied:
            assert session_id not in records or key in records[session_id].values, "an acknowledged change is gone"


async def survive_a_crash(start_postgres: StartPostgres, *, pooled: bool) -> None:
    # Without a writer that runs by itself: what nobody waited for is not on the disk.
    server = start_postgres(durable=True, wal_writer_delay="10s")
    bouncer = PgBouncer(server) if pooled else None
    try:
        url = server.url() if bouncer is None else bouncer.url(feed_url=f"//127.0.0.1:{server.port}")
        await migrated(url)
        async with started(url, connect_timeout=0.5) as store:
            assert store.pooled == pooled
            stream = store.changes()
            told_of = Acknowledged()
            barrier = asyncio.Barrier(8)
            lives = [asyncio.ensure_future(told_of.live(store, f"w{number}", barrier)) for number in range(8)]
            async with asyncio.timeout(20):
                while len(told_of.ended) < 40:
                    await asyncio.sleep(0.005)
            await asyncio.to_thread(server.crash)
            failures = await asyncio.gather(*lives, return_exceptions=True)
            assert any(failures), "the server was killed while they wrote"
            assert all(failure is None or isinstance(failure, StoreUnavailable) for failure in failures)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(20):
                while True:
                    with suppress(StoreUnavailable):
                        await told_of.check(store)
                        break
            changes = await told(stream, 1)
            while Change("missed") not in changes:
                changes = await told(stream, 1)
            await store.create(record("after"))
    finally:
        if bouncer is not None:
            bouncer.close()


async def test_what_was_acknowledged_survives_kill_9_of_the_server(start_postgres: StartPostgres) -> None:
    await survive_a_crash(start_postgres, pooled=False)


async def test_unlogged_tables_are_empty_after_a_crash_and_everybody_is_logged_out(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres(durable=True)
    url = await migrated(server.url(unlogged="true"))
    async with Sessions(url) as sessions:
        _, token = await logged_in(sessions)
        epoch = await sessions.epoch("user")
        late = await sessions.load(None)
        await asyncio.to_thread(server.crash)
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(5):  # inside the lease a copy may be believed, or until the feed is there again
            while await again(sessions, token) is not None:
                await asyncio.sleep(0.01)
        with pytest.raises(CoatcheckError, match="log in again"):
            await late.log_in("user", epoch=epoch)  # its password was checked before
        _, token = await logged_in(sessions)
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert await again(sessions, token) == "user"


async def test_a_restart_costs_what_was_under_way_and_service_is_back_without_a_stampede(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres()
    url = await migrated(server.url())
    async with Sessions(f"{url}?connect_timeout=0.5&pool_size=4") as sessions:
        tokens = [(await logged_in(sessions, f"user {number}"))[1] for number in range(50)]
        await asyncio.to_thread(server.stop)
        for token in tokens:
            with suppress(StoreUnavailable):  # inside the lease a copy may be believed
                await sessions.load(token)
        with pytest.raises(StoreUnavailable):
            await logged_in(sessions)
        await asyncio.to_thread(server.start)
        users = await asyncio.gather(*(again(sessions, token) for token in tokens for _ in range(4)))
        assert set(users) == {f"user {number}" for number in range(50)}
        ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coatcheck'"
        assert int(server.by_hand(ours)) <= 4 + 2
        async with asyncio.timeout(10):
            while sessions.feed_failing or sessions.load_cached(tokens[0]) is None:
                await asyncio.sleep(0.01)
                await again(sessions, tokens[0])


async def test_a_frozen_server_gives_copies_their_lease_and_then_nobody_a_stale_yes(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres()
    url = await migrated(server.url(timeout=0.3, connect_timeout=0.3, probe_interval=0.05))
    async with Sessions(url, max_staleness=0.4) as sessions:
        _, token = await logged_in(sessions)
        assert sessions.load_cached(token) is not None
        server.freeze()
        frozen = time.monotonic()
        believed = 0
        while time.monotonic() < frozen + 1.2:
            session = sessions.load_cached(token)
            if session is not None:
                believed += 1
                assert time.monotonic() < frozen + 0.4 + 0.1, "a copy was believed beyond its lease"
            await asyncio.sleep(0.01)
        assert believed
        began = time.monotonic()
        results = await asyncio.gather(*(sessions.load(token) for _ in range(30)), return_exceptions=True)
        assert {type(result) for result in results} == {StoreUnavailable}
        assert time.monotonic() - began < 2
        assert sessions.feed_failing
        server.thaw()
        assert await again(sessions, token) == "user"


async def test_a_line_that_is_cut_without_a_word_is_noticed_by_the_clock_alone(
    postgres: PostgresServer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    async with Line(postgres.port) as line:
        url = f"postgresql://postgres@127.0.0.1:{line.port}/postgres?schema={schema}"
        options = "&timeout=0.3&connect_timeout=0.3&probe_interval=0.05"
        async with Sessions(url + options, max_staleness=0.4) as here, Sessions(postgres.url(schema=schema)) as there:
            session, token = await logged_in(here)
            _, other = await logged_in(here, "other")
            line.cut()
            cut = time.monotonic()
            assert await there.end(session.id or "")
            while here.load_cached(token) is not None:
                assert time.monotonic() < cut + 0.5
                await asyncio.sleep(0.005)
            with pytest.raises(StoreUnavailable, match="did not answer within"):
                await here.load(token)
            line.mend()
            assert await again(here, token) is None
            assert await again(here, other) == "other"


async def test_what_is_deleted_by_hand_is_refused_everywhere_at_once(postgres: PostgresServer, schema: str) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with Sessions(url) as one, Sessions(url) as two, connected(postgres, schema) as hand:
        for statement in ("DELETE FROM session", "TRUNCATE session", "TRUNCATE user_epoch", "DELETE FROM user_epoch"):
            _, token = await logged_in(one)
            for node in (one, two):
                await node.load(token)
                assert node.load_cached(token) is not None
            await hand.execute(statement)
            typed = time.monotonic()
            for node in (one, two):
                while node.load_cached(token) is not None:
                    assert time.monotonic() < typed + 1, statement
                    await asyncio.sleep(0.001)
                assert (await node.load(token)).user_id is None


async def test_a_backend_that_is_killed_under_a_write_leaves_it_open_whether_it_happened(
    postgres: PostgresServer, schema: str
) -> None:
    url = await migrated(postgres.url(schema=schema))
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        async with hand.transaction():
            await hand.execute("SELECT FROM session FOR UPDATE")
            ending = asyncio.ensure_future(store.end(["a"], reason="x", now=1.0))
            await waiting(postgres)
            reading = asyncio.ensure_future(store.read("a"))
            await hand.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'coatcheck' AND pid <> pg_backend_pid() AND query NOT LIKE 'LISTEN%'"
            )
            with pytest.raises(StoreUnavailable, match=r"cannot be reached: .*terminating connection"):
                await ending
            assert isinstance(await reading, SessionRecord)  # reading twice does no harm, so nobody hears of it
        assert isinstance(await store.read("a"), SessionRecord)
        assert await store.end(["a"], reason="x", now=1.0) == ["a"]


async def test_a_node_that_stops_in_the_middle_of_a_step_holds_others_up_no_longer_than_its_time_out(
    postgres: PostgresServer, pgbouncer: PgBouncer, schema: str
) -> None:
    await migrated(postgres.url(schema=schema))
    feed_url = f"//127.0.0.1:{postgres.port}"
    for url in (postgres.url(schema=schema), pgbouncer.url(schema=schema, feed_url=feed_url)):
        async with started(url, timeout=0.3) as stopped, started(url, timeout=5.0) as other:
            await other.create(record("a", user_id="user", epoch=await other.epoch("user")))
            link = await stopped._connect()

            async def stop_halfway(link=link, sql=stopped._sql) -> None:
                async with link.transaction(told=True):
                    await link.rows(sql.raise_epoch, "user", 1)
                    await asyncio.sleep(60)

            halfway = asyncio.ensure_future(stop_halfway())
            await asyncio.sleep(0.05)
            began = time.monotonic()
            assert await other.end_user("user", reason="x", now=1.0) == ["a"]
            assert time.monotonic() - began < 3
            halfway.cancel()
            await asyncio.gather(halfway, return_exceptions=True)
            link.terminate()
            postgres.by_hand(f"DELETE FROM {schema}.tombstone")


async def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(start_postgres: StartPostgres) -> None:
    """A limit on the size of files makes the operating system refuse what would make the table longer."""
    server = start_postgres(limit_file_size=17 * 2**20, max_wal_size="32MB")
    url = await migrated(server.url())
    async with started(url) as store:
        epoch = await store.epoch("user")
        made: list[str] = []

        async def fill() -> None:
            for number in range(100):
                values = {"k": os.urandom(700_000)}
                await store.create(record(f"s{number}", user_id="user", epoch=epoch, values=values))
                made.append(f"s{number}")

        with pytest.raises(StoreUnavailable, match=r"could not extend file|No space|File too large"):
            await fill()
        assert len(made) > 10
        assert len(await store.alive(made)) == len(made)
        assert await store.end(made[:2], reason="x", now=1.0) == made[:2]  # what needs no room works
        server.lift_limit()
        await store.create(record("after", values={"k": os.urandom(700_000)}))
        assert len(await store.alive([*made, "after"])) == len(made) - 1
        assert len(await store.end_user("user", reason="x", now=1.0)) == len(made) - 2


async def test_a_pooler_that_restarts_takes_no_copies_with_it(postgres: PostgresServer, schema: str) -> None:
    await migrated(postgres.url(schema=schema))
    bouncer = PgBouncer(postgres)
    try:
        feed_url = f"//127.0.0.1:{postgres.port}"
        async with started(bouncer.url(schema=schema, feed_url=feed_url), probe_interval=0.02) as store:
            await store.create(record("a"))
            stream = store.changes()
            changes: list[Change] = []
            await asyncio.to_thread(bouncer.restart)
            async with asyncio.timeout(10):
                while True:
                    with suppress(StoreUnavailable):
                        if await store.end(["a"], reason="x", now=1.0) == ["a"]:
                            break
            async with asyncio.timeout(10):
                while not changes:
                    with suppress(StoreUnavailable):
                        stream.poll(changes.append)
                    await asyncio.sleep(0.005)
            assert changes == [Change("ended", "a", reason="x")]
    finally:
        bouncer.close()
