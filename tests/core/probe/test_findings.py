"""Each finding from the facts that lead to it, none without; and the paragraph that answers the question."""

from typing import Any

import msgspec
import pytest

from coatcheck.probe.answer import answer
from coatcheck.probe.caching import Caching
from coatcheck.probe.findings import Evidence, find
from coatcheck.probe.levels import at_least, worst
from coatcheck.probe.mends import mends_for, software_of
from coatcheck.probe.notes import KeepAliveHeader, MigrationNotes, ResumptionNotes, VersionNotes
from coatcheck.probe.redirects import Redirect
from tests.core.probe.samples import (
    NO_SESSION,
    TRUSTED,
    connection,
    each_new,
    evidence,
    kept,
    notes,
    request,
    usual,
    websocket,
)


def codes(seen: Evidence) -> dict[str, str]:
    return {finding.code: finding.level for finding in find(seen)}


def answered(seen: Evidence) -> str:
    return answer("example.com", seen.versions, seen.websockets, seen.session, find(seen))


def with_h1(**noted: Any) -> Evidence:
    return evidence({"h1.1": (notes(**noted), [kept("h1.1")])})


def session(**more: Any) -> Any:
    return msgspec.structs.replace(NO_SESSION, cookies=("sid",), known_again="yes", **more)


def test_of_a_server_that_does_everything_well_there_is_nothing_to_say() -> None:
    assert codes(evidence()) == {}
    assert answered(evidence()) == (
        "No: over HTTP/1.1, HTTP/2 and HTTP/3 one connection carried all 5 requests. HTTP/1.0 alone opens a new one for"
        " each: 5 connections for 5 requests. Sent all at once, 3 requests need 3 connections over HTTP/1.1 and one over"
        " HTTP/2 and HTTP/3. Over HTTP/1.1 a request costs 7.0 ms on a new connection, 5.0 ms of it for the handshake, and"
        " 2.0 ms on an open one. Nothing is amiss."
    )


def test_a_connection_for_each_request_is_the_answer_yes() -> None:
    seen = evidence({"h1.1": (notes(), each_new("h1.1"))})
    assert codes(seen) == {"keep-alive-refused": "problem"}
    assert answered(seen).startswith(
        "Yes: over HTTP/1.1 every request gets a new connection, 5 connections for 5 requests."
    )


def test_http10_alone_is_as_it_is_meant_to_be() -> None:
    seen = evidence({"h1.0": usual()["h1.0"]})
    assert codes(seen) == {}
    assert answered(seen).startswith("Yes: over HTTP/1.0, as it is meant to, it opens a new one for each")


def test_few_requests_on_each_connection_is_the_answer_in_part() -> None:
    traces = [
        connection(number, "h1.1", 50.0 * number, [request(each, 50.0 * number + 5 + 3 * each) for each in range(5)])
        for number in range(4)
    ]
    seen = evidence({"h1.1": (notes(), traces)})
    assert codes(seen) == {"few-requests-per-connection": "warn"}
    assert "In part: over HTTP/1.1" in answered(seen) and "4 connections for 20 requests" in answered(seen)


@pytest.mark.parametrize(
    ("noted", "code", "level"),
    [
        ({"idle_closed_after_s": 2.0}, "short-idle", "warn"),
        ({"keep_alive_header": KeepAliveHeader(5, None)}, "short-idle", "warn"),
        (
            {"idle_closed_after_s": 30.0, "keep_alive_header": KeepAliveHeader(75, None)},
            "idle-earlier-than-announced",
            "warn",
        ),
        ({"unannounced": 2, "lost_requests": 1}, "closes-unannounced", "warn"),
        ({"failure": "the server reset the connection", "kind": "reset"}, "broke-off", "problem"),
        ({"status": 503}, "status", "warn"),
        ({"status": 404}, "status", "info"),
        ({"tls_version": "TLSv1.2"}, "tls-old", "info"),
        ({"resumption": ResumptionNotes(offered=False)}, "no-resumption", "info"),
        ({"resumption": ResumptionNotes(offered=True, accepted=False)}, "no-resumption", "warn"),
        ({"at_once_asked": 5, "at_once_answered": 3, "at_once_ms": 1.0}, "at-once-failed", "problem"),
    ],
)
def test_each_fact_about_a_connection_has_its_finding(noted: dict[str, Any], code: str, level: str) -> None:
    assert codes(with_h1(**noted)) == {code: level}


def test_an_idle_time_out_that_lasts_is_none() -> None:
    assert codes(with_h1(idle_closed_after_s=75.0)) == {}
    assert "An idle connection is closed after 75 s over HTTP/1.1." in answered(with_h1(idle_closed_after_s=75.0))


