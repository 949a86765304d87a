"""Log in, be known, log out, with Litestar: `uvicorn litestar_login:app`."""

from typing import Any

from litestar import Litestar, Request, Response, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.params import FromPath

from coatcheck.integrations.litestar import CurrentSession, CurrentUser, SessionPlugin


@post("/login", media_type="text/plain", status_code=200)
async def log_in(session: CurrentSession) -> str:
    await session.log_in("user123")  # yours checks a password first
    return "Logged in"


@post("/logout", media_type="text/plain", status_code=200)
async def log_out(session: CurrentSession) -> str:
    await session.log_out()
    return "Logged out"


@get("/profile", media_type="text/plain")
async def profile(current_user: CurrentUser) -> str:
    return f"Hello, {current_user}"


@get("/user/{user_id:str}")
async def user(user_id: FromPath[str]) -> dict[str, str]:
    return {"id": user_id, "name": "John Doe"}


def unauthorized(request: Request[Any, Any, Any], error: NotAuthorizedException) -> Response[str]:
    return Response("Unauthorized", status_code=401, media_type="text/plain", headers=error.headers)


app = Litestar(
    [log_in, log_out, profile, user],
    plugins=[SessionPlugin("sqlite:///sessions.sqlite3")],
    exception_handlers={NotAuthorizedException: unauthorized},
)
