"""Keeps sessions in PostgreSQL: many machines, sessions beside the data.

Promises: what was answered is as durable as the server's `synchronous_commit` has it, and every node with a working feed
hears of a change within milliseconds, one that was typed by hand in psql too. Nothing makes tables but `migrate`.
Leaves URLs to `_postgres_url`, connections to `_postgres_link` and `_postgres_pool`, SQL to `_postgres_steps`, tables to
`_postgres_schema`, changes to `_postgres_feed`.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from coatcheck.clock import Clock, SystemClock
from coatcheck.errors import LoginRefused, SessionRefused, StoreUnavailable, UsageError, WrongEventLoop
from coatcheck.record import TOMBSTONE_SECONDS, Changes, SessionRecord, Tombstone, merge
from coatcheck.stores import _postgres_schema as tables
from coatcheck.stores import _postgres_steps as steps
from coatcheck.stores._postgres_feed import PostgresChangeStream, PostgresFeed
from coatcheck.stores._postgres_link import Collision, Conflict, Hosts, Link, Row, open_link
from coatcheck.stores._postgres_pool import Pool
from coatcheck.stores._postgres_url import PostgresOptions, postgres_options

__all__ = ["PostgresStore"]

T = TypeVar("T")

_TOUCHED_AT_ONCE = 500
_SWEPT_TOMBSTONES = 1000
_COLLISIONS = 10


class PostgresStore:
    """A database with the contract of `Store`. Belongs to the event loop on which it was started.

    `url` is as libpq has it, `postgresql://user@host/database`, with several hosts too; each of the options may stand in
    its query or be given by keyword. Seconds unless the name says otherwise.

    - `feed_url`: where the change feed listens, past any PgBouncer; `//host:port` for the same user and database elsewhere
    - `schema`: the schema that the tables are in (coatcheck)
    - `pool_size`: connections for steps (10); two more are the feed's
    - `timeout`: for one step, waiting for a connection included (2); beyond it StoreUnavailable
    - `connect_timeout`: for one connection (2)
    - `probe_interval`: between two probes of the feed (0.5); well below the `max_staleness` of `Sessions`
    - `pgbouncer`: whether a pooler in transaction mode is in the way (found out)
    - `unlogged`: whether the tables are to be unlogged: faster, and empty after a crash of the server (false)
    - `migrate`: whether `start` makes tables and brings them up to date, as `migrate()` does (false)

    Raises UsageError for what cannot be meant.
    """

    any_loop = False

    def __init__(
        self,
        url: str,
        *,
        feed_url: str | None = None,
        schema: str | None = None,
        pool_size: int | None = None,
        timeout: float | None = None,
        connect_timeout: float | None = None,
        probe_interval: float | None = None,
        pgbouncer: bool | None = None,
        unlogged: bool | None = None,
        migrate: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        given = {
            "feed_url": feed_url,
            "schema": schema,
            "pool_size": pool_size,
            "timeout": timeout,
            "connect_timeout": connect_timeout,
            "probe_interval": probe_interval,
            "pgbouncer": pgbouncer,
            "unlogged": unlogged,
            "migrate": migrate,
        }
        self._options: PostgresOptions = postgres_options(url, given)
        self._clock = clock or SystemClock()
        self._sql = steps.Statements(self._options.schema, durable=not self._options.unlogged)
        self._hosts = Hosts(self._options.dsns, self._options.where)
        self._feed_hosts = Hosts(self._options.feed_dsns, self._options.feed_where)
        self._pooled = self._options.pgbouncer
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: Pool | None = None
        self._feed: PostgresFeed | None = None
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __repr__(self) -> str:
        return f"<PostgresStore {self._options.where} schema={self._options.schema}>"

    @property
    def pooled(self) -> bool:
        """Whether a pooler such as PgBouncer is in the way, as far as is known."""
        return bool(self._pooled)

    async def migrate(self) -> list[str]:
        """Make the tables, or bring them to this release's form, in one transaction; give what was done, in words.

        The store need not be started. Any number of nodes may do so at once. Raises StoreUnavailable, UsageError.
        """
        options = self._options
        link = await self._connect()
        try:
            return await tables.migrate(link, options.schema, options.where, unlogged=options.unlogged)
        finally:
            await link.close(options.timeout)

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop.is_closed():
            self._pool = self._feed = None  # their loop took them with it
        if self._pool is not None:
            self._opened()
            return
        options = self._options
        if options.migrate:
            await self.migrate()
        link = await self._connect()
        try:
            async with self._within():
                await tables.require_schema(link, options.schema, options.where, unlogged=options.unlogged)
        finally:
            await link.close(options.timeout)
        feed = PostgresFeed(
            self._connect_feed,
            self._connect,
            schema=options.schema,
            interval=options.probe_interval,
            patience=options.timeout,
            clock=self._clock,
            hint=self._hint(),
        )
        self._loop, self._pool = loop, Pool(self._connect, options.pool_size, options.where)
        self._feed = feed
        await feed.start()

    async def close(self) -> None:
        pool, feed = self._pool, self._feed
        if pool is None or feed is None:
            return
        self._opened()
        self._pool = self._feed = self._loop = None
        await feed.stop()
        await pool.close(self._options.timeout)

    async def create(self, record: SessionRecord) -> None:
        parameters = steps.creation(record)
        try:
            made = await self._run(lambda link: link.write(self._sql.create, *parameters))
        except Conflict:
            raise SessionRefused(f"the session id {record.id} is taken") from None
        if not made:
            raise _login_refused()

    async def read(self, session_id: str) -> SessionRecord | Tombstone | None:
        rows = await self._rows(self._sql.read, session_id)
        if not rows:
            return None
        return steps.tombstone_of(rows[0]) if rows[0][2] is None else steps.record_of(rows[0])

    async def alive(self, session_ids: Collection[str]) -> Mapping[str, int]:
        return dict(cast("list[tuple[str, int]]", await self._rows(self._sql.alive, list(session_ids))))

    async def apply(
        self,
        session_id: str,
        changes: Changes,
        *,
        expect_generation: int | None = None,
        expect_version: int | None = None,
        known: SessionRecord | None = None,
    ) -> SessionRecord | None:
        # No lock is held in the database while this process thinks: what was read is replaced if it still is what it was.
        # Who fails at that fails because another one succeeded. So that it be one on another node, a node's own take turns.
        async with self._within(), self._turns.setdefault(session_id, asyncio.Lock()):
            before, read = known, False
            while True:
                if before is None:
                    rows = await self._rows(self._sql.read_session, session_id)
                    if not rows:
                        return None
                    before, read = steps.record_of(rows[0]), True
                if expect_generation in (None, before.generation) and expect_version in (None, before.version):
                    after = merge(before, changes)
                    parameters = steps.replacement(before, after, changes, exactly=not read)
                    if await self._replaced(parameters, with_identity=changes.identity is not None, read=read):
                        return after
                elif read:
                    return None
                before = None  # what was known, or read, is not what stands there

    async def _replaced(self, parameters: tuple[object, ...], *, with_identity: bool, read: bool) -> bool:
        statement = self._sql.replace_identity if with_identity else self._sql.replace_values
        rows = await self._run(lambda link: link.write_told(statement, *parameters))
        if not with_identity:
            return bool(rows)
        current, done = rows[0][:2]
        if not current and read:  # of what was not read, the session itself may be gone: that comes first
            raise _login_refused()
        return bool(done)

    async def end(
        self,
        session_ids: Collection[str],
        *,
        reason: str,
        now: float,
        expect_generation: int | None = None,
        unseen_since: float | None = None,
    ) -> list[str]:
        ids = list(session_ids)
        parameters = (ids, now, reason, expect_generation, unseen_since)
        # Durable even where nothing was found: another node may have ended it, and not have its answer yet.
        rows = await self._run(lambda link: link.write_told(self._sql.end, *parameters)) if ids else []
        return steps.in_order(ids, rows)

    async def end_user(self, user_id: str, *, reason: str, now: float, keep: str | None = None) -> list[str]:
        async def step(link: Link) -> list[Row]:
            async with link.transaction(told=True):
                [(epoch,)] = await link.rows(self._sql.raise_epoch, user_id, secrets.randbits(48))
                return await link.rows(self._sql.end_user, user_id, now, reason, keep, epoch)

        return [cast("str", session_id) for (session_id,) in await self._run(step)]

    async def epoch(self, user_id: str) -> int:
        while not (rows := await self._rows(self._sql.epoch, user_id)):
            await self._run(lambda link: link.write(self._sql.make_epoch, user_id, secrets.randbits(48)), again=True)
        return cast("int", rows[0][0])

    async def list_user(self, user_id: str, *, beyond: int = 0) -> list[SessionRecord]:
        records = [steps.record_of(row) for row in await self._rows(self._sql.read_user, user_id)]
        return sorted(records, key=lambda record: (record.created_at, record.id))

    async def touch(self, seen: Mapping[str, float]) -> None:
        times = list(seen.items())
        for first in range(0, len(times), _TOUCHED_AT_ONCE):
            some = times[first : first + _TOUCHED_AT_ONCE]
            ids, at = [session_id for session_id, _ in some], [when for _, when in some]
            await self._run(lambda link, ids=ids, at=at: link.write(self._sql.touch, ids, at), again=True)

    async def sweep(self, *, now: float, limit: int, unseen_since: float) -> int:
        # Nobody is told that it was done: what a crash brings back is swept again. So no step waits for the disk.
        gone = len(await self._swept(self._sql.sweep_expired, now, limit, now, "expired"))
        if gone < limit:
            gone += len(await self._swept(self._sql.sweep_idle, unseen_since, limit - gone, now, "idle"))
        while True:
            rows = await self._swept(self._sql.sweep_tombstones, now - TOMBSTONE_SECONDS, _SWEPT_TOMBSTONES)
            if len(rows) < _SWEPT_TOMBSTONES:
                return gone

    async def _swept(self, statement: str, *parameters: object) -> list[Row]:
        return await self._run(lambda link: link.write(statement, *parameters), again=True)

    def changes(self) -> PostgresChangeStream:
        if self._feed is None:
            raise self._not_started()
        return PostgresChangeStream(self._feed)

    async def _rows(self, statement: str, *parameters: object) -> list[Row]:
        return await self._run(lambda link: link.rows(statement, *parameters), again=True)

    async def _run(self, step: Callable[[Link], Awaitable[T]], *, again: bool = False) -> T:
        pool = self._opened()
        async with self._within():
            for _ in range(_COLLISIONS):
                try:
                    return await pool.run(step, again=again)
                except Collision:
                    # The server undid all of it, so whatever it was may be done again.
                    await asyncio.sleep(random.uniform(0.001, 0.01))  # noqa: S311
        raise StoreUnavailable(f"{self._options.where} undid this each time because of others: try again")

    @asynccontextmanager
    async def _within(self) -> AsyncGenerator[None]:
        """Give up after the time-out. Whatever was under way may or may not have happened."""
        try:
            async with asyncio.timeout(self._options.timeout):
                yield
            return
        except TimeoutError:
            pass
        if self._pool is not None:
            self._pool.drop_idle()  # if the line is cut without a word, it is so for all of them
        raise StoreUnavailable(f"{self._options.where} did not answer within {self._options.timeout:g} s")

    async def _connect(self) -> Link:
        """Connect the way that writes go."""
        options = self._options
        link = await open_link(
            self._hosts,
            pooled=self._pooled,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
            durable=not options.unlogged,
        )
        if link.pooled:
            self._pooled = True
        return link

    async def _connect_feed(self) -> Link:
        options = self._options
        return await open_link(
            self._feed_hosts,
            pooled=None,
            timeout=options.timeout,
            connect_timeout=options.connect_timeout,
        )

    def _hint(self) -> str:
        options = self._options
        if options.has_feed_url:
            return f"is feed_url ({options.feed_where}) the same database, and no pooler?"
        return f"if a pooler such as PgBouncer is in the way to {options.where}, give the database's own address as feed_url"

    def _opened(self) -> Pool:
        pool = self._pool
        if pool is None:
            raise self._not_started()
        if self._loop is not asyncio.get_running_loop():
            raise WrongEventLoop(
                f"the store {self._options.where} was started on another event loop: make one store for each loop"
            )
        return pool

    def _not_started(self) -> UsageError:
        return UsageError(f"the store {self._options.where} is not started: await its start() first")


def _login_refused() -> LoginRefused:
    return LoginRefused("every session of this user was ended while the login was being checked: log in again")
