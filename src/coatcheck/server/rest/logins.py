"""Logging in, out, and proving again who one is. Leaves what a password is worth to `accounts`."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from coatcheck.ids import ID_BYTES, encode
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.access import CurrentSession, LoginSession, LoginUser, enter_session, enter_token_session
from coatcheck.server.rest.models import Credentials, LoggedIn, PasswordAgain, TokenLogin
from coatcheck.server.services import ServicesOf

__all__ = ["NOBODY", "router"]

router: APIRouter = APIRouter(tags=["login"])

NOBODY = encode(bytes(ID_BYTES))
"""Asked for in place of a user that there is not, so that both take the same steps."""


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
    if session.by_bearer and form.mode == "cookie":
        raise ProblemError(400, "With an access token no cookie is set: leave it out, or say mode token.")
    user = await services.accounts.find(form.username)
    async with services.attempts.password(request, form.username, user) as attempt:
        epoch = await services.sessions.epoch(NOBODY if user is None else user.id)
        right = await services.accounts.verify(user, form.password.get_secret_value())
        if user is None or not right:
            raise ProblemError(401, "Username or password is not right.")
        await attempt.refund()
    if form.mode == "token":
        return await enter_token_session(request, services, user, epoch=epoch)
    services.attempts.remember_device(request, response, user)
    return await enter_session(request, session, services, user, epoch=epoch, remember=form.remember)


@router.post("/v1/logout", status_code=204, response_class=Response, responses=documented(401, 403, 503))
async def log_out(session: CurrentSession) -> None:
    """End this session, everywhere. Harmless where nobody is logged in.

    401 for an access token that is not valid any more: `/v1/token/revoke` takes a refresh token.
    """
    await session.log_out()


@router.post("/v1/reauthenticate", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def reauthenticate(
    form: PasswordAgain, request: Request, session: LoginSession, user: LoginUser, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Give the password again, for what needs a recent login. The session goes on under a new secret.

    Where an access token brought the request, the answer has new tokens, and the old ones are worth nothing any more.

    403 where the password is not right: the session stays as it was. 429 after too many that were not.
    """
    async with services.attempts.password(request, user.username, user) as attempt:
        epoch = await services.sessions.epoch(user.id)
        if not await services.accounts.verify(user, form.password.get_secret_value()):
            raise ProblemError(403, "The password is not right.")
        await attempt.refund()
    return await enter_session(request, session, services, user, epoch=epoch)
