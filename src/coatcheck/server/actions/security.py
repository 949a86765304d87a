"""Passkeys and recovery codes of whoever is logged in, and what happened to their account. Leaves cryptography to `accounts`.

Whatever adds a way to log in, or takes one away, needs a recent proof of who asks, which the routes demand.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from coatcheck.accounts.passkeys import Passkey
from coatcheck.accounts.security_log import Happened
from coatcheck.server.actions.access import place_of, user_of
from coatcheck.server.problems import ProblemError
from coatcheck.server.services import Services
from coatcheck.session import Session

__all__ = ["activity_of", "add_passkey", "make_codes", "remove_passkey", "rename_passkey"]


async def add_passkey(
    services: Services, request: Request, session: Session, *, name: str, credential: Mapping[str, Any]
) -> Passkey:
    """Keep a passkey that the user's device has made. Raises PasskeyRefused, NameRefused."""
    user = await user_of(session, services)
    assert session.id is not None
    made = await services.passkeys.add(user, session.id, name, credential)
    detail = {**place_of(request), "name": made.name, "session": session.id}
    await services.security.write("passkey_added", user, about=user.id, detail=detail)
    return made


async def rename_passkey(services: Services, session: Session, passkey_id: str, name: str) -> Passkey:
    """Call one of the user's passkeys something. Raises ProblemError with 404, NameRefused."""
    user = await user_of(session, services)
    renamed = await services.passkeys.rename(user.id, passkey_id, name)
    if renamed is None:
        raise _none()
    return renamed


async def remove_passkey(services: Services, request: Request, session: Session, passkey_id: str) -> None:
    """Forget one of the user's passkeys. Raises ProblemError with 404."""
    user = await user_of(session, services)
    removed = await services.passkeys.remove(user.id, passkey_id)
    if removed is None:
        raise _none()
    detail = {**place_of(request), "name": removed.name, "session": session.id or ""}
    await services.security.write("passkey_removed", user, about=user.id, detail=detail)


async def make_codes(services: Services, request: Request, session: Session) -> list[str]:
    """Give the user new recovery codes in place of the ones before."""
    user = await user_of(session, services)
    codes = await services.recovery.make(user.id)
    detail = {**place_of(request), "session": session.id or ""}
    await services.security.write("recovery_codes_made", user, about=user.id, detail=detail)
    return codes


async def activity_of(services: Services, user_id: str, *, before: str | None, limit: int) -> list[Happened]:
    """Give what happened to a user's account and sessions, newest first. Raises ProblemError with 400 for no place."""
    try:
        return await services.security.of_user(user_id, before=before, limit=limit)
    except ValueError:
        raise ProblemError(400, "There is no such place to go on from.") from None


def _none() -> ProblemError:
    return ProblemError(404, "You have no passkey with this id.")
