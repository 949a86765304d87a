"""The conformance kit fails what is wrong: each mutant here breaks one rule, and the check that names it must see it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
import pytest

from coatcheck.cache import Entry, Fill, NearCache
from coatcheck.errors import LoginRefused, SessionRefused
from coatcheck.manager import Sessions
from coatcheck.record import Changes, SessionRecord, Tombstone, merge
from coatcheck.session import Session
from coatcheck.stores.contract import Store
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import ManualClock, conformance


class UpsertingCreate(MemoryStore):
    async def create(self, record: SessionRecord) -> None:
        with self._lock:
            self._records.pop(record.id, None)
            self._tombstones.pop(record.id, None)
        await super().create(record)


class UpsertingApply(MemoryStore):
    """The classic: what a slow request writes brings the session back (`SET` in Redis, `INSERT OR REPLACE` in SQL)."""

    def __init__(self, *, clock: ManualClock) -> None:
        super().__init__(clock=clock)
        self._last: dict[str, SessionRecord] = {}

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        found = await super().read(session_id)
        if isinstance(found, SessionRecord):
            self._last[session_id] = found
        return found

    async def create(self, record: SessionRecord) -> None:
        await super().create(record)
        self._last[record.id] = record

    async def apply(self, session_id: str, changes: Changes, **expected: Any) -> SessionRecord | None:
        merged = await super().apply(session_id, changes, **expected)
        if merged is None and session_id not in self._records and session_id in self._last:
            merged = merge(self._last[session_id], changes)
            self._tombstones.pop(session_id, None)
            self._records[session_id] = merged
            self._index(merged)
        return merged


class LastWriterWins(MemoryStore):
    """Writes the whole record as the writer last read it: another's key is lost."""

    async def apply(self, session_id: str, changes: Changes, **expected: Any) -> SessionRecord | None:
        before = self._records.get(session_id)
        await asyncio.sleep(0)
        merged = await super().apply(session_id, changes, **expected)
        if merged is not None and before is not None:
            stale = {**before.values, **changes.set}
            self._records[session_id] = msgspec.structs.replace(merged, values=stale)
        return merged


class BelievesWhatIsKnown(MemoryStore):
    """Spares itself the reading, and does not look whether anybody has written since."""

    async def apply(self, session_id: str, changes: Changes, **expected: Any) -> SessionRecord | None:
        known = expected.get("known")
        merged = await super().apply(session_id, changes, **expected)
        if merged is not None and known is not None:
            merged = self._records[session_id] = msgspec.structs.replace(
                merged, values={**known.values, **changes.set}, secret_hash=known.secret_hash
            )
        return merged


class ListsTooLittle(MemoryStore):
    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        return (await super().list_user(user_id))[beyond:]


class TwoStepSecretChange(MemoryStore):
    """First the user, then the secret: between the two, whoever planted the old token is logged in."""

    async def apply(self, session_id: str, changes: Changes, **expected: Any) -> SessionRecord | None:
        identity = changes.identity
        record = self._records.get(session_id)
        if identity is not None and record is not None:
            self._records[session_id] = msgspec.structs.replace(
                record, user_id=identity.user_id, epoch=identity.epoch, expires_at=identity.expires_at
            )
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return await super().apply(session_id, changes, **expected)


class UncheckedGeneration(MemoryStore):
    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        return await super().apply(session_id, changes, expect_version=expect_version)


class UncheckedVersion(MemoryStore):
    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        return await super().apply(session_id, changes, expect_generation=expect_generation)


class EndsByIndexAlone(MemoryStore):
    """Ends the sessions that it knows of, and lets the login under way through."""

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        with self._lock:
            ids = [session_id for session_id in self._users.get(user_id, ()) if session_id != keep]
            return await self.end(ids, reason=reason, now=now)


class UncheckedEpoch(MemoryStore):
    def _require_epoch(self, user_id: str, epoch: int) -> None:
        self._epochs.setdefault(user_id, epoch)


class TouchThatLowers(MemoryStore):
    async def touch(self, seen: dict[str, float]) -> None:  # type: ignore[override]
        for session_id, at in seen.items():
            record = self._records.get(session_id)
            if record is not None:
                self._records[session_id] = msgspec.structs.replace(record, last_seen_at=at)


