"""Coatcheck's own application, whose change feed falls silent on every worker while a file named `cut` is in the data directory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from coatcheck.errors import StoreUnavailable
from coatcheck.server import app
from coatcheck.server.context import WorkerContext
from coatcheck.server.settings import Settings
from coatcheck.stores.contract import Change, ChangeStream


def create_app(settings: Settings, worker: WorkerContext) -> Any:
    made: list[Any] = []
    open_sessions = app.open_sessions

    def with_cut(settings: Settings) -> Any:
        sessions = open_sessions(settings)
        inner = sessions.store.inner
        changes = inner.changes
        inner.changes = lambda: Cuttable(changes(), settings.data_dir / "cut")  # type: ignore[method-assign]
        made.append(sessions)
        return sessions

    app.open_sessions = with_cut
    try:
        return app.create_app(settings, worker)
    finally:
        app.open_sessions = open_sessions
        assert made


class Cuttable:
    """A feed that nothing comes through while it is cut; what it missed comes afterwards."""

    def __init__(self, inner: ChangeStream, cut: Path) -> None:
        self._inner = inner
        self._cut = cut

    def behind(self) -> bool:
        return not self._cut.exists() and self._inner.behind()

    def poll(self, deliver: Callable[[Change], None]) -> None:
        if self._cut.exists():
            raise StoreUnavailable("the feed is cut")
        self._inner.poll(deliver)

    def confirmed(self) -> float:
        return self._inner.confirmed()

    async def wait(self) -> None:
        await self._inner.wait()

    async def aclose(self) -> None:
        await self._inner.aclose()
