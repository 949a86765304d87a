"""Decides whether a browser sent a request on behalf of another site. Pure; leaves to `credentials` when to ask.

The decision follows what browsers say of themselves and never what a client can pick freely: `Sec-Fetch-Site` (W3C
Fetch Metadata) where it is sent, else `Origin` (RFC 6454) against the configured origins. `Host` plays no part.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from coatcheck.errors import UsageError

__all__ = ["SAFE_METHODS", "is_cross_site", "is_foreign_origin", "normalise_origins"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that promise to change nothing (RFC 9110, section 9.2.1)."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


def normalise_origins(origins: Iterable[str]) -> frozenset[bytes]:
    """Give origins as browsers write them: `scheme://host[:port]`, lower case, without default port or path.

    Raises UsageError for what is not an http or https origin.
    """
    result: set[bytes] = set()
    for origin in origins:
        parts = urlsplit(origin)
        try:
            port = parts.port
        except ValueError:
            port = -1
        host = parts.hostname
        # urlsplit drops the tab and line breaks that it finds; whatever is left must be the origin and nothing else.
        if (
            parts.scheme not in _DEFAULT_PORTS
            or not host
            or port == -1
            or parts.path not in ("", "/")
            or parts.query
            or parts.fragment
            or "@" in parts.netloc
        ):
            raise UsageError(
                f"{origin!r} is no origin: write scheme://host or scheme://host:port, as https://app.example"
            )
        shown = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
        suffix = "" if port is None or port == _DEFAULT_PORTS[parts.scheme] else f":{port}"
        result.add(f"{parts.scheme}://{shown}{suffix}".encode("ascii"))
    return frozenset(result)


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
