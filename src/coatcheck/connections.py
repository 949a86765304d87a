"""Live connections: session id to the means of closing them, and when each must be closed. Knows nothing of sessions.

Why a connection is closed is a text. One that is an `Interruption` ends no session: the client may come back.
"""

import asyncio
import heapq
import itertools
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

from coatcheck.clock import Clock
from coatcheck.errors import TooManyConnections

__all__ = [
    "RESTART",
    "TOO_SLOW",
    "UNCONFIRMED",
    "Interruption",
    "LiveConnection",
    "LiveConnections",
    "Restart",
    "TooSlow",
    "Unconfirmed",
]

_log = logging.getLogger("coatcheck.connections")


class Interruption(str):
    """A reason to close that ends no session."""

    __slots__ = ()


class Restart(Interruption):
    """This node leaves, and the client should come back to another."""

    __slots__ = ()


class Unconfirmed(Interruption):
    """Whether the session goes on could not be asked for too long; the client should come back later."""

    __slots__ = ()


class TooSlow(Interruption):
    """The client does not read what it is sent."""

    __slots__ = ()


RESTART = Restart("service restart")
UNCONFIRMED = Unconfirmed("the session cannot be confirmed")
TOO_SLOW = TooSlow("too slow to read")


class LiveConnection:
    """One open WebSocket or stream. `close` is called at most once, with a reason, on the connection's own loop.

    Where the reason is an `Interruption`, the session lives on: the connection is to end as its protocol says so.
    """

    __slots__ = (
        "_close",
        "blocked_since",
        "generation",
        "kind",
        "loop",
        "opened_at",
        "owner",
        "protocol",
        "session_id",
    )

    def __init__(
        self,
        session_id: str,
        *,
        generation: int,
        owner: str | None,
        kind: str,
        protocol: str,
        close: Callable[[str], None],
        opened_at: float,
    ) -> None:
        self.session_id: str = session_id
        self.generation: int = generation
        self.owner: str | None = owner
        self.kind: str = kind
        """`websocket`, `sse`, `stream`, `grpc`, …"""
        self.protocol: str = protocol
        """What carries it, as `HTTP/2`; empty where nobody knows."""
        self.opened_at: float = opened_at
        self.blocked_since: float = 0.0
        """The monotonic time since when the client has not taken what it was sent; 0 while nothing waits for it."""
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._close: Callable[[str], None] | None = close

    def gone(self) -> None:
        """The connection is over: there is nothing to close."""
        self._close = None

    def close(self, reason: str) -> None:
        """Ask the connection to close. Safe from any thread."""
        close, self._close = self._close, None
        if close is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(close, reason)


