"""`GET /v1/verify`: for reverse proxies that ask of each request whose it is (nginx auth_request, Traefik, Caddy, Envoy).

Plain ASGI, since it runs once for each request to somebody else's application: a warm answer asks no store and no
database. Judges the request that the proxy was asked for, not the one that the proxy makes of it. Leaves reading the
cookie to SessionMiddleware, and telling the truth about the original request to the proxy.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from typing import Any, TypeAlias
from urllib.parse import parse_qs, quote

from coatcheck.credentials import Credentials
from coatcheck.origin import SAFE_METHODS
from coatcheck.server.problems import problem_response
from coatcheck.server.schemes import TLS_COOKIE
from coatcheck.session import Session

__all__ = ["OPENAPI", "PATH", "Verify"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATH = "/v1/verify"

_METHODS = frozenset((b"x-original-method", b"x-forwarded-method"))
_HANDSHAKE = frozenset((b"sec-websocket-key", b"upgrade"))
_SAFE = frozenset(method.encode() for method in SAFE_METHODS)
_EMPTY = {"type": "http.response.body", "body": b""}


class Verify:
    """Answers 200 with `x-auth-user-id`, `x-auth-user-name` (percent-encoded UTF-8) and `x-auth-session-id`; else 401 or 403."""

    def __init__(self, *, public_origins: Iterable[str]) -> None:
        self._credentials = Credentials(TLS_COOKIE, public_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await problem_response(405, "Ask with GET.", headers={"allow": "GET, HEAD"})(scope, receive, send)
            return
        session: Session = scope["session"]
        # No browser sends a bearer by itself, so with one no other site can have caused the request.
        refusal = None if session.by_bearer else self._foreign(scope["headers"])
        if refusal is not None:
            await problem_response(403, refusal)(scope, receive, send)
            return
        user_id, session_id = session.user_id, session.id
        if user_id is None or session_id is None:
            await problem_response(401, "Nobody is logged in.")(scope, receive, send)
            return
        if scope["query_string"] and not await self._fresh(session, scope, receive, send):
            return
        name = quote(session.about.get("username", ""), safe="")
        headers = [
            (b"content-length", b"0"),
            (b"x-auth-user-id", user_id.encode("ascii")),
            (b"x-auth-user-name", name.encode("ascii")),
            (b"x-auth-session-id", session_id.encode("ascii")),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send(_EMPTY)

    def _foreign(self, headers: Sequence[tuple[bytes, bytes]]) -> str | None:
        """Why the original request is refused as caused by another site; None if it is not."""
        kind = "http"
        unsafe = False
        for name, value in headers:
            if name in _METHODS:
                # Unknown methods and other spellings are unsafe too, and one unsafe of several decides.
                unsafe = unsafe or value not in _SAFE
            elif name in _HANDSHAKE and (name != b"upgrade" or value.lower() == b"websocket"):
                kind = "websocket"
        if kind == "http" and not unsafe:
            return None
        judged = self._credentials.examine({"type": kind, "method": "POST", "headers": headers})
        return getattr(judged, "detail", None)

    @staticmethod
    async def _fresh(session: Session, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the login is as recent as `max_age` demands; answers if not (RFC 9470, section 3)."""
        wanted = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("max_age")
        if wanted is None:
            return True
        if len(wanted) != 1 or not (wanted[0].isascii() and wanted[0].isdigit()) or len(wanted[0]) > 9:
            await problem_response(422, "max_age is a whole number of seconds.")(scope, receive, send)
            return False
        if session.is_fresh(int(wanted[0])):
            return True
        challenge = f'Bearer error="insufficient_user_authentication", max_age="{int(wanted[0])}"'
        answer = problem_response(401, "This needs a more recent login.", headers={"www-authenticate": challenge})
        await answer(scope, receive, send)
        return False


def _header(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}


def _problem(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": description, "content": {"application/problem+json": {"schema": schema}}}


def _shown(description: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}}


OPENAPI: dict[str, Any] = {
    "get": {
        "tags": ["verify"],
        "summary": "Verify",
        "description": "For reverse proxies: whose request is this? Ask with the original request's Cookie or Authorization, "
        "Origin and Sec-Fetch-Site, and its method in X-Original-Method or X-Forwarded-Method. The body is empty.",
        "operationId": "verify",
        "security": [{"session": []}, {"bearer": []}],
        "parameters": [
            _header("X-Original-Method", "The method of the original request (nginx, by hand)."),
            _header("X-Forwarded-Method", "The same, as Traefik and Caddy send it."),
            {
                "name": "max_age",
                "in": "query",
                "required": False,
                "description": "Seconds within which the password must have been given.",
                "schema": {"type": "integer", "minimum": 0, "maximum": 999999999},
            },
            {
                "name": "audience",
                "in": "query",
                "required": False,
                "description": "For services that were sent an access token for themselves: whether it is still good. Send it in "
                "Authorization. `max_age` is not looked at then.",
                "schema": {"type": "string"},
            },
        ],
        "responses": {
            "200": {
                "description": "Somebody is logged in",
                "headers": {
                    "x-auth-user-id": _shown("The user's id."),
                    "x-auth-user-name": _shown("The username, percent-encoded UTF-8."),
                    "x-auth-session-id": _shown("The session's id; no secret."),
                },
            },
            "401": _problem("Nobody is logged in, or not recently enough"),
            "403": _problem("Another site caused the request"),
            "422": _problem("max_age is not a number of seconds"),
            "503": _problem("Service Unavailable"),
        },
    }
}
"""The path's part of the OpenAPI document, which FastAPI does not know of."""