@pytest.mark.parametrize(
    ("noted", "code", "level"),
    [
        ({"announced_streams": 3}, "few-streams", "warn"),
        ({"refused_streams": 2, "announced_streams": None}, "streams-refused", "warn"),
    ],
)
def test_streams(noted: dict[str, Any], code: str, level: str) -> None:
    assert codes(evidence({"h2": (notes(**{"announced_streams": 100, **noted}), [kept("h2")])})) == {code: level}


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (MigrationNotes(port=False), {"no-rebinding": "problem"}),
        (MigrationNotes(port=True, address=False), {"no-migration": "warn"}),
        (MigrationNotes(port=True, forbidden=True), {"migration-forbidden": "info"}),
        (MigrationNotes(port=True), {}),
    ],
)
def test_moves(moved: MigrationNotes, expected: dict[str, str]) -> None:
    seen = evidence({"h3": (notes(via="alt-svc", migration=moved, alt_svc='h3=":443"'), [kept("h3")])})
    assert codes(seen) == expected


def test_http3_is_dead_hidden_or_absent() -> None:
    h1 = (notes(alt_svc='h3=":443"'), [kept("h1.1")])
    nothing = VersionNotes(failure="nothing listens on UDP port 443", kind="refused", via="alt-svc")
    seen = evidence({"h1.1": h1, "h3": (nothing, [])})
    assert codes(seen) == {"h3-dead": "problem"} and "HTTP/3 is announced, but dead." in answered(seen)
    direct = msgspec.structs.replace(nothing, via="direct")
    assert codes(evidence({"h1.1": (notes(), [kept("h1.1")]), "h3": (direct, [])})) == {"no-h3": "info"}
    hidden = (notes(via="direct", answered="HTTP/3"), [kept("h3")])
    assert codes(evidence({"h3": hidden})) == {"h3-unannounced": "warn"}


def test_http2_is_missed_where_there_is_tls() -> None:
    lacking = {"h1.1": (notes(), [kept("h1.1")]), "h2": (VersionNotes(failure="not spoken", kind="not-spoken"), [])}
    assert codes(evidence(lacking)) == {"no-h2": "warn"}  # type: ignore[arg-type]
    assert codes(evidence(lacking, tls_wanted=False, tls=None)) == {}  # type: ignore[arg-type]


def test_ends_by_reset_and_by_error_are_findings() -> None:
    seen = evidence({"h1.1": (notes(), [kept("h1.1", closed_by="server", how="RST")])})
    assert codes(seen) == {"reset": "warn"}
    for code, expected in ((0, {}), (11, {"closed-with-error": "warn"})):
        closed = kept("h2", closed_by="server", how="GOAWAY", code=code)
        assert codes(evidence({"h2": (notes(announced_streams=100), [closed])})) == expected
    fine = kept("h3", closed_by="server", how="CONNECTION_CLOSE", code=0x100)
    assert codes(evidence({"h3": (notes(alt_svc="h3", announced_streams=100), [fine])})) == {}


@pytest.mark.parametrize(
    ("distrust", "loopback", "code", "level"),
    [
        ("unknown issuer", True, "certificate-unknown-issuer", "info"),
        ("unknown issuer", False, "certificate-unknown-issuer", "problem"),
        ("expired", True, "certificate-expired", "problem"),
        ("not yet valid", False, "certificate-not-yet-valid", "problem"),
        ("another name", True, "certificate-another-name", "problem"),
        ("unusable", False, "certificate-unusable", "problem"),
    ],
)
def test_certificates(distrust: Any, loopback: bool, code: str, level: str) -> None:
    certificate = msgspec.structs.replace(TRUSTED.certificate, trusted=False, distrust=distrust)
    tls = msgspec.structs.replace(TRUSTED, certificate=certificate, checked=False)
    assert codes(evidence(tls=tls, loopback=loopback)) == {code: level}


def test_a_certificate_that_runs_out_soon() -> None:
    soon = msgspec.structs.replace(TRUSTED, certificate=msgspec.structs.replace(TRUSTED.certificate, days_left=5.0))
    assert codes(evidence(tls=soon)) == {"certificate-runs-out": "warn"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, {}),
        ({"pongs": 0, "ping_ms": None}, {"no-pong": "warn"}),
        ({"close_answered": False}, {"no-close-answer": "warn"}),
        ({"closed_by": "server", "close_code": 1006}, {"websocket-cut": "warn"}),
        ({"closed_by": "server", "close_code": 1001, "pongs": 0}, {}),
        ({"spoken": False}, {}),
        ({"failure": "what it sent breaks WebSocket (x)", "close_code": 1002}, {"websocket-broken": "problem"}),
    ],
)
def test_websockets(facts: dict[str, Any], expected: dict[str, str]) -> None:
    assert codes(evidence(websockets={"h1.1": websocket(**facts)})) == expected


