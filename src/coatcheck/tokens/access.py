"""Access tokens: JWTs by RFC 9068, checked as RFC 8725 asks. Leaves signatures to joserfc, sessions to the manager.

A token is bound to its session by `sid` and to the session's secret by its generation. Verifying tells that it was
issued here and has not run out; whether its session lives is for whoever has a store, or a feed of revocations.
"""

import base64
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import msgspec
from joserfc import jws
from joserfc.errors import JoseError

from coatcheck.clock import Clock
from coatcheck.errors import TokenRefused
from coatcheck.ids import encode, is_id
from coatcheck.record import SessionRecord
from coatcheck.tokens.keys import KeyRing

__all__ = ["AccessClaims", "AccessTokens", "parse_claims", "parse_header", "verified_payload"]

MAX_TOKEN = 8192
"""Characters in a token, at most. Ours have about 600."""
TYPE = "at+jwt"
LEEWAY = 30.0
"""Seconds by which other machines' clocks may differ, in their favour, for `exp` and `iat`. Our own have none."""

_SEGMENTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_HEADER = frozenset({"alg", "typ", "kid"})
_CACHED = 10_000
_TAIL = 32
"""So many characters of a signature tell verified tokens apart: 192 bits."""
_LOOK_AGAIN = 0.1
"""Seconds within which the ring is not even asked whether it is time to look at its storage."""
_PARSE_DEPTH_ERRORS = (RecursionError, ValueError)


