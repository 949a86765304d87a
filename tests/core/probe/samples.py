"""Reports made by hand, from traces as a probe would have left them."""

from collections.abc import Sequence
from typing import Any

import msgspec

from coatcheck.probe.answer import answer
from coatcheck.probe.facts import Address, VersionReport
from coatcheck.probe.findings import Evidence, find
from coatcheck.probe.notes import MigrationNotes, ResumptionNotes, VersionNotes
from coatcheck.probe.options import Version
from coatcheck.probe.prober import NAMES
from coatcheck.probe.reach import TlsReport
from coatcheck.probe.report import SCHEMA, Report, Settings
from coatcheck.probe.sessions import SessionReport
from coatcheck.probe.summary import summarise
from coatcheck.probe.tls import Certificate
from coatcheck.probe.trace import ConnectionTrace, Purpose, RequestTrace
from coatcheck.probe.websocket import WebSocketFacts


def request(number: int, began: float, took: float | None = 2.0, **more: Any) -> RequestTrace:
    fields: dict[str, Any] = {
        "request_header_bytes": 90,
        "plain_header_bytes": 90,
        "response_header_bytes": 200,
        **more,
    }
    if took is not None:
        fields = {"status": 200, "first_byte_ms": began + took / 2, "ended_ms": began + took, **fields}
    return RequestTrace(number=number, method="GET", began_ms=began, **fields)


def connection(
    number: int,
    version: str,
    opened: float,
    requests: Sequence[RequestTrace] = (),
    purpose: Purpose = "in turn",
    **more: Any,
) -> ConnectionTrace:
    steps = {"quic_ms": 5.0} if version == "h3" else {"tcp_ms": 1.0, "tls_ms": 4.0}
    fields: dict[str, Any] = {"ready_ms": opened + 5, "resumed": False, "most_streams": 1, **steps, **more}
    return ConnectionTrace(
        number=number, version=version, purpose=purpose, opened_ms=opened, requests=list(requests), **fields
    )


def kept(version: str, number: int = 1, requests: int = 5, **more: Any) -> ConnectionTrace:
    """One connection that carried all."""
    sizes = [90] * requests if version == "h1.1" else [40] + [8] * (requests - 1)
    return connection(
        number,
        version,
        10.0,
        [request(each + 1, 16 + 3.0 * each, request_header_bytes=sizes[each]) for each in range(requests)],
        **{"closed_ms": 60.0, "closed_by": "us", "how": "FIN", **more},
    )


def each_new(version: str, requests: int = 5, **more: Any) -> list[ConnectionTrace]:
    """A connection for each."""
    return [
        connection(
            each + 1,
            version,
            10.0 * each,
            [request(each + 1, 10.0 * each + 5)],
            **{"closed_ms": 10.0 * each + 8, "closed_by": "server", "how": "FIN", **more},
        )
        for each in range(requests)
    ]


def notes(**more: Any) -> VersionNotes:
    return VersionNotes(**{"answered": "HTTP/1.1", "status": 200, "via": "TCP", "tls_version": "TLSv1.3", **more})


def version_report(version: Version, noted: VersionNotes, traces: Sequence[ConnectionTrace]) -> VersionReport:
    return summarise(version, NAMES[version], noted, traces)


