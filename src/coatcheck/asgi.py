"""SessionMiddleware: request in, session in the scope, changes stored before the first byte of the response leaves.

Plain ASGI 3, for `http`, `websocket` and `lifespan` scopes. What a request carries is judged by `credentials`, what a
token is worth by `manager`. A request that uses no session pays one look at its headers.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from coatcheck.connections import LiveConnection, Restart
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import BAD_TOKEN, Authenticator, Credentials, Refusal, Verifier, unavailable
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.session import Session, enter, leave

__all__ = ["SessionMiddleware"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_log = logging.getLogger("coatcheck.asgi")

CLOSE_SESSION_ENDED = 4401
"""The WebSocket close code for a session that is over (private use, RFC 6455, section 7.4.2)."""

CLOSE_RESTART = 1012
"""The one for a server that leaves while the session lives on: come back (IANA's registry, "Service Restart")."""

_TITLES = {401: "Unauthorized", 403: "Forbidden", 503: "Service Unavailable"}


class SessionMiddleware:
    """Gives every request its session, as `scope["session"]`, `request.session`, `session_of(request)` or `current_session()`.

    - `sessions`: the manager, or a store's URL to make one with defaults
    - `cookie`: the cookie's policy; the default is `__Host-session`, which browsers keep only over https
    - `public_origins`: origins whose pages may send unsafe requests and open WebSockets (see `Credentials`)
    - `tokens`: what verifies access tokens (`coatcheck.tokens.AccessTokens`); without it bearers are not looked at

    Changes are stored before the response starts; what is changed later is stored at its end. An exception that the
    application lets out discards them. A store that cannot be asked is 503 with Retry-After, never a guess.
    """

    def __init__(
        self,
        app: App,
        sessions: Sessions | str,
        *,
        cookie: CookiePolicy | None = None,
        public_origins: Iterable[str] = (),
        tokens: Verifier | None = None,
    ) -> None:
        self.app: App = app
        self.sessions: Sessions = Sessions(sessions) if isinstance(sessions, str) else sessions
        self.cookie: CookiePolicy = cookie or CookiePolicy()
        self._credentials = Credentials(self.cookie, public_origins, bearer=tokens is not None)
        self._authenticator = Authenticator(self.sessions, tokens)
        self._vary: bytes = b"Cookie" if tokens is None else b"Cookie, Authorization"
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        token = self._credentials.examine(scope)
        if token.__class__ is Refusal:
            await _refuse(scope, receive, send, token)  # pyright: ignore[reportArgumentType]
            return
        session: Session | None
        if token is None:
            session = Session(self.sessions)
        else:
            session = self._authenticator.cached(token)  # pyright: ignore[reportArgumentType]
            if session is None:
                found = await self._authenticator.load(token)  # pyright: ignore[reportArgumentType]
                if isinstance(found, Refusal):
                    await _refuse(scope, receive, send, found)
                    return
                session = found
        scope["session"] = session
        current = enter(session)
        try:
            if kind == "websocket":
                await _Socket(self, session, receive, send).run(scope)
                return
            response = _Response(self, session, scope, send)
            try:
                await self.app(scope, receive, response.send)
            except (StoreUnavailable, SessionRefused) as error:
                session.discard()
                if response.started:
                    raise
                await response.fail(error)
                return
            except BaseException:
                session.discard()
                raise
            if session.used and session.needs_commit():
                await self.late(session)
        finally:
            leave(current)

    async def late(self, session: Session) -> None:
        """Store what was changed after the response had started."""
        try:
            stored = await session.commit(cookie=False)
        except StoreUnavailable as error:
            _log.error("what was changed after the response had started is lost: %s", error)
            return
        if not stored and session.is_new:
            _log.warning(
                "a session was begun after the response had started, so its cookie could not be set and it was dropped: "
                "store something before the first byte, or call await session.save()"
            )

    def headers(self, session: Session, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Give a response's headers with what the session has to say: Vary, Cache-Control, Set-Cookie."""
        result = list(headers)
        change = None if session.by_bearer else session.cookie_change
        vary = caching = None
        for index, (name, value) in enumerate(result):
            lowered = name.lower()
            if lowered == b"vary":
                vary = value if vary is None else vary + b"," + value
            elif lowered == b"cache-control":
                caching = index
        if vary is None or not {b"cookie", b"*"} & {part.strip().lower() for part in vary.split(b",")}:
            result.append((b"vary", self._vary))
        if caching is None:
            if change is not None:
                result.append((b"cache-control", b"no-store"))
            elif session.record is not None:
                result.append((b"cache-control", b"private"))
        elif change is not None:
            directives = result[caching][1].lower()
            if b"no-store" not in directives and b"private" not in directives:
                result[caching] = (b"cache-control", b"no-store")
        if change is not None:
            if change.token is None:
                cookie = self.cookie.delete_cookie()
            else:
                cookie = self.cookie.set_cookie(change.token, max_age=change.max_age)
            result.append((b"set-cookie", cookie))
        return result

    def warn_if_dropped(self, session: Session, scope: Scope) -> None:
        """Say once that clients drop a Secure cookie that is set over plain HTTP on a name that is not localhost."""
        if self._warned or session.cookie_change is None or not self.cookie.secure:
            return
        if scope.get("scheme", "http") not in ("http", "ws"):
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"").rpartition(b":")[0] or b""
        if host in (b"localhost", b"127.0.0.1"):
            return
        self._warned = True
        _log.warning(
            "the cookie %s is Secure and this request came over plain http, so most clients will drop it. In tests use "
            'base_url="https://testserver"; behind a proxy that ends TLS let the server trust its X-Forwarded-Proto.',
            self.cookie.name,
        )

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                try:
                    await self.sessions.start()
                except StoreUnavailable as error:
                    _log.warning("the session store is away; it is tried again with each request: %s", error)
            return message

        async def close_and_send(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.sessions.close()
            await send(message)

        await self.app(scope, receive_and_start, close_and_send)


class _Response:
    """The way out of one HTTP request. `send` returns the server's own awaitable wherever nothing has to be stored."""

    __slots__ = ("_middleware", "_replaced", "_scope", "_send", "_session", "started")

    def __init__(self, middleware: SessionMiddleware, session: Session, scope: Scope, send: Send) -> None:
        self._middleware = middleware
        self._session = session
        self._scope = scope
        self._send = send
        self._replaced = False
        self.started = False

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] != "http.response.start":
            return _nothing() if self._replaced else self._send(message)
        session = self._session
        if not session.used:
            self.started = True
            return self._send(message)
        if session.needs_commit() or session.cookie_change is not None:
            return self._commit_and_send(message)
        return self._start(message)

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
        await self._drop_dead_cookie()
        await self._start(message)

    async def _drop_dead_cookie(self) -> None:
        """Say nothing of a session that was ended, or got another secret, since this request made its cookie."""
        session = self._session
        change = session.cookie_change
        if change is None or change.token is None:
            return
        token = change.token.encode("ascii")
        sessions = self._middleware.sessions
        if sessions.load_cached(token) is None:
            try:
                if (await sessions.load(token)).record is None:
                    session.cookie_change = None
            except StoreUnavailable:
                pass  # what the verb answered is the last that is known

    async def fail(self, error: StoreUnavailable | SessionRefused) -> None:
        """Answer in the application's place. Verbs that were awaited stand, and so does the cookie that they made."""
        self._replaced = True
        await self._drop_dead_cookie()
        send = self._send if self._session.cookie_change is None else self._send_with_cookie
        self.started = True
        if isinstance(error, StoreUnavailable):
            await _answer(send, unavailable(error))
        else:
            challenge = BAD_TOKEN.challenge if self._session.by_bearer else "Bearer"
            await _answer(send, Refusal(401, str(error), challenge))

    def _send_with_cookie(self, message: Message) -> Awaitable[None]:
        return self._start(message) if message["type"] == "http.response.start" else self._send(message)


class _Socket:
    """One WebSocket: closed with 4401 when its session ends, with 1012 when its node leaves.

    What the client sends counts as activity.
    """

    __slots__ = ("_accepted", "_closed", "_ended", "_live", "_middleware", "_pending", "_receive", "_send", "_session")

    def __init__(self, middleware: SessionMiddleware, session: Session, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._session = session
        self._receive = receive
        self._send = send
        self._accepted = False
        self._closed = False
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._pending: asyncio.Task[Message] | None = None
        self._live: LiveConnection | None = None

    async def run(self, scope: Scope) -> None:
        session = self._session
        try:
            await self._middleware.app(scope, self.receive, self.send)
            if session.used and session.needs_commit():
                await self._middleware.late(session)
        except BaseException:
            session.discard()
            raise
        finally:
            if self._live is not None:
                self._middleware.sessions.connections.remove(self._live)
            if self._pending is not None:
                self._pending.cancel()

    async def send(self, message: Message) -> None:
        if self._ended.done():
            if isinstance(self._ended.result(), Restart):
                raise OSError("the server leaves, and has closed its WebSockets")
            raise OSError("the session has ended, and its WebSocket with it")
        if message["type"] == "websocket.accept":
            await self._accept(message)
            return
        if message["type"] == "websocket.close":
            self._closed = True
        self._watch()
        await self._send(message)

    async def _accept(self, message: Message) -> None:
        session = self._session
        if session.used and session.needs_commit():
            await session.commit(cookie=not session.by_bearer)
        if session.cookie_change is not None:
            message["headers"] = self._middleware.headers(session, message.get("headers") or ())
        await self._send(message)
        self._accepted = True
        self._watch()

    def _watch(self) -> None:
        """Count the connection under its session, which may have begun only after the handshake."""
        record = self._session.record
        if self._live is None and record is not None and self._accepted:
            self._live = self._middleware.sessions.watch(record, kind="websocket", close=self._end)
            # What happened between the handshake's look-up and the registration was told to nobody.
            self._middleware.sessions.recheck(record.id)

    async def receive(self) -> Message:
        if self._ended.done():
            return await self._disconnect()
        self._watch()
        if self._pending is None:
            self._pending = asyncio.ensure_future(self._receive())
        await asyncio.wait((self._pending, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            return await self._disconnect()
        message = self._pending.result()
        self._pending = None
        if message["type"] == "websocket.receive" and self._session.record is not None:
            self._middleware.sessions.active(self._session.record.id)
        elif message["type"] == "websocket.disconnect":
            self._closed = True
        return message

    def _end(self, reason: str) -> None:
        if not self._ended.done():
            self._ended.set_result(reason)
            if not self._closed:
                self._closed = True
                close = {"type": "websocket.close", "code": _close_code(reason), "reason": _close_reason(reason)}
                closing = asyncio.ensure_future(self._send(close))
                _closings.add(closing)
                closing.add_done_callback(_closed)

    async def _disconnect(self) -> Message:
        reason = self._ended.result()
        return {"type": "websocket.disconnect", "code": _close_code(reason), "reason": _close_reason(reason)}


_closings: set[asyncio.Future[None]] = set()


def _closed(closing: asyncio.Future[None]) -> None:
    _closings.discard(closing)
    if not closing.cancelled() and (error := closing.exception()) is not None:
        _log.debug("a WebSocket had gone before it could be closed: %r", error)


def _close_code(reason: str) -> int:
    return CLOSE_RESTART if isinstance(reason, Restart) else CLOSE_SESSION_ENDED


def _close_reason(reason: str) -> str:
    if isinstance(reason, Restart):
        return reason
    # A close frame has room for 123 bytes of reason (RFC 6455, section 5.5).
    return f"session ended: {reason}".encode()[:123].decode("utf-8", "ignore")


async def _nothing() -> None:
    pass


async def _answer(send: Send, refusal: Refusal) -> None:
    """Send an RFC 9457 problem document."""
    problem = {"title": _TITLES[refusal.status], "status": refusal.status, "detail": refusal.detail}
    body = json.dumps(problem).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode("ascii")))
    if refusal.status == 401:
        headers.append((b"www-authenticate", refusal.challenge.encode("ascii")))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer a request or handshake that goes no further."""
    if scope["type"] == "http":
        await _answer(send, refusal)
        return
    await receive()
    if "websocket.http.response" not in scope.get("extensions", {}):
        # Before it is accepted, a close is answered with 403 by the server (ASGI specification).
        await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail[:120]})
        return

    def as_websocket(message: Message) -> Awaitable[None]:
        return send({**message, "type": message["type"].replace("http", "websocket.http", 1)})

    await _answer(as_websocket, refusal)
