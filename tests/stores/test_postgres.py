"""The PostgreSQL store keeps the contract: on a connection of its own, and behind PgBouncer in transaction mode."""

import pytest

from coatcheck.stores.postgres import PostgresStore
from coatcheck.testing import conformance
from tests.clients.postgres_server import PgBouncer, PostgresServer


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_postgres_keeps_the_contract(check: str, postgres: PostgresServer, schema: str) -> None:
    url = postgres.url(schema=schema)
    await PostgresStore(url).migrate()
    await conformance.run(check, lambda clock: PostgresStore(url, clock=clock))


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_postgres_behind_pgbouncer_keeps_the_contract(
    check: str, postgres: PostgresServer, pgbouncer: PgBouncer, schema: str
) -> None:
    url = pgbouncer.url(schema=schema, feed_url=f"//127.0.0.1:{postgres.port}")
    await PostgresStore(url).migrate()
    await conformance.run(check, lambda clock: PostgresStore(url, clock=clock))
