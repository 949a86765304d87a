"""What really happened: every connection and every request, with its times, bytes and end. Filled while it happens.

All times are milliseconds since the probe began. Leaves to `summary` what it amounts to, and to `timeline` the picture.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Literal, Protocol, TypeAlias

import msgspec

__all__ = ["ClosedBy", "ConnectionTrace", "How", "Purpose", "RequestTrace", "Socket", "Trace"]

Purpose: TypeAlias = Literal["reach", "in turn", "at once", "resumption", "idle", "websocket", "redirect"]
"""Why a connection was opened: to find the server and its certificate, for requests one after the other, for requests at
once, to resume a TLS session, to be left idle, for a WebSocket, or for a request whose redirect was followed."""

ClosedBy: TypeAlias = Literal["server", "us", "both"]
"""Who ended a connection first. `both`: a QUIC connection that ran into its idle time-out without a word."""

How: TypeAlias = Literal["FIN", "close_notify", "RST", "GOAWAY", "CONNECTION_CLOSE", "idle time-out", "lost"]
"""By what a connection ended. `close_notify`: TLS's goodbye, behind which no FIN came before our own; GOAWAY stands for
the FIN that came after one; `lost`: no word, and nothing comes through."""


class RequestTrace(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request and what came of it. Header bytes are those on the wire: text, HPACK or QPACK."""

    number: int
    """Counted over the whole probe, from 1, in the order of sending."""
    method: str
    began_ms: float
    status: int | None = None
    first_byte_ms: float | None = None
    ended_ms: float | None = None
    request_header_bytes: int = 0
    plain_header_bytes: int = 0
    """What the request's header section would take as HTTP/1.1 writes it."""
    response_header_bytes: int = 0
    body_bytes: int = 0
    stream: int | None = None
    """The stream's number, over HTTP/2 and 3."""
    failure: str | None = None

    @property
    def milliseconds(self) -> float | None:
        """From sending to the response's last byte; None if it did not get there."""
        return None if self.ended_ms is None else self.ended_ms - self.began_ms


class ConnectionTrace(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One connection. `opened_ms` is when connecting began, `ready_ms` when a request could be sent."""

    number: int
    version: str
    """`h1.0`, `h1.1`, `h2`, `h3`, or `tls` and `tcp` where no HTTP was spoken."""
    purpose: Purpose
    opened_ms: float
    local: str = ""
    """Our address and port, which tells connections apart in a packet capture."""
    remote: str = ""
    tcp_ms: float | None = None
    tls_ms: float | None = None
    quic_ms: float | None = None
    ready_ms: float | None = None
    resumed: bool | None = None
    """Whether TLS took up an earlier session; None without TLS."""
    most_streams: int = 0
    """The most requests that were open at once."""
    moved_to_address: bool = False
    """Whether a QUIC connection went on from another address of ours."""
    requests: list[RequestTrace] = msgspec.field(default_factory=list[RequestTrace])
    closed_ms: float | None = None
    closed_by: ClosedBy | None = None
    how: How | None = None
    code: int | None = None
    """The error code in GOAWAY, CONNECTION_CLOSE or a WebSocket's close."""
    reason: str | None = None
    failure: str | None = None

    @property
    def handshake_ms(self) -> float | None:
        """What it cost to be able to send a request: TCP and TLS, or QUIC."""
        return None if self.ready_ms is None else self.ready_ms - self.opened_ms


class Socket(Protocol):
    """What a connection holds of the system, which it may hold for a while after its end."""

    async def wait_ended(self) -> None:
        """Wait until it is given back."""
        ...

    def abort(self) -> None:
        """Give it back at the loop's next turn, whatever is not sent yet."""
        ...


class Trace:
    """Everything that happened, in order; the clock; and the sockets that are not given back yet."""

    def __init__(self, clock: Callable[[], float] = perf_counter) -> None:
        self._clock = clock
        self._began = clock()
        self._requests = 0
        self.connections: list[ConnectionTrace] = []
        self.sockets: set[Socket] = set()

    def now(self) -> float:
        """Milliseconds since the probe began."""
        return 1000 * (self._clock() - self._began)

    @property
    def requests(self) -> int:
        """How many requests were sent, to whomever and whatever came of them."""
        return self._requests

    def connection(self, version: str, purpose: Purpose) -> ConnectionTrace:
        """Note a connection that is about to be opened."""
        trace = ConnectionTrace(
            number=len(self.connections) + 1, version=version, purpose=purpose, opened_ms=self.now()
        )
        self.connections.append(trace)
        return trace

    def request(self, connection: ConnectionTrace, method: str, plain_header_bytes: int) -> RequestTrace:
        """Note a request that is about to be sent."""
        self._requests += 1
        trace = RequestTrace(
            number=self._requests, method=method, began_ms=self.now(), plain_header_bytes=plain_header_bytes
        )
        connection.requests.append(trace)
        return trace

    def closed(
        self,
        connection: ConnectionTrace,
        by: ClosedBy,
        how: How,
        *,
        code: int | None = None,
        reason: str | None = None,
    ) -> None:
        """Note how a connection ended; only the first word counts."""
        if connection.closed_ms is None:
            connection.closed_ms = self.now()
            connection.closed_by = by
            connection.how = how
            connection.code = code
            connection.reason = reason or None
