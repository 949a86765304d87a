"""Logins and failures by hour: added up over nodes, on SQLite and on PostgreSQL, and forgotten after 90 days."""

import asyncio
from collections.abc import Callable

from coatcheck.accounts import Accounts
from coatcheck.accounts.login_hours import KEPT_HOURS, FailedLogins, Hour, LoginHours, hour_of
from coatcheck.accounts.security_log import SecurityLog
from tests.stores.accounts.conftest import PostgresByHand, SQLiteByHand

ADA, BOB = "A" * 22, "B" * 22
NOW = 500_000 * 3600.0 + 90


def failed(user_id: str, times: int, at: float = NOW, **detail: str) -> FailedLogins:
    return FailedLogins(user_id, hour_of(at), times, at, detail)


async def test_nodes_add_up_whatever_order_they_write_in(make_accounts: Callable[..., Accounts]) -> None:
    async with make_accounts() as accounts, make_accounts() as elsewhere:
        nodes = [LoginHours(accounts), LoginHours(elsewhere)]
        others = [failed(f"{number:022}", 1) for number in range(50)]
        there = [failed(ADA, 1), *others, failed(BOB, 2)]
        for _ in range(10):
            # At the turn of an hour, so that the hour's row keeps neither waiting, and in opposite orders: each would
            # wait for the other if they were written as they come.
            await asyncio.gather(
                nodes[0].add(Hour(hour_of(NOW), 1, 53), there), nodes[1].add(Hour(hour_of(NOW) + 1, 0, 53), there[::-1])
            )
        assert await nodes[1].since(NOW) == [Hour(hour_of(NOW), 10, 530), Hour(hour_of(NOW) + 1, 0, 530)]
        log = SecurityLog(accounts)
        assert [one.detail["failures"] for user in (ADA, BOB) for one in await log.of_user(user)] == ["20", "40"]


async def test_an_hour_is_one_entry_that_began_with_the_first_failure_and_tells_of_the_last(
    make_accounts: Callable[..., Accounts],
) -> None:
    async with make_accounts() as accounts:
        hours, log = LoginHours(accounts), SecurityLog(accounts)
        await hours.add(Hour(hour_of(NOW), 0, 1), [failed(ADA, 1, NOW, address="192.0.2.1")])
        (before,) = await log.of_user(ADA)
        await hours.add(Hour(hour_of(NOW), 0, 2), [failed(ADA, 2, NOW + 60, address="192.0.2.2")])
        await hours.add(Hour(hour_of(NOW) + 1, 0, 1), [failed(ADA, 1, NOW + 3600, address="192.0.2.3")])
        later, first = await log.of_user(ADA)
        assert (first.id, first.kind, first.at) == (before.id, "login_failed", NOW)
        assert first.detail == {"address": "192.0.2.2", "failures": "3"}
        assert later.detail == {"address": "192.0.2.3", "failures": "1"}
        assert await log.of_user(ADA, before=later.id) == [first]
        assert await log.of_user(ADA, before=first.id) == []
        assert await log.of_user(BOB) == []
        assert await hours.since(NOW + 3600) == [Hour(hour_of(NOW) + 1, 0, 1)]


async def test_what_is_older_than_90_days_goes(
    make_accounts: Callable[..., Accounts], database: SQLiteByHand | PostgresByHand
) -> None:
    async with make_accounts() as accounts:
        hours = LoginHours(accounts)
        for later in (0, 1, KEPT_HOURS + 1):
            at = NOW + later * 3600
            await hours.add(Hour(hour_of(at), 1, 1), [failed(ADA, 1, at)])
        assert [each.hour - hour_of(NOW) for each in await hours.since(0)] == [1, KEPT_HOURS + 1]
    kept = database.run("SELECT hour FROM coatcheck_failed_logins ORDER BY hour")
    assert [int(hour) - hour_of(NOW) for (hour,) in kept] == [1, KEPT_HOURS + 1]
