"""`coatcheck services`: gives machines credentials of their own and takes them away, in the database itself.

A server that runs on it knows at the next request.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coatcheck.cli.databases import AccountsUrl, DataDir, one_line, opened_accounts
from coatcheck.cli.tables import Column, moment, short_moment, show_table
from coatcheck.server.errors import ServerError
from coatcheck.server.printable import printable
from coatcheck.server.settings import load_settings

if TYPE_CHECKING:  # loaded by the commands that use them, so that the others start at once
    from coatcheck.accounts import Service, ServiceAccounts

__all__ = ["app"]

app: typer.Typer = typer.Typer(no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON, for programs.")]


@app.command("add")
def add_service(
    name: Name,
    audience: Annotated[
        list[str], typer.Option(metavar="URL", help="URL by which tokens name this service; may be repeated.")
    ],
    as_json: AsJson = False,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """Add a service and show its secret, once. It proves itself with both by HTTP Basic."""

    async def work(services: "ServiceAccounts") -> None:
        service, secret = await services.add(name, audience)
        if as_json:
            typer.echo(json.dumps({**_plain(service), "secret": secret}, indent=2))
            return
        typer.echo(f"Added {service.name}. It proves itself by HTTP Basic; the secret is not shown again:")
        typer.echo(f"  id      {service.id}\n  secret  {secret}")

    _run(work, data_dir, accounts, create=True)


@app.command("list")
def list_services(as_json: AsJson = False, data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """List services by name."""

    async def work(services: "ServiceAccounts") -> None:
        found = await services.list()
        if as_json:
            typer.echo(json.dumps([_plain(service) for service in found], indent=2))
        elif found:
            columns = (Column("Name"), Column("Audiences", fold=True), Column("Added"), Column("Id"))
            cells = [(one.name, " ".join(one.audiences), short_moment(one.created_at), one.id) for one in found]
            show_table(columns, [(row, False) for row in cells])
        else:
            typer.echo("No services.")

    _run(work, data_dir, accounts)


@app.command("remove")
def remove_service(name: Name, data_dir: DataDir = None, accounts: AccountsUrl = None) -> None:
    """Remove a service: its credential is worth nothing any more."""
    from coatcheck.accounts import UnknownService

    async def work(services: "ServiceAccounts") -> None:
        try:
            await services.remove(name)
        except UnknownService:
            raise ServerError(f"there is no service {printable(name)}") from None
        typer.echo(f"Removed {name}.")

    _run(work, data_dir, accounts)


def _run(
    work: "Callable[[ServiceAccounts], Coroutine[Any, Any, None]]",
    data_dir: DataDir,
    accounts: AccountsUrl,
    *,
    create: bool = False,
) -> None:
    from coatcheck.accounts import ServiceAccounts

    async def inside() -> None:
        settings = load_settings(data_dir=data_dir, accounts=accounts)
        async with opened_accounts(settings, create=create) as people:
            await work(ServiceAccounts(people))

    with one_line():
        asyncio.run(inside())


def _plain(service: "Service") -> dict[str, Any]:
    return {
        "id": service.id,
        "name": service.name,
        "audiences": list(service.audiences),
        "created_at": moment(service.created_at),
    }
