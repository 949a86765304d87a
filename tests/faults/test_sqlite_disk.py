"""Trouble with the SQLite store's file: StoreUnavailable while it lasts, nothing lost, and service again without a restart."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores.contract import Change
from coatcheck.stores.sqlite import SQLiteStore
from tests.stores.sqlite_peer import Peer, by_hand, record, run_python


@asynccontextmanager
async def started(path: Path, **options: float) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(path, **options)  # type: ignore[arg-type]
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def _unavailable(store: SQLiteStore, match: str) -> None:
    """Every way of asking says that it cannot be asked now."""
    for call in (
        store.create(record("new")),
        store.apply("a", Changes(set={"k": b"1"})),
        store.end(["a"], reason="x", now=1.0),
        store.end_user("user", reason="x", now=1.0),
        store.touch({"a": 5000.0}),
    ):
        with pytest.raises(StoreUnavailable, match=match):
            await call


async def test_a_full_disk_loses_nothing_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    """A limit on file size makes the operating system refuse writes: to the log, then in mid-transaction."""
    run_python(
        """
        import asyncio, resource, sys
        from coatcheck.errors import StoreUnavailable
        from coatcheck.record import Changes
        from coatcheck.stores.sqlite import SQLiteStore
        from tests.stores.sqlite_peer import record

        async def main():
            store = SQLiteStore(sys.argv[1])
            await store.start()
            stream = store.changes()
            await store.create(record("first"))
            for limit in (60_000, 100_001, 150_000):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                made = []

                async def fill(name):
                    for number in range(1000):
                        await store.create(record(f"{limit}-{name}-{number}", values={"k": bytes(700)}))
                        made.append(f"{limit}-{name}-{number}")

                failures = await asyncio.gather(*(fill(name) for name in range(10)), return_exceptions=True)
                assert all(isinstance(failure, StoreUnavailable) for failure in failures), failures
                assert len(await store.alive(made)) == len(made)
                stream.poll(lambda change: None)
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                await store.create(record(f"after-{limit}"))
                assert (await store.apply("first", Changes(set={str(limit): b"1"}))) is not None
                assert stream.behind()
                assert len(await store.alive(made)) == len(made)
            await store.close()

        asyncio.run(main())
        """,
        tmp_path / "s.db",
    )
    assert by_hand(tmp_path / "s.db", "PRAGMA integrity_check")[1] == [("ok",)]


async def test_a_lock_that_is_not_given_back_stops_writing_only(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db", busy_timeout=0.1) as store:
        await store.create(record("a"))
        stream = store.changes()
        with Peer(tmp_path / "s.db") as peer:
            peer.run("store._writer._link.rows('BEGIN IMMEDIATE')")
            begun = time.monotonic()
            await _unavailable(store, "locked by another process")
            assert time.monotonic() - begun < 3
            assert await store.read("a") == record("a")
            stream.poll(lambda change: None)
            peer.run("store._writer._link.rows('ROLLBACK')")
            assert await store.end(["a"], reason="x", now=1.0) == ["a"]


async def test_a_process_that_always_writes_starves_nobody(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db", busy_timeout=2.0) as store:
        with Peer(tmp_path / "s.db") as peer:
            peer.send(
                """
                async def write(name):
                    for number in range(200):
                        await store.create(record(f"{name}-{number}"))
                await asyncio.gather(*(write(name) for name in range(20)))
                """
            )
            for number in range(100):
                await store.create(record(f"mine-{number}"))
            peer.answer()


async def test_a_file_that_is_gone_is_unavailable_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with started(path) as store:
        await store.create(record("a"))
        stream = store.changes()
        path.rename(tmp_path / "elsewhere.db")
        await _unavailable(store, "is gone: put it back")
        with pytest.raises(StoreUnavailable, match="is gone"):
            await store.read("a")
        with pytest.raises(StoreUnavailable, match="is gone"):
            stream.poll(lambda change: None)
        assert not path.exists()
        (tmp_path / "elsewhere.db").rename(path)
        assert await store.read("a") == record("a")
        told: list[Change] = []
        await store.end(["a"], reason="x", now=1.0)
        stream.poll(told.append)
        assert told == [Change("ended", "a", reason="x")]


async def test_a_stream_that_was_opened_in_bad_times_says_that_it_missed_something(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with started(path) as store:
        await store.create(record("a"))
        path.rename(tmp_path / "elsewhere.db")
        stream = store.changes()
        assert stream.confirmed() == float("-inf")
        (tmp_path / "elsewhere.db").rename(path)
        told: list[Change] = []
        stream.poll(told.append)
        assert told == [Change("missed")]


@pytest.mark.parametrize("with_log", [True, False], ids=["the old log left beside it", "the old log removed"])
async def test_a_backup_put_in_the_file_s_place_is_served_by_every_process(tmp_path: Path, with_log: bool) -> None:
    path = tmp_path / "s.db"
    async with started(path) as store:
        epoch = await store.epoch("user")
        await store.create(record("a"))
        await store.create(record("b", user_id="user", epoch=epoch))
        by_hand(path, f"VACUUM INTO '{tmp_path / 'backup.db'}'")
        await store.create(record("later"))
        await store.end(["a"], reason="x", now=1.0)
        for number in range(200):
            await store.create(record(f"later-{number}", values={"k": bytes(500)}))
        stream = store.changes()
        with Peer(path) as peer:
            peer.run("global stream, told\nstream, told = store.changes(), []\nstream.poll(told.append)")
            os.replace(tmp_path / "backup.db", path)
            if not with_log:
                for end in ("-wal", "-shm"):
                    os.unlink(f"{path}{end}")
            peer.send("stream.poll(told.append)\nreturn [change.kind for change in told]")  # both at once
            told: list[Change] = []
            stream.poll(told.append)
            assert told == [Change("missed")]
            assert peer.answer() == ["missed"]
            assert await store.alive(["a", "b", "later"]) == {"a": 1, "b": 1}
            assert not stream.behind()
            assert peer.run("return await store.end(['a'], reason='x', now=1.0)") == ["a"]
            assert stream.behind()
            stream.poll(told.append)
            assert told[1:] == [Change("ended", "a", reason="x")]
            assert await store.end(["b"], reason="x", now=1.0) == ["b"]
            assert peer.run("return stream.behind(), (await store.read('b')).reason") == [True, "x"]
    assert by_hand(path, "PRAGMA integrity_check")[1] == [("ok",)]
    assert by_hand(path, "SELECT count(*) FROM session")[1] == [(0,)]


async def test_the_old_file_put_back_again_still_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    path, aside = tmp_path / "s.db", tmp_path / "aside.db"
    async with started(path) as store:
        by_hand(path, f"VACUUM INTO '{tmp_path / 'backup.db'}'")
        ids = [f"s{number}" for number in range(200)]
        await asyncio.gather(*(store.create(record(session_id)) for session_id in ids))
        stream = store.changes()
        told: list[Change] = []
        path.rename(aside)  # its log stays where it is: half a move, and nothing may get lost by it
        (tmp_path / "backup.db").rename(path)
        stream.poll(told.append)
        assert await store.alive(ids) == {}
        await store.create(record("in the backup"))
        assert by_hand(aside, "SELECT count(*) FROM session")[1] == [(200,)]
        path.rename(tmp_path / "backup.db")
        aside.rename(path)
        stream.poll(told.append)
        assert len(await store.alive(ids)) == 200
        with Peer(path) as peer:
            assert peer.run("return await store.end(['s0'], reason='x', now=1.0)") == ["s0"]
            assert stream.behind()
            await store.apply("s1", Changes(set={"k": b"1"}))
            assert peer.run("return list((await store.read('s1')).values)") == ["k"]
        assert told == [Change("missed"), Change("missed")]
    assert by_hand(path, "PRAGMA integrity_check")[1] == [("ok",)]


async def test_another_program_s_file_in_its_place_is_unavailable_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with started(path) as store:
        await store.create(record("a"))
        stream = store.changes()
        by_hand(tmp_path / "theirs.db", "CREATE TABLE theirs (x)")
        path.rename(tmp_path / "ours.db")
        (tmp_path / "theirs.db").rename(path)
        await _unavailable(store, "no session database of Coatcheck's")
        with pytest.raises(StoreUnavailable, match="no session database of Coatcheck's"):
            stream.poll(lambda change: None)
        path.rename(tmp_path / "theirs.db")
        (tmp_path / "ours.db").rename(path)
        assert await store.read("a") == record("a")
        await store.create(record("b"))
    assert by_hand(tmp_path / "theirs.db", "SELECT name FROM sqlite_master")[1] == [("theirs",)]


_OVERWRITE = """
import os, sys
path, keep = sys.argv[1:]
os.system(f"cp {path} {keep}")
with open(path, "r+b") as file:
    size = file.seek(0, 2)
    file.seek(4096)
    file.write(os.urandom(size - 4096))
