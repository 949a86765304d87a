"""Opens the accounts' database and runs statements on it; makes one error of all the ways in which it can fail.

SQLite gets WAL, full durability, foreign keys and a file that only its owner can read. Leaves the schema to `migrate`
and the statements to `accounts`. Keep other copies of the SQLite library off this file: closing it through one of them
drops the POSIX locks of the others in the same process.
"""

import contextlib
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from coatcheck.accounts.errors import AccountsUnavailable
from coatcheck.errors import UsageError

__all__ = ["Conflict", "Database", "ensure_private_file", "explain", "parse_url"]

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds for which a statement waits while another process writes."""
_CONNECTIONS = 4


class Conflict(Exception):
    """A unique constraint would have been broken; nothing was written. Stays inside this package."""


def parse_url(url: str) -> URL:
    """Give the database's URL with its driver. Raises UsageError for what accounts cannot be kept in."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or parsed.query:
        raise UsageError(
            "Accounts are kept in an SQLite file: give a URL like sqlite:////var/lib/coatcheck/accounts.sqlite3"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UsageError(
            "Accounts need a file that every worker can open: give a path, as in sqlite:///accounts.sqlite3"
        )
    return parsed.set(drivername="sqlite+aiosqlite", database=os.path.realpath(parsed.database))


def ensure_private_file(path: Path) -> None:
    """Make the file, if there is none, for its owner only (mode 0600); take others' rights from one that has them.

    Raises AccountsUnavailable naming what is in the way.
    """
    try:
        if not path.exists():
            # Made under another name and closed before it is linked: closing a file that SQLite has open in this process
            # would drop SQLite's locks.
            fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            try:
                with contextlib.suppress(FileExistsError):
                    os.link(fresh, path)
            finally:
                fresh.unlink()
        for file in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            _make_private(file)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        return
    raise AccountsUnavailable(f"The accounts' database {path} cannot be opened: {reason}.")


def _make_private(file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # the journal's files come and go
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            file.chmod(mode & 0o700)


def set_pragmas(dbapi_connection: Any, _: object) -> None:
    """Prepare one new connection to SQLite. WAL itself is a property of the file, which `migrate` sets."""
    cursor = dbapi_connection.cursor()
    try:
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT * 1000)}")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = FULL")
    finally:
        cursor.close()


def explain(error: SQLAlchemyError | OSError) -> str:
    """Tell what failed without a statement, a parameter or a row: those may hold a hash."""
    cause: object = error.orig if isinstance(error, StatementError) else error
    name = getattr(cause, "sqlite_errorname", None)  # such as SQLITE_FULL
    return f"{name or type(cause).__name__}"


class Database:
    """A small pool of connections. Belongs to the event loop on which it is first used."""

    def __init__(self, url: URL) -> None:
        self.engine: AsyncEngine = create_async_engine(
            url,
            hide_parameters=True,
            pool_size=_CONNECTIONS,
            max_overflow=0,
            pool_timeout=BUSY_TIMEOUT,
        )
        event.listen(self.engine.sync_engine, "connect", set_pragmas)

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do `work` in one transaction. Raises Conflict, or AccountsUnavailable for every other failure."""
        try:
            async with self.engine.begin() as connection:
                return await work(connection)
        except IntegrityError:
            failure: Exception = Conflict()
        except (SQLAlchemyError, OSError) as error:
            failure = AccountsUnavailable(f"The accounts' database cannot be asked: {explain(error)}.")
        # Outside of the `except`: a chained exception would carry the statement's parameters, whatever its text hides.
        raise failure

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()
