"""How many logins there were in each hour and how many failed, and on which account they failed, from where.

Promises that what is counted is added up over all nodes, and kept for 90 days. Leaves to the server what a login is, and
to `security_log` showing users what failed on their account. A node that got no answer counts again: then some count twice.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.tables import failed_logins, login_hours

__all__ = ["FailedLogins", "Hour", "LoginHours", "hour_of"]

KEPT_HOURS = 90 * 24

# The same words for SQLite and PostgreSQL.
_ADD_HOUR = text("""
    INSERT INTO coatcheck_login_hours (hour, logins, failures) VALUES (:hour, :logins, :failures)
    ON CONFLICT (hour) DO UPDATE SET
        logins = coatcheck_login_hours.logins + excluded.logins,
        failures = coatcheck_login_hours.failures + excluded.failures
""")
_ADD_FAILED = text("""
    INSERT INTO coatcheck_failed_logins (user_id, hour, failures, at, detail)
    VALUES (:user_id, :hour, :failures, :at, :detail)
    ON CONFLICT (user_id, hour) DO UPDATE SET
        failures = coatcheck_failed_logins.failures + excluded.failures,
        detail = excluded.detail
""")


class Hour(NamedTuple):
    """The logins of one hour. `hour` in hours since 1970."""

    hour: int
    logins: int
    failures: int


class FailedLogins(NamedTuple):
    """The logins that failed on one account in one hour: `at` is the first, in seconds since 1970; `detail` is of the last."""

    user_id: str
    hour: int
    failures: int
    at: float
    detail: Mapping[str, str]


def hour_of(at: float) -> int:
    """Give the hour since 1970 in which a moment lies."""
    return int(at // 3600)


class LoginHours:
    """The counts in the accounts' database. Use it while `accounts` is started; every method raises AccountsUnavailable."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts
        self._pruned = 0

    async def add(self, hour: Hour, failed: Sequence[FailedLogins]) -> None:
        """Add to what is counted of an hour, and to what failed on accounts, in one transaction."""
        # All nodes in one order, or PostgreSQL would find them waiting for each other.
        rows = [
            {**each._asdict(), "detail": json.dumps(dict(each.detail))}
            for each in sorted(failed, key=lambda one: (one.user_id, one.hour))
        ]
        oldest = hour.hour - KEPT_HOURS

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_ADD_HOUR, hour._asdict())
            for row in rows:
                await connection.execute(_ADD_FAILED, row)
            if self._pruned < oldest:
                for table in (login_hours, failed_logins):
                    await connection.execute(delete(table).where(table.c.hour < oldest))

        await self._accounts.database.run(work)
        self._pruned = max(self._pruned, oldest)

    async def since(self, at: float) -> list[Hour]:
        """Give the hours from that moment's on in which there was something to count, oldest first."""
        query = select(login_hours).where(login_hours.c.hour >= hour_of(at)).order_by(login_hours.c.hour)

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        return [Hour(row.hour, row.logins, row.failures) for row in await self._accounts.database.run(work)]
