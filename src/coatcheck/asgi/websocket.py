"""One WebSocket: counted under its session from the handshake on, and closed when that ends. What the client sends is activity.

Closed with 4401 when the session ends, 1012 when the node leaves, 1013 when the session could not be confirmed for too long,
4408 when the client does not read, 1009 for a message that is too long. Leaves cancelling the application to `live`.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TypeAlias

from coatcheck.asgi._types import Message, Receive, Scope, Send
from coatcheck.asgi.live import Live
from coatcheck.asgi.refusals import TOO_MANY, refuse_handshake
from coatcheck.connections import Interruption, Restart, TooSlow
from coatcheck.credentials import SUBPROTOCOL
from coatcheck.errors import TooManyConnections, UsageError
from coatcheck.manager import Sessions
from coatcheck.session import Session, enter

__all__ = ["CLOSE_RESTART", "CLOSE_SESSION_ENDED", "CLOSE_TOO_LONG", "CLOSE_TOO_SLOW", "CLOSE_TRY_AGAIN", "Socket"]

_log = logging.getLogger("coatcheck.asgi")
HandshakeHeaders: TypeAlias = Callable[[Session, Iterable[tuple[bytes, bytes]]], list[tuple[bytes, bytes]]]

CLOSE_SESSION_ENDED = 4401
"""The WebSocket close code for a session that is over (private use, RFC 6455, section 7.4.2)."""
CLOSE_TOO_SLOW = 4408
"""The one for a client that does not read what it is sent (private use)."""
CLOSE_TOO_LONG = 1009
"""The one for a message that is too long (RFC 6455, section 7.4.1)."""
CLOSE_RESTART = 1012
"""The one for a server that leaves while the session lives on: come back (IANA's registry, "Service Restart")."""
CLOSE_TRY_AGAIN = 1013
"""The one for a session of which nobody can tell whether it lives: come back later (IANA's registry, "Try Again Later")."""


class Socket:
    """Stands between one WebSocket and its application."""

    __slots__ = (
        "_accepted",
        "_app",
        "_closed",
        "_echo",
        "_handshake_headers",
        "_live",
        "_max_message",
        "_scope",
        "_send",
        "_session",
        "_sessions",
    )

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        handshake_headers: HandshakeHeaders,
        max_message: int | None,
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._scope = scope
        self._send = send
        self._handshake_headers = handshake_headers
        self._max_message = max_message
        self._accepted = False
        self._closed = False
        # Offered beside a credential, since a browser fails a handshake of which no subprotocol is selected.
        self._echo = bool(scope.pop("coatcheck.echo", False))
        self._live = Live(sessions, scope, receive, kind="websocket", task=asyncio.current_task(), on_end=self._end)
        scope["coatcheck.adopt"] = self.adopt

    # ---- the application's side

    def adopt(self, session: Session) -> None:
        """Make an anonymous WebSocket that of a session which was proved after the handshake (`scope["coatcheck.adopt"]`).

        From now on it ends with that session. Raises UsageError where it is somebody's already, TooManyConnections.
        """
        if self._session.record is not None:
            raise UsageError("this WebSocket belongs to a session already")
        self._session = session
        self._scope["session"] = session
        enter(session)
        if self._accepted:
            self._live.watch(session.record)

    async def send(self, message: Message) -> None:
        """Take what the application sends. Raises OSError once the WebSocket was closed from this side."""
        live = self._live
        if live.reason is not None:
            raise live.refuse_to_send()
        kind = message["type"]
        if kind == "websocket.accept":
            await self._accept(message)
            return
        if kind == "websocket.close":
            self._closed = True
        elif self._accepted:
            live.watch(self._session.record)  # which may have begun only after the handshake
        live.sending()
        try:
            await self._send(message)
        finally:
            live.sent()

    async def receive(self) -> Message:
        """Give the client's next message, or a disconnect once the WebSocket was closed from this side."""
        if self._accepted and not self._closed and self._live.reason is None:
            self._live.watch(self._session.record)
        message = await self._live.next()
        if message is not None and message["type"] == "websocket.receive":
            if self._too_long(message):
                self._live.end(_TooLong("message too long"))
                message = await self._live.next()
            elif self._session.record is not None:
                self._sessions.active(self._session.record.id)
        if message is None:
            reason = self._live.reason or ""
            return {"type": "websocket.disconnect", "code": _close_code(reason), "reason": _close_reason(reason)}
        if message["type"] == "websocket.disconnect":
            self._closed = True
            self._live.forget()
        return message

    async def _accept(self, message: Message) -> None:
        session = self._session
        try:
            # Before the client is told: it may be one too many. What ends meanwhile is closed right after.
            self._live.watch(session.record)
        except TooManyConnections:
            self._closed = True
            self._sessions.counted.refused[TOO_MANY.cause] += 1
            await refuse_handshake(self._scope, self._send, TOO_MANY)
            self._live.end(Interruption("too many connections"))
            raise self._live.refuse_to_send() from None
        if session.used and session.needs_commit():
            await session.commit(cookie=not session.by_bearer)
            self._live.watch(session.record)
        if session.cookie_change is not None:
            message["headers"] = self._handshake_headers(session, message.get("headers") or ())
        if self._echo and not message.get("subprotocol"):
            message["subprotocol"] = SUBPROTOCOL
        await self._send(message)
        self._accepted = True
        if self._live.reason is not None:
            await self._close(self._live.reason)

    def _too_long(self, message: Message) -> bool:
        most = self._max_message
        if most is None:
            return False
        text = message.get("text")
        if text is None:
            return len(message.get("bytes") or b"") > most
        # A character takes one to four bytes: most need no counting.
        return len(text) > most or (4 * len(text) > most and len(text.encode()) > most)

    # ---- the end

    async def _end(self, reason: str) -> None:
        if self._accepted:
            await self._close(reason)
        await self._live.see_out(told=True)

    async def _close(self, reason: str) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._send(
                    {"type": "websocket.close", "code": _close_code(reason), "reason": _close_reason(reason)}
                )
            except (OSError, RuntimeError) as error:
                _log.debug("a WebSocket had gone before it could be closed: %r", error)

    def returned(self) -> None:
        """The application has returned or raised."""
        self._live.returned()
        self._scope.pop("coatcheck.adopt", None)

    @property
    def ended(self) -> bool:
        """Whether the WebSocket was closed from this side."""
        return self._live.reason is not None

    def was_cancelled_here(self) -> bool:
        """See `Live.was_cancelled_here`."""
        return self._live.was_cancelled_here()


class _TooLong(Interruption):
    __slots__ = ()


def _close_code(reason: str) -> int:
    if not isinstance(reason, Interruption):
        return CLOSE_SESSION_ENDED
    if isinstance(reason, Restart):
        return CLOSE_RESTART
    if isinstance(reason, TooSlow):
        return CLOSE_TOO_SLOW
    return CLOSE_TOO_LONG if isinstance(reason, _TooLong) else CLOSE_TRY_AGAIN


def _close_reason(reason: str) -> str:
    if isinstance(reason, Interruption):
        return reason
    # A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
    return f"session ended: {reason}".encode()[:123].decode("utf-8", "ignore")
