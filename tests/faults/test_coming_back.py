"""The store is away, and comes back: copies inside their lease, then 503 with Retry-After, then service, and no stampede.

Through the middleware, on real servers; what the store is asked is counted where the manager asks it.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from coatcheck import Sessions, StoreUnavailable
from coatcheck.asgi import SessionMiddleware
from coatcheck.session import session_of
from coatcheck.stores.postgres import PostgresStore
from tests.clients.postgres_server import PostgresServer
from tests.clients.redis_server import RedisServer
from tests.core.asgi_client import Answer, call

STALE = 0.6
PEOPLE = 200
AT_ONCE = 5
"""Requests of each session at the same time, as a page makes them."""


class Away:
    """A store's server that can be killed and started again, and how many connections it has of ours."""

    def __init__(self, url: str, kill: Callable[[], None], start: Callable[[], None], links: Callable[[], int]) -> None:
        self.url, self.kill, self.start, self.links = url, kill, start, links


@pytest.fixture(params=["redis", "postgres"])
def away(request: pytest.FixtureRequest) -> Iterator[Away]:
    if request.param == "redis":
        with RedisServer(appendonly="yes", appendfsync="always") as redis:
            url = f"{redis.url}&timeout=1&connect_timeout=1&connections=4"
            yield Away(url, redis.kill, redis.start, lambda: redis.cli("CLIENT", "LIST").count("name=coatcheck"))
        return
    start_postgres: Callable[..., PostgresServer] = request.getfixturevalue("start_postgres")
    postgres = start_postgres(durable=True)
    url = postgres.url(timeout=1, connect_timeout=1, pool_size=4, probe_interval=0.1)
    asyncio.run(PostgresStore(url).migrate())
    ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coatcheck'"
    yield Away(url, postgres.crash, postgres.start, lambda: int(postgres.by_hand(ours)))


async def who(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the user's name."""
    body = (session_of(scope).user_id or "").encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def crowd(url: str) -> AsyncIterator[tuple[Sessions, Any, dict[str, bytes]]]:
    """An application with so many people logged in, each with a cookie and a copy in the cache."""
    sessions = Sessions(url, max_staleness=STALE)
    app = SessionMiddleware(who, sessions)
    cookies: dict[str, bytes] = {}
    async with sessions:
        for number in range(PEOPLE):
            session = await sessions.load(None)
            await session.log_in(f"user{number}")
            assert session.cookie_change is not None
            cookies[f"user{number}"] = f"__Host-session={session.cookie_change.token}".encode()
        yield sessions, app, cookies


def count_answers(sessions: Sessions) -> Counter[str]:
    """How often the store answers what is asked for a session, from now on."""
    answered: Counter[str] = Counter()
    store = sessions.store.inner
    real = store.read

    async def read(session_id: str) -> Any:
        found = await real(session_id)
        answered[session_id] += 1
        return found

    store.read = read
    return answered


async def test_copies_are_served_inside_the_lease_and_then_nobody_until_all_are_without_a_stampede(
    away: Away, record_property: Callable[[str, object], None]
) -> None:
    async with crowd(away.url) as (sessions, app, cookies):

        async def ask(user: str) -> Answer:
            answer = await call(app, "/", cookie=cookies[user])
            assert answer.status in (200, 503)
            if answer.status == 200:
                assert answer.body.decode() == user, "nobody else's, and not nobody's"
            else:
                assert int(answer.one(b"retry-after") or 0) >= 1
            return answer

        async def insist(user: str) -> float:
            while (await ask(user)).status != 200:
                await asyncio.sleep(0.02)
            return time.monotonic()

        assert (await ask("user0")).status == 200
        before = sessions.store.calls["read"]
        assert all([(await ask(user)).status == 200 for user in cookies])
        assert sessions.store.calls["read"] == before, "all are in the cache"

        answered = count_answers(sessions)
        killing = asyncio.ensure_future(asyncio.to_thread(away.kill))
        gone = time.monotonic() + 60.0
        served = 0
        while (asked := time.monotonic()) < gone + STALE + 0.3:
            if (await ask("user1")).status == 200:
                served += 1
                assert asked < gone + STALE, "a copy was served beyond its lease"
            if killing.done():
                gone = min(gone, time.monotonic())
            await asyncio.sleep(0.01)
        assert served > 3, "inside the lease it was served"
        with pytest.raises(StoreUnavailable):
            await (await sessions.load(None)).log_in("somebody")

        # All of them wait at the door, and knock again and again.
        waiting = [asyncio.ensure_future(insist(user)) for user in cookies for _ in range(AT_ONCE)]
        await asyncio.sleep(0.3)
        answered.clear()
        await asyncio.to_thread(away.start)
        back = time.monotonic()
        async with asyncio.timeout(10):
            served_at = await asyncio.gather(*waiting)
        figures = (
            f"{PEOPLE} sessions, {AT_ONCE} requests of each at once: all served {max(served_at) - back:.2f} s after the "
            f"store was back, {answered.total()} reads, {max(answered.values())} of one session at most"
        )
        print(figures)
        record_property("coming back", figures)
        assert PEOPLE <= answered.total() <= 2 * PEOPLE, "once each, and once more where the feed came back in between"
        assert max(answered.values()) <= 3
        assert await asyncio.to_thread(away.links) <= 4 + 3
        async with asyncio.timeout(10):
            while sessions.feed_failing or sessions.load_cached(cookies["user0"].partition(b"=")[2]) is None:
                await asyncio.sleep(0.02)
                await ask("user0")
        # From here on all is as it was: once everybody has a copy again, nobody is asked for.
        for user in cookies:
            await ask(user)
        before = sessions.store.calls["read"]
        assert all([(await ask(user)).status == 200 for user in cookies])
        assert sessions.store.calls["read"] == before
