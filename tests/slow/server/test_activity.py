"""What followers are told: everything once, in one order over all nodes, from any place; and what it costs."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from coatcheck import Sessions
from coatcheck.accounts import AccountsUnavailable
from coatcheck.accounts.activity import WINDOW, ActivityLog
from coatcheck.accounts.database import Database
from coatcheck.server.activity import (
    Activity,
    Begin,
    Happening,
    Heartbeat,
    Kind,
    Reset,
    Told,
    following,
    sources,
    writing,
)
from coatcheck.stores.sqlite import SQLiteStore
from tests.core.server.house import PASSWORD, House, bearer, log_in_for_tokens, session_id

ADA, BOB = "A" * 22, "B" * 22
SESSION = "s" * 22


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL", 0.01)
    monkeypatch.setattr(following, "_AGAIN", 0.01)
    monkeypatch.setattr(writing, "_AGAIN", 0.01)
    monkeypatch.setattr(sources, "HEARD", 0.02)


@asynccontextmanager
async def two_nodes(path: Path) -> AsyncIterator[tuple[House, House]]:
    """Two workers of one server, or two machines: what they share is on the disk."""
    async with House(path) as here, House(path) as there:
        yield here, there


async def take(told: AsyncGenerator[Told, None], number: int) -> list[Told]:
    async with asyncio.timeout(10):
        return [await anext(told) for _ in range(number)]


async def happenings(told: AsyncGenerator[Told, None], number: int) -> list[Happening]:
    """The next so many, whatever heartbeats come between."""
    found: list[Happening] = []
    while len(found) < number:
        (each,) = await take(told, 1)
        if isinstance(each, Happening):
            found.append(each)
        else:
            assert isinstance(each, Begin | Heartbeat), each
    return found


def record(house: House, kind: Kind, mark: object, user_id: str = ADA) -> None:
    house.activity.record(kind, SESSION, user_id=user_id, detail={"mark": str(mark)})


def marks(told: Sequence[Told]) -> list[str]:
    return [each.detail["mark"] for each in told if isinstance(each, Happening)]


async def test_everything_is_told_once_in_one_order_on_every_node(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (here, there):
        async with aclosing(here.activity.follow(ADA)) as at_home, aclosing(there.activity.follow(ADA)) as away:
            await take(at_home, 1)
            await take(away, 1)
            for number in range(10):
                for house in (here, there):
                    record(house, "opened", number)
                    record(house, "opened", number, BOB)
                if number % 3 == 0:
                    await here.activity.flush()
            first, second = await happenings(at_home, 20), await happenings(away, 20)
        assert first == second
        assert sorted(marks(first)) == sorted(str(number) for number in range(10) for _ in "ab")
        assert len({each.id for each in first}) == 20


async def test_what_one_node_has_written_before_another_begins_to_is_told_before_it(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (here, there):
        async with aclosing(here.activity.follow(ADA)) as told:
            await take(told, 1)
            for number in range(6):
                house = (here, there)[number % 2]
                record(house, "opened", number)
                await house.activity.flush()
            assert marks(await happenings(told, 6)) == ["0", "1", "2", "3", "4", "5"]


async def test_whoever_resumes_on_another_worker_goes_on_where_it_was(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (here, there):
        async with aclosing(here.activity.follow(ADA)) as told:
            for number in range(4):
                record(here, "opened", number)
            last = (await happenings(told, 2))[-1]
        record(there, "opened", 4)
        await there.activity.flush()
        for house in (there, here, there):
            async with aclosing(house.activity.follow(ADA, after=last.id)) as told:
                assert await take(told, 1) == [Begin(id=last.id)]
                assert marks(await happenings(told, 3)) == ["2", "3", "4"]


async def test_a_place_that_another_worker_gave_a_moment_ago_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL", 60.0)
    async with two_nodes(tmp_path) as (here, there):
        async with aclosing(there.activity.follow(BOB)) as watching, aclosing(here.activity.follow(ADA)) as told:
            await take(watching, 1)  # so that this node thinks that it knows where the log ends
            record(here, "opened", "x")
            (last,) = await happenings(told, 1)
            async with aclosing(there.activity.follow(ADA, after=last.id)) as resumed:
                assert await take(resumed, 1) == [Begin(id=last.id)]


@pytest.mark.parametrize("place", ["another user's", "another database's", "", "x" * 22, "ä" * 22, "x" * 5000, "====="])
async def test_what_is_no_place_of_this_users_gives_a_reset_and_then_all_that_follows(
    tmp_path: Path, place: str
) -> None:
    async with House(tmp_path) as house:
        record(house, "opened", "secret", BOB)
        if place == "another user's":
            async with aclosing(house.activity.follow(BOB)) as told:
                place = (await take(told, 1))[0].id
        elif place == "another database's":
            (tmp_path / "other").mkdir()
            async with House(tmp_path / "other") as other:
                await other.accounts.database.run(_new_key)
                async with aclosing(other.activity.follow(ADA)) as told:
                    place = (await take(told, 1))[0].id
        async with aclosing(house.activity.follow(ADA, after=place)) as told:
            (reset,) = await take(told, 1)
            assert isinstance(reset, Reset)
            record(house, "opened", "mine")
            assert marks(await happenings(told, 1)) == ["mine"]


async def _new_key(connection: Any) -> None:
    await connection.exec_driver_sql("UPDATE coatcheck_activity_place SET cipher_key = zeroblob(16)")


async def test_a_place_says_nothing_about_how_much_happens(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        seen: set[str] = set()
        for _ in range(3):
            async with aclosing(house.activity.follow(ADA)) as told:
                seen.add((await take(told, 1))[0].id)
            record(house, "opened", "x", BOB)
            await house.activity.flush()
        first, second, third = sorted(seen)
        assert {len(each) for each in seen} == {22}
        # Ids of neighbouring numbers have no more in common than chance has it.
        assert sum(a == b == c for a, b, c in zip(first, second, third, strict=True)) < 5


async def test_a_place_from_before_the_window_gives_a_reset(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as told:
            place = (await take(told, 1))[0].id
        record(house, "opened", "too long ago")
        await house.activity.flush()
        house.clock.advance(WINDOW + 1)
        running = asyncio.ensure_future(house.activity.run())
        async with asyncio.timeout(10):
            while not (await house.activity._log.place()).pruned:
                await asyncio.sleep(0.001)
        running.cancel()
        async with aclosing(house.activity.follow(ADA, after=place)) as told:
            (reset,) = await take(told, 1)
            assert isinstance(reset, Reset)
            record(house, "opened", "after it")
            assert marks(await happenings(told, 1)) == ["after it"]
        async with aclosing(house.activity.follow(ADA, after=reset.id)) as told:
            assert await take(told, 1) == [Begin(id=reset.id)]
            assert marks(await happenings(told, 1)) == ["after it"]


async def test_a_silent_users_place_moves_on_so_that_they_can_always_resume(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA, heartbeat=0.02)) as told:
            (begin,) = await take(told, 1)
            record(house, "opened", "not hers", BOB)
            await house.activity.flush()
            beats = {each.id for each in await take(told, 3)}
            assert beats
            (last,) = await take(told, 1)
        assert isinstance(last, Heartbeat)
        house.clock.advance(WINDOW + 1)
        assert await house.activity._log.prune(house.clock.time()) == 1
        for place, expected in ((last, Begin), (begin, Reset)):
            async with aclosing(house.activity.follow(ADA, after=place.id)) as told:
                assert isinstance((await take(told, 1))[0], expected)


async def test_what_a_node_had_to_drop_makes_everybody_look_everything_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "QUEUE", 5)
    async with two_nodes(tmp_path) as (here, there):
        async with aclosing(here.activity.follow(ADA)) as at_home, aclosing(there.activity.follow(ADA)) as away:
            await take(at_home, 1)
            await take(away, 1)
            for number in range(6):
                record(here, "opened", number)
            record(here, "created", "still has room")
            for told in (at_home, away):
                while not isinstance((await take(told, 1))[0], Reset):
                    pass
            record(here, "opened", "after")
            for told in (at_home, away):
                assert marks(await happenings(told, 1)) == ["after"]
        kept = [each.detail["mark"] for each in (await here.activity._log.read(0, limit=99)).entries]
        assert kept == ["0", "1", "2", "3", "4", "still has room", "after"]


async def test_a_log_that_went_back_as_after_a_fail_over_makes_everybody_look_everything_up(tmp_path: Path) -> None:
    async def go_back(connection: Any) -> None:
        await connection.exec_driver_sql("DELETE FROM coatcheck_activity")
        await connection.exec_driver_sql("UPDATE coatcheck_activity_place SET last = 1")

    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as told, aclosing(house.activity.follow(ADA)) as behind:
            await take(told, 1)
            await take(behind, 1)
            for number in range(30):
                record(house, "opened", number)
            last = (await happenings(told, 30))[-1]
            await house.accounts.database.run(go_back)
            for each in (told, behind):
                while not isinstance((await take(each, 1))[0], Reset):
                    pass
            record(house, "opened", "after")
            for each in (told, behind):
                assert marks(await happenings(each, 1)) == ["after"]
        async with aclosing(house.activity.follow(ADA, after=last.id)) as told:
            assert isinstance((await take(told, 1))[0], Reset)


async def test_thousands_who_come_back_at_once_leave_the_database_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way = most = 0
    read = ActivityLog.read

    async def watched(*arguments: Any, **keywords: Any) -> Any:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            return await read(*arguments, **keywords)
        finally:
            under_way -= 1

    async with House(tmp_path) as house, contextlib.AsyncExitStack() as exits:
        async with aclosing(house.activity.follow(ADA)) as told:
            (begin,) = await take(told, 1)
        record(house, "opened", "x")
        await house.activity.flush()
        monkeypatch.setattr(ActivityLog, "read", watched)
        many = [
            await exits.enter_async_context(aclosing(house.activity.follow(ADA, after=begin.id))) for _ in range(200)
        ]
        found = await asyncio.gather(*(happenings(told, 1) for told in many))
        assert all(marks(each) == ["x"] for each in found)
        assert most <= 3  # two of them, and the one that is for all


async def test_a_follower_that_does_not_read_costs_nothing_and_misses_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as slow, aclosing(house.activity.follow(ADA)) as quick:
            await take(slow, 1)
            await take(quick, 1)
            expected: list[str] = []
            for number in range(10):
                for part in range(60):
                    expected.append(f"{number}.{part}")
                    record(house, "opened", expected[-1])
                await happenings(quick, 60)
            (tail,) = house.activity._following._tails.values()
            assert len(tail.entries) <= following._KEPT
            assert marks(await happenings(slow, 600)) == expected


async def test_a_follower_that_did_not_read_for_longer_than_the_window_is_told_to_look_everything_up(
    tmp_path: Path,
) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as slow, aclosing(house.activity.follow(ADA)) as quick:
            await take(slow, 1)
            for number in range(150):
                record(house, "opened", number)
            await happenings(quick, 150)
            house.clock.advance(WINDOW + 1)
            assert await house.activity._log.prune(house.clock.time()) == 150
            assert isinstance((await take(slow, 1))[0], Reset)
            record(house, "opened", "after")
            assert marks(await happenings(slow, 1)) == marks(await happenings(quick, 1)) == ["after"]


async def test_a_follower_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        hub = house.activity._following

        async def wait_for_more() -> None:
            async with aclosing(house.activity.follow(ADA)) as told:
                async for _ in told:
                    pass

        several = [asyncio.ensure_future(wait_for_more()) for _ in range(3)]
        while house.activity.followers < 3 or not all(tail.waiting for tail in hub._tails.values()):
            await asyncio.sleep(0)
        for task in several[:2]:
            task.cancel()
            await asyncio.wait((task,))
        assert house.activity.followers == 1
        several[2].cancel()
        await asyncio.wait((several[2],))
        assert house.activity.followers == 0
        assert hub._tails == {}
        while hub._watching is not None:  # it finds out at its next look
            await asyncio.sleep(0.001)


async def test_a_thousand_followers_are_one_query_and_none_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL", 60.0)
    reads = Counter(monkeypatch, ActivityLog, "read")
    places = Counter(monkeypatch, ActivityLog, "place")
    async with House(tmp_path) as house, contextlib.AsyncExitStack() as exits:
        users = [f"{number:022}" for number in range(100)]
        record(house, "opened", "before anybody follows")
        await house.activity.flush()
        assert (reads.count, places.count) == (0, 0)
        followers = [
            await exits.enter_async_context(aclosing(house.activity.follow(user))) for user in users for _ in range(10)
        ]
        await asyncio.gather(*(take(told, 1) for told in followers))
        assert (reads.count, places.count) == (0, 1)
        waiting = [asyncio.ensure_future(happenings(told, 1)) for told in followers]
        for user in users:
            record(house, "opened", user, user)
        told = await asyncio.gather(*waiting)
        assert [marks(each) for each in told] == [[user] for user in users for _ in range(10)]
        assert reads.count == 1


class Counter:
    """Counts the calls of a method, which goes on doing what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.count = 0
        inner = getattr(owner, name)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.count += 1
            return inner(*arguments, **keywords)

        monkeypatch.setattr(owner, name, counted)


