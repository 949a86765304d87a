"""A child process: started, started again, replaced, given up on; with real processes, of the smallest kind."""

import asyncio
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from coatcheck.server import processes
from coatcheck.server.errors import StartError
from coatcheck.server.processes import Child

READY = "import os, sys, time; os.write(int(sys.argv[-1]), b'r');"
SERVES = READY + "time.sleep(60)"
NEVER_READY = "import time; time.sleep(60)"
DIES = "raise SystemExit(3)"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);" + SERVES


class Family:
    """A child whose program is whatever `code` is when it is started."""

    def __init__(self, code: str, *, patience: float = 10.0) -> None:
        self.code = code
        self.refused = 0
        self.said: list[str] = []
        self.child = Child("the child", self._argv, patience=patience, log=self.said.append)

    def _argv(self) -> Sequence[str]:
        if self.refused:
            self.refused -= 1
            raise OSError(28, "No space left on device")
        return [sys.executable, "-c", self.code]

    @property
    def pid(self) -> int:
        assert self.child.process is not None
        return self.child.process.pid

    async def __aenter__(self) -> "Family":
        await self.child.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.child.stop(signal.SIGKILL, 5)
        assert not Path(f"/proc/{self.pid}").exists()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not true():
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_FIRST_PAUSE", 0.01)


@pytest.mark.parametrize(("code", "said"), [(DIES, []), (NEVER_READY, ["was not ready within 0.3 s and is killed"])])
async def test_what_does_not_come_up_is_an_error_and_not_started_again(code: str, said: list[str]) -> None:
    family = Family(code, patience=0.3 if said else 10)
    with pytest.raises(StartError, match="the child did not come up"):
        await family.child.start()
    assert family.said == [f"the child {each}" for each in said]
    assert family.child.restarts == 0


async def test_what_cannot_be_started_at_first_is_an_error() -> None:
    family = Family(SERVES)
    family.refused = 1
    with pytest.raises(StartError):
        await family.child.start()


async def test_what_dies_is_started_again() -> None:
    async with Family(SERVES) as family:
        first = family.pid
        family.child.send(signal.SIGKILL)
        await family.until(lambda: family.pid != first and family.child.ready.is_set())
        assert family.said == ["the child was ended by SIGKILL; starting it again in 0.01 s"]
        assert family.child.restarts == 1


async def test_what_is_started_again_and_hangs_then_is_killed_too() -> None:
    async with Family(SERVES, patience=0.5) as family:
        family.code = NEVER_READY
        family.child.send(signal.SIGKILL)
        await family.until(lambda: any("not ready within 0.5 s and is killed" in line for line in family.said))
        family.code = SERVES
        await family.until(family.child.ready.is_set)


async def test_what_cannot_be_started_again_is_tried_until_it_can() -> None:
    async with Family(SERVES) as family:
        family.refused = 2
        family.child.send(signal.SIGKILL)
        await family.until(lambda: family.child.restarts == 3 and family.child.ready.is_set())
        assert "could not be started (No space left on device)" in family.said[1]


async def test_a_replacement_is_another_process_and_no_event() -> None:
    async with Family(SERVES) as family:
        first = family.pid
        await family.child.replace(10)
        assert family.pid != first
        assert family.child.ready.is_set()
        assert (family.said, family.child.restarts) == ([], 0)


async def test_who_does_not_go_is_killed_and_replaced() -> None:
    async with Family(IGNORES_SIGTERM) as family:
        first = family.pid
        await family.child.replace(0.2)
        assert family.pid != first
        assert family.said == ["the child did not end within 0.2 s and is killed"]


async def test_a_replacement_that_does_not_come_up_is_an_error_and_tried_again() -> None:
    async with Family(SERVES) as family:
        family.code = DIES
        with pytest.raises(StartError, match="did not come up"):
            await family.child.replace(10)
        family.code = SERVES
        await family.until(family.child.ready.is_set)
        assert all("ended with status 3" in line for line in family.said)


async def test_a_replacement_ends_the_pause_of_what_keeps_dying(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Family(SERVES) as family:
        monkeypatch.setattr(processes, "_FIRST_PAUSE", 60.0)
        family.code = DIES
        with pytest.raises(StartError):
            await family.child.replace(10)
        await family.until(lambda: len(family.said) == 1)
        family.code = SERVES
        began = time.monotonic()
        await family.child.replace(10)
        assert time.monotonic() - began < 10


async def test_stopping_ends_the_pause_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Family(SERVES) as family:
        monkeypatch.setattr(processes, "_FIRST_PAUSE", 60.0)
        family.child.send(signal.SIGKILL)
        await family.until(lambda: len(family.said) == 1)
        began = time.monotonic()
        await family.child.stop(signal.SIGTERM, 10)
        assert time.monotonic() - began < 5
