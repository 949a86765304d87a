"""The conformance kit: what every store must pass, alone and under the manager, each interleaving forced by barriers.

Give it a way to open your store, and run every check:

    @pytest.mark.parametrize("name", conformance.CHECKS)
    def test_my_store(name):
        asyncio.run(conformance.run(name, lambda clock: MyStore(url, clock=clock)))

`open_store(clock)` is called once for each node that a check wants; all must see the same, at first empty, data. Checks
raise AssertionError. That the kit can fail is shown by mutants, among Coatcheck's own tests.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import pytest

from coatcheck.errors import LoginRefused, SessionEnded, SessionRefused, StoreUnavailable
from coatcheck.ids import encode, hash_secret, split_token
from coatcheck.manager import Sessions
from coatcheck.record import Changes, Identity, SessionRecord, Tombstone
from coatcheck.session import Session
from coatcheck.stores.contract import Change, ChangeStream, Store
from coatcheck.testing.clock import ManualClock
from coatcheck.testing.stores import GatedStore

__all__ = ["CHECKS", "Rig", "run"]

OpenStore = Callable[[ManualClock], Store]
MakeSessions = Callable[[Store, ManualClock], Sessions]
Check = Callable[["Rig"], Awaitable[None]]

CHECKS: Final[dict[str, Check]] = {}
"""Every check by name."""

IDLE, TOUCH, STALE = 1000.0, 10.0, 2.0

PATIENCE = 5.0
"""Real seconds in which a feed must have told another node: far more than any promise, so that busy machines pass."""


def _make_sessions(store: Store, clock: ManualClock) -> Sessions:
    return Sessions(
        store, clock=clock, idle_timeout=IDLE, touch_interval=TOUCH, max_staleness=STALE, lifetime=100_000.0
    )


class Rig:
    """What a check works with: nodes on one set of data, a clock, and records to begin with."""

    def __init__(self, open_store: OpenStore, make_sessions: MakeSessions = _make_sessions) -> None:
        self.clock: ManualClock = ManualClock()
        self._open = open_store
        self._make = make_sessions
        self._count = 0
        self._stores: list[Store] = []
        self._sessions: list[Sessions] = []
        self._streams: list[ChangeStream] = []

    async def store(self) -> GatedStore:
        """Open the data once more, as another node does."""
        store = GatedStore(self._open(self.clock))
        await store.start()
        self._stores.append(store)
        return store

    async def node(self) -> tuple[Sessions, GatedStore]:
        """Give a manager on a store of its own."""
        store = await self.store()
        sessions = self._make(store, self.clock)
        await sessions.start()
        self._sessions.append(sessions)
        return sessions, store

    async def stream(self, store: Store) -> ChangeStream:
        """Open a feed and take it to the point where it tells of what happens from now on."""
        stream = store.changes()
        self._streams.append(stream)
        stream.poll(lambda change: None)
        return stream

    def secret(self, number: int) -> bytes:
        """Give a secret's hash."""
        return hash_secret(b"secret %d" % number)

    async def record(self, store: Store, *, user_id: str | None = None, **fields: object) -> SessionRecord:
        """Store a record and give it."""
        self._count += 1
        now = self.clock.time()
        record = SessionRecord(
            id=encode(self._count.to_bytes(16, "big")),
            secret_hash=self.secret(self._count),
            created_at=now,
            expires_at=now + 100_000.0,
            last_seen_at=now,
            user_id=user_id,
            epoch=0 if user_id is None else await store.epoch(user_id),
        )
        record = msgspec.structs.replace(record, **fields)
        await store.create(record)
        return record

    def identity(self, number: int, *, user_id: str | None = None, epoch: int = 0) -> Identity:
        """Give a change of secret."""
        now = self.clock.time()
        return Identity(
            secret_hash=self.secret(number), at=now, user_id=user_id, epoch=epoch, expires_at=now + 100_000.0
        )

    async def close(self) -> None:
        """Close all that was opened."""
        for stream in self._streams:
            await stream.aclose()
        for sessions in self._sessions:
            await sessions.close()
        for store in self._stores:
            await store.close()


