"""What the routes work with, made once by `app` and found through the request."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from coatcheck.accounts import Accounts
from coatcheck.accounts.passkeys import Passkeys
from coatcheck.accounts.recovery import RecoveryCodes
from coatcheck.accounts.security_log import SecurityLog
from coatcheck.manager import Sessions
from coatcheck.server.activity import Activity
from coatcheck.server.attempts import Attempts
from coatcheck.server.context import WorkerContext
from coatcheck.server.live_table import LiveTable
from coatcheck.server.login_counts import LoginCounts
from coatcheck.server.settings import Settings
from coatcheck.tokens import AccessTokens, RefreshTokens

__all__ = ["Services", "ServicesOf"]


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one worker."""

    settings: Settings
    worker: WorkerContext
    sessions: Sessions
    accounts: Accounts
    attempts: Attempts
    access: AccessTokens
    refresh: RefreshTokens
    activity: Activity
    passkeys: Passkeys
    recovery: RecoveryCodes
    security: SecurityLog
    logins: LoginCounts
    live: LiveTable


async def _services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesOf = Annotated[Services, Depends(_services)]
"""A route's parameter of this type gets the worker's services."""
