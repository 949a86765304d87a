"""Passkeys, recovery codes, and the log of what was done to accounts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables, empty."""
    op.create_table(
        "coatcheck_passkeys",
        sa.Column("id", sa.String(22), primary_key=True),
        sa.Column("user_id", sa.String(22), nullable=False),
        sa.Column("rp_id", sa.Text, nullable=False),
        sa.Column("credential_id", sa.Text, nullable=False, unique=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("sign_count", sa.BigInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("transports", sa.Text, nullable=False),
        sa.Column("backed_up", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("last_used_at", sa.Double, nullable=True),
    )
    op.create_table(
        "coatcheck_passkey_challenges",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.Double, nullable=False),
    )
    op.create_table(
        "coatcheck_recovery_codes",
        sa.Column("user_id", sa.String(22), primary_key=True),
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    op.create_table(
        "coatcheck_security_log",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("user_id", sa.String(22), nullable=True),
        sa.Column("by_id", sa.String(22), nullable=False),
        sa.Column("by_username", sa.Text, nullable=False),
        sa.Column("as_admin", sa.Boolean, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    for name, table, columns in (
        ("coatcheck_passkeys_user", "coatcheck_passkeys", ["user_id"]),
        ("coatcheck_passkey_challenges_expires_at", "coatcheck_passkey_challenges", ["expires_at"]),
        ("coatcheck_security_log_user", "coatcheck_security_log", ["user_id", "at"]),
        ("coatcheck_security_log_at", "coatcheck_security_log", ["at"]),
    ):
        op.create_index(name, table, columns)


def downgrade() -> None:
    """Drop them: passkeys and recovery codes are gone, passwords stay."""
    for table in ("security_log", "recovery_codes", "passkey_challenges", "passkeys"):
        op.drop_table(f"coatcheck_{table}")
