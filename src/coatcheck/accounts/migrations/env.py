"""Alembic's entry: runs the steps on the connection, and in the transaction, that `coatcheck.accounts.migrate` hands over.

A further step is a file of its own in `versions`, whose `down_revision` is the step before. What release N writes,
release N-1 must still be able to read: columns are added in one release and relied upon in the next.
"""

from alembic import context

from coatcheck.accounts.tables import VERSION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
