"""Whether this worker lives (`/healthz`, for the edge) and whether it can serve (`/readyz`, for whoever sends traffic)."""

import asyncio
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from coatcheck.accounts import AccountsUnavailable
from coatcheck.errors import StoreUnavailable
from coatcheck.server.actions.logins import NOBODY
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.models import StatusView
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["health"])


class ReadyView(BaseModel):
    """That everything is there which a request may need."""

    status: Literal["ok"] = "ok"
    store: Literal["ok"] = "ok"
    """Sessions and accounts can be asked."""
    feed: Literal["ok"] = "ok"
    """What other workers change is heard of."""
    edge: Literal["ok", "none"]
    """Whether requests come through it, or the server runs without one."""


_PATIENCE = 2.0
"""Seconds that each database has to answer."""


@router.get("/healthz", responses=documented(503))
async def alive(services: ServicesOf) -> StatusView:
    """200 while this worker takes requests; 503 from the moment it is told to leave."""
    if services.worker.draining:
        raise ProblemError(503, "This worker is leaving.")
    return StatusView(status="ok")


@router.get("/readyz", responses=documented(503))
async def ready(services: ServicesOf) -> ReadyView:
    """200 while sessions and accounts can be asked, changes are heard of, and the edge is there."""
    try:
        async with asyncio.timeout(_PATIENCE):
            # Through the manager, which starts a store that was away when the worker started.
            await services.sessions.list_user(NOBODY)
            await services.accounts.get(NOBODY)
    except TimeoutError:
        raise _unready("Sessions or accounts do not answer in time.") from None
    except StoreUnavailable:
        raise _unready("The sessions cannot be asked.") from None
    except AccountsUnavailable:
        raise _unready("The accounts cannot be asked.") from None
    if services.sessions.feed_failing:
        raise _unready("What other workers change in the sessions is not heard of.")
    edge = services.worker.edge
    if edge and services.worker.edge_statistics() is None:
        raise _unready("The edge is away.")
    await alive(services)
    return ReadyView(edge="ok" if edge else "none")


def _unready(why: str) -> ProblemError:
    return ProblemError(503, why, headers={"retry-after": "1"})
