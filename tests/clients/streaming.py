"""An ASGI application as httpx sees it, with answers that arrive piece by piece, and a network between that can fail."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx


class StreamingTransport(httpx.AsyncBaseTransport):
    """httpx's own ASGITransport waits for the end of an answer; one that never ends it would never give."""

    def __init__(self, *apps: Any) -> None:
        self.apps = list(apps)
        """Taken in turn for each request for a stream, the first for all others."""
        self.away = False
        """Nobody answers."""
        self.slow = 0.0
        self.requests: list[httpx.Request] = []
        self.open: set[_Body] = set()
        self._next = 0

    def asked(self, path: str) -> int:
        return sum(request.url.path == path for request in self.requests)

    def cut(self) -> None:
        """Break every answer that is under way."""
        for body in list(self.open):
            body.cut()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.slow:
            await asyncio.sleep(self.slow)
        if self.away:
            raise httpx.ConnectError("nobody answers")
        app = self.apps[0]
        if request.headers.get("accept") == "text/event-stream":
            app = self.apps[self._next % len(self.apps)]
            self._next += 1
        body = _Body(self, await request.aread(), request.extensions.get("timeout", {}).get("read"))
        body.task = asyncio.create_task(body.run(app, _scope(request)))
        try:
            start = await body.start
        except BaseException:
            # Whoever gave up waiting leaves nothing behind that the application still does.
            await body.aclose()
            raise
        return httpx.Response(start["status"], headers=start.get("headers", []), stream=body)


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("192.0.2.8", 50000),
        "server": (request.url.host, request.url.port),
        "root_path": "",
    }


class _Body(httpx.AsyncByteStream):
    def __init__(self, network: StreamingTransport, body: bytes, timeout: float | None) -> None:
        self.start: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.deaf = False
        """Nothing arrives any more of what is sent, and nobody says so."""
        self._network = network
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._request = [{"type": "http.request", "body": body, "more_body": False}]
        self._gone = asyncio.Event()
        self._timeout = timeout
        network.open.add(self)

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        try:
            await app(scope, self._receive, self._send)
            self._pieces.put_nowait(None)
        except Exception as error:
            self._pieces.put_nowait(error)
        finally:
            if not self.start.done():
                self.start.set_exception(httpx.RemoteProtocolError("no answer"))

    async def _receive(self) -> Any:
        if self._request:
            return self._request.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.start.set_result(message)
        elif not self.deaf:
            self._pieces.put_nowait(message.get("body", b""))
            if not message.get("more_body", False):
                self._pieces.put_nowait(None)

    def cut(self) -> None:
        self._pieces.put_nowait(httpx.ReadError("cut"))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(self._timeout):
                    piece = await self._pieces.get()
            except TimeoutError:
                raise httpx.ReadTimeout("nothing came") from None
            if piece is None:
                return
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def aclose(self) -> None:
        self._gone.set()
        self._network.open.discard(self)
        if self.task is not None:
            await asyncio.wait([self.task])
