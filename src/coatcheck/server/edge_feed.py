"""The edge's counters on their way to the workers: the supervisor writes them to a file, workers read it.

So no worker needs to reach the edge's administration, which could stop the server or tell what others send. Promises
that a reader sees one whole writing, and how old it is. Leaves asking the edge to `supervisor`.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FEED_INTERVAL", "EdgeStatistics", "read_statistics", "write_statistics"]

FEED_INTERVAL = 2.0
"""Seconds between two writings."""
_TOO_OLD = 10.0
"""Seconds after which an edge that nobody could ask is taken to be away. A restart of the edge takes less."""


@dataclass(frozen=True, slots=True)
class EdgeStatistics:
    """What the edge counted when it was last asked."""

    age: float
    """Seconds since then."""
    counters: Mapping[str, int]
    """By Envoy's own names."""


def write_statistics(path: Path, counters: Mapping[str, int]) -> None:
    """Put them where `read_statistics` looks. Raises OSError."""
    partial = path.with_suffix(".partial")
    # The monotonic clock is one for all processes of a machine, and nobody sets it.
    partial.write_text(json.dumps({"at": time.monotonic(), "counters": dict(counters)}))
    partial.replace(path)


def read_statistics(path: Path) -> EdgeStatistics | None:
    """Give what was written last; None where there is nothing, or nothing of late: the edge is away."""
    try:
        written = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    age = time.monotonic() - written["at"]
    return EdgeStatistics(age, written["counters"]) if 0 <= age <= _TOO_OLD else None
