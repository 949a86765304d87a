"""Accounts on a real SQLite file and on a real PostgreSQL server, with argon2 made cheap.

A test that takes `make_accounts` or `database` runs on both, unless it takes the file's `path` too.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coatcheck.accounts import Accounts, HashParameters, PasswordHasher
from coatcheck.accounts.tables import metadata
from tests.clients.postgres_server import PostgresServer

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)


class SetClock:
    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


class RecordingHasher(PasswordHasher):
    """The real hasher, which also writes down which parameters each verification had."""

    def __init__(self, parameters: HashParameters = CHEAP, **limits: int) -> None:
        super().__init__(parameters, **limits)
        self.verified: list[str] = []

    def _compare(self, encoded: str, password: bytes) -> None:
        self.verified.append(encoded.rsplit("$", 2)[0])
        super()._compare(encoded, password)


class SQLiteByHand:
    """The file, and what somebody types into it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"sqlite:///{path}"

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(self.path)
        try:
            with connection:
                return connection.execute(statement).fetchall()
        finally:
            connection.close()


class PostgresByHand:
    """One database of a server's, emptied before each test, and what somebody types into it."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self._server = server
        self._name = name
        self.url = server.url(database=name)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        if statement.startswith("SELECT"):
            statement = f"SELECT coalesce(json_agg(row_to_json(q)), '[]') FROM ({statement}) AS q"
            return [tuple(row.values()) for row in json.loads(self._server.by_hand(statement, database=self._name))]
        self._server.by_hand(statement, database=self._name)
        return []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames and "path" not in metafunc.fixturenames:
        metafunc.parametrize("database", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def accounts_on_postgres(postgres: PostgresServer) -> PostgresByHand:
    postgres.by_hand("CREATE DATABASE accounts")
    asyncio.run(Accounts(postgres.url(database="accounts")).migrate())
    return PostgresByHand(postgres, "accounts")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.sqlite3"


@pytest.fixture
def database(tmp_path: Path, request: pytest.FixtureRequest) -> SQLiteByHand | PostgresByHand:
    if getattr(request, "param", "sqlite") == "sqlite":
        return SQLiteByHand(tmp_path / "accounts.sqlite3")
    found: PostgresByHand = request.getfixturevalue("accounts_on_postgres")
    found.run(f"TRUNCATE {', '.join(sorted(metadata.tables.keys() - {'coatcheck_activity_place'}))}")
    found.run("UPDATE coatcheck_activity_place SET last = 0, pruned = 0")
    return found


@pytest.fixture
def make_accounts(database: SQLiteByHand | PostgresByHand) -> Callable[..., Accounts]:
    def make(hasher: PasswordHasher | None = None) -> Accounts:
        return Accounts(database.url, hasher=hasher or PasswordHasher(CHEAP), clock=SetClock())

    return make


@pytest.fixture
def recording_hasher() -> Callable[..., RecordingHasher]:
    return RecordingHasher
