"""The feed: cache first, then connections, then listeners; and a feed that fails never prolongs the lease."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from coatcheck.cache import NearCache
from coatcheck.connections import LiveConnections
from coatcheck.errors import StoreUnavailable
from coatcheck.feed import Feed
from coatcheck.record import SessionRecord
from coatcheck.stores.contract import Change
from coatcheck.testing import ManualClock

STALE = 2.0


class Stream:
    """A change stream whose every move the test makes."""

    def __init__(self) -> None:
        self.queue: list[Change] = []
        self.sent = float("-inf")
        self.failure: str | None = None
        self.fails_after: int | None = None
        self.waits = 0
        self.closed = False

    def behind(self) -> bool:
        return bool(self.queue)

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if self.failure is not None:
            raise StoreUnavailable(self.failure)
        while self.queue:
            if self.fails_after == 0:
                raise StoreUnavailable("cut in the middle")
            deliver(self.queue.pop(0))
            if self.fails_after is not None:
                self.fails_after -= 1

    def confirmed(self) -> float:
        return self.sent

    async def wait(self) -> None:
        self.waits += 1
        await asyncio.sleep(0)
        if self.failure is not None:
            raise StoreUnavailable(self.failure)

    async def aclose(self) -> None:
        self.closed = True


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.stream = Stream()
        self.cache = NearCache(max_entries=100, max_bytes=10**6, max_staleness=STALE, clock=self.clock)
        self.live = LiveConnections(self.clock)
        self.doubts: list[list[str]] = []
        self.closed: list[tuple[str, str]] = []
        self.feed = Feed(self.stream, self.cache, self.live, max_staleness=STALE, doubt=self.doubts.append)

    def keep(self, name: str, user: str | None = None) -> None:
        record = SessionRecord(id=name, secret_hash=b"", created_at=0.0, expires_at=9e9, last_seen_at=0.0, user_id=user)
        self.cache.finish(name, self.cache.begin(name), record)

    def connect(self, name: str, *, generation: int = 1, owner: str | None = None) -> None:
        self.live.add(
            name,
            generation=generation,
            owner=owner,
            kind="websocket",
            close=lambda reason: self.closed.append((name, reason)),
            deadline=9e9,
        )

    async def tell(self, *changes: Change) -> None:
        self.stream.queue += changes
        self.feed.poll()
        await asyncio.sleep(0)


# ---- order


async def test_whoever_is_told_finds_the_cache_and_the_connections_in_order_already() -> None:
    rig = Rig()
    rig.keep("a")
    rig.connect("a")
    seen: list[tuple[str, bool, bool]] = []
    rig.feed.listeners.append(
        lambda change: seen.append((change.kind, "a" in rig.cache.entries, bool(rig.live.of("a"))))
    )
    await rig.tell(Change("ended", "a", reason="logout"))
    assert seen == [("ended", False, False)]


async def test_a_connection_is_closed_when_the_cache_has_forgotten_already() -> None:
    rig = Rig()
    rig.keep("a")
    cached: list[bool] = []
    real = rig.live.close

    class Watching(LiveConnections):
        def close(self, session_id: str, reason: str) -> int:
            cached.append(session_id in rig.cache.entries)
            return real(session_id, reason)

    watching = Watching(rig.clock)
    feed = Feed(rig.stream, rig.cache, watching, max_staleness=STALE, doubt=rig.doubts.append)
    rig.stream.queue.append(Change("ended", "a"))
    feed.poll()
    assert cached == [False]


async def test_changes_are_told_to_every_listener_in_their_order() -> None:
    rig = Rig()
    one: list[str] = []
    two: list[str] = []
    rig.feed.listeners += [lambda change: one.append(change.id), lambda change: two.append(change.id)]
    await rig.tell(Change("ended", "a"), Change("changed", "b", 2, 1), Change("user", "c"))
    assert one == two == ["a", "b", "c"]


async def test_a_listener_that_fails_stops_neither_the_others_nor_the_feed(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.keep("b")
    told: list[str] = []

    def broken(change: Change) -> None:
        raise RuntimeError("Event loop is closed")

    rig.feed.listeners += [broken, lambda change: told.append(change.id)]
    rig.stream.sent = rig.clock.monotonic()
    await rig.tell(Change("ended", "a"), Change("ended", "b"))
    assert told == ["a", "b"]
    assert "b" not in rig.cache.entries
    assert rig.cache.lease_until == rig.clock.monotonic() + STALE
    assert "failed" in caplog.text


async def test_a_listener_may_leave_while_it_is_told() -> None:
    rig = Rig()
    told: list[str] = []

    def once(change: Change) -> None:
        told.append(change.id)
        rig.feed.listeners.remove(once)

    rig.feed.listeners += [once, lambda change: told.append(change.id)]
    await rig.tell(Change("ended", "a"), Change("ended", "b"))
    assert told == ["a", "a", "b"]


# ---- connections


async def test_an_end_closes_the_sessions_connections_with_its_reason() -> None:
    rig = Rig()
    rig.connect("a")
    rig.connect("b")
    await rig.tell(Change("ended", "a", reason="logout"))
    assert rig.closed == [("a", "logout")]
    assert rig.doubts == []


async def test_a_new_secret_closes_what_was_opened_under_the_old_one_and_a_mere_change_nothing() -> None:
    rig = Rig()
    rig.connect("a", generation=1)
    await rig.tell(Change("changed", "a", 5, 1))
    assert rig.closed == []
    await rig.tell(Change("changed", "a", 6, 2))
    assert [name for name, _ in rig.closed] == ["a"]


async def test_what_the_feed_cannot_tell_is_looked_up_again_and_only_that() -> None:
    rig = Rig()
    rig.connect("a", owner="one")
    rig.connect("b", owner="two")
    rig.connect("c")
    await rig.tell(Change("changed", "a"))
    await rig.tell(Change("changed", "unknown"))
    await rig.tell(Change("user", "two"))
    await rig.tell(Change("user", "nobody"))
    await rig.tell(Change("missed"))
    assert rig.doubts == [["a"], ["b"], ["a", "b", "c"]]
    assert rig.closed == []


# ---- the lease


async def test_the_lease_runs_from_the_sending_of_the_probe_that_came_back() -> None:
    rig = Rig()
    sent = rig.stream.sent = rig.clock.monotonic()
    rig.clock.advance(1.5)
    rig.feed.poll()
    assert rig.cache.lease_until == sent + STALE


async def test_polls_without_a_new_probe_do_not_prolong_the_lease() -> None:
    rig = Rig()
    rig.stream.sent = rig.clock.monotonic()
    rig.feed.poll()
    until = rig.cache.lease_until
    for _ in range(10):
        rig.clock.advance(1)
        rig.feed.poll()
    assert rig.cache.lease_until == until


async def test_before_the_first_probe_came_back_there_is_no_lease() -> None:
    rig = Rig()
    rig.feed.poll()
    rig.keep("a")
    assert rig.cache.lease_until == float("-inf")
    assert rig.cache.get("a") is None


async def test_a_poll_that_fails_never_prolongs_the_lease_and_never_raises() -> None:
    rig = Rig()
    rig.stream.sent = rig.clock.monotonic()
    rig.feed.poll()
    until = rig.cache.lease_until
    rig.clock.advance(1)
    rig.stream.sent = rig.clock.monotonic()
    rig.stream.failure = "the connection is gone"
    rig.feed.poll()
    assert rig.feed.failing
    assert rig.cache.lease_until == until
    rig.stream.failure = None
    rig.feed.poll()
    assert not rig.feed.failing
    assert rig.cache.lease_until == until + 1


async def test_a_poll_that_fails_half_way_keeps_what_it_was_told_and_prolongs_nothing() -> None:
    rig = Rig()
    rig.keep("a")
    rig.keep("b")
    rig.stream.sent = rig.clock.monotonic()
    rig.stream.queue = [Change("ended", "a"), Change("ended", "b")]
    rig.stream.fails_after = 1
    rig.feed.poll()
    assert sorted(rig.cache.entries) == ["b"]
    assert rig.cache.lease_until == float("-inf"), "b may be over for all that is known"
    rig.stream.fails_after = None
    rig.feed.poll()
    assert sorted(rig.cache.entries) == []
    assert rig.cache.lease_until > 0


async def test_a_failing_feed_is_logged_when_it_begins_and_when_it_is_over_and_not_between(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.stream.failure = "gone"
    with caplog.at_level(logging.WARNING, "coatcheck.feed"):
        for _ in range(5):
            rig.feed.poll()
        rig.stream.failure = None
        for _ in range(5):
            rig.feed.poll()
    assert [record.getMessage() for record in caplog.records] == [
        "the change feed cannot be read: gone",
        "the change feed is read again",
    ]


# ---- running


async def test_running_polls_until_it_is_cancelled_and_outlives_failures() -> None:
    rig = Rig()
    rig.keep("a")
    running = asyncio.create_task(rig.feed.run())
    rig.stream.failure = "gone"
    while not rig.feed.failing:
        await asyncio.sleep(0)
    rig.stream.failure = None
    rig.stream.queue.append(Change("ended", "a"))
    async with asyncio.timeout(5):
        while "a" in rig.cache.entries:
            await asyncio.sleep(0.001)
    assert not running.done()
    running.cancel()
    await asyncio.wait([running])
    await rig.feed.aclose()
    assert rig.stream.closed


async def test_behind_is_the_streams_own() -> None:
    rig = Rig()
    assert not rig.feed.behind()
    rig.stream.queue.append(Change("ended", "a"))
    assert rig.feed.behind()


async def test_a_feed_that_cannot_be_read_though_something_is_there_leaves_the_loop_to_others() -> None:
    polls = 0

    class Unreadable:
        def behind(self) -> bool:
            return True

        def poll(self, deliver: Any) -> None:
            nonlocal polls
            polls += 1
            raise StoreUnavailable("unreadable")

        def confirmed(self) -> float:
            return float("-inf")

        async def wait(self) -> None:
            await asyncio.sleep(0)

        async def aclose(self) -> None: ...

    clock = ManualClock()
    cache = NearCache(max_entries=1, max_bytes=1, max_staleness=2.0, clock=clock)
    feed = Feed(Unreadable(), cache, LiveConnections(clock), max_staleness=2.0, doubt=lambda ids: None)
    running = asyncio.create_task(feed.run())
    await asyncio.sleep(0.2)
    running.cancel()
    assert 1 <= polls <= 6, "every 50 ms, not as often as it can"
