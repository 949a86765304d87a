"""Streams of a client that are made once more if they are refused before they were answered. Leaves why to `_attempts`.

grpc wants the call at once, before anybody knows how it ends; so this is a call that stands for one or two others.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any

import grpc
import grpc.aio

from coatcheck.integrations.grpc._attempts import Attempts, Details
from coatcheck.integrations.grpc._call import keep
from coatcheck.integrations.grpc._endings import Ending, Word
from coatcheck.integrations.grpc._replay import Replay

__all__ = ["TokenStreamStream", "TokenStreamUnary", "TokenUnaryStream"]

Begin = Callable[[Details], Awaitable[Any]]


class TokenStream:
    """A call that is made once more if it is refused before it was answered. What is common to all kinds of streams."""

    # grpc itself reads these two of a call. Requests come through an iterator, which ends by itself.
    _done_writing_flag = False

    @property
    def _cython_call(self) -> Any:
        return self._call._cython_call

    def __init__(self, attempts: Attempts, begin: Begin, call: Any, requests: Replay | None = None) -> None:
        self._attempts = attempts
        self._begin = begin
        self._call = call
        self._ending = Ending(call)
        self._requests = requests
        self._answered = False
        self._iterator: AsyncIterator[Any] | None = None
        self._settling = keep(asyncio.ensure_future(self._settle()))
        self.add_done_callback(self._close)

    async def _settle(self) -> None:
        if not await self._attempts.refused(self._ending):
            return
        if self._answered or not (self._requests is None or self._requests.whole):
            self._attempts.doubt()
            return
        self._call = await self._begin(await self._attempts.second())
        self._ending = Ending(self._call)

    async def _settled(self) -> Any:
        """Give the call that counts, when that is known. Raises SessionOver and RefreshFailed."""
        await asyncio.wait((self._settling,))
        if not self._settling.cancelled():
            self._settling.result()
        return self._call

    # ---- grpc.aio.Call

    def cancel(self) -> bool:
        self._settling.cancel()
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        return self._settling.done() and bool(self._call.cancelled())

    def done(self) -> bool:
        if not self._settling.done():
            return False
        return self._failed() or bool(self._call.done())

    def add_done_callback(self, callback: Any) -> None:
        def done(_: object) -> None:
            callback(self)

        def settled(_: object) -> None:
            if self.done():
                callback(self)
            else:
                self._call.add_done_callback(done)

        self._settling.add_done_callback(settled)

    def time_remaining(self) -> float | None:
        return self._call.time_remaining()

    async def initial_metadata(self) -> Any:
        metadata = await self._call.initial_metadata()
        # Of a call that was refused there are none.
        return metadata if not self._call.done() else await (await self._settled()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        return (await self._word()).trailing

    async def code(self) -> grpc.StatusCode:
        return (await self._word()).code

    async def details(self) -> str:
        return (await self._word()).details

    async def debug_error_string(self) -> str:
        return (await self._word()).debug

    async def _word(self) -> Word:
        # Where no other token was to be had, that of the refusal. Those who want an answer are told why.
        await asyncio.wait((self._settling,))
        return await self._ending.word()

    async def wait_for_connection(self) -> None:
        await self._call.wait_for_connection()

    # ---- responses

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def read(self) -> Any:
        return await anext(aiter(self), grpc.aio.EOF)

    async def _responses(self) -> AsyncIterator[Any]:
        call = self._call
        try:
            async for response in call:
                self._has_answered()
                yield response
            return
        except grpc.aio.AioRpcError:
            if await self._settled() is call:
                raise await self._ending.error() from None
        try:
            async for response in self._call:
                yield response
        except grpc.aio.AioRpcError:
            raise await self._ending.error() from None

    def _has_answered(self) -> None:
        self._answered = True
        if self._requests is not None:
            self._requests.settle()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    async def _response(self) -> Any:
        try:
            call = await self._settled()
            try:
                return await call
            except grpc.aio.AioRpcError:
                raise await self._ending.error() from None
        except asyncio.CancelledError:
            self.cancel()
            raise

    # ---- requests, which come through an iterator

    async def write(self, request: Any) -> None:
        raise grpc.aio.UsageError("requests of this call come through its iterator")

    async def done_writing(self) -> None:
        raise grpc.aio.UsageError("requests of this call come through its iterator")

    def _close(self, _: object) -> None:
        if self._requests is not None:
            self._requests.close()

    def _failed(self) -> bool:
        return self._settling.cancelled() or self._settling.exception() is not None


class TokenUnaryStream(TokenStream, grpc.aio.UnaryStreamCall[Any, Any]):
    pass


class TokenStreamUnary(TokenStream, grpc.aio.StreamUnaryCall[Any, Any]):
    pass


class TokenStreamStream(TokenStream, grpc.aio.StreamStreamCall[Any, Any]):
    pass
