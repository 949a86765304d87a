"""The report: everything that was found out about one server, as data, and as JSON with a version and a schema.

Within `coatcheck-probe/1` fields may be added, none is removed and none changes its meaning; see docs/reference/probe.md.
Times are in milliseconds where the name ends in `_ms` and in seconds where it ends in `_s`; null means that it was not
measured or does not apply. No cookie's value, no header of the user's and no query of the URL is in it.
"""

from datetime import UTC, datetime
from importlib.metadata import version as installed
from typing import Any, Literal

import msgspec

from coatcheck.probe.answer import answer
from coatcheck.probe.caching import Caching
from coatcheck.probe.facts import Address, VersionReport
from coatcheck.probe.findings import Evidence, Finding, find
from coatcheck.probe.levels import Level, at_least
from coatcheck.probe.prober import NAMES, Prober
from coatcheck.probe.reach import TlsReport
from coatcheck.probe.redirects import Redirect
from coatcheck.probe.sessions import SessionReport, judge_session
from coatcheck.probe.set_cookie import CookieReport, judge_cookie
from coatcheck.probe.summary import summarise
from coatcheck.probe.target import is_loopback
from coatcheck.probe.trace import ConnectionTrace
from coatcheck.probe.websocket import WebSocketFacts
from coatcheck.probe.words import printable

__all__ = ["SCHEMA", "Report", "Settings", "make_report", "report_schema"]

SCHEMA: Literal["coatcheck-probe/1"] = "coatcheck-probe/1"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for, as far as it bears on the figures."""

    requests: int
    concurrency: int
    only: tuple[str, ...]
    idle_s: float | None
    method: str
    cookies: tuple[str, ...]
    """The names of those that the user brought."""
    headers: tuple[str, ...]
    """The names of the header fields that the user added."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was found out about one server."""

    schema: Literal["coatcheck-probe/1"]
    program: str
    url: str
    """What was measured; another than `requested_url` where redirects were followed."""
    requested_url: str
    started_at: str
    """RFC 3339."""
    took_s: float
    complete: bool
    """False: it was interrupted, and this is what was known by then."""
    settings: Settings
    answer: str
    """One paragraph for people."""
    address: Address | None
    server: str | None
    """What the server calls itself."""
    requests_sent: int
    connections_opened: int
    tls: TlsReport | None
    versions: dict[str, VersionReport]
    """By `h1.0`, `h1.1`, `h2`, `h3`: those that were asked for."""
    websockets: dict[str, WebSocketFacts]
    """By the version that carries them."""
    session: SessionReport
    cookies: tuple[CookieReport, ...]
    caching: Caching | None
    redirects: tuple[Redirect, ...]
    findings: tuple[Finding, ...]
    """The worst first."""
    timeline: tuple[ConnectionTrace, ...]
    """Every connection and request, as it happened."""

    def to_json(self) -> bytes:
        """The report as JSON, indented."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2)

    def fails(self, level: Level) -> bool:
        """Whether a finding is as bad as `level`, or worse."""
        return any(at_least(finding.level, level) for finding in self.findings)


def make_report(prober: Prober, started_at: datetime | None = None) -> Report:
    """What a probe has found so far."""
    now = datetime.now(UTC)
    target, trace, asker, reached = prober.target, prober.trace, prober.asker, prober.reached
    ip = reached.address if reached else (prober.addresses or ("",))[0]
    versions = {
        str(version): summarise(version, NAMES[version], notes, trace.connections)
        for version, notes in prober.notes.items()
    }
    cookies = tuple(
        judge_cookie(cookie, target, ip, tuple(asker.jar.seen_over.get(name, ())), now)
        for name, cookie in asker.jar.seen.items()
    )
    session = judge_session(asker.jar.session_names, asker.reactions)
    server = next((printable(notes.server) for notes in prober.notes.values() if notes.server), None)
    evidence = Evidence(
        tls_wanted=target.tls,
        loopback=is_loopback(ip),
        server=server,
        tls=reached.tls if reached else None,
        versions=versions,
        websockets={str(version): facts for version, facts in prober.websockets.items()},
        session=session,
        cookies=cookies,
        caching=asker.caching,
        redirects=tuple(prober.redirects),
    )
    findings = find(evidence)
    options = prober.options
    address = None
    if prober.resolved is not None:
        candidates, dns_ms = prober.resolved
        address = Address(host=target.host, port=target.port, ip=ip, candidates=candidates, dns_ms=round(dns_ms, 3))
    took = trace.now() / 1000
    return Report(
        schema=SCHEMA,
        program=f"coatcheck {installed('coatcheck')}",
        url=target.shown,
        requested_url=prober.asked.shown,
        started_at=(started_at or datetime.fromtimestamp(now.timestamp() - took, UTC)).isoformat(timespec="seconds"),
        took_s=round(took, 3),
        complete=prober.complete,
        settings=Settings(
            requests=options.requests,
            concurrency=options.concurrency,
            only=tuple(options.only),
            idle_s=options.idle,
            method="HEAD" if options.head else "GET",
            cookies=tuple(name for name, _ in options.cookies),
            headers=tuple(name for name, _ in options.headers),
        ),
        answer=answer(target.authority, versions, evidence.websockets, session, findings),
        address=address,
        server=server,
        requests_sent=trace.requests,
        connections_opened=len(trace.connections),
        tls=evidence.tls,
        versions=versions,
        websockets=dict(evidence.websockets),
        session=session,
        cookies=cookies,
        caching=asker.caching,
        redirects=evidence.redirects,
        findings=findings,
        timeline=tuple(msgspec.structs.replace(each) for each in trace.connections),
    )


def report_schema() -> dict[str, Any]:
    """The JSON Schema of a report's JSON."""
    return msgspec.json.schema(Report)
