"""A request and its response, whatever version carries them. No I/O of its own; leaves sending to `http1`, `http2` and `http3`."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from coatcheck.probe.errors import Failure
from coatcheck.probe.target import Target
from coatcheck.probe.trace import RequestTrace, Trace
from coatcheck.probe.words import seconds_in_words, shortened

__all__ = ["MOST_BODY", "MOST_HEAD", "Headers", "Incoming", "Request", "Response"]

Headers = tuple[tuple[str, str], ...]

MOST_BODY = 8 * 1024 * 1024
"""Bytes of one response's body, at most: a probe needs small ones."""
MOST_HEAD = 256 * 1024
"""Bytes of one response's header section, at most."""


class Request(NamedTuple):
    """What to ask. The header fields beside the host's; names in lower case."""

    method: str
    target: Target
    headers: Headers

    def with_headers(self, extra: Iterable[tuple[str, str]]) -> "Request":
        """The same request with more header fields."""
        return self._replace(headers=(*self.headers, *extra))

    @property
    def plain_bytes(self) -> int:
        """How long the header section is as HTTP/1.1 writes it."""
        fields = (("host", self.target.authority), *self.headers)
        line = len(self.method) + len(self.target.path) + len("  HTTP/1.1\r\n")
        return line + sum(len(name) + len(value) + 4 for name, value in fields) + 2

    def pseudo(self) -> list[tuple[str, str]]:
        """The header list of HTTP/2 and 3 (RFC 9113, section 8.3.1; RFC 9114, section 4.3.1).

        CONNECT is always for a WebSocket (RFC 8441, section 4).
        """
        return [
            (":method", self.method),
            *([(":protocol", "websocket")] if self.method == "CONNECT" else []),
            (":scheme", self.target.scheme),
            (":authority", self.target.authority),
            (":path", self.target.path),
            *self.headers,
        ]


class Response(NamedTuple):
    """What came. Names of header fields in lower case; of the body only its size and a digest are kept."""

    status: int
    version: str
    """As the server wrote it: `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`, `HTTP/3`."""
    headers: Headers
    body_bytes: int = 0
    digest: bytes = b""

    def values(self, name: str) -> list[str]:
        """Every value under that name, in order."""
        return [value for key, value in self.headers if key == name]

    def value(self, name: str) -> str | None:
        """All values under that name as one; None if there is none."""
        found = self.values(name)
        return ", ".join(found) if found else None


class Incoming:
    """A response that is on its way: collects it, and keeps its record."""

    def __init__(self, trace: Trace, record: RequestTrace) -> None:
        self._trace = trace
        self._digest = hashlib.sha256()
        self._headers: list[tuple[str, str]] = []
        self._version = ""
        self.record = record

    @property
    def begun(self) -> bool:
        """Whether the final response's header section has come."""
        return self.record.status is not None

    def first_byte(self) -> None:
        """Something of the response came."""
        if self.record.first_byte_ms is None:
            self.record.first_byte_ms = self._trace.now()

    def head(self, status: int, version: str, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The header section came."""
        self.first_byte()
        self.record.status = status
        self._version = version
        self._headers = [
            (name.decode("latin-1").lower(), value.decode("latin-1"))
            for name, value in headers
            if not name.startswith(b":")
        ]

    def head_of_fields(self, version: str, headers: list[tuple[bytes, bytes]]) -> None:
        """The header section of HTTP/2 and 3 came, with its status among the fields. Raises Failure."""
        status = next((value for name, value in headers if name == b":status"), b"")
        if not (len(status) == 3 and status.isdigit()):
            raise Failure(
                f"its response has no status that makes sense ('{shortened(status.decode('latin-1'))}')", "garbage"
            )
        self.head(int(status), version, headers)

    def body(self, data: bytes) -> None:
        """A piece of the body came. Raises Failure where it gets too long."""
        self.record.body_bytes += len(data)
        self._digest.update(data)
        if self.record.body_bytes > MOST_BODY:
            raise Failure(
                f"the response is longer than {MOST_BODY // 1024 // 1024} MiB: give a smaller one's URL, or --head",
                "local",
            )

    def complete(self) -> Response:
        """The response is whole."""
        self.record.ended_ms = self._trace.now()
        assert self.record.status is not None
        return Response(
            self.record.status, self._version, tuple(self._headers), self.record.body_bytes, self._digest.digest()
        )

    def too_late(self, timeout: float) -> Failure:
        """What to say when it did not come in time."""
        words = seconds_in_words(timeout)
        if self.begun:
            return Failure(f"the response began but did not end within {words}", "timeout")
        return Failure(f"no answer to the request within {words}", "timeout")
