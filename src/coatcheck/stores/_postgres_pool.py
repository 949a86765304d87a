"""The PostgreSQL store's connections: a bounded number, opened when needed, dropped when in doubt. Never waits for a goodbye.

A step that was interrupted, by its time-out or because its caller has gone away, takes its connection with it: the
server undoes what was not committed. Leaves what a connection is to `_postgres_link`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from coatcheck.errors import StoreUnavailable
from coatcheck.stores._postgres_link import Link, Lost

__all__ = ["Pool"]

T = TypeVar("T")


class Pool:
    """At most `size` connections, the last used one first. Belongs to one event loop."""

    def __init__(self, connect: Callable[[], Awaitable[Link]], size: int, where: str) -> None:
        self._connect = connect
        self._size = size
        self._where = where
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Link] = []
        self._closed = False

    async def run(self, step: Callable[[Link], Awaitable[T]], *, again: bool) -> T:
        """Run a step on a connection of its own. Raises StoreUnavailable, and whatever the step raises.

        `again`: the step does no harm when it is done twice, so it is tried once more if its connection was lost, which
        may have happened long before.
        """
        async with self._slots:
            if self._closed:
                raise StoreUnavailable(f"the store {self._where} is closed")
            while True:
                fresh = not self._idle
                link = await self._connect() if fresh else self._idle.pop()
                if not fresh and not link.reusable:
                    link.terminate()
                    continue
                try:
                    return await self._step(link, step)
                except Lost:
                    # What broke this connection has most likely broken the others too.
                    self.drop_idle()
                    if fresh or not again:
                        raise
                    again = False

    async def _step(self, link: Link, step: Callable[[Link], Awaitable[T]]) -> T:
        keep = False
        try:
            answer = await step(link)
            keep = True
            return answer
        except Lost:
            raise
        except Exception:
            keep = True  # the server said no, and the connection is none the worse for it
            raise
        finally:
            if keep and link.reusable and not self._closed:
                self._idle.append(link)
            else:
                link.terminate()

    def drop_idle(self) -> None:
        """Drop the connections that nobody uses just now: the next steps connect anew."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.terminate()

    async def close(self, patience: float) -> None:
        """Let steps under way end, for `patience` seconds at most, and close every connection."""
        self._closed = True
        try:
            async with asyncio.timeout(patience):
                for _ in range(self._size):
                    await self._slots.acquire()
        except TimeoutError:
            pass  # each step has a time-out of its own, and drops its connection since the pool is closed
        idle, self._idle = self._idle, []
        await asyncio.gather(*(link.close(patience) for link in idle))
