"""Log in, be known by an access token, renew it, log out, with FastAPI: `uvicorn fastapi_jwt:app`, then open /client/browser.html."""

from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel

from coatcheck import SessionMiddleware, Sessions
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser
from coatcheck.tokens import AccessTokens, KeyRing, RefreshRefused, RefreshTokens, TokenPair
from coatcheck.tokens.key_file import KeyFile

HERE = "http://localhost:8000"  # yours says https
USERS = {"123": {"id": "123", "name": "John Doe", "username": "john", "password": "a coat, a hat, an umbrella"}}

sessions = Sessions("sqlite:///sessions.sqlite3")
access_tokens = AccessTokens(KeyRing(KeyFile("signing-keys.json")), issuer=HERE, audience=HERE)
refresh_tokens = RefreshTokens(sessions, access_tokens)

app = FastAPI()
app.add_middleware(SessionMiddleware, sessions, tokens=access_tokens)
app.mount("/client", StaticFiles(directory=Path(__file__).parent / "jwt_clients"))


class Login(BaseModel):
    username: str
    password: str


class Refresh(BaseModel):
    refresh_token: str


def answer(pair: TokenPair) -> JSONResponse:
    return JSONResponse({**pair._asdict(), "token_type": "Bearer"}, headers={"Cache-Control": "no-store"})


@app.post("/login")
async def log_in(form: Login) -> JSONResponse:
    user = next((user for user in USERS.values() if user["username"] == form.username), None)
    epoch = await sessions.epoch(user["id"]) if user else 0  # before the password is checked: see Session.log_in
    if user is None or form.password != user["password"]:  # yours compares argon2 hashes
        raise HTTPException(401, "Username or password is not right")
    session = await sessions.load(None)  # a session of its own: no cookie leads to it
    await session.log_in(user["id"], epoch=epoch, about={"method": "password"})
    assert session.record is not None
    return answer(await refresh_tokens.begin(session.record))


@app.post("/refresh")
async def refresh(form: Refresh) -> JSONResponse:
    return answer(await refresh_tokens.exchange(form.refresh_token))


@app.post("/logout", status_code=204)
async def log_out(session: CurrentSession) -> None:
    await session.log_out()


@app.get("/profile")
async def profile(user: CurrentUser) -> dict[str, str]:
    return {"id": user, "name": USERS[user]["name"]}


@app.exception_handler(RefreshRefused)
async def refused(request: Request, error: RefreshRefused) -> JSONResponse:
    return JSONResponse({"error": error.error}, 429 if error.error == "slow_down" else 400)
