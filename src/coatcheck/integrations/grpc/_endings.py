"""What the server said at a call's end, where grpc.aio's client has its own word before or over it.

A request that cannot be sent because the call is over makes it "INTERNAL, Internal error from Core", whatever the server said
a moment before or will be heard to have said a moment later.
"""

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, NamedTuple, TypeVar

import grpc
import grpc.aio

__all__ = ["Ending", "Word"]

R = TypeVar("R")

LATE = 1.0
"""Seconds by which the server's word may come after the call's end."""


class Word(NamedTuple):
    """A status, and what comes with it."""

    code: grpc.StatusCode
    details: str
    trailing: Any
    debug: str

    @property
    def is_of_the_client(self) -> bool:
        """Whether grpc.aio made it up itself."""
        return self.code is grpc.StatusCode.INTERNAL and 'Failed "execute_batch"' in self.debug


class Ending:
    """Listens for how a call ends. To be made at once with the call."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._noted: Word | None = None
        call.add_done_callback(self._note)

    async def word(self) -> Word:
        """Wait for the call's end; give what the server said."""
        word = self._noted or await _word_of(self._call)
        until = time.monotonic() + LATE
        while word.is_of_the_client and time.monotonic() < until:
            await asyncio.sleep(0.001)
            word = self._noted or await _word_of(self._call)
        return word

    async def error(self) -> grpc.aio.AioRpcError:
        """Give it as the error that the application gets. The call must be over."""
        word = await self.word()
        return grpc.aio.AioRpcError(
            word.code, await self._call.initial_metadata(), word.trailing, word.details, word.debug
        )

    def _note(self, call: Any) -> None:
        # Only in this moment is it to be had for sure.
        word = _at_once(_word_of(call))
        if word is not None and not word.is_of_the_client:
            self._noted = word


async def _word_of(call: Any) -> Word:
    return Word(
        await call.code(), await call.details(), await call.trailing_metadata(), await call.debug_error_string() or ""
    )


def _at_once(coroutine: Coroutine[Any, Any, R]) -> R | None:
    """Give the result of what need not wait; None if it would."""
    try:
        coroutine.send(None)
    except StopIteration as found:
        return found.value
    coroutine.close()
    return None
