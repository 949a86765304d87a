"""The log of what happens to sessions: one order whoever writes, everything once, and a reader that knows what it misses."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coatcheck.accounts import Accounts, AccountsUnavailable
from coatcheck.accounts import activity as module
from coatcheck.accounts.activity import KEPT, WINDOW, ActivityLog, Entry, Kind, LoggedEntry
from tests.stores.accounts.conftest import PostgresByHand, SQLiteByHand

MakeAccounts = Callable[..., Accounts]
ADA, BOB = "A" * 22, "B" * 22
SESSION, OTHER = "s" * 22, "t" * 22

WRITES_AND_IS_KILLED = """
import asyncio, os, signal, sys
from sqlalchemy import event
from coatcheck.accounts import Accounts
from coatcheck.accounts.activity import ActivityLog, Entry

def entries(first):
    return [Entry(kind="opened", session_id="s" * 22, user_id="A" * 22, at=1.0, once=f"{n}") for n in range(first, first + 100)]

async def main(url):
    accounts = Accounts(url)
    await accounts.start()
    log = ActivityLog(accounts)
    await log.append(entries(0))
    # All is written, and the next thing would be the commit.
    event.listen(accounts.database.engine.sync_engine, "commit", lambda connection: os.kill(os.getpid(), signal.SIGKILL))
    await log.append(entries(100))

