"""Tells what happens to a user's sessions, in order, from any place on, to any number of followers with one query for all.

Promises: nothing is told twice or left out between `Begin` and the end, or it says `Reset`; a follower has no queue but its
place and what it read last, so that a slow one costs next to nothing; while nobody follows nothing is asked. Leaves
writing to `writing`.
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable
from coatcheck.accounts.activity import ActivityLog, LoggedEntry
from coatcheck.server.activity.happenings import Begin, Happening, Heartbeat, Places, Reset, Told

__all__ = ["Following"]

POLL = 0.2
"""Seconds after which what other nodes have written is looked for; this node's own is found at once."""
HEARTBEAT = 15.0
"""Seconds of silence before a heartbeat, unless told otherwise."""
_KEPT = 20
"""Entries of each followed user that are kept in memory; whoever is further behind reads the log."""
_BEHIND = 50
"""Entries that such a follower holds at once."""
_READERS = 2
"""How many read the log at once, so that thousands who come back together leave logins their connections."""
_READ = 500
_AGAIN = 0.5
_log = logging.getLogger("coatcheck.activity")


class _Tail:
    """The newest entries of one user: all after `start`, up to where the node has read."""

    __slots__ = ("entries", "followers", "start", "waiting")

    def __init__(self, start: int) -> None:
        self.start = start
        self.entries: deque[LoggedEntry] = deque()
        self.followers = 0
        self.waiting: set[asyncio.Future[None]] = set()

    def add(self, entry: LoggedEntry) -> None:
        self.entries.append(entry)
        if len(self.entries) > _KEPT:
            self.start = self.entries.popleft().number
        self.wake()

    def wake(self) -> None:
        for follower in self.waiting:
            if not follower.done():
                follower.set_result(None)


