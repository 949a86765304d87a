"""Log in, be known, log out, with FastAPI: `uvicorn fastapi_login:app`."""

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from coatcheck import SessionMiddleware
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser

app = FastAPI(default_response_class=PlainTextResponse)
app.add_middleware(SessionMiddleware, "sqlite:///sessions.sqlite3")


@app.post("/login")
async def log_in(session: CurrentSession) -> str:
    await session.log_in("user123")  # yours checks a password first
    return "Logged in"


@app.post("/logout")
async def log_out(session: CurrentSession) -> str:
    await session.log_out()
    return "Logged out"


@app.get("/profile")
async def profile(user: CurrentUser) -> str:
    return f"Hello, {user}"


@app.get("/user/{user_id}", response_class=JSONResponse)
async def user(user_id: str) -> dict[str, str]:
    return {"id": user_id, "name": "John Doe"}


@app.exception_handler(401)
async def unauthorized(request: Request, error: HTTPException) -> PlainTextResponse:
    return PlainTextResponse("Unauthorized", 401, error.headers)
