"""Where sessions are kept. `open_store` picks a store by URL; each store brings its own dependency."""

from coatcheck.errors import MissingDependency, UsageError
from coatcheck.stores.contract import Change, ChangeStream, Store

__all__ = ["Change", "ChangeStream", "Store", "open_store"]


def open_store(url: str) -> Store:
    """Give the store that a URL names: `memory://`, `sqlite:///relative.db` or `sqlite:////absolute.db`.

    Nothing is opened before the store is started. Raises UsageError for an unknown scheme, MissingDependency where
    the store's package is absent.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise UsageError(f"{url!r} is no store URL: write memory:// or sqlite:///path/to/sessions.sqlite3")
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
    raise UsageError(f"no store is called {scheme!r}: there are memory:// and sqlite:///path")
