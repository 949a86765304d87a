"""Brings the accounts' database to this release's schema, once, however many processes start at the same time.

In SQLite the lock is its own write lock, in PostgreSQL an advisory one; either ends with the transaction, and so with the
process that held it, and a migration that fails leaves nothing. Leaves the steps themselves to `migrations/versions`. A
database that is up to date is left alone, and Alembic unloaded.
"""

import asyncio
import threading
import time

from sqlalchemy import Connection, String, column, create_engine, event, inspect, select, table, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from coatcheck.accounts.database import Place, async_engine, explain, set_pragmas
from coatcheck.accounts.errors import AccountsSchemaTooNew, AccountsUnavailable
from coatcheck.accounts.tables import SCHEMA, VERSION_TABLE
from coatcheck.errors import UsageError

__all__ = ["LOCK_TIMEOUT", "migrate"]

LOCK_TIMEOUT = 60.0
"""Seconds for which a process waits while another one migrates."""
_RETRY = 0.02

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('coatcheck accounts', 0))")

# Alembic's `context` and `op` are global to the process.
_one_at_a_time = threading.Lock()


def migrate(place: Place, *, forced: bool = False) -> None:
    """Migrate a database to this release's schema, if it is older. Blocks: run it in a thread without an event loop.

    `forced`: also where a start alone may not. Raises AccountsSchemaTooNew, having touched nothing; UsageError, where
    tables may be made and changed by request only; or AccountsUnavailable.
    """
    try:
        with _one_at_a_time:
            if not place.dsns:
                _migrate_sqlite(place)
            else:
                asyncio.run(_migrate_postgresql(place, allowed=forced or place.migrates))
            return
    except (SQLAlchemyError, OSError) as error:
        reason = explain(error)
    raise AccountsUnavailable(f"The accounts' database {place.where} cannot be opened or brought up to date: {reason}.")


def _migrate_sqlite(place: Place) -> None:
    engine = create_engine(place.url.set(drivername="sqlite"), poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "connect", set_pragmas)
    with engine.connect() as bare:
        # Autocommit as the driver understands it: it begins nothing by itself, so that BEGIN IMMEDIATE is the
        # transaction, and SQLite's DDL is inside it.
        connection = bare.execution_options(isolation_level="AUTOCOMMIT")
        if _versions(connection) == {SCHEMA}:
            return
        _use_wal(connection)
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        # Only now: another process may have done it, or more than it, while this one waited for the lock.
        _upgrade(connection, place.where)
        connection.commit()


async def _migrate_postgresql(place: Place, *, allowed: bool) -> None:
    engine = async_engine(place, patience=LOCK_TIMEOUT, poolclass=NullPool)
    async with engine.connect() as connection:
        if await connection.run_sync(_versions) == {SCHEMA}:
            return
    async with asyncio.timeout(LOCK_TIMEOUT), engine.begin() as connection:
        await connection.execute(_LOCK)
        # Only now, as above.
        await connection.run_sync(_upgrade, place.where, allowed)


def _versions(connection: Connection) -> set[str]:
    if not inspect(connection).has_table(VERSION_TABLE):
        return set()
    version = column("version_num", String)
    return set(connection.scalars(select(version).select_from(table(VERSION_TABLE, version))))


def _upgrade(connection: Connection, where: str, allowed: bool = True) -> None:
    # Loading Alembic takes longer than everything else at start, and is of no use at any but the first.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "coatcheck.accounts:migrations")
    config.attributes["connection"] = connection
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    found = _versions(connection)
    unknown = sorted(found - known)
    if unknown:
        raise AccountsSchemaTooNew(
            f"The accounts' database {where} has schema {', '.join(unknown)}, which a newer Coatcheck made; this one knows"
            f" {SCHEMA} at most. Install the newer one again, or restore the backup made before it ran."
        )
    if not allowed and found != {SCHEMA}:
        raise UsageError(
            f"{where} has {'accounts of an older release' if found else 'no tables for accounts'}: run `coatcheck users"
            " migrate`, or await the accounts' migrate()"
        )
    command.upgrade(config, SCHEMA)


def _use_wal(connection: Connection) -> None:
    # SQLite does not wait for a busy database here, as it does elsewhere.
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_RETRY)
        else:
            return
