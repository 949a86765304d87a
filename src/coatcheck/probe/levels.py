"""How much something matters: info, warn, problem. Pure."""

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

__all__ = ["LEVELS", "Level", "at_least", "worst"]

Level: TypeAlias = Literal["info", "warn", "problem"]
"""`info`: worth knowing; `warn`: costs something, or will hurt some clients; `problem`: broken, or open to an attack."""

LEVELS: tuple[Level, ...] = get_args(Level)


def at_least(level: Level, bar: Level) -> bool:
    """Whether a level is as bad as the bar, or worse."""
    return LEVELS.index(level) >= LEVELS.index(bar)


def worst(levels: Iterable[Level]) -> Level | None:
    """The worst of them; None if there are none."""
    return max(levels, key=LEVELS.index, default=None)
