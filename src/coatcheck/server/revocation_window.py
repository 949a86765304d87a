"""What a node remembers of sessions that ended, for as long as a token of theirs could live. Pure; leaves sending to `rest.revocations`.

A window is complete from `since` on: whatever ended later is in it. Everything in it has the time at which this node
heard of it, which is never before it happened.
"""

from bisect import bisect_left
from collections import deque
from itertools import islice
from typing import Literal, NamedTuple

__all__ = ["RevocationWindow", "Told"]


class Told(NamedTuple):
    """One thing that those who verify tokens must know. `at` in seconds since 1970, never falling.

    - `ended`: session `id` is over
    - `generation`: of session `id` only tokens of `generation` and later are good
    - `user`: of user `id` some session may be over that nobody named: ask for each
    - `reset`: anything may have happened before: ask for everything
    """

    at: float
    kind: Literal["ended", "generation", "user", "reset"]
    id: str = ""
    generation: int = 0


class RevocationWindow:
    """Entries of the last `keep` seconds, at most `most`; what is dropped early is missing from `since` on."""

    def __init__(self, *, now: float, keep: float, most: int = 500_000) -> None:
        self.keep = keep
        self._since = now
        self._most = most
        self._latest = now
        self._entries: deque[Told] = deque()
        self._first = 0  # the position of the oldest entry: positions only grow
        self._generations: dict[str, int] = {}

    @property
    def end(self) -> int:
        """The position after the newest entry."""
        return self._first + len(self._entries)

    def since(self, now: float) -> float:
        """Give the time from which on nothing is missing (seconds since 1970)."""
        return max(self._since, now - self.keep)

    def add(
        self, now: float, kind: Literal["ended", "generation", "user", "reset"], id: str = "", gen: int = 0
    ) -> bool:
        """Take something in; whether it was news. A session's generation is told once, however often it changes."""
        if kind == "generation":
            if self._generations.get(id, 0) >= gen:
                return False
            self._generations[id] = gen
        elif kind == "ended":
            self._generations.pop(id, None)
        # A wall clock that is set back must not bring the entries out of order.
        self._latest = max(self._latest, now)
        if kind == "reset":
            self._since = self._latest
        self._entries.append(Told(self._latest, kind, id, gen))
        self._prune(now)
        return True

    def position(self, at: float) -> int:
        """Give the position of the first entry from a time on."""
        return self._first + bisect_left(self._entries, at, key=lambda told: told.at)

    def after(self, position: int, most: int) -> list[Told] | None:
        """Give at most so many entries from a position on; None where the first of them is there no more."""
        if position < self._first:
            return None
        start = position - self._first
        return list(islice(self._entries, start, start + most))

    def _prune(self, now: float) -> None:
        while self._entries and (len(self._entries) > self._most or self._entries[0].at < now - self.keep):
            gone = self._entries.popleft()
            self._first += 1
            self._since = max(self._since, gone.at)
            if gone.kind == "generation" and self._generations.get(gone.id) == gone.generation:
                del self._generations[gone.id]
