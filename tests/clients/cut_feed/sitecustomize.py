"""On PYTHONPATH, it makes the SQLite store's change feed cuttable in every process: silent while the file CUT_FEED_FILE is there.

So it is Coatcheck's own application that is tested, gRPC included, which is not served with another `--app`.
"""

import os
from collections.abc import Callable
from pathlib import Path

from coatcheck.errors import StoreUnavailable
from coatcheck.stores.contract import Change, ChangeStream
from coatcheck.stores.sqlite import SQLiteStore

CUT = Path(os.environ["CUT_FEED_FILE"])


class Cuttable:
    """A feed that nothing comes through while it is cut; what it missed comes afterwards."""

    def __init__(self, inner: ChangeStream) -> None:
        self._inner = inner

    def behind(self) -> bool:
        return not CUT.exists() and self._inner.behind()

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if CUT.exists():
            raise StoreUnavailable("the feed is cut")
        self._inner.poll(deliver)

    def confirmed(self) -> float:
        return self._inner.confirmed()

    async def wait(self) -> None:
        await self._inner.wait()

    async def aclose(self) -> None:
        await self._inner.aclose()


_changes = SQLiteStore.changes
SQLiteStore.changes = lambda self: Cuttable(_changes(self))  # type: ignore[method-assign]
