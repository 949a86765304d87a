"""`coatcheck sessions`: list and end sessions in the store itself. A server that runs on it notices at once."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coatcheck.accounts import Accounts, User
from coatcheck.errors import CoatcheckError
from coatcheck.manager import SessionInfo, Sessions
from coatcheck.server.errors import ServerError
from coatcheck.server.settings import Settings, load_settings

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True)

_PAGE = 500
_PIPED_COLUMNS = 240

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
Store = Annotated[str | None, typer.Option(help="URL of the session store. [SQLite in the data directory]")]
AccountsUrl = Annotated[str | None, typer.Option(help="URL of the accounts. [SQLite in the data directory]")]


class _Parts(NamedTuple):
    sessions: Sessions
    accounts: Accounts


@app.command("list")
def list_sessions(
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Only those of this user.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON array, for programs.")] = False,
    data_dir: DataDir = None,
    store: Store = None,
    accounts: AccountsUrl = None,
) -> None:
    """List live sessions by user, oldest first."""

    async def work(parts: _Parts) -> None:
        found = [
            (owner, info) async for owner in _users(parts, user) for info in await parts.sessions.list_user(owner.id)
        ]
        if as_json:
            typer.echo(json.dumps([_plain(owner, info) for owner, info in found], indent=2))
        elif found:
            _show(found)
        else:
            typer.echo("No sessions.")

    _run(work, data_dir, store, accounts)


@app.command("end")
def end_sessions(
    session_id: Annotated[str | None, typer.Argument(metavar="ID", help="One session.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="All of this user.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All of every user.")] = False,
    data_dir: DataDir = None,
    store: Store = None,
    accounts: AccountsUrl = None,
) -> None:
    """End one session, or all of a user, or all. Logins under way end with them."""
    if (session_id is not None) + (user is not None) + everybody != 1:
        raise typer.BadParameter("say which: an ID, or --user NAME, or --all")

    async def work(parts: _Parts) -> None:
        if session_id is not None:
            if not await parts.sessions.end(session_id, "ended by operator"):
                raise ServerError(f"no live session has the id {_printable(session_id)}")
            typer.echo("Ended 1 session.")
            return
        ended = 0
        async for owner in _users(parts, user):
            ended += len(await parts.sessions.end_user(owner.id, reason="ended by operator"))
        typer.echo(f"Ended {ended} session{'' if ended == 1 else 's'}.")

    _run(work, data_dir, store, accounts)


def _run(
    work: Callable[[_Parts], Coroutine[Any, Any, None]], data_dir: Path | None, store: str | None, accounts: str | None
) -> None:
    async def inside() -> None:
        settings = load_settings(data_dir=data_dir, store=store, accounts=accounts)
        async with _opened(settings) as parts:
            await work(parts)

    try:
        asyncio.run(inside())
    except CoatcheckError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[_Parts]:
    store, accounts = settings.store_url(), settings.accounts_url()
    if store.startswith("memory:"):
        raise ServerError("sessions in memory:// are inside the server's own processes; nothing outside can see them")
    for url in (store, accounts):
        # A mistyped directory must not look like one without sessions, nor be made.
        path = _file(url)
        if path is not None and not path.exists():
            raise ServerError(f"there is no {path}; name the server's data directory with --data-dir")
    async with Accounts(accounts) as people, Sessions(store) as sessions:
        yield _Parts(sessions, people)


def _file(url: str) -> Path | None:
    scheme, _, path = url.partition(":///")
    return Path(path) if scheme.startswith("sqlite") and path else None


async def _users(parts: _Parts, name: str | None) -> AsyncIterator[User]:
    """The user of that name, or every user."""
    if name is not None:
        user = await parts.accounts.find(name)
        if user is None:
            raise ServerError(f"there is no user {_printable(name)}")
        yield user
        return
    after: str | None = None
    while page := await parts.accounts.list(_PAGE, after):
        for user in page:
            yield user
        after = page[-1].username


def _plain(user: User, info: SessionInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "user_id": user.id,
        "username": user.username,
        "created_at": _moment(info.created_at),
        "authenticated_at": None if info.authenticated_at is None else _moment(info.authenticated_at),
        "last_seen_at": _moment(info.last_seen_at),
        "expires_at": _moment(info.expires_at),
        "method": info.about.get("method"),
        "address": info.about.get("address"),
        "user_agent": info.about.get("user_agent"),
    }


def _show(found: list[tuple[User, SessionInfo]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("Session", "User", "Logged in", "Last seen", "Address"):
        table.add_column(title, no_wrap=title != "User", overflow="fold")
    table.add_column("User agent", overflow="fold")
    for user, info in found:
        cells = (
            info.id,
            user.username,
            _short(info.created_at),
            _short(info.last_seen_at),
            info.about.get("address", ""),
            info.about.get("user_agent", ""),
        )
        # Text: what clients say is no markup, and moves no cursor.
        table.add_row(*(Text(_printable(cell)) for cell in cells))
    # In a pipe there is no width, and Rich's guess would break the lines.
    console = Console()
    (console if console.is_terminal else Console(width=_PIPED_COLUMNS)).print(table)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def _short(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
