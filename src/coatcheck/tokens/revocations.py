"""What a service without a store knows of ended sessions: a verdict on each token, and how far it can be believed.

`Revocations` is pure; `RevocationReader` keeps it true from the issuer's feed (`GET /v1/revocations`). Leaves bytes to
`sse`, the connection to `issuer`, and what to do without a feed to `verifier`. Decision record 10 has the reasoning.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, cast

from coatcheck.clock import Clock
from coatcheck.tokens.access import LEEWAY, AccessClaims
from coatcheck.tokens.errors import IssuerUnavailable
from coatcheck.tokens.sse import EventParser, ServerSentEvent

__all__ = ["FeedBroken", "RevocationReader", "Revocations"]

CLOCKS = 5.0
"""Seconds by which the clocks of an issuer's nodes may differ without a gap going unnoticed."""
SILENCE = 3.0
"""Seconds without a byte, or without a heartbeat that is of use, after which a connection is given up."""
STREAM = 600.0
"""Seconds after which a connection is left, should the issuer not end it: clocks run apart, if slowly."""

_MOST = 500_000
_LONGEST_LIFE = 86_400.0
_FUTURE = 0.05
_FIRST_RETRY, _LAST_RETRY = 0.2, 5.0
_log = logging.getLogger("coatcheck.tokens")


class FeedBroken(Exception):
    """The feed said something that cannot be meant: nothing it says can be counted on."""


class Revocations:
    """Everything that was told, and since when nothing is missing.

    A token that was issued before `floor` (seconds since 1970, the issuer's clock), or before its user was in doubt, may
    belong to a session that ended unheard of. Whoever asks the issuer about it notes `mark` before, and need not ask
    again while `needs(claims)` is not above that.
    """

    def __init__(self, *, max_staleness: float, clock: Clock, most: int = _MOST) -> None:
        self._clock = clock
        self._max_staleness = max_staleness
        self._most = most
        self._keep = 0.0
        # Each in the order of telling. The first number is when it happened (seconds since 1970, the issuer's clock):
        # only tokens from before then can need it, and those have run out a while later.
        self._ended: OrderedDict[str, tuple[float]] = OrderedDict()
        self._generations: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._users: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self.floor: float = float("inf")
        self.mark: int = 1
        self._floor_mark: int = 1
        self._lease_until = self._lease_until_time = float("-inf")

    @property
    def live(self) -> bool:
        """Whether everything that was acknowledged `max_staleness` seconds ago is known here."""
        # By both clocks: the monotonic one stands still while a machine is suspended, the other may be set back.
        return self._clock.monotonic() < self._lease_until and self._clock.time() < self._lease_until_time

    def revoked(self, claims: AccessClaims) -> bool:
        """Whether the token's session is known to have ended or to have a new secret. Never taken back."""
        if claims.sid in self._ended:
            return True
        generation = self._generations.get(claims.sid)
        return generation is not None and claims.gen < generation[1]

    def needs(self, claims: AccessClaims) -> int:
        """Give the mark that an answer about this token must have; 0 where none is needed."""
        needed = self._floor_mark if claims.iat <= self.floor else 0
        user = self._users.get(claims.sub)
        if user is not None and claims.iat <= user[0] + CLOCKS and user[1] > needed:
            needed = user[1]
        return needed

    # ---- what the feed tells

    def begin(self, since: float, token_lifetime: float, *, resumed: bool) -> None:
        """A stream begins in which everything from `since` on will be told. `resumed`: what was told before still holds."""
        self._keep = min(max(token_lifetime, 0.0), _LONGEST_LIFE) + 4 * LEEWAY
        if not resumed:
            self.gap(since)
            # `since` may lie before an older gap, and what it promises is yet to be told.
            self._lease_until = float("-inf")

    def gap(self, since: float) -> None:
        """Something may be missing from before `since`: tokens from then must be asked for."""
        self.mark += 1
        self._floor_mark = self.mark
        self.floor = since + CLOCKS

    def end(self, session_id: str, at: float) -> None:
        """A session has ended."""
        self._ended[session_id] = (at,)
        self._generations.pop(session_id, None)
        self._prune(self._ended)

    def raise_generation(self, session_id: str, generation: int, at: float) -> None:
        """A session's secret has changed: tokens from before are worth nothing."""
        known = self._generations.pop(session_id, None)
        self._generations[session_id] = (at, max(generation, 0 if known is None else known[1]))
        self._prune(self._generations)

    def doubt_user(self, user_id: str, at: float) -> None:
        """Some session of a user may have ended."""
        self.mark += 1
        self._users.pop(user_id, None)
        self._users[user_id] = (at, self.mark)
        self._prune(self._users)

    def confirm(self, at: float) -> None:
        """Everything that was acknowledged up to a monotonic time has been told."""
        self._lease_until = max(self._lease_until, at + self._max_staleness)
        self._lease_until_time = self._clock.time() + self._lease_until - self._clock.monotonic()

    def _prune(self, told: "OrderedDict[str, Any]") -> None:
        old = self._clock.time() - self._keep
        while told:
            first = next(iter(told))
            at: float = told[first][0]
            if at >= old and len(told) <= self._most:
                return
            del told[first]
            if at >= old:
                # Forgotten before its time: tokens that could need it must be asked for.
                self.gap(max(at, self.floor - CLOCKS))


