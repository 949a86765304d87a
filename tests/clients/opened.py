"""Everything that can be open under a session, opened by a real client of its protocol: each says with which word it ended.

Each opener takes the running server and the headers of a credential (`cookie` or `authorization`), comes back when the
server has recognised it, and gives what is open. Leaves asking whether that was right to the test.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from coatcheck.server.rpc._generated import sessions_pb2
from tests.clients.h2 import RawH2
from tests.clients.h3 import connect_h3
from tests.clients.serving import RunningServer

WORKER = "x-coatcheck-worker"
SUBSCRIPTION = "subscription { sessionEvents { __typename } }"
Headers = Mapping[str, str]


@dataclass
class Opened:
    what: str
    """Transport and version, for people."""
    worker: str
    """The worker that serves it."""
    ending: "asyncio.Task[tuple[str, float]]"
    """Its last word, and when it came (`time.perf_counter`)."""


@contextlib.asynccontextmanager
async def _opened(what: str, worker: str, ending: Awaitable[str]) -> AsyncIterator[Opened]:
    async def timed() -> tuple[str, float]:
        return await ending, time.perf_counter()

    task = asyncio.ensure_future(timed())
    try:
        yield Opened(what, worker, task)
    finally:
        task.cancel()
        await asyncio.wait([task])


# ---- WebSockets


@contextlib.asynccontextmanager
async def websocket_http_1(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    url = f"wss://localhost:{server.https_port}/v1/events"
    async with connect(url, ssl=server.tls(), host="127.0.0.1", additional_headers=headers) as socket:
        await socket.send('{"type": "subscribe", "id": 1}')
        assert json.loads(await socket.recv())["type"] in ("reply", "begin")
        assert socket.response is not None
        worker = socket.response.headers[WORKER]
        async with _opened("WebSocket over HTTP/1.1", worker, _closed(socket)) as opened:
            yield opened


async def _closed(socket: Any) -> str:
    try:
        while True:
            await socket.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, closed
        return f"close {closed.rcvd.code}: {closed.rcvd.reason}"


def frame(text: str) -> bytes:
    """RFC 6455, section 5.2, masked with zeros, which leave the text as it is; up to 125 bytes."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode()


