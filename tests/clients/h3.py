"""A small HTTP/3 client: requests and streams at once on one QUIC connection, which can move to another local port.

Cookies are the caller's: pass and read headers. Everything is bounded in time. Nothing is bound beyond loopback.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

Headers = Sequence[tuple[str, str]]
TIMEOUT = 10.0


@dataclass
class H3Response:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""

    def header(self, name: str) -> str | None:
        """The values under that name, joined; None if there is none."""
        values = [value for key, value in self.headers if key == name.lower()]
        return ", ".join(values) if values else None

    def cookies(self) -> list[str]:
        """Each Set-Cookie header's value."""
        return [value for key, value in self.headers if key == "set-cookie"]

    def json(self) -> Any:
        return json.loads(self.body)


class H3StreamReset(Exception):
    """The server reset the stream, or the connection ended under it."""


class H3Stream:
    """One request's stream; for WebSockets and responses without an end, read piece by piece."""

    def __init__(self, client: "H3Client", stream_id: int) -> None:
        self._client = client
        self.id = stream_id
        self.response = H3Response()
        self._events: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._started = asyncio.Event()

    async def started(self, within: float = TIMEOUT) -> H3Response:
        """Wait for the response's header section."""
        await asyncio.wait_for(self._started.wait(), within)
        if not self.response.status:
            raise H3StreamReset
        return self.response

    async def read(self, within: float = TIMEOUT) -> bytes | None:
        """The next piece of the body; None at its end. Raises H3StreamReset."""
        item = await asyncio.wait_for(self._events.get(), within)
        if isinstance(item, Exception):
            raise item
        return item

    async def finish(self, within: float = TIMEOUT) -> H3Response:
        """Wait for the whole response."""
        async with asyncio.timeout(within):
            await self.started()
            while (piece := await self.read()) is not None:
                self.response.body += piece
        return self.response

    def send(self, data: bytes, *, end: bool = False) -> None:
        self._client.http.send_data(self.id, data, end_stream=end)
        self._client.transmit()

    def cancel(self) -> None:
        """Give the request up (RFC 9114, section 4.1.1)."""
        quic = cast("QuicConnection", self._client._quic)
        quic.stop_stream(self.id, ErrorCode.H3_REQUEST_CANCELLED)
        quic.reset_stream(self.id, ErrorCode.H3_REQUEST_CANCELLED)
        self._client.transmit()

    def headers_came(self, headers: list[tuple[bytes, bytes]]) -> None:
        for name, value in headers:
            if name == b":status":
                self.response.status = int(value)
            else:
                self.response.headers.append((name.decode(), value.decode("latin-1")))
        self._started.set()

    def data_came(self, data: bytes) -> None:
        if data:
            self._events.put_nowait(data)

    def ended(self, error: Exception | None = None) -> None:
        self._events.put_nowait(error)
        self._started.set()


class H3Client(QuicConnectionProtocol):
    """One QUIC connection; made by `connect_h3`."""

    authority = "localhost"

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.http = H3Connection(quic)
        self._open: dict[int, H3Stream] = {}
        self.terminated: ConnectionTerminated | None = None
        self.resets: set[int] = set()
        """The streams that the server has reset."""

    async def request(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        authority: str | None = None,
        within: float = TIMEOUT,
    ) -> H3Response:
        """Send a request and wait for its whole response; may be called many times at once."""
        stream = self.begin(method, path, headers, body, authority=authority)
        return await stream.finish(within)

    def begin(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes = b"",
        *,
        authority: str | None = None,
        end: bool = True,
    ) -> H3Stream:
        """Send a request without waiting; `end=False` leaves our side open for more data."""
        head = [(":method", method), (":scheme", "https"), (":authority", authority or self.authority), (":path", path)]
        return self._begin(head, headers, body, end)

    def websocket(self, path: str, headers: Headers = ()) -> H3Stream:
        """Open a WebSocket (RFC 9220); frames are the caller's."""
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https")]
        head += [(":authority", self.authority), (":path", path), ("sec-websocket-version", "13")]
        return self._begin(head, headers, b"", end=False)

    async def rebind(self) -> int:
        """Move to another local port, as when a NAT forgets, or a phone changes networks; the new port."""
        old = self._transport
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        assert old is not None
        old.close()
        return self.local_port

    @property
    def local_port(self) -> int:
        assert self._transport is not None
        return self._transport.get_extra_info("sockname")[1]

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            self.resets.add(event.stream_id)
        if isinstance(event, StreamReset) and (stream := self._open.pop(event.stream_id, None)):
            stream.ended(H3StreamReset(f"error code {event.error_code}"))
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            for stream in self._open.values():
                stream.ended(H3StreamReset(event.reason_phrase))
            self._open.clear()
        for http_event in self.http.handle_event(event):
            self._http_event(http_event)

    def _http_event(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived) or event.stream_id not in self._open:
            return
        stream = self._open[event.stream_id]
        if isinstance(event, HeadersReceived):
            stream.headers_came(event.headers)
        else:
            stream.data_came(event.data)
        if event.stream_ended:
            del self._open[event.stream_id]
            stream.ended()

    def _begin(self, head: Headers, headers: Headers, body: bytes, end: bool) -> H3Stream:
        stream = H3Stream(self, self._quic.get_next_available_stream_id())
        self._open[stream.id] = stream
        every = [*head, *headers] + ([("content-length", str(len(body)))] if body else [])
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in every]
        self.http.send_headers(stream.id, encoded, end_stream=end and not body)
        if body:
            self.http.send_data(stream.id, body, end_stream=end)
        self.transmit()
        return stream


@asynccontextmanager
async def connect_h3(port: int, ca: Path, *, name: str = "localhost") -> AsyncIterator[H3Client]:
    """A connection to 127.0.0.1 whose certificate must be for `name` under the authority `ca`."""
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name)
    configuration.load_verify_locations(cafile=str(ca))
    quic = QuicConnection(configuration=configuration)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_datagram_endpoint(lambda: H3Client(quic), local_addr=("127.0.0.1", 0))
    client.authority = f"{name}:{port}"
    try:
        client.connect(("127.0.0.1", port))
        await asyncio.wait_for(client.wait_connected(), TIMEOUT)
        yield client
    finally:
        client.close()
        # Answers a lost peer with silence: closing takes three probe time-outs at most.
        await asyncio.wait_for(client.wait_closed(), TIMEOUT)
        if client._transport is not None:
            client._transport.close()
