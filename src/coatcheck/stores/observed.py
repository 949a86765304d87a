"""A store that is watched: how often each step is asked for, how long it takes, how often it fails; and spans, where wanted.

Every method hands on to the store inside. Spans need the package opentelemetry-api and a tracer provider that somebody
set up; without the package nothing is looked for again. Leaves showing the figures to whoever reads them.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import perf_counter
from typing import Any, TypeVar

from coatcheck.errors import StoreUnavailable
from coatcheck.record import Changes, SessionRecord, Tombstone
from coatcheck.stores.contract import ChangeStream, Store

__all__ = ["STEPS", "ObservedStore"]

T = TypeVar("T")

STEPS = ("create", "read", "alive", "apply", "end", "end_user", "epoch", "list_user", "touch", "sweep")
"""The steps of a store, as they are counted and as spans are named (`coatcheck.store.read`)."""


class ObservedStore:
    """Counts in plain integers; a collector reads them when it likes. Attributes that a store has beside are its own."""

    def __init__(self, inner: Store) -> None:
        self.inner: Store = inner
        self.calls: Counter[str] = Counter(dict.fromkeys(STEPS, 0))
        self.failures: Counter[str] = Counter(dict.fromkeys(STEPS, 0))
        """How often a step raised StoreUnavailable; every other error is an answer."""
        self.seconds: dict[str, float] = dict.fromkeys(STEPS, 0.0)
        """All together, by step."""
        system = type(inner).__name__.removesuffix("Store").lower()
        self._attributes = {"db.system.name": system}
        self._tracer: Any = _tracer()

    @property
    def any_loop(self) -> bool:
        """See `Store.any_loop`."""
        return self.inner.any_loop

    async def _step(self, name: str, step: Callable[[], Awaitable[T]]) -> T:
        if self._tracer is None:
            return await self._timed(name, step)
        # Ids stay out of it: traces go to others.
        attributes = {**self._attributes, "db.operation.name": name}
        with self._tracer.start_as_current_span(f"coatcheck.store.{name}", attributes=attributes):
            return await self._timed(name, step)

    async def _timed(self, name: str, step: Callable[[], Awaitable[T]]) -> T:
        self.calls[name] += 1
        began = perf_counter()
        try:
            return await step()
        except StoreUnavailable:
            self.failures[name] += 1
            raise
        finally:
            self.seconds[name] += perf_counter() - began

    async def start(self) -> None:
        """See `Store.start`."""
        await self.inner.start()

    async def close(self) -> None:
        """See `Store.close`."""
        await self.inner.close()

    async def create(self, record: SessionRecord) -> None:
        """See `Store.create`."""
        await self._step("create", lambda: self.inner.create(record))

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        """See `Store.read`."""
        return await self._step("read", lambda: self.inner.read(session_id))

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        """See `Store.alive`."""
        return await self._step("alive", lambda: self.inner.alive(session_ids))

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        """See `Store.apply`."""
        return await self._step(
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
        """See `Store.end`."""
        return await self._step(
            "end",
            lambda: self.inner.end(
                session_ids, reason=reason, now=now, expect_generation=expect_generation, unseen_since=unseen_since
            ),
        )

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        """See `Store.end_user`."""
        return await self._step("end_user", lambda: self.inner.end_user(user_id, reason=reason, now=now, keep=keep))

    async def epoch(self, user_id: str) -> int:
        """See `Store.epoch`."""
        return await self._step("epoch", lambda: self.inner.epoch(user_id))

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        """See `Store.list_user`."""
        return await self._step("list_user", lambda: self.inner.list_user(user_id, beyond=beyond))

    async def touch(self, seen: Mapping[str, float]) -> None:
        """See `Store.touch`."""
        await self._step("touch", lambda: self.inner.touch(seen))

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        """See `Store.sweep`."""
        return await self._step("sweep", lambda: self.inner.sweep(now=now, limit=limit, unseen_since=unseen_since))

    def changes(self) -> ChangeStream:
        """See `Store.changes`."""
        return self.inner.changes()


def _tracer() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace.get_tracer("coatcheck")