def test_websockets_over_some_versions_only() -> None:
    sockets = {"h1.1": websocket(), "h2": websocket(spoken=False, failure="its SETTINGS do not offer WebSockets")}
    assert codes(evidence(websockets=sockets)) == {"websocket-some": "info"}


@pytest.mark.parametrize(
    ("known", "code", "level"),
    [
        ({"adopts_made_up": "yes"}, "made-up-adopted", "problem"),
        ({"survives_version": {"h1.1": "yes", "h2": "no"}}, "session-lost-version", "problem"),
        ({"survives_connection": "no"}, "session-lost-connection", "problem"),
        ({"survives_address": "no"}, "session-lost-address", "warn"),
    ],
)
def test_sessions(known: dict[str, Any], code: str, level: str) -> None:
    seen = evidence(session=session(**known))
    assert codes(seen) == {code: level}
    if code.startswith("session-lost"):
        assert "does not survive everything" in answered(seen)


def test_a_session_that_survives_is_in_the_answer() -> None:
    seen = evidence(session=session(survives_connection="yes", survives_version={"h2": "yes"}, survives_address="yes"))
    assert "The session is in the cookie (sid), not in the connection" in answered(seen)


@pytest.mark.parametrize(
    ("shared", "sets", "level"), [("yes", True, "problem"), ("guessing", True, "warn"), ("yes", False, None)]
)
def test_caching(shared: Any, sets: bool, level: str | None) -> None:
    caching = Caching(cache_control=None, vary=None, shared=shared, sets_cookie=sets, words="It may.")
    assert codes(evidence(caching=caching)) == ({"cacheable": level} if level else {})


def test_a_redirect_that_was_not_followed_is_named() -> None:
    other = Redirect(status=301, to="https://www.example.com/", followed=False, other_host=True)
    assert codes(evidence(redirects=(other,))) == {"redirect": "info"}
    assert codes(evidence(redirects=(msgspec.structs.replace(other, followed=True),))) == {}


def test_the_same_about_several_versions_is_said_once_and_the_worst_first() -> None:
    seen = evidence(
        {
            "h1.1": (notes(idle_closed_after_s=2.0), [kept("h1.1")]),
            "h2": (notes(idle_closed_after_s=2.04, announced_streams=100), [kept("h2")]),
            "h3": (notes(idle_closed_after_s=8.0, alt_svc="h3", migration=MigrationNotes(port=False)), [kept("h3")]),
        }
    )
    titles = [finding.title for finding in find(seen)]
    assert titles == [
        "HTTP/3: a new client port ends the connection",
        "HTTP/1.1, HTTP/2: an idle connection ends after 2 s",
        "HTTP/3: an idle connection ends after 8 s",
    ]


def test_what_to_change_is_said_for_the_server_that_it_is() -> None:
    seen = evidence({"h1.1": (notes(idle_closed_after_s=2.0), [kept("h1.1")])}, server="nginx/1.22.1")
    (finding,) = find(seen)
    assert [mend.where for mend in finding.mends] == ["nginx"]
    unknown = find(msgspec.structs.replace(seen, server="Zope"))[0]
    assert {"nginx", "Envoy", "uvicorn", "Node"} <= {mend.where for mend in unknown.mends}


@pytest.mark.parametrize(
    ("server", "software"),
    [
        ("nginx/1.22.1", "nginx"),
        ("hypercorn-h11", "Hypercorn"),
        ("granian", "Granian"),
        (None, None),
        ("AmazonS3", None),
    ],
)
def test_software_is_known_by_what_it_calls_itself(server: str | None, software: str | None) -> None:
    assert software_of(server) == software


def test_mends_for_nothing_known_are_none() -> None:
    assert mends_for("no-such-code", "nginx") == ()


def test_levels_have_an_order() -> None:
    assert at_least("problem", "warn") and not at_least("info", "warn")
    assert worst(["info", "problem", "warn"]) == "problem" and worst([]) is None


def test_no_answer_over_any_version_is_said() -> None:
    nothing = evidence({"h1.1": (VersionNotes(failure="no answer", kind="timeout"), [])})
    assert "came an answer" in answered(nothing)


def test_websockets_are_in_the_answer_and_are_all_of_it_where_nothing_else_was_asked_for() -> None:
    sockets = {"h1.1": websocket(), "h2": websocket(ping_ms=0.5)}
    said = "WebSockets are accepted over HTTP/1.1 and HTTP/2, where a round trip takes 0.50 ms."
    assert said in answered(evidence(websockets=sockets))
    assert answered(evidence({}, websockets=sockets)) == said
    refused = {"h1.1": websocket(spoken=False, failure="the handshake was answered with 404")}
    assert answered(evidence({}, websockets=refused)) == "No WebSocket was accepted by example.com."
