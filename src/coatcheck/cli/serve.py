"""`coatcheck serve`: turns the command line into settings and runs the server with them."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from coatcheck.server.errors import ServerError
from coatcheck.server.settings import load_settings

__all__ = ["serve"]


def serve(
    data_dir: Annotated[Path | None, typer.Option(help="Where sessions, accounts and keys are kept.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Plain HTTP, for loopback. [8080]")] = None,
    https_port: Annotated[int | None, typer.Option(help="TLS over TCP, and HTTP/3 over UDP. [8443]")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus' /metrics, on loopback; 0 for none. [9464 if it is free]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes. [one per core, at least 2]")] = None,
    edge_threads: Annotated[
        int | None, typer.Option(help="Threads of the edge. [one for each four cores, at least 1]")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    store: Annotated[str | None, typer.Option(help="URL of the session store. [SQLite in the data directory]")] = None,
    accounts: Annotated[str | None, typer.Option(help="URL of the accounts. [SQLite in the data directory]")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, PEM. [our own, for localhost]")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM, without a passphrase.")] = None,
    registration: Annotated[
        Literal["open", "closed"] | None, typer.Option(help="Whether visitors may make accounts. [open]")
    ] = None,
    log_format: Annotated[Literal["console", "json"] | None, typer.Option(help="[console]")] = None,
    public_origin: Annotated[
        list[str] | None, typer.Option(help="Origin by which browsers reach this server; may be repeated.")
    ] = None,
    trusted_proxies: Annotated[
        int | None, typer.Option(help="Proxies that every request passes first, such as a load balancer. [0]")
    ] = None,
    no_edge: Annotated[bool, typer.Option("--no-edge", help="HTTP/1.1 in plain by the workers alone.")] = False,
    app: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Run the server: HTTP/1.0, 1.1, 2 and 3 on one origin.

    Every option can also be set in coatcheck.toml (`http_port = 8080`) and by COATCHECK_HTTP_PORT and the like; the
    command line wins, then the environment.
    """
    # Only this command needs what the server is made of.
    from coatcheck.server.context import APPLICATION
    from coatcheck.server.supervisor import serve as supervise

    given: dict[str, Any] = {
        "data_dir": data_dir,
        "http_port": http_port,
        "https_port": https_port,
        "metrics_port": metrics_port,
        "workers": workers,
        "edge_threads": edge_threads,
        "host": host,
        "store": store,
        "accounts": accounts,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "registration": registration,
        "log_format": log_format,
        "public_origins": tuple(public_origin) if public_origin else None,
        "trusted_proxies": trusted_proxies,
        "edge": False if no_edge else None,
    }
    try:
        supervise(
            load_settings(**given),
            reload=lambda: load_settings(**given),
            application=app or APPLICATION,
            announce=lambda line: print(line, flush=True),
        )
    except ServerError as error:
        typer.echo(f"coatcheck: {error}", err=True)
        raise typer.Exit(1) from None
