"""Writes down what this node sees, a few milliseconds later and many at a time. Leaves the log itself to `accounts.activity`.

Nobody waits for it, and the queue has an end: what does not fit is dropped, and the log then says that it is incomplete.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import islice

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable
from coatcheck.accounts.activity import PASSING, ActivityLog, Entry

__all__ = ["Writing"]

GATHER = 0.005
"""Seconds from the first entry to the writing of all that have come by then."""
PAUSE = 0.02
"""Seconds between two transactions that are not full: others write to this database too, and SQLite lets one at a time."""
QUEUE = 20_000
"""Entries that wait, at most, before what is passing is dropped; twice as many before anything is."""
_BATCH = 500
_AGAIN = 0.5
_log = logging.getLogger("coatcheck.activity")


class Writing:
    """One node's queue. `written` is called after each transaction. Belongs to one event loop."""

    def __init__(self, log: ActivityLog, written: Callable[[], None]) -> None:
        self._log = log
        self._written = written
        self._queue: deque[Entry] = deque()
        self._dropped = 0  # so far not told
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def put(self, entry: Entry) -> None:
        """Have it written soon."""
        room = QUEUE if entry.kind in PASSING else 2 * QUEUE
        if len(self._queue) >= room:
            self._dropped += 1
        else:
            self._queue.append(entry)
        self._begin()

    def lose(self) -> None:
        """Say that something was missed that should have been written."""
        self._dropped += 1
        self._begin()

    async def flush(self, within: float | None = None) -> None:
        """Wait until all that was put has been written, or for so many seconds."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=within)

    async def close(self, within: float) -> None:
        """Write what is left, if that can be done within so many seconds."""
        await self.flush(within)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            if self._queue:
                _log.warning("%d things that happened to sessions were not written down", len(self._queue))

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        try:
            await asyncio.sleep(GATHER)
            while self._queue or self._dropped:
                await self._write(list(islice(self._queue, _BATCH)), self._dropped)
                if 0 < len(self._queue) < _BATCH:
                    await asyncio.sleep(PAUSE)
        finally:
            self._task = None

    async def _write(self, batch: list[Entry], dropped: int) -> None:
        try:
            await self._log.append(batch, incomplete=bool(dropped))
        except (AccountsUnavailable, AccountsNotStarted) as error:
            # It may have been written all the same: then writing it again changes nothing.
            if not self._failing:
                _log.warning("what happens to sessions cannot be written down, and is kept for a while: %s", error)
            self._failing = True
            await asyncio.sleep(_AGAIN)
            return
        except Exception:
            _log.exception("%d things that happened to sessions could not be written down", len(batch))
            self._dropped += 1
            await asyncio.sleep(_AGAIN)
        else:
            self._dropped -= dropped
            self._failing = False
        for _ in batch:
            self._queue.popleft()
        self._written()
