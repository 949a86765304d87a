"""What the Redis store's feed tells, of our own changes and of what is typed by hand, and when it confirms nothing."""

import asyncio
from typing import Any

import pytest

from coatcheck.errors import StoreUnavailable
from coatcheck.record import Changes
from coatcheck.stores._redis_keys import bucket_of
from coatcheck.stores._redis_scripts import WRITE
from coatcheck.stores._redis_server import Command, pack
from coatcheck.stores.contract import Change
from coatcheck.testing import ManualClock
from tests.clients.redis_server import RedisServer
from tests.stores.asking import calls_that_asking_costs
from tests.stores.redis_nodes import NOW, anew, confirmed, hold, identity, record, settled, started, steps_of, told


def key_of(store: Any, session_id: str) -> str:
    return steps_of(store).keys.record(session_id)


async def test_what_is_typed_by_hand_is_told_and_no_copy_is_believed(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, clock=clock) as (store,):
        stream = store.changes()
        sessions = [await anew(store) for _ in range(4)]
        keys = [key_of(store, session.id) for session in sessions]
        await anew(store, user_id="müller:{}")
        await settled(stream, store, clock)
        heard: list[Change] = []
        stream.poll(heard.append)
        assert heard == []
        redis_server.cli("DEL", keys[0])
        redis_server.cli("SET", keys[1], "rubbish")
        redis_server.cli("RENAME", keys[2], keys[0])
        redis_server.cli("PEXPIRE", keys[3], "1")
        redis_server.cli("DEL", steps_of(store).keys.user("müller:{}"))
        redis_server.cli("SET", f"{keys[3]}:w:no number:", "typed")
        heard = await told(stream, lambda heard: Change("user", "müller:{}") in heard and len(heard) >= 7)
        assert {change.id for change in heard} == {*(session.id for session in sessions), "müller:{}"}
        assert all((change.version, change.generation) == (0, 0) for change in heard)
        assert {change.kind for change in heard} == {"changed", "user"}


