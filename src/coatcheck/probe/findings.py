"""What is worth knowing about a server, and what to change. Pure: reads the report's parts, in the order in which they matter.

`info`: worth knowing; `warn`: costs something, or will hurt some clients; `problem`: broken, or open to an attack. A
finding's `code` stays the same from release to release.
"""

from collections.abc import Iterator, Mapping

import msgspec

from coatcheck.probe.caching import Caching
from coatcheck.probe.facts import VersionReport
from coatcheck.probe.levels import LEVELS, Level
from coatcheck.probe.mends import Mend, mends_for, software_of
from coatcheck.probe.reach import TlsReport
from coatcheck.probe.redirects import Redirect
from coatcheck.probe.sessions import SessionReport
from coatcheck.probe.set_cookie import CookieReport
from coatcheck.probe.websocket import WebSocketFacts
from coatcheck.probe.words import count, joined, milliseconds, printable, seconds_in_words

__all__ = ["Evidence", "Finding", "find"]

_SHORT_IDLE = 10.0
"""Seconds; people think between two clicks, and proxies keep their connections for a minute."""
_FEW_REQUESTS = 100
_FEW_STREAMS = 100
"""RFC 9113, section 6.5.2, advises no less."""
_SOON = 14.0
_NORMAL = 1000


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing worth knowing. `mends` say what to change where."""

    level: Level
    code: str
    title: str
    words: str
    mends: tuple[Mend, ...] = ()


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What findings are made of: the parts of a report."""

    tls_wanted: bool
    loopback: bool
    server: str | None
    tls: TlsReport | None
    versions: Mapping[str, VersionReport]
    websockets: Mapping[str, WebSocketFacts]
    session: SessionReport
    cookies: tuple[CookieReport, ...]
    caching: Caching | None
    redirects: tuple[Redirect, ...]


def find(evidence: Evidence) -> tuple[Finding, ...]:
    """Every finding, the worst first."""
    software = software_of(evidence.server)
    found = [
        *_redirects(evidence),
        *_certificate(evidence),
        *_answers(evidence),
        *_which_versions(evidence),
        *(finding for version in evidence.versions.values() if version.spoken for finding in _connections(version)),
        *_tls(evidence),
        *_websockets(evidence),
        *_session(evidence),
        *_cookies(evidence),
        *_caching(evidence),
    ]
    merged = _merge(found)
    with_mends = [msgspec.structs.replace(each, mends=mends_for(_family(each.code), software)) for each in merged]
    return tuple(sorted(with_mends, key=lambda each: -LEVELS.index(each.level)))


def _merge(found: list[Finding]) -> list[Finding]:
    """One finding for several versions where they say the same."""
    merged: dict[tuple[str, str, str], Finding] = {}
    for each in found:
        names, colon, title = each.title.partition(": ")
        key = (each.code, each.words, title if colon else each.title)
        before = merged.get(key)
        if before is None:
            merged[key] = each
        elif colon:
            both = f"{before.title.partition(': ')[0]}, {names}: {title}"
            merged[key] = msgspec.structs.replace(before, title=both)
    return list(merged.values())


def _family(code: str) -> str:
    return "cookie" if code.startswith("cookie-") else code


# -- who answers, and how ----------------------------------------------------------------------------------------------


def _redirects(evidence: Evidence) -> Iterator[Finding]:
    for redirect in evidence.redirects:
        if not redirect.followed:
            yield Finding(
                level="info",
                code="redirect",
                title=f"It redirects to another host: {redirect.to}",
                words="What was measured is the redirect. Probe that host, or follow with --follow.",
            )


def _certificate(evidence: Evidence) -> Iterator[Finding]:
    certificate = evidence.tls.certificate if evidence.tls else None
    if certificate is None:
        return
    if certificate.distrust == "unknown issuer":
        words = f"Its issuer, {certificate.issuer}, is not known to this machine. Certificates were not checked."
        if evidence.loopback:
            words += " On loopback nobody can stand in between; give the authority with --ca to have it checked."
        level: Level = "info" if evidence.loopback else "problem"
        yield Finding(
            level=level,
            code="certificate-unknown-issuer",
            title="This machine does not trust the certificate",
            words=words,
        )
    elif certificate.distrust is not None:
        reasons = {
            "expired": f"It ran out on {certificate.not_after[:10]}.",
            "not yet valid": f"It is valid from {certificate.not_before[:10]} on.",
            "another name": f"It is for {joined(certificate.names) or certificate.subject}.",
            "unusable": "It could not be verified.",
        }
        yield Finding(
            level="problem",
            code=f"certificate-{certificate.distrust.replace(' ', '-')}",
            title="The certificate is not valid here",
            words=reasons[certificate.distrust] + " Browsers refuse it.",
        )
    elif certificate.days_left < _SOON:
        yield Finding(
            level="warn",
            code="certificate-runs-out",
            title=f"The certificate runs out in {certificate.days_left:.0f} days",
            words=f"On {certificate.not_after[:10]}; renew it, best by a program.",
        )


