"""Logging in, out, and proving again who one is, over REST. Leaves how it is done to `actions`."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from coatcheck.server.actions import logins
from coatcheck.server.problems import documented
from coatcheck.server.rest.access import CurrentSession, LoginSession
from coatcheck.server.rest.models import Credentials, LoggedIn, PasswordAgain, TokenLogin, login_view
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["login"])


@router.post("/v1/login", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def log_in(
    form: Credentials, request: Request, response: Response, session: CurrentSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Log in: the answer sets the session cookie, under a new secret. What another user left in the session is gone.

    With `mode` `token` it makes a session of its own, whatever cookie came, and the answer has an access token and a refresh
    token instead, and sets no cookie. A login by cookie is 400 with an access token, which leaves no cookie to be set.

    401 tells nobody whether it was the username or the password. 403 for a page of another site. 429 after too many wrong
    passwords on this account or from this address; a device that has logged in before is only kept out by its own.
    """
    entered = await logins.log_in(
        services,
        request,
        response,
        session,
        username=form.username,
        password=form.password.get_secret_value(),
        remember=form.remember,
        by_token=form.mode == "token",
    )
    return login_view(entered)


@router.post("/v1/logout", status_code=204, response_class=Response, responses=documented(401, 403, 503))
async def log_out(session: CurrentSession) -> None:
    """End this session, everywhere. Harmless where nobody is logged in.

    401 for an access token that is not valid any more: `/v1/token/revoke` takes a refresh token.
    """
    await session.log_out()


@router.post("/v1/reauthenticate", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def reauthenticate(
    form: PasswordAgain, request: Request, session: LoginSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Give the password again, for what needs a recent login. The session goes on under a new secret.

    Where an access token brought the request, the answer has new tokens, and the old ones are worth nothing any more.

    403 where the password is not right: the session stays as it was. 429 after too many that were not.
    """
    entered = await logins.reauthenticate(services, request, session, password=form.password.get_secret_value())
    return login_view(entered)
