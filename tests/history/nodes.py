"""Starts node processes (`node`), asks them over loopback, kills and replaces them. Judges nothing."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

__all__ = ["Node", "NodeGone", "nodes_on"]

_ROOT = Path(__file__).parents[2]
_STARTS_WITHIN = 30.0


class NodeGone(Exception):
    """The process ended, or never answered: what was asked may have happened or not."""


class Node:
    """One node process, and another in its place after each `replace`."""

    def __init__(self, name: str, url: str, max_staleness: float, release: str = "") -> None:
        """`release`: whose format of records it has (`formats`); empty: its own."""
        self.url = url
        self.release = release
        self._first = name
        self._times = 0
        self._max_staleness = max_staleness
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._listening: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0
        self.name = name

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.history.node", self.url, str(self._max_staleness), *filter(None, [self.release])),
            cwd=_ROOT,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._process = process
        assert process.stdout is not None
        async with asyncio.timeout(_STARTS_WITHIN):
            line = await process.stdout.readline()
        if not line:
            raise AssertionError(f"the node on {self.url} did not start")
        reader, self._writer = await asyncio.open_connection("127.0.0.1", int(line), limit=2**24)
        self._listening = asyncio.ensure_future(self._listen(reader))

    async def ask(self, do: str, within: float = 30.0, **what: Any) -> dict[str, Any]:
        """Ask for something; give the answer. Raises NodeGone."""
        self._number += 1
        number = self._number
        if self._writer is None or self._writer.is_closing():
            raise NodeGone(f"{self.name} is down")
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        self._writer.write(json.dumps({"ask": number, "do": do, **what}).encode() + b"\n")
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            raise NodeGone(f"{self.name} did not answer within {within:g} s") from None
        finally:
            self._asked.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                answer = json.loads(line)
                future = self._asked.get(answer.pop("ask"))
                if future is not None and not future.done():
                    future.set_result(answer)
        except OSError:
            pass
        if self._writer is not None:
            self._writer.close()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NodeGone(f"{self.name} went away"))

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """kill -9, until the process is gone."""
        await self._gone(signal.SIGKILL)

    async def replace(self) -> None:
        """Start another where one was killed. It has a name of its own."""
        self._times += 1
        self.name = f"{self._first}.{self._times}"
        await self.start()

    async def stop(self) -> None:
        """End it in good order."""
        process = self._process
        if self._writer is not None:
            self._writer.close()
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                async with asyncio.timeout(10):
                    await process.wait()
            except TimeoutError:
                await self._gone(signal.SIGKILL)
        if self._listening is not None:
            await self._listening
            self._listening = None

    async def _gone(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.wait()
        if self._listening is not None:
            await self._listening
            self._listening = None


@asynccontextmanager
async def nodes_on(*urls: str, max_staleness: float, releases: Sequence[str] = ()) -> AsyncIterator[list[Node]]:
    """A node on each of those URLs, named n0, n1, …; `releases` of each, from the first on."""
    whose = [*releases, *[""] * len(urls)]
    nodes = [Node(f"n{number}", url, max_staleness, whose[number]) for number, url in enumerate(urls)]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        yield nodes
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
