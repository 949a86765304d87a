"""The near cache: bounded, believed only under the lease, and never holding what is known to be old."""

import asyncio
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from coatcheck.cache import Entry, NearCache
from coatcheck.errors import StoreUnavailable
from coatcheck.record import SessionRecord, Tombstone
from coatcheck.stores.contract import Change
from coatcheck.testing import Gate, ManualClock

STALE = 2.0


def cache(entries: int = 100, size: int = 10**9, clock: ManualClock | None = None) -> NearCache:
    made = NearCache(max_entries=entries, max_bytes=size, max_staleness=STALE, clock=clock or ManualClock())
    made.lease_until = float("inf")
    return made


def record(name: str = "a", **fields: Any) -> SessionRecord:
    plain = SessionRecord(id=name, secret_hash=b"h", created_at=0.0, expires_at=9e9, last_seen_at=1.0)
    return msgspec.structs.replace(plain, **fields)


def keep(near: NearCache, *records: SessionRecord) -> None:
    for each in records:
        near.finish(each.id, near.begin(each.id), each)


def held(near: NearCache, name: str) -> SessionRecord | None:
    entry = near.get(name)
    return None if entry is None else entry.record


class Reader:
    """Answers reads in the order in which they came, each when its gate is released."""

    def __init__(self, *answers: SessionRecord | Tombstone | BaseException | None) -> None:
        self.answers = list(answers)
        self.gates = [Gate() for _ in answers]
        self.count = 0

    async def __call__(self, session_id: str) -> SessionRecord | Tombstone | None:
        number = self.count
        self.count += 1
        await self.gates[number].pass_through()
        answer = self.answers[number]
        if isinstance(answer, BaseException):
            raise answer
        return answer


# ---- the lease


def test_a_copy_is_believed_only_while_the_lease_runs() -> None:
    clock = ManualClock()
    near = cache(clock=clock)
    keep(near, record())
    near.lease_until = clock.monotonic() + STALE
    clock.advance(STALE - 0.001)
    assert held(near, "a") == record()
    clock.advance(0.001)
    assert near.get("a") is None
    near.lease_until = clock.monotonic() + STALE
    assert held(near, "a") == record(), "the copy was kept: the feed has told of nothing"


def test_before_the_first_lease_nothing_is_believed() -> None:
    near = NearCache(max_entries=10, max_bytes=10**6, max_staleness=STALE, clock=ManualClock())
    keep(near, record())
    assert near.get("a") is None


def test_a_clock_on_the_wall_that_is_set_changes_no_lease() -> None:
    clock = ManualClock()
    near = cache(clock=clock)
    keep(near, record())
    near.lease_until = clock.monotonic() + STALE
    clock.step(-3600)
    assert near.get("a") is not None
    clock.advance(STALE)
    clock.step(-3600)
    assert near.get("a") is None


# ---- bounds


def test_it_holds_no_more_entries_than_it_may() -> None:
    near = cache(entries=3)
    keep(near, *(record(name) for name in "abcde"))
    assert list(near.entries) == ["c", "d", "e"]


def test_it_holds_no_more_bytes_than_it_may_but_always_the_newest() -> None:
    size = Entry(record(values={"k": b"x" * 1000})).size
    near = cache(size=2 * size)
    keep(near, *(record(name, values={"k": b"x" * 1000}) for name in "abc"))
    assert list(near.entries) == ["b", "c"]
    assert near.size == 2 * size
    keep(near, record("huge", values={"k": b"x" * 100_000}))
    assert list(near.entries) == ["huge"]


def test_what_was_used_since_its_last_turn_gets_a_second_chance() -> None:
    near = cache(entries=3)
    keep(near, *(record(name) for name in "abc"))
    near.get("a")
    keep(near, record("d"))
    assert sorted(near.entries) == ["a", "c", "d"]
    keep(near, record("e"))
    assert sorted(near.entries) == ["a", "d", "e"], "a chance is used up"
    keep(near, record("f"))
    assert sorted(near.entries) == ["d", "e", "f"]


def test_what_has_just_been_asked_for_is_kept_even_among_entries_that_are_all_in_use() -> None:
    near = cache(entries=3)
    keep(near, *(record(name) for name in "abc"))
    for name in "abc":
        near.get(name)
    keep(near, record("d"))
    assert near.get("d") is not None
    assert sorted(near.entries) == ["b", "c", "d"]


def test_a_newer_copy_takes_the_place_of_an_older_one_and_never_the_reverse() -> None:
    near = cache()
    keep(near, record(version=2))
    keep(near, record(version=1))
    assert held(near, "a") == record(version=2)
    keep(near, record(version=3))
    assert held(near, "a") == record(version=3)
    assert len(near) == 1


