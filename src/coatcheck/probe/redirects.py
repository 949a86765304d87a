"""One redirect, as reports tell of it. Data only."""

import msgspec

__all__ = ["Redirect"]


class Redirect(msgspec.Struct, frozen=True, kw_only=True):
    """Where a response led, and whether that was followed: to other hosts only if the user said so."""

    status: int
    to: str
    followed: bool
    other_host: bool
