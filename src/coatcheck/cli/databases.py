"""Opens the accounts' database for one command, and turns what goes wrong on purpose into one line. Part of the command line."""

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coatcheck.errors import CoatcheckError
from coatcheck.server.errors import ServerError
from coatcheck.server.settings import Settings

if TYPE_CHECKING:  # loaded by the commands that use it, so that the others start at once
    from coatcheck.accounts import Accounts

__all__ = ["AccountsUrl", "DataDir", "Store", "file_of", "one_line", "opened_accounts"]

DataDir = Annotated[Path | None, typer.Option(help="The server's data directory.")]
Store = Annotated[str | None, typer.Option(help="URL of the session store. [SQLite in the data directory]")]
AccountsUrl = Annotated[str | None, typer.Option(help="URL of the accounts. [SQLite in the data directory]")]


@contextmanager
def one_line() -> Generator[None]:
    """Say in one line on standard error what was refused or failed on purpose, and exit with 1."""
    try:
        yield
    except CoatcheckError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None


@asynccontextmanager
async def opened_accounts(settings: Settings, *, create: bool) -> "AsyncGenerator[Accounts]":
    """Open the accounts; make the data directory and the database if `create`. Raises ServerError where there are none."""
    from coatcheck.accounts import Accounts, PasswordHasher

    url = settings.accounts_url()
    path = file_of(url)
    if create and settings.accounts is None:
        from coatcheck.server.certificates import ensure_data_dir

        ensure_data_dir(settings.data_dir)
    elif not create and path is not None and not path.exists():
        # A mistyped directory must not look like one without users, nor be made.
        raise ServerError(f"there is no {path}; name the server's data directory with --data-dir")
    async with Accounts(url, hasher=PasswordHasher(threads=1)) as accounts:
        yield accounts


def file_of(url: str) -> Path | None:
    """The file that a database's URL names; None for what is no SQLite file."""
    scheme, _, path = url.partition(":///")
    return Path(path) if scheme.startswith("sqlite") and path else None
