"""Every error that Coatcheck raises, in one tree that tells whose fault it is. Leaves the HTTP answer to `asgi`.

CoatcheckError
├── UsageError                 the calling code is wrong; the message names the line to change
│   ├── CookiePolicyError      a cookie policy that browsers would refuse or that would not protect
│   ├── SessionsNotStarted     the manager was never started and may not start itself
│   ├── WrongEventLoop         the store belongs to another event loop
│   └── MissingDependency      an optional package is absent
├── SessionRefused             what the caller asked for cannot be granted any more
│   ├── SessionEnded           the session is over, or its secret has changed since this request read it
│   ├── LoginRefused           "log out everywhere" happened while this login was being checked
│   ├── TokenRefused           an access token or a ticket is not to be believed (HTTP 401, invalid_token)
│   └── TooManyConnections     a session or user has as many live connections as it may (HTTP 429)
└── StoreUnavailable           the store cannot be asked; try again later (HTTP 503)
"""

__all__ = [
    "CoatcheckError",
    "CookiePolicyError",
    "LoginRefused",
    "MissingDependency",
    "SessionEnded",
    "SessionRefused",
    "SessionsNotStarted",
    "StoreUnavailable",
    "TokenRefused",
    "TooManyConnections",
    "UsageError",
    "WrongEventLoop",
]


class CoatcheckError(Exception):
    """The root of the tree: catch this to catch everything that Coatcheck raises on purpose."""


class UsageError(CoatcheckError):
    """The calling code is wrong. The message says what to change."""


class CookiePolicyError(UsageError, ValueError):
    """A cookie policy that a browser would refuse, or that would not protect the session."""


class SessionsNotStarted(UsageError, RuntimeError):
    """`Sessions` was used before it was started, where it may not start itself."""


class WrongEventLoop(UsageError, RuntimeError):
    """A store whose connections belong to one event loop was used from another."""


class MissingDependency(UsageError, ImportError):
    """An optional package is not installed. The message names the `pip install` that mends it.

    `extra` is the one of ours that brings the package; None where none does, and it is installed by its own name.
    """

    def __init__(self, package: str, extra: str | None, what: str) -> None:
        mend = package if extra is None else f"'coatcheck[{extra}]'"
        super().__init__(f"{what} needs the package {package}: pip install {mend}")


class SessionRefused(CoatcheckError):
    """What was asked for cannot be granted any more; nothing was written."""


class SessionEnded(SessionRefused):
    """The session is over, or its secret has changed since this request read it. Nothing was written."""


class LoginRefused(SessionRefused):
    """`end_user` ran after the epoch was read: the login was checked against a past that no longer holds."""


class TokenRefused(SessionRefused):
    """An access token is not to be believed. `reason` is for logs; a client learns `invalid_token` (RFC 6750)."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the access token was refused: {reason}")
        self.reason: str = reason


class TooManyConnections(SessionRefused):
    """A session or user has as many live connections on this node as `Sessions` allows."""


class StoreUnavailable(CoatcheckError):
    """The store cannot be asked. Nothing that was acknowledged is lost.

    `retry_after` is the number of seconds after which trying again makes sense (RFC 9110, section 10.2.3).
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
