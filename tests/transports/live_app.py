"""An application of the library's users: log in, keep things open, and end them. Served by `coatcheck serve --app`."""

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from coatcheck import SessionMiddleware, Sessions, session_of
from coatcheck.server.connection_facts import ConnectionFactsMiddleware
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings

PIECE = "x" * 16_000


def create_app(settings: Settings, worker: WorkerContext) -> Any:
    sessions = Sessions(settings.store_url(), max_connections_per_session=None, max_connections_per_user=None)
    worker.on_leave.append(sessions.connections.leave)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await websocket(scope, receive, send)
        elif scope["path"] in ("/sse", "/stream", "/flood"):
            await stream(scope, send)
        else:
            answer = await page(scope)
            body = json.dumps({"worker": worker.worker_id, **answer}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    async def page(scope: Any) -> dict[str, Any]:
        query = dict(parse_qsl(scope["query_string"].decode()))
        session = session_of(scope)
        if scope["path"] == "/login":
            await session.log_in(query["user"])
        elif scope["path"] == "/logout":
            await session.log_out()
        elif scope["path"] == "/end_user":
            await sessions.end_user(query["user"])
        elif scope["path"] == "/live":
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            return {"live": len(sessions.connections), "resident": pages * 4096}
        return {"id": session.id}

    async def stream(scope: Any, send: Any) -> None:
        sse = scope["path"] == "/sse"
        headers = [(b"content-type", b"text/event-stream" if sse else b"text/plain")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        piece = f"data: {worker.worker_id}\n\n".encode() if sse else PIECE.encode()
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        while scope["path"] == "/flood":
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.Event().wait()  # it never looks

    async def websocket(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/flood":
            while True:
                await send({"type": "websocket.send", "text": PIECE})
        await send({"type": "websocket.send", "text": str(worker.worker_id)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    origins = settings.effective_public_origins()
    return ConnectionFactsMiddleware(SessionMiddleware(app, sessions, public_origins=origins), worker)