async def run(name: str, open_store: OpenStore, make_sessions: MakeSessions = _make_sessions) -> None:
    """Run one check. Raises AssertionError where the store, or the manager over it, breaks its word."""
    rig = Rig(open_store, make_sessions)
    try:
        async with asyncio.timeout(20):
            await CHECKS[name](rig)
    except TimeoutError as error:
        raise AssertionError(f"{name} did not come to its end") from error
    finally:
        await rig.close()


def _check(function: Check) -> Check:
    CHECKS[getattr(function, "__name__", "")] = function
    return function


def _refused(error: type[Exception]) -> pytest.RaisesExc[Exception]:
    return pytest.raises(error)


async def _alive(store: Store, record: SessionRecord) -> bool:
    return isinstance(await store.read(record.id), SessionRecord)


def _values(record: SessionRecord | Tombstone | None) -> dict[str, bytes]:
    assert isinstance(record, SessionRecord), "the session should be there"
    return dict(record.values)


async def _told(stream: ChangeStream, until: Callable[[list[Change]], bool]) -> list[Change]:
    """Follow a feed until something is there. A feed that stays silent fails by the check's time-out."""
    told: list[Change] = []
    stream.poll(told.append)
    while not until(told):
        await stream.wait()
        stream.poll(told.append)
    return told


# ---- the store alone


