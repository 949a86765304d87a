"""One connection to PostgreSQL, typed as the rest of the store needs it, and what the server's errors mean.

Behind a pooler such as PgBouncer (`pooled`) a connection is nobody's own: between two transactions the server's side may
be another one. Then nothing is prepared, and whatever belongs together travels in one transaction or one message.
"""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]

from coatcheck.errors import CoatcheckError, StoreUnavailable, UsageError

__all__ = ["Collision", "Conflict", "Hosts", "Link", "Lost", "Row", "SchemaMissing", "open_link"]

Row: TypeAlias = tuple[Any, ...]

_asyncpg_connect: Any = cast("Any", asyncpg).connect

_NEXT_HOST = (OSError, asyncpg.InternalClientError, asyncpg.CannotConnectNowError)
"""What is wrong with one host, and need not be with the next one: away, a standby, just starting."""

_CANARY = "coatcheck.link"

_FLUSH = "SELECT pg_catalog.pg_logical_emit_message(true, 'coatcheck', '')"
"""Anything that has to be written to the log and waits for the disk: what this session committed before is there then.

The message itself means nothing to anybody.
"""


class Conflict(CoatcheckError):
    """There is something of this key or name already; nothing was written. Stays inside the store."""


class Collision(CoatcheckError):
    """The server undid the statement because of another one (deadlock, serialization): nothing was done, try again."""


class Lost(StoreUnavailable):
    """The connection is gone. What was asked for may or may not have happened."""


class SchemaMissing(StoreUnavailable):
    """The tables are not there."""


class Hosts:
    """The hosts of one database, as connection strings; first that one which was the primary last time.

    One that gives no answer goes to the end before its time is over, so that it costs one caller, and not each, a time-out.
    """

    def __init__(self, dsns: Sequence[str], where: str) -> None:
        self._dsns = list(dsns)
        self.where: str = where

    async def connect(self, timeout: float, **options: Any) -> Any:
        """Give asyncpg's connection to a primary; `timeout` is for each host. Raises the last host's error."""
        failure: BaseException | None = None
        for dsn in tuple(self._dsns):
            try:
                connection = await _asyncpg_connect(dsn, timeout=timeout, **options)
            except BaseException as error:
                if isinstance(error, Exception) and not isinstance(error, _NEXT_HOST):
                    raise
                self._move(dsn, len(self._dsns))
                if not isinstance(error, Exception):
                    raise
                failure = error
            else:
                self._move(dsn, 0)
                return connection
        assert failure is not None
        raise failure

    def _move(self, dsn: str, to: int) -> None:
        self._dsns.remove(dsn)
        self._dsns.insert(to, dsn)


