"""What a history of nodes on one store is made of: what clients asked and were told, what was done to the store, what it may lose.

All times are seconds of one monotonic clock, the client's. Knows nothing of stores and judges nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["BACK", "COUNTER", "EXACT", "Fault", "Kind", "Loss", "Operation", "Outcome", "Part"]

Kind = Literal["login", "read", "look", "write", "add", "logout", "end", "end_user"]
"""`read` may be answered from a node's copy; `look` asks the store. `write` sets one key to a number that only its writer
ever sets, one higher each time; `add` adds one to a number that all add to. `end` ends by id, `end_user` all of a user's."""

Outcome = Literal["ok", "refused", "failed"]
"""`refused`: the session is not accepted. `failed`: no answer, or that the store cannot be asked; so it may have happened,
even later, or not."""

Part = Literal["logins", "writes", "ends"]

EXACT = frozenset({"look", "write", "add"})
"""What is answered by the store itself."""

BACK = frozenset({"logout", "end"})

COUNTER = "count"
"""The key that `add` adds to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One request to one node."""

    client: str
    node: str
    """The process that was asked. One that was started in another's place has another name."""
    kind: Kind
    sent: float
    received: float
    outcome: Outcome
    user: str
    """Who the client is, and to whom the session belongs."""
    session: str = ""
    """The session whose credential was sent, or whose id; for a login that went well, the one it began."""
    keep: str = ""
    """For `end_user`: the session that was to be left."""
    key: str = ""
    number: int = 0
    """For `write`: what was written. For `add`: what the answer said it is now."""
    seen_session: str = ""
    seen_user: str = ""
    seen: Mapping[str, int] = field(default_factory=dict[str, int])
    """The numbers that the answer showed, by key."""
    marks: frozenset[str] = frozenset()
    """The sessions that wrote what the answer showed, as the values themselves say."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that was done, from its beginning until all nodes were seen to serve again."""

    name: str
    began: float
    over: float
    nodes: frozenset[str] = frozenset()
    """Whose requests it may make fail; empty: all nodes'."""
    excuses: bool = True
    """Whether any request may fail because of it."""
    away: tuple[float, float] | None = None
    """When `nodes` surely could not reach the store, from the moment that nothing more came through."""

    def touches(self, began: float, ended: float) -> bool:
        """Whether any of this fault lies in that time."""
        return began <= self.over and ended >= self.began

    def concerns(self, node: str) -> bool:
        return not self.nodes or node in self.nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a store, as it was set up, is documented to lose by something that happened to it."""

    setting: str
    """Which setting allows it, as it is counted."""
    since: float
    """What was acknowledged from here on may be lost…"""
    at: float
    """…up to here, when it happened."""
    parts: frozenset[Part] = frozenset({"logins", "writes", "ends"})

    def takes(self, part: Part, acknowledged: float, seen: float) -> bool:
        """Whether something acknowledged at one time may be missing in an answer that came at another."""
        return part in self.parts and self.since <= acknowledged <= self.at + _UNDER_WAY and seen >= self.at


_UNDER_WAY = 0.05
"""Seconds that an answer sent before the loss may have taken to its client."""
