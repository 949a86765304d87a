"""SessionMiddleware: request in, session in the scope, changes stored before the first byte of the response leaves.

Plain ASGI 3, for `http`, `websocket` and `lifespan` scopes. What a request carries is judged by `credentials`, what a
token is worth by `manager`, what becomes of the answer by `responses` and `websocket`. A request that uses no session
pays one look at its headers.
"""

import asyncio
import logging
from asyncio import get_running_loop
from collections.abc import Collection, Iterable

from coatcheck.asgi._types import App, Message, Receive, Scope, Send
from coatcheck.asgi.headers import clients_drop, session_headers
from coatcheck.asgi.live import was_ended
from coatcheck.asgi.refusals import refuse
from coatcheck.asgi.responses import Response
from coatcheck.asgi.websocket import Socket
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Authenticator, Credentials, Refusal, Verifier
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.session import Session, enter, leave

__all__ = ["SessionMiddleware"]

_log = logging.getLogger("coatcheck.asgi")


class SessionMiddleware:
    """Gives every request its session, as `scope["session"]`, `request.session`, `session_of(request)` or `current_session()`.

    - `sessions`: the manager, or a store's URL to make one with defaults
    - `cookie`: the cookie's policy; the default is `__Host-session`, which browsers keep only over https
    - `public_origins`: origins whose pages may send unsafe requests and open WebSockets (see `Credentials`)
    - `tokens`: what verifies access tokens (`coatcheck.tokens.AccessTokens`); without it bearers are not looked at

    - `max_message`: bytes that a WebSocket message of a client may have (1 MiB); None leaves it to the server

    Changes are stored before the response starts; what is changed later is stored at its end. An exception that the
    application lets out discards them. A store that cannot be asked is 503 with Retry-After, never a guess.

    What stays open ends with its session, whatever the application does: WebSockets are closed with 4401, event streams
    get a last `event: session-ended`, other streams are cut. The application sees a disconnect; `send` raises OSError.
    """

    def __init__(
        self,
        app: App,
        sessions: Sessions | str,
        *,
        cookie: CookiePolicy | None = None,
        public_origins: Iterable[str] = (),
        tokens: Verifier | None = None,
        max_message: int | None = 1024 * 1024,
    ) -> None:
        self.app: App = app
        self.sessions: Sessions = Sessions(sessions) if isinstance(sessions, str) else sessions
        self.cookie: CookiePolicy = cookie or CookiePolicy()
        self._credentials = Credentials(self.cookie, public_origins, bearer=tokens is not None)
        self._authenticator = Authenticator(self.sessions, tokens)
        self.vary: bytes = b"Cookie" if tokens is None else b"Cookie, Authorization"
        self.full: Collection[str] = self.sessions.connections.full
        self._max_message = max_message
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind != "http" and kind != "websocket":
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        carried = self._credentials.examine(scope)
        session: Session | None
        if carried is None:
            session = Session(self.sessions)
        else:
            if carried.__class__ is bytes:
                session = self.sessions.load_cached(carried)  # pyright: ignore[reportArgumentType]
            else:
                session = None if isinstance(carried, Refusal) else self._authenticator.cached(carried)
            if session is None:
                found = carried if isinstance(carried, Refusal) else await self._authenticator.load(carried)
                if isinstance(found, Refusal):
                    await self._refuse(scope, receive, send, found)
                    return
                session = found
        scope["session"] = session
        session.loop = get_running_loop()
        current = enter(session)
        try:
            if kind == "websocket":
                await self._websocket(session, scope, receive, send)
                return
            response = Response(self, session, scope, receive, send)
            try:
                await self.app(scope, response.receive, response.send)
            except BaseException as error:
                if response.live is not None:
                    response.live.returned()
                session.discard()
                if isinstance(error, StoreUnavailable | SessionRefused) and not response.started:
                    await response.fail(error)
                elif not _is_answered(error, response):
                    raise
                return
            if response.live is not None:
                response.live.returned()
                if response.ended:
                    response.was_cancelled_here()
            if session.used and session.needs_commit():
                await self.late(session)
        finally:
            leave(current)

    async def _websocket(self, session: Session, scope: Scope, receive: Receive, send: Send) -> None:
        socket = Socket(
            self.sessions,
            session,
            scope,
            receive,
            send,
            handshake_headers=self.headers,
            max_message=self._max_message,
        )
        try:
            await self.app(scope, socket.receive, socket.send)
        except BaseException as error:
            socket.returned()
            session.discard()
            if not _is_answered(error, socket):
                raise
            return
        socket.returned()
        if socket.ended:
            socket.was_cancelled_here()
        session = scope["session"]
        if session.used and session.needs_commit():
            await self.late(session)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
        self.sessions.counted.refused[refusal.cause] += 1
        await refuse(scope, receive, send, refusal)

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
        return session_headers(session, headers, self.cookie, self.vary)

    def warn_if_dropped(self, session: Session, scope: Scope) -> None:
        """Say once that clients drop a Secure cookie that is set over plain HTTP on a name that is not localhost."""
        if self._warned or session.cookie_change is None:
            return
        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        if not clients_drop(self.cookie, scheme=scope.get("scheme", "http"), host=host):
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


def _is_answered(error: BaseException, way_out: Response | Socket) -> bool:
    """Whether an error is only what comes of a connection that was ended: of that the client knows."""
    if not way_out.ended:
        return False
    if isinstance(error, asyncio.CancelledError):
        return way_out.was_cancelled_here()
    way_out.was_cancelled_here()
    return was_ended(error)
