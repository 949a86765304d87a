"""Sessions: from token to session and back under one policy. Owns cache, feed and connections; leaves HTTP to `asgi`."""

import asyncio
import contextlib
import inspect
import logging
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self

import msgspec

from coatcheck.cache import Entry, NearCache
from coatcheck.clock import Clock, SystemClock
from coatcheck.connections import RESTART, UNCONFIRMED, LiveConnection, LiveConnections
from coatcheck.errors import SessionsNotStarted, StoreUnavailable, TokenRefused, UsageError, WrongEventLoop
from coatcheck.feed import Feed
from coatcheck.ids import ID_BYTES, ID_LENGTH, SECRET_BYTES, encode, hash_secret, is_id, split_token
from coatcheck.record import TOMBSTONE_SECONDS, Changes, SessionRecord, Tombstone
from coatcheck.session import Session
from coatcheck.stores import Store, open_store
from coatcheck.stores.contract import Change
from coatcheck.stores.observed import ObservedStore

__all__ = ["Counted", "SessionEvent", "SessionInfo", "Sessions"]

_log = logging.getLogger("coatcheck.sessions")

_DOT = ord(".")
_SWEEP_SECONDS = 60.0
_SWEEP_LIMIT = 500
_SWEEP_MARGIN = 3600.0
_CONFIRM_SECONDS = 30.0
_EVENT_QUEUE = 1000


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One session as lists show it. Times in seconds since 1970; nothing in it is secret."""

    id: str
    user_id: str | None
    created_at: float
    authenticated_at: float | None
    last_seen_at: float
    expires_at: float
    about: Mapping[str, str]


class SessionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a session, on whatever node: `changed`, `ended`, or `missed` (look everything up again).

    `user` says that all sessions of user `id` were ended but perhaps one.
    """

    kind: str
    id: str
    reason: str = ""


class Counted:
    """What this node did since it was made. Plain integers: a collector reads them when it likes."""

    __slots__ = ("created", "ended", "logins", "refused")

    def __init__(self) -> None:
        self.created: int = 0
        self.logins: int = 0
        self.ended: Counter[str] = Counter()
        """By reason."""
        self.refused: Counter[str] = Counter()
        """Requests and handshakes that went no further, by cause (`credentials.Refusal`)."""