class Opens(Protocol):
    """What opens the feed (`Issuer.revocations`)."""

    def __call__(self, last_id: str, *, silence: float) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class RevocationReader:
    """Reads the feed into `Revocations`, and comes back whenever it is lost."""

    def __init__(
        self,
        revocations: Revocations,
        opens: Opens,
        clock: Clock,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._revocations = revocations
        self._opens = opens
        self._clock = clock
        self._sleep = sleep
        self._last_id = ""
        self._sent = self._of_use = float("-inf")
        self._begun = False
        self._wait = _FIRST_RETRY
        self._told = False

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            self._begun = False
            try:
                await self._read()
            except IssuerUnavailable as error:
                self._lost(error)
            except FeedBroken as error:
                # Perhaps it was a revocation that could not be read.
                self._last_id = ""
                self._lost(error)
            except Exception:
                _log.exception("reading the feed of revocations failed and is begun again")
                self._last_id = ""
            # At random, so that all who lost one worker do not come to the next at once.
            await self._sleep(self._wait * random.uniform(0.5, 1.0))  # noqa: S311
            self._wait = min(2 * self._wait, _LAST_RETRY)

    def _lost(self, error: Exception) -> None:
        if not self._told:
            _log.warning("the feed of revocations is lost, and will be tried again: %s", error)
        self._told = True

    async def _read(self) -> None:
        parser = EventParser()
        # Nothing can have been confirmed to this request before it was sent: what the issuer counts from the arrival of
        # the request is counted from here, which is earlier, whatever the two clocks say and the network held back.
        self._sent = self._of_use = self._clock.monotonic()
        async with contextlib.AsyncExitStack() as exits:
            pieces = await exits.enter_async_context(self._opens(self._last_id, silence=SILENCE))
            async for piece in pieces:
                try:
                    events = parser.feed(piece)
                except ValueError as error:
                    raise FeedBroken(str(error)) from error
                for event in events:
                    self.take(event)
                if self._clock.monotonic() > self._sent + STREAM:
                    return

    def take(self, event: ServerSentEvent) -> None:
        """Take in one event. Raises FeedBroken."""
        try:
            self._take(event)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise FeedBroken(f"its event {event.event[:40]!a} cannot be read") from error

    def _take(self, event: ServerSentEvent) -> None:
        kind = event.event
        if kind not in ("begin", "reset", "ended", "generation", "user", "heartbeat"):
            return  # of a newer issuer
        data = cast("dict[str, Any]", json.loads(event.data))
        if not self._begun:
            self._begin(kind, data)
        elif kind == "reset":
            self._revocations.gap(_number(data, "since"))
        elif kind == "ended":
            self._revocations.end(_text(data, "sid"), _number(data, "at"))
        elif kind == "generation":
            generation = int(_number(data, "gen"))
            self._revocations.raise_generation(_text(data, "sid"), generation, _number(data, "at"))
        elif kind == "user":
            self._revocations.doubt_user(_text(data, "sub"), _number(data, "at"))
        elif kind == "heartbeat":
            self._heartbeat(event.id, _number(data, "confirmed"))
        else:
            raise ValueError(kind)

    def _begin(self, kind: str, data: dict[str, Any]) -> None:
        if kind not in ("begin", "reset"):
            raise ValueError("a stream begins with begin or reset")
        since, lifetime = _number(data, "since"), _number(data, "token_lifetime")
        # Only where everything from the last confirmed moment on is told does what was known before still hold.
        resumed = kind == "begin" and self._last_id != "" and since * 1000 <= float(self._last_id) + 1
        self._revocations.begin(since, lifetime, resumed=resumed)
        self._begun = True

    def _heartbeat(self, last_id: str, confirmed: float) -> None:
        at = self._sent + confirmed
        if at > self._clock.monotonic() + _FUTURE:
            # One of the two clocks stood still or ran away, as when a machine was suspended.
            raise IssuerUnavailable("the feed of revocations is ahead of this machine's clock")
        if last_id.isascii() and last_id.isdigit() and len(last_id) <= 15:
            self._last_id = last_id
        self._revocations.confirm(at)
        now = self._clock.monotonic()
        if self._revocations.live:
            self._of_use = now
        elif now > self._of_use + SILENCE:
            # The request was too long under way, and then all that is counted from it is too late; or something holds
            # the stream back; or that node's own feed is dead. Another request may do better.
            raise IssuerUnavailable("the feed of revocations confirms too late what it tells")
        else:
            return
        self._wait = _FIRST_RETRY
        if self._told:
            _log.warning("the feed of revocations is read again")
        self._told = False


def _text(data: dict[str, Any], name: str) -> str:
    value = data[name]
    if not isinstance(value, str) or not 0 < len(value) <= 256:
        raise TypeError(name)
    return value


def _number(data: dict[str, Any], name: Literal["since", "token_lifetime", "gen", "at", "confirmed"]) -> float:
    value = data[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise TypeError(name)
    return float(value)
