"""`Converse`: commands and what happens, over one call. The WebSocket at `/v1/events` in gRPC's words.

Promises that nothing a client sends ends in anything but a reply or a status, and that one which does not read holds no more
than one message. Leaves commands to `commands`, and the end of the session to the interceptor.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import grpc
import grpc.aio

from coatcheck.accounts import AccountsNotStarted, AccountsUnavailable
from coatcheck.connections import RESTART
from coatcheck.integrations.grpc import require_login
from coatcheck.integrations.grpc.answers import Answer, stream_ended
from coatcheck.server.activity import Happening, Told
from coatcheck.server.commands import (
    Command,
    Commands,
    EndOthers,
    EndSession,
    ListSessions,
    Malformed,
    Refused,
    RenameSession,
    Result,
    SessionsEnded,
    Subscribe,
    Subscribed,
    Topic,
)
from coatcheck.server.events.messages import HEARTBEAT, topic_of
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from coatcheck.server.rpc.callers import worker_metadata
from coatcheck.server.rpc.messages import reply, told_message, topics_of
from coatcheck.server.rpc.watching import BAD_TOPIC
from coatcheck.server.services import Services
from coatcheck.session import Session, current_session

__all__ = ["Conversing"]

MOST_MALFORMED = 20
"""Messages that are no commands, before the call is ended."""
_LONGEST_ID = 64
_TOO_MUCH = Answer(grpc.StatusCode.INVALID_ARGUMENT, "Too many messages that are no commands.")


class Conversing:
    """Answers the method."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._commands = Commands(services)

    @require_login()
    async def converse(self, _: Any, context: Any) -> None:
        """See the method's comment in sessions.proto."""
        # At once: the edge takes a call for hung that is neither whole nor answered.
        await context.send_initial_metadata(worker_metadata(self._services))
        await _Conversation(current_session(), self._commands, self._services, context).run()


class _Conversation:
    """One client. Replies and what is told are sent by two tasks, one message at a time."""

    def __init__(self, session: Session, commands: Commands, services: Services, context: Any) -> None:
        assert session.user_id is not None
        self._session = session
        self._user_id: str = session.user_id
        self._commands = commands
        self._activity = services.activity
        self._context = context
        self._writing = asyncio.Lock()
        self._malformed = 0
        self._place: str | None = None
        self._topics: frozenset[Topic] = frozenset()
        self._telling: asyncio.Task[None] | None = None
        self._over: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        reading = asyncio.ensure_future(self._until_over(self._read()))
        try:
            answer = await self._over
        finally:
            await _stop(reading)
            await _stop(self._telling)
        if answer is not None:
            await answer.give(self._context)

    async def _until_over(self, work: Coroutine[Any, Any, Answer | None]) -> None:
        """Do one of the two tasks; whatever ends it ends the call."""
        try:
            answer = await work
        except Exception as error:
            if not self._over.done():
                self._over.set_exception(error)
            return
        if not self._over.done():
            self._over.set_result(answer)

    async def _read(self) -> Answer | None:
        while (request := await self._context.read()) is not grpc.aio.EOF:
            try:
                command = _command(request)
            except Malformed as error:
                await self._reply(str(error.id or ""), Refused(400, str(error)))
                self._malformed += 1
                if self._malformed >= MOST_MALFORMED:
                    return _TOO_MUCH
                continue
            result = await self._commands.run(self._session, command)
            if isinstance(command, Subscribe) and isinstance(result, Subscribed):
                await self._subscribe(request.id, command, result)
            elif isinstance(command, EndSession) and isinstance(result, SessionsEnded):
                await self._send(pb.ConverseResponse(reply=pb.Reply(id=request.id, end=pb.EndResponse())))
            else:
                await self._reply(request.id, result)
        return None

    async def _subscribe(self, id: str, command: Subscribe, result: Subscribed) -> None:
        """Tell from now on, from the place that is named, or from where this call's telling has come to."""
        await _stop(self._telling)
        self._telling = None
        self._topics = frozenset(result.topics)
        if not result.topics:
            await self._reply(id, result)
            return
        told = self._activity.follow(self._user_id, after=command.after or self._place, heartbeat=HEARTBEAT)
        try:
            first = await anext(told)
            await self._reply(id, result)
        except (AccountsUnavailable, AccountsNotStarted):
            await self._reply(id, Refused(503, "What happens cannot be told right now. Nothing is lost; try again."))
            return
        except BaseException:
            await told.aclose()
            raise
        self._telling = asyncio.ensure_future(self._until_over(self._tell(first, told)))

    async def _tell(self, first: Told, told: AsyncGenerator[Told, None]) -> Answer:
        async with contextlib.aclosing(told):
            await self._tell_one(first)
            async for each in told:
                await self._tell_one(each)
        return stream_ended(RESTART)

    async def _tell_one(self, told: Told) -> None:
        if not isinstance(told, Happening) or topic_of(told) in self._topics:
            await self._send(pb.ConverseResponse(activity=told_message(told)))
        self._place = told.id

    async def _reply(self, id: str, result: Result) -> None:
        await self._send(pb.ConverseResponse(reply=reply(id, result)))

    async def _send(self, response: pb.ConverseResponse) -> None:
        async with self._writing:
            await self._context.write(response)


def _command(request: pb.ConverseRequest) -> Command:
    """Read a command. Raises Malformed."""
    id = request.id
    if len(id.encode()) > _LONGEST_ID:
        raise Malformed(f"A command's id has {_LONGEST_ID} bytes at most.")
    match request.WhichOneof("command"):
        case "list":
            return ListSessions(id=id)
        case "end":
            return EndSession(id=id, session=request.end.session_id)
        case "end_all":
            return EndOthers(id=id)
        case "rename":
            return RenameSession(id=id, session=request.rename.session_id, name=request.rename.name)
        case "subscribe":
            topics = topics_of(request.subscribe.topics)
            if topics is None:
                raise Malformed(BAD_TOPIC, id)
            return Subscribe(id=id, topics=topics, after=request.subscribe.after or None)
        case _:
            raise Malformed("A message holds one command that is known here.", id)


async def _stop(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))
