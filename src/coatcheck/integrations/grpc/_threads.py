"""Sync handlers, run in a thread pool. What they ask of the call, the event loop does for them.

Promises that a thread that waits for its call goes on when the call is over; one that waits for anything else is left
to itself, since no thread can be cancelled.
"""

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import grpc.aio

from coatcheck.integrations.grpc._call import Context
from coatcheck.integrations.grpc._stream import StreamContext

__all__ = ["call_in_thread", "stream_in_thread"]

R = TypeVar("R")

Handler = Callable[[Any, Any], Any]


async def call_in_thread(pool: Executor | None, handler: Handler, request: Any, context: Context) -> Any:
    """Give a handler's one response. `request` None: it iterates over the client's messages."""
    loop = _Loop()

    def work() -> Any:
        return handler(_requests(request, context, loop), _ThreadContext(context, loop))

    return await _run(pool, work, loop)


async def stream_in_thread(pool: Executor | None, handler: Handler, request: Any, context: StreamContext) -> None:
    """Send a handler's responses. `request` None: it iterates over the client's messages."""
    loop = _Loop()

    def work() -> None:
        responses = handler(_requests(request, context, loop), _ThreadContext(context, loop))
        try:
            for response in responses:
                loop.wait_for(context.write(response))
        finally:
            if hasattr(responses, "close"):
                responses.close()

    await _run(pool, work, loop)


async def _run(pool: Executor | None, work: Callable[[], R], loop: "_Loop") -> R:
    # The current session travels in a context variable, which threads do not get by themselves.
    try:
        return await loop.loop.run_in_executor(pool, contextvars.copy_context().run, work)
    finally:
        loop.close()


class _Loop:
    """The way from a handler's thread to the call's event loop, until the call is over."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._over = False
        self._waiting: set[Future[Any]] = set()

    def wait_for(self, work: Coroutine[Any, Any, R]) -> R:
        """Have the loop do something; give what comes of it. Raises AbortError when the call is over."""
        with self._lock:
            if self._over:
                work.close()
                raise grpc.aio.AbortError("the call is over")
            future = asyncio.run_coroutine_threadsafe(work, self.loop)
            self._waiting.add(future)
        try:
            return future.result()
        finally:
            self._waiting.discard(future)

    def close(self) -> None:
        """The call is over."""
        with self._lock:
            self._over = True
            waiting = list(self._waiting)
        for future in waiting:
            future.cancel()


class _ThreadContext:
    """What sync handlers get: `grpc.ServicerContext`, as far as grpc.aio has it for them."""

    __slots__ = ("_context", "_loop")

    def __init__(self, context: Context, loop: _Loop) -> None:
        self._context = context
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        if name in ("read", "write"):
            raise AttributeError(f"sync handlers have no context.{name}: iterate over requests, and yield responses")
        return getattr(self._context, name)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        self._loop.wait_for(self._context.send_initial_metadata(initial_metadata))

    def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        self._loop.wait_for(self._context.abort(code, details, trailing_metadata))

    def abort_with_status(self, status: grpc.Status) -> None:
        self._loop.wait_for(self._context.abort_with_status(status))

    def is_active(self) -> bool:
        return not self._context.done()

    def add_callback(self, callback: Callable[[], None]) -> bool:
        if self._context.done():
            return False

        def done(_: object) -> None:
            callback()

        self._context.add_done_callback(done)
        return True


def _requests(request: Any, context: Context, loop: _Loop) -> Any:
    if request is None:
        assert isinstance(context, StreamContext)
        return _iterate(context, loop)
    return request


def _iterate(context: StreamContext, loop: _Loop) -> Iterator[Any]:
    while (message := loop.wait_for(context.read())) is not grpc.aio.EOF:
        yield message
