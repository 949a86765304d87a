"""The way out of one HTTP request: changes stored before its first byte, and its end where it lives longer than that.

A response is live when, after its first piece, more is to come and nothing says how much (no Content-Length). When its
session ends, an event stream gets a last event and a proper end; every other stream is cut, so that nobody takes a part
for the whole. A response with Content-Length runs to its end. Leaves cancelling the application to `live`.
"""

import asyncio
import json
from collections.abc import Awaitable, Collection
from typing import Any, Protocol

from coatcheck.asgi._types import Message, Receive, Scope, Send
from coatcheck.asgi.headers import session_headers
from coatcheck.asgi.live import Live
from coatcheck.asgi.refusals import answer, refusal_of
from coatcheck.connections import Interruption
from coatcheck.cookies import CookiePolicy
from coatcheck.errors import SessionRefused, StoreUnavailable, TooManyConnections
from coatcheck.manager import Sessions
from coatcheck.session import Session

__all__ = ["Outlet", "Response", "drop_dead_cookie"]

_LAST_WORD = 1.0
"""Seconds for which a client's connection may be full before it is cut without the last event."""
_EVENT_ENDS = (b"\n\n", b"\r\r", b"\r\n\r\n")


class Outlet(Protocol):
    """What a response needs of its middleware."""

    @property
    def sessions(self) -> Sessions: ...

    @property
    def full(self) -> Collection[str]:
        """The sessions and users that have as many live connections as they may."""
        ...

    @property
    def cookie(self) -> CookiePolicy: ...

    @property
    def vary(self) -> bytes: ...

    def headers(self, session: Session, headers: Any) -> list[tuple[bytes, bytes]]: ...

    def warn_if_dropped(self, session: Session, scope: Scope) -> None: ...


