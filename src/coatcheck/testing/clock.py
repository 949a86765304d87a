"""A clock that tests set. Leaves real waiting to the event loop."""

__all__ = ["ManualClock"]


class ManualClock:
    """Both clocks of `coatcheck.clock.Clock`, moved by hand."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._time = now
        self._monotonic = 1000.0

    def time(self) -> float:
        """Seconds since 1970."""
        return self._time

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        if seconds < 0:
            raise ValueError("time does not run backwards: use step for a wall clock that is set back")
        self._time += seconds
        self._monotonic += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock forwards or back, as an administrator or NTP may; the monotonic clock takes no notice."""
        self._time += seconds
