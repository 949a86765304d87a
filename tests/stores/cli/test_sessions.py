"""`coatcheck sessions` on the files of a server that may be running."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from typer.testing import CliRunner

from coatcheck import Session, Sessions
from coatcheck.accounts import Accounts, HashParameters, PasswordHasher
from coatcheck.cli import app

T = TypeVar("T")

CHEAP = HashParameters(memory_kib=8, passes=1, lanes=1)
ABOUT = {"method": "password", "address": "192.0.2.7", "user_agent": "curl/8", "scheme": "https"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # away from anybody's coatcheck.toml
    monkeypatch.delenv("COATCHECK_DATA_DIR", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def run(data: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["sessions", *arguments, "--data-dir", str(data)], env={"COLUMNS": "200"})
    return result.exit_code, result.stdout, result.stderr


def inside(data: Path, work: Callable[[Sessions, Accounts], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        accounts = Accounts(f"sqlite:///{data}/accounts.sqlite3", hasher=PasswordHasher(CHEAP))
        async with accounts, Sessions(f"sqlite:///{data}/sessions.sqlite3") as sessions:
            return await work(sessions, accounts)

    return asyncio.run(run())


def log_in(data: Path, *usernames: str, user_agent: str = "curl/8") -> list[str]:
    """Give the ids of new sessions, one for each name."""

    async def work(sessions: Sessions, accounts: Accounts) -> list[str]:
        ids = []
        for username in usernames:
            user = await accounts.find(username) or await accounts.register(username, "correct horse")
            session = Session(sessions)
            await session.log_in(user.id, about={**ABOUT, "user_agent": user_agent})
            ids.append(str(session.id))
        return ids

    return inside(data, work)


def listed(data: Path, *arguments: str) -> list[tuple[str, str]]:
    code, out, _ = run(data, "list", "--json", *arguments)
    assert code == 0
    return [(item["username"], item["id"]) for item in json.loads(out)]


def test_it_lists_every_users_sessions_or_one_users(data: Path) -> None:
    ada, bob, again = log_in(data, "ada", "bob", "ada")
    assert listed(data) == [("ada", ada), ("ada", again), ("bob", bob)]
    assert listed(data, "--user", "BOB") == [("bob", bob)]


def test_a_program_gets_everything_but_secrets(data: Path) -> None:
    (session_id,) = log_in(data, "ada")
    (item,) = json.loads(run(data, "list", "--json")[1])
    assert item["id"] == session_id
    assert (item["method"], item["address"], item["user_agent"]) == ("password", "192.0.2.7", "curl/8")
    assert item["kind"] == "cookie"
    assert item["created_at"].endswith("Z")
    assert set(item) == {
        "id", "user_id", "username", "created_at", "authenticated_at", "last_seen_at", "expires_at",
        "kind", "method", "address", "user_agent",
    }  # fmt: skip


def test_a_person_gets_a_table(data: Path) -> None:
    (session_id,) = log_in(data, "ada")
    code, out, _ = run(data, "list")
    assert code == 0
    head, row = out.splitlines()
    assert head.split()[:2] == ["Session", "User"]
    assert row.split()[:3] == [session_id, "ada", "cookie"]
    assert row.rstrip().endswith("192.0.2.7  curl/8")


def test_what_a_client_says_of_itself_moves_no_cursor_and_is_no_markup(data: Path) -> None:
    log_in(data, "ada", user_agent="[red]x[/red]\x1b[2J\x9b2J\n")
    _, out, _ = run(data, "list")
    assert r"[red]x[/red]\x1b[2J\x9b2J\x0a" in out
    assert "\x1b" not in out


def test_nobody_has_a_session(data: Path) -> None:
    inside(data, lambda sessions, accounts: accounts.list())
    assert run(data, "list") == (0, "No sessions.\n", "")
    assert listed(data) == []


def test_one_session_is_ended_by_its_id(data: Path) -> None:
    first, second = log_in(data, "ada", "ada")
    assert run(data, "end", first) == (0, "Ended 1 session.\n", "")
    assert listed(data) == [("ada", second)]
    code, _, error = run(data, "end", first)
    assert (code, error) == (1, f"coatcheck: no live session has the id {first}\n")


def test_all_sessions_of_one_user_are_ended_and_nobody_elses(data: Path) -> None:
    *_, bob = log_in(data, "ada", "ada", "bob")
    assert run(data, "end", "--user", "ada") == (0, "Ended 2 sessions.\n", "")
    assert listed(data) == [("bob", bob)]


def test_everybody_is_logged_out_with_logins_under_way(data: Path) -> None:
    log_in(data, "ada", "bob", "bob")

    async def epochs(sessions: Sessions, accounts: Accounts) -> list[int]:
        return [await sessions.epoch(user.id) for user in await accounts.list()]

    before = inside(data, epochs)
    assert run(data, "end", "--all") == (0, "Ended 3 sessions.\n", "")
    assert listed(data) == []
    assert all(new > old for new, old in zip(inside(data, epochs), before, strict=True))


async def test_a_running_server_notices_at_once(data: Path) -> None:
    from tests.core.server.house import House

    async with House(data) as house:
        client = await house.log_in("ada")
        assert (await client.get("/v1/me")).status_code == 200
        code, out, error = await asyncio.to_thread(run, data, "end", "--user", "ada")
        assert (code, out, error) == (0, "Ended 1 session.\n", "")
        assert (await client.get("/v1/me")).status_code == 401


@pytest.mark.parametrize("arguments", [(), ("A" * 22, "--all"), ("--all", "--user", "ada"), ("A" * 22, "--user", "a")])
def test_it_must_be_told_exactly_what_to_end(data: Path, arguments: tuple[str, ...]) -> None:
    log_in(data, "ada")
    code, _, error = run(data, "end", *arguments)
    assert code == 2
    assert "say which" in error
    assert len(listed(data)) == 1


@pytest.mark.parametrize("drawn", ["-AbC", "--ab", "---", "-a-", "-h"])
def test_an_id_that_begins_with_a_hyphen_is_an_id_and_no_option(
    data: Path, monkeypatch: pytest.MonkeyPatch, drawn: str
) -> None:
    hyphened = f"{drawn:A<22}"  # as releases before this one may have drawn it
    monkeypatch.setattr(Sessions, "new_id", lambda self: hyphened)
    assert log_in(data, "ada") == [hyphened]
    assert run(data, "end", hyphened) == (0, "Ended 1 session.\n", "")
    assert run(data, "end", hyphened)[::2] == (1, f"coatcheck: no live session has the id {hyphened}\n")


@pytest.mark.parametrize("typed", [("--al",), ("-x",), ("--usr=ada",), ("--al", "--user", "ada")])
def test_a_mistyped_option_is_no_id(data: Path, typed: tuple[str, ...]) -> None:
    log_in(data, "ada")
    code, _, error = run(data, "end", *typed)
    assert code == 2
    assert f"there is no option {typed[0]}" in error
    assert len(listed(data)) == 1


@pytest.mark.parametrize("what", [("list", "--user"), ("end", "--user")])
def test_an_unknown_user_is_one_line(data: Path, what: tuple[str, ...]) -> None:
    log_in(data, "ada")
    assert run(data, *what, "nobody\x1b") == (1, "", "coatcheck: there is no user nobody\\x1b\n")


def test_a_directory_without_data_is_named_and_left_as_it_is(data: Path) -> None:
    code, _, error = run(data, "list")
    assert code == 1
    assert (
        error == f"coatcheck: there is no {data}/sessions.sqlite3; name the server's data directory with --data-dir\n"
    )
    assert list(data.iterdir()) == []


def test_sessions_in_memory_cannot_be_seen_from_outside(data: Path) -> None:
    code, _, error = run(data, "list", "--store", "memory://")
    assert code == 1
    assert "memory://" in error
