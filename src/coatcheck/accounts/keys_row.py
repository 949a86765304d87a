"""How the row with the signing keys is reached by callers that cannot await, in SQLite and in PostgreSQL.

Leaves what is in the row to `keys`. Every error is StoreUnavailable, without a statement, a parameter or a row.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from coatcheck.accounts.database import Conflict, Place, async_engine, ensure_private_file, explain, set_pragmas
from coatcheck.accounts.errors import AccountsUnavailable
from coatcheck.accounts.migrate import migrate
from coatcheck.errors import StoreUnavailable

__all__ = ["KeysRow", "PostgresRow", "SQLiteRow", "row_in"]

T = TypeVar("T")

_GLANCE_SECONDS = 0.1
"""For so long a glance need not be repeated: whoever sends made-up keys' names shall not have the database asked each time."""
_PATIENCE_SECONDS = 0.25
"""For so long a glance may keep its caller, an event loop most of the time, when PostgreSQL is slow; once, not each time."""
_BELIEVED_SECONDS = 5.0
"""For so long the last glance is believed while PostgreSQL cannot be asked."""


class KeysRow(Protocol):
    """The database, as `DatabaseKeys` needs it. From any thread."""

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do `work` in one transaction. Raises StoreUnavailable; Conflict where a key is taken, and then nothing was done."""
        ...

    def glance(self, work: Callable[[Connection], object]) -> object:
        """Do one and the same reading `work` often; the answer may be a moment old. Raises StoreUnavailable."""
        ...

    def close(self) -> None:
        """Close every connection; the next use opens them again."""
        ...


def row_in(place: Place) -> KeysRow:
    """Give the way to the row; nothing is opened yet."""
    return SQLiteRow(place) if not place.dsns else PostgresRow(place)


class SQLiteRow:
    """In a file: asked on the caller's thread."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._engine: Engine | None = None

    def run(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._opened().begin() as connection:
                return work(connection)
        except IntegrityError:
            failure: Exception = Conflict()
        except SQLAlchemyError as error:
            failure = _unavailable(self._place, explain(error))
        except AccountsUnavailable as error:
            failure = StoreUnavailable(str(error))
        # Outside of the `except`: a chained exception would carry the statement's parameters.
        raise failure

    def glance(self, work: Callable[[Connection], object]) -> object:
        return self.run(work)

    def _opened(self) -> Engine:
        if self._engine is None:
            path = self._place.path
            assert path is not None
            ensure_private_file(path)
            migrate(self._place)
            # No pool: it is asked once a second at most, and whoever forgets to close it leaves nothing open.
            engine = create_engine(self._place.url.set(drivername="sqlite"), hide_parameters=True, poolclass=NullPool)
            event.listen(engine, "connect", set_pragmas)
            self._engine = engine
        return self._engine

    def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()


class PostgresRow:
    """In PostgreSQL: asked on one connection, from an event loop on a thread of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: AsyncEngine | None = None
        self._migrated = False
        self._glance: Future[object] | None = None
        self._patience = _PATIENCE_SECONDS
        self._seen: tuple[float, object] = (float("-inf"), None)

    def run(self, work: Callable[[Connection], T]) -> T:
        if not self._migrated:
            self._migrate()
        return self._submit(self._work(work)).result()

    def _migrate(self) -> None:
        # On a thread without a loop, whatever the caller's has.
        failures: list[Exception] = []

        def inside() -> None:
            try:
                migrate(self._place)
            except Exception as error:
                failures.append(error)

        thread = threading.Thread(target=inside, name="coatcheck keys: migration")
        thread.start()
        thread.join()
        for failure in failures:
            raise StoreUnavailable(str(failure)) if isinstance(failure, AccountsUnavailable) else failure
        self._migrated = True

    async def _work(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            self._engine = async_engine(self._place, pool_size=1, max_overflow=0)
        try:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)
        except IntegrityError:
            failure: Exception = Conflict()
        except (SQLAlchemyError, OSError) as error:
            failure = _unavailable(self._place, explain(error))
        raise failure

    def glance(self, work: Callable[[Connection], object]) -> object:
        """As `KeysRow` has it. A server that is away keeps nobody for longer than a moment: what was last seen is believed
        for five seconds, and then it is StoreUnavailable.
        """
        began, answer = self._seen
        if time.monotonic() - began < _GLANCE_SECONDS:
            return answer
        if not self._migrated:
            answer = self.run(work)
            self._seen = (time.monotonic(), answer)
            return answer
        with self._lock:
            pending = self._glance
            if pending is None:
                asked = time.monotonic()
                pending = self._glance = self._submit(self._work(work))
                pending.add_done_callback(lambda done: self._note(asked, done))
        try:
            pending.result(self._patience)
        except TimeoutError:
            self._patience = 0.0
        except StoreUnavailable:
            pass
        began, answer = self._seen
        if time.monotonic() - began >= _BELIEVED_SECONDS:
            raise StoreUnavailable(f"the signing keys in {self._place.where} could not be asked for a while")
        return answer

    def _note(self, asked: float, done: "Future[object]") -> None:
        with self._lock:
            self._glance = None
        if not done.cancelled() and done.exception() is None:
            self._patience = _PATIENCE_SECONDS
            self._seen = (asked, done.result())

    def _submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon: whoever forgets to close it does not keep the interpreter.
                threading.Thread(target=_run_to_its_end, args=[self._loop], name="coatcheck keys", daemon=True).start()
            return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        loop, self._loop = self._loop, None
        engine, self._engine = self._engine, None
        self._seen = (float("-inf"), None)
        if loop is None:
            return

        async def leave() -> None:
            if engine is not None:
                await engine.dispose()

        asyncio.run_coroutine_threadsafe(leave(), loop).result()
        loop.call_soon_threadsafe(loop.stop)  # and its thread closes it


def _run_to_its_end(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _unavailable(place: Place, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the signing keys in {place.where} cannot be asked: {reason}")
