"""`coatcheck keys`: lists, rotates and retires the keys that sign access tokens, in the file or database itself.

A server that runs on them knows within a second.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coatcheck.cli.databases import AccountsUrl, DataDir, file_of, one_line
from coatcheck.cli.tables import Column, moment, short_moment, show_table
from coatcheck.server.errors import ServerError
from coatcheck.server.printable import printable
from coatcheck.server.settings import load_settings

if TYPE_CHECKING:  # loaded by the commands that use it, so that the others start at once
    from coatcheck.tokens import KeyRing, KeyState, SigningKey

__all__ = ["app"]

app: typer.Typer = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="JSON, for programs.")] = False,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """List the keys, oldest first, with what each does now and until when."""
    with one_line():
        found = _opened(data_dir, accounts).list()
        if as_json:
            typer.echo(json.dumps([_plain(key, state) for key, state in found], indent=2))
            return
        columns = map(Column, ("Key", "Algorithm", "State", "Signs from", "Signs until", "Verifies until"))
        rows = [(_row(key, state), state.value in ("retired", "gone")) for key, state in found]
        show_table([*columns], rows)


@app.command("rotate")
def rotate_keys(
    algorithm: Annotated[
        Literal["ES256", "Ed25519"] | None, typer.Option(help="Of the new key. [as the settings have it]")
    ] = None,
    data_dir: DataDir = None,
    accounts: AccountsUrl = None,
) -> None:
    """Announce a new key. It signs once everybody must have seen it; no token in flight is refused."""
    with one_line():
        made = _opened(data_dir, accounts, algorithm).rotate()
        typer.echo(f"Announced {made.kid}. It signs from {short_moment(made.signs_from)} on; all tokens stay good.")


# What begins with a hyphen may be a key and not an option.
@app.command("retire", context_settings={"ignore_unknown_options": True})
def retire_key(
    kid: Annotated[str, typer.Argument(metavar="KEY")], data_dir: DataDir = None, accounts: AccountsUrl = None
) -> None:
    """End a key at once, as when it was stolen: its tokens are refused from now on, and another key signs."""
    from coatcheck.tokens.keys import JWKS_MAX_AGE

    with one_line():
        ring = _opened(data_dir, accounts)
        if kid not in (key.kid for key, _ in ring.list()):
            raise ServerError(f"there is no key {printable(kid)}; `coatcheck keys list` names those that are there")
        ring.retire(kid)
        minutes = int(JWKS_MAX_AGE // 60)
        typer.echo(f"Retired {kid}. Others who verify its tokens by the JWKS may do so for {minutes} minutes more.")


def _opened(
    data_dir: DataDir, accounts: AccountsUrl, algorithm: Literal["ES256", "Ed25519"] | None = None
) -> "KeyRing":
    """The server's ring. Raises ServerError where there is none."""
    from coatcheck.server.signing import open_key_ring

    settings = load_settings(data_dir=data_dir, accounts=accounts, signing_algorithm=algorithm)
    path = settings.signing_keys_file() if settings.keys == "file" else file_of(settings.accounts_url())
    if path is not None and not path.exists():
        # A mistyped directory must not look like one without keys, nor be made.
        raise ServerError(f"there is no {path}; name the server's data directory with --data-dir")
    return open_key_ring(settings)


def _row(key: "SigningKey", state: "KeyState") -> tuple[str, ...]:
    times = (key.signs_from, key.retires_at, key.gone_at)
    return (key.kid, key.alg, state.value, *("" if at is None else short_moment(at) for at in times))


def _plain(key: "SigningKey", state: "KeyState") -> dict[str, Any]:
    return {
        "kid": key.kid,
        "alg": key.alg,
        "state": state.value,
        "created_at": moment(key.created_at),
        "signs_from": moment(key.signs_from),
        "retires_at": None if key.retires_at is None else moment(key.retires_at),
        "gone_at": None if key.gone_at is None else moment(key.gone_at),
    }
