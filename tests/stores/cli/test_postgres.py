"""The commands on a server of PostgreSQL's: tables by request, then everything as on files."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from coatcheck import Sessions
from coatcheck.accounts import Accounts, HashParameters, PasswordHasher
from coatcheck.cli import app
from tests.clients.postgres_server import PostgresServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def database(postgres: PostgresServer, schema: str) -> str:
    postgres.by_hand(f"CREATE DATABASE {schema}")
    return postgres.url(database=schema)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Run:
    monkeypatch.chdir(tmp_path)  # away from anybody's coatcheck.toml
    monkeypatch.setenv("COATCHECK_STORE", database)
    monkeypatch.setenv("COATCHECK_ACCOUNTS", database)

    def run(*arguments: str) -> tuple[int, str, str]:
        result = CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})
        return result.exit_code, result.stdout, result.stderr

    return run


def test_without_tables_each_command_says_which_one_to_run_first(run: Run) -> None:
    code, out, error = run("users", "list")
    assert (code, out) == (1, "")
    assert "has no tables for accounts: run `coatcheck users migrate`" in error
    assert run("users", "migrate") == (0, "The tables of accounts are up to date.\n", "")
    code, out, error = run("sessions", "list")
    assert (code, out) == (1, "")
    assert "has no session tables in the schema coatcheck: run `coatcheck sessions migrate`" in error
    assert run("sessions", "migrate") == (0, "Schema coatcheck is now of version 1.\n", "")
    assert run("sessions", "migrate") == (0, "The tables are up to date.\n", "")
    assert run("sessions", "list") == (0, "No sessions.\n", "")
    assert run("users", "list") == (0, "No users.\n", "")


def test_users_and_sessions_are_listed_and_ended_there(run: Run, database: str) -> None:
    run("users", "migrate")
    run("sessions", "migrate")

    async def log_in() -> None:
        hasher = PasswordHasher(HashParameters(memory_kib=8, passes=1, lanes=1))
        async with Accounts(database, hasher=hasher) as accounts, Sessions(database) as sessions:
            user = await accounts.register("ada", "tangerine bicycle")
            for _ in range(3):
                await (await sessions.load(None)).log_in(user.id)

    asyncio.run(log_in())
    assert len(run("sessions", "list")[1].splitlines()) == 4
    assert run("sessions", "end", "--user", "ada") == (0, "Ended 3 sessions.\n", "")
    assert run("sessions", "list") == (0, "No sessions.\n", "")
    assert run("users", "disable", "ada") == (0, "ada is disabled; 0 sessions ended.\n", "")


def test_files_need_no_such_command(run: Run, tmp_path: Path) -> None:
    assert run("sessions", "migrate", "--store", f"sqlite:///{tmp_path}/s.db") == (
        0, "Nothing to do: this store makes what it needs by itself.\n", "",
    )  # fmt: skip
    assert run("users", "migrate", "--accounts", f"sqlite:///{tmp_path}/a.db") == (
        0, "Nothing to do: the file is made and kept up to date by itself.\n", "",
    )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_one_line_without_the_password(run: Run) -> None:
    for command in ("sessions", "users"):
        url = "postgresql://app:s3cret@127.0.0.1:1/shop"
        code, out, error = run(command, "migrate", "--store" if command == "sessions" else "--accounts", url)
        assert (code, out) == (1, "")
        assert "postgresql://127.0.0.1:1/shop cannot be" in error
        assert "s3cret" not in error
        assert len(error.splitlines()) == 1
