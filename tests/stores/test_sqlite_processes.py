"""The SQLite store between processes: ours, which find their feed behind at once, and anybody's, found within 50 ms."""

import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coatcheck.cache import NearCache
from coatcheck.clock import SystemClock
from coatcheck.connections import LiveConnections
from coatcheck.feed import Feed
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores.contract import Change, ChangeStream
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import Peer, by_hand, record, run_python


async def _started(path: Path) -> SQLiteStore:
    store = SQLiteStore(path)
    await store.start()
    return store


async def _told(stream: ChangeStream, enough: Callable[[list[Change]], object]) -> list[Change]:
    told: list[Change] = []
    async with asyncio.timeout(10):
        while not enough(told):
            await stream.wait()
            stream.poll(told.append)
    return told


async def test_whatever_another_process_was_answered_is_known_here_at_once(tmp_path: Path) -> None:
    store = await _started(tmp_path / "s.db")
    stream = store.changes()
    with Peer(tmp_path / "s.db") as peer:
        peer.run("for session_id in 'ab': await store.create(record(session_id))")
        for call, kind in (
            ("await store.apply('a', Changes(set={'k': b'1'}))", "changed"),
            ("await store.end(['a'], reason='x', now=1.0)", "ended"),
            ("await store.end_user('user', reason='x', now=1.0)", "user"),
            ("await store.sweep(now=9e9 + 1, limit=10, unseen_since=0.0)", "ended"),
        ):
            assert not stream.behind()
            peer.run(call)
            assert stream.behind(), f"{call} was answered, and nobody knows here"
            told: list[Change] = []
            stream.poll(told.append)
            assert [change.kind for change in told] == [kind]
            assert not stream.behind()
    await store.close()


async def test_what_is_ended_there_is_never_let_in_here(tmp_path: Path) -> None:
    """P1 as a fuzz: a node with a warm cache, its feed polled by nothing but the requests themselves."""
    store = await _started(tmp_path / "s.db")
    cache = NearCache(max_entries=1000, max_bytes=10**7, max_staleness=2.0, clock=SystemClock())
    feed = Feed(store.changes(), cache, LiveConnections(SystemClock()), max_staleness=2.0, doubt=lambda ids: None)
    chance = random.Random(7)

    async def may_in(session_id: str) -> bool:
        if feed.behind():
            feed.poll()
        entry = cache.get(session_id)
        if entry is not None:
            return True
        return isinstance(await cache.load(session_id, store.read), SessionRecord)

    with Peer(tmp_path / "s.db") as peer:
        for round_ in range(30):
            ids = [f"r{round_}-{number}" for number in range(20)]
            await asyncio.gather(*(store.create(record(session_id)) for session_id in ids))
            feed.poll()
            assert all([await may_in(session_id) for session_id in ids])
            alive = set(ids)
            while alive:
                ending = chance.sample(sorted(alive), k=min(len(alive), chance.randint(1, 6)))
                peer.send(f"return await store.end({ending!r}, reason='x', now=1.0)")
                # Meanwhile requests come: each may be let in until the end has been answered, never after.
                for session_id in chance.choices(ids, k=chance.randint(0, 40)):
                    assert await may_in(session_id) or session_id not in alive or session_id in ending
                    await asyncio.sleep(0)
                assert sorted(peer.answer()) == sorted(ending)
                alive.difference_update(ending)
                chance.shuffle(ids)
                assert [session_id for session_id in ids if await may_in(session_id)] == [
                    session_id for session_id in ids if session_id in alive
                ]
    await store.close()


async def test_processes_that_write_at_once_leave_no_reader_behind(tmp_path: Path) -> None:
    """Whichever process is slow writes the counter late: a reader must still see every acknowledged change."""
    store = await _started(tmp_path / "s.db")
    await store.create(record("a"))
    stream = store.changes()
    seen = 0

    def deliver(change: Change) -> None:
        nonlocal seen
        seen = max(seen, change.version)

    with Peer(tmp_path / "s.db") as one, Peer(tmp_path / "s.db") as two:
        for _ in range(40):
            for peer in (one, two):
                peer.send(
                    "versions = []\n"
                    "for _ in range(5):\n"
                    "    versions.append((await store.apply('a', Changes(set={'k': b'1'}))).version)\n"
                    "return max(versions)"
                )
            acknowledged = max(one.answer(), two.answer())
            if stream.behind():
                stream.poll(deliver)
            assert seen >= acknowledged
    assert seen == 401
    await store.close()


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM session WHERE id = 'a'", Change("ended", "a", reason="deleted by hand")),
        ("DELETE FROM session", Change("ended", "a", reason="deleted by hand")),
        ("UPDATE session SET generation = 5 WHERE id = 'a'", Change("changed", "a")),
        ("UPDATE session SET generation = 5, version = 8 WHERE id = 'a'", Change("changed", "a", 8, 5)),
        ("UPDATE session SET id = 'z' WHERE id = 'a'", Change("changed", "a")),
        ("UPDATE session SET expires_at = 0", Change("changed", "a")),
        ("INSERT OR REPLACE INTO session SELECT * FROM session WHERE id = 'a'", Change("changed", "a")),
        ("UPDATE user_epoch SET epoch = 1", Change("user", "user")),
        ("DELETE FROM user_epoch", Change("user", "user")),
        ("INSERT OR REPLACE INTO user_epoch VALUES ('user', 3)", Change("user", "user")),
        ("DELETE FROM change", Change("missed")),
        ("DELETE FROM change WHERE seq = (SELECT max(seq) FROM change)", Change("missed")),
        ("VACUUM", Change("missed")),
    ],
)
async def test_what_is_typed_by_hand_is_told(tmp_path: Path, statement: str, expected: Change) -> None:
    store = await _started(tmp_path / "s.db")
    await store.epoch("user")
    for session_id in ("a", "b"):
        await store.create(record(session_id))
    await store.apply("b", Changes(set={"k": b"1"}))
    await store.end(["b"], reason="x", now=1.0)
    stream = store.changes()
    waiting = asyncio.create_task(_told(stream, bool))
    await asyncio.to_thread(by_hand, tmp_path / "s.db", statement)
    assert await waiting == [expected]
    if expected.kind == "ended":
        left = await store.read("a")
        assert isinstance(left, Tombstone)
        assert (left.reason, left.hashes) == ("deleted by hand", (b"aa",))
    await store.close()


