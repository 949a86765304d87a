"""`coatcheck services` on the files of a server that may be running."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from coatcheck.accounts import Accounts, Service, ServiceAccounts
from coatcheck.cli import app

URL, OTHER = "https://orders.example.com", "http://localhost:9000"

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # away from anybody's coatcheck.toml
    monkeypatch.delenv("COATCHECK_DATA_DIR", raising=False)
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    def run(*arguments: str) -> Result:
        argv = ["services", *arguments, "--data-dir", str(data)]
        return CliRunner().invoke(app, argv, env={"COLUMNS": "200"})

    return run


def authenticate(data: Path, service_id: str, secret: str) -> Service | None:
    async def ask() -> Service | None:
        async with Accounts(f"sqlite:///{data}/accounts.sqlite3") as accounts:
            return await ServiceAccounts(accounts).authenticate(service_id, secret)

    return asyncio.run(ask())


def assert_refused(result: Result, sentence: str) -> None:
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"coatcheck: {sentence}\n")


def test_an_added_services_credential_is_shown_once_and_works(run: Run, data: Path) -> None:
    result = run("add", "orders", "--audience", URL, "--audience", OTHER)
    assert (result.exit_code, result.stderr) == (0, "")
    head, id_line, secret_line = result.stdout.splitlines()
    assert head == "Added orders. It proves itself by HTTP Basic; the secret is not shown again:"
    (_, service_id), (_, secret) = id_line.split(), secret_line.split()
    service = authenticate(data, service_id, secret)
    assert service is not None
    assert (service.name, service.audiences) == ("orders", (URL, OTHER))
    for shown in (run("list"), run("list", "--json")):
        assert service_id in shown.stdout
        assert secret not in shown.stdout
    assert (data.stat().st_mode & 0o777, (data / "accounts.sqlite3").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_program_gets_it_as_json(run: Run, data: Path) -> None:
    added = json.loads(run("add", "orders", "--audience", URL, "--json").stdout)
    assert set(added) == {"id", "name", "audiences", "created_at", "secret"}
    assert authenticate(data, added["id"], added.pop("secret")) is not None
    assert json.loads(run("list", "--json").stdout) == [added]
    assert (added["name"], added["audiences"]) == ("orders", [URL])
    assert added["created_at"].endswith("Z")


def test_a_person_gets_a_table_by_name(run: Run) -> None:
    for name in ("orders", "mail"):
        run("add", name, "--audience", URL, "--audience", OTHER)
    head, *rows = run("list").stdout.splitlines()
    assert head.split() == ["Name", "Audiences", "Added", "Id"]
    assert [row.split()[:3] for row in rows] == [["mail", URL, OTHER], ["orders", URL, OTHER]]


def test_a_removed_service_is_nobody(run: Run, data: Path) -> None:
    added = json.loads(run("add", "orders", "--audience", URL, "--json").stdout)
    result = run("remove", "orders")
    assert (result.exit_code, result.stdout) == (0, "Removed orders.\n")
    assert authenticate(data, added["id"], added["secret"]) is None
    assert run("list").stdout == "No services.\n"
    assert_refused(run("remove", "orders"), "there is no service orders")
    assert_refused(run("remove", "\x1b[2J"), "there is no service \\x1b[2J")


def test_what_cannot_be_a_service_is_one_line(run: Run) -> None:
    run("add", "orders", "--audience", URL)
    assert_refused(
        run("add", "orders", "--audience", URL),
        "There is a service orders already; remove it first, or choose another name.",
    )
    assert_refused(
        run("add", "mail", "--audience", "\x1b[2Jmail"),
        "'\\x1b[2Jmail' is not an audience; give a URL like https://orders.example.com",
    )
    assert "small letters of ASCII" in run("add", "a b", "--audience", URL).stderr
    assert run("add", "mail").exit_code == 2
    assert len(run("list").stdout.splitlines()) == 2


def test_no_command_takes_a_secret_as_an_argument(run: Run) -> None:
    assert run("add", "orders", "a-secret", "--audience", URL).exit_code == 2
    assert run("add", "orders", "--secret", "a-secret", "--audience", URL).exit_code == 2


@pytest.mark.parametrize("arguments", [("list",), ("remove", "orders")])
def test_a_directory_without_data_is_named_and_not_made(run: Run, data: Path, arguments: tuple[str, ...]) -> None:
    assert_refused(
        run(*arguments), f"there is no {data}/accounts.sqlite3; name the server's data directory with --data-dir"
    )
    assert not data.exists()


async def test_a_running_server_knows_at_the_next_request(run: Run, data: Path) -> None:
    from tests.core.server.house import House

    data.mkdir(mode=0o700)
    async with House(data) as house, house.client() as client:
        added = json.loads((await asyncio.to_thread(run, "add", "orders", "--audience", URL, "--json")).stdout)
        client.auth = (added["id"], added["secret"])
        assert (await client.get("/v1/service")).json()["name"] == "orders"
        await asyncio.to_thread(run, "remove", "orders")
        assert (await client.get("/v1/service")).status_code == 401
