"""A flood that fills the edge's memory: it sheds load instead of growing, and serves again once the flood is over."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, start_server

HEAP_MB = 96
FLOOD = 4000
PIECE = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 65000\r\n\r\n" + b"x" * 64_000


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RunningServer]:
    running = start_server(
        tmp_path,
        "--workers",
        "2",
        app=ECHO,
        env={"COATCHECK_LIMITS__EDGE_HEAP_MB": str(HEAP_MB), "COATCHECK_LIMITS__REQUEST_TIMEOUT": "20"},
    )
    yield running
    assert running.stop() == 0, running.said()


def resident_mb(pid: int) -> float:
    pages = int((Path("/proc") / str(pid) / "statm").read_text().split()[1])
    return pages * 4096 / 2**20


def outcome(server: RunningServer) -> int:
    try:
        return httpx.get(server.http, timeout=2, verify=False).status_code
    except httpx.TransportError:
        return 0


async def test_bodies_that_never_end_do_not_fill_the_machine(small: RunningServer) -> None:
    edge = small.edge()
    before = resident_mb(edge)
    most, shed = before, False
    async with contextlib.AsyncExitStack() as stack:
        for number in range(FLOOD):
            with contextlib.suppress(OSError, TimeoutError):
                connection = await RawConnection.open(small.http_port)
                stack.push_async_callback(close, connection)
                connection.writer.write(PIECE)
            if number % 100 == 0:
                most = max(most, resident_mb(edge))
                if await asyncio.to_thread(outcome, small) in (0, 503):
                    shed = True
                    break
    assert shed, f"from {before:.0f} to {most:.0f} MiB"
    assert most < before + 1.5 * HEAP_MB
    async with asyncio.timeout(30):
        while await asyncio.to_thread(outcome, small) != 200:
            await asyncio.sleep(0.1)
    assert small.edge() == edge, "it was not killed for want of memory"


async def close(connection: RawConnection) -> None:
    connection.writer.transport.abort()
    with contextlib.suppress(OSError):
        await connection.writer.wait_closed()