async def test_what_is_typed_by_hand_is_noticed_within_50_ms(tmp_path: Path) -> None:
    store = await _started(tmp_path / "s.db")
    ids = [f"s{number}" for number in range(9)]
    await asyncio.gather(*(store.create(record(session_id)) for session_id in ids))
    stream = store.changes()
    taken: list[float] = []
    for session_id in ids:
        noticed: list[float] = []

        async def notice(noticed: list[float] = noticed) -> None:
            await _told(stream, bool)
            noticed.append(time.monotonic())

        waiting = asyncio.create_task(notice())
        done, _ = await asyncio.to_thread(by_hand, tmp_path / "s.db", f"DELETE FROM session WHERE id = '{session_id}'")
        await waiting
        taken.append(noticed[0] - done)  # CLOCK_MONOTONIC is one clock for all processes
    assert statistics.median(taken) < 0.05
    await store.close()


async def test_a_reader_that_slept_too_long_is_told_that_it_missed_something(tmp_path: Path) -> None:
    store = await _started(tmp_path / "s.db")
    await store.create(record("a"))
    stream, sleeper = store.changes(), store.changes()
    with Peer(tmp_path / "s.db") as peer:
        peer.run("for _ in range(3): await store.apply('a', Changes(set={'k': b'1'}))")
    told: list[Change] = []
    stream.poll(told.append)
    assert [change.version for change in told] == [2, 3, 4]
    by_hand(tmp_path / "s.db", "DELETE FROM change WHERE seq < 3")  # what `sweep` does to older ones
    told.clear()
    stream.poll(told.append)
    assert told == []  # it stands at the third, which is there
    sleeper.poll(told.append)
    assert told == [Change("missed")]
    await store.end(["a"], reason="x", now=1.0)
    for reader in (stream, sleeper):
        told.clear()
        reader.poll(told.append)
        assert told == [Change("ended", "a", reason="x")]
    await store.close()


async def test_a_backup_restored_through_sqlite_is_noticed(tmp_path: Path) -> None:
    store = await _started(tmp_path / "s.db")
    await store.create(record("a"))
    run_python(_BACKUP, tmp_path / "s.db", tmp_path / "backup.db")
    await store.create(record("b"))  # a creation is in no log: only "missed" can tell that it has been undone
    stream = store.changes()
    run_python(_BACKUP, tmp_path / "backup.db", tmp_path / "s.db")
    assert await _told(stream, bool) == [Change("missed")]
    assert await store.alive(["a", "b"]) == {"a": 1}
    await store.create(record("c"))
    await store.close()


_BACKUP = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as source, sqlite3.connect(sys.argv[2]) as target:
    source.backup(target)
"""


def test_processes_that_start_at_once_make_one_database(tmp_path: Path) -> None:
    code = """
import asyncio, sys
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import record
store = SQLiteStore(sys.argv[1])
async def main():
    await store.start()
    await store.create(record(sys.argv[2]))
    stream = store.changes()
    await store.end([sys.argv[2]], reason="x", now=1.0)
    assert stream.behind()
    await store.create(record("kept-" + sys.argv[2]))
    await store.close()
print("ready", flush=True)
sys.stdin.readline()
asyncio.run(main())
"""
    for round_ in range(3):
        path = tmp_path / f"{round_}" / "s.db"
        starting = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path), f"p{number}"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for number in range(5)
        ]  # fmt: skip
        for process in starting:
            assert process.stdout is not None
            process.stdout.readline()
        for process in starting:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in starting:
            _, said = process.communicate(timeout=30)
            assert process.returncode == 0, said
        assert by_hand(path, "PRAGMA integrity_check")[1] == [("ok",)]
        assert by_hand(path, "SELECT count(*) FROM session")[1] == [(5,)]
        assert by_hand(path, "SELECT count(*), max(seq) FROM change")[1] == [(5, 5)]
