"""A line to a server of loopback that can be cut without a word: what is sent gets lost, and neither side is told."""

import asyncio

__all__ = ["Line"]


class Line:
    """Carries what is sent to `port`, for as long as it is not cut. Belongs to the test's event loop."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._cut = False
        self._marks: tuple[bytes, ...] = ()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    async def __aenter__(self) -> "Line":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # sockets are closed by the loop's next turn

    def cut(self, *marks: bytes) -> None:
        """Lose whatever is sent from now on, on the connections that there are and on new ones.

        With `marks`, only on connections whose client has sent one of those: any feed says by which it can be known.
        """
        self._cut, self._marks = True, marks

    def mend(self) -> None:
        """Let new connections through again. Those that were cut stay so: what they have lost is lost."""
        self._cut = False

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self._cut and not self._marks:
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(back)
        carried = _Carried()
        for source, sink, asks in ((reader, back, True), (there, writer, False)):
            task = asyncio.ensure_future(self._carry(source, sink, carried, asks=asks))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _carry(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, carried: "_Carried", *, asks: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if asks:
                    carried.begun += data[: _LOOKED_AT - len(carried.begun)]
                carried.broken = carried.broken or (
                    self._cut and (not self._marks or any(mark in carried.begun for mark in self._marks))
                )
                if not carried.broken:
                    sink.write(data)
                    await sink.drain()
        except OSError:
            pass
        if not carried.broken:
            sink.close()


_LOOKED_AT = 4096


class _Carried:
    """One connection: what its client sent first, and whether anything of it has been lost."""

    def __init__(self) -> None:
        self.begun = b""
        self.broken = False
