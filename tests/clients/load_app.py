"""The real application, with hashes that cost little and a few routes to write and read by, for tests under load."""

import asyncio
from functools import partial
from typing import Annotated, Any
from unittest import mock

from fastapi import APIRouter, Depends, WebSocket

from coatcheck.accounts import HashParameters, PasswordHasher
from coatcheck.integrations.fastapi import require_login
from coatcheck.server import app
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings
from coatcheck.session import Session, session_of

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)
router = APIRouter(prefix="/test")
LoginSession = Annotated[Session, Depends(require_login())]


@router.post("/number")
async def write(session: LoginSession, seconds: float = 0) -> dict[str, Any]:
    number = await session.modify("number", lambda old: (old or 0) + 1)
    await asyncio.sleep(seconds)
    return said(session, number)


@router.get("/number")
async def read(session: LoginSession, seconds: float = 0) -> dict[str, Any]:
    number = session.get("number", 0)
    await asyncio.sleep(seconds)
    return said(session, number)


@router.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_json({"user": session_of(websocket.scope).user_id})
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def said(session: Session, number: int) -> dict[str, Any]:
    return {"session": session.id, "user": session.user_id, "number": number}


def create_app(settings: Settings, worker: WorkerContext) -> Any:
    with (
        mock.patch.object(app, "PasswordHasher", partial(PasswordHasher, CHEAP)),
        mock.patch.object(app, "ROUTERS", (*app.ROUTERS, router)),
    ):
        return app.create_app(settings, worker)
