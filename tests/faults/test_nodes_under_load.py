"""Nodes on one store under load, and a fault where each store is most exposed to it: nobody is told what must not be.

What clients asked and were told is judged by `tests/history/checker.py`. Every fault on every store, and ten seconds of
SIGSTOP: tests/slow/test_nodes_under_load.py, `make soak`.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.history.stage import STORES, under_load

MOST_EXPOSED = {
    "redis": ["kill", "kill_feed", "cut_feed"],
    "postgres": ["kill"],
    "sqlite": ["fill_disk", "kill_node"],
}


@pytest.mark.parametrize("store", MOST_EXPOSED)
def test_what_clients_were_told_while_it_suffered_keeps_every_promise(
    store: str, tmp_path: Path, postgres_template: Path, record_property: Callable[[str, object], None]
) -> None:
    async def run() -> None:
        async with asyncio.timeout(90), under_load(STORES[store](postgres_template), tmp_path, seed=1) as stage:
            await asyncio.sleep(0.8)
            for fault in MOST_EXPOSED[store]:
                await stage.suffer(fault)
                await asyncio.sleep(0.5)
        verdict = stage.verdict()
        print(stage.report())
        record_property("history", stage.report())
        assert verdict.wrong == []
        assert verdict.lost == {}, "each of these keeps what it has acknowledged"
        assert verdict.counts["write ok"] > 50
        assert verdict.counts["logout ok"] + verdict.counts["end ok"] > 5

    asyncio.run(run())
