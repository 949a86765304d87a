"""Every store that needs no service passes the conformance kit."""

from pathlib import Path

import pytest

from coatcheck.stores.memory import MemoryStore
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import conformance


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_memory_keeps_the_contract(check: str) -> None:
    stores: list[MemoryStore] = []

    def one_store_for_all(clock: conformance.ManualClock) -> MemoryStore:
        if not stores:
            stores.append(MemoryStore(clock=clock))
        return stores[0]

    await conformance.run(check, one_store_for_all)


@pytest.mark.parametrize("check", conformance.CHECKS)
async def test_sqlite_keeps_the_contract(check: str, tmp_path: Path) -> None:
    await conformance.run(check, lambda clock: SQLiteStore(str(tmp_path / "sessions.sqlite3"), clock=clock))
