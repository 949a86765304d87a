"""What a caller must do to keep a pair of tokens alive, without any I/O. Leaves sending, waiting and storing to `httpx`.

One exchange serves whoever waits for it, in threads and in tasks. A refresh token is spent by its exchange, so an
answer that is lost on its way is asked for again with the same token, while the server still gives it again.
"""

import itertools
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import NamedTuple

import msgspec

from coatcheck.clock import Clock
from coatcheck.errors import CoatcheckError, SessionRefused

__all__ = ["Answer", "Ask", "Hand", "Lost", "Pair", "Pause", "RefreshFailed", "SessionOver", "Step", "Tokens"]

ATTEMPT = 3.0
"""Seconds for each of connecting, writing and reading."""
RETRY_WITHIN = 7.0
"""Seconds after the first attempt in which another begins: with its connecting it lies within the server's grace of 10."""

_PAUSES = (0.2, 0.4, 0.8)
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})


class SessionOver(SessionRefused):
    """The session behind the refresh token is over (`invalid_grant`): log in again. The request was not fulfilled."""


class RefreshFailed(CoatcheckError):
    """No new access token could be had, and that says nothing of the session: try again later. The cause is chained."""


class Tokens(NamedTuple):
    """What logging in and refreshing give. `expires_in` is the access token's life in seconds from now, if known."""

    access_token: str | None
    refresh_token: str
    expires_in: float | None = None

    def __repr__(self) -> str:
        return "<Tokens>"


class Ask(NamedTuple):
    """Send this refresh token; give an Answer, or Lost."""

    refresh_token: str

    def __repr__(self) -> str:
        return "<Ask>"


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


class Hand(NamedTuple):
    """Hand these tokens to whoever stores them."""

    tokens: Tokens


Step = Ask | Pause | Hand


class Answer(NamedTuple):
    """The server's answer to a refresh token. `retry_after` in seconds, 0 if it named none."""

    status: int
    body: bytes
    retry_after: float = 0.0

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


class Lost(NamedTuple):
    """There was no answer, or none that could be read to its end."""

    error: Exception


class _Granted(msgspec.Struct):
    access_token: str
    token_type: str = "Bearer"
    refresh_token: str | None = None
    expires_in: float | None = None


class _Refused(msgspec.Struct):
    error: str = ""


