"""One call and its session: changes are stored before the first byte of the answer leaves, and what is changed later at the end.

`Context` is what handlers get. It is grpc.aio's own but for what the session must come before. Leaves whose the session
is to `interceptor`, and ending streams to `_stream`.
"""

import asyncio
import logging
from typing import Any, Never, TypeVar

import grpc

from coatcheck.asgi.refusals import refusal_of
from coatcheck.asgi.responses import drop_dead_cookie
from coatcheck.cookies import CookiePolicy
from coatcheck.errors import SessionRefused, StoreUnavailable
from coatcheck.integrations.grpc.answers import Metadata, refused
from coatcheck.manager import Sessions
from coatcheck.session import Session

__all__ = ["Call", "Context", "keep"]

R = TypeVar("R")

_log = logging.getLogger("coatcheck.grpc")
_tasks: set["asyncio.Future[Any]"] = set()


class Call:
    """What stands between a handler and grpc. `context` is grpc.aio's own; `protocol` is what carries the call."""

    __slots__ = ("_beginning", "_begun", "_cookie", "_sessions", "context", "protocol", "sending", "session")

    def __init__(
        self, sessions: Sessions, session: Session, context: Any, *, cookie: CookiePolicy, protocol: str
    ) -> None:
        self._sessions = sessions
        self._cookie = cookie
        self._begun = False
        self._beginning = asyncio.Lock()
        self.session: Session = session
        self.context: Any = context
        self.protocol: str = protocol
        self.sending: asyncio.Future[None] | None = None
        """The initial metadata on their way. Until they have left, grpc cannot take a status."""

    async def begin(self, metadata: Metadata | None = None, *, message: bool = False) -> None:
        """Store what was changed so far. To be called before anything is sent.

        Initial metadata are sent if the handler gives any, if the session gets a cookie, and before a message of a stream.
        Where it cannot be stored the call is over: then this aborts it.
        """
        try:
            async with self._beginning:
                if self._begun:
                    if metadata is not None:
                        await self.context.send_initial_metadata(metadata)  # which says that it is too late
                    return
                session = self.session
                if session.used and session.needs_commit():
                    await session.commit(cookie=not session.by_bearer)
                await self._send_first(metadata or (), at_once=message or metadata is not None)
        except (StoreUnavailable, SessionRefused) as error:
            await self.fail(error)

    async def finish(self) -> None:
        """The handler has returned. To be called before the status is sent, and a single response."""
        if not self._begun:
            await self.begin()
            return
        session = self.session
        if not (session.used and session.needs_commit()):
            return
        try:
            stored = await session.commit(cookie=False)
        except (StoreUnavailable, SessionRefused) as error:
            await self.fail(error)
        if not stored and session.is_new:
            _log.warning(
                "a session was begun after the first message had left, so its cookie could not be set and it was dropped: "
                "store something before, or call await session.save()"
            )

    async def fail(self, error: StoreUnavailable | SessionRefused) -> Never:
        """Answer in the handler's place. Verbs that were awaited stand, and so does the cookie that they made. Always raises."""
        self.session.discard()
        if not self._begun:
            await self._send_first()
        refusal = refusal_of(error, by_bearer=self.session.by_bearer)
        self._sessions.counted.refused[refusal.cause] += 1
        await refused(refusal).give(self.context)

    async def _send_first(self, metadata: Metadata = (), *, at_once: bool = False) -> None:
        cookie = await self._set_cookie()
        self._begun = True
        if cookie or at_once:
            # Never together with the message: if that was given up on its way, or a status came in between, grpc would send
            # them a second time, fail, and leave the client without a word.
            self.sending = keep(asyncio.ensure_future(self.context.send_initial_metadata((*metadata, *cookie))))
            await asyncio.shield(self.sending)

    async def _set_cookie(self) -> Metadata:
        session = self.session
        if session.by_bearer:
            return ()
        await drop_dead_cookie(self._sessions, session)
        change = session.cookie_change
        if change is None:
            return ()
        if change.token is None:
            line = self._cookie.delete_cookie()
        else:
            line = self._cookie.set_cookie(change.token, max_age=change.max_age)
        return (("set-cookie", line.decode("ascii")),)


class Context:
    """grpc.aio's ServicerContext, which stores the session's changes before anything is sent.

    Aborting is an answer like any other, so what was changed before is stored. An exception discards it.
    """

    __slots__ = ("_call", "_context")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._context = call.context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """See grpc.aio. Can be called once, before the first message."""
        await self._call.begin(tuple(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> None:
        """See grpc.aio. Always raises."""
        await self._call.begin()
        await self._context.abort(code, details, trailing_metadata)

    async def abort_with_status(self, status: grpc.Status) -> None:
        """See grpc.aio. Always raises."""
        await self._call.begin()
        await self._context.abort_with_status(status)


def keep(task: "asyncio.Future[R]") -> "asyncio.Future[R]":
    """Hold on to a task, whose exception may be nobody's business any more."""
    _tasks.add(task)
    task.add_done_callback(_done)
    return task


def _done(task: "asyncio.Future[Any]") -> None:
    _tasks.discard(task)
    if not task.cancelled():
        task.exception()
