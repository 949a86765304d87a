"""The memory store beyond the contract (which the conformance kit checks): bounded, pruned, and safe from any thread."""

import asyncio
from typing import Any

import msgspec
import pytest

from coatcheck.errors import LoginRefused, SessionRefused
from coatcheck.ids import encode
from coatcheck.record import TOMBSTONE_SECONDS, Changes, Identity, SessionRecord, Tombstone
from coatcheck.stores.contract import Change, Store
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import ManualClock

NOW = 1_700_000_000.0


def name(number: int) -> str:
    return encode(number.to_bytes(16, "big"))


def record(number: int, **fields: Any) -> SessionRecord:
    plain = SessionRecord(
        id=name(number), secret_hash=b"h%d" % number, created_at=NOW, expires_at=NOW + 1000, last_seen_at=NOW
    )
    return msgspec.structs.replace(plain, **fields)


async def full(count: int, **options: Any) -> MemoryStore:
    store = MemoryStore(**options)
    for number in range(count):
        await store.create(record(number, last_seen_at=NOW + number))
    return store


async def present(store: MemoryStore, count: int) -> list[int]:
    return [number for number in range(count) if isinstance(await store.read(name(number)), SessionRecord)]


def told(stream: Any) -> list[Change]:
    changes: list[Change] = []
    stream.poll(changes.append)
    return changes


def test_it_keeps_the_contract_as_far_as_types_tell() -> None:
    store: Store = MemoryStore()
    assert store.any_loop


# ---- bounded


async def test_beyond_its_bound_the_longest_unseen_session_is_ended_and_the_feed_says_so() -> None:
    store = await full(3, max_sessions=3)
    await store.touch({name(0): NOW + 10})
    stream = store.changes()
    await store.create(record(3))
    assert await present(store, 4) == [0, 2, 3]
    assert told(stream) == [Change("ended", name(1), reason="evicted")]
    assert isinstance(await store.read(name(1)), Tombstone)


async def test_a_change_of_values_is_not_being_seen() -> None:
    store = await full(3, max_sessions=3)
    await store.apply(name(0), Changes(set={"a": b"\x01"}))
    await store.create(record(3))
    assert await present(store, 4) == [1, 2, 3]


async def test_a_flood_of_sessions_never_exceeds_the_bound() -> None:
    store = await full(500, max_sessions=10)
    assert await present(store, 500) == list(range(490, 500))
    assert len(store._records) == 10


async def test_a_creation_that_is_refused_evicts_nobody() -> None:
    store = await full(3, max_sessions=3)
    with pytest.raises(SessionRefused):
        await store.create(record(1))
    with pytest.raises(LoginRefused):
        await store.create(record(9, user_id="user", epoch=5))
    assert await present(store, 3) == [0, 1, 2]


async def test_a_user_whose_sessions_were_evicted_has_none_left_in_the_index() -> None:
    store = MemoryStore(max_sessions=1)
    epoch = await store.epoch("user")
    await store.create(record(1, user_id="user", epoch=epoch))
    await store.create(record(2))
    assert await store.list_user("user") == []
    assert store._users == {}


# ---- pruned


async def test_a_sweep_forgets_tombstones_after_their_minute() -> None:
    store = await full(3)
    await store.end([name(0)], reason="logout", now=NOW)
    await store.end([name(1)], reason="logout", now=NOW + 30)
    await store.sweep(now=NOW + TOMBSTONE_SECONDS, limit=10, unseen_since=0)
    assert isinstance(await store.read(name(0)), Tombstone)
    await store.sweep(now=NOW + TOMBSTONE_SECONDS + 1, limit=10, unseen_since=0)
    assert await store.read(name(0)) is None
    assert isinstance(await store.read(name(1)), Tombstone)


async def test_a_sweep_works_in_steps_and_says_how_much_it_did() -> None:
    store = await full(5)
    late = NOW + 2000
    assert [await store.sweep(now=late, limit=2, unseen_since=0) for _ in range(3)] == [2, 2, 1]
    assert await store.sweep(now=late, limit=2, unseen_since=0) == 0
    assert store._records == {}


