"""Redis dies, stops, falls silent, forgets and fills up: nobody is let in who must not be, and service comes back by itself.

Two nodes on one Redis, as two processes would be: each with connections, a feed and a cache of its own.
"""

import asyncio
import resource
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from coatcheck import Session, Sessions, StoreUnavailable
from coatcheck.stores._redis_keys import Keys
from coatcheck.stores.redis import RedisStore
from tests.clients.redis_server import RedisServer
from tests.clients.silent_proxy import SilentProxy

STALE = 0.6
"""Shorter than the two seconds of the default, so that what takes a lease takes no time here. Nothing else is special."""


@asynccontextmanager
async def nodes(*urls: str, prefix: str | None = None) -> AsyncIterator[list[Sessions]]:
    prefix = prefix or secrets.token_hex(4)
    made = [
        Sessions(RedisStore(url, prefix=prefix, timeout=0.5, connect_timeout=0.5), max_staleness=STALE) for url in urls
    ]
    try:
        for sessions in made:
            await sessions.start()
        yield made
    finally:
        for sessions in made:
            await sessions.close()


async def log_in(sessions: Sessions, user: str = "ann") -> tuple[Session, bytes]:
    session = await sessions.load(None)
    await session.log_in(user)
    assert session.cookie_change is not None
    assert session.cookie_change.token is not None
    return session, session.cookie_change.token.encode()


async def is_in(sessions: Sessions, token: bytes) -> bool:
    return (await sessions.load(token)).is_authenticated


async def believed(sessions: Sessions, token: bytes, *, since: float) -> None:
    """Come again until a token is refused. Copies may be believed under the lease of the last probe, and no longer."""
    while await is_in(sessions, token):
        assert time.monotonic() - since < STALE + 0.1, "a copy was believed longer than was promised"
        await asyncio.sleep(0.002)


async def until(true: Callable[[], Awaitable[bool]], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while True:
            try:
                if await true():
                    return
            except StoreUnavailable:
                pass
            await asyncio.sleep(0.01)


async def test_when_redis_is_killed_copies_are_believed_for_a_while_then_nobody_is_let_in_and_then_all_is_well() -> (
    None
):
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        async with nodes(server.url, server.url) as (one, two):
            (_, token), (gone, gone_token) = await log_in(one), await log_in(one, "bob")
            assert await is_in(two, token)
            assert await is_in(two, gone_token)
            assert gone.id is not None
            await one.end(gone.id)
            server.kill(signal.SIGKILL)
            with pytest.raises(StoreUnavailable) as refused:
                await believed(two, token, since=time.monotonic())
            assert refused.value.retry_after >= 1
            with pytest.raises(StoreUnavailable):
                await is_in(two, gone_token)
            server.start()
            await until(lambda: is_in(two, token))
            assert not await is_in(two, gone_token), "an end that was acknowledged holds"
            await until(lambda: warm(two, token))
            ended = await one.load(token)
            await ended.log_out()
            await until(lambda: is_out(two, token))


async def warm(sessions: Sessions, token: bytes) -> bool:
    await sessions.load(token)
    return sessions.load_cached(token) is not None


async def is_out(sessions: Sessions, token: bytes) -> bool:
    return not await is_in(sessions, token)


async def test_what_redis_forgot_by_dying_is_forgotten_here_too() -> None:
    with RedisServer() as server:
        async with nodes(server.url, server.url) as (one, two):
            _, token = await log_in(one)
            assert await is_in(two, token)
            server.kill(signal.SIGKILL)
            server.start()
            await until(lambda: is_out(two, token))
            assert await one.list_user("ann") == []
            _, again = await log_in(two)
            assert await is_in(one, again)


async def test_a_line_that_falls_silent_costs_no_more_than_the_lease(free_running: RedisServer) -> None:
    """Cut without FIN: connections stay open, PING would wait for ever, and no change comes through."""
    async with SilentProxy(free_running.port) as proxy:
        async with nodes(free_running.url, f"redis://127.0.0.1:{proxy.port}/0?durability=any") as (one, two):
            session, token = await log_in(one)
            assert await is_in(two, token)
            assert session.id is not None
            proxy.be_silent()
            await one.end(session.id)
            with pytest.raises(StoreUnavailable):
                await believed(two, token, since=time.monotonic())
            proxy.be_silent(False)
            await until(lambda: is_out(two, token))
            _, again = await log_in(one)
            await until(lambda: warm(two, again))


@pytest.mark.parametrize("name", ["coatcheck-tracking", "coatcheck-told"])
async def test_a_feed_whose_connection_is_killed_alone_lets_nobody_in_by_it(
    free_running: RedisServer, name: str
) -> None:
    async with nodes(free_running.url, free_running.url) as (one, two):
        for _ in range(5):
            session, token = await log_in(one)
            assert await is_in(two, token)
            for line in free_running.cli("CLIENT", "LIST").splitlines():
                if f"name={name}" in line:
                    free_running.cli("CLIENT", "KILL", "ID", line.split()[0].removeprefix("id="))
            assert session.id is not None
            await one.end(session.id)
            await believed(two, token, since=time.monotonic())
        _, again = await log_in(one)
        await until(lambda: warm(two, again))


async def test_a_flush_and_a_del_by_hand_log_out_at_once(free_running: RedisServer) -> None:
    prefix = secrets.token_hex(4)
    async with nodes(free_running.url, free_running.url, prefix=prefix) as (one, two):
        (by_del, del_token), (_, flush_token) = await log_in(one), await log_in(one)
        closed: list[str] = []
        for token in (del_token, flush_token):
            session = await two.load(token)
            assert session.record is not None
            two.watch(session.record, kind="test", close=closed.append)
        for command in (("DEL", Keys(prefix).record(by_del.id or "")), ("FLUSHALL",)):
            before = len(closed)
            free_running.cli(*command)
            typed = time.monotonic()
            token = del_token if command[0] == "DEL" else flush_token
            while two.load_cached(token) is not None:
                assert time.monotonic() - typed < 0.3
                await asyncio.sleep(0.001)
            assert not await is_in(two, token)
            async with asyncio.timeout(2):
                while len(closed) == before:
                    await asyncio.sleep(0.005)
        assert closed == ["the session has ended"] * 2


async def test_a_full_disk_takes_no_logins_and_loses_none() -> None:
    """A limit on file size makes the operating system refuse what Redis appends; it then refuses writes, and serves reads."""
    with RedisServer(appendonly="yes", appendfsync="everysec") as server:
        async with nodes(server.url, server.url) as (one, two):
            session, token = await log_in(one)
            saved = ["none"]
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
            with pytest.raises(StoreUnavailable):
                await save_on(session, saved)
            assert len(saved) > 3
            found = await two.load(token)
            assert found.get("big") in (saved[-1], session["big"]), "the last may have been written or not"
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await until(lambda: save_once(one, token))
            assert await is_in(two, token)


async def save_on(session: Session, saved: list[str]) -> None:
    for number in range(200):
        session["big"] = f"{number}" + "x" * 300_000
        await session.save()
        saved.append(session["big"])


async def save_once(sessions: Sessions, token: bytes) -> bool:
    session = await sessions.load(token)
    session["after"] = True
    await session.save()
    return True


@pytest.fixture(scope="module")
def free_running() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