"""

_MEND = """
import sys
with open(sys.argv[2], "rb") as good, open(sys.argv[1], "r+b") as file:
    file.write(good.read())
"""


async def test_a_damaged_file_is_unavailable_until_it_is_mended(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    ids = [f"s{number}" for number in range(3000)]  # more than a connection keeps in memory
    async with started(path) as store:
        await asyncio.gather(*(store.create(record(session_id, values={"k": bytes(1500)})) for session_id in ids))
    async with started(path) as store:
        run_python(_OVERWRITE, path, tmp_path / "good")
        with pytest.raises(StoreUnavailable, match="damaged: restore it from a backup") as caught:
            await store.read("s7")
        assert caught.value.retry_after > 1
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.create(record("new"))
        with pytest.raises(StoreUnavailable, match="damaged"):
            await store.end(ids[:5], reason="x", now=1.0)
        run_python(_MEND, path, tmp_path / "good")
        for session_id in ids[::100]:
            assert isinstance(await store.read(session_id), SessionRecord)
        assert await store.end(ids[:5], reason="x", now=1.0) == ids[:5]
        assert isinstance(await store.read("s0"), Tombstone)
    assert by_hand(path, "PRAGMA integrity_check")[1] == [("ok",)]


async def test_what_is_no_database_at_all_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "s.db").write_bytes(b"not a database, whatever its name says" * 200)
    store = SQLiteStore(tmp_path / "s.db")
    with pytest.raises(StoreUnavailable, match="damaged"):
        await store.start()
    (tmp_path / "s.db").unlink()
    await store.start()
    await store.create(record("a"))
    await store.close()
    (tmp_path / "directory.db").mkdir()
    with pytest.raises(StoreUnavailable, match="permissions"):
        await SQLiteStore(tmp_path / "directory.db").start()
    (tmp_path / "file").touch()
    with pytest.raises((StoreUnavailable, UsageError)):
        await SQLiteStore(tmp_path / "file" / "s.db").start()


async def test_a_lost_table_is_unavailable(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        stream = store.changes()
        by_hand(tmp_path / "s.db", "DROP TABLE session", "DROP TABLE change")
        await _unavailable(store, "no such table")
        with pytest.raises(StoreUnavailable, match="no such table"):
            await store.read("a")
        with pytest.raises(StoreUnavailable, match="no such table"):
            stream.poll(lambda change: None)


async def test_a_lost_counter_is_made_anew_and_until_then_the_feed_only_takes_longer(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    async with started(path) as store:
        for session_id in ("a", "b"):
            await store.create(record(session_id))
        stream = store.changes()
        os.unlink(f"{path}-feed")
        with Peer(path) as peer:
            peer.run("return await store.end(['a'], reason='x', now=1.0)")
            told: list[Change] = []
            async with asyncio.timeout(0.5):
                while not told:
                    await stream.wait()
                    stream.poll(told.append)
            assert told[0] == Change("missed")
            assert not stream.behind()
            peer.run("return await store.end(['b'], reason='x', now=1.0)")
            assert stream.behind()
            told.clear()
            stream.poll(told.append)
            assert told == [Change("ended", "b", reason="x")]
