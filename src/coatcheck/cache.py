"""This node's copies of records, believed only under the feed's lease. Leaves reading the feed to `feed`, expiry to `manager`.

A copy is given out only while `lease_until` lies ahead. A fill that races a change keeps nothing old: a fill that has
begun learns of every change to its session, and is kept only if what it read is no older than the newest it learnt of.
"""

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable

from coatcheck.clock import Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.record import SessionRecord, Tombstone
from coatcheck.stores.contract import Change

__all__ = ["Entry", "Fill", "NearCache"]

_NEVER = sys.maxsize
_ENTRY_BYTES = 700
"""What a cached record takes beside its values and texts: the record, its dicts, the indexes. A rounded measurement."""


class Entry:
    """One cached record, and when this node last heard of its user (seconds since 1970)."""

    __slots__ = ("last_seen_at", "record", "used")

    def __init__(self, record: SessionRecord) -> None:
        self.record: SessionRecord = record
        self.last_seen_at: float = record.last_seen_at
        self.used: bool = False

    @property
    def size(self) -> int:
        """About how many bytes it takes. Worked out when it comes and goes, since to keep it would cost 36 of them."""
        record = self.record
        return (
            _ENTRY_BYTES
            + sum(60 + len(data) for data in record.values.values())
            + sum(50 + len(text) for text in record.about.values())
            + sum(60 + len(data) for data in record.system.values())
        )


class Fill:
    """A read of one session under way, and the oldest version that may still be kept of it."""

    __slots__ = ("floor", "result", "started")

    def __init__(self, started: float) -> None:
        self.started: float = started
        self.floor: int = 0
        self.result: asyncio.Future[SessionRecord | Tombstone | None] | None = None


