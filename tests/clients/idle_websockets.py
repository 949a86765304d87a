"""Thousands of WebSockets that only wait, against an application like `tests.transports.live_app`."""

import asyncio
import time

import httpx

from tests.clients.serving import RunningServer

__all__ = ["LIVE", "Idle", "log_in"]

LIVE = "tests.transports.live_app:create_app"
CLOSE_4401 = (4401).to_bytes(2, "big")


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
