"""What administrators do to other people's accounts and sessions, each written down. Leaves who is one to the routes."""

import asyncio
from collections.abc import AsyncIterator

from coatcheck.accounts import User
from coatcheck.accounts.security_log import Action
from coatcheck.errors import StoreUnavailable
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["change_user", "end_everybodys", "end_one", "end_users", "rotate_keys", "user_with"]

REASON = "ended by administrator"
DISABLED = "disabled by operator"
_PAGE = 500


async def user_with(services: Services, user_id: str) -> User:
    """Give a user by id. Raises ProblemError with 404."""
    user = await services.accounts.get(user_id)
    if user is None:
        raise ProblemError(404, "There is no user with this id.")
    return user


async def change_user(
    services: Services, admin: User, user_id: str, *, disabled: bool | None = None, is_admin: bool | None = None
) -> User:
    """Disable or enable an account, make it an administrator's or no longer one.

    Raises ProblemError: 404; 409 for what an administrator cannot do to themselves; 503 where the account was disabled but
    its sessions could not be ended. LastAdmin.
    """
    user = await user_with(services, user_id)
    if user.id == admin.id and (disabled or is_admin is False):
        raise ProblemError(409, "You cannot do this to yourself: another administrator can.")
    # Written down whether or not it was so before: what failed halfway is asked for again, and is in the log then.
    if is_admin is not None:
        await services.accounts.set_admin(user.id, is_admin)
        await _log(services, "made_admin" if is_admin else "admin_taken", admin, user)
    if disabled is not None:
        await services.accounts.set_disabled(user.id, disabled, keep_admin=user.is_admin)
        if disabled:
            await _end_disabled(services, user)
        await _log(services, "disabled" if disabled else "enabled", admin, user)
    return await user_with(services, user_id)


async def _end_disabled(services: Services, user: User) -> None:
    try:
        # After the change: a login under way has read the epoch that ends here.
        await services.sessions.end_user(user.id, reason=DISABLED)
    except StoreUnavailable as error:
        raise ProblemError(
            503,
            "The account is disabled, but its sessions cannot be asked right now and may still live: try again.",
            headers={"retry-after": str(error.retry_after)},
        ) from None


async def end_one(services: Services, admin: User, session_id: str) -> None:
    """End anybody's session. Raises ProblemError with 404 where there is none."""
    record = await services.sessions.fresh(session_id)
    if record is None or not await services.sessions.end(session_id, REASON):
        raise ProblemError(404, "There is no session with this id.")
    user = None if record.user_id is None else await services.accounts.get(record.user_id)
    if user is None:  # an anonymous visitor's, or of an account that is gone
        await services.security.write("session_ended_by_admin", admin, as_admin=True, detail={"session": session_id})
    else:
        await _log(services, "session_ended_by_admin", admin, user, session=session_id)


async def end_users(services: Services, admin: User, session: Session, user_id: str) -> int:
    """End all of a user's sessions; of one's own all but this one."""
    user = await user_with(services, user_id)
    ended = await services.sessions.end_user(user.id, keep=_kept(session, user), reason=REASON)
    await _log(services, "sessions_ended_by_admin", admin, user, ended=str(len(ended)))
    return len(ended)


async def end_everybodys(services: Services, admin: User, session: Session) -> int:
    """End the sessions of every user but this one; user by user, so that logins meanwhile may stand."""
    ended = 0
    await services.security.write("all_sessions_ended", admin, as_admin=True)
    async for user in _everybody(services):
        ended += len(await services.sessions.end_user(user.id, keep=_kept(session, user), reason=REASON))
    return ended


async def rotate_keys(services: Services, admin: User) -> None:
    """Sign access tokens with a new key from now on; what the old one signed stays good until it runs out."""
    await asyncio.to_thread(services.access.keys.rotate)
    await services.security.write("keys_rotated", admin, as_admin=True)


def _kept(session: Session, user: User) -> str | None:
    return session.id if session.user_id == user.id else None


async def _everybody(services: Services) -> AsyncIterator[User]:
    after: str | None = None
    while page := await services.accounts.list(_PAGE, after):
        for user in page:
            yield user
        after = page[-1].username


async def _log(services: Services, kind: Action, admin: User, user: User, **detail: str) -> None:
    about = {"username": user.username, **detail}
    await services.security.write(kind, admin, about=user.id, as_admin=True, detail=about)
