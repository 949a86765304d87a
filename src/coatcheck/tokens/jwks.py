"""An issuer's public keys as somebody else keeps them: read strictly, fetched seldom, kept while the issuer is away.

Leaves the request to `issuer`, what is signed to `access`.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, cast

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey

from coatcheck.clock import Clock
from coatcheck.tokens.errors import IssuerUnavailable

__all__ = ["PublicKeys", "parse_jwks", "seconds_fresh"]

MOST_KEYS = 32
UNKNOWN_KEY = 30.0
"""Seconds between two fetches that tokens with unknown keys may cause."""
LONGEST_KEPT = 7200.0
"""Seconds for which keys are believed after their issuer was last heard of. Far longer than a token lives."""

_SHORTEST, _USUAL, _LONGEST = 60.0, 300.0, 3600.0
_FIRST_RETRY, _LAST_RETRY = 1.0, 30.0
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,10})")
_KINDS = {("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "Ed25519"}
_log = logging.getLogger("coatcheck.tokens")


class _Key(NamedTuple):
    algorithm: str
    public: Any


class PublicKeys:
    """The keys by their ids, refreshed by `run` before they go stale. `fetch` gives body and headers, or IssuerUnavailable."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[bytes, Mapping[str, str]]]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._keys: dict[str, _Key] = {}
        self._numbers: dict[str, object] = {}
        self._fetched = self._fresh_until = self._looked = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when a key has gone or is another one: whoever remembers verified tokens forgets them then."""

    @property
    def usable(self) -> bool:
        """Whether the keys are young enough to be believed."""
        return self._clock.monotonic() < self._fetched + LONGEST_KEPT

    async def find(self, kid: str) -> tuple[str, Any] | None:
        """Give a key's algorithm and joserfc's form of it; None for an unknown one. Raises IssuerUnavailable."""
        now = self._clock.monotonic()
        if not self.usable:
            if now < self._looked + _FIRST_RETRY and self._refreshing is None:
                raise IssuerUnavailable("the issuer's keys cannot be had: it was asked a moment ago")
            await self.refresh()
        elif kid not in self._keys and (self._refreshing is not None or now >= self._looked + UNKNOWN_KEY):
            # Whoever has a stranger's token learns nothing new from an issuer that is away.
            with contextlib.suppress(IssuerUnavailable):
                await self.refresh()
        found = self._keys.get(kid)
        if found is None and self._clock.monotonic() >= self._fresh_until:
            raise IssuerUnavailable("its key is not known here, and the issuer cannot be asked for new ones")
        return found

    async def refresh(self) -> None:
        """Fetch the keys, once for all who wait. Raises IssuerUnavailable, and then keeps what there is."""
        if self._refreshing is None:
            self._refreshing = asyncio.ensure_future(self._refresh())
            self._refreshing.add_done_callback(self._refreshed)
        # Whoever gives up waiting must not take it from the others.
        await asyncio.shield(self._refreshing)

    def _refreshed(self, task: "asyncio.Task[None]") -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # looked at, so that no warning is printed where nobody waits any more

    async def run(self) -> None:
        """Until cancelled: refresh before the keys go stale, and try again soon where that fails."""
        wait = _FIRST_RETRY
        while True:
            try:
                await self.refresh()
            except IssuerUnavailable as error:
                _log.warning("the issuer's keys were not refreshed: %s", error)
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LAST_RETRY)
            else:
                wait = _FIRST_RETRY
                await asyncio.sleep(0.8 * (self._fresh_until - self._fetched))

    async def aclose(self) -> None:
        """Give up a fetch under way."""
        if self._refreshing is not None:
            self._refreshing.cancel()

    async def _refresh(self) -> None:
        now = self._looked = self._clock.monotonic()
        body, headers = await self._fetch()
        try:
            numbers = parse_jwks(body)
            keys = {kid: _import(jwk) for kid, jwk in numbers.items()}
        except ValueError as error:
            raise IssuerUnavailable(f"the issuer's keys cannot be used: {error}") from error
        before, self._numbers, self._keys = self._numbers, cast("dict[str, object]", numbers), keys
        self._fetched = now
        self._fresh_until = now + seconds_fresh(headers.get("cache-control", ""))
        if any(numbers.get(kid) != jwk for kid, jwk in before.items()):
            self.on_change()


def seconds_fresh(cache_control: str) -> float:
    """For how long an answer may be kept (RFC 9111, section 5.2.2), between a minute and an hour."""
    said = cache_control.lower()
    found = _MAX_AGE.search(said)
    seconds = 0.0 if "no-store" in said or "no-cache" in said else float(found[1]) if found else _USUAL
    return min(max(seconds, _SHORTEST), _LONGEST)


def parse_jwks(body: bytes) -> dict[str, dict[str, str]]:
    """Give the keys of a JWK Set that sign access tokens, by id (RFC 7517, section 5). Others in it are passed over.

    Raises ValueError for what is no JWK Set, has more than 32 keys, two of one id, or none that is of use.
    """
    try:
        value = json.loads(body.decode("utf-8"), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    listed = cast("dict[str, Any]", value).get("keys") if isinstance(value, dict) else None
    if not isinstance(listed, list):
        raise ValueError("it is no JWK Set")
    keys = cast("list[Any]", listed)
    if len(keys) > MOST_KEYS:
        raise ValueError(f"it has more than {MOST_KEYS} keys")
    found: dict[str, dict[str, str]] = {}
    for key in keys:
        jwk = _signing(key)
        if jwk is None:
            continue
        if jwk["kid"] in found:
            raise ValueError("two keys have one id")
        found[jwk["kid"]] = jwk
    if not found:
        raise ValueError("it has no key that signs access tokens")
    return found


def _signing(key: Any) -> dict[str, str] | None:
    """Only the members that count, all of them texts; None for a key of another kind or use."""
    if not isinstance(key, dict):
        return None
    jwk = cast("dict[str, Any]", key)
    algorithm = _KINDS.get((str(jwk.get("kty")), str(jwk.get("crv"))))
    # A private key that somebody published is nobody's any more.
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    names = ("kid", "kty", "crv", "x", "y") if algorithm == "ES256" else ("kid", "kty", "crv", "x")
    if not all(isinstance(jwk.get(name), str) and 0 < len(jwk[name]) <= 256 for name in names):
        return None
    return {name: jwk[name] for name in names}


def _import(jwk: dict[str, str]) -> _Key:
    algorithm = _KINDS[jwk["kty"], jwk["crv"]]
    load = ECKey if algorithm == "ES256" else OKPKey
    try:
        key = load.import_key(cast("Any", {name: value for name, value in jwk.items() if name != "kid"}))
        # joserfc reads the numbers when they are used first; a point that is not on the curve is found out then.
        _ = key.raw_value
    except (JoseError, ValueError, TypeError) as error:
        raise ValueError(f"the key {jwk['kid'][:64]!a} cannot be read") from error
    return _Key(algorithm, key)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a member stands twice")
    return made