class UnconditionalIdleEnd(MemoryStore):
    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        return await super().end(session_ids, reason=reason, now=now, expect_generation=expect_generation)


class SilentEnd(MemoryStore):
    def _tell(self, change: object) -> None:
        if getattr(change, "kind", "") != "ended":
            super()._tell(change)  # type: ignore[arg-type]


class NoTombstones(MemoryStore):
    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        found = await super().read(session_id)
        return None if isinstance(found, Tombstone) else found


class FillWithoutGuard(NearCache):
    """Keeps whatever was read, though a change was told of meanwhile."""

    def _raise_floor(self, session_id: str, floor: int) -> None:
        pass


class HitWithoutLease(NearCache):
    def get(self, session_id: str) -> Entry | None:
        return self.entries.get(session_id)


class FillThatOverwrites(NearCache):
    """Keeps the result of a write although a newer version is known."""

    def finish(self, session_id: str, fill: Fill, record: SessionRecord | None, *, written: bool = False) -> None:
        self.abandon(session_id, fill)
        if record is not None:
            self._keep(Entry(record))


class KeepsMadeUpIds(NearCache):
    async def load(
        self, session_id: str, read: Callable[[str], Awaitable[SessionRecord | Tombstone | None]]
    ) -> SessionRecord | Tombstone | None:
        found = await super().load(session_id, read)
        if found is None:
            self.entries[session_id] = None  # type: ignore[assignment]
        return found


class EpochAfterPasswordCheck(Session):
    """Reads the epoch when the login is written, as if the password had been checked just now."""

    __slots__ = ()

    async def log_in(self, user_id: str, *, epoch: int | None = None, **rest: object) -> None:
        await super().log_in(user_id, epoch=None, **rest)  # type: ignore[arg-type]


class KeepsDataForTheNextUser(Session):
    __slots__ = ()

    async def log_in(self, user_id: str, **rest: object) -> None:
        data = dict(self)
        await super().log_in(user_id, **rest)  # type: ignore[arg-type]
        self.update(data)


class AnswersWithTheCookieAnyway(Session):
    __slots__ = ()

    async def commit(self, *, cookie: bool = True) -> bool:
        self._silent = False
        return await super().commit(cookie=cookie)


class WritesOnEveryRequest(Session):
    __slots__ = ()

    async def commit(self, *, cookie: bool = True) -> bool:
        self._remember = not self.record.remember if self.record is not None else None
        return await super().commit(cookie=cookie)


class ServesWithoutTheStore(Sessions):
    """Prolongs the lease when the feed cannot be read: a stale yes."""

    def load_cached(self, token: bytes) -> Session | None:
        self.cache.lease_until = self.clock.monotonic() + 1
        return super().load_cached(token)


class EndsIdleEarly(Sessions):
    async def _unexpired(self, record: SessionRecord, *, touch: bool) -> SessionRecord | None:
        if self.clock.time() >= record.last_seen_at + self.idle_timeout:
            await self._end([record.id], "idle")
            return None
        return await super()._unexpired(record, touch=touch)