def _answers(evidence: Evidence) -> Iterator[Finding]:
    statuses = {version.status for version in evidence.versions.values() if version.status is not None}
    bad = sorted(status for status in statuses if status >= 400)
    if bad:
        yield Finding(
            level="warn" if max(bad) >= 500 or 429 in bad else "info",
            code="status",
            title=f"The answer is {joined(str(status) for status in bad)}",
            words="What is measured of connections holds all the same. For pages behind a login, bring the cookie:"
            " --cookie name=value.",
        )


def _which_versions(evidence: Evidence) -> Iterator[Finding]:
    versions = evidence.versions
    h2, h3 = versions.get("h2"), versions.get("h3")
    for version in versions.values():
        if version.failure and version.spoken:
            yield Finding(
                level="problem",
                code="broke-off",
                title=f"{version.name}: it broke off",
                words=f"After {count(version.requests, 'request')}: {version.failure}.",
            )
        elif version.failure and version.failure.startswith("no answer"):
            if version.name != "HTTP/3":
                yield Finding(
                    level="problem", code="no-answer", title=f"{version.name}: no answer", words=f"{version.failure}."
                )
    if h2 is not None and not h2.spoken and evidence.tls_wanted:
        yield Finding(
            level="warn",
            code="no-h2",
            title="HTTP/2 is not spoken",
            words="Browsers open up to six HTTP/1.1 connections in its place, and a seventh request waits.",
        )
    if h3 is not None:
        announced = any(version.alt_svc and "h3" in version.alt_svc for version in versions.values())
        yield from _h3(h3, announced)


def _h3(h3: VersionReport, announced: bool) -> Iterator[Finding]:
    if not h3.spoken and h3.via == "alt-svc":
        yield Finding(
            level="problem",
            code="h3-dead",
            title="HTTP/3 is announced, but dead",
            words=f"Alt-Svc promises it, and then: {h3.failure}. Browsers try it, wait, and fall back, again and again.",
        )
    elif not h3.spoken:
        yield Finding(
            level="info",
            code="no-h3",
            title="HTTP/3 is not offered",
            words=f"It is not announced (Alt-Svc), and was tried on the same port: {h3.failure}.",
        )
    elif not announced:
        yield Finding(
            level="warn",
            code="h3-unannounced",
            title="HTTP/3 is on, but not announced",
            words="It answers on UDP, but no response carries Alt-Svc: browsers will not find it.",
        )


# -- connections -------------------------------------------------------------------------------------------------------


def _connections(version: VersionReport) -> Iterator[Finding]:
    keep = version.keep_alive
    assert keep is not None
    if version.kept_unasked:
        yield Finding(
            level="info",
            code="http10-kept-open",
            title=f"{version.name}: the connection stays open unasked",
            words="A client of that age waits for its end to know that the response is over (RFC 9112, section 9.3).",
        )
    if version.name != "HTTP/1.0":
        yield from _reuse(version)
    yield from _idle(version)
    if (
        version.streams is not None
        and version.streams.announced is not None
        and version.streams.announced < _FEW_STREAMS
    ):
        yield Finding(
            level="warn",
            code="few-streams",
            title=f"{version.name}: no more than {count(version.streams.announced, 'request')} at once on a connection",
            words="The others wait in the client. RFC 9113, section 6.5.2, advises 100 or more.",
        )
    if version.streams is not None and version.streams.refused:
        yield Finding(
            level="warn",
            code="streams-refused",
            title=f"{version.name}: {count(version.streams.refused, 'request')} of those at once refused",
            words="The server takes fewer than it announced; clients send the others again, later.",
        )
    if (
        version.at_once is not None
        and version.at_once.answered < version.at_once.requests
        and not (version.streams and version.streams.refused)
    ):
        missing = version.at_once.requests - version.at_once.answered
        yield Finding(
            level="problem",
            code="at-once-failed",
            title=f"{version.name}: {missing} of {version.at_once.requests} requests at once failed",
            words="One after the other they are answered. Look for a limit on connections, or for a crash.",
        )
    yield from _endings(version)
    yield from _migration(version)


