"""Asks the edge and the workers, over their Unix sockets, how they are, and tells the edge to drain. The supervisor's alone."""

import asyncio
import contextlib
import re
from pathlib import Path

__all__ = ["Admin", "ask"]

_TIMEOUT = 5.0
# By listener, because the question itself is a request under way on the administration's own.
_UNDER_WAY = r"^http\.(plain|redirect|tls|quic)\.downstream_(rq_active|cx_upgrades_active)$"


class Admin:
    """One Envoy's administration; every call raises OSError when nobody answers there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def serving(self, workers: int) -> None:
        """Return when Envoy listens and finds that many workers healthy."""
        while True:
            with contextlib.suppress(OSError):
                status, body = await self._ask("GET", "/ready")
                if status == 200 and b"LIVE" in body:
                    found = await self._gauges(r"cluster\.workers\.membership_healthy")
                    if sum(found.values()) >= workers:
                        return
            await asyncio.sleep(0.05)

    async def drain(self, within: float) -> None:
        """Turn new work away, and return when the requests under way have ended, or `within` seconds later.

        WebSockets are not waited for: they end when their worker does.
        """
        await self._ask("POST", "/healthcheck/fail")
        await self._ask("POST", "/drain_listeners?graceful")
        loop = asyncio.get_running_loop()
        until = loop.time() + within
        while loop.time() < until:
            found = await self._gauges(_UNDER_WAY)
            active = sum(value for name, value in found.items() if name.endswith("rq_active"))
            upgraded = sum(value for name, value in found.items() if name.endswith("upgrades_active"))
            if active <= upgraded:
                return
            await asyncio.sleep(0.05)

    async def statistics(self, pattern: str) -> dict[str, int]:
        """Envoy's counters and gauges whose names match."""
        return await self._gauges(pattern)

    async def _gauges(self, pattern: str) -> dict[str, int]:
        _, body = await self._ask("GET", f"/stats?filter={pattern}")
        return {name: int(value) for name, value in re.findall(r"^([\w.]+): (\d+)", body.decode(), re.MULTILINE)}

    async def _ask(self, method: str, target: str) -> tuple[int, bytes]:
        return await ask(self._path, method, target)


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
