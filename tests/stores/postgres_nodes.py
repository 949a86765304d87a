"""What the PostgreSQL store's tests share: stores opened and closed, and sessions of psql's kind that hold locks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.contract import Change
from coatcheck.stores.postgres import PostgresChangeStream, PostgresStore
from tests.clients.postgres_server import PostgresServer

__all__ = ["connected", "migrated", "started", "told", "waiting"]


@asynccontextmanager
async def started(url: str, **options: Any) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, **options)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def migrated(url: str, **options: Any) -> str:
    await PostgresStore(url, **options).migrate()
    return url


@asynccontextmanager
async def connected(server: PostgresServer, schema: str | None = None, **options: Any) -> AsyncIterator[Any]:
    """A session of somebody else's, with the schema's names in reach."""
    connection = await asyncpg.connect(server.url(**options))
    try:
        if schema is not None:
            await connection.execute(f"SET search_path = {schema}")
        yield connection
    finally:
        await connection.close()


async def waiting(server: PostgresServer, how_many: int = 1) -> None:
    """Return when so many sessions of the store's wait for somebody's lock."""
    async with connected(server) as look:
        async with asyncio.timeout(10):
            while how_many > await look.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'coatcheck' AND wait_event_type = 'Lock'"
            ):
                await asyncio.sleep(0.002)


async def told(stream: PostgresChangeStream, how_many: int) -> list[Change]:
    """Follow a feed until it has told so much, through any time when it cannot be read."""
    changes: list[Change] = []
    async with asyncio.timeout(10):
        while True:
            with suppress(StoreUnavailable):
                stream.poll(changes.append)
            if len(changes) >= how_many:
                return changes
            await stream.wait()
