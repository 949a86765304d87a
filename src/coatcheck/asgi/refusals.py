"""Answers in the application's place: problem documents (RFC 9457) for requests and handshakes that go no further."""

import json
from collections.abc import Awaitable

from coatcheck.asgi._types import Message, Receive, Scope, Send
from coatcheck.credentials import BAD_TOKEN, Refusal, unavailable
from coatcheck.errors import SessionRefused, StoreUnavailable, TooManyConnections

__all__ = ["TOO_MANY", "answer", "problem", "refusal_of", "refuse", "refuse_handshake"]

TOO_MANY = Refusal(
    429,
    "There are too many connections open for this session or user: close one.",
    retry_after=5,
    cause="too many connections",
)
"""For a live connection beyond the bounds of `Sessions` (RFC 6585, section 4)."""

_TITLES = {401: "Unauthorized", 403: "Forbidden", 429: "Too Many Requests", 503: "Service Unavailable"}
_POLICY_VIOLATION = 1008  # RFC 6455, section 7.4.1


def problem(refusal: Refusal) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Give a refusal as a problem document: status, headers and body. Pure; for ASGI and WSGI alike."""
    body = json.dumps({"title": _TITLES[refusal.status], "status": refusal.status, "detail": refusal.detail}).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]
    if refusal.retry_after is not None:
        headers.append((b"retry-after", str(refusal.retry_after).encode("ascii")))
    if refusal.status == 401:
        headers.append((b"www-authenticate", refusal.challenge.encode("ascii")))
    return refusal.status, headers, body


def refusal_of(error: StoreUnavailable | SessionRefused, *, by_bearer: bool) -> Refusal:
    """Give the refusal for an error of ours that the application let out, and log that of a store."""
    if isinstance(error, StoreUnavailable):
        return unavailable(error)
    if isinstance(error, TooManyConnections):
        return TOO_MANY
    return Refusal(401, str(error), BAD_TOKEN.challenge if by_bearer else "Bearer", cause="session ended")


async def answer(send: Send, refusal: Refusal) -> None:
    """Send a refusal as a problem document."""
    status, headers, body = problem(refusal)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def refuse(scope: Scope, receive: Receive, send: Send, refusal: Refusal) -> None:
    """Answer a request or handshake of which the application hears nothing."""
    if scope["type"] == "http":
        await answer(send, refusal)
        return
    await receive()
    await refuse_handshake(scope, send, refusal)


async def refuse_handshake(scope: Scope, send: Send, refusal: Refusal) -> None:
    """Answer a handshake with the real status where the server can (`websocket.http.response`), else close it."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        # Before it is accepted, a close is answered with 403 by the server (ASGI specification).
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": refusal.detail[:120]})
        return

    def as_websocket(message: Message) -> Awaitable[None]:
        return send({**message, "type": message["type"].replace("http", "websocket.http", 1)})

    await answer(as_websocket, refusal)
