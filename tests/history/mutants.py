"""Nodes that break a promise on purpose, so that it is seen that load, history and checker together would find it out."""

import math
from collections.abc import Callable
from typing import Any

import msgspec

from coatcheck.feed import Feed
from coatcheck.record import Changes, SessionRecord, merge
from coatcheck.stores import _postgres_steps, _sqlite_steps, postgres, redis

__all__ = ["MUTANTS"]


def deaf() -> None:
    """Takes no notice of any change, and believes its copies for ever (P1)."""

    def poll(self: Any) -> None:
        self._stream.poll(lambda change: None)
        self._cache.lease_until = math.inf

    Feed.poll = poll  # type: ignore[method-assign]


def undoing() -> None:
    """What it writes takes everybody else's keys with it (P3)."""

    def alone(record: SessionRecord, changes: Changes) -> SessionRecord:
        merged = merge(record, changes)
        return merged if changes.identity else msgspec.structs.replace(merged, values=changes.set)

    for module in (_sqlite_steps, _postgres_steps, postgres, redis):
        if hasattr(module, "merge"):
            module.merge = alone  # pyright: ignore[reportAttributeAccessIssue]


def deathless() -> None:
    """Says that it has ended a session, and has not (P1)."""
    from coatcheck.manager import Sessions

    async def end(self: Any, session_ids: list[str], reason: str, **expected: Any) -> list[str]:
        return session_ids

    Sessions._end = end  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {"deaf": deaf, "undoing": undoing, "deathless": deathless}
