"""Starts a server that listens beyond loopback, and says what a client from there gets. Run in a network of its own.

    unshare --user --map-root-user --net python -m tests.transports.beyond_loopback DIRECTORY

Prints JSON: for each question status, headers and body.
"""

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.clients.raw import RawConnection
from tests.clients.serving import ECHO, RunningServer, start_server

ADDRESS = "192.0.2.1"  # RFC 5737
PUBLIC = "login.example.com"


def make_network() -> None:
    # Nothing of this project listens where anybody else could reach it.
    assert [name for _, name in socket.if_nameindex()] == ["lo"], "run this in a network of its own"
    for command in ("link set lo up", f"address add {ADDRESS}/32 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


async def look(server: RunningServer, edge: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}

    async def ask(name: str, address: str, host: str, *, tls: bool = False, target: str = "/a?b=c") -> None:
        port = server.https_port if tls else server.http_port
        async with await RawConnection.open(port, server.tls() if tls else None, host=address) as connection:
            headers = [("x-forwarded-proto", "https"), ("x-forwarded-for", "127.0.0.1")]
            answer = await connection.request("GET", target, headers, host=host)
        found[name] = {"status": answer.status, "headers": dict(answer.headers), "body": answer.body.decode()}

    await ask("plain from outside", ADDRESS, PUBLIC)
    await ask("plain from outside for localhost", ADDRESS, "localhost")
    await ask("plain from outside for the address", ADDRESS, ADDRESS)
    await ask("plain from loopback", "127.0.0.1", "localhost")
    await ask("plain from loopback for the public host", "127.0.0.1", PUBLIC)
    if edge:
        await ask("tls from outside", ADDRESS, PUBLIC, tls=True)
        await ask("tls from outside, refused", ADDRESS, PUBLIC, tls=True, target="/a%2fb")
        await ask("tls from outside for another host", ADDRESS, "other.example", tls=True)
        await ask("tls for localhost", "127.0.0.1", "localhost", tls=True)
    return found


def main() -> None:
    make_network()
    answers: dict[str, Any] = {}
    for name, options in (("edge", []), ("bare", ["--no-edge"])):
        directory = Path(sys.argv[1]) / name
        directory.mkdir()
        options = ["--host", "0.0.0.0", "--workers", "1", "--public-origin", f"https://{PUBLIC}:8443", *options]
        server = start_server(directory, *options, app=ECHO)
        try:
            answers[name] = asyncio.run(look(server, name == "edge"))
        finally:
            server.stop()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
