"""`GET /v1/revocations`: tells services that verify access tokens themselves which sessions have ended, as it happens.

Server-sent events for a service's credential. Promises that a heartbeat is sent only after everything that it confirms,
and that no answer keeps a worker that leaves. Decision record 10 says why it is as it is. Leaves what is remembered to
`revocation_window`, and what a verifier makes of it to `coatcheck.tokens`.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, TypeAlias

from fastapi import APIRouter, Header, Request, Response

from coatcheck.errors import StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.server.context import WorkerContext
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.service import CallingService
from coatcheck.server.revocation_window import RevocationWindow, Told
from coatcheck.server.services import Services, ServicesOf
from coatcheck.stores.contract import Change

__all__ = ["RevocationFeed", "router"]

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

router: APIRouter = APIRouter(tags=["services"])

HEARTBEAT = 0.5
"""Seconds between two heartbeats."""
OVERLAP = 10.0
"""Seconds told again to whoever resumes: nodes hear of one change at different times by clocks that differ."""
STREAM = 300.0
"""Seconds after which an answer ends, so that two clocks do not run apart for longer, and the credential is asked for again."""
SLOW = 10.0
"""Seconds for which a reader may leave unread what it was sent."""

_LEEWAY = 120.0
"""Seconds for which a token is remembered to be bad beyond its life: verifiers give some to clocks that differ."""
_READERS = 1000
_BATCH = 1000
_AGAIN = 0.1
_log = logging.getLogger("coatcheck.server")


class RevocationFeed:
    """One worker's view of what ends, from `start` on, and the readers that wait for it."""

    def __init__(self, sessions: Sessions, *, token_lifetime: float) -> None:
        self._sessions = sessions
        self.token_lifetime = token_lifetime
        self.leaving: bool = False
        self.waiting: set[asyncio.Future[None]] = set()
        self.readers = 0
        self._window: RevocationWindow | None = None
        self._starting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._unclear: dict[str, int] = {}  # session id to how often it was in doubt
        self._asking: asyncio.Task[None] | None = None
        self._confirmed = float("-inf")

    @property
    def window(self) -> RevocationWindow:
        """What has happened since the start."""
        assert self._window is not None
        return self._window

    async def start(self) -> None:
        """Begin to remember; later calls do nothing. Raises StoreUnavailable."""
        async with self._starting:
            if self._window is not None:
                return
            self._loop = asyncio.get_running_loop()
            await self._sessions.listen(self._notice)
            # From after it listens: what was acknowledged before that may have been told to nobody here.
            keep = self.token_lifetime + _LEEWAY
            self._window = RevocationWindow(now=self._sessions.clock.time(), keep=keep)

    async def run(self) -> None:
        """Start as soon as the store can be asked."""
        while True:
            try:
                await self.start()
            except StoreUnavailable:
                await asyncio.sleep(1.0)
            else:
                return

    def leave(self) -> None:
        """Have every answer end: this worker serves no more."""
        self.leaving = True
        self._wake()

    def confirmed(self) -> float:
        """Give the monotonic time up to which the window has everything that was acknowledged anywhere."""
        confirmed = self._sessions.confirmed()
        # What is being asked for is not in the window yet, so nothing after it is confirmed either.
        if not self._unclear:
            self._confirmed = confirmed
        return self._confirmed

    def _notice(self, change: Change) -> None:
        if self._window is None:
            return
        now = self._sessions.clock.time()
        if change.kind == "ended":
            news = self._window.add(now, "ended", change.id)
        elif change.kind == "user":
            news = self._window.add(now, "user", change.id)
        elif change.kind == "missed":
            news = self._window.add(now, "reset")
        elif change.generation:
            news = self._window.add(now, "generation", change.id, change.generation)
        else:
            self._unclear[change.id] = self._unclear.get(change.id, 0) + 1
            news = True
        if news and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        for reader in self.waiting:
            if not reader.done():
                reader.set_result(None)
        if self._unclear and self._asking is None:
            self._asking = asyncio.ensure_future(self._clear())

    async def _clear(self) -> None:
        """Ask the store about sessions of which the feed could only tell that something happened."""
        try:
            while asked := dict(self._unclear):
                try:
                    alive = await self._sessions.store.alive(list(asked))
                except StoreUnavailable:
                    await asyncio.sleep(_AGAIN)
                    continue
                now = self._sessions.clock.time()
                for session_id, times in asked.items():
                    if self._unclear[session_id] != times:
                        continue  # it changed once more meanwhile: the answer may be from before that
                    del self._unclear[session_id]
                    generation = alive.get(session_id)
                    if generation is None:
                        self.window.add(now, "ended", session_id)
                    else:
                        self.window.add(now, "generation", session_id, generation)
        finally:
            self._asking = None
        self._wake()


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
    if feed.readers >= _READERS:
        raise ProblemError(503, "Too many services are listening here.", headers={"retry-after": "5"})
    await feed.start()
    return _Answer(feed, services.sessions, services.worker, arrived, last_event_id)


