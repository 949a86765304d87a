"""The SQLite store's files: opening them, noticing that they are gone or replaced, and what their errors mean.

Leaves the tables to `_sqlite_schema`. Beside the database stands `<database>-feed`, eight bytes that every process
maps: their value is another one after each committed change. It is a file of its own because closing any descriptor of
the database, its `-wal` or its `-shm` outside SQLite would drop this process's POSIX locks on it.
"""

import mmap
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import apsw

from coatcheck.errors import StoreUnavailable, UsageError
from coatcheck.stores._sqlite_link import COUNTER_BYTES, Link
from coatcheck.stores._sqlite_schema import APPLICATION_ID, ensure_schema, has_schema

__all__ = ["SQLiteFile", "StoreBusy"]

_HARMLESS = (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.ConstraintError, apsw.InterruptError)
"""Errors after which a connection is as good as before. After any other one it is opened anew."""

# Opening is rare and short; one at a time keeps the rule about POSIX locks simple.
_opening = threading.Lock()


class StoreBusy(StoreUnavailable):
    """Another process holds the lock just now."""


class SQLiteFile:
    """Where the database is, and how it is opened: WAL, `synchronous=FULL`, readable by its owner only."""

    def __init__(self, path: str | os.PathLike[str], *, busy_timeout: float, max_bytes: int | None) -> None:
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            raise UsageError("the SQLite store needs a file; what lives in memory only is the store memory://")
        self.path: Path = Path(path).absolute()
        self.busy_timeout: float = busy_timeout
        self._max_bytes = max_bytes
        self._feed = f"{self.path}-feed"
        self._wal = f"{self.path}-wal"
        self._process: int | None = None  # the one that has opened it; before that a fork does no harm

    def in_fork(self) -> bool:
        """Tell whether this is a forked child of the process that opened the store. SQLite's locks do not survive that."""
        return self._process is not None and os.getpid() != self._process

    def require_same_process(self) -> None:
        """Raise UsageError in a forked child."""
        if self.in_fork():
            raise UsageError(
                f"the store {self.path} was opened before this process was forked: make it in the child, after the fork"
            )

    def open(self, *, create: bool = False, patience: float | None = None, previous: Link | None = None) -> Link:
        """Open a connection. Raises StoreUnavailable, and UsageError for a file that is not ours to use.

        Waits for locks for `patience` seconds at most. `previous` is the open connection that this one replaces.
        """
        deadline = time.monotonic() + (self.busy_timeout if patience is None else patience)
        try:
            if create:
                self._make_directory()
            with _opening, self._alone(deadline) as feed:
                link = self._open(feed, deadline, create, previous)
                self._process = os.getpid()
                return link
        except apsw.Error as error:
            raise self.unavailable(error) from error
        except OSError as error:
            raise StoreUnavailable(f"the session database {self.path} cannot be opened: {error}") from error

    def reopen(self, previous: Link, *, patience: float) -> Link:
        """Open what stands at the path now, in place of `previous`, which is closed. Raises StoreUnavailable."""
        try:
            link = self.open(patience=patience, previous=previous)
        except UsageError as error:
            raise StoreUnavailable(str(error)) from error
        previous.close()
        return link

    def is_current(self, link: Link, *, feed: bool = True) -> bool:
        """Tell whether a connection is one to the files that stand at the path now, and is not broken.

        Raises StoreUnavailable when there is no database any more.
        """
        try:
            if _identity(self.path) != link.database:
                return False
        except OSError as error:
            raise self._gone(error) from error
        if feed:
            try:
                return _identity(self._feed) == link.feed and not link.broken
            except OSError:
                return False
        return not link.broken

    def failed(self, link: Link, error: apsw.Error) -> StoreUnavailable:
        """Note an error on a connection, and say what it means."""
        if not isinstance(error, _HARMLESS):
            link.broken = True
        return self.unavailable(error)

    def unavailable(self, error: apsw.Error) -> StoreUnavailable:
        """Say what an error of SQLite means."""
        what = f"the session database {self.path}"
        if isinstance(error, (apsw.BusyError, apsw.LockedError)):
            return StoreBusy(f"{what} is locked by another process for too long")
        if isinstance(error, apsw.FullError):
            return StoreUnavailable(f"{what} cannot grow: the disk is full, or max_bytes is reached", retry_after=10)
        if isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)):
            return StoreUnavailable(f"{what} is damaged: restore it from a backup ({error})", retry_after=60)
        if isinstance(error, (apsw.ReadOnlyError, apsw.PermissionsError, apsw.CantOpenError, apsw.AuthError)):
            return StoreUnavailable(f"{what} cannot be opened for writing: look at its permissions ({error})")
        if isinstance(error, apsw.IOError):
            return StoreUnavailable(f"reading or writing {what} failed: look at the disk ({error})")
        return StoreUnavailable(f"{what} cannot be used: {error}")

    def _gone(self, error: OSError) -> StoreUnavailable:
        if isinstance(error, FileNotFoundError):
            return StoreUnavailable(f"the session database {self.path} is gone: put it back", retry_after=10)
        return StoreUnavailable(f"the session database {self.path} cannot be reached: {error}", retry_after=10)

    def _open(self, feed: int, deadline: float, create: bool, previous: Link | None) -> Link:
        if create:
            self._create()
        try:
            database = _identity(self.path)
        except OSError as error:
            raise self._gone(error) from error
        if previous is not None and previous.database != database:
            self._drop_stale_log(previous)
        link = Link(self.path, deadline)
        try:
            self._prepare(link, create)
            link.database, link.wal = database, _identity(self._wal)
            if _identity(self.path) != database:
                raise StoreUnavailable(f"the session database {self.path} was replaced while it was being opened")
            details = os.fstat(feed)
            link.feed = (details.st_dev, details.st_ino)
            # Never unmapped by hand: a stream may look at it until it is collected.
            link.counter = memoryview(mmap.mmap(feed, COUNTER_BYTES)).cast("Q")
        except BaseException:
            link.close()
            raise
        return link

    def _make_directory(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
        except FileNotFoundError as error:
            raise UsageError(f"the directory {self.path.parent.parent} does not exist: create it first") from error

    def _create(self) -> None:
        with suppress(FileExistsError):
            # Nobody can have locked a file that did not exist: this one descriptor may be closed.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            _sync_directory(self.path.parent)

    def _prepare(self, link: Link, create: bool) -> None:
        # First of all, since what follows would change another program's file.
        if not has_schema(link, self.path) and not create:
            raise StoreUnavailable(f"the session database {self.path} is empty: put its content back")
        link.pragma("trusted_schema", False)
        link.pragma("synchronous", "FULL")
        link.pragma("journal_size_limit", 64 * 1024 * 1024)
        while True:
            try:
                mode = link.pragma("journal_mode", "wal")
                break
            except apsw.BusyError:  # this statement alone does not ask the busy handler
                if time.monotonic() >= link.deadline:
                    raise
                time.sleep(0.001)
        if mode != "wal":
            raise UsageError(f"{self.path} lies on a file system on which SQLite cannot share a file: choose another")
        ensure_schema(link, self.path)
        if self._max_bytes is not None:
            link.pragma("max_page_count", max(1, self._max_bytes // cast(int, link.pragma("page_size"))))

    def _drop_stale_log(self, previous: Link) -> None:
        # Another file was put in the database's place, but the log beside it still is the old one's: SQLite would
        # replay it onto the new one. That it is the old one's is certain: `previous` holds it open, so its inode
        # cannot be anything else's.
        try:
            if _identity(self._wal) != previous.wal:
                return
        except FileNotFoundError:
            return
        with self.path.open("rb") as file:  # nobody in this process has the new file open yet: it may be closed
            header = file.read(100)
        if int.from_bytes(header[68:72], "big") != APPLICATION_ID:
            raise StoreUnavailable(f"{self.path} was replaced by something that is no session database of Coatcheck's")
        with suppress(apsw.Error):  # wherever the old database is now, it shall be whole without its log
            previous.checkpoint(restart=False)
        os.unlink(self._wal)
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}-shm")

    @contextmanager
    def _alone(self, deadline: float) -> Generator[int]:
        """Keep every other process from opening these files meanwhile; give the feed's descriptor."""
        feed = os.open(self._feed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(feed, deadline, self._feed)
            try:
                if os.fstat(feed).st_size < COUNTER_BYTES:
                    os.pwrite(feed, bytes(COUNTER_BYTES), 0)  # written, not truncated: a hole might find no room later
                yield feed
            finally:
                _unlock(feed)  # by hand: a mapping keeps the descriptor, and with it the lock
        finally:
            os.close(feed)


def _identity(path: str | Path) -> tuple[int, int]:
    details = os.stat(path)
    return details.st_dev, details.st_ino


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


if sys.platform == "win32":  # the lock only spares several processes that open at once a second try

    def _lock(feed: int, deadline: float, name: str) -> None: ...

    def _unlock(feed: int) -> None: ...

else:
    import fcntl

    def _lock(feed: int, deadline: float, name: str) -> None:
        while True:
            try:
                fcntl.flock(feed, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StoreBusy(f"another process holds the lock of {name} for too long") from None
                time.sleep(0.001)

    def _unlock(feed: int) -> None:
        fcntl.flock(feed, fcntl.LOCK_UN)
