"""Who must be logged in for a REST route. Leaves cookies and cross-site to SessionMiddleware, and entering to `actions`."""

from typing import Annotated

from fastapi import Depends

from coatcheck.accounts import User
from coatcheck.integrations.fastapi import CurrentSession, require_login
from coatcheck.server.actions.access import user_of
from coatcheck.server.services import ServicesOf
from coatcheck.session import Session

__all__ = ["CurrentSession", "LoginSession", "LoginUser"]

LoginSession = Annotated[Session, Depends(require_login())]
"""The session of a logged-in user; 401 without one."""


async def _user(session: LoginSession, services: ServicesOf) -> User:
    return await user_of(session, services)


LoginUser = Annotated[User, Depends(_user)]
"""The user who is logged in, as the accounts have them now; 401 without one."""
