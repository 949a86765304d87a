"""Accounts, as their owners and others see them: register, look somebody up, change the password."""

from starlette.requests import Request

from coatcheck.accounts import User
from coatcheck.errors import StoreUnavailable
from coatcheck.server.actions.access import Entered, enter_session, place_of, user_of
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["change_password", "find_user", "register"]


async def register(services: Services, request: Request, *, username: str, password: str, name: str = "") -> User:
    """Make an account; logs nobody in. Raises ProblemError with 403 where that is closed; AccountRefused, Throttled."""
    if services.settings.registration == "closed":
        raise ProblemError(403, "Accounts are made by the operator here, not by visitors.")
    async with services.attempts.registration(request):
        return await services.accounts.register(username, password, name)


async def find_user(services: Services, user_id: str) -> User:
    """Give a user of whom any logged-in user may know id and name. Raises ProblemError with 404."""
    user = await services.accounts.get(user_id)
    if user is None:
        raise ProblemError(404, "There is no user with this id.")
    return user


async def change_password(
    services: Services, request: Request, session: Session, *, current_password: str, new_password: str
) -> Entered:
    """Change the password and end the user's other sessions; this one goes on under a new secret.

    Raises ProblemError: 403 where the current password is not right, 503 where it was changed but the sessions could not
    be ended; PasswordRefused, Throttled, SessionEnded.
    """
    user = await user_of(session, services)
    async with services.attempts.password(request, user.username, user) as attempt:
        if not await services.accounts.verify(user, current_password):
            services.logins.failed(user, place_of(request))
            raise ProblemError(403, "The current password is not right.")
        await attempt.refund()
    await services.accounts.set_password(user.id, new_password)
    assert session.id is not None
    address = request.client.host if request.client else None
    services.activity.record("password_changed", session.id, user_id=user.id, detail={"address": address})
    try:
        # After the change: whoever logs in with the old password meanwhile has read the epoch that ends here.
        await services.sessions.end_user(user.id, keep=session.id, reason="password changed")
        # Exactly what the store has now: this session with the new epoch, or SessionEnded if somebody ended it.
        await session.reload()
    except StoreUnavailable as error:
        raise ProblemError(
            503,
            "The password was changed, but the sessions cannot be asked right now: your other sessions may still live. "
            "End them when this is over.",
            headers={"retry-after": str(error.retry_after)},
        ) from None
    record = session.record
    assert record is not None
    return await enter_session(request, session, services, user, epoch=record.epoch)
