"""What stands around every answer: headers of security, the worker's number, a bound on bodies, one log line. Plain ASGI.

Also the last net: an application that fails without an answer gets a problem document, and the log a traceback
without the values of variables. Leaves what is answered to everything within.
"""

import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException

from coatcheck.server.problems import problem_response
from coatcheck.server.security_headers import SECURITY_HEADERS

__all__ = ["MAX_BODY", "Envelope", "HeadAsGet"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 64 * 1024
"""Bytes in a request's body, at most, unless told otherwise."""

_MOST_PATH = 200
# As long as no id is, but every secret of ours: somebody put a token where an id belongs.
_SECRET = re.compile(r"[A-Za-z0-9_-]{40,}")
_QUIET = frozenset(("/healthz", "/readyz"))
_SECURITY = tuple((name.encode("ascii"), value.encode("ascii")) for name, value in SECURITY_HEADERS)
_log = logging.getLogger("coatcheck.request")


class Envelope:
    """The outermost part but for ConnectionFactsMiddleware. `answered` is told each answer's status and seconds."""

    def __init__(
        self,
        app: Application,
        *,
        worker: int,
        show_worker: bool,
        max_body: int = MAX_BODY,
        answered: Callable[[int, float], None] = lambda status, seconds: None,
    ) -> None:
        self._app = app
        self._answered = answered
        self._worker = worker
        self._max_body = max_body
        own = ((b"x-coatcheck-worker", str(worker).encode("ascii")),) if show_worker else ()
        self._own = own
        self._headers = (*_SECURITY, *own)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, self._naming_worker(send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = perf_counter()
        answer = _Answer(send, self._headers, api=scope["path"].startswith("/v1/"))
        try:
            if _declared_length(scope) > self._max_body:
                await self._too_large()(scope, receive, answer.send)
            else:
                await self._app(scope, _Bounded(receive, self._max_body).receive, answer.send)
        except _TooLong:
            # What the framework has not made an answer of.
            if answer.status:
                raise
            await self._too_large()(scope, receive, answer.send)
        except Exception:
            _log.exception("failed", extra={"path": _path(scope)})
            if not answer.status:
                await problem_response(500, "The server failed to answer this request.")(scope, receive, answer.send)
            elif not answer.complete:
                raise  # so that the server cuts the connection: the client must not take a part for the whole
        finally:
            seconds = perf_counter() - begun
            self._answered(answer.status, seconds)
            level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
            if _log.isEnabledFor(level):
                seen = {
                    "method": scope["method"],
                    "path": _path(scope),
                    "status": answer.status or None,
                    "ms": round(seconds * 1000, 2),
                    "worker": self._worker,
                }
                _log.log(level, "request", extra=seen)

    def _naming_worker(self, send: Send) -> Send:
        """A WebSocket's handshake says which worker it came to, as answers do."""
        if not self._own:
            return send

        def named(message: Message) -> Awaitable[None]:
            if message["type"] in ("websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*(message.get("headers") or ()), *self._own]
            return send(message)

        return named

    def _too_large(self) -> Any:
        return problem_response(413, _too_large(self._max_body))


class HeadAsGet:
    """Answers HEAD as GET without the body (RFC 9110, section 9.3.2), which FastAPI's routes do not do by themselves.

    A body that comes in pieces is not waited for: it may have no end.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self._app(scope, receive, send)

        return self._without_body(scope, receive, send)

    async def _without_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def headers_only(message: Message) -> None:
            if message["type"] != "http.response.body":
                await send(message)
                return
            await send({"type": "http.response.body", "body": b""})
            if message.get("more_body", False):
                raise _Answered

        with contextlib.suppress(_Answered):
            await self._app({**scope, "method": "GET"}, receive, headers_only)


class _Answered(Exception):
    """Raised into an application that would go on with a body which nobody wants."""


class _Answer:
    """One request's way out."""

    __slots__ = ("_api", "_headers", "_send", "complete", "status")

    def __init__(self, send: Send, headers: tuple[tuple[bytes, bytes], ...], *, api: bool) -> None:
        self._send = send
        self._headers = headers
        self._api = api
        self.status = 0
        self.complete = False

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.start":
            self.status = message["status"]
            message["headers"] = self._complete(message.get("headers", ()))
        elif kind == "http.response.body":
            self.complete = not message.get("more_body", False)
        return self._send(message)

    def _complete(self, given: Any) -> list[tuple[bytes, bytes]]:
        headers: list[tuple[bytes, bytes]] = [
            (name, value) for name, value in given if not (self._api and name.lower() == b"cache-control")
        ]
        names = {name.lower() for name, _ in headers}
        headers += [header for header in self._headers if header[0] not in names]
        if b"cache-control" not in names or self._api:
            headers.append((b"cache-control", b"no-store"))
        return headers


class _TooLong(HTTPException):
    """Raised where a body is read; an HTTPException, because Starlette and FastAPI pass on or answer only those."""


class _Bounded:
    """One request's body, which ends in 413 when it gets too long, whatever was declared."""

    __slots__ = ("_left", "_most", "_receive")

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = self._left = most

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _TooLong(413, _too_large(self._most))
        return message


def _too_large(most: int) -> str:
    return f"A body has at most {most} bytes here."


def _declared_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _path(scope: Scope) -> str:
    # As it was sent: what is decoded could hold line breaks. Never the query, which may hold anything.
    raw: bytes = scope.get("raw_path") or scope["path"].encode("utf-8", "backslashreplace")
    path = raw.partition(b"?")[0][:_MOST_PATH].decode("latin-1")
    return _SECRET.sub("[hidden]", path if path.isascii() and path.isprintable() else ascii(path)[1:-1])