def _reuse(version: VersionReport) -> Iterator[Finding]:
    keep = version.keep_alive
    assert keep is not None
    if keep.honoured is False:
        cost = ""
        if version.new_connection_ms is not None:
            cost = f" Each request costs {milliseconds(version.new_connection_ms)}, handshake included."
        yield Finding(
            level="problem",
            code="keep-alive-refused",
            title=f"{version.name}: a new connection for every request",
            words=f"{count(version.requests, 'request')} took {version.connections} connections: the server closes after each.{cost}",
        )
    elif keep.requests_allowed is not None and keep.requests_allowed < _FEW_REQUESTS:
        yield Finding(
            level="warn",
            code="few-requests-per-connection",
            title=f"{version.name}: the connection ends after {count(keep.requests_allowed, 'request')}",
            words=f"{count(version.requests, 'request')} took {version.connections} connections.",
        )
    if keep.unannounced:
        lost = (
            f" {count(keep.lost_requests, 'request')} met it, and had to be sent again." if keep.lost_requests else ""
        )
        yield Finding(
            level="warn",
            code="closes-unannounced",
            title=f"{version.name}: closed {count(keep.unannounced, 'time')} without a word",
            words="Without Connection: close or GOAWAY a client may be sending just then, and a POST must not be sent"
            f" again (RFC 9112, section 9.5).{lost}",
        )


def _idle(version: VersionReport) -> Iterator[Finding]:
    keep = version.keep_alive
    assert keep is not None
    real, said = keep.closed_after_s, keep.announced_s
    shown = f"{version.name}: an idle connection ends"
    if real is not None and real < _SHORT_IDLE:
        yield Finding(
            level="warn",
            code="short-idle",
            title=f"{shown} after {seconds_in_words(round(real, 1))}",
            words="Between two clicks of a person it is gone, and a proxy in front that keeps its connections longer runs"
            " into closed ones: set it above the proxy's own (75 s where that keeps them for 60).",
        )
    elif real is None and said is not None and said < _SHORT_IDLE:
        yield Finding(
            level="warn",
            code="short-idle",
            title=f"{shown} after {seconds_in_words(said)}, as it says",
            words="Between two clicks of a person it is gone, and a proxy in front that keeps its connections longer runs"
            " into closed ones: set it above the proxy's own (75 s where that keeps them for 60).",
        )
    if real is not None and said is not None and real < said - 1:
        yield Finding(
            level="warn",
            code="idle-earlier-than-announced",
            title=f"{version.name}: idle connections end earlier than announced",
            words=f"{seconds_in_words(round(real, 1))} in place of {seconds_in_words(said)}: clients rely on what is said.",
        )


def _endings(version: VersionReport) -> Iterator[Finding]:
    for closing in version.closings:
        if closing.by == "server" and closing.how == "RST":
            yield Finding(
                level="warn",
                code="reset",
                title=f"{version.name}: {count(closing.count, 'connection')} reset by the server",
                words="RST in place of FIN throws away what is still on its way, the last response included.",
            )
        if closing.by == "server" and closing.code and closing.how in ("GOAWAY", "CONNECTION_CLOSE"):
            code = closing.code
            if code == 0x100 and version.name == "HTTP/3":
                continue  # H3_NO_ERROR
            said = f" ({printable(closing.reason)})" if closing.reason else ""
            yield Finding(
                level="warn",
                code="closed-with-error",
                title=f"{version.name}: {closing.how} with code {code:#x}{said}",
                words=f"{count(closing.count, 'connection')} ended like that. Other codes than 0 blame the client.",
            )


def _migration(version: VersionReport) -> Iterator[Finding]:
    moved = version.migration
    if moved is None:
        return
    if moved.port is False:
        yield Finding(
            level="problem",
            code="no-rebinding",
            title=f"{version.name}: a new client port ends the connection",
            words="NATs change ports of quiet UDP flows within a minute or two. Often it is a load balancer that tells flows"
            " apart by port in place of by QUIC's connection id (RFC 9000, section 5.1).",
        )
    elif moved.address is False:
        yield Finding(
            level="warn",
            code="no-migration",
            title=f"{version.name}: a new client address ends the connection",
            words="A phone that leaves the Wi-Fi begins anew (RFC 9000, section 9).",
        )
    elif moved.forbidden:
        yield Finding(
            level="info",
            code="migration-forbidden",
            title=f"{version.name}: clients may not move on purpose",
            words="The server says so in the handshake (disable_active_migration).",
        )


def _tls(evidence: Evidence) -> Iterator[Finding]:
    old = sorted({v.tls.version for v in evidence.versions.values() if v.tls and v.tls.version != "TLSv1.3"})
    if old:
        yield Finding(
            level="info",
            code="tls-old",
            title=f"TLS 1.3 is not spoken, but {joined(old)}",
            words="TLS 1.3 spares one round trip in each handshake (RFC 8446, section 2).",
        )
    for version in evidence.versions.values():
        resumption = version.tls.resumption if version.tls else None
        if resumption is not None and not resumption.accepted:
            offered = resumption.offered
            how = "A session was offered, and then not taken up" if offered else "No session is offered"
            yield Finding(
                level="warn" if offered else "info",
                code="no-resumption",
                title=f"{version.name}: TLS sessions are not resumed",
                words=f"{how}: each new connection pays for the certificate again.",
            )


