"""Reads Alt-Svc: where a server says that HTTP/3 is to be found (RFC 7838). Pure."""

import re
from typing import NamedTuple

__all__ = ["Alternative", "find_h3"]

_ENTRY = re.compile(r"""\s*([^\s=;,"]+)\s*=\s*"([^"]*)"((?:\s*;\s*[^\s=;,]+\s*=\s*(?:"[^"]*"|[^\s;,"]+))*)\s*(?:,|$)""")
_MAX_AGE = re.compile(r";\s*ma\s*=\s*\"?(\d+)", re.IGNORECASE)
_DAY = 86400


class Alternative(NamedTuple):
    """One alternative service for HTTP/3."""

    host: str
    """Empty: the same host."""
    port: int
    max_age: int
    """Seconds for which a client may rely on it."""


def find_h3(header: str) -> Alternative | None:
    """The first alternative that is HTTP/3; None if there is none, or the header says `clear`."""
    position = 0
    while position < len(header):
        entry = _ENTRY.match(header, position)
        if entry is None:
            return None
        position = entry.end()
        protocol, authority, parameters = entry.groups()
        host, colon, port = authority.rpartition(":")
        if protocol != "h3" or not colon or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            continue
        age = _MAX_AGE.search(parameters)
        return Alternative(host.strip("[]"), int(port), int(age[1]) if age else _DAY)
    return None
