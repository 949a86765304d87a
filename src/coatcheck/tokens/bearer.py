"""BearerMiddleware: for services that take a Coatcheck's access tokens and have no sessions of their own. Plain ASGI.

Leaves what a token is worth to `verifier`. Services with a store use SessionMiddleware, which takes bearers too.
"""

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from coatcheck.errors import TokenRefused, UsageError
from coatcheck.tokens.errors import IssuerUnavailable
from coatcheck.tokens.verifier import TokenVerifier

__all__ = ["BearerMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_TITLES = {401: "Unauthorized", 503: "Service Unavailable"}
_MISSING = "This needs an access token."
_INVALID = "The access token is not valid, or its session has ended."
_TWO = "A request carries one Authorization header."
_UNAVAILABLE = "Whether the access token is still good cannot be told right now; try again."
_log = logging.getLogger("coatcheck.tokens")


class BearerMiddleware:
    """Lets requests and WebSocket handshakes pass whose access token is good.

    - `scope["coatcheck.token"]` and `request.state.token` then are the VerifiedToken
    - `required=False`: a request without a bearer passes too, with None there; one with a bad one never does
    - `realm`: a name for what is protected, shown in challenges (RFC 9110, section 11.5)

    Bad tokens are 401 with `WWW-Authenticate: Bearer error="invalid_token"` (RFC 6750, section 3.1); where nobody can tell,
    503 with Retry-After. Handshakes get the same, or are closed where the server cannot answer them. A WebSocket that is
    open is not looked at again. With a lifespan the verifier starts and ends with the application.
    """

    def __init__(self, app: App, verifier: TokenVerifier, *, realm: str | None = None, required: bool = True) -> None:
        if realm is not None and not (realm.isascii() and realm.isprintable() and not set(realm) & set('"\\')):
            raise UsageError(f"realm={realm!r} must be printable ASCII without quotes and backslashes")
        self.app: App = app
        self.verifier: TokenVerifier = verifier
        self.required: bool = required
        self._challenge = "Bearer" if realm is None else f'Bearer realm="{realm}"'
        self._comma = " " if realm is None else ", "

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await (self._lifespan if kind == "lifespan" else self.app)(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        verified = None
        if len(given) > 1:
            await self._refuse(scope, receive, send, 401, _TWO, error="invalid_request")
            return
        if not given or given[0][:7].lower() != b"bearer ":
            if self.required:
                await self._refuse(scope, receive, send, 401, _MISSING)
                return
        else:
            token = given[0][7:].strip(b" ").decode("latin-1")
            try:
                verified = self.verifier.verify_cached(token)
                if verified is None:
                    verified = await self.verifier.verify(token)
            except TokenRefused as error:
                _log.info("answered 401: %s", error)
                await self._refuse(scope, receive, send, 401, _INVALID, error="invalid_token")
                return
            except IssuerUnavailable as error:
                _log.warning("answered 503: %s", error)
                await self._refuse(scope, receive, send, 503, _UNAVAILABLE, retry_after=error.retry_after)
                return
        scope["coatcheck.token"] = verified
        scope["state"] = {**(scope.get("state") or {}), "token": verified}
        await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_start() -> Message:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.verifier.start()
            return message

        async def close_and_send(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await self.verifier.aclose()
            await send(message)

        await self.app(scope, receive_and_start, close_and_send)

    async def _refuse(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: int,
        detail: str,
        *,
        error: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        prefix = ""
        if scope["type"] == "websocket":
            await receive()
            if "websocket.http.response" not in (scope.get("extensions") or {}):
                # Before it is accepted, a close is answered with 403 by the server (ASGI specification).
                await send({"type": "websocket.close", "code": 1008, "reason": detail})
                return
            prefix = "websocket."
        # An RFC 9457 problem document. Nothing of what the request carried is in it.
        body = json.dumps({"title": _TITLES[status], "status": status, "detail": detail}).encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode("ascii")),
            (b"cache-control", b"no-store"),
        ]
        if status == 401:
            challenge = self._challenge if error is None else f'{self._challenge}{self._comma}error="{error}"'
            headers.append((b"www-authenticate", challenge.encode("ascii")))
        if retry_after is not None:
            headers.append((b"retry-after", str(retry_after).encode("ascii")))
        await send({"type": f"{prefix}http.response.start", "status": status, "headers": headers})
        await send({"type": f"{prefix}http.response.body", "body": body})
