"""Whatever is done to a server under load: nothing acknowledged is lost, nothing ended is accepted, and of the requests
only those fail that were under way on what was killed. For longer, and in any order: tests/slow/test_storm.py, `make soak`.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.clients.storm import calm, storm, suffer


def test_of_faults_under_load_only_what_was_under_way_on_the_killed_is_lost(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    async def run() -> None:
        async with asyncio.timeout(150), storm(tmp_path, seed=1) as found:
            await calm(1)
            await suffer(found, ["reload", "kill_worker", "kill_edge", "stop_worker", "restart"], 0.5)
        print(found.report())
        record_property("storm", found.report())
        assert found.wrong() == []
        assert found.verdict().counts["logout ok"] > 5

    asyncio.run(run())
