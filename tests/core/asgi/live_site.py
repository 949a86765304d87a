"""One node with an application of the test's own, and clients in process whose responses and WebSockets stay open."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from coatcheck import SessionMiddleware, Sessions
from coatcheck.stores.memory import MemoryStore
from coatcheck.testing import CountingStore, ManualClock

App = Callable[[Any, Any, Any], Awaitable[None]]
ORIGIN = (b"origin", b"https://app.example")


class LiveSite:
    """Use `async with site`. Keywords are those of Sessions."""

    def __init__(self, app: App, *, middleware: dict[str, Any] | None = None, **policy: Any) -> None:
        self.clock = ManualClock()
        self.store = CountingStore(MemoryStore(clock=self.clock))
        policy = {"idle_timeout": 1000.0, "touch_interval": 10.0, **policy}
        self.sessions = Sessions(self.store, clock=self.clock, **policy)
        self.app = SessionMiddleware(app, self.sessions, public_origins=["https://app.example"], **(middleware or {}))

    async def __aenter__(self) -> "LiveSite":
        self._tasks: list[asyncio.Future[None]] = []
        await self.sessions.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.sessions.close()

    async def log_in(self, user_id: str = "user") -> tuple[str, bytes]:
        """Give a new session's id, and the line of a Cookie header that leads to it."""
        session = await self.sessions.load(None)
        await session.log_in(user_id)
        assert session.id is not None
        assert session.cookie_change is not None
        return session.id, b"__Host-session=" + (session.cookie_change.token or "").encode()

    def get(
        self, cookie: bytes | None = None, *headers: tuple[bytes, bytes], body: list[bytes] | None = None
    ) -> "Exchange":
        """Begin a request."""
        lines = [] if cookie is None else [(b"cookie", cookie)]
        exchange = Exchange(self.app, [*lines, *headers], body or [b""])
        self._tasks.append(exchange.task)
        return exchange


class Exchange:
    """One request, and what comes of it piece by piece."""

    def __init__(self, app: App, headers: list[tuple[bytes, bytes]], body: list[bytes]) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.full = asyncio.Event()
        """Cleared: the client does not read."""
        self.full.set()
        for number, piece in enumerate(body, 1):
            self.incoming.put_nowait({"type": "http.request", "body": piece, "more_body": number < len(body)})
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "https",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [(b"host", b"app.example"), *headers],
        }
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        await self.full.wait()
        self.outgoing.put_nowait(message)

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            return await self.outgoing.get()

    async def started(self) -> dict[bytes, bytes]:
        message = await self.next()
        assert message["type"] == "http.response.start"
        return {b":status": str(message["status"]).encode(), **dict(message["headers"])}

    async def piece(self) -> bytes:
        message = await self.next()
        assert message["type"] == "http.response.body"
        assert message.get("more_body", False), "the response ended"
        return bytes(message["body"])

    async def last(self) -> bytes:
        """The last piece of a response that was properly ended."""
        message = await self.next()
        assert message["type"] == "http.response.body"
        assert not message.get("more_body", False), "the response goes on"
        return bytes(message["body"])

    async def cut(self) -> None:
        """The application is over, and its response is not: servers close the connection then."""
        await self.over()
        assert self.outgoing.empty(), "there was more to say"

    async def over(self) -> None:
        await asyncio.wait_for(self.task, 5)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def streaming(
    *pieces: bytes, content_type: bytes = b"text/event-stream", then: App | None = None, **extra: bytes
) -> App:
    """An application that starts a response, sends pieces, and then does what `then` does: wait for ever unless told."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type)]
        headers += [(name.replace("_", "-").encode(), value) for name, value in extra.items()]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await (then or forever)(scope, receive, send)

    return application


async def forever(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.Event().wait()
