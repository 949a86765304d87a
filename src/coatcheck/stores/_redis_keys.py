"""The names of the Redis store's keys, and what the names of its notes say. Leaves what keys hold to `_redis_values`.

    <prefix>:session:{<bucket>}:<id>            the record, or for a while the tombstone            tracked
    <prefix>:session:{<bucket>}:<id>:<note>     a note: there for an instant, its name is the news    tracked
    <prefix>:user:{@<user>}                     the user's epoch                                      tracked
    <prefix>:user:{@<user>}:<note>              a note                                                tracked
    <prefix>:watch:<node>:…                     probes of one node                                    tracked by that node
    <prefix>:seen:{<bucket>}                    last-seen times by id, of all sessions of a bucket    untracked
    <prefix>:expiry:{<bucket>}                  times of expiry by id                                 untracked
    <prefix>:sessions-of:{@<user>}              the ids of a user's sessions, and when each was noted untracked

Braces decide the slot in a cluster: what belongs to one session lies in one slot, what belongs to one user in another.
Ids and users are percent-encoded, so nothing in them can be taken for a brace, a colon or a wildcard.
"""

from typing import Final, NamedTuple
from urllib.parse import quote, unquote
from zlib import crc32

from coatcheck.stores.contract import Change

__all__ = [
    "BUCKETS",
    "CREATED",
    "ENDED_NOTE",
    "EPOCH_MADE",
    "USER_ENDED",
    "Keys",
    "News",
    "bucket_of",
    "change_of",
    "written_note",
]

BUCKETS: Final = 4096
"""Fixed for ever: another number would look for every session in another place."""

CREATED: Final = "c"
EPOCH_MADE: Final = "e"
USER_ENDED: Final = "u"
_WRITTEN = "w"
ENDED_NOTE: Final = "x"


class News(NamedTuple):
    """What one key's name says. `word` is empty where only a change is known, not which."""

    about: str
    """`session`, `user` or `watch`; empty for a key that is not ours."""
    id: str
    word: str
    rest: str


def bucket_of(session_id: str) -> int:
    """Give the bucket that a session lies in."""
    return crc32(session_id.encode()) % BUCKETS


def written_note(version: int, generation: int) -> str:
    """Give the note of a change. Names sort by version, which is the order in which Redis lists them."""
    return f"{_WRITTEN}:{version:020}:{generation}"


class Keys:
    """The names under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix: str = prefix
        self._session = f"{prefix}:session:"
        self._user = f"{prefix}:user:"
        # Sorted after both others: within one turn Redis tells prefixes in that order, so a probe comes last.
        self._watch = f"{prefix}:watch:"
        self._prefixes = tuple(text.encode() for text in (self._session, self._user, self._watch))

    def record(self, session_id: str) -> str:
        """The key of a record or tombstone."""
        return f"{self._session}{{{bucket_of(session_id)}}}:{quote(session_id, safe='')}"

    def seen(self, bucket: int) -> str:
        """The last-seen times of a bucket's sessions."""
        return f"{self.prefix}:seen:{{{bucket}}}"

    def expiry(self, bucket: int) -> str:
        """The times at which a bucket's sessions expire."""
        return f"{self.prefix}:expiry:{{{bucket}}}"

    def user(self, user_id: str) -> str:
        """The key of a user's epoch."""
        return f"{self._user}{{@{quote(user_id, safe='')}}}"

    def index(self, user_id: str) -> str:
        """The ids of a user's sessions."""
        return f"{self.prefix}:sessions-of:{{@{quote(user_id, safe='')}}}"

    def watch(self, node: str, slot_tag: str) -> str:
        """What the names of a node's probes begin with."""
        return f"{self._watch}{node}:{{{slot_tag}}}:"

    def tracked(self, node: str) -> tuple[str, str, str]:
        """The prefixes that a node has Redis tell it of. No other node is told of its probes."""
        return self._session, self._user, f"{self._watch}{node}:"

    def read(self, key: bytes) -> News:
        """Read a key's name, as an invalidation gives it."""
        session, user, watch = self._prefixes
        if key.startswith(session):
            parts = key[len(session) :].decode(errors="replace").split(":", 3)
            if len(parts) > 1:
                return News("session", unquote(parts[1]), parts[2] if len(parts) > 2 else "", "".join(parts[3:]))
        elif key.startswith(user):
            name, _, word = key[len(user) :].decode(errors="replace").partition(":")
            return News("user", unquote(name[2:-1]), word, "")
        elif key.startswith(watch):
            return News("watch", "", "", key.rpartition(b":")[2].decode(errors="replace"))
        return News("", "", "", "")


def change_of(news: News) -> Change | None:
    """Give the change that a session's note tells of; None for a creation, of which nobody has a copy."""
    if news.word == _WRITTEN:
        version, _, generation = news.rest.partition(":")
        return Change("changed", news.id, int(version), int(generation))
    if news.word == ENDED_NOTE:
        return Change("ended", news.id, reason=unquote(news.rest))
    return None
