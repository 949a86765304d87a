"""The SQLite store's one writing thread: whatever is waiting goes into one transaction, so that callers share its fsync.

Leaves what is written to `_sqlite_steps`.
"""

import asyncio
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import apsw

from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.stores._sqlite_file import SQLiteFile
from coatcheck.stores._sqlite_link import Link

__all__ = ["GroupWriter"]

_log = logging.getLogger("coatcheck.stores.sqlite")

_T = TypeVar("_T")

_GROUP = 1000
"""So many steps share a commit at most: others want the lock too."""

_CHECKPOINT_PAGES = 2000
"""The log goes into the database when it has grown to so many pages; when to 16 times as many, others are made to wait."""


class _Waiting:
    """A step that somebody awaits on a loop, or nobody (None), and what came of it."""

    __slots__ = ("answer", "error", "future", "loop", "step", "told")

    def __init__(self, step: Callable[[Link], Any], loop: asyncio.AbstractEventLoop | None, told: bool) -> None:
        self.step = step
        self.told = told
        self.loop = loop
        self.future: asyncio.Future[Any] | None = None
        self.answer: Any = None
        self.error: Exception | None = None

    def settle(self) -> None:
        if self.future is None or self.future.done():
            return  # whoever waited has been cancelled; what it asked for is done all the same
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.answer)


class GroupWriter:
    """Runs steps on a thread of its own, in the order in which they were submitted, and answers once they are durable."""

    def __init__(self, file: SQLiteFile, link: Link) -> None:
        self._file = file
        self._link = link
        self._log_pages = 0
        self._adopt(link)
        self._gate = threading.Lock()
        self._stopping = False
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self.commits = 0
        self.steps = 0
        # A daemon, so that it never keeps the interpreter; the store sees to it that the queue is worked off before.
        self._thread = threading.Thread(target=self._run, name=f"coatcheck writes {file.path.name}", daemon=True)
        self._thread.start()

    async def submit(self, step: Callable[[Link], _T], *, told: bool) -> _T:
        """Run a step and give its answer once it is durable and, if it is `told`, every process's feed is behind.

        Only what never adds to the change log may be not `told`. A step runs whether or not its caller still waits. It may run twice, the first time undone.
        """
        self._file.require_same_process()
        loop = asyncio.get_running_loop()
        waiting = _Waiting(step, loop, told)
        waiting.future = future = loop.create_future()
        with self._gate:
            if self._stopping:
                raise StoreUnavailable(f"the store {self._file.path} is closed")
            self._waiting.put(waiting)
        return await future

    def look(self) -> None:
        """Look at the files soon, and let go of those that were replaced: the reader found out about it."""
        with self._gate:
            if not self._stopping:
                self._waiting.put(_Waiting(lambda link: None, None, False))

    def stop(self) -> None:
        """Finish what was submitted, let go of the file, end the thread. May be called twice, from any thread."""
        if self._file.in_fork():  # the thread stayed behind, and so may have whoever held the gate
            return
        with self._gate:
            if not self._stopping:
                self._stopping = True
                self._waiting.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            group: list[_Waiting] = []
            waiting = self._waiting.get()
            try:
                while waiting is not None:
                    group.append(waiting)
                    if len(group) == _GROUP:
                        break
                    waiting = self._waiting.get_nowait()
                stopping = waiting is None
            except queue.Empty:
                pass
            self._write(group)
            _settle(group)
            self._checkpoint()
        self._link.close()

    def _write(self, group: list[_Waiting]) -> None:
        """Commit a group as one; if that fails, one by one, so that no step fails for what another one did."""
        left = group
        try:
            if not group or (failure := self._commit(self._begin(), group)) is None:
                return
            while left:
                if len(group) > 1:
                    failure = self._commit(self._begin(), left[:1])
                if failure is not None:
                    left[0].error = failure
                left = left[1:]
        except StoreUnavailable as failure:  # no transaction could be begun: none of the others' could
            for waiting in left:
                waiting.error = StoreUnavailable(str(failure), retry_after=failure.retry_after)
        except Exception as failure:  # whatever it is, this thread must go on and nobody must wait for ever
            _log.exception("the writer of %s failed", self._file.path)
            for waiting in left:
                waiting.error = StoreUnavailable(f"writing {self._file.path} failed: {failure!r}")

    def _begin(self) -> Link:
        """Take the write lock. Raises StoreUnavailable."""
        link = self._link
        if not self._file.is_current(link):
            link = self._link = self._file.reopen(link, patience=self._file.busy_timeout)
            self._adopt(link)
        link.deadline = time.monotonic() + self._file.busy_timeout
        try:
            link.rows("BEGIN IMMEDIATE")
        except apsw.Error as error:
            raise self._file.failed(link, error) from error
        return link

    def _commit(self, link: Link, group: list[_Waiting]) -> Exception | None:
        """Run the steps of a group and commit; give what went wrong, in which case nothing of it was done."""
        try:
            before = link.total_changes()
            for waiting in group:
                waiting.error = None
                try:
                    waiting.answer = waiting.step(link)
                except SessionRefused as error:
                    waiting.error = error
            wrote = link.total_changes() != before
            link.rows("COMMIT")
        except apsw.Error as error:
            self._undo(link)
            return self._file.failed(link, error)
        except Exception as error:
            self._undo(link)
            return error
        if wrote and any(waiting.told for waiting in group):
            # After the commit and before any answer, and always a value that never stood there. So if a reader saw c
            # here before its last look at the log, and a change was answered that came after that look, then
            # something was written here after c, and whatever stands here now differs from c, in whichever order
            # processes came to write. (Not the number of the change: after a restore numbers come again.)
            link.counter[0] = secrets.randbits(64)
        self.commits += 1
        self.steps += len(group)
        return None

    def _undo(self, link: Link) -> None:
        try:
            link.rollback()
        except apsw.Error:
            link.broken = True

    def _adopt(self, link: Link) -> None:
        link.on_commit(self._note_log)  # SQLite's own checkpoint would come before the answers

    def _note_log(self, pages: int) -> None:
        self._log_pages = pages

    def _checkpoint(self) -> None:
        pages, self._log_pages = self._log_pages, 0
        if pages < _CHECKPOINT_PAGES:
            return
        patient = pages >= 16 * _CHECKPOINT_PAGES
        self._link.deadline = time.monotonic() + (self._file.busy_timeout if patient else 0)
        try:
            self._link.checkpoint(restart=patient)
        except apsw.BusyError:
            pass  # another process is at it
        except apsw.Error as error:
            _log.warning("%s", self._file.failed(self._link, error))


def _settle(group: list[_Waiting]) -> None:
    """Answer everyone: one wake-up for each event loop, however many wait there."""
    loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for waiting in group:
        if waiting.loop is not None:
            loops.setdefault(waiting.loop, []).append(waiting)
    for loop, members in loops.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle_here, members)


def _settle_here(group: list[_Waiting]) -> None:
    for waiting in group:
        waiting.settle()
