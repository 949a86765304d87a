"""One QUIC connection over UDP: its handshake, its timers, and moving it to another local port or address (RFC 9000).

aioquic keeps the state; this module does the I/O and notes who ended the connection and how. Leaves HTTP to `http3`.
"""

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any, Protocol

from aioquic.buffer import Buffer  # pyright: ignore[reportPrivateImportUsage] - documented as this
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent
from aioquic.quic.packet import QuicTransportParameters, pull_quic_transport_parameters
from aioquic.tls import Alert, SessionTicket, verify_certificate
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from coatcheck.probe.errors import Failure
from coatcheck.probe.frames import H3HeaderCounter, H3UniStream
from coatcheck.probe.target import Endpoint
from coatcheck.probe.trace import ConnectionTrace, Trace
from coatcheck.probe.words import printable, seconds_in_words, shortened

__all__ = ["QuicClient", "QuicLink", "QuicReceiver", "check_quic_certificate", "open_quic"]

_NO_ERROR = 0x100
"""H3_NO_ERROR (RFC 9114, section 8.1)."""
_CRYPTO_ERROR = 0x100
"""TLS alerts stand behind this, in errors of the transport (RFC 9001, section 4.8)."""
_NO_ALPN_ALERT = 120
_LONG = 24 * 3600.0
"""Our own idle time-out: so long that only the server's counts (RFC 9000, section 10.1)."""


class QuicClient:
    """How to speak QUIC: the name to ask for, and a session to take up again. Whom to trust is checked afterwards."""

    def __init__(self, server_name: str, ticket: SessionTicket | None = None) -> None:
        self.server_name = server_name
        self.ticket = ticket

    def configuration(self) -> QuicConfiguration:
        """Made anew for each connection, since aioquic keeps state in it."""
        made = QuicConfiguration(is_client=True, alpn_protocols=["h3"], server_name=self.server_name)
        made.idle_timeout = _LONG
        made.session_ticket = self.ticket
        made.verify_mode = ssl.CERT_NONE
        return made


def check_quic_certificate(quic: "Quic", server_name: str, ca: Path | None) -> None:
    """Check the server's certificate as aioquic does within its handshake, where it would read all authorities each time.

    The authorities are those of `ca`, or the system's; where there are none, certifi's. Raises Failure.
    """
    certificate = getattr(quic.tls, "_peer_certificate", None)
    chain: list[x509.Certificate] = getattr(quic.tls, "_peer_certificate_chain", [])
    paths = ssl.get_default_verify_paths()
    try:
        if not isinstance(certificate, x509.Certificate):
            raise Alert("the server showed none")
        verify_certificate(
            certificate,
            chain,
            server_name,
            cafile=str(ca) if ca else paths.cafile,
            capath=None if ca else paths.capath,
        )
    except Alert as alert:
        raise Failure(f"its certificate is not trusted: {shortened(str(alert))}", "certificate") from None


