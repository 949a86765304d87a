"""Who a request comes from, and logging that person in, by cookie or token. Leaves cookies and cross-site to SessionMiddleware."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import Request

from coatcheck.accounts import User
from coatcheck.integrations.fastapi import CurrentSession, require_login
from coatcheck.server.problems import ProblemError
from coatcheck.server.rest.models import LoggedIn, TokenLogin, me, session_view
from coatcheck.server.schemes import SCHEME
from coatcheck.server.services import Services, ServicesOf
from coatcheck.server.session_kind import KIND, TOKEN
from coatcheck.session import Session
from coatcheck.tokens import TokenPair

__all__ = ["CurrentSession", "LoginSession", "LoginUser", "enter_session", "enter_token_session", "seen_of"]

_MOST_USER_AGENT = 300

LoginSession = Annotated[Session, Depends(require_login())]
"""The session of a logged-in user; 401 without one."""


async def _user(session: LoginSession, services: ServicesOf) -> User:
    assert session.user_id is not None
    user = await services.accounts.get(session.user_id)
    if user is None or user.disabled:
        # Disabling ends the sessions, so this is the moment in between, or a database that was replaced.
        raise ProblemError(401, "There is no such account any more.")
    return user


LoginUser = Annotated[User, Depends(_user)]
"""The user who is logged in, as the accounts have them now; 401 without one."""


async def enter_session(
    request: Request, session: Session, services: Services, user: User, *, epoch: int, remember: bool | None = None
) -> LoggedIn | TokenLogin:
    """Make the request's session that of a user who has just proved who they are, under a new secret; give the answer.

    Where an access token brought the request, its tokens are replaced as a cookie is. `epoch` must have been read before
    the proof was looked at. Raises LoginRefused.
    """
    pair: TokenPair | None = None
    if session.by_bearer:
        assert session.record is not None
        # First the refresh token, so that whoever holds the old one gets nothing for the new secret.
        pair = await services.refresh.begin(session.record)
    await session.log_in(user.id, epoch=epoch, remember=remember, about=seen_of(request, user))
    if pair is not None:
        return _with_tokens(services, session, user, pair)
    assert session.record is not None
    return LoggedIn(user=me(user), session=session_view(session.record, session.id))


async def enter_token_session(request: Request, services: Services, user: User, *, epoch: int) -> TokenLogin:
    """Make a new session that only tokens lead to, whatever session the request has. Raises LoginRefused."""
    session = await services.sessions.load(None)
    await session.log_in(user.id, epoch=epoch, about={**seen_of(request, user), KIND: TOKEN})
    assert session.record is not None
    return _with_tokens(services, session, user, await services.refresh.begin(session.record))


def _with_tokens(services: Services, session: Session, user: User, pair: TokenPair) -> TokenLogin:
    assert session.record is not None
    access, lifetime = services.access.issue(session.record)
    return TokenLogin(
        access_token=access,
        expires_in=lifetime,
        refresh_token=pair.refresh_token,
        user=me(user),
        session=session_view(session.record, session.id),
    )


def seen_of(request: Request, user: User) -> dict[str, str]:
    """What a session is to know of its login: for lists, for `/v1/verify`, and the scheme that it is confined to."""
    return {
        "username": user.username,
        "method": "password",
        "address": request.client.host if request.client else "",
        "user_agent": request.headers.get("user-agent", "")[:_MOST_USER_AGENT],
        SCHEME: request.url.scheme,
    }
