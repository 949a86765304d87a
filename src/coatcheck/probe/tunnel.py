"""Bytes both ways within something larger: a stream of HTTP/2 or 3, or a whole connection after an upgrade. No I/O of its own."""

import asyncio
from collections.abc import Callable
from typing import Literal, TypeAlias

__all__ = ["Ending", "Tunnel"]

Ending: TypeAlias = Literal["ended", "reset", "closed"]
"""How the other side's bytes came to an end: properly, by a reset, or with the connection beneath."""


class Tunnel:
    """What comes is kept until it is read. `send` gets what is written."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._came: asyncio.Queue[bytes | Ending] = asyncio.Queue()
        self.ending: Ending | None = None
        self.read_to_end: bool = False

    def write(self, data: bytes) -> None:
        """Send bytes to the other side."""
        self._send(data)

    async def read(self) -> bytes:
        """The next bytes; none at the end, for whose way see `ending`."""
        if self.read_to_end:
            return b""
        item = await self._came.get()
        if isinstance(item, bytes):
            return item
        self.read_to_end = True
        return b""

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if data:
            self._came.put_nowait(data)

    def ended(self, how: Ending) -> None:
        """Nothing more comes; only the first word counts."""
        if self.ending is None:
            self.ending = how
            self._came.put_nowait(how)
