"""`coatcheck users`: adds and lists users, changes passwords, disables accounts, in the database itself.

Whoever's password changed, or who was disabled, is logged out: a server that runs on the same store notices at once.
Passwords are never taken from the command line, where other users of the machine and the shell's history see them.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from coatcheck.errors import CoatcheckError
from coatcheck.manager import Sessions
from coatcheck.server.errors import ServerError
from coatcheck.server.settings import Settings, load_settings

if TYPE_CHECKING:  # loaded by the commands that use them, so that the others start at once
    from coatcheck.accounts import Accounts, User

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_PAGE = 500
_STDIN_BYTES = 64 * 1024  # far beyond the longest password
_PIPED_COLUMNS = 240

Username = Annotated[str, typer.Argument(metavar="USERNAME")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
Store = Annotated[str | None, typer.Option(help="URL of the session store. [SQLite in the data directory]")]
AccountsUrl = Annotated[str | None, typer.Option(help="URL of the accounts. [SQLite in the data directory]")]


class _Parts(NamedTuple):
    settings: Settings
    accounts: "Accounts"


@app.command("add")
def add_user(
    username: Username,
    name: Annotated[str, typer.Option(help="To be displayed. [the username]")] = "",
    password_stdin: PasswordStdin = False,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """Add a user; asks for the password. Works whether registration is open or closed."""
    from coatcheck.accounts import UsernameTaken

    async def check(parts: _Parts) -> None:
        if await parts.accounts.find(username) is not None:  # before anybody types a password
            raise UsernameTaken(f"The username {_printable(username)} is taken.")

    async def work(parts: _Parts) -> None:
        user = await parts.accounts.register(username, password, name)
        typer.echo(f"Added {user.username} with the id {user.id}.")

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


def _settings(data_dir: Path | None, store: str | None, accounts: str | None) -> Callable[[], Settings]:
    # Read only where their errors are shown.
    return lambda: load_settings(data_dir=data_dir, store=store, accounts=accounts)


def _run(
    work: Callable[[_Parts], Coroutine[Any, Any, None]], settings: Callable[[], Settings], *, create: bool = False
) -> None:
    async def inside() -> None:
        async with _opened(settings(), create=create) as parts:
            await work(parts)

    with _one_line():
        asyncio.run(inside())


@contextmanager
def _one_line() -> Generator[None]:
    try:
        yield
    except CoatcheckError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None


@asynccontextmanager
async def _opened(settings: Settings, *, create: bool) -> AsyncGenerator[_Parts]:
    from coatcheck.accounts import Accounts, PasswordHasher

    url = settings.accounts_url()
    path = _file(url)
    if create and settings.accounts is None:
        from coatcheck.server.certificates import ensure_data_dir

        ensure_data_dir(settings.data_dir)
    elif not create and path is not None and not path.exists():
        # A mistyped directory must not look like one without users, nor be made.
        raise ServerError(f"there is no {path}; name the server's data directory with --data-dir")
    async with Accounts(url, hasher=PasswordHasher(threads=1)) as accounts:
        yield _Parts(settings, accounts)


def _file(url: str) -> Path | None:
    scheme, _, path = url.partition(":///")
    return Path(path) if scheme.startswith("sqlite") and path else None


async def _known(accounts: "Accounts", username: str) -> "User":
    user = await accounts.find(username)
    if user is None:
        raise ServerError(f"there is no user {_printable(username)}")
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
    path = _file(store)
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
    with _one_line():
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
        "created_at": _moment(user.created_at),
        "disabled": user.disabled,
    }


def _show(found: "list[User]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Username", overflow="fold")
    table.add_column("Name", overflow="fold")
    for title in ("State", "Added", "Id"):
        table.add_column(title, no_wrap=True)
    for user in found:
        state = "disabled" if user.disabled else "active"
        cells = (user.username, user.name, state, _short(user.created_at), user.id)
        # Text: names are no markup, and move no cursor.
        table.add_row(*(Text(_printable(cell)) for cell in cells), style="dim" if user.disabled else None)
    # In a pipe there is no width, and Rich's guess would break the lines.
    console = Console()
    (console if console.is_terminal else Console(width=_PIPED_COLUMNS)).print(table)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _short(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _printable(text: str) -> str:
    # Joiners are what some scripts and emoji are put together with.
    return "".join(char if char.isprintable() or char in "\u200c\u200d" else f"\\x{ord(char):02x}" for char in text)
