"""The Redis store on a real server: the contract, and what is Redis's own about it."""

import secrets
from collections.abc import Iterator

import pytest

from coatcheck.stores._redis_link import Link
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import conformance
from tests.clients.redis_server import RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.mark.parametrize("apart", [False, True], ids=["one_server", "as_in_a_cluster"])
@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_redis_keeps_the_contract(
    check: str, apart: bool, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Link, "together", not apart)  # no script may then look at a session and at its user
    prefix = secrets.token_hex(4)
    await conformance.run(check, lambda clock: RedisStore(server.url, clock=clock, prefix=prefix))
