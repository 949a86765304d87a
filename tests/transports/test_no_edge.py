"""The workers alone: HTTP/1.1 in plain, and still nobody is believed about a connection."""

import os
import signal
from collections.abc import Iterator

import httpx
import pytest

from coatcheck.server.connection_facts import TRUSTED_HEADERS
from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, free_port, spawn_server, start_server


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = start_server(tmp_path_factory.mktemp("bare"), "--workers", "2", "--no-edge", app=ECHO)
    yield running
    assert running.stop() == 0, running.said()


def test_start_up_says_that_there_is_no_tls(bare: RunningServer) -> None:
    assert bare.http in bare.said()
    assert "no TLS" in bare.said()
    assert "no gRPC" in bare.said()
    assert "https://" not in bare.said()
    assert len(bare.children()) == 2


async def test_one_connection_carries_many_requests(bare: RunningServer) -> None:
    async with await RawConnection.open(bare.http_port) as connection:
        address = list(connection.writer.get_extra_info("sockname"))
        answers = [(await connection.request("GET", "/")).json() for _ in range(3)]
    assert [answer["requests"] for answer in answers] == [1, 2, 3]
    assert len({answer["connection_id"] for answer in answers}) == 1
    assert answers[0]["client"] == address
    assert (answers[0]["protocol"], answers[0]["scheme"]) == ("HTTP/1.1", "http")


async def test_a_connection_that_reuses_a_port_has_another_name(bare: RunningServer) -> None:
    names: set[str] = set()
    for _ in range(5):
        async with await RawConnection.open(bare.http_port) as connection:
            names.add((await connection.request("GET", "/")).json()["connection_id"])
    assert len(names) == 5


async def test_http_1_0_closes_after_the_response(bare: RunningServer) -> None:
    async with await RawConnection.open(bare.http_port) as connection:
        answer = await connection.request("GET", "/", version="1.0")
        assert answer.json()["protocol"] == "HTTP/1.0"
        assert await connection.closed_by_server()


async def test_forged_facts_are_dropped(bare: RunningServer) -> None:
    forged = [(name, "1.2.3.4:5") for name in TRUSTED_HEADERS]
    async with await RawConnection.open(bare.http_port) as connection:
        answer = await connection.request("GET", "/", forged)
    assert b"1.2.3.4" not in answer.body
    assert {name for name, _ in answer.json()["headers"]} == {"host"}


async def test_a_header_with_an_underscore_is_refused(bare: RunningServer) -> None:
    for name in TRUSTED_HEADERS:
        async with await RawConnection.open(bare.http_port) as connection:
            answer = await connection.request("GET", "/", [(name.replace("-", "_"), "1.2.3.4:5")])
            assert answer.status == (400 if "-" in name else 200)
            assert b"1.2.3.4" not in answer.body


def test_each_worker_serves_when_the_other_cannot(bare: RunningServer) -> None:
    seen: set[int] = set()
    for stopped in bare.workers():
        os.kill(stopped, signal.SIGSTOP)
        try:
            seen.add(httpx.get(bare.http, timeout=10).json()["worker"])
        finally:
            os.kill(stopped, signal.SIGCONT)
    assert seen == {0, 1}


def test_a_port_that_is_taken_is_one_line(bare: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    second = spawn_server(tmp_path_factory.mktemp("second"), bare.http_port, free_port(), "--no-edge", app=ECHO)
    assert second.ended() == 1
    assert second.said().startswith(f"coatcheck: TCP port {bare.http_port} on 127.0.0.1 is taken")
    assert second.said().count("\n") == 1
