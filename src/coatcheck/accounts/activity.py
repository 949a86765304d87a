"""The log of what happens to users' sessions, written by all nodes in one order, and read from any place in it.

Promises: a number becomes visible only after every smaller one; what is written twice is there once; a reader can tell
whether something between its place and now is missing. Decision record 13 says how. Leaves queues, waiting and what
clients see to `coatcheck.server.activity`.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import msgspec
from sqlalchemy import Executable, and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from coatcheck.accounts.accounts import Accounts
from coatcheck.accounts.tables import activity, activity_place

__all__ = ["KEPT", "KINDS", "PASSING", "WINDOW", "ActivityLog", "Entry", "Kind", "LoggedEntry", "Place", "Reading"]

Kind: TypeAlias = Literal[
    "created",
    "ended",
    "reauthenticated",
    "password_changed",
    "refreshed",
    "renamed",
    "opened",
    "closed",
]
"""What may happen to a session; `opened` and `closed` are about a live connection of it."""
KINDS: frozenset[Kind] = frozenset(get_args(Kind))
PASSING: frozenset[Kind] = frozenset(("opened", "closed", "refreshed"))
"""What is kept only for those who resume."""

WINDOW = 600.0
"""Seconds for which what is passing is kept, and so for which a reader may be away at least, unless too much happens."""
KEPT = 90 * 86_400.0
"""Seconds for which all else is kept, for whoever looks at what happened to their account."""
_LOGINS: tuple[Kind, ...] = ("created", "reauthenticated")
_MOST_PASSING = 100_000
_PRUNE_STEP = 1000
_NAME = "activity"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be written. `at` in seconds since 1970.

    `user_id` may be None where it is not known: then the user of the session's entry before is meant. Of two entries with
    the same `once` the second one is none.
    """

    kind: Kind
    session_id: str
    at: float
    once: str
    user_id: str | None = None
    detail: Mapping[str, str] = {}


class LoggedEntry(NamedTuple):
    """One thing that was written, under its number."""

    number: int
    user_id: str
    session_id: str
    kind: Kind
    at: float
    detail: Mapping[str, str]


class Place(NamedTuple):
    """Where the log stands: its last number, up to which number it is incomplete, and the key of clients' places."""

    last: int
    pruned: int
    cipher_key: bytes


class Reading(NamedTuple):
    """Entries in order, and where the log stood when they were read: `seen` is up to where there are no others.

    `more` says that there are entries after them.
    """

    entries: list[LoggedEntry]
    seen: int
    pruned: int
    more: bool


