"""Counts logins and failures of one worker, and has them added to what all workers count, once a second.

Promises that a failure costs its request no more for a name that somebody has than for one that nobody has: nothing is
written before the answer. What waits has an end, and what a worker that is killed has not written yet is lost. Leaves the
sums to `accounts.login_hours`.
"""

import asyncio
import logging
from collections.abc import Mapping

from coatcheck.accounts import Accounts, AccountsNotStarted, AccountsUnavailable, User
from coatcheck.accounts.login_hours import FailedLogins, Hour, LoginHours, hour_of
from coatcheck.manager import Sessions

__all__ = ["WRONG", "LoginCounts"]

WRONG = "wrong credentials"
"""What failed logins are counted as."""
EVERY = 1.0
MOST_ACCOUNTS = 10_000
"""Accounts of which something waits to be written; of more, failures are counted as everybody's only."""
_log = logging.getLogger("coatcheck.server")


class LoginCounts:
    """Use it while `accounts` is started. Belongs to one event loop."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._hours = LoginHours(accounts)
        self._sessions = sessions
        self._failed: dict[tuple[str, int], FailedLogins] = {}
        # That are written.
        self._logins: int = 0
        self._failures: int = 0
        self._failing = False

    def failed(self, user: User | None, detail: Mapping[str, str]) -> None:
        """Count that credentials were wrong, for `user` if it is known whose they were to be. `detail` is short texts."""
        self._sessions.counted.refused[WRONG] += 1
        if user is not None:
            at = self._sessions.clock.time()
            self._remember(FailedLogins(user.id, hour_of(at), 1, at, detail))

    async def flush(self) -> None:
        """Write what was counted so far; what cannot be written waits for the next time."""
        counted = self._sessions.counted
        logins, failures = counted.logins, counted.refused[WRONG]
        waiting, self._failed = self._failed, {}
        if logins == self._logins and failures == self._failures and not waiting:
            return
        hour = Hour(hour_of(self._sessions.clock.time()), logins - self._logins, failures - self._failures)
        written = False
        try:
            await self._hours.add(hour, list(waiting.values()))
            self._logins, self._failures = logins, failures
            written, self._failing = True, False
        except (AccountsUnavailable, AccountsNotStarted) as error:
            if not self._failing:
                _log.warning("logins and failures cannot be counted, and are kept for a while: %s", error)
            self._failing = True
        finally:
            if not written:
                came, self._failed = self._failed, waiting
                for each in came.values():
                    self._remember(each)

    def _remember(self, new: FailedLogins) -> None:
        key = (new.user_id, new.hour)
        old = self._failed.get(key)
        if old is not None:
            self._failed[key] = new._replace(failures=old.failures + new.failures, at=old.at)
        elif len(self._failed) < MOST_ACCOUNTS:
            self._failed[key] = new

    async def run(self) -> None:
        """Write once a second, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.flush()

    async def since(self, at: float) -> list[Hour]:
        """Give what all workers have counted, by hour. Raises AccountsUnavailable."""
        return await self._hours.since(at)
