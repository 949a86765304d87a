"""One request after the other on one connection over HTTP/1.1, 2 or 3, with TLS: clients that know when a request that
failed cannot have been served.

What cannot have been served (RFC 9113, section 8.7; RFC 9114, section 5.2) may be sent again by anybody, so it counts as
not sent; whatever else does not end in an answer has failed.
"""

import asyncio
import contextlib
import ssl
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.buffer import Buffer, BufferReadError
from aioquic.h3.connection import H3_ALPN, FrameType, H3Connection, StreamType
from aioquic.h3.events import DataReceived as H3Data
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, ResponseReceived, StreamEnded
from h2.events import StreamReset as H2Reset
from h2.exceptions import ProtocolError

from tests.clients.raw import RawConnection

VERSIONS = ("1.1", "2", "3")
PATIENCE = 25.0
"""Seconds: longer than it takes to find and replace a worker that hangs."""
H3_REQUEST_REJECTED = 0x10B
_H2_GOAWAY = 7
_PING = 1.0
_SILENT = 3.0
"""Seconds without a word from the server after which a QUIC connection, for which nobody else can tell, is given up."""


class NotSentError(Exception):
    """The server cannot have served it."""


class FailedError(Exception):
    """No answer, or only a part of one; the server may have served it."""


@dataclass
class Answer:
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Lane(ABC):
    """A client that connects when it has to, and again when the server says goodbye."""

    def __init__(self, port: int, ca: Path) -> None:
        self._port = port
        self._ca = ca
        self.opened: float | None = None
        """When the connection of the last request was opened (monotonic seconds)."""

    async def request(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Ask, and wait for the whole answer. Raises NotSentError, FailedError."""
        try:
            async with asyncio.timeout(PATIENCE):
                if not self.connected():
                    self.opened = None
                    try:
                        await self.connect()
                        self.opened = time.monotonic()
                    except (OSError, EOFError, ssl.SSLError, ConnectionError, TimeoutError) as error:
                        raise NotSentError(f"no connection: {error!r}") from None
                return await self.exchange(method, path, headers, body)
        except TimeoutError:
            await self.close()
            raise FailedError(f"no answer within {PATIENCE:g} s") from None
        except (NotSentError, FailedError):
            await self.close()
            raise

    @abstractmethod
    def connected(self) -> bool: ...

    @abstractmethod
    async def connect(self) -> None: ...

    @abstractmethod
    async def exchange(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer: ...

    @abstractmethod
    async def close(self) -> None: ...

    def tls(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self._ca))
        context.set_alpn_protocols(list(protocols))
        return context


class Lane1(Lane):
    """HTTP/1.1. A connection is closed when the server says `Connection: close`, and not used when it has closed it."""

    _connection: RawConnection | None = None

    def connected(self) -> bool:
        return self._connection is not None and not self._connection.reader.at_eof()

    async def connect(self) -> None:
        await self.close()
        self._connection = await RawConnection.open(self._port, self.tls("http/1.1"))

    async def exchange(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        assert self._connection is not None
        lines = [f"{method} {path} HTTP/1.1", f"host: localhost:{self._port}"]
        lines += [f"{name}: {value}" for name, value in [*headers, ("content-length", str(len(body)))]]
        try:
            await self._connection.send("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            raw = await self._connection._response(method)
        except (OSError, EOFError, ValueError, IndexError) as error:
            raise FailedError(repr(error)) from None
        if raw.header("connection") == "close":
            await self.close()
        return Answer(raw.status, raw.headers, raw.body)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.writer.transport.abort()


class Lane2(Lane):
    """HTTP/2, one stream at a time. After GOAWAY what is under way still ends."""

    _writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        await self.close()
        self._goodbye: int | None = None
        self._frames = b""
        self._http = H2Connection(H2Configuration(header_encoding="latin-1"))
        opened = asyncio.open_connection("127.0.0.1", self._port, ssl=self.tls("h2"), server_hostname="localhost")
        self._reader, self._writer = await opened
        self._http.initiate_connection()
        await self._flush()

    def connected(self) -> bool:
        return self._writer is not None and not self._reader.at_eof() and self._goodbye is None

    async def exchange(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        answer = Answer()
        try:
            # A goodbye that has come in meanwhile.
            while getattr(self._reader, "_buffer", b""):
                await self._take(0, answer)
            if self._goodbye is not None:
                raise NotSentError("GOAWAY")
            stream = self._http.get_next_available_stream_id()
            head = [
                (":method", method),
                (":scheme", "https"),
                (":authority", f"localhost:{self._port}"),
                (":path", path),
            ]
            self._http.send_headers(stream, [*head, *headers], end_stream=not body)
            if body:
                self._http.send_data(stream, body, end_stream=True)
            await self._flush()
            while not await self._take(stream, answer):
                if self._goodbye is not None and stream > self._goodbye:
                    raise NotSentError("GOAWAY")
        except (OSError, EOFError, ProtocolError) as error:
            raise FailedError(repr(error)) from None
        if self._goodbye is not None:
            await self.close()
        return answer

    async def _take(self, stream: int, answer: Answer) -> bool:
        """Read what comes; whether the stream has ended."""
        data = await self._reader.read(65536)
        if not data:
            raise EOFError("the connection ended")
        ended = False
        for event in self._http.receive_data(self._without_goodbye(data)):
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, ResponseReceived):
                found: list[Any] = list(event.headers or ())
                answer.status = int(dict(found)[":status"])
                answer.headers = found
            elif isinstance(event, DataReceived):
                answer.body += event.data or b""
                self._http.acknowledge_received_data(event.flow_controlled_length or 0, stream)
            elif isinstance(event, StreamEnded):
                ended = True
            elif isinstance(event, H2Reset):
                if event.error_code == ErrorCodes.REFUSED_STREAM:
                    raise NotSentError("REFUSED_STREAM")
                raise FailedError(f"reset with {event.error_code}")
        await self._flush()
        return ended

    def _without_goodbye(self, data: bytes) -> bytes:
        """Whole frames but GOAWAY (RFC 9113, sections 4.1 and 6.8), after which h2 would understand nothing any more."""
        self._frames += data
        whole = b""
        while len(self._frames) >= 9 and len(self._frames) >= (end := 9 + int.from_bytes(self._frames[:3], "big")):
            frame, self._frames = self._frames[:end], self._frames[end:]
            if frame[3] == _H2_GOAWAY:
                self._goodbye = int.from_bytes(frame[9:13], "big") & 0x7FFF_FFFF
            else:
                whole += frame
        return whole

    async def _flush(self) -> None:
        assert self._writer is not None
        self._writer.write(self._http.data_to_send())
        await self._writer.drain()

    async def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.transport.abort()


class _Quic(QuicConnectionProtocol):
    """One QUIC connection with one request at a time; aioquic itself overlooks GOAWAY."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.http = H3Connection(quic)
        self.answer = Answer()
        self.stream = -1
        self.done: asyncio.Future[None] | None = None
        self.goodbye: int | None = None
        self.ended = False
        self._control = b""
        self._control_stream: int | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.ended = True
            self.fail(FailedError(f"connection ended: {event.error_code} {event.reason_phrase}"))
        elif isinstance(event, StreamReset | StopSendingReceived) and event.stream_id == self.stream:
            if event.error_code == H3_REQUEST_REJECTED:
                self.fail(NotSentError("rejected"))
            elif isinstance(event, StreamReset):
                self.fail(FailedError(f"reset with {event.error_code:#x}"))
        elif isinstance(event, StreamDataReceived) and event.stream_id % 4 == 3:
            self._look_for_goodbye(event)
        for found in self.http.handle_event(event):
            if getattr(found, "stream_id", None) != self.stream:
                continue
            if isinstance(found, HeadersReceived):
                self.answer.headers += [(name.decode(), value.decode("latin-1")) for name, value in found.headers]
                self.answer.status = int(self.answer.header(":status") or 0)
            elif isinstance(found, H3Data):
                self.answer.body += found.data
            if (
                isinstance(found, HeadersReceived | H3Data)
                and found.stream_ended
                and self.done
                and not self.done.done()
            ):
                self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)

    def _look_for_goodbye(self, event: StreamDataReceived) -> None:
        """RFC 9114, sections 6.2.1 and 7.2.6."""
        if self._control_stream is None and event.data[:1] == bytes([StreamType.CONTROL]):
            self._control_stream, event_data = event.stream_id, event.data[1:]
        elif event.stream_id == self._control_stream:
            event_data = event.data
        else:
            return
        self._control += event_data
        buffer = Buffer(data=self._control)
        with contextlib.suppress(BufferReadError):
            while True:
                kind, length = buffer.pull_uint_var(), buffer.pull_uint_var()
                frame = Buffer(data=buffer.pull_bytes(length))
                self._control = self._control[buffer.tell() :]
                buffer = Buffer(data=self._control)
                if kind == FrameType.GOAWAY:
                    self.goodbye = frame.pull_uint_var()
                    if self.stream >= self.goodbye:
                        self.fail(NotSentError("GOAWAY"))