async def test_ten_thousand_things_at_once_are_few_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended = Counter(monkeypatch, ActivityLog, "append")
    async with House(tmp_path) as house:
        for number in range(10_000):
            record(house, "opened", number)
        assert appended.count == 0  # nobody has waited for anything yet
        await house.activity.flush()
        assert appended.count == 20


async def test_what_cannot_be_written_at_all_is_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as told:
            await take(told, 1)
            with monkeypatch.context() as broken:
                broken.setattr(ActivityLog, "append", fail)
                record(house, "opened", "lost")
                while "a fault of ours" not in caplog.text:
                    await asyncio.sleep(0.001)
            assert isinstance((await take(told, 1))[0], Reset)
            record(house, "opened", "after")
            assert marks(await happenings(told, 1)) == ["after"]


async def test_a_database_that_is_away_loses_nothing_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA, heartbeat=0.02)) as told:
            await take(told, 1)
            with monkeypatch.context() as away:
                away.setattr(Database, "run", _unavailable)
                record(house, "opened", "kept")
                assert all(isinstance(each, Heartbeat) for each in await take(told, 3))
            assert marks(await happenings(told, 1)) == ["kept"]
        while house.activity._following._watching is not None:
            await asyncio.sleep(0.001)
        with monkeypatch.context() as away:
            away.setattr(Database, "run", _unavailable)
            with pytest.raises(AccountsUnavailable):
                await anext(house.activity.follow(BOB))
        assert house.activity.followers == 0
        assert sum("cannot be written down" in each.message for each in caplog.records) == 1


