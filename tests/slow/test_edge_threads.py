"""An edge of several threads, as it runs on larger machines: nothing that a client sees depends on which one it met."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from coatcheck.server.settings import Limits
from tests.clients.edge_alone import edge_alone
from tests.clients.h3 import connect_h3
from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, spawn_server, start_server

THREADS = 3


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    place = tmp_path_factory.mktemp("threads")
    running = start_server(place, "--workers", "2", "--edge-threads", str(THREADS), app=ECHO)
    yield running
    assert running.stop() == 0, running.said()


def carried(pid: int) -> dict[str, int]:
    """The processor time that each of the edge's threads has taken, in ticks, by its name."""
    found: dict[str, int] = {}
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        name = (task / "comm").read_text().strip()
        if name.startswith("wrk:worker_"):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[name] = int(fields[11]) + int(fields[12])
    return found


async def test_each_thread_has_its_share_and_connections_are_told_apart_over_all_of_them(echo: RunningServer) -> None:
    before = carried(echo.edge())
    assert len(before) == THREADS
    async with httpx.AsyncClient(limits=httpx.Limits(max_keepalive_connections=0), verify=echo.tls()) as client:
        seen: set[str] = set()
        for _ in range(10):
            answers = [answer.json() for answer in await asyncio.gather(*(client.get(echo.https) for _ in range(30)))]
            assert {answer["requests"] for answer in answers} == {1}
            seen |= {answer["connection_id"] for answer in answers}
    assert len(seen) == 300
    async with httpx.AsyncClient(http2=True, verify=echo.tls()) as client:
        first = (await client.get(echo.https)).json()
        more = [answer.json() for answer in await asyncio.gather(*(client.get(echo.https) for _ in range(20)))]
    assert {answer["connection_id"] for answer in more} == {first["connection_id"]}
    assert max(answer["requests"] for answer in more) == 21
    after = carried(echo.edge())
    assert all(after[name] > before[name] for name in before), (before, after)


async def test_quic_survives_a_change_of_port_on_whichever_thread_it_is(echo: RunningServer) -> None:
    for _ in range(12):
        async with connect_h3(echo.https_port, echo.ca) as client:
            known = [(await client.request("GET", "/")).json()]
            for _ in range(3):
                under_way = client.begin("GET", "/slow?seconds=0.05")
                await client.rebind()
                known.append((await under_way.finish()).json())
            known.append((await client.request("GET", "/")).json())
        assert len({answer["connection_id"] for answer in known}) == 1
        assert [answer["requests"] for answer in known] == [1, 2, 3, 4, 5]


async def test_an_address_has_one_allowance_over_all_threads(tmp_path: Path) -> None:
    limits = Limits(requests_per_second=1, requests_burst=5)
    with edge_alone(tmp_path, trusted_proxies=1, limits=limits, threads=THREADS) as edge:

        async def once() -> int:
            async with await RawConnection.open(edge.http_port) as connection:
                headers = [("x-forwarded-for", "198.51.100.7"), ("connection", "close")]
                return (await connection.request("GET", "/", headers)).status

        found = [await once() for _ in range(40)]
    assert 5 <= found.count(200) <= 8, found
    assert set(found) == {200, 429}


def test_a_second_server_cannot_share_the_ports(echo: RunningServer, tmp_path: Path) -> None:
    second = spawn_server(tmp_path, echo.http_port, echo.https_port, "--edge-threads", str(THREADS), app=ECHO)
    try:
        assert second.process.wait(20) == 1
    except subprocess.TimeoutExpired:
        second.process.kill()
        raise
    assert "is taken" in second.said()
