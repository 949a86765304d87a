"""Reads cookies from request headers and writes Set-Cookie headers (RFC 6265bis). No I/O; leaves to others what a value means."""

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from coatcheck.errors import CookiePolicyError

__all__ = ["MAX_COOKIE_BYTES", "CookiePolicy", "SameSite", "find_cookie", "parse_cookies"]

SameSite = Literal["lax", "strict", "none"]

MAX_COOKIE_BYTES = 4096
"""Browsers keep no cookie whose name and value together are longer (RFC 6265bis, section 5.6)."""

_TOKEN_CHARS = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE_CHARS = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*")
_PATH_CHARS = re.compile(r"/[\x20-\x3a\x3c-\x7e]*")
_DOMAIN_CHARS = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?")
_EXPIRED = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


def find_cookie(header: bytes, name: bytes) -> bytes | None:
    """Give the value of the only cookie called `name` in one Cookie header; None if absent or not alone.

    Two cookies of one name count as none: a browser sends both when an attacker on a sibling host or path planted
    the second, and nothing tells which is ours (RFC 6265bis, section 8.6).
    """
    found: bytes | None = None
    for pair in header.split(b";"):
        key, equals, value = pair.partition(b"=")
        if equals and key.lstrip(b" \t") == name:
            if found is not None:
                return None
            found = value.strip(b" \t")
    return found


def parse_cookies(headers: Iterable[bytes]) -> list[tuple[str, str]]:
    """Give every cookie of a request in order, duplicates included (RFC 6265bis, section 4.2).

    HTTP/2 and HTTP/3 may split the Cookie header into crumbs (RFC 9113, section 8.2.3): pass all of them.
    """
    cookies: list[tuple[str, str]] = []
    for header in headers:
        for pair in header.split(b";"):
            key, equals, value = pair.partition(b"=")
            if equals:
                cookies.append((key.lstrip(b" \t").decode("latin-1"), value.strip(b" \t").decode("latin-1")))
    return cookies


class CookiePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How the session cookie is named and fenced in. Checked when made; each refusal says what to change.

    The default is the strictest that a session cookie can be: `__Host-session; Path=/; Secure; HttpOnly;
    SameSite=Lax`. A `__Host-` cookie can only be set over TLS by the very host that reads it (RFC 6265bis,
    section 4.1.3.2).
    """

    name: str = "__Host-session"
    secure: bool = True
    http_only: bool = True
    same_site: SameSite = "lax"
    path: str = "/"
    domain: str | None = None

    def __post_init__(self) -> None:
        if not _TOKEN_CHARS.fullmatch(self.name):
            raise CookiePolicyError(
                f"cookie name {self.name!r} is not a token (RFC 9110, section 5.6.2): use letters, digits, - and _"
            )
        if not _PATH_CHARS.fullmatch(self.path):
            raise CookiePolicyError(f"cookie path {self.path!r} must start with / and hold no ; or control characters")
        if self.domain is not None and not _DOMAIN_CHARS.fullmatch(self.domain):
            raise CookiePolicyError(f"cookie domain {self.domain!r} is not a host name such as example.com")
        if self.same_site not in ("lax", "strict", "none"):
            raise CookiePolicyError(f"same_site={self.same_site!r} is none of 'lax', 'strict' and 'none'")
        if self.same_site == "none" and not self.secure:
            raise CookiePolicyError("same_site='none' needs secure=True: browsers drop such a cookie otherwise")
        # Browsers compare the prefixes without regard to case (RFC 6265bis, section 5.4).
        prefix = self.name.lower()
        if prefix.startswith(("__host-", "__secure-", "__http-")) and not self.secure:
            raise CookiePolicyError(f"the name {self.name!r} promises secure=True: set it, or drop the prefix")
        if prefix.startswith(("__http-", "__host-http-")) and not self.http_only:
            raise CookiePolicyError(f"the name {self.name!r} promises http_only=True: set it, or drop the prefix")
        if prefix.startswith("__host-") and (self.domain is not None or self.path != "/"):
            raise CookiePolicyError(
                f"the name {self.name!r} promises path='/' and no domain: keep to that, or use the prefix __Secure-"
            )
        if len(self.name) + 66 > MAX_COOKIE_BYTES:
            raise CookiePolicyError(
                f"the cookie would take {len(self.name) + 66} bytes and browsers keep {MAX_COOKIE_BYTES}: shorten its name"
            )

    def set_cookie(self, value: str, *, max_age: int | None) -> bytes:
        """Give the Set-Cookie header's value. `max_age` in seconds; None makes it end with the browser's session."""
        if not _VALUE_CHARS.fullmatch(value):
            raise ValueError(
                "a cookie value holds only visible ASCII without quotes, commas, semicolons and backslashes"
            )
        if len(self.name) + len(value) > MAX_COOKIE_BYTES:
            raise ValueError(
                f"cookie {self.name} would take {len(self.name) + len(value)} bytes and browsers keep {MAX_COOKIE_BYTES}"
            )
        lifetime = "" if max_age is None else f"; Max-Age={max_age}"
        return f"{self.name}={value}{lifetime}{self._attributes()}".encode("ascii")

    def delete_cookie(self) -> bytes:
        """Give the Set-Cookie value that makes the browser forget the cookie."""
        return f"{self.name}=; {_EXPIRED}{self._attributes()}".encode("ascii")

    def _attributes(self) -> str:
        parts = [f"; Path={self.path}"]
        if self.domain is not None:
            parts.append(f"; Domain={self.domain}")
        if self.secure:
            parts.append("; Secure")
        if self.http_only:
            parts.append("; HttpOnly")
        parts.append(f"; SameSite={self.same_site.capitalize()}")
        return "".join(parts)
