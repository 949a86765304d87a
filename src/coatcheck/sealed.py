"""Sealed cookies: small values that belong in the client, encrypted, so that it can neither read nor change them.

For what a server need not remember: a device it has seen, preferences, consent. Not for sessions: a sealed cookie cannot
be taken back, and an old copy of it opens until it is too old. Needs the extra `sealed`. Leaves to others which values
mean what.

A cookie's value is base64url of `version (1 byte) · key id (4) · nonce (12) · AES-256-GCM of (issue time (8) · msgpack)`,
with version, key id and the cookie's name as additional authenticated data (NIST SP 800-38D). Nonces are random, so one
key may seal 2³² values, all cookies under it together, before two of them are at all likely to share one (section 8.3);
replace a key long before that. An attacker learns the length of a value, and nothing else.
"""

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from coatcheck.clock import Clock, SystemClock
from coatcheck.cookies import MAX_COOKIE_BYTES, CookiePolicy, find_cookie
from coatcheck.errors import MissingDependency, UsageError
from coatcheck.ids import encode
from coatcheck.values import decode_value, encode_value

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "FUTURE_SKEW",
    "KEY_BYTES",
    "SealedCookie",
    "SealedCookieTooLarge",
    "SealedKeyError",
    "looks_random",
    "new_key",
]

KEY_BYTES = 32
FUTURE_SKEW = 60.0
"""Seconds by which another machine's clock may be ahead of this one's."""

_VERSION = b"\x01"
_KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16
_TIME_BYTES = 8
_HEADER_BYTES = len(_VERSION) + _KEY_ID_BYTES
_LEAST_BYTES = _HEADER_BYTES + _NONCE_BYTES + _TIME_BYTES + 1 + _TAG_BYTES
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]+")
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]*")
# Of 32 random bytes so few are distinct once in 10¹⁵ keys.
_LEAST_DISTINCT = 16


class SealedKeyError(UsageError, ValueError):
    """A key that would not protect. The message says which one by its position, and never shows it."""


class SealedCookieTooLarge(UsageError, ValueError):
    """A value whose sealed form no browser would keep. Nothing was set."""


def new_key() -> bytes:
    """Give a new key: 32 bytes from the operating system's generator. Keep it where only the server can read it."""
    return secrets.token_bytes(KEY_BYTES)


def looks_random(key: bytes) -> bool:
    """Tell whether 32 bytes or more might be random ones: not text, nor a pattern. What was guessed well it cannot tell."""
    steps = {(after - before) % 256 for before, after in pairwise(key)}
    return not _TEXT.fullmatch(key) and min(len(set(key)), len(steps)) >= _LEAST_DISTINCT


class SealedCookie:
    """One cookie whose values only the holders of its keys can read or make.

    - `policy`: the cookie's name and attributes. The name is part of the seal: what was sealed for one cookie does not
      open as another, so several cookies may share their keys.
    - `keys`: of 32 bytes each, as `new_key` gives them. The first one seals, all of them open: to rotate, put a new key
      first and drop the old one once `max_age` has passed.
    - `max_age`: seconds for which a sealed value holds. The browser is told so, and `open` enforces it.

    Raises SealedKeyError for weak keys, UsageError for a `max_age` below 1, MissingDependency without the extra
    `sealed`. Use it from any thread.
    """

    __slots__ = ("_clock", "_keys", "_name", "_sealing", "max_age", "policy")

    def __init__(
        self, policy: CookiePolicy, keys: Sequence[bytes], *, max_age: int, clock: Clock | None = None
    ) -> None:
        if max_age < 1:
            raise UsageError(
                f"max_age={max_age!r} must be a positive number of seconds: a sealed cookie cannot be taken back"
            )
        self.policy: CookiePolicy = policy
        self.max_age: int = max_age
        self._name = policy.name.encode("ascii")
        self._clock: Clock = SystemClock() if clock is None else clock
        self._keys = _ciphers(keys)
        self._sealing: bytes = next(iter(self._keys))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.policy.name}>"

    def seal(self, value: object) -> bytes:
        """Give the Set-Cookie header's value that carries `value`: JSON's types, bytes, and datetime with a time zone.

        Raises TypeError for what would not come back equal, and for None, which is what an absent cookie reads as;
        SealedCookieTooLarge beyond 4096 bytes of name and value.
        """
        if value is None:
            raise TypeError(
                f"None cannot be sealed into the cookie {self.policy.name}: it reads as absent; use delete()"
            )
        issued = int(self._clock.time() * 1000).to_bytes(_TIME_BYTES, "big", signed=True)
        plain = issued + self._encode(value)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        header = _VERSION + self._sealing
        text = encode(header + nonce + self._keys[self._sealing].encrypt(nonce, plain, header + self._name))
        size = len(self._name) + len(text)
        if size > MAX_COOKIE_BYTES:
            raise SealedCookieTooLarge(
                f"the sealed cookie {self.policy.name} would take {size} bytes, name and value together, and browsers keep "
                f"{MAX_COOKIE_BYTES} at most: seal less, or keep it in the session"
            )
        return self.policy.set_cookie(text, max_age=self.max_age)

    def open(self, source: object) -> Any:
        """Give the value that a request carries, or None where it carries none that holds.

        `source` is a request or WebSocket of Starlette, FastAPI or Litestar, an ASGI scope, or a Cookie header (or None
        where there is none). A value that was tampered with, sealed for another cookie or under a key that is not among
        ours, or is older than `max_age` reads as absent; and so do two cookies of our name.
        """
        header = _cookie_header(source)
        sealed = None if header is None else find_cookie(header, self._name)
        if sealed is None:
            return None
        plain = self._decrypt(sealed)
        if plain is None:
            return None
        age = self._clock.time() - int.from_bytes(plain[:_TIME_BYTES], "big", signed=True) / 1000
        if not -FUTURE_SKEW <= age < self.max_age:
            return None
        return decode_value(plain[_TIME_BYTES:])

    def delete(self) -> bytes:
        """Give the Set-Cookie header's value that makes the browser forget the cookie. Copies of it still open."""
        return self.policy.delete_cookie()

    def _encode(self, value: object) -> bytes:
        name = self.policy.name
        try:
            return encode_value(name, value)
        except TypeError as error:
            # Values are judged as those of sessions are; only what they are said to be in is another thing.
            reason = str(error).replace(f"session[{name!r}]", "it", 1).replace("Sessions hold", "Sealed cookies hold")
            raise TypeError(f"a value cannot be sealed into the cookie {name}: {reason}") from None

    def _decrypt(self, text: bytes) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        sealed = _decode(text)
        if sealed is None:
            return None
        header, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        cipher = self._keys.get(header[len(_VERSION) :])
        if cipher is None or not header.startswith(_VERSION):
            return None
        try:
            return cipher.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], header + self._name)
        except InvalidTag:
            return None


