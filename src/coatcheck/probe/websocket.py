"""A WebSocket, whatever carries it: the handshake's answer, pings, and who says goodbye (RFC 6455, RFC 8441, RFC 9220).

Sends a handshake, pings and a close, and no message. Leaves opening the connection beneath to `dial`.
"""

import asyncio
import base64
import hashlib
import secrets
from statistics import median
from typing import Literal, TypeAlias

import msgspec
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from coatcheck.probe.errors import Failure
from coatcheck.probe.exchange import Request, Response
from coatcheck.probe.http1 import Http1Connection
from coatcheck.probe.http2 import Http2Connection
from coatcheck.probe.http3 import Http3Connection
from coatcheck.probe.link import Link
from coatcheck.probe.trace import Trace
from coatcheck.probe.tunnel import Tunnel
from coatcheck.probe.words import seconds_in_words, shortened

__all__ = ["WebSocket", "WebSocketFacts", "open_websocket"]

_PINGS = 3
_GOODBYE_WITHIN = 2.0
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NORMAL = 1000

Carrier: TypeAlias = Http1Connection | Http2Connection | Http3Connection


class WebSocketFacts(msgspec.Struct, kw_only=True):
    """What one WebSocket did. `spoken` says whether the handshake was accepted."""

    spoken: bool = False
    status: int | None = None
    """The handshake's answer: 101 over HTTP/1.1, 200 over HTTP/2 and 3."""
    failure: str | None = None
    handshake_ms: float | None = None
    """The connection beneath: TCP and TLS, or QUIC."""
    upgrade_ms: float | None = None
    """From the handshake's request to its answer."""
    ping_ms: float | None = None
    """Median time from a ping to its pong."""
    pongs: int = 0
    messages: int = 0
    """What the server sent without being asked."""
    idle_waited_s: float | None = None
    idle_closed_after_s: float | None = None
    """Seconds without traffic after which the server closed; None: it did not."""
    closed_by: Literal["server", "us"] | None = None
    close_code: int | None = None
    """The code of the first close frame; 1006: the connection ended without one."""
    close_reason: str | None = None
    close_answered: bool | None = None
    """Whether the server answered our close with its own (RFC 6455, section 5.5.1)."""
    connection_closed_by: Literal["server", "us"] | None = None
    """Who closed TCP after that; the server should (RFC 6455, section 7.1.1). None over HTTP/2 and 3."""


