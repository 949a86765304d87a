"""Brings the accounts' database to this release's schema, once, however many processes start at the same time.

The lock is SQLite's own write lock, so it ends with the process that held it, and a migration that fails leaves nothing.
Leaves the steps themselves to `migrations/versions`. A database that is up to date is left alone, and Alembic unloaded.
"""

import threading
import time

from sqlalchemy import Connection, String, column, create_engine, event, inspect, select, table
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from coatcheck.accounts.database import explain, set_pragmas
from coatcheck.accounts.errors import AccountsSchemaTooNew, AccountsUnavailable
from coatcheck.accounts.tables import SCHEMA, VERSION_TABLE

__all__ = ["LOCK_TIMEOUT", "migrate"]

LOCK_TIMEOUT = 60.0
"""Seconds for which a process waits while another one migrates."""
_RETRY = 0.02

# Alembic's `context` and `op` are global to the process.
_one_at_a_time = threading.Lock()


def migrate(url: URL) -> None:
    """Migrate the database at `url` to this release's schema, if it is older. Blocks: run it in a thread.

    Raises AccountsSchemaTooNew, having touched nothing; or AccountsUnavailable.
    """
    engine = create_engine(url.set(drivername="sqlite"), poolclass=NullPool, hide_parameters=True)
    event.listen(engine, "connect", set_pragmas)
    try:
        with _one_at_a_time, engine.connect() as connection:
            # Autocommit as the driver understands it: it begins nothing by itself, so that BEGIN IMMEDIATE is the
            # transaction, and SQLite's DDL is inside it.
            _migrate(connection.execution_options(isolation_level="AUTOCOMMIT"), str(url.database))
            return
    except SQLAlchemyError as error:
        reason = explain(error)
    raise AccountsUnavailable(
        f"The accounts' database {url.database} cannot be opened or brought up to date: {reason}."
    )


def _migrate(connection: Connection, path: str) -> None:
    if _versions(connection) == {SCHEMA}:
        return
    _use_wal(connection)
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    # Only now: another process may have done it, or more than it, while this one waited for the lock.
    _upgrade(connection, path)
    connection.commit()


def _versions(connection: Connection) -> set[str]:
    if not inspect(connection).has_table(VERSION_TABLE):
        return set()
    version = column("version_num", String)
    return set(connection.scalars(select(version).select_from(table(VERSION_TABLE, version))))


def _upgrade(connection: Connection, path: str) -> None:
    # Loading Alembic takes longer than everything else at start, and is of no use at any but the first.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", "coatcheck.accounts:migrations")
    config.attributes["connection"] = connection
    known = {step.revision for step in ScriptDirectory.from_config(config).walk_revisions()}
    unknown = sorted(_versions(connection) - known)
    if unknown:
        raise AccountsSchemaTooNew(
            f"The accounts' database {path} has schema {', '.join(unknown)}, which a newer Coatcheck made; this one knows"
            f" {SCHEMA} at most. Install the newer one again, or restore the backup made before it ran."
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
