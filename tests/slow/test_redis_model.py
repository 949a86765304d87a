"""Two nodes on one Redis against the model of `tests/core/test_model.py`, as on one server and as in a cluster.

The model expects a node that hears to know at once. So after each thing that happens, both nodes' probes come back:
then all is told that there is to tell.
"""

import asyncio
import secrets
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings

from coatcheck.stores._redis_link import Link
from coatcheck.stores.contract import Store
from coatcheck.stores.redis import RedisStore
from coatcheck.testing import ManualClock
from tests.clients.redis_server import RedisServer
from tests.core import test_model as model

T = TypeVar("T")


class RedisPromises(model.Promises):
    server: RedisServer

    def open_store(self, clock: ManualClock) -> Store:
        if not hasattr(self, "prefix"):
            self.prefix = secrets.token_hex(8)
        return RedisStore(self.server.url, clock=clock, prefix=self.prefix)

    def run(self, work: Awaitable[T]) -> T:
        try:
            return super().run(work)
        finally:
            super().run(self.tell())

    async def tell(self) -> None:
        for number, node in enumerate(getattr(self, "nodes", ())):
            store = self.stores[number].inner
            assert isinstance(store, RedisStore)
            if node._feed is None or not self.live(number):
                continue
            rounds = store._feed.rounds + 2  # the next one may be under way already
            async with asyncio.timeout(20):
                while store._feed.rounds < rounds:
                    store._feed.hurry()
                    await asyncio.sleep(0.0005)
            node._feed.poll()


@pytest.mark.parametrize("apart", [False, True], ids=["one_server", "as_in_a_cluster"])
def test_two_nodes_on_redis_keep_the_promises(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Link, "together", not apart)
    with RedisServer() as server:
        RedisPromises.server = server
        case = RedisPromises.TestCase("runTest")
        case.settings = settings(
            max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        )
        case.runTest()
