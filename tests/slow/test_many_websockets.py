"""Ten thousand idle WebSockets on one worker: what each takes, and how fast they end with their sessions."""

import asyncio
import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients.serving import RunningServer, start_server

TIMEOUT = 300
MANY, SINGLES, PER_SESSION = 10_000, 200, 100
LIVE = "tests.transports.live_app:create_app"
CLOSE_4401 = (4401).to_bytes(2, "big")
MOST_BYTES_EACH = 32 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RunningServer]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, soft), hard))  # what the server finds, and raises
    running = start_server(tmp_path, "--no-edge", "--workers", "1", app=LIVE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield running
    assert running.stop() == 0, running.said()


class Idle(asyncio.Protocol):
    """One WebSocket that only waits. By hand, since ten thousand clients of a library would measure the library."""

    def __init__(self, server: RunningServer, cookie: str) -> None:
        self.head = (
            f"GET / HTTP/1.1\r\nhost: localhost:{server.http_port}\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\ncookie: {cookie}\r\n\r\n"
        )
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[float] = loop.create_future()
        """When the close frame came."""
        self.received = b""

    @classmethod
    async def open(cls, server: RunningServer, cookie: str) -> "Idle":
        loop = asyncio.get_running_loop()
        _, idle = await loop.create_connection(lambda: cls(server, cookie), "127.0.0.1", server.http_port)
        await idle.opened
        return idle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.transport.write(self.head.encode())

    def data_received(self, data: bytes) -> None:
        self.received += data
        if not self.opened.done():
            head, end, rest = self.received.partition(b"\r\n\r\n")
            if not end or len(rest) < 3:
                return
            assert b" 101 " in head and rest[:3] == b"\x81\x010", self.received  # the worker's number
            self.received = rest[3:]
            self.opened.set_result(None)
        while len(self.received) > 1 and len(self.received) >= 2 + self.received[1]:
            kind, payload = self.received[0], self.received[2 : 2 + self.received[1]]
            self.received = self.received[2 + len(payload) :]
            if kind == 0x89:  # a ping (RFC 6455, section 5.5.2), masked with zeros
                self.transport.write(bytes([0x8A, 0x80 | len(payload)]) + bytes(4) + payload)
                continue
            assert (kind, payload[:2]) == (0x88, CLOSE_4401), (kind, payload)
            self.closed.set_result(time.perf_counter())
            self.transport.close()


async def log_in(client: httpx.AsyncClient, user: str) -> str:
    client.cookies.clear()
    answer = await client.post("/login", params={"user": user})
    assert answer.status_code == 200
    return answer.headers["set-cookie"].partition(";")[0]


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
