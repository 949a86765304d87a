"""PostgreSQL frozen for ten seconds under load, and failed over to a standby: what takes too long for the faults tier."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from coatcheck import Sessions
from coatcheck.errors import StoreUnavailable
from tests.clients.postgres_server import PostgresServer
from tests.faults.test_postgres import again, logged_in, survive_a_crash
from tests.stores.postgres_nodes import migrated

StartPostgres = Callable[..., PostgresServer]


async def test_ten_seconds_of_silence_end_in_service_and_nobody_who_logged_out_before_is_let_in(
    start_postgres: StartPostgres,
) -> None:
    server = start_postgres()
    url = await migrated(server.url())
    async with Sessions(url) as one, Sessions(url) as two:
        tokens = [(await logged_in(one, f"user {number}"))[1] for number in range(40)]
        gone = set(tokens[::2])
        for token in gone:
            assert await one.end(token[:22].decode())
        ended = time.monotonic()
        allowed = refused = unavailable = 0
        stop = asyncio.Event()

        async def ask(node: Sessions, some: list[bytes]) -> None:
            nonlocal allowed, refused, unavailable
            while not stop.is_set():
                for token in some:
                    asked = time.monotonic()
                    try:
                        user = (await node.load(token)).user_id
                    except StoreUnavailable:
                        unavailable += 1
                    else:
                        assert user is None or token not in gone or asked < ended + 0.05
                        allowed += user is not None
                        refused += user is None
                await asyncio.sleep(0.01)

        asking = [asyncio.ensure_future(ask(node, tokens[n::4])) for node in (one, two) for n in range(4)]
        await asyncio.sleep(0.5)
        server.freeze()
        await asyncio.sleep(10)
        before = (allowed, refused)
        server.thaw()
        await asyncio.sleep(4)
        stop.set()
        await asyncio.gather(*asking)
        assert unavailable > 0
        assert allowed > before[0] + 100
        assert refused > before[1] + 100
        for node in (one, two):
            assert not node.feed_failing
            for number, token in enumerate(tokens):
                assert await again(node, token) == (None if token in gone else f"user {number}")


async def test_what_was_acknowledged_survives_kill_9_of_the_server_behind_pgbouncer(
    start_postgres: StartPostgres,
) -> None:
    await survive_a_crash(start_postgres, pooled=True)


async def test_after_a_failover_sessions_are_where_the_new_primary_has_them_and_ended_ones_stay_ended(
    start_postgres: StartPostgres,
) -> None:
    """With synchronous replication, which is what keeps an end over a fail-over."""
    primary = start_postgres(wal_level="replica", max_wal_senders="4", hot_standby="on")
    standby = start_postgres(follows=primary)
    primary.by_hand("ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
    hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    url = await migrated(f"postgresql://postgres@{hosts}/postgres?connect_timeout=1")
    async with Sessions(url) as one, Sessions(url) as two:
        tokens = [(await logged_in(one, f"user {number}"))[1] for number in range(30)]
        for token in tokens:
            assert (await two.load(token)).user_id
        gone: list[bytes] = []

        async def log_out() -> None:
            for token in tokens[:20]:
                await one.end(token[:22].decode())
                gone.append(token)
                await asyncio.sleep(0.005)

        leaving = asyncio.ensure_future(log_out())
        while len(gone) < 5:
            await asyncio.sleep(0.001)
        await asyncio.to_thread(primary.crash)
        with suppress(StoreUnavailable):
            await leaving
        await asyncio.to_thread(standby.promote)
        for node in (two, one):
            for token in gone:
                assert await again(node, token, 30) is None
            for number in range(20, 30):
                assert await again(node, tokens[number], 30) == f"user {number}"
        # And the feed is the new primary's.
        _, token = await logged_in(one)
        assert await again(two, token) == "user"
        async with asyncio.timeout(10):
            while two.load_cached(token) is None:
                await again(two, token)
                await asyncio.sleep(0.01)
        await one.end(token[:22].decode())
        ended = time.monotonic()
        while two.load_cached(token) is not None:
            assert time.monotonic() < ended + 0.5
            await asyncio.sleep(0.001)
