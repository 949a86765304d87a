"""A small ASGI application for servers of others: one page with a session cookie, and a WebSocket that echoes."""

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

SESSIONS: set[str] = set()


async def app(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _echo(receive, send)
    else:
        await _page(scope, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _echo(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        elif message["type"] == "websocket.disconnect":
            return
        else:
            await send({"type": "websocket.send", "text": message.get("text") or ""})


async def _page(scope: MutableMapping[str, Any], send: Send) -> None:
    """Who comes with a session that was issued here gets no new one."""
    cookies = b"; ".join(value for name, value in scope["headers"] if name == b"cookie").decode()
    known = any(pair.partition("=")[2] in SESSIONS for pair in cookies.split("; ") if pair.startswith("sid="))
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"6"), (b"cache-control", b"no-store")]
    if not known:
        session = secrets.token_urlsafe(24)
        SESSIONS.add(session)
        headers.append((b"set-cookie", f"sid={session}; Path=/; HttpOnly; SameSite=Lax".encode()))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello\n" if scope["method"] != "HEAD" else b""})
