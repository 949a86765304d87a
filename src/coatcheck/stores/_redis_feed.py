"""This node's feed from Redis: told by every primary, confirmed only while a probe comes back from each of them.

Promises that no stream is confirmed up to a moment before all that was acknowledged until then was handed to it; that after
any loss `missed` comes before anything is confirmed again; and that a primary which has joined the cluster is listened to
before anything is confirmed. Leaves connections and probes to `_redis_tracking`, doubts about own copies to `_redis_copies`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import RedisError

from coatcheck.clock import Clock
from coatcheck.errors import StoreUnavailable
from coatcheck.stores._redis_copies import Copies
from coatcheck.stores._redis_keys import EPOCH_MADE, Keys, News, change_of
from coatcheck.stores._redis_link import ClusterLink, Link, failure
from coatcheck.stores._redis_server import Address
from coatcheck.stores._redis_shards import Shards
from coatcheck.stores._redis_tracking import Tracker
from coatcheck.stores.contract import Change

__all__ = ["RedisChangeStream", "RedisFeed"]

T = TypeVar("T")

_log = logging.getLogger("coatcheck.stores.redis")

_PROBE_SECONDS = 0.25
"""How often a probe goes out: the lease of the shortest staleness that makes sense is kept by it."""

_BACKOFF = (0.02, 0.5)


class RedisChangeStream:
    """What the feed has told since this was opened. Belongs to the event loop of its store."""

    def __init__(self, feed: "RedisFeed", clock: Clock) -> None:
        self._feed = feed
        self._clock = clock
        self._told: deque[Change] = deque()
        self._arrived = asyncio.Event()
        self._confirmed = float("-inf")
        self._polling = False

    def push(self, change: Change) -> None:
        """Take in what the feed tells."""
        self._told.append(change)
        self._arrived.set()

    def behind(self) -> bool:
        return bool(self._told)

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if self._polling:  # called from `deliver`: what is left comes when that returns
            return
        self._polling = True
        try:
            confirmed = self._feed.confirmed  # first: it holds for what lies in the queue by now
            while self._told:
                deliver(self._told[0])
                self._told.popleft()
        finally:
            self._polling = False
        if self._feed.trouble is not None:
            raise StoreUnavailable(self._feed.trouble)
        self._confirmed = confirmed
        if self._clock.monotonic() - confirmed > 2 * _PROBE_SECONDS:
            self._feed.hurry()

    def confirmed(self) -> float:
        return self._confirmed

    async def wait(self) -> None:
        self._arrived.clear()
        if self._told:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._arrived.wait()

    async def aclose(self) -> None:
        self._feed.streams.discard(self)


class RedisFeed:
    """Listens to every primary for as long as the store is open. `versions` looks up sessions by id."""

    def __init__(
        self,
        clock: Clock,
        copies: Copies,
        versions: Callable[[Sequence[str]], Awaitable[Mapping[str, int]]],
    ) -> None:
        self._clock = clock
        self._copies = copies
        self._versions = versions
        self._trackers: dict[Address, Tracker] = {}
        self._task: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._was_open = False
        self.streams: set[RedisChangeStream] = set()
        self.confirmed: float = float("-inf")
        self.rounds: int = 0
        """How often probes have come back from every primary."""
        self.trouble: str | None = "the store was never started"
        """Why nothing is told at the moment; None while all is well."""

    def open(self) -> RedisChangeStream:
        """Give a stream of what is told from now on."""
        stream = RedisChangeStream(self, self._clock)
        self.streams.add(stream)
        return stream

    async def start(self, link: Link, keys: Keys) -> None:
        """Listen, and confirm once. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + link.options.timeout
        while True:
            try:
                await self._listen(link, keys)
                await self._confirm(link)
                break
            except BaseException as error:
                await self._hang_up()
                if not isinstance(error, (StoreUnavailable, RedisError, OSError, TimeoutError)):
                    raise
                # A cluster's nodes may not agree yet on who is one of them.
                if link.together or loop.time() >= deadline:
                    raise error if isinstance(error, StoreUnavailable) else failure(link.place, error) from error
            await asyncio.sleep(_BACKOFF[0])
            await link.refresh()
        self._task = asyncio.create_task(self._run(link, keys), name="coatcheck redis feed")

    async def close(self) -> None:
        """Stop listening. Streams stay, and go on when the store is opened again."""
        self.trouble = "the store is closed"
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self._hang_up()

    def hurry(self) -> None:
        """Have a probe sent now: somebody needs the lease."""
        self._hurried.set()

    async def _run(self, link: Link, keys: Keys) -> None:
        pause = _BACKOFF[0]
        while True:
            try:
                if self.trouble is not None:
                    await link.renew()
                    await self._listen(link, keys)
                await self._confirm(link)
                pause = _BACKOFF[0]
                await self._rest()
            except (StoreUnavailable, RedisError, OSError, TimeoutError) as error:
                self._despair(error if isinstance(error, StoreUnavailable) else failure(link.place, error))
                await asyncio.sleep(pause)
                pause = min(2 * pause, _BACKOFF[1])
            except Exception as error:
                # Whatever it is, this task must go on: without it nothing is ever confirmed again.
                _log.exception("listening to %s failed and begins anew", link.place)
                self._despair(StoreUnavailable(f"listening to {link.place} failed: {error!r}"))
                await asyncio.sleep(_BACKOFF[1])

    async def _rest(self) -> None:
        """Wait until the next probe is due, somebody needs one, or a connection is lost."""
        self._hurried.clear()
        if not any(tracker.lost for tracker in self._trackers.values()):
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_SECONDS):
                    await self._hurried.wait()

    def _despair(self, error: StoreUnavailable) -> None:
        if self.trouble is None:
            _log.warning("changes are not told any more: %s", error)
        self.trouble = str(error)
        self._copies.take()  # what is heard of next is that everything may have been missed

    async def _listen(self, link: Link, keys: Keys) -> None:
        """Listen to every primary there is, anew to those that were lost; then own up to what was missed."""
        wanted = await link.primaries()
        gone = [t for address, t in self._trackers.items() if address not in wanted or t.lost or self.trouble]
        # Forgotten only when it is closed: if this is cancelled in between, `_hang_up` still knows of it.
        await asyncio.gather(*(tracker.close() for tracker in gone))
        for tracker in gone:
            del self._trackers[tracker.address]
        fresh = [
            Tracker(address, link.connect, keys, self._take, self.hurry, link.options.timeout)
            for address in wanted
            if address not in self._trackers
        ]
        try:
            await _all(tracker.open() for tracker in fresh)
        except BaseException:
            await asyncio.gather(*(tracker.close() for tracker in fresh))
            raise
        self._trackers.update((tracker.address, tracker) for tracker in fresh)
        if fresh and self._was_open:
            self._copies.take()
            self._tell(Change("missed"))
        self._was_open = True
        if self.trouble is not None and self._task is not None:
            _log.warning("changes are told again by %s", link.place)
        self.trouble = None

    async def _confirm(self, link: Link) -> None:
        """Have a probe come back from every primary; then all is known that was acknowledged before they were sent."""
        sent = self._clock.monotonic()
        if isinstance(link, ClusterLink):
            await self._probe_cluster(link)
        else:
            await link.look()
            if list(self._trackers) != await link.primaries():
                raise StoreUnavailable(f"{link.place} has another primary now")
            await _all(tracker.probe("0") for tracker in self._trackers.values())
        if doubtful := self._copies.take():
            versions = await self._versions(list(doubtful))
            for session_id, version in doubtful.items():
                if versions.get(session_id, 0) < version:
                    self._tell(Change("changed", session_id))
        self.confirmed = sent
        self.rounds += 1

    async def _probe_cluster(self, link: ClusterLink) -> None:
        """Probe every primary, and ask each, after its probe, who else there is.

        Whoever answers for a session got its slot from a primary that we listen to, which therefore knows it. So
        nobody we do not know of can have acknowledged a change before this was called.
        """
        shards = await link.shards()
        tags = {address: shards.tag_for(address) for address in self._trackers}
        replies = await _all(tracker.probe(tags[at], Shards.COMMAND) for at, tracker in self._trackers.items())
        for asked, (reply,) in zip(self._trackers, replies, strict=True):
            for address, slots in Shards.read(reply, asked=asked, tls=link.place.tls).primaries.items():
                if address not in tags:
                    raise StoreUnavailable(f"{link.place} has another primary now: {address[0]}:{address[1]}")
                if slots and tags[address] is None:
                    raise StoreUnavailable(f"{link.place}: {address[0]}:{address[1]} has its first slots now")

    def _take(self, news: list[News] | None) -> None:
        """Tell what one message says: what its notes say, and of other keys that they have changed somehow."""
        if news is None:
            self._copies.take()
            self._tell(Change("missed"))
            return
        noted: set[tuple[str, str]] = set()
        for one in news:
            if one.word:
                noted.add((one.about, one.id))
                self._tell_note(one)
        for one in news:
            if not one.word and (one.about, one.id) not in noted:
                self._copies.gone(one.id)
                self._tell(Change("user", one.id) if one.about == "user" else Change("changed", one.id))

    def _tell_note(self, note: News) -> None:
        if note.about == "user":
            if note.word != EPOCH_MADE:
                self._tell(Change("user", note.id))
            return
        try:
            change = change_of(note)
        except ValueError:  # a note that somebody typed
            change = Change("changed", note.id)
        if change is None:
            self._copies.noted(note.id, 1)
            return
        if change.version:
            self._copies.noted(note.id, change.version)
        else:
            self._copies.gone(note.id)
        self._tell(change)

    def _tell(self, change: Change) -> None:
        for stream in self.streams:
            stream.push(change)

    async def _hang_up(self) -> None:
        await asyncio.gather(*(tracker.close() for tracker in self._trackers.values()))
        self._trackers.clear()


async def _all(asked: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all at once; if one fails, none goes on behind our back."""
    tasks = [asyncio.ensure_future(one) for one in asked]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
