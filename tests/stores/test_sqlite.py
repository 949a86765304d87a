"""What is particular to the SQLite store, in one process. What it has in common with others is the conformance kit's."""

import asyncio
import os
import re
import stat
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from coatcheck.errors import LoginRefused, SessionRefused, StoreUnavailable, UsageError
from coatcheck.record import Changes, Identity, SessionRecord, Tombstone
from coatcheck.stores import _sqlite_steps as steps
from coatcheck.stores import open_store
from coatcheck.stores._sqlite_steps import key_of
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


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_nobody_else_may_read_the_files_and_the_directory_it_makes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with started(tmp_path / "data" / "sessions.db") as store:
            await store.create(record("a"))
            files = sorted((tmp_path / "data").iterdir())
            assert [file.name for file in files] == [f"sessions.db{end}" for end in ("", "-feed", "-shm", "-wal")]
            assert {_mode(file) for file in files} == {0o600}
            assert _mode(tmp_path / "data") == 0o700
    finally:
        os.umask(before)


async def test_a_directory_whose_parent_is_missing_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist: create it first"):
        await SQLiteStore(tmp_path / "no" / "such" / "sessions.db").start()


async def test_an_answer_means_that_it_is_on_the_disk(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        await store.create(record("a"))
        writing = store._writer._link  # type: ignore[union-attr]
        assert (writing.pragma("journal_mode"), writing.pragma("synchronous")) == ("wal", 2)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_without_a_file_there_is_no_sqlite_store(path: str) -> None:
    with pytest.raises(UsageError, match="memory://"):
        SQLiteStore(path)


async def test_a_relative_path_is_taken_where_the_store_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///here.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.start()
    await store.close()
    assert (tmp_path / "here.db").exists()


async def test_sessions_outlive_the_store_and_its_close(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        await store.start()
        await store.create(record("a"))
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.read("a")
    with pytest.raises(StoreUnavailable, match="closed"):
        await store.create(record("b"))
    await store.close()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["s.db", "s.db-feed"]
    await store.start()
    assert await store.read("a") == record("a")
    await store.close()


async def test_a_store_that_was_never_started_says_so(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    with pytest.raises(UsageError, match="await its start"):
        await store.read("a")
    with pytest.raises(UsageError, match="await its start"):
        await store.create(record("a"))


@pytest.mark.parametrize(
    ("version", "said"),
    [(99, "newer release of Coatcheck"), (1, "made before release 0.1.0 .* move it away and start anew")],
)
async def test_another_release_s_file_is_refused_in_one_clear_sentence_and_left_alone(
    version: int, said: str, tmp_path: Path
) -> None:
    async with started(tmp_path / "s.db") as store:
        await store.create(record("a"))
    by_hand(tmp_path / "s.db", f"PRAGMA user_version = {version}")
    with pytest.raises(UsageError, match=said):
        await SQLiteStore(tmp_path / "s.db").start()
    assert by_hand(tmp_path / "s.db", "SELECT id FROM session")[1] == [("a",)]


@pytest.mark.parametrize(
    "name", ["READ", "ALIVE", "_CREATE", "_UPDATE_VALUES", "_UPDATE_IDENTITY", "_TO_END", "_BURY", "_DELETE", "_TOUCH"]
)
async def test_a_session_is_found_by_its_number_whatever_is_asked_of_it(name: str, tmp_path: Path) -> None:
    async with started(tmp_path / "s.db"):
        pass
    statement = re.sub(r"\?\d*", "NULL", getattr(steps, name))
    plan = [row[3] for row in by_hand(tmp_path / "s.db", f"EXPLAIN QUERY PLAN {statement}")[1]]
    found = [step for step in plan if re.match(r"\w+ (s|session)\b", step)]
    assert found
    assert all(step.startswith("SEARCH") and "USING INTEGER PRIMARY KEY" in step for step in found), plan


async def test_ids_whose_keys_are_one_number_are_not_confused(tmp_path: Path) -> None:
    one, other = "a" + "x" * 60 + "b", "b" + "x" * 60 + "a"
    assert key_of(one) == key_of(other)
    async with started(tmp_path / "s.db") as store:
        await store.create(record(one))
        with pytest.raises(SessionRefused, match="is taken"):
            await store.create(record(other))
        assert await store.read(other) is None
        assert await store.alive([one, other]) == {one: record(one).generation}
        assert await store.apply(other, Changes(set={"k": b"\x01"})) is None
        await store.touch({other: 4e9})
        assert await store.end([other], reason="logged out", now=1.0) == []
        assert await store.read(one) == record(one)
        assert await store.end([other, one], reason="logged out", now=1.0) == [one]
        assert await store.alive([one]) == {}
        no_text = "\ud800"
        assert await store.alive([no_text]) == {}
        assert await store.end([no_text], reason="logged out", now=1.0) == []


async def test_another_program_s_database_is_left_alone(tmp_path: Path) -> None:
    by_hand(tmp_path / "theirs.db", "CREATE TABLE session (id TEXT)")
    with pytest.raises(UsageError, match="another program's database"):
        await SQLiteStore(tmp_path / "theirs.db").start()
    assert by_hand(tmp_path / "theirs.db", "SELECT name FROM sqlite_master")[1] == [("session",)]
    assert by_hand(tmp_path / "theirs.db", "PRAGMA journal_mode")[1] == [("delete",)]


async def test_whoever_waits_at_the_same_time_shares_a_commit(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        with Peer(tmp_path / "s.db") as peer:
            peer.run("global held\nimport sqlite3\nheld = store._writer._link\nheld.rows('BEGIN IMMEDIATE')")
            waiting = [asyncio.create_task(store.create(record(f"s{number}"))) for number in range(300)]
            await asyncio.sleep(0)
            peer.run("held.rows('ROLLBACK')")
            await asyncio.gather(*waiting)
    assert store.steps == 300
    assert store.commits <= 3


async def test_one_refusal_in_a_group_leaves_the_others_alone(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        await store.create(record("taken"))
        epoch = await store.epoch("user")
        answers = await asyncio.gather(
            store.create(record("a")),
            store.create(record("taken")),
            store.create(record("b", user_id="user", epoch=epoch - 1)),
            store.create(record("c", user_id="nobody")),
            store.create(record("d", user_id="user", epoch=epoch)),
            store.apply("a", Changes(identity=Identity(secret_hash=b"x", at=1.0, user_id="user", expires_at=9e9))),
            store.apply("a", Changes(set={"k": b"1"})),
            return_exceptions=True,
        )
        refused = [type(answer) for answer in answers if isinstance(answer, Exception)]
        assert refused == [SessionRefused, LoginRefused, LoginRefused, LoginRefused]
        assert await store.alive(["a", "b", "c", "d"]) == {"a": 1, "d": 1}
        assert answers[6] == await store.read("a")


async def test_what_sqlite_cannot_store_fails_alone(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        answers = await asyncio.gather(
            store.create(record("a")),
            store.create(record("b", version=2**70)),
            store.end(["a"], reason="\ud800", now=1.0),
            store.apply("a", Changes(set={"k": b"1"})),
            return_exceptions=True,
        )
        assert [type(answer) for answer in answers] == [type(None), OverflowError, UnicodeEncodeError, SessionRecord]
        assert await store.alive(["a", "b"]) == {"a": 1}


async def test_nobody_waits_for_ever_when_the_writer_itself_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with started(tmp_path / "s.db") as store:

        def fail(*_: object) -> bool:
            raise ValueError("a mistake of ours")

        with monkeypatch.context() as patch:
            patch.setattr(store._file, "is_current", fail)
            with pytest.raises(StoreUnavailable, match="a mistake of ours"):
                await store.create(record("a"))
        await store.create(record("a"))
    assert "a mistake of ours" in caplog.text


async def test_a_caller_that_goes_away_breaks_nothing(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        tasks = [asyncio.create_task(store.create(record(f"s{number}"))) for number in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 10
        await store.create(record("last"))  # by then what was submitted before is done
        assert len(await store.alive([f"s{number}" for number in range(20)])) == 20


def test_many_loops_in_many_threads_may_use_one_store(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    asyncio.run(store.start())
    gate = threading.Barrier(6)
    failures: list[BaseException] = []

    async def use(name: str) -> None:
        for number in range(50):
            await store.create(record(f"{name}-{number}"))
            await store.apply("shared", Changes(set={f"{name}-{number}": b"1"}))
            assert isinstance(await store.read(f"{name}-{number}"), SessionRecord)

    def thread(name: str) -> None:
        gate.wait()
        try:
            asyncio.run(use(name))
        except BaseException as error:
            failures.append(error)

    asyncio.run(store.create(record("shared")))
    threads = [threading.Thread(target=thread, args=(f"t{number}",)) for number in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not failures
    shared = asyncio.run(store.read("shared"))
    assert isinstance(shared, SessionRecord)
    assert len(shared.values) == 300
    asyncio.run(store.close())


def test_a_loop_that_is_closed_while_it_waits_harms_nobody(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    asyncio.run(store.start())

    async def abandon() -> None:
        asyncio.get_running_loop().create_task(store.create(record("abandoned")))
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(abandon())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    asyncio.run(store.create(record("next")))
    assert asyncio.run(store.alive(["abandoned", "next"])) == {"abandoned": 1, "next": 1}
    asyncio.run(store.close())


def test_a_forked_child_is_told_what_to_do(tmp_path: Path) -> None:
    printed = run_python(
        """
        import asyncio, os, sys, warnings
        from coatcheck.errors import UsageError
        from coatcheck.stores.sqlite import SQLiteStore

        warnings.simplefilter("ignore")
        store = SQLiteStore(sys.argv[1])
        asyncio.run(store.start())
        stream = store.changes()
        child = os.fork()
        if child == 0:
            for call in (store.start, store.close, lambda: store.read("a"), lambda: store.epoch("u")):
                try:
                    asyncio.run(call())
                except UsageError as error:
                    assert "after the fork" in str(error)
                    print("told", flush=True)
            sys.exit()
        os.waitpid(child, 0)
        print(asyncio.run(store.epoch("u")) > 0)
        asyncio.run(store.close())
        """,
        tmp_path / "s.db",
    )
    assert printed.split() == ["told"] * 4 + ["True"]


def test_no_thread_keeps_the_interpreter_and_what_was_submitted_is_done(tmp_path: Path) -> None:
    run_python(
        """
        import asyncio, sys
        from coatcheck.stores.sqlite import SQLiteStore
        from tests.stores.sqlite_peer import record

        store = SQLiteStore(sys.argv[1])

        async def main():
            await store.start()
            for number in range(500):
                asyncio.ensure_future(store.create(record(f"s{number}")))
            await asyncio.sleep(0)

        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        import os
        sys.stderr = open(os.devnull, "w")  # asyncio's word on tasks that were never awaited
        """,
        tmp_path / "s.db",
    )
    assert by_hand(tmp_path / "s.db", "SELECT count(*) FROM session")[1] == [(500,)]


async def test_a_store_that_nobody_holds_ends_its_thread(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    await store.start()
    thread = store._writer._thread  # type: ignore[union-attr]
    del store
    await asyncio.to_thread(thread.join, 5)
    assert not thread.is_alive()


async def test_when_the_file_is_full_sessions_can_still_be_ended(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db", max_bytes=400_000) as store:
        made: list[str] = []

        async def fill() -> None:
            for number in range(1000):
                await store.create(record(f"s{number}", values={"k": bytes(3000)}))
                made.append(f"s{number}")

        with pytest.raises(StoreUnavailable, match="max_bytes"):
            await fill()
        assert len(made) > 20
        answers = await asyncio.gather(
            store.create(record("too much", values={"k": bytes(100_000)})),
            store.end(made[:10], reason="x", now=1.0),
            return_exceptions=True,
        )
        assert isinstance(answers[0], StoreUnavailable)
        assert answers[1] == made[:10]
        assert (tmp_path / "s.db").stat().st_size <= 400_000
        await store.create(record("again"))


async def test_a_record_that_cannot_be_read_is_not_unknown_and_can_be_ended(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        for session_id in ("a", "b", "c"):
            await store.create(record(session_id))
        by_hand(tmp_path / "s.db", "UPDATE session SET record = x'00' WHERE id = 'a'",
                "UPDATE session SET record = 'text' WHERE id = 'b'")  # fmt: skip
        for session_id in ("a", "b"):
            with pytest.raises(StoreUnavailable, match="cannot be read"):
                await store.read(session_id)
            with pytest.raises(StoreUnavailable, match="cannot be read"):
                await store.apply(session_id, Changes(set={"k": b"1"}))
        assert await store.read("c") == record("c")
        assert await store.end(["a", "b"], reason="x", now=1.0) == ["a", "b"]
        assert await store.read("a") == Tombstone(id="a", ended_at=1.0, reason="x", hashes=(b"aa",))


async def test_what_stands_in_the_columns_counts(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        epoch = await store.epoch("user")
        await store.create(record("a"))
        await store.create(record("b", user_id="user", epoch=epoch))
        by_hand(tmp_path / "s.db", "UPDATE session SET expires_at = 5, generation = 7, version = 9 WHERE id = 'a'",
                "UPDATE session SET epoch = epoch - 1 WHERE id = 'b'")  # fmt: skip
        assert await store.read("a") == record("a", expires_at=5.0, generation=7, version=9)
        assert await store.read("b") is None
        assert await store.sweep(now=6.0, limit=10, unseen_since=0.0) == 1


async def test_sweeping_keeps_the_newest_changes_and_never_none(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        by_hand(
            tmp_path / "s.db",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12500) "
            "INSERT INTO change (kind, id) SELECT 'changed', i FROM n",
        )
        assert await store.sweep(now=1.0, limit=10, unseen_since=0.0) == 0
        assert by_hand(tmp_path / "s.db", "SELECT count(*), max(seq) FROM change")[1] == [(10_000, 12_500)]
        by_hand(tmp_path / "s.db", "DELETE FROM change WHERE seq < 12500")
        await store.sweep(now=1.0, limit=10, unseen_since=0.0)
        assert by_hand(tmp_path / "s.db", "SELECT seq FROM change")[1] == [(12_500,)]


async def test_old_tombstones_go_however_many_there_are(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        ids = [f"s{number}" for number in range(2500)]
        await asyncio.gather(*(store.create(record(session_id)) for session_id in ids))
        assert await store.end(ids, reason="x", now=100.0) == ids
        await store.sweep(now=160.0, limit=10, unseen_since=0.0)
        assert isinstance(await store.read("s7"), Tombstone)
        await store.sweep(now=161.0, limit=10, unseen_since=0.0)
        assert by_hand(tmp_path / "s.db", "SELECT count(*) FROM tombstone")[1] == [(0,)]


async def test_nothing_is_read_while_nothing_happens(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        stream = store.changes()
        told: list[Change] = []
        await store.create(record("a"))
        await store.touch({"a": 2000.0})
        assert not stream.behind()
        stream.poll(told.append)
        await store.apply("a", Changes(set={"k": b"1"}))
        assert stream.behind()
        stream.poll(told.append)
        assert not stream.behind()
        assert told == [Change("changed", "a", 2, 1)]


async def test_a_poll_within_a_delivery_tells_nothing_twice(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        stream = store.changes()
        await asyncio.gather(*(store.create(record(f"s{number}")) for number in range(3)))
        await store.end(["s0", "s1", "s2"], reason="x", now=1.0)
        told: list[str] = []

        def deliver(change: Change) -> None:
            stream.poll(deliver)
            told.append(change.id)

        stream.poll(deliver)
        assert sorted(told) == ["s0", "s1", "s2"]


async def test_what_could_not_be_delivered_is_delivered_again(tmp_path: Path) -> None:
    async with started(tmp_path / "s.db") as store:
        stream = store.changes()
        await store.create(record("a"))
        await store.apply("a", Changes(set={"k": b"1"}))
        await store.end(["a"], reason="x", now=1.0)
        told: list[str] = []

        def stumble(change: Change) -> None:
            told.append(change.kind)
            if change.kind == "ended":
                raise RuntimeError("stumbled")

        with pytest.raises(RuntimeError):
            stream.poll(stumble)
        assert stream.behind()
        stream.poll(lambda change: told.append(change.kind))
        assert told == ["changed", "ended", "ended"]


async def test_a_stream_goes_on_when_its_store_opens_again(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "s.db")
    await store.start()
    stream = store.changes()
    await store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        stream.poll(lambda change: None)
    await store.start()
    told: list[Change] = []
    stream.poll(told.append)
    assert told == [Change("missed")]
    await store.create(record("a"))
    await store.end(["a"], reason="x", now=1.0)
    stream.poll(told.append)
    assert told[1:] == [Change("ended", "a", reason="x")]
    await stream.aclose()
    await stream.aclose()
    await store.close()
