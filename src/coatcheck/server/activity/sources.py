"""Sees what happens to sessions: at the sessions themselves, at their live connections, and in the store's feed.

Promises that the end of a session is written down once, whoever ended it: this node at once, another process that writes
nothing down (a sweep, the command line) by every node that hears of it and finds, a moment later, that nobody has.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable
from coatcheck.accounts.activity import ActivityLog, Entry, Kind
from coatcheck.connections import LiveConnection
from coatcheck.ids import encode
from coatcheck.manager import SessionInfo, Sessions
from coatcheck.server.activity.writing import Writing
from coatcheck.server.printable import printable
from coatcheck.server.session_kind import session_kind
from coatcheck.stores.contract import Change

__all__ = ["Sources"]

HEARD = 0.5
"""Seconds that a node which only hears of an end leaves to the one that brought it about."""
_MOST_HEARD = 50_000
_MOST_TEXT = 300
_CHUNK = 500
_log = logging.getLogger("coatcheck.activity")


class Sources:
    """One node's view of its sessions. Belongs to one event loop."""

    def __init__(self, sessions: Sessions, log: ActivityLog, writing: Writing) -> None:
        self._sessions = sessions
        self._log = log
        self._writing = writing
        self._names: dict[LiveConnection, str] = {}
        self._heard: dict[str, tuple[str, float]] = {}  # session id to the reason of its end, and when it was heard of
        self._checking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        sessions.on_login.append(self._logged_in)
        sessions.on_end.append(self._ended)
        sessions.connections.listeners.append(self._connection)

    async def listen(self) -> None:
        """Begin to hear of what other processes do. Raises StoreUnavailable."""
        if self._loop is None:
            loop = asyncio.get_running_loop()
            await self._sessions.listen(self._notice)
            self._loop = loop

    async def close(self) -> None:
        """Hear no more."""
        self._loop = None
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.wait((self._checking,))

    def record(
        self,
        kind: Kind,
        session_id: str,
        *,
        user_id: str | None = None,
        detail: Mapping[str, str | None] | None = None,
        once: str | None = None,
        at: float | None = None,
    ) -> None:
        """Have something written down; see `Activity.record`."""
        texts = {name: printable(text)[:_MOST_TEXT] for name, text in (detail or {}).items() if text}
        entry = Entry(
            kind=kind,
            session_id=session_id,
            at=self._sessions.clock.time() if at is None else at,
            once=once or encode(secrets.token_bytes(16)),
            user_id=user_id,
            detail=texts,
        )
        self._writing.put(entry)

    def _logged_in(self, info: SessionInfo) -> None:
        about = info.about
        detail = {name: about.get(name) for name in ("address", "user_agent", "method")}
        self.record("created", info.id, user_id=info.user_id, detail={**detail, "kind": session_kind(about)})

    def _ended(self, session_id: str, reason: str) -> None:
        self.record("ended", session_id, detail={"reason": reason}, once=_end_of(session_id))

    def _connection(self, connection: LiveConnection, opened: bool) -> None:
        if connection.owner is None:
            return
        if opened:
            name = self._names[connection] = encode(secrets.token_bytes(9))
        else:
            name = self._names.pop(connection, "")
        detail = {"connection": name, "transport": connection.kind, "protocol": connection.protocol}
        self.record("opened" if opened else "closed", connection.session_id, user_id=connection.owner, detail=detail)

    def _notice(self, change: Change) -> None:
        # On whatever thread reads the feed.
        if change.kind == "ended" and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._hear, change.id, change.reason)

    def _hear(self, session_id: str, reason: str) -> None:
        if len(self._heard) >= _MOST_HEARD:
            self._writing.lose()
            return
        self._heard.setdefault(session_id, (reason, self._sessions.clock.time()))
        if self._checking is None:
            self._checking = asyncio.ensure_future(self._check())

    async def _check(self) -> None:
        try:
            while self._heard:
                await asyncio.sleep(HEARD)
                heard = list(self._heard.items())
                for start in range(0, len(heard), _CHUNK):
                    await self._write_unwritten(dict(heard[start : start + _CHUNK]))
        except Exception:
            _log.exception("what was heard of sessions could not be written down")
        finally:
            self._checking = None

    async def _write_unwritten(self, heard: dict[str, tuple[str, float]]) -> None:
        keys = {_end_of(session_id): session_id for session_id in heard}
        try:
            missing = await self._log.missing(list(keys))
        except (AccountsUnavailable, AccountsNotStarted):
            return  # they stay, and are asked for again
        for key in missing:
            reason, at = heard[keys[key]]
            self.record("ended", keys[key], detail={"reason": reason}, once=key, at=at)
        for session_id in heard:
            self._heard.pop(session_id, None)


def _end_of(session_id: str) -> str:
    # An id is never given to another session: it ends once.
    return f"ended:{session_id}"
