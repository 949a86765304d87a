"""One stream: counted under its session, and ended with it, whatever its handler does.

UNAUTHENTICATED when the session ends, UNAVAILABLE when the node leaves or the session cannot be confirmed for too long,
RESOURCE_EXHAUSTED when the client does not read. What the client sends is activity, what it is sent is not. Leaves storing
to `_call`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Never, TypeVar

import grpc.aio

from coatcheck.connections import Interruption, LiveConnection
from coatcheck.integrations.grpc._call import Call, Context, keep
from coatcheck.integrations.grpc.answers import stream_ended
from coatcheck.manager import Sessions

__all__ = ["Requests", "Stream", "StreamContext"]

R = TypeVar("R")

PATIENCE = 5.0
"""Seconds that a handler has to return when its stream is over. After that it is left to itself."""
_log = logging.getLogger("coatcheck.grpc")


class Stream:
    """Runs a handler in a task of its own, so that the call can end before it does."""

    __slots__ = ("_call", "_connection", "_ended", "_method", "_sessions")

    def __init__(self, sessions: Sessions, call: Call, method: str) -> None:
        self._sessions = sessions
        self._call = call
        self._method = method
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._connection: LiveConnection | None = None

    async def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Give what the work gives. Aborts the call when its session ends first."""
        task = keep(asyncio.ensure_future(work))
        try:
            await asyncio.wait((task, self._ended), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self.end("the client has gone")
            task.cancel()
            await self._see_out(task)
            raise
        self.forget()
        # What has come to its end is not ended any more.
        if self._ended.done() and (not task.done() or task.cancelled() or task.exception() is not None):
            await self._abort(task, self._ended.result())
        return task.result()

    def end(self, reason: str) -> None:
        """End the stream. Later calls do nothing."""
        if not self._ended.done():
            self._ended.set_result(reason)
        self.forget()

    def go_on(self) -> None:
        """Count the stream under its session, which may have begun after the call.

        Raises AbortError where the stream is over, and TooManyConnections.
        """
        if self._ended.done():
            raise grpc.aio.AbortError("the stream has ended with its session")
        record = self._call.session.record
        if self._connection is None and record is not None:
            self._connection = self._sessions.watch(record, kind="grpc", close=self.end, protocol=self._call.protocol)

    def heard(self) -> None:
        """The client has sent something."""
        record = self._call.session.record
        if record is not None:
            self._sessions.active(record.id)

    def sending(self, waits: bool) -> None:
        """Whether something waits for the client to take it."""
        if self._connection is not None:
            self._connection.blocked_since = self._sessions.clock.monotonic() if waits else 0.0

    def forget(self) -> None:
        """The stream is not to be counted any more."""
        if self._connection is not None:
            self._sessions.connections.remove(self._connection)

    async def _abort(self, task: "asyncio.Future[Any]", reason: str) -> None:
        context = self._call.context
        if self._call.sending is not None:
            await asyncio.wait((self._call.sending,), timeout=PATIENCE)
        if context.done():
            await self._see_out(task)  # the handler has answered in this very moment
            return
        abort = keep(asyncio.ensure_future(stream_ended(reason).give(context)))
        task.cancel()
        await self._see_out(abort, task)
        if abort.done():
            abort.result()  # raises what grpc waits for
        # A client that does not read keeps its status from leaving: grpc holds that until the client reads or goes. This is
        # the way to let go of the call meanwhile.
        raise asyncio.CancelledError

    async def _see_out(self, *tasks: "asyncio.Future[Any]") -> None:
        await asyncio.wait(tasks, timeout=PATIENCE)
        if not tasks[-1].done():
            _log.warning("the handler of %s does not end with its stream, and is left to itself", self._method)


class StreamContext(Context):
    """The context of a stream's handler."""

    __slots__ = ("_stream",)

    def __init__(self, call: Call, stream: Stream) -> None:
        super().__init__(call)
        self._stream = stream

    async def read(self) -> Any:
        """Give the client's next message, or grpc.aio.EOF."""
        self._stream.go_on()
        message = await self._context.read()
        if message is not grpc.aio.EOF:
            self._stream.heard()
        return message

    async def write(self, message: Any) -> None:
        """Send a message, and come back when the client's side can take another."""
        self._stream.go_on()
        await self._call.begin(message=True)
        self._stream.sending(True)
        try:
            await self._context.write(message)
        finally:
            self._stream.sending(False)

    def interrupt(self, reason: Interruption) -> Never:
        """End the stream for a reason that ends no session. Always raises."""
        self._stream.end(reason)
        raise grpc.aio.AbortError(str(reason))


class Requests:
    """The client's messages, for handlers that iterate over them."""

    __slots__ = ("_context",)

    def __init__(self, context: StreamContext) -> None:
        self._context = context

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        message = await self._context.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message