async def test_a_flush_is_told_as_a_loss_of_everything(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        stream = store.changes()
        session = await anew(store)
        for command in ("FLUSHALL", "FLUSHDB"):
            redis_server.cli(command)
            assert Change("missed") in await told(stream, lambda heard: Change("missed") in heard)
        assert await store.read(session.id) is None


async def test_neither_logins_nor_last_seen_times_are_told_but_what_they_change_is(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, 2, clock=clock) as (one, two):
        stream = two.changes()
        session = await anew(one, user_id="first login of this user")
        await one.touch({session.id: NOW + 5})
        await one.list_user("first login of this user")
        await settled(stream, two, clock)
        heard: list[Change] = []
        stream.poll(heard.append)
        assert heard == []
        await one.apply(session.id, identity())
        assert await told(stream, len) == [Change("changed", session.id, 2, 2)]


async def test_a_change_by_hand_in_the_same_turn_as_our_own_is_found_before_anything_is_confirmed(
    redis_server: RedisServer,
) -> None:
    clock = ManualClock()
    async with started(redis_server.url, 2, clock=clock) as (one, two):
        streams = [one.changes(), two.changes()]
        session = await anew(one)
        link = steps_of(one).link
        real = link.ask

        async def with_a_del(key: str, *commands: Command, **named: Any) -> list[Any]:
            # Redis takes both from the connection at once, and tells of one key only once in one turn of its loop.
            also = [("DEL", key)] if commands[0][0] is WRITE else []
            return await real(key, *commands, *also, **named)

        link.ask = with_a_del  # type: ignore[method-assign]
        clock.advance(1.0)
        written = clock.monotonic()
        reading = asyncio.ensure_future(two.read(session.id))  # it may have got the version in between
        merged = await one.apply(session.id, Changes(set={"k": b"1"}))
        await reading
        assert merged is not None, "the writer holds a copy of what is gone"
        for stream, store in zip(streams, (one, two), strict=True):
            heard = await confirmed(stream, store, written)
            assert Change("changed", session.id, 2, 1) in heard
            assert Change("changed", session.id) in heard


async def test_copies_that_nobody_can_have_are_not_looked_up(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, 2, clock=clock) as (one, two):
        stream = two.changes()
        session = await anew(one)
        await settled(stream, two, clock)
        looked: list[str] = []
        real = two._feed._versions

        async def versions(ids: Any) -> Any:
            looked.extend(ids)
            return await real(ids)

        two._feed._versions = versions
        for number in range(5):
            await one.apply(session.id, Changes(set={"k": b"%d" % number}))
        await settled(stream, two, clock)
        assert looked == []
        await two.read(session.id)
        await one.apply(session.id, Changes(set={"k": b"9"}))
        await settled(stream, two, clock)
        assert looked == [session.id]


async def test_a_probe_comes_after_all_that_happened_before_it(redis_server: RedisServer) -> None:
    """In one turn of Redis's loop, in which it tells prefix by prefix, as in many."""
    async with started(redis_server.url) as (store,):
        stream = store.changes()
        (tracker,) = store._feed._trackers.values()
        assert store._feed._task is not None
        store._feed._task.cancel()  # the probes are ours
        for _ in range(50):
            sessions = [await anew(store) for _ in range(3)]
            # On one connection and at once: the ends and the probe are one turn's.
            wire: Any = tracker._redirecting
            keys = [key_of(store, session.id) for session in sessions]
            real = wire.send_packed_command

            async def send(command: bytes, check_health: bool = True, keys: Any = keys, real: Any = real) -> None:
                await real(b"".join(pack(("DEL", key)) for key in keys) + command, check_health=check_health)

            wire.send_packed_command = send
            await tracker.probe("0", *[("PING",)] * len(keys))
            wire.send_packed_command = real
            for _ in keys:
                await wire.read_response()
            heard: list[Change] = []
            stream.poll(heard.append)
            assert {session.id for session in sessions} <= {change.id for change in heard}


@pytest.mark.parametrize("name", ["coatcheck-tracking", "coatcheck-told"])
async def test_a_connection_of_the_feed_that_is_killed_alone_is_noticed(redis_server: RedisServer, name: str) -> None:
    clock = ManualClock()
    async with started(redis_server.url, 2, clock=clock) as (one, two):
        stream = two.changes()
        session = await anew(one)
        await settled(stream, two, clock)
        clock.advance(1.0)
        mine = {wire._writer.get_extra_info("sockname")[1] for wire in wires_of(two)}
        lines = [line for line in redis_server.cli("CLIENT", "LIST").splitlines() if f"name={name}" in line]
        (address,) = [
            field[5:]
            for line in lines
            for field in line.split()
            if field.startswith("addr=") and int(field.rpartition(":")[2]) in mine
        ]
        redis_server.cli("CLIENT", "KILL", "ADDR", address)
        killed = clock.monotonic()
        await one.end([session.id], reason="x", now=NOW)
        heard: list[Change] = []
        async with asyncio.timeout(5):
            while not any(change.kind in ("missed", "ended") for change in heard):
                assert stream.confirmed() < killed, "confirmed, and not told"
                await stream.wait()
                try:
                    stream.poll(heard.append)
                except StoreUnavailable as error:
                    assert "redis://127.0.0.1" in str(error)
        await settled(stream, two, clock)
        await one.create(again := record())
        await one.end([again.id], reason="y", now=NOW)
        assert Change("ended", again.id, reason="y") in await told(
            stream, lambda heard: Change("ended", again.id, reason="y") in heard
        )


def wires_of(store: Any) -> list[Any]:
    (tracker,) = store._feed._trackers.values()
    return [tracker._told, tracker._redirecting]


async def test_a_store_that_closes_while_its_feed_begins_anew_leaves_no_connection_open(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(redis_server.url) as (store,):
        (tracker,) = store._feed._trackers.values()
        closing, real = asyncio.Event(), tracker.close

        async def close() -> None:
            if not closing.is_set():
                closing.set()
                await asyncio.sleep(3600)  # until the store closes
            await real()

        monkeypatch.setattr(tracker, "close", close)
        redis_server.cli("CLIENT", "KILL", "ID", _id_of(redis_server, "coatcheck-told"))
        async with asyncio.timeout(10):
            await closing.wait()
        assert redis_server.cli("CLIENT", "LIST").count("name=coatcheck-tracking") == 1
    async with asyncio.timeout(10):
        while "name=coatcheck-tracking" in redis_server.cli("CLIENT", "LIST"):
            await asyncio.sleep(0.01)


def _id_of(server: RedisServer, name: str) -> str:
    (line,) = [line for line in server.cli("CLIENT", "LIST").splitlines() if f"name={name} " in line]
    return line.split()[0].removeprefix("id=")


async def test_a_stream_goes_on_when_its_store_opens_again(redis_server: RedisServer) -> None:
    async with started(redis_server.url, 2) as (one, two):
        stream = two.changes()
        session = await anew(one)
        await two.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            stream.poll(lambda change: None)
        await one.end([session.id], reason="x", now=NOW)
        await two.start()
        assert await told(stream, len) == [Change("missed")]
        await stream.aclose()
        await stream.aclose()
        await one.end([(await anew(one)).id], reason="x", now=NOW)
        await asyncio.sleep(0.05)
        assert not stream.behind()


async def test_a_poll_within_a_delivery_tells_nothing_twice_and_what_failed_comes_again(
    redis_server: RedisServer,
) -> None:
    async with started(redis_server.url) as (store,):
        stream = store.changes()
        sessions = [await anew(store) for _ in range(3)]
        await store.end([session.id for session in sessions], reason="x", now=NOW)
        async with asyncio.timeout(5):
            while len(stream._told) < 3:
                await stream.wait()
        heard: list[str] = []

        def deliver(change: Change) -> None:
            stream.poll(deliver)
            heard.append(change.id)
            if len(heard) == 2:
                raise RuntimeError("stumbled")

        with pytest.raises(RuntimeError):
            stream.poll(deliver)
        assert stream.behind()
        stream.poll(deliver)
        assert sorted(set(heard)) == sorted(session.id for session in sessions)
        assert len(heard) == 4


async def test_a_listener_that_is_slow_to_start_does_not_confirm_what_it_did_not_read(
    redis_server: RedisServer,
) -> None:
    """What a stream confirms was in its queue when it was polled, however long the queue had been."""
    clock = ManualClock()
    async with started(redis_server.url, 2, clock=clock) as (one, two):
        stream = two.changes()
        await settled(stream, two, clock)
        before = stream.confirmed()
        clock.advance(3.0)
        session = await anew(one)
        await one.end([session.id], reason="x", now=NOW)
        async with asyncio.timeout(5):
            while two._feed.confirmed <= before:
                two._feed.hurry()
                await asyncio.sleep(0.001)
        assert stream.confirmed() == before
        heard: list[Change] = []
        stream.poll(heard.append)
        assert Change("ended", session.id, reason="x") in heard
        assert stream.confirmed() > before


async def test_nothing_is_confirmed_while_a_look_at_own_copies_is_held_up(redis_server: RedisServer) -> None:
    clock = ManualClock()
    async with started(redis_server.url, clock=clock) as (store,):
        stream = store.changes()
        session = await anew(store)
        await settled(stream, store, clock)
        gate = hold(store, "versions")
        await store.apply(session.id, Changes(set={"k": b"1"}))
        clock.advance(1.0)
        written = clock.monotonic()
        store._feed.hurry()
        await gate.arrived.wait()
        stream.poll(lambda change: None)
        assert stream.confirmed() < written
        gate.release()
        await settled(stream, store, clock)


async def test_to_ask_whether_there_is_something_costs_no_more_than_a_few_calls(redis_server: RedisServer) -> None:
    async with started(redis_server.url) as (store,):
        assert calls_that_asking_costs(store.changes()) < 4


def test_a_bucket_never_changes() -> None:
    assert [bucket_of(text) for text in ("", "AAAAAAAAAAAAAAAAAAAAAA", "Müller")] == [0, 3008, 1989]