class Following:
    """One node's followers. Belongs to one event loop."""

    def __init__(self, log: ActivityLog) -> None:
        self._log = log
        self._tails: dict[str, _Tail] = {}
        self._places: Places | None = None
        self._read_up_to: int | None = None  # None while nobody follows
        self._beginning = asyncio.Lock()
        self._polling = asyncio.Lock()
        self._news = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._reading = asyncio.Semaphore(_READERS)
        self._coming = 0
        self._leaving = False
        self._era = 0  # how often the log was found to have gone back

    def __len__(self) -> int:
        return sum(tail.followers for tail in self._tails.values())

    def look(self) -> None:
        """Look at once for what was written."""
        self._news.set()

    def leave(self) -> None:
        """Have every follower's telling end once it has told all that is known here."""
        self._leaving = True
        for tail in self._tails.values():
            tail.wake()

    async def close(self) -> None:
        """End it all now."""
        self.leave()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))

    async def follow(
        self, user_id: str, *, after: str | None = None, heartbeat: float = HEARTBEAT
    ) -> AsyncGenerator[Told, None]:
        """Tell of one user's sessions, from a place on or from now on, until this node leaves.

        First `Begin` or `Reset`, for which AccountsUnavailable may be raised; later a database that is away only makes
        heartbeats stand still. Close it, as with `contextlib.aclosing`.
        """
        loop = asyncio.get_running_loop()
        places, now = await self._begin()
        tail = self._tails.setdefault(user_id, _Tail(now))
        tail.followers += 1
        self._coming -= 1
        era = self._era
        try:
            number, entries = now, list[LoggedEntry]()
            place = now if after is None else places.open(user_id, after)
            whole = place is not None
            if place is not None and place > now:
                # Another node has read further; or it is of a database that there is no more.
                await self._poll()
                whole = place <= self._up_to
            if place is not None and whole:
                whole, entries, number = await self._since(tail, user_id, place)
            yield (Begin if whole else Reset)(id=places.seal(user_id, place if place is not None and whole else number))
            silent_since = loop.time()
            while True:
                for entry in entries:
                    yield _happening(entry, places.seal(user_id, entry.number))
                if entries:
                    silent_since = loop.time()
                try:
                    if era != self._era:
                        era, number = self._era, -1  # which is before everything, so that nothing of it is whole
                    whole, entries, following = await self._since(tail, user_id, number)
                except (AccountsUnavailable, AccountsNotStarted):
                    await asyncio.sleep(_AGAIN)
                    entries = []
                else:
                    number = following
                    if not whole:
                        yield Reset(id=places.seal(user_id, number))
                        continue
                if entries:
                    continue
                if self._leaving:
                    return
                left = silent_since + heartbeat - loop.time()
                if left <= 0:
                    yield Heartbeat(id=places.seal(user_id, number))
                    silent_since = loop.time()
                    continue
                await self._wait(tail, number, left)
        finally:
            tail.followers -= 1
            if not tail.followers:
                del self._tails[user_id]

    @property
    def _up_to(self) -> int:
        """Up to which number this node has read; 0 where it reads no more, as when it is being closed."""
        return self._read_up_to or 0

    async def _begin(self) -> tuple[Places, int]:
        """Count a follower who comes, and see to it that the log is watched."""
        self._coming += 1
        try:
            async with self._beginning:
                if self._places is None or self._read_up_to is None:
                    self._news.clear()
                    place = await self._log.place()
                    self._places, self._read_up_to = Places(place.cipher_key), place.last
                if self._watching is None:
                    self._watching = asyncio.ensure_future(self._watch())
        except BaseException:
            self._coming -= 1
            raise
        return self._places, self._up_to

    async def _since(self, tail: _Tail, user_id: str, number: int) -> tuple[bool, list[LoggedEntry], int]:
        """What there is after a number, up to which number that is all; False where some of it is gone."""
        if number >= tail.start:
            up_to = max(number, self._up_to)
            return True, [entry for entry in tail.entries if entry.number > number], up_to
        async with self._reading:
            reading = await self._log.read(number, limit=_BEHIND, user_id=user_id)
            if reading.pruned > number:
                return False, [], (await self._log.place()).last
        return True, reading.entries, reading.seen

    async def _wait(self, tail: _Tail, number: int, seconds: float) -> None:
        if self._leaving or number < tail.start or (tail.entries and tail.entries[-1].number > number):
            return
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tail.waiting.add(news)
        try:
            await asyncio.wait((news,), timeout=seconds)
        finally:
            tail.waiting.discard(news)

    async def _watch(self) -> None:
        """While somebody follows: read what was written, by whatever node."""
        failing = False
        try:
            while self._tails or self._coming:
                try:
                    async with asyncio.timeout(_AGAIN if failing else POLL):
                        await self._news.wait()
                except TimeoutError:
                    pass
                self._news.clear()
                try:
                    await self._poll()
                    failing = False
                except (AccountsUnavailable, AccountsNotStarted) as error:
                    if not failing:
                        _log.warning("what happens to sessions cannot be read: %s", error)
                    failing = True
                except Exception:
                    _log.exception("reading what happens to sessions failed and goes on")
        finally:
            self._watching = self._read_up_to = None

    async def _poll(self) -> None:
        async with self._polling:
            while True:
                reading = await self._log.read(self._up_to, limit=_READ)
                gone_back = reading.seen < self._up_to  # a backup, or a fail-over that lost something
                self._era += gone_back
                if reading.pruned > self._up_to or gone_back:
                    # Some of it is gone already: each follower finds out by itself.
                    for tail in self._tails.values():
                        tail.entries.clear()
                        tail.start = reading.seen
                        tail.wake()
                else:
                    for entry in reading.entries:
                        tail = self._tails.get(entry.user_id)
                        if tail is not None and entry.number > tail.start:
                            tail.add(entry)
                self._read_up_to = reading.seen
                if not reading.more:
                    return


def _happening(entry: LoggedEntry, id: str) -> Happening:
    return Happening(id=id, kind=entry.kind, at=entry.at, session_id=entry.session_id, detail=entry.detail)
