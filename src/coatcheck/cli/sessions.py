"""`coatcheck sessions`: list and end sessions in the store itself. A server that runs on it notices at once."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from coatcheck.accounts import Accounts, User
from coatcheck.cli.databases import AccountsUrl, DataDir, Store, file_of, one_line
from coatcheck.cli.tables import Column, moment, short_moment, show_table
from coatcheck.ids import is_id
from coatcheck.manager import SessionInfo, Sessions
from coatcheck.server.errors import ServerError
from coatcheck.server.printable import printable
from coatcheck.server.session_kind import session_kind
from coatcheck.server.settings import Settings, load_settings
from coatcheck.stores import open_store
from coatcheck.stores.contract import Migrated

__all__ = ["app"]

app: typer.Typer = typer.Typer(no_args_is_help=True)

_PAGE = 500


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


# What begins with a hyphen may be an id of an earlier release and not an option.
@app.command("end", context_settings={"ignore_unknown_options": True})
def end_sessions(
    session_id: Annotated[str | None, typer.Argument(metavar="ID", help="One session.")] = None,
    user: Annotated[str | None, typer.Option(metavar="NAME", help="All of this user.")] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All of every user.")] = False,
    data_dir: DataDir = None,
    store: Store = None,
    accounts: AccountsUrl = None,
) -> None:
    """End one session, or all of a user, or all. Logins under way end with them."""
    if session_id is not None and session_id.startswith("-") and not is_id(session_id):
        raise typer.BadParameter(f"there is no option {printable(session_id)}")
    if (session_id is not None) + (user is not None) + everybody != 1:
        raise typer.BadParameter("say which: an ID, or --user NAME, or --all")

    async def work(parts: _Parts) -> None:
        if session_id is not None:
            if not await parts.sessions.end(session_id, "ended by operator"):
                raise ServerError(f"no live session has the id {printable(session_id)}")
            typer.echo("Ended 1 session.")
            return
        ended = 0
        async for owner in _users(parts, user):
            ended += len(await parts.sessions.end_user(owner.id, reason="ended by operator"))
        typer.echo(f"Ended {ended} session{'' if ended == 1 else 's'}.")

    _run(work, data_dir, store, accounts)


@app.command("migrate")
def migrate_sessions(data_dir: DataDir = None, store: Store = None) -> None:
    """Make the session tables in PostgreSQL, or bring them up to date. Other stores see to that themselves."""

    async def work() -> None:
        opened = open_store(load_settings(data_dir=data_dir, store=store).store_url())
        if not isinstance(opened, Migrated):
            typer.echo("Nothing to do: this store makes what it needs by itself.")
            return
        for done in await opened.migrate() or ["the tables are up to date"]:
            typer.echo(f"{done[0].upper()}{done[1:]}.")

    with one_line():
        asyncio.run(work())


def _run(
    work: Callable[[_Parts], Coroutine[Any, Any, None]], data_dir: Path | None, store: str | None, accounts: str | None
) -> None:
    async def inside() -> None:
        settings = load_settings(data_dir=data_dir, store=store, accounts=accounts)
        async with _opened(settings) as parts:
            await work(parts)

    with one_line():
        asyncio.run(inside())


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncGenerator[_Parts]:
    store, accounts = settings.store_url(), settings.accounts_url()
    if store.startswith("memory:"):
        raise ServerError("sessions in memory:// are inside the server's own processes; nothing outside can see them")
    for url in (store, accounts):
        # A mistyped directory must not look like one without sessions, nor be made.
        path = file_of(url)
        if path is not None and not path.exists():
            raise ServerError(f"there is no {path}; name the server's data directory with --data-dir")
    async with Accounts(accounts) as people, Sessions(store) as sessions:
        yield _Parts(sessions, people)


async def _users(parts: _Parts, name: str | None) -> AsyncIterator[User]:
    """The user of that name, or every user."""
    if name is not None:
        user = await parts.accounts.find(name)
        if user is None:
            raise ServerError(f"there is no user {printable(name)}")
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
        "created_at": moment(info.created_at),
        "authenticated_at": None if info.authenticated_at is None else moment(info.authenticated_at),
        "last_seen_at": moment(info.last_seen_at),
        "expires_at": moment(info.expires_at),
        "kind": session_kind(info.about),
        "method": info.about.get("method"),
        "address": info.about.get("address"),
        "user_agent": info.about.get("user_agent"),
    }


def _show(found: list[tuple[User, SessionInfo]]) -> None:
    columns = [
        Column(title, fold=title == "User")
        for title in ("Session", "User", "Kind", "Logged in", "Last seen", "Address")
    ]
    rows = [
        (
            info.id,
            user.username,
            session_kind(info.about),
            short_moment(info.created_at),
            short_moment(info.last_seen_at),
            info.about.get("address", ""),
            info.about.get("user_agent", ""),
        )
        for user, info in found
    ]
    show_table([*columns, Column("User agent", fold=True)], [(row, False) for row in rows])
