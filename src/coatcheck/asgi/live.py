"""The end of one live connection, WebSocket or response: signalled once, heard by the application, enforced where it is not.

Leaves to `streams` and `websockets` what is said to the client, and to `connections` who is told when a session ends.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

from coatcheck.asgi._types import Message, Receive, Scope
from coatcheck.connections import LiveConnection
from coatcheck.manager import Sessions
from coatcheck.record import SessionRecord

__all__ = ["ConnectionEnded", "Live", "was_ended"]

PATIENCE = 5.0
"""Seconds that an application has to return when its client has been told properly and it has not yet looked."""
HASTE = 0.02
"""Seconds that it has when the connection can only be cut by its returning."""
_AGAIN = 1.0
_log = logging.getLogger("coatcheck.asgi")
_closings: set[asyncio.Task[None]] = set()


class ConnectionEnded(OSError):
    """Raised to an application that sends on a connection which has ended with its session (ASGI, "Disconnected client")."""


class Live:
    """One connection's end signal. `task` runs the application; `on_end` is run, once, when somebody else ends the connection."""

    __slots__ = (
        "_cancelled",
        "_connection",
        "_inbox",
        "_listener",
        "_on_end",
        "_receive",
        "_returned",
        "_scope",
        "_sending",
        "_sessions",
        "_signal",
        "_task",
        "kind",
        "noticed",
        "reason",
    )

    def __init__(
        self,
        sessions: Sessions,
        scope: Scope,
        receive: Receive,
        *,
        kind: str,
        task: "asyncio.Task[Any] | None",
        on_end: Callable[[str], Coroutine[Any, Any, None]],
    ) -> None:
        self._sessions = sessions
        self._scope = scope
        self._task = task
        self._on_end = on_end
        self._signal: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._returned: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._receive = receive
        self._inbox: list[Message] = []  # what has come and was not asked for yet
        self._listener: asyncio.Future[None] | None = None
        self._connection: LiveConnection | None = None
        self._sending = 0
        self._cancelled = 0
        self.kind: str = kind
        self.noticed: bool = False
        """Whether the application has been told, by a disconnect or an error, that the connection is over."""
        self.reason: str | None = None
        """Why the connection was ended from this side; None while it goes on."""

    @property
    def counted(self) -> bool:
        """Whether the connection was ever counted under a session."""
        return self._connection is not None

    def watch(self, record: SessionRecord | None, *, listen: bool = True) -> None:
        """Count the connection under its session, once there is one. Raises TooManyConnections.

        `listen`: whether the server is to be asked for messages from now on, since the application is not asking it.
        """
        if self._connection is None and record is not None and self.reason is None:
            protocol = _protocol(self._scope)
            self._connection = self._sessions.watch(record, kind=self.kind, close=self.end, protocol=protocol)
            # Whether or not the application listens: a client that vanishes is to be found out.
            if listen:
                self._listen_on()

    def forget(self) -> None:
        """The connection has ended by itself."""
        if self._connection is not None:
            self._sessions.connections.remove(self._connection)

    def end(self, reason: str) -> None:
        """End the connection. Later calls do nothing."""
        if self.reason is None and not self._returned.done():
            self.reason = reason
            self._signal.set_result(None)
            closing = asyncio.ensure_future(self._on_end(reason))
            _closings.add(closing)  # which nobody else would keep alive
            closing.add_done_callback(_closed)

    async def next(self) -> Message | None:
        """Give the server's next message; None where the connection is ended first."""
        while self.reason is None:
            if self._inbox:
                return self._inbox.pop(0)
            listener = self._listen_on()
            await asyncio.wait((listener, self._signal), return_when=asyncio.FIRST_COMPLETED)
            if self.reason is None and not self._inbox and (error := listener.exception()) is not None:
                raise error
        self.noticed = True
        return None

    def _listen_on(self) -> "asyncio.Future[None]":
        """Ask the server for what comes next, unless that is being done, or something waits for the application."""
        if self._listener is None or (self._listener.done() and not self._inbox):
            self._listener = asyncio.ensure_future(self._listen())
        return self._listener

    async def _listen(self) -> None:
        """Take one message: the rest is asked for when the application wants it, so that clients cannot fill the memory."""
        message = await self._receive()
        self._inbox.append(message)
        if message["type"] == "http.request":
            if not message.get("more_body", False) and self._connection is not None:
                # Behind the end of a request's body, which need not interest the application, only a disconnect can come.
                self._listener = asyncio.ensure_future(self._listen())
        elif message["type"] in ("http.disconnect", "websocket.disconnect"):
            self.forget()

    def refuse_to_send(self) -> ConnectionEnded:
        """Give the error for an application that sends although the connection is over."""
        self.noticed = True
        return ConnectionEnded(f"this connection was closed: {self.reason}")

    def sending(self) -> None:
        """Something is handed to the client from now on; `sent` when it has taken it."""
        self._sending += 1
        if self._connection is not None and self._sending == 1:
            self._connection.blocked_since = self._sessions.clock.monotonic()

    def sent(self) -> None:
        """One of those that were being handed over has been taken, or given up."""
        self._sending -= 1
        if self._connection is not None and self._sending == 0:
            self._connection.blocked_since = 0.0

    async def see_out(self, *, told: bool) -> None:
        """See to it that the application returns. `told`: its client has got a proper end, so that there is no haste.

        Then one that knows is left to tidy up. Otherwise the connection goes on until it returns: it is cancelled.
        """
        patience = PATIENCE if told else HASTE
        while not self._returned.done():
            await asyncio.wait((self._returned,), timeout=patience)
            if self._returned.done() or self._task is None or (told and self.noticed):
                return
            self._cancelled += 1
            self._task.cancel()
            patience = _AGAIN

    def returned(self) -> None:
        """The application has returned or raised: to be called at once, before anything else is awaited."""
        if not self._returned.done():
            self._returned.set_result(None)
        if self._listener is not None:
            self._listener.cancel()
            self._listener = None
        # Nothing may refer to itself in a circle from here on: it would be there until the garbage collector comes, and
        # when thousands close together, that stops the node for as long as it looks at them (0.8 s for 10,000).
        self._on_end = _nothing
        self.forget()

    def was_cancelled_here(self) -> bool:
        """Whether a CancelledError that came out of the application is this object's doing and nobody else's; takes it back."""
        task = self._task
        if task is None or not self._cancelled or task.cancelling() > self._cancelled:
            return False
        for _ in range(self._cancelled):
            task.uncancel()
        return True


async def _nothing(reason: str) -> None:
    """What is done at the end of a connection that is over already."""


def was_ended(error: BaseException) -> bool:
    """Tell whether an error is, or comes from, the one that an application gets whose connection has ended."""
    if isinstance(error, ConnectionEnded):
        return True
    if isinstance(error, BaseExceptionGroup):
        return all(was_ended(one) for one in cast("BaseExceptionGroup[BaseException]", error).exceptions)
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return cause is not None and was_ended(cause)


def _protocol(scope: Scope) -> str:
    """What the client speaks, as whoever stands before the middleware has found it out; else what the server says."""
    known = getattr(scope.get("coatcheck.connection"), "protocol", None)
    return known if isinstance(known, str) else f"HTTP/{scope.get('http_version', '1.1')}"


def _closed(closing: "asyncio.Task[None]") -> None:
    _closings.discard(closing)
    if not closing.cancelled() and (error := closing.exception()) is not None:
        _log.debug("a connection had gone before it could be ended: %r", error)
