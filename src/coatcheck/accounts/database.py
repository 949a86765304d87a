"""Opens the accounts' database and runs statements on it; makes one error of all the ways in which it can fail.

SQLite gets WAL, full durability, foreign keys and a file that only its owner can read. PostgreSQL is spoken to so that a
pooler such as PgBouncer may be in the way. Leaves the schema to `migrate` and the statements to `accounts`. Keep other
copies of the SQLite library off the file: closing it through one of them drops the POSIX locks of the others in the
same process.
"""

import asyncio
import contextlib
import os
import secrets
import stat
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from sqlalchemy import event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from coatcheck.accounts.errors import AccountsUnavailable
from coatcheck.errors import MissingDependency, UsageError
from coatcheck.stores._postgres_url import Dsn, is_postgres, postgres_options

__all__ = ["Conflict", "Database", "Place", "async_engine", "ensure_private_file", "explain", "parse_url", "place_of"]

T = TypeVar("T")

BUSY_TIMEOUT = 5.0
"""Seconds for which a statement waits while another process writes."""
_CONNECTIONS = 4


class Conflict(Exception):
    """A unique constraint would have been broken; nothing was written. Stays inside this package."""


class Place(msgspec.Struct, frozen=True):
    """Where accounts are kept. Shows no password in whatever way."""

    url: URL
    """What SQLAlchemy opens: an SQLite file, or PostgreSQL without saying which."""
    where: str
    """What errors call it: the file, or PostgreSQL's host and database."""
    dsns: tuple[Dsn, ...] = ()
    """Connection strings, one for each host, if it is PostgreSQL."""
    migrates: bool = True
    """Whether tables may be made and changed at start: a file is ours, somebody's server only by request."""

    @property
    def path(self) -> Path | None:
        """The file, if it is one."""
        return None if self.dsns else Path(self.where)


def place_of(url: str) -> Place:
    """Read a URL: `sqlite:///…`, or `postgresql://…` as libpq has it. Raises UsageError, MissingDependency.

    With `migrate=true` in PostgreSQL's query, tables are made and changed at start.
    """
    plain = url.replace("+asyncpg://", "://", 1)
    if not is_postgres(plain):
        parsed = parse_url(url)
        return Place(parsed, str(parsed.database))
    options = postgres_options(plain, {}, ours=("migrate",))
    if find_spec("asyncpg") is None:
        raise MissingDependency("asyncpg", "postgres", "keeping accounts in PostgreSQL")
    return Place(URL.create("postgresql+asyncpg"), options.where, options.dsns, options.migrate)


def parse_url(url: str) -> URL:
    """Give the URL of an SQLite file with its driver. Raises UsageError for what accounts cannot be kept in."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() != "sqlite" or parsed.query:
        raise UsageError(
            "Accounts are kept in an SQLite file or in PostgreSQL: give a URL like "
            "sqlite:////var/lib/coatcheck/accounts.sqlite3 or postgresql://user@host/database"
        )
    if not parsed.database or parsed.database == ":memory:":
        raise UsageError(
            "Accounts need a file that every worker can open: give a path, as in sqlite:///accounts.sqlite3"
        )
    return parsed.set(drivername="sqlite+aiosqlite", database=os.path.realpath(parsed.database))


def async_engine(place: Place, *, patience: float | None = None, **pool: Any) -> AsyncEngine:
    """Give an engine; nothing is opened yet. `patience` is for how many seconds PostgreSQL may take over a statement."""
    if not place.dsns:
        engine = create_async_engine(place.url, hide_parameters=True, **pool)
        event.listen(engine.sync_engine, "connect", set_pragmas)
        return engine
    from coatcheck.stores._postgres_link import Hosts

    hosts = Hosts(place.dsns, place.where)

    async def connect(**_: Any) -> Any:
        return await hosts.connect(
            BUSY_TIMEOUT,
            command_timeout=patience or BUSY_TIMEOUT,
            server_settings={"application_name": "coatcheck accounts"},
            target_session_attrs="read-write",
            statement_cache_size=0,
        )

    return create_async_engine(
        place.url,
        hide_parameters=True,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,  # so that a server that was restarted costs nobody a failure
        connect_args={
            "async_creator_fn": connect,
            # Nothing is prepared beyond its transaction: behind a pooler the next one may be on another server.
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": str,  # the empty name, which is nobody's
        },
        **pool,
    )


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
    # Such as SQLITE_FULL; of PostgreSQL the SQLSTATE.
    name = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
    return f"{name or type(cause).__name__}"


class Database:
    """A small pool of connections. Belongs to the event loop on which it is first used."""

    def __init__(self, place: Place) -> None:
        self.engine: AsyncEngine = async_engine(
            place, pool_size=_CONNECTIONS, max_overflow=0, pool_timeout=BUSY_TIMEOUT
        )
        # A file answers or says that it is locked; a server may say nothing.
        self._patience = None if not place.dsns else 2 * BUSY_TIMEOUT

    async def run(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do `work` in one transaction. Raises Conflict, or AccountsUnavailable for every other failure."""
        try:
            async with asyncio.timeout(self._patience), self.engine.begin() as connection:
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
