"""Whether this worker lives (`/healthz`, for the edge) and whether it can serve (`/readyz`, for whoever sends traffic)."""

import asyncio

from fastapi import APIRouter

from coatcheck.accounts import AccountsUnavailable
from coatcheck.errors import StoreUnavailable
from coatcheck.server.problems import ProblemError, documented
from coatcheck.server.rest.logins import NOBODY
from coatcheck.server.rest.models import StatusView
from coatcheck.server.services import ServicesOf

__all__ = ["router"]

router = APIRouter(tags=["health"])

_PATIENCE = 2.0
"""Seconds that each database has to answer."""


@router.get("/healthz", responses=documented(503))
async def alive(services: ServicesOf) -> StatusView:
    """200 while this worker takes requests; 503 from the moment it is told to leave."""
    if services.worker.draining:
        raise ProblemError(503, "This worker is leaving.")
    return StatusView(status="ok")


@router.get("/readyz", responses=documented(503))
async def ready(services: ServicesOf) -> StatusView:
    """200 while sessions and accounts can be asked."""
    try:
        async with asyncio.timeout(_PATIENCE):
            # Through the manager, which starts a store that was away when the worker started.
            await services.sessions.list_user(NOBODY)
            await services.accounts.get(NOBODY)
    except TimeoutError:
        raise ProblemError(503, "Sessions or accounts do not answer in time.", headers={"retry-after": "1"}) from None
    except StoreUnavailable:
        raise ProblemError(503, "The sessions cannot be asked.", headers={"retry-after": "1"}) from None
    except AccountsUnavailable:
        raise ProblemError(503, "The accounts cannot be asked.", headers={"retry-after": "1"}) from None
    return await alive(services)
