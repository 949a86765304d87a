"""The services that stores are tested on, one of each for each process that runs tests, started when first asked for."""

from collections.abc import Iterator

import pytest

from tests.clients.postgres_server import pgbouncer, postgres, postgres_template, schema, start_postgres
from tests.clients.redis_server import RedisServer

__all__ = ["pgbouncer", "postgres", "postgres_template", "redis_server", "schema", "start_postgres"]


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