asyncio.run(main(sys.argv[1]))
"""


def entry(
    kind: Kind, once: str, *, session_id: str = SESSION, user_id: str | None = ADA, at: float = 100.0, **detail: str
) -> Entry:
    return Entry(kind=kind, session_id=session_id, user_id=user_id, at=at, once=once, detail=detail)


def end_of(session_id: str, **detail: str) -> Entry:
    return entry("ended", f"ended:{session_id}", session_id=session_id, user_id=None, **detail)


async def told(log: ActivityLog, user_id: str | None = None, after: int = 0) -> list[LoggedEntry]:
    return (await log.read(after, limit=10_000, user_id=user_id)).entries


def kinds(entries: Sequence[LoggedEntry]) -> list[str]:
    return [each.kind for each in entries]


async def test_what_is_written_is_read_in_its_order_with_all_that_was_said(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("created", "1", address="192.0.2.7"), entry("opened", "2", at=101.5)])
        await log.append([entry("closed", "3")])
        first, second, third = await told(log)
        assert (first.user_id, first.session_id, first.kind, first.at) == (ADA, SESSION, "created", 100.0)
        assert first.detail == {"address": "192.0.2.7"}
        assert (second.kind, second.at, second.detail) == ("opened", 101.5, {})
        assert first.number < second.number < third.number
        assert await told(log, after=second.number) == [third]
        reading = await log.read(0, limit=2)
        assert (reading.entries, reading.seen, reading.more) == ([first, second], second.number, True)
        place = await log.place()
        assert (await log.read(second.number, limit=2)).seen == place.last >= third.number


async def test_users_have_each_their_own(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("created", "1"), entry("created", "2", session_id=OTHER, user_id=BOB)])
        assert [each.session_id for each in await told(log, ADA)] == [SESSION]
        assert [each.session_id for each in await told(log, BOB)] == [OTHER]
        assert await told(log, "C" * 22) == []


async def test_a_reader_never_gets_anything_in_behind_while_many_write(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as one, make_accounts() as two, make_accounts() as three:
        await _read_while_two_write(*(ActivityLog(accounts) for accounts in (one, two, three)))


async def _read_while_two_write(reader: ActivityLog, *writers: ActivityLog) -> None:
    found: list[LoggedEntry] = []
    seen = 0
    halfway = asyncio.Barrier(2)  # else one of them may have written all before the other has its first turn

    async def write(name: str, log: ActivityLog) -> None:
        for number in range(12):
            if number == 6:
                await halfway.wait()
            await log.append([entry("opened", f"{name}{number}.{part}", by=name) for part in range(3)])

    async def read() -> None:
        nonlocal seen
        reading = await reader.read(seen, limit=20)
        assert all(each.number > seen for each in reading.entries)
        found.extend(reading.entries)
        assert reading.seen >= seen
        seen = reading.seen

    writing = asyncio.gather(*(write(name, log) for name, log in zip("ab", writers, strict=True)))
    while not writing.done():
        await read()
    await writing
    while len(found) < 72:
        await read()
    # What was read piece by piece while it was written is what stands there now: nothing came in behind.
    assert found == await told(reader)
    assert {each.detail["by"] for each in found[:36]} == {"a", "b"}, "both wrote all the time"


async def test_what_is_written_twice_is_there_once(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as here, make_accounts() as there:
        batch = [entry("created", "1"), entry("opened", "2")]
        await ActivityLog(here).append(batch)
        await ActivityLog(here).append(batch)  # an answer was lost
        await ActivityLog(there).append([end_of(SESSION, reason="idle")])
        await ActivityLog(here).append([end_of(SESSION, reason="idle"), end_of(SESSION, reason="idle")])
        assert kinds(await told(ActivityLog(here))) == ["created", "opened", "ended"]
        keys = [f"ended:{SESSION}", "2", "3"]
        assert await ActivityLog(here).missing(keys) == ["3"]


async def test_an_end_is_told_to_whose_session_it_was(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("created", "1"), entry("created", "2", session_id=OTHER, user_id=BOB)])
        await log.append([end_of(OTHER, reason="logout"), end_of(SESSION, reason="expired")])
        assert [(each.session_id, each.detail) for each in (await told(log, ADA))[1:]] == [
            (SESSION, {"reason": "expired"})
        ]
        assert [(each.session_id, each.detail) for each in (await told(log, BOB))[1:]] == [
            (OTHER, {"reason": "logout"})
        ]


async def test_an_end_that_was_written_before_the_beginning_is_told_after_it(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([end_of(SESSION, reason="logout")])
        assert await told(log) == []
        before = (await log.place()).last
        await log.append([entry("created", "1")])
        both = await told(log, ADA, after=before)
        assert kinds(both) == ["created", "ended"]
        assert both[1].detail == {"reason": "logout"}
        await log.append([end_of(SESSION, reason="logout")])  # a third node that heard of it late
        assert await told(log, ADA) == both


async def test_of_a_session_that_nobody_knows_nothing_is_told(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([end_of(SESSION), entry("refreshed", "1", session_id=OTHER, user_id=None)])
        assert await told(log) == []
        await log.append([entry("opened", "2", session_id=OTHER)])
        await log.append([entry("refreshed", "3", session_id=OTHER, user_id=None)])
        assert kinds(await told(log, ADA)) == ["opened", "refreshed"]


async def test_a_second_login_on_a_session_is_another_thing(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        # The connection was opened on another node, which was quicker to write it down.
        await log.append([entry("opened", "0")])
        await log.append([entry("created", "1"), entry("created", "2")])
        await log.append([entry("created", "3")])
        assert kinds(await told(log, ADA)) == ["opened", "created", "reauthenticated", "reauthenticated"]


async def test_a_login_of_another_user_on_a_session_ends_it_for_the_first(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("created", "1")])
        await log.append([entry("created", "2", user_id=BOB)])
        await log.append([end_of(SESSION, reason="logout")])
        assert [(each.kind, each.detail) for each in await told(log, ADA)] == [
            ("created", {}),
            ("ended", {"reason": "another user logged in"}),
        ]
        assert kinds(await told(log, BOB)) == ["created", "ended"]


def test_a_node_that_is_killed_before_its_commit_leaves_nothing_half_written_and_no_lock(
    path: Path, make_accounts: MakeAccounts
) -> None:
    command = [sys.executable, "-c", WRITES_AND_IS_KILLED, f"sqlite:///{path}"]
    assert subprocess.run(command, check=False, timeout=60, capture_output=True).returncode == -9

    async def look() -> None:
        async with make_accounts() as accounts:
            log = ActivityLog(accounts)
            assert len(await told(log, ADA)) == 100
            await log.append([entry("closed", "later")])
            assert kinds((await told(log, ADA))[-2:]) == ["opened", "closed"]

    asyncio.run(look())


async def test_what_is_passing_goes_after_the_window_and_all_else_after_ninety_days(
    make_accounts: MakeAccounts,
) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("opened", "1"), entry("created", "2"), entry("closed", "3", at=200.0), end_of(OTHER)])
        opened, created, closed = await told(log)
        assert await log.prune(100.0 + WINDOW - 1) == 0
        assert (await log.read(0, limit=9)).pruned == 0
        assert await log.prune(100.0 + WINDOW) == 2  # and the end that is nobody's
        assert await told(log) == [created, closed]
        pruned = (await log.read(0, limit=9)).pruned
        assert pruned > closed.number  # for that end's sake: it cannot be told any more that it was nobody's
        assert await log.prune(200.0 + WINDOW) == 1
        assert await told(log) == [created]
        assert await log.prune(99.0 + KEPT) == 0
        assert await log.prune(100.0 + KEPT) == 1
        assert await told(log) == []
        assert (await log.place()).pruned >= pruned > opened.number


async def test_of_what_is_passing_there_is_never_too_much(
    make_accounts: MakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_PASSING", 50)
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("created", "first")])
        for number in range(40):
            await log.append([entry("opened", f"{number}", at=100.0 + number)])
        while await log.prune(141.0):
            pass
        left = await told(log)
        assert kinds(left[:1]) == ["created"]
        assert 10 <= len(left) <= 20
        assert left[1].number > (await log.place()).pruned
        assert left[-1].at == 139.0


async def test_what_had_to_be_dropped_makes_the_log_incomplete_up_to_there(make_accounts: MakeAccounts) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        await log.append([entry("opened", "1")])
        (first,) = await told(log)
        await log.append([], incomplete=True)
        reading = await log.read(first.number, limit=9)
        assert reading.pruned == reading.seen > first.number
        await log.append([entry("opened", "2")])
        (second,) = await told(log, after=reading.seen)
        assert second.number > reading.pruned


async def test_a_database_that_cannot_be_asked_is_said_to_be_so(
    make_accounts: MakeAccounts, database: SQLiteByHand | PostgresByHand
) -> None:
    async with make_accounts() as accounts:
        log = ActivityLog(accounts)
        database.run("ALTER TABLE coatcheck_activity_place RENAME TO aside")
        try:
            for asked in (log.place(), log.read(0, limit=1), log.append([entry("opened", "1")]), log.prune(0.0)):
                with pytest.raises(AccountsUnavailable):
                    await asked
        finally:  # the server is other tests', too
            database.run("ALTER TABLE aside RENAME TO coatcheck_activity_place")
        await log.append([entry("opened", "1")])
        assert kinds(await told(log)) == ["opened"]
