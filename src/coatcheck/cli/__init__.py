"""The command `coatcheck`. Leaves each subcommand to the module of its name; what goes wrong on purpose is one line.

Whoever installed one part only (`coatcheck[probe]`) has its command; the others say what to install.
"""

import importlib
from importlib.metadata import version
from typing import Annotated, Any

from coatcheck.errors import MissingDependency

try:
    import typer
    from typer.core import TyperGroup
except ImportError:
    raise SystemExit(
        f"coatcheck: {MissingDependency('typer', 'server', 'the command coatcheck')}, or 'coatcheck[probe]' for the inspector"
    ) from None

__all__ = ["app", "main"]

_SUBCOMMANDS = {
    "serve": None,  # its function says what it does
    "reload": None,
    "probe": None,
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
        holder = typer.Typer(rich_markup_mode=None)  # square brackets in help texts are no markup
        try:
            module = importlib.import_module(f"coatcheck.cli.{cmd_name}")
        except ImportError as error:
            _absent(holder, cmd_name, error)
            return typer.main.get_group(holder).commands[cmd_name]
        if _SUBCOMMANDS[cmd_name] is None:
            holder.command(cmd_name)(getattr(module, cmd_name))
        else:
            holder.add_typer(module.app, name=cmd_name, help=_SUBCOMMANDS[cmd_name])
        return typer.main.get_group(holder).commands[cmd_name]


def _absent(holder: typer.Typer, name: str, error: ImportError) -> None:
    """Put a command in the place of one whose packages are not installed, which says so. Raises what is no such error."""
    if (error.name or "coatcheck").partition(".")[0] == "coatcheck" and not isinstance(error, MissingDependency):
        raise error
    extra = "probe" if name == "probe" else "server"
    needed = error if isinstance(error, MissingDependency) else None
    needed = needed or MissingDependency(error.name or "", extra, f"coatcheck {name}")

    def absent() -> None:
        typer.echo(f"coatcheck: {needed}", err=True)
        raise typer.Exit(1)

    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    holder.command(name, help=f"(not installed: pip install 'coatcheck[{extra}]')", context_settings=anything)(absent)


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
