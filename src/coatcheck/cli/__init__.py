"""The command `coatcheck`. Leaves each subcommand to the module of its name; what goes wrong on purpose is one line."""

import importlib
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

__all__ = ["app", "main"]

_SUBCOMMANDS = {
    "serve": None,  # its function says what it does
    "reload": None,
    "users": "Add and list users, change passwords, disable accounts, make their tables in PostgreSQL.",
    "sessions": "List sessions, end them, and make their tables in PostgreSQL.",
    "keys": "List, rotate and retire the keys that sign access tokens.",
    "services": "Add, list and remove services: machines with a credential of their own.",
}


class _Subcommands(TyperGroup):
    """Imports a subcommand when it is called for: the one that serves needs not what the others read databases with."""

    # Any stands for click's Context and Command, of which Typer has its own copy that is nobody's business.
    def list_commands(self, ctx: Any) -> list[str]:
        return list(_SUBCOMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _SUBCOMMANDS:
            return None
        module = importlib.import_module(f"coatcheck.cli.{cmd_name}")
        holder = typer.Typer(rich_markup_mode=None)  # square brackets in help texts are no markup
        if _SUBCOMMANDS[cmd_name] is None:
            holder.command(cmd_name)(getattr(module, cmd_name))
        else:
            holder.add_typer(module.app, name=cmd_name, help=_SUBCOMMANDS[cmd_name])
        return typer.main.get_group(holder).commands[cmd_name]


app: typer.Typer = typer.Typer(
    name="coatcheck",
    cls=_Subcommands,
    help="Sessions for APIs: log in once, log out everywhere.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    # Its tracebacks show local variables, and passwords stand in those.
    pretty_exceptions_enable=False,
)


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
