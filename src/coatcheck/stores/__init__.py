"""Where sessions are kept. `open_store` picks a store by URL; each store brings its own dependency."""

from coatcheck.errors import MissingDependency, UsageError
from coatcheck.stores.contract import Change, ChangeStream, Store

__all__ = ["Change", "ChangeStream", "Store", "open_store"]


def open_store(url: str) -> Store:
    """Give the store that a URL names: `memory://`, `sqlite:///relative.db`, `sqlite:////absolute.db`, `redis://host/0`.

    `redis+sentinel://host,host/service`, `redis+cluster://host,host`; `rediss` for TLS; `valkey` and `valkeys` likewise.
    Nothing is opened before the store is started. Raises UsageError for an unknown scheme, MissingDependency where
    the store's package is absent. No message shows a password that a URL holds.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        # Not the whole of it: it may be a URL with a typing error in it, and a password behind that.
        shown = url if "@" not in url else f"{url[: url.index(':')] if ':' in url else ''}…"
        raise UsageError(
            f"{shown!r} is no store URL: write memory://, sqlite:///path/to/sessions.sqlite3 or redis://host"
        )
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
    if scheme.partition("+")[0] in ("redis", "rediss", "valkey", "valkeys"):
        try:
            from coatcheck.stores.redis import RedisStore
        except ImportError as error:
            raise MissingDependency("redis", "redis", f"the store {scheme}://") from error
        return RedisStore(url)
    raise UsageError(f"no store is called {scheme!r}: there are memory://, sqlite:///path and redis://host")