def usual() -> dict[Version, tuple[VersionNotes, list[ConnectionTrace]]]:
    """A server that does everything well."""
    tickets = ResumptionNotes(offered=True, accepted=True, handshake_ms=3.0)
    both = {"at_once_asked": 3, "at_once_answered": 3, "at_once_ms": 12.0}
    together = [request(number, 106.0, 4.0) for number in (1, 2, 3)]
    found: dict[Version, tuple[VersionNotes, list[ConnectionTrace]]] = {
        "h1.0": (notes(answered="HTTP/1.0", keep_alive_kept=False, kept_unasked=False), each_new("h1.0")),
        "h1.1": (
            notes(resumption=tickets, alt_svc='h3=":443"', **both),
            [
                kept("h1.1"),
                *(connection(n, "h1.1", 100.0, [together[n - 2]], "at once") for n in (2, 3, 4)),
            ],
        ),
        "h2": (
            notes(via="ALPN", answered="HTTP/2", resumption=tickets, announced_streams=100, **both),
            [kept("h2"), connection(2, "h2", 100.0, together, "at once", most_streams=3)],
        ),
        "h3": (
            notes(
                via="alt-svc",
                answered="HTTP/3",
                resumption=tickets,
                announced_streams=100,
                announced_idle_s=60.0,
                migration=MigrationNotes(port=True, address=True),
                **both,
            ),
            [kept("h3", how="CONNECTION_CLOSE"), connection(2, "h3", 100.0, together, "at once", most_streams=3)],
        ),
    }
    return found


NO_SESSION = SessionReport(
    cookies=(),
    known_again="not tried",
    survives_connection="not tried",
    survives_version={},
    survives_address="not tried",
    adopts_made_up="not tried",
    words="The server set no cookie that looks like a session.",
)

TRUSTED = TlsReport(
    version="TLSv1.3",
    cipher="TLS_AES_128_GCM_SHA256",
    alpn="h2",
    checked=True,
    certificate=Certificate(
        subject="example.com",
        issuer="An Authority",
        names=("example.com",),
        not_before="2026-01-01T00:00:00Z",
        not_after="2026-04-01T00:00:00Z",
        days_left=60.0,
        trusted=True,
    ),
)


def evidence(
    measured: dict[Version, tuple[VersionNotes, list[ConnectionTrace]]] | None = None, **more: Any
) -> Evidence:
    versions = {
        version: version_report(version, *each) for version, each in (usual() if measured is None else measured).items()
    }
    fields: dict[str, Any] = {
        "tls_wanted": True,
        "loopback": False,
        "server": None,
        "tls": TRUSTED,
        "versions": versions,
        "websockets": {},
        "session": NO_SESSION,
        "cookies": (),
        "caching": None,
        "redirects": (),
        **more,
    }
    return Evidence(**fields)


def report(measured: dict[Version, tuple[VersionNotes, list[ConnectionTrace]]] | None = None, **more: Any) -> Report:
    measured = usual() if measured is None else measured
    seen = evidence(measured, **{name: more.pop(name) for name in list(more) if name in Evidence.__struct_fields__})
    findings = find(seen)
    made = Report(
        schema=SCHEMA,
        program="coatcheck 0.1.0",
        url="https://example.com/",
        requested_url="https://example.com/",
        started_at="2026-01-01T00:00:00+00:00",
        took_s=1.5,
        complete=True,
        settings=Settings(
            requests=5,
            concurrency=3,
            only=("h1.0", "h1.1", "h2", "h3", "ws"),
            idle_s=None,
            method="GET",
            cookies=(),
            headers=(),
        ),
        answer=answer("example.com", seen.versions, seen.websockets, seen.session, findings),
        address=Address(host="example.com", port=443, ip="192.0.2.1", candidates=("192.0.2.1",), dns_ms=2.0),
        server=seen.server,
        requests_sent=29,
        connections_opened=13,
        tls=seen.tls,
        versions=dict(seen.versions),
        websockets=dict(seen.websockets),
        session=seen.session,
        cookies=seen.cookies,
        caching=seen.caching,
        redirects=seen.redirects,
        findings=findings,
        timeline=tuple(trace for _, traces in measured.values() for trace in traces),
    )
    return msgspec.structs.replace(made, **more)


def websocket(**more: Any) -> WebSocketFacts:
    return WebSocketFacts(
        **{
            "spoken": True,
            "status": 101,
            "upgrade_ms": 2.0,
            "ping_ms": 1.0,
            "pongs": 3,
            "closed_by": "us",
            "close_code": 1000,
            "close_answered": True,
            **more,
        }
    )
