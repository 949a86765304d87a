"""Logging in, out, and proving again who one is. Leaves what a password is worth to `accounts`.

A guess is counted before it is looked at (decision record 9), and the user's epoch is read before the password is checked,
so that a "log out everywhere" that runs meanwhile wins.
"""

from starlette.requests import Request
from starlette.responses import Response

from coatcheck.ids import ID_BYTES, encode
from coatcheck.server.actions.access import Entered, enter_session, enter_token_session, user_of
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["NOBODY", "log_in", "reauthenticate"]

NOBODY = encode(bytes(ID_BYTES))
"""Asked for in place of a user that there is not, so that both take the same steps."""


async def log_in(
    services: Services,
    request: Request,
    response: Response,
    session: Session,
    *,
    username: str,
    password: str,
    remember: bool = False,
    by_token: bool = False,
) -> Entered:
    """Log in: the request's session under a new secret, or a new session that only tokens lead to.

    The response to be sent makes the device known where a cookie is set. Raises ProblemError: 400 where an access token
    brought the request and a cookie is wanted, 401 that tells nobody which of the two was wrong; Throttled, LoginRefused.
    """
    if session.by_bearer and not by_token:
        raise ProblemError(400, "With an access token no cookie is set: leave it out, or say mode token.")
    user = await services.accounts.find(username)
    async with services.attempts.password(request, username, user) as attempt:
        epoch = await services.sessions.epoch(NOBODY if user is None else user.id)
        right = await services.accounts.verify(user, password)
        if user is None or not right:
            raise ProblemError(401, "Username or password is not right.")
        await attempt.refund()
    if by_token:
        return await enter_token_session(request, services, user, epoch=epoch)
    services.attempts.remember_device(request, response, user)
    return await enter_session(request, session, services, user, epoch=epoch, remember=remember)


async def reauthenticate(services: Services, request: Request, session: Session, *, password: str) -> Entered:
    """Prove again who one is; the session goes on under a new secret. Raises ProblemError with 403, and Throttled."""
    user = await user_of(session, services)
    async with services.attempts.password(request, user.username, user) as attempt:
        epoch = await services.sessions.epoch(user.id)
        if not await services.accounts.verify(user, password):
            raise ProblemError(403, "The password is not right.")
        await attempt.refund()
    return await enter_session(request, session, services, user, epoch=epoch)
