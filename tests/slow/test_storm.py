"""A minute of steady load over HTTP/1.1, 2 and 3 with every fault in turn, and what the history of it shows."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from tests.clients.storm import FAULTS, calm, storm, suffer

SECONDS = 60.0


def test_a_minute_of_faults_under_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = random.SystemRandom().randrange(2**32)

    async def run() -> None:
        began = time.monotonic()
        async with asyncio.timeout(300), storm(tmp_path, seed=seed) as found:
            order = random.Random(seed)
            await calm(2)
            while True:
                await suffer(found, order.sample(FAULTS, len(FAULTS)), 1)
                if time.monotonic() - began >= SECONDS:
                    break
        with capsys.disabled():
            print(f"\nseed {seed}\n{found.report()}")
        assert found.wrong() == []

    asyncio.run(run())