# -- WebSockets, session -----------------------------------------------------------------------------------------------


def _websockets(evidence: Evidence) -> Iterator[Finding]:
    for version, facts in evidence.websockets.items():
        name = f"WebSocket over {_name(evidence, version)}"
        if not facts.spoken:
            continue
        if facts.failure and facts.closed_by == "us" and facts.close_code != _NORMAL:
            yield Finding(
                level="problem",
                code="websocket-broken",
                title=f"{name}: it cannot be understood",
                words=f"In answer to the handshake or a ping: {facts.failure}.",
            )
            continue
        if facts.pongs == 0 and facts.closed_by != "server":
            yield Finding(
                level="warn",
                code="no-pong",
                title=f"{name}: pings are not answered",
                words="An endpoint must answer each ping (RFC 6455, section 5.5.2); without it nobody learns that the"
                " other side is gone.",
            )
        if facts.closed_by == "us" and facts.close_answered is False:
            yield Finding(
                level="warn",
                code="no-close-answer",
                title=f"{name}: our goodbye is not answered",
                words="An endpoint must answer a close with its own (RFC 6455, section 5.5.1).",
            )
        if facts.closed_by == "server" and facts.close_code == 1006:
            yield Finding(
                level="warn",
                code="websocket-cut",
                title=f"{name}: cut off without a close",
                words="Clients see code 1006 and cannot tell a restart from a lost network.",
            )
    spoken = [_name(evidence, version) for version, facts in evidence.websockets.items() if facts.spoken]
    silent = [
        _name(evidence, version)
        for version, facts in evidence.websockets.items()
        if not facts.spoken and version in evidence.versions and evidence.versions[version].spoken
    ]
    if spoken and silent:
        yield Finding(
            level="info",
            code="websocket-some",
            title=f"WebSockets over {joined(spoken)}, but not over {joined(silent)}",
            words="Browsers then open a connection of their own for each WebSocket.",
        )


def _session(evidence: Evidence) -> Iterator[Finding]:
    session = evidence.session
    if session.adopts_made_up == "yes":
        yield Finding(
            level="problem",
            code="made-up-adopted",
            title=f"A made-up {joined(session.cookies)} is taken for a session",
            words="Who plants an id in somebody's browser before the login may share the session after it (session"
            " fixation), unless the login replaces it. The server should answer an id that it did not issue with a new one.",
        )
    lost = [_name(evidence, version) for version, known in session.survives_version.items() if known == "no"]
    if lost:
        yield Finding(
            level="problem",
            code="session-lost-version",
            title=f"The session is not known over {joined(lost)}",
            words="The cookie was sent as before, and the server took it for nobody's. Do these versions reach other machines?",
        )
    elif session.survives_connection == "no":
        yield Finding(
            level="problem",
            code="session-lost-connection",
            title="The session is not known on every connection",
            words="Either it is kept by one of several machines, with nothing in common (a store, or sticky routing), or it is"
            " tied to the connection.",
        )
    if session.survives_address == "no":
        yield Finding(
            level="warn",
            code="session-lost-address",
            title="The session is not known from another client address",
            words="Whoever changes networks is logged out: phones do that all day. It keeps few thieves off, as they often"
            " share the address.",
        )


def _cookies(evidence: Evidence) -> Iterator[Finding]:
    for cookie in evidence.cookies:
        if cookie.level is None:
            continue
        remarks = [remark for remark in cookie.remarks if remark.verdict == cookie.level]
        yield Finding(
            level=cookie.level,
            code=f"cookie-{remarks[0].attribute.lower()}",
            title=f"Cookie {cookie.name}: {joined(remark.attribute for remark in remarks)}",
            words=" ".join(remark.words for remark in remarks),
        )


def _caching(evidence: Evidence) -> Iterator[Finding]:
    caching = evidence.caching
    if caching is None or caching.shared == "no" or not caching.sets_cookie:
        return
    yield Finding(
        level="problem" if caching.shared == "yes" else "warn",
        code="cacheable",
        title="A cache may store a response that sets a cookie",
        words=f"{caching.words} Whoever gets it from there gets the cookie, too.",
    )


def _name(evidence: Evidence, version: str) -> str:
    found = evidence.versions.get(version)
    return found.name if found else {"h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}.get(version, version)
