"""Accounts over REST: register, look somebody up, oneself, and change the password."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from coatcheck.errors import StoreUnavailable
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.access import LoginSession, LoginUser, enter_session
from coatcheck.server.rest.models import ChangedPassword, LoggedIn, Me, Person, Registration, TokenLogin, me
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["users"])


@router.post("/v1/users", status_code=201, responses=documented(400, 403, 409, 413, 422, 429, 503))
async def register(form: Registration, request: Request, services: ServicesOf, response: Response) -> Me:
    """Make an account. Logs nobody in.

    403 where the operator has closed registration, 409 for a username that is taken, 429 after too many from one address.
    """
    if services.settings.registration == "closed":
        raise ProblemError(403, "Accounts are made by the operator here, not by visitors.")
    async with services.attempts.registration(request):
        user = await services.accounts.register(form.username, form.password.get_secret_value(), form.name)
    response.headers["location"] = f"/v1/users/{user.id}"
    return me(user)


@router.get("/v1/users/{user_id}", responses=documented(401, 404, 503))
async def show_user(user_id: str, session: LoginSession, services: ServicesOf) -> Person:
    """What any logged-in user may know of another."""
    user = await services.accounts.get(user_id)
    if user is None:
        raise ProblemError(404, "There is no user with this id.")
    return Person(id=user.id, name=user.name)


@router.get("/v1/me", responses=documented(401, 503))
async def show_me(user: LoginUser) -> Me:
    """Who is logged in."""
    return me(user)


@router.post("/v1/me/password", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def change_password(
    form: ChangedPassword, request: Request, session: LoginSession, user: LoginUser, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Change the password. Ends every other session of the user; this one goes on under a new secret.

    Where an access token brought the request, the answer has new tokens, and the old ones are worth nothing any more.

    403 where the current password is not right, 429 after too many that were not.
    """
    async with services.attempts.password(request, user.username, user) as attempt:
        if not await services.accounts.verify(user, form.current_password.get_secret_value()):
            raise ProblemError(403, "The current password is not right.")
        await attempt.refund()
    await services.accounts.set_password(user.id, form.new_password.get_secret_value())
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