async def _unavailable(*_: object) -> None:
    raise AccountsUnavailable("The accounts' database cannot be asked: SQLITE_BUSY.")


async def test_a_worker_that_leaves_tells_all_that_it_knows_and_then_no_more(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        async with aclosing(house.activity.follow(ADA)) as told, aclosing(house.activity.follow(BOB)) as waiting:
            await take(told, 1)
            await take(waiting, 1)
            over = asyncio.ensure_future(anext(waiting, None))
            record(house, "opened", "x")
            record(house, "opened", "y")
            (first,) = await happenings(told, 1)
            house.worker.leave()
            assert await over is None
            assert marks([first, *[each async for each in told]]) == ["x", "y"]
        async with aclosing(house.activity.follow(ADA)) as told:
            assert [type(each) async for each in told] == [Begin]


async def test_what_was_recorded_is_written_down_before_the_worker_ends(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        record(house, "opened", "x")
    async with House(tmp_path) as house:
        assert [each.detail["mark"] for each in (await house.activity._log.read(0, limit=9)).entries] == ["x"]


async def test_a_login_and_all_that_follows_is_told_with_its_reasons(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada")
        async with aclosing(house.activity.follow(ada)) as told:
            await take(told, 1)
            client = await house.log_in("ada", headers={"user-agent": "Firefox \x1b[2J" + "x" * 400})
            other = await house.log_in("ada")
            sid, other_sid = await session_id(client), await session_id(other)
            await client.post("/v1/reauthenticate", json={"password": PASSWORD})
            await client.post("/v1/me/password", json={"current_password": PASSWORD, "new_password": "new horse"})
            await client.post("/v1/logout")
            found = await happenings(told, 7)
        assert [(each.kind, each.session_id) for each in found] == [
            ("created", sid),
            ("created", other_sid),
            ("reauthenticated", sid),
            ("password_changed", sid),
            ("ended", other_sid),
            ("reauthenticated", sid),
            ("ended", sid),
        ]
        assert found[0].at == house.clock.time()
        assert {**found[0].detail, "user_agent": ""} == {
            "address": "192.0.2.7", "kind": "cookie", "method": "password", "user_agent": "",
        }  # fmt: skip
        assert found[0].detail["user_agent"].startswith(r"Firefox \x1b[2Jxxx")
        assert len(found[0].detail["user_agent"]) == 300
        assert [each.detail.get("reason") for each in found if each.kind == "ended"] == ["password changed", "logout"]
        assert found[3].detail == {"address": "192.0.2.7"}


async def test_tokens_are_told_when_they_are_exchanged_and_when_one_was_stolen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada")
        async with aclosing(house.activity.follow(ada)) as told, house.client() as client:
            await take(told, 1)
            stolen = (await log_in_for_tokens(client, "ada"))["refresh_token"]
            exchanged = await client.post("/v1/token/refresh", json={"refresh_token": stolen})
            assert exchanged.status_code == 200
            house.clock.advance(60)
            assert (await client.post("/v1/token/refresh", json={"refresh_token": stolen})).status_code == 400
            created, refreshed, ended = await happenings(told, 3)
        assert (created.kind, created.detail["kind"]) == ("created", "token")
        assert (refreshed.kind, refreshed.session_id) == ("refreshed", created.session_id)
        assert (ended.kind, ended.detail) == ("ended", {"reason": "refresh token reused"})
        secrets = stolen.split(".")[1], exchanged.json()["access_token"]
        assert not any(secret in repr((created, refreshed, ended)) for secret in secrets)


async def test_connections_are_told_as_they_open_and_close(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada")
        client = await house.log_in("ada")
        record_of_it = await house.sessions.fresh(await session_id(client))
        assert record_of_it is not None
        await house.activity.flush()
        async with aclosing(house.activity.follow(ada)) as told:
            await take(told, 1)
            closed: list[str] = []
            first = house.sessions.watch(record_of_it, kind="websocket", close=closed.append)
            house.sessions.watch(record_of_it, kind="sse", close=closed.append)
            house.sessions.connections.remove(first)
            house.sessions.connections.remove(first)
            await client.post("/v1/logout")
            found = await happenings(told, 5)
        assert [(each.kind, each.detail.get("transport")) for each in found] == [
            ("opened", "websocket"),
            ("opened", "sse"),
            ("closed", "websocket"),
            ("closed", "sse"),
            ("ended", None),
        ]
        assert found[0].detail["connection"] == found[2].detail["connection"] != found[1].detail["connection"]


async def test_what_expires_by_a_sweep_or_is_ended_by_a_command_is_told_once_whoever_hears_of_it(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (here, there):
        nodes = (here, there)
        for house in nodes:
            await house.activity._sources.listen()
        ada = await here.register("ada")
        client, idle = await here.log_in("ada"), await here.log_in("ada")
        sid, idle_sid = await session_id(client), await session_id(idle)
        await here.activity.flush()
        async with aclosing(here.activity.follow(ada)) as told, aclosing(there.activity.follow(ada)) as away:
            await take(told, 1)
            await take(away, 1)
            # Another process, which has no activity.
            async with Sessions(SQLiteStore(tmp_path / "sessions.sqlite3", clock=here.clock), clock=here.clock) as cli:
                assert await cli.end(sid, "ended by operator")
                first, second = await happenings(told, 1), await happenings(away, 1)
                assert first == second
                assert (first[0].session_id, first[0].detail) == (sid, {"reason": "ended by operator"})
                for house in nodes:
                    house.clock.advance(40 * 86_400)
                assert await cli.sweep() == 1
            (first_end,), (second_end,) = await happenings(told, 1), await happenings(away, 1)
            assert first_end == second_end
            assert (first_end.session_id, first_end.kind) == (idle_sid, "ended")
            assert first_end.detail["reason"] in ("expired", "idle")
            # Both have heard of both ends and are through with them.
            while any(house.activity._sources._heard for house in nodes):
                await asyncio.sleep(0.01)
            for house in nodes:
                await house.activity.flush()
        entries = (await here.activity._log.read(0, limit=99, user_id=ada)).entries
        assert [each.kind for each in entries] == ["created", "created", "ended", "ended"]


async def test_a_session_that_is_ended_on_another_node_right_after_its_login_is_told_in_order(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (here, there):
        ada = await here.register("ada")
        async with aclosing(there.activity.follow(ada)) as told:
            await take(told, 1)
            # This node is slow to write, and the other one has written the end by the time it does.
            pending = here.activity._writing
            entries: list[Any] = []
            put, pending.put = pending.put, entries.append  # type: ignore[method-assign]
            client = await here.log_in("ada")
            sid = await session_id(client)
            assert await there.sessions.end(sid, "ended by user")
            await there.activity.flush()
            for entry in entries:
                put(entry)
            found = await happenings(told, 2)
        assert [(each.kind, each.session_id) for each in found] == [("created", sid), ("ended", sid)]


async def test_activity_is_a_context_of_its_own(tmp_path: Path) -> None:
    async with House(tmp_path) as house, Activity(house.accounts, house.sessions) as activity:
        activity.record("renamed", SESSION, user_id=ADA, detail={"name": "phone", "nothing": None})
        await activity.flush()
        async with aclosing(activity.follow(ADA)) as told:
            await take(told, 1)
        (entry,) = (await house.activity._log.read(0, limit=9)).entries
        assert entry.detail == {"name": "phone"}


async def test_an_access_tokens_session_is_told_like_any_other(tmp_path: Path) -> None:
    async with House(tmp_path) as house:
        ada = await house.register("ada")
        async with aclosing(house.activity.follow(ada)) as told, house.client() as client:
            await take(told, 1)
            login = await log_in_for_tokens(client, "ada")
            client.headers.update(bearer(login["access_token"]))
            await client.post("/v1/logout")
            assert [each.kind for each in await happenings(told, 2)] == ["created", "ended"]
