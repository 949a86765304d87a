"""HTTP/1.1 as a worker speaks it without an edge: uvicorn's, with the bounds that the edge would keep.

Promises that the header section is bounded in bytes, fields and seconds, the whole request in seconds, and that trailers
never pass for headers. Leaves bodies' length and hosts to `plain_guard`.
"""

import asyncio
import itertools
import logging
import secrets
from http import HTTPStatus
from time import monotonic
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from coatcheck.server.connection_facts import LOCAL_CONNECTION, LocalConnection
from coatcheck.server.refusals import refusal
from coatcheck.server.settings import Limits

__all__ = ["PlainProtocol", "Protocol", "plain_protocol"]

# Not from zero: a worker that was restarted must not repeat its predecessor's numbers.
_serials = itertools.count(secrets.randbits(40))
# uvicorn would write a line for each request that it cannot read, which is to let clients fill the log.
_logger = logging.getLogger("uvicorn.error.plain")
_logger.setLevel(logging.ERROR)
_PER_FIELD = 4
"""Bytes of a header field beside its name and value: colon, space, line end."""


class _Refused(Exception):
    """Stops the parser; what is answered stands in `_refusal`."""


class Protocol(HttpToolsProtocol):
    """uvicorn's, but that it holds on to nothing once a WebSocket has taken its place.

    Its parser refers back to it, a circle of 27 objects for each WebSocket that only the garbage collector would undo.
    """

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        self.parser: httptools.HttpRequestParser | None = None


class PlainProtocol(Protocol):
    """One connection. Use the class that `plain_protocol` makes, which knows its limits."""

    limits: ClassVar[Limits]
    most: ClassVar[int]
    """Connections of this worker."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.logger: logging.Logger = _logger
        self.app_state: dict[str, Any] = {
            **self.app_state,
            LOCAL_CONNECTION: LocalConnection(next(_serials), monotonic()),
        }
        self._refusal = 400
        self._refused = False
        self._head = True
        """Whether the parser is in, or before, a header section."""
        self._head_bytes = 0
        self._until: asyncio.TimerHandle | None = None
        if len(self.connections) > self.most:
            self._refuse(503)
        else:
            self._within(self.limits.request_headers_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._at_ease()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.transport.is_closing():
            return
        if self._head:
            self._head_bytes += len(data)
            if self._until is None:  # the first byte of a further request
                self._within(self.limits.request_headers_timeout)
        super().data_received(data)
        if self._head and self._head_bytes > self._most_bytes() and not self._refused:
            self._refuse(431)

    def handle_websocket_upgrade(self) -> None:
        self._at_ease()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal)

    # -- the parser's callbacks, in which an exception ends in `send_400_response` -------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head:  # and no trailer, which uvicorn would take for a header that came late
            super().on_header(name, value)
            if len(self.headers) > self.limits.request_headers_count:
                self._stop(431)

    def on_headers_complete(self) -> None:
        if (
            len(self.url) + sum(len(name) + len(value) + _PER_FIELD for name, value in self.headers)
            > self._most_bytes()
        ):
            self._stop(431)
        self._stop_at_ambiguities()
        self._head, self._head_bytes = False, 0
        super().on_headers_complete()
        if self._parser().should_upgrade() and not self._should_upgrade():
            # The parser has stopped: whatever comes next could not be read.
            self.cycle.keep_alive = False
        self._within(self.limits.request_timeout)

    def on_message_complete(self) -> None:
        self._head = True
        self._at_ease()
        super().on_message_complete()

    # ------------------------------------------------------------------------------------------------------------------

    def _stop_at_ambiguities(self) -> None:
        """Refuse what the parser lets pass though others might read it differently (RFC 9112, sections 3.2, 6.1 and 11.2)."""
        names = [name for name, _ in self.headers]
        version = self._parser().get_http_version()
        if version not in ("1.0", "1.1") or (version == "1.1" and b"host" not in names):
            self._stop(400)
        # An address with a host of its own, which could be another than the one that is looked at.
        if not self.url.startswith(b"/") or b"#" in self.url or any(b"_" in name for name in names):
            self._stop(400)
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings not in ([], [b"chunked"]):
            self._stop(501)
        if self._parser().should_upgrade() and (codings or b"content-length" in names):
            self._stop(400)

    def _parser(self) -> httptools.HttpRequestParser:
        assert self.parser is not None  # as it is only after the connection's end
        return self.parser

    def _most_bytes(self) -> int:
        return self.limits.request_headers_kb * 1024

    def _stop(self, status: int) -> None:
        self._refusal = status
        raise _Refused

    def _within(self, seconds: float) -> None:
        self._at_ease()
        self._until = self.loop.call_later(seconds, self._too_slow)

    def _at_ease(self) -> None:
        if self._until is not None:
            self._until.cancel()
            self._until = None

    def _too_slow(self) -> None:
        self._until = None
        if self._head and not self._head_bytes:
            self.transport.close()  # nobody asked for anything
        elif not self._refused and not self.transport.is_closing():
            self._refuse(408)

    def _refuse(self, status: int) -> None:
        """Answer, unless an answer is under way already, and close."""
        self._at_ease()
        self._refused = True
        # None at first, whatever uvicorn's types say; nor is it of interest once it is answered.
        cycle: RequestResponseCycle | None = self.cycle
        if cycle and not cycle.response_complete:
            if self._head:
                # What is refused comes after a request that is still being answered: it gets no answer, that one does.
                cycle.keep_alive = False
                if self.pipeline:
                    self.transport.close()
                return
            # Whatever the application still sends goes nowhere.
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        headers, body = refusal(status)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode("ascii"))]
        lines += [name + b": " + value for name, value in headers]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()


def plain_protocol(limits: Limits, workers: int) -> type[PlainProtocol]:
    """The protocol for one of `workers` workers."""

    class Limited(PlainProtocol):
        pass

    Limited.limits = limits
    Limited.most = max(1, limits.connections // workers)
    return Limited