def test_last_seen_never_falls_when_a_copy_is_replaced() -> None:
    near = cache()
    keep(near, record(last_seen_at=5.0))
    near.entries["a"].last_seen_at = 50.0
    keep(near, record(version=2, last_seen_at=10.0))
    assert near.entries["a"].last_seen_at == 50.0
    keep(near, record(version=3, last_seen_at=60.0))
    assert near.entries["a"].last_seen_at == 60.0


# ---- what the feed tells


def test_a_change_drops_an_older_copy_and_leaves_the_newest() -> None:
    near = cache()
    keep(near, record(version=2))
    near.notice(Change("changed", "a", version=2))
    assert near.get("a") is not None, "our own write, told back"
    near.notice(Change("changed", "a", version=3))
    assert near.get("a") is None


def test_a_change_of_unknown_version_drops_any_copy() -> None:
    near = cache()
    keep(near, record(version=9))
    near.notice(Change("changed", "a"))
    assert near.get("a") is None


def test_what_was_written_here_is_seen_here_though_the_feed_is_lost_meanwhile() -> None:
    near = cache()
    write = near.begin("a")
    near.clear()  # the feed has missed something: nothing that is under way may be kept
    read = near.begin("a")
    near.finish("a", write, record(version=2), written=True)  # acknowledged
    near.finish("a", read, record(version=1))  # read before that was written
    assert held(near, "a") is None
    late = near.begin("a")
    keep(near, record(version=2))
    near.clear()
    keep(near, record(version=2))
    near.finish("a", late, record(version=3), written=True)
    assert held(near, "a") is None, "an older copy is no copy once a newer version was acknowledged"


def test_a_copy_that_is_newer_than_what_was_just_stored_is_read_again() -> None:
    near = cache()
    write = near.begin("a")
    keep(near, record(version=4))  # another change overtook this one, or the store has lost it since
    near.finish("a", write, record(version=3), written=True)
    assert held(near, "a") is None
    read = near.begin("a")
    keep(near, record(version=4))
    near.finish("a", read, record(version=3))
    assert held(near, "a") is not None, "a read that was overtaken says nothing of what is stored now"


def test_an_end_drops_the_copy_and_a_loss_drops_all() -> None:
    near = cache()
    keep(near, record("a"), record("b"), record("c"))
    near.notice(Change("ended", "a", reason="logout"))
    assert [held(near, name) is None for name in "abc"] == [True, False, False]
    near.notice(Change("missed"))
    assert len(near) == 0
    assert near.size == 0


def test_a_users_change_drops_that_users_copies_and_nobody_elses() -> None:
    near = cache()
    keep(near, *(record(name, user_id="one") for name in "abc"), record("d", user_id="two"), record("e"))
    near.notice(Change("user", "one"))
    assert list(near.entries) == ["d", "e"]
    near.notice(Change("user", "nobody"))
    assert list(near.entries) == ["d", "e"]


def test_a_copy_that_changed_hands_is_found_under_its_new_user_only() -> None:
    near = cache()
    keep(near, record(user_id="one"))
    keep(near, record(user_id="two", version=2))
    near.notice(Change("user", "one"))
    assert near.get("a") is not None
    near.notice(Change("user", "two"))
    assert near.get("a") is None


def test_the_index_by_user_keeps_nothing_of_what_is_gone() -> None:
    near = cache(entries=2)
    keep(near, *(record(name, user_id="one") for name in "abcd"), record("e", user_id="two"))
    for name in "abcde":
        near.notice(Change("ended", name))
    assert near._users == {}


# ---- reading through


async def test_any_number_of_callers_cost_one_read() -> None:
    near, read = cache(), Reader(record())
    callers = [asyncio.create_task(near.load("a", read)) for _ in range(50)]
    await read.gates[0].arrived.wait()
    read.gates[0].release()
    assert await asyncio.gather(*callers) == [record()] * 50
    assert read.count == 1
    assert held(near, "a") == record()
    assert near._fills == {}


async def test_different_sessions_do_not_wait_for_each_other() -> None:
    near = cache()
    slow, quick = Reader(record("a")), Reader(record("b"))
    first = asyncio.create_task(near.load("a", slow))
    await slow.gates[0].arrived.wait()
    quick.gates[0].release()
    assert await near.load("b", quick) == record("b")
    slow.gates[0].release()
    assert await first == record("a")


@pytest.mark.parametrize("found", [None, Tombstone(id="a", ended_at=0.0, reason="logout")])
async def test_nothing_is_kept_of_what_is_not_there(found: Tombstone | None) -> None:
    near, read = cache(), Reader(found)
    read.gates[0].release()
    assert await near.load("a", read) == found
    assert len(near) == 0
    assert near._fills == {}


