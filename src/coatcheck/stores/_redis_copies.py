"""Which sessions this node may hold a copy of that is as new as the last it heard. Pure bookkeeping; asks nobody.

Redis gathers the invalidations of one turn of its loop, so of a change of ours and a `DEL` typed by hand in the same turn
only one message comes, with the note of ours, which spares copies of that version. Whoever may have got such a copy (it
wrote the session, or read it in those moments) looks the session up once more before it confirms anything.
"""

from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager

__all__ = ["Copies"]


class Copies:
    """Sessions that were asked for here lately, and sessions that notes were heard of since the last look."""

    def __init__(self) -> None:
        self._under_way: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._asked_before: set[str] = set()
        self._noted: dict[str, int] = {}

    @contextmanager
    def of(self, session_id: str) -> Generator[None]:
        """Say that a session is being read or written here, which may lead to a copy."""
        self._under_way[session_id] += 1
        try:
            yield
        finally:
            self._under_way[session_id] -= 1
            if not self._under_way[session_id]:
                del self._under_way[session_id]
            self._asked.add(session_id)

    def noted(self, session_id: str, version: int) -> None:
        """Say that a note of a session's version was heard."""
        self._noted[session_id] = version

    def gone(self, session_id: str) -> None:
        """Say that no copy of a session is believed any more."""
        self._noted.pop(session_id, None)

    def take(self) -> Mapping[str, int]:
        """Give the sessions to look up, and the least version that each must have, and begin anew."""
        doubtful = {
            session_id: version
            for session_id, version in self._noted.items()
            if session_id in self._asked or session_id in self._asked_before or session_id in self._under_way
        }
        self._noted.clear()
        # An answer and the message of the same turn come on two connections, so the message may be a look later.
        self._asked, self._asked_before = set(), self._asked
        return doubtful
