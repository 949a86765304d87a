"""What the probe finds out about QUIC and HTTP/3: idling, moving, closing, resuming; against aioquic in this process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from coatcheck.probe import probe
from coatcheck.probe.report import Report
from tests.clients.odd_servers import OK, Asked, Then, bound_to_ports, certificate, http1, http3


@asynccontextmanager
async def announcing(tmp_path: Path, port: int) -> AsyncGenerator[str]:
    """HTTP/1.1 that announces HTTP/3 on that port."""

    def answer(asked: Asked) -> tuple[bytes, Then]:
        return OK.replace(b"\r\n", f'\r\nAlt-Svc: h3=":{port}"\r\n'.encode(), 1), "keep"

    async with http1(answer, tls=certificate(tmp_path).context()) as site:
        yield site.url


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


async def test_a_connection_survives_another_port_and_another_address_and_carries_all(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http3((files.certificate, files.key)) as port, announcing(tmp_path, port) as url:
        report = await probe(url, only=("h1.1", "h3"))
    version = report.versions["h3"]
    assert (version.via, version.requests, version.connections) == ("alt-svc", 20, 1)
    assert version.migration is not None and version.tls is not None
    assert (version.migration.port, version.migration.address) == (True, True)
    assert version.tls.version == "TLSv1.3"
    assert version.handshake is not None and version.handshake.tcp_ms is None and version.handshake.quic_ms is not None
    assert version.at_once is not None and version.at_once.connections == 1
    assert version.streams is not None and version.streams.reached == 10
    assert "h3-dead" not in codes(report)


async def test_headers_that_came_before_cost_less_over_http3(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http3((files.certificate, files.key)) as port, announcing(tmp_path, port) as url:
        cookies = (("session", "x" * 200),)
        headers = (
            (await probe(url, requests=6, only=("h1.1", "h3"), cookies=cookies, concurrency=1)).versions["h3"].headers
        )
    assert headers is not None and headers.request_later is not None
    assert headers.request_plain > 300
    assert headers.request_later < headers.request_first / 3


async def test_a_load_balancer_that_knows_ports_only_is_found_out(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with (
        http3((files.certificate, files.key)) as upstream,
        bound_to_ports(upstream) as port,
        announcing(tmp_path, port) as url,
    ):
        report = await probe(url, requests=5, only=("h1.1", "h3"))
    version = report.versions["h3"]
    assert version.migration is not None and version.migration.port is False
    assert version.migration.address is None  # it cannot survive the greater change
    assert version.connections == 1
    assert "no-rebinding" in codes(report) and report.fails("problem")


async def test_idle_time_outs_and_closes_are_told_apart(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http3((files.certificate, files.key), idle=1.0) as port, announcing(tmp_path, port) as url:
        report = await probe(url, requests=2, only=("h1.1", "h3"), idle=3, concurrency=1)
    keep = report.versions["h3"].keep_alive
    assert keep is not None and keep.closed_after_s is not None
    assert keep.announced_s == 1.0 and abs(keep.closed_after_s - 1.0) < 0.5
    assert {(closing.by, closing.how) for closing in report.versions["h3"].closings} == {("both", "idle time-out")}
    async with (
        http3((files.certificate, files.key), close_after=3, code=0x107) as port,
        announcing(tmp_path, port) as url,
    ):
        report = await probe(url, requests=3, only=("h1.1", "h3"), idle=2, concurrency=1)
    (closing,) = report.versions["h3"].closings
    assert (closing.by, closing.how, closing.code, closing.reason) == ("server", "CONNECTION_CLOSE", 0x107, "enough")
    assert "closed-with-error" in codes(report)


async def test_of_an_endpoint_without_tickets_no_session_is_taken_up(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    async with http3((files.certificate, files.key)) as port, announcing(tmp_path, port) as url:
        report = await probe(url, requests=2, only=("h1.1", "h3"))
    tls = report.versions["h3"].tls
    assert tls is not None and tls.resumption is not None and tls.resumption.offered is False
    over_tcp = report.versions["h1.1"].tls
    assert over_tcp is not None and over_tcp.resumption is not None and over_tcp.resumption.accepted is True
    assert "no-resumption" in codes(report)
