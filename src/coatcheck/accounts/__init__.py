"""Who may log in, and how often one may try: users, passwords, and services in a database of their own.

Leaves sessions to `coatcheck` and HTTP to the server.
"""

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.errors import (
    AccountRefused,
    AccountsNotStarted,
    AccountsSchemaTooNew,
    AccountsUnavailable,
    HashQueueFull,
    LastAdmin,
    NameRefused,
    PasskeyRefused,
    PasswordRefused,
    ServiceRefused,
    Throttled,
    UnknownService,
    UnknownUser,
    UsernameRefused,
    UsernameTaken,
)
from coatcheck.accounts.hashing import OWASP, RFC_9106_LOW_MEMORY, HashParameters, PasswordHasher
from coatcheck.accounts.services import Service, ServiceAccounts
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
    "LastAdmin",
    "NameRefused",
    "PasskeyRefused",
    "PasswordHasher",
    "PasswordRefused",
    "Service",
    "ServiceAccounts",
    "ServiceRefused",
    "Throttle",
    "Throttled",
    "UnknownService",
    "UnknownUser",
    "User",
    "UsernameRefused",
    "UsernameTaken",
]
