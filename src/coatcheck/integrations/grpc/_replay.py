"""A stream's requests, kept so that they can be sent once more from the first on. Leaves when that is needed to `_client`."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from typing import Any

from coatcheck.integrations.grpc._call import keep

__all__ = ["Replay"]

MOST = 8
"""Requests that are kept. A stream that has sent more before it was answered is not begun again."""


class Replay:
    """What an iterator gives, for one attempt after another. It is asked no sooner than an attempt wants more."""

    def __init__(self, source: AsyncIterable[Any] | Iterable[Any]) -> None:
        self._source = aiter(source) if isinstance(source, AsyncIterable) else _in_tasks(source)
        self._kept: list[Any] = []
        self._dropped = 0
        self._keeping = True
        self._attempts = 0
        self._ended = False
        self._taking: asyncio.Future[None] | None = None

    @property
    def whole(self) -> bool:
        """Whether everything is still there, so that another attempt can be made."""
        return not self._dropped

    async def attempt(self) -> AsyncIterator[Any]:
        """Give all requests from the first on. Ends an earlier attempt."""
        self._attempts = mine = self._attempts + 1
        position = 0
        while True:
            while position == self._dropped + len(self._kept) and not self._ended:
                await self._take()
            if mine != self._attempts or position == self._dropped + len(self._kept):
                return
            request = self._kept[position - self._dropped]
            position += 1
            if not self._keeping or len(self._kept) > MOST:
                self.settle()
                del self._kept[: position - self._dropped]
                self._dropped = position
            yield request

    def settle(self) -> None:
        """There will be no other attempt."""
        self._keeping = False

    def close(self) -> None:
        """Nobody wants more: let go of the iterator."""
        if self._taking is not None:
            self._taking.cancel()

    async def _take(self) -> None:
        # In a task of its own: an attempt that is given up must not end the iterator for the next one.
        if self._taking is None:
            self._taking = keep(asyncio.ensure_future(self._take_next()))
        await asyncio.shield(self._taking)

    async def _take_next(self) -> None:
        try:
            self._kept.append(await anext(self._source))
        except StopAsyncIteration:
            self._ended = True
        finally:
            self._taking = None


async def _in_tasks(source: Iterable[Any]) -> AsyncIterator[Any]:
    for request in source:
        yield request
