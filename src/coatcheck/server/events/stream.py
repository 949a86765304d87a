"""`GET /v1/events` as server-sent events: tells a user what happens to their sessions. The WebSocket is `socket`.

Promises that a reader which vanishes leaves nothing behind, and that no answer keeps a worker that leaves. Leaves to
SessionMiddleware the end of the session, of which it says `session-ended`, and readers that do not read.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Header, Response

from coatcheck.server.activity import Told
from coatcheck.server.events.messages import HEARTBEAT, as_event
from coatcheck.server.problems import documented
from coatcheck.server.rest.access import LoginSession
from coatcheck.server.services import ServicesOf

__all__ = ["PATH", "router"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

router: APIRouter = APIRouter(tags=["sessions"])

PATH = "/v1/events"
"""The WebSocket's as well."""
_RETRY = 1000  # milliseconds


@router.get(
    PATH,
    response_class=Response,
    responses={
        200: {"description": "A stream of events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **documented(401, 503),
    },
)
async def stream_events(
    session: LoginSession,
    services: ServicesOf,
    last_event_id: Annotated[str | None, Header(description="The `id` that came last, from whatever worker.")] = None,
) -> Response:
    """What happens to one's own sessions, as it happens. Server-sent events; resume by `Last-Event-ID`. Or a WebSocket.

    The first event is `begin`: from there on everything is told. Or `reset`: what happened since the id that was sent
    cannot be told any more (after ten minutes, or of another user), so look the sessions up. Then, each with `session`, `at` and
    `detail`: `created`, `ended`, `reauthenticated`, `password_changed`, `refreshed`, `renamed`, and `opened` and `closed` of live
    connections. After `session-ended`, which is about the session of this request, log in again; where the answer just ends,
    come back.

    A WebSocket handshake at this address gives the same as JSON messages, and takes commands: `subscribe`, `list`, `end`,
    `end_others`, `rename`, each with a `type` and an `id`, which the reply has again.
    """
    assert session.user_id is not None
    told = services.activity.follow(session.user_id, after=last_event_id, heartbeat=HEARTBEAT)
    try:
        first = await anext(told)  # here, so that what cannot be told is 503
    except BaseException:
        await told.aclose()
        raise
    return _Answer(first, told)


class _Answer(Response):
    """One reader."""

    def __init__(self, first: Told, told: AsyncGenerator[Told, None]) -> None:
        super().__init__()
        self._first = first
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        telling = asyncio.ensure_future(self._tell(send))
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await asyncio.wait((telling, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            telling.cancel()
            await asyncio.wait((telling, gone))
            await self._told.aclose()
        if not telling.cancelled():
            with contextlib.suppress(OSError):  # the reader has gone, or its session has ended
                telling.result()

    async def _tell(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _piece(send, f"retry: {_RETRY}\n{as_event(self._first)}")
        async for told in self._told:
            await _piece(send, as_event(told))
        await send({"type": "http.response.body", "body": b""})


async def _piece(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
