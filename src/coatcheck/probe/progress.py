"""How far a probe has come, for whoever shows it."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

__all__ = ["OnProgress", "Progress"]


class Progress(NamedTuple):
    """`done` of `total` steps; `doing` says in a few words what comes now. Steps that turn out to be needless are skipped."""

    doing: str
    done: int
    total: int


OnProgress: TypeAlias = Callable[[Progress], None]