class WebSocket:
    """An open WebSocket, made by `open_websocket`."""

    def __init__(self, carrier: Carrier, tunnel: Tunnel, facts: WebSocketFacts, trace: Trace, timeout: float) -> None:
        self.facts = facts
        self._carrier = carrier
        self._tunnel = tunnel
        self._trace = trace
        self._timeout = timeout
        self._frames = Connection(ConnectionType.CLIENT)
        self._pong: asyncio.Future[None] | None = None
        self._over = asyncio.Event()
        self._last_ms = trace.now()
        self._ended_ms: float | None = None
        self._reading = asyncio.create_task(self._read())

    async def ping(self) -> None:
        """Ping a few times, and note how long the answers take."""
        times: list[float] = []
        for _ in range(_PINGS):
            if self._over.is_set() or self._frames.state is not ConnectionState.OPEN:
                break
            self._pong = asyncio.get_running_loop().create_future()
            began = self._trace.now()
            self._send(Ping(payload=secrets.token_bytes(4)))
            try:
                async with asyncio.timeout(self._timeout):
                    await self._pong
            except TimeoutError:
                self.facts.failure = f"no answer to a ping within {seconds_in_words(self._timeout)}"
                break
            if self._over.is_set():
                break
            times.append(self._trace.now() - began)
        self.facts.pongs = len(times)
        self.facts.ping_ms = median(times) if times else None

    async def idle(self, seconds: float) -> None:
        """Wait for the server to close what is idle."""
        self.facts.idle_waited_s = seconds
        since = self._last_ms
        left = seconds - (self._trace.now() - since) / 1000
        try:
            async with asyncio.timeout(max(left, 0)):
                await self._over.wait()
        except TimeoutError:
            return
        if self._ended_ms is not None:
            self.facts.idle_closed_after_s = round((self._ended_ms - since) / 1000, 3)

    async def close(self) -> None:
        """Say goodbye, and see whether and how the server does."""
        if not self._over.is_set() and self._frames.state is ConnectionState.OPEN:
            self.facts.closed_by, self.facts.close_code = "us", _NORMAL
            self.facts.close_answered = False
            self._send(CloseConnection(code=_NORMAL))
        try:
            async with asyncio.timeout(min(_GOODBYE_WITHIN, self._timeout)):
                await self._over.wait()
                if isinstance(self._carrier, Http1Connection):
                    await self._carrier.wait_ended()
        except TimeoutError:
            pass
        record = self._carrier.record
        if isinstance(self._carrier, Http1Connection):
            self.facts.connection_closed_by = "server" if record.closed_by == "server" else "us"
        self.abandon()

    def abandon(self) -> None:
        """End it at once, without a word."""
        self._reading.cancel()
        self._carrier.close()

    async def _read(self) -> None:
        try:
            while data := await self._tunnel.read():
                if self._over.is_set():
                    continue  # behind a goodbye nothing counts
                self._frames.receive_data(data)
                for event in self._frames.events():
                    self._happened(event)
        except RemoteProtocolError as error:
            self.facts.failure = f"what it sent breaks WebSocket ({shortened(str(error))})"
        if self.facts.closed_by is None:
            self.facts.closed_by, self.facts.close_code = "server", 1006
        self._finish()

    def _happened(self, event: Event) -> None:
        if isinstance(event, Pong):
            if self._pong is not None and not self._pong.done():
                self._pong.set_result(None)
        elif isinstance(event, Ping):
            self._send(event.response())
            return  # keeping alive is no traffic
        elif isinstance(event, TextMessage | BytesMessage):
            self.facts.messages += event.message_finished
        elif isinstance(event, CloseConnection):
            self._closing(event)
        self._last_ms = self._trace.now()

    def _closing(self, event: CloseConnection) -> None:
        if self._frames.state is ConnectionState.OPEN:
            # Nobody said goodbye: wsproto tells us to, since it cannot read what came.
            self.facts.failure = f"what it sent breaks WebSocket ({shortened(event.reason or str(event.code))})"
            self.facts.closed_by, self.facts.close_code = "us", int(event.code)
            self._send(event)
        elif self.facts.closed_by is None:
            self.facts.closed_by = "server"
            self.facts.close_code = int(event.code)
            self.facts.close_reason = shortened(event.reason or "") or None
            self._send(event.response())
        else:
            self.facts.close_answered = True
        self._ended_ms = self._trace.now()
        self._finish()

    def _finish(self) -> None:
        if self._ended_ms is None:
            self._ended_ms = self._trace.now()
        if self._pong is not None and not self._pong.done():
            self._pong.set_result(None)
        self._over.set()

    def _send(self, event: Event) -> None:
        try:
            self._tunnel.write(self._frames.send(event))
        except LocalProtocolError:
            pass  # closing already: nothing more may be said


async def open_websocket(
    carrier: Carrier, request: Request, facts: WebSocketFacts, trace: Trace, timeout: float
) -> WebSocket | None:
    """Shake hands on an open connection; None where the server says no, which `facts` tell. Raises Failure."""
    facts.handshake_ms = carrier.record.handshake_ms
    if isinstance(carrier, Http1Connection):
        response, tunnel = await _upgrade(carrier, request)
        wanted = 101
    else:
        await carrier.settled()
        if not carrier.websockets:
            raise Failure("its SETTINGS do not offer WebSockets (SETTINGS_ENABLE_CONNECT_PROTOCOL)", "not-spoken")
        connect = request.with_headers([("sec-websocket-version", "13")])
        response, tunnel = await carrier.connect(connect._replace(method="CONNECT"))
        wanted = 200
    facts.status = response.status
    record = carrier.record.requests[-1]
    facts.upgrade_ms = None if record.first_byte_ms is None else record.first_byte_ms - record.began_ms
    if response.status != wanted or tunnel is None:
        facts.failure = f"the handshake was answered with {response.status}"
        return None
    facts.spoken = True
    return WebSocket(carrier, tunnel, facts, trace, timeout)


class _Behind:
    """What comes on a connection behind its upgrade, as a tunnel."""

    def __init__(self, link: Link) -> None:
        self.tunnel = Tunnel(link.write)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        self.tunnel.data_received(data)

    def link_ended(self, failure: Failure) -> None:
        """Nothing comes any more."""
        self.tunnel.ended("reset" if failure.kind == "reset" else "closed")


async def _upgrade(carrier: Http1Connection, request: Request) -> tuple[Response, Tunnel | None]:
    key = base64.b64encode(secrets.token_bytes(16))
    asked = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", key.decode("ascii")),
    ]
    response = await carrier.exchange(request.with_headers(asked))
    early = carrier.switched()
    if response.status != 101 or early is None:
        return response, None
    accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest()).decode("ascii")
    if (response.value("sec-websocket-accept") or "").strip() != accept:
        raise Failure(
            "it accepted the handshake with a wrong Sec-WebSocket-Accept (RFC 6455, section 4.2.2)", "garbage"
        )
    behind = _Behind(carrier.link)
    behind.tunnel.data_received(early)
    carrier.link.attach(behind)
    return response, behind.tunnel