async def test_a_first_caller_that_goes_away_takes_nobody_with_it() -> None:
    near, read = cache(), Reader(record(), record(version=2))
    first = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    others = [asyncio.create_task(near.load("a", read)) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    await read.gates[1].arrived.wait()
    read.gates[1].release()
    assert await asyncio.gather(*others) == [record(version=2)] * 5
    assert first.cancelled()
    assert read.count == 2
    assert near._fills == {}


async def test_a_caller_that_waits_and_goes_away_disturbs_nobody() -> None:
    near, read = cache(), Reader(record())
    first = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    second = asyncio.create_task(near.load("a", read))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    read.gates[0].release()
    assert await first == record()


async def test_an_outage_is_told_to_all_who_wait_and_the_next_asks_again() -> None:
    near, read = cache(), Reader(StoreUnavailable("away", retry_after=7), record())
    callers = [asyncio.create_task(near.load("a", read)) for _ in range(3)]
    await read.gates[0].arrived.wait()
    read.gates[0].release()
    results = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(result) for result in results] == [StoreUnavailable] * 3
    assert read.count == 1
    read.gates[1].release()
    assert await near.load("a", read) == record()


async def test_a_mistake_in_reading_is_told_to_its_caller_and_the_others_try_for_themselves() -> None:
    near, read = cache(), Reader(KeyError("a bug"), record())
    first = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    second = asyncio.create_task(near.load("a", read))
    await asyncio.sleep(0)
    read.gates[0].release()
    read.gates[1].release()
    with pytest.raises(KeyError):
        await first
    assert await second == record()
    assert near._fills == {}


async def test_an_answer_older_than_the_staleness_that_was_promised_is_not_believed() -> None:
    clock = ManualClock()
    near, read = cache(clock=clock), Reader(record(), record())
    slow = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    clock.advance(STALE + 0.001)
    read.gates[0].release()
    with pytest.raises(StoreUnavailable, match="too late"):
        await slow
    assert len(near) == 0
    last = asyncio.create_task(near.load("a", read))
    await read.gates[1].arrived.wait()
    clock.advance(STALE)
    read.gates[1].release()
    assert await last == record()


# ---- fills that race changes

CHANGES = [
    Change("changed", "a", version=2),
    Change("changed", "a"),
    Change("ended", "a"),
    Change("user", "one"),
    Change("missed"),
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.kind + str(change.version))
async def test_a_read_that_raced_a_change_is_read_again_and_leaves_nothing_old(change: Change) -> None:
    near, read = cache(), Reader(record(user_id="one", version=1), record(user_id="one", version=3))
    caller = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    near.notice(change)
    read.gates[0].release()
    await read.gates[1].arrived.wait()
    assert near.get("a") is None
    read.gates[1].release()
    assert await caller == record(user_id="one", version=3)
    assert held(near, "a") == record(user_id="one", version=3)
    assert near._fills == {}


async def test_a_read_that_already_brought_the_change_is_kept() -> None:
    near, read = cache(), Reader(record(version=2))
    caller = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    near.notice(Change("changed", "a", version=2))
    read.gates[0].release()
    assert await caller == record(version=2)
    assert held(near, "a") == record(version=2)


async def test_who_comes_after_a_change_does_not_join_a_read_from_before_it() -> None:
    near, read = cache(), Reader(record(version=1), None, None)
    early = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    near.forget("a")
    late = asyncio.create_task(near.load("a", read))
    await read.gates[1].arrived.wait()
    read.gates[1].release()
    assert await late is None
    read.gates[0].release()
    read.gates[2].release()
    assert await early is None, "and who came before reads again"
    assert near.get("a") is None


async def test_who_joined_a_read_that_raced_a_change_reads_again_too() -> None:
    near, read = cache(), Reader(record(version=1), record(version=2))
    callers = [asyncio.create_task(near.load("a", read)) for _ in range(5)]
    await read.gates[0].arrived.wait()
    near.notice(Change("changed", "a", version=2))
    read.gates[0].release()
    await read.gates[1].arrived.wait()
    await asyncio.sleep(0)
    read.gates[1].release()
    assert await asyncio.gather(*callers) == [record(version=2)] * 5
    assert read.count == 2, "they share that one too"


async def test_clearing_reaches_reads_under_way() -> None:
    near, read = cache(), Reader(record(), record(version=5))
    caller = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    near.clear()
    read.gates[0].release()
    read.gates[1].release()
    assert (await caller) == record(version=5)


