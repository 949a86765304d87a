"""What a session says of its client: that it has a cookie, or tokens that it keeps itself. Leaves making either to others."""

from collections.abc import Mapping
from typing import Literal

__all__ = ["KIND", "TOKEN", "session_kind"]

KIND = "kind"
"""The key in a session's `about`."""
TOKEN = "token"
"""Its value for a session that only tokens lead to; all others are led to by their cookie."""


def session_kind(about: Mapping[str, str]) -> Literal["cookie", "token"]:
    """Tell which, from a session's `about`."""
    return "token" if about.get(KIND) == TOKEN else "cookie"
