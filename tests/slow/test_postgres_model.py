"""The model of the promises (tests/core/test_model.py) on PostgreSQL: two nodes, whatever happens in whatever order.

A feed that comes by network needs a moment. So before anything is done, each node that hears is let catch up; that it does
within what P1 allows is shown elsewhere.
"""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from coatcheck import Sessions
from coatcheck.stores.contract import Change, Store
from coatcheck.stores.postgres import PostgresStore
from coatcheck.testing import ManualClock
from tests.clients.postgres_server import PostgresServer
from tests.core.test_model import Promises

T = TypeVar("T")


class PostgresPromises(Promises):
    server: ClassVar[PostgresServer]

    def __init__(self) -> None:
        self.schema = f"s{secrets.token_hex(6)}"
        self.opened: list[PostgresStore] = []
        self.heard: dict[int, set[str]] = {}
        self.markers = itertools.count()
        super().__init__()

    def open_store(self, clock: ManualClock) -> Store:
        store = PostgresStore(self.server.url(schema=self.schema), clock=clock, probe_interval=0.004)
        if not self.opened:
            self.runner.run(store.migrate())
        self.opened.append(store)
        return store

    def run(self, work: Awaitable[T]) -> T:
        async def caught_up() -> T:
            await self.catch_up()
            return await work

        return self.runner.run(caught_up())

    async def catch_up(self) -> None:
        hearing = [number for number, node in enumerate(self.nodes) if node.started and self.live(number)]
        if not hearing:
            return
        marker = f"marker {next(self.markers)}"
        told = f"SELECT pg_notify('{self.schema}', json_build_array('changed', '{marker}', 0, 0, '')::text)"
        await self.opened[hearing[0]]._run(lambda link: link.run(told))
        for number in hearing:
            node = self.nodes[number]
            self.heard.get(number, set()).discard("missed")
            if number not in self.heard:
                self.heard[number] = set()
                await node.listen(lambda change, heard=self.heard[number]: self.note(change, heard))  # type: ignore[misc]
                await self.opened[number]._run(lambda link: link.run(told))
            async with asyncio.timeout(20):
                while not self.heard[number] & {marker, "missed"} or not self.has_lease(node):
                    await asyncio.sleep(0.001)
                    node.confirmed()

    def note(self, change: Change, heard: set[str]) -> None:
        # Between two steps the loop stands still, and with it the feed; so it may come to be laid anew.
        if change.kind == "missed" or change.id.startswith("marker "):
            heard.add(change.id or change.kind)

    def has_lease(self, node: Sessions) -> bool:
        return node.confirmed() >= self.clock.monotonic()


@pytest.fixture(autouse=True, scope="module")
def _server(postgres: PostgresServer) -> None:
    PostgresPromises.server = postgres


PostgresPromises.TestCase.settings = settings(
    max_examples=6, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestPostgresPromises: Any = PostgresPromises.TestCase
