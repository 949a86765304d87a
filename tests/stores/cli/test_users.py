"""`coatcheck users` on real files: in this process where only the answer matters, else as a process of its own."""

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from coatcheck import Sessions
from coatcheck.accounts import Accounts, User
from coatcheck.cli import app
from coatcheck.ids import is_id

PASSWORD = "tangerine bicycle"
OTHER = "marmalade submarine"

Run = Callable[..., Result]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # away from anybody's coatcheck.toml
    for name in [name for name in os.environ if name.startswith("COATCHECK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    def run(*arguments: str, stdin: str | bytes = "", options: tuple[str, ...] = ("--data-dir", str(data))) -> Result:
        return CliRunner().invoke(app, ["users", *arguments, *options], input=stdin, env={"COLUMNS": "200"})

    return run


@pytest.fixture
def alice(run: Run) -> None:
    added = run("add", "Alice", "--password-stdin", "--name", "Alice Liddell", stdin=f"{PASSWORD}\n")
    assert added.exit_code == 0, added.output


def check(data: Path, username: str, password: str) -> bool:
    async def verify() -> bool:
        async with Accounts(f"sqlite:///{data}/accounts.sqlite3") as accounts:
            return await accounts.verify(await accounts.find(username), password)

    return asyncio.run(verify())


def find(data: Path, username: str) -> User:
    async def find() -> User:
        async with Accounts(f"sqlite:///{data}/accounts.sqlite3") as accounts:
            user = await accounts.find(username)
            assert user is not None
            return user

    return asyncio.run(find())


def assert_refused(result: Result, sentence: str) -> None:
    assert result.stderr == f"coatcheck: {sentence}\n"
    assert result.stdout == ""
    assert result.exit_code == 1


# add


def test_an_added_user_has_the_password_and_name_that_were_given(run: Run, data: Path) -> None:
    result = run("add", "Alice", "--password-stdin", "--name", "Alice Liddell", stdin=f"{PASSWORD}\n")
    user = find(data, "alice")
    assert (user.username, user.name, user.disabled) == ("Alice", "Alice Liddell", False)
    assert is_id(user.id)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"Added Alice with the id {user.id}.\n", "")
    assert check(data, "alice", PASSWORD)
    assert (data.stat().st_mode & 0o777, (data / "accounts.sqlite3").stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_end_of_the_line_is_no_part_of_a_password_on_standard_input_and_spaces_are(
    run: Run, data: Path, end: str
) -> None:
    assert run("add", "alice", "--password-stdin", stdin=f" {PASSWORD} {end}").exit_code == 0
    assert check(data, "alice", f" {PASSWORD} ")
    assert not check(data, "alice", PASSWORD)


@pytest.mark.parametrize("arguments, stdin, sentence", [
    (["a b"], PASSWORD, "A username has no spaces in it."),
    ([""], PASSWORD, "A username needs at least one character."),
    (["bob", "--name", "x" * 101], PASSWORD, "A name has at most 100 characters."),
    (["bob"], "short", "A password needs at least 8 bytes, which is 8 plain letters."),
    (["bob"], "", "A password needs at least 8 bytes, which is 8 plain letters."),
    (["bob"], "password1",
     "This password is one of the most common ones; choose one that is harder to guess."),
    (["ＡＬＩＣＥ"], PASSWORD, "The username ＡＬＩＣＥ is taken."),
    (["bob"], "two\nlines of text", "there is more than one line on standard input; give the password alone"),
    (["bob"], b"\xff\xfe tangerine", "the password on standard input is not UTF-8"),
    (["bob"], "x" * 70_000, "the password on standard input is longer than 65536 bytes"),
])  # fmt: skip
@pytest.mark.usefixtures("alice")
def test_a_user_that_cannot_be_added_is_one_line_on_standard_error(
    run: Run, arguments: list[str], stdin: str | bytes, sentence: str
) -> None:
    assert_refused(run("add", "--password-stdin", *arguments, stdin=stdin), sentence)
    assert json.loads(run("list", "--json").stdout)[1:] == []


def test_without_a_terminal_the_password_must_come_from_standard_input(run: Run) -> None:
    assert_refused(run("add", "alice"), "there is no terminal to ask for the password; give it with --password-stdin")


def test_no_command_takes_a_password_as_an_argument(run: Run) -> None:
    for command in ("add", "passwd"):
        assert run(command, "alice", PASSWORD).exit_code == 2
        assert run(command, "alice", "--password", PASSWORD).exit_code == 2


def test_an_administrator_is_made_by_an_operator_and_nobody_is_one_by_default(run: Run, data: Path) -> None:
    assert run("add", "alice", "--password-stdin", stdin=PASSWORD).exit_code == 0
    result = run("add", "root", "--admin", "--password-stdin", stdin=PASSWORD)
    assert (result.exit_code, find(data, "root").is_admin, find(data, "alice").is_admin) == (0, True, False)
    assert result.stdout == f"Added root, an administrator, with the id {find(data, 'root').id}.\n"
    table = run("list").stdout.splitlines()
    assert "administrator" not in table[1]
    assert "active, administrator" in table[2]
    assert [user["is_admin"] for user in json.loads(run("list", "--json").stdout)] == [False, True]


# Where


def test_the_default_is_the_servers_default_data_directory(run: Run, tmp_path: Path) -> None:
    assert run("add", "alice", "--password-stdin", stdin=PASSWORD, options=()).exit_code == 0
    assert find(tmp_path / "share" / "coatcheck", "alice")
    assert "alice" in run("list", options=()).stdout


def test_the_accounts_may_be_elsewhere(run: Run, tmp_path: Path, data: Path) -> None:
    options = ("--accounts", f"sqlite:///{tmp_path}/accounts.sqlite3")
    assert run("add", "alice", "--password-stdin", stdin=PASSWORD, options=options).exit_code == 0
    assert find(tmp_path, "alice")
    assert not data.exists()


@pytest.mark.parametrize(
    "command", [["list"], ["passwd", "alice", "--password-stdin"], ["disable", "alice"], ["enable", "alice"]]
)
def test_a_mistyped_directory_is_said_and_not_made(run: Run, data: Path, command: list[str]) -> None:
    sentence = f"there is no {data}/accounts.sqlite3; name the server's data directory with --data-dir"
    assert_refused(run(*command, stdin=PASSWORD), sentence)
    assert not data.exists()


@pytest.mark.parametrize("url, sentence", [
    ("mysql://coatcheck:geheim77@localhost/a",
     "Accounts are kept in an SQLite file or in PostgreSQL: give a URL like sqlite:////var/lib/coatcheck/accounts.sqlite3 or "
     "postgresql://user@host/database"),
    ("sqlite:///missing/accounts.sqlite3", "there is no missing/accounts.sqlite3; name the server's data directory with --data-dir"),
])  # fmt: skip
def test_accounts_that_cannot_be_opened_are_one_line(run: Run, url: str, sentence: str) -> None:
    assert_refused(run("list", options=("--accounts", url)), sentence)


def test_a_setting_that_is_wrong_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COATCHECK_HTTP_PORT", "many")
    result = run("list")
    assert result.exit_code == 1
    assert result.stderr.startswith("coatcheck: COATCHECK_HTTP_PORT: ")
    assert result.stderr.count("\n") == 1


# list


@pytest.mark.usefixtures("alice")
def test_the_list_is_a_table_in_the_order_of_usernames(run: Run, data: Path) -> None:
    assert run("add", "bob", "--password-stdin", "--name", "[red]Bob[/red] 👩‍🚀", stdin=PASSWORD).exit_code == 0
    assert run("add", "Aaron", "--password-stdin", stdin=PASSWORD).exit_code == 0
    assert run("disable", "bob").exit_code == 0
    lines = run("list").stdout.splitlines()
    assert lines[0].split() == ["Username", "Name", "State", "Added", "Id"]
    assert [line.split()[0] for line in lines[1:]] == ["Aaron", "Alice", "bob"]
    assert "[red]Bob[/red] 👩‍🚀" in lines[3]
    assert [line.split()[-4] for line in lines[1:]] == ["active", "active", "disabled"]
    assert [line.split()[-1] for line in lines[1:]] == [find(data, name).id for name in ("aaron", "alice", "bob")]


@pytest.mark.usefixtures("alice")
def test_the_list_for_programs_is_json(run: Run, data: Path) -> None:
    [alice] = json.loads(run("list", "--json").stdout)
    assert alice == {
        "id": find(data, "alice").id,
        "username": "Alice",
        "name": "Alice Liddell",
        "created_at": alice["created_at"],
        "disabled": False,
        "is_admin": False,
    }
    assert alice["created_at"].endswith("Z")


def test_a_list_of_nobody_says_so(run: Run, data: Path) -> None:
    data.mkdir(0o700)

    async def start() -> None:
        async with Accounts(f"sqlite:///{data}/accounts.sqlite3"):
            pass

    asyncio.run(start())
    assert run("list").stdout == "No users.\n"
    assert json.loads(run("list", "--json").stdout) == []


def test_more_users_than_one_page_are_all_listed(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coatcheck.cli.users._PAGE", 2)
    for number in range(5):
        assert run("add", f"user{number}", "--password-stdin", stdin=PASSWORD).exit_code == 0
    assert [user["username"] for user in json.loads(run("list", "--json").stdout)] == [f"user{n}" for n in range(5)]


# passwd, disable, enable


@pytest.mark.usefixtures("alice")
def test_a_changed_password_replaces_the_old_one(run: Run, data: Path) -> None:
    result = run("passwd", "ALICE", "--password-stdin", stdin=f"{OTHER}\n")
    assert (result.exit_code, result.stdout) == (0, "The password of Alice is changed; 0 sessions ended.\n")
    assert check(data, "alice", OTHER)
    assert not check(data, "alice", PASSWORD)


@pytest.mark.usefixtures("alice")
def test_a_changed_password_is_held_to_the_same_rules(run: Run, data: Path) -> None:
    sentence = "A password needs at least 8 bytes, which is 8 plain letters."
    assert_refused(run("passwd", "alice", "--password-stdin", stdin="short"), sentence)
    assert check(data, "alice", PASSWORD)


@pytest.mark.usefixtures("alice")
def test_a_disabled_user_cannot_log_in_until_enabled(run: Run, data: Path) -> None:
    assert run("disable", "alice").stdout == "Alice is disabled; 0 sessions ended.\n"
    assert find(data, "alice").disabled
    assert not check(data, "alice", PASSWORD)
    assert run("enable", "alice").stdout == "Alice is enabled.\n"
    assert check(data, "alice", PASSWORD)


def test_an_administrator_is_made_and_unmade_but_for_the_last(run: Run, data: Path) -> None:
    for name in ("alice", "bob"):
        assert run("add", name, "--password-stdin", stdin=f"{PASSWORD}\n").exit_code == 0
    assert run("promote", "alice").stdout == "alice is an administrator.\n"
    assert find(data, "alice").is_admin
    assert_refused(run("demote", "alice"), "This is the last administrator: make another user one first.")
    assert find(data, "alice").is_admin
    assert run("promote", "bob").exit_code == 0
    assert run("demote", "alice").stdout == "alice is no administrator.\n"
    assert [find(data, name).is_admin for name in ("alice", "bob")] == [False, True]


@pytest.mark.parametrize("command", [["passwd", "--password-stdin"], ["disable"], ["enable"], ["promote"], ["demote"]])
@pytest.mark.parametrize("username", ["bob", "", "x" * 1000])
@pytest.mark.usefixtures("alice")
def test_an_unknown_user_is_one_line(run: Run, command: list[str], username: str) -> None:
    assert_refused(run(*command, username, stdin=OTHER), f"there is no user {username}")


@pytest.mark.usefixtures("alice")
def test_what_a_username_on_the_command_line_says_moves_no_cursor(run: Run) -> None:
    assert_refused(run("disable", "\x1b[2J"), r"there is no user \x1b[2J")


@pytest.mark.parametrize("command, reason", [
    (["passwd", "alice", "--password-stdin"], "The password of Alice is changed"),
    (["disable", "alice"], "Alice is disabled"),
])  # fmt: skip
@pytest.mark.usefixtures("alice")
async def test_a_user_whose_password_changed_or_who_is_disabled_is_logged_out_of_a_running_server(
    run: Run, data: Path, command: list[str], reason: str
) -> None:
    user, other = (await asyncio.to_thread(find, data, "alice")), "A" * 22
    async with Sessions(f"sqlite:///{data}/sessions.sqlite3") as sessions:
        for owner in (user.id, user.id, other):
            session = await sessions.load(None)
            await session.log_in(owner)
        epoch = await sessions.epoch(user.id)
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", "from coatcheck.cli import main; main()", "users", *command, "--data-dir", str(data)],
            input=OTHER, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{reason}; 2 sessions ended.\n", "")
        assert await sessions.list_user(user.id) == []
        assert len(await sessions.list_user(other)) == 1
        assert await sessions.epoch(user.id) != epoch  # so that a login under way is refused


@pytest.mark.usefixtures("alice")
def test_sessions_that_cannot_be_ended_are_said_and_what_was_done_stays_done(run: Run, data: Path) -> None:
    (data / "sessions.sqlite3").write_bytes(b"this is no database" * 1000)
    result = run("disable", "alice")
    assert result.exit_code == 1
    assert result.stderr.startswith("coatcheck: Alice is disabled, but the sessions could not be ended: ")
    assert result.stderr.count("\n") == 1
    assert find(data, "alice").disabled


@pytest.mark.usefixtures("alice")
def test_sessions_in_the_servers_memory_cannot_be_ended_from_outside(run: Run, data: Path) -> None:
    sentence = "Alice is disabled, but sessions in memory:// can be ended by restarting the server only"
    assert_refused(run("disable", "alice", "--store", "memory://"), sentence)
    assert find(data, "alice").disabled


@pytest.mark.usefixtures("alice")
def test_a_server_that_never_ran_has_no_sessions_file_made_for_it(run: Run, data: Path) -> None:
    assert run("disable", "alice").exit_code == 0
    assert not (data / "sessions.sqlite3").exists()


# The prompt

ON_A_TERMINAL = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from coatcheck.cli import main
main()
"""


class Terminal:
    """`coatcheck users …` with a terminal of its own, of which all that appears is kept."""

    def __init__(self, *arguments: str) -> None:
        self._end, other_end = os.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, "users", *arguments],
            stdin=other_end, stdout=other_end, stderr=other_end, start_new_session=True,
        )  # fmt: skip
        os.close(other_end)
        self.shown = ""

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        seen = len(self.shown)
        while text not in self.shown[seen:]:
            assert select.select([self._end], [], [], deadline - time.monotonic())[0], self.shown
            self.shown += os.read(self._end, 4096).decode()

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def close(self) -> int:
        try:
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._end)


@pytest.mark.usefixtures("run")
def test_a_password_is_asked_for_twice_and_never_shown(data: Path) -> None:
    terminal = Terminal("add", "alice", "--data-dir", str(data))
    terminal.wait_for("Password: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.wait_for("Once more: ")
    terminal.type(f"{OTHER}\n")
    terminal.wait_for("Password: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.wait_for("Once more: ")
    terminal.type(f"{PASSWORD}\n")
    terminal.wait_for("Added alice")
    assert terminal.close() == 0
    assert PASSWORD not in terminal.shown
    assert OTHER not in terminal.shown
    assert check(data, "alice", PASSWORD)


@pytest.mark.usefixtures("alice")
def test_a_username_that_is_taken_is_said_before_a_password_is_asked_for(data: Path) -> None:
    terminal = Terminal("add", "alice", "--data-dir", str(data))
    terminal.wait_for("coatcheck: The username alice is taken.")
    assert terminal.close() == 1
    assert "Password" not in terminal.shown


@pytest.mark.usefixtures("alice")
def test_breaking_off_at_the_prompt_changes_nothing_and_shows_no_traceback(data: Path) -> None:
    terminal = Terminal("passwd", "alice", "--data-dir", str(data))
    terminal.wait_for("Password: ")
    terminal.type("\x03")
    terminal.wait_for("Aborted")
    assert terminal.close() != 0
    assert "Traceback" not in terminal.shown
    assert check(data, "alice", PASSWORD)
