"""The one paragraph that answers the question: does this server make a new connection every time? Pure."""

from collections.abc import Mapping

from coatcheck.probe.facts import VersionReport
from coatcheck.probe.findings import Finding
from coatcheck.probe.sessions import SessionReport
from coatcheck.probe.websocket import WebSocketFacts
from coatcheck.probe.words import count, joined, milliseconds, seconds_in_words

__all__ = ["answer"]

_NAMES = {"h1.1": "HTTP/1.1", "h2": "HTTP/2", "h3": "HTTP/3"}


def answer(
    host: str,
    versions: Mapping[str, VersionReport],
    websockets: Mapping[str, WebSocketFacts],
    session: SessionReport,
    findings: tuple[Finding, ...],
) -> str:
    """A few sentences, from the most important on."""
    spoken = [version for version in versions.values() if version.spoken]
    if not spoken and websockets:
        return " ".join(_websockets(websockets) or [f"No WebSocket was accepted by {host}."])
    if not spoken:
        return f"Over none of the HTTP versions that were asked for came an answer from {host}."
    sentences = [
        *_connections(spoken),
        *_at_once(spoken),
        *_price(spoken),
        *_idle(spoken),
        *_missing(versions),
        *_websockets(websockets),
        *_session(session),
        *_verdict(findings),
    ]
    return " ".join(sentences)


def _connections(spoken: list[VersionReport]) -> list[str]:
    one = [version for version in spoken if version.reuse == "one"]
    new = [version for version in spoken if version.reuse == "each new"]
    some = [version for version in spoken if version.reuse == "some"]
    if not (one or new or some):
        return [f"It speaks {_names(spoken)}; a single request does not show whether connections are reused."]
    old = [version for version in new if version.name == "HTTP/1.0"]
    bad = [version for version in new if version.name != "HTTP/1.0"]
    sentences: list[str] = []
    if bad:
        sentences.append(f"Yes: over {_names(bad)} every request gets a new connection, {_counts(bad[0])}.")
    elif some:
        sentences.append(
            f"In part: over {_names(some)} connections are used again, but not for long: {_counts(some[0])}."
        )
    if one:
        begin = "No: over" if not (bad or some) else "Over"
        sentences.append(f"{begin} {_names(one)} one connection carried all {one[0].requests} requests.")
    if old:
        only = "HTTP/1.0 alone opens" if one and not (bad or some) else "HTTP/1.0 opens"
        begin = only if sentences else "Yes: over HTTP/1.0, as it is meant to, it opens"
        sentences.append(f"{begin} a new one for each: {_counts(old[0])}.")
    return sentences


def _at_once(spoken: list[VersionReport]) -> list[str]:
    measured = [(version, version.at_once) for version in spoken if version.at_once and version.name != "HTTP/1.0"]
    many = [version for version, at_once in measured if at_once.connections > 1]
    one = [version for version, at_once in measured if at_once.connections == 1]
    if not many or not one or many[0].at_once is None:
        return []
    at_once = many[0].at_once
    return [
        f"Sent all at once, {at_once.requests} requests need {at_once.connections} connections over {_names(many)}"
        f" and one over {_names(one)}."
    ]


def _price(spoken: list[VersionReport]) -> list[str]:
    priced = [v for v in spoken if v.request_ms is not None and v.new_connection_ms is not None]
    if not priced:
        return []
    best = next((version for version in priced if version.name == "HTTP/1.1"), priced[0])
    assert best.request_ms is not None and best.new_connection_ms is not None and best.handshake_ms is not None
    return [
        f"Over {best.name} a request costs {milliseconds(best.new_connection_ms)} on a new connection,"
        f" {milliseconds(best.handshake_ms)} of it for the handshake, and {milliseconds(best.request_ms)} on an open one."
    ]


def _idle(spoken: list[VersionReport]) -> list[str]:
    by_time: dict[str, list[str]] = {}
    for version in spoken:
        if version.keep_alive and version.keep_alive.closed_after_s is not None:
            after = seconds_in_words(round(version.keep_alive.closed_after_s, 1))
            by_time.setdefault(after, []).append(version.name)
    if not by_time:
        return []
    times = [f"{after} over {joined(names)}" for after, names in by_time.items()]
    return [f"An idle connection is closed after {'; '.join(times)}."]


def _missing(versions: Mapping[str, VersionReport]) -> list[str]:
    h3 = versions.get("h3")
    if h3 is not None and not h3.spoken and h3.via == "alt-svc":
        return ["HTTP/3 is announced, but dead."]
    missing = [version for version in versions.values() if not version.spoken]
    names = (f"{each.name} without TLS" if each.via == "prior knowledge" else each.name for each in missing)
    return [f"It does not speak {joined(names, 'or')}."] if missing else []


def _websockets(websockets: Mapping[str, WebSocketFacts]) -> list[str]:
    spoken = {version: facts for version, facts in websockets.items() if facts.spoken}
    if not spoken:
        return []
    names = joined(_NAMES.get(version, version) for version in spoken)
    pings = [facts.ping_ms for facts in spoken.values() if facts.ping_ms is not None]
    price = f", where a round trip takes {milliseconds(min(pings))}" if pings else ""
    return [f"WebSockets are accepted over {names}{price}."]


def _session(session: SessionReport) -> list[str]:
    if session.known_again != "yes":
        return []
    known = {session.survives_connection, session.survives_address, *session.survives_version.values()}
    if "no" in known:
        return ["The session does not survive everything: see the findings."]
    cookies = "cookie" if len(session.cookies) == 1 else "cookies"
    names = joined(session.cookies)
    return [f"The session is in the {cookies} ({names}), not in the connection: it was known again on each."]


def _verdict(findings: tuple[Finding, ...]) -> list[str]:
    problems = sum(finding.level == "problem" for finding in findings)
    warnings = sum(finding.level == "warn" for finding in findings)
    if not problems and not warnings:
        return ["Nothing is amiss."]
    parts = [count(problems, "problem")] if problems else []
    parts += [count(warnings, "warning")] if warnings else []
    return [f"{joined(parts)} below."]


def _names(versions: list[VersionReport]) -> str:
    return joined(version.name for version in versions)


def _counts(version: VersionReport) -> str:
    return f"{count(version.connections, 'connection')} for {count(version.requests, 'request')}"