class Lane3(Lane):
    """HTTP/3, one stream at a time."""

    _quic: _Quic | None = None

    def connected(self) -> bool:
        return self._quic is not None and not self._quic.ended and self._quic.goodbye is None

    async def connect(self) -> None:
        await self.close()
        configuration = QuicConfiguration(
            is_client=True, alpn_protocols=H3_ALPN, server_name="localhost", idle_timeout=_SILENT
        )
        configuration.load_verify_locations(cafile=str(self._ca))
        connection = QuicConnection(configuration=configuration)
        loop = asyncio.get_running_loop()
        _, quic = await loop.create_datagram_endpoint(lambda: _Quic(connection), local_addr=("127.0.0.1", 0))
        self._quic = quic
        quic.connect(("127.0.0.1", self._port))
        async with asyncio.timeout(_SILENT):
            await quic.wait_connected()

    async def exchange(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        quic = self._quic
        assert quic is not None
        head = [(":method", method), (":scheme", "https"), (":authority", f"localhost:{self._port}"), (":path", path)]
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in [*head, *headers]]
        quic.answer, quic.done = Answer(), asyncio.get_running_loop().create_future()
        quic.stream = quic._quic.get_next_available_stream_id()
        quic.http.send_headers(quic.stream, encoded, end_stream=not body)
        if body:
            quic.http.send_data(quic.stream, body, end_stream=True)
        quic.transmit()
        # The server's packets, or their absence, tell whether it lives: an answer may take long.
        while not (await asyncio.wait({quic.done}, timeout=_PING))[0]:
            quic._quic.send_ping(0)
            quic.transmit()
        await quic.done
        return quic.answer

    async def close(self) -> None:
        quic, self._quic = self._quic, None
        if quic is None:
            return
        quic.fail(FailedError("closed"))
        if quic.done is not None and quic.done.done():
            quic.done.exception()
        quic.close()
        if quic._transport is not None:
            quic._transport.close()


def lane(version: str, port: int, ca: Path) -> Lane:
    return {"1.1": Lane1, "2": Lane2, "3": Lane3}[version](port, ca)
