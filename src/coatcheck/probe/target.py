"""Which server is meant: a URL taken apart, its name looked up, and where a redirect leads. Leaves connecting to others."""

import asyncio
import ipaddress
import re
import socket
from time import perf_counter
from typing import Literal, NamedTuple
from urllib.parse import urljoin, urlsplit

import msgspec

from coatcheck.probe.errors import ProbeUsageError, Unreachable
from coatcheck.probe.words import printable

__all__ = ["Endpoint", "Resolved", "Target", "is_loopback", "look_up", "parse_target", "redirect_target"]

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_PATH = re.compile(r"/[\x21-\x22\x24-\x7e]*")


class Endpoint(NamedTuple):
    """An IP address and a port, of TCP or UDP."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart. `host` is a name, or an IP address without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str
    """Path and query, as they stand in a request."""
    websocket: bool = False
    """The URL's scheme was ws or wss."""

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme == "https"

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP address, which is never looked up and never sent as a TLS server name."""
        return _address(self.host) is not None

    @property
    def authority(self) -> str:
        """The host, and the port where it is not the scheme's own: what stands in Host and `:authority`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        """Scheme, host and port (RFC 6454)."""
        return f"{self.scheme}://{self.authority}"

    @property
    def shown(self) -> str:
        """The URL as reports show it: without the query, in which people put secrets."""
        path, question, _ = self.path.partition("?")
        return f"{self.origin}{path}{question and '?…'}"


class Resolved(NamedTuple):
    """What the name was found to stand for, in the order in which to try, and how long that took."""

    addresses: tuple[str, ...]
    milliseconds: float


def parse_target(url: str) -> Target:
    """Take a URL apart. Raises ProbeUsageError, which says what to write."""
    text = url.strip()
    if "://" not in text:
        raise ProbeUsageError(f"{printable(url)!r} is no URL: write https://host/path, or http://host:port/path")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ProbeUsageError(f"{printable(url)!r} is no URL: its host or port cannot be read") from None
    if parts.scheme not in _SCHEMES:
        raise ProbeUsageError(f"the scheme {printable(parts.scheme)!r} is none of http, https, ws and wss")
    if parts.username is not None or parts.password is not None:
        raise ProbeUsageError("a user name or password in the URL is not sent: use --header 'authorization: …'")
    host = _host(parts.hostname or "", url)
    if port == 0:
        raise ProbeUsageError("port 0 cannot be connected to")
    scheme = "https" if _SCHEMES[parts.scheme] == "https" else "http"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not _PATH.fullmatch(path):
        raise ProbeUsageError(f"the path {printable(path)!r} must be percent-encoded: visible ASCII, without spaces")
    return Target(
        scheme=scheme,
        host=host,
        port=port or _PORTS[scheme],
        path=path,
        websocket=parts.scheme in ("ws", "wss"),
    )


def redirect_target(target: Target, location: str) -> Target | None:
    """Where a response's Location leads (RFC 9110, section 10.2.2); None if nobody can follow it."""
    try:
        return parse_target(urljoin(target.origin + target.path, location.strip()).partition("#")[0])
    except (ProbeUsageError, ValueError):
        return None


async def look_up(target: Target, port: int | None = None) -> Resolved:
    """Look the host up. Raises Unreachable if there is no such name."""
    began = perf_counter()
    if target.is_address:
        return Resolved((target.host,), 0.0)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            target.host, port or target.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except socket.gaierror as error:
        if error.errno == getattr(socket, "EAI_AGAIN", None):
            raise Unreachable(f"the name {target.host} cannot be looked up: no name server answers", "name") from None
        raise Unreachable(f"the name {target.host} was not found", "name") from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(f"the name {target.host} cannot be looked up: {printable(str(error))}", "name") from None
    addresses = tuple(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    return Resolved(addresses, 1000 * (perf_counter() - began))


def is_loopback(address: str) -> bool:
    """Whether nothing that is sent to this address leaves the machine."""
    known = _address(address)
    return known is not None and known.is_loopback


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _host(host: str, url: str) -> str:
    if not host:
        raise ProbeUsageError(f"{printable(url)!r} names no host")
    if _address(host) is not None:
        return host
    try:
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise ProbeUsageError(f"{printable(host)!r} is no host name") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.removesuffix(".").split(".")):
        raise ProbeUsageError(f"{printable(host)!r} is no host name")
    return host