class Sessions:
    """The session manager: one per process and store.

    - `store`: a store or its URL (`sqlite:///sessions.sqlite3`)
    - `idle_timeout`: seconds without a request after which a session ends (a day)
    - `lifetime`: seconds from login after which it ends in any case (30 days)
    - `max_staleness`: how long, in seconds, this node may believe its copies when the feed fails (2)
    - `touch_interval`: how often, in seconds, last-seen times are written (60)
    - `max_per_user`: beyond it a login ends the user's oldest session (100); None for no bound
    - `max_connections_per_session`, `max_connections_per_user`: live connections on this node at once (100, 1000); None
      for no bound
    - `slow_client_timeout`: for how long, in seconds, a live connection's client may leave unread what it is sent (30)
    - `cache_entries`, `cache_bytes`: the near cache's bounds
    - `lazy_start`: whether first use may start it; else `SessionsNotStarted` says what is missing

    It starts by the middleware's lifespan, by `async with`, by `start()`, or at first use.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        idle_timeout: float = 86_400.0,
        lifetime: float = 30 * 86_400.0,
        max_staleness: float = 2.0,
        touch_interval: float = 60.0,
        max_per_user: int | None = 100,
        max_connections_per_session: int | None = 100,
        max_connections_per_user: int | None = 1000,
        slow_client_timeout: float = 30.0,
        cache_entries: int = 100_000,
        cache_bytes: int = 256 * 1024 * 1024,
        lazy_start: bool = True,
        clock: Clock | None = None,
    ) -> None:
        for name, seconds in (
            ("idle_timeout", idle_timeout),
            ("lifetime", lifetime),
            ("max_staleness", max_staleness),
            ("slow_client_timeout", slow_client_timeout),
        ):
            if not seconds > 0:
                raise UsageError(f"{name}={seconds!r} must be a positive number of seconds")
        if not 0 < touch_interval <= idle_timeout:
            raise UsageError(f"touch_interval={touch_interval!r} must lie between 0 and idle_timeout={idle_timeout!r}")
        for name, most in (
            ("max_per_user", max_per_user),
            ("max_connections_per_session", max_connections_per_session),
            ("max_connections_per_user", max_connections_per_user),
        ):
            if most is not None and most < 1:
                raise UsageError(f"{name}={most!r} must be at least 1, or None for no bound")
        if cache_entries < 1 or cache_bytes < 1:
            raise UsageError("cache_entries and cache_bytes must be at least 1")
        self.store: ObservedStore = ObservedStore(open_store(store) if isinstance(store, str) else store)
        """The store, and what was asked of it. What was given is its `inner`."""
        self.clock: Clock = clock or SystemClock()
        self.idle_timeout: float = idle_timeout
        self.lifetime: float = lifetime
        self.touch_interval: float = touch_interval
        self.max_per_user: int | None = max_per_user
        self.max_staleness: float = max_staleness
        self.lazy_start: bool = lazy_start
        self.cache: NearCache = NearCache(
            max_entries=cache_entries, max_bytes=cache_bytes, max_staleness=max_staleness, clock=self.clock
        )
        self.slow_client_timeout: float = slow_client_timeout
        self.connections: LiveConnections = LiveConnections(
            self.clock, max_per_session=max_connections_per_session, max_per_user=max_connections_per_user
        )
        self.on_login: list[Callable[[SessionInfo], Awaitable[None] | None]] = []
        self.on_end: list[Callable[[str, str], Awaitable[None] | None]] = []
        self.counted: Counted = Counted()
        # After so long no node can have activity that it has not written: each writes at its next look after
        # `touch_interval`. More than that, and less than the twice that is promised.
        self._idle_end = idle_timeout + 1.5 * touch_interval
        self._feed: Feed | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._starting: asyncio.Future[None] | None = None
        self._start_lock = threading.Lock()
        self._closing = False
        self._seen: dict[str, float] = {}
        self._doubtful: dict[str, float] = {}
        self._roused = asyncio.Event()  # something is in doubt, and is to be looked up before the next turn

    # ---- starting and stopping

    async def start(self) -> None:
        """Open the store and the feed. May be called twice. Raises StoreUnavailable."""
        loop = asyncio.get_running_loop()
        if self._feed is not None and self._loop is loop:
            return None
        if self._closing:
            raise StoreUnavailable("this node is closing: ask another")
        if self._feed is not None and not self.store.any_loop:
            raise WrongEventLoop(
                "these Sessions belong to another event loop: make one Sessions per loop, or run the test client as a "
                "context manager (`with TestClient(app) as client:`) so that it keeps one loop"
            )
        starting: asyncio.Future[None] = loop.create_future()
        with self._start_lock:
            under_way = self._starting
            if under_way is None:
                self._starting = starting
        if under_way is not None:
            if under_way.get_loop() is loop:
                await asyncio.wait([under_way])
            else:
                await asyncio.sleep(0.005)  # another loop's future cannot be awaited here
            return await self.start()
        try:
            if self._feed is None:
                await self.store.start()
                self._feed = Feed(
                    self.store.changes(),
                    self.cache,
                    self.connections,
                    max_staleness=self.max_staleness,
                    doubt=self._doubt,
                )
                self._feed.poll()
            elif self._loop is not None and not self._loop.is_closed() and self._loop.is_running():
                return None  # another loop runs the background work
            self._loop = loop
            self._roused = asyncio.Event()
            self._tasks = [
                loop.create_task(self._feed.run(), name="coatcheck feed"),
                loop.create_task(self._tend(), name="coatcheck upkeep"),
            ]
        finally:
            self._starting = None
            starting.set_result(None)

    async def close(self) -> None:
        """Write what is pending, stop the feed, close live connections and the store. May be called twice."""
        feed, self._feed = self._feed, None
        if feed is None:
            return
        self._closing = True  # a request that comes now must not start anew what is being closed beneath it
        try:
            await self._close(feed)
        finally:
            self._closing = False

    async def _close(self, feed: Feed) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            if task.get_loop() is asyncio.get_running_loop():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self.connections.close_all(RESTART)
        with contextlib.suppress(StoreUnavailable):
            await self._flush()
        await feed.aclose()
        self.cache.clear()
        self.cache.lease_until = float("-inf")
        await self.store.close()
        self._loop = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def started(self) -> bool:
        """Whether the store and the feed are open."""
        return self._feed is not None

    @property
    def feed_failing(self) -> bool:
        """Whether the store's change feed could not be read when last tried; then copies are believed for a while only."""
        return self._feed is not None and self._feed.failing

    async def _ready(self) -> Feed:
        feed = self._feed
        if feed is None or self._loop is not asyncio.get_running_loop():
            if feed is None and not self.lazy_start:
                raise SessionsNotStarted(
                    "these Sessions were not started: add `async with sessions:` around their use, or give the "
                    "application's lifespan to SessionMiddleware"
                )
            await self.start()
            feed = self._feed
            assert feed is not None
        return feed

    # ---- from a token to a session

    def _copy(self, session_id: str) -> Entry | None:
        """Give this node's copy, once everything that the feed has is taken in; None where there is none to be believed."""
        feed = self._feed
        if feed is None:
            return None
        if feed.behind():
            feed.poll()
        cache = self.cache
        entry = cache.entries.get(session_id)
        if entry is not None:
            if self.clock.monotonic() >= cache.lease_until:
                feed.poll()
                return cache.get(session_id)
            # `cache.get` without the call, in every warm request.
            entry.used = True
            cache.hits += 1
        return entry

    def load_cached(self, token: bytes) -> Session | None:
        """Give the session of a token from this node's copies, or None: then `load` must ask. Never waits.

        This is the way of every warm request: a digest, a look-up, a comparison.
        """
        # No look at the token's form here: whatever finds a copy and has its secret's hash is that session's token.
        session_id = token[:ID_LENGTH].decode("latin-1")
        entry = self._copy(session_id)
        if entry is None:
            return None
        record = entry.record
        now = self.clock.time()
        if (
            record.secret_hash != hash_secret(token[ID_LENGTH + 1 :])
            or token[ID_LENGTH] != _DOT
            or now >= record.expires_at
            or now >= entry.last_seen_at + self.idle_timeout
        ):
            return None
        if entry.last_seen_at < now:
            entry.last_seen_at = now
            self._seen[session_id] = now
        return Session(self, record, token)

    async def load(self, token: bytes | None) -> Session:
        """Give the session of a token; an anonymous one for whatever is not a live session's. Raises StoreUnavailable.

        A token that was replaced or whose session ended within the last minute gives an anonymous session that will
        never touch the cookie; anything else that is not ours is as good as no token.
        """
        await self._ready()
        parts = None if token is None else split_token(token)
        if token is None or parts is None:
            return Session(self)
        session = self.load_cached(token)
        if session is not None:
            return session
        session_id, secret_hash = parts
        found = await self.cache.load(session_id, self.store.read)
        now = self.clock.time()
        if isinstance(found, Tombstone):
            known = secret_hash in found.hashes and now - found.ended_at < TOMBSTONE_SECONDS
            return Session(self, silent=known)
        if found is None:
            return Session(self)
        if found.secret_hash != secret_hash:
            known = any(old == secret_hash and now - at < TOMBSTONE_SECONDS for old, at in found.replaced)
            return Session(self, silent=known)
        record = await self._unexpired(found, touch=True)
        if record is None or record.secret_hash != secret_hash:
            return Session(self, silent=True)
        self._seen[session_id] = now
        entry = self.cache.entries.get(session_id)
        if entry is not None:
            entry.last_seen_at = max(entry.last_seen_at, now)
        return Session(self, record, token)

    def load_bearer_cached(self, session_id: str, generation: int, user_id: str) -> Session | None:
        """Give the session of a verified access token from this node's copies, or None: then `load_bearer` must ask."""
        entry = self._copy(session_id)
        if entry is None:
            return None
        record = entry.record
        now = self.clock.time()
        if (
            record.generation != generation
            or record.user_id != user_id
            or now >= record.expires_at
            or now >= entry.last_seen_at + self.idle_timeout
        ):
            return None
        if entry.last_seen_at < now:
            entry.last_seen_at = now
            self._seen[session_id] = now
        session = Session(self, record)
        session.by_bearer = True
        return session

    async def load_bearer(self, session_id: str, generation: int, user_id: str) -> Session:
        """Give the session of a verified access token. Raises TokenRefused where it is over or its secret has changed."""
        await self._ready()
        session = self.load_bearer_cached(session_id, generation, user_id)
        if session is not None:
            return session
        found = await self.cache.load(session_id, self.store.read)
        record = await self._unexpired(found, touch=True) if isinstance(found, SessionRecord) else None
        if record is None or record.generation != generation or record.user_id != user_id:
            raise TokenRefused("its session has ended, or its secret has changed")
        self.active(session_id)
        session = Session(self, record)
        session.by_bearer = True
        return session

    async def _unexpired(self, record: SessionRecord, *, touch: bool) -> SessionRecord | None:
        """Give the record if it has not expired. One that has is ended; the store has the last word on activity.

        Last-seen times reach the store `touch_interval` late, and a little more, so a session is ended as idle only
        half as much again after that; a request that comes in between is written down at once, before it counts.
        """
        now = self.clock.time()
        pending = self._seen.get(record.id, float("-inf"))
        if now < record.expires_at and now < max(record.last_seen_at, pending) + self.idle_timeout:
            return record
        found = await self.store.read(record.id)
        if not isinstance(found, SessionRecord):
            self.cache.forget(record.id)
            return None
        if now >= found.expires_at:
            await self._end([found.id], "expired", expect_generation=found.generation)
            return None
        last = max(found.last_seen_at, pending)
        if now < last + self.idle_timeout:
            return found
        if now >= last + self._idle_end:
            if await self._end([found.id], "idle", expect_generation=found.generation, unseen_since=last):
                return None
        elif touch:
            await self.store.touch({found.id: now})
        # Another node may have ended it, or heard of the user, since it was read.
        found = await self.store.read(record.id)
        return found if isinstance(found, SessionRecord) else None

    # ---- what applications ask

    async def end(self, session_id: str, reason: str = "ended") -> bool:
        """End a session, here and everywhere; tell whether this call ended it. Raises StoreUnavailable."""
        await self._ready()
        return is_id(session_id) and bool(await self._end([session_id], reason))

    async def end_user(self, user_id: str, *, keep: str | None = None, reason: str = "ended") -> list[str]:
        """End every session of a user but `keep`, logins under way included; give the ids known to be ended."""
        feed = await self._ready()
        ended = await self.store.end_user(user_id, reason=reason, now=self.clock.time(), keep=keep)
        self.cache.notice(Change("user", user_id))
        await self._ended(feed, ended, reason)
        return ended

    async def list_user(self, user_id: str) -> list[SessionInfo]:
        """Give the live sessions of a user in order of creation."""
        await self._ready()
        now = self.clock.time()
        found = [
            msgspec.structs.replace(record, last_seen_at=max(record.last_seen_at, self._seen.get(record.id, 0.0)))
            for record in await self.store.list_user(user_id)
        ]
        return [
            _info(record) for record in found if now < record.expires_at and now < record.last_seen_at + self._idle_end
        ]

    async def describe(self, session_id: str, about: Mapping[str, str]) -> bool:
        """Set texts in what is known about a session's client (`about`), as a name for its device; an empty text removes one.

        Tells whether the session lives. Not for secrets: lists show it. Raises StoreUnavailable.
        """
        await self._ready()
        if not is_id(session_id):
            return False
        fill = self.cache.begin(session_id)
        try:
            merged = await self.store.apply(session_id, Changes(about=about))
        except BaseException:
            self.cache.abandon(session_id, fill)
            raise
        self.cache.finish(session_id, fill, merged, written=True)
        return merged is not None

    async def epoch(self, user_id: str) -> int:
        """Give the user's epoch. Read it before checking a password and pass it to `log_in`."""
        await self._ready()
        return await self.store.epoch(user_id)

    async def events(self) -> AsyncIterator[SessionEvent]:
        """Tell what happens to sessions on any node, from now on. A reader that is too slow gets `missed`."""
        feed = await self._ready()
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Change] = asyncio.Queue()
        overrun = False

        def put(change: Change) -> None:
            nonlocal overrun
            if queue.qsize() < _EVENT_QUEUE:
                queue.put_nowait(change)
            else:
                overrun = True

        def listen(change: Change) -> None:
            loop.call_soon_threadsafe(put, change)

        feed.listeners.append(listen)
        try:
            while True:
                change = await queue.get()
                if overrun:
                    overrun = False
                    while not queue.empty():
                        queue.get_nowait()
                    change = Change("missed")
                yield SessionEvent(kind=change.kind, id=change.id, reason=change.reason)
        finally:
            feed.listeners.remove(listen)

    async def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Have each change that any node makes told to `listener` from now on; gives what ends that.

        It is called before `confirmed` counts the change as told, on the thread that reads the feed, and must not wait.
        """
        listeners = (await self._ready()).listeners
        listeners.append(listener)

        def stop() -> None:
            if listener in listeners:
                listeners.remove(listener)

        return stop

    def confirmed(self) -> float:
        """Read the feed; give the monotonic time, in seconds, up to which listeners know what was acknowledged anywhere.

        Minus infinity before the feed was read for the first time.
        """
        if self._feed is None:
            return float("-inf")
        self._feed.poll()
        return self.cache.lease_until - self.max_staleness

    # ---- what a Session asks (session.Keeper)

    def new_id(self) -> str:
        """Give a session id. None begins with a hyphen, so that each can be typed after a command's name."""
        while (made := encode(secrets.token_bytes(ID_BYTES))).startswith("-"):
            pass
        return made

    def new_secret(self) -> tuple[str, bytes]:
        """Give a secret and its hash."""
        secret = encode(secrets.token_bytes(SECRET_BYTES))
        return secret, hash_secret(secret.encode("ascii"))

    async def create(self, record: SessionRecord) -> None:
        """Store a new record and keep a copy."""
        await self._ready()
        fill = self.cache.begin(record.id)
        try:
            await self.store.create(record)
        except BaseException:
            self.cache.abandon(record.id, fill)
            raise
        self.counted.created += 1
        self.cache.finish(record.id, fill, record, written=True)

    async def apply(
        self, record: SessionRecord, changes: Changes, *, expect_version: int | None = None
    ) -> SessionRecord | None:
        """Merge changes if the session lives and its secret is still the record's; else None."""
        feed = await self._ready()
        fill = self.cache.begin(record.id)
        try:
            merged = await self.store.apply(
                record.id,
                changes,
                expect_generation=record.generation,
                expect_version=expect_version,
                known=record,
            )
        except BaseException:
            self.cache.abandon(record.id, fill)
            raise
        self.cache.finish(record.id, fill, merged, written=True)
        if merged is None:
            # What led here was old: without a copy the next request asks the store.
            self.cache.forget(record.id)
        elif merged.generation != record.generation:
            self.connections.close_older(record.id, merged.generation, "the session's secret has changed")
        if feed.behind():
            feed.poll()
        return merged

    async def end_record(self, record: SessionRecord, reason: str) -> bool:
        """End the session if it lives and its secret is still the record's; tell whether it did."""
        await self._ready()
        return bool(await self._end([record.id], reason, expect_generation=record.generation))

    async def fresh(self, session_id: str) -> SessionRecord | None:
        """Ask the store itself, past every copy. None where the session has ended or expired."""
        await self._ready()
        fill = self.cache.begin(session_id)
        try:
            found = await self.store.read(session_id)
        except BaseException:
            self.cache.abandon(session_id, fill)
            raise
        record = found if isinstance(found, SessionRecord) else None
        self.cache.finish(session_id, fill, record)
        if record is None:
            self.cache.forget(session_id)
            return None
        return await self._unexpired(record, touch=False)

    async def logged_in(self, record: SessionRecord) -> None:
        """End the user's oldest sessions beyond the bound, and run the hooks."""
        self.counted.logins += 1
        user_id = record.user_id
        if self.max_per_user is not None and user_id is not None:
            records = await self.store.list_user(user_id, beyond=self.max_per_user)
            surplus = len(records) - self.max_per_user
            if surplus > 0:
                oldest = [other.id for other in records if other.id != record.id][:surplus]
                await self._end(oldest, "too many sessions")
        for hook in self.on_login:
            await _call(hook, _info(record))

    # ---- ending

    async def _end(
        self,
        session_ids: list[str],
        reason: str,
        *,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        feed = self._feed
        ended = await self.store.end(
            session_ids,
            reason=reason,
            now=self.clock.time(),
            expect_generation=expect_generation,
            unseen_since=unseen_since,
        )
        if feed is not None:
            # What this call did not end was ended elsewhere or has moved on, and the feed may not have told yet.
            others = set(session_ids).difference(ended)
            for session_id in others:
                self.cache.forget(session_id)
            if doubtful := [session_id for session_id in others if self.connections.of(session_id)]:
                self._doubt(doubtful)
            await self._ended(feed, ended, reason)
        return ended

    async def _ended(self, feed: Feed, ended: list[str], reason: str) -> None:
        self.counted.ended[reason] += len(ended)
        for session_id in ended:
            self.cache.forget(session_id)
            self.connections.close(session_id, reason)
            self._seen.pop(session_id, None)
        if feed.behind():
            feed.poll()
        for hook in self.on_end:
            for session_id in ended:
                await _call(hook, session_id, reason)

    # ---- background work

    def watch(
        self, record: SessionRecord, *, kind: str, close: Callable[[str], None], protocol: str = ""
    ) -> LiveConnection:
        """Count a live connection under a session; it is closed when the session ends. `connections.remove` undoes it.

        A session that ended between its look-up and this call was told to nobody: it is found out, and the connection is
        closed then. Raises TooManyConnections.
        """
        connection = self.connections.add(
            record.id,
            generation=record.generation,
            owner=record.user_id,
            kind=kind,
            protocol=protocol,
            close=close,
            deadline=self._deadline(record),
        )
        if self._feed is not None and self._feed.behind():
            self._feed.poll()
        entry = self.cache.get(record.id)
        if entry is None or entry.record.generation != record.generation:
            self._doubt([record.id])
        return connection

    def recheck(self, session_id: str) -> None:
        """Have a session with live connections looked up soon: something may have happened of which nobody was told."""
        self._doubt([session_id])

    def active(self, session_id: str) -> None:
        """Count something that the client sent on a live connection as activity."""
        now = self.clock.time()
        self._seen[session_id] = now
        entry = self.cache.entries.get(session_id)
        if entry is not None and entry.last_seen_at < now:
            entry.last_seen_at = now

    def _deadline(self, record: SessionRecord) -> float:
        """When a session ends by itself if nobody is heard of: then no node can have unwritten activity of it."""
        last = max(record.last_seen_at, self._seen.get(record.id, 0.0))
        return min(record.expires_at, last + self._idle_end)

    def _doubt(self, session_ids: list[str]) -> None:
        now = self.clock.monotonic()
        for session_id in session_ids:
            self._doubtful.setdefault(session_id, now)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._roused.set)

    async def _tend(self) -> None:
        """Until cancelled: write last-seen times, look after live connections, sweep. A failure is tried again."""
        flushed = swept = looked = self.clock.monotonic()
        doubted = float("-inf")
        while True:
            with contextlib.suppress(TimeoutError):
                # What could not be asked is asked again soon; what is new in doubt, at once.
                async with asyncio.timeout(0.02 if self._doubtful else 0.25):
                    await self._roused.wait()
            self._roused.clear()
            now = self.clock.monotonic()
            try:
                if now >= max(self.cache.lease_until, doubted + self.max_staleness):
                    # The feed tells nothing, not even that it is lost: what is open is looked up as requests are.
                    doubted = now
                    self._doubt(self.connections.sessions())
                if self._doubtful:
                    await self._confirm()
                due = self.connections.due(self.clock.time())
                if due:
                    await self._look_at(due)
                if now - looked >= 1.0:
                    looked = now
                    self.connections.drop_slow(now - self.slow_client_timeout)
                if now - flushed >= self.touch_interval:
                    await self._flush()
                    flushed = now
                if now - swept >= _SWEEP_SECONDS:
                    swept = now
                    await self.sweep()
            except StoreUnavailable as error:
                _log.debug("the store is away: %s", error)
            except Exception:
                _log.exception("upkeep failed and goes on")

    async def sweep(self) -> int:
        """Delete what has expired, in small steps; give the number. Runs by itself every minute."""
        await self._ready()
        total = 0
        while True:
            now = self.clock.time()
            deleted = await self.store.sweep(
                now=now - _SWEEP_MARGIN,
                limit=_SWEEP_LIMIT,
                unseen_since=now - self._idle_end - _SWEEP_MARGIN,
            )
            total += deleted
            if deleted < _SWEEP_LIMIT:
                return total
            await asyncio.sleep(0)

    async def _flush(self) -> None:
        seen = dict(self._seen)
        if not seen:
            return
        await self.store.touch(seen)
        # Only now: until they are written, nobody but this node knows of them, and whoever asks in between must be told.
        for session_id, at in seen.items():
            if self._seen.get(session_id) == at:
                del self._seen[session_id]

    async def _confirm(self) -> None:
        """Look up sessions with live connections of which the feed left doubt; close what is over or cannot be confirmed."""
        # A doubt that comes up while the store is asked is one of its own: the answer may be from before it.
        asked, self._doubtful = self._doubtful, {}
        try:
            alive = await self.store.alive(list(asked))
        except StoreUnavailable:
            self._doubtful.update(asked)
            now = self.clock.monotonic()
            for session_id, since in list(self._doubtful.items()):
                if now - since >= _CONFIRM_SECONDS:
                    del self._doubtful[session_id]
                    self.connections.close(session_id, UNCONFIRMED)
            raise
        for session_id in asked:
            generation = alive.get(session_id)
            if generation is None:
                self.connections.close(session_id, "the session has ended")
            else:
                self.connections.close_older(session_id, generation, "the session's secret has changed")

    async def _look_at(self, session_ids: list[str]) -> None:
        """Look up sessions with live connections whose deadline has come; close what is over."""
        now = self.clock.time()
        for number, session_id in enumerate(session_ids):
            try:
                record = await self._past_deadline(session_id, now)
            except BaseException:
                # Nobody else remembers these deadlines; and what cannot be confirmed for long is closed.
                for left in session_ids[number:]:
                    self.connections.set_deadline(left, now + 0.25)
                self._doubt(session_ids[number:])
                raise
            if record is None:
                self.connections.close(session_id, "expired")
            else:
                self.connections.set_deadline(session_id, max(self._deadline(record), now + 0.25))

    async def _past_deadline(self, session_id: str, now: float) -> SessionRecord | None:
        """End a session if its deadline is past; give the record of one that goes on."""
        found = await self.store.read(session_id)
        if not isinstance(found, SessionRecord) or self._deadline(found) > now:
            return found if isinstance(found, SessionRecord) else None
        idle = now < found.expires_at
        last = max(found.last_seen_at, self._seen.get(session_id, 0.0))
        ended = await self._end(
            [session_id],
            "idle" if idle else "expired",
            expect_generation=found.generation,
            unseen_since=last if idle else None,
        )
        return None if ended else found


def _info(record: SessionRecord) -> SessionInfo:
    return SessionInfo(
        id=record.id,
        user_id=record.user_id,
        created_at=record.created_at,
        authenticated_at=record.authenticated_at,
        last_seen_at=record.last_seen_at,
        expires_at=record.expires_at,
        about=record.about,
    )


async def _call(hook: Callable[..., Awaitable[None] | None], *arguments: object) -> None:
    """Run a hook. A hook that fails is logged: what it was told of has happened already."""
    try:
        result = hook(*arguments)
        if inspect.isawaitable(result):
            await result
    except Exception:
        _log.exception("the hook %r failed", hook)
