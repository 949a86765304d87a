"""What every session store promises, with its edge cases. Leaves expiry and policy to the manager, trust in copies to the cache.

Two rules hold for every method. A store tells "not there" (None, or absent from the answer) from "cannot ask"
(`StoreUnavailable`): after the latter a write may or may not have happened, after any other answer it has, durably as
far as the store's documentation promises. And each method is one atomic step: other callers, on any node, see all of
it or nothing.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol, runtime_checkable

import msgspec

from coatcheck.record import Changes, SessionRecord, Tombstone

__all__ = ["Change", "ChangeStream", "Migrated", "Store"]


class Change(msgspec.Struct, frozen=True, gc=False):
    """One thing that happened in the store.

    - `changed`: session `id` now has `version` and `generation` (0 where the store cannot tell: believe no copy)
    - `ended`: session `id` is gone, for `reason`
    - `user`: every session of user `id` must be asked for again, since the user's epoch rose
    - `missed`: changes may have been lost: believe no copy of anything
    """

    kind: Literal["changed", "ended", "user", "missed"]
    id: str = ""
    version: int = 0
    generation: int = 0
    reason: str = ""


class ChangeStream(Protocol):
    """One node's reading of the feed. Changes come in the order in which they took effect, each at least once."""

    def behind(self) -> bool:
        """Tell, in well under a microsecond, whether `poll` is known to have something. False promises nothing."""
        ...

    def poll(self, deliver: Callable[[Change], None]) -> None:
        """Hand over what has arrived, without waiting. `behind` stays true until it has been delivered.

        May be called from any thread where the store works from any loop. Raises StoreUnavailable when the feed
        cannot be read now; nothing is lost by that: what is missed is told as `missed` later.
        """
        ...

    def confirmed(self) -> float:
        """Give the monotonic time, in seconds, up to which the stream is complete.

        Whatever was acknowledged to anyone before that moment has been delivered. It is the time of *sending* of the
        last probe that came back, never that of its return. Minus infinity before the first one.
        """
        ...

    async def wait(self) -> None:
        """Return when `poll` should be called again: soon after a change, and often enough to keep the lease."""
        ...

    async def aclose(self) -> None:
        """Stop reading. May be called twice."""
        ...


class Store(Protocol):
    """Keeps records under their ids. Small on purpose: merging is `record.merge`, everything else is policy."""

    @property
    def any_loop(self) -> bool:
        """Whether the store may be used from several event loops and threads at once."""
        ...

    async def start(self) -> None:
        """Open the store; create what is missing. May be called twice. Raises StoreUnavailable, UsageError."""
        ...

    async def close(self) -> None:
        """Finish what was accepted, then let go. May be called twice; `start` opens it again."""
        ...

    async def create(self, record: SessionRecord) -> None:
        """Store a new record.

        Never an upsert: an id that exists, or whose tombstone still stands, raises SessionRefused. A record with a
        user is stored only if its epoch is the user's current one, checked in the same step: otherwise LoginRefused.
        """
        ...

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        """Give the record as of now, or None for one that is unknown or ended.

        A session that ended less than `TOMBSTONE_SECONDS` ago gives its tombstone. A record whose epoch is not its
        user's current one has ended (None), and so has one whose user has no epoch any more. A record that cannot
        be decoded raises StoreUnavailable: it is not "unknown". Expiry is not looked at.
        """
        ...

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        """Give the generation of each session that `read` would give a record for. Expiry is not looked at."""
        ...

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        """Merge changes into the record as it is now, and give the result.

        None, and nothing is written, when the session is unknown or ended, or its generation or version is not the
        expected one. Never creates a record. An identity with a user needs that user's current epoch, in the same
        step: otherwise LoginRefused, and nothing is written.

        `known` is the record as the caller last saw it. Where exactly that still stands, a store may write without
        reading it first, which saves a message there and back. What stands counts, never what is known.
        """
        ...

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        """End sessions, leaving tombstones; give the ids that this call ended.

        `expect_generation` spares those that have moved on; `unseen_since` those last seen after that time. Ending
        an ended session is no error: its id is just not in the answer.
        """
        ...

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        """End every session of a user but `keep`, those of logins under way included; give the ids known to be ended.

        The user's epoch rises, and `keep` gets the new one, in one step. From then on no record or login that was
        made with an older epoch is valid, whether or not an index knew of it.
        """
        ...

    async def epoch(self, user_id: str) -> int:
        """Give the user's epoch. A user without one gets one that was never used before."""
        ...

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        """Give the user's records in order of creation. Only valid ones; expiry is not looked at.

        `beyond`: where there are no more than so many, the caller needs none of them, and a store may give none.
        """
        ...

    async def touch(self, seen: Mapping[str, float]) -> None:
        """Raise last-seen times (seconds since 1970). Never lowers one, never revives, and is no change to the feed."""
        ...

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        """Delete at most `limit` records that expired before `now` or were last seen before `unseen_since`.

        Each counts as ended (`expired` or `idle`) in the feed. Old tombstones and feed entries go too. Gives the
        number of records deleted; a caller goes on until it is below `limit`.
        """
        ...

    def changes(self) -> ChangeStream:
        """Open a feed that tells of every change from now on. Of a creation nothing is told: nobody has a copy."""
        ...


@runtime_checkable
class Migrated(Protocol):
    """A store in somebody's database: its tables are made and changed by request alone, and `start` refuses without them."""

    async def migrate(self) -> list[str]:
        """Make the tables or bring them up to date; give what was done, in words. Raises StoreUnavailable, UsageError."""
        ...
