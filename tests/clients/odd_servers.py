"""Small servers in this process that behave oddly on purpose, and remember what they were asked: for tests of the probe."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, NamedTuple, cast

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from coatcheck.server.certificates import new_authority, new_certificate

Then = Literal["keep", "close", "reset", "hang"]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n"


class Asked(NamedTuple):
    """One request that came over HTTP/1."""

    connection: int
    """Counted from 1."""
    request: int
    """On this connection, counted from 1."""
    head: bytes

    @property
    def http10(self) -> bool:
        return self.head.split(b"\r\n")[0].endswith(b"HTTP/1.0")

    def header(self, name: str) -> str | None:
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode().lower() == name:
                return value.decode().strip()
        return None


Answer = Callable[[Asked], tuple[bytes, Then]]


@dataclass
class Site:
    port: int
    scheme: str = "http"
    asked: list[Asked] = field(default_factory=list[Asked])
    connections: int = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/"


def plainly(asked: Asked) -> tuple[bytes, Then]:
    """As HTTP says: closes after HTTP/1.0, keeps after HTTP/1.1."""
    return OK, "close" if asked.http10 else "keep"


@asynccontextmanager
async def http1(
    answer: Answer = plainly, *, tls: ssl.SSLContext | None = None, idle: float | None = None, first: bytes = b""
) -> AsyncGenerator[Site]:
    """HTTP/1 whose every answer is the test's; `idle` seconds without a request end a connection; `first` is sent unasked."""
    site = Site(0, "https" if tls else "http")

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        connection, number = site.connections, 0
        if first:
            writer.write(first)
        with suppress(asyncio.IncompleteReadError, OSError, TimeoutError, ssl.SSLError):
            while True:
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), idle)
                number += 1
                asked = Asked(connection, number, head)
                site.asked.append(asked)
                data, then = answer(asked)
                writer.write(data)
                await writer.drain()
                if then == "reset":
                    _reset(writer)
                if then == "hang":
                    await reader.read()
                if then in ("close", "reset"):
                    break
        writer.close()

    async with _listening(serve_one, tls) as site.port:
        yield site


@asynccontextmanager
async def raw(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]) -> AsyncGenerator[int]:
    """Anything on a port."""

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            talk(reader, writer)
            await writer.drain()
            await reader.read()
        writer.close()

    async with _listening(serve_one, None) as port:
        yield port


@asynccontextmanager
async def http2(
    *,
    announce: int | None = 100,
    accept: int = 1000,
    goaway_after: int = 1000,
    code: ErrorCodes = ErrorCodes.NO_ERROR,
    hold: float = 0.0,
    idle: float | None = None,
    tls: ssl.SSLContext | None = None,
    websocket: Literal["", "reset", "end"] = "",
) -> AsyncGenerator[Site]:
    """HTTP/2. With `websocket`, one is accepted, and cut off as soon as something is said on it. Streams beyond `accept` are refused; answers are held back, so that requests are really open at once."""
    site = Site(0, "https" if tls else "http")

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        site.connections += 1
        http = H2Connection(H2Configuration(client_side=False))
        settings: dict[SettingCodes | int, int] = {}
        if announce is not None:
            settings[SettingCodes.MAX_CONCURRENT_STREAMS] = announce
        if websocket:
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        http.local_settings = Settings(client=False, initial_values=settings)
        http.initiate_connection()
        writer.write(http.data_to_send())
        open_streams: set[int] = set()
        answered = 0

        def respond(stream: int) -> None:
            nonlocal answered
            open_streams.discard(stream)
            answered += 1
            http.send_headers(stream, [(":status", "200"), ("x-number", str(answered))])
            http.send_data(stream, b"hi\n", end_stream=True)
            if answered == goaway_after:
                http.close_connection(code, last_stream_id=stream)
            writer.write(http.data_to_send())
            if answered == goaway_after:
                writer.close()

        with suppress(OSError, TimeoutError, ssl.SSLError, ProtocolError):
            while data := await asyncio.wait_for(reader.read(65536), idle):
                for event in http.receive_data(data):
                    if websocket and isinstance(event, RequestReceived):
                        http.send_headers(event.stream_id or 0, [(":status", "200")])
                        continue
                    if websocket == "reset" and isinstance(event, DataReceived):
                        http.reset_stream(event.stream_id or 0, ErrorCodes.INTERNAL_ERROR)
                    elif websocket == "end" and isinstance(event, DataReceived):
                        http.end_stream(event.stream_id or 0)
                    if not isinstance(event, RequestReceived) or event.stream_id is None:
                        continue
                    if len(open_streams) >= accept:
                        http.reset_stream(event.stream_id, ErrorCodes.REFUSED_STREAM)
                        continue
                    open_streams.add(event.stream_id)
                    asyncio.get_running_loop().call_later(hold, respond, event.stream_id)
                writer.write(http.data_to_send())
        writer.close()

    async with _listening(serve_one, tls) as site.port:
        yield site


