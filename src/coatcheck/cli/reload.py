"""`coatcheck reload`: has the server on a data directory replace its workers, and says how that went."""

import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from coatcheck.server.errors import ServerError
from coatcheck.server.presence import RunningServer, running_servers
from coatcheck.server.settings import load_settings

__all__ = ["reload"]

_LOOK_EVERY = 0.05


def reload(
    data_dir: Annotated[Path | None, typer.Option(help="The server's data directory.")] = None,
    pid: Annotated[int | None, typer.Option(help="Only the server with this process id. [every one that runs]")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end of it; 0: not at all.")] = 300.0,
) -> None:
    """Replace the workers of the running server one by one: new code and settings, no failed request.

    A setting that the edge shares (addresses, ports, limits, origins, the number of workers) takes effect at the next
    start. If a new worker does not come up, the others stay as they are and this command fails.
    """
    try:
        directory = load_settings(data_dir=data_dir).data_dir
        servers = _chosen(directory, pid)
        for server in servers:
            _ask(server)
        if wait:
            until = time.monotonic() + wait
            trouble = [_outcome(directory, server, until) for server in servers]
            if any(trouble):
                raise ServerError("\n".join(each for each in trouble if each))
            typer.echo(f"Every worker of {_named(servers)} was replaced.")
        else:
            typer.echo(f"Asked {_named(servers)} to replace the workers; what comes of it is in the server's log.")
    except ServerError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None


def _chosen(directory: Path, pid: int | None) -> list[RunningServer]:
    servers = _running(directory)
    if pid is not None:
        servers = [server for server in servers if server.pid == pid]
    if not servers:
        which = "" if pid is None else f" with the process id {pid}"
        raise ServerError(f"no server{which} runs on {directory}; name its data directory with --data-dir")
    return servers


def _running(directory: Path) -> list[RunningServer]:
    try:
        return running_servers(directory)
    except OSError as error:
        raise ServerError(f"{error.filename} cannot be read ({error.strerror}); ask as the user who serves") from None


def _ask(server: RunningServer) -> None:
    if server.pid is None:
        raise ServerError(f"the server on {server.address} runs in another container; run this command inside it")
    try:
        os.kill(server.pid, signal.SIGHUP)
    except ProcessLookupError:
        raise ServerError(f"the server on {server.address} has just ended") from None
    except PermissionError:
        raise ServerError(f"the server on {server.address} is another user's; ask as the user who serves") from None


def _outcome(directory: Path, server: RunningServer, until: float) -> str:
    """What went wrong; nothing if nothing did."""
    while True:
        now = next((each for each in _running(directory) if each.name == server.name), None)
        if now is None:
            return f"the server on {server.address} has ended meanwhile"
        # One that was under way when we asked does not count.
        if now.reloads_ended > server.reloads_begun:
            return now.trouble and f"the reload of {_named([server])} stopped: {now.trouble}"
        if time.monotonic() > until:
            return f"the reload of {_named([server])} has not ended yet; what comes of it is in the server's log"
        time.sleep(_LOOK_EVERY)


def _named(servers: list[RunningServer]) -> str:
    return " and ".join(f"the server on {server.address} (process {server.pid})" for server in servers)
