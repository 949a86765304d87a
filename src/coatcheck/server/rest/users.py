"""Accounts over REST: register, look somebody up, oneself, and change the password."""

from fastapi import APIRouter, Response
from starlette.requests import Request

from coatcheck.server.actions import users
from coatcheck.server.problems import documented
from coatcheck.server.rest.access import LoginSession, LoginUser
from coatcheck.server.rest.models import ChangedPassword, LoggedIn, Me, Person, Registration, TokenLogin, login_view, me
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["users"])


@router.post("/v1/users", status_code=201, responses=documented(400, 403, 409, 413, 422, 429, 503))
async def register(form: Registration, request: Request, services: ServicesOf, response: Response) -> Me:
    """Make an account. Logs nobody in.

    403 where the operator has closed registration, 409 for a username that is taken, 429 after too many from one address.
    """
    password = form.password.get_secret_value()
    user = await users.register(services, request, username=form.username, password=password, name=form.name)
    response.headers["location"] = f"/v1/users/{user.id}"
    return me(user)


@router.get("/v1/users/{user_id}", responses=documented(401, 404, 503))
async def show_user(user_id: str, session: LoginSession, services: ServicesOf) -> Person:
    """What any logged-in user may know of another."""
    user = await users.find_user(services, user_id)
    return Person(id=user.id, name=user.name)


@router.get("/v1/me", responses=documented(401, 503))
async def show_me(user: LoginUser) -> Me:
    """Who is logged in."""
    return me(user)


@router.post("/v1/me/password", responses=documented(400, 401, 403, 413, 422, 429, 503))
async def change_password(
    form: ChangedPassword, request: Request, session: LoginSession, services: ServicesOf
) -> LoggedIn | TokenLogin:
    """Change the password. Ends every other session of the user; this one goes on under a new secret.

    Where an access token brought the request, the answer has new tokens, and the old ones are worth nothing any more.

    403 where the current password is not right, 429 after too many that were not.
    """
    entered = await users.change_password(
        services,
        request,
        session,
        current_password=form.current_password.get_secret_value(),
        new_password=form.new_password.get_secret_value(),
    )
    return login_view(entered)
