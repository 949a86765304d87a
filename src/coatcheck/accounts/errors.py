"""What can go wrong with accounts, as part of the tree in `coatcheck.errors`. Leaves the HTTP answer to the server.

CoatcheckError
├── AccountRefused             what a person asked for cannot be had; the message is one sentence to show them
│   ├── UsernameRefused        the username is malformed
│   ├── UsernameTaken          another account has it, or one that reads the same
│   ├── NameRefused            the display name is malformed
│   ├── PasswordRefused        the password is too short, too long, or too easily guessed
│   └── PasskeyRefused         the passkey cannot be added, or there is none to be asked for
├── UnknownUser                there is no account with this id
├── LastAdmin                  without this one there would be no administrator
├── ServiceRefused             a service cannot be added: its name is malformed or taken, or an audience is no URL
├── UnknownService             there is no service of this name
├── AccountsUnavailable        the database cannot be asked; try again later (HTTP 503)
├── Throttled                  too many attempts of this kind; try again later (HTTP 429)
├── HashQueueFull              too many passwords are being hashed; try again soon (HTTP 503)
├── AccountsSchemaTooNew       a newer Coatcheck has changed the database; the operator's to mend
└── UsageError
    └── AccountsNotStarted     `Accounts` was used before `start()` or after `close()`

No message, `repr` or chained exception here carries a password or a hash.
"""

from coatcheck.errors import CoatcheckError, UsageError

__all__ = [
    "AccountRefused",
    "AccountsNotStarted",
    "AccountsSchemaTooNew",
    "AccountsUnavailable",
    "HashQueueFull",
    "LastAdmin",
    "NameRefused",
    "PasskeyRefused",
    "PasswordRefused",
    "ServiceRefused",
    "Throttled",
    "UnknownService",
    "UnknownUser",
    "UsernameRefused",
    "UsernameTaken",
]


class AccountRefused(CoatcheckError):
    """What was asked for cannot be had. The message is one sentence, fit to be shown to whoever asked."""


class UsernameRefused(AccountRefused, ValueError):
    """The username is empty, too long, or holds characters that usernames do not have."""


class UsernameTaken(AccountRefused):
    """There is an account under this username, or under one that differs only in case or form."""


class NameRefused(AccountRefused, ValueError):
    """The display name is too long or holds control characters."""


class PasswordRefused(AccountRefused, ValueError):
    """The password is too short, too long, not text, or easily guessed. The message never repeats it."""


class UnknownUser(CoatcheckError, LookupError):
    """There is no account with this id."""


class LastAdmin(CoatcheckError):
    """Without this account there would be nobody left who is an administrator. Nothing was changed."""


class PasskeyRefused(AccountRefused):
    """A passkey that cannot be added, or cannot be asked for. The text is a sentence to show."""


class ServiceRefused(CoatcheckError, ValueError):
    """A service cannot be added as it was asked for. The message is one sentence for the operator."""


class UnknownService(CoatcheckError, LookupError):
    """There is no service of this name."""


class AccountsUnavailable(CoatcheckError):
    """The accounts' database cannot be asked. Nothing that was acknowledged is lost.

    `retry_after` is the number of seconds after which trying again makes sense (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Throttled(CoatcheckError):
    """So many attempts were made already that this one was not looked at. It was not counted either.

    `retry_after` is the number of seconds after which the next attempt is looked at, if nobody else makes one first (RFC
    6585, section 4; RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HashQueueFull(CoatcheckError):
    """As many passwords wait to be hashed as may wait; this one was not looked at.

    `retry_after` is the number of seconds after which trying again makes sense (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AccountsSchemaTooNew(CoatcheckError):
    """The database was changed by a newer Coatcheck than this one. Nothing was read or written."""


class AccountsNotStarted(UsageError, RuntimeError):
    """`Accounts` was used before `start()` or after `close()`."""
