"""Throttling: how many attempts were counted, and until when they weigh."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of counters."""
    op.create_table(
        "coatcheck_throttling",
        sa.Column("counter", sa.String(64), primary_key=True),
        sa.Column("spent_until", sa.BigInteger, nullable=False),
    )
    op.create_index("coatcheck_throttling_spent_until", "coatcheck_throttling", ["spent_until"])


def downgrade() -> None:
    """Drop the table: everybody begins with a full allowance."""
    op.drop_index("coatcheck_throttling_spent_until", "coatcheck_throttling")
    op.drop_table("coatcheck_throttling")
