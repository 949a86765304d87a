"""`coatcheck users`: adds and lists users, changes passwords, disables accounts, in the database itself.

Whoever's password changed, or who was disabled, is logged out: a server that runs on the same store notices at once.
Passwords are never taken from the command line, where other users of the machine and the shell's history see them.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from coatcheck.cli.databases import AccountsUrl, DataDir, Store, file_of, one_line, opened_accounts
from coatcheck.cli.tables import Column, moment, short_moment, show_table
from coatcheck.errors import CoatcheckError
from coatcheck.manager import Sessions
from coatcheck.server.errors import ServerError
from coatcheck.server.printable import printable
from coatcheck.server.settings import Settings, load_settings

if TYPE_CHECKING:  # loaded by the commands that use them, so that the others start at once
    from coatcheck.accounts import Accounts, User

__all__ = ["app"]

app: typer.Typer = typer.Typer(no_args_is_help=True)

_PAGE = 500
_STDIN_BYTES = 64 * 1024  # far beyond the longest password

Username = Annotated[str, typer.Argument(metavar="USERNAME")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]


class _Parts(NamedTuple):
    settings: Settings
    accounts: "Accounts"


@app.command("add")
def add_user(
    username: Username,
    name: Annotated[str, typer.Option(help="To be displayed. [the username]")] = "",
    admin: Annotated[bool, typer.Option("--admin", help="Make the user an administrator.")] = False,
    password_stdin: PasswordStdin = False,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """Add a user; asks for the password. Works whether registration is open or closed."""
    from coatcheck.accounts import UsernameTaken

    async def check(parts: _Parts) -> None:
        if await parts.accounts.find(username) is not None:  # before anybody types a password
            raise UsernameTaken(f"The username {printable(username)} is taken.")

    async def work(parts: _Parts) -> None:
        user = await parts.accounts.register(username, password, name, is_admin=admin)
        typer.echo(f"Added {user.username}{', an administrator,' if admin else ''} with the id {user.id}.")

    settings = _settings(data_dir, None, accounts)
    _run(check, settings, create=True)
    password = _password(password_stdin)
    _run(work, settings, create=True)


@app.command("list")
def list_users(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """List users by username."""

    async def work(parts: _Parts) -> None:
        found = [user async for user in _everybody(parts.accounts)]
        if as_json:
            typer.echo(json.dumps([_plain(user) for user in found], indent=2))
        elif found:
            _show(found)
        else:
            typer.echo("No users.")

    _run(work, _settings(data_dir, None, accounts))


@app.command("passwd")
def change_password(
    username: Username,
    password_stdin: PasswordStdin = False,
    data_dir: DataDir = None,
    store: Store = None,
    accounts: AccountsUrl = None,
) -> None:
    """Change a user's password and end the user's sessions; asks for the new password only."""

    async def check(parts: _Parts) -> None:
        await _known(parts.accounts, username)

    async def work(parts: _Parts) -> None:
        user = await _known(parts.accounts, username)
        await parts.accounts.set_password(user.id, password)
        done = f"The password of {user.username} is changed"
        await _end_sessions(parts.settings, user, done, "password changed by operator")

    settings = _settings(data_dir, store, accounts)
    _run(check, settings)
    password = _password(password_stdin)
    _run(work, settings)


@app.command("disable")
def disable_user(
    username: Username, data_dir: DataDir = None, store: Store = None, accounts: AccountsUrl = None
) -> None:
    """Keep a user from logging in, and end the user's sessions."""

    async def work(parts: _Parts) -> None:
        user = await _known(parts.accounts, username)
        await parts.accounts.set_disabled(user.id, True)
        await _end_sessions(parts.settings, user, f"{user.username} is disabled", "disabled by operator")

    _run(work, _settings(data_dir, store, accounts))


