"""The Redis store on a cluster of six nodes: the contract, and what happens when the cluster changes beneath it."""

import secrets
from collections.abc import Iterator

import pytest

from coatcheck.stores.redis import RedisStore
from coatcheck.testing import conformance
from tests.clients.redis_server import RedisCluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_a_cluster_keeps_the_contract(check: str, cluster: RedisCluster) -> None:
    prefix = secrets.token_hex(4)
    await conformance.run(check, lambda clock: RedisStore(cluster.url, clock=clock, prefix=prefix))
