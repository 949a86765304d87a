"""The Redis store where steps meet: logins, changes and ends that come between one another, each held at a barrier.

Each runs twice: as on one server, where a script looks at a session and its user at once, and as in a cluster, where they
lie on two and no script can (decision 17).
"""

import asyncio
from contextlib import suppress

import pytest

from coatcheck.errors import LoginRefused
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores._redis_link import Link
from coatcheck.stores.redis import RedisStore
from tests.clients.redis_server import RedisServer
from tests.stores.redis_nodes import NOW, anew, hold, identity, record, started, steps_of


@pytest.fixture(params=["one_server", "as_in_a_cluster"], autouse=True)
def apart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(Link, "together", request.param == "one_server")
    return request.param != "one_server"


async def alive(store: RedisStore, session_id: str) -> bool:
    found = isinstance(await store.read(session_id), SessionRecord)
    assert (session_id in await store.alive([session_id])) == found
    return found


async def test_a_login_that_an_end_of_all_overtakes_is_refused_and_writes_nothing(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        visitor = await anew(one, values={"cart": b"1"})
        epoch = await one.epoch("ann")
        gate = hold(one, "replace")
        login = asyncio.ensure_future(one.apply(visitor.id, identity(user_id="ann", epoch=epoch)))
        await gate.arrived.wait()  # the epoch was still the right one when it was looked at
        await two.end_user("ann", reason="x", now=NOW)
        gate.release()
        with pytest.raises(LoginRefused):
            await login
        for store in (one, two):
            found = await store.read(visitor.id)
            assert isinstance(found, SessionRecord)
            assert (found.user_id, found.secret_hash, dict(found.values)) == (None, visitor.secret_hash, {"cart": b"1"})
            assert await store.list_user("ann") == []


async def test_a_new_session_that_an_end_of_all_overtakes_never_lives(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        made = record(user_id="ann", epoch=await one.epoch("ann"))
        gate = hold(one, "create")
        login = asyncio.ensure_future(one.create(made))
        await gate.arrived.wait()
        await two.end_user("ann", reason="x", now=NOW)
        gate.release()
        with pytest.raises(LoginRefused):
            await login
        assert not await alive(two, made.id)
        assert await two.list_user("ann") == []


async def test_whoever_reads_while_all_are_ended_sees_the_kept_one_alive_and_no_other(
    redis_server: RedisServer,
) -> None:
    async with started(redis_server.url, 2) as (one, two):
        mine = [await anew(one, user_id="ann") for _ in range(3)]
        kept = mine[1]
        gate = hold(one, "bump", "after")
        ending = asyncio.ensure_future(one.end_user("ann", reason="x", now=NOW, keep=kept.id))
        await gate.arrived.wait()  # the epoch has risen, and no session's record was touched yet
        assert [await alive(two, session.id) for session in mine] == [False, True, False]
        assert [session.id for session in await two.list_user("ann")] == [kept.id]
        found = await two.read(kept.id)
        assert isinstance(found, SessionRecord)
        assert found.epoch == await two.epoch("ann") > kept.epoch
        changed = await two.apply(kept.id, Changes(set={"k": b"1"}))
        assert changed is not None
        gate.release()
        assert sorted(await ending) == sorted(session.id for session in mine if session is not kept)
        found = await two.read(kept.id)
        assert isinstance(found, SessionRecord)
        assert (found.epoch, dict(found.values)) == (await one.epoch("ann"), {"k": b"1"})
        assert isinstance(await two.read(mine[0].id), Tombstone)


async def test_a_login_on_the_kept_session_that_was_checked_before_is_refused_after(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        kept = await anew(one, user_id="ann")
        gate = hold(one, "replace")
        login = asyncio.ensure_future(one.apply(kept.id, identity(user_id="ann", epoch=kept.epoch)))
        await gate.arrived.wait()
        assert await two.end_user("ann", reason="x", now=NOW, keep=kept.id) == []
        gate.release()
        with pytest.raises(LoginRefused):
            await login
        found = await two.read(kept.id)
        assert isinstance(found, SessionRecord)
        assert found.secret_hash == kept.secret_hash


async def test_an_end_of_all_that_stops_half_way_keeps_its_word_to_whoever_comes_next(
    redis_server: RedisServer,
) -> None:
    async with started(redis_server.url, 2) as (one, two):
        kept, other = await anew(one, user_id="ann"), await anew(one, user_id="ann")
        for keep_again in (True, False):
            gate = hold(one, "bump", "after")
            ending = asyncio.ensure_future(one.end_user("ann", reason="x", now=NOW, keep=kept.id))
            await gate.arrived.wait()
            ending.cancel()  # before the kept session was given the new epoch
            with suppress(asyncio.CancelledError):
                await ending
            assert await alive(two, kept.id)
            assert not await alive(two, other.id)
            with pytest.raises(LoginRefused):
                await two.apply(kept.id, identity(user_id="ann", epoch=kept.epoch))
            await two.end_user("ann", reason="x", now=NOW, keep=kept.id if keep_again else None)
            assert await alive(two, kept.id) == keep_again


async def test_of_two_ends_of_all_at_once_each_is_obeyed(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        for same in (True, False):
            first, second = await anew(one, user_id="ann"), await anew(one, user_id="ann")
            keep = first if same else second
            gates = [hold(one, "bump", "after"), hold(two, "bump", "after")]
            endings = [
                asyncio.ensure_future(one.end_user("ann", reason="x", now=NOW, keep=first.id)),
                asyncio.ensure_future(two.end_user("ann", reason="y", now=NOW, keep=keep.id)),
            ]
            for gate in gates:
                await gate.arrived.wait()
            for gate in reversed(gates):
                gate.release()
            ended = [session_id for ending in endings for session_id in await ending]
            assert len(ended) == len(set(ended)), "each ends once"
            assert await alive(one, first.id) == same
            assert not await alive(one, second.id), "both said so, or the first of them did"
            await one.end_user("ann", reason="z", now=NOW)


async def test_a_session_that_went_over_to_another_user_is_not_ended_with_the_first_ones(
    redis_server: RedisServer,
) -> None:
    async with started(redis_server.url, 2) as (one, two):
        session = await anew(one, user_id="ann")
        epoch = await one.epoch("bob")
        change = hold(one, "replace")
        moving = asyncio.ensure_future(one.apply(session.id, identity(user_id="bob", epoch=epoch)))
        await change.arrived.wait()
        end = hold(two, "end")
        ending = asyncio.ensure_future(two.end_user("ann", reason="x", now=NOW))
        await end.arrived.wait()  # it has read that the session is ann's
        change.release()
        moved = await moving
        end.release()
        ended = await ending
        # It was bob's before ann's were ended, or it was ended with them: never both.
        assert (moved is not None) == (ended == [])
        assert await alive(one, session.id) == (moved is not None)
        if moved is not None:
            assert await one.list_user("bob") == [moved]


async def test_a_change_that_meets_an_end_brings_nothing_back(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        session = await anew(one)
        gate = hold(one, "replace")
        writing = asyncio.ensure_future(one.apply(session.id, Changes(set={"k": b"1"})))
        await gate.arrived.wait()
        assert await two.end([session.id], reason="x", now=NOW) == [session.id]
        gate.release()
        assert await writing is None
        assert isinstance(await one.read(session.id), Tombstone)


async def test_a_change_that_meets_another_one_is_merged_with_it(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        session = await anew(one, values={"a": b"1"})
        gate = hold(one, "replace")
        writing = asyncio.ensure_future(one.apply(session.id, Changes(set={"b": b"2"})))
        await gate.arrived.wait()
        await two.apply(session.id, Changes(delete=frozenset({"a"}), set={"c": b"3"}))
        gate.release()
        merged = await writing
        assert merged is not None
        assert (merged.version, dict(merged.values)) == (3, {"b": b"2", "c": b"3"})
        gate = hold(one, "replace")
        writing = asyncio.ensure_future(one.apply(session.id, Changes(set={"b": b"9"}), expect_version=3))
        await gate.arrived.wait()
        await two.apply(session.id, Changes(set={"c": b"4"}))
        gate.release()
        assert await writing is None


async def test_an_end_counts_only_who_was_still_there(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        session = await anew(one, user_id="ann")
        gate = hold(one, "bump", "after")
        ending = asyncio.ensure_future(one.end_user("ann", reason="all", now=NOW))
        await gate.arrived.wait()
        assert await two.end([session.id], reason="x", now=NOW) == [], "its user's epoch had risen before"
        gate.release()
        assert await ending == [session.id]


async def test_users_without_an_index_or_an_epoch_are_ended_all_the_same(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        keys = steps_of(one).keys
        mine = [await anew(one, user_id="a}nn {") for _ in range(2)]
        redis_server.cli("DEL", keys.index("a}nn {"))
        assert await one.list_user("a}nn {") == []
        assert await alive(two, mine[0].id)
        assert [session.id for session in await one.list_user("a}nn {")] == [mine[0].id], "a read mends the index"
        redis_server.cli("DEL", keys.index("a}nn {"))
        assert await two.end_user("a}nn {", reason="x", now=NOW) == []
        assert [await alive(one, session.id) for session in mine] == [False, False]
        again = await anew(one, user_id="a}nn {")
        redis_server.cli("DEL", keys.user("a}nn {"))
        assert not await alive(two, again.id), "a missing epoch refuses"
        await two.epoch("a}nn {")
        assert not await alive(two, again.id), "and a new one is none that ever was"
        redis_server.cli("SET", keys.user("a}nn {"), "rubbish")
        assert not await alive(two, again.id)
        fresh = await anew(one, user_id="a}nn {")
        assert await alive(two, fresh.id)


async def test_whoever_was_ended_is_not_kept_by_an_end_of_all_that_began_before(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        session = await anew(one, user_id="ann")
        bump, end = hold(one, "bump"), hold(two, "end")
        keeping = asyncio.ensure_future(one.end_user("ann", reason="x", now=NOW, keep=session.id))
        await bump.arrived.wait()  # it has seen that the session lives
        ending = asyncio.ensure_future(two.end_user("ann", reason="y", now=NOW))
        await end.arrived.wait()  # now it is over, though its record is still there
        bump.release()
        assert await keeping == []
        assert not await alive(one, session.id)
        end.release()
        assert await ending == [session.id]
