"""The log of what was done to accounts, by their owners and by administrators. Leaves what happens to sessions to `activity`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from sqlalchemy import and_, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.tables import activity, failed_logins, security_log
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
        done = select(security_log).where(mine, *_earlier(security_log.c.at, security_log.c.id, place, 1))
        seen = select(activity).where(theirs, *_earlier(activity.c.at, activity.c.id, place, 0))
        failed = select(failed_logins, failed_logins.c.hour.label("id")).where(
            failed_logins.c.user_id == user_id, *_earlier(failed_logins.c.at, failed_logins.c.hour, place, 2)
        )
        done = done.order_by(security_log.c.at.desc(), security_log.c.id.desc()).limit(limit)
        seen = seen.order_by(activity.c.at.desc(), activity.c.id.desc()).limit(limit)
        failed = failed.order_by(failed_logins.c.at.desc(), failed_logins.c.hour.desc()).limit(limit)

        async def work(connection: AsyncConnection) -> list[Sequence[Any]]:
            return [(await connection.execute(query)).all() for query in (seen, done, failed)]

        found = await self._accounts.database.run(work)
        rows = [
            (row.at, source, row.id, show(row))
            for source, (show, given) in enumerate(zip((_seen, _done, _failed), found, strict=True))
            for row in given
        ]
        return [each for *_, each in sorted(rows, key=lambda row: row[:3], reverse=True)[:limit]]

    async def of_admins(self, *, before: str | None = None, limit: int = 50) -> list[Happened]:
        """Give what administrators did, newest first, from a place on. ValueError for no place."""
        query = select(security_log).where(
            security_log.c.as_admin, *_earlier(security_log.c.at, security_log.c.id, _place(before), 1)
        )
        query = query.order_by(security_log.c.at.desc(), security_log.c.id.desc()).limit(limit)

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return [_done(row) for row in await self._accounts.database.run(work)]


def _done(row: Any) -> Happened:
    detail = json.loads(row.detail)
    by = row.by_username if row.as_admin else None
    return Happened(f"{row.at!r}_1_{row.id}", row.at, row.kind, row.user_id, detail.get("session"), by, detail)


def _seen(row: Any) -> Happened:
    return Happened(
        f"{row.at!r}_0_{row.id}", row.at, row.kind, row.user_id, row.session_id, None, json.loads(row.detail)
    )


def _failed(row: Any) -> Happened:
    detail = {**json.loads(row.detail), "failures": str(row.failures)}
    return Happened(f"{row.at!r}_2_{row.hour}", row.at, "login_failed", row.user_id, None, None, detail)


def _place(text: str | None) -> tuple[float, int, int] | None:
    if text is None:
        return None
    at, source, number = text.split("_")
    return float(at), int(source), int(number)


def _earlier(at: Any, number: Any, place: tuple[float, int, int] | None, source: int) -> list[Any]:
    """The condition that a row of this source comes after a place, as the list goes: by time, then source, then number."""
    if place is None:
        return []
    when, of, last = place
    if source != of:
        return [at <= when if source < of else at < when]
    return [or_(at < when, and_(at == when, number < last))]
