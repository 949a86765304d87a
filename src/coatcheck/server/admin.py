"""Asks the edge and the workers, over their Unix sockets, how they are, and tells the edge to drain. The supervisor's alone."""

import asyncio
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

__all__ = ["Admin", "ask"]

_TIMEOUT = 3.0
# By listener, because the question itself is a request under way on the administration's own.
_UNDER_WAY = (
    r"^http\.(plain|redirect|tls|quic)\.downstream_(rq_active|cx_active|cx_upgrades_active|cx_tx_bytes_buffered)$"
)
_QUIET = 1.0
"""Seconds without a request after which a connection that is open is taken to be idle: its client may be thinking of the
next request, but could as well do so for an hour."""
_REMIND = 0.5


class Admin:
    """One Envoy's administration; every call raises OSError when nobody answers there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def live(self) -> None:
        """Return when Envoy listens."""
        while True:
            with contextlib.suppress(OSError):
                status, body = await self._ask("GET", "/ready")
                if status == 200 and b"LIVE" in body:
                    return
            await asyncio.sleep(0.05)

    async def serving(self, workers: int) -> None:
        """Return when Envoy finds that many workers healthy."""
        while True:
            with contextlib.suppress(OSError):
                if await self.healthy() >= workers:
                    return
            await asyncio.sleep(0.05)

    async def healthy(self) -> int:
        """How many workers Envoy finds healthy, over HTTP and over gRPC."""
        return min((await self._gauges(r"^cluster\.(workers|grpc)\.membership_healthy$")).values(), default=0)

    async def drain(self, within: float, tell: Callable[[], None]) -> int:
        """Take no new connections, and return when the requests under way have ended, or `within` seconds later.

        Connections that stay open are told to close with their next answer (`Connection: close`, GOAWAY). `tell` is
        called at once, when who is told to go can no longer come back, and then again until no WebSocket is left:
        it must have them closed. Gives the number of requests that did not end in time; WebSockets do not count.
        """
        # In this order: whoever hears that this server closes must not find it open still.
        await self._ask("POST", "/drain_listeners")
        await self._ask("POST", "/healthcheck/fail")
        loop = asyncio.get_running_loop()
        began = busy = loop.time()
        told = float("-inf")
        while True:
            found = await self._gauges(_UNDER_WAY)
            now = loop.time()
            sockets = _sum(found, "upgrades_active")
            # An upgraded request is counted among the requests. Its client was told, and may be gone without a word.
            requests = max(0, _sum(found, "rq_active") - sockets)
            if told < began or (sockets and now - told >= _REMIND):
                tell()
                told = now
            if requests or _sum(found, "bytes_buffered"):
                busy = now
            if not _sum(found, "cx_active") or now - busy >= _QUIET:
                return 0
            if now - began >= within:
                return requests
            await asyncio.sleep(0.05)

    async def statistics(self, pattern: str) -> dict[str, int]:
        """Envoy's counters and gauges whose names match."""
        return await self._gauges(pattern)

    async def _gauges(self, pattern: str) -> dict[str, int]:
        _, body = await self._ask("GET", f"/stats?filter={pattern}")
        return {name: int(value) for name, value in re.findall(r"^([\w.]+): (\d+)", body.decode(), re.MULTILINE)}

    async def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        return await ask(self._path, method, target)


def _sum(found: dict[str, int], end: str) -> int:
    return sum(value for name, value in found.items() if name.endswith(end))


async def ask(path: Path, method: str, target: str, within: float = _TIMEOUT) -> tuple[int, bytes]:
    """One request over a Unix socket: status (0 if there was none) and body. Raises OSError when nobody answers."""
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                request = f"{method} {target} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
                writer.write(request.encode())
                answer = await reader.read()
            finally:
                writer.close()
    except TimeoutError:
        raise OSError(f"{path.name} did not answer {target} within {within:g} s") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    return (int(words[1]) if len(words) > 1 and words[1].isdigit() else 0), body
