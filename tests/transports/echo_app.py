"""An application that says what reached it: for tests of the edge and the workers, without sessions or accounts."""

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

from coatcheck.server.connection_facts import ConnectionFactsMiddleware, connection_of
from coatcheck.server.connection_table import ConnectionTable
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings


def create_app(settings: Settings, worker: WorkerContext) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["type"] == "websocket":
            await websocket(scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        query = parse_qs(scope["query_string"].decode())
        if scope["path"] == "/seen":
            await respond(send, 200, worker.connections.total(ConnectionTable.key(query["path"][0])))
            return
        # Counted over all workers, so that a test can ask whether a request has reached any of them.
        worker.connections.add(ConnectionTable.key(scope["path"]))
        if scope["path"] == "/slow":
            await asyncio.sleep(float(query["seconds"][0]))
        status = 503 if scope["path"] == "/healthz" and worker.draining else 200
        length, more = 0, scope["path"] != "/healthz"
        while more:
            message = await receive()
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        await respond(send, status, {**facts(scope), "body_bytes": length})

    async def websocket(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        if scope["path"] == "/refused":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": json.dumps(facts(scope))})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    def facts(scope: Any) -> dict[str, Any]:
        known = connection_of(scope)
        return {
            "protocol": known.protocol,
            "connection_id": known.connection_id,
            "requests": known.requests(),
            "tls_version": known.tls_version,
            "tls_cipher": known.tls_cipher,
            "server_name": known.server_name,
            "age_ms": known.age_ms,
            "client": [known.client_host, known.client_port],
            "worker": known.worker_id,
            "scheme": scope["scheme"],
            "asgi_client": list(scope["client"]),
            "method": scope.get("method"),
            "path": scope["path"],
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
        }

    async def respond(send: Any, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    return ConnectionFactsMiddleware(app, worker)