@asynccontextmanager
async def http3(
    certificate: tuple[Path, Path], *, port: int = 0, idle: float = 60.0, close_after: int = 1000, code: int = 0x100
) -> AsyncGenerator[int]:
    """HTTP/3 by aioquic. After so many requests a connection is closed with that code."""

    class Served(QuicConnectionProtocol):
        http: H3Connection | None = None
        answered = 0

        def quic_event_received(self, event: QuicEvent) -> None:
            if self.http is None:
                self.http = H3Connection(self._quic)
            for each in self.http.handle_event(event):
                if isinstance(each, HeadersReceived):
                    self.http.send_headers(each.stream_id, [(b":status", b"200")])
                    self.http.send_data(each.stream_id, b"hi\n", end_stream=True)
                    self.answered += 1
                    if self.answered == close_after:
                        asyncio.get_running_loop().call_later(0.05, self.close, code, "enough")

    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN, idle_timeout=idle)
    configuration.load_cert_chain(*certificate)
    chosen = port or _free_udp_port()
    server = await serve("127.0.0.1", chosen, configuration=configuration, create_protocol=Served)
    try:
        yield chosen
    finally:
        server.close()


class PortBound(asyncio.DatagramProtocol):
    """A relay that tells flows apart by the client's port, as load balancers do that do not know QUIC."""

    def __init__(self, upstream: int) -> None:
        self._upstream = ("127.0.0.1", upstream)
        self._flows: dict[tuple[str, int], socket.socket] = {}
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        # A long header begins a connection; a short one from a port that began none belongs to nobody.
        if addr not in self._flows and data[0] & 0x80:
            flow = self._flows[addr] = socket.socket(type=socket.SOCK_DGRAM)
            flow.setblocking(False)
            flow.connect(self._upstream)
            asyncio.get_running_loop().add_reader(flow, self._back, flow, addr)
        if addr in self._flows:
            self._flows[addr].send(data)

    def _back(self, flow: socket.socket, addr: tuple[str, int]) -> None:
        assert self._transport is not None
        self._transport.sendto(flow.recv(65536), addr)

    def close(self) -> None:
        for flow in self._flows.values():
            asyncio.get_running_loop().remove_reader(flow)
            flow.close()


@asynccontextmanager
async def bound_to_ports(upstream: int) -> AsyncGenerator[int]:
    """A relay before a QUIC server that loses connections whose clients change their port."""
    loop = asyncio.get_running_loop()
    relay = PortBound(upstream)
    transport, _ = await loop.create_datagram_endpoint(lambda: relay, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        relay.close()
        transport.close()


# -- certificates ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Files:
    ca: Path
    certificate: Path
    key: Path

    def context(self, *alpn: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context


def certificate(directory: Path, *, age: timedelta = timedelta(0), name: str | None = None) -> Files:
    """A certificate for localhost and 127.0.0.1 that was made so long ago (it is good for 90 days), or is for another name."""
    then = datetime.now(UTC) - age
    authority, authority_key = new_authority(then)
    template, key = new_certificate(authority, authority_key, then)
    names: list[x509.GeneralName] = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
        .add_extension(x509.SubjectAlternativeName(names if name is None else [x509.DNSName(name)]), critical=False)
        .sign(authority_key, template.signature_hash_algorithm)
    )
    files = Files(directory / "ca.pem", directory / "leaf.pem", directory / "leaf.key")
    files.ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    files.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    files.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return files


# -- sockets -----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _listening(
    serve_one: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object], tls: ssl.SSLContext | None
) -> AsyncGenerator[int]:
    running: set[asyncio.Task[None]] = set()
    opened: set[asyncio.StreamWriter] = set()

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        opened.add(writer)
        with suppress(asyncio.CancelledError):
            await serve_one(reader, writer)  # type: ignore[misc]
        running.discard(task)

    server = await asyncio.start_server(one, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for writer in opened:
            writer.transport.abort()  # one that was closed may still wait for the other side's close_notify
        await asyncio.sleep(0)


def _reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _free_udp_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        port: int = udp.getsockname()[1]
        return port