class Pair:
    """The tokens in use, and the one exchange that may be under way for them. Safe in threads and tasks alike."""

    def __init__(self, tokens: Tokens, *, margin: float, clock: Clock) -> None:
        self._lock = threading.Lock()
        self._margin = margin
        self._clock = clock
        self._flight: Future[None] | None = None
        self._received: tuple[Tokens, float] | None = None
        self._adopt(tokens, clock.monotonic())

    @property
    def tokens(self) -> Tokens:
        """The tokens in use. `expires_in` is what it was when they came."""
        return self._tokens

    @property
    def over(self) -> bool:
        """Whether the server has said that the session is over."""
        return self._over

    def use(self, tokens: Tokens) -> None:
        """Take the tokens of a new login."""
        with self._lock:
            self._received = None
            self._adopt(tokens, self._clock.monotonic())

    def doubt(self, access_token: str | None) -> None:
        """Renew before the next request, unless that has happened already: the server has refused this access token."""
        with self._lock:
            if self._tokens.access_token == access_token:
                self._ends = float("-inf")

    def needs_renewal(self) -> bool:
        """Tell whether to renew before the next request. Where the token still works, one caller is enough."""
        if self.works():
            return self._clock.monotonic() >= self._renew_from and self._flight is None
        return True

    def works(self) -> bool:
        """Tell whether there is an access token that has not run out, as far as is known."""
        return self._tokens.access_token is not None and self._clock.monotonic() < self._ends

    # ---- one exchange for all

    def board(self, refused: str | None) -> tuple["Future[None] | None", bool]:
        """Give the exchange to wait for, and whether the caller must carry it out, and land it.

        None where the `refused` access token has been replaced meanwhile. Raises SessionOver.
        """
        with self._lock:
            self.check()
            if self._tokens.access_token != refused:
                return None, False
            if self._flight is not None:
                return self._flight, False
            self._flight = Future()
            self._flight.set_running_or_notify_cancel()  # who waits may give up; the exchange goes on
            return self._flight, True

    def land(self, flight: "Future[None]", error: BaseException | None) -> None:
        """Tell all who wait how the exchange ended."""
        with self._lock:
            if self._flight is flight:
                self._flight = None
        if flight.done():
            return
        if error is None:
            flight.set_result(None)
        else:
            flight.set_exception(error)

    def check(self) -> None:
        """Raise SessionOver if the session is over."""
        if self._over:
            raise SessionOver("the session is over: log in again, and give the new tokens to use()")

    def renewal(self) -> Generator[Step, Answer | Lost | None, None]:
        """Say step by step how to come to new tokens. Raises SessionOver and RefreshFailed."""
        spent = self._tokens.refresh_token
        if self._received is None:
            # Its life is counted from when it was asked for: never too long.
            began = self._clock.monotonic()
            received = yield from self._exchange(spent)
            with self._lock:
                if self._tokens.refresh_token != spent:
                    return
                self._received = received, began
        received, began = self._received
        # If storing them fails they are not used, and not lost: the next renewal hands them over again.
        yield Hand(received)
        with self._lock:
            if self._tokens.refresh_token == spent:
                self._received = None
                self._adopt(received, began)

    # ---- inside

    def _exchange(self, token: str) -> Generator[Step, Answer | Lost | None, Tokens]:
        began = self._clock.monotonic()
        for pause in itertools.chain(_PAUSES, itertools.repeat(_PAUSES[-1])):
            answer = yield Ask(token)
            assert answer is not None
            if isinstance(answer, Answer):
                if answer.status == 200:
                    return _granted(answer.body, token)
                self._refused(answer, token)
                pause = max(pause, answer.retry_after)
            if self._clock.monotonic() + pause - began > RETRY_WITHIN:
                if isinstance(answer, Lost):
                    raise RefreshFailed("the server gave no answer to the refresh token") from answer.error
                raise RefreshFailed(f"the server asks to try again later (status {answer.status})")
            yield Pause(pause)
        raise AssertionError("unreachable")

    def _refused(self, answer: Answer, token: str) -> None:
        """Raise what cannot be mended by trying again."""
        try:
            code = msgspec.json.decode(answer.body, type=_Refused).error
        except msgspec.MsgspecError:
            code = ""
        if 400 <= answer.status < 500 and code == "invalid_grant":
            with self._lock:
                if self._tokens.refresh_token == token:
                    self._over = True
            self.check()
            raise RefreshFailed("new tokens were given meanwhile: try again")
        if answer.status not in _TRY_AGAIN and code != "slow_down":
            said = f" {code}" if code.isidentifier() else ""
            raise RefreshFailed(f"the server did not take the refresh token: status {answer.status}{said}")

    def _adopt(self, tokens: Tokens, at: float) -> None:
        self._tokens = tokens
        self._over = False
        life = float("inf") if tokens.expires_in is None else tokens.expires_in
        self._ends = at + life
        self._renew_from = self._ends - min(self._margin, life / 5)


def _granted(body: bytes, spent: str) -> Tokens:
    try:
        found = msgspec.json.decode(body, type=_Granted)
    except msgspec.MsgspecError:
        # The decoder's own words could quote a token.
        raise RefreshFailed("the server's answer to the refresh token holds no tokens") from None
    if found.token_type.lower() != "bearer":
        raise RefreshFailed("the server's answer to the refresh token holds tokens of another type than Bearer")
    # A server that does not rotate sends none (RFC 6749, section 6).
    return Tokens(found.access_token, found.refresh_token or spent, found.expires_in)
