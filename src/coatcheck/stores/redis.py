"""Keeps sessions in Redis or Valkey: many machines, one server, a primary with replicas behind Sentinels, or a cluster.

Promises each step whole or not at all, in a cluster too; that an end is told to every node within milliseconds; and that
a node which is not told, for whatever reason, knows it. **What was acknowledged is kept as far as Redis keeps it**, and by
default that is not far: replication is asynchronous, so a fail-over loses what the new primary had not received; without
`appendonly` a restart goes back to the last snapshot, with `appendfsync everysec` by a second or more. What is lost may be a
login, a change, or an *end*: a session that was ended comes back. `docs/reference/redis.md` has the settings that close this:
`appendfsync always` (`durability="require"` insists), `wait_replicas` and `min-replicas-to-write`.

Leaves names to `_redis_keys`, scripts to `_redis_scripts`, servers to `_redis_link`, changes to `_redis_feed`.
"""

import asyncio
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal

import msgspec

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import LoginRefused, SessionRefused, StoreUnavailable, UsageError, WrongEventLoop
from coatcheck.record import TOMBSTONE_SECONDS, Changes, SessionRecord, Tombstone, merge
from coatcheck.stores._redis_checks import check_server
from coatcheck.stores._redis_copies import Copies
from coatcheck.stores._redis_feed import RedisChangeStream, RedisFeed
from coatcheck.stores._redis_keys import Keys
from coatcheck.stores._redis_link import at_start, open_link
from coatcheck.stores._redis_steps import Steps
from coatcheck.stores._redis_url import Options, parse_url
from coatcheck.stores._redis_values import Epoch, unpack

__all__ = ["RedisStore"]

_ATTEMPTS = 200
"""So often a change is merged anew because others came before it. Each time one of them has got through."""

_NOTED_FOR = 60.0
"""An entry of a user's index is left alone for so many seconds."""


