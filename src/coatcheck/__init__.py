"""Coatcheck: sessions for Python APIs that every transport knows and that end when they are ended.

    from coatcheck import Sessions, SessionMiddleware, session_of

Log in with `await session_of(request).log_in(user_id)`; end everything with `await sessions.end_user(user_id)`.
"""

from coatcheck.asgi import SessionMiddleware
from coatcheck.cookies import CookiePolicy
from coatcheck.errors import (
    CoatcheckError,
    CookiePolicyError,
    LoginRefused,
    MissingDependency,
    SessionEnded,
    SessionRefused,
    SessionsNotStarted,
    StoreUnavailable,
    TokenRefused,
    TooManyConnections,
    UsageError,
    WrongEventLoop,
)
from coatcheck.manager import SessionEvent, SessionInfo, Sessions
from coatcheck.session import Session, current_session, session_of
from coatcheck.tickets import Tickets
from coatcheck.values import Key

__all__ = [
    "CoatcheckError",
    "CookiePolicy",
    "CookiePolicyError",
    "Key",
    "LoginRefused",
    "MissingDependency",
    "Session",
    "SessionEnded",
    "SessionEvent",
    "SessionInfo",
    "SessionMiddleware",
    "SessionRefused",
    "Sessions",
    "SessionsNotStarted",
    "StoreUnavailable",
    "Tickets",
    "TokenRefused",
    "TooManyConnections",
    "UsageError",
    "WrongEventLoop",
    "current_session",
    "session_of",
]
