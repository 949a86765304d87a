"""What happens to a user's sessions, over all workers and machines, in one order, for whoever may know: `Activity`.

Put together of what sees it (`sources`), writes it down (`writing`) and tells it (`following`); kept by
`coatcheck.accounts.activity`. Leaves transports, and who may follow whom, to its callers.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import Self

from coatcheck.accounts import Accounts, AccountsNotStarted, AccountsUnavailable
from coatcheck.accounts.activity import ActivityLog
from coatcheck.errors import StoreUnavailable
from coatcheck.manager import Sessions
from coatcheck.server.activity.following import HEARTBEAT, Following
from coatcheck.server.activity.happenings import Begin, Happening, Heartbeat, Kind, Reset, Told
from coatcheck.server.activity.sources import Sources
from coatcheck.server.activity.writing import Writing

__all__ = ["Activity", "Begin", "Happening", "Heartbeat", "Kind", "Reset", "Told"]

_PRUNE = 60.0
_LAST_WORDS = 2.0
_log = logging.getLogger("coatcheck.activity")


class Activity:
    """One worker's part in it. Made with the sessions whose hooks it adds itself to; `run` or `async with` starts it.

    Without being started it writes down what this node does, and tells; it hears only later of what processes do that write
    nothing down themselves. Close it after the sessions and before the accounts.
    """

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self._log = ActivityLog(accounts)
        self._sessions = sessions
        self._following = Following(self._log)
        self._writing = Writing(self._log, self._following.look)
        self._sources = Sources(sessions, self._log, self._writing)

    def record(
        self,
        kind: Kind,
        session_id: str,
        *,
        user_id: str | None = None,
        detail: Mapping[str, str | None] | None = None,
    ) -> None:
        """Have something written down that nobody else sees. Returns at once; call it on the worker's loop.

        `detail` has short texts, none of them secret; None among them is left out. Without a user, the one is told whose
        session it is, if that was ever written down.
        """
        self._sources.record(kind, session_id, user_id=user_id, detail=detail)

    def follow(
        self, user_id: str, *, after: str | None = None, heartbeat: float = HEARTBEAT
    ) -> AsyncGenerator[Told, None]:
        """Tell what happens to a user's sessions: first `Begin` or `Reset`, then `Happening` after `Happening`, until the worker leaves.

        - `after`: the id of whatever was told last, by any worker; without it, from now on. An id of another user, or of
          what is too long ago, gives `Reset`: look the sessions up, and go on
        - `heartbeat`: seconds of silence after which a `Heartbeat` says that all is well

        It holds nothing for a slow reader but a place in the log. The first `anext` raises AccountsUnavailable where nothing
        can be asked; later ones do not. Close it: `async with contextlib.aclosing(activity.follow(…)) as told:`.
        """
        return self._following.follow(user_id, after=after, heartbeat=heartbeat)

    @property
    def followers(self) -> int:
        """How many follow on this worker."""
        return len(self._following)

    async def flush(self, within: float | None = None) -> None:
        """Wait until what was recorded has been written down, or for so many seconds."""
        await self._writing.flush(within)

    async def run(self) -> None:
        """Until cancelled: hear of what other processes do, and drop what is old."""
        listening = False
        while True:
            try:
                if not listening:
                    await self._sources.listen()
                    listening = True
                while await self._log.prune(self._sessions.clock.time()):
                    pass
            except (StoreUnavailable, AccountsUnavailable, AccountsNotStarted) as error:
                _log.debug("looking after what happens to sessions has to wait: %s", error)
            except Exception:
                _log.exception("looking after what happens to sessions failed and goes on")
            await asyncio.sleep(_PRUNE if listening else 1.0)

    def leave(self) -> None:
        """Have what is told end: this worker serves no more."""
        self._following.leave()

    async def close(self) -> None:
        """End what is told, and write down what is left, for two seconds at most."""
        await self._sources.close()
        await self._writing.close(_LAST_WORDS)
        await self._following.close()

    async def __aenter__(self) -> Self:
        await self._sources.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
