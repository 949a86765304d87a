"""`GET /v1/verify?audience=…` with an access token: is it still good for that service? For verifiers without a live feed.

Our own API takes tokens for itself only, so this stands before the session's middleware. A reverse proxy that asks
`/v1/verify` of each request names no audience, and so is never told that a token for somebody else is good.
Leaves everything else at that address to `verify`.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs, quote

from coatcheck.errors import StoreUnavailable, TokenRefused
from coatcheck.server.problems import problem_response
from coatcheck.server.rest.verify import PATH
from coatcheck.server.schemes import SCHEME
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["VerifyElsewhere"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_INVALID = {"www-authenticate": 'Bearer error="invalid_token"'}


class VerifyElsewhere:
    """Answers 200 with `x-auth-user-id` and the like, or 401; hands on every request that is not of this kind."""

    def __init__(self, app: Application, services: Services) -> None:
        self._app = app
        self._services = services

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        # A plain function: one coroutine less on every request.
        if scope["type"] == "http" and scope["path"] == PATH and b"audience=" in scope["query_string"]:
            audiences = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("audience", [])
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            if audiences and len(given) == 1 and given[0][:7].lower() == b"bearer ":
                return self._verify(given[0][7:].strip(b" "), audiences, scope, receive, send)
        return self._app(scope, receive, send)

    async def _verify(self, token: bytes, audiences: list[str], scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem_response(405, "Ask with GET.", headers={"allow": "GET, HEAD"})(scope, receive, send)
            return
        if len(audiences) != 1:
            await problem_response(422, "Name one audience.")(scope, receive, send)
            return
        try:
            session = await self._session(token.decode("latin-1"), audiences[0], scope)
        except TokenRefused:
            detail = "The access token is not valid, or its session has ended."
            await problem_response(401, detail, headers=_INVALID)(scope, receive, send)
            return
        except StoreUnavailable as error:
            detail = "The sessions cannot be asked right now. Nothing is lost; try again."
            headers = {"retry-after": str(error.retry_after)}
            await problem_response(503, detail, headers=headers)(scope, receive, send)
            return
        assert session.user_id is not None and session.id is not None
        headers = [
            (b"content-length", b"0"),
            (b"x-auth-user-id", session.user_id.encode("ascii")),
            (b"x-auth-user-name", quote(session.about.get("username", ""), safe="").encode("ascii")),
            (b"x-auth-session-id", session.id.encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    async def _session(self, token: str, audience: str, scope: Scope) -> Session:
        sessions = self._services.sessions
        claims = self._services.access.verify(token, audience=audience)
        session = sessions.load_bearer_cached(claims.sid, claims.gen, claims.sub)
        if session is None:
            session = await sessions.load_bearer(claims.sid, claims.gen, claims.sub)
        # As at every address: what began over plain HTTP is worth nothing over TLS.
        if session.about.get(SCHEME) != scope.get("scheme", "http"):
            raise TokenRefused("it was issued over the other scheme")
        return session
