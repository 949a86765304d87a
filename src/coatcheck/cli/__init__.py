"""The command `coatcheck`. Leaves each subcommand to a module of its own; what goes wrong on purpose is one line."""

import importlib.util
from importlib.metadata import version
from typing import Annotated

import typer

from coatcheck.cli import sessions
from coatcheck.cli.serve import serve

__all__ = ["app", "main"]

app = typer.Typer(
    name="coatcheck",
    help="Sessions for APIs: log in once, log out everywhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # Its tracebacks show local variables, and passwords stand in those.
    pretty_exceptions_enable=False,
)
app.command()(serve)
if importlib.util.find_spec("coatcheck.cli.users"):  # until it is there
    users = importlib.import_module("coatcheck.cli.users")
    app.add_typer(users.app, name="users", help="Add and list users, change passwords, disable accounts.")
app.add_typer(sessions.app, name="sessions", help="List sessions, and end them.")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"coatcheck {version('coatcheck')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; exits with 0, with 1 where something could not be done, with 2 for a wrong usage."""
    app()
