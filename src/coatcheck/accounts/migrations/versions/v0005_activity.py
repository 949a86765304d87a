"""The log of what happens to sessions, and where it stands."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the log, empty, and the one row that says where it stands."""
    op.create_table(
        "coatcheck_activity",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("once", sa.String(64), nullable=False, unique=True),
        sa.Column("user_id", sa.String(22), nullable=True),
        sa.Column("session_id", sa.String(22), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("keep_until", sa.Double, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    for name, columns in (
        ("coatcheck_activity_user", ["user_id", "id"]),
        ("coatcheck_activity_session", ["session_id", "id"]),
        ("coatcheck_activity_keep_until", ["keep_until"]),
    ):
        op.create_index(name, "coatcheck_activity", columns)
    place = op.create_table(
        "coatcheck_activity_place",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("pruned", sa.BigInteger, nullable=False),
        sa.Column("cipher_key", sa.LargeBinary, nullable=False),
    )
    op.bulk_insert(place, [{"name": "activity", "last": 0, "pruned": 0, "cipher_key": secrets.token_bytes(16)}])


def downgrade() -> None:
    """Drop both: what has happened is forgotten, and no place in the log that a client holds means anything."""
    op.drop_table("coatcheck_activity_place")
    op.drop_table("coatcheck_activity")
