"""The only reader of a store's changes: tells the cache, then the live connections, then the listeners. Keeps the lease."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from coatcheck.cache import NearCache
from coatcheck.errors import StoreUnavailable
from coatcheck.stores.contract import Change, ChangeStream

__all__ = ["Closing", "Feed"]

_log = logging.getLogger("coatcheck.feed")


class Closing(Protocol):
    """What the feed needs of the live connections: to find and close them by session."""

    def of(self, session_id: str) -> Sequence[object]: ...

    def sessions(self, owner: str | None = None) -> list[str]: ...

    def close(self, session_id: str, reason: str) -> int: ...

    def close_older(self, session_id: str, generation: int, reason: str) -> int: ...


class Feed:
    """One node's view of the store's changes.

    `doubt` is called with what must be looked up again: the sessions with live connections of which nobody can tell
    from the feed alone whether they go on.
    """

    def __init__(
        self,
        stream: ChangeStream,
        cache: NearCache,
        connections: Closing,
        *,
        max_staleness: float,
        doubt: Callable[[list[str]], None],
    ) -> None:
        self._stream = stream
        self._cache = cache
        self._connections = connections
        self._max_staleness = max_staleness
        self._doubt = doubt
        self._failing = False
        self.listeners: list[Callable[[Change], None]] = []
        self.behind: Callable[[], bool] = stream.behind

    @property
    def failing(self) -> bool:
        """Whether the feed could not be read when last tried."""
        return self._failing

    def poll(self) -> None:
        """Take in what has arrived and prolong the lease as far as the stream is confirmed. Never raises.

        Without an answer the lease is not prolonged: it runs out, and the store is asked.
        """
        try:
            self._stream.poll(self._deliver)
        except StoreUnavailable as error:
            if not self._failing:
                _log.warning("the change feed cannot be read: %s", error)
            self._failing = True
            return
        if self._failing:
            _log.warning("the change feed is read again")
        self._failing = False
        self._cache.lease_until = self._stream.confirmed() + self._max_staleness

    async def run(self) -> None:
        """Poll whenever there may be something, until cancelled."""
        while True:
            try:
                await self._stream.wait()
            except StoreUnavailable:
                await asyncio.sleep(0.05)
            except Exception:
                # Without this task a node still asks the store once its lease has run out; but it must not end unseen.
                _log.exception("waiting for the change feed failed and goes on")
                await asyncio.sleep(0.05)
            self.poll()
            if self._failing:
                # What is there cannot be read, so `wait` returns at once: without a pause this would starve the node.
                await asyncio.sleep(0.05)

    async def aclose(self) -> None:
        """Stop reading."""
        await self._stream.aclose()

    def _deliver(self, change: Change) -> None:
        self._cache.notice(change)
        if change.kind == "ended":
            self._connections.close(change.id, change.reason)
        elif change.kind == "changed":
            if change.generation:
                self._connections.close_older(change.id, change.generation, "the session's secret has changed")
            else:
                self._ask_again([change.id] if self._connections.of(change.id) else [])
        elif change.kind == "user":
            self._ask_again(self._connections.sessions(owner=change.id))
        else:
            self._ask_again(self._connections.sessions())
        for listener in tuple(self.listeners):
            try:
                listener(change)
            except Exception:
                # What stands below must go on: a change that is not delivered would come again and again.
                _log.exception("a listener to the change feed failed")

    def _ask_again(self, session_ids: list[str]) -> None:
        if session_ids:
            self._doubt(session_ids)
