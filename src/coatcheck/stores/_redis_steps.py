"""The Redis store's steps as calls: keys and arguments in, answers out, each one message there and back.

Leaves what a step is good for to `redis`, what a script does to `_redis_scripts`. Every call raises StoreUnavailable.
"""

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from coatcheck.errors import StoreUnavailable
from coatcheck.record import TOMBSTONE_SECONDS, SessionRecord
from coatcheck.stores import _redis_scripts as scripts
from coatcheck.stores._redis_keys import (
    BUCKETS,
    CREATED,
    ENDED_NOTE,
    EPOCH_MADE,
    USER_ENDED,
    Keys,
    bucket_of,
    written_note,
)
from coatcheck.stores._redis_link import Link
from coatcheck.stores._redis_server import Command
from coatcheck.stores._redis_values import Epoch, head_of, pack_record, quoted, version_of

__all__ = ["Steps"]

T = TypeVar("T")

_MARGIN = 3600.0
_LONGEST = 100 * 365 * 86_400.0
_STONE_MILLISECONDS = int(2 * TOMBSTONE_SECONDS * 1000)
"""Whether a tombstone still counts is for its reader to say, whose clock may be late."""

_AT_ONCE = 500
_ENDED_AT_ONCE = 100
_BUCKETS_AT_ONCE = 64


