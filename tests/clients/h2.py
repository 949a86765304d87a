"""HTTP/2 without manners: sends whatever it is told, frames of one's own included, and says what came back."""

import asyncio
import json
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.settings import SettingCodes

Headers = Sequence[tuple[str, str]]
TIMEOUT = 10.0


@dataclass
class H2Response:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    ended: bool = False
    reset: int | None = None
    """The error code with which the server reset the stream."""

    def json(self) -> Any:
        return json.loads(self.body)


class RawH2:
    """One connection. Use as `async with await RawH2.open(...) as connection`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, window: int | None) -> None:
        self.reader = reader
        self.writer = writer
        self.responses: dict[int, H2Response] = {}
        self.closed = False
        """Whether the server has said goodbye, or ended the connection."""
        self.http = H2Connection(
            H2Configuration(
                validate_outbound_headers=False, normalize_outbound_headers=False, header_encoding="latin-1"
            )
        )
        self.http.initiate_connection()
        if window is not None:
            self.http.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})

    @classmethod
    async def open(cls, port: int, tls: ssl.SSLContext | None = None, *, window: int | None = None) -> "RawH2":
        """`window`: how many bytes of each response the server may send before it is told that they were read."""
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        opened = asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost" if tls else None)
        connection = cls(*await asyncio.wait_for(opened, TIMEOUT), window)
        await connection.flush()
        return connection

    async def __aenter__(self) -> "RawH2":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()
        try:
            await asyncio.wait_for(self.writer.wait_closed(), TIMEOUT)
        except (OSError, TimeoutError):
            pass

    def begin(self, method: str, path: str, headers: Headers = (), *, end: bool = True, host: str = "localhost") -> int:
        """Write a request's headers; `flush` sends them. The stream's id."""
        stream = self.http.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", host), (":path", path)]
        self.http.send_headers(stream, [*head, *headers], end_stream=end)
        self.responses[stream] = H2Response()
        return stream

    def send_raw(self, head: Headers, body: bytes) -> int:
        """Write a request whose pseudo-headers are the caller's, too. The stream's id."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, head)
        self.http.send_data(stream, body, end_stream=True)
        self.responses[stream] = H2Response()
        return stream

    def begin_raw(self, head: Headers) -> int:
        """Write headers whose pseudo-headers are the caller's, too, and leave our side open. The stream's id."""
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, head)
        self.responses[stream] = H2Response()
        return stream

    async def flush(self, raw: bytes = b"") -> None:
        """Send what was written, and `raw` after it. Quiet about a connection that the server has ended."""
        try:
            self.writer.write(self.http.data_to_send() + raw)
            await asyncio.wait_for(self.writer.drain(), TIMEOUT)
        except OSError:
            self.closed = True

    async def ended(self, stream: int, within: float = TIMEOUT) -> H2Response:
        """Wait until the stream has ended, in whichever way."""
        response = self.responses[stream]
        async with asyncio.timeout(within):
            while not (response.ended or response.reset is not None or self.closed):
                await self.read()
        return response

    async def goodbye(self, within: float = TIMEOUT) -> None:
        """Wait until the server ends the connection."""
        async with asyncio.timeout(within):
            while not self.closed:
                await self.read()

    async def read(self) -> None:
        """Take in what comes next."""
        try:
            data = await self.reader.read(65536)
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        for event in self.http.receive_data(data):
            self._happened(event)
        await self.flush()

    def _happened(self, event: Event) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed = True
            return
        response = self.responses.get(getattr(event, "stream_id", None) or 0)
        if response is None:
            return
        if isinstance(event, ResponseReceived):
            # As text, because of `header_encoding`.
            found: dict[Any, Any] = dict(event.headers or ())
            response.status = int(found.pop(":status"))
            response.headers = found
        elif isinstance(event, DataReceived):
            response.body += event.data or b""
        elif isinstance(event, StreamEnded):
            response.ended = True
        elif isinstance(event, StreamReset):
            response.reset = int(event.error_code or 0)
