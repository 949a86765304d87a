"""Talk to whoever is logged in, over WebSockets: `uvicorn websocket_chat:app`, then open http://localhost:8000 twice.

Logging out closes the WebSockets of that session with 4401, in each of its tabs. The code for that is SessionMiddleware.
"""

import asyncio
from contextlib import suppress
from pathlib import Path

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse

from coatcheck import SessionMiddleware
from coatcheck.integrations.fastapi import CurrentSession, CurrentUser

app = FastAPI()
# A WebSocket is opened for pages of these origins alone.
app.add_middleware(SessionMiddleware, "sqlite:///sessions.sqlite3", public_origins=["http://localhost:8000"])

mailboxes: set[asyncio.Queue[str]] = set()


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_suffix(".html"))


@app.post("/login/{name}")
async def log_in(name: str, session: CurrentSession) -> None:
    await session.log_in(name)  # yours checks a password first


@app.post("/logout")
async def log_out(session: CurrentSession) -> None:
    await session.log_out()


@app.websocket("/chat")
async def chat(websocket: WebSocket, user: CurrentUser) -> None:
    await websocket.accept()
    mailbox = asyncio.Queue[str](maxsize=100)
    mailboxes.add(mailbox)
    delivering = asyncio.create_task(deliver(mailbox, websocket))
    try:
        async for text in websocket.iter_text():
            for each in mailboxes:
                if not each.full():  # who does not read misses something, and keeps nobody waiting
                    each.put_nowait(f"{user}: {text}")
    finally:
        mailboxes.discard(mailbox)
        delivering.cancel()


async def deliver(mailbox: asyncio.Queue[str], websocket: WebSocket) -> None:
    with suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text(await mailbox.get())
