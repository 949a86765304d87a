"""Keeps sessions in an SQLite file: one machine, any number of processes. The default store.

Promises: what was answered is on the disk (WAL, `synchronous=FULL`), and any process of this machine that has the store
open finds its feed behind from that moment on. Changes made by hand in any SQLite client are noticed within 50 ms.
Leaves SQL to `_sqlite_steps`, transactions to `_sqlite_writer`, the files to `_sqlite_file`, changes to `_sqlite_feed`.
"""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import UsageError
from coatcheck.record import TOMBSTONE_SECONDS, Changes, SessionRecord, Tombstone
from coatcheck.stores import _sqlite_steps as steps
from coatcheck.stores._sqlite_feed import SQLiteChangeStream
from coatcheck.stores._sqlite_file import SQLiteFile, StoreBusy
from coatcheck.stores._sqlite_link import Link, Row, Value
from coatcheck.stores._sqlite_reader import Reader
from coatcheck.stores._sqlite_writer import GroupWriter

__all__ = ["SQLiteStore"]

_T = TypeVar("_T")

_SWEEP_STEP = 1000
_KEPT_CHANGES = 10_000


class SQLiteStore:
    """A database file with the contract of `Store`.

    `busy_timeout` is for how many seconds another process may hold the write lock before a write raises
    StoreUnavailable. `max_bytes` bounds the file: beyond it sessions can be ended, but none can be made (None: no bound).
    The file and its directory are made if they are missing, readable by their owner only.
    """

    any_loop = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        clock: Clock | None = None,
        busy_timeout: float = 2.0,
        max_bytes: int | None = None,
    ) -> None:
        self._file = SQLiteFile(path, busy_timeout=busy_timeout, max_bytes=max_bytes)
        self._clock = clock or SystemClock()
        self._starting = threading.Lock()
        self._reader = Reader(self._file)
        self._writer: GroupWriter | None = None
        self._is_open = False
        self._finalizer: weakref.finalize[..., SQLiteStore] | None = None

    @property
    def commits(self) -> int:
        """How many transactions were committed since the last start. Below `steps` when callers shared them."""
        return 0 if self._writer is None else self._writer.commits

    @property
    def steps(self) -> int:
        """How many writes were done since the last start."""
        return 0 if self._writer is None else self._writer.steps

    async def start(self) -> None:
        self._file.require_same_process()
        if not self._is_open:
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with self._starting:
            if self._is_open:
                return
            link = self._file.open(create=True)
            try:
                self._reader.open()
            except BaseException:
                link.close()
                raise
            self._writer = GroupWriter(self._file, link)
            self._reader.on_reopen = self._writer.look
            # Runs when the store is collected and at the interpreter's exit: what was submitted is still done.
            self._finalizer = weakref.finalize(self, self._writer.stop)
            self._is_open = True

    async def close(self) -> None:
        self._file.require_same_process()
        if self._is_open:
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with self._starting:
            if self._is_open and self._writer is not None and self._finalizer is not None:
                self._writer.stop()
                self._reader.close()
                self._finalizer.detach()
                self._is_open = False

    async def create(self, record: SessionRecord) -> None:
        await self._write(lambda link: steps.create(link, record), told=False)

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        if rows := await self._rows(steps.READ, steps.key_of(session_id), session_id):
            return steps.record_of(rows[0])
        if rows := await self._rows(steps.READ_TOMBSTONE, session_id):
            return steps.tombstone_of(rows[0])
        return None

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        found = steps.generations_of(await self._rows(steps.ALIVE, steps.keys_of(session_ids)))
        return {session_id: found[session_id] for session_id in session_ids if session_id in found}

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        return await self._write(lambda link: steps.apply(link, session_id, changes, expect_generation, expect_version))

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        ids = list(session_ids)
        return await self._write(lambda link: steps.end(link, ids, reason, now, expect_generation, unseen_since))

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        return await self._write(lambda link: steps.end_user(link, user_id, reason, now, keep))

    async def epoch(self, user_id: str) -> int:
        epoch = steps.epoch_of(await self._rows(steps.EPOCH, user_id))
        if epoch is None:
            epoch = await self._write(lambda link: steps.make_epoch(link, user_id), told=False)
        return epoch

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        records = [steps.record_of(row) for row in await self._rows(steps.READ_USER, user_id)]
        return sorted(records, key=lambda record: (record.created_at, record.id))

    async def touch(self, seen: Mapping[str, float]) -> None:
        if seen:
            times = dict(seen)
            await self._write(lambda link: steps.touch(link, times), told=False)

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        gone = await self._write(lambda link: steps.sweep(link, now, limit, unseen_since))
        await self._repeat(lambda link: steps.drop_old_tombstones(link, now - TOMBSTONE_SECONDS, _SWEEP_STEP))
        await self._repeat(lambda link: steps.drop_old_changes(link, _KEPT_CHANGES, _SWEEP_STEP))
        return gone

    async def _repeat(self, step: Callable[[Link], int]) -> None:
        # In steps of their own: nobody should wait for long while old things are being forgotten.
        while await self._write(step, told=False) == _SWEEP_STEP:
            pass

    def changes(self) -> SQLiteChangeStream:
        return SQLiteChangeStream(self._reader, self._clock)

    async def _rows(self, statement: str, *bindings: Value) -> list[Row]:
        if self._writer is None:
            raise self._not_started()
        deadline = time.monotonic() + self._file.busy_timeout
        while True:
            try:
                return self._reader.rows(statement, bindings)
            except StoreBusy:
                if time.monotonic() >= deadline:
                    raise
            await asyncio.sleep(0.005)

    async def _write(self, step: Callable[[Link], _T], *, told: bool = True) -> _T:
        if self._writer is None:
            raise self._not_started()
        return await self._writer.submit(step, told=told)

    def _not_started(self) -> UsageError:
        return UsageError(f"the store {self._file.path} was never started: await its start() first")