def feed_of(services: Services, state: Any) -> RevocationFeed:
    """Give the worker's feed, kept with the application. Made here, so that nothing else has to know of it."""
    feed: RevocationFeed | None = getattr(state, "revocations", None)
    if feed is None:
        feed = RevocationFeed(services.sessions, token_lifetime=services.access.keys.token_lifetime)
        services.worker.on_leave.append(feed.leave)
        state.revocations = feed
    return feed


class _Answer(Response):
    """One reader. It has no queue but its place in the window: what it does not read is dropped there."""

    def __init__(
        self, feed: RevocationFeed, sessions: Sessions, worker: WorkerContext, arrived: float, last_id: str | None
    ) -> None:
        super().__init__()
        self._feed = feed
        self._sessions = sessions
        self._worker = worker
        self._arrived = arrived
        self._last_id = last_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),
        ]
        self._feed.readers += 1
        gone = asyncio.ensure_future(_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._tell(gone, send)
        except TimeoutError:
            _log.warning("a service that reads its feed of revocations too slowly was cut off")
        finally:
            self._feed.readers -= 1
            gone.cancel()

    async def _tell(self, gone: "asyncio.Future[None]", send: Send) -> None:
        loop = asyncio.get_running_loop()
        feed, window = self._feed, self._feed.window
        position, text = self._begin()
        end_at, beat_at = loop.time() + STREAM, 0.0
        while not gone.done():
            # In this order: what is confirmed was in the window by then.
            confirmed = feed.confirmed()
            told = window.after(position, _BATCH)
            if told is None:
                return  # slower than the window is long
            position += len(told)
            text += "".join(map(_event, told))
            whole = position == window.end
            leaving = feed.leaving or self._worker.draining or loop.time() >= end_at
            if whole and (leaving or loop.time() >= beat_at):
                text += self._heartbeat(confirmed)
                beat_at = loop.time() + HEARTBEAT
            ending = whole and leaving
            if text or ending:
                async with asyncio.timeout(SLOW):
                    await send({"type": "http.response.body", "body": text.encode(), "more_body": not ending})
                text = ""
            if ending:
                return
            if whole and position == window.end:
                await self._news(gone, beat_at - loop.time())

    async def _news(self, gone: "asyncio.Future[None]", seconds: float) -> None:
        """Wait for something to tell, the next heartbeat, or the reader's leaving."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._feed.waiting.add(news)
        try:
            await asyncio.wait((gone, news), timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._feed.waiting.discard(news)

    def _begin(self) -> tuple[int, str]:
        """Where to begin, and what to say about it."""
        window, now = self._feed.window, self._sessions.clock.time()
        since, kind, position = window.since(now), "begin", window.position(0.0)
        last = self._last_id
        if last is not None:
            wanted = int(last) / 1000 if last.isascii() and last.isdigit() and len(last) <= 15 else 0.0
            if since <= wanted - OVERLAP and wanted <= now + OVERLAP:
                since, position = wanted, window.position(wanted - OVERLAP)
            else:
                kind = "reset"
        return position, _line(kind, {"since": since, "token_lifetime": self._feed.token_lifetime})

    def _heartbeat(self, confirmed: float) -> str:
        clock = self._sessions.clock
        ago = clock.monotonic() - confirmed
        if ago == float("inf"):
            return ": the sessions cannot be asked\n\n"
        until = int((clock.time() - ago) * 1000)
        return f"id: {until}\n" + _line("heartbeat", {"confirmed": round(confirmed - self._arrived, 6)})


def _event(told: Told) -> str:
    if told.kind == "ended":
        return _line("ended", {"sid": told.id, "at": told.at})
    if told.kind == "generation":
        return _line("generation", {"sid": told.id, "gen": told.generation, "at": told.at})
    if told.kind == "user":
        return _line("user", {"sub": told.id, "at": told.at})
    return _line("reset", {"since": told.at})


def _line(kind: str, data: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