async def test_a_sweep_takes_what_expired_or_was_not_seen_and_the_feed_says_which() -> None:
    store = MemoryStore()
    await store.create(record(0, expires_at=NOW + 10))
    await store.create(record(1, last_seen_at=NOW - 500))
    await store.create(record(2))
    stream = store.changes()
    assert await store.sweep(now=NOW + 10, limit=10, unseen_since=NOW - 100) == 1
    assert await store.sweep(now=NOW + 11, limit=10, unseen_since=NOW - 100) == 1
    assert told(stream) == [Change("ended", name(1), reason="idle"), Change("ended", name(0), reason="expired")]
    assert await present(store, 3) == [2]


# ---- the feed


async def test_each_node_has_a_feed_of_its_own_that_begins_when_it_is_opened() -> None:
    store = await full(2)
    one = store.changes()
    await store.end([name(0)], reason="logout", now=NOW)
    two = store.changes()
    await store.end([name(1)], reason="logout", now=NOW)
    assert [change.id for change in told(one)] == [name(0), name(1)]
    assert [change.id for change in told(two)] == [name(1)]
    assert told(one) == told(two) == []


async def test_a_feed_is_complete_up_to_the_last_poll_by_the_injected_clock() -> None:
    clock = ManualClock()
    stream = MemoryStore(clock=clock).changes()
    assert stream.confirmed() == float("-inf")
    stream.poll(lambda change: None)
    at = clock.monotonic()
    clock.advance(5)
    assert stream.confirmed() == at


async def test_a_change_whose_delivery_failed_is_delivered_again() -> None:
    store = await full(1)
    stream = store.changes()
    await store.end([name(0)], reason="logout", now=NOW)

    def fail(change: Change) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stream.poll(fail)
    assert stream.behind()
    assert stream.confirmed() == float("-inf")
    assert [change.kind for change in told(stream)] == ["ended"]
    assert not stream.behind()


async def test_waiting_ends_as_soon_as_something_happens_on_any_thread() -> None:
    store = await full(1)
    stream = store.changes()
    waiting = asyncio.create_task(stream.wait())
    await asyncio.sleep(0)
    ending = asyncio.to_thread(lambda: asyncio.run(store.end([name(0)], reason="logout", now=NOW)))
    assert await ending == [name(0)]
    async with asyncio.timeout(0.4):  # below the time after which it returns anyway
        await waiting
    assert stream.behind()
    await stream.wait()


async def test_a_feed_that_was_closed_costs_nothing_any_more() -> None:
    store = await full(1)
    stream = store.changes()
    await stream.aclose()
    await stream.aclose()
    await store.end([name(0)], reason="logout", now=NOW)
    assert not stream.behind()
    assert store._streams == []


# ---- one step at a time


def test_threads_never_lose_each_others_changes() -> None:
    store = MemoryStore()
    asyncio.run(store.create(record(0)))

    async def write(key: str) -> None:
        for number in range(50):
            assert await store.apply(name(0), Changes(set={f"{key}{number}": b"\x01"}))

    async def both() -> None:
        await asyncio.gather(*(asyncio.to_thread(lambda key=key: asyncio.run(write(key))) for key in "abcd"))

    asyncio.run(both())
    found = asyncio.run(store.read(name(0)))
    assert isinstance(found, SessionRecord)
    assert len(found.values) == 200
    assert found.version == 201


async def test_closing_keeps_the_sessions_for_the_next_start() -> None:
    store = await full(1)
    await store.close()
    await store.start()
    assert await present(store, 1) == [0]


async def test_an_epoch_is_stable_until_everything_is_ended_and_never_comes_back() -> None:
    store = MemoryStore()
    first = await store.epoch("user")
    assert await store.epoch("user") == first
    await store.end_user("user", reason="x", now=NOW)
    assert await store.epoch("user") != first
    assert await store.epoch("else") != await store.epoch("user")


async def test_ending_a_user_nobody_knows_still_refuses_a_login_under_way() -> None:
    store = MemoryStore()
    epoch = await store.epoch("user")
    assert await store.end_user("user", reason="x", now=NOW) == []
    with pytest.raises(LoginRefused):
        await store.create(record(1, user_id="user", epoch=epoch))
    await store.create(record(2))
    identity = Identity(secret_hash=b"new", at=NOW, user_id="user", epoch=epoch, expires_at=NOW + 10)
    with pytest.raises(LoginRefused):
        await store.apply(name(2), Changes(identity=identity))
    found = await store.read(name(2))
    assert isinstance(found, SessionRecord)
    assert found.version == 1, "nothing was written"
