"""Ten thousand idle WebSockets on one worker: what each takes, and how fast they end with their sessions."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import websockets
from tests.clients.idle_websockets import LIVE
from tests.clients.serving import RunningServer, start_server

TIMEOUT = 300
MANY = 10_000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))  # what the server finds, and raises
    running = start_server(tmp_path, "--no-edge", "--workers", "1", app=LIVE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield running
    assert running.stop() == 0, running.said()


async def test_ten_thousand_idle_websockets_end_within_a_second_and_take_little(server: RunningServer) -> None:
    row = await websockets.measure(server, MANY)
    print("\n" + websockets.table([row]))
    assert row["open"] == MANY
    assert websockets.MOST_BYTES == 32 * 1024
    assert row["bytes_each"] <= websockets.MOST_BYTES
    assert row["one_p99"] <= 0.020
    assert row["all"] <= 1.0
