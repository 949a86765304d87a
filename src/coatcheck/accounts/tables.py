"""The accounts' tables, as SQLAlchemy sees them. Leaves their making to `migrations`; a test holds the two together.

Names carry a prefix because a database may be shared with an application.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator

from coatcheck.accounts.hashing import EncodedHash

__all__ = [
    "SCHEMA",
    "VERSION_TABLE",
    "HashText",
    "activity",
    "activity_place",
    "failed_logins",
    "login_hours",
    "metadata",
    "passkey_challenges",
    "passkeys",
    "recovery_codes",
    "security_log",
    "services",
    "signing_keys",
    "throttling",
    "users",
]

SCHEMA = "0007"
"""The version of the schema that this release works with: the last step in `migrations/versions`."""
VERSION_TABLE = "coatcheck_accounts_version"
"""Where Alembic keeps the schema's version."""


class HashText(TypeDecorator[EncodedHash]):
    """Text whose value shows itself nowhere: drivers put the parameters of a statement into their debug logs."""

    impl: type[Text] = Text  # pyright: ignore[reportIncompatibleVariableOverride]
    cache_ok: bool | None = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> EncodedHash | None:
        return None if value is None else EncodedHash(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> EncodedHash | None:
        return None if value is None else EncodedHash(value)


metadata: MetaData = MetaData()

users: Table = Table(
    "coatcheck_users",
    metadata,
    Column("id", String(22), primary_key=True),
    Column("username", Text, nullable=False),
    Column("username_key", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("password_hash", HashText, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("is_admin", Boolean, nullable=False, server_default=false()),
)

throttling: Table = Table(
    "coatcheck_throttling",
    metadata,
    Column("counter", String(64), primary_key=True),
    # Microseconds since 1970: a row whose time has come weighs nothing, and is as good as none.
    Column("spent_until", BigInteger, nullable=False),
    Index("coatcheck_throttling_spent_until", "spent_until"),
)

services: Table = Table(
    "coatcheck_services",
    metadata,
    Column("id", String(22), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # SHA-256 in base64url.
    Column("secret_hash", HashText, nullable=False),
    # A JSON array of URLs.
    Column("audiences", Text, nullable=False),
    Column("created_at", Double, nullable=False),
)

signing_keys: Table = Table(
    "coatcheck_signing_keys",
    metadata,
    Column("ring", String(16), primary_key=True),
    Column("version", BigInteger, nullable=False),
    # AES-GCM under a key from a secret that is not here.
    Column("sealed", LargeBinary, nullable=False),
)

activity: Table = Table(
    "coatcheck_activity",
    metadata,
    # Given out under the lock of `activity_place`'s row, so that a number becomes visible after all that are smaller.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    # What is written twice, by two nodes or after an answer that was lost, is there once.
    Column("once", String(64), nullable=False, unique=True),
    # NULL: the end of a session of whose user nothing is known, or not yet.
    Column("user_id", String(22), nullable=True),
    Column("session_id", String(22), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("at", Double, nullable=False),
    Column("keep_until", Double, nullable=False),
    # A JSON object of texts.
    Column("detail", Text, nullable=False),
    Index("coatcheck_activity_user", "user_id", "id"),
    Index("coatcheck_activity_session", "session_id", "id"),
    Index("coatcheck_activity_keep_until", "keep_until"),
)

activity_place: Table = Table(
    "coatcheck_activity_place",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("last", BigInteger, nullable=False),
    # The greatest number of which something is missing: what comes after it is whole.
    Column("pruned", BigInteger, nullable=False),
    # Under it clients are given their places in the log. No credential: it only hides how much others do.
    Column("cipher_key", LargeBinary, nullable=False),
)

passkeys: Table = Table(
    "coatcheck_passkeys",
    metadata,
    Column("id", String(22), primary_key=True),
    Column("user_id", String(22), nullable=False),
    # The relying party that it was made for; others never see it (Web Authentication Level 3, section 5.1.2).
    Column("rp_id", Text, nullable=False),
    # Base64url of what the authenticator calls it, up to 1023 bytes.
    Column("credential_id", Text, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("sign_count", BigInteger, nullable=False),
    Column("name", Text, nullable=False),
    # A JSON array of texts.
    Column("transports", Text, nullable=False),
    Column("backed_up", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("last_used_at", Double, nullable=True),
    Index("coatcheck_passkeys_user", "user_id"),
)

passkey_challenges: Table = Table(
    "coatcheck_passkey_challenges",
    metadata,
    # SHA-256 in base64url: what is kept here answers nothing.
    Column("hash", HashText, primary_key=True),
    # What it is good for, and for whom.
    Column("purpose", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("coatcheck_passkey_challenges_expires_at", "expires_at"),
)

recovery_codes: Table = Table(
    "coatcheck_recovery_codes",
    metadata,
    Column("user_id", String(22), primary_key=True),
    # SHA-256 in base64url, of 80 random bits and more.
    Column("hash", HashText, primary_key=True),
    Column("created_at", Double, nullable=False),
)

security_log: Table = Table(
    "coatcheck_security_log",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("kind", String(32), nullable=False),
    # Whom it is about; NULL: everybody.
    Column("user_id", String(22), nullable=True),
    # Who did it.
    Column("by_id", String(22), nullable=False),
    Column("by_username", Text, nullable=False),
    Column("as_admin", Boolean, nullable=False),
    # A JSON object of texts.
    Column("detail", Text, nullable=False),
    Index("coatcheck_security_log_user", "user_id", "at"),
    Index("coatcheck_security_log_at", "at"),
)

login_hours: Table = Table(
    "coatcheck_login_hours",
    metadata,
    # Since 1970.
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("logins", BigInteger, nullable=False),
    Column("failures", BigInteger, nullable=False),
)

failed_logins: Table = Table(
    "coatcheck_failed_logins",
    metadata,
    Column("user_id", String(22), primary_key=True),
    Column("hour", BigInteger, primary_key=True, autoincrement=False),
    Column("failures", BigInteger, nullable=False),
    # Of the first of them; what is told of the last: a JSON object of texts.
    Column("at", Double, nullable=False),
    Column("detail", Text, nullable=False),
    Index("coatcheck_failed_logins_hour", "hour"),
)
