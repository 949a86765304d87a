"""Where sessions are kept. `open_store` picks a store by URL; each store brings its own dependency."""

from coatcheck.errors import MissingDependency, UsageError
from coatcheck.stores.contract import Change, ChangeStream, Store

__all__ = ["Change", "ChangeStream", "Store", "open_store"]


def open_store(url: str) -> Store:
    """Give the store that a URL names: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host/0` or
    `postgresql://host/database`.

    `redis+sentinel://host,host/service`, `redis+cluster://host,host`; `rediss` for TLS; `valkey` and `valkeys` likewise.
    Nothing is opened before the store is started. Raises UsageError for an unknown scheme, MissingDependency where
    the store's package is absent. No message shows a password that a URL holds.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not what it is: a password may stand in it.
        raise UsageError("this is no store's URL: write one like sqlite:///path/to/sessions.sqlite3 or redis://host")
    if scheme == "memory":
        from coatcheck.stores.memory import MemoryStore

        return MemoryStore()
    if scheme == "sqlite":
        try:
            from coatcheck.stores.sqlite import SQLiteStore
        except ImportError as error:
            raise MissingDependency("apsw", "sqlite", f"the store {scheme}://") from error
        path = rest.removeprefix("/")
        if not rest.startswith("/") or not path:
            raise UsageError(f"{url!r} names no file: write sqlite:///relative.sqlite3 or sqlite:////absolute.sqlite3")
        return SQLiteStore(path)
    if scheme in ("postgresql", "postgres"):
        try:
            from coatcheck.stores.postgres import PostgresStore
        except ImportError as error:
            raise MissingDependency("asyncpg", "postgres", f"the store {scheme}://") from error
        return PostgresStore(url)
    if scheme.partition("+")[0] in ("redis", "rediss", "valkey", "valkeys"):
        try:
            from coatcheck.stores.redis import RedisStore
        except ImportError as error:
            raise MissingDependency("redis", "redis", f"the store {scheme}://") from error
        return RedisStore(url)
    raise UsageError(
        f"no store is called {scheme!r}: there are memory://, sqlite:///path, redis://host and postgresql://host/database"
    )
