"""Two cookies, one for TLS and one for plain HTTP, and sessions that never cross from one to the other. Plain ASGI.

Over TLS the cookie is `__Host-session`, which a browser takes only over TLS. Plain HTTP, where anybody on the way may
read and plant cookies, has `session`. A session is marked at login with the scheme it was made over; under the other
cookie its token is nobody's, whoever carries it over; nor are its access tokens good there.
"""

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

from coatcheck.asgi import SessionMiddleware
from coatcheck.cookies import CookiePolicy
from coatcheck.credentials import Verifier
from coatcheck.manager import Sessions
from coatcheck.server.problems import BAD_BEARER, problem_response
from coatcheck.session import Session

__all__ = ["OTHER_SCHEME", "PLAIN_COOKIE", "SCHEME", "TLS_COOKIE", "SchemeSessions", "is_of_scheme"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

SCHEME = "scheme"
"""The key in a session's `about` that says where it was made: `http` or `https`."""
OTHER_SCHEME = "This access token was issued over the other scheme: log in over this one."
"""What an access token gets that is used over the scheme over which it was not issued."""
TLS_COOKIE = CookiePolicy()
PLAIN_COOKIE = CookiePolicy(name="session", secure=False)


class SchemeSessions:
    """SessionMiddleware with the cookie of the request's scheme, as ConnectionFactsMiddleware has put it right."""

    def __init__(
        self, app: Application, sessions: Sessions, *, public_origins: Sequence[str], tokens: Verifier | None = None
    ) -> None:
        self._tls = _confined(app, sessions, TLS_COOKIE, "https", public_origins, tokens)
        self._plain = _confined(app, sessions, PLAIN_COOKIE, "http", public_origins, tokens)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # A plain function: one coroutine less on every request.
        secure = scope.get("scheme") in ("https", "wss")
        return (self._tls if secure else self._plain)(scope, receive, send)


def is_of_scheme(session: Session, scheme: str) -> bool:
    """Tell whether a session, if it is one, was made over `http` or `https`, whichever it is."""
    record = session.record
    return record is None or record.about.get(SCHEME) == scheme


def _confined(
    app: Application,
    sessions: Sessions,
    cookie: CookiePolicy,
    scheme: str,
    public_origins: Sequence[str],
    tokens: Verifier | None,
) -> SessionMiddleware:
    def guard(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        session: Session = scope["session"]
        if is_of_scheme(session, scheme):
            return app(scope, receive, send)
        if session.by_bearer:
            return _refuse(scope, receive, send)
        # Once more without the cookie. The session that it named is not looked at, so nothing is said of it.
        stripped = {**scope, "headers": [header for header in scope["headers"] if header[0] != b"cookie"]}
        del stripped["session"]
        return middleware(stripped, receive, send)

    middleware = SessionMiddleware(guard, sessions, cookie=cookie, public_origins=public_origins, tokens=tokens)
    return middleware


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    detail = OTHER_SCHEME
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": detail})
        return
    challenge = {"www-authenticate": BAD_BEARER}
    await problem_response(401, detail, headers=challenge)(scope, receive, send)
