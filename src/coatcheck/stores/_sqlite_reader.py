"""How one process reads the SQLite store: on the caller's thread, a few microseconds each. Leaves writing to the writer.

One connection under one lock. Every statement is run to its end while the lock is held, so no snapshot outlives it.
"""

import threading
import time
from collections.abc import Callable

import apsw

from coatcheck.errors import StoreUnavailable
from coatcheck.stores._sqlite_file import SQLiteFile
from coatcheck.stores._sqlite_link import Link, Row, Value

__all__ = ["Reader"]

_PATIENCE = 0.005
"""For so long, in seconds, a read may hold up its event loop when a lock is in its way."""


class Reader:
    """The store's reading connection, if the store is open."""

    def __init__(self, file: SQLiteFile) -> None:
        self._file = file
        self._link: Link | None = None
        self.lock: threading.Lock = threading.Lock()
        self.on_reopen: Callable[[], None] = lambda: None
        """Called, with the lock held, when the connection was opened anew."""

    def open(self) -> None:
        """Open the connection. Raises StoreUnavailable, UsageError."""
        link = self._file.open()
        with self.lock:
            self._link = link

    def rows(self, statement: str, bindings: tuple[Value, ...]) -> list[Row]:
        """Run one query. Raises StoreBusy when it should be asked again in a moment, else StoreUnavailable."""
        with self.lock:
            link = self.current(feed=False)
            try:
                return link.rows(statement, bindings)
            except apsw.Error as error:
                raise self._file.failed(link, error) from error

    def current(self, *, feed: bool = True) -> Link:
        """Give the connection, opened anew if the files are not the same any more. Call it with the lock held."""
        self._file.require_same_process()
        link = self._link
        if link is None:
            raise StoreUnavailable(f"the store {self._file.path} is closed")
        if not self._file.is_current(link, feed=feed):
            link = self._link = self._file.reopen(link, patience=0.2)
            self.on_reopen()
        link.deadline = time.monotonic() + _PATIENCE
        return link

    def failed(self, link: Link, error: apsw.Error) -> StoreUnavailable:
        """Note an error on the connection, and say what it means."""
        return self._file.failed(link, error)

    def close(self) -> None:
        """Let go of the file. May be called twice."""
        with self.lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()
