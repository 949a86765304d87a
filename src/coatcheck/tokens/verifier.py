"""TokenVerifier: for services that have no store. Keys and revocations come from the issuer, and verifying asks nobody.

Promises that a token whose session has ended is refused within `max_staleness` while the feed is live, and otherwise
what `on_feed_loss` says. Leaves keys to `jwks`, the feed to `revocations`, HTTP to `issuer`, and answers to `bearer`.
"""

import asyncio
import contextlib
import ssl
from collections import OrderedDict
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import TokenRefused, UsageError, WrongEventLoop
from coatcheck.tokens.access import LEEWAY, AccessClaims, parse_claims, parse_header, verified_payload
from coatcheck.tokens.errors import IssuerUnavailable
from coatcheck.tokens.issuer import Issuer, Transport, check_url
from coatcheck.tokens.jwks import PublicKeys
from coatcheck.tokens.revocations import RevocationReader, Revocations

__all__ = ["TokenVerifier", "VerifiedToken"]

_CACHED = 10_000
_POLICIES = ("ask", "refuse", "accept_until_exp")


class VerifiedToken(msgspec.Struct, frozen=True, gc=False):
    """A token that is good, as far as `feed_live` says."""

    claims: AccessClaims
    feed_live: bool
    """Whether the feed would have told if its session had ended. If not, the issuer said within `max_staleness` that it
    lives (`ask`), or nobody did (`accept_until_exp`)."""


