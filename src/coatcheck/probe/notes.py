"""What is found out about one version beside what the trace shows: what was announced, tried, and refused. Data only."""

from typing import Literal, TypeAlias

import msgspec

from coatcheck.probe.errors import FailureKind

__all__ = ["KeepAliveHeader", "MigrationNotes", "ResumptionNotes", "VersionNotes", "Via", "read_keep_alive"]

Via: TypeAlias = Literal["TCP", "ALPN", "prior knowledge", "alt-svc", "direct"]
"""How a client comes to speak a version: as the port's own, chosen in TLS, known beforehand, announced, or just tried."""


class KeepAliveHeader(msgspec.Struct, frozen=True):
    """What a `Keep-Alive: timeout=5, max=100` header announces (RFC 2068, section 19.7.1.1)."""

    timeout_s: float | None
    most_requests: int | None


class ResumptionNotes(msgspec.Struct, kw_only=True):
    """How it went to take up the TLS session of an earlier connection."""

    offered: bool | None = None
    """Whether there was a session to take up; None: not tried."""
    accepted: bool | None = None
    handshake_ms: float | None = None


class MigrationNotes(msgspec.Struct, kw_only=True):
    """Whether a QUIC connection went on from another port and address of ours. None: not tried."""

    forbidden: bool = False
    """The server asks clients not to move on purpose (RFC 9000, section 18.2: disable_active_migration)."""
    port: bool | None = None
    address: bool | None = None


class VersionNotes(msgspec.Struct, kw_only=True):
    """One version's."""

    failure: str | None = None
    kind: FailureKind | None = None
    via: Via | None = None
    answered: str | None = None
    """The version in the responses: a server may answer an HTTP/1.0 request with HTTP/1.1."""
    status: int | None = None
    server: str | None = None
    alt_svc: str | None = None
    tls_version: str | None = None
    cipher: str | None = None
    keep_alive_header: KeepAliveHeader | None = None
    keep_alive_kept: bool | None = None
    """HTTP/1.0 only: whether a connection stayed open when we asked for that."""
    kept_unasked: bool | None = None
    """HTTP/1.0 only: whether a connection stayed open although nobody asked for that."""
    unannounced: int = 0
    """How often the server ended a connection between requests without having said so (`Connection: close`, GOAWAY)."""
    lost_requests: int = 0
    """How often a request met such an end, and had to be sent again."""
    announced_idle_s: float | None = None
    """QUIC only: max_idle_timeout."""
    announced_streams: int | None = None
    refused_streams: int = 0
    websockets: bool = False
    at_once_asked: int = 0
    at_once_answered: int = 0
    at_once_ms: float | None = None
    resumption: ResumptionNotes = msgspec.field(default_factory=ResumptionNotes)
    migration: MigrationNotes | None = None
    """QUIC only."""
    idle_waited_s: float | None = None
    idle_closed_after_s: float | None = None


def read_keep_alive(header: str | None) -> KeepAliveHeader | None:
    """Read a Keep-Alive header; None if it announces nothing."""
    found: dict[str, int] = {}
    for part in (header or "").split(","):
        name, _, value = part.partition("=")
        if value.strip().isascii() and value.strip().isdigit() and len(value.strip()) < 10:
            found[name.strip().lower()] = int(value)
    if not found.keys() & {"timeout", "max"}:
        return None
    return KeepAliveHeader(found.get("timeout"), found.get("max"))
