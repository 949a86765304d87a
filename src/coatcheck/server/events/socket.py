"""`GET /v1/events` as a WebSocket: tells a user what happens to their sessions, and obeys commands. Plain ASGI.

Promises that nothing a client sends ends in anything but a reply or a close code, and that one which does not read holds
no more than one message. Leaves to SessionMiddleware the end of the session (4401), clients that do not read (4408) and
messages that are too long (1009), and commands to `commands`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeAlias

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable
from coatcheck.server.activity import Activity, Happening, Told
from coatcheck.server.commands import Commands, Malformed, Refused, Subscribe, Subscribed, Topic, decode_command
from coatcheck.server.events.messages import HEARTBEAT, as_message, as_reply, topic_of
from coatcheck.server.problems import problem_response
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["EventsSocket"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

MOST_MALFORMED = 20
"""Messages that are no commands, before the connection is closed."""
_POLICY_VIOLATION = 1008
_INTERNAL_ERROR = 1011
_RESTART = 1012
_log = logging.getLogger("coatcheck.server")


class EventsSocket:
    """The application behind the path, for `websocket` scopes."""

    def __init__(self, services: Services) -> None:
        self._commands = Commands(services)
        self._activity = services.activity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session: Session = scope["session"]
        await receive()
        if not session.is_authenticated:
            await _refuse(scope, receive, send)
            return
        await send({"type": "websocket.accept"})
        await _Connection(session, self._commands, self._activity, receive, send).run()


class _Connection:
    """One client. What it is told and what it is replied are sent by two tasks, one whole message at a time."""

    def __init__(self, session: Session, commands: Commands, activity: Activity, receive: Receive, send: Send) -> None:
        assert session.user_id is not None
        self._session = session
        self._user_id: str = session.user_id
        self._commands = commands
        self._activity = activity
        self._receive = receive
        self._send_message = send
        self._malformed = 0
        self._place: str | None = None
        self._topics: frozenset[Topic] = frozenset()
        self._telling: asyncio.Task[None] | None = None
        self._over: asyncio.Future[tuple[int, str] | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        reading = asyncio.ensure_future(self._guarded(self._read()))
        try:
            end = await self._over
            if end is not None:
                await self._close(*end)
        finally:
            await _stop(reading)
            await _stop(self._telling)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        """Do one of the two tasks; whatever ends it ends the connection."""
        try:
            await work
        except OSError:
            self._end(None)  # the client is gone, or the connection was closed before
        except Exception:
            _log.exception("a WebSocket of events failed")
            self._end((_INTERNAL_ERROR, "the server failed"))

    def _end(self, how: tuple[int, str] | None) -> None:
        if not self._over.done():
            self._over.set_result(how)

    async def _read(self) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._end(None)
                return
            try:
                command = decode_command(message.get("text") or message.get("bytes") or b"")
            except Malformed as error:
                await self._send(as_reply(error.id, Refused(400, str(error))))
                self._malformed += 1
                if self._malformed >= MOST_MALFORMED:
                    self._end((_POLICY_VIOLATION, "too many messages that are no commands"))
                    return
                continue
            result = await self._commands.run(self._session, command)
            if isinstance(result, Subscribed) and isinstance(command, Subscribe):
                await self._subscribe(command, result)
            else:
                await self._send(as_reply(command.id, result))

    async def _subscribe(self, command: Subscribe, result: Subscribed) -> None:
        """Tell from now on, from the place that is named, or from where this connection's telling has come to."""
        await _stop(self._telling)
        self._telling = None
        self._topics = frozenset(result.topics)
        if not result.topics:
            await self._send(as_reply(command.id, result))
            return
        told = self._activity.follow(self._user_id, after=command.after or self._place, heartbeat=HEARTBEAT)
        try:
            first = await anext(told)
            await self._send(as_reply(command.id, result))
        except (AccountsUnavailable, AccountsNotStarted):
            refused = Refused(503, "What happens cannot be told right now. Nothing is lost; try again.")
            await self._send(as_reply(command.id, refused))
            return
        except BaseException:
            await told.aclose()
            raise
        self._telling = asyncio.ensure_future(self._guarded(self._tell(first, told)))

    async def _tell(self, first: Told, told: AsyncGenerator[Told, None]) -> None:
        async with contextlib.aclosing(told):
            await self._tell_one(first)
            async for each in told:
                await self._tell_one(each)
        self._end((_RESTART, "service restart"))

    async def _tell_one(self, told: Told) -> None:
        if not isinstance(told, Happening) or topic_of(told) in self._topics:
            await self._send(as_message(told))
        self._place = told.id

    async def _send(self, text: str) -> None:
        await self._send_message({"type": "websocket.send", "text": text})

    async def _close(self, code: int, reason: str) -> None:
        with contextlib.suppress(OSError):
            await self._send_message({"type": "websocket.close", "code": code, "reason": reason})


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    detail = "Nobody is logged in."
    if "websocket.http.response" in (scope.get("extensions") or {}):
        await problem_response(401, detail)(scope, receive, send)
    else:
        # Before it is accepted, a close is answered with 403 by the server (ASGI specification).
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": detail})
