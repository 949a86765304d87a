"""The demand for a (recent) login, and what whoever does not meet it is told. Leaves to each framework how that is said."""

import math
from collections.abc import MutableMapping
from typing import Any

from coatcheck.credentials import Refusal
from coatcheck.errors import SessionEnded, UsageError
from coatcheck.session import Session

__all__ = ["POLICY_VIOLATION", "LoginDemand", "must_close"]

POLICY_VIOLATION = 1008
"""What a WebSocket is closed with where no status can be told (RFC 6455, section 7.4.1)."""

_NOBODY = Refusal(401, "Unauthorized")


class LoginDemand:
    """That somebody is logged in; with `fresh_within`, that they proved who they are within so many seconds.

    Raises UsageError for a `fresh_within` that is not positive.
    """

    __slots__ = ("_too_old", "fresh_within")

    def __init__(self, fresh_within: float | None = None) -> None:
        if fresh_within is not None and not fresh_within > 0:
            raise UsageError(f"fresh_within={fresh_within!r} must be a positive number of seconds, or None")
        self.fresh_within: float | None = fresh_within
        self._too_old = Refusal(
            401,
            "A more recent login is required",
            'Bearer error="insufficient_user_authentication", '
            'error_description="A more recent login is required", '
            f'max_age="{math.floor(fresh_within or 0)}"',
        )

    def unmet_by(self, session: Session) -> Refusal | None:
        """Give the refusal for a session that does not do: RFC 6750, section 3, or RFC 9470, section 3; else None."""
        if not session.is_authenticated:
            return _NOBODY
        if self.fresh_within is not None and not session.is_fresh(self.fresh_within):
            return self._too_old
        return None

    async def unmet_in_store(self, session: Session) -> Refusal | None:
        """The same for the session as the store has it now, past every copy. Drops pending changes. Raises StoreUnavailable."""
        if session.is_authenticated:
            try:
                await session.reload()
            except SessionEnded:
                return _NOBODY
        return self.unmet_by(session)


def must_close(scope: MutableMapping[str, Any]) -> bool:
    """Whether an ASGI scope is of a handshake whose refusal the server can tell by closing alone, and so as a 403.

    Others are told a status, before the WebSocket is accepted (ASGI's extension `websocket.http.response`).
    """
    return scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {})