@_check
async def what_is_created_is_read_back_whole(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(
        store,
        user_id="user",
        values={"a": b"\x00\xff", "ключ": b"", "big": bytes(100_000)},
        system={"refresh": b"state"},
        about={"user_agent": "Müller\x00🦊"},
        remember=True,
        authenticated_at=rig.clock.time(),
        replaced=((rig.secret(99), rig.clock.time()),),
    )
    assert await store.read(record.id) == record
    other = await rig.store()
    assert await other.read(record.id) == record


@_check
async def an_unknown_id_is_nobodys(rig: Rig) -> None:
    store = await rig.store()
    assert await store.read(encode(bytes(16))) is None
    assert await store.apply(encode(bytes(16)), Changes(set={"a": b"1"})) is None
    assert await store.end([encode(bytes(16))], reason="x", now=rig.clock.time()) == []
    assert await store.read(encode(bytes(16))) is None


@_check
async def create_is_no_upsert(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store, values={"a": b"1"})
    with _refused(SessionRefused):
        await store.create(msgspec.structs.replace(record, values={"a": b"2"}))
    assert _values(await store.read(record.id)) == {"a": b"1"}
    await store.end([record.id], reason="x", now=rig.clock.time())
    with _refused(SessionRefused):
        await store.create(record)
    assert not await _alive(store, record)


@_check
async def an_ended_session_leaves_a_tombstone_for_a_while(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store)
    changed = await store.apply(record.id, Changes(identity=rig.identity(50)))
    assert changed is not None
    now = rig.clock.time()
    assert await store.end([record.id], reason="logout", now=now) == [record.id]
    stone = await (await rig.store()).read(record.id)
    assert isinstance(stone, Tombstone)
    assert (stone.id, stone.ended_at, stone.reason) == (record.id, now, "logout")
    assert set(stone.hashes) == {rig.secret(50), record.secret_hash}
    rig.clock.advance(61)
    await store.sweep(now=rig.clock.time(), limit=100, unseen_since=0.0)
    assert await store.read(record.id) is None


@_check
async def changes_to_different_keys_merge(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    record = await rig.record(one, values={"a": b"1", "b": b"1", "c": b"1"})
    await asyncio.gather(
        one.apply(record.id, Changes(set={"a": b"2"})),
        two.apply(record.id, Changes(delete=frozenset({"b"}))),
        two.apply(record.id, Changes(set={"d": b"4"})),
    )
    assert _values(await one.read(record.id)) == {"a": b"2", "c": b"1", "d": b"4"}


@_check
async def many_writers_lose_nothing(rig: Rig) -> None:
    stores = [await rig.store(), await rig.store()]
    record = await rig.record(stores[0])
    results = await asyncio.gather(
        *(stores[n % 2].apply(record.id, Changes(set={f"key {n}": b"%d" % n})) for n in range(40))
    )
    assert sorted(result.version for result in results if result is not None) == list(range(2, 42))
    assert _values(await stores[0].read(record.id)) == {f"key {n}": b"%d" % n for n in range(40)}


@_check
async def what_a_writer_knows_is_believed_only_where_it_stands(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    record = await rig.record(one, user_id="user", values={"a": b"1", "b": b"1"})
    # Exactly what stands: written whether or not it is read first.
    known = await one.apply(record.id, Changes(set={"a": b"2"}), known=record)
    assert known is not None
    assert known.version == record.version + 1
    assert await one.read(record.id) == known
    # Known from before, and known under a version that says something else: neither undoes what others have written.
    await two.apply(record.id, Changes(set={"b": b"2"}))
    await one.apply(record.id, Changes(set={"c": b"1"}), known=known)
    now = await two.read(record.id)
    assert isinstance(now, SessionRecord)
    assert _values(now) == {"a": b"2", "b": b"2", "c": b"1"}
    other = msgspec.structs.replace(now, values={"a": b"lost"}, secret_hash=rig.secret(77))
    written = await one.apply(record.id, Changes(set={"d": b"1"}), known=other)
    assert written is not None
    assert written.secret_hash == record.secret_hash
    assert _values(await two.read(record.id)) == {"a": b"2", "b": b"2", "c": b"1", "d": b"1"}
    # What is expected is expected of what stands, and a login needs the epoch of now.
    assert await one.apply(record.id, Changes(set={"e": b"1"}), known=known, expect_version=known.version) is None
    stale = written.epoch
    await two.end_user("user", reason="everywhere", now=rig.clock.time(), keep=record.id)
    with _refused(LoginRefused):
        await one.apply(record.id, Changes(identity=rig.identity(9, user_id="user", epoch=stale)), known=written)
    await two.end_user("user", reason="everywhere", now=rig.clock.time())
    assert await one.apply(record.id, Changes(set={"f": b"1"}), known=written) is None
    assert not isinstance(await one.read(record.id), SessionRecord)


@_check
async def one_of_many_wins_an_expected_version(rig: Rig) -> None:
    stores = [await rig.store(), await rig.store()]
    record = await rig.record(stores[0])
    results = await asyncio.gather(
        *(
            stores[n % 2].apply(record.id, Changes(set={"winner": b"%d" % n}), expect_version=record.version)
            for n in range(20)
        )
    )
    winners = [result for result in results if result is not None]
    assert len(winners) == 1
    assert _values(await stores[0].read(record.id)) == dict(winners[0].values)


@_check
async def nothing_is_written_to_an_ended_session(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store, values={"a": b"1"})
    await store.end([record.id], reason="x", now=rig.clock.time())
    assert await store.apply(record.id, Changes(set={"a": b"2"})) is None
    assert await store.apply(record.id, Changes(identity=rig.identity(50))) is None
    assert not await _alive(store, record)
    assert await store.alive([record.id]) == {}


@_check
async def nothing_is_written_where_the_secret_has_moved_on(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store, values={"a": b"1"})
    moved = await store.apply(record.id, Changes(identity=rig.identity(50)))
    assert moved is not None
    assert moved.generation == record.generation + 1
    assert await store.apply(record.id, Changes(set={"a": b"2"}), expect_generation=record.generation) is None
    assert await store.end([record.id], reason="x", now=rig.clock.time(), expect_generation=record.generation) == []
    assert await store.read(record.id) == moved


@_check
async def a_change_of_identity_is_one_step(rig: Rig) -> None:
    store, other = await rig.store(), await rig.store()
    record = await rig.record(store, values={"a": b"1"})
    epoch = await store.epoch("user")
    identity = msgspec.structs.replace(rig.identity(50, user_id="user", epoch=epoch), clear_values=True)
    task = asyncio.ensure_future(store.apply(record.id, Changes(set={"b": b"2"}, identity=identity)))
    seen: set[tuple[bytes, str | None, int, tuple[str, ...]]] = set()
    while True:
        done = task.done()
        found = await other.read(record.id)
        assert isinstance(found, SessionRecord)
        seen.add((found.secret_hash, found.user_id, found.generation, tuple(found.values)))
        if done:
            break
        await asyncio.sleep(0)
    before = (record.secret_hash, None, 1, ("a",))
    after = (rig.secret(50), "user", 2, ("b",))
    assert seen <= {before, after}, f"a reader saw a session between two identities: {seen - {before, after}}"
    assert after in seen
    result = await task
    assert result is not None
    assert [old for old, _ in result.replaced] == [record.secret_hash]


@_check
async def a_login_with_an_old_epoch_writes_nothing(rig: Rig) -> None:
    store, other = await rig.store(), await rig.store()
    record = await rig.record(store)
    epoch = await store.epoch("user")
    await other.end_user("user", reason="x", now=rig.clock.time())
    with _refused(LoginRefused):
        await store.apply(record.id, Changes(identity=rig.identity(50, user_id="user", epoch=epoch)))
    assert await store.read(record.id) == record
    with _refused(LoginRefused):
        await rig.record(store, user_id="user", epoch=epoch)
    assert await store.list_user("user") == []


@_check
async def a_user_without_an_epoch_cannot_be_logged_in(rig: Rig) -> None:
    store = await rig.store()
    with _refused(LoginRefused):
        await store.create(
            SessionRecord(
                id=encode(bytes(16)),
                secret_hash=rig.secret(1),
                created_at=rig.clock.time(),
                expires_at=rig.clock.time() + 10,
                last_seen_at=rig.clock.time(),
                user_id="never seen",
            )
        )
    epoch = await store.epoch("user")
    assert await (await rig.store()).epoch("user") == epoch


@_check
async def end_tells_what_it_ended(rig: Rig) -> None:
    store = await rig.store()
    records = [await rig.record(store) for _ in range(3)]
    ids = [record.id for record in records]
    now = rig.clock.time()
    assert await store.end(ids[:2], reason="x", now=now) == ids[:2]
    assert await store.end(ids, reason="x", now=now) == ids[2:]
    assert await store.end([], reason="x", now=now) == []


@_check
async def one_of_two_ends_counts(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    for _ in range(10):
        record = await rig.record(one)
        now = rig.clock.time()
        results = await asyncio.gather(
            one.end([record.id], reason="x", now=now), two.end([record.id], reason="y", now=now)
        )
        assert sorted(results) == [[], [record.id]]


@_check
async def a_session_that_was_seen_is_not_ended_as_idle(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    record = await rig.record(one)
    idle_since = record.last_seen_at
    rig.clock.advance(5)
    await two.touch({record.id: rig.clock.time()})
    now = rig.clock.time()
    assert await one.end([record.id], reason="idle", now=now, unseen_since=idle_since) == []
    assert await _alive(one, record)
    assert await one.end([record.id], reason="idle", now=now, unseen_since=now) == [record.id]


@_check
async def ending_a_user_ends_all_but_the_kept(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    mine = [await rig.record(one, user_id="user") for _ in range(4)]
    other = await rig.record(one, user_id="other")
    visitor = await rig.record(one)
    ended = await two.end_user("user", reason="x", now=rig.clock.time(), keep=mine[2].id)
    assert sorted(ended) == sorted(record.id for record in mine if record is not mine[2])
    for store in (one, two):
        assert [await _alive(store, record) for record in mine] == [False, False, True, False]
        assert await _alive(store, other)
        assert await _alive(store, visitor)
        assert [record.id for record in await store.list_user("user")] == [mine[2].id]
    kept = await one.apply(mine[2].id, Changes(set={"a": b"1"}))
    assert kept is not None
    assert kept.epoch == await one.epoch("user")
    assert sorted(await one.alive([record.id for record in mine])) == [mine[2].id]


@_check
async def keeping_a_session_of_another_user_keeps_nothing(rig: Rig) -> None:
    store = await rig.store()
    mine = await rig.record(store, user_id="user")
    other = await rig.record(store, user_id="other")
    assert await store.end_user("user", reason="x", now=rig.clock.time(), keep=other.id) == [mine.id]
    assert not await _alive(store, mine)
    assert await store.read(other.id) == other


@_check
async def epochs_rise_for_users_without_sessions_too(rig: Rig) -> None:
    store = await rig.store()
    before = await store.epoch("user")
    assert await store.end_user("user", reason="x", now=rig.clock.time()) == []
    after = await store.epoch("user")
    assert after > before
    await store.end_user("never seen", reason="x", now=rig.clock.time())
    assert isinstance(await store.epoch("never seen"), int)


@_check
async def last_seen_times_only_rise(rig: Rig) -> None:
    one, two = await rig.store(), await rig.store()
    record = await rig.record(one)
    ended = await rig.record(one)
    await one.end([ended.id], reason="x", now=rig.clock.time())
    at = record.last_seen_at
    await one.touch({record.id: at + 10, ended.id: at + 10, encode(bytes(16)): at})
    await two.touch({record.id: at + 5})
    found = await two.read(record.id)
    assert found == msgspec.structs.replace(record, last_seen_at=at + 10)
    assert not await _alive(one, ended)
    await one.touch({})


@_check
async def a_users_sessions_are_listed_in_order(rig: Rig) -> None:
    store = await rig.store()
    assert await store.list_user("user") == []
    mine: list[SessionRecord] = []
    for _ in range(3):
        rig.clock.advance(1)
        mine.append(await rig.record(store, user_id="user"))
    await rig.record(store, user_id="other")
    assert await store.list_user("user") == mine
    assert await store.list_user("user", beyond=2) == mine
    assert await store.list_user("user", beyond=3) in ([], mine)
    await store.end([mine[0].id], reason="x", now=rig.clock.time())
    assert await store.list_user("user") == mine[1:]


@_check
async def a_login_moves_a_session_to_its_user(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store, user_id="first")
    epoch = await store.epoch("second")
    moved = await store.apply(record.id, Changes(identity=rig.identity(50, user_id="second", epoch=epoch)))
    assert await store.list_user("first") == []
    assert await store.list_user("second") == [moved]
    await store.end_user("first", reason="x", now=rig.clock.time())
    assert await store.read(record.id) == moved


@_check
async def sweeping_goes_in_small_steps(rig: Rig) -> None:
    store = await rig.store()
    now = rig.clock.time()
    for _ in range(7):
        await rig.record(store, expires_at=now - 1)
    idle = await rig.record(store, last_seen_at=now - 100)
    fresh = await rig.record(store)
    swept = [await store.sweep(now=now, limit=5, unseen_since=now - 50) for _ in range(3)]
    assert swept == [5, 3, 0]
    assert await _alive(store, fresh)
    assert not await _alive(store, idle)


@_check
async def alive_gives_generations(rig: Rig) -> None:
    store = await rig.store()
    one, two = await rig.record(store), await rig.record(store)
    await store.apply(two.id, Changes(identity=rig.identity(50)))
    assert await store.alive([one.id, two.id, encode(bytes(16))]) == {one.id: 1, two.id: 2}
    assert await store.alive([]) == {}


@_check
async def the_feed_tells_what_happens_in_order(rig: Rig) -> None:
    store, other = await rig.store(), await rig.store()
    record = await rig.record(store, user_id="user")
    stream = await rig.stream(other)
    await store.apply(record.id, Changes(set={"a": b"1"}))
    await store.apply(record.id, Changes(identity=rig.identity(50, user_id="user", epoch=record.epoch)))
    await store.end([record.id], reason="logout", now=rig.clock.time())
    told = await _told(stream, lambda told: any(change.kind == "ended" for change in told))
    mine = [change for change in told if change.id == record.id]
    assert mine == [
        Change("changed", record.id, 2, 1),
        Change("changed", record.id, 3, 2),
        Change("ended", record.id, reason="logout"),
    ]


@_check
async def the_feed_tells_of_a_users_end(rig: Rig) -> None:
    store, other = await rig.store(), await rig.store()
    record = await rig.record(store, user_id="user")
    stream = await rig.stream(other)
    await store.end_user("user", reason="password changed", now=rig.clock.time())
    told = await _told(stream, lambda told: {"ended", "user"} <= {change.kind for change in told})
    assert Change("ended", record.id, reason="password changed") in told
    assert any(change.kind == "user" and change.id == "user" for change in told)


@_check
async def the_feed_tells_nothing_of_creation_and_last_seen(rig: Rig) -> None:
    store, other = await rig.store(), await rig.store()
    stream = await rig.stream(other)
    record = await rig.record(store)
    await store.touch({record.id: rig.clock.time() + 5})
    marker = await rig.record(store)
    await store.end([marker.id], reason="x", now=rig.clock.time())
    told = await _told(stream, lambda told: any(change.id == marker.id for change in told))
    assert [change.id for change in told] == [marker.id]


@_check
async def a_feed_is_confirmed_up_to_when_it_was_asked(rig: Rig) -> None:
    store = await rig.store()
    stream = store.changes()
    try:
        assert stream.confirmed() <= rig.clock.monotonic()
        while stream.confirmed() < rig.clock.monotonic():
            stream.poll(lambda change: None)
            await asyncio.sleep(0.001)
        asked = rig.clock.monotonic()
        rig.clock.advance(5)
        assert stream.confirmed() == asked, "the lease must not be prolonged by time alone"
    finally:
        await stream.aclose()
        await stream.aclose()


@_check
async def a_closed_store_opens_again(rig: Rig) -> None:
    store = await rig.store()
    record = await rig.record(store)
    await store.close()
    await store.close()
    await store.start()
    await store.start()
    assert await store.read(record.id) == record


# ---- the manager over it


async def _logged_in(sessions: Sessions, user_id: str = "user", **values: object) -> tuple[Session, bytes]:
    session = await sessions.load(None)
    await session.log_in(user_id)
    session.update(values)
    await session.commit()
    change = session.cookie_change
    assert change is not None
    assert change.token is not None
    return session, change.token.encode()


async def _user(sessions: Sessions, token: bytes) -> str | None:
    return (await sessions.load(token)).user_id


async def _refused_soon(sessions: Sessions, token: bytes) -> None:
    """Wait for a node to refuse a token, by its feed alone: no time passes on its clock."""
    async with asyncio.timeout(PATIENCE):
        while await _user(sessions, token) is not None:  # noqa: ASYNC110 - a feed has no event to wait for
            await asyncio.sleep(0.001)


@_check
async def an_ended_session_is_refused_everywhere(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    session, token = await _logged_in(one)
    assert await _user(two, token) == "user"
    assert await _user(two, token) == "user"
    assert session.id is not None
    assert await one.end(session.id)
    assert await _user(one, token) is None
    await _refused_soon(two, token)
    assert not await one.end(session.id)


@_check
async def a_fill_that_races_an_end_keeps_nothing(rig: Rig) -> None:
    (one, _), (two, store) = await rig.node(), await rig.node()
    session, token = await _logged_in(one)
    assert session.id is not None
    gate = store.hold("read", "after")
    loading = asyncio.ensure_future(two.load(token))
    await gate.arrived.wait()  # node two holds the record in its hands
    await one.end(session.id)
    for _ in range(20):  # feeds that come by network need a moment; then node two has been told
        await asyncio.sleep(0.002)
    gate.release()
    await loading
    assert await _user(two, token) is None, "the cache was filled with what had ended before"


@_check
async def a_fill_that_races_a_change_keeps_nothing_old(rig: Rig) -> None:
    (one, _), (two, store) = await rig.node(), await rig.node()
    session, token = await _logged_in(one, value=1)
    gate = store.hold("read", "after")
    loading = asyncio.ensure_future(two.load(token))
    await gate.arrived.wait()
    session["value"] = 2
    await session.commit()
    for _ in range(20):
        await asyncio.sleep(0.002)
    gate.release()
    await loading
    assert (await two.load(token))["value"] == 2


@_check
async def a_write_that_races_a_newer_one_keeps_nothing_old(rig: Rig) -> None:
    (one, store), (two, _) = await rig.node(), await rig.node()
    session, token = await _logged_in(one, a=1, b=1)
    other = await two.load(token)
    gate = store.hold("apply", "after")
    session["a"] = 2
    committing = asyncio.ensure_future(session.commit())
    await gate.arrived.wait()  # node one is about to learn what it wrote
    other["b"] = 2
    await other.commit()
    for _ in range(20):
        await asyncio.sleep(0.002)
    gate.release()
    await committing
    assert dict(await one.load(token)) == {"a": 2, "b": 2}


@_check
async def a_hit_needs_a_lease(rig: Rig) -> None:
    (one, _), (two, store) = await rig.node(), await rig.node()
    session, token = await _logged_in(one)
    assert session.id is not None
    assert await _user(two, token) == "user"
    store.feed_cut = True
    await one.end(session.id)
    rig.clock.advance(STALE)
    assert await _user(two, token) is None, "a copy was believed after its lease had run out"


@_check
async def without_lease_and_store_nobody_is_let_in(rig: Rig) -> None:
    sessions, store = await rig.node()
    _, token = await _logged_in(sessions)
    store.down = True
    assert await _user(sessions, token) == "user", "inside the lease a copy may be believed"
    rig.clock.advance(STALE)
    with _refused(StoreUnavailable):
        await sessions.load(token)
    store.down = False
    assert await _user(sessions, token) == "user"


@_check
async def a_slow_request_does_not_bring_back_what_was_logged_out(rig: Rig) -> None:
    (one, _), (two, store) = await rig.node(), await rig.node()
    _, token = await _logged_in(one)
    slow, fast = await two.load(token), await one.load(token)
    slow["late"] = 1
    gate = store.hold("apply", "before")
    committing = asyncio.ensure_future(slow.commit())
    await gate.arrived.wait()
    await fast.log_out()
    gate.release()
    await committing
    assert slow.cookie_change is None
    assert await _user(one, token) is None
    assert await _user(two, token) is None
    with _refused(SessionEnded):
        await slow.save()


@_check
async def a_slow_request_does_not_act_on_a_new_secret(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    first, old = await _logged_in(one)
    slow, slow_out = await two.load(old), await two.load(old)
    await first.log_in("user")
    change = first.cookie_change
    assert change is not None
    assert change.token is not None
    new = change.token.encode()
    slow["late"] = 1
    await slow.commit()
    await slow_out.log_out()
    assert slow.cookie_change is None
    assert slow_out.cookie_change is None
    found = await one.load(new)
    assert found.user_id == "user"
    assert "late" not in found


@_check
async def the_old_secret_is_dead_after_login(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    visitor = await one.load(None)
    visitor["cart"] = ["hat"]
    await visitor.commit()
    assert visitor.cookie_change is not None
    planted = (visitor.cookie_change.token or "").encode()
    assert (await two.load(planted))["cart"] == ["hat"]
    victim = await one.load(planted)
    await victim.log_in("user")
    assert victim["cart"] == ["hat"]
    assert victim.id == visitor.id
    old = await one.load(planted)
    assert (old.user_id, dict(old)) == (None, {})
    await _refused_soon(two, planted)
    old["x"] = 1
    await old.commit()
    assert old.cookie_change is None, "a replaced token must not lead to a new cookie"


@_check
async def ids_that_were_never_issued_are_nobodys(rig: Rig) -> None:
    sessions, _ = await rig.node()
    _, token = await _logged_in(sessions, value=1)
    made_up = encode(bytes(16)).encode() + b"." + encode(bytes(32)).encode()
    wrong_secret = token[:23] + encode(bytes(32)).encode()
    for bad in (made_up, wrong_secret, token[:-1], token + b"A", b"", token.swapcase(), b"\xff" * 66):
        session = await sessions.load(bad)
        assert (session.user_id, session.id, dict(session)) == (None, None, {})
        await session.log_in("thief")
        assert session.id not in (None, made_up[:22].decode(), token[:22].decode())
    assert (await sessions.load(token))["value"] == 1
    assert split_token(made_up) is not None
    assert made_up[:22].decode() not in sessions.cache.entries


@_check
async def another_user_starts_with_empty_data(rig: Rig) -> None:
    sessions, _ = await rig.node()
    session, token = await _logged_in(sessions, "first", note="first's")
    again = await sessions.load(token)
    again["pending"] = 1
    await again.log_in("second")
    again["mine"] = 2
    await again.commit()
    assert dict(again) == {"mine": 2}
    assert again.cookie_change is not None
    assert dict(await sessions.load((again.cookie_change.token or "").encode())) == {"mine": 2}
    assert session.id == again.id


@_check
async def nodes_merge_key_by_key(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    _, token = await _logged_in(one, a=[1], b=[1], c=[1])
    first, second = await one.load(token), await two.load(token)
    assert first["b"] == [1]  # read, and not changed: no reason to write it
    first["a"].append(2)
    second["b"].append(2)
    del second["c"]
    await second.commit()
    await first.commit()
    last = await one.load(token)
    await last.reload()
    assert dict(last) == {"a": [1, 2], "b": [1, 2]}


@_check
async def modify_counts_right(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    _, token = await _logged_in(one, n=0)
    requests = [await (one, two)[n % 2].load(token) for n in range(20)]
    await asyncio.gather(*(request.modify("n", lambda n: n + 1) for request in requests))
    last = await one.load(token)
    await last.reload()
    assert last["n"] == 20


@_check
async def ending_a_user_beats_a_login_under_way(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    epoch = await one.epoch("user")
    login = await one.load(None)
    # …the password is being checked…
    await two.end_user("user")
    with _refused(LoginRefused):
        await login.log_in("user", epoch=epoch)
    assert login.cookie_change is None
    assert await one.list_user("user") == []


@_check
async def ending_a_user_reaches_other_nodes_and_spares_the_kept(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    tokens = [(await _logged_in(one))[1] for _ in range(3)]
    for token in tokens:
        assert await _user(two, token) == "user"
    kept = tokens[0][:22].decode()
    assert len(await one.end_user("user", keep=kept)) == 2
    assert [await _user(one, token) for token in tokens] == ["user", None, None]
    await _refused_soon(two, tokens[1])
    await _refused_soon(two, tokens[2])
    assert await _user(two, tokens[0]) == "user"


@_check
async def idle_sessions_end_neither_early_nor_late(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    _, token = await _logged_in(one)
    rig.clock.advance(IDLE - 1)
    assert await _user(two, token) == "user"
    rig.clock.advance(IDLE - 1)  # node one has never heard of that
    await two._flush()  # pyright: ignore[reportPrivateUsage]
    assert await _user(one, token) == "user"
    rig.clock.advance(IDLE + 2 * TOUCH)
    assert await _user(one, token) is None
    assert await _user(two, token) is None


@_check
async def activity_in_the_last_moment_counts_on_every_node(rig: Rig) -> None:
    (one, _), (two, _) = await rig.node(), await rig.node()
    _, token = await _logged_in(one)
    rig.clock.advance(IDLE + 1)  # another node may have had a request that is not written yet: not over
    assert await _user(one, token) == "user"
    rig.clock.advance(TOUCH)  # without that, it would be over now
    assert await _user(two, token) == "user"


@_check
async def the_lifetime_is_absolute(rig: Rig) -> None:
    sessions, _ = await rig.node()
    _, token = await _logged_in(sessions)
    for number in range(111):
        rig.clock.advance(IDLE - 100)
        await _user(sessions, token)
        if number % 3 == 0:
            # As upkeep does in real time. What nobody has written down for an hour and more is swept by right.
            await sessions._flush()  # pyright: ignore[reportPrivateUsage]
    assert rig.clock.time() < 1_700_000_000.0 + 100_000.0
    assert await _user(sessions, token) == "user"
    rig.clock.advance(IDLE - 100)
    assert await _user(sessions, token) is None, "no activity prolongs the lifetime"


@_check
async def a_warm_request_touches_no_store(rig: Rig) -> None:
    sessions, store = await rig.node()
    _, token = await _logged_in(sessions, value=[1])
    await sessions.load(token)
    reads, writes = store.reads, store.writes
    for _ in range(10):
        session = await sessions.load(token)
        assert session["value"] == [1]
        session["value"] = [1]
        await session.commit()
        assert session.cookie_change is None
    visitor = await sessions.load(None)
    assert visitor.get("nothing") is None
    await visitor.commit()
    assert visitor.cookie_change is None
    assert (store.reads, store.writes) == (reads, writes)
