"""The keys that sign access tokens, where several machines share them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of sealed rings."""
    op.create_table(
        "coatcheck_signing_keys",
        sa.Column("ring", sa.String(16), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    """Drop the table: tokens that these keys have signed are worth nothing any more."""
    op.drop_table("coatcheck_signing_keys")