class TokenVerifier:
    """Verifies access tokens of one issuer, for one audience.

    - `issuer`: its URL, as in `iss`; https, or http on loopback
    - `audience`: the URL under which this service is known to the issuer
    - `jwks_uri`: where its keys are, if not at `/.well-known/jwks.json`
    - `service`: this service's id and secret (`coatcheck services add`), for the feed of revocations; without one there is
      no feed
    - `on_feed_loss`: while the feed is not live, `ask` the issuer about each token and remember the answer for
      `max_staleness` (the default), `refuse` every token, or `accept_until_exp`: then an ended session's tokens are good until
      they run out
    - `max_staleness`: for how long, in seconds, what the feed or the issuer said may be believed (2)
    - `tls`: trust another CA than the system's; `transport`: another way to the issuer (httpx's or httpx2's)

    Starts by `async with`, by `start()`, or at first use; belongs to the event loop on which it starts. Clocks may differ from
    the issuer's by 30 seconds. Keys are believed for two hours while the issuer is away.
    """

    def __init__(
        self,
        issuer: str,
        *,
        audience: str,
        jwks_uri: str | None = None,
        on_feed_loss: Literal["ask", "refuse", "accept_until_exp"] = "ask",
        service: tuple[str, str] | None = None,
        max_staleness: float = 2.0,
        tls: ssl.SSLContext | None = None,
        transport: Transport | None = None,
        clock: Clock | None = None,
    ) -> None:
        if on_feed_loss not in _POLICIES:
            raise UsageError(f"on_feed_loss={on_feed_loss!r} must be one of {', '.join(map(repr, _POLICIES))}")
        if not max_staleness > 0:
            raise UsageError(f"max_staleness={max_staleness!r} must be a positive number of seconds")
        self.issuer: str = check_url(issuer, "issuer")
        self.audience: str = audience
        self.on_feed_loss: Literal["ask", "refuse", "accept_until_exp"] = on_feed_loss
        self.max_staleness: float = max_staleness
        self._clock: Clock = clock or SystemClock()
        keys_url = check_url(jwks_uri or issuer.rstrip("/") + "/.well-known/jwks.json", "jwks_uri")
        self._http = Issuer(issuer, service=service, transport=transport, tls=tls)
        self._keys = PublicKeys(lambda: self._http.fetch(keys_url), self._clock)
        self._revocations = Revocations(max_staleness=max_staleness, clock=self._clock)
        self._reader: RevocationReader | None = None
        if service is not None:
            self._reader = RevocationReader(self._revocations, self._http.revocations, self._clock)
        self._verified: OrderedDict[str, AccessClaims] = OrderedDict()
        self._keys.on_change = self._verified.clear
        # What the issuer answered: with which mark, and the monotonic time of asking.
        self._good: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._bad: OrderedDict[str, float] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    # ---- starting and stopping

    async def start(self) -> None:
        """Begin to fetch keys and to read the feed. Waits for neither. May be called twice."""
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._loop is not None:
            raise WrongEventLoop("this TokenVerifier belongs to another event loop: make one per loop")
        self._loop = loop
        self._tasks = [loop.create_task(self._keys.run(), name="coatcheck keys")]
        if self._reader is not None:
            self._tasks.append(loop.create_task(self._reader.run(), name="coatcheck revocations"))

    async def aclose(self) -> None:
        """Stop, and let go of the connections. It cannot be used again. May be called twice."""
        tasks, self._tasks = [*self._tasks, *self._asking.values()], []
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError, TokenRefused, IssuerUnavailable):
                await task
        await self._keys.aclose()
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def feed_live(self) -> bool:
        """Whether every session that ended more than `max_staleness` ago is known here."""
        return self._revocations.live

    # ---- verifying

    def verify_cached(self, token: str) -> VerifiedToken | None:
        """Give a token's claims without waiting, or None: then `verify` must ask. For the way of every warm request.

        Raises TokenRefused, and IssuerUnavailable where that is certain already.
        """
        claims = self._verified.get(token)
        if claims is None or not self._keys.usable:
            return None
        if self._clock.time() >= claims.exp + LEEWAY:
            self._verified.pop(token, None)
            self._good.pop(token, None)
            raise TokenRefused("it has run out")
        if self._revocations.revoked(claims):
            raise TokenRefused("its session has ended, or its secret has changed")
        live = self._revocations.live
        needed = self._revocations.needs(claims)
        if live and not needed:
            return VerifiedToken(claims, True)
        if self.on_feed_loss == "ask":
            return self._answered(token, claims, needed if live else None)
        if self.on_feed_loss == "accept_until_exp":
            return VerifiedToken(claims, False)
        if live:
            raise TokenRefused("it was issued before the feed of revocations was whole: a new one will do")
        raise IssuerUnavailable("the feed of revocations is lost, so nobody is let in")

    async def verify(self, token: str) -> VerifiedToken:
        """Give the claims of a token that the issuer has issued for `audience` and whose session has not ended.

        Raises TokenRefused for every other (401, `invalid_token`), and IssuerUnavailable where that cannot be told now (503).
        """
        found = self.verify_cached(token)
        if found is not None:
            return found
        await self.start()
        if token not in self._verified or not self._keys.usable:
            claims = await self._check(token)
            while len(self._verified) >= _CACHED:
                self._verified.popitem(last=False)
            self._verified[token] = claims
        found = self.verify_cached(token)
        if found is not None:
            return found
        # Only `ask` has more to do.
        await self._ask(token)
        found = self.verify_cached(token)
        if found is None:
            raise IssuerUnavailable("the issuer answered too late for its answer to be believed")
        return found

    def _answered(self, token: str, claims: AccessClaims, needed: int | None) -> VerifiedToken | None:
        """What the issuer has said of a token, if that still counts. `needed`: the mark it must have while the feed is live."""
        now = self._clock.monotonic()
        refused = self._bad.get(token)
        if refused is not None:
            if now < refused + self.max_staleness:
                raise TokenRefused("its issuer says that it is not good any more")
            del self._bad[token]
        answer = self._good.get(token)
        if answer is None:
            return None
        if needed is not None and answer[0] >= needed:
            # Asked after the gap, and everything since then was told.
            return VerifiedToken(claims, True)
        return VerifiedToken(claims, False) if now < answer[1] + self.max_staleness else None

    async def _check(self, token: str) -> AccessClaims:
        header = parse_header(token)
        found = await self._keys.find(header["kid"])
        if found is None:
            raise TokenRefused("its key is unknown")
        claims = parse_claims(verified_payload(token, header, *found))
        if claims.iss != self.issuer:
            raise TokenRefused("it is from another issuer")
        if self.audience not in claims.aud:
            raise TokenRefused("it is for another audience")
        now = self._clock.time()
        if claims.iat > now + LEEWAY:
            raise TokenRefused("it is not valid yet")
        if now >= claims.exp + LEEWAY:
            raise TokenRefused("it has run out")
        return claims

    async def _ask(self, token: str) -> None:
        """Ask the issuer, once for all who wait. Raises TokenRefused, IssuerUnavailable."""
        asking = self._asking.get(token)
        if asking is None:
            asking = self._asking[token] = asyncio.ensure_future(self._ask_issuer(token))
            asking.add_done_callback(lambda task: self._asked(token, task))
        # Whoever gives up waiting must not take it from the others.
        await asyncio.shield(asking)

    async def _ask_issuer(self, token: str) -> None:
        mark, sent = self._revocations.mark, self._clock.monotonic()
        try:
            await self._http.ask(token, self.audience)
        except TokenRefused:
            _remember(self._bad, token, sent)
            raise
        _remember(self._good, token, (mark, sent))

    def _asked(self, token: str, task: "asyncio.Task[None]") -> None:
        self._asking.pop(token, None)
        if not task.cancelled():
            task.exception()  # looked at, so that no warning is printed where nobody waits any more


def _remember(answers: "OrderedDict[str, Any]", token: str, answer: object) -> None:
    while len(answers) >= _CACHED:
        answers.popitem(last=False)
    answers[token] = answer