class RedisStore:
    """A Redis or Valkey with the contract of `Store`. Belongs to the event loop that it was started on.

    - `url`: `redis://user:password@host:6379/0`, `redis+sentinel://host1,host2/service`, `redis+cluster://host1,host2`;
      with `rediss` for TLS, and the same with `valkey` and `valkeys`. Its query may set what follows here.
    - `prefix`: what the names of all keys begin with ("coatcheck"); nodes with the same one share their sessions
    - `timeout`, `connect_timeout`: seconds for an answer, and for connecting and logging in (2)
    - `connections`: at most so many to each server (8), and two for the feed; what is asked for at once travels together
    - `durability`: what to do at start about a server that may forget what it acknowledged: `warn`, `require`
      (UsageError) or `any`
    - `wait_replicas`, `wait_timeout`: an end, a login and a change of secret count as done once so many replicas have it
      (0) within so many seconds (1); else StoreUnavailable
    - `tls_ca`, `tls_cert`, `tls_key`: files in PEM; the system's authorities where no `tls_ca` is given
    - `tls_check_hostname`: whether the certificate must be for the host that was named
    - `sentinel_username`, `sentinel_password`: for the Sentinels, where they ask for one

    Raises UsageError for what cannot be meant.
    """

    any_loop = False

    def __init__(
        self,
        url: str,
        *,
        clock: Clock | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        connections: int | None = None,
        durability: Literal["any", "warn", "require"] | None = None,
        wait_replicas: int | None = None,
        wait_timeout: float | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_check_hostname: bool | None = None,
        sentinel_username: str | None = None,
        sentinel_password: str | None = None,
    ) -> None:
        self._place, options = parse_url(url)
        given = {
            "prefix": prefix,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "connections": connections,
            "durability": durability,
            "wait_replicas": wait_replicas,
            "wait_timeout": wait_timeout,
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "tls_check_hostname": tls_check_hostname,
            "sentinel_username": sentinel_username,
            "sentinel_password": sentinel_password,
        }
        options.update((name, value) for name, value in given.items() if value is not None)
        try:
            self._options = msgspec.convert(options, Options)
        except msgspec.ValidationError as error:
            raise UsageError(f"an option of the Redis store is of the wrong type: {error}") from error
        self._options.check()
        self._clock = clock or SystemClock()
        self._keys = Keys(self._options.prefix)
        self._copies = Copies()
        self._feed = RedisFeed(self._clock, self._copies, self._versions)
        self._steps: Steps | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()
        self._under_way = 0
        self._all_done = asyncio.Event()

    def __repr__(self) -> str:
        return f"<RedisStore {self._place} prefix={self._options.prefix}>"

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._steps is not None and self._loop is not loop:
            raise self._wrong_loop()
        async with self._starting:
            if self._steps is not None:
                return
            self._loop = loop
            link = open_link(self._place, self._options)
            try:
                for address in await at_start(self._place, link.primaries()):
                    checking = check_server(link.server(address), self._place, self._options.durability)
                    await at_start(self._place, checking)
                await at_start(self._place, self._feed.start(link, self._keys))
            except BaseException:
                await link.close()
                raise
            self._steps = Steps(link, self._keys)

    async def close(self) -> None:
        if self._steps is None:
            return
        if self._loop is not asyncio.get_running_loop():
            raise self._wrong_loop()
        steps, self._steps = self._steps, None
        while self._under_way:
            self._all_done.clear()
            await self._all_done.wait()
        await self._feed.close()
        await steps.link.close()

    def changes(self) -> RedisChangeStream:
        return self._feed.open()

    # ---- reading

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        with self._use() as steps, self._copies.of(session_id):
            return (await self._current(steps, session_id))[0]

    async def _current(self, steps: Steps, session_id: str) -> tuple[SessionRecord | Tombstone | None, Epoch | None]:
        """Read a session, and then its user's epoch. Mends what was lost of the indexes."""
        value, seen = await steps.session(session_id)
        if value is None:
            return None, None
        now = self._clock.time()
        # Of one whose last-seen time is lost nobody can say that it was idle.
        found = self._unpack(value, session_id, now if seen is None else seen)
        if isinstance(found, Tombstone):
            return (found if now - found.ended_at < TOMBSTONE_SECONDS else None), None
        epoch, listed = None, True
        if found.user_id is not None:
            epoch, listed = await steps.user(found.user_id, session_id)
            valid = _valid(found, epoch)
            if valid is None:
                return None, None
            found = valid
        with suppress(StoreUnavailable):  # mended another time
            if not listed:
                await steps.note(found, found.user_id or "", now)
            if seen is None:
                await steps.seen(session_id, now)
        return found, epoch

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        with self._use() as steps:
            ids = list(session_ids)
            found = await self._standing(steps, ids, await steps.sessions(ids))
            return {record.id: record.generation for record in found}

    async def _standing(
        self, steps: Steps, session_ids: Sequence[str], values: Sequence[bytes | None]
    ) -> list[SessionRecord]:
        """Give the valid records among what was read, without those that cannot be decoded."""
        records: list[SessionRecord] = []
        for session_id, value in zip(session_ids, values, strict=True):
            if value is not None:
                with suppress(StoreUnavailable):
                    found = self._unpack(value, session_id, 0.0)
                    if isinstance(found, SessionRecord):
                        records.append(found)
        epochs = await steps.users(record.user_id for record in records if record.user_id is not None)
        checked = [_valid(record, epochs.get(record.user_id or "")) for record in records]
        return [record for record in checked if record is not None]

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        with self._use() as steps:
            now = self._clock.time()
            listed = await steps.index(user_id)
            if len(listed) <= beyond:
                return []
            ids = list(listed)
            values, times = await asyncio.gather(steps.sessions(ids), steps.seen_at(ids))
            seen = dict(zip(ids, times, strict=True))
            mine = {
                record.id: msgspec.structs.replace(record, last_seen_at=now if (at := seen[record.id]) is None else at)
                for record in await self._standing(steps, ids, values)
                if record.user_id == user_id
            }
            stale = [
                session_id
                for session_id, value in zip(ids, values, strict=True)
                # Not what was noted just now: in a cluster its record lies elsewhere, and may be on its way.
                if session_id not in mine and listed[session_id] < now - _NOTED_FOR and not self._is_unreadable(value)
            ]
            if stale:
                await steps.unlist(user_id, stale)
            return sorted(mine.values(), key=lambda record: (record.created_at, record.id))

    async def epoch(self, user_id: str) -> int:
        with self._use() as steps:
            epoch = (await steps.users([user_id]))[user_id] or await steps.make_epoch(user_id)
            if epoch is None:
                raise StoreUnavailable(f"the epoch of the user {user_id!r} cannot be read: end_user makes a new one")
            return epoch.number

    # ---- writing

    async def create(self, record: SessionRecord) -> None:
        with self._use() as steps, self._copies.of(record.id):
            guards: dict[str, Epoch] = {}
            if record.user_id is not None and steps.together:
                guards[record.user_id] = Epoch.plain(record.epoch)  # in most cases it is: the script finds out
            for _ in range(_ATTEMPTS):
                if record.user_id is not None and not guards:
                    guards[record.user_id] = await self._require_epoch(steps, record.user_id, record.epoch)
                done = await steps.create(record, guards, self._clock.time())
                if done == 0:
                    raise SessionRefused(f"the session id {record.id} is taken")
                if done == 1:
                    break
                guards = {}
            else:
                raise _contended(record.id)
            if record.user_id is not None and not await self._is_noted(steps, record, record.user_id):
                await steps.end([(record.id, None)], "login refused", self._clock.time())
                raise _login_refused()

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        with self._use() as steps, self._copies.of(session_id):
            if (
                known is not None
                and steps.together
                and expect_generation in (None, known.generation)
                and expect_version in (None, known.version)
            ):
                merged = await self._at_once(steps, known, changes)
                if merged is not None:
                    return merged
            for _ in range(_ATTEMPTS):
                record, epoch = await self._current(steps, session_id)
                if (
                    not isinstance(record, SessionRecord)
                    or (expect_generation is not None and record.generation != expect_generation)
                    or (expect_version is not None and record.version != expect_version)
                ):
                    return None
                merged = await self._merge(steps, record, epoch, changes)
                if merged is not None:
                    return merged
        raise _contended(session_id)

    async def _at_once(self, steps: Steps, known: SessionRecord, changes: Changes) -> SessionRecord | None:
        """Write the next version of a record without reading it first; None where not exactly that is what stands there.

        Its whole text is compared, and the plain epochs of its user and the next one's: whatever differs is for `_merge`.
        """
        guards: dict[str, Epoch] = {}
        for of in (known, changes.identity):
            if of is not None and of.user_id is not None:
                if guards.setdefault(of.user_id, Epoch.plain(of.epoch)).number != of.epoch:
                    return None
        merged = merge(known, changes)
        moved = changes.identity is not None
        done = await steps.replace(known, merged, guards, self._clock.time(), moved=moved, exactly=True)
        return merged if done else None

    async def _merge(
        self, steps: Steps, record: SessionRecord, epoch: Epoch | None, changes: Changes
    ) -> SessionRecord | None:
        """Write the next version of a record; None where another one came before."""
        guards = {} if record.user_id is None or epoch is None else {record.user_id: epoch}
        identity = changes.identity
        if identity is not None and identity.user_id is not None:
            # After the record was read, and before it is replaced: decision 17 says why that order is enough.
            guards[identity.user_id] = await self._require_epoch(steps, identity.user_id, identity.epoch)
        merged = merge(record, changes)
        moved = identity is not None
        if not await steps.replace(record, merged, guards, self._clock.time(), moved=moved):
            return None
        if moved and merged.user_id is not None and not await self._is_noted(steps, merged, merged.user_id):
            undone = msgspec.structs.replace(record, version=merged.version + 1)
            await steps.replace(merged, undone, {}, self._clock.time(), moved=True)
            raise _login_refused()
        return merged

    async def _require_epoch(self, steps: Steps, user_id: str, number: int) -> Epoch:
        epoch = (await steps.users([user_id]))[user_id]
        if epoch is None or epoch.number != number:
            raise _login_refused()
        return epoch

    async def _is_noted(self, steps: Steps, record: SessionRecord, user_id: str) -> bool:
        """Where a user lies elsewhere than the session: put it into the index, and see whether it is valid after all."""
        if steps.together:
            return True  # the script did the one, and its guards the other
        epoch = await steps.note(record, user_id, self._clock.time())
        return epoch is not None and epoch.allows(record)

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        with self._use() as steps:
            ids = list(dict.fromkeys(session_ids))
            # First who is there at all: one whose user's epoch has risen has ended before.
            values = await steps.sessions(ids)
            valid = {record.id for record in await self._standing(steps, ids, values)}
            there = [
                name for name, value in zip(ids, values, strict=True) if name in valid or self._is_unreadable(value)
            ]
            return await steps.end([(name, expect_generation) for name in there], reason, now, seen=unseen_since)

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        with self._use() as steps:
            kept = None if keep is None else (await self._current(steps, keep))[0]
            stays = kept.id if isinstance(kept, SessionRecord) and kept.user_id == user_id else ""
            epoch, listed = await steps.bump(user_id, stays)
            if epoch is None:
                raise StoreUnavailable(f"the epoch of the user {user_id!r} cannot be read, though it was just written")
            if stays:
                await self._carry_over(steps, stays, user_id, epoch)
            others = [session_id for session_id in listed if session_id != stays]
            over: list[tuple[str, int | None]] = []
            for session_id, value in zip(others, await steps.sessions(others), strict=True):
                if value is not None and not self._is_unreadable(value):
                    found = self._unpack(value, session_id, 0.0)
                    if isinstance(found, SessionRecord) and found.user_id == user_id and not epoch.allows(found):
                        over.append((session_id, found.generation))
            return await steps.end(over, reason, now)

    async def _carry_over(self, steps: Steps, session_id: str, user_id: str, epoch: Epoch) -> None:
        """Give the kept session the new epoch, as a new version: no login that read an older one can be written then."""
        for _ in range(_ATTEMPTS):
            value, _ = await steps.session(session_id)
            found = None if value is None else self._unpack(value, session_id, 0.0)
            if not isinstance(found, SessionRecord):
                return
            carried = msgspec.structs.replace(found, version=found.version + 1)
            if found.user_id == user_id and epoch.allows(found):
                carried = msgspec.structs.replace(carried, epoch=epoch.number)
            if await steps.replace(found, carried, {}, self._clock.time(), carried=True):
                return
        raise _contended(session_id)

    async def touch(self, seen: Mapping[str, float]) -> None:
        with self._use() as steps:
            await steps.touch(dict(seen))

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        with self._use() as steps:
            return await steps.sweep(now, unseen_since, limit)

    # ---- the rest

    @contextmanager
    def _use(self) -> Generator[Steps]:
        """Give the steps to whoever is asked for something; a close waits until that is done."""
        steps = self._steps
        if steps is None:
            raise UsageError(f"the store {self._place} is not started: await its start() first")
        if asyncio.get_running_loop() is not self._loop:
            raise self._wrong_loop()
        self._under_way += 1
        try:
            yield steps
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._all_done.set()

    def _wrong_loop(self) -> WrongEventLoop:
        return WrongEventLoop(
            f"the store {self._place} was started on another event loop: close it there, or make one store per loop"
        )

    async def _versions(self, session_ids: Sequence[str]) -> Mapping[str, int]:
        steps = self._steps
        return {} if steps is None else await steps.versions(session_ids)

    def _unpack(self, value: bytes, session_id: str, last_seen_at: float) -> SessionRecord | Tombstone:
        try:
            return unpack(value, id=session_id, last_seen_at=last_seen_at)
        except ValueError as error:
            raise StoreUnavailable(str(error)) from error

    def _is_unreadable(self, value: bytes | None) -> bool:
        if value is None:
            return False
        try:
            unpack(value, id="", last_seen_at=0.0)
        except ValueError:
            return True
        return False


def _valid(record: SessionRecord, epoch: Epoch | None) -> SessionRecord | None:
    """Give a record as its user's epoch leaves it; None for one that has ended with the others."""
    if record.user_id is None:
        return record
    if epoch is None or not epoch.allows(record):
        return None
    return record if record.epoch == epoch.number else msgspec.structs.replace(record, epoch=epoch.number)


def _login_refused() -> LoginRefused:
    return LoginRefused("every session of this user was ended while the login was being checked: log in again")


def _contended(session_id: str) -> StoreUnavailable:
    return StoreUnavailable(f"others change the session {session_id} without a pause: try again")
