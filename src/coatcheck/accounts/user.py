"""What a user is, as everybody outside sees one. Leaves credentials to `accounts`, which never shows them."""

import msgspec

__all__ = ["User"]


class User(msgspec.Struct, frozen=True):
    """One account. Carries no password and no hash."""

    id: str
    """128 random bits in base64url, 22 characters; never used for another account."""
    username: str
    """As it was registered, in NFKC."""
    name: str
    """To be displayed; up to 100 characters."""
    created_at: float
    """Seconds since 1970-01-01 UTC."""
    disabled: bool
    """A disabled account's password is never right."""
    is_admin: bool = False
    """An operator's doing alone: no default account is one, no first user becomes one, and HTTP cannot change it."""
