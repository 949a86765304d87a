"""The probe against servers of others, each configured so that the truth is known: what it reports is that truth."""

from pathlib import Path
from typing import Any

from coatcheck.probe import Report, probe
from coatcheck.probe.facts import KeepAlive, VersionReport
from tests.clients import peers
from tests.clients.peers import Peer

TIMEOUT = 120


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def counts(report: Report) -> dict[str, tuple[int, int]]:
    return {name: (each.requests, each.connections) for name, each in report.versions.items() if each.spoken}


def kept(version: VersionReport) -> KeepAlive:
    assert version.keep_alive is not None
    return version.keep_alive


async def measured(peer: Peer, **options: Any) -> Report:
    report = await probe(peer.url, ca=peer.ca, **options)
    assert report.tls is None or report.tls.checked
    return report


def sessions_survive(report: Report) -> None:
    """The application of `peer_app` keeps its sessions well, whichever server it runs on."""
    session = report.session
    assert session.known_again == "yes"
    assert {session.survives_connection, session.survives_address, *session.survives_version.values()} == {"yes"}
    assert session.adopts_made_up == "no"


async def test_uvicorn_with_an_idle_time_out_of_two_seconds(tmp_path: Path) -> None:
    with peers.uvicorn(tmp_path, "--timeout-keep-alive", "2") as peer:
        report = await measured(peer, idle=6)
    assert counts(report) == {"h1.0": (20, 20), "h1.1": (20, 1)}
    closed = kept(report.versions["h1.1"]).closed_after_s
    assert closed is not None and abs(closed - 2) < 0.5
    assert not report.versions["h2"].spoken
    assert report.websockets["h1.1"].spoken and report.websockets["h1.1"].pongs == 3
    assert report.server == "uvicorn"
    sessions_survive(report)
    assert any(mend.where == "uvicorn" for finding in report.findings for mend in finding.mends)


async def test_hypercorn_with_three_streams_and_http3(tmp_path: Path) -> None:
    with peers.hypercorn(tmp_path, h2_max_concurrent_streams=3, keep_alive_timeout=2) as peer:
        report = await measured(peer, idle=5)
    assert counts(report) == {"h1.0": (20, 20), "h1.1": (20, 1), "h2": (20, 1), "h3": (20, 1)}
    streams = report.versions["h2"].streams
    assert streams is not None and (streams.announced, streams.reached) == (3, 3)
    assert "few-streams" in codes(report)
    for version in ("h1.1", "h2"):
        closed = kept(report.versions[version]).closed_after_s
        assert closed is not None and abs(closed - 2) < 0.5, version
    assert report.versions["h3"].via == "alt-svc"
    moved = report.versions["h3"].migration
    assert moved is not None and (moved.port, moved.address) == (True, True)
    assert all(facts.spoken for facts in report.websockets.values()), report.websockets
    sessions_survive(report)


async def test_granian_with_ten_streams(tmp_path: Path) -> None:
    with peers.granian(tmp_path, "--http2-max-concurrent-streams", "10") as peer:
        report = await measured(peer, concurrency=15)
    assert counts(report) == {"h1.0": (20, 20), "h1.1": (20, 1), "h2": (20, 1)}
    streams = report.versions["h2"].streams
    assert streams is not None and (streams.announced, streams.reached) == (10, 10)
    assert "no-h3" in codes(report)
    sessions_survive(report)


async def test_nginx_that_closes_after_five_requests_and_two_seconds(tmp_path: Path) -> None:
    with peers.nginx(tmp_path, "keepalive_requests 5; keepalive_timeout 2s;") as peer:
        report = await measured(peer, idle=5)
    assert counts(report) == {"h1.0": (20, 20), "h1.1": (20, 4), "h2": (20, 4)}
    for version in ("h1.1", "h2"):
        keep = kept(report.versions[version])
        assert (keep.requests_allowed, keep.unannounced) == (5, 0), version
        assert keep.closed_after_s is not None and abs(keep.closed_after_s - 2) < 0.5, version
    assert {(each.by, each.how) for each in report.versions["h2"].closings} == {("server", "GOAWAY")}
    at_once = report.versions["h2"].at_once
    assert at_once is not None and (at_once.answered, at_once.connections) == (10, 2)
    assert "few-requests-per-connection" in codes(report)
    assert report.answer.startswith("In part: over HTTP/1.1 and HTTP/2")
    tls = report.versions["h1.1"].tls
    assert tls is not None and tls.resumption is not None and tls.resumption.accepted


async def test_nginx_without_keep_alive(tmp_path: Path) -> None:
    with peers.nginx(tmp_path, "keepalive_timeout 0;", tls=False) as peer:
        report = await measured(peer, only=("h1.1",))
    assert counts(report) == {"h1.1": (20, 20)}
    assert "keep-alive-refused" in codes(report) and report.fails("problem")


async def test_nodes_http_server(tmp_path: Path) -> None:
    with peers.node(tmp_path, requests_per_socket=5) as peer:
        report = await measured(peer, only=("h1.0", "h1.1", "ws"), idle=6)
    assert counts(report) == {"h1.0": (20, 20), "h1.1": (20, 4)}
    keep = kept(report.versions["h1.1"])
    assert (keep.announced_s, keep.requests_allowed) == (2, 5)
    # It grants its clients a second more than it announces.
    assert keep.closed_after_s is not None and 1.5 < keep.closed_after_s < 3.5
    assert not report.websockets["h1.1"].spoken
