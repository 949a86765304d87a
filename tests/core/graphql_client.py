"""Clients of GraphQL's subscriptions that call an ASGI application in process: by graphql-transport-ws, and by graphql-sse."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

PROTOCOL = "graphql-transport-ws"


class GraphQLSocket:
    """One WebSocket. `scope` is what the server would say of it beside."""

    def __init__(
        self,
        app: Any,
        *headers: tuple[bytes, bytes],
        path: str = "/graphql",
        subprotocols: Iterable[str] = (PROTOCOL,),
        **scope: Any,
    ) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reading = asyncio.Event()
        """Cleared: the client does not read."""
        self.reading.set()
        self.blocked = 0
        self.incoming.put_nowait({"type": "websocket.connect"})
        whole = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"localhost:8443"), *headers],
            "client": ("192.0.2.7", 50000),
            "subprotocols": list(subprotocols),
            "extensions": {"websocket.http.response": {}},
            "state": {},
            **scope,
        }
        self.task = asyncio.ensure_future(app(whole, self.incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.blocked += 1
        await self.reading.wait()
        self.blocked -= 1
        self.outgoing.put_nowait(message)

    def send(self, message: Any) -> None:
        self.incoming.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def raw(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.outgoing.get()

    async def next(self) -> dict[str, Any]:
        """The next message of the protocol."""
        message = await self.raw()
        assert message["type"] == "websocket.send", message
        return dict(json.loads(message["text"]))

    async def accepted(self) -> str | None:
        """The handshake was accepted; give the subprotocol."""
        message = await self.raw()
        assert message["type"] == "websocket.accept", message
        return message.get("subprotocol")

    async def closed(self) -> tuple[int, str]:
        """It is closed, and the application is over; give code and reason."""
        message = await self.raw()
        assert message["type"] == "websocket.close", message
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": message["code"]})
        await asyncio.wait_for(self.task, 5)
        return message["code"], message["reason"]

    async def opened(self, payload: Any = None) -> "GraphQLSocket":
        """Get through the handshake and `connection_init`."""
        assert await self.accepted() == PROTOCOL
        self.init(payload)
        assert (await self.next())["type"] == "connection_ack"
        return self

    def init(self, payload: Any = None) -> None:
        self.send({"type": "connection_init"} if payload is None else {"type": "connection_init", "payload": payload})

    def subscribe(self, query: str, id: str = "1", **variables: Any) -> None:
        self.send({"type": "subscribe", "id": id, "payload": {"query": query, "variables": variables}})

    async def ask(self, query: str, id: str = "1", **variables: Any) -> dict[str, Any]:
        """The payload of the one answer to a query."""
        self.subscribe(query, id, **variables)
        answer = await self.next()
        assert answer["id"] == id
        if answer["type"] == "error":
            return {"errors": answer["payload"]}
        assert answer["type"] == "next"
        assert await self.next() == {"type": "complete", "id": id}
        return dict(answer["payload"])

    async def leave(self, code: int = 1000) -> None:
        self.incoming.put_nowait({"type": "websocket.disconnect", "code": code})
        await asyncio.wait_for(self.task, 5)


class GraphQLStream:
    """One POST that asks for an event stream, and its events as they come."""

    def __init__(
        self, app: Any, query: str, *headers: tuple[bytes, bytes], accept: bytes = b"text/event-stream"
    ) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reading = asyncio.Event()
        """Cleared: the client does not read."""
        self.reading.set()
        self.blocked = 0
        body = json.dumps({"query": query}).encode()
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "https",
            "path": "/graphql",
            "raw_path": b"/graphql",
            "root_path": "",
            "query_string": b"",
            "headers": [
                (b"host", b"localhost:8443"),
                (b"content-type", b"application/json"),
                (b"accept", accept),
                *headers,
            ],
            "client": ("192.0.2.7", 50000),
            "state": {},
        }
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._send))
        self._text = ""
        self.over = False
        """Whether the response had its proper end."""

    async def _send(self, message: dict[str, Any]) -> None:
        self.blocked += 1
        await self.reading.wait()
        self.blocked -= 1
        self.outgoing.put_nowait(message)

    async def _next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.outgoing.get()

    async def started(self) -> dict[str, str]:
        """Status and headers."""
        message = await self._next()
        assert message["type"] == "http.response.start", message
        headers = {name.decode(): value.decode() for name, value in message["headers"]}
        return {":status": str(message["status"]), **headers}

    async def event(self) -> tuple[str, Any] | None:
        """The next event, its data as JSON; None at the response's end."""
        while "\n\n" not in self._text and not self.over:
            message = await self._next()
            self._text += message.get("body", b"").decode().replace("\r\n", "\n")
            self.over = not message.get("more_body", False)
        event, _, self._text = self._text.partition("\n\n")
        if not event:
            return None
        fields = dict(line.split(": ", 1) for line in event.split("\n") if not line.startswith(":"))
        return (fields["event"], json.loads(fields["data"] or "null")) if fields else await self.event()

    async def leave(self) -> None:
        """The client goes."""
        self.incoming.put_nowait({"type": "http.disconnect"})
        await asyncio.wait_for(self.task, 5)