STORES = [
    (UpsertingCreate, "create_is_no_upsert"),
    (UpsertingApply, "nothing_is_written_to_an_ended_session"),
    (UpsertingApply, "a_slow_request_does_not_bring_back_what_was_logged_out"),
    (LastWriterWins, "changes_to_different_keys_merge"),
    (LastWriterWins, "many_writers_lose_nothing"),
    (BelievesWhatIsKnown, "what_a_writer_knows_is_believed_only_where_it_stands"),
    (ListsTooLittle, "a_users_sessions_are_listed_in_order"),
    (TwoStepSecretChange, "a_change_of_identity_is_one_step"),
    (UncheckedGeneration, "nothing_is_written_where_the_secret_has_moved_on"),
    (UncheckedGeneration, "a_slow_request_does_not_act_on_a_new_secret"),
    (UncheckedVersion, "one_of_many_wins_an_expected_version"),
    (EndsByIndexAlone, "a_login_with_an_old_epoch_writes_nothing"),
    (EndsByIndexAlone, "ending_a_user_beats_a_login_under_way"),
    (UncheckedEpoch, "a_user_without_an_epoch_cannot_be_logged_in"),
    (TouchThatLowers, "last_seen_times_only_rise"),
    (UnconditionalIdleEnd, "a_session_that_was_seen_is_not_ended_as_idle"),
    (SilentEnd, "an_ended_session_is_refused_everywhere"),
    (NoTombstones, "an_ended_session_leaves_a_tombstone_for_a_while"),
]
CACHES = [
    (FillWithoutGuard, "a_fill_that_races_an_end_keeps_nothing"),
    (FillWithoutGuard, "a_fill_that_races_a_change_keeps_nothing_old"),
    (HitWithoutLease, "a_hit_needs_a_lease"),
    (HitWithoutLease, "without_lease_and_store_nobody_is_let_in"),
    (FillThatOverwrites, "a_write_that_races_a_newer_one_keeps_nothing_old"),
    (KeepsMadeUpIds, "ids_that_were_never_issued_are_nobodys"),
]
SESSIONS = [
    (EpochAfterPasswordCheck, "ending_a_user_beats_a_login_under_way"),
    (KeepsDataForTheNextUser, "another_user_starts_with_empty_data"),
    (AnswersWithTheCookieAnyway, "the_old_secret_is_dead_after_login"),
    (WritesOnEveryRequest, "a_warm_request_touches_no_store"),
]
MANAGERS = [
    (ServesWithoutTheStore, "without_lease_and_store_nobody_is_let_in"),
    (EndsIdleEarly, "activity_in_the_last_moment_counts_on_every_node"),
]


async def fails(
    check: str,
    store_type: type[MemoryStore] = MemoryStore,
    manager_type: type[Sessions] = Sessions,
    cache_type: type[NearCache] | None = None,
) -> bool:
    stores: list[MemoryStore] = []

    def open_store(clock: ManualClock) -> MemoryStore:
        if not stores:
            stores.append(store_type(clock=clock))
        return stores[0]

    def make(store: Store, clock: ManualClock) -> Sessions:
        made = manager_type(
            store,
            clock=clock,
            idle_timeout=conformance.IDLE,
            touch_interval=conformance.TOUCH,
            max_staleness=conformance.STALE,
            lifetime=100_000.0,
        )
        if cache_type is not None:
            made.cache = cache_type(max_entries=1000, max_bytes=1_000_000, max_staleness=conformance.STALE, clock=clock)
        return made

    patience, conformance.PATIENCE = conformance.PATIENCE, 0.5  # what is never told is not waited for
    try:
        await conformance.run(check, open_store, make)
    except (AssertionError, pytest.fail.Exception, LoginRefused, SessionRefused, AttributeError):
        return True
    finally:
        conformance.PATIENCE = patience
    return False


def sessions_that_make(session_type: type[Session]) -> type[Sessions]:
    class Mutated(Sessions):
        async def load(self, token: bytes | None) -> Session:
            loaded = await super().load(token)
            return session_type(self, loaded.record, loaded._token, silent=loaded._silent)

    return Mutated


def names(pairs: list[tuple[type, str]]) -> list[str]:
    return [f"{mutant.__name__}-{check}" for mutant, check in pairs]


@pytest.mark.parametrize(("mutant", "check"), STORES, ids=names(STORES))
async def test_a_broken_store_fails(mutant: type[MemoryStore], check: str) -> None:
    assert await fails(check, store_type=mutant)


@pytest.mark.parametrize(("mutant", "check"), CACHES, ids=names(CACHES))
async def test_a_broken_cache_fails(mutant: type[NearCache], check: str) -> None:
    assert await fails(check, cache_type=mutant)


@pytest.mark.parametrize(("mutant", "check"), SESSIONS, ids=names(SESSIONS))
async def test_a_broken_session_fails(mutant: type[Session], check: str) -> None:
    assert await fails(check, manager_type=sessions_that_make(mutant))


@pytest.mark.parametrize(("mutant", "check"), MANAGERS, ids=names(MANAGERS))
async def test_a_broken_manager_fails(mutant: type[Sessions], check: str) -> None:
    assert await fails(check, manager_type=mutant)


@pytest.mark.parametrize("check", sorted({check for _, check in STORES + CACHES + SESSIONS + MANAGERS}))
async def test_the_unbroken_passes_the_same_checks(check: str) -> None:
    assert not await fails(check)
    assert not await fails(check, manager_type=sessions_that_make(Session))