class Quic(QuicConnection):
    """aioquic's connection, which lets us see what it keeps to itself, and counts what HTTP/3 puts on its streams."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.peer: QuicTransportParameters | None = None
        """What the server allows (RFC 9000, section 18.2)."""
        self.ended_by_peer: bool | None = None
        """Who sent CONNECTION_CLOSE; None while nobody has."""
        self.sent: dict[int, H3HeaderCounter] = {}
        self.sent_uni: dict[int, H3UniStream] = {}

    @property
    def stream_credit(self) -> int:
        """How many streams the server lets us have opened by now, since the connection began."""
        return self._remote_max_streams_bidi

    @property
    def terminated(self) -> ConnectionTerminated | None:
        """Why the connection is ending; aioquic tells only when it has ended."""
        return self._close_event

    @property
    def certificate(self) -> bytes | None:
        """The server's certificate, DER."""
        found = getattr(self.tls, "_peer_certificate", None)
        return found.public_bytes(Encoding.DER) if isinstance(found, x509.Certificate) else None

    @property
    def cipher(self) -> str | None:
        """The name of the cipher suite."""
        return getattr(getattr(getattr(self.tls, "key_schedule", None), "cipher_suite", None), "name", None)

    def send_stream_data(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Count, and hand on."""
        if stream_id & 2:
            self.sent_uni.setdefault(stream_id, H3UniStream()).feed(data)
        else:
            self.sent.setdefault(stream_id, H3HeaderCounter()).feed(data)
        super().send_stream_data(stream_id, data, end_stream)

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        try:
            self.peer = pull_quic_transport_parameters(Buffer(data=data))
        except ValueError:
            pass  # the next line says so, in the words of the protocol
        super()._parse_transport_parameters(data, from_session_ticket)

    def _close_begin(self, is_initiator: bool, now: float) -> None:
        if self.ended_by_peer is None:
            self.ended_by_peer = not is_initiator
        super()._close_begin(is_initiator, now)


class QuicReceiver(Protocol):
    """Who is told what comes. Both are called on the event loop, and must not block."""

    def quic_event(self, event: QuicEvent) -> None:
        """Something came on a stream."""
        ...

    def link_ended(self, failure: Failure) -> None:
        """Nothing comes any more, whoever ended it; called once."""
        ...


class QuicLink(asyncio.DatagramProtocol):
    """An open QUIC connection, made by `open_quic`."""

    def __init__(self, trace: Trace, record: ConnectionTrace, endpoint: Endpoint, client: QuicClient) -> None:
        self.record = record
        self.ticket: SessionTicket | None = None
        """The latest session ticket that the server gave."""
        self.quic: Quic = Quic(configuration=client.configuration(), session_ticket_handler=self._ticket_came)
        self._receiver: QuicReceiver | None = None
        self._early: list[QuicEvent] = []
        self.handshake: HandshakeCompleted | None = None
        self._trace = trace
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shaken: asyncio.Future[None] = self._loop.create_future()
        self._over = asyncio.Event()
        self._ended: Failure | None = None

    @property
    def ended(self) -> Failure | None:
        """Why nothing comes any more; None while the connection is open."""
        return self._ended

    def attach(self, receiver: "QuicReceiver") -> None:
        """From now on tell `receiver`, of what came before as well: a server may speak first (RFC 9114, section 3.2)."""
        self._receiver = receiver
        early, self._early = self._early, []
        for event in early:
            receiver.quic_event(event)
        if self._ended is not None:
            receiver.link_ended(self._ended)

    async def wait_ended(self) -> None:
        """Wait until the connection is over, whoever ends it."""
        await self._over.wait()

    async def connect(self, timeout: float, local: str | None) -> None:
        """Shake hands. Raises Failure."""
        began = self._trace.now()
        await self._bind(local)
        self.quic.connect(tuple(self._endpoint), now=self._loop.time())
        self.transmit()
        try:
            async with asyncio.timeout(timeout):
                await self._shaken
        except TimeoutError:
            words = f"no answer over QUIC (UDP port {self._endpoint.port}) within {seconds_in_words(timeout)}"
            self.record.failure = words
            self.close()
            raise Failure(words, "timeout") from None
        self.record.quic_ms = self.record.ready_ms = self._trace.now()
        self.record.quic_ms -= began

    async def move(self, local: str, *, new_id: bool) -> None:
        """Go on from another local port, and from another address if `local` is one. Raises Failure.

        Without `new_id` it looks as if a NAT in between had forgotten us; with it, as a client does that moves on
        purpose (RFC 9000, section 9.5).
        """
        if new_id:
            self.quic.change_connection_id()
        old = self._transport
        await self._bind(local)
        if old is not None:
            old.close()
        self.transmit()

    def transmit(self) -> None:
        """Send what is to be sent, and wake up when there may be more."""
        if self._transport is None or self._ended is not None:
            return
        self._send()
        self._look_for_end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = None if self._ended is not None else self.quic.get_timer()
        if at is not None:
            self._timer = self._loop.call_at(at, self._timer_fired)

    def close(self) -> None:
        """End the connection from our side, with CONNECTION_CLOSE."""
        if self._ended is None:
            self.quic.close(error_code=_NO_ERROR)
            self._send()
            self._end(Failure("we closed the connection", "closed"), by="us")

    # -- asyncio's side ------------------------------------------------------------------------------------------------

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """A datagram came; the socket is connected, so it is the server's."""
        if self._ended is not None:
            return
        try:
            self.quic.receive_datagram(data, tuple(self._endpoint), now=self._loop.time())
        except Exception as error:  # no library is proof against whatever a server may send
            self._end(Failure(f"what it sent breaks QUIC ({shortened(str(error))})", "garbage"), by="us")
            return
        self._hand_on()
        self.transmit()

    def error_received(self, exc: Exception) -> None:
        """The network says that nobody is there (ICMP)."""
        if isinstance(exc, ConnectionRefusedError) and not self._shaken.done():
            words = f"nothing listens on UDP port {self._endpoint.port}"
            self._end(Failure(words, "refused"), by="us")

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; ours are closed by ourselves only."""

    # -- within --------------------------------------------------------------------------------------------------------

    async def _bind(self, local: str | None) -> None:
        family = socket.AF_INET6 if ":" in self._endpoint.host else socket.AF_INET
        udp = socket.socket(family, socket.SOCK_DGRAM)
        try:
            udp.setblocking(False)
            if local is not None:
                udp.bind((local, 0))
            udp.connect(tuple(self._endpoint))
            transport, _ = await self._loop.create_datagram_endpoint(lambda: self, sock=udp)
        except OSError as error:
            udp.close()
            words = printable(error.strerror or str(error))
            raise Failure(f"cannot send to UDP port {self._endpoint.port}: {words}", "local") from None
        self._transport = transport
        self.record.local = self.record.local or str(Endpoint(*udp.getsockname()[:2]))
        self.record.remote = str(self._endpoint)

    def _send(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            for data, _ in self.quic.datagrams_to_send(self._loop.time()):
                self._transport.sendto(data)

    def _ticket_came(self, ticket: SessionTicket) -> None:
        self.ticket = ticket

    def _timer_fired(self) -> None:
        self._timer = None
        self.quic.handle_timer(now=self._loop.time())
        self._hand_on()
        self.transmit()

    def _hand_on(self) -> None:
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.handshake = event
                self.record.resumed = event.session_resumed
                if not self._shaken.done():
                    self._shaken.set_result(None)
            elif self._receiver is None:
                self._early.append(event)
            else:
                self._receiver.quic_event(event)
        self._look_for_end()

    def _look_for_end(self) -> None:
        """aioquic tells of an end only some round trips later, so that we look for ourselves."""
        terminated = self.quic.terminated
        if terminated is None or self._ended is not None:
            return
        if self.quic.ended_by_peer is None and terminated.reason_phrase == "Idle timeout":
            self._trace.closed(self.record, "both", "idle time-out")
            self._end(Failure("the connection ran into its idle time-out", "closed"))
        elif self.quic.ended_by_peer is None and self._shaken.done():
            return  # our own close, which is yet to be sent
        else:
            self._send()  # the word that tells them why
            by_peer = bool(self.quic.ended_by_peer)
            if by_peer:
                self._trace.closed(
                    self.record,
                    "server",
                    "CONNECTION_CLOSE",
                    code=terminated.error_code,
                    reason=shortened(terminated.reason_phrase),
                )
            self._end(_terminated(terminated, by_peer=by_peer), by=None if by_peer else "us")

    def _end(self, failure: Failure, by: str | None = None) -> None:
        if self._ended is not None:
            return
        if by == "us":
            self._trace.closed(self.record, "us", "CONNECTION_CLOSE")
        self._ended = failure
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()
        if not self._shaken.done():
            self.record.failure = self.record.failure or str(failure)
            self._shaken.set_exception(failure)
            self._shaken.exception()  # nobody may be waiting, which is no cause for a warning
        self._over.set()
        if self._receiver is not None:
            self._receiver.link_ended(failure)


async def open_quic(
    trace: Trace,
    record: ConnectionTrace,
    endpoint: Endpoint,
    client: QuicClient,
    *,
    timeout: float,
    local: str | None = None,
) -> QuicLink:
    """Connect over QUIC; the record gets the times. Raises Failure."""
    link = QuicLink(trace, record, endpoint, client)
    try:
        await link.connect(timeout, local)
    except BaseException:
        link.close()
        raise
    return link


def _terminated(event: ConnectionTerminated, *, by_peer: bool) -> Failure:
    words = shortened(event.reason_phrase)
    alert = event.error_code - _CRYPTO_ERROR
    if event.frame_type is not None and alert == _NO_ALPN_ALERT:
        return Failure("it speaks QUIC, but no HTTP/3 on it (ALPN)", "not-spoken")
    if "common protocol version" in event.reason_phrase:
        return Failure("it speaks neither version 1 nor 2 of QUIC", "not-spoken")
    if by_peer:
        said = f": {words}" if words else ""
        return Failure(f"the server closed the connection with code {event.error_code:#x}{said}", "closed")
    return Failure(f"what it sent breaks QUIC ({words or hex(event.error_code)})", "garbage")
