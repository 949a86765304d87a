"""What happens when two do something to one session at once, each interleaving forced by a lock that is held by hand."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import pytest

from coatcheck.errors import LoginRefused, SessionRefused, StoreUnavailable
from coatcheck.record import Changes, Identity, SessionRecord, Tombstone
from coatcheck.stores.postgres import PostgresStore
from tests.clients.postgres_server import PgBouncer, PostgresServer
from tests.stores.postgres_nodes import connected, migrated, started, waiting
from tests.stores.sqlite_peer import record


@pytest.fixture(params=["alone", "behind PgBouncer"])
def url(request: pytest.FixtureRequest, postgres: PostgresServer, schema: str) -> str:
    if request.param == "alone":
        return postgres.url(schema=schema)
    bouncer: PgBouncer = request.getfixturevalue("pgbouncer")
    return bouncer.url(schema=schema, feed_url=f"//127.0.0.1:{postgres.port}")


def identity(user_id: str, epoch: int) -> Identity:
    return Identity(secret_hash=b"new" * 8, at=1000.0, user_id=user_id, epoch=epoch, expires_at=9e9)


async def begun(work: Awaitable[Any], postgres: PostgresServer) -> asyncio.Future[Any]:
    """Begin something that will have to wait for a lock, and return when it does."""
    task = asyncio.ensure_future(work)
    await waiting(postgres)
    return task


async def test_a_login_that_comes_while_its_user_is_being_ended_is_refused(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("visitor"))
        for login in (
            lambda epoch: store.create(record("a", user_id="user", epoch=epoch)),
            lambda epoch: store.apply("visitor", Changes(identity=identity("user", epoch))),
        ):
            epoch = await store.epoch("user")
            async with hand.transaction():
                await hand.execute("UPDATE user_epoch SET epoch = epoch + 1")
                task = await begun(login(epoch), postgres)
            with pytest.raises(LoginRefused):
                await task
        assert await store.list_user("user") == []
        assert await store.read("visitor") == record("visitor")


@pytest.mark.parametrize("kept", [None, "kept"])
async def test_ending_a_user_waits_for_a_login_that_came_first_and_ends_it(
    postgres: PostgresServer, schema: str, url: str, kept: str | None
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        epoch = await store.epoch("user")
        await store.create(record("visitor"))
        await store.create(record("kept", user_id="user", epoch=epoch))
        async with hand.transaction():
            # As a login does it: a share of the epoch, then the session.
            await hand.execute("SELECT FROM user_epoch WHERE user_id = 'user' FOR SHARE")
            await hand.execute(
                f"UPDATE session SET user_id = 'user', epoch = {epoch}, version = 2 WHERE id = 'visitor'"
            )
            task = await begun(store.end_user("user", reason="x", now=1.0, keep=kept), postgres)
        assert await task == (["visitor"] if kept else ["kept", "visitor"])
        assert isinstance(await store.read("visitor"), Tombstone)
        assert [found.id for found in await store.list_user("user")] == ([kept] if kept else [])


async def test_a_session_that_a_login_has_just_left_stays_to_its_new_user(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a", user_id="first", epoch=await store.epoch("first")))
        epoch = await store.epoch("second")
        async with hand.transaction():
            await hand.execute(f"UPDATE session SET user_id = 'second', epoch = {epoch}, version = 2 WHERE id = 'a'")
            task = await begun(store.end_user("first", reason="x", now=1.0), postgres)
        assert await task == []
        found = await store.read("a")
        assert isinstance(found, SessionRecord)
        assert found.user_id == "second"


async def test_a_change_that_waited_for_the_end_of_its_session_is_not_made(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        for changes in (Changes(set={"k": b"1"}), Changes(identity=identity("user", await store.epoch("user")))):
            await store.create(record("a"))
            async with hand.transaction():
                await hand.execute("DELETE FROM session WHERE id = 'a'")
                task = await begun(store.apply("a", changes), postgres)
            assert await task is None
            assert isinstance(await store.read("a"), Tombstone)
            await hand.execute("DELETE FROM tombstone")


async def test_a_change_that_waited_for_another_one_merges_into_what_that_has_left(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, started(url) as other, connected(postgres, schema) as hand:
        await store.create(record("a"))
        async with hand.transaction():
            await hand.execute("SELECT FROM session FOR UPDATE")
            tasks = [asyncio.ensure_future(each.apply("a", Changes(set={key: b"1"}))) for each, key in
                     ((store, "k"), (other, "l"))]  # fmt: skip
            await waiting(postgres, 2)
        results = await asyncio.gather(*tasks)
        assert sorted(found.version for found in results if found is not None) == [2, 3]
        last = await store.read("a")
        assert isinstance(last, SessionRecord)
        assert dict(last.values) == {"k": b"1", "l": b"1"}


async def test_being_seen_takes_nothing_from_a_change_or_an_end_that_waited_for_it(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    seen = "UPDATE session SET last_seen_at = 2000"
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        for changes in (Changes(set={"k": b"1"}), Changes(identity=identity("user", await store.epoch("user")))):
            async with hand.transaction():
                await hand.execute(seen)
                task = await begun(store.apply("a", changes), postgres)
            assert await task is not None
        found = await store.read("a")
        assert isinstance(found, SessionRecord)
        assert (found.last_seen_at, found.user_id, dict(found.values)) == (2000.0, "user", {"k": b"1"})
        async with hand.transaction():
            await hand.execute(seen)
            task = await begun(store.end(["a"], reason="x", now=1.0), postgres)
        assert await task == ["a"]
        stone = await store.read("a")
        assert isinstance(stone, Tombstone)
        assert set(stone.hashes) == {b"new" * 8, record("a").secret_hash}


async def test_an_end_looks_again_at_what_it_waited_for(postgres: PostgresServer, schema: str, url: str) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        for change, conditions in (
            ("last_seen_at = 3000", {"unseen_since": 2000.0}),
            ("generation = generation + 1, version = version + 1", {"expect_generation": 1}),
        ):
            await store.create(record("a"))
            async with hand.transaction():
                await hand.execute(f"UPDATE session SET {change}")
                task = await begun(store.end(["a"], reason="x", now=1.0, **conditions), postgres)
            assert await task == []
            assert isinstance(await store.read("a"), SessionRecord)
            await hand.execute("DELETE FROM session; DELETE FROM tombstone")


async def test_an_end_that_waited_tells_of_the_secret_that_was_current(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        async with hand.transaction():
            await hand.execute(r"UPDATE session SET hashes = '\x91c4036e6577', version = 2, generation = 2")
            task = await begun(store.end(["a"], reason="x", now=1.0), postgres)
        assert await task == ["a"]
        stone = await store.read("a")
        assert isinstance(stone, Tombstone)
        assert stone.hashes == (b"new",)


async def test_an_id_whose_session_is_just_being_ended_is_not_made_again(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        await store.create(record("a"))
        async with hand.transaction():
            await hand.execute("DELETE FROM session WHERE id = 'a'")
            task = await begun(store.create(record("a")), postgres)
        with pytest.raises(SessionRefused, match="is taken"):
            await task
        assert isinstance(await store.read("a"), Tombstone)
        with pytest.raises(Exception, match="has ended: it is not made again"):
            await hand.execute("INSERT INTO session VALUES ('a', NULL, 0, 1, 1, 9e9, 1, DEFAULT, '', '')")


async def test_who_is_undone_because_of_a_deadlock_does_it_again(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    """Whoever locks by hand need not keep to our order."""
    await migrated(url)
    async with started(url, timeout=8.0) as store, connected(postgres, schema) as hand:
        for session_id in ("a", "b"):
            await store.create(record(session_id))
        await hand.execute("SET deadlock_timeout = '30s'")  # so that it is ours that looks, and gives way
        async with hand.transaction():
            await hand.execute("SELECT FROM session WHERE id = 'b' FOR UPDATE")
            before = deadlocks(postgres)
            task = await begun(store.end(["b", "a"], reason="x", now=1.0), postgres)
            await hand.execute("UPDATE session SET last_seen_at = 2000 WHERE id = 'a'")
        assert await task == ["b", "a"]
        assert deadlocks(postgres) == before + 1


def deadlocks(postgres: PostgresServer) -> int:
    """How many the server has written down. Its statistics may tell of an earlier test's later."""
    return (postgres.directory / "log").read_text(errors="replace").count("deadlock detected")


