"""Decides whether a browser sent a request on behalf of another site. Pure; leaves to `credentials` when to ask.

The decision follows what browsers say of themselves and never what a client can pick freely: `Sec-Fetch-Site` (W3C
Fetch Metadata) where it is sent, else `Origin` (RFC 6454) against the configured origins. `Host` plays no part.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv6Address
from urllib.parse import urlsplit

from coatcheck.errors import UsageError

__all__ = ["SAFE_METHODS", "is_cross_site", "is_foreign_origin", "normalise_origins"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that promise to change nothing (RFC 9110, section 9.2.1)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
# Python's codec follows IDNA 2003, in which these vanish or become others; browsers keep them (UTS 46, section 7). What
# would be allowed then is somebody else's name.
_DEVIATIONS = frozenset("ßς\u200c\u200d")


def normalise_origins(origins: Iterable[str]) -> frozenset[bytes]:
    """Give origins as browsers write them: `scheme://host[:port]`, lower case, without default port or path.

    Raises UsageError for what is not an http or https origin.
    """
    result: set[bytes] = set()
    for origin in origins:
        try:
            result.add(_normalise(origin))
        except ValueError as error:
            raise UsageError(
                f"{origin!r} is no origin ({error}): write scheme://host or scheme://host:port, as https://app.example"
            ) from error
    return frozenset(result)


def _normalise(origin: str) -> bytes:
    parts = urlsplit(origin)
    port = parts.port
    host = parts.hostname
    # urlsplit drops the tab and line breaks that it finds; whatever is left must be the origin and nothing else.
    if (
        parts.scheme not in _DEFAULT_PORTS
        or not host
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ValueError("not scheme, host and port alone")
    suffix = "" if port is None or port == _DEFAULT_PORTS[parts.scheme] else f":{port}"
    return f"{parts.scheme}://{_shown(host)}{suffix}".encode("ascii")


def _shown(host: str) -> str:
    if ":" in host:
        address = IPv6Address(host)
        if address.scope_id is not None:
            raise ValueError("an address with a zone is no browser's origin")
        return f"[{address.compressed}]"
    if not _DEVIATIONS.isdisjoint(host):
        raise ValueError("write this name in its ASCII form, xn--…")
    shown = host.encode("idna").decode("ascii")
    if not _HOST.fullmatch(shown):
        raise ValueError("not a host name")
    return shown


def is_foreign_origin(origin: bytes | None, allowed: frozenset[bytes]) -> bool:
    """Tell whether `Origin` names a site that is not ours. `null` is nobody's; an absent header comes from no browser."""
    return origin is not None and origin not in allowed


def is_cross_site(fetch_site: bytes | None, origin: bytes | None, allowed: frozenset[bytes]) -> bool:
    """Tell whether an unsafe request was caused by another site.

    `Sec-Fetch-Site: same-origin` and `none` (typed by the user) pass; else a present `Origin` must be one of
    `allowed`; with neither header the request passes, since no browser sends such a one.
    """
    if fetch_site in (b"same-origin", b"none"):
        return False
    if origin is None:
        # A browser that says "cross-site" or "same-site" and withholds the origin gets no benefit of the doubt.
        return fetch_site is not None
    return origin not in allowed
