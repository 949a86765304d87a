"""Who may log in: users and passwords in a database of their own. Leaves sessions to `coatcheck` and HTTP to the server."""

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.errors import (
    AccountRefused,
    AccountsNotStarted,
    AccountsSchemaTooNew,
    AccountsUnavailable,
    HashQueueFull,
    NameRefused,
    PasswordRefused,
    UnknownUser,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.accounts.hashing import OWASP, RFC_9106_LOW_MEMORY, HashParameters, PasswordHasher
from coatcheck.accounts.user import User

__all__ = [
    "OWASP",
    "RFC_9106_LOW_MEMORY",
    "AccountRefused",
    "Accounts",
    "AccountsNotStarted",
    "AccountsSchemaTooNew",
    "AccountsUnavailable",
    "HashParameters",
    "HashQueueFull",
    "NameRefused",
    "PasswordHasher",
    "PasswordRefused",
    "UnknownUser",
    "User",
    "UsernameRefused",
    "UsernameTaken",
]
