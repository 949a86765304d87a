"""Coatcheck itself, saying all that it can and failing on command: for the search after secrets in what it gives away.

It fails while a file named `fail` in the data directory says how: `store` for a store that is away, `broken-store` for
one with a bug, `accounts` for a bug beside the password.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from coatcheck import Sessions
from coatcheck.accounts import Accounts, HashParameters, PasswordHasher, User
from coatcheck.errors import StoreUnavailable
from coatcheck.server import app as composition
from coatcheck.server.context import WorkerContext
from coatcheck.server.logs import configure_logging
from coatcheck.server.settings import Settings
from coatcheck.stores.sqlite import SQLiteStore
from coatcheck.testing import CountingStore

T = TypeVar("T")

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)


class FailingStore(CountingStore):
    def __init__(self, data_dir: Path) -> None:
        super().__init__(SQLiteStore(data_dir / "sessions.sqlite3"))
        self.fail = data_dir / "fail"

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        how = failure(self.fail)
        if how == "store":
            raise StoreUnavailable("the store is away (a test took it away)")
        if how == "broken-store":
            raise RuntimeError(f"the store has a bug in {name}")
        return await super()._call(name, call)


class FailingAccounts(Accounts):
    fail: Path

    async def verify(self, user: User | None, password: str) -> bool:
        if failure(self.fail) == "accounts":
            typed = [password, password.encode(), {"password": password}]  # what a traceback might show
            raise RuntimeError(f"a bug beside {len(typed)} passwords")
        return await super().verify(user, password)


def failure(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def create_app(settings: Settings, worker: WorkerContext) -> composition.Application:
    data_dir = settings.data_dir
    FailingAccounts.fail = data_dir / "fail"
    # The application is put together as ever, from these parts.
    composition.PasswordHasher = lambda: PasswordHasher(CHEAP)  # type: ignore[misc,assignment]
    composition.Accounts = FailingAccounts  # type: ignore[misc]
    composition.Sessions = lambda url, **options: Sessions(FailingStore(data_dir), **options)  # type: ignore[misc,assignment]
    app = composition.create_app(settings, worker)
    root = logging.getLogger()
    configure_logging("console", level=logging.DEBUG)
    for_people = root.handlers[-1]
    configure_logging("json", level=logging.DEBUG)
    root.addHandler(for_people)  # so that everything is said in both forms
    root.setLevel(logging.DEBUG)

    async def say_what_is_slow(scope: object, receive: object, send: object) -> None:
        loop = asyncio.get_running_loop()
        if not loop.get_debug():
            loop.set_debug(True)
            loop.slow_callback_duration = 0.001
        await app(scope, receive, send)  # type: ignore[arg-type]

    return say_what_is_slow
