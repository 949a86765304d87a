"""Keeps sessions in this process, for tests and for one process that may forget. Promises no durability at all."""

import asyncio
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Mapping

import msgspec

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import LoginRefused, SessionRefused
from coatcheck.record import TOMBSTONE_SECONDS, Changes, SessionRecord, Tombstone, merge
from coatcheck.stores.contract import Change

__all__ = ["MemoryStore"]


class MemoryStore:
    """A dict with the contract of `Store`. Bounded: beyond `max_sessions` the longest unseen session is ended.

    Every method runs to its end without giving way, under a lock that other threads respect.
    """

    any_loop = True

    def __init__(self, *, max_sessions: int = 1_000_000, clock: Clock | None = None) -> None:
        self._max = max_sessions
        self._clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._records: OrderedDict[str, SessionRecord] = OrderedDict()  # in order of being seen
        self._users: dict[str, dict[str, None]] = {}
        self._epochs: dict[str, int] = {}
        self._tombstones: dict[str, Tombstone] = {}  # in order of ending
        self._streams: list[_MemoryStream] = []

    async def start(self) -> None:
        """Do nothing: there is nothing to open."""

    async def close(self) -> None:
        """Do nothing: sessions stay as long as the object."""

    async def create(self, record: SessionRecord) -> None:
        with self._lock:
            if record.id in self._records or record.id in self._tombstones:
                raise SessionRefused(f"the session id {record.id} is taken")
            if record.user_id is not None:
                self._require_epoch(record.user_id, record.epoch)
            while len(self._records) >= self._max:
                self._end(next(iter(self._records)), "evicted", record.created_at)
            self._records[record.id] = record
            self._index(record)

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        with self._lock:
            return self._valid(session_id) or self._tombstones.get(session_id)

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        with self._lock:
            records = [self._valid(session_id) for session_id in session_ids]
            return {record.id: record.generation for record in records if record is not None}

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        with self._lock:
            record = self._valid(session_id)
            if (
                record is None
                or (expect_generation is not None and record.generation != expect_generation)
                or (expect_version is not None and record.version != expect_version)
            ):
                return None
            identity = changes.identity
            if identity is not None and identity.user_id is not None:
                self._require_epoch(identity.user_id, identity.epoch)
            merged = merge(record, changes)
            self._unindex(record)
            self._records[session_id] = merged
            self._index(merged)
            self._tell(Change("changed", session_id, merged.version, merged.generation))
            return merged

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        with self._lock:
            ended: list[str] = []
            for session_id in session_ids:
                record = self._valid(session_id)
                if (
                    record is None
                    or (expect_generation is not None and record.generation != expect_generation)
                    or (unseen_since is not None and record.last_seen_at > unseen_since)
                ):
                    continue
                self._end(session_id, reason, now)
                ended.append(session_id)
            return ended

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        with self._lock:
            epoch = self._epochs.get(user_id, secrets.randbits(48)) + 1
            kept = self._valid(keep) if keep is not None else None
            ended = [session_id for session_id in self._users.get(user_id, ()) if session_id != keep]
            for session_id in ended:
                self._end(session_id, reason, now)
            self._epochs[user_id] = epoch
            if kept is not None and kept.user_id == user_id:
                self._records[kept.id] = msgspec.structs.replace(kept, epoch=epoch, version=kept.version + 1)
            self._tell(Change("user", user_id))
            return ended

    async def epoch(self, user_id: str) -> int:
        with self._lock:
            return self._epochs.setdefault(user_id, secrets.randbits(48))

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        with self._lock:
            records = [self._valid(session_id) for session_id in self._users.get(user_id, ())]
            return sorted((r for r in records if r is not None), key=lambda r: (r.created_at, r.id))

    async def touch(self, seen: Mapping[str, float]) -> None:
        with self._lock:
            for session_id, at in seen.items():
                record = self._records.get(session_id)
                if record is not None and record.last_seen_at < at:
                    self._records[session_id] = msgspec.structs.replace(record, last_seen_at=at)
                    self._records.move_to_end(session_id)

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        with self._lock:
            for session_id in list(self._tombstones):
                if now - self._tombstones[session_id].ended_at <= TOMBSTONE_SECONDS:
                    break
                del self._tombstones[session_id]
            over: list[tuple[str, str]] = []
            for session_id, record in self._records.items():
                if len(over) >= limit:
                    break
                if record.expires_at < now:
                    over.append((session_id, "expired"))
                elif record.last_seen_at < unseen_since:
                    over.append((session_id, "idle"))
            for session_id, reason in over:
                self._end(session_id, reason, now)
            return len(over)

    def changes(self) -> "_MemoryStream":
        stream = _MemoryStream(self._clock, self._streams)
        with self._lock:
            self._streams.append(stream)
        return stream

    def _require_epoch(self, user_id: str, epoch: int) -> None:
        if self._epochs.get(user_id) != epoch:
            raise LoginRefused("every session of this user was ended while the login was being checked: log in again")

    def _valid(self, session_id: str) -> SessionRecord | None:
        record = self._records.get(session_id)
        if record is not None and record.user_id is not None and self._epochs.get(record.user_id) != record.epoch:
            return None
        return record

    def _end(self, session_id: str, reason: str, now: float) -> None:
        record = self._records.pop(session_id)
        self._unindex(record)
        hashes = (record.secret_hash, *(old for old, _ in record.replaced))
        self._tombstones[session_id] = Tombstone(id=session_id, ended_at=now, reason=reason, hashes=hashes)
        self._tell(Change("ended", session_id, reason=reason))

    def _index(self, record: SessionRecord) -> None:
        if record.user_id is not None:
            self._users.setdefault(record.user_id, {})[record.id] = None

    def _unindex(self, record: SessionRecord) -> None:
        if record.user_id is not None:
            ids = self._users.get(record.user_id, {})
            ids.pop(record.id, None)
            if not ids:
                self._users.pop(record.user_id, None)

    def _tell(self, change: Change) -> None:
        for stream in self._streams:
            stream.push(change)


class _MemoryStream:
    """A queue that the store fills in the same step as its dict, so it is complete up to now, always."""

    def __init__(self, clock: Clock, streams: "list[_MemoryStream]") -> None:
        self._clock = clock
        self._streams = streams
        self._queue: deque[Change] = deque()
        self._lock = threading.RLock()
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._confirmed = float("-inf")

    def push(self, change: Change) -> None:
        self._queue.append(change)
        waiter = self._waiter
        if waiter is not None and not waiter[0].is_closed():
            waiter[0].call_soon_threadsafe(waiter[1].set)

    def behind(self) -> bool:
        return bool(self._queue)

    def poll(self, deliver: Callable[[Change], None]) -> None:
        with self._lock:
            sent = self._clock.monotonic()
            while self._queue:
                deliver(self._queue[0])
                self._queue.popleft()
            self._confirmed = sent

    def confirmed(self) -> float:
        return self._confirmed

    async def wait(self) -> None:
        event = asyncio.Event()
        self._waiter = (asyncio.get_running_loop(), event)
        try:
            if not self._queue:
                async with asyncio.timeout(0.5):
                    await event.wait()
        except TimeoutError:
            pass
        finally:
            self._waiter = None

    async def aclose(self) -> None:
        if self in self._streams:
            self._streams.remove(self)
