"""Logins and failures by hour, and the failures on each account."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, empty."""
    op.create_table(
        "coatcheck_login_hours",
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("logins", sa.BigInteger, nullable=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "coatcheck_failed_logins",
        sa.Column("user_id", sa.String(22), primary_key=True),
        sa.Column("hour", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("failures", sa.BigInteger, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("coatcheck_failed_logins_hour", "coatcheck_failed_logins", ["hour"])


def downgrade() -> None:
    """Drop them: what was counted is gone."""
    op.drop_table("coatcheck_failed_logins")
    op.drop_table("coatcheck_login_hours")
