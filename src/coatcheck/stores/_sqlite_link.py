"""One connection to SQLite, typed as the rest of the store needs it. Leaves opening and judging errors to `_sqlite_file`."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw

__all__ = ["COUNTER_BYTES", "Link", "Row", "Value"]

Value = str | int | float | bytes | None
Row = tuple[object, ...]

COUNTER_BYTES = 8


class Link:
    """A connection, and which files it is a connection to. Used by one thread at a time.

    `deadline` is the monotonic time, in seconds, until which a statement waits for another process's lock; `broken`
    says that the connection is not to be used again.
    """

    __slots__ = ("__weakref__", "_connection", "broken", "counter", "database", "deadline", "feed", "wal")

    def __init__(self, path: Path, deadline: float) -> None:
        # Any: apsw's own types need Python 3.12.
        self._connection: Any = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        self._connection.set_busy_handler(self._be_patient)
        self.deadline: float = deadline
        self.broken: bool = False
        self.database: tuple[int, int] = (0, 0)
        self.wal: tuple[int, int] = (0, 0)
        self.feed: tuple[int, int] = (0, 0)
        self.counter: memoryview[int] = memoryview(bytearray(COUNTER_BYTES)).cast("Q")

    def _be_patient(self, _: int) -> bool:
        # SQLite's own handler sleeps up to 100 ms at a time and so loses against a process that writes all the time.
        if time.monotonic() >= self.deadline:
            return False
        time.sleep(random.uniform(0.0003, 0.001))  # noqa: S311
        return True

    def rows(self, statement: str, bindings: tuple[Value, ...] = ()) -> list[Row]:
        """Run a statement to its end, so that no read transaction stays open behind it."""
        return self._connection.execute(statement, bindings).fetchall()

    def changed(self) -> int:
        """Give the number of rows that the last statement wrote or deleted, those of triggers not counted."""
        return self._connection.changes()

    def total_changes(self) -> int:
        """Give the number of rows that this connection has ever written or deleted, those of triggers too."""
        return self._connection.total_changes()

    def pragma(self, name: str, *value: Value) -> object:
        """Ask for a setting, or with a value set it."""
        return self._connection.pragma(name, *value)

    def rollback(self) -> None:
        """Undo what was begun, unless SQLite has done so already."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def on_commit(self, tell: Callable[[int], None]) -> None:
        """Have the number of pages in the log told after each commit, in place of SQLite's own checkpoints."""

        def hook(_connection: object, _name: str, pages: int) -> int:
            tell(pages)
            return apsw.SQLITE_OK

        self._connection.set_wal_hook(hook)

    def checkpoint(self, *, restart: bool) -> None:
        """Bring the log into the database; with `restart`, wait for others until the log can begin anew."""
        self._connection.wal_checkpoint(
            mode=apsw.SQLITE_CHECKPOINT_RESTART if restart else apsw.SQLITE_CHECKPOINT_PASSIVE
        )

    def close(self) -> None:
        """Let go of the files. Never raises: what was committed is committed."""
        with suppress(apsw.Error):
            self._connection.close(True)
