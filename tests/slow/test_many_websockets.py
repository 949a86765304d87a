"""Ten thousand idle WebSockets on one worker: what each takes, and how fast they end with their sessions."""

import asyncio
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.idle_websockets import LIVE, Idle, log_in
from tests.clients.serving import RunningServer, start_server

TIMEOUT = 300
MANY, SINGLES, PER_SESSION = 10_000, 200, 100
MOST_BYTES_EACH = 32 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))  # what the server finds, and raises
    running = start_server(tmp_path, "--no-edge", "--workers", "1", app=LIVE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield running
    assert running.stop() == 0, running.said()


async def test_ten_thousand_idle_websockets_end_within_a_second_and_take_little(server: RunningServer) -> None:
    async with httpx.AsyncClient(base_url=server.http, timeout=60) as client:
        cookies = [await log_in(client, "many") for _ in range(MANY // PER_SESSION)]
        many = [await Idle.open(server, cookies[0])]  # what the first one brings with it is not its own
        before = (await client.get("/live")).json()["resident"]
        for cookie in cookies:
            many += await asyncio.gather(*(Idle.open(server, cookie) for _ in range(PER_SESSION)))
        live = (await client.get("/live")).json()
        assert live["live"] == MANY + 1
        each = (live["resident"] - before) / MANY
        print(f"\nmemory of an idle WebSocket in the worker: {each / 1024:.1f} KiB, over {MANY}")

        times: list[float] = []
        for number in range(SINGLES):
            cookie = await log_in(client, f"single-{number}")
            single = await Idle.open(server, cookie)
            began = time.perf_counter()
            ending = asyncio.ensure_future(client.post("/end_user", params={"user": f"single-{number}"}))
            times.append(await single.closed - began)
            await ending
        p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
        print(f"one of them, from the request that ends it: p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")

        began = time.perf_counter()
        ending = asyncio.ensure_future(client.post("/end_user", params={"user": "many"}))
        last = max(await asyncio.gather(*(idle.closed for idle in many))) - began
        await ending
        print(f"all {MANY} of one user, until the last was closed: {last:.2f} s")
        assert each <= MOST_BYTES_EACH
        assert p99 <= 0.020
        assert last <= 1.0
        async with asyncio.timeout(10):
            while (await client.get("/live")).json()["live"]:
                await asyncio.sleep(0.05)
