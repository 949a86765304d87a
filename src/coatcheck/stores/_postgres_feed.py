"""The PostgreSQL store's change feed: LISTEN on a connection of its own, believed only while a NOTIFY comes back through it.

Promises that what it confirms is complete: a probe is sent the way writes go, and comes back, behind everything that was
committed before it, the way changes come. So a line that was cut without a word, a pooler that gives the listening
session to others, a standby, or the feed of another database confirm nothing. Leaves it to the cache to believe nothing
then. Notifications come in the order of commits (PostgreSQL, NOTIFY), on whatever channels.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, StoreUnavailable
from coatcheck.stores._postgres_link import Link
from coatcheck.stores._postgres_schema import decode, probe
from coatcheck.stores.contract import Change

__all__ = ["PostgresChangeStream", "PostgresFeed"]

_log = logging.getLogger("coatcheck.stores.postgres")

_WAIT_SECONDS = 1.0
_FIRST_RETRY, _LAST_RETRY = 0.05, 1.0
_UNANSWERED = 2
"""After so many probes in a row that did not come back, listening begins anew. One may be an event loop's that was busy."""


class PostgresFeed:
    """One store's listening connection, and the connection that its probes are sent on; each is made again when it is lost.

    `patience` is for how many seconds LISTEN and the sending of a probe may take. `hint` says what may be wrong where none
    comes back.
    """

    def __init__(
        self,
        listen: Callable[[], Awaitable[Link]],
        send: Callable[[], Awaitable[Link]],
        *,
        schema: str,
        interval: float,
        patience: float,
        clock: Clock,
        hint: str,
    ) -> None:
        self._open_listener = listen
        self._open_sender = send
        self._schema = schema
        self._interval = interval
        self._patience = patience
        self._clock = clock
        self._hint = hint
        self._task: asyncio.Task[None] | None = None
        self._sender: Link | None = None
        self._settled = asyncio.Event()
        self._answered = asyncio.Event()
        self._lost = asyncio.Event()
        self._awaited: tuple[str, float] = ("", 0.0)
        self.confirmed: float = float("-inf")
        """The monotonic time of sending of the last probe that came back."""
        self.trouble: str | None = None
        """Why nothing is confirmed just now; None while probes come back."""
        self.streams: list[PostgresChangeStream] = []

    async def start(self) -> None:
        """Begin to listen. Returns once a probe has come back, or it is known that none does; never raises for that."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="coatcheck postgres feed")
        await self._settled.wait()

    async def stop(self) -> None:
        """Let go of both connections."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._fail("the store is closed")

    async def _run(self) -> None:
        retry = _FIRST_RETRY
        try:
            while True:
                confirmed = self.confirmed
                try:
                    await self._follow()
                except CoatcheckError as error:
                    self._fail(str(error))
                except Exception as error:
                    _log.exception("the change feed failed and is opened again")
                    self._fail(repr(error))
                retry = _FIRST_RETRY if self.confirmed != confirmed else min(2 * retry, _LAST_RETRY)
                await asyncio.sleep(retry)
        finally:
            self._drop_sender()

    async def _follow(self) -> None:
        """Listen on a new connection, and send probes until one does not come back. Raises CoatcheckError then."""
        self._lost.clear()
        probes = f"coatcheck {secrets.token_hex(16)}"  # nobody else's, and not to be guessed
        listener = await self._open_listener()
        try:
            listener.when_closed(self._lose)
            await self._begin(listener, probes)
            # Only now: what is changed from here on is heard.
            self._push(Change("missed"))
            pause, unanswered = 0.0, 0
            while not await _set_within(self._lost, pause):
                pause = self._interval
                try:
                    await self._send(probes)
                except CoatcheckError as error:
                    # The way that writes go. What is heard may be none the worse, but nothing proves it.
                    self._drop_sender()
                    self._fail(str(error))
                    continue
                unanswered = 0 if await _set_within(self._answered, self._patience / 4) else unanswered + 1
                if unanswered == _UNANSWERED:
                    raise StoreUnavailable(f"what is notified does not come back: {self._hint}")
            raise StoreUnavailable("the connection of the change feed was lost")
        finally:
            listener.terminate()

    async def _begin(self, listener: Link, probes: str) -> None:
        """Raises StoreUnavailable, also where nothing is answered: a line may be cut after the connection was made."""
        try:
            async with asyncio.timeout(self._patience):
                await listener.listen(probes, self._hear_probe)
                await listener.listen(self._schema, self._hear)
            return
        except TimeoutError:
            pass
        raise StoreUnavailable("LISTEN was not answered in time")

    async def _send(self, channel: str) -> None:
        """Send a probe. Raises StoreUnavailable."""
        if self._sender is None:
            self._sender = await self._open_sender()
        name = secrets.token_hex(8)
        self._answered.clear()
        self._awaited = (name, self._clock.monotonic())
        try:
            async with asyncio.timeout(self._patience):
                await self._sender.run(probe(self._schema, channel, name))
            return
        except TimeoutError:
            pass
        raise StoreUnavailable("a probe of the change feed could not be sent in time")

    def _drop_sender(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.terminate()

    def _lose(self) -> None:
        self._lost.set()
        self._answered.set()  # nothing will come back any more

    def _hear_probe(self, name: str) -> None:
        awaited, sent = self._awaited
        if name == awaited:
            self.trouble = None
            self.confirmed = sent
            for stream in self.streams:
                stream.push(sent)
            self._answered.set()
            self._settled.set()

    def _hear(self, payload: str) -> None:
        self._push(decode(payload))

    def _push(self, change: Change) -> None:
        for stream in self.streams:
            stream.push(change)

    def _fail(self, why: str) -> None:
        self.trouble = why
        self._settled.set()
        for stream in self.streams:
            stream.wake()


class PostgresChangeStream:
    """What the feed has heard, in order: changes, and the times of sending of the probes that came back between them."""

    def __init__(self, feed: PostgresFeed) -> None:
        self._feed = feed
        self._queue: deque[Change | float] = deque()
        self._news = asyncio.Event()
        self._polling = False
        # What was acknowledged before was no change to anything that was read after this stream began.
        self._confirmed = feed.confirmed
        feed.streams.append(self)

    def push(self, item: Change | float) -> None:
        """Take what has arrived."""
        self._queue.append(item)
        self._news.set()

    def wake(self) -> None:
        """Have `wait` return: there is something to be told of."""
        self._news.set()

    def behind(self) -> bool:
        return bool(self._queue)

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if self._polling:  # called from `deliver`: what is left comes when that returns
            return
        self._polling = True
        try:
            while self._queue:
                item = self._queue[0]
                if isinstance(item, Change):
                    deliver(item)
                else:
                    self._confirmed = item
                self._queue.popleft()
        finally:
            self._polling = False
        if self._feed.trouble is not None:
            raise StoreUnavailable(self._feed.trouble)

    def confirmed(self) -> float:
        return self._confirmed

    async def wait(self) -> None:
        if not self._queue:
            await _set_within(self._news, _WAIT_SECONDS)
        self._news.clear()

    async def aclose(self) -> None:
        if self in self._feed.streams:
            self._feed.streams.remove(self)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