class Link:
    """One connection. Used by one task at a time; whoever is interrupted in the middle of a statement terminates it."""

    def __init__(self, connection: Any, where: str, *, pooled: bool, timeout: float, durable: bool) -> None:
        # Any: asyncpg's own types leave most of it open.
        self._connection: Any = connection
        self._where = where
        self._durable = durable
        self.pooled: bool = pooled
        milliseconds = max(1, round(timeout * 1000))
        # What a node leaves behind that was stopped, or cut off, must not keep others waiting.
        self._begin = (
            "BEGIN ISOLATION LEVEL READ COMMITTED; "
            f"SET LOCAL statement_timeout = {milliseconds}; "
            f"SET LOCAL idle_in_transaction_session_timeout = {milliseconds}"
        )

    @property
    def reusable(self) -> bool:
        """Whether the connection is open and idle."""
        return not self._connection.is_closed() and not self._connection.is_in_transaction()

    @property
    def encoding(self) -> str:
        """How the database keeps texts, as the server calls it."""
        return str(self._connection.get_settings().server_encoding)

    async def rows(self, statement: str, *arguments: object) -> list[Row]:
        """Run one statement. Outside of `transaction` it is a transaction of its own."""
        try:
            return cast("list[Row]", await self._connection.fetch(statement, *arguments))
        except Exception as error:
            failure = explain(error, self._where)
        # Outside of the `except`: a chained exception would carry rows and parameters along.
        raise failure

    async def run(self, statements: str) -> None:
        """Run statements without parameters in one message."""
        try:
            await self._connection.execute(statements)
            return
        except Exception as error:
            failure = explain(error, self._where)
        raise failure

    async def write(self, statement: str, *arguments: object) -> list[Row]:
        """Run one writing statement in a transaction of its own, durably when it returns."""
        if not self.pooled:
            return await self.rows(statement, *arguments)
        async with self.transaction():
            return await self.rows(statement, *arguments)

    async def write_told(self, statement: str, *arguments: object) -> list[Row]:
        """Run one statement that notifies, and itself says that its commit shall not wait for the disk; then do wait.

        A commit that notifies holds a lock on the whole database. So it must not hold it for as long as a disk takes.
        """
        if not self.pooled:
            rows = await self.rows(statement, *arguments)
            await self.flush()
            return rows
        async with self.transaction(told=True):
            return await self.rows(statement, *arguments)

    async def flush(self) -> None:
        """Return when everything that this session committed is as durable as the server's settings have it."""
        if self._durable:
            await self.run(_FLUSH)

    @asynccontextmanager
    async def transaction(self, *, told: bool = False) -> AsyncGenerator[None]:
        """Run what is inside as one transaction; `told` as `write_told` does. Any exception undoes all of it."""
        await self.run(f"{self._begin}; SET LOCAL synchronous_commit = off" if told and self._durable else self._begin)
        try:
            yield
        except Exception:
            if not self._connection.is_closed():
                try:
                    await self.run("ROLLBACK")
                except StoreUnavailable:
                    self.terminate()
            raise
        # In one message: behind a pooler the next one might reach another server, which has not what is to be flushed.
        await self.run(f"COMMIT; {_FLUSH}" if told and self._durable else "COMMIT")

    async def listen(self, channel: str, heard: Callable[[str], None]) -> None:
        """Have the payload of every notification on a channel told, in order, from the return of this call on."""

        def tell(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            heard(str(payload))

        try:
            await self._connection.add_listener(channel, tell)
            return
        except Exception as error:
            failure = explain(error, self._where)
        raise failure

    def when_closed(self, closed: Callable[[], None]) -> None:
        """Have it told when the connection is gone."""

        def tell(_connection: object) -> None:
            closed()

        self._connection.add_termination_listener(tell)

    def terminate(self) -> None:
        """Drop the connection at once, whatever it is doing."""
        self._connection.terminate()

    async def close(self, timeout: float) -> None:
        """Say goodbye, for `timeout` seconds at most."""
        try:
            await self._connection.close(timeout=timeout)
        except Exception:
            self.terminate()


async def open_link(
    hosts: Hosts, *, pooled: bool | None, timeout: float, connect_timeout: float, durable: bool = True
) -> Link:
    """Connect to a primary. `pooled` None: find out whether there is a pooler. Raises StoreUnavailable, UsageError."""
    if not pooled:
        canary = secrets.token_hex(8)
        milliseconds = str(max(1, round(timeout * 1000)))
        settings = {
            _CANARY: canary,
            "default_transaction_isolation": "read committed",
            "statement_timeout": milliseconds,
            "idle_in_transaction_session_timeout": milliseconds,
            # A node that hears nothing any more must not fill the server's queue of notifications for long.
            "tcp_user_timeout": "30000",
        }
        connection = await _connect(hosts, connect_timeout, settings, pooled=False)
        if connection is not None:
            link = Link(connection, hosts.where, pooled=False, timeout=timeout, durable=durable)
            if pooled is False:
                return link
            # A pooler that takes the settings and forgets them gives itself away.
            try:
                async with asyncio.timeout(timeout):
                    found = await link.rows("SELECT pg_catalog.current_setting($1, true)", _CANARY)
            except TimeoutError:
                link.terminate()
                raise Lost(f"{hosts.where} cannot be reached: no answer in time") from None
            except BaseException:
                link.terminate()
                raise
            if found == [(canary,)]:
                return link
            link.terminate()
        elif pooled is False:
            raise UsageError(
                f"{hosts.where} takes no settings at connecting, so it is a pooler: leave out pgbouncer=false"
            )
    connection = await _connect(hosts, connect_timeout, {}, pooled=True)
    return Link(connection, hosts.where, pooled=True, timeout=timeout, durable=durable)


async def _connect(hosts: Hosts, timeout: float, settings: dict[str, str], *, pooled: bool) -> Any:
    """Give a connection, or None where a pooler refuses the settings."""
    try:
        return await hosts.connect(
            timeout,
            statement_cache_size=0 if pooled else 100,
            server_settings={"application_name": "coatcheck", **settings},
            # Behind a pooler the question whether this is a primary is asked again before each use of the server.
            target_session_attrs="any" if pooled else "read-write",
        )
    except Exception as error:
        if settings and _is_refusal(error):
            return None
        failure = explain(error, hosts.where)
    raise failure


def _is_refusal(error: BaseException | None) -> bool:
    """Tell whether a pooler says that it does not take settings at connecting. No server says so of ours."""
    # With TLS preferred there was another attempt without it, whose error tells only of that.
    return error is not None and (
        isinstance(error, (asyncpg.ProtocolViolationError, asyncpg.FeatureNotSupportedError))
        or _is_refusal(error.__cause__)
    )


def explain(error: Exception, where: str) -> Exception:
    """Say what an error of asyncpg's or the server's means. Neither rows nor parameters nor passwords are in it."""
    state = str(getattr(error, "sqlstate", None) or "")
    said = _said(error)
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return UsageError(f"{where} cannot be connected to: {error.args[0]}")
    # asyncpg's own refusal of a parameter, or the server's.
    if (isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)) or state.startswith("22"):
        return UsageError(
            "PostgreSQL cannot store this: texts must be free of NUL and of lone surrogates, numbers fit in 64 bits"
        )
    if state in ("23505", "42P06", "42P07", "42710", "42723"):
        return Conflict(said)
    if state in ("40001", "40P01"):
        return Collision(said)
    if state in ("42P01", "3F000", "42703"):
        return SchemaMissing(f"{where} does not have the session tables: {said}", retry_after=10)
    if state == "42501":
        return StoreUnavailable(f"{where} does not let this role work: {said}", retry_after=10)
    if state in ("26000", "42P05"):
        return StoreUnavailable(f"{where} is a pooler ({said}): add pgbouncer=true to its URL", retry_after=10)
    if state == "25006":
        return Lost(f"{where} is read-only: is it a standby?")
    if state.startswith("53"):
        return StoreUnavailable(f"{where} has run out of something: {said}", retry_after=10)
    if state == "57014":
        return StoreUnavailable(f"{where} took too long: {said}")
    if state[:2] in ("08", "57") or not state or state == "25P03":
        return Lost(f"{where} cannot be reached: {said}")
    return StoreUnavailable(f"{where} cannot be used: {said} ({state})")


def _said(error: Exception) -> str:
    """The first line of what the server said; its DETAIL would show rows."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return "it is a standby, or read-only"
    if isinstance(error, (asyncpg.PostgresError, OSError)):
        return str(error.args[-1] if error.args else type(error).__name__)
    return type(error).__name__
