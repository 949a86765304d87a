"""One node's reading of the SQLite store's change log. Leaves filling the log to the triggers, the counter to the writer."""

import asyncio
import threading
from collections.abc import Callable
from typing import Literal, cast

import apsw

from coatcheck.clock import Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.stores._sqlite_link import Link, Row
from coatcheck.stores._sqlite_reader import Reader
from coatcheck.stores.contract import Change

__all__ = ["SQLiteChangeStream"]

_LOG = "SELECT seq, kind, id, version, generation, reason FROM change WHERE seq >= ? ORDER BY seq"
_Kind = Literal["changed", "ended", "user"]
_KINDS = ("changed", "ended", "user")

_STEP = 0.005
_STEPS = 4
"""The counter is looked at every 5 ms; every 20 ms `poll` asks SQLite itself, which knows of foreign writers too."""


class SQLiteChangeStream:
    """Knows of our own processes' changes by the counter, of anybody else's by SQLite's `data_version`.

    Where in the log it stands is told by the newest row it has seen, which it reads again each time: if that row or
    one after it is not there, the log was pruned or is another one.
    """

    def __init__(self, reader: Reader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._lock = threading.RLock()
        self._polling = False
        self._closed = False
        self._confirmed = float("-inf")
        self._link: Link | None = None
        self._counter = memoryview(bytes(8)).cast("Q")
        self._counted = 0
        self._versions: tuple[object, object] = (None, None)
        self._seen = 0
        try:
            with reader.lock:
                link = reader.current()
                self._counted, self._versions = link.counter[0], _versions(link)
                self._seen = _newest(link)
            self._link, self._counter = link, link.counter
        except (apsw.Error, StoreUnavailable):
            pass  # without a connection to go on from, the first poll tells that changes may have been missed

    def behind(self) -> bool:
        return self._counter[0] != self._counted

    def poll(self, deliver: Callable[[Change], None]) -> None:
        with self._lock:
            if self._polling or self._closed:  # called from `deliver`: what is left comes when that returns
                return
            self._polling = True
            try:
                self._poll(deliver)
            finally:
                self._polling = False

    def _poll(self, deliver: Callable[[Change], None]) -> None:
        sent = self._clock.monotonic()
        with self._reader.lock:
            link = self._reader.current()
            # In this order: what is committed after the counter or version was read makes them differ the next time.
            counted = link.counter[0]
            try:
                version = link.rows("PRAGMA data_version")[0][0]
                if link is self._link and (counted, version) == (self._counted, self._versions[0]):
                    self._confirmed = sent
                    return
                # A backup that was restored through SQLite keeps the file but changes the schema's version.
                versions = (version, link.rows("PRAGMA schema_version")[0][0])
                changes = _follow(link.rows(_LOG, (self._seen,)), self._seen)
                if link is not self._link or versions[1] != self._versions[1] or changes is None:
                    changes = [(_newest(link), Change("missed"))]
            except apsw.Error as error:
                raise self._reader.failed(link, error) from error
        for seq, change in changes:
            deliver(change)
            self._seen = seq
        self._link, self._counter, self._counted, self._versions = link, link.counter, counted, versions
        self._confirmed = sent

    def confirmed(self) -> float:
        return self._confirmed

    async def wait(self) -> None:
        for _ in range(_STEPS):
            if self.behind():
                return
            await asyncio.sleep(_STEP)

    async def aclose(self) -> None:
        self._closed = True


def _versions(link: Link) -> tuple[object, object]:
    return link.rows("PRAGMA data_version")[0][0], link.rows("PRAGMA schema_version")[0][0]


def _newest(link: Link) -> int:
    return cast(int, link.rows("SELECT coalesce(max(seq), 0) FROM change")[0][0])


def _follow(rows: list[Row], seen: int) -> list[tuple[int, Change]] | None:
    """Give the changes after `seen`, or None when one is not there: numbers have no gaps unless rows were deleted."""
    changes: list[tuple[int, Change]] = []
    expected = seen or 1
    for row in rows:
        seq, kind, session_id, version, generation, reason = cast("tuple[int, _Kind, str, int, int, str]", row)
        if seq != expected or kind not in _KINDS:
            return None
        if seq > seen:
            changes.append((seq, Change(kind, session_id, version, generation, reason)))
        expected += 1
    return None if seen and not rows else changes