class ActivityLog:
    """The log in the accounts' database. Use it while `accounts` is started; every method raises AccountsUnavailable."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    async def place(self) -> Place:
        """Tell where the log stands."""
        query = select(activity_place.c.last, activity_place.c.pruned, activity_place.c.cipher_key).where(_here())

        async def work(connection: AsyncConnection) -> Place:
            return Place(*(await connection.execute(query)).one())

        return await self._accounts.database.run(work)

    async def read(self, after: int, *, limit: int, user_id: str | None = None) -> Reading:
        """Read up to `limit` entries after a number, of one user or of all, as they are at one moment."""
        later = activity.c.id > after
        if user_id is not None:
            later = and_(later, activity.c.user_id == user_id)
        # One statement, so that the entries and the place are of one moment in every database.
        query = (
            select(activity_place.c.last, activity_place.c.pruned, *_COLUMNS)
            .select_from(activity_place.outerjoin(activity, later))
            .where(_here())
            .order_by(activity.c.id)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> Sequence[Any]:
            return (await connection.execute(query)).all()

        rows = await self._accounts.database.run(work)
        found = [row for row in rows if row.id is not None]
        more = len(found) == limit
        seen = found[-1].id if more else rows[0].last
        return Reading([_entry(row) for row in found if row.user_id is not None], seen, rows[0].pruned, more)

    async def missing(self, keys: Sequence[str]) -> list[str]:
        """Give those of the `once` keys under which nothing was written."""

        async def work(connection: AsyncConnection) -> set[str]:
            return await _written(connection, keys)

        written = await self._accounts.database.run(work)
        return [key for key in keys if key not in written]

    async def append(self, entries: Sequence[Entry], *, incomplete: bool = False) -> None:
        """Write entries in their order, all or none. May be repeated when its outcome is not known.

        `incomplete` says that something before had to be dropped: whoever has not read as far as here is told to look
        everything up.
        """

        async def work(connection: AsyncConnection) -> None:
            # The row stays locked until the commit, so that numbers are given out in the order in which they appear.
            # Each entry makes three rows at most. Numbers that are left over are nobody's.
            room = 3 * len(entries) + incomplete
            places = update(activity_place).where(_here()).values(last=activity_place.c.last + room)
            last = (await connection.execute(places.returning(activity_place.c.last))).scalar_one()
            written = await _written(connection, [entry.once for entry in entries])
            rows = _Rows(
                last - room,
                owners=await _owners(connection, {entry.session_id for entry in entries if entry.user_id is None}),
                logins=await _owners(connection, _logged_in(entries), only=_LOGINS),
                orphans=await _orphans(connection, _logged_in(entries)),
            )
            for entry in entries:
                if entry.once not in written:
                    written.add(entry.once)
                    rows.add(entry)
            for number in rows.adopted:
                await connection.execute(delete(activity).where(activity.c.id == number))
            if rows.made:
                await connection.execute(insert(activity), rows.made)
            if incomplete:
                await connection.execute(update(activity_place).where(_here()).values(pruned=last))

        await self._accounts.database.run(work)

    async def prune(self, now: float) -> int:
        """Drop some of what is older than it is kept for, and of what is passing the oldest if there is too much; their number.

        A caller goes on while there are some.
        """
        oldest = (
            select(activity.c.id, activity.c.keep_until)
            .where(activity.c.keep_until <= now + WINDOW)
            .order_by(activity.c.keep_until)
            .limit(_PRUNE_STEP)
        )
        look = select(activity_place.c.last).where(_here())
        lock = update(activity_place).where(_here()).values(last=activity_place.c.last).returning(activity_place.c.last)

        async def due(connection: AsyncConnection, place: Executable) -> list[int]:
            last = (await connection.execute(place)).scalar_one()
            rows = (await connection.execute(oldest)).all()
            return [row.id for row in rows if row.keep_until <= now or row.id <= last - _MOST_PASSING]

        async def work(connection: AsyncConnection) -> int:
            # Looked at without the lock first: mostly there is nothing, and nobody is to wait for that.
            if not await due(connection, look) or not (dropped := await due(connection, lock)):
                return 0
            await connection.execute(delete(activity).where(activity.c.id.in_(dropped)))
            further = and_(_here(), activity_place.c.pruned < max(dropped))
            await connection.execute(update(activity_place).where(further).values(pruned=max(dropped)))
            return len(dropped)

        return await self._accounts.database.run(work)


class _Rows:
    """The rows that a batch becomes. Pure: the rest is how the log stands before it.

    `owners` says whose the sessions are, `logins` who logged in to them last, `orphans` which of their ends are nobody's.
    """

    def __init__(
        self, number: int, *, owners: dict[str, str], logins: dict[str, str], orphans: dict[str, list[Any]]
    ) -> None:
        self.made: list[dict[str, Any]] = []
        self.adopted: list[int] = []
        self._number = number
        self._owners = owners
        self._logins = logins
        self._orphans = orphans

    def add(self, entry: Entry) -> None:
        session_id = entry.session_id
        user_id = entry.user_id or self._owners.get(session_id)
        if entry.kind == "created" and user_id is not None:
            before = self._logins.get(session_id)
            if before == user_id:
                entry = msgspec.structs.replace(entry, kind="reauthenticated")
            elif before is not None:
                left = {"reason": "another user logged in"}
                self._make(entry, before, kind="ended", once=f"left:{entry.once}"[:64], detail=left)
            self._logins[session_id] = user_id
        if user_id is None:
            if entry.kind == "ended":
                # Perhaps the node that made the session is about to write that: then it is told after it.
                self._make(entry, None)
            return
        self._owners[session_id] = user_id
        self._make(entry, user_id)
        for orphan in self._orphans.pop(session_id, ()):
            self.adopted.append(orphan.id)
            late = Entry(kind=orphan.kind, session_id=session_id, at=orphan.at, once=orphan.once)
            self._make(late, user_id, detail=_texts.decode(orphan.detail))

    def _make(
        self,
        entry: Entry,
        user_id: str | None,
        *,
        kind: Kind | None = None,
        once: str | None = None,
        detail: Mapping[str, str] | None = None,
    ) -> None:
        self._number += 1
        kind = kind or entry.kind
        passing = kind in PASSING or user_id is None
        self.made.append(
            {
                "id": self._number,
                "once": once or entry.once,
                "user_id": user_id,
                "session_id": entry.session_id,
                "kind": kind,
                "at": entry.at,
                "keep_until": entry.at + (WINDOW if passing else KEPT),
                "detail": _encoder.encode(dict(entry.detail if detail is None else detail)).decode(),
            }
        )


_COLUMNS = (
    activity.c.id,
    activity.c.user_id,
    activity.c.session_id,
    activity.c.kind,
    activity.c.at,
    activity.c.detail,
)
_encoder = msgspec.json.Encoder()
_texts: "msgspec.json.Decoder[dict[str, str]]" = msgspec.json.Decoder(dict[str, str])


def _here() -> Any:
    return activity_place.c.name == _NAME


def _entry(row: Any) -> LoggedEntry:
    return LoggedEntry(row.id, row.user_id, row.session_id, row.kind, row.at, _texts.decode(row.detail))


async def _written(connection: AsyncConnection, keys: Sequence[str]) -> set[str]:
    return set((await connection.scalars(select(activity.c.once).where(activity.c.once.in_(keys)))).all())


def _logged_in(entries: Sequence[Entry]) -> set[str]:
    return {entry.session_id for entry in entries if entry.kind == "created"}


async def _owners(connection: AsyncConnection, asked: set[str], only: Sequence[Kind] | None = None) -> dict[str, str]:
    """Whose the sessions are by their newest entries, or by the newest of some kinds."""
    if not asked:
        return {}
    newest = select(func.max(activity.c.id)).where(activity.c.session_id.in_(asked), activity.c.user_id.is_not(None))
    if only is not None:
        newest = newest.where(activity.c.kind.in_(only))
    known = activity.c.id.in_(newest.group_by(activity.c.session_id))
    rows = await connection.execute(select(activity.c.session_id, activity.c.user_id).where(known))
    return {row.session_id: row.user_id for row in rows}


async def _orphans(connection: AsyncConnection, asked: set[str]) -> dict[str, list[Any]]:
    """Ends that were written before it was known of whom."""
    found: defaultdict[str, list[Any]] = defaultdict(list)
    if asked:
        nobodys = and_(activity.c.session_id.in_(asked), activity.c.user_id.is_(None))
        for row in await connection.execute(select(*_COLUMNS, activity.c.once).where(nobodys).order_by(activity.c.id)):
            found[row.session_id].append(row)
    return found
