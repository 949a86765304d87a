"""What a probe may do and for how long: the options, checked when they are made. Leaves the URL to `target`."""

import re
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from coatcheck.probe.errors import ProbeUsageError

__all__ = ["VERSIONS", "WEBSOCKETS", "Options", "Selection", "Version"]

Version: TypeAlias = Literal["h1.0", "h1.1", "h2", "h3"]
"""An HTTP version, as it is named in options and reports."""

Selection: TypeAlias = Literal["h1.0", "h1.1", "h2", "h3", "ws"]
"""What can be left out or chosen: a version, or WebSockets over all that carry them."""

VERSIONS: tuple[Version, ...] = get_args(Version)
WEBSOCKETS: tuple[Version, ...] = ("h1.1", "h2", "h3")
"""The versions that carry WebSockets: RFC 6455, RFC 8441, RFC 9220."""

_MOST_REQUESTS = 1000
_MOST_AT_ONCE = 100
_LONGEST_IDLE = 3600.0
_LONGEST_TIMEOUT = 300.0

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile(r"[\x20-\x7e\x80-\xff\t]*")
_COOKIE_VALUE = re.compile(r"[\x21-\x3a\x3c-\x7e]*")
_OURS = frozenset(
    ("connection", "content-length", "cookie", "host", "keep-alive", "proxy-connection", "te", "trailer", "upgrade")
) | {"transfer-encoding"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How much to ask of a server. Every refusal is a ProbeUsageError that says what to change."""

    requests: int = 20
    """Requests in turn over each version, and at most as many more at once (`concurrency`)."""
    concurrency: int = 10
    """How many requests to send at once; 1 leaves that part out, so that no version gets more than `requests`."""
    only: tuple[Selection, ...] = get_args(Selection)
    idle: float | None = None
    """Seconds to wait for the server to close what is idle; None: not at all."""
    insecure: bool = False
    """Measure although the certificate cannot be trusted."""
    ca: Path | None = None
    """A file of certificate authorities, PEM, to trust in place of the system's."""
    headers: tuple[tuple[str, str], ...] = ()
    cookies: tuple[tuple[str, str], ...] = ()
    head: bool = False
    """Send HEAD in place of GET."""
    follow: bool = False
    """Follow redirects to other hosts, too."""
    websocket_path: str | None = None
    """Where to try WebSockets; None: at the URL itself."""
    timeout: float = 10.0
    """Seconds that connecting, each handshake and each response may take."""

    def __post_init__(self) -> None:
        if not 1 <= self.requests <= _MOST_REQUESTS:
            raise ProbeUsageError(f"requests must be from 1 to {_MOST_REQUESTS}, not {self.requests}")
        if not 1 <= self.concurrency <= _MOST_AT_ONCE:
            raise ProbeUsageError(f"concurrency must be from 1 to {_MOST_AT_ONCE}, not {self.concurrency}")
        known = get_args(Selection)
        if not self.only or any(each not in known for each in self.only):
            wrong = ", ".join(each for each in self.only if each not in known) or "nothing"
            raise ProbeUsageError(f"cannot probe {wrong}: choose from {', '.join(known)}")
        # Not "or": NaN compares false with everything, and must be refused too.
        if self.idle is not None and not 0 < self.idle <= _LONGEST_IDLE:
            raise ProbeUsageError(f"idle must be up to {_LONGEST_IDLE:.0f} seconds, not {self.idle:g}")
        if not 0 < self.timeout <= _LONGEST_TIMEOUT:
            raise ProbeUsageError(f"timeout must be up to {_LONGEST_TIMEOUT:.0f} seconds, not {self.timeout:g}")
        if self.insecure and self.ca is not None:
            raise ProbeUsageError("choose either insecure or ca: one trusts anybody, the other a file")
        for name, value in self.headers:
            _check_header(name, value)
        for name, value in self.cookies:
            if not _TOKEN.fullmatch(name) or not _COOKIE_VALUE.fullmatch(value):
                raise ProbeUsageError(f"{name!r} is no cookie: write name=value, without spaces and semicolons")
        path = self.websocket_path
        if path is not None and not (path.startswith("/") and re.fullmatch(r"[\x21-\x7e]*", path) and "#" not in path):
            raise ProbeUsageError(f"the WebSocket path {path!r} must begin with / and hold no spaces")

    def wants(self, what: Selection) -> bool:
        """Whether that was asked for."""
        return what in self.only


def _check_header(name: str, value: str) -> None:
    if not _TOKEN.fullmatch(name):
        raise ProbeUsageError(f"{name!r} is no header name: write 'Name: value'")
    if not _FIELD_VALUE.fullmatch(value):
        raise ProbeUsageError(f"the value of header {name} must be one line of Latin-1 characters")
    if name.lower() in _OURS:
        mend = "use --cookie name=value" if name.lower() == "cookie" else "it is what is being measured"
        raise ProbeUsageError(f"header {name} cannot be set: {mend}")