def _ciphers(keys: Sequence[bytes]) -> "dict[bytes, AESGCM]":
    """Each key's cipher under the key's id, in order."""
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise MissingDependency("cryptography", "sealed", "coatcheck.sealed") from error
    if not keys:
        raise SealedKeyError("a sealed cookie needs a key: make one with coatcheck.sealed.new_key() and keep it")
    ciphers: dict[bytes, AESGCM] = {}
    for number, key in enumerate(keys, 1):
        _check_key(number, key)
        # Found by its id a key is picked at once. The id is public, and tells nothing of 256 random bits.
        key_id = hashlib.sha256(b"coatcheck sealed key id\0" + key).digest()[:_KEY_ID_BYTES]
        if key_id in ciphers:
            raise SealedKeyError(f"key {number} is given twice, or cannot be told from another: leave it out")
        ciphers[key_id] = AESGCM(key)
    return ciphers


def _check_key(number: int, key: object) -> None:
    mend = "make one with coatcheck.sealed.new_key()"
    if type(key) is not bytes:
        raise SealedKeyError(f"key {number} is a {type(key).__qualname__} and not bytes: {mend}")
    if len(key) != KEY_BYTES:
        raise SealedKeyError(f"key {number} has {len(key)} bytes and not {KEY_BYTES}: {mend}")
    if _TEXT.fullmatch(key):
        raise SealedKeyError(f"key {number} is text, which can be guessed: {mend}")
    if not looks_random(key):
        raise SealedKeyError(f"key {number} is not random: {mend}")


def _decode(text: bytes) -> bytes | None:
    """The bytes of base64url text; None for what `encode` would not have written so."""
    if len(text) > MAX_COOKIE_BYTES or not _BASE64URL.fullmatch(text) or len(text) % 4 == 1:
        return None
    data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    # The last character has bits to spare: changing them alone would be tampering that goes unnoticed.
    if len(data) < _LEAST_BYTES or encode(data).encode("ascii") != text:
        return None
    return data


def _cookie_header(source: object) -> bytes | None:
    """The Cookie header of a request; the crumbs of HTTP/2 together (RFC 9113, section 8.2.3)."""
    if source is None or isinstance(source, bytes):
        return source
    if isinstance(source, str):
        return source.encode("latin-1", "replace")
    scope: object = getattr(source, "scope", source)
    headers = cast("Mapping[str, object]", scope).get("headers") if isinstance(scope, Mapping) else None
    if headers is None:
        raise UsageError(
            f"a {type(source).__qualname__} has no cookies: give a request, an ASGI scope, or a Cookie header"
        )
    crumbs = [value for name, value in cast("list[tuple[bytes, bytes]]", headers) if name.lower() == b"cookie"]
    return b"; ".join(crumbs) or None
