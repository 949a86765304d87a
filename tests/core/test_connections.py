"""Live connections: found by session, closed once, each on its own loop, and looked at when their time has come."""

import asyncio
import threading
from collections.abc import Callable

import pytest

from coatcheck.connections import RESTART, LiveConnection, LiveConnections, Restart
from coatcheck.testing import ManualClock


class Rig:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.live = LiveConnections(self.clock)
        self.closed: list[tuple[str, str]] = []

    def add(
        self, name: str, session: str = "s", *, generation: int = 1, owner: str | None = None, deadline: float = 9e9
    ) -> LiveConnection:
        return self.live.add(
            session,
            generation=generation,
            owner=owner,
            kind="websocket",
            close=self._closer(name),
            deadline=deadline,
        )

    def _closer(self, name: str) -> Callable[[str], None]:
        return lambda reason: self.closed.append((name, reason))

    async def settle(self) -> list[tuple[str, str]]:
        await asyncio.sleep(0)
        return self.closed


async def test_closing_a_session_closes_all_of_its_connections_and_no_others() -> None:
    rig = Rig()
    for name in "abc":
        rig.add(name)
    rig.add("d", "other")
    assert len(rig.live) == 4
    assert rig.live.close("s", "logout") == 3
    assert await rig.settle() == [("a", "logout"), ("b", "logout"), ("c", "logout")]
    assert rig.live.sessions() == ["other"]
    assert rig.live.close("s", "again") == 0
    assert rig.live.close("unknown", "x") == 0


async def test_a_connection_is_closed_at_most_once() -> None:
    rig = Rig()
    connection = rig.add("a")
    connection.close("first")
    connection.close("second")
    rig.live.close("s", "third")
    assert await rig.settle() == [("a", "first")]


async def test_a_connection_that_closed_by_itself_is_forgotten_and_not_closed_again() -> None:
    rig = Rig()
    one, two = rig.add("a"), rig.add("b")
    rig.live.remove(one)
    rig.live.remove(one)
    assert rig.live.of("s") == [two]
    rig.live.close("s", "logout")
    assert await rig.settle() == [("b", "logout")]
    rig.live.remove(two)
    assert len(rig.live) == 0


async def test_the_last_connection_to_go_takes_its_session_with_it() -> None:
    rig = Rig()
    rig.live.remove(rig.add("a"))
    assert rig.live.sessions() == []
    assert rig.live.of("s") == []


async def test_only_connections_of_an_older_secret_are_closed_when_it_changes() -> None:
    rig = Rig()
    rig.add("old", generation=1)
    rig.add("older", generation=0)
    kept = rig.add("new", generation=2)
    assert rig.live.close_older("s", 2, "rotated") == 2
    assert sorted(await rig.settle()) == [("old", "rotated"), ("older", "rotated")]
    assert rig.live.of("s") == [kept]
    assert rig.live.close_older("unknown", 2, "rotated") == 0


async def test_sessions_are_found_by_their_owner() -> None:
    rig = Rig()
    rig.add("a", "one", owner="user")
    rig.add("b", "two", owner="user")
    rig.add("c", "three", owner="else")
    rig.add("d", "four")
    assert rig.live.sessions() == ["one", "two", "three", "four"]
    assert rig.live.sessions(owner="user") == ["one", "two"]
    assert rig.live.sessions(owner="nobody") == []


async def test_all_sessions_or_the_named_ones_are_closed() -> None:
    rig = Rig()
    for name in "abc":
        rig.add(name, name)
    rig.live.close_all("bye", ["a", "unknown"])
    assert await rig.settle() == [("a", "bye")]
    rig.live.close_all("bye")
    assert len(await rig.settle()) == 3
    assert len(rig.live) == 0


async def test_a_session_is_due_when_its_deadline_has_come_and_only_once() -> None:
    rig = Rig()
    now = rig.clock.time()
    rig.add("a", "one", deadline=now + 10)
    rig.add("b", "two", deadline=now + 5)
    assert rig.live.due(now + 4.999) == []
    assert rig.live.due(now + 5) == ["two"]
    assert rig.live.due(now + 5) == []
    assert rig.live.due(now + 100) == ["one"]


async def test_many_connections_of_one_session_are_looked_at_together() -> None:
    rig = Rig()
    now = rig.clock.time()
    for _ in range(10):
        rig.add("x", deadline=now + 1)
    assert rig.live.due(now + 1) == ["s"]


async def test_a_session_without_connections_is_never_due() -> None:
    rig = Rig()
    now = rig.clock.time()
    connection = rig.add("a", deadline=now + 1)
    rig.live.remove(connection)
    assert rig.live.due(now + 2) == []


async def test_a_deadline_may_be_set_again() -> None:
    rig = Rig()
    now = rig.clock.time()
    rig.add("a", deadline=now + 1)
    assert rig.live.due(now + 1) == ["s"]
    rig.live.set_deadline("s", now + 3)
    assert rig.live.due(now + 2) == []
    assert rig.live.due(now + 3) == ["s"]


async def test_connections_that_come_and_go_leave_no_deadlines_behind() -> None:
    rig = Rig()
    rig.add("stays", "stays", deadline=9e9)
    for number in range(10_000):
        rig.live.remove(rig.add("x", f"session {number % 7}", deadline=9e9))
    assert len(rig.live._deadlines) < 1000
    assert rig.live.due(9e9) == ["stays"]


async def test_a_connection_is_closed_on_its_own_loop_from_any_thread() -> None:
    rig = Rig()
    seen: list[int] = []
    done = asyncio.Event()

    def close(reason: str) -> None:
        seen.append(threading.get_ident())
        done.set()

    rig.live.add("s", generation=1, owner=None, kind="websocket", close=close, deadline=9e9)
    await asyncio.to_thread(rig.live.close, "s", "logout")
    await asyncio.wait_for(done.wait(), 5)
    assert seen == [threading.get_ident()]


def test_a_connection_whose_loop_is_gone_is_let_go() -> None:
    rig = Rig()

    async def connect() -> None:
        rig.add("a")

    asyncio.run(connect())
    assert rig.live.close("s", "logout") == 1
    assert rig.closed == []


async def test_a_connection_remembers_what_it_is() -> None:
    rig = Rig()
    connection = rig.add("a", generation=3, owner="user")
    assert (connection.session_id, connection.generation, connection.owner, connection.kind) == (
        "s",
        3,
        "user",
        "websocket",
    )
    assert connection.opened_at == rig.clock.time()


@pytest.mark.parametrize("count", [5000])
async def test_closing_many_is_one_pass(count: int) -> None:
    rig = Rig()
    for number in range(count):
        rig.add(str(number))
    assert rig.live.close("s", "logout") == count
    assert len(await rig.settle()) == count


async def test_a_node_that_leaves_says_so_to_all_and_to_who_comes_late() -> None:
    rig = Rig()
    rig.add("a")
    rig.add("b", "other")
    rig.live.leave()
    rig.add("late")
    assert len(rig.live) == 0
    assert await rig.settle() == [("a", RESTART), ("b", RESTART), ("late", RESTART)]
    assert all(isinstance(reason, Restart) for _, reason in rig.closed)
