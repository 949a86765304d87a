"""Counts attempts at passwords, and registrations, before anything is hashed: for all workers, in the accounts' database.

Promises that of any number of attempts at once, in whatever processes, no more than the allowance is let through. Leaves
to the server who is asking, and to `hashing` how many hashes run at once.

The algorithm is GCRA (the generic cell rate algorithm, ITU-T I.371, annex A; a leaky bucket without a process that
leaks). A counter is one number, the moment until which everything counted so far weighs. An attempt moves it on by
`period / attempts`, from now or from where it is, whichever is later; the attempt is refused, and nothing is written,
where that would be more than `period` from now. So `attempts` may come at once, then one each `period / attempts`;
any stretch of time `t` lets through at most `attempts · (1 + t / period)`. Looking and counting are one statement.
"""

import hashlib
import ipaddress
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import msgspec
from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.errors import (
    AccountsUnavailable,
    HashQueueFull,
    NameRefused,
    PasswordRefused,
    Throttled,
    UsernameRefused,
)
from coatcheck.accounts.names import check_username, username_key
from coatcheck.accounts.tables import throttling
from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import StoreUnavailable
from coatcheck.ids import encode

__all__ = ["Allowance", "Allowances", "Attempt", "Throttle", "address_group"]

_log = logging.getLogger("coatcheck.accounts")

_SECOND = 1_000_000
# How long a counter outlives its use, for machines whose clocks are behind this one's.
_LINGER = 60 * _SECOND
_PRUNE_EACH = 16
_PRUNE_MOST = 128  # well over the two rows that an attempt makes: what is dead goes faster than it can be made

# What tells nobody whether a password is right, so that the attempt was none.
_NO_GUESS = (AccountsUnavailable, HashQueueFull, StoreUnavailable)
# What is refused by looks alone: nothing was hashed, and no username was tried.
_NO_REGISTRATION = (*_NO_GUESS, NameRefused, PasswordRefused, UsernameRefused)

# The same words for SQLite and PostgreSQL. `impossible` is further ahead than any counter comes by counting: a clock was
# set back, or the allowance was made smaller, and the counter begins anew instead of keeping people out for so long.
_COUNT = text("""
    INSERT INTO coatcheck_throttling (counter, spent_until) VALUES (:counter, :first)
    ON CONFLICT (counter) DO UPDATE SET spent_until =
        CASE WHEN coatcheck_throttling.spent_until > :now AND coatcheck_throttling.spent_until <= :impossible
        THEN coatcheck_throttling.spent_until + :step ELSE :first END
    WHERE coatcheck_throttling.spent_until <= :latest OR coatcheck_throttling.spent_until > :impossible
    RETURNING spent_until
""")
_REFUND = text("""
    UPDATE coatcheck_throttling SET spent_until = spent_until - :amount
    WHERE counter = :counter AND spent_until > :now
""")


class Allowance(msgspec.Struct, frozen=True):
    """How often something may be done: `attempts` at once, and as many again over `period` seconds.

    Raises ValueError for what cannot be counted: fewer than one attempt, or more than a million a second.
    """

    attempts: int
    period: float

    def __post_init__(self) -> None:
        if self.attempts < 1 or not self.period > 0 or self.step < 1:
            raise ValueError("an allowance has one attempt, a period, and a microsecond for each attempt, at least")

    @property
    def step(self) -> int:
        """Microseconds for which one attempt weighs."""
        return int(self.period * _SECOND) // self.attempts


class Allowances(msgspec.Struct, frozen=True, kw_only=True):
    """What is allowed to whom. Only attempts that failed weigh in the end: those that succeed are given back."""

    account: Allowance = Allowance(10, 900)
    """Wrong passwords on one account from devices that never logged in to it, known username or not."""
    device: Allowance = Allowance(10, 900)
    """Wrong passwords on one account from one device that has logged in to it."""
    address: Allowance = Allowance(100, 900)
    """Wrong passwords from one address (IPv6: from one /64) on whatever accounts, known devices apart."""
    registration: Allowance = Allowance(60, 3600)
    """Registrations from one address (IPv6: from one /64), usernames that are taken among them."""


class _Charge(msgspec.Struct, frozen=True):
    """One counter, and what it allows."""

    counter: str
    allowance: Allowance

    def latest(self, now: int) -> int:
        """Where the counter may stand at most for an attempt to be let through."""
        return now + (self.allowance.attempts - 1) * self.allowance.step


class Attempt:
    """An attempt that was let through and counted."""

    __slots__ = ("_paid", "_throttle")

    def __init__(self, throttle: "Throttle", paid: Sequence[tuple[_Charge, int]]) -> None:
        self._throttle = throttle
        self._paid = paid

    async def refund(self) -> None:
        """Take the attempt back: it was no guess. A second time nothing happens; never raises AccountsUnavailable."""
        paid, self._paid = self._paid, ()
        if paid:
            await self._throttle._refund(paid)  # pyright: ignore[reportPrivateUsage]