@app.command("enable")
def enable_user(username: Username, data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """Let a disabled user log in again."""

    async def work(parts: _Parts) -> None:
        user = await _known(parts.accounts, username)
        await parts.accounts.set_disabled(user.id, False)
        typer.echo(f"{user.username} is enabled.")

    _run(work, _settings(data_dir, None, accounts))


@app.command("promote")
def promote_user(username: Username, data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """Make a user an administrator."""
    _change_admin(username, True, "is an administrator", data_dir, accounts)


@app.command("demote")
def demote_user(username: Username, data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """Make a user an administrator no longer. The last one stays."""
    _change_admin(username, False, "is no administrator", data_dir, accounts)


@app.command("migrate")
def migrate_accounts(data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """Make the tables of accounts in PostgreSQL, or bring them up to date. An SQLite file is seen to by itself."""
    from coatcheck.accounts import Accounts

    async def work() -> None:
        url = load_settings(data_dir=data_dir, accounts=accounts).accounts_url()
        if file_of(url) is not None:
            typer.echo("Nothing to do: the file is made and kept up to date by itself.")
            return
        await Accounts(url).migrate()
        typer.echo("The tables of accounts are up to date.")

    with one_line():
        asyncio.run(work())


def _settings(data_dir: Path | None, store: str | None, accounts: str | None) -> Callable[[], Settings]:
    # Read only where their errors are shown.
    return lambda: load_settings(data_dir=data_dir, store=store, accounts=accounts)


def _run(
    work: Callable[[_Parts], Coroutine[Any, Any, None]], settings: Callable[[], Settings], *, create: bool = False
) -> None:
    async def inside() -> None:
        found = settings()
        async with opened_accounts(found, create=create) as accounts:
            await work(_Parts(found, accounts))

    with one_line():
        asyncio.run(inside())


def _change_admin(username: str, is_admin: bool, words: str, data_dir: Path | None, accounts: str | None) -> None:
    async def work(parts: _Parts) -> None:
        user = await _known(parts.accounts, username)
        await parts.accounts.set_admin(user.id, is_admin)
        typer.echo(f"{user.username} {words}.")

    _run(work, _settings(data_dir, None, accounts))


async def _known(accounts: "Accounts", username: str) -> "User":
    user = await accounts.find(username)
    if user is None:
        raise ServerError(f"there is no user {printable(username)}")
    return user


async def _everybody(accounts: "Accounts") -> "AsyncIterator[User]":
    after: str | None = None
    while page := await accounts.list(_PAGE, after):
        for user in page:
            yield user
        after = page[-1].username


async def _end_sessions(settings: Settings, user: "User", done: str, reason: str) -> None:
    """Log the user out and say what was done; what was done stays done when this fails, and the error says so."""
    store = settings.store_url()
    if store.startswith("memory:"):
        raise ServerError(f"{done}, but sessions in memory:// can be ended by restarting the server only")
    path = file_of(store)
    ended: list[str] = []
    if path is None or path.exists():  # else the server has never run
        try:
            async with Sessions(store) as sessions:
                ended = await sessions.end_user(user.id, reason=reason)
        except CoatcheckError as error:
            raise ServerError(f"{done}, but the sessions could not be ended: {error}") from None
    typer.echo(f"{done}; {len(ended)} session{'' if len(ended) == 1 else 's'} ended.")


def _password(from_stdin: bool) -> str:
    """Get the password. Outside of the event loop, which would keep Ctrl-C from the prompt."""
    with one_line():
        if from_stdin:
            return _password_line(sys.stdin.buffer.read(_STDIN_BYTES + 1))
        if not sys.stdin.isatty():
            raise ServerError("there is no terminal to ask for the password; give it with --password-stdin")
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt="Once more"))


def _password_line(given: bytes) -> str:
    """The one line that was given, without its end."""
    if len(given) > _STDIN_BYTES:
        raise ServerError(f"the password on standard input is longer than {_STDIN_BYTES} bytes")
    try:
        line = given.decode()
    except UnicodeDecodeError:
        line = None
    if line is None:  # outside of the `except`: that exception holds the password
        raise ServerError("the password on standard input is not UTF-8")
    line = line.removesuffix("\n").removesuffix("\r")
    if "\n" in line or "\r" in line:
        raise ServerError("there is more than one line on standard input; give the password alone")
    return line


def _plain(user: "User") -> dict[str, Any]:
    return {
        "id": user.id,
        "username": user.username,
        "name": user.name,
        "created_at": moment(user.created_at),
        "disabled": user.disabled,
        "is_admin": user.is_admin,
    }


def _show(found: "list[User]") -> None:
    columns = (Column("Username", fold=True), Column("Name", fold=True), *map(Column, ("State", "Added", "Id")))
    rows = [
        ((user.username, user.name, _state(user), short_moment(user.created_at), user.id), user.disabled)
        for user in found
    ]
    show_table(columns, rows)


def _state(user: "User") -> str:
    state = "disabled" if user.disabled else "active"
    return f"{state}, administrator" if user.is_admin else state
