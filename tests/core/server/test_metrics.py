"""What workers count, and what Prometheus reads of it."""

import asyncio
import contextlib
import re
from pathlib import Path

import pytest

from coatcheck import Sessions
from coatcheck.server.figures import FigureTable
from coatcheck.server.metrics import COLUMNS, Publisher, exposition, serve_metrics
from coatcheck.testing import ManualClock


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, f"{name} is not in\n{text}"
    return float(found[1])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    FigureTable.create(tmp_path / "figures", COLUMNS, 2)
    return tmp_path / "figures"


async def test_workers_are_summed_and_the_shortest_lease_is_told(table: Path) -> None:
    clock = ManualClock()
    async with Sessions("memory://", clock=clock) as one, Sessions("memory://", clock=clock) as two:
        first = Publisher(FigureTable.open(table, COLUMNS, 0), one)
        second = Publisher(FigureTable.open(table, COLUMNS, 1), two)
        session = await one.load(None)
        await session.log_in("user")
        await session.log_out()
        other = await two.load(None)
        await other.log_in("user")
        await two.end(other.id or "", "a reason that nobody foresaw")
        for status in (200, 204, 401, 500, 0):
            first.answered(status, 0.5)
        second.answered(200, 1.0)
        one.cache.lease_until = clock.monotonic() + 1.5
        two.cache.lease_until = clock.monotonic() + 0.5
        first.publish()
        second.publish()
    text = exposition(FigureTable.open(table, COLUMNS), 2, None)
    assert value(text, "coatcheck_workers") == 2
    assert value(text, 'coatcheck_requests_total{status="2xx"}') == 3
    assert value(text, 'coatcheck_requests_total{status="4xx"}') == 1
    assert value(text, 'coatcheck_requests_total{status="5xx"}') == 2
    assert value(text, "coatcheck_request_seconds_total") == 3.5
    assert value(text, "coatcheck_logins_total") == 2
    assert value(text, "coatcheck_sessions_created_total") == 2
    assert value(text, 'coatcheck_sessions_ended_total{reason="logout"}') == 1
    assert value(text, 'coatcheck_sessions_ended_total{reason="other"}') == 1
    assert value(text, "coatcheck_lease_seconds") == 0.5
    assert "coatcheck_edge" not in text


async def test_refusals_live_connections_and_the_stores_steps_are_told_apart(table: Path) -> None:
    clock = ManualClock()
    async with Sessions("memory://", clock=clock) as sessions:
        publisher = Publisher(FigureTable.open(table, COLUMNS, 0), sessions)
        session = await sessions.load(None)
        await session.log_in("user")
        assert session.record is not None
        for kind in ("websocket", "websocket", "grpc", "carrier pigeon"):
            sessions.watch(session.record, kind=kind, close=lambda reason: None)
        for cause in ("cross-site", "cross-site", "moonshine"):
            sessions.counted.refused[cause] += 1
        sessions.counted.ended["refresh token reused"] += 1
        sessions.cache.lease_until = clock.monotonic() + 0.5
        publisher.publish()
        text = exposition(FigureTable.open(table, COLUMNS), 2, None)
    assert [value(text, f'coatcheck_live_connections{{kind="{kind}"}}') for kind in ("websocket", "grpc", "other")] == [
        2,
        1,
        1,
    ]
    assert value(text, 'coatcheck_refused_total{cause="cross-site"}') == 2
    assert value(text, 'coatcheck_refused_total{cause="other"}') == 1
    assert value(text, 'coatcheck_sessions_ended_total{reason="refresh token reused"}') == 1
    assert value(text, 'coatcheck_store_calls_total{step="create"}') == 1
    assert value(text, 'coatcheck_store_seconds_total{step="create"}') > 0
    assert value(text, 'coatcheck_store_failures_total{step="create"}') == 0
    assert value(text, "coatcheck_feed_lag_seconds") == 1.5


async def test_a_worker_that_takes_anothers_place_goes_on_counting(table: Path) -> None:
    async with Sessions("memory://") as sessions:
        first = Publisher(FigureTable.open(table, COLUMNS, 0), sessions)
        first.answered(200, 0.1)
        first.publish()
        again = Publisher(FigureTable.open(table, COLUMNS, 0), sessions)
        again.answered(200, 0.1)
        again.publish()
        again.publish()
    text = exposition(FigureTable.open(table, COLUMNS), 2, None)
    assert value(text, 'coatcheck_requests_total{status="2xx"}') == 2


def test_the_edges_statistics_are_told_by_http_version(table: Path) -> None:
    edge = {
        "http.tls.downstream_cx_http1_total": 3,
        "http.plain.downstream_cx_http1_total": 4,
        "http.quic.downstream_cx_http3_total": 5,
        "http.tls.downstream_cx_http2_active": 1,
        "http.tls.downstream_rq_2xx": 9,
        "http.tls.downstream_rq_active": 2,
        "something.else": 7,
    }
    text = exposition(FigureTable.open(table, COLUMNS), 2, edge)
    assert value(text, 'coatcheck_edge_connections_total{version="HTTP/1"}') == 7
    assert value(text, 'coatcheck_edge_connections_total{version="HTTP/3"}') == 5
    assert value(text, 'coatcheck_edge_connections_active{version="HTTP/2"}') == 1
    assert value(text, 'coatcheck_edge_responses_total{status="2xx"}') == 9


def test_each_metric_is_described_once_and_before_its_values(table: Path) -> None:
    lines = exposition(FigureTable.open(table, COLUMNS), 2, {"http.tls.downstream_cx_http1_total": 3}).splitlines()
    described: list[str] = []
    for line in lines:
        if line.startswith("# TYPE "):
            described.append(line.split()[2])
        elif not line.startswith("#"):
            assert re.split(r"[{ ]", line)[0] == described[-1]
    assert len(described) == len(set(described))


def test_a_row_that_is_not_there_is_refused(table: Path) -> None:
    with pytest.raises(ValueError, match="no row 2"):
        FigureTable.open(table, COLUMNS, 2)
    assert table.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: localhost:9464\r\n\r\n", b"200"),
        (b"GET /metrics?x=1 HTTP/1.0\r\nhost: 127.0.0.1\r\n\r\n", b"200"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"421"),
        (b"POST /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"GET /secrets HTTP/1.1\r\nHost: localhost\r\n\r\n", b"404"),
        (b"x" * 40_000, b""),
    ],
)
async def test_only_metrics_are_served_and_only_by_loopback_names(request_bytes: bytes, status: bytes) -> None:
    async def text() -> str:
        return "coatcheck_workers 2\n"

    server = await serve_metrics("127.0.0.1", 0, text)
    port = server.sockets[0].getsockname()[1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request_bytes)
    answer = b""
    with contextlib.suppress(ConnectionResetError):
        answer = await reader.read()
    assert answer[9:12] == status
    assert (b"coatcheck_workers 2" in answer) == (status == b"200")
    writer.close()
    server.close()