class NearCache:
    """Records by id, bounded by number and by bytes (approximate). Evicts what was not used lately."""

    def __init__(self, *, max_entries: int, max_bytes: int, max_staleness: float, clock: Clock) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._max_staleness = max_staleness
        self._clock = clock
        self._bytes = 0
        # Stores that work from any loop work from any thread. `get`, which every request calls, needs no lock: it is
        # one look-up in a dict.
        self._lock = threading.RLock()
        self._users: dict[str, str | set[str]] = {}  # one id as it is, several as a set: most users have one
        self._fills: dict[str, list[Fill]] = {}
        self.hits: int = 0
        self.misses: int = 0
        self.entries: dict[str, Entry] = {}
        self.lease_until: float = float("-inf")
        """The monotonic time, in seconds, until which entries may be believed."""

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def size(self) -> int:
        """About how many bytes the entries take."""
        return self._bytes

    def get(self, session_id: str) -> Entry | None:
        """Give the entry if there is one and the lease still runs."""
        if self._clock.monotonic() >= self.lease_until:
            return None
        entry = self.entries.get(session_id)
        if entry is not None:
            entry.used = True
            self.hits += 1
        return entry

    async def load(
        self, session_id: str, read: Callable[[str], Awaitable[SessionRecord | Tombstone | None]]
    ) -> SessionRecord | Tombstone | None:
        """Read through: one read for any number of concurrent callers, kept if nothing happened to it meanwhile.

        Nothing is kept for ids that have no record. Raises StoreUnavailable, also for a read that took longer than
        the staleness that was promised.
        """
        loop = asyncio.get_running_loop()
        while (shared := self._shareable(session_id, loop)) is not None:
            await asyncio.wait([shared])
            if not shared.cancelled():
                return shared.result()
        self.misses += 1
        while True:
            fill = self.begin(session_id)
            result = fill.result = loop.create_future()
            try:
                found = await read(session_id)
                if self._clock.monotonic() - fill.started > self._max_staleness:
                    raise StoreUnavailable("the store answered too late for its answer to be believed")
            except BaseException as error:
                self.abandon(session_id, fill)
                if isinstance(error, StoreUnavailable):
                    result.set_exception(error)
                    result.exception()  # looked at, so that no warning is printed where nobody else waits
                else:
                    result.cancel()
                raise
            record = found if isinstance(found, SessionRecord) else None
            if record is not None and record.version < fill.floor:
                # What was read is known to be old by now: whoever waits for it reads again, and so does this caller.
                self.abandon(session_id, fill)
                result.cancel()
                continue
            self.finish(session_id, fill, record)
            result.set_result(found)
            return found

    def _shareable(
        self, session_id: str, loop: asyncio.AbstractEventLoop
    ) -> "asyncio.Future[SessionRecord | Tombstone | None] | None":
        for fill in self._fills.get(session_id, ()):
            # A fill that has learnt of a change may bring what was before it: later callers read for themselves.
            if fill.floor == 0 and fill.result is not None and fill.result.get_loop() is loop:
                return fill.result
        return None

    def begin(self, session_id: str) -> Fill:
        """Announce a read or write whose result `finish` may keep. Call it before the store is asked."""
        fill = Fill(self._clock.monotonic())
        with self._lock:
            self._fills.setdefault(session_id, []).append(fill)
        return fill

    def abandon(self, session_id: str, fill: Fill) -> None:
        """End a fill that brought nothing."""
        with self._lock:
            fills = self._fills[session_id]
            fills.remove(fill)
            if not fills:
                del self._fills[session_id]

    def finish(self, session_id: str, fill: Fill, record: SessionRecord | None, *, written: bool = False) -> None:
        """End a fill; keep its record unless something newer is known.

        `written`: this node's own change has brought it, and nothing older may be believed here from now on.
        """
        with self._lock:
            self.abandon(session_id, fill)
            if record is None:
                return
            present = self.entries.get(session_id)
            if written:
                # Though it may not be kept itself: what others are still reading may be from before it.
                self._raise_floor(session_id, record.version)
            if record.version < fill.floor:
                if written and present is not None and present.record.version < record.version:
                    self._drop(session_id)
            elif present is None or present.record.version <= record.version:
                self._keep(Entry(record))
            elif written:
                # Newer than what was just stored: it overtook this change, or it is of writes that the store has lost
                # since in a fail-over. To read again tells.
                self._drop(session_id)

    def notice(self, change: Change) -> None:
        """Take in what the feed tells."""
        with self._lock:
            self._notice(change)

    def _notice(self, change: Change) -> None:
        if change.kind == "changed":
            self._raise_floor(change.id, change.version or _NEVER)
            entry = self.entries.get(change.id)
            if entry is not None and (change.version == 0 or entry.record.version < change.version):
                self._drop(change.id)
        elif change.kind == "ended":
            self.forget(change.id)
        elif change.kind == "user":
            ids = self._users.get(change.id, ())
            for session_id in (ids,) if isinstance(ids, str) else tuple(ids):
                self._drop(session_id)
            self._raise_all_floors()
        else:
            self.clear()

    def forget(self, session_id: str) -> None:
        """Drop a session that has ended; no read under way may bring it back."""
        with self._lock:
            self._raise_floor(session_id, _NEVER)
            self._drop(session_id)

    def clear(self) -> None:
        """Drop everything, reads under way included."""
        with self._lock:
            self._raise_all_floors()
            self.entries.clear()
            self._users.clear()
            self._bytes = 0

    def _raise_floor(self, session_id: str, floor: int) -> None:
        for fill in self._fills.get(session_id, ()):
            fill.floor = max(fill.floor, floor)

    def _raise_all_floors(self) -> None:
        for session_id in self._fills:
            self._raise_floor(session_id, _NEVER)

    def _keep(self, entry: Entry) -> None:
        record = entry.record
        present = self.entries.get(record.id)
        if present is not None:
            entry.last_seen_at = max(entry.last_seen_at, present.last_seen_at)
            entry.used = present.used
            self._drop(record.id)
        size = entry.size
        while self.entries and (len(self.entries) >= self._max_entries or self._bytes + size > self._max_bytes):
            self._evict()  # first, so that what has just been asked for is not what goes
        self.entries[record.id] = entry
        self._bytes += size
        if record.user_id is not None:
            ids = self._users.get(record.user_id)
            if ids is None:
                self._users[record.user_id] = record.id
            elif isinstance(ids, set):
                ids.add(record.id)
            elif ids != record.id:
                self._users[record.user_id] = {ids, record.id}

    def _evict(self) -> None:
        # Second chance: an entry that was used since its last turn goes to the end of the queue once more.
        while True:
            session_id = next(iter(self.entries))
            entry = self.entries[session_id]
            if not entry.used:
                self._drop(session_id)
                return
            entry.used = False
            self.entries[session_id] = self.entries.pop(session_id)

    def _drop(self, session_id: str) -> None:
        entry = self.entries.pop(session_id, None)
        if entry is None:
            return
        self._bytes -= entry.size
        user_id = entry.record.user_id
        if user_id is not None:
            ids = self._users.get(user_id)
            if isinstance(ids, set):
                ids.discard(session_id)
                if not ids:
                    del self._users[user_id]
            elif ids == session_id:
                del self._users[user_id]
