"""Services, which are machines with a credential of their own, and which users are administrators."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of services, and the users' column; nobody is an administrator yet."""
    op.create_table(
        "coatcheck_services",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("secret_hash", sa.Text, nullable=False),
        sa.Column("audiences", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    # With a default, so that the release before this one can still add users.
    op.add_column("coatcheck_users", sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drop both: no service has a credential any more, and nobody is an administrator."""
    op.drop_column("coatcheck_users", "is_admin")
    op.drop_table("coatcheck_services")
