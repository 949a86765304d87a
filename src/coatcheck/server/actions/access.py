"""Who somebody is who is logged in, and making a session theirs, by cookie or token. Leaves the proof to `logins`."""

from typing import NamedTuple

from starlette.requests import Request

from coatcheck.accounts import User
from coatcheck.record import SessionRecord
from coatcheck.server.problems import ProblemError
from coatcheck.server.schemes import SCHEME
from coatcheck.server.services import Services
from coatcheck.server.session_kind import KIND, TOKEN
from coatcheck.session import Session
from coatcheck.tokens import TokenPair

__all__ = ["Entered", "enter_session", "enter_token_session", "place_of", "seen_of", "user_of"]

_MOST_USER_AGENT = 300


class Entered(NamedTuple):
    """A session that somebody has just entered, and the tokens that lead to it where no cookie does."""

    user: User
    record: SessionRecord
    tokens: TokenPair | None = None


async def user_of(session: Session, services: Services) -> User:
    """Give the user who is logged in, as the accounts have them now. Raises ProblemError with 401."""
    user = None if session.user_id is None else await services.accounts.get(session.user_id)
    if user is None or user.disabled:
        # Disabling ends the sessions, so this is the moment in between, or a database that was replaced.
        raise ProblemError(401, "There is no such account any more.")
    return user


async def enter_session(
    request: Request,
    session: Session,
    services: Services,
    user: User,
    *,
    epoch: int,
    method: str = "password",
    remember: bool | None = None,
) -> Entered:
    """Make the request's session that of a user who has just proved who they are, under a new secret.

    Where an access token brought the request, its tokens are replaced as a cookie is. `epoch` must have been read before
    the proof was looked at; `method` is what the proof was. Raises LoginRefused.
    """
    pair: TokenPair | None = None
    if session.by_bearer:
        assert session.record is not None
        # First the refresh token, so that whoever holds the old one gets nothing for the new secret.
        pair = await services.refresh.begin(session.record)
    await session.log_in(user.id, epoch=epoch, remember=remember, about=seen_of(request, user, method))
    assert session.record is not None
    return Entered(user, session.record, None if pair is None else _with_access(services, session.record, pair))


async def enter_token_session(
    request: Request, services: Services, user: User, *, epoch: int, method: str = "password"
) -> Entered:
    """Make a new session that only tokens lead to, whatever session the request has. Raises LoginRefused."""
    session = await services.sessions.load(None)
    await session.log_in(user.id, epoch=epoch, about={**seen_of(request, user, method), KIND: TOKEN})
    assert session.record is not None
    pair = await services.refresh.begin(session.record)
    return Entered(user, session.record, _with_access(services, session.record, pair))


def _with_access(services: Services, record: SessionRecord, pair: TokenPair) -> TokenPair:
    access, lifetime = services.access.issue(record)
    return pair._replace(access_token=access, expires_in=lifetime)


def place_of(request: Request) -> dict[str, str]:
    """Where a request came from: for lists, and for the log."""
    return {
        "address": request.client.host if request.client else "",
        "user_agent": request.headers.get("user-agent", "")[:_MOST_USER_AGENT],
    }


def seen_of(request: Request, user: User, method: str = "password") -> dict[str, str]:
    """What a session is to know of its login: for lists, for `/v1/verify`, and the scheme that it is confined to."""
    return {
        "username": user.username,
        "method": method,
        **place_of(request),
        SCHEME: request.url.scheme,
    }
