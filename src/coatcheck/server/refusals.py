"""How a request is refused before it reaches the application: the same words from the edge and from a worker without one.

Leaves the application's own refusals to `problems`.
"""

import msgspec

from coatcheck.server.security_headers import SECURITY_HEADERS

__all__ = ["MEDIA_TYPE", "REFUSALS", "RETRY_AFTER", "refusal"]

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "1"
"""Seconds: the edge's buckets are filled again every second."""

REFUSALS: dict[int, tuple[str, str]] = {
    400: (
        "Bad Request",
        "The request is not as HTTP wants it, or its address is written in a way that is not taken here.",
    ),
    404: ("Not Found", "There is nothing at this address."),
    405: ("Method Not Allowed", "This server is no proxy."),
    408: ("Request Timeout", "The request did not arrive in time."),
    413: ("Content Too Large", "The body is longer than bodies may be here."),
    421: ("Misdirected Request", "This server does not answer to that host name."),
    429: ("Too Many Requests", "Too many requests came from this address; try again in a second."),
    431: ("Request Header Fields Too Large", "The headers are longer, or more, than headers may be here."),
    501: ("Not Implemented", "Bodies may be chunked here, and encoded in no other way for the transfer."),
    502: ("Bad Gateway", "The server failed to answer this request."),
    503: ("Service Unavailable", "The server cannot answer right now; try again."),
    504: ("Gateway Timeout", "The server failed to answer this request in time."),
}
"""Title and detail by status: all that a client is told (RFC 9457)."""


def refusal(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The headers and body of the answer with that status, after which the connection is closed."""
    title, detail = REFUSALS[status]
    body = msgspec.json.encode({"title": title, "status": status, "detail": detail})
    headers = [
        ("content-type", MEDIA_TYPE),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        ("connection", "close"),
        *SECURITY_HEADERS,
    ]
    if status in (429, 503):
        headers.append(("retry-after", RETRY_AFTER))
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers], body
