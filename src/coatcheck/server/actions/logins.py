"""Logging in, out, and proving again who one is. Leaves what a password is worth to `accounts`.

A guess is counted before it is looked at (decision record 9), and the user's epoch is read before the password is checked,
so that a "log out everywhere" that runs meanwhile wins.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from coatcheck.accounts import User
from coatcheck.ids import ID_BYTES, encode
from coatcheck.server.actions.access import Entered, enter_session, enter_token_session, place_of, user_of
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = [
    "NOBODY",
    "log_in",
    "log_in_by_code",
    "log_in_by_passkey",
    "reauthenticate",
    "reauthenticate_by_passkey",
]

NOBODY = encode(bytes(ID_BYTES))
"""Asked for in place of a user that there is not, so that both take the same steps."""
_STRANGER = "a passkey that nobody has"


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
    _check_mode(session, by_token)
    user = await services.accounts.find(username)
    async with services.attempts.password(request, username, user) as attempt:
        epoch = await services.sessions.epoch(NOBODY if user is None else user.id)
        right = await services.accounts.verify(user, password)
        if user is None or not right:
            raise _wrong(services, request, user, "Username or password is not right.")
        await attempt.refund()
    return await _enter(
        services, request, response, session, user, epoch, "password", remember=remember, by_token=by_token
    )


async def log_in_by_passkey(
    services: Services,
    request: Request,
    response: Response,
    session: Session,
    *,
    credential: Mapping[str, Any],
    remember: bool = False,
    by_token: bool = False,
) -> Entered:
    """Log in by a passkey's answer to `Passkeys.begin_login`. Raises as `log_in` does."""
    _check_mode(session, by_token)
    claimed = await services.passkeys.owner(credential)
    async with services.attempts.password(request, claimed.username if claimed else _STRANGER, claimed) as attempt:
        epoch = await services.sessions.epoch(NOBODY if claimed is None else claimed.id)
        user = await services.passkeys.verify_login(credential)
        if user is None or claimed is None or user.id != claimed.id:
            raise _wrong(services, request, claimed, "This passkey was not accepted.")
        await attempt.refund()
    return await _enter(
        services, request, response, session, user, epoch, "passkey", remember=remember, by_token=by_token
    )


async def log_in_by_code(
    services: Services,
    request: Request,
    response: Response,
    session: Session,
    *,
    username: str,
    code: str,
    remember: bool = False,
    by_token: bool = False,
) -> Entered:
    """Log in by one of a user's recovery codes, which is spent by it. Raises as `log_in` does."""
    _check_mode(session, by_token)
    user = await services.accounts.find(username)
    async with services.attempts.password(request, username, user) as attempt:
        epoch = await services.sessions.epoch(NOBODY if user is None else user.id)
        right = await services.recovery.use(user, code)
        if user is None or not right:
            raise _wrong(services, request, user, "Username or recovery code is not right.")
        await attempt.refund()
    await services.security.write("recovery_code_used", user, about=user.id, detail=place_of(request))
    return await _enter(
        services, request, response, session, user, epoch, "recovery-code", remember=remember, by_token=by_token
    )


async def reauthenticate(services: Services, request: Request, session: Session, *, password: str) -> Entered:
    """Prove again who one is; the session goes on under a new secret. Raises ProblemError with 403, and Throttled."""
    user = await user_of(session, services)
    async with services.attempts.password(request, user.username, user) as attempt:
        epoch = await services.sessions.epoch(user.id)
        if not await services.accounts.verify(user, password):
            services.logins.failed(user, place_of(request))
            raise ProblemError(403, "The password is not right.")
        await attempt.refund()
    return await enter_session(request, session, services, user, epoch=epoch)


async def reauthenticate_by_passkey(
    services: Services, request: Request, session: Session, *, credential: Mapping[str, Any]
) -> Entered:
    """The same by a passkey's answer to `Passkeys.begin_again`."""
    user = await user_of(session, services)
    assert session.id is not None
    async with services.attempts.password(request, user.username, user) as attempt:
        epoch = await services.sessions.epoch(user.id)
        if not await services.passkeys.verify_again(user, session.id, credential):
            services.logins.failed(user, place_of(request))
            raise ProblemError(403, "This passkey was not accepted.")
        await attempt.refund()
    return await enter_session(request, session, services, user, epoch=epoch, method="passkey")


def _check_mode(session: Session, by_token: bool) -> None:
    if session.by_bearer and not by_token:
        raise ProblemError(400, "With an access token no cookie is set: leave it out, or say mode token.")


def _wrong(services: Services, request: Request, user: User | None, sentence: str) -> ProblemError:
    services.logins.failed(user, place_of(request))
    return ProblemError(401, sentence)


async def _enter(
    services: Services,
    request: Request,
    response: Response,
    session: Session,
    user: User,
    epoch: int,
    method: str,
    *,
    remember: bool,
    by_token: bool,
) -> Entered:
    if by_token:
        return await enter_token_session(request, services, user, epoch=epoch, method=method)
    services.attempts.remember_device(request, response, user)
    return await enter_session(request, session, services, user, epoch=epoch, method=method, remember=remember)
