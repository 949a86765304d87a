"""The log of what was done to accounts, by their owners and by administrators. Leaves what happens to sessions to `activity`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.tables import activity, security_log
from coatcheck.accounts.user import User
from coatcheck.clock import Clock, SystemClock

__all__ = ["ACTIONS", "Action", "Happened", "SecurityLog"]

Action: TypeAlias = Literal[
    "passkey_added",
    "passkey_removed",
    "recovery_codes_made",
    "recovery_code_used",
    "disabled",
    "enabled",
    "made_admin",
    "admin_taken",
    "session_ended_by_admin",
    "sessions_ended_by_admin",
    "all_sessions_ended",
    "keys_rotated",
]
"""What may be done to an account, or, of the last two, to all of them."""
ACTIONS: frozenset[Action] = frozenset(get_args(Action))
_LASTING = ("created", "ended", "reauthenticated", "password_changed", "renamed")


class Happened(NamedTuple):
    """One thing that happened to an account or to one of its sessions. `at` in seconds since 1970."""

    id: str
    """Its place: give it to go on from here."""
    at: float
    kind: str
    user_id: str | None
    session_id: str | None
    by: str | None
    """The username of whoever did it, where that is not the user."""
    detail: Mapping[str, str]


class SecurityLog:
    """The log in the accounts' database. Use it while `accounts` is started; every method raises AccountsUnavailable."""

    def __init__(self, accounts: Accounts, *, clock: Clock | None = None) -> None:
        self._accounts = accounts
        self._clock: Clock = SystemClock() if clock is None else clock

    async def write(
        self,
        kind: Action,
        by: User,
        *,
        about: str | None = None,
        as_admin: bool = False,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        """Write down that somebody did something to a user's account (`about`, an id), or to all."""
        row = {
            "at": self._clock.time(),
            "kind": kind,
            "user_id": about,
            "by_id": by.id,
            "by_username": by.username,
            "as_admin": as_admin,
            "detail": json.dumps(dict(detail or {})),
        }

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(insert(security_log).values(row))

        await self._accounts.database.run(work)

    async def of_user(self, user_id: str, *, before: str | None = None, limit: int = 50) -> list[Happened]:
        """Give what happened to a user's account and sessions, newest first, from a place on. ValueError for no place."""
        mine = security_log.c.user_id == user_id
        theirs = and_(activity.c.user_id == user_id, activity.c.kind.in_(_LASTING))
        place = _place(before)
        done = select(security_log).where(mine, *_earlier(security_log, place, 1))
        seen = select(activity).where(theirs, *_earlier(activity, place, 0))
        done = done.order_by(security_log.c.at.desc(), security_log.c.id.desc()).limit(limit)
        seen = seen.order_by(activity.c.at.desc(), activity.c.id.desc()).limit(limit)

        async def work(connection: AsyncConnection) -> tuple[Sequence[Any], Sequence[Any]]:
            return (await connection.execute(done)).all(), (await connection.execute(seen)).all()

        logged, happened = await self._accounts.database.run(work)
        rows = [(row.at, 1, row.id, _done(row)) for row in logged]
        rows += [(row.at, 0, row.id, _seen(row)) for row in happened]
        return [each for *_, each in sorted(rows, key=lambda row: row[:3], reverse=True)[:limit]]

    async def of_admins(self, *, before: str | None = None, limit: int = 50) -> list[Happened]:
        """Give what administrators did, newest first, from a place on. ValueError for no place."""
        query = select(security_log).where(security_log.c.as_admin, *_earlier(security_log, _place(before), 1))
        query = query.order_by(security_log.c.at.desc(), security_log.c.id.desc()).limit(limit)

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return [_done(row) for row in await self._accounts.database.run(work)]

    async def logins_since(self, at: float) -> list[tuple[float, int]]:
        """Give how many logins there were in each hour since then: the hour's begin in seconds since 1970, and the number."""
        query = select(activity.c.at).where(activity.c.kind == "created", activity.c.at >= at)

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.scalars(query.limit(200_000))).all()

        counts: dict[float, int] = {}
        for moment in await self._accounts.database.run(work):
            hour = moment // 3600 * 3600
            counts[hour] = counts.get(hour, 0) + 1
        return sorted(counts.items())


def _done(row: Any) -> Happened:
    detail = json.loads(row.detail)
    by = row.by_username if row.as_admin else None
    return Happened(f"{row.at!r}_1_{row.id}", row.at, row.kind, row.user_id, detail.get("session"), by, detail)


def _seen(row: Any) -> Happened:
    return Happened(
        f"{row.at!r}_0_{row.id}", row.at, row.kind, row.user_id, row.session_id, None, json.loads(row.detail)
    )


def _place(text: str | None) -> tuple[float, int, int] | None:
    if text is None:
        return None
    at, source, number = text.split("_")
    return float(at), int(source), int(number)


def _earlier(table: Any, place: tuple[float, int, int] | None, source: int) -> list[Any]:
    """The condition that a row of this source comes after a place, as the list goes: by time, then source, then number."""
    if place is None:
        return []
    at, of, number = place
    if source != of:
        return [table.c.at <= at if source < of else table.c.at < at]
    return [or_(table.c.at < at, and_(table.c.at == at, table.c.id < number))]