class Response:
    """`send` and `receive` return the server's own awaitables wherever nothing has to be stored or watched."""

    __slots__ = (
        "_bounded",
        "_heard",
        "_hearing",
        "_middleware",
        "_receive",
        "_replaced",
        "_scope",
        "_send",
        "_session",
        "_start_headers",
        "_tail",
        "_task",
        "complete",
        "live",
        "started",
    )

    def __init__(self, middleware: Outlet, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._session = session
        self._scope = scope
        self._receive = receive
        self._send = send
        # The application may send from a task of its own; what must be cancelled is the one that the server awaits.
        self._task: asyncio.Task[Any] | None = None if session.record is None else asyncio.current_task(session.loop)
        self._replaced = False
        self._hearing = False  # whether the application waits for the request's body
        self._heard = False  # whether the request's body has been read to its end
        self._bounded = False  # whether the response says how long it is
        self._start_headers: Any = ()
        self._tail = b"\n\n"  # the last bytes of an event stream
        self.live: Live | None = None
        """What watches it, once it is one that lives longer."""
        self.started: bool = False
        self.complete: bool = False
        """Whether a live response was given its end."""

    # ---- out

    def send(self, message: Message) -> Awaitable[None]:
        """Take what the application sends. Raises OSError once the response was ended with its session."""
        if message["type"] != "http.response.start":
            if message.get("more_body", False) or self.live is not None:
                return self._continue(message)
            return _nothing() if self._replaced else self._send(message)
        self._start_headers = message.get("headers", ())
        session = self._session
        full = self._middleware.full
        if full and session.record is not None and (session.record.id in full or session.record.user_id in full):
            # One too many: an event stream can still be told so in so many words.
            if _is_event_stream(self._start_headers):
                session.discard()
                return self.fail(TooManyConnections("too many connections are open"))
        if session.used:
            if session.needs_commit() or session.cookie_change is not None:
                return self._commit_and_send(message)
            middleware = self._middleware
            # As `headers` of the middleware would give them, without the call.
            message["headers"] = session_headers(session, self._start_headers, middleware.cookie, middleware.vary)
        self.started = True
        return self._send(message)

    def _start(self, message: Message) -> Awaitable[None]:
        self.started = True
        session = self._session
        if session.cookie_change is not None:
            self._middleware.warn_if_dropped(session, self._scope)
        message["headers"] = self._middleware.headers(session, message.get("headers", ()))
        return self._send(message)

    async def _commit_and_send(self, message: Message) -> None:
        try:
            await self._session.commit(cookie=not self._session.by_bearer)
        except (StoreUnavailable, SessionRefused) as error:
            self._session.discard()
            await self.fail(error)
            return
        await drop_dead_cookie(self._middleware.sessions, self._session)
        await self._start(message)

    def _continue(self, message: Message) -> Awaitable[None]:
        """A piece of a body that has others."""
        if self._replaced:
            return _nothing()
        live = self.live
        if live is None or not live.counted:
            if self._bounded or self._session.record is None:
                return self._send(message)
            if any(name.lower() == b"content-length" for name, _ in self._start_headers):
                self._bounded = True
                return self._send(message)
        return self._send_live(self._live_or_new(), message)

    async def _send_live(self, live: Live, message: Message) -> None:
        if live.reason is not None:
            raise live.refuse_to_send()
        more = message.get("more_body", False)
        if more:
            if not live.counted and _is_event_stream(self._start_headers):
                live.kind = "sse"
            try:
                live.watch(self._session.record, listen=not self._hearing)
            except TooManyConnections:
                live.end(Interruption("too many connections"))
                raise live.refuse_to_send() from None
            self._tail = (self._tail + message.get("body", b"")[-4:])[-4:]
        else:
            live.forget()  # what is whole is not ended any more
        live.sending()
        try:
            await self._send(message)
        finally:
            live.sent()

    def _live_or_new(self) -> Live:
        if self.live is None:
            self.live = Live(
                self._middleware.sessions,
                self._scope,
                self._receive,
                kind="stream",
                task=self._task,
                on_end=self._end,
            )
        return self.live

    async def _end(self, reason: str) -> None:
        """The session has ended, or the node leaves."""
        live = self.live
        assert live is not None
        if (
            live.kind == "sse"
            and self.started
            and self._tail.endswith(_EVENT_ENDS)
            and not _encoded(self._start_headers)
        ):
            last = b"" if isinstance(reason, Interruption) else _last_event(reason)
            try:
                async with asyncio.timeout(_LAST_WORD):
                    await self._send({"type": "http.response.body", "body": last, "more_body": False})
                self.complete = True
            except (OSError, TimeoutError):
                pass  # gone, or full: it is cut
        await live.see_out(told=self.complete)

    # ---- in

    def receive(self) -> Awaitable[Message]:
        """Give the request's next message. Behind its body's end the end of the session is a disconnect as well."""
        if self.live is None:
            if not self._heard:
                return self._hear()
            if self._task is None:
                return self._receive()
        return self._wait()

    async def _hear(self) -> Message:
        self._hearing = True
        try:
            message = await self._receive()
        finally:
            self._hearing = False
        self._heard = not message.get("more_body", False)
        return message

    async def _wait(self) -> Message:
        message = await self._live_or_new().next()
        return {"type": "http.disconnect"} if message is None else message

    # ---- the end

    @property
    def ended(self) -> bool:
        """Whether the response was ended from this side."""
        return self.live is not None and self.live.reason is not None

    def was_cancelled_here(self) -> bool:
        """See `Live.was_cancelled_here`."""
        return self.live is not None and self.live.was_cancelled_here()

    async def fail(self, error: StoreUnavailable | SessionRefused) -> None:
        """Answer in the application's place. Verbs that were awaited stand, and so does the cookie that they made."""
        self._replaced = True
        await drop_dead_cookie(self._middleware.sessions, self._session)
        send = self._send if self._session.cookie_change is None else self._send_with_cookie
        self.started = True
        refusal = refusal_of(error, by_bearer=self._session.by_bearer)
        self._middleware.sessions.counted.refused[refusal.cause] += 1
        await answer(send, refusal)

    def _send_with_cookie(self, message: Message) -> Awaitable[None]:
        return self._start(message) if message["type"] == "http.response.start" else self._send(message)


async def drop_dead_cookie(sessions: Sessions, session: Session) -> None:
    """Say nothing of a session that was ended, or got another secret, since this request made its cookie."""
    change = session.cookie_change
    if change is None or change.token is None:
        return
    token = change.token.encode("ascii")
    if sessions.load_cached(token) is None:
        try:
            if (await sessions.load(token)).record is None:
                session.cookie_change = None
        except StoreUnavailable:
            pass  # what the verb answered is the last that is known


def _is_event_stream(headers: Any) -> bool:
    for name, value in headers:
        if name.lower() == b"content-type":
            return bool(value[:17].lower() == b"text/event-stream")
    return False


def _encoded(headers: Any) -> bool:
    """Whether what is sent is compressed, so that no text can be put behind it (RFC 9110, section 8.4)."""
    return any(name.lower() == b"content-encoding" and value.lower() != b"identity" for name, value in headers)


def _last_event(reason: str) -> bytes:
    return b"event: session-ended\ndata: " + json.dumps({"reason": reason}).encode() + b"\n\n"


async def _nothing() -> None:
    pass
