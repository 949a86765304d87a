"""Tells the time to everything that needs it, so that tests can set it. Decides nothing."""

import time as _time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Two clocks: one that agrees with other machines, and one that never steps."""

    def time(self) -> float:
        """Seconds since 1970-01-01 UTC. For whatever is stored or shown; may step."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary start, never stepping back. For leases and deadlines in this process."""
        ...


class SystemClock:
    """The operating system's clocks."""

    __slots__ = ()

    time: "staticmethod[[], float]" = staticmethod(_time.time)
    monotonic: "staticmethod[[], float]" = staticmethod(_time.monotonic)