def test_a_write_under_way_brings_back_nothing_that_ended_meanwhile() -> None:
    near = cache()
    fill = near.begin("a")
    near.notice(Change("ended", "a"))
    near.finish("a", fill, record(version=5))
    assert near.get("a") is None


def test_two_writes_under_way_leave_the_newer_in_either_order() -> None:
    for order in ((2, 3), (3, 2)):
        near = cache()
        fills = {version: near.begin("a") for version in order}
        near.notice(Change("changed", "a", version=3))
        for version in order:
            near.finish("a", fills[version], record(version=version))
        assert held(near, "a") == record(version=3)
        assert near._fills == {}


def test_a_write_that_failed_leaves_nothing() -> None:
    near = cache()
    near.abandon("a", near.begin("a"))
    assert near._fills == {}
    assert len(near) == 0


async def test_a_read_of_another_loop_is_not_waited_for() -> None:
    near, read = cache(), Reader(record(), record())
    here = asyncio.create_task(near.load("a", read))
    await read.gates[0].arrived.wait()
    other = Reader(record(version=2))

    async def elsewhere() -> Any:
        other.gates = [Gate()]
        other.gates[0].release()
        return await near.load("a", other)

    assert await asyncio.to_thread(lambda: asyncio.run(elsewhere())) == record(version=2)
    read.gates[0].release()
    assert await here == record()
    assert held(near, "a") == record(version=2)


# ---- whatever happens to it


class CacheMachine(RuleBasedStateMachine):
    """Compares the cache with what may be believed: the newest version that was told of each session."""

    fills = Bundle("fills")

    def __init__(self) -> None:
        super().__init__()
        self.near = cache(entries=4, size=6000)
        self.versions = dict.fromkeys("abcdef", 1)
        self.users: dict[str, str | None] = dict.fromkeys("abcdef", None)
        self.told = dict.fromkeys("abcdef", 1)
        self.open: set[int] = set()

    names = st.sampled_from("abcdef")

    def _now(self, name: str, padding: int) -> SessionRecord:
        return record(
            name, version=self.versions[name], user_id=self.users[name], values={"k": b"x" * padding}, about={"a": "b"}
        )

    @rule(target=fills, name=names, padding=st.sampled_from([0, 100, 3000]))
    def begin(self, name: str, padding: int) -> Any:
        fill = self.near.begin(name)
        self.open.add(id(fill))
        # A read answers with what is stored at any moment after it has begun.
        return name, fill, self._now(name, padding)

    @rule(entry=fills)
    def finish(self, entry: Any) -> None:
        name, fill, found = entry
        if id(fill) in self.open:
            self.open.discard(id(fill))
            self.near.finish(name, fill, found)

    @rule(entry=fills)
    def abandon(self, entry: Any) -> None:
        name, fill, _ = entry
        if id(fill) in self.open:
            self.open.discard(id(fill))
            self.near.abandon(name, fill)

    @rule(name=names, user=st.sampled_from([None, "one", "two"]))
    def change_and_tell(self, name: str, user: str | None) -> None:
        self.versions[name] += 1
        self.users[name] = user
        self.told[name] = self.versions[name]
        self.near.notice(Change("changed", name, version=self.versions[name]))

    @rule(name=names)
    def end_and_tell(self, name: str) -> None:
        self.versions[name] += 1
        self.told[name] = self.versions[name]
        self.near.notice(Change("ended", name))

    @rule(user=st.sampled_from(["one", "two"]))
    def end_user_and_tell(self, user: str) -> None:
        for name, owner in self.users.items():
            if owner == user:
                self.versions[name] += 1
                self.told[name] = self.versions[name]
        self.near.notice(Change("user", user))

    @rule()
    def lose_the_feed(self) -> None:
        for name in self.versions:
            self.versions[name] += 1
            self.told[name] = self.versions[name]
        self.near.notice(Change("missed"))

    @rule(name=names)
    def use(self, name: str) -> None:
        self.near.get(name)

    @invariant()
    def nothing_old_is_held(self) -> None:
        for name, entry in self.near.entries.items():
            assert entry.record.version >= self.told[name]

    @invariant()
    def the_accounts_are_right(self) -> None:
        near = self.near
        assert near.size == sum(entry.size for entry in near.entries.values())
        assert len(near) <= 4
        assert near.size <= 6000 or len(near) == 1
        index: dict[str, set[str]] = {}
        for name, entry in near.entries.items():
            if entry.record.user_id is not None:
                index.setdefault(entry.record.user_id, set()).add(name)
        assert {user: {ids} if isinstance(ids, str) else ids for user, ids in near._users.items()} == index
        assert sum(map(len, near._fills.values())) == len(self.open)


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCacheMachine = CacheMachine.TestCase
