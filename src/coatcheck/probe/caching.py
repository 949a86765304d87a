"""Whether a cache between client and server could store a response, and hand it to somebody else (RFC 9111). Pure."""

import re
from typing import Literal, TypeAlias

import msgspec

from coatcheck.probe.exchange import Response

__all__ = ["Caching", "Storable", "judge_caching"]

Storable: TypeAlias = Literal["no", "guessing", "yes"]
"""Whether a shared cache may: not; where it guesses for how long (section 4.2.2); as the server says."""

_GUESSED = frozenset((200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses that a cache may store without being told (RFC 9110, section 15.1)."""
_DIRECTIVE = re.compile(r"""\s*([\w-]+)(?:\s*=\s*("[^"]*"|[^\s,]*))?\s*(?:,|$)""")


class Caching(msgspec.Struct, frozen=True, kw_only=True):
    """What caches may do with the response."""

    cache_control: str | None
    vary: str | None
    shared: Storable
    """A cache that many people share: a proxy, a CDN."""
    sets_cookie: bool
    words: str


def judge_caching(response: Response, *, authorized: bool) -> Caching:
    """Read the response to a GET. `authorized`: the request had an Authorization header (section 3.5)."""
    said = response.value("cache-control")
    directives = _directives(said or "")
    age = directives.get("s-maxage") or directives.get("max-age")
    fresh = (age is not None and age.isdigit() and int(age) > 0) or (
        age is None and bool(response.value("expires")) and "no-cache" not in directives
    )
    allowed = "public" in directives or "s-maxage" in directives or "must-revalidate" in directives
    shared: Storable
    forbidden = "no-store" in directives or "private" in directives
    if forbidden or response.value("vary") == "*" or (authorized and not allowed):
        shared = "no"
    elif fresh or "public" in directives:
        shared = "yes"
    elif (
        response.status in _GUESSED and age is None and "no-cache" not in directives and response.value("last-modified")
    ):
        shared = "guessing"
    else:
        shared = "no"
    return Caching(
        cache_control=said,
        vary=response.value("vary"),
        shared=shared,
        sets_cookie=bool(response.values("set-cookie")),
        words=_words(shared, directives),
    )


def _words(shared: Storable, directives: dict[str, str]) -> str:
    if shared == "yes":
        return "A shared cache may store the response and give it to others."
    if shared == "guessing":
        return (
            "Nothing is said about caching, so that a shared cache may store the response for as long as it thinks fit."
        )
    if "no-store" in directives:
        return "No cache may store the response (no-store)."
    if "private" in directives:
        return "Only the browser's own cache may store the response (private)."
    return "A shared cache has no reason to use a stored response without asking the server."


def _directives(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _DIRECTIVE.match(text, position)
        if match is None or match.end() == position:
            break
        found.setdefault(match[1].lower(), (match[2] or "").strip('"'))
        position = match.end()
    return found
