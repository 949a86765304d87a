"""`GET /v1/revocations`: tells services that verify access tokens themselves which sessions have ended, as it happens.

Server-sent events for a service's credential. Leaves what is told to `revocation_feed`, and what a verifier makes of it to
`coatcheck.tokens`.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Header, Request, Response

from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.service import CallingService
from coatcheck.server.revocation_feed import SLOW, Batch, Confirmed, Leading, RevocationFeed, Told
from coatcheck.server.services import Services, ServicesOf

__all__ = ["feed_of", "router"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

router: APIRouter = APIRouter(tags=["services"])

_log = logging.getLogger("coatcheck.server")


@router.get(
    "/v1/revocations",
    response_class=Response,
    responses={
        200: {"description": "A stream of events", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **documented(401, 503),
    },
)
async def stream_revocations(
    request: Request,
    service: CallingService,
    services: ServicesOf,
    last_event_id: Annotated[str | None, Header(description="Where an earlier answer ended (`id`).")] = None,
) -> Response:
    """For services that verify access tokens: which sessions end. Server-sent events; resume by `Last-Event-ID`.

    The first event says from when on (`since`, seconds since 1970) nothing is missing: `begin`, or `reset` where that is
    later than what was asked for. `ended` has a `sid`; `generation` a `sid` and the least `gen` that is still good; `user` a
    `sub` of whom every token issued until then must be asked for; another `reset` the same for all. `heartbeat` says up to
    how many seconds after the request arrived (`confirmed`) everything has been told.
    """
    arrived = services.sessions.clock.monotonic()
    feed = feed_of(services, request.app.state)
    if feed.full:
        raise ProblemError(503, "Too many services are listening here.", headers={"retry-after": "5"})
    await feed.start()
    return _Answer(feed.read(services.worker, arrived, last_event_id))


def feed_of(services: Services, state: Any) -> RevocationFeed:
    """Give the worker's feed, kept with the application. Made here, so that nothing else has to know of it."""
    feed: RevocationFeed | None = getattr(state, "revocations", None)
    if feed is None:
        feed = RevocationFeed(services.sessions, token_lifetime=services.access.keys.token_lifetime)
        services.worker.on_leave.append(feed.leave)
        state.revocations = feed
    return feed


class _Answer(Response):
    """One reader."""

    def __init__(self, told: AsyncGenerator[Batch, None]) -> None:
        super().__init__()
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
            try:
                telling.result()
            except TimeoutError:
                _log.warning("a service that reads its feed of revocations too slowly was cut off")

    async def _tell(self, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for batch in self._told:
            text = "".join(map(_event, batch))
            async with asyncio.timeout(SLOW):
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _event(told: Leading | Told | Confirmed | None) -> str:
    match told:
        case None:
            return ": the sessions cannot be asked\n\n"
        case Leading():
            name = "begin" if told.whole else "reset"
            return _line(name, {"since": told.since, "token_lifetime": told.token_lifetime})
        case Confirmed():
            return f"id: {told.place}\n" + _line("heartbeat", {"confirmed": round(told.after_arrival, 6)})
        case Told(kind="ended"):
            return _line("ended", {"sid": told.id, "at": told.at})
        case Told(kind="generation"):
            return _line("generation", {"sid": told.id, "gen": told.generation, "at": told.at})
        case Told(kind="user"):
            return _line("user", {"sub": told.id, "at": told.at})
        case Told():
            return _line("reset", {"since": told.at})


def _line(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
