"""The time, by server-sent events, for whoever is logged in: `uvicorn sse_clock:app`, then open http://localhost:8000.

Logging out ends the stream with an event of its own. The code for that is SessionMiddleware.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse

from coatcheck import SessionMiddleware
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser

app = FastAPI()
app.add_middleware(SessionMiddleware, "sqlite:///sessions.sqlite3")


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_suffix(".html"))


@app.post("/login")
async def log_in(session: CurrentSession) -> None:
    await session.log_in("user123")  # yours checks a password first


@app.post("/logout")
async def log_out(session: CurrentSession) -> None:
    await session.log_out()


@app.get("/clock")
async def clock(user: CurrentUser) -> StreamingResponse:
    return StreamingResponse(ticks(user), media_type="text/event-stream")


async def ticks(user: str) -> AsyncIterator[str]:
    while True:
        yield f"data: {user}, it is {datetime.now(UTC):%H:%M:%S}\n\n"
        await asyncio.sleep(1)
