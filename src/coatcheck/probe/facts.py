"""The parts of a report that are about connections, as data. Leaves to `summary` how they come about."""

from typing import Literal

import msgspec

from coatcheck.probe.notes import Via
from coatcheck.probe.trace import ClosedBy, How

__all__ = [
    "Address",
    "AtOnce",
    "Closing",
    "Handshake",
    "HeaderBytes",
    "KeepAlive",
    "Migration",
    "Resumption",
    "Streams",
    "TlsOfVersion",
    "VersionReport",
]


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the host's addresses was measured."""

    host: str
    port: int
    ip: str
    candidates: tuple[str, ...]
    """All that the name stands for, in the order in which they were to be tried."""
    dns_ms: float
    """What the look-up took, once; it is part of no other figure."""


class Handshake(msgspec.Struct, frozen=True, kw_only=True):
    """What opening a connection cost, step by step; medians."""

    tcp_ms: float | None
    tls_ms: float | None
    quic_ms: float | None
    """QUIC shakes hands for itself and TLS at once (RFC 9001, section 4)."""


class HeaderBytes(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that header sections took on the wire; text over HTTP/1, HPACK over HTTP/2, QPACK over HTTP/3."""

    request_plain: int
    """What the request's would take as text."""
    request_first: int
    request_later: int | None
    """Median of the others on the same connection."""
    response_first: int
    response_later: int | None


class KeepAlive(msgspec.Struct, frozen=True, kw_only=True):
    """Whether and for how long a connection stays open for more."""

    honoured: bool | None
    """Whether one connection carried several requests; over HTTP/1.0, whether it stayed open when that was asked for."""
    announced_s: float | None
    """The idle time-out that the server announced: in a Keep-Alive header, or as QUIC's max_idle_timeout."""
    waited_s: float | None
    """For how long a connection was left idle."""
    closed_after_s: float | None
    """When the server closed it; null: it had not by then."""
    announced_requests: int | None
    """Requests on one connection, as a Keep-Alive header announced."""
    requests_allowed: int | None
    """After how many the server closed the connection; null: it did not, within so many as were sent."""
    most_requests: int
    """The most that one connection carried."""
    unannounced: int
    """How often the server closed between requests without saying so beforehand."""
    lost_requests: int
    """Requests that met such an end and had to be sent again."""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Requests at once on one connection (HTTP/2 and 3)."""

    announced: int | None
    """null: no limit announced."""
    reached: int
    """The most that were open at once."""
    refused: int


class AtOnce(msgspec.Struct, frozen=True, kw_only=True):
    """Requests that were sent together."""

    requests: int
    answered: int
    connections: int
    took_ms: float
    """From the first connection's beginning to the last response's end."""


class Closing(msgspec.Struct, frozen=True, kw_only=True):
    """One way in which connections ended, and how many did. `code` is GOAWAY's or CONNECTION_CLOSE's."""

    by: ClosedBy
    how: How
    code: int | None
    reason: str | None
    count: int


class Resumption(msgspec.Struct, frozen=True, kw_only=True):
    """Taking up an earlier TLS session, which spares the certificate (RFC 8446, section 2.2)."""

    offered: bool
    accepted: bool | None
    handshake_ms: float | None


class TlsOfVersion(msgspec.Struct, frozen=True, kw_only=True):
    """TLS as it was used for one version."""

    version: str
    cipher: str | None
    resumption: Resumption | None
    """null: not tried."""


class Migration(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a QUIC connection went on when we did from elsewhere (RFC 9000, section 9); null: not tried."""

    forbidden: bool
    port: bool | None
    address: bool | None


class VersionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP version. `requests` and `connections` are those in turn, one after the other."""

    name: str
    spoken: bool
    failure: str | None
    """Why it is not spoken, or what ended the measurement early."""
    via: Via | None
    answered: str | None
    """The version in the responses, which may be another than asked for over HTTP/1.0."""
    status: int | None
    requests: int
    connections: int
    requests_sent: int
    """All of them: in turn and at once, WebSocket handshakes excepted."""
    handshake_ms: float | None
    """Median time until a new connection can carry a request."""
    handshake: Handshake | None
    first_request_ms: float | None
    """Median of the first requests on their connections, without the handshake."""
    request_ms: float | None
    """Median of requests on a connection that was open already; null where there were none."""
    headers: HeaderBytes | None
    tls: TlsOfVersion | None
    keep_alive: KeepAlive | None
    streams: Streams | None
    at_once: AtOnce | None
    closings: tuple[Closing, ...]
    migration: Migration | None
    alt_svc: str | None
    kept_unasked: bool | None
    """HTTP/1.0: whether a connection stayed open although that was not asked for."""

    @property
    def new_connection_ms(self) -> float | None:
        """What a request costs that needs a new connection."""
        if self.handshake_ms is None or self.first_request_ms is None:
            return None
        return self.handshake_ms + self.first_request_ms

    @property
    def reuse(self) -> Literal["each new", "one", "some", "unknown"]:
        """In one word, how connections relate to requests."""
        if not self.spoken or self.requests < 2:
            return "unknown"
        if self.connections == 1:
            return "one"
        return "each new" if self.connections >= self.requests else "some"