class Frames:
    """Takes a server's frames apart."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> str | None:
        """Give the word of a close frame; None while there is none."""
        self.rest += data
        while len(self.rest) > 1:
            length, start = self.rest[1], 2
            if length == 126:
                length, start = int.from_bytes(self.rest[2:4], "big"), 4
            if len(self.rest) < start + length:
                return None
            kind, payload = self.rest[0], self.rest[start : start + length]
            self.rest = self.rest[start + length :]
            if kind == 0x88:
                return f"close {int.from_bytes(payload[:2], 'big')}: {payload[2:].decode()}"
        return None


@contextlib.asynccontextmanager
async def websocket_http_2(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    """RFC 8441."""
    async with await RawH2.open(server.https_port, server.tls()) as connection:
        await connection.read()  # the server's settings allow it
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")]
        head += [
            (":authority", f"localhost:{server.https_port}"),
            (":path", "/v1/events"),
            ("sec-websocket-version", "13"),
        ]
        stream = connection.begin_raw([*head, *headers.items()])
        await connection.flush()
        response = connection.responses[stream]
        while not response.status:
            await connection.read()
        assert response.status == 200
        connection.http.send_data(stream, frame('{"type": "subscribe", "id": 1}'))
        await connection.flush()

        async def ending() -> str:
            frames = Frames()
            while True:
                data, response.body = response.body, b""
                if (word := frames.feed(data)) is not None:
                    return word
                assert not response.ended and not connection.closed
                await connection.read()

        async with _opened("WebSocket over HTTP/2", response.headers[WORKER], ending()) as opened:
            yield opened


@contextlib.asynccontextmanager
async def websocket_http_3(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    """RFC 9220."""
    async with connect_h3(server.https_port, server.ca) as client:
        stream = client.websocket("/v1/events", list(headers.items()))
        response = await stream.started()
        assert response.status == 200
        stream.send(frame('{"type": "subscribe", "id": 1}'))

        async def ending() -> str:
            frames = Frames()
            while (data := await stream.read(3600)) is not None:
                if (word := frames.feed(data)) is not None:
                    return word
            raise AssertionError("it ended without a close frame")

        async with _opened("WebSocket over HTTP/3", response.header(WORKER) or "", ending()) as opened:
            yield opened


# ---- server-sent events


def _http(server: RunningServer, version: int) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=server.https, verify=server.tls(), timeout=None, http1=version == 1, http2=version == 2
    )


def events_over_http(version: int) -> "Opener":
    @contextlib.asynccontextmanager
    async def opener(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
        async with _http(server, version) as client, client.stream("GET", "/v1/events", headers=headers) as response:
            assert response.status_code == 200
            what = f"SSE over {response.http_version}"
            async with _opened(what, response.headers[WORKER], _last_event(response.aiter_lines())) as opened:
                yield opened

    return opener


async def _last_event(lines: AsyncIterator[str]) -> str:
    """The last event before a proper end; everything else raises."""
    name = data = ""
    async for line in lines:
        if line.startswith("event: "):
            name = line
        elif line.startswith("data: "):
            data = json.loads(line.removeprefix("data: ")).get("reason", "")
    return f"{name} ({data}), properly ended"


@contextlib.asynccontextmanager
async def events_http_3(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    async with connect_h3(server.https_port, server.ca) as client:
        stream = client.begin("GET", "/v1/events", list(headers.items()))
        response = await stream.started()
        assert response.status == 200

        async def lines() -> AsyncIterator[str]:
            rest = ""
            while (piece := await stream.read(3600)) is not None:
                *whole, rest = (rest + piece.decode()).split("\n")
                for line in whole:
                    yield line

        async with _opened("SSE over HTTP/3", response.header(WORKER) or "", _last_event(lines())) as opened:
            yield opened


# ---- GraphQL


@contextlib.asynccontextmanager
async def subscription_over_websocket(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    url = f"wss://localhost:{server.https_port}/graphql"
    protocols = [Subprotocol("graphql-transport-ws")]
    async with connect(
        url, ssl=server.tls(), host="127.0.0.1", additional_headers=headers, subprotocols=protocols
    ) as socket:
        await socket.send('{"type": "connection_init"}')
        assert json.loads(await socket.recv())["type"] == "connection_ack"
        await socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": SUBSCRIPTION}}))
        assert socket.response is not None
        worker = socket.response.headers[WORKER]
        async with _opened("GraphQL subscription, WebSocket", worker, _closed(socket)) as opened:
            yield opened


@contextlib.asynccontextmanager
async def subscription_over_sse(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    ask = {"accept": "text/event-stream", **headers}
    async with _http(server, 2) as client:
        async with client.stream("POST", "/graphql", json={"query": SUBSCRIPTION}, headers=ask) as response:
            assert response.status_code == 200, await response.aread()
            ending = _last_event(response.aiter_lines())
            async with _opened("GraphQL subscription, SSE", response.headers[WORKER], ending) as opened:
                yield opened


# ---- gRPC


SERVICE = "/coatcheck.v1.SessionService/"


def _encode(message: Any) -> bytes:
    return bytes(message.SerializeToString())


@contextlib.asynccontextmanager
async def grpc_channel(server: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(server.ca.read_bytes())
    # Each a connection of its own, as clients in different processes have.
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"localhost:{server.https_port}", credentials, options=options) as channel:
        yield channel


async def _status(call: Any) -> str:
    with contextlib.suppress(grpc.aio.AioRpcError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return f"{(await call.code()).name}: {await call.details()}"


@contextlib.asynccontextmanager
async def grpc_watch(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    async with grpc_channel(server) as channel:
        method = channel.unary_stream(SERVICE + "Watch", _encode, sessions_pb2.WatchResponse.FromString)
        call = method(sessions_pb2.WatchRequest(), metadata=tuple(headers.items()))
        worker = str(dict(await call.initial_metadata())[WORKER])
        async with _opened("gRPC server stream", worker, _status(call)) as opened:
            yield opened


@contextlib.asynccontextmanager
async def grpc_converse(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    async with grpc_channel(server) as channel:
        method = channel.stream_stream(SERVICE + "Converse", _encode, sessions_pb2.ConverseResponse.FromString)
        call: Any = method(metadata=tuple(headers.items()))
        await call.write(sessions_pb2.ConverseRequest(id="1", list=sessions_pb2.ListRequest()))
        worker = str(dict(await call.initial_metadata())[WORKER])
        assert (await call.read()).reply.id == "1"
        async with _opened("gRPC bidirectional stream", worker, _status(call)) as opened:
            yield opened


@contextlib.asynccontextmanager
async def grpc_web_watch(server: RunningServer, headers: Headers) -> AsyncIterator[Opened]:
    """As browsers send it: HTTP/1.1, trailers in the body."""
    ask = {"content-type": "application/grpc-web+proto", "accept": "application/grpc-web+proto", **headers}
    empty = b"\0" + (0).to_bytes(4, "big")
    async with _http(server, 1) as client:
        async with client.stream("POST", SERVICE + "Watch", content=empty, headers=ask) as response:
            assert response.status_code == 200

            async def ending() -> str:
                received = b"".join([piece async for piece in response.aiter_raw()])
                while received[0] != 0x80:  # messages stand before the trailers, each with its length
                    received = received[5 + int.from_bytes(received[1:5], "big") :]
                trailers = dict(line.split(":", 1) for line in received[5:].decode().splitlines() if line)
                return f"grpc-status {trailers['grpc-status']}: {unquote(trailers['grpc-message'])}"

            async with _opened("gRPC-Web server stream", response.headers[WORKER], ending()) as opened:
                yield opened


Opener = Callable[[RunningServer, Headers], contextlib.AbstractAsyncContextManager[Opened]]

OPENERS: dict[str, Opener] = {
    "WebSocket over HTTP/1.1": websocket_http_1,
    "WebSocket over HTTP/2": websocket_http_2,
    "WebSocket over HTTP/3": websocket_http_3,
    "SSE over HTTP/1.1": events_over_http(1),
    "SSE over HTTP/2": events_over_http(2),
    "SSE over HTTP/3": events_http_3,
    "GraphQL subscription, WebSocket": subscription_over_websocket,
    "GraphQL subscription, SSE": subscription_over_sse,
    "gRPC server stream": grpc_watch,
    "gRPC bidirectional stream": grpc_converse,
    "gRPC-Web server stream": grpc_web_watch,
}