class Throttle:
    """Lets attempts through, or refuses them with Throttled. Use it while `accounts` is started.

    Every method raises AccountsUnavailable when the database cannot be asked: what cannot be counted is not let through.
    """

    def __init__(self, accounts: Accounts, allowances: Allowances | None = None, *, clock: Clock | None = None) -> None:
        self.allowances: Allowances = Allowances() if allowances is None else allowances
        self._accounts = accounts
        self._clock: Clock = SystemClock() if clock is None else clock
        self._counted = 0

    @asynccontextmanager
    async def password(self, username: str, address: str, device: str | None = None) -> AsyncGenerator[Attempt]:
        """Count a password that is about to be checked; refund it once it was found right. Raises Throttled.

        Without `device` it weighs on the account and on the address. `device` names a device that has logged in to this
        very account, and proved it: it weighs on that device alone, so that neither who burns the account's allowance nor
        who shares its address can keep it out. Usernames that nobody has are counted as all others. What leaves
        the block as a failure to look at the password at all is refunded.
        """
        allowances = self.allowances
        if device is None:
            account = _Charge(_counter("account", _spelled(username)), allowances.account)
            charges = (account, _Charge(_counter("address", address_group(address)), allowances.address))
        else:
            charges = (_Charge(_counter("device", device), allowances.device),)
        async with self._attempt(charges, _NO_GUESS) as attempt:
            yield attempt

    @asynccontextmanager
    async def registration(self, address: str) -> AsyncGenerator[Attempt]:
        """Count a registration that is about to be made. Raises Throttled.

        What leaves the block as a refusal of the form alone is refunded; a username that is taken is not.
        """
        charge = _Charge(_counter("registration", address_group(address)), self.allowances.registration)
        async with self._attempt((charge,), _NO_REGISTRATION) as attempt:
            yield attempt

    @asynccontextmanager
    async def _attempt(
        self, charges: Sequence[_Charge], refunded: tuple[type[Exception], ...]
    ) -> AsyncGenerator[Attempt]:
        attempt = Attempt(self, await self._count(charges))
        try:
            yield attempt
        except refunded:
            await attempt.refund()
            raise

    async def _count(self, charges: Sequence[_Charge]) -> list[tuple[_Charge, int]]:
        """Count on all counters or on none; give where each then stands."""
        now = self._now()

        async def work(connection: AsyncConnection) -> list[tuple[_Charge, int]]:
            paid: list[tuple[_Charge, int]] = []
            for charge in charges:
                step, latest = charge.allowance.step, charge.latest(now)
                parameters = {
                    "counter": charge.counter,
                    "now": now,
                    "step": step,
                    "first": now + step,
                    "latest": latest,
                    "impossible": _impossible(charge, now),
                }
                stands = (await connection.execute(_COUNT, parameters)).scalar_one_or_none()
                if stands is None:
                    # Leaving by an exception takes back what was counted before.
                    raise await _refusal(connection, charges[len(paid) :], now)
                paid.append((charge, stands))
            return paid

        paid = await self._accounts.database.run(work)
        self._counted += 1
        if self._counted % _PRUNE_EACH == 0:
            await self._prune(now)
        return paid

    async def _refund(self, paid: Sequence[tuple[_Charge, int]]) -> None:
        now = self._now()
        # Never more than what still weighs: time has given back the rest.
        amounts = [(charge.counter, min(charge.allowance.step, stood - now)) for charge, stood in paid]

        async def work(connection: AsyncConnection) -> None:
            for counter, amount in amounts:
                if amount > 0:
                    await connection.execute(_REFUND, {"counter": counter, "amount": amount, "now": now})

        try:
            await self._accounts.database.run(work)
        except AccountsUnavailable as error:
            # The attempt weighs until time gives it back; that is no reason to fail what succeeded.
            _log.warning("an attempt could not be refunded: %s", error)

    async def _prune(self, now: int) -> None:
        """Delete some of the counters that weigh nothing any more."""
        # Rows that another worker holds are passed over, where the database locks rows.
        dead = (
            select(throttling.c.counter)
            .where(throttling.c.spent_until < now - _LINGER)
            .order_by(throttling.c.spent_until)
            .limit(_PRUNE_MOST)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(throttling).where(throttling.c.counter.in_(dead)))

        try:
            await self._accounts.database.run(work)
        except AccountsUnavailable as error:
            _log.warning("old counters could not be deleted: %s", error)

    def _now(self) -> int:
        return int(self._clock.time() * _SECOND)


def address_group(address: str) -> str:
    """Give what one client's addresses have in common: the IPv4 address, or the /64 of an IPv6 address.

    An IPv4 address in IPv6 form (RFC 4291, section 2.5.5.2) is that IPv4 address. Clients whose address is unknown are one.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if parsed.version == 4:
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(parsed) >> 64 << 64))


def _impossible(charge: _Charge, now: int) -> int:
    # Twice as far as counting comes, so that clocks that differ by less than a period do no harm.
    return now + 2 * charge.allowance.attempts * charge.allowance.step


async def _refusal(connection: AsyncConnection, charges: Sequence[_Charge], now: int) -> Throttled:
    """What to say, from the first counter that refused and those that were not asked; each may be the last to give way."""
    query = select(throttling.c.counter, throttling.c.spent_until)
    rows = (
        await connection.execute(query.where(throttling.c.counter.in_([charge.counter for charge in charges])))
    ).all()
    stands = {row.counter: int(row.spent_until) for row in rows}
    waits = [
        stands[charge.counter] - charge.latest(now)
        for charge in charges
        if charge.counter in stands and stands[charge.counter] <= _impossible(charge, now)
    ]
    seconds = -(-max(1, *waits) // _SECOND)
    unit = "second" if seconds == 1 else "seconds"
    return Throttled(f"Too many attempts. Try again in {seconds} {unit}.", retry_after=seconds)


def _spelled(username: str) -> str:
    """What all spellings of a username have in common; of what cannot be one, the text itself."""
    try:
        return username_key(check_username(username))
    except UsernameRefused:
        return "\0" + username


def _counter(kind: str, whose: str) -> str:
    # Only a digest is kept: people type passwords where usernames belong, and addresses are personal.
    digest = hashlib.sha256(f"{kind}\0{whose}".encode("utf-8", "surrogatepass")).digest()
    return f"{kind}:{encode(digest)}"
