"""Log in, be known, log out, with bare Starlette. README.md beside it tells what the two lines do that differ."""

from starlette.middleware.sessions import SessionMiddleware

# isort: split
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route


async def log_in(request: Request) -> Response:
    request.session["user"] = "user123"  # yours checks a password first
    return PlainTextResponse("Logged in")


async def log_out(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("Logged out")


async def profile(request: Request) -> Response:
    if "user" not in request.session:
        return PlainTextResponse("Unauthorized", 401)
    return PlainTextResponse(f"Hello, {request.session['user']}")


async def user(request: Request) -> Response:
    return JSONResponse({"id": request.path_params["user_id"], "name": "John Doe"})


routes = [
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
    Route("/profile", profile),
    Route("/user/{user_id}", user),
]
app = Starlette(routes=routes)
app.add_middleware(SessionMiddleware, secret_key="not a secret once it is published")
