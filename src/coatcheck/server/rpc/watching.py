"""`Watch`: tells a user what happens to their sessions, and a service which sessions end. Until the worker leaves.

Leaves what is told to `activity` and `revocation_feed`, and the end of a user's session to the interceptor.
"""

import asyncio
import contextlib
from typing import Any

import grpc

from coatcheck.connections import RESTART, TOO_SLOW
from coatcheck.integrations.grpc import require_login
from coatcheck.integrations.grpc.answers import Answer
from coatcheck.server.activity import Happening
from coatcheck.server.commands import TOPICS
from coatcheck.server.events.messages import HEARTBEAT, topic_of
from coatcheck.server.revocation_feed import SLOW, RevocationFeed
from coatcheck.server.rpc._generated import sessions_pb2 as pb
from coatcheck.server.rpc.callers import calling_service, has_service_credential, worker_metadata
from coatcheck.server.rpc.messages import revocation, told_message, topics_of
from coatcheck.server.services import Services
from coatcheck.session import current_session

__all__ = ["BAD_TOPIC", "Watching"]

BAD_TOPIC = "There is no such topic."
_TOO_MANY = Answer(
    grpc.StatusCode.UNAVAILABLE, "Too many services are listening here.", (("grpc-retry-pushback-ms", "5000"),)
)


class Watching:
    """Answers the method."""

    def __init__(self, services: Services, feed: RevocationFeed) -> None:
        self._services = services
        self._feed = feed

    async def watch(self, request: pb.WatchRequest, context: Any) -> None:
        """See the method's comment in sessions.proto."""
        if has_service_credential(context):
            await self._tell_service(request, context)
        else:
            await self._tell_user(request, context)

    @require_login()
    async def _tell_user(self, request: pb.WatchRequest, context: Any) -> None:
        user_id = current_session().user_id
        assert user_id is not None
        topics = topics_of(request.topics)
        if topics is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, BAD_TOPIC)
        wanted = topics or TOPICS
        await context.send_initial_metadata(worker_metadata(self._services))
        told = self._services.activity.follow(user_id, after=request.after or None, heartbeat=HEARTBEAT)
        async with contextlib.aclosing(told):
            async for each in told:
                if not isinstance(each, Happening) or topic_of(each) in wanted:
                    await context.write(pb.WatchResponse(activity=told_message(each)))
        context.interrupt(RESTART)

    async def _tell_service(self, request: pb.WatchRequest, context: Any) -> None:
        arrived = self._services.sessions.clock.monotonic()
        await calling_service(self._services, context)
        if self._feed.full:
            await _TOO_MANY.give(context)
        await self._feed.start()
        told = self._feed.read(self._services.worker, arrived, request.after or None)
        async with contextlib.aclosing(told):
            async for batch in told:
                try:
                    async with asyncio.timeout(SLOW):
                        for each in batch:
                            await context.write(pb.WatchResponse(revocation=revocation(each)))
                except TimeoutError:
                    context.interrupt(TOO_SLOW)
