"""Which sessions end, as services are told it: one worker's view, and what each reader is told of it, whatever the transport.

Promises that what is confirmed is told after everything that it confirms, and that no reader keeps a worker that leaves.
Decision record 10 says why it is as it is. Leaves what is remembered to `revocation_window`, and bytes to the transports.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple, TypeAlias

from coatcheck.errors import StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.server.context import WorkerContext
from coatcheck.server.revocation_window import RevocationWindow, Told
from coatcheck.stores.contract import Change

__all__ = ["SLOW", "Batch", "Confirmed", "Leading", "RevocationFeed", "Told"]

HEARTBEAT = 0.5
"""Seconds between two heartbeats."""
OVERLAP = 10.0
"""Seconds told again to whoever resumes: nodes hear of one change at different times by clocks that differ."""
STREAM = 300.0
"""Seconds after which telling ends, so that two clocks do not run apart for longer, and the credential is asked for again."""
SLOW = 10.0
"""Seconds for which a reader may leave unread what it was sent."""

_LEEWAY = 120.0
"""Seconds for which a token is remembered to be bad beyond its life: verifiers give some to clocks that differ."""
_READERS = 1000
_BATCH = 1000
_AGAIN = 0.1


class Leading(NamedTuple):
    """The first that is told: from when on (seconds since 1970) nothing is missing. `whole`: no later than what was asked for."""

    whole: bool
    since: float
    token_lifetime: float


class Confirmed(NamedTuple):
    """Up to when everything has been told: seconds since the reader arrived, and the place to resume from.

    None where the sessions could not be asked yet.
    """

    after_arrival: float
    place: str


Batch: TypeAlias = list[Leading | Told | Confirmed | None]


class RevocationFeed:
    """One worker's view of what ends, from `start` on, and the readers that wait for it."""

    def __init__(self, sessions: Sessions, *, token_lifetime: float) -> None:
        self._sessions = sessions
        self.token_lifetime = token_lifetime
        self.leaving: bool = False
        self.waiting: set[asyncio.Future[None]] = set()
        self.readers: int = 0
        self._window: RevocationWindow | None = None
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unclear: dict[str, int] = {}  # session id to how often it was in doubt
        self._asking: asyncio.Task[None] | None = None
        self._confirmed = float("-inf")

    @property
    def window(self) -> RevocationWindow:
        """What has happened since the start."""
        assert self._window is not None
        return self._window

    async def start(self) -> None:
        """Begin to remember; later calls do nothing. Raises StoreUnavailable."""
        async with self._starting:
            if self._window is not None:
                return
            self._loop = asyncio.get_running_loop()
            await self._sessions.listen(self._notice)
            # From after it listens: what was acknowledged before that may have been told to nobody here.
            keep = self.token_lifetime + _LEEWAY
            self._window = RevocationWindow(now=self._sessions.clock.time(), keep=keep)

    async def run(self) -> None:
        """Start as soon as the store can be asked."""
        while True:
            try:
                await self.start()
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            else:
                return

    @property
    def full(self) -> bool:
        """Whether there are as many readers as this worker takes."""
        return self.readers >= _READERS

    def leave(self) -> None:
        """Have every answer end: this worker serves no more."""
        self.leaving = True
        self._wake()

    def confirmed(self) -> float:
        """Give the monotonic time up to which the window has everything that was acknowledged anywhere."""
        confirmed = self._sessions.confirmed()
        # What is being asked for is not in the window yet, so nothing after it is confirmed either.
        if not self._unclear:
            self._confirmed = confirmed
        return self._confirmed

    def _notice(self, change: Change) -> None:
        if self._window is None:
            return
        now = self._sessions.clock.time()
        if change.kind == "ended":
            news = self._window.add(now, "ended", change.id)
        elif change.kind == "user":
            news = self._window.add(now, "user", change.id)
        elif change.kind == "missed":
            news = self._window.add(now, "reset")
        elif change.generation:
            news = self._window.add(now, "generation", change.id, change.generation)
        else:
            self._unclear[change.id] = self._unclear.get(change.id, 0) + 1
            news = True
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for reader in self.waiting:
            if not reader.done():
                reader.set_result(None)
        if self._unclear and self._asking is None:
            self._asking = asyncio.ensure_future(self._clear())

    async def _clear(self) -> None:
        """Ask the store about sessions of which the feed could only tell that something happened."""
        try:
            while asked := dict(self._unclear):
                try:
                    alive = await self._sessions.store.alive(list(asked))
                except StoreUnavailable:
                    await asyncio.sleep(_AGAIN)
                    continue
                now = self._sessions.clock.time()
                for session_id, times in asked.items():
                    if self._unclear[session_id] != times:
                        continue  # it changed once more meanwhile: the answer may be from before that
                    del self._unclear[session_id]
                    generation = alive.get(session_id)
                    if generation is None:
                        self.window.add(now, "ended", session_id)
                    else:
                        self.window.add(now, "generation", session_id, generation)
        finally:
            self._asking = None
        self._wake()

    # ---- readers

    async def read(self, worker: WorkerContext, arrived: float, after: str | None) -> AsyncGenerator[Batch, None]:
        """Tell what happened from a place on, and what happens, until the worker leaves or the time is over.

        `arrived` is when the reader did, by the sessions' monotonic clock. It has no queue but its place in the window: what
        it does not take is dropped there, and then this ends. Close it, as with `contextlib.aclosing`.
        """
        loop = asyncio.get_running_loop()
        window = self.window
        self.readers += 1
        try:
            position, leading = self._begin(after)
            batch: Batch = [leading]
            end_at, beat_at = loop.time() + STREAM, 0.0
            while True:
                # In this order: what is confirmed was in the window by then.
                confirmed = self.confirmed()
                told = window.after(position, _BATCH)
                if told is None:
                    return  # slower than the window is long
                position += len(told)
                batch += told
                whole = position == window.end
                leaving = self.leaving or worker.draining or loop.time() >= end_at
                if whole and (leaving or loop.time() >= beat_at):
                    batch.append(self._heartbeat(confirmed, arrived))
                    beat_at = loop.time() + HEARTBEAT
                if batch:
                    yield batch
                    batch = []
                if whole and leaving:
                    return
                if whole and position == window.end:
                    await self._news(beat_at - loop.time())
        finally:
            self.readers -= 1

    async def _news(self, seconds: float) -> None:
        """Wait for something to tell, or the next heartbeat."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.add(news)
        try:
            await asyncio.wait((news,), timeout=max(0.0, seconds))
        finally:
            self.waiting.discard(news)

    def _begin(self, after: str | None) -> tuple[int, Leading]:
        """Where to begin, and what to say about it."""
        window, now = self.window, self._sessions.clock.time()
        since, whole, position = window.since(now), True, window.position(0.0)
        if after is not None:
            wanted = int(after) / 1000 if after.isascii() and after.isdigit() and len(after) <= 15 else 0.0
            if since <= wanted - OVERLAP and wanted <= now + OVERLAP:
                since, position = wanted, window.position(wanted - OVERLAP)
            else:
                whole = False
        return position, Leading(whole, since, self.token_lifetime)

    def _heartbeat(self, confirmed: float, arrived: float) -> Confirmed | None:
        clock = self._sessions.clock
        ago = clock.monotonic() - confirmed
        if ago == float("inf"):
            return None
        return Confirmed(confirmed - arrived, str(int((clock.time() - ago) * 1000)))