class AccessClaims(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a token says (RFC 9068, section 2.2). Times in seconds since 1970."""

    iss: str
    sub: str
    aud: tuple[str, ...]
    exp: float
    iat: float
    jti: str
    sid: str
    gen: int
    """The generation of the session's secret under which it was issued."""
    auth_time: float | None = None
    amr: tuple[str, ...] = ()
    client_id: str | None = None


class AccessTokens:
    """Issues tokens for sessions, and verifies them.

    - `issuer`: our own URL, `iss`
    - `audience`: what our API answers to; tokens for others are refused here
    - `lifetime`: seconds that a token is good for (300); not more than the ring's `token_lifetime`

    Verified tokens are remembered by the whole token, never beyond `exp`, and forgotten when the ring changes: a warm
    verification is one look-up.
    """

    def __init__(self, keys: KeyRing, *, issuer: str, audience: str, lifetime: float = 300.0) -> None:
        if not 0 < lifetime <= keys.token_lifetime:
            raise ValueError(f"lifetime={lifetime!r} must lie between 0 and the ring's token_lifetime")
        self.keys = keys
        self.issuer = issuer
        self.audience = audience
        self.lifetime = lifetime
        self._clock: Clock = keys.clock
        self._verified: OrderedDict[str, tuple[str, AccessClaims]] = OrderedDict()
        self._seen_changes = keys.changes
        self._looked = float("-inf")

    def issue(self, record: SessionRecord, *, audience: str | None = None) -> tuple[str, int]:
        """Give a token for a session, and for how many seconds it is good.

        It never outlives the session. Raises ValueError for a session that is nobody's.
        """
        if record.user_id is None:
            raise ValueError("an access token needs somebody who is logged in")
        key, private = self.keys.signing()
        now = int(self._clock.time())
        lifetime = int(min(self.lifetime, record.expires_at - now))
        claims: dict[str, object] = {
            "iss": self.issuer,
            "sub": record.user_id,
            "aud": audience or self.audience,
            "exp": now + lifetime,
            "iat": now,
            "jti": encode(secrets.token_bytes(16)),
            "sid": record.id,
            "gen": record.generation,
            "amr": methods(record.about),
            "client_id": "coatcheck",
        }
        if record.authenticated_at is not None:
            claims["auth_time"] = int(record.authenticated_at)
        header = {"alg": key.alg, "typ": TYPE, "kid": key.kid}
        token = jws.serialize_compact(header, msgspec.json.encode(claims), private, algorithms=[key.alg])
        return token, lifetime

    def verify(self, token: str, *, audience: str | None = None) -> AccessClaims:
        """Give the claims of a token that we issued for `audience` (our own) and that has not run out.

        Raises TokenRefused for everything else, whatever it is.
        """
        now = self._clock.time()
        if not 0.0 <= now - self._looked < _LOOK_AGAIN:  # a clock that steps makes it look, never leave off
            self._looked = now
            self.keys.look()
        if self.keys.changes != self._seen_changes:
            self._forget()
        # Looked up by its end and compared whole: to hash all of a token that has just come in takes as long as the look-up.
        tail = token[-_TAIL:]
        known = self._verified.get(tail)
        if known is not None and known[0] == token:
            claims = known[1]
        else:
            claims = self._check(token)
            if self.keys.changes != self._seen_changes:
                self._forget()  # to find this token's key, the ring has looked
            while len(self._verified) >= _CACHED:
                self._verified.popitem(last=False)
            self._verified[tail] = (token, claims)
        if now >= claims.exp:
            self._verified.pop(tail, None)
            raise TokenRefused("it has run out")
        if (audience or self.audience) not in claims.aud:
            raise TokenRefused("it is for another audience")
        return claims

    def _forget(self) -> None:
        """The ring has changed: what was verified may have been so by a key that is not believed any more."""
        self._seen_changes = self.keys.changes
        self._verified.clear()

    def _check(self, token: str) -> AccessClaims:
        header = parse_header(token)
        found = self.keys.verifying(header["kid"])
        if found is None:
            raise TokenRefused("its key is unknown")
        key, public = found
        claims = parse_claims(verified_payload(token, header, key.alg, public))
        if claims.iss != self.issuer:
            raise TokenRefused("it is from another issuer")
        if claims.iat > self._clock.time() + 1.0:
            raise TokenRefused("it is not valid yet")
        return claims


def methods(about: Mapping[str, str]) -> list[str]:
    """Give how a session was authenticated, by the names of RFC 8176."""
    # A passkey: a key that was shown to be held, by somebody whom the device has verified, which makes two factors.
    named = {"password": ["pwd"], "passkey": ["pop", "user", "mfa"], "recovery-code": ["otp"]}
    return named.get(about.get("method", ""), [])


def parse_header(token: str) -> dict[str, str]:
    """Read a token's header, before anything in it is believed. Raises TokenRefused."""
    if len(token) > MAX_TOKEN:
        raise TokenRefused("it is too long")
    if _SEGMENTS.fullmatch(token) is None:
        raise TokenRefused("it is no JWS in compact form")
    header = _json(token.partition(".")[0])
    # Only what we put there: no jwk, jku, x5u or x5c to take a key from, no crit, no b64, no zip (RFC 8725, 3.1 to 3.10).
    if set(header) - _HEADER:
        raise TokenRefused("its header has members that it must not have")
    if not all(isinstance(header.get(name), str) for name in _HEADER):
        raise TokenRefused("its header lacks alg, typ or kid")
    if header["typ"].lower().removeprefix("application/") != TYPE:
        raise TokenRefused("it is of another type")
    return cast("dict[str, str]", header)


def verified_payload(token: str, header: Mapping[str, str], algorithm: str, public: Any) -> bytes:
    """Check the signature by the one algorithm of the key. Raises TokenRefused."""
    if header["alg"] != algorithm:
        raise TokenRefused("its algorithm is not its key's")
    for segment in token.split("."):
        _strict_base64url(segment)
    try:
        return jws.deserialize_compact(token, public, algorithms=[algorithm]).payload
    except (JoseError, ValueError, TypeError) as error:
        raise TokenRefused("its signature is wrong") from error


def parse_claims(payload: bytes) -> AccessClaims:
    """Read a payload whose signature was checked. Raises TokenRefused."""
    claims = _object(payload)
    audience = claims.get("aud")
    if isinstance(audience, str):
        claims["aud"] = [audience]
    try:
        parsed = msgspec.convert(claims, AccessClaims)
    except msgspec.ValidationError as error:
        raise TokenRefused("its claims are not those of an access token") from error
    if not is_id(parsed.sid) or not parsed.sub:
        raise TokenRefused("its claims are not those of an access token")
    return parsed


def _strict_base64url(segment: str) -> bytes:
    """Decode base64url without padding; each byte string has one spelling only (RFC 4648, section 3.5)."""
    try:
        data = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except ValueError as error:
        raise TokenRefused("it is not base64url") from error
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii") != segment:
        raise TokenRefused("it is not canonical base64url")
    return data


def _json(segment: str) -> dict[str, Any]:
    return _object(_strict_base64url(segment))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except _PARSE_DEPTH_ERRORS as error:
        raise TokenRefused("it is not JSON") from error
    if not isinstance(value, dict):
        raise TokenRefused("it holds no JSON object")
    return cast("dict[str, Any]", value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member stands twice")
    return made


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
