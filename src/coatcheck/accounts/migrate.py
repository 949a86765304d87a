"""Brings the accounts' database to this release's schema, once, however many processes start at the same time.

The lock is SQLite's own write lock, so it ends with the process that held it, and a migration that fails leaves nothing.
Leaves the steps themselves to `migrations/versions`.
"""

import threading
import time

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from coatcheck.accounts.database import explain, set_pragmas
from coatcheck.accounts.errors import AccountsSchemaTooNew, AccountsUnavailable
from coatcheck.accounts.tables import VERSION_TABLE

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
    config = Config()
    config.set_main_option("script_location", "coatcheck.accounts:migrations")
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    if _is_current(connection, script, path):
        return
    _use_wal(connection)
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT * 1000)}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    # Another process may have done it while this one waited for the lock.
    if not _is_current(connection, script, path):
        command.upgrade(config, "head")
    connection.commit()


def _is_current(connection: Connection, script: ScriptDirectory, path: str) -> bool:
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    found = context.get_current_heads()
    known = {revision.revision for revision in script.walk_revisions()}
    unknown = sorted(set(found) - known)
    if unknown:
        raise AccountsSchemaTooNew(
            f"The accounts' database {path} has schema {', '.join(unknown)}, which a newer Coatcheck made; this one knows"
            f" {script.get_current_head()} at most. Install the newer one again, or restore the backup made before it ran."
        )
    return set(found) == set(script.get_heads())


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
