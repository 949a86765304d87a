"""Servers that the tests of the stores share: one Redis for each process of tests, started when first asked for."""

from collections.abc import Iterator

import pytest

from tests.clients.redis_server import RedisServer


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server
