"""Who may log in, and how often one may try: users and passwords in a database of their own.

Leaves sessions to `coatcheck` and HTTP to the server.
"""

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.errors import (
    AccountRefused,
    AccountsNotStarted,
    AccountsSchemaTooNew,
    AccountsUnavailable,
    HashQueueFull,
    NameRefused,
    PasswordRefused,
    Throttled,
    UnknownUser,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.accounts.hashing import OWASP, RFC_9106_LOW_MEMORY, HashParameters, PasswordHasher
from coatcheck.accounts.throttling import Allowance, Allowances, Attempt, Throttle
from coatcheck.accounts.user import User

__all__ = [
    "OWASP",
    "RFC_9106_LOW_MEMORY",
    "AccountRefused",
    "Accounts",
    "AccountsNotStarted",
    "AccountsSchemaTooNew",
    "AccountsUnavailable",
    "Allowance",
    "Allowances",
    "Attempt",
    "HashParameters",
    "HashQueueFull",
    "NameRefused",
    "PasswordHasher",
    "PasswordRefused",
    "Throttle",
    "Throttled",
    "UnknownUser",
    "User",
    "UsernameRefused",
    "UsernameTaken",
]
