"""Stores around stores, for tests: one that counts, holds calls at barriers, and goes away on command.

Every method hands on to the real store inside; only the feed's silence is made up here.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal, TypeVar

from coatcheck.errors import StoreUnavailable
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores.contract import Change, ChangeStream, Store

__all__ = ["CountingStore", "Gate", "GatedStore"]

T = TypeVar("T")


class CountingStore:
    """Counts the calls of each method in `calls`, and else is the store inside."""

    def __init__(self, inner: Store) -> None:
        self.inner = inner
        self.calls: Counter[str] = Counter()

    @property
    def any_loop(self) -> bool:
        return self.inner.any_loop

    @property
    def reads(self) -> int:
        """How often anything was read."""
        return sum(self.calls[name] for name in ("read", "alive", "list_user", "epoch"))

    @property
    def writes(self) -> int:
        """How often anything was written."""
        return sum(self.calls[name] for name in ("create", "apply", "end", "end_user", "touch", "sweep"))

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        return await call()

    async def start(self) -> None:
        await self.inner.start()

    async def close(self) -> None:
        await self.inner.close()

    async def create(self, record: SessionRecord) -> None:
        await self._call("create", lambda: self.inner.create(record))

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        return await self._call("read", lambda: self.inner.read(session_id))

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        return await self._call("alive", lambda: self.inner.alive(session_ids))

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        return await self._call(
            "apply",
            lambda: self.inner.apply(
                session_id,
                changes,
                expect_generation=expect_generation,
                expect_version=expect_version,
                known=known,
            ),
        )

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        return await self._call(
            "end",
            lambda: self.inner.end(
                session_ids, reason=reason, now=now, expect_generation=expect_generation, unseen_since=unseen_since
            ),
        )

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        return await self._call("end_user", lambda: self.inner.end_user(user_id, reason=reason, now=now, keep=keep))

    async def epoch(self, user_id: str) -> int:
        return await self._call("epoch", lambda: self.inner.epoch(user_id))

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        return await self._call("list_user", lambda: self.inner.list_user(user_id, beyond=beyond))

    async def touch(self, seen: Mapping[str, float]) -> None:
        await self._call("touch", lambda: self.inner.touch(seen))

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        return await self._call("sweep", lambda: self.inner.sweep(now=now, limit=limit, unseen_since=unseen_since))

    def changes(self) -> ChangeStream:
        return self.inner.changes()


class Gate:
    """One call, held. `arrived` is set once it is there; `release` lets it go on."""

    def __init__(self) -> None:
        self.arrived: asyncio.Event = asyncio.Event()
        self._released = asyncio.Event()

    def release(self) -> None:
        """Let the call go on."""
        self._released.set()

    async def pass_through(self) -> None:
        """Arrive, and wait to be released."""
        self.arrived.set()
        await self._released.wait()


class GatedStore(CountingStore):
    """A store whose calls can be held before they happen or before their answer arrives, and that can go away.

    `down = True` makes every call raise StoreUnavailable and the feed unreadable; `feed_cut = True` only silences
    the feed, as a connection does that was cut without a word.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.down = False
        self.feed_cut = False
        self._gates: list[tuple[str, Literal["before", "after"], Gate]] = []

    def hold(self, name: str, when: Literal["before", "after"]) -> Gate:
        """Hold the next call of a method: `before` it reaches the store, or `after` the store has answered."""
        gate = Gate()
        self._gates.append((name, when, gate))
        return gate

    async def _pass(self, name: str, when: Literal["before", "after"]) -> None:
        for entry in self._gates:
            if entry[:2] == (name, when):
                self._gates.remove(entry)
                await entry[2].pass_through()
                return

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        await self._pass(name, "before")
        if self.down:
            raise StoreUnavailable("the store is away (a test took it away)")
        result = await super()._call(name, call)
        await self._pass(name, "after")
        return result

    def changes(self) -> ChangeStream:
        return _GatedStream(self, self.inner.changes())


class _GatedStream:
    def __init__(self, store: GatedStore, inner: ChangeStream) -> None:
        self._store = store
        self._inner = inner

    def behind(self) -> bool:
        return not self._store.feed_cut and not self._store.down and self._inner.behind()

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if self._store.down or self._store.feed_cut:
            raise StoreUnavailable("the feed is cut (a test cut it)")
        self._inner.poll(deliver)

    def confirmed(self) -> float:
        return self._inner.confirmed()

    async def wait(self) -> None:
        if self._store.down or self._store.feed_cut:
            await asyncio.sleep(0.01)
        else:
            await self._inner.wait()

    async def aclose(self) -> None:
        await self._inner.aclose()