class Steps:
    """Steps on the keys of one store."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self.link: Link = link
        self.keys: Keys = keys
        self._swept = secrets.randbelow(BUCKETS)

    @property
    def together(self) -> bool:
        """Whether a script may look at a session and at its user in one step."""
        return self.link.together

    # ---- reading

    async def session(self, session_id: str) -> tuple[bytes | None, float | None]:
        """Give what is stored of a session, and when it was last seen as far as that is known."""
        record, seen = self.keys.record(session_id), self.keys.seen(bucket_of(session_id))
        value, at = await self._beside(seen, ("GET", record), ("ZSCORE", seen, session_id))
        return value, None if at is None else float(at)

    async def sessions(self, session_ids: Sequence[str]) -> list[bytes | None]:
        """Give what is stored of many sessions. What is no text at all counts as not there."""
        found: list[bytes | None] = []
        for some in _parts(session_ids, _AT_ONCE):
            keys = [self.keys.record(session_id) for session_id in some]
            if self.together:
                found += (await self.link.ask(keys[0], ("MGET", *keys), again=True))[0]
            else:
                found += [answer[0] for answer in await self.link.ask_each([(key, ("MGET", key)) for key in keys])]
        return found

    async def seen_at(self, session_ids: Sequence[str]) -> list[float | None]:
        """Give when sessions were last seen, as far as that is known."""
        asked: list[tuple[str, Command]] = []
        for session_id in session_ids:
            key = self.keys.seen(bucket_of(session_id))
            asked.append((key, ("ZSCORE", key, session_id)))
        return [None if at is None else float(at) for at in await self._times(asked)]

    async def versions(self, session_ids: Sequence[str]) -> Mapping[str, int]:
        """Give the versions of sessions that are there, 0 of others."""
        keys = [self.keys.record(session_id) for session_id in session_ids]
        heads = await self.link.ask_each([(key, ("GETRANGE", key, 0, 40)) for key in keys])
        return {session_id: version_of(head) for session_id, head in zip(session_ids, heads, strict=True)}

    async def user(self, user_id: str, session_id: str) -> tuple[Epoch | None, bool]:
        """Give a user's epoch, and whether a session is in the user's index."""
        key, index = self.keys.user(user_id), self.keys.index(user_id)
        epoch, at = await self._beside(index, ("MGET", key), ("ZSCORE", index, session_id))
        return Epoch.read(epoch[0]), at is not None

    async def users(self, user_ids: Iterable[str]) -> Mapping[str, Epoch | None]:
        """Give the epochs of users."""
        wanted = list(dict.fromkeys(user_ids))
        keys = [self.keys.user(user_id) for user_id in wanted]
        answers = await self.link.ask_each([(key, ("MGET", key)) for key in keys])
        return {user_id: Epoch.read(answer[0]) for user_id, answer in zip(wanted, answers, strict=True)}

    async def index(self, user_id: str) -> dict[str, float]:
        """Give the ids in a user's index, and when each was noted."""
        key = self.keys.index(user_id)
        (flat,) = await self._beside(key, ("ZRANGE", key, 0, -1, "WITHSCORES"))
        return {name.decode(): float(at) for name, at in zip(flat[::2], flat[1::2], strict=True)}

    async def _beside(self, times: str, *commands: Command) -> list[Any]:
        """Ask for something, and for times by id beside it. What somebody put in their place is deleted."""
        try:
            return await self.link.ask(times, *commands, again=True)
        except StoreUnavailable as error:
            if not _is_spoilt(error):
                raise
        await self.link.ask(times, (scripts.CLEAR, 1, times), again=True)
        return await self.link.ask(times, *commands, again=True)

    async def _times(self, asked: Sequence[tuple[str, Command]]) -> list[Any]:
        """Ask for or raise times by id. What somebody put in their place is deleted."""
        try:
            return await self.link.ask_each(asked)
        except StoreUnavailable as error:
            if not _is_spoilt(error):
                raise
        await self.link.ask_each([(key, (scripts.CLEAR, 1, key)) for key, _ in asked])
        return await self.link.ask_each(asked)

    # ---- writing

    async def create(self, record: SessionRecord, guards: Mapping[str, Epoch], now: float) -> int:
        """Store a new record; 0 where its id is taken, -1 where a guard does not hold."""
        ttl = _milliseconds(record.expires_at, now)
        arguments = (pack_record(record), record.id, ttl, repr(record.expires_at), repr(record.last_seen_at), repr(now))
        return await self._write(scripts.CREATE, record, CREATED, arguments, guards, indexed=record.user_id)

    async def replace(
        self,
        old: SessionRecord,
        new: SessionRecord,
        guards: Mapping[str, Epoch],
        now: float,
        *,
        moved: bool = False,
        carried: bool = False,
        exactly: bool = False,
    ) -> bool:
        """Put the next version in a record's place; False where that is not what stands there any more.

        `moved` says that the session's user or lifetime may be others now, `carried` that its user's others end.
        `exactly` compares all of the record: for whoever has not just read it.
        """
        ttl = _milliseconds(new.expires_at, now) if moved else ""
        arguments = (
            pack_record(old) if exactly else head_of(old),
            pack_record(new),
            new.id,
            ttl,
            repr(new.expires_at),
            repr(now),
        )
        note = written_note(new.version, new.generation)
        indexed = new.user_id if moved else None
        secret = new.generation != old.generation
        script = scripts.CARRY if carried else scripts.WRITE
        return await self._write(script, new, note, arguments, guards, indexed=indexed, replicated=secret) == 1

    async def _write(
        self,
        script: scripts.Script,
        record: SessionRecord,
        note: str,
        arguments: tuple[str | bytes | int, ...],
        guards: Mapping[str, Epoch],
        *,
        indexed: str | None,
        replicated: bool = False,
    ) -> int:
        key, bucket = self.keys.record(record.id), bucket_of(record.id)
        index = self.keys.index(indexed) if self.together and indexed is not None else key
        guarded: Mapping[str, Epoch] = guards if self.together else {}
        names = [key, self.keys.seen(bucket), self.keys.expiry(bucket), f"{key}:{note}", index]
        names += map(self.keys.user, guarded)
        values = [epoch.text for epoch in guarded.values()]
        command = (script, len(names), *names, *arguments, *values)
        return (await self.link.ask(key, command, replicated=replicated))[0]

    async def end(
        self,
        sessions: Iterable[tuple[str, int | None]],
        reason: str,
        now: float,
        *,
        seen: float | None = None,
        expired: float | None = None,
    ) -> list[str]:
        """End sessions of these generations (None: of any); give those that this call ended, in order.

        Only those last seen at `seen` or earlier; only those that expired before `expired`.
        """
        common = (quoted(reason), repr(now), _STONE_MILLISECONDS, _text(seen), _text(expired))
        parts = list(_parts(list(sessions), _ENDED_AT_ONCE if self.together else 1))
        ended: list[str] = []
        for some in _parts(parts, _AT_ONCE):
            answers = await asyncio.gather(*(self._end(part, quoted(reason), common) for part in some))
            for part, answer in zip(some, answers, strict=True):
                ended += [session_id for (session_id, _), done in zip(part, answer, strict=True) if done]
        return ended

    async def _end(
        self, sessions: Sequence[tuple[str, int | None]], reason: str, common: tuple[str | int, ...]
    ) -> list[int]:
        names: list[str] = []
        for session_id, _ in sessions:
            key, bucket = self.keys.record(session_id), bucket_of(session_id)
            names += (key, self.keys.seen(bucket), self.keys.expiry(bucket), f"{key}:{ENDED_NOTE}:{reason}")
        each = [part for session_id, generation in sessions for part in (session_id, _text(generation))]
        return (await self.link.ask(names[0], (scripts.END, len(names), *names, *common, *each), replicated=True))[0]

    async def make_epoch(self, user_id: str) -> Epoch | None:
        """Give the user's epoch, a new random one if there is none."""
        key = self.keys.user(user_id)
        command = (scripts.MAKE_EPOCH, 2, key, f"{key}:{EPOCH_MADE}", secrets.randbits(48))
        return Epoch.read((await self.link.ask(key, command, again=True))[0])

    async def bump(self, user_id: str, keep: str) -> tuple[Epoch | None, list[str]]:
        """Raise a user's epoch past all sessions but one, if one is named; give it, and the ids in the index."""
        key = self.keys.user(user_id)
        names = (key, f"{key}:{USER_ENDED}", self.keys.index(user_id))
        command = (scripts.BUMP, 3, *names, secrets.randbits(48), keep)
        ((raised, ids),) = await self.link.ask(key, command, replicated=True)
        return Epoch.read(raised), [name.decode() for name in ids]

    async def note(self, record: SessionRecord, user_id: str, now: float) -> Epoch | None:
        """Put a session into its user's index; give the user's epoch as it is after that."""
        key, index = self.keys.user(user_id), self.keys.index(user_id)
        ttl = _milliseconds(record.expires_at, now)
        noting = (scripts.NOTE_SESSION, 1, index, record.id, repr(now), ttl)
        return Epoch.read((await self.link.ask(key, noting, ("MGET", key), again=True))[1][0])

    async def unlist(self, user_id: str, session_ids: Sequence[str]) -> None:
        """Take sessions out of a user's index."""
        key = self.keys.index(user_id)
        await self.link.ask(key, ("ZREM", key, *session_ids), again=True)

    async def seen(self, session_id: str, at: float) -> None:
        """Say when a session was last seen, if nothing is known of that."""
        key = self.keys.seen(bucket_of(session_id))
        await self.link.ask(key, ("ZADD", key, "NX", repr(at), session_id), again=True)

    async def touch(self, seen: Mapping[str, float]) -> None:
        """Raise last-seen times of sessions that there are."""
        buckets: dict[int, list[str]] = {}
        for session_id, at in seen.items():
            buckets.setdefault(bucket_of(session_id), []).extend((repr(at), session_id))
        asked: list[tuple[str, Command]] = []
        for bucket, pairs in buckets.items():
            key = self.keys.seen(bucket)
            asked.append((key, ("ZADD", key, "XX", "GT", *pairs)))
        for some in _parts(asked, _AT_ONCE):
            await self._times(some)

    async def sweep(self, now: float, unseen_since: float, limit: int) -> int:
        """End at most `limit` sessions that have expired or that nobody was seen in; give their number.

        Each sweep begins where the last one stopped, so that every bucket has its turn.
        """
        gone, begun = 0, self._swept
        for first in range(0, BUCKETS, _BUCKETS_AT_ONCE):
            buckets = [(begun + first + number) % BUCKETS for number in range(_BUCKETS_AT_ONCE)]
            expired = await self._before(map(self.keys.expiry, buckets), now, limit - gone)
            gone += len(await self.end([(name, None) for name in expired], "expired", now, expired=now))
            idle = await self._before(map(self.keys.seen, buckets), unseen_since, limit - gone)
            gone += len(await self.end([(name, None) for name in idle], "idle", now, seen=unseen_since))
            if gone >= limit:
                break
            self._swept = (begun + first + _BUCKETS_AT_ONCE) % BUCKETS
        return gone

    async def _before(self, keys: Iterable[str], time: float, limit: int) -> list[str]:
        """Give at most `limit` of the sessions whose time in these sets is before `time`."""
        if self.together:
            names = list(keys)
            command: Command = (scripts.BEFORE, len(names), *names, repr(time), limit)
            found = [(await self.link.ask(names[0], command, again=True))[0]]
        else:
            found = await self._times(
                [(key, ("ZRANGEBYSCORE", key, "-inf", f"({time!r}", "LIMIT", 0, limit)) for key in keys]
            )
        return [name.decode() for names in found for name in names][:limit]


def _parts(whole: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (whole[first : first + size] for first in range(0, len(whole), size))


def _is_spoilt(error: StoreUnavailable) -> bool:
    return str(error.__cause__).startswith("WRONGTYPE")


def _milliseconds(expires_at: float, now: float) -> int:
    """How long Redis keeps what expires then: longer, since only its reader says whether it has."""
    return int((min(max(expires_at - now, 0.0), _LONGEST) + _MARGIN) * 1000)


def _text(number: float | None) -> str:
    return "" if number is None else repr(number)