async def test_batches_that_overlap_wait_for_each_other_in_one_order(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    ids = [f"s{number:03}" for number in range(120)]
    before = deadlocks(postgres)
    async with started(url, timeout=20.0) as one, started(url, timeout=20.0) as two:
        await asyncio.gather(*(one.create(record(session_id)) for session_id in ids))
        await asyncio.gather(
            *(
                store.touch(dict.fromkeys(order, 2000.0 + number + at))
                for number in range(8)
                for at, (store, order) in enumerate(((one, ids), (two, ids[::-1])))
            ),
            *(store.end(order[:60], reason="x", now=1.0) for store, order in ((one, ids), (two, ids[::-1]))),
        )
        left = await one.alive(ids)
        assert left == {}
    assert deadlocks(postgres) == before


async def test_sweeps_pass_over_what_somebody_else_holds(postgres: PostgresServer, schema: str, url: str) -> None:
    await migrated(url)
    async with started(url) as store, connected(postgres, schema) as hand:
        for session_id in ("a", "b", "c"):
            await store.create(record(session_id, expires_at=1.0))
        async with hand.transaction():
            await hand.execute("SELECT FROM session WHERE id = 'b' FOR UPDATE")
            assert await store.sweep(now=1000.0, limit=10, unseen_since=0.0) == 2
        assert await store.sweep(now=1000.0, limit=10, unseen_since=0.0) == 1


async def test_a_lock_that_is_not_given_back_fails_in_time_and_takes_nothing_else_along(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)
    async with started(url, timeout=0.6) as store, connected(postgres, schema) as hand:
        for session_id in ("a", "b"):
            await store.create(record(session_id))
        async with hand.transaction():
            await hand.execute("SELECT FROM session WHERE id = 'a' FOR UPDATE")
            failures = await asyncio.gather(
                *(store.apply("a", Changes(set={"k": b"1"})) for _ in range(12)), return_exceptions=True
            )
            assert [type(failure) for failure in failures] == [StoreUnavailable] * 12
            assert isinstance(await store.read("a"), SessionRecord)
            assert await store.end(["b"], reason="x", now=1.0) == ["b"]
        # Nor does anything that was given up on come to pass later.
        await asyncio.sleep(0.8)
        assert await store.read("a") == record("a")


@pytest.mark.parametrize("level", ["serializable", "repeatable read"])
async def test_another_default_isolation_changes_nothing(
    postgres: PostgresServer, pgbouncer: PgBouncer, schema: str, level: str
) -> None:
    postgres.by_hand(
        f"CREATE DATABASE {schema}", f"ALTER DATABASE {schema} SET default_transaction_isolation = '{level}'"
    )
    for url in (postgres.url(database=schema), pgbouncer.url(database=schema, feed_url=f"//127.0.0.1:{postgres.port}")):
        await migrated(url)
        async with started(url, timeout=20.0) as one, started(url, timeout=20.0) as two:
            name = "pooled" if one.pooled else "alone"
            await one.create(record(name))
            epoch = await one.epoch(name)
            await asyncio.gather(
                *(store.apply(name, Changes(set={f"{store.pooled}{number}": b""})) for number in range(10)
                  for store in (one, two)),
                *(store.create(record(f"{name}{number}", user_id=name, epoch=epoch)) for number in range(10)
                  for store in (one,)),
                *(store.touch({name: 2000.0 + number}) for number in range(10) for store in (one, two)),
            )  # fmt: skip
            found = await two.read(name)
            assert isinstance(found, SessionRecord)
            assert (found.version, found.last_seen_at, len(found.values)) == (21, 2009.0, 10)
            ended = await asyncio.gather(*(store.end_user(name, reason="x", now=1.0) for store in (one, two)))
            assert sorted(map(len, ended)) == [0, 10]


async def test_a_caller_that_goes_away_leaves_nothing_half_done_and_no_connection_behind(
    postgres: PostgresServer, schema: str, url: str
) -> None:
    await migrated(url)

    async def go_away(work: Awaitable[Any]) -> None:
        task = await begun(work, postgres)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async with started(url, pool_size=2) as store, connected(postgres, schema) as hand:
        await store.create(record("a", user_id="user", epoch=await store.epoch("user")))
        async with hand.transaction():
            await hand.execute("SELECT FROM session FOR UPDATE")
            await go_away(store.apply("a", Changes(set={"k": b"1"})))
            await go_away(store.end_user("user", reason="x", now=1.0))
            await go_away(store.end(["a"], reason="x", now=1.0))
        async with asyncio.timeout(10):  # the server may need a moment to notice
            while await hand.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'coatcheck'"
            ):
                await asyncio.sleep(0.005)
        for _ in range(4):
            found = await store.read("a")
            if isinstance(found, SessionRecord):  # else the end came to pass after all, as it may
                assert dict(found.values) in ({}, {"k": b"1"})
        await store.create(record("b"))


async def test_the_store_is_one_loops_and_says_so(url: str) -> None:
    await migrated(url)
    store = PostgresStore(url)
    await store.start()
    with pytest.raises(Exception, match="was started on another event loop: make one store for each loop"):
        await asyncio.to_thread(asyncio.run, store.read("a"))
    await store.close()