class LiveConnections:
    """This node's open connections by session. Thread-safe as far as single dict operations are.

    `max_per_session`, `max_per_user`: how many there may be at once on this node; None for no bound.
    """

    def __init__(self, clock: Clock, *, max_per_session: int | None = None, max_per_user: int | None = None) -> None:
        self._clock = clock
        self._max_per_session = max_per_session
        self._max_per_user = max_per_user
        self._by_owner: Counter[str] = Counter()
        self.by_kind: Counter[str] = Counter()
        """How many are open of each kind."""
        self.full: set[str] = set()
        """The sessions and users, by id, that have as many connections as they may."""
        self._by_session: dict[str, dict[LiveConnection, None]] = {}
        self._deadlines: list[tuple[float, int, str]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()  # of the deadlines
        self._leaving = False
        self.listeners: list[Callable[[LiveConnection, bool], None]] = []
        """Called with each connection that is counted (True) and that is gone (False), on its own loop or a closer's thread."""

    def __len__(self) -> int:
        return sum(len(connections) for connections in self._by_session.values())

    def add(
        self,
        session_id: str,
        *,
        generation: int,
        owner: str | None,
        kind: str,
        close: Callable[[str], None],
        deadline: float,
        protocol: str = "",
    ) -> LiveConnection:
        """Count a connection under a session. `deadline` (seconds since 1970) is when the session is to be looked at.

        Raises TooManyConnections.
        """
        if session_id in self.full:
            raise TooManyConnections(f"a session may have {self._max_per_session} connections open at once")
        if owner in self.full:
            raise TooManyConnections(f"a user may have {self._max_per_user} connections open at once")
        connection = LiveConnection(
            session_id,
            generation=generation,
            owner=owner,
            kind=kind,
            protocol=protocol,
            close=close,
            opened_at=self._clock.time(),
        )
        connections = self._by_session.setdefault(session_id, {})
        connections[connection] = None
        self.by_kind[kind] += 1
        if len(connections) == self._max_per_session:
            self.full.add(session_id)
        if owner is not None:
            self._by_owner[owner] += 1
            if self._by_owner[owner] == self._max_per_user:
                self.full.add(owner)
        self.set_deadline(session_id, deadline)
        self._tell(connection, opened=True)
        if self._leaving:
            self.close(session_id, RESTART)
        return connection

    def remove(self, connection: LiveConnection) -> None:
        """Forget a connection that has closed by itself. Harmless if it is gone already."""
        connections = self._by_session.get(connection.session_id)
        if connections is not None and connection in connections:
            del connections[connection]
            connection.gone()
            if not connections:
                self._by_session.pop(connection.session_id, None)
            self._gone(connection)

    def _gone(self, connection: LiveConnection) -> None:
        self.by_kind[connection.kind] -= 1
        self.full.discard(connection.session_id)
        owner = connection.owner
        if owner is not None:
            self.full.discard(owner)
            self._by_owner[owner] -= 1
            if self._by_owner[owner] <= 0:
                del self._by_owner[owner]
        self._tell(connection, opened=False)

    def _tell(self, connection: LiveConnection, *, opened: bool) -> None:
        for listener in tuple(self.listeners):
            try:
                listener(connection, opened)
            except Exception:
                _log.exception("a listener to live connections failed")

    def of(self, session_id: str) -> list[LiveConnection]:
        """Give the open connections of a session, oldest first."""
        return list(self._by_session.get(session_id, ()))

    def sessions(self, owner: str | None = None) -> list[str]:
        """Give the sessions that have open connections; only those of one owner where one is named."""
        if owner is None:
            return list(self._by_session)
        return [
            session_id
            for session_id, connections in list(self._by_session.items())
            if any(connection.owner == owner for connection in list(connections))
        ]

    def close(self, session_id: str, reason: str) -> int:
        """Close every connection of a session; give their number."""
        connections = self._by_session.pop(session_id, {})
        for connection in connections:
            self._gone(connection)
            connection.close(reason)
        return len(connections)

    def close_older(self, session_id: str, generation: int, reason: str) -> int:
        """Close the connections of a session that were opened under an older secret; give their number."""
        older = [connection for connection in self.of(session_id) if connection.generation < generation]
        for connection in older:
            connection.close(reason)
            self.remove(connection)
        return len(older)

    def set_deadline(self, session_id: str, deadline: float) -> None:
        """Say when a session with connections is to be looked at again (seconds since 1970)."""
        with self._lock:
            heapq.heappush(self._deadlines, (deadline, next(self._numbers), session_id))
            if len(self._deadlines) > 64 + 2 * len(self._by_session):
                # Most are of connections that came and went; of each session only the first deadline matters.
                first: dict[str, tuple[float, int, str]] = {}
                for entry in sorted(self._deadlines):
                    if entry[2] in self._by_session:
                        first.setdefault(entry[2], entry)
                self._deadlines = list(first.values())

    def due(self, now: float) -> list[str]:
        """Take the sessions whose deadline has come and that still have connections."""
        taken: dict[str, None] = {}
        with self._lock:
            while self._deadlines and self._deadlines[0][0] <= now:
                session_id = heapq.heappop(self._deadlines)[2]
                if session_id in self._by_session:
                    taken[session_id] = None
        return list(taken)

    def close_all(self, reason: str, session_ids: Iterable[str] | None = None) -> None:
        """Close the connections of all sessions, or of those that are named."""
        for session_id in list(self._by_session) if session_ids is None else session_ids:
            self.close(session_id, reason)

    def drop_slow(self, since: float) -> int:
        """Close with `TOO_SLOW` what waits for its client since before then (monotonic seconds); give the number."""
        slow = [
            connection
            for connections in list(self._by_session.values())
            for connection in list(connections)
            if 0 < connection.blocked_since < since
        ]
        for connection in slow:
            connection.close(TOO_SLOW)
            self.remove(connection)
        return len(slow)

    def leave(self) -> None:
        """Close everything with `RESTART`, and from now on whatever is opened too: this node serves no more."""
        self._leaving = True
        self.close_all(RESTART)
