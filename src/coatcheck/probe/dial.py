"""Opens connections of any version to one server, and takes up TLS sessions again. Leaves what is sent on them to `run`."""

import ssl
from pathlib import Path
from typing import TypeAlias

import msgspec
from aioquic.tls import SessionTicket

from coatcheck.probe.alt_svc import Alternative
from coatcheck.probe.errors import Failure, Unreachable
from coatcheck.probe.http1 import Http1Connection
from coatcheck.probe.http2 import Http2Connection
from coatcheck.probe.http3 import Http3Connection
from coatcheck.probe.link import TlsClient, open_link
from coatcheck.probe.options import Version
from coatcheck.probe.quic import QuicClient, QuicLink, check_quic_certificate, open_quic
from coatcheck.probe.target import Endpoint, Target, is_loopback, look_up
from coatcheck.probe.tls import client_context
from coatcheck.probe.trace import Purpose, Trace

__all__ = ["AnyConnection", "Dialer", "must_check"]

AnyConnection: TypeAlias = Http1Connection | Http2Connection | Http3Connection

_ALPN: dict[Version, str] = {"h1.0": "http/1.1", "h1.1": "http/1.1", "h2": "h2"}
"""What is offered for each version, and nothing beside it, so that the server cannot choose another."""
_QUIC_WITHIN = 5.0
"""Seconds; who does not answer over UDP by then is behind a firewall, or not there."""


class Dialer:
    """Knows the server's address, and how far its certificate is trusted."""

    def __init__(
        self,
        trace: Trace,
        target: Target,
        address: str,
        *,
        verify: bool,
        ca: Path | None,
        insecure: bool,
        timeout: float,
    ) -> None:
        self.target = target
        self.address = address
        self._verify = verify
        self._insecure = insecure
        self.alternative: Alternative | None = None
        """Where HTTP/3 is to be found, if the server has said so."""
        self.trace = trace
        self._ca = ca
        self._timeout = timeout
        self._contexts: dict[Version, ssl.SSLContext] = {}
        self._sessions: dict[Version, ssl.SSLSession] = {}
        self._tickets: list[SessionTicket] = []
        self._checked: bytes | None = None
        """The certificate that was found to be good over QUIC, DER."""

    async def open(
        self, version: Version, purpose: Purpose, *, local: str | None = None, resume: bool = False
    ) -> AnyConnection:
        """Connect, from the address `local` if there is one; with `resume` in the session that `remember` found.

        Raises Failure; it is of the kind "not-spoken" where the server does not offer this version.
        """
        if version == "h3":
            return await self._open_quic(purpose, local, resume)
        return await self._open_tcp(version, purpose, local, resume)

    def remember(self, version: Version, connection: AnyConnection) -> bool:
        """Keep the TLS session of this connection for `resume`; false if the server offered none."""
        if isinstance(connection, Http3Connection):
            if connection.link.ticket is not None:
                self._tickets = [connection.link.ticket]
            return connection.link.ticket is not None
        tls = connection.link.tls
        session = None if tls is None else tls.session
        # Before TLS 1.3 a server may keep sessions itself, under an id (RFC 5246, section 7.3).
        if tls is None or session is None or not (session.has_ticket or (session.id and tls.version() != "TLSv1.3")):
            return False
        self._sessions[version] = session
        return True

    async def _open_tcp(
        self, version: Version, purpose: Purpose, local: str | None, resume: bool
    ) -> Http1Connection | Http2Connection:
        # Making a context reads the system's authorities, which is no part of a handshake's price.
        tls = None
        if self.target.tls:
            context = self._contexts.get(version)
            if context is None:
                context = client_context((_ALPN[version],), verify=self._verify, ca=self._ca)
                self._contexts[version] = context
            tls = TlsClient(context, self.target.host, self._sessions.get(version) if resume else None)
        endpoint = Endpoint(self.address, self.target.port)
        record = self.trace.connection(version, purpose)
        link = await open_link(self.trace, record, endpoint, tls=tls, timeout=self._timeout, local=local)
        chosen = link.tls.selected_alpn_protocol() if link.tls is not None else None
        # A server that knows no ALPN speaks HTTP/1.1.
        if link.tls is not None and chosen != _ALPN[version] and not (chosen is None and version != "h2"):
            link.close()
            record.failure = "not spoken: TLS did not choose it (ALPN)"
            raise Failure(record.failure, "not-spoken")
        if version == "h2":
            return Http2Connection(link, self.trace, self._timeout)
        return Http1Connection(link, self.trace, "h1.0" if version == "h1.0" else "h1.1", self._timeout)

    async def _open_quic(self, purpose: Purpose, local: str | None, resume: bool) -> Http3Connection:
        ticket = self._tickets.pop() if resume and self._tickets else None
        endpoint = await self._udp()
        record = self.trace.connection("h3", purpose)
        client = QuicClient(self.target.host, ticket)
        link = await open_quic(
            self.trace, record, endpoint, client, timeout=min(self._timeout, _QUIC_WITHIN), local=local
        )
        try:
            self._check(link, endpoint)
        except Failure as failure:
            record.failure = str(failure)
            link.close()
            raise
        return Http3Connection(link, self.trace, self._timeout)

    def _check(self, link: QuicLink, endpoint: Endpoint) -> None:
        """Check the certificate after the handshake and before the first request, so that the one costs what it costs.

        Once is enough: a connection that resumes a session shows none.
        """
        if not must_check(endpoint.host, verify=self._verify, insecure=self._insecure) or link.record.resumed:
            return
        if link.quic.certificate != self._checked:
            check_quic_certificate(link.quic, self.target.host, self._ca)
            self._checked = link.quic.certificate

    async def _udp(self) -> Endpoint:
        if self.alternative is None:
            return Endpoint(self.address, self.target.port)
        if self.alternative.host in ("", self.target.host):
            return Endpoint(self.address, self.alternative.port)
        # Another machine may serve it; its certificate must be for the host we want all the same (RFC 7838, section 2.1).
        elsewhere = msgspec.structs.replace(self.target, host=self.alternative.host, port=self.alternative.port)
        try:
            return Endpoint((await look_up(elsewhere)).addresses[0], self.alternative.port)
        except Unreachable as error:
            raise Failure(str(error), "unreachable") from None


def must_check(address: str, *, verify: bool, insecure: bool) -> bool:
    """Whether the certificate of this address counts.

    Where it was let off, that was for loopback; an alternative service may be anywhere, and would get the cookies, too.
    """
    return not insecure and (verify or not is_loopback(address))
